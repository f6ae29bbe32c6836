"""Decoded frames on disk: every clip of a data set decoded once, read many times.

One uint8 array for all clips, memory-mapped, with an index of which file, or part of one, became
which row.
"""

import errno
import hashlib
import math
import os
import secrets
import shutil
import stat
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from lora_deploy.atomic import replacing, write_text
from lora_deploy.clips import frame_folder
from lora_deploy.clips.clip import WHOLE_FILE, Footage, Frames, HasFootage, Stretch
from lora_deploy.clips.contract import PixelContract
from lora_deploy.clips.pool import DecodePool, shared
from lora_deploy.errors import (
    ClipError,
    ClipErrorKind,
    DiskFullError,
    FrameCacheFolderError,
    FrameCacheFullError,
)

_SPARE_BYTES = 16 << 20
"""Left free on the disk for the index and for others."""


class _Entry(BaseModel):
    """What became of one clip; size and time tell whether its file is still the same."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: str
    start_seconds: float = 0.0
    end_seconds: float | None = None
    size: int | None
    modified_ns: int | None
    row: int
    warning: str | None = None
    error_kind: ClipErrorKind | None = None
    error: str | None = None

    @property
    def clip(self) -> "_Clip":
        return self.path, self.start_seconds, self.end_seconds


_Clip = tuple[str, float, float | None]
"""The real path of a file, and from when to when, in seconds: what one row of the cache holds."""


class _Index(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: int = 1
    contract: PixelContract
    frames_file: str
    frames_file_bytes: int
    entries: tuple[_Entry, ...]


@dataclass(frozen=True)
class FrameCache:
    """The frames of many clips, on disk."""

    contract: PixelContract
    array: Frames
    """uint8 [clips, frames · oversample, crop_height, crop_width, 3], memory-mapped, read-only."""
    errors: Mapping[Footage, ClipError]
    """What gave no clip, and why; paths as they were given."""
    warnings: Mapping[Footage, str]
    """Whose file gave a part of what it promises."""
    rows: Mapping[Footage, int]
    """Footage, its path as it was given, to its row in ``array``."""
    oversample: int = 1
    """How many moments are kept around each frame that the contract asks for, itself included; odd."""

    def frames(self, clip: HasFootage) -> Frames:
        """The frames of one clip, uint8 [frames, crop_height, crop_width, 3], read-only.

        Raises:
            ClipError: It gave no clip.
            KeyError: The cache was not built for it.
        """
        return self.choices(clip)[:, self.oversample // 2]

    def choices(self, clip: HasFootage) -> Frames:
        """For each frame the moments it may be drawn from; the one in the middle is the contract's own.

        Returns:
            uint8 [frames, oversample, crop_height, crop_width, 3], read-only, in the order of time.

        Raises:
            As `frames`.
        """
        footage = clip.footage
        if footage in self.errors:
            known = self.errors[footage]
            raise ClipError(known.kind, str(known))
        row: Frames = self.array[self.rows[footage]]
        choices: Frames = row.reshape(-1, self.oversample, *row.shape[1:])
        return choices

    def named(self, name: str) -> Footage:
        """The footage that is called so when it is written as a text.

        Raises:
            KeyError: The cache was not built for it.
        """
        return {str(footage): footage for footage in self.rows}[name]


def build_cache(
    clips: Sequence[HasFootage],
    contract: PixelContract,
    folder: Path,
    *,
    oversample: int = 1,
    on_clip: Callable[[int, int], None] | None = None,
    pool: DecodePool | None = None,
) -> FrameCache:
    """Decode each distinct clip once into ``folder``, or take what is there if nothing changed.

    What is there is taken if the contract is the same and no file has another size or time of
    change. Clips that can't be read are listed in `FrameCache.errors` and stop nothing.

    Args:
        clips: Video files, or parts of them; one that is given twice or under two names is decoded
            once.
        contract: What to decode of each.
        folder: Made if need be; may hold caches of several contracts.
        oversample: For each frame, how many moments at equal distances around it are kept. An odd
            number, so that the frame itself is one of them: of 3·n equal stretches of a clip every
            third has the same middle as one of n.
        on_clip: Called with the number of clips done and of all clips, in this thread.
        pool: Decodes; the shared one by default.

    Raises:
        FrameCacheFullError: The disk has no room.
        FrameCacheFolderError: The folder can't be written.
    """
    wanted = {clip.footage: _clip_of(clip.footage) for clip in clips}
    distinct = sorted(set(wanted.values()), key=_in_file_order)
    pool = pool or shared()
    kept = contract
    contract = PixelContract(**{**dict(contract), "frames": contract.frames * oversample})
    how = f"{contract.model_dump_json()} {pool.options.decoder} {pool.options.effort}"
    digest = hashlib.sha256(how.encode()).hexdigest()[:16]
    index_path = folder / f"index-{digest}.json"
    try:
        index = _read_index(index_path, contract)
        if index is None or not _still_holds(index, distinct):
            index = _build(distinct, contract, index_path, digest, on_clip, pool)
        return replace(_open(index, folder, wanted), contract=kept, oversample=oversample)
    except (OSError, DiskFullError) as error:
        if isinstance(error, DiskFullError) or error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise FrameCacheFullError(f"the disk of {folder} is full") from error
        raise FrameCacheFolderError(
            f"the frame cache {folder} can't be used ({os.strerror(error.errno or 0)})"
        ) from error


def _build(
    distinct: Sequence[_Clip],
    contract: PixelContract,
    index_path: Path,
    digest: str,
    on_clip: Callable[[int, int], None] | None,
    pool: DecodePool,
) -> _Index:
    folder = index_path.parent
    folder.mkdir(parents=True, exist_ok=True)
    outdated = _read_index(index_path, contract)
    # A name of its own, so that two builds at once never mix up their frames.
    frames_path = folder / f"frames-{digest}-{secrets.token_hex(4)}.npy"
    _check_space(folder, len(distinct) * _row_bytes(contract))
    with replacing(frames_path) as partial, partial.open("r+b") as file:
        offset = _write_header(file, len(distinct), contract)
        entries = _decode_all(distinct, contract, file, offset, on_clip, pool)
    index = _Index(
        contract=contract,
        frames_file=frames_path.name,
        frames_file_bytes=frames_path.stat().st_size,
        entries=entries,
    )
    write_text(index_path, index.model_dump_json(indent=1))
    if outdated is not None:
        # Whoever has it mapped keeps it until they are done.
        (folder / outdated.frames_file).unlink(missing_ok=True)
    return index


def _decode_all(
    distinct: Sequence[_Clip],
    contract: PixelContract,
    file: BinaryIO,
    offset: int,
    on_clip: Callable[[int, int], None] | None,
    pool: DecodePool,
) -> tuple[_Entry, ...]:
    # Before they are read: a file that changes meanwhile is decoded anew the next time.
    looked_at = {path: _size_and_time(path) for path, _, _ in distinct}
    entries = []
    footage = (Footage(Path(path), Stretch(start, end)) for path, start, end in distinct)
    decoded = pool.in_order(footage, contract)
    for row, (clip, (_, outcome)) in enumerate(zip(distinct, decoded, strict=True)):
        path, start_seconds, end_seconds = clip
        size, modified_ns = looked_at[path]
        if isinstance(outcome, ClipError):
            pixels = bytes(_row_bytes(contract))
            told: dict[str, Any] = {"error_kind": outcome.kind, "error": str(outcome)}
        else:
            pixels = outcome.frames.tobytes()
            told = {"warning": outcome.warning}
        # Plain writes and not a writable memory map: a full disk is then an error, not a SIGBUS.
        _write_all(file.fileno(), pixels, offset + row * _row_bytes(contract))
        entry = _Entry(
            path=path, start_seconds=start_seconds, end_seconds=end_seconds,
            size=size, modified_ns=modified_ns, row=row, **told,
        )  # fmt: skip
        entries.append(entry)
        if on_clip is not None:
            on_clip(len(entries), len(distinct))
    return tuple(entries)


def _write_header(file: BinaryIO, clips: int, contract: PixelContract) -> int:
    """Write the head of an ``.npy`` file and reserve its room; gives where the rows start."""
    np.lib.format.write_array_header_1_0(
        file,
        {
            "descr": np.lib.format.dtype_to_descr(np.dtype(np.uint8)),
            "fortran_order": False,
            "shape": (clips, *contract.frames_shape),
        },
    )
    file.flush()
    offset = file.tell()
    file.truncate(offset + clips * _row_bytes(contract))
    return offset


def _write_all(descriptor: int, pixels: bytes, offset: int) -> None:
    remaining = memoryview(pixels)
    while remaining:
        written = os.pwrite(descriptor, remaining, offset)
        remaining, offset = remaining[written:], offset + written


def _row_bytes(contract: PixelContract) -> int:
    frames, height, width, channels = contract.frames_shape
    return frames * height * width * channels


def _check_space(folder: Path, needed_bytes: int) -> None:
    free_bytes = shutil.disk_usage(folder).free
    if free_bytes < needed_bytes + _SPARE_BYTES:
        raise FrameCacheFullError(
            f"the decoded frames need {_megabytes(needed_bytes + _SPARE_BYTES)} MB and the disk "
            f"of {folder} has {_megabytes(free_bytes)} MB free"
        )


def _megabytes(count: int) -> int:
    return -(-count // 1_000_000)


def _read_index(index_path: Path, contract: PixelContract) -> _Index | None:
    """The index that is there, if it is whole and of this contract and its frames are there."""
    try:
        index = _Index.model_validate_json(index_path.read_bytes())
        frames_file_bytes = (index_path.parent / index.frames_file).stat().st_size
    except (FileNotFoundError, ValidationError):
        return None
    sound = (
        index.schema_version == 1
        and index.contract == contract
        and Path(index.frames_file).name == index.frames_file
        and index.frames_file_bytes == frames_file_bytes
    )
    return index if sound else None


def _still_holds(index: _Index, distinct: Sequence[_Clip]) -> bool:
    known = {entry.clip: (entry.size, entry.modified_ns) for entry in index.entries}
    now = {path: _size_and_time(path) for path in {path for path, _, _ in distinct}}
    return all(clip in known and known[clip] == now[clip[0]] for clip in distinct)


def _size_and_time(path: str) -> tuple[int | None, int | None]:
    try:
        status = os.stat(path)  # noqa: PTH116 (a string that realpath gave)
        if stat.S_ISDIR(status.st_mode):
            return frame_folder.size_and_time(Path(path))
    except (OSError, ValueError):
        return None, None
    return status.st_size, status.st_mtime_ns


def _clip_of(footage: Footage) -> _Clip:
    stretch = footage.stretch or WHOLE_FILE
    return os.path.realpath(footage.path), stretch.start_seconds, stretch.end_seconds


def _in_file_order(clip: _Clip) -> tuple[str, float, float]:
    path, start_seconds, end_seconds = clip
    return path, start_seconds, math.inf if end_seconds is None else end_seconds


def _open(index: _Index, folder: Path, wanted: Mapping[Footage, _Clip]) -> FrameCache:
    entries = {entry.clip: entry for entry in index.entries}
    found = {footage: entries[clip] for footage, clip in wanted.items()}
    array = (
        np.load(folder / index.frames_file, mmap_mode="r")
        if index.entries
        else np.zeros((0, *index.contract.frames_shape), np.uint8)
    )
    return FrameCache(
        contract=index.contract,
        array=array,
        errors={
            footage: ClipError(entry.error_kind, entry.error or "")
            for footage, entry in found.items()
            if entry.error_kind is not None
        },
        warnings={
            footage: entry.warning for footage, entry in found.items() if entry.warning is not None
        },
        rows={footage: entry.row for footage, entry in found.items()},
    )
