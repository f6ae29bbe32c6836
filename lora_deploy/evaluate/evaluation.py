"""What a model answered on labelled clips, and every figure that follows from it."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lora_deploy.clips.views import ONE_VIEW, Views
from lora_deploy.evaluate import intervals
from lora_deploy.evaluate.calibration import Bin, calibration_bins, calibration_error
from lora_deploy.evaluate.intervals import RESAMPLES, Bootstrap, wilson_interval

MOST_TOP_K = 5


@dataclass(frozen=True)
class ClassFigures:
    """How one label does."""

    clips: int
    """That bear the label."""
    answered: int
    """That got the label."""
    right: int

    @property
    def precision(self) -> float | None:
        """Part of the clips that got the label which bear it; None where none got it."""
        return self.right / self.answered if self.answered else None

    @property
    def recall(self) -> float | None:
        """Part of the clips that bear the label which got it; None where none bears it."""
        return self.right / self.clips if self.clips else None

    @property
    def f1(self) -> float | None:
        """Harmonic mean of the two, 2·right / (clips + answered); None where both are without clips."""
        either = self.clips + self.answered
        return 2 * self.right / either if either else None

    def as_dict(self) -> dict[str, float | None]:
        """Plain types."""
        return {
            "clips": self.clips,
            "answered": self.answered,
            "precision": self.precision,
            "recall": self.recall,
            "f1": self.f1,
        }


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
    ranks: tuple[int, ...] = ()
    """Of the true label among the probabilities, clip by clip, 1 for the best; empty: not known."""
    groups: tuple[str | None, ...] = ()
    """Of each clip (a person, a recording); empty: not known."""
    views: Views = ONE_VIEW
    """Whose probabilities were averaged."""
    learned: int | None = None
    """Clips among these that the model learned from; None where that can't be told."""

    @property
    def clips(self) -> int:
        """Clips that were answered."""
        return sum(map(sum, self.confusion))

    @property
    def accuracy(self) -> float:
        """Part of the clips that got their true label: top-1."""
        return sum(row[index] for index, row in enumerate(self.confusion)) / self.clips

    @property
    def interval(self) -> tuple[float, float]:
        """95% interval of the accuracy, of clips that do not depend on each other."""
        return wilson_interval(round(self.accuracy * self.clips), self.clips)

    @property
    def chance(self) -> float:
        """Accuracy of always naming the most frequent true label."""
        return max(map(sum, self.confusion)) / self.clips

    @property
    def per_class(self) -> dict[str, float]:
        """Part of each label's clips that got it; labels without clips are left out."""
        return {label: one.recall for label, one in self.classes.items() if one.recall is not None}

    @property
    def classes(self) -> dict[str, ClassFigures]:
        """Every label, those without clips too."""
        answered = [sum(column) for column in zip(*self.confusion, strict=True)]
        return {
            label: ClassFigures(sum(row), answered[index], row[index])
            for index, (label, row) in enumerate(zip(self.labels, self.confusion, strict=True))
        }

    @property
    def mean_class_accuracy(self) -> float:
        """Mean of `per_class`: each label counts alike, however many clips it has."""
        return _mean(list(self.per_class.values()))

    @property
    def mean_precision(self) -> float:
        """Mean over the labels with clips; one that was never answered counts as 0."""
        return _mean([one.precision or 0.0 for one in self.classes.values() if one.clips])

    @property
    def mean_f1(self) -> float:
        """Mean of the labels' F1 over the labels with clips ("macro F1").

        Opitz and Burst, "Macro F1 and macro F1", 2019, tell it from the F1 of the means.
        """
        return _mean([one.f1 or 0.0 for one in self.classes.values() if one.clips])

    @property
    def top_k(self) -> tuple[int, float] | None:
        """A number below that of the labels, at most 5, and the part of the clips whose true label is
        among so many best answers; None with two labels, or where ranks are not known.
        """
        k = min(MOST_TOP_K, len(self.labels) - 1)
        if k < 2 or not self.ranks:
            return None
        return k, sum(rank <= k for rank in self.ranks) / len(self.ranks)

    @property
    def top5(self) -> float | None:
        """`top_k` where it is that of 5: of six labels and more."""
        found = self.top_k
        return found[1] if found and found[0] == MOST_TOP_K else None

    @property
    def calibration_error(self) -> float:
        """As `calibration.calibration_error`, of the answers' probabilities."""
        return calibration_error(*self._scores())

    @property
    def calibration_bins(self) -> tuple[Bin, ...]:
        """What the error is made of."""
        return calibration_bins(*self._scores())

    @property
    def confusions(self) -> tuple[tuple[str, str, int, int], ...]:
        """True label, wrong answer, how many clips and of how many; the most frequent first."""
        wrong = [
            (truth, answer, self.confusion[row][column], sum(self.confusion[row]))
            for row, truth in enumerate(self.labels)
            for column, answer in enumerate(self.labels)
            if row != column and self.confusion[row][column]
        ]
        return tuple(sorted(wrong, key=lambda one: (-one[2], -one[2] / one[3])))

    def bootstrap(self, *, resamples: int = RESAMPLES, seed: int = 0) -> Bootstrap:
        """95% intervals of accuracy, mean class accuracy, mean F1 and top-k from resampling.

        Not of the calibration error: that of few clips is too large, and of resampled ones larger
        still, so its percentiles would miss it.
        """
        index_of = {label: index for index, label in enumerate(self.labels)}
        truths = np.array([index_of[truth] for _, truth, _, _ in self.answers])
        found = np.array([index_of[answer] for _, _, answer, _ in self.answers])
        top_k = self.top_k
        hits = np.array([rank <= top_k[0] for rank in self.ranks]) if top_k else None
        labels = len(self.labels)

        def figures(weights: NDArray[np.float64]) -> dict[str, float]:
            right = weights * (truths == found)
            of_label = np.bincount(truths, weights, labels)
            right_of_label = np.bincount(truths, right, labels)
            answered = np.bincount(found, weights, labels)
            there = of_label > 0
            values = {
                "accuracy": right.sum() / weights.sum(),
                "mean_class_accuracy": (right_of_label[there] / of_label[there]).mean(),
                "mean_f1": (2 * right_of_label[there] / (of_label + answered)[there]).mean(),
            }
            if hits is not None:
                values["top_k"] = (weights * hits).sum() / weights.sum()
            return values

        groups = self.groups or (None,) * len(self.answers)
        return intervals.bootstrap(figures, groups, resamples=resamples, seed=seed)

    def as_dict(self) -> dict[str, Any]:
        """Plain types, for ``--json``: keys stay, and where a figure is not known it is null."""
        top_k = self.top_k
        resampled = self.bootstrap()
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
            "top_k": {"k": top_k[0], "accuracy": top_k[1]} if top_k else None,
            "top5": self.top5,
            "mean_class_accuracy": self.mean_class_accuracy,
            "mean_precision": self.mean_precision,
            "mean_f1": self.mean_f1,
            "classes": {label: one.as_dict() for label, one in self.classes.items()},
            "calibration_error": self.calibration_error,
            "calibration_bins": [asdict(one) for one in self.calibration_bins],
            "bootstrap": {
                **{key: value for key, value in asdict(resampled).items() if key != "intervals"},
                "interval_95": {
                    name: list(interval) if interval else None
                    for name, interval in {"top_k": None, **resampled.intervals}.items()
                },
            },
            "views": asdict(self.views),
            "learned": self.learned,
        }

    def _scores(self) -> tuple[list[float], list[bool]]:
        return (
            [score for _, _, _, score in self.answers],
            [truth == answer for _, truth, answer, _ in self.answers],
        )


def tally(
    labels: Sequence[str],
    answers: Sequence[tuple[str, str, str, float]],
    left_out: Sequence[str] = (),
    *,
    ranks: Sequence[int] = (),
    groups: Sequence[str | None] = (),
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
        ranks=tuple(ranks),
        groups=tuple(groups),
    )


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
