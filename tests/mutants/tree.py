"""A tree of named, sized elements that stays consistent while it is changed, and lies only where told.

MP4 boxes, Matroska elements and RIFF chunks are all such trees; what is wrong with any of them
alike stands here, and how each is written down in the file of its format.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from random import Random
from typing import TypeVar

LARGEST_GROWTH_BYTES = 300_000
"""No copy of an element makes a mutant larger than by this; the harm is in the structure."""

T = TypeVar("T")


@dataclass
class Element:
    """One element; its children follow its body."""

    name: bytes
    """Four characters, or a Matroska ID; empty for bytes that are no element and stay as they are."""
    body: bytearray = field(default_factory=bytearray)
    children: list["Element"] = field(default_factory=list)
    is_master: bool = False
    """It may have children."""
    size_width: int = 0
    """Bytes of the size field as its file had it, where its format has a choice."""
    claimed_size: int | None = None
    """What the header says of the size; None for the truth."""

    @property
    def label(self) -> str:
        """The name as a person may read it."""
        return self.name.decode() if self.name.isalnum() else self.name.hex()

    def copy(self) -> "Element":
        """All of it anew; `copy.deepcopy` would take six calls a level."""
        children = [child.copy() for child in self.children]
        return replace(self, body=self.body[:], children=children)


@dataclass(frozen=True)
class Place:
    """Where an element stands."""

    siblings: list[Element]
    at: int
    depth: int

    @property
    def element(self) -> Element:
        """The element itself."""
        return self.siblings[self.at]


Mutation = Callable[[T, Random], str | None]
"""Changes its first argument in place and tells what it did; None where there is nothing to change."""


def places(elements: list[Element], depth: int = 0) -> Iterator[Place]:
    """All elements of a tree with their places, parents first."""
    for at, element in enumerate(elements):
        if element.name:
            yield Place(elements, at, depth)
            yield from places(element.children, depth + 1)


def find(elements: list[Element], *names: bytes) -> list[Element]:
    """All elements of these names, parents first."""
    return [place.element for place in places(elements) if place.element.name in names]


def weight(element: Element) -> int:
    """About how many bytes an element takes."""
    return len(element.body) + 8 + sum(weight(child) for child in element.children)


def apply_some(mutations: Sequence[Mutation[T]], target: T, rng: Random, count: int) -> list[str]:
    """Apply ``count`` mutations drawn by ``rng``, and tell what they did."""
    done: list[str] = []
    while len(done) < count:
        told = rng.choice(mutations)(target, rng)
        if told is not None:
            done.append(told)
    return done


def odd_number(rng: Random, bits: int, present: int) -> int:
    """A number of ``bits`` bits on which arithmetic tends to break, seldom equal to ``present``."""
    top = 1 << bits
    return (
        rng.choice(
            (
                *(0, 1, 2, 7),
                *(top - 1, top - 2, top // 2, top // 2 - 1, top // 2 + 1),
                *(present - 1, present + 1, present * 2, present // 2, -present),
                present ^ (1 << rng.randrange(bits)),
                rng.randrange(top),
            )
        )
        % top
    )


def lie_about_size(elements: list[Element], rng: Random) -> str | None:
    """One header claims a wrong size; what follows is read from a wrong place."""
    place = _drawn(elements, rng)
    true_size = weight(place.element)
    place.element.claimed_size = odd_number(rng, rng.choice((8, 16, 31, 32, 56, 63, 64)), true_size)
    return f"{place.element.label} claims {place.element.claimed_size} bytes"


def drop(elements: list[Element], rng: Random) -> str | None:
    """An element is missing."""
    place = _drawn(elements, rng)
    dropped = place.siblings.pop(place.at)
    return f"{dropped.label} dropped"


def double(elements: list[Element], rng: Random) -> str | None:
    """An element comes several times."""
    place = _drawn(elements, rng)
    copies = rng.choice((1, 1, 2, 16, 200))
    copies = min(copies, max(LARGEST_GROWTH_BYTES // weight(place.element), 1))
    twins = [place.element.copy() for _ in range(copies)]
    place.siblings[place.at : place.at] = twins
    return f"{place.element.label} repeated {copies} times"


def swap(elements: list[Element], rng: Random) -> str | None:
    """Two neighbours in the wrong order."""
    place = _drawn(elements, rng)
    if len(place.siblings) < 2:
        return None
    other = rng.randrange(len(place.siblings))
    here = place.at
    told = f"{place.element.label} and {place.siblings[other].label} swapped"
    place.siblings[here], place.siblings[other] = place.siblings[other], place.siblings[here]
    return None if here == other else told


def move(elements: list[Element], rng: Random) -> str | None:
    """An element also stands where it does not belong, perhaps inside itself."""
    masters = [place.element for place in places(elements) if place.element.is_master]
    source, target = _drawn(elements, rng).element, rng.choice(masters)
    if weight(source) > LARGEST_GROWTH_BYTES:
        return None
    target.children.insert(rng.randint(0, len(target.children)), source.copy())
    return f"{source.label} inside {target.label}"


def nest(elements: list[Element], rng: Random) -> str | None:
    """A master inside a copy of itself inside a copy of itself…"""
    masters = [place.element for place in places(elements) if place.element.is_master]
    master = rng.choice(masters)
    shell = master.copy()
    shell.children = [child for child in shell.children if not child.is_master][:3]
    depth = min(rng.choice((2, 8, 30, 80)), LARGEST_GROWTH_BYTES // weight(shell) + 1)
    inner = master
    for _ in range(depth):
        copy = shell.copy()
        inner.children.append(copy)
        inner = copy
    return f"{master.label} nested {depth} deep"


def cut_body(elements: list[Element], rng: Random) -> str | None:
    """A body ends too early, and all sizes agree with that."""
    element = _drawn(elements, rng).element
    if len(element.body) < 2:
        return None
    keep = rng.choice((0, 1, len(element.body) // 2, len(element.body) - 1))
    del element.body[keep:]
    return f"{element.label} cut to {keep} bytes"


TREE_MUTATIONS: tuple[Mutation[list[Element]], ...] = (
    lie_about_size,
    drop,
    double,
    swap,
    move,
    nest,
    cut_body,
)
"""What can be wrong with any tree."""


def _drawn(elements: list[Element], rng: Random) -> Place:
    """An element, deep ones more often: a broken root is refused at once and tests little."""
    found = list(places(elements))
    return max((rng.choice(found) for _ in range(2)), key=lambda place: place.depth)
