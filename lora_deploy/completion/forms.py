"""What of a bundle can be run on the card that is here: its engines, and what runs its graphs and weights."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from lora_deploy.artifact import bundle
from lora_deploy.artifact.bundle import BundleManifest, Engine, Precision
from lora_deploy.extras import import_backend, is_installed
from lora_deploy.proof.answers import Answering
from lora_deploy.runtime.card import Card, card_index
from lora_deploy.runtime.load import load
from lora_deploy.runtime.open_bundle import as_recogniser
from lora_deploy.runtime.open_engine import open_engine
from lora_deploy.runtime.providers import PROVIDER_BACKENDS, TF32_OFF, ProviderBackend
from lora_deploy.runtime.vouched import is_vouched
from lora_deploy.runtime.with_torch import TORCH_PACKAGES
from lora_deploy.versions import installed_versions


@dataclass(frozen=True)
class CardForm:
    """One form that runs on a card."""

    name: str
    """As the certificate calls it."""
    precision: Precision
    card: str
    """Name and kind of the card."""
    openings: Mapping[int, Callable[[], Answering]]
    """By batch size: one for each that it has kernels for, which all have to answer alike."""
    versions: Mapping[str, str] = field(default_factory=dict)
    is_promised: bool = True
    """Whether the bundle has it, as an engine; else it is one more way to run what is proved."""
    is_known_here: bool = True
    """Whether this user has run it on this computer before, or it is no native code of the bundle's."""
    held_back: str = ""
    """Why it is not asked now, in words."""


def on_card(folder: Path, manifest: BundleManifest, device: str | None) -> list[CardForm]:
    """All forms of a bundle that are for the card here; engines first.

    Raises:
        NoCardError: There is none.
    """
    index = card_index(device)
    card = Card(index)
    name, capability, cuda = str(card), card.compute_capability, card.cuda_version
    card.close()
    versions = {"driver's CUDA": cuda, **installed_versions()}
    forms = [
        CardForm(
            engine.name, engine.precision, name,
            {size: _opening(folder, manifest, engine, index, size) for size in engine.batch_sizes},
            _only(versions, engine.flavour),
            is_known_here=is_vouched(manifest, engine),
        )
        for engine in manifest.engines
        if engine.compute_capability == capability
    ]  # fmt: skip
    for backend in PROVIDER_BACKENDS:
        if bundle.ONNX in manifest.files and _has_provider(backend):
            opening = _loading(folder, backend, "fp32", f"cuda:{index}")
            used = _only(versions, "onnxruntime", "onnxruntime-gpu")
            held_back = _held_back(backend)
            forms.append(
                CardForm(
                    f"{backend}-fp32", "fp32", name, {1: opening}, used,
                    is_promised=False, held_back=held_back,
                )
            )  # fmt: skip
    if (folder / bundle.MODEL).is_dir() and all(map(is_installed, TORCH_PACKAGES)):
        opening = _loading(folder, "torch", "bf16", f"cuda:{index}")
        used = _only(versions, "torch", "transformers")
        forms.append(CardForm("torch-bf16", "bf16", name, {1: opening}, used, False))
    return forms


def _held_back(backend: ProviderBackend) -> str:
    """What would be over budget for the computer's sake says nothing of the bundle."""
    variable, value = TF32_OFF
    if backend != "onnxruntime-tensorrt" or os.environ.get(variable) == value:
        return ""
    return f"it may round float32 to TF32; with {variable}={value} in the environment it does not"


def _has_provider(backend: ProviderBackend) -> bool:
    if not is_installed("onnxruntime"):
        return False
    module = import_backend("lora_deploy.runtime.ort_gpu", "onnxruntime", purpose="to look")
    return bool(module.has_provider(backend))


def _opening(
    folder: Path, manifest: BundleManifest, engine: Engine, index: int, batch_size: int
) -> Callable[[], Answering]:
    def opening() -> Answering:
        opened = open_engine(
            folder, manifest, engine, Card(index), batch_size=batch_size, is_on_trial=True
        )
        return as_recogniser(folder, manifest, opened)

    return opening


def _loading(folder: Path, backend: str, precision: str, device: str) -> Callable[[], Answering]:
    return lambda: load(folder, backend=backend, precision=precision, device=device)


def _only(versions: Mapping[str, str], *names: str) -> dict[str, str]:
    return {name: versions[name] for name in ("driver's CUDA", *names) if name in versions}
