"""What every backend offers, and what every backend's user gets: no heavy package here."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from lora_deploy.clips import pool, transforms
from lora_deploy.clips.clip import Stretch
from lora_deploy.clips.contract import PixelContract
from lora_deploy.errors import AnswersNotFiniteError, CountsDifferError

UNKNOWN = "unknown"
"""What a clip is called whose best label is less probable than the bundle's threshold."""


class Backend(Protocol):
    """A compiled or loaded model. It knows nothing of files, labels or probabilities."""

    @property
    def name(self) -> str:
        """As ``--backend`` names it."""

    @property
    def form(self) -> str:
        """Which form of the model runs: ``merged``, ``unmerged``."""

    @property
    def batch_size(self) -> int:
        """The one batch shape that is ever run."""

    def logits(self, pixel_values: NDArray[np.float32]) -> NDArray[np.float32]:
        """Run one batch.

        Args:
            pixel_values: [batch_size, frames, 3, height, width].

        Returns:
            [batch_size, labels].
        """


@runtime_checkable
class TakesFrames(Protocol):
    """A backend that also takes frames as they were decoded, and normalises them where it computes.

    That spares whoever hands them over the work, and three quarters of the bytes.
    """

    def logits_of_frames(self, frames: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Run one batch.

        Args:
            frames: [batch_size, frames, height, width, 3], cropped as the model's contract says.

        Returns:
            [batch_size, labels], bit for bit what `Backend.logits` gives for the normalised frames.
        """


Batch = NDArray[np.uint8] | NDArray[np.float32]
"""What a backend takes at once: frames as they were decoded, or normalised."""


@dataclass(frozen=True)
class Prediction:
    """What a model says of one clip."""

    label: str
    """The most probable one, or `UNKNOWN` where even that is below the bundle's threshold."""
    score: float
    """Probability of the most probable label, 0 to 1."""
    top_k: tuple[tuple[str, float], ...]
    """Label and probability, the most probable first."""
    logits: tuple[float, ...]
    """In the order of the model's labels."""
    duration_seconds: float
    """Of the clip."""
    warning: str | None
    """What was lost or odd in the file, if anything."""
    is_unknown: bool = False
    """Whether ``label`` is `UNKNOWN`, and no label of the model that is called so."""


@dataclass(frozen=True)
class Recogniser:
    """A model with its labels and its pixel contract: files in, predictions out."""

    backend: Backend
    labels: tuple[str, ...]
    """In the order of the logits."""
    contract: PixelContract
    temperature: float
    """Logits are divided by it before the softmax."""
    digest: str
    """Of the model, for the rows that `classify` writes."""
    unknown_threshold: float | None = None
    """A clip whose best label is less probable is `UNKNOWN`; None names every clip."""

    def classify(
        self, path: str | Path, *, top_k: int = 5, stretch: Stretch | None = None
    ) -> Prediction:
        """Decode a video file, or a part of it, and say what happens in it.

        Raises:
            ClipError: The file gives no clip; the error's ``kind`` says why.
        """
        clip = pool.shared().decode(Path(path), self.contract, stretch)
        logits = self.logits(clip.frames[None])[0]
        return self.predict(
            logits, top_k=top_k, duration_seconds=clip.duration_seconds, warning=clip.warning
        )

    def logits(self, frames: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Logits of clips that are decoded already.

        Args:
            frames: [clips, frames, height, width, 3], cropped as the contract says.

        Returns:
            [clips, labels]. Each batch has the same shape, the last one padded, so a clip's
            numbers don't depend on its company.

        Raises:
            CountsDifferError: The model gives more or fewer numbers than there are labels.
        """
        size = self.backend.batch_size
        rows = []
        for start in range(0, len(frames), size):
            clips = frames[start : start + size]
            batch = self.empty_batch()
            for place, clip in zip(batch, clips, strict=False):
                self.put(clip, place)
            rows.append(self.logits_of_batch(batch)[: len(clips)])
        return np.concatenate(rows) if rows else np.zeros((0, len(self.labels)), np.float32)

    def empty_batch(self) -> Batch:
        """Zeros in the one shape that is ever run: of clips that `put` puts there one by one."""
        size, contract = self.backend.batch_size, self.contract
        if isinstance(self.backend, TakesFrames):
            return np.zeros((size, *contract.frames_shape), np.uint8)
        return np.zeros((size, *contract.pixel_values_shape), np.float32)

    def put(self, frames: NDArray[np.uint8], place: NDArray[Any]) -> None:
        """Put a clip [frames, height, width, 3] into one place of a batch, normalised if need be."""
        if place.dtype == np.uint8:
            place[:] = frames
        else:
            transforms.normalise(frames, self.contract, out=place)

    def logits_of_batch(self, batch: Batch) -> NDArray[np.float32]:
        """Logits [batch_size, labels] of one whole batch, made by `empty_batch`.

        Raises:
            CountsDifferError: The model gives more or fewer numbers than there are labels.
        """
        if isinstance(self.backend, TakesFrames):
            logits = self.backend.logits_of_frames(batch.astype(np.uint8, copy=False))
        else:
            logits = self.backend.logits(batch.astype(np.float32, copy=False))
        if logits.ndim != 2 or logits.shape[1] != len(self.labels):
            numbers = "×".join(map(str, logits.shape[1:]))
            raise CountsDifferError(
                f"the model answers with {numbers or 'no'} numbers to {len(self.labels)} labels"
            )
        return logits

    def probabilities(self, logits: NDArray[np.float32]) -> NDArray[np.float64]:
        """Logits [..., labels] as probabilities, at the model's temperature.

        Raises:
            AnswersNotFiniteError: They are no numbers.
        """
        if not np.isfinite(logits).all():
            raise AnswersNotFiniteError("the model answers NaN or infinity to a clip")
        return softmax(logits / self.temperature)

    def predict(
        self,
        logits: NDArray[np.float32],
        *,
        top_k: int,
        duration_seconds: float,
        warning: str | None,
    ) -> Prediction:
        """Turn one clip's logits [labels] into a prediction.

        Raises:
            AnswersNotFiniteError: They are no numbers.
        """
        ranked, known = self.ranked(self.probabilities(logits), top_k)
        label, score = ranked[0]
        return Prediction(
            label=label if known else UNKNOWN,
            score=score,
            top_k=ranked,
            logits=tuple(float(value) for value in logits),
            duration_seconds=duration_seconds,
            warning=warning,
            is_unknown=not known,
        )

    def ranked(
        self, probabilities: NDArray[np.float64], top_k: int
    ) -> tuple[tuple[tuple[str, float], ...], bool]:
        """Label and probability of the best ``top_k``, and whether the best is good enough to be named.

        Args:
            probabilities: [labels], of one clip, or the mean over its views.
            top_k: At least one is given, and no more than there are.
        """
        order = np.argsort(-probabilities, kind="stable")[: max(1, top_k)]
        ranked = tuple((self.labels[index], float(probabilities[index])) for index in order)
        known = self.unknown_threshold is None or ranked[0][1] >= self.unknown_threshold
        return ranked, known


def softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """Probabilities along the last axis, in float64."""
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    exponentials = np.exp(shifted)
    result: NDArray[np.float64] = exponentials / exponentials.sum(axis=-1, keepdims=True)
    return result
