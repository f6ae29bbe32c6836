"""Names from standard input: one a line, or each ended by a NUL byte, as ``find -print0`` writes them."""

import os
from collections.abc import Iterator
from typing import BinaryIO

from lora_deploy.errors import InputNameError

_CHUNK_BYTES = 1 << 16


def names_in(stream: BinaryIO) -> Iterator[str]:
    """The names, as they come in; bytes that are no UTF-8 stay what they are.

    They end with NUL bytes if one comes before or together with the first newline. Empty lines are
    passed over, and so is the carriage return that other systems put before a newline.

    Raises:
        InputNameError: There are NUL bytes further on, so it is neither.
    """
    held = _until_either(stream)
    ends_with = b"\0" if b"\0" in held else b"\n"
    while True:
        *names, held = held.split(ends_with)
        yield from filter(None, (_name(name, ends_with) for name in names))
        more = _read(stream)
        if not more:
            break
        held += more
    yield from filter(None, [_name(held, ends_with)])


def _name(name: bytes, ends_with: bytes) -> str:
    if ends_with == b"\n":
        name = name.removesuffix(b"\r")
        if b"\0" in name:
            raise InputNameError(
                "standard input holds names that end with a newline and then a NUL byte; all must "
                "end alike"
            )
    return os.fsdecode(name)


def _until_either(stream: BinaryIO) -> bytes:
    """The beginning, as far as needed to see a newline or a NUL byte."""
    held = b""
    while b"\0" not in held and b"\n" not in held:
        more = _read(stream)
        if not more:
            break
        held += more
    return held


def _read(stream: BinaryIO) -> bytes:
    """What is there already, or else what comes next; empty at the end."""
    read = getattr(stream, "read1", stream.read)
    return bytes(read(_CHUNK_BYTES))
