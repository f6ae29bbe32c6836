"""The RUN folder: what training leaves and every later stage reads."""

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from lora_deploy import atomic
from lora_deploy.artifact.adapter_record import ADAPTER_CONFIG, ADAPTER_WEIGHTS, LABELS
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
    AdapterChangedError,
    FileChangedError,
    FileMissingError,
    ManifestError,
)

MANIFEST = "run.json"
SETTINGS = "config.yaml"
CHECKPOINT = "best_model.pth"
ADAPTER = "best_model_lora_adapter"
METRICS = "metrics.jsonl"
SPLITS = "splits.csv"
DUPLICATES = "near_duplicates.csv"
REPORT = "report.html"
CARD = "README.md"


class BestEpoch(BaseModel):
    """Figures of the epoch whose weights were kept."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    epoch: int
    val_accuracy: float
    val_loss: float
    val_clips: int
    training_seconds: float | None = None
    """Spent on the training until this epoch was kept; None in RUNs of before."""


class RunManifest(Manifest):
    """``run.json``: enough for every later stage to ask nothing twice."""

    kind: Literal["lora", "full"]
    """``full`` is any training without an adapter, the head alone included."""
    labels: tuple[Label, ...] = Field(min_length=2)
    """In the order of the logits."""
    contract: ModelContract
    base: BaseIdentity
    model_config_values: dict[str, Any]
    """The transformers configuration of the classifier."""
    head_modules: tuple[str, ...]
    """Modules that the base did not supply."""
    targets: tuple[str, ...]
    """Full names of the layers under the adapter; empty without one."""
    parameters: dict[str, int]
    """total, trainable, lora and head, as counted."""
    versions: dict[str, str]
    best: BestEpoch
    finished: bool
    """False while training goes on, and after it was interrupted."""
    training_seconds: float
    begun_with: str | None = None
    """SHA-256 of the weights of the adapter that it was begun with; None for a fresh one."""
    weights: dict[str, str]
    """SHA-256 by path: of the checkpoint, and of every file of the adapter."""


def write_run_manifest(folder: Path, manifest: RunManifest) -> None:
    """Write ``run.json``."""
    atomic.write_text(folder / MANIFEST, manifest.model_dump_json(indent=1) + "\n")


def read_run_manifest(folder: Path) -> RunManifest:
    """Read ``run.json``, once a save that was cut off is finished.

    Raises:
        ArtifactError: Missing, torn or newer, or a save was cut off and can't be finished here.
    """
    atomic.settle(folder)
    manifest = read_manifest(folder / MANIFEST, RunManifest)
    needed = {CHECKPOINT}
    if manifest.kind == "lora":
        needed |= {f"{ADAPTER}/{name}" for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS, LABELS)}
    if lost := sorted(needed - manifest.weights.keys()):
        raise ManifestError(f"{folder / MANIFEST} does not vouch for {lost[0]}")
    if outside := [name for name in manifest.weights if not is_inside(name)]:
        raise ManifestError(f"{folder / MANIFEST} names a file outside of its folder: {outside[0]}")
    return manifest


def is_run(folder: Path) -> bool:
    """Whether a folder claims to be a RUN; its first save may still want finishing."""
    return (folder / MANIFEST).is_file() or (folder / atomic.UPDATE / MANIFEST).is_file()


def verify_adapter(folder: Path, manifest: RunManifest) -> list[Path]:
    """The files of the adapter, each one checked; anything else in its folder is passed over.

    Raises:
        ArtifactError: One is missing, or not the file that training left.
    """
    names = [name for name in manifest.weights if name.startswith(f"{ADAPTER}/")]
    return [verify_weights(folder, manifest, name) for name in names]


def verify_weights(folder: Path, manifest: RunManifest, name: str) -> Path:
    """The path of a file, its hash checked.

    Raises:
        ArtifactError: It is missing, or not the file that training left.
    """
    path = folder / name
    if ".." in path.parts or path.is_symlink() or not path.is_file():
        raise FileMissingError(f"{folder} lacks {name}")
    if manifest.weights.get(name) != sha256_of_file(path):
        changed = AdapterChangedError if name.startswith(f"{ADAPTER}/") else FileChangedError
        raise changed(
            f"{path} is not the file that training left (its hash differs from {MANIFEST})"
        )
    return path
