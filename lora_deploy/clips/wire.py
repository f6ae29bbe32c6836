"""Messages between the decode pool and its workers: a line of JSON, then pixels, over a socket.

A worker has met a stranger's file, so the pool takes nothing from it on trust: sizes come from
the contract, texts are short, numbers finite, and whatever is not so ends the worker.
"""

import math
import socket
import struct
import time
from collections.abc import Sequence
from typing import Annotated, Literal, NamedTuple, TypeVar

import numpy as np
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, FiniteFloat, ValidationError

from lora_deploy.clips.clip import LATEST_SECONDS, DecodedClip, Stretch
from lora_deploy.clips.contract import PixelContract
from lora_deploy.clips.fence import Fence
from lora_deploy.errors import ClipErrorKind

_HEAD = struct.Struct(">I")
_PART = struct.Struct(">dd")
"""When a part begins and ends; infinity where it goes on to the end of the video."""
_MOST_HEADER_BYTES = 1 << 18


def _one_printable_line(text: str) -> str:
    # It goes to terminals, tables and pages: no control character, and no sign that begins a formula.
    if not (text.isprintable() and text[:1].isalnum()):
        raise ValueError("not a printable line")
    return text


Told = Annotated[str, Field(max_length=1000), AfterValidator(_one_printable_line)]
Seconds = Annotated[FiniteFloat, Field(ge=0, le=LATEST_SECONDS)]


class WireError(Exception):
    """The other side has gone, was too slow, or says what can't be."""


class Deadline(WireError):
    """The time was up before the other side had answered."""


class _Message(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Pictures(_Message):
    """What lies in a file of pictures, and when they are shown; the pool knows, a worker does not."""

    sizes: tuple[Annotated[int, Field(ge=0)], ...] = Field(max_length=1024)
    """Bytes of each."""
    shown: tuple[Annotated[int, Field(ge=0)], ...] = Field(max_length=1024)
    """For each frame of the clip which of them it is."""
    times_seconds: tuple[Seconds, ...] = Field(max_length=1024)
    duration_seconds: Seconds


class Job(_Message):
    """One clip to decode; its open file travels with it."""

    contract: PixelContract
    start_seconds: Seconds
    """Of the stretch of the file that is the clip."""
    end_seconds: Seconds | None
    pictures: Pictures | None = None
    """Where the file is no video but the pictures of a frame folder, one behind the other."""
    parts: Annotated[int, Field(ge=0)] = 0
    """How many parts of the file become a clip each; when they begin and end follows, and each has
    an answer. Of none, the stretch is the clip."""


class Ready(_Message):
    """The first words of a worker."""

    fence: Fence


class Answer(_Message):
    """What became of a job; the pixels follow where ``status`` is ok."""

    status: Literal["ok", "error", "busy"]
    """``busy``: it is still worked on, and will be answered; of parts alone."""
    times_seconds: tuple[Seconds, ...] = Field(default=(), max_length=1024)
    duration_seconds: Seconds = 0.0
    file_frames: Annotated[int, Field(ge=0)] | None = None
    warning: Told | None = None
    error_kind: ClipErrorKind = "unreadable"
    error: Told = "none"


def send_job(
    to: socket.socket,
    contract: PixelContract,
    stretch: Stretch,
    descriptor: int,
    pictures: Pictures | None = None,
    parts: Sequence[Stretch] = (),
) -> None:
    """Send a job with its open file."""
    job = Job(
        contract=contract,
        start_seconds=stretch.start_seconds,
        end_seconds=stretch.end_seconds,
        pictures=pictures,
        parts=len(parts),
    )
    content = job.model_dump_json().encode()
    # In one message with its length: the descriptor goes with the first byte.
    socket.send_fds(to, [_HEAD.pack(len(content)) + content], [descriptor])
    if parts:
        to.sendall(
            b"".join(
                _PART.pack(
                    one.start_seconds, math.inf if one.end_seconds is None else one.end_seconds
                )
                for one in parts
            )
        )


class Order(NamedTuple):
    """A job as a worker has it."""

    contract: PixelContract
    stretch: Stretch
    descriptor: int
    """Of its file, which the worker closes."""
    pictures: Pictures | None
    parts: tuple[Stretch, ...]


def receive_job(from_: socket.socket) -> Order | None:
    """Wait for the next job and its file's descriptor; None when the pool has closed its end."""
    head, descriptors, _, _ = socket.recv_fds(from_, _HEAD.size, 1)
    if not head:
        return None
    head += _receive(from_, _HEAD.size - len(head), None)
    job = Job.model_validate_json(_receive(from_, _HEAD.unpack(head)[0], None))
    times = _PART.iter_unpack(_receive(from_, job.parts * _PART.size, None))
    return Order(
        contract=job.contract,
        stretch=Stretch(job.start_seconds, job.end_seconds),
        descriptor=descriptors[0],
        pictures=job.pictures,
        parts=tuple(Stretch(start, None if end == math.inf else end) for start, end in times),
    )


def send(to: socket.socket, message: Ready | Answer, pixels: memoryview | None = None) -> None:
    """Send a worker's message, and pixels behind it."""
    content = message.model_dump_json().encode()
    to.sendall(_HEAD.pack(len(content)) + content)
    if pixels is not None:
        to.sendall(pixels)


def receive_ready(from_: socket.socket, until: float) -> Ready:
    """Wait for a worker's first words.

    Raises:
        WireError: They did not come by ``until`` (as `time.monotonic`), or are not what they should be.
    """
    return _receive_message(from_, Ready, until)


def receive_answer(
    from_: socket.socket, contract: PixelContract, stretch: Stretch, until: float
) -> DecodedClip | Answer:
    """Wait for the answer to a job; an `Answer` is an error.

    Raises:
        WireError: It did not come by ``until`` (as `time.monotonic`), or is not what it should be.
    """
    return _clip_of(_receive_message(from_, Answer, until), from_, contract, stretch, until)


def receive_part(
    from_: socket.socket,
    contract: PixelContract,
    stretch: Stretch,
    deadline_seconds: float,
    patience_seconds: float,
) -> DecodedClip | Answer:
    """Wait for the answer to the next part of a job; an `Answer` is an error.

    Args:
        from_: The worker.
        contract: As the job had it.
        stretch: The part.
        deadline_seconds: It may take so long, from now,
        patience_seconds: and again from each sign that the work goes on, in all so long.

    Raises:
        WireError: It did not come in time, or is not what it should be.
    """
    begun = time.monotonic()
    until = begun + deadline_seconds
    while (answer := _receive_message(from_, Answer, until)).status == "busy":
        until = max(until, min(time.monotonic(), begun + patience_seconds) + deadline_seconds)
    return _clip_of(answer, from_, contract, stretch, until)


def _clip_of(
    answer: Answer,
    from_: socket.socket,
    contract: PixelContract,
    stretch: Stretch,
    until: float,
) -> DecodedClip | Answer:
    if answer.status == "busy":
        raise WireError("a sign of work is no answer")
    if answer.status == "error":
        return answer
    times_seconds = answer.times_seconds
    if len(times_seconds) != contract.frames or list(times_seconds) != sorted(times_seconds):
        raise WireError("the times are not those of a clip")
    if answer.duration_seconds > stretch.longest_seconds:
        raise WireError("the clip is longer than what was asked for")
    frames = np.empty(contract.frames_shape, np.uint8)
    _receive_into(from_, frames.data.cast("B"), until)
    return DecodedClip(
        frames=frames,
        times_seconds=times_seconds,
        duration_seconds=answer.duration_seconds,
        warning=answer.warning,
        file_frames=answer.file_frames,
        start_seconds=stretch.start_seconds,
    )


M = TypeVar("M", bound=_Message)


def _receive_message(from_: socket.socket, kind: type[M], until: float) -> M:
    size = _HEAD.unpack(_receive(from_, _HEAD.size, until))[0]
    if size > _MOST_HEADER_BYTES:
        raise WireError("the message is too long")
    try:
        return kind.model_validate_json(_receive(from_, size, until))
    except ValidationError:
        raise WireError("the message is not what it should be") from None


def _receive(from_: socket.socket, size: int, until: float | None) -> bytes:
    content = bytearray(size)
    _receive_into(from_, memoryview(content), until)
    return bytes(content)


def _receive_into(from_: socket.socket, target: memoryview, until: float | None) -> None:
    while target:
        if until is not None:
            left = until - time.monotonic()
            if left <= 0:
                raise Deadline
            from_.settimeout(left)
        try:
            count = from_.recv_into(target)
        except TimeoutError:
            raise Deadline from None
        except OSError as error:
            raise WireError(str(error)) from error
        if count == 0:
            raise WireError("the other side has gone")
        target = target[count:]
