"""From what each training left to the rows of the table: every figure is of something that was run."""

import statistics
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from lora_deploy.clips.dataset import read_split
from lora_deploy.compare.folds import Fold
from lora_deploy.compare.methods import Method
from lora_deploy.compare.outcome import Baseline, Failure, Outcome, SetOfClips
from lora_deploy.compare.result import (
    Accuracy,
    BaselineRow,
    Comparison,
    FailedRow,
    MethodRow,
    Spread,
)
from lora_deploy.errors import ComparisonChangedError

T = TypeVar("T")

CHANCE = "chance"
MOTION = "motion, no model"

_VERSIONS_THAT_MATTER = ("torch", "transformers", "peft", "numpy", "lora-deploy")


@dataclass
class Found:
    """What came of one method on one fold."""

    method: Method
    fold: int
    tried: dict[int, Outcome] = field(default_factory=dict)
    """With the first seed, by number of the learning rate."""
    outcomes: dict[int, Outcome] = field(default_factory=dict)
    """With the chosen rate, by seed."""
    failures: list[str] = field(default_factory=list)

    @property
    def chosen(self) -> int | None:
        """The learning rate that is best on validation clips; at the same accuracy by the loss."""
        if not self.tried:
            return None
        return max(self.tried, key=lambda rate: _merit(self.tried[rate]))


def _merit(outcome: Outcome) -> tuple[float, float]:
    return outcome.trained.val_accuracy, -outcome.trained.val_loss


@dataclass(frozen=True)
class Circumstances:
    """What belongs to a table beside its rows."""

    command: str | None
    data: str
    seeds: tuple[int, ...]
    folds: Sequence[Fold]
    sets: Sequence[Mapping[str, SetOfClips]]
    jobs: int
    notes: tuple[str, ...]


def tabulate(
    methods: Sequence[Method],
    found: Sequence[Found],
    baseline: Baseline | Failure,
    circumstances: Circumstances,
) -> Comparison:
    """Put all of it into one document.

    Raises:
        ComparisonChangedError: Trainings that name the same base stand on different weights.
    """
    rows: list[MethodRow] = []
    failed: list[FailedRow] = []
    for method in methods:
        of_method = [one for one in found if one.method.name == method.name]
        failures = tuple(text for one in of_method for text in one.failures)
        whole = _whole_seeds(of_method, circumstances.seeds)
        if whole:
            rows.append(_row(method, of_method, whole, failures, circumstances))
        else:
            failed.append(FailedRow(name=method.name, failures=failures))
    outcomes = [outcome for one in found for outcome in one.outcomes.values()]
    _check_bases(found)
    notes = [*circumstances.notes, *_mixed(outcomes)]
    baselines = [_chance(circumstances.sets)]
    if isinstance(baseline, Baseline):
        baselines.append(_motion(baseline))
    else:
        notes.append(f"There is no motion baseline: {baseline.error}")
    last = max(outcomes, key=lambda one: one.trained.date, default=None)
    return Comparison(
        command=circumstances.command,
        data=circumstances.data,
        date=last.trained.date if last else "",
        seeds=circumstances.seeds,
        folds=tuple(fold.name for fold in circumstances.folds),
        labels=circumstances.folds[0].dataset.labels,
        sets=_sizes(circumstances.sets),
        base=methods[0].settings.model.base,
        processors=_distinct(one.trained.processor for one in outcomes),
        devices=_distinct(one.trained.device for one in outcomes),
        threads=_distinct(one.trained.threads for one in outcomes),
        jobs=circumstances.jobs,
        versions=last.trained.versions if last else {},
        notes=tuple(notes),
        methods=tuple(rows),
        failed=tuple(failed),
        baselines=tuple(baselines),
    )


def _whole_seeds(of_method: Sequence[Found], seeds: Sequence[int]) -> list[int]:
    """Seeds with every fold: with one missing, the accuracy would be over other people."""
    return [seed for seed in seeds if all(seed in one.outcomes for one in of_method)]


def _row(
    method: Method,
    of_method: Sequence[Found],
    seeds: Sequence[int],
    failures: tuple[str, ...],
    circumstances: Circumstances,
) -> MethodRow:
    trained = [one.outcomes[seed].trained for seed in seeds for one in of_method]
    peaks = [one.peak_memory_bytes for one in trained if one.peak_memory_bytes is not None]
    first = trained[0]
    return MethodRow(
        name=method.name,
        learning_rates=_distinct(
            method.learning_rates[one.chosen] for one in of_method if one.chosen is not None
        ),
        tried=_tried(method, of_method),
        trainable_parameters=first.parameters["trainable"],
        total_parameters=first.parameters["total"],
        peak_memory_bytes=max(peaks, default=None),
        memory_of=first.memory_of,
        memory_before_bytes=max(one.memory_before_bytes for one in trained),
        seconds_per_epoch=Spread.of([one.seconds / one.epochs for one in trained]),
        seconds_to_best=Spread.of([one.seconds_to_best for one in trained]),
        epochs=Spread.of([one.epochs for one in trained]),
        epochs_to_best=Spread.of([one.best_epoch for one in trained]),
        checkpoint_bytes=first.checkpoint_bytes,
        adapter_bytes=first.adapter_bytes,
        accuracy={
            name: Accuracy.of(
                [_pooled(name, [one.outcomes[seed] for one in of_method]) for seed in seeds]
            )
            for name in circumstances.sets[0]
        },
        curves=tuple(one.curve for one in trained),
        trainings=len(trained),
        failures=failures,
    )


def _tried(method: Method, of_method: Sequence[Found]) -> dict[str, float]:
    if len(method.learning_rates) == 1:
        return {}
    return {
        f"{rate:g}": statistics.mean(accuracies)
        for number, rate in enumerate(method.learning_rates)
        if (
            accuracies := [
                one.tried[number].trained.val_accuracy for one in of_method if number in one.tried
            ]
        )
    }


def _pooled(name: str, outcomes: Iterable[Outcome]) -> tuple[int, int]:
    """Right and answered clips of one set over all folds."""
    right = answered = 0
    for one in outcomes:
        if name == "val":
            clips = one.trained.val_clips
            right += round(one.trained.val_accuracy * clips)
            answered += clips
        else:
            right += one.sets[name].right
            answered += one.sets[name].answered
    return right, answered


def _chance(sets: Sequence[Mapping[str, SetOfClips]]) -> BaselineRow:
    accuracy = {}
    for name in sets[0]:
        counts = []
        for fold in sets:
            clips = read_split(_path(fold[name]), fold[name].split)
            counts.append((max(Counter(clip.label for clip in clips).values()), len(clips)))
        accuracy[name] = Accuracy.of([(sum(r for r, _ in counts), sum(n for _, n in counts))])
    return BaselineRow(
        name=CHANCE, means="always names the most frequent label of the set", accuracy=accuracy
    )


def _motion(baseline: Baseline) -> BaselineRow:
    return BaselineRow(
        name=MOTION,
        means="a linear layer on where and when pixels change",
        accuracy={
            name: Accuracy.of(
                [
                    (
                        sum(fold[name].right for fold in baseline.folds),
                        sum(fold[name].answered for fold in baseline.folds),
                    )
                ]
            )
            for name in baseline.folds[0]
        },
    )


def _check_bases(found: Sequence[Found]) -> None:
    weights: dict[tuple[str, str | None], tuple[str, str]] = {}
    for one in found:
        model = one.method.settings.model
        for outcome in one.outcomes.values():
            name, known = weights.setdefault(
                (model.base, model.revision), (one.method.name, outcome.trained.base)
            )
            if known != outcome.trained.base:
                raise ComparisonChangedError(
                    f"{name} and {one.method.name} were trained on different weights of "
                    f"{model.base}: it was changed between them"
                )


def _mixed(outcomes: Sequence[Outcome]) -> Iterator[str]:
    """Notes on what differs between trainings of one table."""
    for package in _VERSIONS_THAT_MATTER:
        versions = _distinct(one.trained.versions.get(package, "none") for one in outcomes)
        if len(versions) > 1:
            yield f"Trained with several versions of {package}: {', '.join(versions)}"
    computers = _distinct(f"{one.trained.device}, {one.trained.processor}" for one in outcomes)
    if len(computers) > 1:
        yield f"Trained on several computers: {'; '.join(computers)}; seconds and memory mix them"
    if any(one.trained.interrupted for one in outcomes):
        yield "Some trainings were interrupted and went on; their memory is that of the last part"


def _sizes(sets: Sequence[Mapping[str, SetOfClips]]) -> dict[str, int]:
    return {
        name: sum(len(read_split(_path(fold[name]), fold[name].split)) for fold in sets)
        for name in sets[0]
    }


def _path(one: SetOfClips) -> Path:
    return Path(one.source)


def _distinct(values: Iterable[T]) -> tuple[T, ...]:
    return tuple(dict.fromkeys(values))
