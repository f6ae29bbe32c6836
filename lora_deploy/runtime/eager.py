"""PyTorch: the merged model of a bundle, or an adapter on its base, unmerged."""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from peft import PeftModel
from transformers import AutoModelForVideoClassification, PreTrainedModel

from lora_deploy.artifact import run
from lora_deploy.artifact.manifest import BaseIdentity
from lora_deploy.artifact.run import RunManifest
from lora_deploy.errors import ArtifactError, CheckpointError
from lora_deploy.model.adapter import load_adapter
from lora_deploy.model.architectures import logits_of
from lora_deploy.model.base import from_config, open_base, quiet_loading


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
    ) -> None:
        """Take a model over and put it into evaluation mode on ``device``."""
        self.form = form
        self.batch_size = batch_size
        self._device = device or torch.device("cpu")
        self.model = model.eval().to(self._device)

    @torch.inference_mode()
    def logits(self, pixel_values: NDArray[np.float32]) -> NDArray[np.float32]:
        """Run one batch [batch_size, frames, 3, height, width]; returns [batch_size, labels]."""
        batch = torch.from_numpy(pixel_values).to(self._device)
        result: NDArray[np.float32] = logits_of(self.model, batch).float().cpu().numpy()
        return result


def open_run_model(folder: Path, manifest: RunManifest) -> PreTrainedModel | PeftModel:
    """The best model of a RUN as it was trained: unmerged, or fully fine-tuned.

    Raises:
        ArtifactError: A part of the RUN is missing.
        CheckpointError: The base is another one than the adapter was trained on.
    """
    if manifest.kind == "full":
        return open_checkpoint(run.verify_weights(folder, manifest, run.CHECKPOINT), manifest)
    run.verify_adapter(folder, manifest)
    return open_unmerged(folder / run.ADAPTER, manifest.base, manifest.labels)


def open_unmerged(adapter: Path, base: BaseIdentity, labels: tuple[str, ...]) -> PeftModel:
    """An adapter and its head on the base that they were trained on.

    Raises:
        CheckpointError: The base's tensors are not those that the adapter was trained on.
    """
    opened = open_base(base.id, labels, revision=base.revision, may_download=False)
    if (found := opened.fingerprint) != base.fingerprint:
        raise CheckpointError(
            f"the base {base.id!r} is not the one that {adapter.name} was trained on: its "
            f"fingerprint is {found[:19]}…, the adapter needs {base.fingerprint[:19]}…; "
            "give back the base of the training"
        )
    return load_adapter(opened.model, adapter)


def open_checkpoint(path: Path, manifest: RunManifest) -> PreTrainedModel:
    """A fully fine-tuned model from ``best_model.pth``.

    Raises:
        ArtifactError: The file is missing or can't be read as plain tensors.
        CheckpointError: It does not fit the model of ``run.json``.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        state = content["state_dict"]
    except Exception as error:
        raise ArtifactError(f"{path} can't be read as plain tensors: {error}") from error
    model = from_config(manifest.model_config_values)
    try:
        model.load_state_dict(state, strict=True)
    except RuntimeError as error:
        first_line = str(error).splitlines()[0]
        raise CheckpointError(
            f"{path.name} does not fit the model of {run.MANIFEST}: {first_line}"
        ) from error
    model.eval()
    return model


def open_merged(folder: Path) -> PreTrainedModel:
    """The merged weights of a bundle's ``model/`` folder."""
    with quiet_loading():
        model = AutoModelForVideoClassification.from_pretrained(
            folder,
            trust_remote_code=False,
            use_safetensors=True,
            local_files_only=True,
            dtype=torch.float32,
        )
    if not isinstance(model, PreTrainedModel):
        raise TypeError(f"transformers returned a {type(model).__name__}")
    model.eval()
    return model
