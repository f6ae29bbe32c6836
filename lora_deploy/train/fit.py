"""Train on a folder of labelled clips and leave a RUN folder."""

import logging
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import torch
from peft import PeftModel
from transformers import (
    TrainerState,
)

from lora_deploy import device
from lora_deploy.artifact import run
from lora_deploy.artifact.run import RunManifest
from lora_deploy.clips.cache import FrameCache
from lora_deploy.clips.contract import PixelContract
from lora_deploy.clips.dataset import ClipDataset, LabelledClip, dataset_for
from lora_deploy.clips.pool import DecodePool
from lora_deploy.config import Settings, TrainingSettings
from lora_deploy.disk import failures_named
from lora_deploy.errors import (
    BeginningMismatchError,
    EmptySplitError,
    LossNotFiniteError,
    NoSuchDeviceError,
)
from lora_deploy.evaluate import Evaluation, judge
from lora_deploy.model.base import OpenedBase, open_base
from lora_deploy.progress import Progress, silent
from lora_deploy.runtime.load import load
from lora_deploy.train import checkpoints, report
from lora_deploy.train.begin_from import Beginning, begin_from, read_beginning
from lora_deploy.train.callbacks import KeepBest, StopOnBadLoss, WriteMetrics
from lora_deploy.train.checkpoints import Checkpoint
from lora_deploy.train.duplicates import tell_duplicates, write_duplicates
from lora_deploy.train.frames import frames_of, learning_of, oversample_of, samples_of
from lora_deploy.train.going_on import WriteCheckpoint
from lora_deploy.train.learn import check_boards, learn
from lora_deploy.train.learner import Learner, prepare, prove_alive, tell
from lora_deploy.train.lock import claimed
from lora_deploy.train.mishaps import memory_named, vanished_named
from lora_deploy.train.origin import Origin, origin_of
from lora_deploy.train.resume import (
    FRAMES,
    check_same,
    check_same_as_finished,
    find,
    finished_run,
    last_of_finished,
    put_in_order,
    refuse_if_busy,
    refuse_if_taken,
)
from lora_deploy.train.run_folder import RunFolder
from lora_deploy.train.team import Team, is_first_process, join
from lora_deploy.train.tensors import ClipSamples

logger = logging.getLogger(__name__)

__all__ = ["fit", "is_first_process"]


def fit(
    settings: Settings,
    data: Path,
    out: Path,
    *,
    resume: bool = False,
    init_from: Path | None = None,
    cache_folder: Path | None = None,
    device_name: str | None = None,
    pool: DecodePool | None = None,
    progress: Progress = silent,
) -> RunManifest:
    """Train, validate after each epoch, and keep the best one.

    Each better epoch is on disk before the next begins, and so is a checkpoint of every epoch: an
    interrupted training leaves a sound RUN of the best epoch so far, and ``resume`` goes on from
    the last whole checkpoint as if nothing had happened.

    Args:
        settings: What to train and how.
        data: A folder per class, or a CSV or JSONL manifest.
        out: The RUN folder; it must not exist or be empty.
        resume: Go on in ``out`` instead, with the same settings and data. Where no checkpoint was
            written yet, that is from the beginning; where the training is finished, nothing is done.
        init_from: A RUN, or an adapter's folder, whose adapter is the beginning instead of a fresh
            one: on the same base, and with rows of the head for the labels that both know.
        cache_folder: Where decoded frames are kept for another training on the same clips; by
            default beside the RUN's files until the training ends.
        device_name: As `device.choose`.
        pool: Decodes the clips; the shared one by default.
        progress: Told of clips as they are decoded.

    Raises:
        LoraDeployError: Settings, data, base or target that can't be used; a folder that is taken;
            nothing to go on from; a full disk.
    """
    target_device = device.choose(device_name)
    if target_device.index:
        raise NoSuchDeviceError(
            f"training runs on the first CUDA device that it sees, not on {target_device}; choose "
            f"the card with CUDA_VISIBLE_DEVICES={target_device.index} and --device cuda"
        )
    check_boards(settings.training)
    team = join(use_cpu=target_device.type == "cpu")
    held: AbstractContextManager[None]
    if team.is_first:
        refuse_if_busy(out)
        if not resume:
            refuse_if_taken(out)
        held = claimed(out)
    else:
        team.wait()  # the first one holds the folder now
        held = nullcontext()
    finished = finished_run(out, settings) if resume else None
    with held, failures_named(out), memory_named(settings, out), team.one_talks():
        found = None
        if resume:
            found = last_of_finished(out) if finished else find(out)
        if team.is_first:
            team.wait()
        return _fit(
            settings, data, out, found, finished, team,
            init_from=init_from, cache_folder=cache_folder, target_device=target_device,
            pool=pool, progress=progress,
        )  # fmt: skip


def _fit(
    settings: Settings,
    data: Path,
    out: Path,
    found: tuple[Path, Checkpoint] | None,
    finished: RunManifest | None,
    team: Team,
    *,
    init_from: Path | None,
    cache_folder: Path | None,
    target_device: torch.device,
    pool: DecodePool | None,
    progress: Progress,
) -> RunManifest:
    """As `fit`, in a folder that is held, from a checkpoint or from the beginning."""
    # 1. What to learn from.
    beginning = _beginning(init_from, settings)
    dataset = _dataset(data, settings)
    # 2. What learns.
    base, contract, learner = _learner(settings, dataset, beginning)
    begun_with = beginning.digest if beginning else None
    # 3. Is it the training that was interrupted?
    origin = origin_of(settings, dataset, base.fingerprint, target_device, begun_with, team.size)
    if found:
        check_same(out, found[1], origin)
    if finished is not None:
        check_same_as_finished(out, finished, dataset.labels, base.fingerprint)
        logger.info("%s is finished already; there is nothing left to do", out)
        return finished
    tell(settings, learner, processes=team.size)
    learning = learning_of(settings, dataset.labels)
    # 4. The frames.
    frames_folder = cache_folder or out / FRAMES
    try:
        if not team.is_first:
            team.wait()  # all frames are there now, and none is decoded twice
        caches, frames = frames_of(
            dataset,
            contract,
            frames_folder,
            oversample=oversample_of(settings, contract),
            with_test=settings.data.find_duplicates,
            is_kept=cache_folder is not None or not team.is_first,
            digest=found[1].frames if found else None,
            pool=pool,
            progress=progress,
        )
        if team.is_first:
            team.wait()
        is_told = settings.data.find_duplicates and team.is_first
        duplicates = tell_duplicates(dataset, caches) if is_told else []
        samples = samples_of(learning, dataset, caches)
        if isinstance(learner.model, PeftModel):
            prove_alive(learner.model, samples["train"])
        # 5. The training.
        if not team.is_first:
            return _follow(settings.training, samples, learner, out, target_device, found, team)
        put_in_order(out, found)
        run_folder = RunFolder(
            out, settings, dataset, base, contract, learner,
            earlier_seconds=found[1].training_seconds if found else 0.0,
            goes_on=found is not None and found[1].best is not None, begun_with=begun_with,
        )  # fmt: skip
        write_duplicates(out, duplicates)
        blocks = int(base.model.config.num_hidden_layers)
        with memory_named(settings, out, blocks=blocks), vanished_named(out):
            manifest = _train(
                settings.training, samples, caches["val"], learner, run_folder, target_device,
                found, origin, frames,
            )  # fmt: skip
        team.wait()
        return manifest
    finally:
        if cache_folder is None and team.is_first:
            shutil.rmtree(frames_folder, ignore_errors=True)


def _beginning(init_from: Path | None, settings: Settings) -> Beginning | None:
    if init_from is None:
        return None
    if not settings.model.use_lora:
        raise BeginningMismatchError(
            f"{init_from} is an adapter, and model.use_lora is false, so there is none to begin with"
        )
    return read_beginning(init_from)


def _dataset(data: Path, settings: Settings) -> ClipDataset:
    dataset = dataset_for(settings, data)
    if not dataset.of("val"):
        raise EmptySplitError(f"{data} has no validation clips")
    return dataset


def _learner(
    settings: Settings, dataset: ClipDataset, beginning: Beginning | None
) -> tuple[OpenedBase, PixelContract, Learner]:
    """The base as it is opened, what its clips look like here, and what learns."""
    base = open_base(
        settings.model.base,
        dataset.labels,
        revision=settings.model.revision,
        random_weights=settings.model.random_weights,
        seed=settings.training.seed,
    )
    contract = base.contract.model_copy(update={"sampling": settings.clip.sampling})
    learner = prepare(base, settings)
    if beginning and isinstance(learner.model, PeftModel):
        begin_from(learner.model, beginning, base, labels=dataset.labels, contract=contract)
    return base, contract, learner


def _train(
    training: TrainingSettings,
    samples: Mapping[str, ClipSamples],
    cache: FrameCache,
    learner: Learner,
    run_folder: RunFolder,
    target_device: torch.device,
    found: tuple[Path, Checkpoint] | None,
    origin: Origin,
    frames: str,
) -> RunManifest:
    out = run_folder.path
    keep_best = KeepBest(
        lambda figures: run_folder.save(figures, len(samples["val"])),
        patience=training.early_stopping_patience,
        best=found[1].best if found else None,
    )
    stop_on_bad_loss = StopOnBadLoss()

    def write_checkpoint(
        state: TrainerState, is_last: bool, fill_with_state: Callable[[Path], None]
    ) -> None:
        def fill(folder: Path) -> None:
            fill_with_state(folder)
            shutil.copyfile(out / run.METRICS, folder / run.METRICS)

        checkpoint = Checkpoint(
            epoch=round(state.epoch), step=state.global_step, complete=is_last,
            best=keep_best.best, training_seconds=run_folder.training_seconds,
            origin=origin, frames=frames, files={},
        )  # fmt: skip
        checkpoints.write(out, checkpoint, fill, keep=training.keep_checkpoints)

    if not (found and found[1].complete):
        callbacks = [
            WriteMetrics(out / run.METRICS),
            stop_on_bad_loss,
            keep_best,
            WriteCheckpoint(write_checkpoint, out, is_sound=lambda: stop_on_bad_loss.found is None),
        ]
        try:
            learn(training, samples, learner, out, target_device, callbacks, found)
        except (KeyboardInterrupt, SystemExit):
            if keep_best.best is not None:
                logger.warning("%s holds epoch %d, the best so far", out, keep_best.best.epoch)
            raise
    if stop_on_bad_loss.found is not None:
        kept = f", and {out} holds epoch {keep_best.best.epoch}" if keep_best.best else ""
        raise LossNotFiniteError(
            f"the training loss became {stop_on_bad_loss.found} in epoch "
            f"{stop_on_bad_loss.epoch}{kept}"
        )
    manifest = run_folder.outcome()
    clips = samples["val"].clips
    evaluation = _validate(out, clips, cache)
    report.write_report(out, manifest, evaluation, lambda at: cache.frames(clips[at]))
    run_folder.write_card(manifest, evaluation)
    run.write_run_manifest(out, manifest)  # last: whoever reads finished in it finds all the rest
    return manifest


def _follow(
    training: TrainingSettings,
    samples: Mapping[str, ClipSamples],
    learner: Learner,
    out: Path,
    target_device: torch.device,
    found: tuple[Path, Checkpoint] | None,
    team: Team,
) -> RunManifest:
    """The training in every process but the first: nothing is written, and it ends when all does."""
    keep_best = KeepBest(
        lambda figures: None,
        patience=training.early_stopping_patience,
        best=found[1].best if found else None,
    )
    if not (found and found[1].complete):
        callbacks = [StopOnBadLoss(), keep_best]
        learn(training, samples, learner, out, target_device, callbacks, found, is_first=False)
    team.wait()  # the report is written, and run.json
    return run.read_run_manifest(out)


def _validate(folder: Path, clips: Sequence[LabelledClip], cache: FrameCache) -> Evaluation:
    """What the model that was kept says of the validation clips, opened from the RUN as any user would."""
    recogniser = load(folder, device="cpu")
    frames = (cache.frames(clip)[None] for clip in clips)
    answers = [recogniser.probabilities(recogniser.logits(one))[0] for one in frames]
    return judge(recogniser, clips, answers)
