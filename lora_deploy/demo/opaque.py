"""What leaves and enters in messages: files go by public names, and no path of the server is told.

Gradio names an uploaded file by its absolute path, both ways, and would fetch an address that stands
where a path should. Here the folder has a public name, and nothing else is a file.
"""

import json
import re
import secrets
from pathlib import Path
from typing import Any
from urllib.parse import quote

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lora_deploy.demo.headers import PagePolicy
from lora_deploy.demo.uploads import PUBLIC, Uploads

_REWRITTEN = ("application/json", "text/html", "text/plain", "text/event-stream")

_FOREIGN_META = re.compile(
    rb'<meta\s+(?:property|name)="(?:og|twitter):[^>]*>|<link rel="manifest"[^>]*>'
)
"""Lines of Gradio's page that name other hosts, or a file that a page below a path has not."""

_INFO = re.compile(rb"window\.gradio_api_info = (.*?);</script>", re.DOTALL)


class ForeignFileError(Exception):
    """A message names a file that nobody uploaded here, or an address in place of one."""


def with_real_files(value: Any, uploads: Uploads) -> Any:
    """A message of a visitor, as parsed from JSON, with the real path of each file.

    Raises:
        ForeignFileError: One of the files is not in the folder, or is an address.
    """
    if isinstance(value, list):
        return [with_real_files(item, uploads) for item in value]
    if not isinstance(value, dict):
        return value
    mapped = {key: with_real_files(item, uploads) for key, item in value.items()}
    if "path" in value:
        path = value["path"]
        real = uploads.real(path) if isinstance(path, str) else None
        if real is None:
            raise ForeignFileError
        mapped["path"] = str(real)
        mapped.pop("url", None)  # where a browser finds it; the server needs none
        mapped.pop("is_stream", None)
    return mapped


class PublicNames:
    """Gives the folder its public name in what Gradio sends, event by event in a stream."""

    def __init__(self, folder: Path) -> None:
        path = str(folder)
        spellings = {
            path,
            json.dumps(path)[1:-1],
            json.dumps(path, ensure_ascii=False)[1:-1],
            quote(path),
        }
        self._spellings = [
            spelling.encode() for spelling in sorted(spellings, key=len, reverse=True)
        ]

    def __call__(self, body: bytes) -> bytes:
        """``body`` without the real path."""
        for spelling in self._spellings:
            body = body.replace(spelling, PUBLIC.encode())
        return body


class OpaqueMessages:
    """Innermost of Gradio's middleware, so that what it sees is not compressed yet."""

    def __init__(self, app: ASGIApp, *, folder: Path, policy: PagePolicy, head: str = "") -> None:
        """``head`` is HTML for the end of the page's head; its scripts may run."""
        self._app = app
        self._public = PublicNames(folder)
        self._policy = policy
        self._head = head

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One connection, as ASGI has it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        rewriting = _Rewriting(scope["path"], self._public, self._policy, self._head, send)
        await self._app(scope, receive, rewriting)


class _Rewriting:
    """Sends a response on with public names; all but streams are held until they are complete."""

    def __init__(
        self, path: str, public: PublicNames, policy: PagePolicy, head: str, send: Send
    ) -> None:
        self._head = head
        self._send = send
        self._public = public
        self._policy = policy
        self._is_info = path.rstrip("/").endswith("/gradio_api/info")
        self._start: Message | None = None
        self._kind = ""
        self._body = b""

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = dict(message["headers"])
            self._kind = headers.get(b"content-type", b"").decode("latin-1").partition(";")[0]
            if self._kind in _REWRITTEN and self._kind != "text/event-stream":
                self._start = message
                return
        elif message["type"] == "http.response.body" and self._kind in _REWRITTEN:
            if self._start is not None:
                await self._collect(self._start, message)
                return
            message = {**message, "body": self._public(message.get("body", b""))}
        await self._send(message)

    async def _collect(self, start: Message, message: Message) -> None:
        self._body += message.get("body", b"")
        if message.get("more_body"):
            return
        start = {**start, "headers": list(start["headers"])}
        headers = MutableHeaders(scope=start)
        body = self._public(self._body)
        if self._kind == "text/html":
            body = self._page(body, headers)
        elif self._is_info:
            body = trimmed_info(body)
        headers["content-length"] = str(len(body))
        await self._send(start)
        await self._send({"type": "http.response.body", "body": body})

    def _page(self, body: bytes, headers: MutableHeaders) -> bytes:
        """Gradio's page, whose own scripts alone may run."""
        mark = secrets.token_urlsafe(16)
        headers["content-security-policy"] = self._policy.with_mark(mark)
        body = _INFO.sub(_trimmed_in_page, _FOREIGN_META.sub(b"", body))
        body = body.replace(b"</head>", self._head.encode() + b"</head>", 1)
        # Within a script, Gradio writes no such character of what is not its own.
        return body.replace(b"<script", f'<script nonce="{mark}"'.encode())


def trimmed_info(body: bytes) -> bytes:
    """What the interface of the page is, without snippets of code and examples.

    Gradio writes the host that the first visitor called it by into the snippets, and keeps them for
    all; its examples are addresses of other hosts.
    """
    try:
        info = json.loads(body)
        for endpoint in info["named_endpoints"].values():
            endpoint.pop("code_snippets", None)
            for parameter in endpoint["parameters"]:
                parameter["example_input"] = None
            for value in endpoint["returns"]:
                value.pop("example_input", None)
        info["unnamed_endpoints"] = {}
    except (ValueError, KeyError, AttributeError, TypeError):  # an error message
        return body
    return json.dumps(info).encode()


def _trimmed_in_page(found: re.Match[bytes]) -> bytes:
    info = trimmed_info(found[1]).decode()
    for character in "<>&'":  # it stands inside of a script
        info = info.replace(character, f"\\u{ord(character):04x}")
    return b"window.gradio_api_info = " + info.encode() + b";</script>"
