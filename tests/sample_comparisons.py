"""Comparisons with chosen figures, for tests of what is written about them."""

from typing import Any

from lora_deploy.compare.result import (
    Accuracy,
    BaselineRow,
    Comparison,
    FailedRow,
    MethodRow,
    Spread,
)


def accuracies(clips: int, *right: int) -> Accuracy:
    return Accuracy.of([(one, clips) for one in right])


def method(name: str, trainable: int, **changes: Any) -> MethodRow:
    adapter = None if name == "full fine-tuning" else trainable * 4 + 5000
    values: dict[str, Any] = {
        "name": name,
        "learning_rates": (0.002,),
        "tried": {},
        "trainable_parameters": trainable,
        "total_parameters": 1_878_214,
        "peak_memory_bytes": 600_000_000 + trainable * 20,
        "memory_of": "process",
        "memory_before_bytes": 431_000_000,
        "seconds_per_epoch": Spread(mean=4.2, spread=0.31),
        "seconds_to_best": Spread(mean=41.0, spread=6.2),
        "epochs": Spread(mean=12, spread=0),
        "epochs_to_best": Spread(mean=10, spread=1.0),
        "checkpoint_bytes": 7_500_000,
        "adapter_bytes": adapter,
        "accuracy": {
            "train": accuracies(600, 596, 592, 599),
            "val": accuracies(180, 170, 169, 172),
            "test": accuracies(360, 342, 345, 340),
            "street": accuracies(40, 31, 28, 30),
        },
        "curves": tuple(
            tuple((epoch, 1 - 0.8 / (epoch + seed / 2)) for epoch in range(1, 13))
            for seed in range(3)
        ),
        "trainings": 3,
        "failures": (),
    }
    return MethodRow(**{**values, **changes})


def baseline(name: str, part: float) -> BaselineRow:
    sizes = {"train": 600, "val": 180, "test": 360, "street": 40}
    return BaselineRow(
        name=name,
        means="a way without a model",
        accuracy={name: accuracies(clips, round(part * clips)) for name, clips in sizes.items()},
    )


def comparison(**changes: Any) -> Comparison:
    values: dict[str, Any] = {
        "command": "lora-deploy compare --config quickstart --data clips --out compared",
        "data": "clips",
        "date": "2026-11-26T10:00:00+00:00",
        "seeds": (0, 1, 2),
        "folds": ("",),
        "labels": ("beckon", "push"),
        "sets": {"train": 600, "val": 180, "test": 360, "street": 40},
        "base": "videomae-nano",
        "processors": ("A processor, 2 of 2 cores, AVX2",),
        "devices": ("CPU",),
        "threads": (1,),
        "jobs": 1,
        "versions": {"lora-deploy": "0.1.0", "torch": "2.13.0+cpu"},
        "notes": (),
        "methods": (
            method("full fine-tuning", 1_878_214),
            method("LoRA r=8", 103_558),
            method("LoRA r=4", 52_358),
        ),
        "failed": (),
        "baselines": (baseline("chance", 1 / 6), baseline("motion, no model", 0.62)),
    }
    return Comparison(**{**values, **changes})


def failed(name: str = "huge") -> FailedRow:
    return FailedRow(name=name, failures=(f"{name}, seed 0: its process was killed (SIGKILL)",))
