"""On which clips trainings learn and are judged: one division for all, or a fold for each group left out."""

import re
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from lora_deploy import atomic
from lora_deploy.clips.dataset import ClipDataset, LabelledClip, dataset_for
from lora_deploy.config import Settings
from lora_deploy.errors import EmptySplitError, LeaveOutError
from lora_deploy.train.splits_file import splits_csv

GROUP = "group"
"""As ``--leave-out``: the groups that the data names."""

SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class Fold:
    """One division of the clips. Every method and every seed gets the same."""

    name: str
    """The group that is tested; empty where there is but one division."""
    manifest: Path
    dataset: ClipDataset


def make_folds(data: Path, out: Path, settings: Settings, leave_out: str | None) -> list[Fold]:
    """Divide the clips; the manifests are not written yet.

    Args:
        data: As for a training.
        out: The comparison's folder; the manifests belong under it.
        settings: How clips are divided where the data does not say.
        leave_out: `GROUP`, or a regular expression whose bracket finds the group in a clip's path.
            Each group is then tested once, by models that have never seen it; the splits that the
            data names are not used, and validation clips are drawn from the other groups.

    Raises:
        DataError: The data can't be used so.
    """
    whole = dataset_for(settings, data)
    if leave_out is None:
        for split in ("val", "test"):
            if not whole.of(split):
                raise EmptySplitError(f"{data} has no {split} clips")
        return [Fold("", out / "data.csv", whole)]
    clips = [replace(clip, group=_group_of(clip, leave_out)) for clip in whole.clips]
    groups = sorted({clip.group for clip in clips if clip.group is not None}, key=_natural)
    if len(groups) < 3:
        raise LeaveOutError(
            f"{leave_out} finds {len(groups)} groups in {data}; at least 3 are needed: to learn "
            "from, to choose the best epoch, and to test"
        )
    return [_fold(group, clips, out, settings) for group in groups]


def write_manifests(folds: Iterable[Fold]) -> None:
    """Put each fold's manifest in its place."""
    for fold in folds:
        fold.manifest.parent.mkdir(parents=True, exist_ok=True)
        atomic.write_text(fold.manifest, splits_csv(fold.dataset))


def _group_of(clip: LabelledClip, leave_out: str) -> str:
    if leave_out == GROUP:
        if clip.group is None:
            raise LeaveOutError(f"{clip.path} has no group")
        return clip.group
    found = re.search(leave_out, clip.path.as_posix())
    if found is None or found.lastindex is None or found[1] is None:
        raise LeaveOutError(f"{leave_out} finds no group in {clip.path}")
    return found[1]


def check_pattern(leave_out: str | None) -> None:
    """See that ``--leave-out`` can be obeyed.

    Raises:
        LeaveOutError: It is no regular expression with one bracket.
    """
    if leave_out in (None, GROUP):
        return
    try:
        brackets = re.compile(leave_out).groups
    except re.error as error:
        raise LeaveOutError(f"{leave_out} is no regular expression ({error})") from None
    if brackets != 1:
        raise LeaveOutError(f"{leave_out} has {brackets} brackets; one is needed")


def _fold(group: str, clips: Sequence[LabelledClip], out: Path, settings: Settings) -> Fold:
    parted = [replace(clip, split="test" if clip.group == group else "train") for clip in clips]
    labels = tuple(sorted({clip.label for clip in clips}))
    # By way of a manifest: validation clips are then drawn as they are for any training.
    with tempfile.TemporaryDirectory() as folder:
        undivided = Path(folder) / "clips.csv"
        undivided.write_text(splits_csv(ClipDataset(tuple(parted), labels)), encoding="utf-8")
        dataset = dataset_for(settings, undivided, "manifest")
    return Fold(group, out / "folds" / f"{file_name(group)}.csv", dataset)


def file_name(text: str) -> str:
    """A name for a file or folder, from any text."""
    return re.sub(r"[^\w.-]", "_", text)


def _natural(name: str) -> list[tuple[int, int, str]]:
    """Sorts s2 before s10."""
    parts = re.findall(r"\d+|\D+", name)
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in parts]
