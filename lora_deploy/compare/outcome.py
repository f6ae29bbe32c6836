"""What one training of a comparison is asked for and what came of it: the two files in its folder."""

import hashlib
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from lora_deploy import atomic
from lora_deploy.clips.dataset import LabelledClip
from lora_deploy.config import Settings
from lora_deploy.errors import ComparisonChangedError
from lora_deploy.train.changes import MAY_DIFFER, settings_differences

OUTCOME = "outcome.json"
JOB = "job.json"
LOG = "log.txt"
FAILURE = "failure.json"
BASELINE = "baseline.json"
RUN = "run"


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class SetOfClips(_Frozen):
    """Labelled clips that models are judged on."""

    source: str
    """A manifest or a folder."""
    split: Literal["train", "val", "test", "all"]
    clips: str
    """`clips_digest` of them."""


class Asked(_Frozen):
    """All that decides the figures of a training, but the base's weights."""

    settings: dict[str, Any]
    """Without those that change no figure."""
    clips: dict[str, str]
    """`clips_digest` by split."""

    @classmethod
    def of(cls, settings: Settings, clips: dict[str, str]) -> "Asked":
        """For these settings on these clips."""
        tree = settings.model_dump(mode="json", exclude={"proof"})
        for key in MAY_DIFFER:
            section, name = key.split(".")
            tree[section].pop(name)
        return cls(settings=tree, clips=clips)


class Trained(_Frozen):
    """A training that came to its end, as its own process measured it."""

    parameters: dict[str, int]
    """total, trainable, lora and head, as counted."""
    base: str
    """Fingerprint of what it stands on."""
    epochs: int
    """That were trained; fewer than asked for where it stopped early."""
    best_epoch: int
    val_accuracy: float
    """Of the best epoch."""
    val_loss: float
    val_clips: int
    seconds: float
    seconds_to_best: float
    """Until the best epoch was on the disk."""
    peak_memory_bytes: int | None
    """The most that was ever held; None where the process was killed that would have said it."""
    memory_of: Literal["process", "GPU"]
    memory_before_bytes: int
    """The most that the process held before the training began: Python and libraries."""
    checkpoint_bytes: int
    adapter_bytes: int | None
    """Of the standalone adapter's folder; None without one."""
    curve: tuple[tuple[int, float], ...]
    """Epoch and validation accuracy."""
    interrupted: bool
    """It went on from a checkpoint; the peak is that of the last part."""
    processor: str
    device: str
    threads: int
    versions: dict[str, str]
    date: str


class Counted(_Frozen):
    """How many clips of a set got their true label."""

    clips: str
    """`clips_digest` of the set."""
    right: int
    answered: int
    left_out: int
    """Clips that could not be decoded."""


class Outcome(_Frozen):
    """``outcome.json``: written when the training is done, and again after each set of clips."""

    schema_version: int = 1
    asked: Asked
    trained: Trained
    sets: dict[str, Counted]

    def lacks(self, sets: dict[str, SetOfClips]) -> list[str]:
        """Names of sets that it was not judged on, or that hold other clips now."""
        return [
            name
            for name, wanted in sets.items()
            if name not in self.sets or self.sets[name].clips != wanted.clips
        ]


class Job(_Frozen):
    """``job.json``: what the process of one training is told."""

    asked: Asked
    settings: dict[str, Any]
    manifest: str
    sets: dict[str, SetOfClips]
    frames: str
    device: str | None
    threads: int
    parent_pid: int


class PreparationJob(_Frozen):
    """What the process is told that decodes all clips, and fits the motion baseline."""

    bases: list[dict[str, Any]]
    """Settings of each method: they say what is decoded."""
    folds: list[dict[str, SetOfClips]]
    labels: list[str]
    frames: str
    threads: int
    parent_pid: int


class Baseline(_Frozen):
    """``baseline.json``: the linear motion baseline, for each fold and set."""

    clips: list[dict[str, str]]
    """`clips_digest` by set, for each fold."""
    folds: list[dict[str, Counted]]


class Failure(_Frozen):
    """``failure.json``: why the process gave no outcome."""

    error: str
    name: str | None
    """The error's word in the documentation."""


def clips_digest(clips: Sequence[LabelledClip]) -> str:
    """How many clips, and a hash over names, labels, groups and sizes; their folder may be another."""
    lines = [
        repr((clip.path.name, clip.stretch, clip.label, clip.group, _size_bytes(clip.path)))
        for clip in clips
    ]
    digest = hashlib.sha256("\n".join(lines).encode()).hexdigest()
    return f"{len(clips)} clips {digest[:16]}"


def _size_bytes(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def read_outcome(folder: Path) -> Outcome | None:
    """What came of a training; None where there is nothing whole."""
    try:
        return Outcome.model_validate_json((folder / OUTCOME).read_bytes())
    except (FileNotFoundError, ValidationError):
        return None


def write_outcome(folder: Path, outcome: Outcome) -> None:
    """Replace what is there."""
    atomic.write_text(folder / OUTCOME, outcome.model_dump_json(indent=1) + "\n")


def check_same(folder: Path, asked: Asked) -> None:
    """See that what is in a folder was made of what is asked for now.

    A training that failed may be tried again with other settings: its remains are taken away.

    Raises:
        ComparisonChangedError: It was not; the text names what differs.
    """
    then = _asked_before(folder)
    if then is None or then == asked:
        return
    if (folder / FAILURE).is_file():
        shutil.rmtree(folder)
        return
    differ = settings_differences(then.settings, asked.settings)
    differ += [
        f"the {split} clips were {then.clips.get(split, 'none')} and are {clips}"
        for split, clips in asked.clips.items()
        if then.clips.get(split) != clips
    ]
    raise ComparisonChangedError(f"{folder} was made otherwise: {'; '.join(differ)}")


def _asked_before(folder: Path) -> Asked | None:
    """Of a finished training, or of one that was interrupted."""
    outcome = read_outcome(folder)
    if outcome is not None:
        return outcome.asked
    try:
        return Job.model_validate_json((folder / JOB).read_bytes()).asked
    except (FileNotFoundError, ValidationError):
        return None
