"""Which forms of a RUN or a BUNDLE there are to measure, and why one can't be measured here."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from lora_deploy.artifact import bundle, run
from lora_deploy.artifact.bundle import BundleManifest, Precision
from lora_deploy.artifact.manifest import manifest_digest
from lora_deploy.clips.contract import PixelContract
from lora_deploy.errors import NotAModelError
from lora_deploy.extras import EXTRA_OF, is_installed
from lora_deploy.processor import Processor

EAGER = "torch-fp32"
"""The merged model as PyTorch runs it by itself, which is what transformers' pipeline does."""

PEAK = "peak"
"""What the names of the matrix multiplications begin with."""


@dataclass(frozen=True)
class MeasuredForm:
    """One process that will be started, or that can't be."""

    name: str
    """As the certificate calls it: ``openvino-bf16``, ``torch-unmerged``."""
    precision: Precision
    job: dict[str, Any]
    """What the process is told: what to open, and how."""
    file_bytes: int
    """Of the files that it opens."""
    obstacle: str | None = None
    """Why it can't be measured on this computer; None where it is tried."""

    @property
    def is_peak(self) -> bool:
        """Whether it multiplies matrices, to show what could be reached."""
        return bool(self.job["kind"] == PEAK)


@dataclass(frozen=True)
class Subject:
    """The model that is measured."""

    folder: Path
    digest: str
    contract: PixelContract
    flop_per_clip: int | None
    forms: tuple[MeasuredForm, ...]


Installed = Callable[[str], bool]


def read_subject(
    folder: Path, processor: Processor, *, installed: Installed = is_installed
) -> Subject:
    """Look at a RUN or a BUNDLE; nothing of it is opened but its manifest.

    Raises:
        ArtifactError: It is neither, or its manifest is damaged.
    """
    if bundle.is_bundle(folder):
        manifest = bundle.read_bundle_manifest(folder)
        return Subject(
            folder=folder,
            digest=manifest_digest(folder / bundle.MANIFEST),
            contract=manifest.contract,
            flop_per_clip=manifest.flop_per_clip,
            forms=tuple(_of_bundle(folder, manifest, processor, installed)),
        )
    if run.is_run(folder):
        trained = run.read_run_manifest(folder)
        return Subject(
            folder=folder,
            digest=manifest_digest(folder / run.MANIFEST),
            contract=trained.contract,
            flop_per_clip=None,
            forms=tuple(_of_run(folder, trained.kind == "lora", processor, installed)),
        )
    what = "is neither a RUN nor a BUNDLE folder" if folder.is_dir() else "does not exist"
    raise NotAModelError(
        f"{folder} {what}: one with {run.MANIFEST} or {bundle.MANIFEST} is needed here"
    )


def peaks(processor: Processor, *, installed: Installed = is_installed) -> list[MeasuredForm]:
    """Multiplications of large matrices: the most that each package gets out of this processor."""
    precisions = ["fp32", *(["bf16"] if processor.has_bf16 else [])]
    return [
        MeasuredForm(
            name=f"{PEAK}-{package}",
            precision="fp32",
            job={"kind": PEAK, "package": package, "precisions": precisions},
            file_bytes=0,
        )
        for package in ("torch", "openvino")
        if installed(package)
    ]


def _of_run(
    folder: Path, is_lora: bool, processor: Processor, installed: Installed
) -> Iterator[MeasuredForm]:
    size = _size(folder / run.CHECKPOINT)
    if is_lora:
        yield _torch("torch-unmerged", "unmerged", folder, None, size, processor, installed)
    yield _torch(EAGER, "merged", folder, None, size, processor, installed)
    yield _torch("torch-bf16", "merged", folder, None, size, processor, installed)


def _of_bundle(
    folder: Path, manifest: BundleManifest, processor: Processor, installed: Installed
) -> Iterator[MeasuredForm]:
    model = sum(
        record.bytes
        for name, record in manifest.files.items()
        if name.startswith(f"{bundle.MODEL}/")
    )
    compiled = [bundle.record_of(folder, manifest, form.file).bytes for form in manifest.forms]
    size = model or max(compiled, default=0)
    for adapter in manifest.adapters:
        name = "torch-unmerged" if len(manifest.adapters) == 1 else f"torch-unmerged-{adapter}"
        yield _torch(name, "unmerged", folder, adapter, size, processor, installed)
    # A bundle without weights for torch can still be merged anew, from its adapter.
    adapter_to_merge = manifest.adapters[0] if manifest.adapters and not model else None
    if model or adapter_to_merge is not None:
        for name in (EAGER, "torch-bf16"):
            yield _torch(name, "merged", folder, adapter_to_merge, size, processor, installed)
    for form, file_bytes in zip(manifest.forms, compiled, strict=True):
        obstacle = _missing(installed, form.backend)
        if form.precision == "bf16" and not processor.has_bf16:
            obstacle = obstacle or _NO_BF16
        yield MeasuredForm(
            name=form.name,
            precision=form.precision,
            job={
                "kind": "compiled",
                "folder": str(folder),
                "backend": form.backend,
                "precision": form.precision,
            },
            file_bytes=file_bytes,
            obstacle=obstacle,
        )
    for engine in manifest.engines:
        yield MeasuredForm(
            name=engine.name,
            precision=engine.precision,
            job={"kind": "engine"},
            file_bytes=bundle.record_of(folder, manifest, engine.file).bytes,
            obstacle=_ON_A_CARD,
        )


_ON_A_CARD = "it runs on a card, and this measures the processor"
_NO_BF16 = "this processor does not compute in bfloat16"


def _torch(
    name: str,
    what: Literal["merged", "unmerged"],
    folder: Path,
    adapter: str | None,
    size: int,
    processor: Processor,
    installed: Installed,
) -> MeasuredForm:
    is_bf16 = name.endswith("-bf16")
    obstacle = _missing(installed, "torch", "transformers", "peft")
    if is_bf16 and not processor.has_bf16:
        obstacle = obstacle or _NO_BF16
    return MeasuredForm(
        name=name,
        precision="bf16" if is_bf16 else "fp32",
        job={
            "kind": "torch",
            "folder": str(folder),
            "what": what,
            "adapter": adapter,
            "precision": "bf16" if is_bf16 else "fp32",
        },
        file_bytes=size,
        obstacle=obstacle,
    )


def _missing(installed: Installed, *packages: str) -> str | None:
    missing = [package for package in packages if not installed(package)]
    if not missing:
        return None
    verb = "is" if len(missing) == 1 else "are"
    extra = EXTRA_OF[missing[0]]
    return f'{", ".join(missing)} {verb} not installed: pip install "lora-deploy[{extra}]"'


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0
