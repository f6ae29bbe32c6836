"""Which clip has which label and belongs to which split: folders and manifests, no decoding."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from lora_deploy.clips.clip import Footage, Stretch
from lora_deploy.clips.folders import find_videos as find_videos
from lora_deploy.clips.folders import known_endings, read_folder
from lora_deploy.clips.manifests import read_manifest
from lora_deploy.clips.rows import Row, check_names, check_splits, first_few, without_repeats
from lora_deploy.clips.rows import Split as Split
from lora_deploy.clips.splits import assign_splits
from lora_deploy.errors import (
    ClipsMissingError,
    EmptySplitError,
    NoSuchDataError,
    NoVideosError,
    SettingValueError,
    SplitsNotNamedError,
    TooFewClassesError,
    UntrainedClassError,
)


@dataclass(frozen=True)
class LabelledClip:
    """One clip of a data set: a video file, or a part of one."""

    path: Path
    label: str
    split: Split
    group: str | None
    """Clips of one group (a person, a scene, a recording) are never parted; None: on its own."""
    stretch: Stretch | None = None
    """The part of the file that is the clip; None: all of it. Clips of one file are never parted."""

    @property
    def footage(self) -> Footage:
        """What is decoded."""
        return Footage(self.path, self.stretch)


@dataclass(frozen=True)
class ClipDataset:
    """Labelled clips, each in one split."""

    clips: tuple[LabelledClip, ...]
    labels: tuple[str, ...]
    """The labels of all splits, sorted; each has at least one clip to train on."""

    def of(self, split: Split) -> tuple[LabelledClip, ...]:
        """The clips of one split, in the order of the data set."""
        return tuple(clip for clip in self.clips if clip.split == split)


def read_dataset(
    source: Path, *, val_fraction: float, test_fraction: float, seed: int
) -> ClipDataset:
    """Read a labelled data set and give every clip a split.

    Args:
        source: A folder with a folder per class; or one with ``train``, ``val`` and ``test``
            folders, each with a folder per class; or a manifest, ``.csv`` or ``.jsonl``, with
            ``path``, ``label`` and, if wanted, ``split`` and ``group``, where paths are
            absolute or count from the manifest's folder, and ``start`` and ``end``, in seconds,
            where a clip is a part of a file.
        val_fraction: Part of the clips that becomes ``val`` where the source names no split.
            Where all splits are named but ``val``, that part of ``train`` becomes ``val``.
        test_fraction: The same for ``test``, among the clips that have no split, if none is named.
        seed: Decides which clips; the same seed gives the same splits on any machine.

    Raises:
        DataError: The source does not hold labelled clips of at least two classes, or its
            splits share a file or a group; named by what is wrong.
        SettingValueError: The fractions leave nothing to train on.
    """
    _check_fractions(val_fraction, test_fraction)
    rows = _read_rows(source, needs_train=True)
    _check_exist(rows, source)
    check_splits(rows)
    labels = tuple(sorted({row.label for row in rows}))
    if len(labels) < 2:
        raise TooFewClassesError(
            f"{source} holds only one class, {labels[0]}; at least two are needed"
        )
    splits = assign_splits(rows, val_fraction=val_fraction, test_fraction=test_fraction, seed=seed)
    clips = tuple(
        LabelledClip(row.path, row.label, split, row.group, row.stretch)
        for row, split in zip(rows, splits, strict=True)
    )
    trained = {clip.label for clip in clips if clip.split == "train"}
    untrained = [label for label in labels if label not in trained]
    if untrained:
        raise UntrainedClassError(
            f"no train clip shows {first_few(untrained)}; every class needs at least one in train"
        )
    return ClipDataset(clips=clips, labels=labels)


def read_split(
    source: Path, split: Split | Literal["all"], *, must_exist: bool = True
) -> tuple[LabelledClip, ...]:
    """Read the labelled clips that a model is to be judged on; nothing is drawn at random.

    Args:
        source: As `read_dataset`; one class and no train clips will do.
        split: A split that the source names, or ``all``. Of clips without one, ``test`` is told.
        must_exist: Whether a manifest may name files that are not there.

    Raises:
        DataError: The source holds no labelled clips, or none in that split.
    """
    rows = _read_rows(source, needs_train=False)
    if split != "all" and not any(row.split for row in rows):
        raise SplitsNotNamedError(
            f"{source} names no splits, so clips that the model learned from can't be told from "
            "others"
        )
    clips = tuple(
        LabelledClip(row.path, row.label, row.split or "test", row.group, row.stretch)
        for row in rows
        if split in ("all", row.split)
    )
    if not clips:
        named = ", ".join(sorted({row.split for row in rows if row.split}))
        raise EmptySplitError(f"{source} has no clips in the split {split}; it has: {named}")
    if must_exist:
        _check_exist(clips, source)
    return clips


def _check_exist(clips: Sequence[Row | LabelledClip], source: Path) -> None:
    missing = [str(clip.path) for clip in clips if not clip.path.is_file()]
    if missing:
        raise ClipsMissingError(
            f"{len(missing)} of {len(clips)} files of {source} do not exist: {first_few(missing)}"
        )


def _read_rows(source: Path, *, needs_train: bool) -> list[Row]:
    if source.is_dir():
        rows = read_folder(source, needs_train=needs_train)
    elif source.is_file():
        rows = read_manifest(source)
    else:
        raise NoSuchDataError(f"there is nothing at {source}")
    if not rows:
        raise NoVideosError(f"no videos are in {source}; known endings are {known_endings()}")
    check_names(rows)
    return without_repeats(rows)


def _check_fractions(val_fraction: float, test_fraction: float) -> None:
    if not (val_fraction >= 0 and test_fraction >= 0 and val_fraction + test_fraction < 1):
        raise SettingValueError(
            f"data.val_fraction {val_fraction} and data.test_fraction {test_fraction} leave nothing "
            "to train on; allowed: each at least 0, and their sum below 1"
        )
