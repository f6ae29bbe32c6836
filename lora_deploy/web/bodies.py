"""The body of a request as it arrives: counted, and cut off where it is too large or too slow."""

import asyncio
import math
import time
from contextlib import suppress
from typing import Literal

from starlette.datastructures import Headers
from starlette.types import Message, Receive, Send

from lora_deploy.web.turned import Turned

FORM_BYTES = 64 << 10
"""What a form may add around the file that it uploads."""

LEAST_UPLOAD_BYTES_PER_SECOND = 100_000
"""Of an upload as a whole: room for all of it is set apart from its beginning."""


class Body:
    """Stands in for ASGI's ``receive``; what it cuts off looks like a visitor who left."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._most_bytes = math.inf
        self._idle_seconds: float | None = None
        self._least_bytes_per_second = 0.0
        self._waited_seconds = 0.0
        """For its parts; what others do between them is not the visitor's doing."""
        self.bytes = 0
        """That arrived so far."""
        self.is_complete = False
        self.is_gone = False
        """Whether the visitor left."""
        self.cut: Literal["", "large", "slow"] = ""
        """Why it was cut off."""

    def limit(
        self, most_bytes: int, idle_seconds: float, *, least_bytes_per_second: float = 0.0
    ) -> None:
        """Cut it off beyond ``most_bytes``, when nothing arrives for so long, or when it trickles.

        The least rate is of all that arrived, and holds after the first ``idle_seconds``.
        """
        self._most_bytes = most_bytes
        self._idle_seconds = idle_seconds
        self._least_bytes_per_second = least_bytes_per_second

    async def __call__(self) -> Message:
        """The next part."""
        if self.cut:
            return {"type": "http.disconnect"}
        if self.is_complete:  # then this waits for the visitor to leave
            return await self._receive()
        begun = time.monotonic()
        try:
            async with asyncio.timeout(self._patience_seconds()):
                message = await self._receive()
        except TimeoutError:
            self.cut = "slow"
            return {"type": "http.disconnect"}
        self._waited_seconds += time.monotonic() - begun
        self._note(message)
        if self.bytes > self._most_bytes:
            self.cut = "large"
            return {"type": "http.disconnect"}
        return message

    def _patience_seconds(self) -> float | None:
        """How long the next part may take."""
        if self._idle_seconds is None or not self._least_bytes_per_second:
            return self._idle_seconds
        due = self._idle_seconds + self.bytes / self._least_bytes_per_second
        return min(self._idle_seconds, due - self._waited_seconds)

    def _note(self, message: Message) -> None:
        if message["type"] == "http.disconnect":
            self.is_gone = True
        else:
            self.bytes += len(message.get("body", b""))
            self.is_complete = not message.get("more_body", False)

    async def whole(self, most_bytes: int, seconds: float) -> bytes | None:
        """All of it; None where it is cut off or the visitor leaves."""
        self.limit(most_bytes, seconds)
        parts = []
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while not (self.is_complete or self.is_gone or self.cut):
                    parts.append((await self()).get("body", b""))
                return b"".join(parts) if self.is_complete and not self.cut else None
        self.cut = "slow"
        return None

    async def drain(self, most_bytes: int, seconds: float) -> None:
        """Read on and forget it: many programs look at an answer only when all is sent."""
        read = 0
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while not (self.is_complete or self.is_gone) and read <= most_bytes:
                    message = await self._receive()
                    self._note(message)
                    read += len(message.get("body", b""))


class Replayed:
    """Gives a body that was read, changed, to whoever comes next."""

    def __init__(self, body: bytes, receive: Receive) -> None:
        self._body: bytes | None = body
        self._receive = receive

    async def __call__(self) -> Message:
        """The body, and then what really happens."""
        if self._body is None:
            return await self._receive()
        body, self._body = self._body, None
        return {"type": "http.request", "body": body, "more_body": False}


class Guarded:
    """Sends an answer on, unless the body was cut off: then it is about the missing rest."""

    def __init__(self, send: Send, body: Body) -> None:
        self._send = send
        self._body = body
        self.status = 0
        """Of the answer; 0 while there is none."""
        self.is_too_large = False
        """Whether the answer was that; it is not sent on, for ours to be."""

    async def __call__(self, message: Message) -> None:
        """Send a part on, or not."""
        if self._body.cut:
            return
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.is_too_large = self.status == 413
        if not self.is_too_large:
            await self._send(message)


def expected_bytes(headers: Headers, most_bytes: int) -> int:
    """How much a request says that it sends; ``most_bytes`` where it does not say."""
    told = headers.get("content-length", "")
    return int(told) if told.isdecimal() and len(told) < 20 else most_bytes


def cut_off(body: Body, too_large: str) -> Turned:
    """The refusal of a request whose body was cut off."""
    if body.cut == "large":
        return Turned(413, "too_large", too_large)
    return Turned(408, "slow", "the rest of this request did not arrive")


def in_words(size_bytes: int) -> str:
    """A size as people say it, in thousands, as settings and commands do."""
    for unit, divisor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size_bytes >= divisor:
            return f"{size_bytes / divisor:.3g} {unit}"
    return f"{size_bytes} bytes"
