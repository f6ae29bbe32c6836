"""The conductor: starts a process for each form, gives them turns, and sums up what they say.

Nothing is computed here, and PyTorch is never imported. One form measures at a time, so noise on
the computer hits all alike, and every ratio is taken between turns of the same round.
"""

import datetime
import logging
import os
import tempfile
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from lora_deploy.artifact.bundle import EXAMPLE
from lora_deploy.bench import forms as all_forms
from lora_deploy.bench import room
from lora_deploy.bench.forms import EAGER, MeasuredForm, Subject, read_subject
from lora_deploy.bench.material import Material, choose_clips
from lora_deploy.bench.process import Child, ChildDied
from lora_deploy.bench.result import (
    BenchResult,
    Computer,
    FormResult,
    Memory,
    Peak,
    Skipped,
    Spread,
)
from lora_deploy.bench.turns import turns
from lora_deploy.errors import NothingMeasuredError
from lora_deploy.processor import read_processor, usable_cores
from lora_deploy.progress import Progress, silent
from lora_deploy.versions import installed_versions

logger = logging.getLogger(__name__)

ROUNDS = 10

TURN_SECONDS = 0.3
"""A turn lasts so long, or one clip where that takes longer."""

MOST_STARTS = 3
"""Of each form in a fresh process."""

REFERENCES = (EAGER, "onnxruntime-fp32", "openvino-fp32")
"""What the others are held against: the first of these that there is."""

Start = Callable[[MeasuredForm], Child]


@dataclass
class _Notes:
    """What was heard of one form."""

    form: MeasuredForm
    cold: list[dict[str, float]] = field(default_factory=list)
    stages: dict[str, list[float]] = field(default_factory=dict)
    infer_ms: dict[tuple[int, int], float] = field(default_factory=dict)
    """Median of a turn, by group and round."""
    labels: dict[str, str] = field(default_factory=dict)
    memory: Memory = field(default_factory=lambda: Memory(process=0, decoder=0))
    packages: tuple[str, ...] = ()
    flop_per_second: dict[str, dict[tuple[int, int], float]] = field(default_factory=dict)
    """Of a matrix peak, by precision, group and round."""
    reason: str | None = None
    """Why it was given up."""


def bench(
    model: Path | None = None,
    *,
    data: Path | None = None,
    rounds: int = ROUNDS,
    threads: int | None = None,
    turn_seconds: float = TURN_SECONDS,
    progress: Progress = silent,
) -> BenchResult:
    """Measure every form of a RUN or a BUNDLE that runs on this computer.

    Args:
        model: The folder; the example bundle of this package by default.
        data: Clips to measure on: a folder, a manifest or one video. Drawn ones by default.
        rounds: Turns of each form.
        threads: Of each form; every core that this process may use by default.
        turn_seconds: How long a turn lasts.
        progress: Told of each start and each round.

    Raises:
        ArtifactError: It is neither a RUN nor a BUNDLE, or its manifest is damaged.
        DataError: There are no clips.
        NothingMeasuredError: No form runs on this computer.
    """
    folder = model or EXAMPLE
    processor = read_processor()
    subject = read_subject(folder, processor)
    if not subject.forms:
        raise NothingMeasuredError(f"{folder} has no form that could be measured")
    threads = threads or usable_cores()
    with tempfile.TemporaryDirectory(prefix="lora-deploy-bench-") as scratch:
        material = choose_clips(data, Path(scratch), subject.contract)
        load_before, free = os.getloadavg()[0], room.free_bytes()
        conductor = _Conductor(
            start=lambda form: Child(form, threads=threads, clips=[str(p) for p in material.clips]),
            rounds=rounds,
            turn_seconds=turn_seconds,
            progress=progress,
        )
        there = [form for form in subject.forms if form.obstacle is None]
        reference = _choose_reference(form.name for form in there)
        peaks = all_forms.peaks(processor)
        beside_all = [*peaks, *(form for form in there if form.name == reference)]
        parted = room.groups([*beside_all, *there], beside_all, free)
        _tell_groups(parted, free)
        for number, group in enumerate(parted):
            conductor.run_group(number, group)
    computer = Computer(
        processor=str(processor),
        cores=usable_cores(),
        threads=threads,
        memory_bytes=free,
        load_before=load_before,
        load_after=os.getloadavg()[0],
    )
    return _sum_up(subject, conductor, computer, material, parted)


def _choose_reference(names: Iterable[str]) -> str | None:
    there = list(names)
    return next((name for name in REFERENCES if name in there), next(iter(there), None))


def _tell_groups(parted: Sequence[Sequence[MeasuredForm]], free: int | None) -> None:
    if len(parted) > 1 and free is not None:
        logger.warning(
            "there is no room for all forms at once (%.1f GB are free), so they are measured in %d "
            "groups, one after the other, each with the reference beside it",
            free / 1e9,
            len(parted),
        )


class _Conductor:
    """Holds the children of one group at a time, and everything that was heard so far."""

    def __init__(
        self, *, start: Start, rounds: int, turn_seconds: float, progress: Progress
    ) -> None:
        self._start = start
        self.rounds = rounds
        self._turn_seconds = turn_seconds
        self._progress = progress
        self.notes: dict[str, _Notes] = {}
        self.flop_per_clip: int | None = None

    def run_group(self, number: int, group: Sequence[MeasuredForm]) -> None:
        """Start the forms of a group, let them take turns, and end them."""
        for form in group:
            self.notes.setdefault(form.name, _Notes(form))
        with ExitStack() as alive:
            children = self._open(group, alive)
            with self._progress("measuring", self.rounds) as advance:
                for round_number in range(self.rounds):
                    for child in turns(children, round_number):
                        self._turn(child, (number, round_number))
                    advance()
            for child in children:
                self._last_words(child)

    def _open(self, group: Sequence[MeasuredForm], alive: ExitStack) -> list[Child]:
        """Start each form several times, one at a time; the last ones stay alive."""
        starts = min(MOST_STARTS, self.rounds)
        children: list[Child] = []
        with self._progress("starting", starts * len(group)) as advance:
            for start in range(starts):
                last = start == starts - 1
                for form in turns(group, start):
                    if not last and form.is_peak:
                        advance()
                        continue  # nobody asks how fast it starts
                    if (child := self._open_one(form)) is not None:
                        if last:
                            children.append(alive.enter_context(child))
                        else:
                            child.end()
                    advance()
        return children

    def _open_one(self, form: MeasuredForm) -> Child | None:
        notes = self.notes[form.name]
        if notes.reason is not None:
            return None
        child = self._start(form)
        try:
            said = child.opened()
        except ChildDied as died:
            child.end()
            self._give_up(form, str(died))
            return None
        except BaseException:
            child.end()
            raise
        if not form.is_peak:
            notes.cold.append(said["cold_seconds"])
            notes.packages = tuple(said["packages"])
        return child

    def _turn(self, child: Child, when: tuple[int, int]) -> None:
        notes = self.notes[child.form.name]
        if notes.reason is not None:
            return
        try:
            said = child.ask("turn", seconds=self._turn_seconds)
        except ChildDied as died:
            child.end()
            self._give_up(child.form, str(died))
            return
        if child.form.is_peak:
            for precision, value in said["flop_per_second"].items():
                notes.flop_per_second.setdefault(precision, {})[when] = value
            return
        for stage, times in said["stages_ms"].items():
            notes.stages.setdefault(stage, []).extend(times)
        notes.infer_ms[when] = median(said["stages_ms"]["infer"])
        notes.labels.update(said["labels"])

    def _last_words(self, child: Child) -> None:
        """Peak memory, and once what a clip costs; counting comes last, as it takes memory."""
        notes = self.notes[child.form.name]
        if child.form.is_peak or notes.reason is not None:
            return
        try:
            said = child.ask("memory")
            notes.memory = Memory(
                process=max(notes.memory.process, said["process"]),
                decoder=max(notes.memory.decoder, said["decoder"]),
            )
            if self.flop_per_clip is None and child.form.name == EAGER:
                self.flop_per_clip = child.ask("flop")["per_clip"]
        except ChildDied as died:
            logger.debug("%s was lost at the very end: %s", child.form.name, died)

    def _give_up(self, form: MeasuredForm, reason: str) -> None:
        self.notes[form.name].reason = reason


def _sum_up(
    subject: Subject,
    conductor: _Conductor,
    computer: Computer,
    material: Material,
    parted: Sequence[Sequence[MeasuredForm]],
) -> BenchResult:
    heard = [note for note in conductor.notes.values() if not note.form.is_peak]
    measured = [note for note in heard if note.reason is None and note.stages]
    skipped = [
        *(Skipped(name=form.name, reason=form.obstacle) for form in subject.forms if form.obstacle),
        *(Skipped(name=note.form.name, reason=note.reason) for note in heard if note.reason),
    ]
    if not measured:
        reasons = "; ".join(f"{one.name}: {one.reason}" for one in skipped)
        raise NothingMeasuredError(
            f"no form of {subject.folder} could be measured ({reasons or 'it has none'})"
        )
    name = _choose_reference(note.form.name for note in measured)
    reference = next(note for note in measured if note.form.name == name)
    peaks = _peaks(conductor.notes.values())
    flop = subject.flop_per_clip or conductor.flop_per_clip
    results = [_result(note, reference, peaks, flop) for note in measured]
    contract = subject.contract
    return BenchResult(
        model=_shown(subject.folder),
        digest=subject.digest,
        date=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        computer=computer,
        versions=installed_versions(),
        clips=len(material.clips),
        clips_source=material.source,
        frames=contract.frames,
        height=contract.crop_height,
        width=contract.crop_width,
        flop_per_clip=flop,
        rounds=conductor.rounds,
        groups=tuple(tuple(form.name for form in group) for group in parted),
        reference=name,
        matrix_peak={
            precision: Peak(
                flop_per_second=Spread.of(list(values.values())),
                package=note.form.job["package"],
            )
            for precision, (note, values) in peaks.items()
        },
        forms=tuple(sorted(results, key=lambda one: one.stages_ms["infer"].p50)),
        skipped=tuple(skipped),
    )


def _shown(folder: Path) -> str:
    return "the example bundle" if folder == EXAMPLE else str(folder)


_When = tuple[int, int]


def _peaks(notes: Iterable[_Notes]) -> dict[str, tuple[_Notes, dict[_When, float]]]:
    """By precision: the package that is usually the fastest, with its figure of each round."""
    best: dict[str, tuple[_Notes, dict[_When, float]]] = {}
    for note in notes:
        for precision, values in note.flop_per_second.items():
            if note.reason is None and (
                precision not in best
                or median(values.values()) > median(best[precision][1].values())
            ):
                best[precision] = (note, values)
    return best


def _result(
    note: _Notes,
    reference: _Notes,
    peaks: dict[str, tuple[_Notes, dict[_When, float]]],
    flop: int | None,
) -> FormResult:
    whole = [sum(clip) for clip in zip(*note.stages.values(), strict=True)]
    stages = {stage: Spread.of(times) for stage, times in note.stages.items()}
    return FormResult(
        name=note.form.name,
        precision=note.form.precision,
        file_bytes=note.form.file_bytes,
        stages_ms={**stages, "all": Spread.of(whole)},
        cold_seconds={
            part: Spread.of([start[part] for start in note.cold]) for part in note.cold[0]
        },
        clips_per_second=1000 / (sum(whole) / len(whole)),
        peak_memory_bytes=note.memory,
        times_reference=_round_by_round(
            {
                when: reference.infer_ms[when] / ms
                for when, ms in note.infer_ms.items()
                if when in reference.infer_ms
            }
        ),
        fraction_of_peak=_fraction(note, peaks, flop),
        same_label=_same_label(note, reference),
        packages=note.packages,
    )


def peak_precision(precision: str) -> str:
    """The matrix peak that a form is held against; 8-bit numbers have none of their own here."""
    return "fp32" if precision in ("fp32", "fp16") else "bf16"


def _fraction(
    note: _Notes, peaks: dict[str, tuple[_Notes, dict[_When, float]]], flop: int | None
) -> Spread | None:
    ceiling = peaks.get(peak_precision(note.form.precision))
    if flop is None or ceiling is None:
        return None
    return _round_by_round(
        {
            when: flop / (ms / 1000) / ceiling[1][when]
            for when, ms in note.infer_ms.items()
            if when in ceiling[1]
        }
    )


def _round_by_round(values: dict[_When, float]) -> Spread | None:
    return Spread.of(list(values.values())) if values else None


def _same_label(note: _Notes, reference: _Notes) -> tuple[int, int]:
    both = note.labels.keys() & reference.labels.keys()
    return sum(note.labels[clip] == reference.labels[clip] for clip in both), len(both)
