"""Many parts of one file, shared out among decoding processes of their own: each decodes its share in one go.

It knows nothing of how a process is started or ended; `lora_deploy.clips.pool` hands that in.
"""

import math
import queue
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Generic, Protocol, TypeVar

from lora_deploy import open_files
from lora_deploy.clips import guard, wire
from lora_deploy.clips.clip import DecodedClip, Stretch
from lora_deploy.clips.contract import PixelContract
from lora_deploy.errors import ClipError

LEAST_SHARE = 64
"""Fewer parts are not worth a process more, which goes through the packets of the whole file."""

MOST_BREAKDOWNS = 3
"""One after the other over one share; then the rest of it is given up."""

_LOOK_SECONDS = 0.1
"""So often a thread that waits for room looks whether anybody is still there."""


class Worker(Protocol):
    """A decoding process."""

    @property
    def connection(self) -> socket.socket:
        """To it."""


W = TypeVar("W", bound=Worker)


class Lender(Protocol[W]):
    """Whoever has decoding processes."""

    def lend(self) -> W:
        """One that does nothing else.

        Raises:
            CancelledError: There will be no more.
            DecodersUnavailableError: None can be started.
        """

    def take_back(self, worker: W, *, sound: bool) -> None:
        """One that is needed no longer; if it is not ``sound`` it must be ended."""


class Shares(Generic[W]):
    """The parts that are being decoded; iterate over it once, and close it."""

    def __init__(
        self,
        lender: Lender[W],
        path: Path,
        contract: PixelContract,
        stretches: Sequence[Stretch],
        *,
        most_workers: int,
        deadline_seconds: float,
        patience_seconds: float,
        ahead: int,
    ) -> None:
        """Start a thread for each share.

        Args:
            lender: Of the processes.
            path: The file.
            contract: Which frames of each part.
            stretches: The parts; the later ones begin later.
            most_workers: At once.
            deadline_seconds: Without a clip and without a sign of work a process is cut off.
            patience_seconds: So long signs of work are enough.
            ahead: How many clips may wait.
        """
        self._lender, self._path, self._contract = lender, path, contract
        self._stretches = stretches
        self._deadline_seconds, self._patience_seconds = deadline_seconds, patience_seconds
        self._found: queue.Queue[tuple[int, DecodedClip | ClipError] | BaseException] = queue.Queue(
            ahead
        )
        self._awaited = len(stretches)
        self._ended = threading.Event()
        self._lock = threading.Lock()
        self._at_work: set[W] = set()
        size = max(LEAST_SHARE, math.ceil(len(stretches) / most_workers))
        self._threads = [
            threading.Thread(
                target=self._work,
                args=(first, min(first + size, len(stretches))),
                name="decode-parts",
                daemon=True,
            )
            for first in range(0, len(stretches), size)
        ]
        for thread in self._threads:
            thread.start()

    def __iter__(self) -> Iterator[tuple[int, DecodedClip | ClipError]]:
        """Each part's number and what became of it, in the order of completion."""
        while self._awaited:
            found = self._found.get()
            if isinstance(found, BaseException):
                raise found
            self._awaited -= 1
            yield found

    def close(self) -> None:
        """Give up what is not decoded yet."""
        if self._awaited:
            self._ended.set()
            with self._lock:
                for worker in self._at_work:
                    with suppress(OSError):
                        worker.connection.shutdown(socket.SHUT_RDWR)  # wakes the thread that waits
        for thread in self._threads:
            thread.join()

    def _work(self, first: int, behind: int) -> None:
        try:
            self._share(first, behind)
        except BaseException as error:  # whoever iterates is to know
            self._put(error)

    def _share(self, at: int, behind: int) -> None:
        breakdowns = 0
        while at < behind and not self._ended.is_set():
            worker = self._lender.lend()
            with self._lock:
                self._at_work.add(worker)
            before, lost, spent = at, None, False
            try:
                for answer in self._answers(worker, at, behind):
                    # What ran out of memory may keep some of it.
                    spent = spent or (isinstance(answer, ClipError) and answer.kind == "too_large")
                    self._put((at, answer))
                    at += 1
            except wire.Deadline:
                waited = f"{self._deadline_seconds:g} seconds"
                lost = ClipError("timeout", f"decoding got no further for {waited} and was cut off")
            except (wire.WireError, OSError) as error:
                if open_files.ran_out(error):
                    raise
                lost = ClipError("unreadable", "the decoder broke down over this file")
            finally:
                with self._lock:
                    self._at_work.discard(worker)
                    sound = at == behind and not spent and not self._ended.is_set()
                self._lender.take_back(worker, sound=sound)
            if lost is not None:
                # The part that was waited for is lost, and those behind it are tried without it.
                breakdowns = 1 if at > before else breakdowns + 1
                given_up = behind if breakdowns == MOST_BREAKDOWNS else at + 1
                for number in range(at, given_up):
                    self._put((number, lost))
                at = given_up

    def _answers(
        self, worker: Worker, first: int, behind: int
    ) -> Iterator[DecodedClip | ClipError]:
        parts = self._stretches[first:behind]
        try:
            file = guard.open_clip(self._path)
        except ClipError as error:
            yield from (error for _ in parts)
            return
        with file:
            worker.connection.settimeout(self._deadline_seconds)
            wire.send_job(worker.connection, self._contract, parts[0], file.fileno(), parts=parts)
            for part in parts:
                answer = wire.receive_part(
                    worker.connection, self._contract, part,
                    self._deadline_seconds, self._patience_seconds,
                )  # fmt: skip
                if isinstance(answer, wire.Answer):
                    yield ClipError(answer.error_kind, answer.error)
                else:
                    yield answer

    def _put(self, found: tuple[int, DecodedClip | ClipError] | BaseException) -> None:
        while not self._ended.is_set():
            try:
                self._found.put(found, timeout=_LOOK_SECONDS)
            except queue.Full:
                continue
            return
