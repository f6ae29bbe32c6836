"""What may be asked for at all: every address of the page, by its pattern; any other is not there.

Gradio serves far more (its own pages of API, monitoring and history, a proxy, recordings, an editor);
what the page and the named endpoints don't need is not passed on to it.
"""

import re
from dataclasses import dataclass
from typing import Literal

Kind = Literal[
    "health", "metrics", "login", "logout", "page", "static", "stream", "json", "upload", "file"
]

FILE = "/gradio_api/file="

_READ = frozenset({"GET", "HEAD"})
_SESSION = r"[A-Za-z0-9_-]{1,128}"


@dataclass(frozen=True)
class Route:
    """One kind of address."""

    kind: Kind
    """How it is treated."""
    pattern: re.Pattern[str]
    """Of the whole path, decoded once."""
    methods: frozenset[str]
    adds_work: bool = False
    """Whether it is refused while the server stops."""


def _route(kind: Kind, pattern: str, *methods: str, adds_work: bool = False) -> Route:
    return Route(kind, re.compile(pattern), frozenset(methods) or _READ, adds_work)


ROUTES = (
    _route("health", "/health"),
    _route("metrics", "/metrics"),
    _route("login", "/login/?", "GET", "HEAD", "POST"),
    _route("logout", "/logout/?", "GET"),
    _route("page", "/"),
    _route("page", "/config/?"),
    _route("page", "/gradio_api/info/?"),
    _route("static", "(/gradio_api)?/theme[.]css"),
    _route("static", "/favicon[.]ico"),
    # Without its ffmpeg: 31 MB that each visitor's browser would fetch, to cut a video there.
    _route(
        "static", r"/(assets|svelte|static/(?!ffmpeg/)[a-z]+)(/[A-Za-z0-9_@-][A-Za-z0-9_@.-]*)+"
    ),
    _route("stream", f"/gradio_api/heartbeat/{_SESSION}", "GET"),
    _route("stream", "/gradio_api/queue/data", "GET"),
    _route("stream", "/gradio_api/upload_progress", "GET"),
    _route("stream", f"/gradio_api/call/(?P<name>[A-Za-z0-9_-]+)/{_SESSION}", "GET"),
    _route("json", "/gradio_api/call/(?P<name>[A-Za-z0-9_-]+)/?", "POST", adds_work=True),
    _route("json", "/gradio_api/queue/join", "POST", adds_work=True),
    _route("json", "/gradio_api/run/predict", "POST", adds_work=True),
    _route("json", "/gradio_api/(cancel|reset)/?", "POST"),
    _route("upload", "/gradio_api/upload", "POST", adds_work=True),
    _route("file", f"{FILE}(?P<file>.+)"),
)


def route_of(path: str) -> tuple[Route, re.Match[str]] | None:
    """The route of a path and how it matched; None where nothing is."""
    for route in ROUTES:
        if match := route.pattern.fullmatch(path):
            return route, match
    return None
