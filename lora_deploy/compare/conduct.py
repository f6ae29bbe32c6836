"""The conductor: every method with every seed on every fold, each training in a process of its own.

Nothing is trained here, and PyTorch is never imported.
"""

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from lora_deploy.clips.dataset import LabelledClip, read_split
from lora_deploy.compare import outcome
from lora_deploy.compare.folds import (
    Fold,
    check_pattern,
    file_name,
    make_folds,
    write_manifests,
)
from lora_deploy.compare.methods import Method
from lora_deploy.compare.outcome import (
    Asked,
    Baseline,
    Failure,
    Job,
    Outcome,
    PreparationJob,
    SetOfClips,
    clips_digest,
)
from lora_deploy.compare.process import Processes
from lora_deploy.compare.result import Comparison
from lora_deploy.compare.table import Circumstances, Found, tabulate
from lora_deploy.config import Settings
from lora_deploy.errors import ManyProcessesError, SplitsNotNamedError
from lora_deploy.processor import usable_cores
from lora_deploy.progress import Advance, Progress, silent
from lora_deploy.train.lock import claimed

logger = logging.getLogger(__name__)

FRAMES = "frames"
TRAININGS = "trainings"
PREPARATION = "preparation"


@dataclass(frozen=True)
class _Plan:
    """What is to be done, and where."""

    out: Path
    methods: Sequence[Method]
    seeds: Sequence[int]
    folds: Sequence[Fold]
    sets: Sequence[Mapping[str, SetOfClips]]
    """By name, for each fold."""
    device: str | None
    threads: int

    @property
    def trainings(self) -> int:
        """All of them."""
        tries = sum(len(method.learning_rates) for method in self.methods)
        return len(self.folds) * (tries + len(self.methods) * (len(self.seeds) - 1))

    def folder(self, method: Method, fold: int, seed: int, rate: int) -> Path:
        """Of one training; ``rate`` counts the learning rates of its method.

        Named by its value, so that a list of rates can grow without repeating what is finished.
        """
        name = f"seed-{seed}-rate-{method.learning_rates[rate]:g}"
        group = self.folds[fold].name
        parts = [file_name(method.name), *([file_name(group)] if group else []), name]
        return self.out.joinpath(TRAININGS, *parts)

    def settings(self, method: Method, seed: int, rate: int) -> Settings:
        """Of one training, which reads our own manifest, however the data was laid out."""
        settings = method.training(learning_rate=method.learning_rates[rate], seed=seed)
        data = settings.data.model_copy(update={"format": "auto", "fold": 1})
        return settings.model_copy(update={"data": data})

    def asked(self, method: Method, fold: int, seed: int, rate: int) -> Asked:
        """What decides the figures of one training."""
        clips = {name: self.sets[fold][name].clips for name in ("train", "val")}
        return Asked.of(self.settings(method, seed, rate), clips)

    def judged_on(self, fold: int) -> dict[str, SetOfClips]:
        """Sets that a model is asked about when it is done; ``val`` has chosen its epoch already."""
        return {name: one for name, one in self.sets[fold].items() if name != "val"}


@dataclass
class _Work:
    """What the threads share that wait for processes."""

    plan: _Plan
    processes: Processes
    advance: Advance
    found: list[Found] = field(default_factory=list)


def compare(
    methods: Sequence[Method],
    data: Path,
    out: Path,
    *,
    seeds: int = 3,
    leave_out: str | None = None,
    extras: Mapping[str, Path] | None = None,
    jobs: int = 1,
    device_name: str | None = None,
    command: str | None = None,
    progress: Progress = silent,
) -> Comparison:
    """Train every method with every seed, and put what was found beside chance and motion alone.

    What is finished in ``out`` is not done again, and what was interrupted goes on. A training that
    fails is named in the result and stops nothing; the next call tries it again.

    Args:
        methods: The rows.
        data: A folder per class, or a manifest. Clips are divided once, by the settings of the
            first method; each training gets the same division.
        out: The comparison's folder.
        seeds: Trainings of each method; they count up from the seed of the first method.
        leave_out: As `make_folds`.
        extras: More sets of labelled clips to judge each model on, by name.
        jobs: Trainings at once. More than one makes all seconds longer.
        device_name: As `device.choose`.
        command: What was typed, to be kept with the figures.
        progress: Told of trainings.

    Raises:
        ComparisonChangedError: Something in ``out`` was made with other settings or clips.
        ManyProcessesError: A launcher started this process as one of several.
        LoraDeployError: Data that can't be used; a folder that is taken; a full disk.
    """
    _check_alone()
    check_pattern(leave_out)
    first = methods[0].settings
    folds = make_folds(data, out, first, leave_out)
    plan = _Plan(
        out=out,
        methods=methods,
        seeds=range(first.training.seed, first.training.seed + seeds),
        folds=folds,
        sets=[sets_of(fold, extras or {}) for fold in folds],
        device=device_name,
        threads=_threads(jobs),
    )
    with claimed(out):
        _check_all(plan)
        write_manifests(folds)
        with progress("trainings", plan.trainings) as advance, Processes(plan.threads) as processes:
            work = _Work(plan, processes, advance)
            baseline = _prepare(work)
            with _threads_that_end(jobs, processes) as executor:
                waiting = [
                    executor.submit(_train_method, work, method, fold)
                    for method in methods
                    for fold in range(len(folds))
                ]
                found = [done.result() for done in waiting]
        circumstances = Circumstances(
            command=command, data=str(data), seeds=tuple(plan.seeds), folds=folds,
            sets=plan.sets, jobs=jobs, notes=tuple(shared_clips(folds, extras or {})),
        )  # fmt: skip
        return tabulate(methods, found, baseline, circumstances)


@contextmanager
def _threads_that_end(jobs: int, processes: Processes) -> Iterator[ThreadPoolExecutor]:
    """As many as trainings run at once; an interruption ends their processes first, and so them."""
    with ThreadPoolExecutor(jobs) as executor:
        try:
            yield executor
        except BaseException:
            processes.end()
            executor.shutdown(wait=False, cancel_futures=True)
            raise


def _threads(jobs: int) -> int:
    """Of each training: what was asked for by the usual variable, or a fair share of the cores."""
    asked = os.environ.get("OMP_NUM_THREADS", "")
    return int(asked) if asked.isdecimal() and int(asked) else max(1, usable_cores() // jobs)


def sets_of(fold: Fold, extras: Mapping[str, Path]) -> dict[str, SetOfClips]:
    """What there is to be judged on: the splits of a fold, and extra sets as `evaluate` takes them."""
    sets = {
        split: SetOfClips(
            source=str(fold.manifest), split=split, clips=clips_digest(fold.dataset.of(split))
        )
        for split in ("train", "val", "test")
    }
    for name, source in extras.items():
        split, clips = _extra(source)
        sets[name] = SetOfClips(source=str(source), split=split, clips=clips_digest(clips))
    return sets


def _extra(source: Path) -> tuple[Literal["test", "all"], tuple[LabelledClip, ...]]:
    """Its test clips, or all where it names no splits."""
    try:
        return "test", read_split(source, "test")
    except SplitsNotNamedError:
        return "all", read_split(source, "all")


def shared_clips(folds: Sequence[Fold], extras: Mapping[str, Path]) -> Iterator[str]:
    """A note for each extra set that holds files which models learned from."""
    learned = {
        clip.path.resolve()
        for fold in folds
        for split in ("train", "val")
        for clip in fold.dataset.of(split)
    }
    for name, source in extras.items():
        seen = sum(clip.path.resolve() in learned for clip in _extra(source)[1])
        if seen:
            yield f"{seen} clips of {name} were learned from or chose the best epoch, too"


def _check_alone() -> None:
    processes = os.environ.get("WORLD_SIZE", "1")
    if processes != "1":
        raise ManyProcessesError(f"this is one of {processes} processes of a launcher")


def _check_all(plan: _Plan) -> None:
    """Refuse what was made otherwise now, and not after hours of training."""
    for method in plan.methods:
        for fold in range(len(plan.folds)):
            for seed in plan.seeds:
                for rate in range(len(method.learning_rates)):
                    asked = plan.asked(method, fold, seed, rate)
                    outcome.check_same(plan.folder(method, fold, seed, rate), asked)


def _prepare(work: _Work) -> Baseline | Failure:
    plan = work.plan
    folder = plan.out / PREPARATION
    clips = [{name: one.clips for name, one in sets.items()} for sets in plan.sets]
    known = _read_baseline(folder)
    if known is not None and known.clips == clips and _all_done(plan):
        return known
    job = PreparationJob(
        bases=[method.settings.model_dump(mode="json") for method in plan.methods],
        folds=[dict(sets) for sets in plan.sets],
        labels=list(plan.folds[0].dataset.labels),
        frames=str(plan.out / FRAMES),
        threads=plan.threads,
        parent_pid=os.getpid(),
    )
    logger.info("decoding the clips and fitting the motion baseline")
    failure = work.processes.run(folder, job)
    if failure is not None:
        logger.warning("there is no motion baseline: %s", failure.error)
        return failure
    found = _read_baseline(folder)
    assert found is not None, "its process ended well without a result"
    return found


def _read_baseline(folder: Path) -> Baseline | None:
    path = folder / outcome.BASELINE
    return Baseline.model_validate_json(path.read_bytes()) if path.is_file() else None


def _all_done(plan: _Plan) -> bool:
    """Whether no training will ask for frames."""
    return all(
        any(
            outcome.read_outcome(plan.folder(method, fold, seed, rate)) is not None
            for rate in range(len(method.learning_rates))
        )
        for method in plan.methods
        for fold in range(len(plan.folds))
        for seed in plan.seeds
    )


def _train_method(work: _Work, method: Method, fold: int) -> Found:
    """Choose the learning rate on validation clips, then train every seed."""
    plan = work.plan
    found = Found(method, fold)
    first, *others = plan.seeds
    for rate in range(len(method.learning_rates)):
        outcome_of_rate = _train_once(work, method, fold, first, rate)
        if isinstance(outcome_of_rate, Failure):
            found.failures.append(_where(plan, method, fold, first) + outcome_of_rate.error)
        else:
            found.tried[rate] = outcome_of_rate
    if found.chosen is None:
        for _ in others:
            work.advance()
        return found
    found.outcomes[first] = found.tried[found.chosen]
    for seed in others:
        trained = _train_once(work, method, fold, seed, found.chosen)
        if isinstance(trained, Failure):
            found.failures.append(_where(plan, method, fold, seed) + trained.error)
        else:
            found.outcomes[seed] = trained
    return found


def _where(plan: _Plan, method: Method, fold: int, seed: int) -> str:
    group = plan.folds[fold].name
    return f"{method.name}, {f'without {group}, ' if group else ''}seed {seed}: "


def _train_once(work: _Work, method: Method, fold: int, seed: int, rate: int) -> Outcome | Failure:
    """One training in its process, or what is there of it already."""
    plan = work.plan
    folder = plan.folder(method, fold, seed, rate)
    sets = plan.judged_on(fold)
    known = outcome.read_outcome(folder)
    failure = None
    if known is None or known.lacks(sets):
        job = Job(
            asked=plan.asked(method, fold, seed, rate),
            settings=plan.settings(method, seed, rate).model_dump(mode="json"),
            manifest=str(plan.folds[fold].manifest),
            sets=sets,
            frames=str(plan.out / FRAMES),
            device=plan.device,
            threads=plan.threads,
            parent_pid=os.getpid(),
        )
        failure = work.processes.run(folder, job)
        known = outcome.read_outcome(folder)
    work.advance()
    where = _where(plan, method, fold, seed)
    if failure is not None or known is None:
        failure = failure or Failure(error="its process left nothing", name=None)
        logger.warning("%s%s (all of it in %s)", where, failure.error, folder / outcome.LOG)
        return failure
    logger.info("%s%s", where, _in_short(known))
    return known


def _in_short(known: Outcome) -> str:
    trained, test = known.trained, known.sets["test"]
    return (
        f"validation {trained.val_accuracy:.3f} (epoch {trained.best_epoch} of {trained.epochs}), "
        f"test {test.right} of {test.answered}, {trained.seconds:.0f} s"
    )
