"""A form opened inside its own process, its work cut into stages. PyTorch comes in only for its own forms."""

import importlib
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lora_deploy.artifact import bundle
from lora_deploy.runtime.base import Backend, Recogniser
from lora_deploy.runtime.unreported import unreported

Array = NDArray[np.float32]


@dataclass(frozen=True)
class Engine:
    """A model, and the three steps between pixels and logits."""

    recogniser: Recogniser
    """For preprocessing and for what comes after the logits."""
    to_device: Callable[[Array], Any]
    """Pixels [1, frames, 3, height, width] to where and as the model wants them."""
    infer: Callable[[Any], Any]
    to_host: Callable[[Any], Array]
    """Logits [1, labels] back."""
    flop_per_clip: Callable[[], int | None]
    """Counts; None where only PyTorch could."""


def import_packages(job: Mapping[str, Any]) -> None:
    """Import what a form needs, so that it is not counted as opening."""
    if job["kind"] == "compiled":
        importlib.import_module("lora_deploy.runtime.open_bundle")
        with unreported():
            importlib.import_module(job["backend"])
    elif job["kind"] == "torch":
        importlib.import_module("lora_deploy.runtime.eager")
        if job["adapter"] is not None or not bundle.is_bundle(Path(job["folder"])):
            importlib.import_module("lora_deploy.runtime.trained")
    else:
        with unreported():
            importlib.import_module(job["package"])


def open_engine(job: Mapping[str, Any]) -> Engine:
    """Open a form.

    Raises:
        LoraDeployError: It can't be opened here.
    """
    return _compiled(job) if job["kind"] == "compiled" else _torch(job)


def _compiled(job: Mapping[str, Any]) -> Engine:
    from lora_deploy.runtime.open_bundle import as_recogniser, open_form

    folder = Path(job["folder"])
    manifest = bundle.read_bundle_manifest(folder)
    form = manifest.form(job["backend"], job["precision"])
    assert form is not None, "it was read from this manifest"
    backend = open_form(folder, manifest, form, threads=job["threads"])
    recogniser = as_recogniser(folder, manifest, backend)
    return Engine(recogniser, _as_it_is, backend.logits, _as_it_is, lambda: None)


def _as_it_is(values: Any) -> Any:
    return values  # the runtime reads the very array


def _torch(job: Mapping[str, Any]) -> Engine:
    import torch

    from lora_deploy.model.architectures import logits_of
    from lora_deploy.runtime.load import load

    torch.set_num_threads(job["threads"])
    recogniser = load(job["folder"], backend="torch", adapter=job["adapter"], device="cpu")
    backend: Any = recogniser.backend
    model: Any = backend.model
    if job["what"] == "merged" and hasattr(model, "peft_config"):
        from lora_deploy.export.merge import merge

        model = backend.model = merge(model)
    dtype = torch.bfloat16 if job["precision"] == "bf16" else torch.float32
    model.eval().to(dtype)

    @torch.inference_mode()
    def infer(batch: Any) -> Any:
        return logits_of(model, batch)

    def flop_per_clip() -> int:
        return count_flop(model, recogniser.backend, recogniser.contract.pixel_values_shape, dtype)

    return Engine(
        recogniser=recogniser,
        to_device=lambda values: torch.from_numpy(values).to(dtype),
        infer=infer,
        to_host=lambda logits: logits.float().numpy(),
        flop_per_clip=flop_per_clip,
    )


def count_flop(model: Any, backend: Backend, shape: tuple[int, ...], dtype: Any) -> int:
    """Floating-point operations of one forward pass, a multiplication and an addition as two."""
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    from lora_deploy.model.architectures import logits_of

    # The counter knows nothing of the fused attention for CPUs, and would leave it out.
    with (
        torch.inference_mode(),
        sdpa_kernel(SDPBackend.MATH),
        FlopCounterMode(display=False) as counter,
    ):
        logits_of(model, torch.zeros(backend.batch_size, *shape, dtype=dtype))
    return int(counter.get_total_flops() // backend.batch_size)


def heavy_packages() -> list[str]:
    """Which of the large packages this process has imported."""
    heavy = ("torch", "transformers", "peft", "onnx", "onnxruntime", "openvino")
    return [package for package in heavy if package in sys.modules]
