"""Whether a decoder gives the right frames: clips whose pictures say which they are, read back.

Decoders go wrong without a word: they repeat frames, show pictures lying on their side, count
frames where times are asked for, or look at the beginning alone. Each of these has an error of its
own here. It knows nothing of how a clip is decoded; `lora_deploy.clips.pool` hands that in.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from lora_deploy.clips.clip import DecodedClip, Frames
from lora_deploy.clips.contract import PixelContract
from lora_deploy.clips.numbered import read_number_and_turn
from lora_deploy.errors import (
    ClipError,
    DecoderError,
    DecoderUnprovedError,
    FirstFramesOnlyError,
    RepeatedFramesError,
    RotationIgnoredError,
    SampledByIndexError,
    WrongFramesError,
)

FOLDER = Path(__file__).parents[1] / "assets" / "decoder-proof"
"""The clips, and ``truth.json`` with what was written into them; `scripts/proof-clips` makes both."""

CONTRACT = PixelContract(frames=8, short_side=48, crop_height=48, crop_width=48)
"""Shows the whole picture, and asks at no time at which either of two pictures would do."""

_LEAST_WARMTH = 50.0
"""How much more red than blue a picture of these clips has on average, at the least; drawn is 93."""

Decode = Callable[[Path, PixelContract], DecodedClip]


class KnownClip(BaseModel):
    """What was written into a clip."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    shown: tuple[int, ...]
    """Numbers of the pictures that a player shows, one after the other."""
    expected: tuple[int, ...]
    """Those among them that `CONTRACT` asks for."""
    variable_rate: bool


@dataclass(frozen=True)
class DecoderProof:
    """A decoder that gave the right frames of every clip that it did not refuse."""

    decoder: str
    right: tuple[str, ...]
    """Names of the clips."""
    refused: tuple[str, ...]
    """Clips that gave an error: loud, and so no fault."""


@dataclass(frozen=True)
class _Reading:
    """What the frames of one clip say."""

    name: str
    clip: KnownClip
    numbers: tuple[int | None, ...]
    """None where a picture shows no number."""
    turned: bool
    """Whether all pictures must be turned to be upright."""
    warm: bool
    """Whether there is more red than blue, as was drawn."""

    def is_right(self, frames_off: int) -> bool:
        """Whether every frame is the one that was asked for, or at most ``frames_off`` beside it."""
        return (
            self.warm
            and not self.turned
            and all(
                number is not None and abs(number - wanted) <= frames_off
                for number, wanted in zip(self.numbers, self.clip.expected, strict=True)
            )
        )

    @property
    def places(self) -> list[int]:
        """Which of the shown pictures the frames are, without those that are none of them."""
        return [self.clip.shown.index(n) for n in self.numbers if n in self.clip.shown]

    @property
    def repeats(self) -> bool:
        return None not in self.numbers and len(set(self.numbers)) < len(set(self.clip.expected))

    @property
    def is_one_of_each_stretch_by_index(self) -> bool:
        """As every way of counting gives it: the first, the middle or the last of equal stretches."""
        count = len(self.clip.shown)
        stretches = [place * CONTRACT.frames // count for place in self.places]
        return stretches == list(range(CONTRACT.frames))

    @property
    def stays_at_the_beginning(self) -> bool:
        places = self.places
        return (
            len(places) == CONTRACT.frames
            and len(set(places)) > 1
            and max(places) < len(self.clip.shown) // 2
        )


def known_clips() -> dict[str, KnownClip]:
    """The clips by file name."""
    return dict(_known_clips())


@cache
def _known_clips() -> tuple[tuple[str, KnownClip], ...]:
    truth = json.loads((FOLDER / "truth.json").read_text(encoding="utf-8"))
    return tuple((name, KnownClip.model_validate(clip)) for name, clip in truth.items())


def prove_decoder(decode: Decode, *, decoder: str, frames_off: int = 0) -> DecoderProof:
    """Decode the known clips and read their frames.

    Args:
        decode: Gives the frames of a file, or raises `ClipError`.
        decoder: Its name, for errors.
        frames_off: How many frames beside the right one are right too.

    Raises:
        DecoderError: Named by what is wrong; `DecoderUnprovedError` where every clip was refused.
    """
    read, refused = [], {}
    for name, clip in known_clips().items():
        try:
            frames = decode(FOLDER / name, CONTRACT).frames
        except ClipError as error:
            refused[name] = str(error)
        else:
            read.append(_read(name, clip, frames))
    if not read:
        name, reason = next(iter(refused.items()))
        raise DecoderUnprovedError(
            f"the decoder {decoder} refuses all {len(refused)} clips whose frames are known; of "
            f"{name} it says: {reason}"
        )
    fault = next(_faults(read, decoder, frames_off), None)
    if fault is not None:
        raise fault
    return DecoderProof(decoder, tuple(reading.name for reading in read), tuple(refused))


def _read(name: str, clip: KnownClip, frames: Frames) -> _Reading:
    read = [read_number_and_turn(frame) for frame in frames]
    # All of them, and numbers that are in the clip: by chance a spoiled picture shows one, too.
    turned = all(one and one[1] and one[0] in clip.shown for one in read)
    red, _, blue = frames.mean(axis=(0, 1, 2))
    return _Reading(
        name=name,
        clip=clip,
        numbers=tuple(one[0] if one and bool(one[1]) == turned else None for one in read),
        turned=turned,
        warm=bool(red - blue > _LEAST_WARMTH),
    )


def _faults(read: list[_Reading], decoder: str, frames_off: int) -> Iterator[DecoderError]:
    """What is wrong, the most telling first."""
    wrong = [reading for reading in read if not reading.is_right(frames_off)]
    for reading in wrong:
        if reading.turned:
            yield RotationIgnoredError(_found(reading, decoder, "are not upright"))
    if all(reading.stays_at_the_beginning for reading in read):
        yield FirstFramesOnlyError(_found(read[0], decoder, "are from its beginning alone"))
    for reading in wrong:
        if reading.clip.variable_rate and reading.is_one_of_each_stretch_by_index:
            yield SampledByIndexError(_found(reading, decoder, "were counted and not timed"))
    for reading in wrong:
        if reading.repeats:
            yield RepeatedFramesError(_found(reading, decoder, "repeat"))
        elif reading.stays_at_the_beginning:
            yield FirstFramesOnlyError(_found(reading, decoder, "are from its beginning alone"))
        elif not reading.warm:
            yield WrongFramesError(_found(reading, decoder, "have wrong colours"))
        else:
            yield WrongFramesError(_found(reading, decoder, "are not those asked for"))


def _found(reading: _Reading, decoder: str, fault: str) -> str:
    numbers = " ".join("?" if number is None else str(number) for number in reading.numbers)
    expected = " ".join(map(str, reading.clip.expected))
    return (
        f"the frames that the decoder {decoder} gives of {reading.name} {fault}: pictures {numbers} "
        f"where {expected} were asked for"
    )
