"""Protobuf's text format, written without protobuf: messages as mappings, repeated ones as lists of them."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Union

Message = Mapping[str, "Value"]
Value = Union[str, int, bool, "Word", Sequence[int], Message, Sequence[Message]]
"""Text, a number, the name of an enumeration's member, numbers, a message, or several."""


class Word(str):
    """The name of a member of an enumeration: it stands there without quotes."""

    __slots__ = ()


def text_proto(message: Message) -> str:
    """A message as text, one field a line, in the order of the mapping."""
    return "".join(f"{line}\n" for line in _lines(message))


def quoted(text: str) -> str:
    """Text in quotes: printable ASCII as it is, every other byte of its UTF-8 in octal."""
    signs = []
    for byte in text.encode("utf-8"):
        sign = chr(byte)
        if sign in '"\\':
            signs.append(f"\\{sign}")
        else:
            signs.append(sign if 0x20 <= byte < 0x7F else f"\\{byte:03o}")
    return f'"{"".join(signs)}"'


def _lines(message: Message) -> Iterator[str]:
    for name, value in message.items():
        for one in _repeated(value):
            if isinstance(one, Mapping):
                yield f"{name} {{"
                yield from (f"  {line}" for line in _lines(one))
                yield "}"
            else:
                yield f"{name}: {_scalar(one)}"


def _repeated(value: Value) -> Iterator[str | int | Sequence[int] | Message]:
    """A list of messages is as many fields; a list of numbers is one."""
    if isinstance(value, (str, int, Mapping)):
        yield value
        return
    messages = [one for one in value if isinstance(one, Mapping)]
    numbers = [one for one in value if isinstance(one, int)]
    yield from messages
    if numbers:
        yield numbers


def _scalar(value: str | int | Sequence[int]) -> str:
    if isinstance(value, Word):
        return str(value)
    if isinstance(value, str):
        return quoted(value)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    return f"[{', '.join(map(str, value))}]"
