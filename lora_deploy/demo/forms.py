"""Which forms a RUN or a BUNDLE offers, and why one can't be run here: read off its manifest, nothing is opened."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from lora_deploy.artifact import bundle, run
from lora_deploy.artifact.bundle import BundleManifest, CompiledForm, Precision
from lora_deploy.artifact.manifest import BaseIdentity
from lora_deploy.artifact.run import RunManifest
from lora_deploy.errors import NotAModelError
from lora_deploy.extras import EXTRA_OF, is_installed
from lora_deploy.model.embedded import EMBEDDED_BASES
from lora_deploy.processor import Processor
from lora_deploy.runtime.open_bundle import FASTEST_FIRST, has_adapter_graph
from lora_deploy.runtime.with_torch import TORCH_PACKAGES

Form = Literal["merged", "unmerged", "base"]

FORMS: tuple[Form, ...] = ("merged", "unmerged", "base")

_FORM_TITLES: Mapping[Form, str] = {
    "merged": "Merged",
    "unmerged": "Unmerged",
    "base": "Adapter off, trained head on",
}
_BACKEND_TITLES = {"onnxruntime": "ONNX Runtime", "openvino": "OpenVINO", "torch": "PyTorch"}
_PRECISION_TITLES = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16", "int8": "int8"}


@dataclass(frozen=True)
class Choice:
    """One way to run one model."""

    name: str
    """Stable, for programs: ``merged``, ``unmerged``, ``base``, ``openvino-int8``; the model's name
    and a colon stand before it where several models are served."""
    title: str
    """For people: ``Merged, ONNX Runtime, float32``."""
    form: Form
    """``base`` is the adapter's update switched off, its trained head kept on."""
    backend: str
    precision: str
    missing: str | None
    """Why it can't be run here; None if it can."""


@dataclass(frozen=True)
class Source:
    """What a choice opens."""

    folder: Path
    options: Mapping[str, Any]
    """As `lora_deploy.runtime.load.load` takes them; its backend is never ``auto``."""
    form: str
    """What the opened backend must call itself."""

    @property
    def key(self) -> tuple[object, ...]:
        """Sources with equal keys are one model in memory."""
        return (self.folder, *sorted(self.options.items()))


Offer = tuple[Choice, Source]


def forms_of(folder: Path, processor: Processor) -> tuple[list[Offer], dict[str, Source]]:
    """What one model offers: ``merged``, ``unmerged`` and ``base`` first, then the other forms.

    Returns:
        The choices; and under their full names, such as ``onnxruntime-fp32``, those three again.

    Raises:
        ArtifactError: It is no model, or its manifest is damaged.
    """
    if bundle.is_bundle(folder):
        manifest = bundle.read_bundle_manifest(folder)
        every = [*_merged(folder, manifest, processor), *_unmerged(folder, manifest)]
    elif run.is_run(folder):
        every = list(_of_run(folder, run.read_run_manifest(folder)))
    else:
        what = "is neither a RUN nor a BUNDLE folder" if folder.is_dir() else "does not exist"
        raise NotAModelError(
            f"{folder} {what}: one with {run.MANIFEST} or {bundle.MANIFEST} is needed here"
        )
    usual: list[Offer] = []
    full_names: dict[str, Source] = {}
    for form in FORMS:
        offers = [offer for offer in every if offer[0].form == form]
        if chosen := _usual(offers):
            choice, source = chosen
            usual.append((replace(choice, name=form), source))
            full_names[choice.name] = source
    return [*usual, *(offer for offer in every if offer[0].name not in full_names)], full_names


def _usual(offers: list[Offer]) -> Offer | None:
    """What a form's own name means: the first in float32 that can be run here, else the first."""
    exact = [offer for offer in offers if offer[0].precision == "fp32"]
    return next((offer for offer in exact if offer[0].missing is None), exact[0] if exact else None)


def _merged(folder: Path, manifest: BundleManifest, processor: Processor) -> Iterator[Offer]:
    precisions: list[Precision] = list(FASTEST_FIRST)

    def rank(form: CompiledForm) -> tuple[int, int]:
        return precisions.index(form.precision), FASTEST_FIRST[form.precision].index(form.backend)

    for form in sorted(manifest.forms, key=rank):
        missing = _missing(form.backend)
        if form.precision == "bf16" and not processor.has_bf16:
            missing = missing or "this processor does not compute in bfloat16"
        yield _offer(form.name, "merged", form.backend, form.precision, folder, missing)
    if (folder / bundle.MODEL).is_dir():
        missing = _missing(*TORCH_PACKAGES)
        yield _offer("torch-fp32", "merged", "torch", "fp32", folder, missing)


def _unmerged(folder: Path, manifest: BundleManifest) -> Iterator[Offer]:
    several = len(manifest.adapters) > 1
    by_torch = _missing(*TORCH_PACKAGES) or _base_missing(manifest.base)
    for adapter in manifest.adapters:
        with_graph = has_adapter_graph(manifest, adapter)
        for form in FORMS[1:]:
            for backend, missing, there in (
                ("torch", by_torch, True),
                ("onnxruntime", _missing("onnxruntime"), with_graph),
            ):
                if there:
                    name = f"{form}-{backend}" + (f"-{adapter}" if several else "")
                    choice, source = _offer(name, form, backend, "fp32", folder, missing, adapter)
                    title = f"{adapter}: {choice.title}" if several else choice.title
                    yield replace(choice, title=title), source


def _of_run(folder: Path, manifest: RunManifest) -> Iterator[Offer]:
    missing = _missing(*TORCH_PACKAGES)
    if manifest.kind == "full":
        choice, source = _offer("torch-fp32", "merged", "torch", "fp32", folder, missing)
        options = {**source.options, "form": "auto"}
        yield (
            replace(choice, title="Fine-tuned as a whole, PyTorch, float32"),
            Source(folder, MappingProxyType(options), form="full"),
        )
        return
    missing = missing or _base_missing(manifest.base)
    for form in FORMS[1:]:
        yield _offer(f"{form}-torch", form, "torch", "fp32", folder, missing)


def _offer(
    name: str,
    form: Form,
    backend: str,
    precision: str,
    folder: Path,
    missing: str | None,
    adapter: str | None = None,
) -> Offer:
    words = (_FORM_TITLES[form], _BACKEND_TITLES[backend], _PRECISION_TITLES[precision])
    options = {"backend": backend, "precision": precision, "form": form, "adapter": adapter}
    if adapter is None:
        del options["adapter"]
    choice = Choice(name, ", ".join(words), form, backend, precision, missing)
    return choice, Source(folder, MappingProxyType(options), form)


def _missing(*packages: str) -> str | None:
    absent = [package for package in packages if not is_installed(package)]
    if not absent:
        return None
    verb = "is" if len(absent) == 1 else "are"
    extra = EXTRA_OF[absent[0]]
    return f'{", ".join(absent)} {verb} not installed: pip install "lora-deploy[{extra}]"'


def _base_missing(base: BaseIdentity) -> str | None:
    """Why an adapter finds no base to stand on; PyTorch is not imported to tell."""
    if base.id in EMBEDDED_BASES or Path(base.id).exists():
        return None
    if is_installed("huggingface_hub"):
        from huggingface_hub import try_to_load_from_cache
        from huggingface_hub.errors import HFValidationError

        try:
            if isinstance(
                try_to_load_from_cache(base.id, "config.json", revision=base.revision), str
            ):
                return None
        except HFValidationError:
            pass  # it was a folder elsewhere
    return "its base is not on this computer"
