"""Whether an ONNX graph wants data from elsewhere: read off its bytes, without the onnx package.

OpenVINO takes weights from files beside the graph, and, by a name that means ONNX Runtime's own
memory, from any address of this process. A graph of a stranger gets neither.
"""

import mmap
from collections.abc import Iterator, Mapping
from pathlib import Path

from lora_deploy.errors import GraphError

_INSIDE: Mapping[str, Mapping[int, str]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
}
"""Of each message of ``onnx.proto``, the fields that lead to tensors, by number."""

_TENSOR_IS_ELSEWHERE = {13, 14}
"""``external_data`` and ``data_location``; exporters leave both out where the data are inside."""

_DEEPEST = 100
_END_OF_KEYS = 1 << 32
"""Protobuf in C++ cuts longer keys down to 32 bits, and would see another field than is seen here."""

_VARINT, _EIGHT, _LENGTH, _FOUR = 0, 1, 2, 5


def refuse_outside_data(graph: Path | bytes) -> None:
    """Refuse a graph whose tensors don't lie in it.

    Args:
        graph: Its file, or what is in it.

    Raises:
        GraphError: One doesn't, or the file is no such message at all.
    """
    try:
        if isinstance(graph, bytes):
            _walk(graph, 0, len(graph), "model", 0)
            return
        with (
            graph.open("rb") as file,
            mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content,
        ):
            _walk(content, 0, len(content), "model", 0)
    except (IndexError, ValueError):
        raise GraphError("can't open the graph: it is no ONNX file") from None


def _walk(content: mmap.mmap | bytes, start: int, end: int, kind: str, depth: int) -> None:
    if depth > _DEEPEST:
        raise ValueError("nested too deeply")
    inside = _INSIDE.get(kind, {})
    for number, message in _fields(content, start, end):
        if kind == "tensor" and number in _TENSOR_IS_ELSEWHERE:
            raise GraphError(
                "can't open the graph: it keeps weights outside of its file, which are not opened"
            )
        if number in inside and message is not None:
            _walk(content, *message, inside[number], depth + 1)


def _fields(
    content: mmap.mmap | bytes, start: int, end: int
) -> Iterator[tuple[int, tuple[int, int] | None]]:
    """Number of each field, and where its message starts and ends; None where it is a number."""
    at = start
    while at < end:
        key, at = _varint(content, at)
        number, wire = key >> 3, key & 7
        if number == 0 or key >= _END_OF_KEYS:
            raise ValueError("no field")
        message = None
        if wire == _LENGTH:
            size, at = _varint(content, at)
            message = (at, at + size)
            at += size
        elif wire == _VARINT:
            _, at = _varint(content, at)
        elif wire in (_EIGHT, _FOUR):
            at += 8 if wire == _EIGHT else 4
        else:
            raise ValueError("unknown wire type")
        if at > end:
            raise ValueError("cut short")
        yield number, message


def _varint(content: mmap.mmap | bytes, at: int) -> tuple[int, int]:
    """A number of up to ten bytes, seven bits each, and where it ends."""
    value = 0
    for place in range(10):
        byte = content[at + place]
        value |= (byte & 0x7F) << (7 * place)
        if not byte & 0x80:
            return value, at + place + 1
    raise ValueError("no number")
