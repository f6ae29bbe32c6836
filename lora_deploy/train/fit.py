"""Train on a folder of labelled clips and leave a RUN folder."""

import logging
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from peft import PeftModel
from torch.utils.tensorboard import SummaryWriter
from transformers import EvalPrediction, PreTrainedModel, Trainer, TrainingArguments
from transformers.integrations.integration_utils import TensorBoardCallback
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from lora_deploy import atomic, device
from lora_deploy.artifact import run
from lora_deploy.artifact.run import RunManifest
from lora_deploy.clips.cache import FrameCache, build_cache
from lora_deploy.clips.contract import PixelContract
from lora_deploy.clips.dataset import ClipDataset, read_dataset
from lora_deploy.clips.pool import DecodePool
from lora_deploy.config import Settings, TrainingSettings
from lora_deploy.errors import ArtifactError, BackendError, DataError, LoraDeployError
from lora_deploy.evaluate import Evaluation, tally
from lora_deploy.model.adapter import attach, count
from lora_deploy.model.base import OpenedBase, open_base
from lora_deploy.model.liveness import check_can_learn
from lora_deploy.model.targets import resolve
from lora_deploy.progress import Progress, silent
from lora_deploy.runtime.load import load
from lora_deploy.train import report
from lora_deploy.train.callbacks import KeepBest, StopOnBadLoss, WriteMetrics
from lora_deploy.train.run_folder import Learner, RunFolder
from lora_deploy.train.tensors import ClipSamples, Collate

logger = logging.getLogger(__name__)


def fit(
    settings: Settings,
    data: Path,
    out: Path,
    *,
    cache_folder: Path | None = None,
    device_name: str | None = None,
    pool: DecodePool | None = None,
    progress: Progress = silent,
) -> RunManifest:
    """Train, validate after each epoch, and keep the best one.

    Each better epoch is on disk before the next begins, so an interrupted training leaves a
    sound RUN of the best epoch so far.

    Args:
        settings: What to train and how.
        data: A folder per class, or a CSV or JSONL manifest.
        out: The RUN folder; it must not exist or be empty.
        cache_folder: Where decoded frames are kept for another training on the same clips; by
            default beside the RUN's files until the training ends.
        device_name: As `device.choose`.
        pool: Decodes the clips; the shared one by default.
        progress: Told of clips as they are decoded.

    Raises:
        LoraDeployError: Settings, data, base or target that can't be used.
    """
    if not atomic.is_free(out):
        raise ArtifactError(f"{out} exists already; choose another --out, or delete it first")
    target_device = device.choose(device_name)
    if target_device.index:
        raise BackendError(
            f"training runs on the first CUDA device that it sees, not on {target_device}; choose "
            f"the card with CUDA_VISIBLE_DEVICES={target_device.index} and --device cuda"
        )
    # 1. What to learn from.
    dataset = read_dataset(
        data,
        val_fraction=settings.data.val_fraction,
        test_fraction=settings.data.test_fraction,
        seed=settings.training.seed,
    )
    if not dataset.of("val"):
        raise DataError(f"{data} has no validation clips; give some clips the split val")
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
    # 3. The frames.
    out.mkdir(parents=True, exist_ok=True)
    frames_folder = cache_folder or out / ".frames"
    try:
        cache = _cache(dataset, contract, frames_folder, pool, progress)
        samples = _samples(settings.training, dataset, cache)
        if isinstance(learner.model, PeftModel):
            _check_can_learn(learner.model, samples["train"])
        run_folder = RunFolder(out, settings, dataset, base, contract, learner)
        return _train(settings.training, samples, cache, learner, run_folder, target_device)
    finally:
        if cache_folder is None:
            shutil.rmtree(frames_folder, ignore_errors=True)
        if not any(out.iterdir()):
            out.rmdir()


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
            raise DataError(f"no {split} clip {what}could be decoded; see the warnings above")
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
) -> RunManifest:
    keep_best = KeepBest(
        lambda figures: run_folder.save(figures, len(samples["val"])),
        patience=training.early_stopping_patience,
    )
    stop_on_bad_loss = StopOnBadLoss()
    writer = SummaryWriter(str(run_folder.path / "tensorboard"))
    trainer = Trainer(
        model=learner.model,
        args=training_arguments(training, run_folder.path, use_cpu=target_device.type == "cpu"),
        train_dataset=samples["train"],
        eval_dataset=samples["val"],
        data_collator=Collate(learner.model.config.model_type),
        compute_metrics=_accuracy,
        callbacks=[
            WriteMetrics(run_folder.path / run.METRICS),
            stop_on_bad_loss,
            keep_best,
            TensorBoardCallback(writer),
        ],
    )
    trainer.remove_callback(PrinterCallback)
    if not sys.stderr.isatty():
        trainer.remove_callback(ProgressCallback)
    try:
        trainer.train()
    except KeyboardInterrupt:
        if keep_best.best is not None:
            logger.warning(
                "interrupted; %s holds epoch %d, the best so far",
                run_folder.path,
                keep_best.best.epoch,
            )
        raise
    finally:
        writer.close()
    if stop_on_bad_loss.found is not None:
        raise LoraDeployError(
            f"the training loss became {stop_on_bad_loss.found}; lower training.learning_rate "
            f"(now {training.learning_rate}) or set training.mixed_precision to no"
        )
    manifest = run_folder.finish()
    report.write_report(
        run_folder.path, manifest, _validate(run_folder.path, samples["val"], cache), cache
    )
    return manifest


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
        save_strategy="no",  # the best epoch is kept by our own callback
        report_to="none",
        disable_tqdm=not sys.stderr.isatty(),
        dataloader_pin_memory=not use_cpu,
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
