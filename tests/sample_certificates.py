"""Certificates as proofs leave them, put together by hand: all holds, one fails, one is void."""

from collections.abc import Mapping, Sequence
from typing import Any

from lora_deploy.artifact.bundle import Precision
from lora_deploy.proof.certificate import (
    Budget,
    Calibration,
    Certificate,
    ClassDifference,
    Flip,
    Link,
    Liveness,
    ProofClip,
    Speed,
    Unrun,
)

LABELS = ("bend", "fight", "jumping_jack", "no_fight", "wave_one_hand", "wave_two_hands")

BUDGETS: Mapping[Precision, Budget] = {
    "fp32": Budget(agreement=1, largest_difference=1e-4, mean_kl=1e-6),
    "fp16": Budget(agreement=0.99, largest_difference=0.02, mean_kl=1e-3),
    "bf16": Budget(agreement=0.99, largest_difference=0.05, mean_kl=2e-3),
    "int8": Budget(agreement=0.98, largest_difference=0.15, mean_kl=0.02),
}

FORMS: tuple[tuple[str, str, Precision], ...] = (
    ("unmerged", "merged", "fp32"),
    ("merged", "onnx", "fp32"),
    ("unmerged", "onnxruntime-fp32", "fp32"),
    ("unmerged", "onnxruntime-fp16", "fp16"),
    ("unmerged", "openvino-bf16", "bf16"),
    ("unmerged", "openvino-int8", "int8"),
)
"""Seven forms: one made of the other, then those that are run with the trained one."""


def clips(number: int) -> tuple[ProofClip, ...]:
    return tuple(
        ProofClip(
            name=f"{LABELS[index % len(LABELS)]}_{index:03}.mp4",
            sha256=f"{index:064x}",
            label=LABELS[index % len(LABELS)],
        )
        for index in range(number)
    )


def link(
    one: str,
    other: str,
    precision: Precision,
    *,
    flips: Sequence[Flip] = (),
    number: int = 128,
    **changes: Any,
) -> Link:
    """Two forms; within budget where ``changes`` don't say otherwise."""
    exact = precision == "fp32"
    per_class = tuple(
        ClassDifference(
            label=label,
            clips=len(of_label),
            agreement=1 - sum(flip.truth == label for flip in flips) / len(of_label),
            largest_difference=3.1e-6 if exact else 0.0083,
            mean_difference=2.2e-7 if exact else 0.0007,
        )
        for label in LABELS
        if (of_label := [clip for clip in clips(number) if clip.label == label])
    )
    values: dict[str, Any] = {
        "forms": (one, other),
        "precision": precision,
        "agreement": 1 - len(flips) / number,
        "flips": tuple(flips),
        "largest_logit_difference": 2.4e-5 if exact else 0.09,
        "largest_probability_difference": 3.1e-6 if exact else 0.0083,
        "mean_probability_difference": 2.2e-7 if exact else 0.0007,
        "mean_kl": 4.1e-11 if exact else 3.2e-5,
        "largest_kl": 8e-10 if exact else 4e-4,
        "per_class": per_class,
        "budget": BUDGETS[precision],
        "passed": True,
        **changes,
    }
    return Link(**values)


def flip(index: int, other: str, margin: float) -> Flip:
    clip = clips(index + 1)[index]
    return Flip(clip=clip.name, truth=clip.label, labels=(clip.label, other), margin=margin)


def proved(number: int = 128, **changes: Any) -> Certificate:
    """Seven forms, all within budget."""
    links = [link(*forms, number=number) for forms in FORMS]
    if number > 100:
        links[-1] = link(*FORMS[-1], number=number, flips=[flip(7, "no_fight", 0.031)])
    values: dict[str, Any] = {
        "passed": True,
        "clips": number,
        "source": "validation clips of the training",
        "proof_clips": clips(number),
        "left_out": (),
        "labels": LABELS,
        "answered": {label: sum(clip.label == label for clip in clips(number)) for label in LABELS},
        "void": None,
        "accuracy": {
            form: round(0.914 * number) / number
            for form in ("unmerged", *(forms[1] for forms in FORMS))
        },
        "liveness": Liveness(largest_logit_difference=5.31, needed=0.0024, passed=True),
        "links": tuple(links),
        "speeds": (
            Speed(forms=("openvino-int8", "onnxruntime-fp32"), ratio=7.42, rounds=9),
            Speed(forms=("openvino-bf16", "onnxruntime-fp32"), ratio=4.77, rounds=9),
            Speed(forms=("onnxruntime-fp16", "onnxruntime-fp32"), ratio=0.82, rounds=9),
        ),
        "calibration": Calibration(
            temperature=1.42,
            clips=number,
            error_before=0.118,
            error_after=0.031,
            unknown_threshold=0.43,
            unknown_false_positive_rate=0.05,
        ),
        "objections": (),
        "versions": {"lora-deploy": "0.1.0", "torch": "2.13.0", "openvino": "2026.3"},
        "computer": "Intel(R) Xeon(R) Processor @ 2.90GHz, 2 cores, avx2 avx512f avx512_bf16 amx_int8",
        "date": "2026-01-31",
        **changes,
    }
    return Certificate(**values)


def failed() -> Certificate:
    """int8 names other labels, which shows where it departs; fp16 was mended; one clip is broken."""
    flips = [
        flip(index, LABELS[(index + 2) % 6], 0.47 - index / 40) for index in (1, 3, 4, 7, 9, 13, 15)
    ]
    links = [link(*forms) for forms in FORMS]
    links[3] = link(
        *FORMS[3],
        flips=[flip(7, "wave_one_hand", 0.012)],
        kept=("videomae.encoder.layer.0", "videomae.encoder.layer.11"),
    )
    links[5] = link(
        *FORMS[5],
        flips=flips,
        largest_probability_difference=0.62,
        mean_probability_difference=0.034,
        mean_kl=0.071,
        passed=False,
        departs="videomae.encoder.layer.7",
    )
    return proved(
        passed=False,
        links=tuple(links),
        accuracy={**proved().accuracy, "openvino-int8": 110 / 128},
        left_out=("scene_17.mp4: unreadable: the file ends before its first picture",),
        objections=(
            "openvino-int8 answers differently from unmerged: 7 clips get another label (agreement "
            "94.5%, at least 98.0% is needed), probabilities differ by up to 0.62 (budget 0.15) and "
            "by 0.071 nats (budget 0.02); videomae.encoder.layer.7 departs first",
        ),
    )


def built() -> Certificate:
    """All holds, and beside it lie engines that nobody could ask."""
    return proved(
        links=(*proved().links, link("unmerged", "bf16-graph", "bf16")),
        unrun=tuple(
            Unrun(
                form=f"tensorrt-rtx-{precision}-{target}",
                reason=f"tensorrt-rtx 1.7.1.116 built it where no {target} card was asked, so nothing "
                f"is known of its answers; onnx/model.{precision}.onnx, which it is made of, was held "
                "against the trained model",
            )
            for target, precision in (("sm75", "fp16"), ("sm86", "fp16"), ("sm120", "bf16"))
        ),
    )


def void() -> Certificate:
    """All holds, on 12 clips that all get one label."""
    reason = "the trained model names fight on 12 of 12 clips, and a proof allows at most 90%"
    return proved(
        12,
        passed=False,
        answered={"fight": 12},
        void=reason,
        calibration=Calibration(
            temperature=1,
            clips=12,
            error_before=0.2,
            error_after=0.2,
            reason="12 clips are too few to fit one",
        ),
        accuracy=dict.fromkeys(proved().accuracy, 2 / 12),
        speeds=(),
        objections=(f"the proof is void: {reason}",),
    )
