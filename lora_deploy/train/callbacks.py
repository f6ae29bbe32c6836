"""What happens beside the training steps: keep the best epoch, stop early, write metrics."""

import json
import logging
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

logger = logging.getLogger(__name__)


class _HasEpochs(Protocol):
    def set_epoch(self, epoch: int) -> None: ...


@dataclass(frozen=True)
class EpochFigures:
    """What one evaluation on the validation clips found."""

    epoch: int
    val_accuracy: float
    val_loss: float

    def is_better_than(self, other: "EpochFigures | None") -> bool:
        """A higher accuracy wins; at the same accuracy a lower loss."""
        if other is None:
            return True
        return (self.val_accuracy, -self.val_loss) > (other.val_accuracy, -other.val_loss)


class KeepBest(TrainerCallback):
    """Hands each better epoch to ``save``, and stops when none has come for a while."""

    def __init__(
        self,
        save: Callable[[EpochFigures], None],
        *,
        patience: int,
        best: EpochFigures | None = None,
    ) -> None:
        """``patience`` in epochs, 0 never stops; ``best`` of before an interruption."""
        self.best = best
        self._save = save
        self._patience = patience

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """Judge the epoch that was just evaluated."""
        values = metrics or {}
        figures = EpochFigures(
            epoch=round(state.epoch or 0),
            val_accuracy=values["eval_accuracy"],
            val_loss=values["eval_loss"],
        )
        if not math.isfinite(figures.val_loss):
            return  # a model that answers NaN is never kept; `StopOnBadLoss` ends the training
        better = figures.is_better_than(self.best)
        training_loss = next(
            (log["loss"] for log in reversed(state.log_history) if "loss" in log), math.nan
        )
        logger.info(
            "epoch %d/%d: training loss %.3f, validation loss %.3f, validation accuracy %.3f%s",
            figures.epoch, int(args.num_train_epochs), training_loss, figures.val_loss,
            figures.val_accuracy, " (best so far)" if better else "",
        )  # fmt: skip
        if better:
            self._save(figures)
            self.best = figures
        elif self._patience and self.best and figures.epoch - self.best.epoch >= self._patience:
            logger.info("stopped early: no better epoch since epoch %d", self.best.epoch)
            control.should_training_stop = True


_NOT_OF_THE_TRAINING = re.compile(
    r"(_runtime|_per_second|_preparation_time)$"  # the clock's
    r"|^(total_flos|train_loss)$"  # sums since the last start; the first takes pixels for words
)


class WriteMetrics(TrainerCallback):
    """One JSON line per logged step and per evaluation; the same training gives the same bytes."""

    def __init__(self, path: Path) -> None:
        """``path`` is appended to."""
        self._path = path

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """Append what was logged."""
        logs = logs or {}
        left_out = {key: logs[key] for key in logs if _NOT_OF_THE_TRAINING.search(key)}
        if left_out:
            logger.debug("%s", left_out)
        values = {key: logs[key] for key in logs if key not in left_out}
        if values.keys() <= {"epoch"}:
            return
        line = {"step": state.global_step, "epoch": state.epoch, **values}
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


class StopOnBadLoss(TrainerCallback):
    """Ends a training whose loss is no number any more, so that no NaN is ever saved."""

    def __init__(self) -> None:
        """Nothing has gone wrong yet."""
        self.found: float | None = None
        self.epoch = 0

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """Look at the training loss."""
        loss = (logs or {}).get("loss")
        if loss is not None and not math.isfinite(loss):
            self.found, self.epoch = loss, round(state.epoch or 0)
            control.should_training_stop = True


class TellEpoch(TrainerCallback):
    """Tells the clips which epoch begins.

    accelerate does too, but not where several processes share out the clips (it tells their sampler
    instead), and every epoch would be augmented as the first one.
    """

    def __init__(self, samples: _HasEpochs) -> None:
        """``samples`` are those that are learned from."""
        self._samples = samples

    def on_epoch_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: Any,
    ) -> None:
        """Tell them, before a loader is started."""
        self._samples.set_epoch(round(state.epoch or 0))
