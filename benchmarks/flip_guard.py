"""What a blind flip costs where labels tell left from right, and what the guard against it saves.

The same training four times: without flips; with flips, of which the guard keeps the labels that name
a side; with these labels exchanged as their pairs; and blindly, every clip mirrored under its old
label. Measured on test clips: all of them, and those whose label names a side.

    python benchmarks/flip_guard.py --data weizmann6.csv --seeds 3 --set training.epochs=60
"""

import logging
import multiprocessing
import statistics
import tempfile
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import click
import torch

from lora_deploy.clips.dataset import read_dataset
from lora_deploy.config import load_settings, recipe_path
from lora_deploy.evaluate import Evaluation, evaluate
from lora_deploy.runtime.load import load
from lora_deploy.train.fit import fit
from lora_deploy.train.sides import Sides, find_sides

RECIPE = "quickstart"


@dataclass(frozen=True)
class Way:
    """A way to mirror clips, as changes to the recipe."""

    name: str
    changes: tuple[str, ...]


@dataclass(frozen=True)
class Outcome:
    """One training, measured on test clips."""

    validation: float
    all_clips: float
    with_sides: float
    without_sides: float
    clips_with_sides: int
    clips: int


def ways(sides: Sides) -> list[Way]:
    """The four of them, for these labels."""
    flip = "augmentation.horizontal_flip=0.5"
    pairs = ", ".join(f"{one}: {other}" for one, other in sides.pairs.items())
    blind = ", ".join(f"{label}: {label}" for label in sides.labels)
    return [
        Way("no flip", ()),
        Way("flip, guarded", (flip,)),
        Way("flip, pairs exchanged", (flip, f"augmentation.mirrored_labels={{{pairs}}}")),
        Way("flip, blind", (flip, f"augmentation.mirrored_labels={{{blind}}}")),
    ]


def part_right(evaluation: Evaluation, labels: Sequence[str], *, among: bool) -> tuple[float, int]:
    """Of the clips whose label is (not) among these, the part that was named rightly; and how many."""
    names = evaluation.labels
    chosen = [row for row, name in enumerate(names) if (name in labels) == among]
    clips = sum(sum(evaluation.confusion[row]) for row in chosen)
    return sum(evaluation.confusion[row][row] for row in chosen) / clips, clips


def run_once(way: Way, seed: int, data: Path, work: Path, changes: Sequence[str]) -> Outcome:
    """Train, and measure on the test clips."""
    settings = load_settings(recipe_path(RECIPE), [*changes, *way.changes, f"training.seed={seed}"])
    with tempfile.TemporaryDirectory(dir=work) as folder:
        out = Path(folder) / "run"
        manifest = fit(settings, data, out, cache_folder=work / "frames")
        test = evaluate(load(out), data, split="test")
    sides = find_sides(manifest.labels).labels
    with_sides, clips = part_right(test, sides, among=True)
    return Outcome(
        validation=manifest.best.val_accuracy,
        all_clips=test.accuracy,
        with_sides=with_sides,
        without_sides=part_right(test, sides, among=False)[0],
        clips_with_sides=clips,
        clips=test.clips,
    )


def _spread(values: Sequence[float]) -> str:
    spread = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.mean(values):.3f} ± {spread:.3f}"


def _one_thread() -> None:
    torch.set_num_threads(1)
    logging.getLogger("lora_deploy").setLevel(logging.ERROR)


@click.command()
@click.option("--data", type=click.Path(path_type=Path, exists=True), required=True)
@click.option("--seeds", type=click.IntRange(min=1), default=3, show_default=True)
@click.option("--set", "changes", multiple=True, metavar="KEY=VALUE", help="For every way.")
@click.option("--jobs", type=click.IntRange(min=1), default=2, show_default=True)
def main(data: Path, seeds: int, changes: tuple[str, ...], jobs: int) -> None:
    """Print the comparison as a Markdown table."""
    labels = read_dataset(data, val_fraction=0.15, test_fraction=0.15, seed=0).labels
    sides = find_sides(labels)
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(jobs, context, initializer=_one_thread) as pool:
            running = {
                way.name: [
                    pool.submit(run_once, way, seed, data, work, changes) for seed in range(seeds)
                ]
                for way in ways(sides)
            }
            outcomes = {name: [one.result() for one in each] for name, each in running.items()}
    first = outcomes["no flip"][0]
    click.echo(
        f"{first.clips} test clips, {first.clips_with_sides} of them with a side in their label "
        f"({', '.join(sides.labels)}); mean ± standard deviation of {seeds} seeds.\n"
    )
    click.echo("| | labels with a side | other labels | all test clips | validation |")
    click.echo("|---|---|---|---|---|")
    for name, each in outcomes.items():
        cells = [
            _spread([one.with_sides for one in each]),
            _spread([one.without_sides for one in each]),
            _spread([one.all_clips for one in each]),
            _spread([one.validation for one in each]),
        ]
        click.echo(f"| {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
