"""Reports of trainings that never were, to look at: a few labels and many, good ones and bad, strangers' words."""

import json
import math
import random
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from lora_deploy.artifact import run
from lora_deploy.artifact.manifest import BaseIdentity
from lora_deploy.artifact.run import BestEpoch, RunManifest
from lora_deploy.clips.clip import Frames
from lora_deploy.clips.contract import PixelContract
from lora_deploy.clips.example import GESTURES, render_gesture
from lora_deploy.config import Settings, to_yaml
from lora_deploy.evaluate import Evaluation, tally
from lora_deploy.train.report import write_report

ACTIONS = (
    "bend", "fight", "hand_shake", "hug", "kick", "no_fight", "point", "push", "run", "wave_one_hand",
    "wave_two_hands", "walk while carrying a large box through a narrow door",
)  # fmt: skip


def manifest_of(labels: Sequence[str], best_epoch: int = 7) -> RunManifest:
    """Of a training on VideoMAE-B."""
    return RunManifest(
        kind="lora",
        labels=tuple(labels),
        contract=PixelContract(frames=16, short_side=224, crop_height=224, crop_width=224),
        base=BaseIdentity(
            id="MCG-NJU/videomae-base",
            revision="0" * 40,
            fingerprint="f" * 64,
            licence="cc-by-nc-4.0",
        ),
        model_config_values={},
        head_modules=("classifier",),
        targets=tuple(f"layer.{number}.query" for number in range(36)),
        parameters={"total": 86_700_000, "trainable": 451_596, "lora": 442_368, "head": 9_228},
        versions={"lora-deploy": "0.1.0", "python": "3.11.2", "torch": "2.13.0"},
        best=BestEpoch(epoch=best_epoch, val_accuracy=0.8, val_loss=0.6, val_clips=100),
        finished=True,
        training_seconds=1834.0,
        weights={},
    )


def evaluation_of(
    labels: Sequence[str], clips: int, part_right: float, seed: int = 0
) -> Evaluation:
    """Answers that are right about so often, and wrong in a few favourite ways."""
    dice = random.Random(seed)
    answers, ranks, groups = [], [], []
    for at in range(clips):
        truth = at % len(labels)
        rank = 1
        answer = truth
        if dice.random() > part_right ** (1 + truth % 3):
            answer = (truth + dice.choice([1, 1, 1, 2])) % len(labels)
            rank = dice.randint(2, len(labels))
        score = max(1.01 / len(labels), min(0.999, dice.gauss(0.85 if rank == 1 else 0.62, 0.15)))
        answers.append((f"/data/s{at % 9}_clip_{at:03}.mp4", labels[truth], labels[answer], score))
        ranks.append(rank)
        groups.append(f"s{at % 9}")
    return tally(labels, answers, ranks=ranks, groups=groups)


def metrics_of(epochs: int, seed: int = 0) -> str:
    """Lines of a loss that falls and of an accuracy that rises."""
    dice = random.Random(seed)
    lines = []
    for step in range(1, epochs * 10 + 1):
        epoch = step / 10
        loss = 2.2 * math.exp(-epoch / 3) + 0.12 + abs(dice.gauss(0, 0.05))
        lines.append({"step": step, "epoch": epoch, "loss": loss, "learning_rate": 1e-4})
        if step % 10 == 0:
            lines.append(
                {
                    "step": step, "epoch": epoch,
                    "eval_loss": 1.9 * math.exp(-epoch / 3) + 0.4 + 0.02 * epoch,
                    "eval_accuracy": 0.85 - 0.7 * math.exp(-epoch / 2.5) + dice.gauss(0, 0.015),
                }
            )  # fmt: skip
    return "".join(json.dumps(line) + "\n" for line in lines)


def frames_of(at: int) -> Frames:
    """A drawn gesture."""
    return render_gesture(GESTURES[at % len(GESTURES)], np.random.default_rng(at))


def write_sample(
    folder: Path, evaluation: Evaluation, *, epochs: int = 10, metrics: str | None = None
) -> Path:
    """A folder with what the report reads, and the report."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / run.METRICS).write_text(metrics_of(epochs) if metrics is None else metrics)
    (folder / run.SETTINGS).write_text(to_yaml(Settings()))
    manifest = manifest_of(evaluation.labels, best_epoch=min(7, epochs))
    write_report(folder, manifest, evaluation, frames_of)
    return folder / run.REPORT


def main(out: Path) -> None:
    """Write all samples."""
    many = [f"class number {at}" for at in range(25)]
    hundreds = [f"class number {at}" for at in range(174)]
    samples = {
        "six": evaluation_of(ACTIONS[:6], 64, 0.85),
        "twelve": evaluation_of(ACTIONS, 240, 0.8),
        "many": evaluation_of(many, 500, 0.7),
        "hundreds": evaluation_of(hundreds, 1800, 0.5),
        "perfect": evaluation_of(ACTIONS[:2], 12, 1.0),
        "arabic": evaluation_of(
            ["مصافحة", "<script>alert(1)</script>", "挥手", "x" * 120], 40, 0.5
        ),
    }
    for name, evaluation in samples.items():
        print(write_sample(out / name, evaluation))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
