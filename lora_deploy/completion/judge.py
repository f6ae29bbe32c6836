"""A form on a card held against what the trained model said when the bundle was made."""

import datetime
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lora_deploy.artifact.bundle import BundleManifest, Precision
from lora_deploy.clips.dataset import LabelledClip
from lora_deploy.completion.forms import CardForm
from lora_deploy.errors import FormsDifferError, ProofClipsMissingError
from lora_deploy.progress import Progress, silent
from lora_deploy.proof.answers import Answering, Clips, identity_of, noise_frames
from lora_deploy.proof.certificate import Budget, Certificate, Completion, Link
from lora_deploy.proof.chain import as_rows, link_objections
from lora_deploy.proof.compare import compare
from lora_deploy.proof.thumbnails import thumbnail
from lora_deploy.proof.which_clips import not_for_training
from lora_deploy.runtime.base import softmax
from lora_deploy.verification import budgets_in

Rows = tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class Truth:
    """What the trained model said, and the clips that it said it of, where they are here."""

    certificate: Certificate
    manifest: BundleManifest
    budgets: Mapping[Precision, Budget]
    clips: Clips | None
    """All of the certificate's, in some order."""
    order: tuple[int, ...] = ()
    """Where each clip of the certificate is among them."""

    @property
    def form(self) -> str:
        """What the certificate calls the trained model's answers."""
        return next(iter(self.certificate.logits))

    def pictures(self, outcomes: Sequence["Outcome"]) -> dict[str, bytes]:
        """Thumbnails of the clips that got another label, by name."""
        if self.clips is None:
            return {}
        flipped = {
            flip.clip
            for one in outcomes
            if one.completion.link is not None
            for flip in one.completion.link.flips
        }
        frames = self.clips.frames(self.manifest.contract)
        return {
            clip.name: thumbnail(frames[row])
            for clip, row in zip(self.certificate.proof_clips, self.order, strict=True)
            if clip.name in flipped
        }


@dataclass(frozen=True)
class Outcome:
    """What came out of asking one form."""

    completion: Completion
    accuracy: float | None
    logits: Rows | None
    """On the certificate's clips, in its order; None where they were not asked about."""
    noise: Rows
    distance: float
    """By how much a probability differs, on clips where they were asked about; infinite without a number."""


@contextmanager
def truth_of(
    certificate: Certificate, manifest: BundleManifest, data: Path | None
) -> Iterator[Truth]:
    """What forms are held against, for as long as the block lasts.

    Raises:
        DataError: The clips can't be used, or some of the certificate are not among them.
    """
    budgets = budgets_in(certificate)
    if data is None:
        yield Truth(certificate, manifest, budgets, None)
        return
    with Clips(_clips_of(certificate, data), manifest.contract) as clips:
        here = {clip.sha256: row for row, clip in enumerate(clips.records())}
        missing = [one.name for one in certificate.proof_clips if one.sha256 not in here]
        if missing:
            raise ProofClipsMissingError(
                f"{len(missing)} clips of the certificate can't be decoded here: {missing[0]}, …"
            )
        order = tuple(here[one.sha256] for one in certificate.proof_clips)
        yield Truth(certificate, manifest, budgets, clips, order)


def _clips_of(certificate: Certificate, data: Path) -> list[LabelledClip]:
    """Those clips of the data that are, byte for byte, the certificate's.

    Raises:
        ProofClipsMissingError: Some are not there.
    """
    wanted = {clip.sha256 for clip in certificate.proof_clips}
    there = {identity_of(clip): clip for clip in not_for_training(data)}
    found = [clip for identity, clip in there.items() if identity in wanted]
    if len(found) < len(wanted):
        raise ProofClipsMissingError(
            f"{data} has {len(found)} of the {len(wanted)} clips that the certificate was made on"
        )
    return found


def ask(form: CardForm, truth: Truth, progress: Progress) -> Outcome:
    """Ask one form, at each of its batch sizes; the worst answers count.

    Raises:
        LoraDeployError: It can't be opened, or names other labels.
    """
    tries = [
        _ask_once(form, size, opening(), truth, progress) for size, opening in form.openings.items()
    ]
    return max(tries, key=lambda one: (not one.completion.passed, one.distance))


def _ask_once(
    form: CardForm, batch_size: int, opened: Answering, truth: Truth, progress: Progress
) -> Outcome:
    manifest = truth.manifest
    if opened.labels != manifest.labels or opened.contract != manifest.contract:
        raise FormsDifferError(f"{form.name} names other labels or pixels than the bundle")
    frames = noise_frames(opened.contract)
    noise = _in_each_place(opened, frames, range(len(frames)), batch_size)
    recorded = np.array(truth.certificate.noise_logits[truth.form], np.float32)
    largest = _largest_difference(recorded, noise, manifest.temperature)
    allowed = truth.budgets[form.precision].largest_difference
    logits = link = None
    if truth.clips is not None:
        frames = truth.clips.frames(opened.contract)
        doing = f"asking {form.name}"
        answers = _in_each_place(opened, frames, truth.order, batch_size, progress, doing)
        logits, link = _worst(form, answers, truth)
    if link is not None:
        reasons = link_objections(link)  # clips decide: noise is like nothing that it learnt
        if largest is None:
            reasons.append(f"{form.name} answers NaN or infinity to noise")
    elif largest is None or not largest <= allowed:
        off = "are no numbers" if largest is None else f"differ by up to {largest:.2g}"
        reasons = [f"probabilities of noise {off} (budget {allowed:.2g})"]
    else:
        reasons = []
    return Outcome(
        Completion(
            form=form.name,
            precision=form.precision,
            passed=not reasons,
            card=form.card,
            date=datetime.datetime.now(datetime.UTC).date().isoformat(),
            versions=dict(form.versions),
            clips=len(truth.order),
            noise_difference=largest,
            link=link if link is not None and _is_finite(link) else None,
            reason="; ".join(reasons),
        ),
        None if logits is None else _accuracy(logits, truth),
        None if logits is None else as_rows(logits),
        as_rows(noise[0]),
        _distance(link) if link is not None else math.inf if largest is None else largest,
    )


def _in_each_place(
    opened: Answering,
    frames: NDArray[np.uint8],
    rows: Sequence[int],
    batch_size: int,
    progress: Progress = silent,
    doing: str = "",
) -> NDArray[np.float32]:
    """Logits of clips, by whole batches, so that no place of a batch goes without a clip of them.

    Args:
        opened: What is asked.
        frames: Of clips: [clips, frames, height, width, 3].
        rows: Which of them, in which order.
        batch_size: Clips that it runs at once.
        progress: Told of each batch.
        doing: What it shows.

    Returns:
        [rounds, rows, labels]: fewer clips than places are asked about several times over.
    """
    rounds = -(-batch_size // len(rows))
    wanted = rounds * len(rows)
    answers = []
    with progress(doing, -(-wanted // batch_size)) as advance:
        for start in range(0, wanted, batch_size):
            places = [rows[place % len(rows)] for place in range(start, start + batch_size)]
            answers.append(opened.logits(frames[places]))
            advance()
    return np.concatenate(answers)[:wanted].reshape(rounds, len(rows), -1)


def _worst(
    form: CardForm, answers: NDArray[np.float32], truth: Truth
) -> tuple[NDArray[np.float32], Link]:
    """Of rounds [rounds, clips, labels] the one that is furthest from the trained model's answers."""
    rounds = [(logits, _link(form, logits, truth)) for logits in answers]
    return max(rounds, key=lambda one: (not one[1].passed, _distance(one[1])))


def _link(form: CardForm, logits: NDArray[np.float32], truth: Truth) -> Link:
    certificate = truth.certificate
    return compare(
        (truth.form, form.name),
        np.array(certificate.logits[truth.form], np.float32),
        logits,
        labels=certificate.labels,
        clips=[(clip.name, clip.label) for clip in certificate.proof_clips],
        precision=form.precision,
        budget=truth.budgets[form.precision],
        temperature=truth.manifest.temperature,
        unknown_threshold=truth.manifest.unknown_threshold,
    )


def _largest_difference(
    one: NDArray[np.float32], other: NDArray[np.float32], temperature: float
) -> float | None:
    """Of a probability; None where it is no number."""
    if not np.isfinite(other).all():
        return None
    return float(np.abs(softmax(one / temperature) - softmax(other / temperature)).max())


def _distance(link: Link) -> float:
    return link.largest_probability_difference if _is_finite(link) else math.inf


def _is_finite(link: Link) -> bool:
    """Whether JSON can hold it."""
    return all(
        map(
            math.isfinite,
            (link.largest_logit_difference, link.largest_probability_difference, link.largest_kl),
        )
    )


def _accuracy(logits: NDArray[np.float32], truth: Truth) -> float:
    certificate = truth.certificate
    named = [certificate.labels[index] for index in logits.argmax(axis=1)]
    right = [one == clip.label for one, clip in zip(named, certificate.proof_clips, strict=True)]
    return float(np.mean(right))
