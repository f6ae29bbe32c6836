"""``certificate.json``: what was compared, on which clips, and what came out."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from lora_deploy.artifact.bundle import Precision

SCHEMA_VERSION = 2

BASE, ADAPTER_GRAPH, ADAPTER_GRAPH_BASE = "base", "adapter-graph", "adapter-graph-base"
"""What it calls the base under the trained head, the graph that takes adapters with the adapter in
it, and the same with the head alone."""

BFLOAT16_GRAPH = "bf16-graph"
"""What it calls the graph that bf16 engines are made of, each value rounded as it says."""

MOST_CLIPS = 10**6
"""That a certificate may claim; its answers are held in memory."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Budget(_Frozen):
    """How far a form may be from the trained model."""

    agreement: float
    """At least this part of the clips must get the same label."""
    largest_difference: float
    """Of a probability, on any clip and label, at most."""
    mean_kl: float
    """Kullback-Leibler divergence from the trained model's probabilities, in nats, mean over clips."""


class Flip(_Frozen):
    """A clip on which two forms name different labels."""

    clip: str
    truth: str
    """Its label in the data."""
    labels: tuple[str, str]
    margin: float
    """By how much the first form preferred its label to the other's, in probability."""


class ClassDifference(_Frozen):
    """Two forms compared on the clips of one true label."""

    label: str
    clips: int
    agreement: float
    largest_difference: float
    mean_difference: float
    """Both of the probability of any label."""


class Link(_Frozen):
    """Two forms compared on all clips."""

    forms: tuple[str, str]
    precision: Precision
    """Of the second one."""
    agreement: float
    """Part of the clips on which both name the same label."""
    flips: tuple[Flip, ...]
    unknown_changes: int = 0
    """Clips that one form calls unknown and the other does not."""
    largest_logit_difference: float
    """But for a constant of each clip, on which no probability depends."""
    largest_probability_difference: float
    mean_probability_difference: float
    """Over clips and labels."""
    mean_kl: float
    largest_kl: float
    """Of the second form's probabilities from the first's, in nats."""
    per_class: tuple[ClassDifference, ...]
    budget: Budget
    passed: bool
    adapter_skipped: bool = False
    """Whether the second form answers as the base does without its adapter."""
    departs: str | None = None
    """The block of the model that departs first, where it did not pass and that could be told."""
    kept: tuple[str, ...] = ()
    """Blocks that stay in a higher precision, because the form was over budget without."""


class Liveness(_Frozen):
    """What the adapter changes, its trained head kept on."""

    largest_logit_difference: float
    needed: float
    passed: bool


class Speed(_Frozen):
    """One form beside another on one clip, in turns, on the computer that exported."""

    forms: tuple[str, str]
    ratio: float
    """Median time of the second over that of the first: how many times faster the first is."""
    rounds: int


class Calibration(_Frozen):
    """How scores were made to mean what they say."""

    temperature: float
    clips: int
    error_before: float
    error_after: float
    """Expected calibration error, 0 to 1, on the very clips that the temperature was fitted on."""
    reason: str | None = None
    """Why the temperature stayed 1, where it did."""
    unknown_threshold: float | None = None
    unknown_false_positive_rate: float | None = None
    """Part of the clips, all of known labels, that the threshold calls unknown: as counted."""


class ProofClip(_Frozen):
    """One of the clips that everything was compared on."""

    name: str
    sha256: str
    """Of the file; of a part of one over that and when it begins and ends."""
    label: str
    """In the data."""


class Unrun(_Frozen):
    """A form that was built and never asked, so nothing is known of its answers."""

    form: str
    reason: str
    """Why it was not, in words."""


class Completion(_Frozen):
    """A form that was run on a card after the bundle was made, and what came out."""

    form: str
    precision: Precision
    passed: bool
    """Whether its answers were within the budget of its precision."""
    card: str
    """Name and kind, such as ``NVIDIA GeForce RTX 3060 (sm86)``."""
    date: str = Field(pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2}$")
    versions: dict[str, str]
    """Of the driver, and of what ran it."""
    clips: int = Field(default=0, ge=0, le=MOST_CLIPS)
    """Real clips that it was asked about; 0 for noise alone, and where it was not counted yet."""
    noise_difference: float | None
    """By how much a probability differs from the trained model's on seeded noise; None: no number."""
    link: Link | None = None
    """With the trained model, on all clips of the certificate; None where it was asked about noise
    alone, or gave no numbers."""
    reason: str = ""
    """Why it did not pass, in words."""

    @property
    def is_of_clips(self) -> bool:
        """Whether real clips decided, and not noise alone."""
        return self.clips > 0 or self.link is not None


class Certificate(_Frozen):
    """``certificate.json``."""

    schema_version: int = SCHEMA_VERSION
    passed: bool
    clips: int = Field(ge=0, le=MOST_CLIPS)
    source: str
    """Whose clips these are."""
    proof_clips: tuple[ProofClip, ...]
    left_out: tuple[str, ...]
    """Clips that could not be decoded."""
    labels: tuple[str, ...]
    """In the order of the logits."""
    answered: dict[str, Annotated[int, Field(ge=0, le=MOST_CLIPS)]]
    """How often the trained model named each label."""
    void: str | None
    """Why agreement on these clips would say nothing."""
    accuracy: dict[str, float]
    """Of each form, on the same clips; validation clips chose the best epoch, so it is no test."""
    liveness: Liveness | None
    """None where there is no adapter."""
    links: tuple[Link, ...]
    unrun: tuple[Unrun, ...] = ()
    """What is in the bundle and was not run: the verdict does not speak of it."""
    completed: tuple[Completion, ...] = ()
    """What was run since, on cards; the verdict speaks of what was run when the bundle was made."""
    speeds: tuple[Speed, ...] = ()
    calibration: Calibration | None = None
    ranges_from: str = ""
    """Which clips int8 took its ranges from, in words; empty without int8."""
    objections: tuple[str, ...]
    """Why it did not pass, in words."""
    logits: dict[str, tuple[tuple[float, ...], ...]] = Field(default_factory=dict)
    """Of each form, clip by clip in the order of ``proof_clips``: what `verify` holds against."""
    noise_logits: dict[str, tuple[tuple[float, ...], ...]] = Field(default_factory=dict)
    """Of each form on seeded noise, so that it can be tried where no clips are."""
    versions: dict[str, str] = Field(default_factory=dict)
    computer: str = ""
    """Kind of processor that it was proved on."""
    date: str = Field(default="", pattern=r"^([0-9]{4}-[0-9]{2}-[0-9]{2})?$")
    """Day of the proof, as 2026-01-31."""

    @property
    def verdict(self) -> Literal["proved", "void", "failed"]:
        """In one word."""
        if self.void is not None:
            return "void"
        return "proved" if self.passed else "failed"
