"""Decoders and a model at work side by side, with few clips between them; nothing of rows or files.

Three kinds of threads hand clips on: those of the decode pool, one that fills batches, and one in
which the model runs. Whoever iterates asks for more clips, and is told what became of each. No
thread ever waits for room while it holds a clip but the one that fills batches, so a pool can be
closed, and an iteration given up, at any time.
"""

import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from lora_deploy.classify.meter import Meter
from lora_deploy.clips.clip import DecodedClip, Footage
from lora_deploy.clips.contract import PixelContract
from lora_deploy.clips.pool import DECODED_AHEAD, DecodePool
from lora_deploy.clips.views import Views, contract_of, views_of
from lora_deploy.errors import ClipError
from lora_deploy.runtime.base import Batch, Recogniser

AHEAD_BYTES = 256 << 20
"""What decoded clips may take that wait for the model; one clip may always wait."""

LINGER_SECONDS = 2.0
"""A batch that is not full is run when no clip has come for so long: the clips that it lacks may all
hang in their decoders. Which clips share a batch changes no bit of their answers."""

K = TypeVar("K")
T = TypeVar("T")
Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Known:
    """What the model says of one clip."""

    logits: Floats
    """[views, labels]."""
    duration_seconds: float
    warning: str | None


def answered(
    recogniser: Recogniser,
    jobs: Iterable[tuple[K, Footage]],
    *,
    views: Views,
    pool: DecodePool,
    meter: Meter,
) -> Generator[tuple[K, Known | ClipError]]:
    """What became of each clip, under the name that it came with, in the order of completion.

    ``jobs`` is asked for a clip when there is room for one, in the thread that iterates.

    Raises:
        ViewsError: The views are more than can be decoded at once.
        LoraDeployError: Decoders or model can't work at all.
    """
    contract = contract_of(views, recogniser.contract)
    line: _Line[K] = _Line(recogniser, contract, views, pool, meter)
    try:
        with meter.running(pool):
            yield from _through(line, iter(jobs), meter)
    finally:
        line.stop()


def _through(
    line: "_Line[K]", jobs: Iterator[tuple[K, Footage]], meter: Meter
) -> Iterator[tuple[K, Known | ClipError]]:
    more = True
    while more or line.unanswered:
        # Decoders have something to do before anybody else is waited for.
        while more and line.has_room:
            with meter.reading():
                job = next(jobs, None)
            if job is None:
                more = False
                line.end()
            else:
                line.put(*job)
        if line.unanswered and (outcome := line.news()) is not None:
            with meter.elsewhere():
                yield outcome


def in_turn(numbered: Iterable[tuple[int, T]]) -> Iterator[T]:
    """What comes in any order with numbers from 0 on, in theirs; what is early waits for its turn."""
    early: dict[int, T] = {}
    due = 0
    for number, one in numbered:
        early[number] = one
        while due in early:
            yield early.pop(due)
            due += 1


def room_of(contract: PixelContract, workers: int, clips_per_batch: int) -> int:
    """Clips that may be on their way to the model, in decoders, before or behind them.

    Twice as many wait as there are decoders, so that none of them waits for whoever writes rows, and
    as many as a batch takes; fewer where clips are large.
    """
    waiting = max(DECODED_AHEAD, 2 * workers, clips_per_batch)
    at_most = AHEAD_BYTES // int(np.prod(contract.frames_shape))
    return workers + max(1, min(waiting, at_most))


class _Left:
    """News that a clip went over to the batches: there is room for another one."""


_LEFT = _Left()


@dataclass
class _Asked(Generic[K]):
    """A clip whose views are in batches."""

    name: K
    clip_seconds: float
    warning: str | None
    views: int
    logits: list[Floats] = field(default_factory=list)


@dataclass
class _Batch(Generic[K]):
    """The one shape that is ever run, and whose views lie in it."""

    clips: Batch
    """As `Recogniser.empty_batch` makes it."""
    owners: list[_Asked[K]] = field(default_factory=list)


class _Line(Generic[K]):
    """The way of clips from decoders through batches to the model."""

    def __init__(
        self,
        recogniser: Recogniser,
        contract: PixelContract,
        views: Views,
        pool: DecodePool,
        meter: Meter,
    ) -> None:
        self._recogniser, self._contract, self._views = recogniser, contract, views
        self._pool, self._meter = pool, meter
        self._size = recogniser.backend.batch_size
        self._room = room_of(contract, pool.workers, -(-self._size // views.count))
        # Where the model is the slower one, decoders begin together: cores on which a model's thread
        # waits for another one have something else to do then, which one decoder alone can't give.
        self._refill_at = self._room - max(1, min(pool.workers, (self._room - pool.workers) // 2))
        self._is_full = False
        self._on_the_way = 0
        self.unanswered = 0
        """Clips of which nothing is known yet."""
        self._ending = False
        self._stopped = threading.Event()
        self._decoding: set[Future[DecodedClip]] = set()
        # Hand-over points, each bounded by what is put in elsewhere.
        self._decoded: SimpleQueue[tuple[K, DecodedClip] | None] = SimpleQueue()
        self._free: SimpleQueue[Batch | None] = SimpleQueue()
        self._full: SimpleQueue[_Batch[K] | None] = SimpleQueue()
        self._news: SimpleQueue[_Left | BaseException | tuple[K, Known | ClipError]] = SimpleQueue()
        # Two: one is filled while the model works on the other.
        for _ in range(2):
            self._free.put(recogniser.empty_batch())
        self._threads = [
            threading.Thread(target=self._guarded, args=(work,), name=name, daemon=True)
            for work, name in ((self._fill, "batches"), (self._answer, "model"))
        ]
        for thread in self._threads:
            thread.start()

    # What the thread that iterates calls.

    @property
    def has_room(self) -> bool:
        """Whether another clip may come: from when there is room for one a decoder until all is full."""
        if self._on_the_way >= self._room:
            self._is_full = True
        elif self._on_the_way <= self._refill_at:
            self._is_full = False
        return not self._is_full

    def put(self, name: K, footage: Footage) -> None:
        """Send a clip on its way."""
        self._on_the_way += 1
        self.unanswered += 1
        decoding = self._pool.submit(footage.path, self._contract, footage.stretch)
        self._decoding.add(decoding)
        decoding.add_done_callback(lambda done: self._after_decoding(name, done))

    def end(self) -> None:
        """Say that no clip will come any more."""
        self._ending = True
        self._end_if_empty()

    def news(self) -> tuple[K, Known | ClipError] | None:
        """Wait until something has happened: what became of a clip, or None where there is room only."""
        news = self._news.get()
        if isinstance(news, BaseException):
            raise news
        if isinstance(news, _Left):
            self._leave()
            return None
        self.unanswered -= 1
        if isinstance(news[1], ClipError):
            self._leave()
        return news

    def stop(self) -> None:
        """Give up what is not answered yet; comes back when the model is done with its batch."""
        self._stopped.set()
        for decoding in list(self._decoding):
            decoding.cancel()
        self._decoded.put(None)
        self._free.put(None)
        self._full.put(None)
        for thread in self._threads:
            thread.join()

    def _leave(self) -> None:
        self._on_the_way -= 1
        self._end_if_empty()

    def _end_if_empty(self) -> None:
        if self._ending and not self._on_the_way:
            self._decoded.put(None)

    # What the threads of the pool call.

    def _after_decoding(self, name: K, decoding: Future[DecodedClip]) -> None:
        self._decoding.discard(decoding)
        if self._stopped.is_set():
            return
        if decoding.cancelled():
            self._news.put(CancelledError())  # the pool was closed
            return
        error = decoding.exception()
        if error is None:
            self._decoded.put((name, decoding.result()))
        elif isinstance(error, ClipError):
            self._news.put((name, error))
        else:
            self._news.put(error)

    # What the two threads do.

    def _guarded(self, work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:
            self._news.put(error)

    def _fill(self) -> None:
        """Put decoded clips into batches, each handed over as soon as it is full."""
        batch: _Batch[K] | None = None
        while (decoded := self._next_decoded(lingers=batch is not None)) is not None:
            if isinstance(decoded, _Lingered):
                assert batch is not None
                self._hand_over(batch)
                batch = None
                continue
            batch = self._add(*decoded, batch)
            del decoded  # before its room is given away
            self._news.put(_LEFT)
        if batch is not None:
            self._hand_over(batch)
        self._full.put(None)

    def _add(self, name: K, clip: DecodedClip, batch: _Batch[K] | None) -> _Batch[K] | None:
        """Put the views of a clip into a batch, and those that it can't take into further ones.

        Returns:
            The last batch; None where it is full, and handed over.
        """
        asked = _Asked(name, clip.duration_seconds, clip.warning, self._views.count)
        for view in views_of(clip.frames, self._views, self._recogniser.contract):
            if batch is None:
                if (clips := self._free.get()) is None:
                    return None  # all is being given up
                batch = _Batch(clips)
            self._recogniser.put(view, batch.clips[len(batch.owners)])
            batch.owners.append(asked)
            if len(batch.owners) == self._size:
                self._hand_over(batch)
                batch = None
        return batch

    def _next_decoded(self, *, lingers: bool) -> "tuple[K, DecodedClip] | _Lingered | None":
        try:
            decoded = self._decoded.get(timeout=LINGER_SECONDS if lingers else None)
        except Empty:
            return _Lingered()
        return None if self._stopped.is_set() else decoded

    def _hand_over(self, batch: _Batch[K]) -> None:
        batch.clips[len(batch.owners) :] = 0  # not of clips that were there before
        self._full.put(batch)

    def _answer(self) -> None:
        """Run the model on one batch after the other."""
        while (batch := self._awaited_batch()) is not None:
            begun = time.monotonic()
            logits = self._recogniser.logits_of_batch(batch.clips)
            self._meter.model_seconds += time.monotonic() - begun
            for asked, row in zip(batch.owners, logits, strict=False):
                asked.logits.append(row.copy())  # a runtime may take its memory again
                if len(asked.logits) == asked.views:
                    known = Known(np.stack(asked.logits), asked.clip_seconds, asked.warning)
                    self._news.put((asked.name, known))
            self._free.put(batch.clips)

    def _awaited_batch(self) -> _Batch[K] | None:
        begun = time.monotonic()
        batch = self._full.get()
        self._meter.model_waited_seconds += time.monotonic() - begun
        return None if self._stopped.is_set() else batch


class _Lingered:
    """No clip came for a while."""
