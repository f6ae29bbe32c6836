"""One thread in which the model runs: what waits for it goes together, as far as a batch reaches.

Nobody is waited for. While the model works, clips gather; the next batch is made of them. A batch
has one shape, padded, so which clips share one changes no bit of their answers.
"""

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue

import numpy as np
from numpy.typing import NDArray

from lora_deploy.clips.clip import Frames
from lora_deploy.runtime.base import Recogniser


@dataclass(frozen=True)
class Answered:
    """What the model said of one clip, and how long that took."""

    logits: NDArray[np.float32]
    """[labels]."""
    waited_seconds: float
    model_seconds: float
    """Of the batch that it was in."""


@dataclass
class _Waiting:
    frames: Frames
    """[frames, height, width, 3]."""
    answer: "Future[Answered]" = field(default_factory=Future)
    since: float = field(default_factory=time.monotonic)


class Line:
    """Clips in, answers out; safe from threads."""

    def __init__(self, recogniser: Recogniser, ran: Callable[[], None]) -> None:
        """Start the thread; ``ran`` is called after each batch."""
        self._recogniser = recogniser
        self._ran = ran
        self._waiting: SimpleQueue[_Waiting] = SimpleQueue()
        # It holds nothing that has to be put in order, so it may be left alone at the end.
        threading.Thread(target=self._run, name="service-model", daemon=True).start()

    def submit(self, frames: Frames) -> "Future[Answered]":
        """Ask about a clip [frames, height, width, 3]; the future raises what the model raised.

        One that is cancelled before its turn costs nothing.
        """
        waiting = _Waiting(frames)
        self._waiting.put(waiting)
        return waiting.answer

    def _run(self) -> None:
        while True:
            self._answer([one for one in self._next() if one.answer.set_running_or_notify_cancel()])

    def _next(self) -> list[_Waiting]:
        batch = [self._waiting.get()]
        while len(batch) < self._recogniser.backend.batch_size:
            try:
                batch.append(self._waiting.get_nowait())
            except Empty:
                break
        return batch

    def _answer(self, batch: list[_Waiting]) -> None:
        if not batch:
            return
        begun = time.monotonic()
        try:
            rows = self._recogniser.logits(np.stack([one.frames for one in batch]))
        except Exception as error:
            if len(batch) > 1:  # one of them may be to blame; the others are not to suffer
                for one in batch:
                    self._answer([one])
            else:
                batch[0].answer.set_exception(error)
            return
        took = time.monotonic() - begun
        self._ran()
        for one, row in zip(batch, rows, strict=True):
            one.answer.set_result(Answered(row, begun - one.since, took))
