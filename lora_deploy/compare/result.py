"""What a comparison found: the document that ``--json`` prints and ``comparison.json`` keeps."""

import statistics
from collections.abc import Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from lora_deploy.evaluate import wilson_interval

SCHEMA_VERSION = 1


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Spread(_Frozen):
    """One figure, measured several times."""

    mean: float
    spread: float | None
    """Standard deviation; None of a single measurement."""

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """Of at least one measurement."""
        spread = statistics.stdev(values) if len(values) > 1 else None
        return cls(mean=statistics.mean(values), spread=spread)


class Accuracy(_Frozen):
    """How often a method is right on one set of clips."""

    by_seed: tuple[float, ...]
    """Over all folds together."""
    mean: float
    spread: float | None
    """Standard deviation over the seeds; None of a single one."""
    interval_95: tuple[float, float]
    """Wilson's, of one model with the mean accuracy on so many clips."""
    clips: float
    """Answered by one seed, all folds together; a mean where clips were left out."""

    @classmethod
    def of(cls, counts: Sequence[tuple[int, int]]) -> "Accuracy":
        """Of right and answered clips, a pair for each seed."""
        by_seed = tuple(right / answered for right, answered in counts)
        clips = statistics.mean(answered for _, answered in counts)
        together = Spread.of(by_seed)
        interval = wilson_interval(round(together.mean * clips), round(clips))
        return cls(
            by_seed=by_seed, mean=together.mean, spread=together.spread,
            interval_95=interval, clips=clips,
        )  # fmt: skip


class MethodRow(_Frozen):
    """One way to train, measured."""

    name: str
    learning_rates: tuple[float, ...]
    """That were used; several where each fold chose its own."""
    tried: dict[str, float]
    """Learning rate to mean validation accuracy with the first seed; empty where there was no choice."""
    trainable_parameters: int
    total_parameters: int
    peak_memory_bytes: int | None
    memory_of: Literal["process", "GPU"]
    memory_before_bytes: int
    """What the process held before the training began: Python and libraries."""
    seconds_per_epoch: Spread
    seconds_to_best: Spread
    epochs: Spread
    epochs_to_best: Spread
    checkpoint_bytes: int
    adapter_bytes: int | None
    accuracy: dict[str, Accuracy]
    """By set."""
    curves: tuple[tuple[tuple[int, float], ...], ...]
    """Epoch and validation accuracy of each training."""
    trainings: int
    failures: tuple[str, ...]
    """Why trainings are missing."""


class FailedRow(_Frozen):
    """A method without a single whole training."""

    name: str
    failures: tuple[str, ...]


class BaselineRow(_Frozen):
    """What needs no training of a video transformer."""

    name: str
    means: str
    """How it answers, in a few words."""
    accuracy: dict[str, Accuracy]


class Comparison(_Frozen):
    """All of one table."""

    schema_version: int = SCHEMA_VERSION
    command: str | None
    data: str
    date: str
    """Of the last training; ISO 8601, UTC."""
    seeds: tuple[int, ...]
    folds: tuple[str, ...]
    """The groups that were left out in turn; one without a name where there is one division."""
    labels: tuple[str, ...]
    sets: dict[str, int]
    """Clips by set; over all folds, so train holds most clips several times."""
    base: str
    processors: tuple[str, ...]
    devices: tuple[str, ...]
    threads: tuple[int, ...]
    jobs: int
    """Trainings that ran at once in the last call."""
    versions: dict[str, str]
    notes: tuple[str, ...]
    """What a reader must know, such as mixed versions."""
    methods: tuple[MethodRow, ...]
    failed: tuple[FailedRow, ...]
    baselines: tuple[BaselineRow, ...]

    @property
    def failures(self) -> tuple[str, ...]:
        """Of all methods."""
        rows: list[MethodRow | FailedRow] = [*self.methods, *self.failed]
        return tuple(text for row in rows for text in row.failures)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return self.model_dump(mode="json")
