"""Wrong MP4 and QuickTime files: sizes, tables, edit lists, nesting, fragments, clocks, dimensions."""

import struct
from collections.abc import Iterator
from random import Random

from tests.mutants.tree import TREE_MUTATIONS, Element, Mutation, apply_some, find, odd_number

_MASTERS = {
    b"moov": 0, b"trak": 0, b"mdia": 0, b"minf": 0, b"stbl": 0, b"edts": 0, b"dinf": 0,
    b"udta": 0, b"mvex": 0, b"moof": 0, b"traf": 0, b"mfra": 0,
    b"meta": 4, b"stsd": 8, b"dref": 8, b"avc1": 78, b"mp4v": 78, b"hvc1": 78, b"vp09": 78,
}  # fmt: skip
"""Boxes with children, and the bytes of their own before those."""

_FIELDS: dict[bytes, tuple[tuple[str, int, int], ...]] = {
    b"mvhd": (("timescale", 12, 4), ("duration", 16, 4), ("rate", 20, 4), ("matrix", 36, 4)),
    b"tkhd": (("flags", 0, 4), ("track", 12, 4), ("duration", 20, 4), ("matrix", 40, 4),
              ("matrix", 44, 4), ("matrix", 56, 4), ("width", 76, 4), ("height", 80, 4)),
    b"mdhd": (("timescale", 12, 4), ("duration", 16, 4)),
    b"hdlr": (("handler", 8, 4),),
    b"stsd": (("count", 4, 4),),
    b"avc1": (("reference", 6, 2), ("width", 24, 2), ("height", 26, 2), ("frames", 40, 2),
              ("depth", 74, 2), ("colours", 76, 2)),
    b"avcC": (("version", 0, 1), ("length size", 4, 1), ("SPS count", 5, 1), ("SPS size", 6, 2),
              ("SPS", 9, 1), ("SPS", 12, 2), ("SPS", 14, 2)),
    b"pasp": (("width", 0, 4), ("height", 4, 4)),
    b"colr": (("kind", 0, 4), ("primaries", 4, 2), ("transfer", 6, 2), ("matrix", 8, 2)),
    b"dref": (("count", 4, 4),),
    b"stsz": (("one size", 4, 4), ("count", 8, 4)),
    b"mfhd": (("sequence", 4, 4),),
    b"tfhd": (("flags", 0, 4), ("track", 4, 4), ("default", 8, 4), ("default", 12, 4)),
    b"tfdt": (("time", 4, 4), ("time", 8, 4)),
    b"trun": (("flags", 0, 4), ("count", 4, 4), ("data offset", 8, 4), ("first flags", 12, 4)),
    b"trex": (("track", 4, 4), ("description", 8, 4), ("duration", 12, 4), ("size", 16, 4)),
    b"tfra": (("track", 4, 4), ("widths", 8, 4), ("count", 12, 4), ("time", 16, 4)),
    b"mfro": (("size", 4, 4),),
}  # fmt: skip
"""Numbers of boxes: what they mean, where they stand after the header, and their bytes."""

_TABLES: dict[bytes, tuple[int, tuple[int, ...]]] = {
    b"stts": (4, (4, 4)),
    b"ctts": (4, (4, 4)),
    b"stsc": (4, (4, 4, 4)),
    b"stsz": (8, (4,)),
    b"stco": (4, (4,)),
    b"co64": (4, (8,)),
    b"stss": (4, (4,)),
    b"elst": (4, (4, 4, 4)),
    b"sbgp": (8, (4, 4)),
    b"trun": (4, (4, 4)),
}
"""Where a table's 32-bit count stands, and the bytes of each column of its rows after that."""

_SAMPLE_ENTRIES = (
    b"hvc1", b"hev1", b"av01", b"vp08", b"vp09", b"mp4v", b"jpeg", b"png ", b"raw ", b"rle ",
    b"SVQ3", b"apch", b"encv", b"tmcd", b"text", b"mp4a", b"c608", b"rtp ", b"XXXX", b"\0\0\0\0",
)  # fmt: skip


def mutate(content: bytes, rng: Random, count: int) -> tuple[bytes, list[str]]:
    """The file with ``count`` things wrong, and what they are."""
    boxes = list(_parse(content))
    assert _write(boxes) == content
    assert find(boxes, b"moov")
    done = apply_some(_MUTATIONS, boxes, rng, count)
    return _write(boxes), done


def _parse(content: bytes) -> Iterator[Element]:
    at = 0
    while at + 8 <= len(content):
        size, name = struct.unpack_from(">I4s", content, at)
        header = 8
        if size == 1:
            (size,) = struct.unpack_from(">Q", content, at + 8)
            header = 16
        if not header <= size <= len(content) - at:
            break
        own = _MASTERS.get(name)
        body = content[at + header : at + size]
        box = Element(name, bytearray(body), is_master=own is not None, size_width=header - 8)
        if own is not None:
            del box.body[own:]
            box.children = list(_parse(body[own:]))
        yield box
        at += size
    if at < len(content):  # QuickTime ends some lists with a zero
        yield Element(b"", bytearray(content[at:]))


def _write(boxes: list[Element]) -> bytes:
    return b"".join(_write_one(box) for box in boxes)


def _write_one(box: Element) -> bytes:
    body = bytes(box.body) + _write(box.children)
    if not box.name:
        return body
    header = 16 if box.size_width else 8
    size = header + len(body) if box.claimed_size is None else box.claimed_size
    if header == 16:
        return struct.pack(">I4sQ", 1, box.name, size % (1 << 64)) + body
    return struct.pack(">I4s", size % (1 << 32), box.name) + body


def _put(box: Element, at: int, width: int, value: int) -> None:
    box.body[at : at + width] = (value % (1 << 8 * width)).to_bytes(width, "big")


def _get(box: Element, at: int, width: int) -> int:
    return int.from_bytes(box.body[at : at + width], "big")


def _drawn(boxes: list[Element], rng: Random, *names: bytes) -> Element | None:
    found = find(boxes, *names)
    return rng.choice(found) if found else None


def _wrong_field(boxes: list[Element], rng: Random) -> str | None:
    box = _drawn(boxes, rng, *_FIELDS)
    if box is None:
        return None
    meaning, at, width = rng.choice(_FIELDS[box.name])
    if at + width > len(box.body):
        return None
    value = odd_number(rng, 8 * width, _get(box, at, width))
    _put(box, at, width, value)
    return f"{box.label} {meaning} is {value}"


def _wrong_version(boxes: list[Element], rng: Random) -> str | None:
    """The same bytes, read in the layout of another version."""
    box = _drawn(boxes, rng, *_FIELDS, *_TABLES)
    if box is None or not box.body:
        return None
    box.body[0] = rng.choice((1, 2, 3, 255))
    return f"{box.label} is of version {box.body[0]}"


def _wrong_count(boxes: list[Element], rng: Random) -> str | None:
    box = _drawn(boxes, rng, *_TABLES)
    if box is None:
        return None
    at = _TABLES[box.name][0]
    value = odd_number(rng, 32, _get(box, at, 4))
    _put(box, at, 4, value)
    return f"{box.label} counts {value} rows"


def _wrong_rows(boxes: list[Element], rng: Random) -> str | None:
    """One number of a table's column, or all of them."""
    box = _drawn(boxes, rng, *_TABLES)
    if box is None:
        return None
    count_at, widths = _TABLES[box.name]
    column = rng.randrange(len(widths))
    first = count_at + 4 + sum(widths[:column])
    rows = range(first, len(box.body) - widths[column] + 1, sum(widths))
    if not rows:
        return None
    changed = rng.choice((rows, rows[-1:], [rng.choice(rows)]))
    value = odd_number(rng, 8 * widths[column], _get(box, changed[0], widths[column]))
    for at in changed:
        _put(box, at, widths[column], value)
    return f"{box.label} column {column} is {value} in {len(changed)} rows"


def _long_table(boxes: list[Element], rng: Random) -> str | None:
    """A table of many rows, honestly counted."""
    box = _drawn(boxes, rng, *_TABLES)
    if box is None:
        return None
    count_at, widths = _TABLES[box.name]
    rows = rng.choice((1, 100, 5_000, 20_000))
    row = b"".join(
        odd_number(rng, 8 * width, 512).to_bytes(width, "big") if rng.random() < 0.5
        else (1).to_bytes(width, "big")
        for width in widths
    )  # fmt: skip
    del box.body[count_at:]
    box.body += struct.pack(">I", rows) + row * rows
    return f"{box.label} holds {rows} times {row.hex()}"


def _edit_list(boxes: list[Element], rng: Random) -> str | None:
    """Empty edits, edits outside the media, many edits, and rates that stop or turn time."""
    track = _drawn(boxes, rng, b"trak")
    if track is None:
        return None
    tick = rng.choice((1, 512, 1024, 12_800))
    durations = (0, 1, 40, 1_000, 40_000, 0x7FFFFFFF, 0xFFFFFFFF)
    media_times = (-1, -1, -2, 0, 0, 1, tick, 5 * tick, 100_000 * tick, 0x7FFFFFFF, -0x80000000)
    rates = (0x10000, 0x10000, 0x10000, 0, 1, 0x20000, 0x7FFFFFFF, 0xFFFF0000)
    rows = [
        (rng.choice(durations), rng.choice(media_times) % (1 << 32), rng.choice(rates))
        for _ in range(rng.choice((1, 2, 3, 50)))
    ] * rng.choice((1, 1, 1, 100))
    body = struct.pack(">II", 0, len(rows)) + b"".join(struct.pack(">III", *row) for row in rows)
    track.children = [child for child in track.children if child.name != b"edts"]
    edit_list = Element(b"elst", bytearray(body))
    track.children.insert(1, Element(b"edts", children=[edit_list], is_master=True))
    return f"edit list of {len(rows)} rows from {rows[:2]}"


def _wrong_clock(boxes: list[Element], rng: Random) -> str | None:
    box = _drawn(boxes, rng, b"mdhd", b"mdhd", b"mvhd")
    if box is None or len(box.body) < 20:
        return None
    value = rng.choice((0, 1, 2, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF))
    _put(box, 12, 4, value)
    return f"{box.label} timescale is {value}"


def _wrong_dimensions(boxes: list[Element], rng: Random) -> str | None:
    value_of = (0, 1, 2, 3, 17, 4095, 4096, 4097, 16_384, 65_535)
    width, height = rng.choice(value_of), rng.choice(value_of)
    changed = find(
        boxes, *rng.choice(((b"tkhd",), (b"avc1", b"mp4v"), (b"tkhd", b"avc1", b"mp4v")))
    )
    for box in changed:
        at, unit_bytes = (76, 4) if box.name == b"tkhd" else (24, 2)
        _put(box, at, unit_bytes, width << (16 if unit_bytes == 4 else 0))
        _put(box, at + unit_bytes, unit_bytes, height << (16 if unit_bytes == 4 else 0))
    return f"{width}×{height} in {len(changed)} boxes" if changed else None


def _wrong_codec(boxes: list[Element], rng: Random) -> str | None:
    box = _drawn(boxes, rng, b"avc1", b"mp4v")
    if box is None:
        return None
    box.name = rng.choice(_SAMPLE_ENTRIES)
    return f"sample entry is {box.label}"


def _wrong_name(boxes: list[Element], rng: Random) -> str | None:
    box = _drawn(boxes, rng, *_FIELDS, *_TABLES, *_MASTERS)
    if box is None:
        return None
    told = box.label
    box.name = rng.choice([*_FIELDS, *_TABLES, *_MASTERS, b"free", b"cmov", b"uuid", b"wide"])
    return f"{told} is called {box.label}"


def _long_size(boxes: list[Element], rng: Random) -> str | None:
    """A 64-bit size: honest, short of its own header, or beyond any file."""
    box = _drawn(boxes, rng, *_FIELDS, *_TABLES, *_MASTERS, b"mdat", b"free")
    if box is None:
        return None
    box.size_width = 8
    box.claimed_size = rng.choice((None, None, 0, 1, 15, 16, (1 << 63) - 1, 1 << 63, (1 << 64) - 1))
    return f"{box.label} has the 64-bit size {box.claimed_size or 'it has'}"


def _deep_chain(boxes: list[Element], rng: Random) -> str | None:
    """One box of each 8 bytes, thousands deep."""
    parent = _drawn(boxes, rng, *_MASTERS)
    if parent is None:
        return None
    name = rng.choice((b"trak", b"mdia", b"udta", b"moov", b"edts", b"meta", b"dinf", b"wave"))
    depth = rng.choice((9, 12, 1_000, 20_000))
    parent.children.append(Element(b"", bytearray(
        b"".join(struct.pack(">I4s", 8 * (depth - at), name) for at in range(depth))
    )))  # fmt: skip
    return f"{name.decode()} {depth} deep inside {parent.label}"


def _shifted_media(boxes: list[Element], rng: Random) -> str | None:
    """All offsets into the media are off by as much."""
    at = next((at for at, box in enumerate(boxes) if box.name == b"mdat"), None)
    if at is None:
        return None
    padding = rng.choice((1, 4, 1_000))
    boxes.insert(at, Element(b"free", bytearray(padding)))
    return f"media shifted by {padding + 8} bytes"


def _fragments_too(boxes: list[Element], rng: Random) -> str | None:
    """Fragments that describe the media a second time, or a track that does not exist."""
    track, samples = rng.choice((1, 1, 2, 0, 0xFFFFFFFF)), rng.choice((1, 30, 100_000, 0xFFFFFFFF))
    start = rng.choice((0, 1 << 31, (1 << 63) - 1, (1 << 64) - 1))
    fragment = Element(b"moof", is_master=True, children=[
        Element(b"mfhd", bytearray(struct.pack(">II", 0, rng.choice((0, 1, 0xFFFFFFFF))))),
        Element(b"traf", is_master=True, children=[
            Element(b"tfhd", bytearray(struct.pack(">III", 0x20000 | rng.choice((0, 1, 8, 16, 56)), track, 512))),
            Element(b"tfdt", bytearray(struct.pack(">IQ", 1 << 24, start))),
            Element(b"trun", bytearray(struct.pack(">IIi", rng.choice((1, 0x301, 0xF05)), samples, -200))
                    + bytearray(rng.randbytes(16) * min(samples, 40))),
        ]),
    ])  # fmt: skip
    boxes.insert(rng.randint(1, len(boxes)), fragment)
    extension = bytearray(struct.pack(">6I", 0, track, 1, 512, 100, 0))
    for movie in find(boxes, b"moov")[: rng.choice((0, 1))]:
        movie.children.append(
            Element(b"mvex", is_master=True, children=[Element(b"trex", extension)])
        )
    return f"fragment of {samples} samples for track {track} at {start}"


_MUTATIONS: tuple[Mutation[list[Element]], ...] = (
    *TREE_MUTATIONS,
    _wrong_field, _wrong_field, _wrong_field, _wrong_version,
    _wrong_count, _wrong_rows, _wrong_rows, _wrong_rows, _long_table, _long_table,
    _edit_list, _edit_list, _edit_list, _wrong_clock, _wrong_dimensions, _wrong_codec, _wrong_name,
    _long_size, _deep_chain, _shifted_media, _fragments_too,
)  # fmt: skip
"""What happens more often stands here more often."""
