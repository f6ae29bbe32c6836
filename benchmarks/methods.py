"""LoRA against its rivals on the same clips: head only, full, random weights, one frame.

For each method the learning rate is chosen by validation accuracy from a short list, with seed 0;
then every seed is trained with it and measured once on the test clips. Without ``--data`` the
example gestures are drawn, and ``--record`` keeps the figures that the quickstart prints.

    python benchmarks/methods.py --seeds 3 --record
    python benchmarks/methods.py --data clips.csv --set training.epochs=60 --method "head on"
"""

import json
import logging
import multiprocessing
import platform
import statistics
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import torch

from lora_deploy.clips.example import write_example
from lora_deploy.config import load_settings, recipe_path
from lora_deploy.evaluate import Evaluation, evaluate, wilson_interval
from lora_deploy.runtime.load import load
from lora_deploy.train.fit import fit

RECORD = Path(__file__).parents[1] / "lora_deploy" / "assets" / "example-comparison.json"
RECIPE = "quickstart"


@dataclass(frozen=True)
class Method:
    """A way to learn, as changes to the quickstart's recipe."""

    name: str
    changes: tuple[str, ...]
    learning_rates: tuple[float, ...]


METHODS = (
    Method("LoRA all-linear", (), (2e-3, 3e-3)),
    Method("LoRA qkv", ('model.lora.target_modules=["qkv"]',), (2e-3, 4e-3)),
    Method(
        "head only",
        ("model.use_lora=false", "model.freeze_base=true", "training.epochs=40"),
        (1e-2, 3e-2, 1e-1),
    ),
    Method("full fine-tuning", ("model.use_lora=false",), (2e-4, 5e-4)),
    Method(
        "full from random weights",
        ("model.use_lora=false", "model.random_weights=true"),
        (5e-4, 1e-3),
    ),
    Method("LoRA, one frame repeated", ("clip.sampling=middle_frame",), (2e-3, 3e-3)),
)

ON_REQUEST = (
    Method(
        "head on random weights",
        (
            "model.use_lora=false",
            "model.freeze_base=true",
            "model.random_weights=true",
            "training.epochs=40",
        ),
        (1e-2, 3e-2, 1e-1),
    ),
)
"""Run only when ``--method`` names them."""


@dataclass(frozen=True)
class Outcome:
    """One training, measured."""

    val_accuracy: float
    test: Evaluation
    trainable: int
    seconds: float


def run_once(
    method: Method, learning_rate: float, seed: int, data: Path, work: Path, changes: Sequence[str]
) -> Outcome:
    """Train with one learning rate and seed, and measure on the test clips."""
    settings = load_settings(
        recipe_path(RECIPE),
        [
            *method.changes,
            *changes,
            f"training.learning_rate={learning_rate}",
            f"training.seed={seed}",
        ],
    )
    with tempfile.TemporaryDirectory(dir=work) as folder:
        out = Path(folder) / "run"
        manifest = fit(settings, data, out, cache_folder=work / "frames")
        test = evaluate(load(out), data, split="test")
    return Outcome(
        val_accuracy=manifest.best.val_accuracy,
        test=test,
        trainable=manifest.parameters["trainable"],
        seconds=manifest.training_seconds,
    )


def measure(
    method: Method, seeds: int, data: Path, work: Path, changes: Sequence[str]
) -> dict[str, Any]:
    """Choose the learning rate on validation clips, then train every seed."""
    tried = {rate: run_once(method, rate, 0, data, work, changes) for rate in method.learning_rates}
    rate = max(tried, key=lambda rate: tried[rate].val_accuracy)
    outcomes = [tried[rate]]
    outcomes += [run_once(method, rate, seed, data, work, changes) for seed in range(1, seeds)]
    accuracies = [outcome.test.accuracy for outcome in outcomes]
    clips = outcomes[0].test.clips
    low, high = wilson_interval(round(statistics.mean(accuracies) * clips), clips)
    return {
        "method": method.name,
        "trainable": outcomes[0].trainable,
        "learning_rate": rate,
        "val_accuracy_by_learning_rate": {str(r): tried[r].val_accuracy for r in tried},
        "val_accuracy_mean": statistics.mean(outcome.val_accuracy for outcome in outcomes),
        "accuracy_mean": statistics.mean(accuracies),
        "accuracy_spread": statistics.stdev(accuracies) if seeds > 1 else 0.0,
        "accuracies": accuracies,
        "interval_95": [low, high],
        "clips": clips,
        "chance": outcomes[0].test.chance,
        "training_seconds_mean": statistics.mean(outcome.seconds for outcome in outcomes),
    }


def as_markdown(rows: Sequence[dict[str, Any]], seeds: int) -> Iterator[str]:
    """A table for docs."""
    yield (
        f"Chance {rows[0]['chance']:.3f}; {rows[0]['clips']} test clips; mean ± standard deviation "
        f"of {seeds} seeds; the interval is that of one run with the mean accuracy."
    )
    yield ""
    yield "| method | learns | learning rate | validation | test | 95% interval | seconds |"
    yield "|---|---|---|---|---|---|---|"
    for row in rows:
        low, high = row["interval_95"]
        yield (
            f"| {row['method']} | {row['trainable']:,} | {row['learning_rate']:g} | "
            f"{row['val_accuracy_mean']:.3f} | {row['accuracy_mean']:.3f} ± "
            f"{row['accuracy_spread']:.3f} | {low:.2f} to {high:.2f} | "
            f"{row['training_seconds_mean']:.0f} |"
        )


def keep(rows: Sequence[dict[str, Any]]) -> None:
    """Write the figures that the quickstart prints; methods that were not run stay as they were."""
    kept = json.loads(RECORD.read_text(encoding="utf-8"))["rows"] if RECORD.is_file() else []
    by_name = {row["method"]: row for row in (*kept, *rows)}
    values = {
        "command": "python benchmarks/methods.py --seeds 3 --record",
        "seeds": min(len(row["accuracies"]) for row in by_name.values()),
        "torch": torch.__version__,
        "machine": platform.machine(),
        "rows": [by_name[method.name] for method in METHODS if method.name in by_name],
    }
    RECORD.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")


def _one_thread() -> None:
    torch.set_num_threads(1)
    logging.getLogger("lora_deploy").setLevel(logging.ERROR)


@click.command()
@click.option("--data", type=click.Path(path_type=Path, exists=True), help="Labelled clips.")
@click.option("--seeds", type=click.IntRange(min=1), default=3, show_default=True)
@click.option("--set", "changes", multiple=True, metavar="KEY=VALUE", help="For every method.")
@click.option("--method", "names", multiple=True, help="Only methods whose name holds this.")
@click.option(
    "--jobs",
    type=click.IntRange(min=1),
    default=2,
    show_default=True,
    help="Methods at once, each with one thread.",
)
@click.option("--record", is_flag=True, help="Keep the figures for the quickstart to print.")
def main(
    data: Path | None,
    seeds: int,
    changes: tuple[str, ...],
    names: tuple[str, ...],
    jobs: int,
    record: bool,
) -> None:
    """Print the comparison as a Markdown table."""
    methods = list(METHODS)
    if names:
        methods = [m for m in (*METHODS, *ON_REQUEST) if any(name in m.name for name in names)]
    if record and (data is not None or changes):
        raise click.UsageError("--record goes with the example clips and the methods as they are")
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        source = data or write_example(work / "data")
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(jobs, context, initializer=_one_thread) as pool:
            running = [pool.submit(measure, m, seeds, source, work, changes) for m in methods]
            rows = [done.result() for done in running]
    click.echo("\n".join(as_markdown(rows, seeds)))
    if record:
        keep(rows)


if __name__ == "__main__":
    main()
