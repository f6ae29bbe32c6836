"""What a benchmark found: the document that ``--json`` prints and ``--out`` keeps."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict

SCHEMA_VERSION = 1


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Spread(_Frozen):
    """Many measurements of one thing. Percentiles lie between two measurements where they must."""

    p5: float
    p50: float
    p95: float
    p99: float
    mean: float
    n: int
    """Measurements. Of fewer than 100 the p99 is close to the largest."""

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """Of at least one measurement."""
        p5, p50, p95, p99 = (float(value) for value in np.percentile(values, (5, 50, 95, 99)))
        return cls(p5=p5, p50=p50, p95=p95, p99=p99, mean=float(np.mean(values)), n=len(values))


class Memory(_Frozen):
    """The most that was ever held, in bytes."""

    process: int
    """Of the process that holds the model."""
    decoder: int
    """Of the fenced process that decodes for it."""

    @property
    def together(self) -> int:
        """Of both."""
        return self.process + self.decoder


class FormResult(_Frozen):
    """One form, measured."""

    name: str
    precision: str
    file_bytes: int
    stages_ms: dict[str, Spread]
    """Warm, by stage: decode, preprocess, transfer, infer, post; and ``all`` together."""
    cold_seconds: dict[str, Spread]
    """A fresh process: imports, opening, first_answer, all."""
    clips_per_second: float
    """One clip after the other, from the video file to the label."""
    peak_memory_bytes: Memory
    times_reference: Spread | None
    """How many times as fast as the reference ``infer`` is, round by round."""
    fraction_of_peak: Spread | None
    """Of the matrix peak of its precision, round by round. None: the operations aren't known."""
    same_label: tuple[int, int]
    """Clips that get the reference's label, and clips that both have seen."""
    packages: tuple[str, ...]
    """The large ones that its process imported."""


class Skipped(_Frozen):
    """A form that could not be measured."""

    name: str
    reason: str


class Peak(_Frozen):
    """What large matrix multiplications reach."""

    flop_per_second: Spread
    package: str
    """With which it was reached."""


class Computer(_Frozen):
    """Where it was measured."""

    processor: str
    cores: int
    """That this process may use."""
    threads: int
    """That each form was given."""
    memory_bytes: int | None
    """Free before the start."""
    load_before: float
    """Processes that wanted to run, on average over a minute."""
    load_after: float


class BenchResult(_Frozen):
    """All of one run."""

    schema_version: int = SCHEMA_VERSION
    model: str
    digest: str
    date: str
    """ISO 8601, UTC."""
    computer: Computer
    versions: dict[str, str]
    clips: int
    clips_source: str
    frames: int
    height: int
    width: int
    flop_per_clip: int | None
    rounds: int
    groups: tuple[tuple[str, ...], ...]
    """Forms that were alive at the same time, and took turns."""
    reference: str | None
    matrix_peak: dict[str, Peak]
    """By precision."""
    forms: tuple[FormResult, ...]
    """The fastest ``infer`` first."""
    skipped: tuple[Skipped, ...]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return self.model_dump(mode="json")
