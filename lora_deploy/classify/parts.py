"""A run in shards: which clips each takes, the part of the rows that it leaves, and parts joined again."""

import contextlib
import hashlib
import json
import logging
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lora_deploy import atomic, open_files
from lora_deploy.classify.inputs import Item
from lora_deploy.classify.rows import Row
from lora_deploy.classify.terms import differences
from lora_deploy.errors import PartMissingError, PartsDifferError, PartTornError, ShardError

logger = logging.getLogger(__name__)

MOST_SHARDS = 1000
"""All their parts are open at once when they are joined, and a process may open 1024 files."""

_LONGEST_HEADER = 1 << 20


@dataclass(frozen=True)
class Shard:
    """One part of how many."""

    number: int
    """From 1."""
    of: int

    def __str__(self) -> str:
        """As ``--shard`` takes it."""
        return f"{self.number}/{self.of}"

    def takes(self, position: int) -> bool:
        """Whether a clip is its own, by its position in the list of all."""
        return position % self.of == self.number - 1

    def share(self, clips: int) -> int:
        """How many of so many it takes."""
        return len(range(self.number - 1, clips, self.of))

    def part_of(self, out: Path) -> Path:
        """Where its rows are written, beside ``out``."""
        return out.with_name(f"{out.name}.part-{self.number}-of-{self.of}.jsonl")


def parse_shard(text: str) -> Shard:
    """Read ``I/N``.

    Raises:
        ShardError: It is something else, or I is not among 1 to N.
    """
    found = re.fullmatch(r"\s*([0-9]{1,6})\s*/\s*([0-9]{1,6})\s*", text)
    shard = Shard(int(found[1]), int(found[2])) if found else None
    if shard is None or not 1 <= shard.number <= shard.of <= MOST_SHARDS:
        raise ShardError(f"{text!r} is no shard; allowed: 1/N to N/N, N at most {MOST_SHARDS}")
    return shard


class InputList:
    """Counts the clips of all shards, and makes one digest of them, while they go by."""

    def __init__(self) -> None:
        """Of none."""
        self.clips = 0
        self.is_whole = False
        """Whether all went by."""
        self._digest = hashlib.sha256()

    def passing(self, items: Iterable[Item]) -> Iterator[tuple[int, Item]]:
        """Each clip with its position in the list of all."""
        for position, item in enumerate(items):
            stretch = item.footage.stretch
            times = None if stretch is None else (stretch.start_seconds, stretch.end_seconds)
            self._digest.update(f"{item.path!a} {times!r}\n".encode())
            self.clips = position + 1
            yield position, item

    @property
    def digest(self) -> str:
        """Of what the clips are called, and of their times; not of what they hold."""
        return f"sha256:{self._digest.hexdigest()}"


@dataclass(frozen=True)
class Header:
    """The first line of a part: what it is a part of."""

    part: int
    of: int
    rows: int
    sha256: str
    """Of the lines behind this one."""
    inputs: str
    """Digest of the list of all clips."""
    clips: int
    """In that list."""
    timed: bool
    """Whether the rows have times."""
    settings: dict[str, str]
    """The model's digest among them."""
    surroundings: dict[str, str]

    @property
    def shard(self) -> Shard:
        """Which it is."""
        return Shard(self.part, self.of)


def write_part(
    rows: Callable[[], Iterable[Row]],
    path: Path,
    shard: Shard,
    listed: InputList,
    *,
    timed: bool,
    settings: dict[str, str],
    surroundings: dict[str, str],
) -> None:
    """Write the rows of a shard, whole or not at all; ``rows`` is called twice."""
    digest, count = hashlib.sha256(), 0
    for count, row in enumerate(rows(), 1):  # noqa: B007
        digest.update(_line(row, timed))
    header = Header(
        part=shard.number, of=shard.of, rows=count, sha256=digest.hexdigest(), inputs=listed.digest,
        clips=listed.clips, timed=timed, settings=settings, surroundings=surroundings,
    )  # fmt: skip
    with atomic.replacing(path) as partial, partial.open("wb") as file:
        file.write(json.dumps(asdict(header)).encode() + b"\n")
        file.writelines(_line(row, timed) for row in rows())


@dataclass(frozen=True)
class Parts:
    """All parts of a run, each looked at and found whole."""

    paths: tuple[Path, ...]
    """In the order of their numbers."""
    clips: int
    timed: bool

    def rows(self) -> Iterator[Row]:
        """The rows of all, in the order of the inputs; one of each part in memory."""
        with contextlib.ExitStack() as stack:
            files = [stack.enter_context(path.open("rb")) for path in self.paths]
            for file in files:
                file.readline()
            for position in range(self.clips):
                part = position % len(files)
                try:
                    row = Row.from_dict(json.loads(files[part].readline()))
                except (ValueError, TypeError) as error:
                    raise PartTornError(
                        f"{self.paths[part]} holds a line that is no row ({error})"
                    ) from None
                yield row


def find_parts(out: Path) -> Parts:
    """The parts of ``out`` beside it.

    Raises:
        PartMissingError: There are none, or not all.
        PartTornError: One is cut short or changed.
        PartsDifferError: They are not of one run.
    """
    paths = _paths(out)
    open_files.allow(len(paths))
    headers = [_checked(path, shard) for shard, path in paths.items()]
    for path, header in zip(list(paths.values())[1:], headers[1:], strict=True):
        _check_same(path, headers[0], header)
    return Parts(tuple(paths.values()), headers[0].clips, headers[0].timed)


def _paths(out: Path) -> dict[Shard, Path]:
    """Every part of ``out``, by number."""
    pattern = re.compile(re.escape(out.name) + r"\.part-([1-9]\d{0,5})-of-([1-9]\d{0,5})\.jsonl")
    named = [found for path in out.parent.iterdir() if (found := pattern.fullmatch(path.name))]
    shards = sorted((int(found[2]), int(found[1])) for found in named)
    counts = sorted({of for of, _ in shards})
    if not counts:
        raise PartMissingError(f"no part of {out} is beside it, as {Shard(1, 3).part_of(out).name}")
    if len(counts) > 1:
        raise PartsDifferError(
            f"beside {out} are parts of runs in {', '.join(map(str, counts[:-1]))} and in "
            f"{counts[-1]} shards"
        )
    [of] = counts
    missing = sorted(set(range(1, of + 1)) - {number for _, number in shards})
    if missing:
        some = ", ".join(map(str, missing[:8])) + (" …" if len(missing) > 8 else "")
        raise PartMissingError(
            f"of the {of} parts of {out}, {len(missing)} are missing: number {some}; the first would "
            f"be {Shard(missing[0], of).part_of(out).name}"
        )
    return {shard: shard.part_of(out) for shard in (Shard(number, of) for _, number in shards)}


def _checked(path: Path, shard: Shard) -> Header:
    """The header of a part, whose rows are all there."""
    with path.open("rb") as file:
        header = _header(path, file.readline(_LONGEST_HEADER))
        if header.shard != shard:
            raise PartsDifferError(f"{path} is part {header.shard} by what it holds")
        digest, rows = hashlib.sha256(), 0
        for line in file:
            digest.update(line)
            rows += 1
    if rows != header.rows or header.rows != shard.share(header.clips):
        raise PartTornError(f"{path} holds {rows} rows of {shard.share(header.clips)}")
    if digest.hexdigest() != header.sha256:
        raise PartTornError(f"the rows of {path} are not those that were written")
    return header


def _header(path: Path, line: bytes) -> Header:
    try:
        told: dict[str, Any] = json.loads(line)
        return Header(**told)
    except (ValueError, TypeError, RecursionError):
        raise PartTornError(f"the first line of {path} is not that of a part") from None


def _check_same(path: Path, first: Header, header: Header) -> None:
    """Refuse a part that is not of the same run as the first."""
    changed = differences(first.settings, header.settings)
    if changed:
        raise PartsDifferError(f"{path} is not of the same run as part 1: {', '.join(changed)}")
    if (first.inputs, first.clips, first.timed) != (header.inputs, header.clips, header.timed):
        raise PartsDifferError(
            f"{path} is not of the same run as part 1: its list of inputs is another, of "
            f"{header.clips} clips, not {first.clips}"
            if first.clips != header.clips
            else f"{path} is not of the same run as part 1: its list of inputs names other clips"
        )
    changed = differences(first.surroundings, header.surroundings)
    if changed:
        logger.warning(
            "%s was made where %s against part 1: its scores may differ in their last digits from "
            "those of one run", path, ", ".join(changed),
        )  # fmt: skip


def _line(row: Row, timed: bool) -> bytes:
    return row.as_json(timed=timed).encode() + b"\n"
