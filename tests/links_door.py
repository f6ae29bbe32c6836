"""A fetching process in a world of its own: names mean what a test says, public addresses lead to its servers.

Everything else of the process is as in production, the gate above all: it sees the addresses that
the names mean, and lets nothing else through but the two loopback ports of the test's servers.
"""

import json
import socket
import sys
from pathlib import Path
from typing import Any

import certifi

from lora_deploy.links import child, gate

WORLD: dict[str, Any] = json.loads(sys.argv[1])
NAMES: dict[str, list[list[str]]] = WORLD["names"]
"""By name: the addresses of the first answer, of the second, and so on; the last one stays."""
PORTS = {443: int(WORLD["tls_port"]), 80: int(WORLD["plain_port"])}

_real_connect = socket.socket.connect
_real_is_open = gate.is_open


def note(**event: object) -> None:
    with Path(WORLD["log"]).open("a") as file:
        file.write(json.dumps(event) + "\n")


def resolve(host: Any, port: Any, *arguments: Any, **options: Any) -> list[Any]:
    name = host.decode() if isinstance(host, bytes) else str(host)
    sys.audit("socket.getaddrinfo", host, port, 0, 0, 0)  # as the real one does
    note(event="resolve", name=name)
    answers = NAMES.get(name.rstrip("."))
    if answers is None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
    addresses = answers.pop(0) if len(answers) > 1 else answers[0]
    return [
        (
            socket.AF_INET6 if ":" in address else socket.AF_INET,
            socket.SOCK_STREAM,
            socket.IPPROTO_TCP,
            "",
            (address, int(port or 0)),
        )
        for address in addresses
    ]


def connect(self: socket.socket, address: Any) -> None:
    note(event="connect", address=str(address[0]), port=address[1])
    sys.audit("socket.connect", self, address)
    if address[0] == WORLD["public"] and address[1] in PORTS:
        address = ("127.0.0.1", PORTS[address[1]])
    note(event="connected", address=str(address[0]), port=address[1])
    _real_connect(self, address)


def is_open(address: str, port: int) -> bool:
    return (address, port) in {("127.0.0.1", own) for own in PORTS.values()} or _real_is_open(
        address, port
    )


socket.getaddrinfo = resolve
socket.socket.connect = connect  # type: ignore[method-assign, assignment]
gate.is_open = is_open
certifi.where = lambda: WORLD["certificate"]
exec(WORLD["change"])
child.main()
