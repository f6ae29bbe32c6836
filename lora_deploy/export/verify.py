"""The proof: the same real clips through every form, from the video file to the label.

Each form is opened by the door that users open it by, reads the pixel contract that it was
shipped with, and decodes the files itself; so a wrong label order or a wrong mean is found
just as a wrong weight is.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from peft import PeftModel
from pydantic import BaseModel, ConfigDict

from lora_deploy.clips.dataset import LabelledClip
from lora_deploy.clips.pool import shared
from lora_deploy.errors import ClipError, NothingDecodedError
from lora_deploy.model.adapter import delta_off
from lora_deploy.progress import Progress, silent
from lora_deploy.runtime.base import Recogniser, softmax
from lora_deploy.runtime.eager import TorchBackend

logger = logging.getLogger(__name__)

LARGEST_PROBABILITY_DIFFERENCE = 1e-4
"""Two float32 forms of one model may differ by this much, on any clip and label."""

ALIVE_FACTOR = 100
"""The adapter must change logits by this many times what merging changes."""

LEAST_ALIVE_DIFFERENCE = 1e-4
"""In logits: what an adapter must change at least, however exact the merge is."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Flip(_Frozen):
    """A clip on which two forms name different labels."""

    clip: str
    labels: tuple[str, str]
    margin: float
    """By how much the first form preferred its label to the other's, in probability."""


class Link(_Frozen):
    """Two forms compared on all clips."""

    forms: tuple[str, str]
    agreement: float
    """Part of the clips on which both name the same label."""
    flips: tuple[Flip, ...]
    largest_logit_difference: float
    largest_probability_difference: float
    budget: float
    """For the largest probability difference."""
    passed: bool
    adapter_skipped: bool = False
    """Whether the second form answers as the base does without its adapter."""


class Liveness(_Frozen):
    """What the adapter changes, its trained head kept on."""

    largest_logit_difference: float
    needed: float
    passed: bool


class Certificate(_Frozen):
    """``certificate.json``."""

    schema_version: int = 1
    passed: bool
    clips: int
    source: str
    """Whose clips these are."""
    clip_names: tuple[str, ...]
    left_out: tuple[str, ...]
    """Clips that could not be decoded."""
    accuracy: dict[str, float]
    """Of each form, on the same clips; validation clips chose the best epoch, so it is no test."""
    liveness: Liveness | None
    """None where there is no adapter."""
    links: tuple[Link, ...]
    objections: tuple[str, ...]
    """Why it did not pass, in words."""


@dataclass(frozen=True)
class Form:
    """One form of the model, opened as a user opens it."""

    name: str
    recogniser: Recogniser


@dataclass(frozen=True)
class _Answers:
    form: Form
    logits: NDArray[np.float32]
    """[clips, labels], columns in the order of the first form's labels."""


def certify(
    forms: Sequence[Form],
    clips: Sequence[LabelledClip],
    *,
    source: str,
    progress: Progress = silent,
) -> Certificate:
    """Send clips through all forms and compare each form with the one before it.

    Args:
        forms: The trained one first.
        clips: Real clips that the training did not learn from.
        source: Whose clips these are, for the certificate.
        progress: Told of each clip and form.

    Raises:
        NothingDecodedError: No clip can be decoded.
    """
    objections = _label_objections(forms)
    readable, left_out = _readable(clips, forms[0].recogniser)
    answers = []
    with progress("comparing forms", len(readable) * len(forms)) as advance:
        for form in forms:
            rows = [
                _ask(form, clip.path, forms[0].recogniser.labels)
                for clip in readable
                if advance() is None
            ]
            answers.append(_Answers(form, np.stack(rows)))
    links = [_link(one, other, readable) for one, other in pairwise(answers)]
    off = _answers_without_adapter(forms[0], readable)
    liveness = None if off is None else _liveness(off, answers, links)
    if off is not None:
        links = [
            link.model_copy(update={"adapter_skipped": _is_skipped(answers[0], other, off)})
            for link, other in zip(links, answers[1:], strict=True)
        ]
    for link in links:
        objections += _link_objections(link)
    if liveness is not None and not liveness.passed:
        objections.append(
            f"the adapter is dead: it changes logits by {liveness.largest_logit_difference:.2g} at "
            f"most, and {liveness.needed:.2g} is needed; train longer, or choose other target_modules"
        )
    return Certificate(
        passed=not objections,
        clips=len(readable),
        source=source,
        clip_names=tuple(clip.path.name for clip in readable),
        left_out=tuple(left_out),
        accuracy={answer.form.name: _accuracy(answer, readable) for answer in answers},
        liveness=liveness,
        links=tuple(links),
        objections=tuple(objections),
    )


def _label_objections(forms: Sequence[Form]) -> list[str]:
    first = forms[0]
    return [
        f"{form.name} names other labels, or in another order, than {first.name}: "
        f"{list(form.recogniser.labels)} instead of {list(first.recogniser.labels)}"
        for form in forms[1:]
        if form.recogniser.labels != first.recogniser.labels
    ]


def _readable(
    clips: Sequence[LabelledClip], recogniser: Recogniser
) -> tuple[list[LabelledClip], list[str]]:
    readable, left_out = [], []
    for clip in clips:
        try:
            shared().decode(clip.path, recogniser.contract)
        except ClipError as error:
            left_out.append(f"{clip.path.name}: {error}")
        else:
            readable.append(clip)
    if not readable:
        raise NothingDecodedError(
            f"none of {len(clips)} clips can be decoded, so nothing can be proved; name readable "
            "ones with --verify-on"
        )
    return readable, left_out


def _ask(form: Form, path: Path, labels: Sequence[str]) -> NDArray[np.float32]:
    """Logits of one clip in the order of ``labels``, whatever order the form has."""
    by_label = dict(zip(form.recogniser.labels, form.recogniser.classify(path).logits, strict=True))
    return np.array([by_label.get(label, -np.inf) for label in labels], np.float32)


def _link(one: _Answers, other: _Answers, clips: Sequence[LabelledClip]) -> Link:
    probabilities, others = softmax(one.logits), softmax(other.logits)
    labels, other_labels = probabilities.argmax(axis=1), others.argmax(axis=1)
    names = one.form.recogniser.labels
    flips = tuple(
        Flip(
            clip=clips[row].path.name,
            labels=(names[labels[row]], names[other_labels[row]]),
            margin=float(probabilities[row, labels[row]] - probabilities[row, other_labels[row]]),
        )
        for row in map(int, np.flatnonzero(labels != other_labels))
    )
    largest = float(np.abs(probabilities - others).max())
    return Link(
        forms=(one.form.name, other.form.name),
        agreement=1 - len(flips) / len(clips),
        flips=flips,
        largest_logit_difference=float(np.abs(one.logits - other.logits).max()),
        largest_probability_difference=largest,
        budget=LARGEST_PROBABILITY_DIFFERENCE,
        # "not above" would let NaN pass
        passed=largest <= LARGEST_PROBABILITY_DIFFERENCE and not flips,
    )


def _link_objections(link: Link) -> list[str]:
    if link.passed:
        return []
    one, other = link.forms
    if link.adapter_skipped:
        return [f"{other} answers as the base does without its adapter: the adapter was skipped"]
    return [
        f"{other} answers differently from {one}: probabilities differ by up to "
        f"{link.largest_probability_difference:.2g} (budget {link.budget:.2g}), "
        f"{len(link.flips)} clips get another label"
    ]


def _answers_without_adapter(
    first: Form, clips: Sequence[LabelledClip]
) -> NDArray[np.float32] | None:
    """Logits [clips, labels] with the update off and the trained head on; None without an adapter."""
    backend = first.recogniser.backend
    if not isinstance(backend, TorchBackend) or not isinstance(backend.model, PeftModel):
        return None
    with delta_off(backend.model):
        return np.stack([_ask(first, clip.path, first.recogniser.labels) for clip in clips])


def _is_skipped(first: _Answers, other: _Answers, off: NDArray[np.float32]) -> bool:
    """Whether a form is far nearer to the base's answers than to the adapter's."""
    from_off = float(np.abs(other.logits - off).max())
    from_on = float(np.abs(other.logits - first.logits).max())
    return ALIVE_FACTOR * from_off < from_on


def _liveness(
    off: NDArray[np.float32], answers: Sequence[_Answers], links: Sequence[Link]
) -> Liveness:
    on_off = float(np.abs(answers[0].logits - off).max())
    # What a merge that went wrong changes says nothing of the adapter.
    merging = links[0].largest_logit_difference if links and links[0].passed else 0.0
    needed = max(ALIVE_FACTOR * merging, LEAST_ALIVE_DIFFERENCE)
    return Liveness(largest_logit_difference=on_off, needed=needed, passed=on_off >= needed)


def _accuracy(answers: _Answers, clips: Sequence[LabelledClip]) -> float:
    names = answers.form.recogniser.labels
    right = [
        names[row.argmax()] == clip.label for row, clip in zip(answers.logits, clips, strict=True)
    ]
    return float(np.mean(right))
