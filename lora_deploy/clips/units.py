"""What an H.264 or HEVC packet says of itself, without decoding: where one may begin, what may go.

The numbers are those of ITU-T H.264 table 7-1 and ITU-T H.265 table 7-1.
"""

from collections.abc import Iterator
from typing import TypeAlias

from av.packet import Packet
from av.video.stream import VideoStream

VideoPacket: TypeAlias = "Packet[VideoStream]"

_SMALL_BYTES = 64
"""Only packets up to this size are searched for a picture."""


def independent(packet: VideoPacket, stream: VideoStream) -> bool:
    """Whether decoding may begin at a packet that its header calls a key frame.

    Headers call more than that a key frame: intra refresh, or every packet where an index is
    missing. Other codecs than these two are believed, and say it again in the decoded picture.
    """
    codec = stream.codec_context.name
    if codec == "h264":
        entries, settings = {5}, {7, 8}  # IDR; parameter sets
    elif codec == "hevc":
        entries, settings = set(range(16, 22)), {32, 33, 34}  # BLA, IDR, CRA; parameter sets
    else:
        return True
    kinds = {_kind(first_byte, codec) for first_byte in _first_bytes(packet, stream)}
    # Where start codes part the units, nothing else holds the parameter sets.
    return bool(kinds & entries) and (_length_bytes(stream) is not None or settings <= kinds)


def holds_picture(packet: VideoPacket, stream: VideoStream) -> bool:
    """Whether there is a picture in it; some files end with a packet that says only that."""
    codec = stream.codec_context.name
    if codec not in ("h264", "hevc") or packet.size > _SMALL_BYTES:
        return True
    kinds = (_kind(first_byte, codec) for first_byte in _first_bytes(packet, stream))
    return any(kind in (1, 2, 5) if codec == "h264" else kind < 32 for kind in kinds)


def referenced(packet: VideoPacket, stream: VideoStream) -> bool:
    """Whether other pictures may be predicted from this one; True where it can't be told."""
    codec = stream.codec_context.name
    if codec not in ("h264", "hevc"):
        return True
    for first_byte in _first_bytes(packet, stream):
        kind = _kind(first_byte, codec)
        if codec == "h264" and kind in (1, 2, 5):
            return bool(first_byte & 0x60)  # nal_ref_idc
        if codec == "hevc" and kind < 32:
            return kind > 14 or kind % 2 == 1  # the even ones are sub-layer non-reference
    return True


def _kind(first_byte: int, codec: str) -> int:
    return first_byte & 0x1F if codec == "h264" else first_byte >> 1 & 0x3F


def _first_bytes(packet: VideoPacket, stream: VideoStream) -> Iterator[int]:
    """The first byte of each network abstraction layer unit of a packet."""
    length_bytes = _length_bytes(stream)
    data = bytes(packet)
    at = 0
    if length_bytes is None:
        while (at := data.find(b"\0\0\1", at) + 3) > 2 and at < len(data):
            yield data[at]
        return
    while at + length_bytes < len(data):
        length = int.from_bytes(data[at : at + length_bytes], "big")
        at += length_bytes
        yield data[at]
        at += length


def _length_bytes(stream: VideoStream) -> int | None:
    """Bytes of the length before each unit; None where start codes part them."""
    extradata = stream.codec_context.extradata or b""
    at = 4 if stream.codec_context.name == "h264" else 21
    if len(extradata) > at and extradata[0] == 1:
        return (extradata[at] & 3) + 1
    return None
