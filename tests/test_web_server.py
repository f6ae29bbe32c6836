"""The server below the service and the demo: which connections it ends, and which it never does."""

import re
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from lora_deploy.web.pulse import Pulse
from lora_deploy.web.resting import Resting
from lora_deploy.web.server import OrderlyServer, listening


def until(holds: Callable[[], bool], seconds: float = 15) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_connection_ends_though_nobody_reads_its_last_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("lora_deploy.web.server.UNREAD_SECONDS", 0.3)
    answer = PlainTextResponse("x" * 60_000, headers={"connection": "close"})
    with listening("127.0.0.1", 0) as (listener, _), socket.socket() as visitor:
        for one, buffer in ((listener, socket.SO_SNDBUF), (visitor, socket.SO_RCVBUF)):
            one.setsockopt(socket.SOL_SOCKET, buffer, 1)  # the least that the system gives
        server = OrderlyServer(
            Starlette(routes=[Route("/", answer)]), Pulse(),
            connections=5, request_seconds=10, grace_seconds=0,
        )  # fmt: skip
        thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
        thread.start()
        until(lambda: server.started)
        visitor.connect(listener.getsockname())
        visitor.sendall(b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n")
        until(lambda: server.server_state.total_requests == 1)
        until(lambda: not server.server_state.connections)
        server.stop()
        thread.join(20)


@contextmanager
def running(
    answer: Any, *, connections: int, request_seconds: float = 600
) -> Iterator[tuple[OrderlyServer, str, tuple[str, int]]]:
    """A server, how to call it, and its address."""
    with listening("127.0.0.1", 0) as (listener, url):
        server = OrderlyServer(
            Starlette(routes=[Route("/", answer), Route("/", answer, methods=["POST"])]), Pulse(),
            connections=connections, request_seconds=request_seconds, grace_seconds=0,
        )  # fmt: skip
        thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
        thread.start()
        until(lambda: server.started)
        yield server, url, listener.getsockname()
        server.stop()
        thread.join(20)


def is_ended(connection: socket.socket) -> bool:
    """Whether the other side has closed it."""
    if not select.select([connection], [], [], 0)[0]:
        return False
    try:
        return connection.recv(1, socket.MSG_PEEK) == b""
    except ConnectionResetError:
        return True


REQUEST = b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n"


def heard(connection: socket.socket) -> str:
    """The answer, which has a length of one digit behind its last word."""
    got = b""
    while not re.search(rb"answered \d$", got):
        got += (part := connection.recv(1000))
        assert part
    return got.decode().rpartition(" ")[2]


def test_of_too_many_connections_those_give_way_that_ask_nothing() -> None:
    async def answer(request: Request) -> PlainTextResponse:
        return PlainTextResponse(f"answered {len(await request.body())}")

    with ExitStack() as crowd, running(answer, connections=5) as (server, _, address):

        def connected(sent: bytes = b"") -> socket.socket:
            one = crowd.enter_context(socket.create_connection(address, timeout=10))
            one.sendall(sent)
            return one

        uploading = connected(
            b"POST / HTTP/1.1\r\nhost: localhost\r\ncontent-length: 9\r\n\r\n1234"
        )
        answered = [connected(REQUEST) for _ in range(3)]
        for one in answered:
            assert heard(one) == "0"
        answered[0].sendall(REQUEST[:20])  # asks again
        silent = [connected() for _ in range(6)]
        until(lambda: len(server.server_state.connections) == 10)
        assert not any(map(is_ended, [uploading, *answered, *silent]))
        more = [connected() for _ in range(30)]
        until(lambda: sum(map(is_ended, [*silent, *more])) == 30)
        assert all(map(is_ended, silent))
        assert not any(map(is_ended, [uploading, *answered]))
        for one in more:
            one.close()
        until(lambda: len(server.server_state.connections) == 4)

        # Where nobody is silent, who had an answer longest ago.
        again = []
        for _ in range(7):
            again.append(connected(REQUEST))
            assert heard(again[-1]) == "0"
        until(lambda: is_ended(answered[1]))
        assert not any(map(is_ended, [uploading, answered[0], answered[2], *again]))
        answered[0].sendall(REQUEST[20:])
        uploading.sendall(b"56789")
        assert heard(answered[0]) == "0"
        assert heard(uploading) == "9"
        assert len(server.server_state.connections) == 10


def test_a_burst_of_connections_leaves_files_for_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are taken in small lots, and closed as they come: not a tenth of a second later."""
    real, at_once = Resting.came, [0]

    def came(resting: Resting, connection: object) -> None:
        at_once.append(len(resting._connections))
        real(resting, connection)

    async def answer(_: Request) -> PlainTextResponse:
        return PlainTextResponse("answered")

    monkeypatch.setattr(Resting, "came", came)
    with ExitStack() as crowd, running(answer, connections=5) as (_, url, address):
        for _ in range(600):
            one = crowd.enter_context(socket.socket())
            one.setblocking(False)
            with suppress(BlockingIOError):
                one.connect(address)
        until(lambda: httpx.get(url).text == "answered")
        assert max(at_once) <= 10 + 101 < len(at_once)


class Closing:
    """A connection that was told to close, and whose visitor does not read the rest of an answer."""

    cycle = SimpleNamespace(response_complete=True)
    timeout_keep_alive_task = None

    def __init__(self) -> None:
        self.transport = self

    def is_closing(self) -> bool:
        return True


class Silent(Closing):
    """One on which nothing was asked."""

    cycle: Any = None
    is_closed = False

    def is_closing(self) -> bool:
        return self.is_closed

    def close(self) -> None:
        self.is_closed = True


def test_nobody_gives_way_to_connections_that_are_ending() -> None:
    connections: set[Any] = {Closing() for _ in range(9)}
    resting = Resting(connections, most=10, request_seconds=10)
    silent = [Silent() for _ in range(11)]
    for number, one in enumerate(silent):
        connections.add(one)
        resting.came(one)
        assert [one.is_closed for one in silent].count(True) == (number == 10)
    assert silent[0].is_closed
