"""Rows of labelled data before they are divided: what one says, and what no two may say."""

import os
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

from lora_deploy.clips.clip import Footage, Stretch
from lora_deploy.errors import (
    ContradictingRowsError,
    FileInTwoSplitsError,
    FileNameError,
    GroupInTwoSplitsError,
)

Split = Literal["train", "val", "test"]

SPLIT_WORDS: Mapping[str, Split] = {
    "train": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
}
"""What a folder or a manifest may call a split."""

_NAMED_IN_ERRORS = 3


@dataclass(frozen=True)
class Row:
    """A clip whose split may still be open."""

    path: Path
    label: str
    split: Split | None
    group: str | None
    stretch: Stretch | None = None
    """The part of the file that is the clip; None: all of it."""

    @property
    def footage(self) -> Footage:
        """What is decoded."""
        return Footage(self.path, self.stretch)


def allowed_splits() -> str:
    """The words for splits, for an error."""
    return ", ".join(SPLIT_WORDS)


def first_few(names: Sequence[str]) -> str:
    """Some names, and how many more there are, for an error."""
    more = len(names) - _NAMED_IN_ERRORS
    return ", ".join(names[:_NAMED_IN_ERRORS]) + (f" and {more} more" if more > 0 else "")


def check_names(rows: Iterable[Row]) -> None:
    """Refuse names that neither manifests nor reports can hold.

    Raises:
        FileNameError: A path or a label is no UTF-8.
    """
    for row in rows:
        try:
            f"{row.path}{row.label}".encode()
        except UnicodeEncodeError:
            raise FileNameError(f"the name {os.fsencode(row.path)!r} is not UTF-8") from None


def without_repeats(rows: Sequence[Row]) -> list[Row]:
    """Each file, or part of one, once, however its path is spelled.

    Raises:
        ContradictingRowsError: It stands there twice, with different labels, splits or groups.
    """
    kept: dict[Footage, Row] = {}
    for row in rows:
        first = kept.setdefault(Footage(row.path.resolve(), row.stretch), row)
        for what, one, other in (
            ("labels", first.label, row.label),
            ("splits", first.split, row.split),
            ("groups", first.group, row.group),
        ):
            if one != other:
                raise ContradictingRowsError(
                    f"the file {row.footage} has two {what}, {one or 'none'} and {other or 'none'}"
                )
    return list(kept.values())


def check_splits(rows: Sequence[Row]) -> None:
    """Refuse splits that share what they must not: nothing that is tested was seen in training.

    Raises:
        GroupInTwoSplitsError: A group is in two of them.
        FileInTwoSplitsError: Parts of one file are in two of them.
    """
    for group, one, other in _in_two([row.group for row in rows], rows):
        raise GroupInTwoSplitsError(
            f"the group {group} is in both {one} and {other}, so what is tested was seen in training"
        )
    if not any(row.stretch for row in rows):
        return
    for file, one, other in _in_two([str(row.path.resolve()) for row in rows], rows):
        raise FileInTwoSplitsError(
            f"parts of the file {file} are in both {one} and {other}, so what is tested was seen "
            "in training"
        )
    for unit, one, other in _in_two(together(rows), rows):
        raise FileInTwoSplitsError(
            f"the file {rows[unit].path} is bound by its groups to clips in both {one} and {other}"
        )


def together(rows: Sequence[Row]) -> list[int]:
    """For each row the number of its unit: that of the first row which it must not be parted from.

    A group binds rows together, and so does a file; one row may belong to both.
    """
    first = list(range(len(rows)))

    def root(at: int) -> int:
        while first[at] != at:
            first[at] = first[first[at]]
            at = first[at]
        return at

    has_parts = any(row.stretch for row in rows)
    seen: dict[tuple[str, str], int] = {}
    for at, row in enumerate(rows):
        keys = [("group", row.group)] if row.group else []
        keys += [("file", str(row.path.resolve()))] if has_parts else []
        for key in keys:
            one, other = sorted((root(at), root(seen.setdefault(key, at))))
            first[other] = one
    return [root(at) for at in range(len(rows))]


K = TypeVar("K", bound=Hashable)


def _in_two(keys: Iterable[K | None], rows: Sequence[Row]) -> Iterator[tuple[K, Split, Split]]:
    """Keys whose rows stand in two splits, with both; a row without a split stands in none."""
    split_of: dict[K, Split] = {}
    for key, row in zip(keys, rows, strict=True):
        if key is None or row.split is None:
            continue
        if split_of.setdefault(key, row.split) != row.split:
            yield key, split_of[key], row.split
