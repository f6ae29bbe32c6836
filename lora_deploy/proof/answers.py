"""The same clips through any form: decoded once for each pixel contract, labels put in one order."""

import hashlib
import math
import os
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, Self

import numpy as np
from numpy.typing import NDArray

from lora_deploy.artifact.bundle import Precision
from lora_deploy.artifact.manifest import sha256_of_file
from lora_deploy.clips.contract import PixelContract
from lora_deploy.clips.dataset import LabelledClip
from lora_deploy.clips.frame_folder import pictures_of
from lora_deploy.clips.pool import shared
from lora_deploy.disk import check_room, failures_named
from lora_deploy.errors import ClipError, NothingDecodedError
from lora_deploy.proof.certificate import ProofClip

NOISE_CLIPS = 2
_NOISE_SEED = 0


class Answering(Protocol):
    """What a `Recogniser` is, and whatever else has labels, a contract and logits."""

    @property
    def labels(self) -> tuple[str, ...]:
        """In the order of the logits."""

    @property
    def contract(self) -> PixelContract:
        """Which pixels it is to be given."""

    def logits(self, frames: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Frames [clips, frames, height, width, 3] to logits [clips, labels]."""


@dataclass(frozen=True)
class Form:
    """One form of the model, opened as a user opens it, and only while it is needed."""

    name: str
    open: Callable[[], Answering]
    precision: Precision = "fp32"


@dataclass(frozen=True)
class Answers:
    """What a form said."""

    form: str
    precision: Precision
    labels: tuple[str, ...]
    """As the form itself names and orders them."""
    logits: NDArray[np.float32]
    """[clips, labels], columns in the order of the first form's labels."""
    noise: NDArray[np.float32]
    """[`NOISE_CLIPS`, labels], on seeded noise."""


class Clips:
    """Clips for a proof: what can be decoded of them, and their frames by pixel contract.

    Use it as a context manager; frames lie in a temporary file, not in memory.
    """

    def __init__(self, clips: Sequence[LabelledClip], contract: PixelContract) -> None:
        """Decode all clips once.

        Args:
            clips: Which ones; what can't be decoded is left out and told in ``left_out``.
            contract: Of the first form.

        Raises:
            NothingDecodedError: None can be decoded.
            DiskFullError: The temporary folder has no room for the frames.
        """
        self._folder = tempfile.TemporaryDirectory(prefix="lora-deploy-")
        self._frames: dict[PixelContract, NDArray[np.uint8]] = {}
        self.readable: list[LabelledClip] = []
        self.left_out: list[str] = []
        self._names: list[str] = []
        try:
            self._decode(clips, contract)
        except BaseException:
            self._folder.cleanup()
            raise

    def _decode(self, clips: Sequence[LabelledClip], contract: PixelContract) -> None:
        frames = self._file(len(clips), contract)
        decoded = shared().in_order([clip.footage for clip in clips], contract)
        for clip, name, (_, outcome) in zip(clips, names_of(clips), decoded, strict=True):
            if isinstance(outcome, ClipError):
                self.left_out.append(f"{name}: {outcome}")
            else:
                frames[len(self.readable)] = outcome.frames
                self.readable.append(clip)
                self._names.append(name)
        if not self.readable:
            raise NothingDecodedError(
                f"none of {len(clips)} clips can be decoded, so nothing can be proved; name "
                "readable ones with --data (verify) or --verify-on (merge-export)"
            )
        self._frames[contract] = frames[: len(self.readable)]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._frames.clear()
        self._folder.cleanup()

    @property
    def named(self) -> list[tuple[str, str]]:
        """Name, which no other has, and true label of each clip."""
        return [(name, clip.label) for name, clip in zip(self._names, self.readable, strict=True)]

    def records(self) -> tuple[ProofClip, ...]:
        """The clips as the certificate names them."""
        return tuple(
            ProofClip(name=name, sha256=identity_of(clip), label=clip.label)
            for name, clip in zip(self._names, self.readable, strict=True)
        )

    def frames(self, contract: PixelContract) -> NDArray[np.uint8]:
        """Frames [clips, frames, height, width, 3], decoded as a contract says."""
        if contract not in self._frames:
            frames = self._file(len(self.readable), contract)
            for row, clip in enumerate(self.readable):
                frames[row] = shared().decode(clip.path, contract, clip.stretch).frames
            self._frames[contract] = frames
        return self._frames[contract]

    def _file(self, clips: int, contract: PixelContract) -> NDArray[np.uint8]:
        path = Path(self._folder.name) / f"{len(self._frames)}.frames"
        size = clips * math.prod(contract.frames_shape)
        check_room(path.parent, size)
        # A map of a file without its blocks would end the process once the disk is full.
        with failures_named(path), path.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, size)
        return np.memmap(path, np.uint8, "r+", shape=(clips, *contract.frames_shape))


def names_of(clips: Sequence[LabelledClip]) -> list[str]:
    """Names of clips in a certificate, no two alike: a clip's folder's and its own.

    File names repeat from class to class, and folders from person to person: where that does not
    tell two clips apart, they bear more of their folders. Never an absolute path.
    """
    # Of a part of a file the last name has its times behind it, so parts are told apart.
    paths = [Path(str(clip.footage)) for clip in clips]
    parts = [path.relative_to(path.anchor).parts for path in paths]
    names = ["/".join(part[-2:]) for part in parts]
    for length in range(3, max(map(len, parts), default=0) + 1):
        repeated = _repeated(name for _, name in set(zip(paths, names, strict=True)))
        names = [
            "/".join(part[-length:]) if name in repeated else name
            for name, part in zip(names, parts, strict=True)
        ]
    # One file named twice, or one path from two places.
    repeated = _repeated(names)
    names = [
        f"{name} {_sha256_of(clip.path)[:8]}" if name in repeated and clip.path.exists() else name
        for name, clip in zip(names, clips, strict=True)
    ]
    repeated = _repeated(names)
    return [
        f"{name} {names[:row].count(name) + 1}" if name in repeated else name
        for row, name in enumerate(names)
    ]


def identity_of(clip: LabelledClip) -> str:
    """SHA-256 of a file; of a part of one over that and its times, of a frame folder over its pictures'."""
    whole = _sha256_of(clip.path)
    if clip.stretch is None:
        return whole
    return hashlib.sha256(f"{whole} {clip.stretch}".encode()).hexdigest()


def _sha256_of(path: Path) -> str:
    if path.is_file():
        return sha256_of_file(path)
    pictures = [f"{picture.name} {sha256_of_file(picture)}" for picture in pictures_of(path)]
    return hashlib.sha256("\n".join(pictures).encode()).hexdigest()


def _repeated(names: Iterable[str]) -> set[str]:
    return {name for name, times in Counter(names).items() if times > 1}


def noise_frames(contract: PixelContract) -> NDArray[np.uint8]:
    """The same seeded noise everywhere: [`NOISE_CLIPS`, frames, height, width, 3]."""
    shape = (NOISE_CLIPS, *contract.frames_shape)
    size = math.prod(shape)
    # Raw, as NumPy promises the same of later versions for no other way to draw numbers.
    drawn = np.random.PCG64(_NOISE_SEED).random_raw(-(-size // 8)).astype("<u8")
    return drawn.view(np.uint8)[:size].reshape(shape)


def ask(
    form: Form,
    clips: Clips,
    labels: Sequence[str],
    *,
    advance: Callable[[], None] = lambda: None,
    opened: Answering | None = None,
) -> Answers:
    """Send all clips through a form, which is opened for it and let go again.

    Args:
        form: Which one.
        clips: Real clips.
        labels: The order of the answers' columns.
        advance: Called after each clip.
        opened: The form, where it is open already.
    """
    model = opened or form.open()
    rows = []
    for frames in clips.frames(model.contract):
        rows.append(model.logits(frames[None])[0])
        advance()
    noise = model.logits(noise_frames(model.contract))
    return Answers(
        form=form.name,
        precision=form.precision,
        labels=model.labels,
        logits=_in_order(np.stack(rows), model.labels, labels),
        noise=_in_order(noise, model.labels, labels),
    )


def _in_order(
    logits: NDArray[np.float32], labels: Sequence[str], wanted: Sequence[str]
) -> NDArray[np.float32]:
    """Columns by label, whatever order the form has; a label that it lacks is never likely."""
    columns = {label: column for column, label in enumerate(labels)}
    result = np.full((len(logits), len(wanted)), -np.inf, np.float32)
    for column, label in enumerate(wanted):
        if label in columns:
            result[:, column] = logits[:, columns[label]]
    return result
