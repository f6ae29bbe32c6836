"""The page on a port: Gradio's application behind our door, started, swept, and stopped in order."""

import asyncio
import contextlib
import logging
import secrets
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from types import SimpleNamespace
from typing import Any, TypeVar

import gradio
from gradio import queueing, routes
from gradio.route_utils import CustomCORSMiddleware
from gradio.routes import App, file_upload_statuses
from gradio.utils import get_theme
from starlette.middleware import Middleware

from lora_deploy.demo.door import Door
from lora_deploy.demo.headers import PagePolicy
from lora_deploy.demo.opaque import OpaqueMessages
from lora_deploy.demo.settings import DemoSettings
from lora_deploy.demo.uploads import Uploads, settle
from lora_deploy.errors import NoPublicLinkError
from lora_deploy.web.server import OrderlyServer, listening
from lora_deploy.web.watch import Watch

GRACE_SECONDS = 20.0
"""What is being worked on may take so long after the server was asked to stop."""

CONNECTIONS = 600
"""At once; a browser with the page open holds two or three. Who asks on another one is told 503."""

REQUEST_SECONDS = 10.0
"""For a request to arrive, up to its body, after the connection is made or its first byte is sent."""

_SESSIONS = 200
"""Visitors whose page's state is kept, in the order of their last request."""

_SWEEP_SECONDS = 15.0

_STARTED_SECONDS = 60.0

logger = logging.getLogger(__name__)

Made = TypeVar("Made")

Told = Callable[[str], None]


def serve(
    blocks: gradio.Blocks, settings: DemoSettings, watch: Watch, *, ready: Told | None = None
) -> None:
    """Serve the page until SIGTERM or Ctrl-C; then finish what is being worked on, and return.

    Look is taken from ``blocks.theme``, ``css`` and ``js``, where those are set; ``blocks.head`` goes
    into the page as it is sent, because what Gradio adds to it in the browser may not run.

    Args:
        blocks: The page.
        settings: Where, for whom, and how much.
        watch: Where it is counted.
        ready: Called with the address when the first page can be asked for.

    Raises:
        AddressTakenError: The port is taken, or the address is not this computer's.
        NoPublicLinkError: A public link was asked for, and none is to be had.
    """
    with listening(settings.host, settings.port) as (listener, url):
        server = _server(blocks, settings, watch)
        server.at_start = lambda: _announce(url, settings, watch, ready)
        try:
            server.run([listener])
        finally:
            server.door.uploads.clear()  # at a second signal, nobody else has
        watch.log("stopped")
        if server.failure is not None:
            raise server.failure


@contextmanager
def serving(blocks: gradio.Blocks, settings: DemoSettings, watch: Watch) -> Iterator[str]:
    """Serve the page in a thread, at the address that is yielded, until the block ends."""
    with listening(settings.host, settings.port) as (listener, url):
        server = _server(blocks, settings, watch)
        thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
        thread.start()
        _wait_until_started(server, thread)
        try:
            yield url
        finally:
            server.stop()
            thread.join(GRACE_SECONDS + _STARTED_SECONDS)


def application(blocks: gradio.Blocks, settings: DemoSettings, watch: Watch) -> Door:
    """The page as an ASGI application, for a server of your own; it runs its lifespan."""
    return in_a_loop(lambda: _application(blocks, settings, watch))


def in_a_loop(make: Callable[[], Made]) -> Made:
    """Make something of Gradio's, which leaves event loops open where none is running."""

    async def making() -> Made:
        return make()

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(making())
    return make()


def _application(blocks: gradio.Blocks, settings: DemoSettings, watch: Watch) -> Door:
    folder = settle()
    head, blocks.head = blocks.head or "", None
    _configure(blocks, settings)
    uploads = Uploads(
        folder, most_bytes=settings.folder_bytes, keep_seconds=settings.keep_files_seconds
    )
    app = App.create_app(
        blocks, app_kwargs={"lifespan": lambda app: _life(app, uploads, watch)}, mcp_server=False
    )
    for component in blocks.config["components"]:
        component["example_inputs"] = None  # addresses of other hosts
    _log_in_place_of_printing(watch)
    policy = PagePolicy(settings.framed_by, has_scripts=_has_scripts(blocks))
    blocks.app = app
    blocks._queue.set_server_app(app)
    app.user_middleware = [
        # No other origin is allowed anything, so no header says so.
        *(
            one
            for one in app.user_middleware
            if getattr(one, "cls", None) is not CustomCORSMiddleware
        ),
        Middleware(OpaqueMessages, folder=folder, policy=policy, head=head),
    ]
    watch.follow("queue_length", "Requests that wait", lambda: len(blocks._queue))
    watch.follow("upload_folder_bytes", "Files of visitors on the disk", uploads.used_bytes)
    names = {fn.api_name for fn in blocks.fns.values() if fn.api_visibility == "public"}
    return Door(
        app,
        settings=settings,
        watch=watch,
        uploads=uploads,
        names=frozenset(name for name in names if isinstance(name, str)),
    )


def _log_in_place_of_printing(watch: Watch) -> None:
    """Gradio prints what a handler raised, with the names of visitors' files; we log its kind."""

    def log() -> None:
        error = sys.exc_info()[1]
        watch.log("fault", error=type(error).__name__)
        logger.debug("a request failed", exc_info=True)

    for module in (queueing, routes):
        vars(module)["traceback"] = SimpleNamespace(print_exc=log)


def _has_scripts(blocks: gradio.Blocks) -> bool:
    """Whether Gradio makes functions of texts in the browser: of JavaScript, of HTML's templates."""
    has_html = any(isinstance(block, gradio.HTML) for block in blocks.blocks.values())
    return has_html or bool(blocks.js) or any(fn.js for fn in blocks.fns.values())


def _configure(blocks: gradio.Blocks, settings: DemoSettings) -> None:
    """What ``launch()`` would set, each to the closed side."""
    for block in blocks.blocks.values():
        block.GRADIO_CACHE = str(settle())
    blocks.allowed_paths = []
    blocks.blocked_paths = []
    blocks.analytics_enabled = False
    blocks.auth = None  # the door asks
    blocks.dev_mode = False
    blocks.enable_monitoring = False
    blocks.favicon_path = None
    blocks.pwa = False
    blocks.root_path = settings.root_path
    blocks.share = False  # another template, for Gradio's relay
    blocks.show_error = False
    blocks.space_id = None  # of which the page would ask Hugging Face
    blocks.ssr_mode = False
    blocks.vibe_mode = False
    rest: Any = blocks  # of which Gradio tells no types
    vars(rest).update(
        footer_links=[],
        max_file_size=settings.max_upload_bytes,
        run_history=False,
        state_session_capacity=_SESSIONS,
        # Gradio checks which files a visitor may name, and keeps SVG from being shown, only after
        # launch(); an application that is mounted is never marked so.
        has_launched=True,
        is_running=True,
    )
    vars(rest).setdefault("css_paths", [])
    rest.theme = get_theme(blocks.theme)
    rest._set_html_css_theme_variables()
    _configure_queue(blocks, settings)
    rest.validate_queue_settings()


def _configure_queue(blocks: gradio.Blocks, settings: DemoSettings) -> None:
    """All that waits waits in one line, so that ``at_once`` is for the whole page."""
    blocks.queue(
        api_open=False, max_size=settings.waiting, default_concurrency_limit=settings.at_once
    )
    # Else Gradio makes a table of the last 10,000 requests after each one.
    blocks._queue.ANALYTICS_MAX_EVENTS = 1
    blocks._queue.ANAYLTICS_CACHE_FREQUENCY = sys.maxsize
    for fn in blocks.fns.values():
        if fn.concurrency_limit == "default":
            fn.concurrency_id = "page"


@asynccontextmanager
async def _life(app: App, uploads: Uploads, watch: Watch) -> AsyncIterator[None]:
    """From the start of the event loop to its end."""
    blocks: Any = app.get_blocks()
    blocks.run_startup_events()
    await blocks.run_extra_startup_events()
    sweeper = asyncio.create_task(_sweep_for_ever(blocks, uploads, watch))
    try:
        yield
    finally:
        sweeper.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await sweeper
        uploads.clear()


async def _sweep_for_ever(blocks: gradio.Blocks, uploads: Uploads, watch: Watch) -> None:
    while True:
        await asyncio.sleep(_SWEEP_SECONDS)
        gone = await asyncio.to_thread(uploads.sweep)
        watch.deleted(len(gone))
        for names in blocks.temp_file_sets:  # Gradio remembers each file for ever
            names.difference_update(str(file) for file in gone)
        _forget_sessions(blocks)
        _forget_uploads()


def _forget_sessions(blocks: gradio.Blocks) -> None:
    """Gradio keeps the names of requests for ever whose visitor never came for the answer."""
    queue = blocks._queue
    for session in list(queue.pending_event_ids_session):
        waiting = any(
            event in queue.event_ids_to_events for event in queue.pending_event_ids_session[session]
        )
        if not waiting and session not in queue.pending_messages_per_session:
            del queue.pending_event_ids_session[session]


def _forget_uploads() -> None:
    """Gradio keeps the progress of an upload until somebody asks for it."""
    progress = file_upload_statuses._statuses
    for number, (name, tracker) in enumerate(reversed(list(progress.items()))):
        if tracker.is_done or number > CONNECTIONS:
            progress.pop(name, None)


class _Server(OrderlyServer):
    """Works as long as Gradio's queue does."""

    def __init__(self, door: Door, blocks: gradio.Blocks) -> None:
        super().__init__(
            door,
            door.pulse,
            connections=CONNECTIONS,
            request_seconds=REQUEST_SECONDS,
            grace_seconds=GRACE_SECONDS,
        )
        self.door = door
        self._blocks = blocks

    def is_working(self) -> bool:
        """Whether anything waits or is worked on."""
        queue = self._blocks._queue
        return len(queue) > 0 or queue.get_active_worker_count() > 0

    def end_work(self) -> None:
        """End the streams of answers."""
        queue: Any = self._blocks._queue
        queue.close()
        self._blocks.is_running = False
        app: App = self._blocks.app
        app.stop_event.set()


def _server(blocks: gradio.Blocks, settings: DemoSettings, watch: Watch) -> _Server:
    return _Server(application(blocks, settings, watch), blocks)


def _announce(url: str, settings: DemoSettings, watch: Watch, ready: Told | None) -> None:
    watch.log("listening", public=settings.is_public, login=bool(settings.login))
    if settings.share:
        url = _public_link(url)
    if ready is not None:
        ready(url)


def _public_link(url: str) -> str:
    """A link through Gradio's relay, which its program for that asks for."""
    from gradio.networking import setup_tunnel

    host, _, port = url.removeprefix("http://").rpartition(":")
    try:
        link: str = setup_tunnel(host, int(port), secrets.token_urlsafe(32), None, None)
    except Exception as error:  # of the download, of the program, of its certificate
        raise NoPublicLinkError(f"no public link: {type(error).__name__}") from None
    return link


def _wait_until_started(server: _Server, thread: threading.Thread) -> None:
    begun = time.monotonic()
    while not server.started:
        if not thread.is_alive() or time.monotonic() - begun > _STARTED_SECONDS:
            raise RuntimeError("the server did not start")
        time.sleep(0.005)
