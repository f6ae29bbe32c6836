"""What the page and its API can be asked, without a page: a video and a form in, an answer out."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from lora_deploy.classify.timeline import Timeline, TimelineOptions, timeline
from lora_deploy.clips.clip import DecodedClip, Stretch
from lora_deploy.clips.contract import PixelContract
from lora_deploy.clips.pool import DecodePool
from lora_deploy.demo.models import Choices
from lora_deploy.progress import Progress, silent
from lora_deploy.runtime.base import Prediction, softmax

Stage = Callable[[str], AbstractContextManager[object]]
"""Is told when a stage of the work begins and ends."""


@dataclass(frozen=True)
class Answer:
    """What one form says of one clip, and what it saw."""

    name: str
    """Of the form, as it was asked for."""
    title: str
    """Of the form, for people."""
    form: str
    """``merged``, ``unmerged``, ``base``: what ran."""
    model: str
    """Digest of the model."""
    prediction: Prediction
    clip: DecodedClip
    probabilities: Mapping[str, float]
    """Of every label."""
    seconds: Mapping[str, float]
    """By stage: ``open``, ``decode``, ``infer``."""

    @property
    def times_in_file_seconds(self) -> tuple[float, ...]:
        """When each frame that the model saw is shown, from the file's first frame."""
        return tuple(self.clip.start_seconds + time for time in self.clip.times_seconds)


@dataclass(frozen=True)
class Comparison:
    """The same clip through several forms."""

    answers: tuple[Answer, ...]

    @property
    def alike(self) -> tuple[Answer, ...]:
        """Those that should give the same answer: all, but those whose adapter is off."""
        with_adapter = tuple(one for one in self.answers if one.form != "base")
        return with_adapter if len(with_adapter) > 1 else self.answers

    @property
    def largest_difference(self) -> float | None:
        """Of a label's probability between any two that should be `alike`; None where labels differ."""
        first, *others = (answer.probabilities for answer in self.alike)
        if any(other.keys() != first.keys() for other in others):
            return None
        table = np.array([[one[label] for label in first] for one in (first, *others)])
        return float((table.max(axis=0) - table.min(axis=0)).max())

    @property
    def same_label(self) -> bool:
        """Whether all that should be `alike` give the clip the same name."""
        names = {(one.prediction.label, one.prediction.is_unknown) for one in self.alike}
        return len(names) == 1


@dataclass
class _Clock:
    """Seconds of each stage, told on to whoever watches."""

    watched: Stage
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        start = time.perf_counter()
        with self.watched(stage):
            yield
        self.seconds[stage] = time.perf_counter() - start


def _unwatched(_: str) -> AbstractContextManager[object]:
    return nullcontext()


class Studio:
    """The models that are served, and the one pool that decodes for them. Safe from several threads."""

    def __init__(self, choices: Choices, pool: DecodePool) -> None:
        """Take both over; models are opened when first asked for."""
        self.choices = choices
        self._pool = pool

    def title(self, name: str) -> str:
        """What people read for a form's name."""
        return next((one.title for one in self.choices.all if one.name == name), name)

    def classify(
        self,
        video: Path,
        name: str,
        *,
        top_k: int = 5,
        stretch: Stretch | None = None,
        stage: Stage = _unwatched,
    ) -> Answer:
        """Ask one form about a video, or about a part of it.

        Raises:
            ClipError: The file gives no clip; its message names no path.
            LoraDeployError: The form is unknown, or can't be run here.
        """
        return self._ask([name], video, top_k, stretch, stage)[0]

    def compare(
        self,
        video: Path,
        names: Sequence[str],
        *,
        top_k: int = 5,
        stretch: Stretch | None = None,
        stage: Stage = _unwatched,
    ) -> Comparison:
        """Ask several forms about the same frames.

        Raises:
            LoraDeployError: As `classify`.
        """
        return Comparison(tuple(self._ask(names, video, top_k, stretch, stage)))

    def _ask(
        self,
        names: Sequence[str],
        video: Path,
        top_k: int,
        stretch: Stretch | None,
        stage: Stage,
    ) -> list[Answer]:
        decoded: dict[PixelContract, tuple[DecodedClip, float]] = {}
        answers = []
        for name in names:
            clock = _Clock(stage)
            with clock("open"):  # nothing, where it is open already
                recogniser = self.choices.open(name)
            if recogniser.contract not in decoded:
                with clock("decode"):
                    clip = self._pool.decode(video, recogniser.contract, stretch)
                decoded[recogniser.contract] = (clip, clock.seconds["decode"])
            clip, clock.seconds["decode"] = decoded[recogniser.contract]
            with clock("infer"):
                logits = recogniser.logits(clip.frames[None])[0]
            prediction = recogniser.predict(
                logits, top_k=top_k, duration_seconds=clip.duration_seconds, warning=clip.warning
            )
            probabilities = softmax(logits / recogniser.temperature)
            answers.append(
                Answer(
                    name=name,
                    title=self.title(name),
                    form=recogniser.backend.form,
                    model=recogniser.digest,
                    prediction=prediction,
                    clip=clip,
                    probabilities=dict(zip(recogniser.labels, probabilities.tolist(), strict=True)),
                    seconds=clock.seconds,
                )
            )
        return answers

    def timeline(
        self,
        video: Path,
        name: str,
        *,
        options: TimelineOptions,
        progress: Progress = silent,
        stage: Stage = _unwatched,
    ) -> Timeline:
        """Label a long video piece by piece.

        Raises:
            LoraDeployError: As `classify`.
        """
        recogniser = self.choices.open(name)
        with stage("timeline"):
            return timeline(recogniser, video, pool=self._pool, options=options, progress=progress)

    def frames_of(self, video: Path, name: str, stretch: Stretch) -> DecodedClip:
        """The frames that a form sees of a part of a video.

        Raises:
            LoraDeployError: As `classify`.
        """
        return self._pool.decode(video, self.choices.open(name).contract, stretch)
