"""The whole path in one folder: example clips, training, evaluation, proof, new clips classified."""

import json
import logging
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lora_deploy import atomic
from lora_deploy.classify.inputs import find_items
from lora_deploy.classify.rows import Row, write_rows
from lora_deploy.classify.stream import classify
from lora_deploy.clips.example import GESTURES, write_example
from lora_deploy.config import load_settings, recipe_path
from lora_deploy.errors import OutputExistsError
from lora_deploy.evaluate import Evaluation, evaluate
from lora_deploy.export.pipeline import Shipped, merge_export
from lora_deploy.progress import Progress, silent
from lora_deploy.runtime.load import load
from lora_deploy.train.fit import fit

logger = logging.getLogger(__name__)

RECORDED = Path(__file__).parent / "assets" / "example-comparison.json"
"""Figures of the kept runs; `benchmarks/methods.py --record` writes it."""

RECIPE = "quickstart"


@dataclass(frozen=True)
class Quickstart:
    """What the quickstart measured."""

    folder: Path
    trainable_parameters: int
    training_seconds: float
    evaluation: Evaluation
    shipped: Shipped
    rows: tuple[Row, ...]
    seconds: float
    recorded: dict[str, Any] | None

    def as_text(self) -> str:
        """The table and the commands to type next."""
        return "\n".join([*self._table(), "", *self._proof(), "", *self._next()])

    def _table(self) -> list[str]:
        low, high = self.evaluation.interval
        lines = [
            f"{self.evaluation.clips} held-out clips of {len(self.evaluation.labels)} gestures, "
            f"chance {self.evaluation.chance:.2f}",
            "",
            _table_line("method", "learns", "accuracy"),
            _table_line(
                "LoRA, this run",
                f"{self.trainable_parameters:,}",
                f"{self.evaluation.accuracy:.3f} (95% interval {low:.2f} to {high:.2f})",
            ),
        ]
        if self.recorded is not None:
            lines += [
                "",
                f"Kept runs on the clips of seed 0: mean ± standard deviation of "
                f"{self.recorded['seeds']} seeds, made by",
                self.recorded["command"],
            ]
            lines += [
                _table_line(
                    row["method"],
                    f"{row['trainable']:,}",
                    f"{row['accuracy_mean']:.3f} ± {row['accuracy_spread']:.3f}",
                )
                for row in self.recorded["rows"]
            ]
        return lines

    def _proof(self) -> list[str]:
        certificate = self.shipped.certificate
        return [
            f"{' = '.join(link.forms)}: same label on {link.agreement:.0%} of {certificate.clips} "
            f"clips, probabilities differ by at most {link.largest_probability_difference:.1e}"
            for link in certificate.links
        ] + [f"all of it took {self.seconds:.0f} s, the training {self.training_seconds:.0f} s"]

    def _next(self) -> list[str]:
        bundle = self.folder / "bundle"
        here, environment = Path.cwd(), Path(sys.prefix)
        if environment.is_relative_to(here):
            environment = environment.relative_to(here)
        activate = f"  source {environment}/bin/activate"
        return [
            "Next:",
            *([] if shutil.which("lora-deploy") else [activate]),
            f"  lora-deploy classify {bundle} YOUR_CLIP.mp4",
            f"  lora-deploy evaluate {bundle} --data {self.folder / 'data'}",
            "  lora-deploy config > my.yaml        # then edit it",
            "  lora-deploy train --config my.yaml --data YOUR_FOLDER --out runs/mine",
            "  lora-deploy merge-export runs/mine --out bundles/mine",
        ]


def _table_line(method: str, learns: str, accuracy: str) -> str:
    return f"{method:<26}{learns:>10}  {accuracy}"


@dataclass(frozen=True)
class ExampleSize:
    """Clips per gesture."""

    train: int = 100
    val: int = 30
    test: int = 60


def quickstart(
    out: Path,
    *,
    seed: int = 0,
    size: ExampleSize = ExampleSize(),
    overrides: Sequence[str] = (),
    progress: Progress = silent,
) -> Quickstart:
    """Do all of it in ``out``, which must not exist or be empty.

    Args:
        out: Gets ``data/``, ``run/``, ``bundle/`` and ``predictions.jsonl``.
        seed: Of the clips and of the training.
        size: How many clips to draw.
        overrides: Changes to the quickstart's recipe, as ``--set`` takes them.
        progress: Told of clips drawn, decoded and classified.

    Raises:
        OutputExistsError: Something is there already.
        CheckFailed: The exported model answers differently from the trained one.
    """
    if not atomic.is_free(out):
        raise OutputExistsError(f"{out} exists already")
    started = time.monotonic()
    logger.info("1/5 drawing clips of %d gestures: %s", len(GESTURES), ", ".join(GESTURES))
    data = _draw_clips(out / "data", seed, size, progress)
    logger.info("2/5 training")
    settings = load_settings(recipe_path(RECIPE), [f"training.seed={seed}", *overrides])
    manifest = fit(settings, data, out / "run", progress=progress)
    logger.info("3/5 merging, exporting, proving")
    shipped = merge_export(out / "run", out / "bundle", progress=progress)
    logger.info("4/5 evaluating on clips that it never saw")
    recogniser = load(out / "bundle")
    evaluation = evaluate(recogniser, data, split="test", progress=progress)
    logger.info("5/5 classifying the held-out clips to %s", out / "predictions.jsonl")
    rows = tuple(classify(recogniser, find_items([data / "test"])))
    write_rows(rows, out / "predictions.jsonl")
    return Quickstart(
        folder=out,
        trainable_parameters=manifest.parameters["trainable"],
        training_seconds=manifest.training_seconds,
        evaluation=evaluation,
        shipped=shipped,
        rows=rows,
        seconds=time.monotonic() - started,
        recorded=_recorded(),
    )


def _draw_clips(folder: Path, seed: int, size: ExampleSize, progress: Progress) -> Path:
    clips = len(GESTURES) * (size.train + size.val + size.test)
    with progress("drawing clips", clips) as advance:
        return write_example(
            folder,
            seed=seed,
            train_clips=size.train,
            val_clips=size.val,
            test_clips=size.test,
            on_clip=lambda *_: advance(),
        )


def _recorded() -> dict[str, Any] | None:
    if not RECORDED.is_file():
        return None
    values: dict[str, Any] = json.loads(RECORDED.read_text(encoding="utf-8"))
    return values
