"""What is to be classified: files, folders, patterns, lists and standard input, each clip of them once."""

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from lora_deploy.classify import lists, search
from lora_deploy.classify.names import names_in
from lora_deploy.classify.seen import Seen
from lora_deploy.clips.clip import WHOLE_FILE, Footage
from lora_deploy.errors import InputNameError, NothingMatchesError, NoVideosError

STANDARD_INPUT = "-"


@dataclass(frozen=True)
class Item:
    """One clip that a row is to be written of."""

    path: str
    """As it was given: what its row is called."""
    footage: Footage
    """What is decoded."""


Source = Callable[[], Iterator[Item]]
"""Finds the clips that one input stands for, when it is called."""


def find_items(inputs: Sequence[str | Path], *, stdin: BinaryIO | None = None) -> Iterator[Item]:
    """Find clips while they are asked for, in the order of the inputs; there may be millions.

    - A folder is searched for names with a video ending, sorted, without hidden ones.
    - A list (``.csv``, ``.jsonl``, ``.parquet``) is read; its paths count from its folder.
    - A pattern (``'clips/**/*.mp4'``) stands for what it matches, unless a file is called so.
    - ``-`` is standard input, a name a line, or each ended by a NUL byte.
    - Any other name is that of a clip, be there such a file or not, and so is each name in a list or
      in standard input.

    A clip that was given already is passed over: the same part of the same path, ``a.mp4``,
    ``./a.mp4`` and the absolute path being one. A file that has two names (a link) is two clips.

    Args:
        inputs: In the order that rows are wanted in.
        stdin: Where the names are read from for ``-``; this process's standard input by default.

    Raises:
        NoVideosError: A folder, a list or standard input holds nothing to classify.
        NothingMatchesError: A pattern matches nothing.
        InputNameError: A name is empty.
        InputListError: A list can't be read, or has no column ``path``.
        AdapterColumnError: A list has a column ``adapter``.
        InputRowError: A row of a list can't be understood. This may come at any row; what else is
            wrong with folders, patterns and lists is told before the first clip is given.
    """
    sources = [_source(str(one), stdin) for one in inputs]
    return _each_once(item for source in sources for item in source())


def has_times(inputs: Sequence[str | Path]) -> bool:
    """Whether a list among the inputs has a column ``start`` or ``end``: then all rows have both.

    Raises:
        InputListError: A list can't be read.
    """
    named = [str(one) for one in inputs]
    return any(lists.has_times(Path(one)) for one in named if _is_list(one))


def _source(given: str, stdin: BinaryIO | None) -> Source:
    if not given:
        raise InputNameError("one of the inputs is an empty name")
    if given == STANDARD_INPUT:
        return lambda: _from_stdin(stdin or sys.stdin.buffer)
    if os.path.isdir(given):  # noqa: PTH112 (never raises, however odd the name)
        return _from_folder(given)
    if _is_list(given):
        return _from_list(Path(given))
    if search.is_pattern(given):
        return _from_pattern(given)
    return lambda: iter([_clip(given)])


def _is_list(given: str) -> bool:
    return lists.is_list(given) and not search.is_pattern(given) and not os.path.isdir(given)  # noqa: PTH112


def _from_folder(folder: str) -> Source:
    if next(search.videos_in(folder), None) is None:
        raise NoVideosError(f"{folder} holds no file with a video ending")
    return lambda: map(_clip, search.videos_in(folder))


def _from_list(source: Path) -> Source:
    if not lists.check_list(source):
        raise NoVideosError(f"the list {source} has no rows")
    return lambda: (
        Item(path, Footage(source.parent / path, stretch))
        for path, stretch in lists.clips_of(source)
    )


def _from_pattern(pattern: str) -> Source:
    def found() -> Iterator[str]:
        for path in search.matching(pattern):
            if os.path.isdir(path):  # noqa: PTH112
                yield from search.videos_in(path)
            else:
                yield path

    if next(found(), None) is None:
        raise NothingMatchesError(f"no file is called {pattern}, and none matches it as a pattern")
    return lambda: map(_clip, found())


def _from_stdin(stream: BinaryIO) -> Iterator[Item]:
    is_empty = True
    for name in names_in(stream):
        is_empty = False
        yield _clip(name)
    if is_empty:
        raise NoVideosError("standard input names no file")


def _clip(path: str) -> Item:
    return Item(path, Footage(Path(path)))


def _each_once(items: Iterator[Item]) -> Iterator[Item]:
    seen = Seen()
    here = str(Path.cwd())
    return (item for item in items if seen.is_new(_absolute(item.footage, here)))


def _absolute(footage: Footage, here: str) -> str:
    """The same text for the same part of the same path, as far as can be told without looking."""
    part = footage.stretch or WHOLE_FILE
    # Of ./a//b.mp4 this is a/b.mp4; a/../b.mp4 stays what it is, since a may be a link.
    path = str(footage.path)
    whole = path if path.startswith("/") else f"{here}/{path}"
    return f"{whole}#t={part.start_seconds!r},{part.end_seconds!r}"
