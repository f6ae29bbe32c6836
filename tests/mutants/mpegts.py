"""Wrong MPEG transport streams: tables, PIDs, adaptation fields, clocks, continuity, packets."""

import struct
from dataclasses import dataclass, replace
from random import Random

from tests.mutants.tree import Mutation, apply_some, odd_number

PACKET_BYTES = 188
_PAT_PID = 0
_STREAM_TYPES = (0x00, 0x01, 0x02, 0x03, 0x06, 0x0F, 0x10, 0x15, 0x1B, 0x21, 0x24, 0x42, 0x80, 0xEA)


@dataclass
class Packet:
    """One packet in its parts."""

    head: bytearray
    """Sync byte, flags and PID, scrambling and continuity: 4 bytes."""
    adaptation: bytearray
    """With its length byte; empty where there is none."""
    payload: bytearray

    @property
    def pid(self) -> int:
        """Which stream or table it belongs to."""
        return int.from_bytes(self.head[1:3], "big") & 0x1FFF

    @pid.setter
    def pid(self, value: int) -> None:
        self.head[1:3] = ((self.head[1] & 0xE0) << 8 | value & 0x1FFF).to_bytes(2, "big")

    @property
    def starts(self) -> bool:
        """A table or picture begins here."""
        return bool(self.head[1] & 0x40)

    @property
    def is_picture(self) -> bool:
        """A picture begins here, with its PES header."""
        return self.starts and self.payload[:3] == b"\0\0\1" and len(self.payload) >= 19


def mutate(content: bytes, rng: Random, count: int) -> tuple[bytes, list[str]]:
    """The file with ``count`` things wrong, and what they are."""
    packets = _parse(content)
    assert _write(packets) == content
    assert _tables(packets, pat=True)
    assert any(packet.is_picture for packet in packets)
    done = apply_some(_MUTATIONS, packets, rng, count)
    return _write(packets), done


def _parse(content: bytes) -> list[Packet]:
    assert len(content) % PACKET_BYTES == 0
    packets = []
    for at in range(0, len(content), PACKET_BYTES):
        packet = content[at : at + PACKET_BYTES]
        assert packet[0] == 0x47
        own = 1 + packet[4] if packet[3] & 0x20 else 0
        packets.append(
            Packet(
                bytearray(packet[:4]), bytearray(packet[4 : 4 + own]), bytearray(packet[4 + own :])
            )
        )
    return packets


def _write(packets: list[Packet]) -> bytes:
    return b"".join(packet.head + packet.adaptation + packet.payload for packet in packets)


def _copy(packet: Packet) -> Packet:
    return replace(
        packet,
        head=packet.head[:],
        adaptation=packet.adaptation[:],
        payload=packet.payload[:],
    )


def _tables(packets: list[Packet], *, pat: bool) -> list[Packet]:
    """Packets with a whole section in them: the programs (PAT) or the streams of one (PMT)."""
    wanted = 0x00 if pat else 0x02
    return [
        packet
        for packet in packets
        if packet.starts and packet.payload[:1] == b"\0" and packet.payload[1:2] == bytes((wanted,))
        if (packet.pid == _PAT_PID) == pat
    ]


def _sign(packet: Packet) -> None:
    """Make the section's checksum right again, so that it is believed."""
    length = (packet.payload[2] & 0x0F) << 8 | packet.payload[3]
    end = 4 + length
    if 8 <= end <= len(packet.payload):
        packet.payload[end - 4 : end] = _crc32(packet.payload[1 : end - 4]).to_bytes(4, "big")


def _crc32(data: bytes | bytearray) -> int:
    """CRC-32/MPEG-2."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte << 24
        for _ in range(8):
            crc = (crc << 1 ^ (0x04C11DB7 if crc & 0x80000000 else 0)) & 0xFFFFFFFF
    return crc


def _wrong_table(packets: list[Packet], rng: Random) -> str | None:
    """A PAT or PMT with another PID, stream type or length in all its copies, believed by checksum."""
    pat = rng.random() < 0.4
    tables = _tables(packets, pat=pat)
    if not tables:
        return None
    pids = sorted({packet.pid for packet in packets})
    places = {
        "PMT PID": (11, 2), "program": (9, 2), "section number": (7, 1), "version": (6, 1),
    } if pat else {
        "PCR PID": (9, 2), "program info length": (11, 2), "stream type": (13, 1),
        "stream PID": (14, 2), "stream info length": (16, 2), "version": (6, 1),
    }  # fmt: skip
    told = rng.choice(sorted(places))
    at, width = places[told]
    value = odd_number(rng, 8 * width, int.from_bytes(tables[0].payload[at : at + width], "big"))
    if told.endswith("PID") and rng.random() < 0.7:
        value = 0xE000 | rng.choice((*pids, 0x1FFF, 0x11))
    if told == "stream type":
        value = rng.choice(_STREAM_TYPES)
    for table in tables[rng.choice((0, 0, 1)) :]:
        table.payload[at : at + width] = value.to_bytes(width, "big")
        _sign(table)
    return f"{'PAT' if pat else 'PMT'} {told} is {value}"


def _wrong_section_length(packets: list[Packet], rng: Random) -> str | None:
    tables = _tables(packets, pat=rng.random() < 0.5)
    if not tables:
        return None
    length = rng.choice((0, 1, 4, 8, 12, 0x3FD, 0xFFF))
    for table in tables:
        table.payload[2:4] = (0xB000 | length).to_bytes(2, "big")
        _sign(table)
    return f"section of {length} bytes"


def _many_streams(packets: list[Packet], rng: Random) -> str | None:
    """A table that names as many programs or streams as it can hold."""
    pat = rng.random() < 0.5
    tables = _tables(packets, pat=pat)
    if not tables:
        return None
    for table in tables:
        rows, at = (40, 9) if pat else (30, 18)
        for row in range(rows):
            pid = 0xE000 | (0x100 + row if row % 2 else table.pid)
            entry = struct.pack(">HH", row, pid) if pat else struct.pack(">BHH", 0x1B, pid, 0xF000)
            table.payload[at : at + len(entry)] = entry
            at += len(entry)
        length = min(at + 4, len(table.payload)) - 4
        table.payload[2:4] = (0xB000 | length).to_bytes(2, "big")
        _sign(table)
    return f"{'PAT' if pat else 'PMT'} of very many entries"


def _wrong_pid(packets: list[Packet], rng: Random) -> str | None:
    """A stream, or one packet, under another number."""
    pids = sorted({packet.pid for packet in packets})
    old, new = rng.choice(pids), rng.choice((*pids, 0x1FFF, 0x11, 0x300))
    changed = [packet for packet in packets if packet.pid == old]
    changed = rng.choice((changed, [rng.choice(changed)]))
    for packet in changed:
        packet.pid = new
    return f"PID {old} is {new} in {len(changed)} packets" if old != new else None


def _wrong_adaptation(packets: list[Packet], rng: Random) -> str | None:
    """An adaptation field longer than its packet, or with flags that promise what is not there."""
    fields = [packet.adaptation for packet in packets if len(packet.adaptation) > 1]
    if not fields:
        return None
    at = rng.choice((0, 1))
    value = rng.choice((0, 1, 182, 183, 184, 255)) if at == 0 else rng.choice((0, 0xFF, 0x80, 0x12))
    changed = rng.choice((fields, [rng.choice(fields)]))
    for adaptation in changed:
        adaptation[at] = value
    return f"adaptation byte {at} is {value} in {len(changed)} packets"


def _wrong_clock(packets: list[Packet], rng: Random) -> str | None:
    """Program clock references that stand still, leap or turn back."""
    fields = [p.adaptation for p in packets if len(p.adaptation) >= 8 and p.adaptation[1] & 0x10]
    if not fields:
        return None
    value = odd_number(rng, 33, 900_000)
    for adaptation in fields[rng.randrange(len(fields)) :]:
        adaptation[2:7] = (value << 7 | 0x7E).to_bytes(5, "big")
    return f"clock is {value}"


def _wrong_times(packets: list[Packet], rng: Random) -> str | None:
    """Presentation and decoding times: equal, far apart, backward, at the edge of 33 bits."""
    pictures = [packet for packet in packets if packet.is_picture and packet.payload[7] & 0x80]
    if not pictures:
        return None
    which = rng.choice((9, 9, 14))
    step = rng.choice((0, 1, -3_000, 1 << 20, 1 << 32, 3_000))
    start = odd_number(rng, 33, 130_000)
    changed = pictures[rng.randrange(len(pictures)) :]
    for at, picture in enumerate(changed):
        time = (start + step * at) % (1 << 33)
        picture.payload[which : which + 5] = bytes((
            (picture.payload[which] & 0xF0) | (time >> 29) & 0x0E | 1,
            *(time >> 15 << 1 & 0xFFFF | 1).to_bytes(2, "big"),
            *(time << 1 & 0xFFFF | 1).to_bytes(2, "big"),
        ))  # fmt: skip
    return f"times in {len(changed)} pictures from {start} by {step}"


def _wrong_picture_head(packets: list[Packet], rng: Random) -> str | None:
    """Length, stream id or flags of the PES header."""
    pictures = [packet for packet in packets if packet.is_picture]
    if not pictures:
        return None
    at = rng.choice((3, 4, 5, 6, 7, 8))
    value = rng.choice((0, 1, 0x40, 0x80, 0xBD, 0xC0, 0xFD, 0xFF))
    changed = rng.choice((pictures, [rng.choice(pictures)]))
    for picture in changed:
        picture.payload[at] = value
    return f"PES byte {at} is {value} in {len(changed)} pictures"


def _wrong_flags(packets: list[Packet], rng: Random) -> str | None:
    """Continuity, scrambling, error and start flags."""
    at, mask, told = rng.choice(
        ((3, 0x0F, "continuity"), (3, 0xC0, "scrambling"), (1, 0x80, "error"), (1, 0x40, "start"),
         (3, 0x30, "adaptation"))
    )  # fmt: skip
    changed = rng.choice((packets, [rng.choice(packets)], packets[:: rng.choice((2, 7))]))
    for packet in changed:
        packet.head[at] ^= mask & rng.randrange(256)
    return f"{told} flags of {len(changed)} packets"


def _order(packets: list[Packet], rng: Random) -> str | None:
    """Packets missing, repeated, swapped, or the whole stream once more."""
    at, length = rng.randrange(len(packets)), rng.choice((1, 3, 40))
    stretch = [_copy(packet) for packet in packets[at : at + length]]
    what = rng.choice(("missing", "repeated", "backward", "all again"))
    if what == "missing":
        del packets[at : at + length]
    elif what == "repeated":
        packets[at:at] = [_copy(packet) for _ in range(20) for packet in stretch]
    elif what == "backward":
        packets[at : at + length] = stretch[::-1]
    else:
        packets += [_copy(packet) for packet in packets]
    return f"packets {at} to {at + length} {what}" if packets else None


def _other_framing(packets: list[Packet], rng: Random) -> str | None:
    """Packets of 192 or 204 bytes, or of 188 with some bytes lost."""
    what = rng.choice(("192", "204", "lost"))
    if what == "192":
        for packet in packets:
            packet.head[:0] = rng.randbytes(4)
    elif what == "204":
        for packet in packets:
            packet.payload += bytes(16)
    else:
        del rng.choice(packets).payload[-rng.choice((1, 40, 100)) :]
    return f"framing: {what}"


_MUTATIONS: tuple[Mutation[list[Packet]], ...] = (
    _wrong_table, _wrong_table, _wrong_table, _wrong_section_length, _many_streams, _wrong_pid,
    _wrong_adaptation, _wrong_adaptation, _wrong_clock, _wrong_times, _wrong_times,
    _wrong_picture_head, _wrong_picture_head, _wrong_flags, _order, _other_framing,
)  # fmt: skip
"""What happens more often stands here more often."""
