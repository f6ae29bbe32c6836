"""Figures, forms and calibration as a person reads them: plain text, no HTML and no Markdown."""

import math
import re
from collections.abc import Sequence

from lora_deploy.artifact.bundle import COMPILERS, PRECISIONS
from lora_deploy.evaluate import wilson_interval
from lora_deploy.proof.certificate import (
    ADAPTER_GRAPH,
    ADAPTER_GRAPH_BASE,
    BASE,
    BFLOAT16_GRAPH,
    Calibration,
    Certificate,
    Completion,
    Link,
    Speed,
)

FEW_CLIPS = 64
"""Fewer clips than this are called few; a proof should have that many."""

_TITLES = {
    "unmerged": "Trained adapter",
    "trained": "Trained model",
    "merged": "Merged model",
    "onnx": "Plain ONNX",
    "frames-in": "ONNX with raw frames in",
    BASE: "Adapter switched off",
    ADAPTER_GRAPH: "Adapter graph",
    ADAPTER_GRAPH_BASE: "Adapter graph without adapter",
    BFLOAT16_GRAPH: "ONNX bf16, for engines",
    "onnxruntime": "ONNX Runtime",
    "openvino": "OpenVINO",
    "torch": "PyTorch",
    "onnxruntime-cuda": "ONNX Runtime with CUDA",
    "onnxruntime-tensorrt": "ONNX Runtime with TensorRT",
    "onnxruntime-rtx": "ONNX Runtime with TensorRT for RTX",
    "tensorrt": "TensorRT",
    "tensorrt-rtx": "TensorRT for RTX",
}

_ENGINE = re.compile(r"(tensorrt|tensorrt-rtx)-(fp32|fp16|bf16|int8)-(sm[0-9]{2,3})")
"""As `artifact.bundle.Engine` names itself."""

NOT_RUN = (
    "They lie in the bundle and were never asked anything: no card of their kind was at hand, and "
    "the verdict does not speak of them. What they are made of was proved; a compiler may still "
    "compute otherwise."
)
"""Of engines that were built only."""

COMPLETE = "lora-deploy verify BUNDLE --complete"
"""What asks them, where such a card is."""

_NO_NUMBER = "no number"


def percent(part: float) -> str:
    """A part of one, such as 0.984, as ``98.4%``.

    ``100%`` and ``0%`` are said of nothing else than 1 and 0.
    """
    if not math.isfinite(part):
        return _NO_NUMBER
    value = 100 * part
    if 0 < abs(value) < 0.0001:
        return "under 0.0001%"
    if abs(value) < 1:
        return f"{_trimmed(value, 1 - math.floor(math.log10(abs(value))) if value else 0)}%"
    digits = 1
    while part < 1 and round(value, digits) >= 100 and digits < 6:
        digits += 1
    text = _trimmed(value, digits)
    return "just under 100%" if text == "100" and part < 1 else f"{text}%"


def _trimmed(value: float, digits: int) -> str:
    text = f"{value:.{digits}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def figure(value: float) -> str:
    """A small measured number for a table: ``0.0123``, or ``1.2e-07``."""
    if not math.isfinite(value):
        return _NO_NUMBER
    return f"{value:.1e}" if 0 < abs(value) < 0.0001 else f"{value:.3g}"


def count(number: int, one: str, several: str | None = None) -> str:
    """``1 clip``, ``2 clips``."""
    return f"{number:,} {one if number == 1 else several or one + 's'}"


def listed(names: Sequence[str]) -> str:
    """``a``, ``a and b``, ``a, b and c``."""
    return " and ".join([*([", ".join(names[:-1])] if names[:-1] else []), *names[-1:]])


def compiled(form: str) -> tuple[str, str] | None:
    """Backend and precision that ``--backend`` and ``--precision`` ask a form by; None if neither does."""
    backend, _, precision = form.partition("-")
    return (backend, precision) if backend in COMPILERS and precision in PRECISIONS else None


def form_title(form: str) -> str:
    """What a person calls a form: ``openvino-int8`` is ``OpenVINO int8``, and ``tensorrt-rtx-fp16-sm86``
    ``TensorRT for RTX fp16, sm86``."""
    if engine := _ENGINE.fullmatch(form):
        return f"{_TITLES[engine[1]]} {engine[2]}, {engine[3]}"
    runner, dash, precision = form.rpartition("-")
    if dash and precision in PRECISIONS and runner in _TITLES:
        return f"{_TITLES[runner]} {precision}"
    return _TITLES.get(form, form)


def lowest_true_share(agreement: float, clips: int) -> float:
    """Lower end of the 95% interval of an agreement seen on so many clips."""
    if not clips or not 0 <= agreement <= 1:
        return math.nan
    return wilson_interval(round(agreement * clips), clips)[0]


def certainty(agreement: float, clips: int) -> str:
    """An agreement with what it can be trusted for, so that all of 12 clips isn't read as always."""
    few = "with so few " if clips < FEW_CLIPS else ""
    return (
        f"{percent(agreement)} of {count(clips, 'clip')}; {few}the true share may be as low as "
        f"{rounded_percent(lowest_true_share(agreement, clips))}"
    )


def rounded_percent(part: float) -> str:
    """For an uncertain figure: no more digits than it deserves, ``76%``; near all, ``98.5%``."""
    return percent(round(part, 2 if part < 0.98 else 3)) if math.isfinite(part) else _NO_NUMBER


def over_budget(link: Link) -> frozenset[str]:
    """Names of the budget's fields that a link doesn't keep; what is no number doesn't keep any."""
    kept = {
        "agreement": link.agreement >= link.budget.agreement,
        "largest_difference": link.largest_probability_difference <= link.budget.largest_difference,
        "mean_kl": link.mean_kl <= link.budget.mean_kl,
    }
    return frozenset(name for name, holds in kept.items() if not holds)


def failing_forms(certificate: Certificate) -> list[str]:
    """Titles of the forms that do not hold, in the order of the links."""
    failing = [link.forms[1] for link in certificate.links if not link.passed]
    return [form_title(form) for form in dict.fromkeys(failing)]


def failing_on_cards(certificate: Certificate) -> list[str]:
    """Titles of the forms that were run on a card since, and are not within budget."""
    return [form_title(one.form) for one in certificate.completed if not one.passed]


def speed_sentence(speed: Speed) -> str:
    """How fast one form is beside another, and where that was."""
    one, other = map(form_title, speed.forms)
    return (
        f"{one} was {speed.ratio:.3g} times as fast as {other} on the computer that exported "
        f"({count(speed.rounds, 'round')}, in turns)."
    )


def completion_sentence(completion: Completion) -> str:
    """What is known of a form that was run on a card after the bundle was made."""
    where = f"{form_title(completion.form)} was run on {completion.card}, {completion.date}"
    link = completion.link
    if not completion.passed:
        refused = " It is not opened." if _ENGINE.fullmatch(completion.form) else ""
        return f"{where}, and is not within its budget: {completion.reason}.{refused}"
    if link is None:
        return (
            f"{where}, on noise alone: probabilities differ by {figure(completion.noise_difference or 0)} "
            "at most. On real clips nothing is known of it."
        )
    return (
        f"{where}: same label as {form_title(link.forms[0])} on {percent(link.agreement)} of the "
        f"clips, probabilities differ by {figure(link.largest_probability_difference)} at most."
    )


def calibration_sentences(calibration: Calibration) -> list[str]:
    """What was done to scores, and when a clip is called unknown."""
    sentences = []
    if calibration.reason is not None:
        sentences.append(
            f"Scores are left as the model computes them, no temperature was fitted: {calibration.reason}."
        )
    else:
        sentences.append(
            f"Logits are divided by a temperature of {calibration.temperature:.3g} before they become "
            "scores, so that of the clips scored 80% about 80% are right."
        )
        sentences.append(
            f"On the {count(calibration.clips, 'clip')} that it was fitted on, scores were off by "
            f"{percent(calibration.error_before)} on average before and "
            f"{percent(calibration.error_after)} after (expected calibration error); "
            "expect more on other clips."
        )
    sentences.append(_unknown_sentence(calibration))
    return sentences


def _unknown_sentence(calibration: Calibration) -> str:
    if calibration.unknown_threshold is None:
        return "No clip is called unknown: each gets its most probable label."
    sentence = f"A clip whose best label is below {percent(calibration.unknown_threshold)} is called unknown"
    if calibration.unknown_false_positive_rate is None:
        return f"{sentence}."
    return (
        f"{sentence}; {percent(calibration.unknown_false_positive_rate)} of known clips are then "
        "called unknown."
    )
