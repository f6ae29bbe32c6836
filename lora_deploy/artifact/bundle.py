"""The BUNDLE folder: what export leaves, every file vouched for by size and hash."""

import errno
import hashlib
import os
import re
from io import FileIO
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, model_validator

from lora_deploy import atomic, regular
from lora_deploy.artifact.manifest import (
    BaseIdentity,
    Label,
    Manifest,
    is_inside,
    read_manifest,
    sha256_of_file,
)
from lora_deploy.clips.contract import ModelContract
from lora_deploy.errors import (
    FileChangedError,
    FileMissingError,
    FileUnknownError,
    ManifestError,
    NotABundleError,
)

EXAMPLE = Path(__file__).parents[1] / "assets" / "example-bundle"
"""What is opened where a command needs a model and none is named."""

MANIFEST = "bundle.json"
ONNX = "onnx/model.onnx"
FUSED = "onnx/model.ort.onnx"
HALF = "onnx/model.fp16.onnx"
BFLOAT16 = "onnx/model.bf16.onnx"
INT8 = "onnx/model.int8.onnx"
FUSED_INT8 = "onnx/model.int8.ort.onnx"
INT8_WEIGHT_BITS = "int8_weight_bits"
"""In the metadata of these two: how many of 8 bits a weight uses."""
FRAMES_IN = "onnx/model.frames.onnx"
ADAPTER_GRAPH = "onnx/adapters.onnx"
ENGINES = "tensorrt"
MODEL = "model"
TRITON = "triton"
ADAPTERS = "adapters"
ADAPTER_NAME = "default"
"""Of the adapter that a bundle is made from."""
ONNX_ADAPTER = ".onnx_adapter"
"""Ending of an adapter's file for `ADAPTER_GRAPH`, beside its folder."""
CERTIFICATE = "certificate.json"
CERTIFICATE_PAGE = "certificate.html"
CARD = "README.md"


class FileRecord(BaseModel):
    """How a file looked when the bundle was made."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    bytes: int = Field(ge=0, lt=1 << 63)
    sha256: str


Precision = Literal["fp32", "fp16", "bf16", "int8"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)

Compiler = Literal["onnxruntime", "openvino"]
COMPILERS: tuple[Compiler, ...] = get_args(Compiler)


class CompiledForm(BaseModel):
    """One way to run the merged model without PyTorch, proved before it was shipped."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    backend: Compiler
    precision: Precision
    """What most of it is computed in; ``bf16`` is OpenVINO's own rounding of the float32 graph."""
    file: str
    """What is opened, as the manifest's ``files`` names it."""

    @property
    def name(self) -> str:
        """As the certificate and `bench` call it: ``openvino-bf16``."""
        return f"{self.backend}-{self.precision}"


Flavour = Literal["tensorrt", "tensorrt-rtx"]
"""Whose compiler made an engine; neither opens those of the other."""


class Ran(BaseModel):
    """How an engine did when it was run; its answers stand in the certificate."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    card: str
    """Name and kind, such as ``NVIDIA GeForce RTX 3060 (sm86)``."""
    date: str = Field(pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2}$")
    clips: int = Field(ge=0)
    """Real clips that it was asked about; 0 for noise alone."""
    passed: bool
    """Whether its answers were within the budget of its precision."""

    @property
    def is_proved(self) -> bool:
        """Whether it was compared on real clips, and within budget."""
        return self.passed and self.clips > 0


class Engine(BaseModel):
    """The merged model compiled by TensorRT for one kind of card, at one precision.

    Opening one equals running native code, so nothing is opened but what ``files`` vouches for.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    flavour: Flavour
    version: str
    """Of the compiler, in full: another version opens it not at all."""
    compute_capability: str = Field(pattern=r"^[1-9][0-9]?\.[0-9]$")
    """Of the card, such as ``8.6``."""
    precision: Precision
    file: str
    """What is opened, as the manifest's ``files`` names it."""
    made_of: str
    """The ONNX file of the bundle that it was compiled from."""
    batch_sizes: tuple[Annotated[int, Field(ge=1, le=4096)], ...] = Field(min_length=1)
    """One optimisation profile for each, in this order."""
    ran: Ran | None = None
    """None where it was built and not run."""

    @property
    def target(self) -> str:
        """As ``--target`` names the card: ``sm86``."""
        return f"sm{self.compute_capability.replace('.', '')}"

    @property
    def name(self) -> str:
        """As the certificate and `bench` call it: ``tensorrt-rtx-fp16-sm86``."""
        return f"{self.flavour}-{self.precision}-{self.target}"


class BundleManifest(Manifest):
    """``bundle.json``."""

    labels: tuple[Label, ...] = Field(min_length=2)
    """In the order of the logits."""
    contract: ModelContract
    temperature: float = Field(default=1.0, ge=0.01, le=100)
    """Logits are divided by it before the softmax."""
    unknown_threshold: float | None = Field(default=None, ge=0, le=1, allow_inf_nan=False)
    base: BaseIdentity
    forms: tuple[CompiledForm, ...] = (
        CompiledForm(backend="onnxruntime", precision="fp32", file=ONNX),
    )
    """What was compiled and proved; at most one of each backend and precision."""
    engines: tuple[Engine, ...] = ()
    """What was compiled for cards, at most one of each flavour, precision and card; whether one was
    ever run stands in the certificate."""
    flop_per_clip: int | None = Field(default=None, gt=0, le=10**18)
    """Floating-point operations of one forward pass, a multiplication and an addition as two."""
    adapters: tuple[str, ...]
    """Names of the folders under ``adapters/``."""
    files: dict[str, FileRecord]
    """Every file of the bundle but this one, by its path with forward slashes."""
    versions: dict[str, str]
    seal: str | None = None
    """Hash of ``bundle.json`` itself, its own digits taken as zeros; see `is_sealed`."""

    @model_validator(mode="before")
    @classmethod
    def _without_precision(cls, values: Any) -> Any:
        """Bundles from before there were forms say ``precision: fp32``, which the forms say now."""
        if isinstance(values, dict) and values.get("precision") == "fp32":
            return {key: value for key, value in values.items() if key != "precision"}
        return values

    @model_validator(mode="after")
    def _each_form_once(self) -> Self:
        for field, names in (
            ("forms", [form.name for form in self.forms]),
            ("engines", [engine.name for engine in self.engines]),
        ):
            if len(names) > len(set(names)):
                raise ValueError(f"{field} names one twice: {', '.join(names)}")
        return self

    def form(self, backend: Compiler, precision: Precision) -> CompiledForm | None:
        """The form that a backend runs at a precision; None where there is none."""
        return next(
            (one for one in self.forms if (one.backend, one.precision) == (backend, precision)),
            None,
        )


def record_files(folder: Path) -> dict[str, FileRecord]:
    """Size and hash of every file under a folder, the manifest left out."""
    return {
        path.relative_to(folder).as_posix(): FileRecord(
            bytes=path.stat().st_size, sha256=sha256_of_file(path)
        )
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path != folder / MANIFEST
    }


def write_bundle_manifest(folder: Path, manifest: BundleManifest) -> None:
    """Write ``bundle.json``, last of all files, and sealed."""
    unsealed = manifest.model_copy(update={"seal": _NO_SEAL}).model_dump_json(indent=1) + "\n"
    seal = hashlib.sha256(unsealed.encode()).hexdigest()
    atomic.write_text(folder / MANIFEST, unsealed.replace(_NO_SEAL, seal))


_NO_SEAL = "0" * 64
_SEAL = re.compile(rb'"seal": ?"([0-9a-f]{64})"')


def is_sealed(folder: Path) -> bool | None:
    """Whether ``bundle.json`` is, byte for byte, what was written; None where it bears no seal.

    A seal finds damage. It stops nobody who means to change a bundle: they can make a new one.
    """
    try:
        content = regular.read_bytes(folder / MANIFEST)
    except OSError:
        return False
    found = _SEAL.search(content)
    if found is None:
        return None if b"seal" not in content else False
    unsealed = content[: found.start(1)] + _NO_SEAL.encode() + content[found.end(1) :]
    return hashlib.sha256(unsealed).hexdigest().encode() == found[1]


def read_bundle_manifest(folder: Path) -> BundleManifest:
    """Read ``bundle.json``, once an update of the bundle that was cut off is finished.

    Raises:
        ArtifactError: Missing, torn or newer, or an update can't be finished here.
    """
    atomic.settle(folder)
    if folder.is_dir() and not is_bundle(folder):
        raise NotABundleError(f"{folder} holds no {MANIFEST}, so it is no BUNDLE")
    manifest = read_manifest(folder / MANIFEST, BundleManifest)
    plain = [name for name in manifest.adapters if is_inside(name) and "/" not in name]
    for name in (*(set(manifest.adapters) - set(plain)), *manifest.files):
        if name not in manifest.files or not is_inside(name):
            raise ManifestError(f"{folder / MANIFEST} names a file outside of its folder: {name}")
    return manifest


def is_bundle(folder: Path) -> bool:
    """Whether a folder claims to be a BUNDLE."""
    return (folder / MANIFEST).is_file()


def open_own(folder: Path, name: str) -> FileIO:
    """Open a file that lies in a bundle itself: neither it nor a folder on the way is a link.

    Raises:
        FileMissingError: It can't be opened, or is no ordinary file.
        FileChangedError: A link is in its place.
    """
    path = folder / name
    try:
        if path.parent.resolve() == folder.resolve() / PurePosixPath(name).parent:
            return regular.opened(path, follow=False)
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise FileMissingError(f"{path} can't be read: {error.strerror}") from None
    raise FileChangedError(
        f"{path} is not the file that {MANIFEST} vouches for (it is reached through a link)"
    )


def verify_files(folder: Path, manifest: BundleManifest, under: str = "") -> None:
    """Check that the files below ``under`` are those of the manifest, by size and hash.

    Args:
        folder: The BUNDLE.
        manifest: Its ``bundle.json``.
        under: A folder inside the bundle; all of it by default.

    Raises:
        ArtifactError: A file is missing, has changed, or is not in the manifest.
    """
    listed = {name for name in manifest.files if name.startswith(under and f"{under}/")}
    check_nothing_added(folder, manifest, under)
    for name in sorted(listed):
        verify_file(folder, manifest, name)


def verify_file(folder: Path, manifest: BundleManifest, name: str) -> None:
    """Check one file by size and hash.

    Raises:
        ArtifactError: It is missing, has changed, or is not in the manifest.
    """
    record = record_of(folder, manifest, name)
    if not (folder / name).is_file():
        raise FileMissingError(f"{folder} lacks {name}")
    with open_own(folder, name) as file:
        check_content(folder, name, file, record)


def check_content(folder: Path, name: str, file: FileIO, record: FileRecord) -> None:
    """Hold an open file of a bundle against its record.

    Raises:
        FileChangedError: It is another.
    """
    if os.fstat(file.fileno()).st_size != record.bytes:
        raise FileChangedError(changed(folder, name))
    if hashlib.file_digest(file, "sha256").hexdigest() != record.sha256:
        raise FileChangedError(changed(folder, name))


def check_nothing_added(folder: Path, manifest: BundleManifest, under: str = "") -> None:
    """Check that no file lies there that the manifest does not name.

    Raises:
        FileUnknownError: There is one.
    """
    found = {
        path.relative_to(folder).as_posix()
        for path in (folder / under).rglob("*")
        if not path.is_dir() or path.is_symlink()
    } - {MANIFEST}
    found = {name for name in found if not atomic.is_on_the_way(name)}
    if unknown := sorted(found - set(manifest.files)):
        record_of(folder, manifest, unknown[0])


def record_of(folder: Path, manifest: BundleManifest, name: str) -> FileRecord:
    """What the manifest says of a file.

    Raises:
        FileUnknownError: It says nothing.
    """
    if name not in manifest.files or ".." in PurePosixPath(name).parts:
        raise FileUnknownError(f"{folder / MANIFEST} does not vouch for {name}")
    return manifest.files[name]


def changed(folder: Path, name: str) -> str:
    """The sentence of a `FileChangedError`."""
    return f"{folder / name} is not the file that {MANIFEST} vouches for (size or hash differs)"
