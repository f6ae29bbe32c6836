"""How often a model is right on labelled clips, with the uncertainty of the figure."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from lora_deploy.artifact import run
from lora_deploy.classify.stream import classify
from lora_deploy.clips.dataset import LabelledClip, read_split
from lora_deploy.clips.pool import DecodePool
from lora_deploy.errors import DataNotNamedError, NothingDecodedError, UnknownLabelError
from lora_deploy.progress import Progress, silent
from lora_deploy.runtime.base import Recogniser

Split = Literal["train", "val", "test", "all"]

_Z95 = 1.959963984540054


@dataclass(frozen=True)
class Evaluation:
    """What a model answered on labelled clips."""

    labels: tuple[str, ...]
    confusion: tuple[tuple[int, ...], ...]
    """Rows are the true labels, columns the answers, both in the order of ``labels``."""
    answers: tuple[tuple[str, str, str, float], ...]
    """Path, true label, answer and its probability, clip by clip."""
    left_out: tuple[str, ...]
    """Clips that could not be decoded, with the reason."""
    unknown: int = 0
    """Clips that the bundle's threshold calls unknown; they count here by their best label."""

    @property
    def clips(self) -> int:
        """Clips that were answered."""
        return sum(map(sum, self.confusion))

    @property
    def accuracy(self) -> float:
        """Part of the clips that got their true label."""
        return sum(row[index] for index, row in enumerate(self.confusion)) / self.clips

    @property
    def interval(self) -> tuple[float, float]:
        """95% interval of the accuracy."""
        return wilson_interval(round(self.accuracy * self.clips), self.clips)

    @property
    def chance(self) -> float:
        """Accuracy of always naming the most frequent true label."""
        return max(map(sum, self.confusion)) / self.clips

    @property
    def per_class(self) -> dict[str, float]:
        """Part of each label's clips that got it; labels without clips are left out."""
        return {
            label: row[index] / sum(row)
            for index, (label, row) in enumerate(zip(self.labels, self.confusion, strict=True))
            if sum(row)
        }

    def as_dict(self) -> dict[str, Any]:
        """Plain types, for ``--json``."""
        return {
            "clips": self.clips,
            "accuracy": self.accuracy,
            "interval_95": list(self.interval),
            "chance": self.chance,
            "per_class": self.per_class,
            "labels": list(self.labels),
            "confusion": [list(row) for row in self.confusion],
            "left_out": list(self.left_out),
            "unknown": self.unknown,
        }


def choose_data(model: Path, data: Path | None) -> Path:
    """The labelled clips to judge a model on: those that were named, or a RUN's own.

    Raises:
        DataNotNamedError: Nothing was named, and the model is no RUN.
    """
    if data is not None:
        return data
    if run.is_run(model):
        return model / run.SPLITS
    raise DataNotNamedError(f"{model} is no RUN with clips of its own")


def evaluate(
    recogniser: Recogniser,
    data: Path,
    *,
    split: Split = "test",
    pool: DecodePool | None = None,
    progress: Progress = silent,
) -> Evaluation:
    """Classify the labelled clips of one split and count.

    Raises:
        DataError: The split has no clips.
        UnknownLabelError: It has labels that the model does not know.
    """
    clips = read_split(data, split)
    strange = sorted({clip.label for clip in clips} - set(recogniser.labels))
    if strange:
        raise UnknownLabelError(
            f"{data} has labels that the model does not know: {', '.join(strange)}; "
            f"it knows: {', '.join(recogniser.labels)}"
        )
    return evaluate_clips(recogniser, clips, pool=pool, progress=progress)


def evaluate_clips(
    recogniser: Recogniser,
    clips: Sequence[LabelledClip],
    *,
    pool: DecodePool | None = None,
    progress: Progress = silent,
) -> Evaluation:
    """Classify labelled clips and count.

    Raises:
        NothingDecodedError: None of them can be decoded.
    """
    answers = []
    left_out = []
    unknown = 0
    with progress("evaluating", len(clips)) as advance:
        rows = classify(recogniser, [clip.footage for clip in clips], top_k=1, pool=pool)
        for clip, row in zip(clips, rows, strict=True):
            advance()
            if row.label is None:
                left_out.append(f"{row.path}: {row.error}")
            else:
                label, score = row.top_k[0]
                answers.append((row.path, clip.label, label, score))
                unknown += row.label != label
    if not answers:
        raise NothingDecodedError(
            f"none of {len(clips)} clips could be decoded; the first: {left_out[0]}"
        )
    return replace(tally(recogniser.labels, answers, left_out), unknown=unknown)


def tally(
    labels: Sequence[str],
    answers: Sequence[tuple[str, str, str, float]],
    left_out: Sequence[str] = (),
) -> Evaluation:
    """Count answers: path, true label, answer and its probability, clip by clip."""
    index_of = {label: index for index, label in enumerate(labels)}
    confusion = [[0] * len(index_of) for _ in index_of]
    for _, truth, answer, _ in answers:
        confusion[index_of[truth]][index_of[answer]] += 1
    return Evaluation(
        labels=tuple(labels),
        confusion=tuple(map(tuple, confusion)),
        answers=tuple(answers),
        left_out=tuple(left_out),
    )


def wilson_interval(right: int, clips: int) -> tuple[float, float]:
    """95% score interval of a proportion.

    Wilson, "Probable inference, the law of succession, and statistical inference", 1927.

    Args:
        right: Successes.
        clips: Trials, at least 1.
    """
    part = right / clips
    middle = part + _Z95**2 / (2 * clips)
    spread = _Z95 * math.sqrt(part * (1 - part) / clips + _Z95**2 / (4 * clips**2))
    scale = 1 + _Z95**2 / clips
    return max(0.0, (middle - spread) / scale), min(1.0, (middle + spread) / scale)
