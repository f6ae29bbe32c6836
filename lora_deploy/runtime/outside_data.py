"""Whether an ONNX graph wants data of other files: read off its bytes, without the onnx package.

Runtimes that are given bytes look for such files in the working directory, and a bundle of a
stranger could name any of them.
"""

from collections.abc import Iterator, Mapping

from lora_deploy.errors import GraphError

_Bytes = memoryview

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
_VARINT, _EIGHT, _LENGTH, _FOUR = 0, 1, 2, 5


def refuse_outside_data(graph: bytes) -> None:
    """Refuse a graph whose tensors lie in other files.

    Raises:
        GraphError: One does, or the bytes are no such message at all.
    """
    try:
        _walk(memoryview(graph), "model", 0)
    except (IndexError, ValueError):
        raise GraphError("can't open the graph: these bytes are no ONNX graph") from None


def _walk(message: _Bytes, kind: str, depth: int) -> None:
    if depth > _DEEPEST:
        raise ValueError("nested too deeply")
    inside = _INSIDE.get(kind, {})
    for number, content in _fields(message):
        if kind == "tensor" and number in _TENSOR_IS_ELSEWHERE:
            raise GraphError("the graph keeps its weights in other files, which are not opened")
        if number in inside and content is not None:
            _walk(content, inside[number], depth + 1)


def _fields(message: _Bytes) -> Iterator[tuple[int, _Bytes | None]]:
    """Number and content of each field; None for a content that is a number."""
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        number, wire = key >> 3, key & 7
        if wire == _LENGTH:
            size, at = _varint(message, at)
            if at + size > len(message):
                raise ValueError("cut short")
            yield number, message[at : at + size]
            at += size
        elif wire == _VARINT:
            _, at = _varint(message, at)
            yield number, None
        elif wire in (_EIGHT, _FOUR):
            at += 8 if wire == _EIGHT else 4
            yield number, None
        else:
            raise ValueError("unknown wire type")


def _varint(message: _Bytes, at: int) -> tuple[int, int]:
    """A number of up to ten bytes, seven bits each, and where it ends."""
    value = 0
    for place in range(10):
        byte = message[at + place]
        value |= (byte & 0x7F) << (7 * place)
        if not byte & 0x80:
            return value, at + place + 1
    raise ValueError("no number")
