"""A server on loopback that plays the hub: it makes repositories, takes commits, and refuses when told to."""

import base64
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TOKEN = "hf_of_the_test"


@dataclass
class Hub:
    """What the server holds, and what it was asked."""

    url: str = ""
    repos: dict[str, bool] = field(default_factory=dict)
    """By name, whether it is private."""
    files: dict[str, dict[str, bytes]] = field(default_factory=dict)
    """Of each repository, by path."""
    asked: list[str] = field(default_factory=list)
    refusal: int | None = None
    """Status of every answer from now on."""
    storage_refusal: int | None = None
    """Of those to large files alone."""
    stored: dict[str, bytes] = field(default_factory=dict)
    """Large files by their hash."""


class Handler(BaseHTTPRequestHandler):
    """As far as an upload needs it."""

    protocol_version = "HTTP/1.1"
    hub: Hub

    def do_GET(self) -> None:
        self._answered(b"")

    def do_POST(self) -> None:
        self._answered(self._body())

    def do_PUT(self) -> None:
        self._answered(self._body())

    def log_message(self, format: str, *arguments: object) -> None:
        pass

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            parts = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length", "0")))

    def _answered(self, body: bytes) -> None:
        path = self.path.partition("?")[0]
        self.hub.asked.append(f"{self.command} {path}")
        if self.hub.refusal is not None:
            return self._send({"error": "no"}, self.hub.refusal)
        is_storage = path.startswith("/storage/")
        if not is_storage and self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self._send({"error": "who are you"}, 401)
        return self._reply(path, body)

    def _reply(self, path: str, body: bytes) -> None:
        hub = self.hub
        if path == "/api/whoami-v2":
            return self._send({"type": "user", "name": "anna", "auth": {}})
        if path == "/api/validate-yaml":
            return self._send({"errors": [], "warnings": []})
        if path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked['organization']}/{asked['name']}"
            hub.repos[name] = asked.get("visibility") == "private"
            hub.files[name] = {}
            return self._send({"url": f"{hub.url}/{name}"})
        if path.startswith("/storage/"):
            if hub.storage_refusal is not None:
                return self._send({}, hub.storage_refusal)
            hub.stored[path.removeprefix("/storage/")] = body
            return self._send({})
        if found := re.fullmatch(r"/(.+)\.git/info/lfs/objects/batch", path):
            objects = [
                {
                    **one,
                    "actions": {
                        "upload": {"href": f"{hub.url}/storage/{one['oid']}", "header": {}}
                    },
                }
                for one in json.loads(body)["objects"]
            ]
            return self._send({"transfer": "basic", "objects": objects})
        found = re.fullmatch(r"/api/models/([^/]+/[^/]+)(/.*)?", path)
        name, what = (found[1], found[2] or "") if found else ("", "")
        if name not in hub.repos:
            return self._send({"error": "no such repository"}, 404, "RepoNotFound")
        if what == "":
            return self._send({"id": name, "private": hub.repos[name], "sha": "0" * 40})
        if what.startswith("/preupload/"):
            modes = [
                {
                    "path": one["path"],
                    "uploadMode": "lfs"
                    if re.search(r"\.(pth|safetensors)$", one["path"])
                    else "regular",
                    "shouldIgnore": False,
                }
                for one in json.loads(body)["files"]
            ]
            return self._send({"files": modes})
        if what.startswith("/commit/"):
            for line in body.splitlines():
                self._take(name, json.loads(line))
            return self._send(
                {
                    "commitUrl": f"{hub.url}/{name}/commit/{'1' * 40}",
                    "commitOid": "1" * 40,
                    "success": True,
                }
            )
        return self._send({"error": "no such place"}, 404)

    def _take(self, name: str, operation: dict[str, Any]) -> None:
        value = operation["value"]
        if operation["key"] == "file":
            self.hub.files[name][value["path"]] = base64.b64decode(value["content"])
        elif operation["key"] == "lfsFile":
            self.hub.files[name][value["path"]] = self.hub.stored[value["oid"]]

    def _send(self, values: dict[str, Any], status: int = 200, code: str = "") -> None:
        content = json.dumps(values).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        if code:
            self.send_header("X-Error-Code", code)
        self.end_headers()
        self.wfile.write(content)


@contextmanager
def serving() -> Iterator[Hub]:
    """A hub of its own."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"hub": hub}))
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
