"""A bundle with an engine that was never run, and a computer that has the card: ONNX Runtime answers for it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lora_deploy.artifact import bundle as artifact
from lora_deploy.artifact.bundle import (
    BundleManifest,
    read_bundle_manifest,
    write_bundle_manifest,
)
from lora_deploy.checkup import Checkup
from lora_deploy.completion import CardForm
from lora_deploy.proof.answers import Answering
from lora_deploy.proof.certificate import Certificate
from lora_deploy.runtime.load import load
from tests.card_computers import ENGINE

CARD = "Stand-in 3000 (sm86)"
NAME = ENGINE.name


class Answers:
    """A stand-in for an engine: another form's answers, changed or not."""

    def __init__(self, folder: Path, change: Callable[[NDArray[np.float32]], Any]) -> None:
        self._plain = load(folder, backend="onnxruntime")
        self._change = change
        self.labels, self.contract = self._plain.labels, self._plain.contract

    def logits(self, frames: NDArray[np.uint8]) -> NDArray[np.float32]:
        return np.asarray(self._change(self._plain.logits(frames)), np.float32)


def same(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    return logits


def turned(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """The last label as the first one: as wrong as can be."""
    return logits[:, ::-1]


Forms = Callable[[Path, BundleManifest, str | None], list[CardForm]]


def here(*changes: Callable[..., Any], name: str = NAME, **more: Any) -> Forms:
    """A computer on which one form can be run, at as many batch sizes as there are changes."""

    more.setdefault("card", CARD)

    def on_card(folder: Path, manifest: BundleManifest, device: str | None) -> list[CardForm]:
        def opening(change: Callable[..., Any]) -> Callable[[], Answering]:
            return lambda: Answers(folder, change)

        openings = {size: opening(change) for size, change in enumerate(changes or (same,), 1)}
        versions = {"tensorrt-rtx": "1.7.1.116"}
        return [CardForm(name, "fp32", openings=openings, versions=versions, **more)]

    return on_card


def certificate_of(folder: Path) -> Certificate:
    return Certificate.model_validate_json((folder / artifact.CERTIFICATE).read_text())


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def lines(found: Checkup, part: str = NAME) -> list[tuple[bool | None, str]]:
    return [(one.passed, one.text) for one in found.findings if one.part == part]


def is_whole(folder: Path) -> bool:
    manifest = read_bundle_manifest(folder)
    artifact.verify_files(folder, manifest)
    return artifact.is_sealed(folder) is True


def with_new_hashes(folder: Path) -> None:
    manifest = read_bundle_manifest(folder)
    files = {**manifest.files, **artifact.record_files(folder)}
    write_bundle_manifest(folder, manifest.model_copy(update={"files": files}))
