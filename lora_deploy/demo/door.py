"""What stands between the network and Gradio: who may come in, what may be asked for, and how much.

It knows nothing of models, or of what the page shows.
"""

import json
import logging
from re import Match

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lora_deploy.demo.entrance import Entrance
from lora_deploy.demo.headers import page_headers
from lora_deploy.demo.opaque import ForeignFileError, with_real_files
from lora_deploy.demo.routes import Route, route_of
from lora_deploy.demo.settings import DemoSettings
from lora_deploy.demo.uploads import IDLE_SECONDS, Uploads
from lora_deploy.web import watch as watching
from lora_deploy.web.bodies import (
    FORM_BYTES,
    LEAST_UPLOAD_BYTES_PER_SECOND,
    Body,
    Guarded,
    Replayed,
    cut_off,
    expected_bytes,
    in_words,
)
from lora_deploy.web.headers import SafeHeaders
from lora_deploy.web.hosts import check_origin, path_of
from lora_deploy.web.pulse import Pulse
from lora_deploy.web.turned import Turned
from lora_deploy.web.watch import Watch

MOST_JSON_BYTES = 1_000_000
"""Of a message that is no upload; the page's own have a few kilobytes."""

_JSON_SECONDS = 20.0
"""For a message that is no upload to arrive."""

_DRAIN_SECONDS = 10.0

_SHOWN = {
    ".mp4": "video/mp4",
    ".webm": "video/webm",
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".webp": "image/webp",
    ".gif": "image/gif",
}
"""What a browser may show of visitors' files; all others it may only save."""

_NO_ROOM = "many files are here already: please try again in some minutes"

_STRIPPED = (b"x-gradio-server",)
"""By which Gradio would believe a visitor about its own address."""

logger = logging.getLogger(__name__)


class Door:
    """The outermost layer, around Gradio's application.

    Args:
        app: Gradio's.
        settings: What is allowed.
        watch: Counts who is turned away and what is uploaded.
        uploads: Where files go.
        names: The endpoints that may be called by name.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        settings: DemoSettings,
        watch: Watch,
        uploads: Uploads,
        names: frozenset[str],
    ) -> None:
        self._app = app
        self._settings = settings
        self._watch = watch
        self.uploads = uploads
        self._names = names
        self.pulse = Pulse()
        self._entrance = Entrance(settings, watch)
        self._safe = SafeHeaders(page_headers(settings.framed_by))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One connection, as ASGI has it."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif scope["type"] == "http":
            await self._request(scope, Body(receive), send)
        else:  # the page needs no web socket
            await send({"type": "websocket.close", "code": 1008})

    async def _request(self, scope: Scope, body: Body, send: Send) -> None:
        found = route_of(path_of(scope, self._settings.root_path))
        send = self._safe.on(send, may_be_kept=found is not None and found[0].kind == "static")
        try:
            answer = await self._answer(found, scope, body, send)
        except Turned as turned:
            self._watch.rejected(turned.reason)
            answer = JSONResponse({"detail": turned.text}, turned.status, turned.headers)
            if body.cut != "slow":
                await body.drain(2 * self._settings.max_upload_bytes, _DRAIN_SECONDS)
        except Exception as error:  # Gradio has answered that something failed
            if not body.is_gone:
                self._watch.rejected("fault")
                logger.debug("a request failed: %s", type(error).__name__, exc_info=True)
            return
        if answer is not None:
            await answer(scope, body, send)

    async def _answer(
        self, found: tuple[Route, Match[str]] | None, scope: Scope, body: Body, send: Send
    ) -> Response | None:
        """The answer; None where Gradio gave one.

        Raises:
            Turned: The request is not let through.
        """
        headers = Headers(scope=scope)
        kind = found[0].kind if found else None
        if kind == "health":
            stopping = self.pulse.is_stopping
            return JSONResponse(
                {"status": "stopping" if stopping else "ok"}, 503 if stopping else 200
            )
        if self.pulse.is_crowded() and kind != "metrics":
            wait = {"retry-after": "2", "connection": "close"}
            raise Turned(503, "busy", "many people are here: please try again", wait)
        self._entrance.check_address(headers)
        if kind == "metrics":
            if not self._entrance.may_see_metrics(scope, headers):
                raise Turned(
                    403, "metrics", "metrics are for this computer, or for who is logged in"
                )
            return Response(self._watch.metrics(), media_type=watching.CONTENT_TYPE)
        if kind in ("login", "logout") and self._entrance.login.is_needed:
            if kind == "logout":
                return self._entrance.out(headers)
            if scope["method"] == "POST":
                return await self._entrance.come_in(scope, headers, body)
            return self._entrance.page(200)
        if not self._entrance.is_known(scope, headers):
            if kind == "page" and "text/html" in headers.get("accept", ""):
                return self._entrance.page(401)
            raise Turned(401, "login", "please log in")
        if found is None or kind in ("login", "logout"):
            raise Turned(404, "not_found", "there is nothing here")
        return await self._let_through(*found, scope, body, send)

    async def _let_through(
        self, route: Route, match: Match[str], scope: Scope, body: Body, send: Send
    ) -> Response | None:
        if scope["method"] not in route.methods:
            allowed = {"allow": ", ".join(sorted(route.methods))}
            raise Turned(405, "not_found", "this address is not asked so", allowed)
        if scope["method"] not in ("GET", "HEAD"):
            check_origin(Headers(scope=scope))
        if route.adds_work and self.pulse.is_stopping:
            raise Turned(503, "stopping", "the server is stopping: please try again in a minute")
        if match.groupdict().get("name") not in {None, *self._names}:
            raise Turned(404, "not_found", "no endpoint has this name")
        if route.kind == "file":
            return self._file(match["file"])
        scope = {
            **scope,
            "headers": [pair for pair in scope["headers"] if pair[0] not in _STRIPPED],
        }
        if route.kind == "json":
            await self._message(scope, body, send)
        elif route.kind == "upload":
            await self._upload(scope, body, send)
        else:
            await self._app(scope, body, send)
        return None

    def _file(self, public: str) -> Response:
        file = self.uploads.real(public)
        if file is None:
            raise Turned(404, "not_found", "there is no such file")
        shown = _SHOWN.get(file.suffix.lower())
        return FileResponse(
            file,
            media_type=shown or "application/octet-stream",
            filename=file.name,
            content_disposition_type="inline" if shown else "attachment",
        )

    async def _message(self, scope: Scope, body: Body, send: Send) -> None:
        """Pass on a message with the real paths of its files; no other files can be named."""
        whole = await body.whole(MOST_JSON_BYTES, _JSON_SECONDS)
        if whole is None:
            raise cut_off(body, f"this message has more than {MOST_JSON_BYTES} bytes")
        try:
            real = json.dumps(with_real_files(json.loads(whole), self.uploads)).encode()
        except ForeignFileError:
            raise Turned(400, "foreign_file", "a file must be uploaded first") from None
        except (ValueError, RecursionError):
            raise Turned(400, "malformed", "this is no JSON") from None
        MutableHeaders(scope=scope)["content-length"] = str(len(real))
        await self._app(scope, Replayed(real, body), self._counting_busy(send))

    def _counting_busy(self, send: Send) -> Send:
        async def counting(message: Message) -> None:
            if message["type"] == "http.response.start" and message["status"] == 503:
                self._watch.rejected("busy")
            await send(message)

        return counting

    async def _upload(self, scope: Scope, body: Body, send: Send) -> None:
        most = self._settings.max_upload_bytes + FORM_BYTES
        expected = expected_bytes(Headers(scope=scope), most)
        too_large = f"this is too large: at most {in_words(self._settings.max_upload_bytes)} can be uploaded"
        if expected > most:
            raise Turned(413, "too_large", too_large)
        guarded = Guarded(send, body)
        try:
            with self.uploads.room_for(expected) as is_room:
                if not is_room:
                    raise Turned(503, "no_room", _NO_ROOM)
                body.limit(
                    expected,
                    IDLE_SECONDS / 2,
                    least_bytes_per_second=LEAST_UPLOAD_BYTES_PER_SECOND,
                )
                await self._app(scope, body, guarded)
        except Exception:
            if not body.cut:  # else it is about the missing rest
                raise
        finally:
            self.uploads.clear_torn()
        if body.cut:
            raise cut_off(body, too_large)
        if guarded.is_too_large:
            raise Turned(413, "too_large", too_large)
        if guarded.status == 200:
            self._watch.uploaded(body.bytes)
