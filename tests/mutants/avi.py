"""Wrong AVI files: chunk sizes, index, stream headers, OpenDML super index, nested lists."""

import struct
from collections.abc import Iterator
from random import Random

from tests.mutants.tree import TREE_MUTATIONS, Element, Mutation, apply_some, find, odd_number

_LISTS = (b"RIFF", b"LIST")

_FIELDS: dict[bytes, tuple[tuple[str, int, int], ...]] = {
    b"avih": (("frame microseconds", 0, 4), ("flags", 12, 4), ("frames", 16, 4), ("first", 20, 4),
              ("streams", 24, 4), ("width", 32, 4), ("height", 36, 4)),
    b"strh": (("type", 0, 4), ("handler", 4, 4), ("flags", 8, 4), ("scale", 20, 4), ("rate", 24, 4),
              ("scale", 20, 4), ("rate", 24, 4), ("start", 28, 4), ("length", 32, 4),
              ("buffer", 36, 4), ("sample size", 44, 4), ("sample size", 44, 4)),
    b"strf": (("own size", 0, 4), ("width", 4, 4), ("height", 8, 4), ("bits", 14, 2),
              ("codec", 16, 4), ("picture bytes", 20, 4), ("colours", 32, 4)),
    b"dmlh": (("frames", 0, 4),),
    b"vprp": (("ratio", 20, 4), ("fields", 32, 4)),
}  # fmt: skip
"""Numbers of chunks: what they mean, where they stand after the header, and their bytes."""

_NAMES = (
    b"00dc", b"00db", b"01dc", b"99dc", b"01wb", b"ix00", b"00ix", b"00pc", b"JUNK", b"idx1",
    b"indx", b"strh", b"strf", b"avih", b"strd", b"strn", b"rec ", b"\0\0\0\0", b"IDIT", b"ISBJ",
)  # fmt: skip


def mutate(content: bytes, rng: Random, count: int) -> tuple[bytes, list[str]]:
    """The file with ``count`` things wrong, and what they are."""
    chunks = list(_parse(content))
    assert _write(chunks) == content
    assert find(chunks, b"strh")
    assert find(chunks, b"idx1")
    done = apply_some(_MUTATIONS, chunks, rng, count)
    return _write(chunks), done


def _parse(content: bytes) -> Iterator[Element]:
    at = 0
    while at + 8 <= len(content):
        name, size = struct.unpack_from("<4sI", content, at)
        body = content[at + 8 : at + 8 + size]
        if len(body) < size or (name in _LISTS and size < 4):
            break
        chunk = Element(name, bytearray(body), is_master=name in _LISTS)
        if chunk.is_master:
            del chunk.body[4:]
            chunk.children = list(_parse(body[4:]))
        yield chunk
        at += 8 + size + size % 2
    if at < len(content):
        yield Element(b"", bytearray(content[at:]))


def _write(chunks: list[Element]) -> bytes:
    return b"".join(_write_one(chunk) for chunk in chunks)


def _write_one(chunk: Element) -> bytes:
    body = bytes(chunk.body) + _write(chunk.children)
    if not chunk.name:
        return body
    size = len(body) if chunk.claimed_size is None else chunk.claimed_size
    return struct.pack("<4sI", chunk.name, size % (1 << 32)) + body + b"\0" * (len(body) % 2)


def _put(chunk: Element, at: int, width: int, value: int) -> None:
    chunk.body[at : at + width] = (value % (1 << 8 * width)).to_bytes(width, "little")


def _drawn(chunks: list[Element], rng: Random, *names: bytes) -> Element | None:
    found = find(chunks, *names)
    return rng.choice(found) if found else None


def _wrong_field(chunks: list[Element], rng: Random) -> str | None:
    chunk = _drawn(chunks, rng, *_FIELDS)
    if chunk is None:
        return None
    meaning, at, width = rng.choice(_FIELDS[chunk.name])
    if at + width > len(chunk.body):
        return None
    present = int.from_bytes(chunk.body[at : at + width], "little")
    value = odd_number(rng, 8 * width, present)
    _put(chunk, at, width, value)
    return f"{chunk.label} {meaning} is {value}"


def _wrong_index(chunks: list[Element], rng: Random) -> str | None:
    """Flags, offsets or sizes in the old index, in one row or in all."""
    index = _drawn(chunks, rng, b"idx1")
    if index is None or len(index.body) < 16:
        return None
    column = rng.choice((4, 8, 8, 12))
    rows = range(column, len(index.body) - 3, 16)
    changed = rng.choice((rows, rows[-1:], [rng.choice(rows)]))
    value = odd_number(rng, 32, int.from_bytes(index.body[changed[0] : changed[0] + 4], "little"))
    for at in changed:
        _put(index, at, 4, value)
    return f"idx1 column {column} is {value} in {len(changed)} rows"


def _long_index(chunks: list[Element], rng: Random) -> str | None:
    """The index again and again: the same pictures many times, perhaps backward."""
    index = _drawn(chunks, rng, b"idx1")
    if index is None or not index.body:
        return None
    times = rng.choice((2, 100, 300))
    rows = [bytes(index.body[at : at + 16]) for at in range(0, len(index.body), 16)]
    step = rng.choice((1, -1))
    index.body = bytearray(b"".join(rows[::step]) * times)
    return f"idx1 {times} times over in direction {step}"


def _super_index(chunks: list[Element], rng: Random) -> str | None:
    """An OpenDML index: its entries lead to itself, nowhere, or to very many rows."""
    stream = next((c for c in find(chunks, b"LIST") if bytes(c.body) == b"strl"), None)
    if stream is None:
        return None
    words, kind = rng.choice(((4, 0), (2, 1), (4, 1), (3, 1), (0, 0), (0xFFFF, 0)))
    sub_kind = rng.choice((0, 1))
    entries = rng.choice((1, 2, 1_000))
    used = rng.choice((entries, 0, 0x7FFFFFFF, 0xFFFFFFFF))
    offset = rng.choice((0, 12, 200, 240, 1 << 31, (1 << 63) - 1, (1 << 64) - 1))
    entry = struct.pack(
        "<QII", offset, rng.choice((0, 32, 0xFFFFFFFF)), rng.choice((1, 0xFFFFFFFF))
    )
    head = struct.pack("<HBBI4sQI", words, sub_kind, kind, used, b"00dc", offset, 0)
    stream.children.append(Element(b"indx", bytearray(head + entry * entries)))
    return f"indx of kind {kind}, {words} words, {used} entries to {offset}"


def _wrong_name(chunks: list[Element], rng: Random) -> str | None:
    chunk = _drawn(chunks, rng, *_FIELDS, b"00dc", b"LIST", b"idx1", b"JUNK")
    if chunk is None:
        return None
    told = chunk.label
    if chunk.name == b"LIST":
        chunk.body[:] = rng.choice((b"movi", b"rec ", b"strl", b"hdrl", b"odml", b"INFO", b"AVIX"))
        return f"LIST is of kind {chunk.body.decode()}"
    chunk.name = rng.choice(_NAMES)
    return f"{told} is called {chunk.label}"


def _wrong_picture_size(chunks: list[Element], rng: Random) -> str | None:
    width, height = (rng.choice((0, 1, 3, 4096, 4097, 65_535, -48, -64)) for _ in range(2))
    formats = [chunk for chunk in find(chunks, b"strf") if len(chunk.body) >= 12]
    for chunk in formats:
        _put(chunk, 4, 4, width)
        _put(chunk, 8, 4, height)
    return f"{width}×{height}" if formats else None


def _wrong_codec(chunks: list[Element], rng: Random) -> str | None:
    codec = rng.choice((b"DIB ", b"\0\0\0\0", b"\1\0\0\0", b"\2\0\0\0", b"H264", b"MJPG", b"cvid",
                        b"IV50", b"MSVC", b"HFYU", b"dvsd", b"XVID", b"mpg2", b"tscc", b"XXXX"))  # fmt: skip
    changed = find(chunks, b"strh", b"strf")
    for chunk in changed:
        at = 4 if chunk.name == b"strh" else 16
        chunk.body[at : at + 4] = codec
    return f"codec is {codec!r}" if changed else None


def _second_part(chunks: list[Element], rng: Random) -> str | None:
    """A second RIFF, as OpenDML has it, empty or of nonsense."""
    kind = rng.choice((b"AVIX", b"AVI ", b"WAVE"))
    movies = find(chunks, b"LIST")[-1:] if rng.random() < 0.5 else []
    chunks.append(Element(b"RIFF", bytearray(kind), list(movies), is_master=True))
    return f"a second RIFF of kind {kind.decode()}"


def _deep_chain(chunks: list[Element], rng: Random) -> str | None:
    parent = _drawn(chunks, rng, *_LISTS)
    if parent is None:
        return None
    kind = rng.choice((b"rec ", b"movi", b"strl", b"hdrl", b"INFO"))
    depth = rng.choice((10, 1_000, 10_000))
    chain = b"".join(
        struct.pack("<4sI4s", b"LIST", 12 * (depth - at) - 8, kind) for at in range(depth)
    )
    parent.children.insert(rng.randint(0, len(parent.children)), Element(b"", bytearray(chain)))
    return f"LIST {kind.decode()} {depth} deep inside {parent.body.decode(errors='replace')}"


_MUTATIONS: tuple[Mutation[list[Element]], ...] = (
    *TREE_MUTATIONS,
    _wrong_field, _wrong_field, _wrong_field, _wrong_field, _wrong_index, _wrong_index, _long_index,
    _super_index, _super_index, _wrong_name, _wrong_picture_size, _wrong_codec, _second_part,
    _deep_chain,
)  # fmt: skip
"""What happens more often stands here more often."""
