"""The two ends of an interruption: a checkpoint after each epoch, and a Trainer that goes on from one."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from lora_deploy.disk import check_room
from lora_deploy.train import state as training_state


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

    def _load_from_checkpoint(
        self, resume_from_checkpoint: str, model: nn.Module | None = None
    ) -> None:
        # Were it called otherwise one day, Trainer's own code would refuse our folder aloud.
        target = self.model if model is None else model
        assert target is not None
        training_state.put_back_weights(Path(resume_from_checkpoint), target)
