"""What stands between the network and the service: who may ask, and when; it knows nothing of videos."""

import asyncio
import hashlib
import hmac
import logging
import secrets
from typing import Any

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lora_deploy.serve.refusals import Refusing, crowded, stopping
from lora_deploy.serve.settings import ServeSettings
from lora_deploy.web.bodies import Body
from lora_deploy.web.headers import SafeHeaders
from lora_deploy.web.hosts import (
    address_of,
    check_origin,
    check_own_name,
    is_loopback,
    is_proxied,
    path_of,
)
from lora_deploy.web.pulse import Pulse
from lora_deploy.web.turned import Turned

BODY = "lora_deploy.body"
"""Where a request's `Body` stands in its scope."""

_OPEN = ("/healthz", "/readyz")
"""Asked by whoever runs the server, who has no token; they tell nothing."""

_HEADERS = {
    "content-security-policy": "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
}

logger = logging.getLogger("lora_deploy.serve")


class Tokens:
    """Those that are good."""

    def __init__(self, tokens: tuple[str, ...]) -> None:
        self._secret = secrets.token_bytes(32)
        self._known = [self._digest(token.encode()) for token in tokens]

    @property
    def are_needed(self) -> bool:
        """Whether one has to be named at all."""
        return bool(self._known)

    def accept(self, headers: Headers) -> bool:
        """Whether the ``Authorization`` header names one; takes equally long whatever is wrong."""
        scheme, _, token = headers.get("authorization", "").partition(" ")
        given = self._digest(token.strip().encode("latin-1", "replace"))
        right = sum(hmac.compare_digest(given, known) for known in self._known) > 0
        return right and scheme.lower() == "bearer"

    def _digest(self, token: bytes) -> bytes:
        return hmac.digest(self._secret, token, hashlib.sha256)


class Door:
    """The outermost layer, around the application."""

    def __init__(self, app: ASGIApp, settings: ServeSettings, refusing: Refusing) -> None:
        self._app = app
        self._settings = settings
        self._refusing = refusing
        self._tokens = Tokens(settings.tokens)
        self._safe = SafeHeaders(_HEADERS)
        self.pulse = Pulse()
        self._unanswered: set[asyncio.Task[Any]] = set()
        self.under_way = 0
        """Requests with a body that were let in and are being received, worked on, or answered."""

    def give_up(self) -> None:
        """Tell all who still wait that the server ends."""
        for task in self._unanswered:
            task.cancel()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One connection, as ASGI has it."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif scope["type"] == "http":
            await self._request(scope, Body(receive), self._safe.on(send, may_be_kept=False))
        else:  # no web socket is needed
            await send({"type": "websocket.close", "code": 1008})

    async def _request(self, scope: Scope, body: Body, send: Send) -> None:
        headers = Headers(scope=scope)
        task = asyncio.current_task()
        assert task is not None

        async def sending(message: Message) -> None:
            self._unanswered.discard(task)
            await send(message)

        self._unanswered.add(task)
        try:
            await self._answer(scope, headers, body, sending)
        except asyncio.CancelledError:
            if task not in self._unanswered:
                raise
            answer = await self._refusing.last_answer(headers, body)
            await answer(scope, body, sending)
        except Exception as error:
            if task in self._unanswered and not body.is_gone:
                await self._refusing.fault(error)(scope, body, sending)
            else:  # the application has answered that something failed, or nobody listens
                logger.debug("a request failed: %s", type(error).__name__, exc_info=True)
        finally:
            self._unanswered.discard(task)

    async def _answer(self, scope: Scope, headers: Headers, body: Body, send: Send) -> None:
        path = path_of(scope, self._settings.root_path)
        is_open = path in _OPEN
        is_work = not is_open and scope["method"] not in ("GET", "HEAD")
        try:
            if not is_open:
                self._check(path, scope, headers)
            self.under_way += is_work
            try:
                await self._app({**scope, BODY: body}, body, send)
            finally:
                self.under_way -= is_work
        except Turned as turned:
            answer = await self._refusing.answer(turned, headers, body)
            await answer(scope, body, send)

    def _check(self, path: str, scope: Scope, headers: Headers) -> None:
        """Let a request through, or not.

        Raises:
            Turned: Not.
        """
        if self.pulse.is_crowded() and path != "/metrics":
            raise crowded()
        if self._settings.is_private:
            check_own_name(
                headers,
                "this service was started for its own computer only: its operator may set a token, "
                "or say that none is needed",
            )
        if not self._may_ask(path, scope, headers):
            raise Turned(401, "token", "a token is needed", {"www-authenticate": "Bearer"})
        if scope["method"] not in ("GET", "HEAD"):
            check_origin(headers)
            if self.pulse.is_stopping:
                raise stopping()

    def _may_ask(self, path: str, scope: Scope, headers: Headers) -> bool:
        if not self._tokens.are_needed or self._tokens.accept(headers):
            return True
        # A program of this computer watches over it.
        return path == "/metrics" and is_loopback(address_of(scope)) and not is_proxied(headers)
