"""What a worker answers to a job: one clip of a file, or many of its parts; whatever happens, an answer.

Imported when the worker is ready for it, and before it is fenced in.
"""

import importlib
import os
import socket
import time
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO

from lora_deploy.clips import wire
from lora_deploy.clips.clip import DecodedClip, Stretch
from lora_deploy.clips.contract import PixelContract
from lora_deploy.clips.packets import Beat, unwatched
from lora_deploy.errors import ClipError

PARTS = {"lora_deploy.clips.decode": "lora_deploy.clips.decode_parts"}
"""By module that decodes a file: the one whose ``decode_parts`` turns it into many clips in one go. For
others the file is decoded anew for each of them."""

BUSY_SECONDS = 1.0
"""So often it is said that a file is still gone through for its parts."""

Outcome = DecodedClip | ClipError


class Answering:
    """Obeys jobs with one decoder of videos and one of pictures, given as modules."""

    def __init__(self, decoder: Any, picture_decoder: Any, effort: str) -> None:
        """Import what else is needed."""
        self._decoder, self._picture_decoder, self._effort = decoder, picture_decoder, effort
        name = PARTS.get(decoder.__name__)
        self._parts = importlib.import_module(name) if name else None

    def answer(self, connection: socket.socket, job: wire.Order) -> None:
        """Decode what is asked for, and send it."""
        with os.fdopen(job.descriptor, "rb") as file:
            file.seek(0)  # a worker that died over it may have left it anywhere
            if job.parts:
                busy = _Busy(connection)
                for outcome in self.parts(file, job.contract, job.parts, busy.beat):
                    _send(connection, outcome)
                return
            outcome = self._clip(file, job)
        _send(connection, outcome)  # by then the file is closed

    def parts(
        self,
        file: BinaryIO,
        contract: PixelContract,
        stretches: Sequence[Stretch],
        beat: Beat = unwatched,
    ) -> Iterator[Outcome]:
        """A clip or an error for each stretch, in their order."""
        done = 0
        try:
            for outcome in self._outcomes(file, contract, stretches, beat):
                done += 1
                yield outcome
        except Exception as error:
            for _ in stretches[done:]:
                yield _as_clip_error(error)

    def _outcomes(
        self,
        file: BinaryIO,
        contract: PixelContract,
        stretches: Sequence[Stretch],
        beat: Beat,
    ) -> Iterator[Outcome]:
        if self._parts is not None:
            yield from self._parts.decode_parts(file, contract, self._effort, stretches, beat)
            return
        for stretch in stretches:
            file.seek(0)
            try:
                yield self._decoder.decode_file(file, contract, self._effort, stretch)
            except ClipError as error:
                yield error

    def _clip(self, file: BinaryIO, job: wire.Order) -> Outcome:
        try:
            clip: DecodedClip
            if job.pictures is not None:
                clip = self._picture_decoder.decode(file, job.pictures, job.contract)
            else:
                clip = self._decoder.decode_file(file, job.contract, self._effort, job.stretch)
        except Exception as error:
            return _as_clip_error(error)
        return clip


class _Busy:
    """Says so every `BUSY_SECONDS`."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._due = time.monotonic() + BUSY_SECONDS

    def beat(self) -> None:
        if time.monotonic() >= self._due:
            wire.send(self._connection, wire.Answer(status="busy"))
            self._due = time.monotonic() + BUSY_SECONDS


def _as_clip_error(error: Exception) -> ClipError:
    if isinstance(error, ClipError):
        return error
    text = f"the decoder could not cope with the file ({type(error).__name__})"
    return ClipError("unreadable", text)  # a fault of ours, and still only one clip


def _send(connection: socket.socket, outcome: Outcome) -> None:
    if isinstance(outcome, ClipError):
        wire.send(
            connection, wire.Answer(status="error", error_kind=outcome.kind, error=str(outcome))
        )
    else:
        answer = wire.Answer(
            status="ok",
            times_seconds=outcome.times_seconds,
            duration_seconds=outcome.duration_seconds,
            warning=outcome.warning,
            file_frames=outcome.file_frames,
        )
        wire.send(connection, answer, outcome.frames.data.cast("B"))
