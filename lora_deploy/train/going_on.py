"""The two ends of an interruption: a checkpoint after each epoch, and a Trainer that goes on from one."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import (
    PreTrainedModel,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from lora_deploy.disk import check_room
from lora_deploy.train import state as training_state
from lora_deploy.train.layer_decay import parameter_groups


class WriteCheckpoint(TrainerCallback):
    """Writes a checkpoint when an epoch was judged; to be added after `KeepBest`.

    Only there: between two epochs nothing is summed up half, and no loader is under way.
    """

    def __init__(
        self,
        write: Callable[[TrainerState, bool, Callable[[Path], None]], None],
        folder: Path,
        *,
        is_sound: Callable[[], bool],
    ) -> None:
        """How to write.

        Args:
            write: Given the counters, whether this was the last epoch, and what fills a folder.
            folder: On the disk that needs room.
            is_sound: False when the weights are not worth going on from.
        """
        self._write = write
        self._folder = folder
        self._is_sound = is_sound

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: Any,
    ) -> None:
        """Write it."""
        if not self._is_sound():
            return
        model, optimizer, scheduler = kwargs["model"], kwargs["optimizer"], kwargs["lr_scheduler"]
        check_room(self._folder, training_state.size_bytes(model, optimizer))
        is_last = control.should_training_stop or state.global_step >= state.max_steps
        self._write(
            state,
            is_last,
            lambda folder: training_state.write(
                folder, model=model, optimizer=optimizer, scheduler=scheduler, trainer_state=state
            ),
        )


class PutBack(TrainerCallback):
    """Gives optimizer, scheduler and random numbers back what a checkpoint holds."""

    def __init__(self, checkpoint: Path) -> None:
        """``checkpoint`` is a whole one; the weights are `GoingOnTrainer`'s part."""
        self._checkpoint = checkpoint
        self._is_first_epoch = True

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: Any,
    ) -> None:
        """Optimizer and scheduler have just been made."""
        training_state.put_back_optimizer(
            self._checkpoint, kwargs["optimizer"], kwargs["lr_scheduler"]
        )

    def on_epoch_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: Any,
    ) -> None:
        """The next thing that draws a random number is the epoch itself."""
        if self._is_first_epoch:
            training_state.put_back_random(self._checkpoint)
        self._is_first_epoch = False


class GoingOnTrainer(Trainer):
    """A Trainer that takes the weights of our checkpoints, every one of them or none."""

    layer_decay = 1.0
    """As ``training.layer_decay``."""

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """As Trainer's own, with one learning rate a depth where they fall."""
        target = self.model if model is None else model
        if self.optimizer is None and self.layer_decay != 1.0:
            assert isinstance(target, PreTrainedModel)
            kind, options = self.get_optimizer_cls_and_kwargs(self.args, target)
            groups = parameter_groups(
                target,
                layer_decay=self.layer_decay,
                learning_rate=self.args.learning_rate,
                weight_decay=self.args.weight_decay,
                decayed=self.get_decay_parameter_names(target),
            )
            self.optimizer = kind(groups, **options)
        return super().create_optimizer(model)

    def _load_from_checkpoint(
        self, resume_from_checkpoint: str, model: nn.Module | None = None
    ) -> None:
        # Were it called otherwise one day, Trainer's own code would refuse our folder aloud.
        target = self.model if model is None else model
        assert target is not None
        training_state.put_back_weights(Path(resume_from_checkpoint), target)
