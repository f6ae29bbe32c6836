"""The gate of a fetching process: what Python code in it can't do, whatever it has been talked into."""

import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from lora_deploy.links import gate


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    """On loopback; it must see nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.0)
        yield server
        with pytest.raises(BlockingIOError):
            server.accept()


def behind_the_gate(attempt: str, *, domains: tuple[str, ...] = ("example.org",)) -> str:
    """What becomes of a line of Python in a process whose gate is closed: ``done``, or the error's name."""
    program = f"""
import asyncio, json, os, socket, subprocess, sys, urllib.request
from pathlib import Path
from lora_deploy.links import gate
closed = gate.Gate(domains={domains!r}, program=Path(sys.executable))
closed.close()
try:
    {attempt}
except BaseException as error:
    print(json.dumps([type(error).__name__, closed.refused]))
else:
    print(json.dumps(["done", closed.refused]))
"""
    finished = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
    )
    name, refused = json.loads(finished.stdout.splitlines()[-1])
    assert bool(refused) == (name != "done"), (name, refused)
    return str(name)


@pytest.mark.parametrize(
    "attempt",
    [
        "socket.create_connection(('127.0.0.1', PORT), 2)",
        "socket.socket().connect(('127.0.0.1', PORT))",
        "socket.socket().connect_ex(('127.0.0.1', PORT))",
        "socket.socket().connect(('127.1', PORT))",
        "socket.socket().connect(('2130706433', PORT))",
        "socket.socket().connect(('localhost', PORT))",
        "socket.socket().connect(('0.0.0.0', PORT))",
        "socket.socket(socket.AF_INET6).connect(('::ffff:127.0.0.1', PORT))",
        "socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', PORT))",
        "socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendmsg([b'x'], [], 0, ('127.0.0.1', PORT))",
        "socket.socket(socket.AF_UNIX).connect('/run/docker.sock')",
        "socket.socket(socket.AF_UNIX).connect(b'\\0abstract')",
        "urllib.request.urlopen('http://127.0.0.1:PORT/', timeout=2)",
        "asyncio.run(asyncio.open_connection('127.0.0.1', PORT))",
        "socket.socket().bind(('0.0.0.0', 0))",
    ],
)
def test_no_private_socket_is_reached(attempt: str, listener: socket.socket) -> None:
    port = listener.getsockname()[1]
    assert behind_the_gate(attempt.replace("PORT", str(port))) != "done"


def test_the_same_attempts_succeed_without_a_gate() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        line = f"import socket; socket.create_connection(('127.0.0.1', {port}), 2)"
        subprocess.run([sys.executable, "-c", line], check=True)
        server.settimeout(5)
        server.accept()[0].close()


@pytest.mark.parametrize(
    "name", ["evil.example", "example.org.evil.example", "xexample.org", "localhost"]
)
def test_names_of_other_hosts_are_not_looked_up(name: str) -> None:
    assert behind_the_gate(f"socket.getaddrinfo({name!r}, 443)") == "Closed"
    assert behind_the_gate(f"socket.getaddrinfo({name.encode()!r}, 443)") == "Closed"


@pytest.mark.parametrize("port", [22, 8443, "ssh", "443"])
def test_names_are_not_looked_up_for_other_ports(port: int | str) -> None:
    assert behind_the_gate(f"socket.getaddrinfo('example.org', {port!r})") == "Closed"


@pytest.mark.parametrize("name", ["example.org", "www.example.org"])
def test_names_that_are_listed_are_looked_up(name: str) -> None:
    attempt = f"""
    try:
        socket.getaddrinfo({name!r}, 443, flags=socket.AI_NUMERICHOST)
    except socket.gaierror:
        pass"""
    assert behind_the_gate(attempt.strip()) == "done"


@pytest.mark.parametrize(
    "attempt",
    [
        "subprocess.run(['ffmpeg', '-version'])",
        "subprocess.run(['/bin/true'])",
        "subprocess.run('true', shell=True)",
        "subprocess.run([sys.executable, '-c', ''], executable='/bin/true')",
        "os.system('true')",
        "os.execv('/bin/true', ['true'])",
        "os.posix_spawn('/bin/true', ['true'], {})",
        "os.fork()",
        "os.popen('true')",
    ],
)
def test_no_other_program_is_started(attempt: str) -> None:
    assert behind_the_gate(attempt) != "done"


def test_the_one_program_is_started() -> None:
    assert behind_the_gate("subprocess.run([sys.executable, '-c', ''], check=True)") == "done"


@pytest.mark.parametrize(
    ("address", "port", "open_"),
    [("8.8.8.8", 443, True), ("8.8.8.8", 80, True), ("8.8.8.8", 22, False), ("8.8.8.8", 8443, False),
     ("10.0.0.1", 443, False), ("::1", 443, False), ("2606:4700::1111", 443, True)],
)  # fmt: skip
def test_only_the_ports_of_the_web_are_open(address: str, port: int, open_: bool) -> None:
    assert gate.is_open(address, port) is open_


def test_the_kernel_ends_a_file_that_grows_too_large(tmp_path: Path) -> None:
    program = f"""
from lora_deploy.links import gate
gate.limit_resources(file_bytes=1000, processor_seconds=60)
try:
    with open({str(tmp_path / "x")!r}, "wb", buffering=0) as file:
        for _ in range(10): file.write(bytes(300))
except OSError as error:
    print(error.errno)
"""
    finished = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert finished.stdout == "27\n"
    assert (tmp_path / "x").stat().st_size <= 1000
