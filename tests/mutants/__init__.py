"""Structured mutants: sound video files with a few things wrong at the level of their containers."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

from tests.mutants import avi, matroska, mp4, mpegts

Mutate = Callable[[bytes, Random, int], tuple[bytes, list[str]]]

_FORMATS: dict[str, Mutate] = {
    ".mp4": mp4.mutate,
    ".mov": mp4.mutate,
    ".mkv": matroska.mutate,
    ".webm": matroska.mutate,
    ".ts": mpegts.mutate,
    ".avi": avi.mutate,
}


@dataclass(frozen=True)
class Mutant:
    """One file and how it came about."""

    name: str
    """Number, file it was made from, and what was done to it, in one line."""
    content: bytes


def mutants(seed_files: Sequence[Path], count: int, seed: int) -> Iterator[Mutant]:
    """Make ``count`` mutants of sound files, the same for the same ``seed`` and files everywhere.

    Every file serves in turn; one mutant in three has two or three things wrong. Each mutant is
    drawn from its own number, so the 700th of a thousand can be had by itself.

    Args:
        seed_files: Sound files; their suffix says their container.
        count: How many mutants.
        seed: Another number gives other mutants.
    """
    contents = [(path, path.read_bytes()) for path in seed_files]
    for number in range(count):
        path, content = contents[number % len(contents)]
        # By the SHA-512 of the text, so alike on every machine.
        rng = Random(f"{seed} {number} {path.name}")
        wrong = rng.choice((1, 1, 1, 1, 2, 3))
        mutated, done = _FORMATS[path.suffix](content, rng, wrong)
        yield Mutant(f"{seed}/{number} {path.name}: {'; '.join(done)}", mutated)
