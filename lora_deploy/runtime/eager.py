"""PyTorch as a backend, and the merged model of a bundle."""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import AutoModelForVideoClassification, PreTrainedModel

from lora_deploy.artifact.bundle import Precision
from lora_deploy.clips import transforms
from lora_deploy.clips.contract import PixelContract
from lora_deploy.errors import (
    BackendCannotError,
    LabelOrderError,
    PrecisionNotHereError,
    UnsafeCheckpointError,
    WeightsMissingError,
)
from lora_deploy.known_bad import refuse_known_bad
from lora_deploy.model.architectures import logits_of
from lora_deploy.model.base import config_labels
from lora_deploy.model.mcg_nju import first_line
from lora_deploy.model.weights import (
    check_sizes,
    quiet_loading,
    read_config,
    refuse_hidden_adapter,
)


class TorchBackend:
    """A transformers or peft model, run eagerly in float32."""

    name = "torch"

    def __init__(
        self,
        model: torch.nn.Module,
        *,
        form: str,
        batch_size: int = 1,
        device: torch.device | None = None,
        is_compiled: bool = False,
    ) -> None:
        """Take a model over and put it into evaluation mode on ``device``.

        Args:
            model: It is changed, not copied.
            form: Which form of the model it is.
            batch_size: The one batch shape that will be run.
            device: The processor by default.
            is_compiled: Whether ``torch.compile`` makes kernels for the one shape, at the first batch.
        """
        self.form = form
        self.batch_size = batch_size
        self._device = device or torch.device("cpu")
        self.runs_on = str(self._device)
        self.model = model.eval().to(self._device)
        self._run = logits_of if not is_compiled else torch.compile(logits_of, dynamic=False)

    @torch.inference_mode()
    def logits(self, pixel_values: NDArray[np.float32]) -> NDArray[np.float32]:
        """Run one batch [batch_size, frames, 3, height, width]; returns [batch_size, labels]."""
        return self._logits(torch.from_numpy(pixel_values).to(self._device))

    def _logits(self, batch: torch.Tensor) -> NDArray[np.float32]:
        # On a card PyTorch rounds what convolutions multiply to 10 bits, unless it is told not to.
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            result: NDArray[np.float32] = self._run(self.model, batch).float().cpu().numpy()
        return result


class TorchOnCard(TorchBackend):
    """The same on an accelerator, to which frames travel as they were decoded."""

    def __init__(
        self,
        model: torch.nn.Module,
        contract: PixelContract,
        *,
        form: str,
        batch_size: int = 1,
        device: torch.device,
        precision: Precision = "fp32",
        is_compiled: bool = False,
    ) -> None:
        """Take a model over, and what frames are normalised with; ``bf16`` halves its weights."""
        super().__init__(
            model, form=form, batch_size=batch_size, device=device, is_compiled=is_compiled
        )
        table = transforms.value_table(contract.mean, contract.std)
        self._tables = [torch.from_numpy(row).to(device) for row in table]
        self._is_bf16 = precision == "bf16"
        if self._is_bf16:
            self.model.to(torch.bfloat16)

    @torch.inference_mode()
    def logits_of_frames(self, frames: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Run one batch uint8 [batch_size, frames, height, width, 3]; returns [batch_size, labels]."""
        values = torch.from_numpy(frames).to(self._device).int()
        channels = [table[values[..., at]] for at, table in enumerate(self._tables)]
        return self._logits(torch.stack(channels, dim=2))

    def _logits(self, batch: torch.Tensor) -> NDArray[np.float32]:
        if not self._is_bf16:
            return super()._logits(batch)
        with sdpa_kernel(ATTENTION, set_priority=True):
            return super()._logits(batch.to(torch.bfloat16))


ATTENTION = [
    SDPBackend.CUDNN_ATTENTION,
    SDPBackend.FLASH_ATTENTION,
    SDPBackend.EFFICIENT_ATTENTION,
    SDPBackend.MATH,
]
"""Attention kernels in bfloat16, the fastest first (docs/gpu.md); a card takes the first that it has."""


def on_device(
    model: torch.nn.Module,
    contract: PixelContract,
    *,
    form: str,
    batch_size: int = 1,
    device: torch.device,
    precision: Precision = "fp32",
    is_compiled: bool = False,
) -> TorchBackend:
    """The backend that suits where the model runs.

    Raises:
        BackendCannotError: PyTorch does not run models in that precision here.
        PrecisionNotHereError: The device does not compute in bfloat16.
    """
    check_precision(precision, device)
    if device.type == "cpu":
        return TorchBackend(
            model, form=form, batch_size=batch_size, device=device, is_compiled=is_compiled
        )
    return TorchOnCard(
        model, contract, form=form, batch_size=batch_size, device=device, precision=precision,
        is_compiled=is_compiled,
    )  # fmt: skip


def check_precision(precision: Precision, device: torch.device) -> None:
    """See that a device computes in a precision.

    Raises:
        BackendCannotError: PyTorch does not run models in it here, on any device.
        PrecisionNotHereError: The device does not.
    """
    if precision == "fp32":
        return
    if precision != "bf16":
        raise BackendCannotError(
            f"torch answers in fp32 and, on a card, in bf16, not in {precision}"
        )
    if device.type != "cuda":
        raise PrecisionNotHereError(
            f"torch answers in bf16 on an NVIDIA card (--device cuda), and here it runs on {device.type}"
        )
    if not torch.cuda.is_bf16_supported(including_emulation=False):
        raise PrecisionNotHereError(
            f"{torch.cuda.get_device_name(device)} does not compute in bfloat16"
        )


def open_merged(folder: Path, labels: tuple[str, ...] | None = None) -> PreTrainedModel:
    """The merged weights of a bundle's ``model/`` folder.

    Args:
        folder: As transformers opens it.
        labels: What ``bundle.json`` names; its ``config.json`` must say the same.

    Raises:
        LabelOrderError: It names other labels, or in another order.
        CheckpointError: Weights and configuration are no pair, or can't be read.
        HiddenAdapterError: An adapter lies beside the weights.
    """
    refuse_known_bad()
    refuse_hidden_adapter(folder)
    check_sizes(read_config(folder, str(folder)), str(folder))
    try:
        with quiet_loading():
            model, report = AutoModelForVideoClassification.from_pretrained(
                folder,
                trust_remote_code=False,
                use_safetensors=True,
                local_files_only=True,
                output_loading_info=True,
                dtype=torch.float32,
            )
    except Exception as error:  # each kind of file fails in a way of its own
        raise UnsafeCheckpointError(f"{folder} can't be opened: {first_line(error)}") from error
    if not isinstance(model, PreTrainedModel):
        raise TypeError(f"transformers returned a {type(model).__name__}")
    for fault in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if report[fault]:
            raise WeightsMissingError(
                f"{folder} has {fault.replace('_', ' ')}: {min(report[fault])}"
            )
    if labels is not None and (found := config_labels(model.config)) != labels:
        raise LabelOrderError(
            f"{folder / 'config.json'} names the labels {list(found)}; here they are {list(labels)}"
        )
    model.eval()
    return model
