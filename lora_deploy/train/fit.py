"""Train on a folder of labelled clips and leave a RUN folder."""

import logging
import shutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from peft import PeftModel
from torch.utils.tensorboard import SummaryWriter
from transformers import (
    EvalPrediction,
    PreTrainedModel,
    TrainerCallback,
    TrainerState,
    TrainingArguments,
)
from transformers.integrations.integration_utils import TensorBoardCallback
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from lora_deploy import device
from lora_deploy.artifact import run
from lora_deploy.artifact.run import RunManifest
from lora_deploy.clips.cache import FrameCache, build_cache
from lora_deploy.clips.contract import PixelContract
from lora_deploy.clips.dataset import ClipDataset, read_dataset
from lora_deploy.clips.pool import DecodePool
from lora_deploy.config import Settings, TrainingSettings
from lora_deploy.errors import (
    EmptySplitError,
    LossNotFiniteError,
    NoSuchDeviceError,
    NothingDecodedError,
    ResumeMismatchError,
)
from lora_deploy.evaluate import Evaluation, tally
from lora_deploy.model.adapter import attach, count
from lora_deploy.model.base import OpenedBase, open_base
from lora_deploy.model.liveness import check_can_learn
from lora_deploy.model.targets import resolve
from lora_deploy.progress import Progress, silent
from lora_deploy.runtime.load import load
from lora_deploy.train import checkpoints, report
from lora_deploy.train.callbacks import KeepBest, StopOnBadLoss, WriteMetrics
from lora_deploy.train.checkpoints import Checkpoint
from lora_deploy.train.disk import full_disk_named
from lora_deploy.train.going_on import GoingOnTrainer, PutBack, WriteCheckpoint
from lora_deploy.train.lock import claimed
from lora_deploy.train.origin import Origin, frames_digest, origin_of
from lora_deploy.train.resume import (
    FRAMES,
    TENSORBOARD,
    check_same,
    find,
    finished_run,
    put_in_order,
    refuse_if_busy,
    refuse_if_taken,
)
from lora_deploy.train.run_folder import Learner, RunFolder
from lora_deploy.train.tensors import ClipSamples, Collate

logger = logging.getLogger(__name__)


def fit(
    settings: Settings,
    data: Path,
    out: Path,
    *,
    resume: bool = False,
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
    refuse_if_busy(out)
    if not resume:
        refuse_if_taken(out)
    elif (finished := finished_run(out, settings)) is not None:
        return finished
    with claimed(out), full_disk_named(out):
        return _fit(
            settings, data, out, find(out) if resume else None,
            cache_folder=cache_folder, target_device=target_device, pool=pool, progress=progress,
        )  # fmt: skip


def _fit(
    settings: Settings,
    data: Path,
    out: Path,
    found: tuple[Path, Checkpoint] | None,
    *,
    cache_folder: Path | None,
    target_device: torch.device,
    pool: DecodePool | None,
    progress: Progress,
) -> RunManifest:
    """As `fit`, in a folder that is held, from a checkpoint or from the beginning."""
    # 1. What to learn from.
    dataset = read_dataset(
        data,
        val_fraction=settings.data.val_fraction,
        test_fraction=settings.data.test_fraction,
        seed=settings.training.seed,
    )
    if not dataset.of("val"):
        raise EmptySplitError(f"{data} has no validation clips")
    # 2. What learns.
    base = open_base(
        settings.model.base,
        dataset.labels,
        revision=settings.model.revision,
        random_weights=settings.model.random_weights,
        seed=settings.training.seed,
    )
    contract = base.contract.model_copy(update={"sampling": settings.clip.sampling})
    learner = prepare(base, settings)
    _tell(settings, learner)
    # 3. Is it the training that was interrupted?
    origin = origin_of(settings, dataset, base.fingerprint, target_device)
    if found:
        check_same(out, found[1], origin)
    # 4. The frames. Those that a killed training left are taken only where their hash is known.
    frames_folder = cache_folder or out / FRAMES
    if cache_folder is None and not found:
        shutil.rmtree(frames_folder, ignore_errors=True)
    try:
        cache = _cache(dataset, contract, frames_folder, pool, progress)
        frames = frames_digest(dataset, cache)
        if cache_folder is None and found and found[1].frames != frames:
            shutil.rmtree(frames_folder)
            cache = _cache(dataset, contract, frames_folder, pool, progress)
            frames = frames_digest(dataset, cache)
        if found and found[1].frames != frames:
            raise ResumeMismatchError(
                f"the frames decoded from {data} are not those that {out} was begun with (a video "
                "was changed, or --decoder, or --decode)"
            )
        samples = _samples(settings.training, dataset, cache)
        if isinstance(learner.model, PeftModel):
            _check_can_learn(learner.model, samples["train"])
        # 5. The training.
        put_in_order(out, found)
        run_folder = RunFolder(
            out, settings, dataset, base, contract, learner,
            earlier_seconds=found[1].training_seconds if found else 0.0,
            goes_on=found is not None and found[1].best is not None,
        )  # fmt: skip
        return _train(
            settings.training, samples, cache, learner, run_folder, target_device,
            found, origin, frames,
        )  # fmt: skip
    finally:
        if cache_folder is None:
            shutil.rmtree(frames_folder, ignore_errors=True)


def prepare(base: OpenedBase, settings: Settings) -> Learner:
    """Make the part of a base learn that the settings name.

    Raises:
        TargetError: A target word names no layer.
    """
    torch.manual_seed(settings.training.seed)
    targets = None
    model: PreTrainedModel | PeftModel = base.model
    if settings.model.use_lora:
        targets = resolve(base.model, settings.model.lora.target_modules)
        model = attach(
            base.model,
            settings.model.lora,
            layers=targets.layers,
            head_modules=base.head_modules,
            base_id=base.base_id,
            revision=base.revision,
        )
    elif settings.model.freeze_base:
        for name, parameter in model.named_parameters():
            parameter.requires_grad = name.split(".", 1)[0] in base.head_modules
    return Learner(model, targets, count(model, base.head_modules))


def _tell(settings: Settings, learner: Learner) -> None:
    """Say what learns, as counted; the lines are those of the user's guide."""
    counts = learner.parameters
    if settings.model.use_lora:
        lora = settings.model.lora
        logger.info("🎯 LoRA Configuration:")
        logger.info("   Rank (r): %d", lora.r)
        logger.info("   Alpha: %d", lora.lora_alpha)
        logger.info("   Target modules: %s", list(lora.target_modules))
        logger.info("   Resolved to: %s", learner.targets)
    else:
        logger.info("🎯 %s:", "Head only" if settings.model.freeze_base else "Full fine-tuning")
    logger.info(
        "   Trainable params: %s (%.2f%%)", f"{counts.trainable:,}", counts.trainable_percent
    )
    logger.info("   Total params: %s", f"{counts.total:,}")


def _cache(
    dataset: ClipDataset,
    contract: PixelContract,
    folder: Path,
    pool: DecodePool | None,
    progress: Progress,
) -> FrameCache:
    """Decode every training and validation clip once; unreadable ones are named and left out."""
    paths = [clip.path for split in ("train", "val") for clip in dataset.of(split)]
    with progress("decoding clips", len(paths)) as advance:
        cache = build_cache(paths, contract, folder, on_clip=lambda *_: advance(), pool=pool)
    for path, error in cache.errors.items():
        logger.warning("left out: %s: %s", path, error)
    for split in ("train", "val"):
        whole = [clip for clip in dataset.of(split) if clip.path not in cache.errors]
        lost = set(dataset.labels) - {clip.label for clip in whole}
        if not whole or (split == "train" and lost):
            what = f"of {', '.join(sorted(lost))} " if whole else ""
            raise NothingDecodedError(
                f"no {split} clip {what}could be decoded; see the warnings above"
            )
    return cache


def _samples(
    training: TrainingSettings, dataset: ClipDataset, cache: FrameCache
) -> dict[str, ClipSamples]:
    return {
        "train": ClipSamples(
            dataset.of("train"), dataset.labels, cache,
            random_crop_padding=training.random_crop_padding, seed=training.seed,
        ),
        "val": ClipSamples(dataset.of("val"), dataset.labels, cache),
    }  # fmt: skip


def _check_can_learn(model: PeftModel, samples: ClipSamples) -> None:
    clips = [samples[index]["pixel_values"] for index in range(min(2, len(samples)))]
    check_can_learn(model, torch.stack(clips))


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
            _learn(training, samples, learner, out, target_device, callbacks, found)
        except (KeyboardInterrupt, SystemExit):
            if keep_best.best is not None:
                logger.warning("%s holds epoch %d, the best so far", out, keep_best.best.epoch)
            raise
    if stop_on_bad_loss.found is not None:
        raise LossNotFiniteError(f"the training loss became {stop_on_bad_loss.found}")
    manifest = run_folder.outcome()
    report.write_report(out, manifest, _validate(out, samples["val"], cache), cache)
    run.write_run_manifest(out, manifest)  # last: whoever reads finished in it finds all the rest
    return manifest


def _learn(
    training: TrainingSettings,
    samples: Mapping[str, ClipSamples],
    learner: Learner,
    out: Path,
    target_device: torch.device,
    callbacks: list[TrainerCallback],
    found: tuple[Path, Checkpoint] | None,
) -> None:
    """All epochs that are left."""
    writer = SummaryWriter(
        str(out / TENSORBOARD), purge_step=found[1].step + 1 if found else None
    )  # points of epochs that are trained again go
    trainer = GoingOnTrainer(
        model=learner.model,
        args=training_arguments(training, out, use_cpu=target_device.type == "cpu"),
        train_dataset=samples["train"],
        eval_dataset=samples["val"],
        data_collator=Collate(learner.model.config.model_type),
        compute_metrics=_accuracy,
        callbacks=[
            *callbacks,
            TensorBoardCallback(writer),
            *([PutBack(found[0])] if found else []),
        ],
    )
    trainer.remove_callback(PrinterCallback)
    if not sys.stderr.isatty():
        trainer.remove_callback(ProgressCallback)
    try:
        trainer.train(resume_from_checkpoint=str(found[0]) if found else None)
    finally:
        writer.close()


def _validate(folder: Path, samples: ClipSamples, cache: FrameCache) -> Evaluation:
    """What the model that was kept says of the validation clips, opened from the RUN as any user would."""
    recogniser = load(folder, device="cpu")
    answers = []
    for clip in samples.clips:
        prediction = recogniser.predict(
            recogniser.logits(cache.frames(clip.path)[None])[0],
            top_k=1, duration_seconds=0.0, warning=None,
        )  # fmt: skip
        answers.append((str(clip.path), clip.label, prediction.label, prediction.score))
    return tally(recogniser.labels, answers)


def training_arguments(
    training: TrainingSettings, out: Path, *, use_cpu: bool
) -> TrainingArguments:
    """Our settings in the words of transformers."""
    return TrainingArguments(
        output_dir=str(out),
        num_train_epochs=training.epochs,
        per_device_train_batch_size=training.batch_size,
        per_device_eval_batch_size=training.batch_size,
        gradient_accumulation_steps=training.gradient_accumulation_steps,
        learning_rate=training.learning_rate,
        weight_decay=training.weight_decay,
        warmup_steps=training.warmup_fraction,  # below 1: a part of all steps
        lr_scheduler_type=_scheduler(training),
        label_smoothing_factor=training.label_smoothing,
        max_grad_norm=training.max_grad_norm,
        bf16=training.mixed_precision == "bf16",
        fp16=training.mixed_precision == "fp16",
        seed=training.seed,
        data_seed=training.seed,
        eval_strategy="epoch",
        logging_strategy="epoch",
        logging_nan_inf_filter=False,
        save_strategy="no",  # best epoch and checkpoints are kept by our own callbacks
        report_to="none",
        disable_tqdm=not sys.stderr.isatty(),
        dataloader_pin_memory=not use_cpu,
        dataloader_num_workers=training.workers,
        remove_unused_columns=False,
        label_names=["labels"],
        use_cpu=use_cpu,
    )


def _scheduler(training: TrainingSettings) -> str:
    # transformers' "constant" knows no warm-up
    warm = training.lr_scheduler == "constant" and training.warmup_fraction > 0
    return "constant_with_warmup" if warm else training.lr_scheduler


def _accuracy(prediction: EvalPrediction) -> dict[str, float]:
    logits = (
        prediction.predictions[0]
        if isinstance(prediction.predictions, tuple)
        else prediction.predictions
    )
    return {"accuracy": float(np.mean(np.argmax(logits, axis=-1) == prediction.label_ids))}
