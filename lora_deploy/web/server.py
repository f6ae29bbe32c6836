"""A server on a port that stops in order: first no new work, then what is under way is finished, then the end."""

import asyncio
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import uvicorn
from starlette.types import ASGIApp

from lora_deploy import open_files
from lora_deploy.errors import AddressTakenError, LoraDeployError
from lora_deploy.web.pulse import Pulse
from lora_deploy.web.resting import Resting

KEEP_ALIVE_SECONDS = 65
"""Longer than programs and proxies do, or one asks on a connection that is just being closed."""

UNREAD_SECONDS = 60.0
"""For a visitor to take what was written of an answer."""

_PLACES = 2
"""Connections that may be open for each that is answered: one more has to be taken to be refused."""

_FILES_PER_CONNECTION = _PLACES + 2
"""That may be open: its places, an upload, and that upload once more for who reads it."""

_BACKLOG = 100
"""Connections that are taken at one go, before any of them can be closed."""


class OrderlyServer(uvicorn.Server):
    """Stops in two steps: first no new work, then, when there is none left, not at all.

    Args:
        app: What is served.
        pulse: Told when it stops.
        connections: At once; fewer where so many files can't be open. Of more than these, the door,
            which asks the pulse, refuses requests; of more than twice as many, resting ones are
            closed.
        request_seconds: For a request to arrive, up to its body, after the connection is made or
            its first byte is sent.
        grace_seconds: What is under way may take so long after the server was asked to stop.
        http: Which of uvicorn's protocols.
    """

    def __init__(
        self,
        app: ASGIApp,
        pulse: Pulse,
        *,
        connections: int,
        request_seconds: float,
        grace_seconds: float,
        http: Any = "auto",
    ) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                http=http,
                log_config=None,
                access_log=False,
                server_header=False,
                lifespan="on",
                ws="none",
                timeout_keep_alive=KEEP_ALIVE_SECONDS,
                timeout_graceful_shutdown=2,
                backlog=_BACKLOG,
            )
        )
        self._connections = (
            open_files.allow(_FILES_PER_CONNECTION * connections) // _FILES_PER_CONNECTION
        )
        self._pulse = pulse
        pulse.is_crowded = lambda: len(self.server_state.connections) > self._connections
        self._resting = Resting(
            self.server_state.connections,
            most=_PLACES * self._connections,
            request_seconds=request_seconds,
        )
        self._grace_seconds = grace_seconds
        self._stopping_since = 0.0
        self._unread: dict[Any, asyncio.Task[None]] = {}
        self.at_start: Callable[[], None] | None = None
        """Called in a thread when requests are taken."""
        self.failure: LoraDeployError | None = None
        """Why it did not go on."""
        self.ended_by: int | None = None
        """The second signal, which ended it at once; None where none did."""

    def is_working(self) -> bool:
        """Whether anything is under way."""
        return False

    def end_work(self) -> None:
        """Give up what is still under way."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to take requests, and say so."""
        self.config.http_protocol_class = _telling(
            self.config.http_protocol_class, self._resting.came
        )
        await super().startup(sockets)
        if self.at_start is not None:
            try:
                await asyncio.to_thread(self.at_start)
            except LoraDeployError as error:
                self.failure = error
                self.should_exit = True

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to stop; at the second signal at once."""
        if self._pulse.is_stopping:
            self.force_exit = self.should_exit = True
            self.ended_by = sig
        self.stop()

    def stop(self) -> None:
        """Begin to stop; safe from other threads."""
        self._stopping_since = self._stopping_since or time.monotonic()
        self._pulse.is_stopping = True

    async def on_tick(self, counter: int) -> bool:
        """Whether to end, asked ten times a second."""
        if self._pulse.is_stopping and not self.should_exit:
            waited = time.monotonic() - self._stopping_since
            if waited > self._grace_seconds or not self.is_working():
                self.end_work()
                self.should_exit = True
        self._resting.end_silent()
        self._watch_unread_answers()
        return await super().on_tick(counter)

    def _watch_unread_answers(self) -> None:
        """Uvicorn waits without end for whoever does not read, also when it closes a connection."""
        connections: set[Any] = {*self.server_state.connections}
        for one in connections - self._unread.keys():
            one.transport.set_write_buffer_limits(0)  # it is paused while anything is not sent
            if one.flow.write_paused:
                self._unread[one] = asyncio.create_task(self._end_unless_read(one))

    async def _end_unless_read(self, connection: Any) -> None:
        # Awaited, because somebody who reads slowly would be found paused at nearly every tick.
        try:
            async with asyncio.timeout(UNREAD_SECONDS):
                await connection.flow.drain()
        except TimeoutError:
            connection.transport.abort()
        finally:
            del self._unread[connection]


def _telling(protocol: Any, came: Callable[[Any], None]) -> Any:
    """The same protocol; ``came`` is called with each connection that is made."""

    def connection_made(connection: Any, transport: asyncio.Transport) -> None:
        protocol.connection_made(connection, transport)
        came(connection)

    return type(protocol.__name__, (protocol,), {"connection_made": connection_made})


@contextmanager
def listening(host: str, port: int) -> Iterator[tuple[socket.socket, str]]:
    """A socket on the address, and how a browser calls it.

    Raises:
        AddressTakenError: The port is taken, or the address is not this computer's.
    """
    host = host or "0.0.0.0"  # noqa: S104  as it was asked for
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM
        )[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise _taken(host, port, error) from None
    with listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(address)
        except OSError as error:
            raise _taken(host, port, error) from None
        named, found = listener.getsockname()[:2]
        yield listener, f"http://{f'[{named}]' if ':' in named else named}:{found}"


def _taken(host: str, port: int, error: OSError) -> AddressTakenError:
    return AddressTakenError(f"{host}, port {port}: {error.strerror or error}")
