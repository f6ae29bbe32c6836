"""Wrong Matroska and WebM files: sizes, unknown sizes, cues, clusters, lacing, numbers, nesting."""

import struct
import zlib
from collections.abc import Iterator
from random import Random

from tests.mutants.tree import TREE_MUTATIONS, Element, Mutation, apply_some, find, odd_number

EBML, SEGMENT, SEEK_HEAD, SEEK, SEEK_ID, SEEK_POSITION = (
    bytes.fromhex(text) for text in ("1a45dfa3", "18538067", "114d9b74", "4dbb", "53ab", "53ac")
)
TRACK_ENTRY, CLUSTER, TIMESTAMP, SIMPLE_BLOCK, BLOCK = (
    bytes.fromhex(text) for text in ("ae", "1f43b675", "e7", "a3", "a1")
)
DURATION, CODEC_ID, CODEC_PRIVATE, ENCODINGS = (
    bytes.fromhex(text) for text in ("4489", "86", "63a2", "6d80")
)

_MASTERS = {
    EBML, SEGMENT, SEEK_HEAD, SEEK, TRACK_ENTRY, CLUSTER, ENCODINGS,
    *(bytes.fromhex(text) for text in (
        "1549a966", "1654ae6b", "e0", "55b0", "1c53bb6b", "bb", "b7", "a0", "1254c367", "7373",
        "63c0", "67c8", "6240", "5034", "1043a770", "45b9", "b6",
    )),
}  # fmt: skip
"""Info, Tracks, Video, Colour, Cues, CuePoint, CueTrackPositions, BlockGroup, Tags and so on."""

_NUMBERS = {
    "d7": "TrackNumber", "73c5": "TrackUID", "83": "TrackType", "b0": "PixelWidth",
    "ba": "PixelHeight", "54b0": "DisplayWidth", "54ba": "DisplayHeight", "54aa": "PixelCropBottom",
    "e7": "Timestamp", "2ad7b1": "TimestampScale", "23e383": "DefaultDuration",
    "b3": "CueTime", "f7": "CueTrack", "f1": "CueClusterPosition", "f0": "CueRelativePosition",
    "53ac": "SeekPosition", "9c": "FlagLacing", "4286": "EBMLVersion", "42f7": "EBMLReadVersion",
    "42f2": "EBMLMaxIDLength", "42f3": "EBMLMaxSizeLength", "4285": "DocTypeReadVersion",
    "fb": "ReferenceBlock", "9b": "BlockDuration", "9a": "FlagInterlaced", "55b1": "Matrix",
    "56aa": "CodecDelay", "56bb": "SeekPreRoll", "53b8": "StereoMode", "53c0": "AlphaMode",
}  # fmt: skip
_NUMBER_NAMES = {bytes.fromhex(key): name for key, name in _NUMBERS.items()}

_CODECS = (
    b"V_VP8", b"V_VP9", b"V_AV1", b"V_MPEG4/ISO/AVC", b"V_MPEGH/ISO/HEVC", b"V_MJPEG", b"V_THEORA",
    b"V_UNCOMPRESSED", b"V_MS/VFW/FOURCC", b"V_QUICKTIME", b"V_REAL/RV40", b"V_FFV1", b"A_OPUS",
    b"S_TEXT/UTF8", b"V_NONE", b"",
)  # fmt: skip


def mutate(content: bytes, rng: Random, count: int) -> tuple[bytes, list[str]]:
    """The file with ``count`` things wrong, and what they are."""
    elements = list(_parse(content))
    assert _write(elements) == content
    assert find(elements, CLUSTER)
    done = apply_some(_MUTATIONS, elements, rng, count)
    return _write(elements), done


def _vint_width(first: int) -> int:
    return 9 - first.bit_length()


def _parse(content: bytes) -> Iterator[Element]:
    at = 0
    while at < len(content):
        name_width = _vint_width(content[at])
        name = content[at : at + name_width]
        size_at = at + name_width
        size_width = _vint_width(content[size_at]) if size_at < len(content) else 9
        body_at = size_at + size_width
        if name_width > 4 or size_width > 8 or body_at > len(content):
            break
        size = int.from_bytes(content[size_at:body_at], "big") ^ (1 << 7 * size_width)
        claimed = None
        if size == (1 << 7 * size_width) - 1:  # unknown: up to the end of its parent, as we read it
            claimed, size = size, len(content) - body_at
        if size > len(content) - body_at:
            break
        body = content[body_at : body_at + size]
        element = Element(name, size_width=size_width, claimed_size=claimed)
        element.is_master = name in _MASTERS
        if element.is_master:
            element.children = list(_parse(body))
        else:
            element.body += body
        yield element
        at = body_at + size
    if at < len(content):
        yield Element(b"", bytearray(content[at:]))


def _vint(value: int, width: int) -> bytes:
    """At least ``width`` bytes, more where the value needs them; all ones mean an unknown size."""
    width = max(width, 1)
    while width < 8 and value >= 1 << 7 * width:
        width += 1
    return ((value % (1 << 7 * width)) | (1 << 7 * width)).to_bytes(width, "big")


def _write(elements: list[Element]) -> bytes:
    return b"".join(_write_one(element) for element in elements)


def _write_one(element: Element) -> bytes:
    body = bytes(element.body) + _write(element.children)
    if not element.name:
        return body
    size = len(body) if element.claimed_size is None else element.claimed_size
    return element.name + _vint(size, element.size_width) + body


def _drawn(elements: list[Element], rng: Random, *names: bytes) -> Element | None:
    """One of these elements; each name is as likely, however many blocks there are."""
    found = find(elements, *names)
    if not found:
        return None
    name = rng.choice(sorted({element.name for element in found}))
    return rng.choice([element for element in found if element.name == name])


def _number(value: int, width: int) -> bytearray:
    return bytearray((value % (1 << 8 * width)).to_bytes(width, "big"))


def _unknown_size(elements: list[Element], rng: Random) -> str | None:
    """A live stream's way for segments and clusters; nonsense elsewhere."""
    names = rng.choice(((SEGMENT,), (CLUSTER,), (CLUSTER,), tuple(_MASTERS), (SIMPLE_BLOCK,)))
    element = _drawn(elements, rng, *sorted(names))
    if element is None:
        return None
    element.size_width = rng.choice((1, 4, 8))
    element.claimed_size = (1 << 7 * element.size_width) - 1
    return f"{element.label} is of unknown size"


def _long_size(elements: list[Element], rng: Random) -> str | None:
    """A size field longer than needed, or an empty master."""
    element = _drawn(elements, rng, *sorted(_MASTERS), SIMPLE_BLOCK, *_NUMBER_NAMES)
    if element is None:
        return None
    element.size_width = rng.choice((2, 5, 8))
    return f"{element.label} has a size of {element.size_width} bytes"


def _wrong_number(elements: list[Element], rng: Random) -> str | None:
    element = _drawn(elements, rng, *_NUMBER_NAMES)
    if element is None:
        return None
    width = rng.choice((len(element.body) or 1, 8))
    value = odd_number(rng, 8 * width, int.from_bytes(element.body, "big"))
    element.body = _number(value, width)
    return f"{_NUMBER_NAMES[element.name]} is {value}"


def _empty_or_long_number(elements: list[Element], rng: Random) -> str | None:
    element = _drawn(elements, rng, *_NUMBER_NAMES, DURATION)
    if element is None:
        return None
    element.body = bytearray(rng.choice((0, 3, 9, 100)))
    return f"{element.label} is a number of {len(element.body)} bytes"


def _wrong_duration(elements: list[Element], rng: Random) -> str | None:
    element = _drawn(elements, rng, DURATION)
    if element is None:
        return None
    value = rng.choice((0.0, -1.0, 1e-300, 1e300, 1e18, float("inf"), float("-inf"), float("nan")))
    element.body = bytearray(struct.pack(">d", value))
    return f"Duration is {value}"


def _wrong_clocks(elements: list[Element], rng: Random) -> str | None:
    """The timestamps of all clusters: the same, backward, or far apart."""
    clocks = find(elements, TIMESTAMP)
    step = rng.choice((0, 1, 1 << 31, 1 << 40, (1 << 63) // max(len(clocks), 1), -1_000))
    for at, clock in enumerate(clocks):
        clock.body = _number(step * at if step >= 0 else step * (at - len(clocks)), 8)
    return f"clusters are {step} apart" if clocks else None


def _wrong_block_head(elements: list[Element], rng: Random) -> str | None:
    """Track number, relative time or flags of one block, or of all."""
    blocks = find(elements, SIMPLE_BLOCK, BLOCK)
    blocks = rng.choice((blocks, [rng.choice(blocks)])) if blocks else []
    blocks = [block for block in blocks if len(block.body) > 4]
    at, told = rng.choice(((0, "track"), (1, "time"), (2, "time"), (3, "flags"), (3, "flags")))
    for block in blocks:
        block.body[at] = odd_number(rng, 8, block.body[at])
    return f"wrong {told} in {len(blocks)} blocks" if blocks else None


def _wrong_lacing(elements: list[Element], rng: Random) -> str | None:
    """Several frames in a block: Xiph, fixed or EBML lacing with sizes that don't add up."""
    block = _drawn(elements, rng, SIMPLE_BLOCK, BLOCK)
    if block is None or len(block.body) < 5:
        return None
    kind = rng.choice((0x02, 0x04, 0x06))
    frames = rng.choice((0, 1, 2, 40, 255))
    sizes = rng.choice(
        (b"", b"\xff" * 300, b"\x00" * frames, b"\x01" + b"\xff" * 7, b"\x40\x00\x80")
    )
    block.body[3] = block.body[3] & ~0x06 | kind
    block.body[4:4] = bytes((frames,)) + sizes
    return f"lacing {kind} of {frames + 1} frames with sizes {sizes[:4].hex()}"


def _wrong_codec(elements: list[Element], rng: Random) -> str | None:
    element = _drawn(elements, rng, CODEC_ID)
    if element is None:
        return None
    element.body = bytearray(rng.choice(_CODECS))
    return f"codec is {element.body.decode()}"


def _wrong_private(elements: list[Element], rng: Random) -> str | None:
    element = _drawn(elements, rng, CODEC_PRIVATE)
    if element is None or not element.body:
        return None
    at = rng.randrange(min(len(element.body), 24))
    element.body[at] = odd_number(rng, 8, element.body[at])
    return f"CodecPrivate byte {at} is {element.body[at]}"


def _compressed(elements: list[Element], rng: Random) -> str | None:
    """Blocks said to be compressed, one of them a bomb of zeros."""
    track = _drawn(elements, rng, TRACK_ENTRY)
    blocks = find(elements, SIMPLE_BLOCK, BLOCK)
    if track is None or not blocks:
        return None
    algorithm, scope = rng.choice((0, 0, 0, 1, 2, 3, 9)), rng.choice((1, 2, 3, 0xFF))
    settings = b"\x42\x55\x84" + rng.randbytes(4) if algorithm == 3 else b""
    compression = bytes((0x42, 0x54, 0x81, algorithm)) + settings
    order = b"\x50\x32\x81" + bytes((scope,))
    encoding = order + b"\x50\x34" + bytes((0x80 | len(compression),)) + compression
    body = bytearray(b"\x62\x40" + bytes((0x80 | len(encoding),)) + encoding)
    track.children.append(Element(ENCODINGS, body, is_master=True))
    megabytes = rng.choice((1, 50))
    if algorithm == 0:
        bomb = zlib.compress(bytes(megabytes << 20))
        chosen = rng.choice((blocks[:1], blocks[-1:]))
        for block in chosen:
            block.body[4:] = bomb
    return f"compression {algorithm} of scope {scope}, bomb of {megabytes} MB"


def _wrong_seek_head(elements: list[Element], rng: Random) -> str | None:
    """A table of contents that leads to itself, to the middle of something, or nowhere."""
    segment = _drawn(elements, rng, SEGMENT)
    if segment is None:
        return None
    target = rng.choice((SEEK_HEAD, bytes.fromhex("1c53bb6b"), bytes.fromhex("1254c367"), SEGMENT))
    position = rng.choice((0, 0, 5, 50, 1 << 31, (1 << 63) - 1, (1 << 64) - 1))
    entries = rng.choice((1, 2, 500))
    seek = Element(SEEK, is_master=True, children=[
        Element(SEEK_ID, bytearray(target)), Element(SEEK_POSITION, _number(position, 8)),
    ])  # fmt: skip
    head = Element(SEEK_HEAD, is_master=True, children=[seek] * entries)
    segment.children.insert(0, head)
    return f"{entries} SeekHead entries lead to {target.hex()} at {position}"


def _deep_chain(elements: list[Element], rng: Random) -> str | None:
    """One master inside the other, thousands deep; each of unknown size or of a true one."""
    parent = _drawn(elements, rng, *sorted(_MASTERS))
    if parent is None:
        return None
    name = rng.choice((*sorted(_MASTERS), bytes.fromhex("67c8"), bytes.fromhex("b6")))
    depth = rng.choice((20, 1_000, 10_000))
    step = len(name) + 4
    chain = b"".join(
        name + _vint((1 << 28) - 1 if unknown else step * (depth - at - 1), 4)
        for unknown in (rng.random() < 0.5,)
        for at in range(depth)
    )
    parent.children.append(Element(b"", bytearray(chain)))
    return f"{name.hex()} {depth} deep inside {parent.label}"


_MUTATIONS: tuple[Mutation[list[Element]], ...] = (
    *TREE_MUTATIONS,
    _unknown_size, _unknown_size, _long_size, _wrong_number, _wrong_number, _wrong_number,
    _wrong_number, _empty_or_long_number, _wrong_duration, _wrong_clocks, _wrong_block_head,
    _wrong_block_head, _wrong_lacing, _wrong_lacing, _wrong_codec, _wrong_private, _compressed,
    _wrong_seek_head, _deep_chain,
)  # fmt: skip
"""What happens more often stands here more often."""
