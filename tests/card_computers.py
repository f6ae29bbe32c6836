"""A computer with a card that is a stand-in, and bundles with something in them that is called an engine."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lora_deploy.artifact import bundle as artifact
from lora_deploy.artifact.bundle import (
    BundleManifest,
    Engine,
    read_bundle_manifest,
    record_files,
    write_bundle_manifest,
)
from lora_deploy.clips.contract import PixelContract
from lora_deploy.proof.certificate import Certificate, Unrun
from lora_deploy.runtime import card as card_module
from lora_deploy.runtime import open_engine, trt
from lora_deploy.runtime.card import Card
from lora_deploy.runtime.load import load
from tests.stand_in_card import VERSION, Answer, StandInDriver, StandInTensorRT

CONTRACT = PixelContract(frames=4, short_side=32, crop_height=32, crop_width=32)
PIXELS = CONTRACT.pixel_values_shape
LABELS = 3
CONTENT = b"an engine, as it were"

ENGINE = Engine(
    flavour="tensorrt-rtx", version=VERSION, compute_capability="8.6", precision="fp32",
    file="tensorrt/rtx-fp32-sm86.engine", made_of="onnx/model.onnx", batch_sizes=(1, 2),
)  # fmt: skip
REASON = "no card was at hand when it was built"


def means(pixels: np.ndarray) -> np.ndarray:
    """Three numbers that depend on all pixels of their own clip."""
    flat = pixels.reshape(len(pixels), LABELS, -1).astype(np.float64)
    return np.asarray(flat.mean(axis=2), np.float32)


class Computer:
    """A stand-in's driver and package, and what is opened on them."""

    def __init__(self, engine: Engine = ENGINE, answer: Answer = means, **driver: Any) -> None:
        self.engine = engine
        self.driver = StandInDriver(**driver)
        self.package: Any = StandInTensorRT(
            self.driver, answer, PIXELS, LABELS, is_rtx=engine.flavour == "tensorrt-rtx"
        )

    def open(self, **options: Any) -> trt.TensorRtBackend:
        return trt.TensorRtBackend(
            CONTENT, self.engine, CONTRACT, labels=LABELS,
            card=Card(driver=self.driver), api=self.package, **options,
        )  # fmt: skip


def with_engine(folder: Path, content: bytes = CONTENT, **change: Any) -> BundleManifest:
    """Put something into a bundle that its manifest calls an engine, and its certificate unrun."""
    manifest = read_bundle_manifest(folder)
    engine = ENGINE.model_copy(update=change)
    path = folder / engine.file
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    certificate = Certificate.model_validate_json((folder / artifact.CERTIFICATE).read_text())
    said = certificate.model_copy(update={"unrun": (Unrun(form=engine.name, reason=REASON),)})
    (folder / artifact.CERTIFICATE).write_text(said.model_dump_json(indent=1) + "\n")
    engines = (*manifest.engines, engine)
    files = {**manifest.files, **record_files(folder)}
    write_bundle_manifest(folder, manifest.model_copy(update={"engines": engines, "files": files}))
    return read_bundle_manifest(folder)


@pytest.fixture
def computer(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Computer]:
    """A computer that bundles are opened on: all but driver and package is real."""

    def make(answer: Answer, pixels: tuple[int, ...], labels: int, **driver: Any) -> Computer:
        made = Computer(answer=answer, **driver)
        made.package.pixels, made.package.labels = pixels, labels
        monkeypatch.setattr(card_module, "open_driver", lambda: made.driver)
        monkeypatch.setattr(trt, "open_tensorrt", lambda *_, **__: made.package)
        monkeypatch.setattr(open_engine, "open_tensorrt", lambda *_, **__: made.package)
        return made

    return make


@pytest.fixture
def with_card(bundle_copy: Path, computer: Callable[..., Computer]) -> Computer:
    """A computer whose engine answers as the bundle's ONNX file does."""
    plain = load(bundle_copy, backend="onnxruntime")
    pixels = plain.contract.pixel_values_shape
    return computer(plain.backend.logits, pixels, len(plain.labels))
