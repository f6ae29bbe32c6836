"""What decides the bits of a row beside the clip: the model, settings, versions and the processor.

Rows of one output must have the first two in common; where the others differ, that is said.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from lora_deploy.artifact import bundle, run
from lora_deploy.artifact.manifest import manifest_digest
from lora_deploy.classify.stream import RowOptions
from lora_deploy.clips.pool import DecodePool
from lora_deploy.processor import read_processor
from lora_deploy.runtime import load as door
from lora_deploy.runtime.base import Recogniser
from lora_deploy.versions import installed_versions

_COMPUTE = (
    "lora-deploy", "torch", "transformers", "onnxruntime", "onnxruntime-gpu", "openvino", "tensorrt",
    "tensorrt-rtx", "av", "decord", "decord2", "numpy", "Pillow",
)  # fmt: skip
"""Packages whose versions may change the last bits of a score."""


@dataclass(frozen=True)
class Model:
    """Which model is asked, and how it is opened: as `lora_deploy.load` takes it."""

    folder: Path
    backend: str = "auto"
    precision: str = "auto"
    adapter: str | None = None
    batch_size: int = 1
    device: str | None = None
    is_compiled: bool = False

    def open(self) -> Recogniser:
        """The model, ready to answer.

        Raises:
            LoraDeployError: As `lora_deploy.runtime.load.load`.
        """
        return door.load(
            self.folder, backend=self.backend, precision=self.precision, adapter=self.adapter,
            batch_size=self.batch_size, device=self.device, is_compiled=self.is_compiled,
        )  # fmt: skip

    def digest(self) -> str | None:
        """That of its rows, without opening it; None where only opening tells."""
        for is_one, name in ((bundle.is_bundle, bundle.MANIFEST), (run.is_run, run.MANIFEST)):
            if is_one(self.folder):
                return manifest_digest(self.folder / name)
        return None


def asked_for(
    model: Model, options: RowOptions, pool: DecodePool, by_content: bool
) -> dict[str, str]:
    """The settings of a run, as the command line names them, before the model is open."""
    digest = model.digest()
    return {
        **({} if digest is None else {"model": digest}),
        "precision": "fp32" if model.precision == "auto" else model.precision,
        "adapter": model.adapter or "none",
        "batch-size": str(model.batch_size),
        **({} if model.device is None else {"device": model.device}),
        **({"compile": "yes"} if model.is_compiled else {}),
        "top-k": str(options.top_k),
        "views": str(options.views),
        "decoder": pool.options.decoder,
        "decode": pool.options.effort,
        "deadline": f"{pool.options.deadline_seconds:g} s",
        "memory": f"{pool.options.memory_bytes >> 20} MiB",
        "files known by": "content" if by_content else "path, size and time",
    }


def answered_by(recogniser: Recogniser) -> dict[str, str]:
    """What only an open model tells."""
    backend = recogniser.backend
    where = getattr(backend, "runs_on", None)  # those that run in several places say in which
    return {
        "model": recogniser.digest, "backend": backend.name, "form": backend.form,
        **({} if where is None else {"runs on": where}),
    }  # fmt: skip


def surroundings() -> dict[str, str]:
    """What else may change the last bits: versions of packages, and the processor."""
    versions = installed_versions()
    found = {name: versions[name] for name in _COMPUTE if name in versions}
    return {**found, "processor": read_processor().model}


def differences(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """What is told by both, and is not the same: by name, with both values."""
    return [
        f"{name} was {_short(before[name])} and is {_short(now[name])}"
        for name in before
        if name in now and before[name] != now[name]
    ]


def _short(value: str) -> str:
    """A digest by its first digits."""
    return re.sub(r"\b(sha256:[0-9a-f]{12})[0-9a-f]{52}\b", r"\1…", value)
