"""How the service says no: one shape for all, the status of each kind, and when to ask again."""

import math

from starlette.datastructures import Headers
from starlette.responses import JSONResponse

from lora_deploy.errors import ClipErrorKind
from lora_deploy.serve.settings import ServeSettings
from lora_deploy.web.bodies import Body
from lora_deploy.web.turned import Turned
from lora_deploy.web.watch import Watch

BUSY_SECONDS = 2.0
"""After which somebody who was told that there is no room may try again."""

_STOPPING_SECONDS = 10.0
"""After which another server may have taken the place of one that stops."""

REFUSALS = {
    "bad_request": "A value or the form is not what it may be.",
    "token": "The token is missing or wrong.",
    "address": "The service was started for its own computer only.",
    "origin": "Another site's page asks.",
    "no_such_address": "There is nothing here.",
    "method": "This address is not asked so.",
    "slow": "The rest of the request did not arrive, or too slowly.",
    "left": "Whoever asked has gone; only metrics and the log show it.",
    "too_large": "The upload has more bytes than are taken.",
    "content_type": "What is sent is neither a form nor said to be a video.",
    "busy": "The queue is full, a clip waited too long in it, or too many connections are open.",
    "no_room": "There is no room for another upload.",
    "opening": "The model is not open yet.",
    "stopping": "The server is stopping.",
    "fault": "A fault of the server; its log says where.",
}
"""Kinds beside those of clips, which are `lora_deploy.errors.CLIP_ERROR_KINDS`."""

_DRAIN_SECONDS = 10.0

_LAST_SECONDS = 1.0
"""As that, where the server ends; it waits no longer than two for answers that are on their way."""


def status_of(kind: ClipErrorKind) -> int:
    """The HTTP status of a clip that gives no answer: the file is to blame, so it is a 4xx.

    It is never 408 or 429, after which programs ask again by themselves.
    """
    return 413 if kind == "too_large" else 422


def later(reason: str, text: str, seconds: float = BUSY_SECONDS) -> Turned:
    """A 503 that says when to try again."""
    return Turned(503, reason, text, {"retry-after": str(math.ceil(seconds))})


def opening() -> Turned:
    """The refusal of what needs the model while it is not open."""
    return later("opening", "the model is not open yet: please try again in some seconds")


def no_room() -> Turned:
    """The refusal of an upload that finds no place, on the disk or among the files that may be open."""
    return later("no_room", "there is no room for another upload now: please try again")


def crowded() -> Turned:
    """The refusal of a request on a connection more than are taken; the connection ends with it."""
    turned = later("busy", "many connections are open already: please try again")
    turned.headers["connection"] = "close"
    return turned


def stopping() -> Turned:
    """The refusal of work that is not begun, or not ended, because the server stops."""
    return later("stopping", "the server is stopping: please try again", _STOPPING_SECONDS)


def refusal(turned: Turned) -> JSONResponse:
    """What is sent."""
    error = {"kind": turned.reason, "message": turned.text}
    return JSONResponse({"status": "error", "error": error}, turned.status, turned.headers)


class Refusing:
    """Counts who is turned away, and answers them when they are able to listen."""

    def __init__(self, settings: ServeSettings, watch: Watch) -> None:
        self._settings = settings
        self._watch = watch

    async def answer(self, turned: Turned, headers: Headers, body: Body) -> JSONResponse:
        """The answer, after the rest of what is being sent: many programs don't look at it before."""
        return await self._after(_DRAIN_SECONDS, turned, headers, body)

    async def last_answer(self, headers: Headers, body: Body) -> JSONResponse:
        """The answer of a server that ends to a request that it gives up."""
        return await self._after(_LAST_SECONDS, stopping(), headers, body)

    async def _after(
        self, seconds: float, turned: Turned, headers: Headers, body: Body
    ) -> JSONResponse:
        self._watch.rejected(turned.reason)
        waits_for_us = "expect" in headers and not body.bytes
        if body.cut != "slow" and not waits_for_us:
            await body.drain(2 * self._settings.max_upload_bytes, seconds)
        return refusal(turned)

    def fault(self, error: Exception) -> JSONResponse:
        """The answer where something broke that is ours; the log says where."""
        self._watch.fault(error, endpoint="request")
        self._watch.rejected("fault")
        return refusal(Turned(500, "fault", "something went wrong here, and not with the request"))
