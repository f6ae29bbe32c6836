"""transformers' Trainer, set up by our settings: all epochs that are left."""

import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch.utils.tensorboard import SummaryWriter
from transformers import EvalPrediction, TrainerCallback, TrainingArguments
from transformers.integrations.integration_utils import TensorBoardCallback
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from lora_deploy.config import TrainingSettings
from lora_deploy.errors import MissingPackageError
from lora_deploy.extras import is_installed
from lora_deploy.train.callbacks import TellEpoch
from lora_deploy.train.checkpoints import Checkpoint
from lora_deploy.train.going_on import GoingOnTrainer, PutBack
from lora_deploy.train.learner import Learner
from lora_deploy.train.mixing import SoftLoss
from lora_deploy.train.resume import TENSORBOARD
from lora_deploy.train.tensors import ClipSamples, Collate


def learn(
    training: TrainingSettings,
    samples: Mapping[str, ClipSamples],
    learner: Learner,
    out: Path,
    target_device: torch.device,
    callbacks: list[TrainerCallback],
    found: tuple[Path, Checkpoint] | None,
    *,
    is_first: bool = True,
) -> None:
    """All epochs that are left; of several processes only the first writes TensorBoard's events."""
    purge_step = found[1].step + 1 if found else None  # points of epochs that are trained again go
    writer = SummaryWriter(str(out / TENSORBOARD), purge_step=purge_step) if is_first else None
    trainer = GoingOnTrainer(
        model=learner.model,
        args=training_arguments(training, out, use_cpu=target_device.type == "cpu"),
        train_dataset=samples["train"],
        eval_dataset=samples["val"],
        data_collator=Collate(learner.model.config.model_type),
        compute_metrics=_accuracy,
        compute_loss_func=(
            SoftLoss(training.label_smoothing) if samples["train"].has_targets else None
        ),
        callbacks=[
            TellEpoch(samples["train"]),
            *callbacks,
            *([TensorBoardCallback(writer)] if writer else []),
            *([PutBack(found[0])] if found else []),
        ],
    )
    trainer.layer_decay = training.layer_decay
    trainer.remove_callback(PrinterCallback)
    if not sys.stderr.isatty():
        trainer.remove_callback(ProgressCallback)
    try:
        trainer.train(resume_from_checkpoint=str(found[0]) if found else None)
    finally:
        if writer:
            writer.close()


def check_boards(training: TrainingSettings) -> None:
    """See that what figures are to be sent to is installed, before there are any.

    Raises:
        MissingPackageError: It is not; the text has the line to type.
    """
    for package in training.report_to:
        if not is_installed(package):
            raise MissingPackageError(
                f"{package} is needed for training.report_to and not installed: pip install {package}"
            )


def training_arguments(
    training: TrainingSettings, out: Path, *, use_cpu: bool
) -> TrainingArguments:
    """Our settings in the words of transformers."""
    arguments = TrainingArguments(
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
        report_to=list(training.report_to) or "none",  # TensorBoard is always there, by ours
        run_name=out.name,
        project="lora-deploy",
        disable_tqdm=not sys.stderr.isatty(),
        dataloader_pin_memory=not use_cpu,
        dataloader_num_workers=training.workers,
        remove_unused_columns=False,
        label_names=["labels"],
        use_cpu=use_cpu,
    )
    # One process is one card: Trainer would put a batch on each that it sees.
    arguments._n_gpu = min(arguments.n_gpu, 1)
    return arguments


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
