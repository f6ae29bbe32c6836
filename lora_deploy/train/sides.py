"""Which labels tell left from right, so that a mirrored clip would bear the wrong one: words only."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

_LEFT, _RIGHT, _CLOCKWISE, _COUNTERCLOCKWISE = "\x01\x02\x03\x04"
_MIRROR = str.maketrans(
    _LEFT + _RIGHT + _CLOCKWISE + _COUNTERCLOCKWISE,
    _RIGHT + _LEFT + _COUNTERCLOCKWISE + _CLOCKWISE,
)
_SIDES = re.compile(f"[{_LEFT}-{_COUNTERCLOCKWISE}]")

_NO_SIDE = re.compile(
    r"(?<![a-z])((a|al|b|birth|copy|down|f|forth|out|playw|sp|up|w)right|right(eous|ful)|cleft|leftover)"
)
"""Words that hold *left* or *right* and name no side."""

_STRONG = (
    (r"(counter|anti) ?clock ?wise", _COUNTERCLOCKWISE),
    (r"clock ?wise", _CLOCKWISE),
    (r"\b(ccw|acw)\b", _COUNTERCLOCKWISE),
    (r"\bcw\b", _CLOCKWISE),
    (r"\b(l ?(2|to) ?r|ltr)\b", f"{_LEFT}2{_RIGHT}"),
    (r"\b(r ?(2|to) ?l|rtl)\b", f"{_RIGHT}2{_LEFT}"),
    (r"left", _LEFT),
    (r"right", _RIGHT),
    (r"\blhs\b", _LEFT),
    (r"\brhs\b", _RIGHT),
    (r"\b(gauche|izquierd[ao]|sinistr[ao]|esquerd[ao])\b|左", _LEFT),
    (r"\b(droite|derech[ao]|destr[ao]|direit[ao])\b|右", _RIGHT),
)
"""Spellings that name a side wherever they stand."""

_WEAK = (
    (r"\b(l|lt|lh|links|port|west|westward|westbound)\b", _LEFT),
    (r"\b(r|rt|rh|rechts|starboard|east|eastward|eastbound)\b", _RIGHT),
)
"""Spellings that may mean anything, and name a side where another label has the other one."""


@dataclass(frozen=True)
class Sides:
    """What was found in the names of labels."""

    labels: tuple[str, ...]
    """Those that name a side, in the order given."""
    pairs: Mapping[str, str]
    """Of these, the ones whose mirror image has a name among the labels, both ways round."""


def find_sides(labels: Iterable[str]) -> Sides:
    """Labels that name a side, in any of the usual spellings.

    It would rather find too much: a label that is not mirrored costs some variety, one that is
    mirrored wrongly teaches the opposite. So *left* is found in ``SwipeLeft``, ``swipeleft`` and
    ``left_the_room`` alike, and ``walk_l`` counts where there is a ``walk_r``.
    """
    names = tuple(labels)
    plain = {name: _spelled(name, _STRONG) for name in names}
    bold = {name: _spelled(name, (*_STRONG, *_WEAK)) for name in names}
    by_spelling = {spelling: name for name, spelling in bold.items()}
    pairs = {
        name: other
        for name, spelling in bold.items()
        if (other := by_spelling.get(spelling.translate(_MIRROR), name)) != name
    }
    return Sides(
        labels=tuple(name for name in names if name in pairs or _SIDES.search(plain[name])),
        pairs=pairs,
    )


def _spelled(label: str, words: Iterable[tuple[str, str]]) -> str:
    """The label in lower case with blanks between its words, its sides as one sign each."""
    parted = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", label).lower()
    spelling = re.sub(r"[\W_]+", " ", parted).strip()
    spelling = _NO_SIDE.sub(lambda word: word.group().upper(), spelling)  # out of the way
    for pattern, sign in words:
        spelling = re.sub(pattern, sign, spelling)
    return spelling
