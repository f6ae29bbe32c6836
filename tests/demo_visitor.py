"""A visitor of the page over HTTP: uploads, calls an endpoint by name, and reads the answer."""

import json
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

FILE_META = {"_type": "gradio.FileData"}


def as_file(path: str, **more: Any) -> dict[str, Any]:
    """How a message names a file."""
    return {"path": path, "meta": FILE_META, **more}


def upload(visitor: httpx.Client, content: bytes = b"clip", name: str = "clip.mp4") -> str:
    """The name by which the uploaded file goes."""
    answer = visitor.post("/gradio_api/upload", files={"files": (name, content)})
    assert answer.status_code == 200, answer.text
    (public,) = answer.json()
    assert isinstance(public, str)
    return public


def start(visitor: httpx.Client, endpoint: str, *data: Any) -> str:
    """Join the queue; the event's name."""
    answer = visitor.post(f"/gradio_api/call/{endpoint}", json={"data": list(data)})
    assert answer.status_code == 200, answer.text
    return str(answer.json()["event_id"])


def finish(visitor: httpx.Client, endpoint: str, event: str) -> tuple[str, Any]:
    """The last event of the answer: ``complete`` or ``error``, and its data."""
    kind = ""
    with visitor.stream("GET", f"/gradio_api/call/{endpoint}/{event}") as lines:
        assert lines.status_code == 200
        for line in lines.iter_lines():
            name, _, value = line.partition(": ")
            if name == "event":
                kind = value
            elif name == "data" and kind in ("complete", "error"):
                return kind, json.loads(value)
    raise AssertionError(f"no answer; the last event was {kind!r}")


def call(visitor: httpx.Client, endpoint: str, *data: Any) -> tuple[str, Any]:
    """Ask an endpoint by its name and wait for the answer."""
    return finish(visitor, endpoint, start(visitor, endpoint, *data))


class Listener:
    """A server on loopback that counts who connects."""

    def __init__(self) -> None:
        self.connections = 0
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.port: int = self.socket.getsockname()[1]

    def run(self) -> None:
        while True:
            try:
                connection, _ = self.socket.accept()
            except OSError:  # closed
                return
            self.connections += 1
            with connection:
                connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nsecret")


@contextmanager
def listening() -> Iterator[Listener]:
    """A listener in a thread."""
    listener = Listener()
    thread = threading.Thread(target=listener.run, daemon=True)
    thread.start()
    try:
        yield listener
    finally:
        listener.socket.shutdown(socket.SHUT_RDWR)
        listener.socket.close()
        thread.join()


def visitors_files(folder: Path) -> list[Path]:
    """Files in the upload folder that don't belong to a page.

    Without empty ones: ``gradio.File`` makes one at each use, which is swept.
    """
    files = (Path(place, name) for place, _, names in os.walk(folder) for name in names)
    return [file for file in files if "kept" not in file.parts and _size(file)]


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError:  # swept meanwhile
        return 0
