"""What may be opened at all: regular files that hold a video of a sane size, and nothing they name.

It knows nothing of decoding; `lora_deploy.clips.decode` obeys it.
"""

import os
import re
import stat
from pathlib import Path
from typing import BinaryIO, NoReturn

from lora_deploy import open_files
from lora_deploy.errors import ClipError

FORMAT_WHITELIST = (
    "mov,mp4,m4a,3gp,3g2,mj2",  # one demuxer: MP4, QuickTime and relatives
    "matroska,webm",
    "avi",
    "mpegts",
    "mpeg",
    "flv",
    "gif",
    "ogg",
    "asf",  # WMV
)
"""FFmpeg's names of the containers that are read. Playlists, image lists, devices, raw streams and
still pictures are absent on purpose: most of the danger of a foreign file lies in those."""

MAX_PIXELS_PER_FRAME = 4096 * 4096
"""16.8 million: 5.7K of a 360° camera passes, 8K does not (a decoder may hold 17 such frames)."""

MAX_DURATION_SECONDS = 4 * 60 * 60.0
"""Four hours."""

MAX_FRAMES = 4 * 60 * 60 * 60
"""Four hours at 60 frames a second: the bound where timestamps say nothing."""

MAX_STREAMS = 64
"""Pictures, sound, subtitles and data together; a film on disc has twenty or thirty."""

BELIEVABLE_SECONDS = 30 * 24 * 60 * 60.0
"""A header that claims more than a month is broken, and the frames themselves are counted."""

OPEN_OPTIONS = {
    "format_whitelist": ",".join(FORMAT_WHITELIST),
    # No protocol has this name: the file itself comes as an open file, so none is needed.
    "protocol_whitelist": "none",
    "max_pixels": str(MAX_PIXELS_PER_FRAME),
    # One more, so that it is this package that refuses, with a reason.
    "max_streams": str(MAX_STREAMS + 1),
}
"""Options of every ``av.open``."""

CODEC_OPTIONS = {"max_pixels": str(MAX_PIXELS_PER_FRAME)}
"""Options of every decoder; they hold when a stream changes its size on the way, too."""

_SNIFFED_BYTES = 4096

_PLAYLIST = re.compile(
    rb"#EXT|ffconcat|file[ \t'\"]|v=0[\r\n]|\[playlist\]|\[reference\]|rtsptext|"
    rb"(<\?xml[^>]*>)?\s*(?:<!--.*?-->\s*)*+<(MPD|SmoothStreamingMedia|smil|asx|manifest)\b",
    re.IGNORECASE | re.DOTALL,
)
# The comments possessively (*+): else a file of many comments takes time without end.
_WEB_PAGE = re.compile(
    rb"(?:<!--.*?-->\s*)*+<(!doctype html|html|head|body)\b", re.IGNORECASE | re.DOTALL
)
_LFS_POINTER = b"version https://git-lfs"
_BINARY = re.compile(rb"[\x00-\x08\x0e-\x1a\x1c-\x1f]")
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


def open_clip(path: Path) -> BinaryIO:
    """Open a file that may be a video, for reading; the caller closes it.

    Raises:
        ClipError: As `open_regular`; ``forbidden`` for a playlist too, ``unreadable`` for a text.
        OSError: As `open_regular`.
    """
    file = open_regular(path)
    try:
        _check_content(file.read(_SNIFFED_BYTES))
        file.seek(0)
    except OSError as error:
        file.close()
        raise ClipError(
            "unreadable", f"the file can't be read ({os.strerror(error.errno or 0)})"
        ) from None
    except BaseException:
        file.close()
        raise
    return file


def open_regular(path: Path) -> BinaryIO:
    """Open a file, whatever it holds, for reading; the caller closes it.

    Names are only ever names of files here: ``concat:a.mp4``, ``http://…``, ``-x.mp4`` and
    ``frame%03d.png`` mean nothing special.

    Raises:
        ClipError: ``not_found``; ``forbidden`` for a folder, device, pipe or socket;
            ``unreadable`` for an empty file, or one that may not be read.
        OSError: This process may open no more files; nothing is known of this one.
    """
    try:
        # Looked at before it is opened, because opening alone does something to some devices.
        _check_regular(path.stat())
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except (FileNotFoundError, NotADirectoryError, ValueError):
        # ValueError: a name with a NUL in it.
        raise ClipError("not_found", "there is no such file") from None
    except OSError as error:
        if open_files.ran_out(error):
            raise
        raise ClipError(
            "unreadable", f"the file can't be opened ({os.strerror(error.errno or 0)})"
        ) from None
    # By descriptor, so FFmpeg never learns the path: relative names in a file lead nowhere.
    file = os.fdopen(descriptor, "rb")
    try:
        _check_regular(os.fstat(descriptor))
    except BaseException:
        file.close()
        raise
    return file


def refuse_other_files(url: str, flags: int, options: dict[str, str]) -> NoReturn:
    """What FFmpeg is given to open further files with: nothing is opened.

    It is the third fence, and only for the demuxers that ask; ``concat`` does not.

    Raises:
        ClipError: Always, ``forbidden``.
    """
    del url, flags, options
    raise ClipError(
        "forbidden", "the file points to other files; only videos that stand alone are read"
    )


def check_picture_size(width: int, height: int) -> None:
    """Refuse pictures too large to decode.

    Raises:
        ClipError: ``too_large``.
    """
    if width * height > MAX_PIXELS_PER_FRAME:
        raise ClipError(
            "too_large",
            f"the picture has {width}×{height} pixels; at most {MAX_PIXELS_PER_FRAME} "
            "(4096×4096) are read, so scale the video down first",
        )


def check_stream_count(streams: int) -> None:
    """Refuse containers with more streams than any honest one has.

    Raises:
        ClipError: ``too_large``.
    """
    if streams > MAX_STREAMS:
        raise ClipError(
            "too_large",
            f"the file holds more than {MAX_STREAMS} streams; that is the limit, so keep only "
            "the video",
        )


def check_duration(duration_seconds: float) -> None:
    """Refuse videos too long to decode; a claim beyond `BELIEVABLE_SECONDS` is passed over.

    Raises:
        ClipError: ``too_long``.
    """
    if MAX_DURATION_SECONDS < duration_seconds <= BELIEVABLE_SECONDS:
        raise ClipError(
            "too_long",
            f"the video lasts {duration_seconds:.0f} seconds; at most "
            f"{MAX_DURATION_SECONDS:.0f} are read, so cut it first",
        )


def check_frame_count(frames: int) -> None:
    """Refuse videos of too many frames, whatever their timestamps say.

    Raises:
        ClipError: ``too_long``.
    """
    if frames > MAX_FRAMES:
        raise ClipError(
            "too_long",
            f"the video has more than {MAX_FRAMES} frames; that is the limit, so cut it first",
        )


def _check_regular(status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        kind = "a folder" if stat.S_ISDIR(status.st_mode) else "a device, pipe or socket"
        raise ClipError("forbidden", f"this is {kind}; only regular files are read")
    if status.st_size == 0:
        raise ClipError("unreadable", "the file is empty")


def _check_content(head: bytes) -> None:
    """Refuse texts: FFmpeg takes some of them for lists of other files."""
    text = head.removeprefix(_BYTE_ORDER_MARK).lstrip()
    if _PLAYLIST.match(text):
        raise ClipError(
            "forbidden",
            "the file is a playlist that names other files; only videos that stand alone are read",
        )
    if text.startswith(_LFS_POINTER):
        raise ClipError(
            "unreadable",
            "the file is a Git LFS pointer and not the video itself; fetch it with: git lfs pull",
        )
    if _WEB_PAGE.match(text):
        raise ClipError(
            "unreadable", "the file is a web page and not a video; download the video itself"
        )
    if not _BINARY.search(head):
        raise ClipError("unreadable", "the file is a text and not a video")
