"""The proof under way: forms are asked one after the other, and held against the trained model."""

import datetime
import logging
import math
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from lora_deploy.artifact.bundle import PRECISIONS, Precision
from lora_deploy.config import ProofSettings
from lora_deploy.processor import read_processor
from lora_deploy.progress import Progress, silent
from lora_deploy.proof.answers import Answering, Answers, Clips, Form, ask
from lora_deploy.proof.certificate import (
    Budget,
    Calibration,
    Certificate,
    Link,
    Liveness,
    Speed,
    Unrun,
)
from lora_deploy.proof.compare import compare
from lora_deploy.versions import installed_versions

logger = logging.getLogger(__name__)


def budgets_of(settings: ProofSettings) -> dict[Precision, Budget]:
    """What each precision may differ by."""
    return {
        precision: Budget(**getattr(settings, precision).model_dump()) for precision in PRECISIONS
    }


class Chain:
    """Forms of one model on the same clips; the first that is asked is what is true."""

    def __init__(
        self,
        clips: Clips,
        labels: Sequence[str],
        *,
        budgets: Mapping[Precision, Budget],
        largest_share: float = 0.9,
        progress: Progress = silent,
    ) -> None:
        """Ask nothing yet.

        Args:
            clips: Real clips that the training did not learn from.
            labels: In the order of the trained model's logits.
            budgets: What each precision may differ by.
            largest_share: If the model gives one label to more of the clips, the proof is void.
            progress: Told of each clip and form.
        """
        self.clips = clips
        self.labels = tuple(labels)
        self.largest_share = largest_share
        self.temperature = 1.0
        self.unknown_threshold: float | None = None
        self.answers: dict[str, Answers] = {}
        self.links: list[Link] = []
        self._budgets = budgets
        self._progress = progress

    @property
    def first(self) -> Answers:
        """Of the trained model."""
        return next(iter(self.answers.values()))

    @property
    def truths(self) -> list[str]:
        """True label of each clip."""
        return [label for _, label in self.clips.named]

    def ask(self, form: Form, opened: Answering | None = None) -> Answers:
        """Send all clips through a form; asked again, its new answers replace the old ones."""
        with self._progress(f"asking {form.name}", len(self.clips.readable)) as advance:
            found = ask(form, self.clips, self.labels, advance=advance, opened=opened)
        self.answers[form.name] = found
        return found

    def compare(self, one: str, other: str) -> Link:
        """Hold one form's answers against another's."""
        precision = self.answers[other].precision
        return compare(
            (one, other),
            self.answers[one].logits,
            self.answers[other].logits,
            labels=self.labels,
            clips=self.clips.named,
            precision=precision,
            budget=self._budgets[precision],
            temperature=self.temperature,
            unknown_threshold=self.unknown_threshold,
        )

    @property
    def void(self) -> str | None:
        """Why agreement on these clips says nothing; None where it says something."""
        label, times = self._answered().most_common(1)[0]
        share = times / len(self.clips.readable)
        if share <= self.largest_share:
            return None
        return (
            f"the model names {label} for {times} of {len(self.clips.readable)} clips, so a form "
            f"that always says so would pass; at most {self.largest_share:.0%} may get one "
            "label (proof.largest_share)"
        )

    def _answered(self) -> Counter[str]:
        return Counter(self.labels[index] for index in self.first.logits.argmax(axis=1))

    def accuracy(self, answers: Answers) -> float:
        """Part of the clips that a form names rightly."""
        right = [
            self.labels[row.argmax()] == truth
            for row, truth in zip(answers.logits, self.truths, strict=True)
        ]
        return float(np.mean(right))

    def label_objections(self) -> list[str]:
        """Forms that name other labels than the trained model, or in another order."""
        return [
            f"{one.form} names other labels, or in another order, than {self.first.form}: "
            f"{list(one.labels)} instead of {list(self.labels)}"
            for one in self.answers.values()
            if one.labels != self.labels
        ]

    def certificate(
        self,
        *,
        source: str,
        liveness: Liveness | None,
        calibration: Calibration | None = None,
        speeds: Sequence[Speed] = (),
        ranges_from: str = "",
        objections: Sequence[str] = (),
        unrun: Sequence[Unrun] = (),
    ) -> Certificate:
        """What came out, to be written down.

        Args:
            source: Whose clips these are.
            liveness: What the adapter changes.
            calibration: Of the scores.
            speeds: Measured beside the proof.
            ranges_from: Whose clips int8 took its ranges from.
            objections: More than those of labels, links and liveness.
            unrun: What was built and not asked.
        """
        found = self.label_objections()
        if self.void is not None:
            found.append(f"the proof is void: {self.void}")
        if len(self.clips.left_out) > len(self.clips.readable):
            found.append(
                f"{len(self.clips.left_out)} clips can't be decoded and {len(self.clips.readable)} "
                "can: too few are left to prove anything on"
            )
        found += [sentence for link in self.links for sentence in link_objections(link)]
        if liveness is not None and not liveness.passed:
            found.append(
                f"the adapter is dead: it changes logits by {liveness.largest_logit_difference:.2g} "
                f"at most, and {liveness.needed:.2g} is needed; train longer, or choose other "
                "target_modules"
            )
        found += objections
        return Certificate(
            passed=not found,
            clips=len(self.clips.readable),
            source=source,
            proof_clips=self.clips.records(),
            left_out=tuple(self.clips.left_out),
            labels=self.labels,
            answered=dict(self._answered()),
            void=self.void,
            accuracy={name: self.accuracy(answers) for name, answers in self.answers.items()},
            liveness=liveness,
            links=tuple(self.links),
            unrun=tuple(unrun),
            speeds=tuple(speeds),
            calibration=calibration,
            ranges_from=ranges_from,
            objections=tuple(found),
            logits={name: as_rows(one.logits) for name, one in self.answers.items()},
            noise_logits={name: as_rows(one.noise) for name, one in self.answers.items()},
            versions=installed_versions(),
            computer=str(read_processor()),
            date=datetime.datetime.now(datetime.UTC).date().isoformat(),
        )


def as_rows(logits: NDArray[np.float32]) -> tuple[tuple[float, ...], ...]:
    """For JSON, which knows no infinity: nine digits give a float32 back exactly."""
    finite = np.nan_to_num(logits.astype(np.float64), posinf=1e30, neginf=-1e30, nan=1e30)
    return tuple(tuple(float(f"{value:.9g}") for value in row) for row in finite)


def link_objections(link: Link) -> list[str]:
    """Why a link does not hold, in words; empty where it does."""
    one, other = link.forms
    if link.adapter_skipped:
        return [f"{other} answers as the base does without its adapter: the adapter was skipped"]
    if link.passed:
        return []
    if not math.isfinite(link.largest_logit_difference):
        return [f"{one} or {other} answers NaN or infinity to a clip"]
    budget = link.budget
    unknown = (
        f", {link.unknown_changes} clips turn from known to unknown or back"
        if link.unknown_changes
        else ""
    )
    where = f"; {link.departs} departs first" if link.departs else ""
    return [
        f"{other} answers differently from {one}: {len(link.flips)} clips get another label "
        f"(agreement {link.agreement:.1%}, at least {budget.agreement:.1%} is needed), "
        f"probabilities differ by up to {link.largest_probability_difference:.2g} "
        f"(budget {budget.largest_difference:.2g}) and by {link.mean_kl:.2g} nats "
        f"(budget {budget.mean_kl:.2g}){unknown}{where}"
    ]
