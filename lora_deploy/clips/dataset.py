"""Which clip has which label and belongs to which split: no decoding."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from lora_deploy.clips.clip import Footage, Stretch
from lora_deploy.clips.folders import find_videos as find_videos
from lora_deploy.clips.frame_folder import is_frame_folder
from lora_deploy.clips.layouts.layout import Asked
from lora_deploy.clips.layouts.recognise import read_rows
from lora_deploy.clips.rows import Row, check_names, check_splits, first_few, without_repeats
from lora_deploy.clips.rows import Split as Split
from lora_deploy.clips.splits import assign_splits
from lora_deploy.config import DataFormat, Settings
from lora_deploy.errors import (
    ClipsMissingError,
    EmptySplitError,
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
    source: Path,
    *,
    val_fraction: float,
    test_fraction: float,
    seed: int,
    data_format: DataFormat = "auto",
    fold: int = 1,
) -> ClipDataset:
    """Read a labelled data set and give every clip a split.

    Args:
        source: A folder with a folder per class; or one with ``train``, ``val`` and ``test``
            folders, each with a folder per class; or a manifest, ``.csv`` or ``.jsonl``, with
            ``path``, ``label`` and, if wanted, ``split`` and ``group``, where paths are
            absolute or count from the manifest's folder, and ``start`` and ``end``, in seconds,
            where a clip is a part of a file; or data as the field lays them out, docs/data.md.
        val_fraction: Part of the clips that becomes ``val`` where the source names no split.
            Where all splits are named but ``val``, that part of ``train`` becomes ``val``.
        test_fraction: The same for ``test``, among the clips that have no split, if none is named.
        seed: Decides which clips; the same seed gives the same splits on any machine.
        data_format: How the source is laid out; it is recognised where that is not said.
        fold: Which of UCF101's or HMDB51's own divisions.

    Raises:
        DataError: The source does not hold labelled clips of at least two classes, or its
            splits share a file or a group; named by what is wrong.
        SettingValueError: The fractions leave nothing to train on.
    """
    _check_fractions(val_fraction, test_fraction)
    rows = _read_rows(source, needs_train=True, data_format=data_format, fold=fold)
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


def dataset_for(
    settings: Settings, source: Path, data_format: DataFormat | None = None
) -> ClipDataset:
    """`read_dataset` as the settings have it; ``data_format`` where a layout is known better."""
    return read_dataset(
        source,
        val_fraction=settings.data.val_fraction,
        test_fraction=settings.data.test_fraction,
        seed=settings.training.seed,
        data_format=data_format or settings.data.format,
        fold=settings.data.fold,
    )


def read_split(
    source: Path,
    split: Split | Literal["all"],
    *,
    must_exist: bool = True,
    data_format: DataFormat = "auto",
    fold: int = 1,
) -> tuple[LabelledClip, ...]:
    """Read the labelled clips that a model is to be judged on; nothing is drawn at random.

    Args:
        source: As `read_dataset`; one class and no train clips will do.
        split: A split that the source names, or ``all``. Of clips without one, ``test`` is told.
        must_exist: Whether a manifest may name files that are not there.
        data_format: As `read_dataset`.
        fold: As `read_dataset`.

    Raises:
        DataError: The source holds no labelled clips, or none in that split.
    """
    rows = _read_rows(source, needs_train=False, data_format=data_format, fold=fold)
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
    missing = [
        str(clip.path) for clip in clips if not (clip.path.is_file() or is_frame_folder(clip.path))
    ]
    if missing:
        raise ClipsMissingError(
            f"{len(missing)} of {len(clips)} files of {source} do not exist: {first_few(missing)}"
        )


def _read_rows(source: Path, *, needs_train: bool, data_format: DataFormat, fold: int) -> list[Row]:
    rows = read_rows(source, data_format, Asked(fold=fold, needs_train=needs_train))
    check_names(rows)
    return without_repeats(rows)


def _check_fractions(val_fraction: float, test_fraction: float) -> None:
    if not (val_fraction >= 0 and test_fraction >= 0 and val_fraction + test_fraction < 1):
        raise SettingValueError(
            f"data.val_fraction {val_fraction} and data.test_fraction {test_fraction} leave nothing "
            "to train on; allowed: each at least 0, and their sum below 1"
        )
