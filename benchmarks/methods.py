"""LoRA against its rivals on the same clips: head only, full, random weights, one frame.

It is `lora-deploy compare` with rows of its own: for each the learning rate is chosen by validation
accuracy from a short list, with seed 0; then every seed is trained with it and measured once on the
test clips. Without ``--data`` the example gestures are drawn, and ``--record`` keeps the figures
that the quickstart prints.

    python benchmarks/methods.py --seeds 3 --record
    python benchmarks/methods.py --data clips.csv --set training.epochs=60 --method "head on"
"""

import json
import platform
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from lora_deploy.clips.example import write_example
from lora_deploy.compare.conduct import compare
from lora_deploy.compare.keep import as_markdown
from lora_deploy.compare.methods import Method
from lora_deploy.compare.result import Comparison, MethodRow
from lora_deploy.config import load_settings, recipe_path

RECORD = Path(__file__).parents[1] / "lora_deploy" / "assets" / "example-comparison.json"
RECIPE = "quickstart"


@dataclass(frozen=True)
class Rival:
    """A way to learn, as changes to the quickstart's recipe."""

    name: str
    changes: tuple[str, ...]
    learning_rates: tuple[float, ...]

    def method(self, changes: Sequence[str]) -> Method:
        """With changes that all rivals have in common."""
        settings = load_settings(recipe_path(RECIPE), [*self.changes, *changes])
        return Method(self.name, settings, self.learning_rates)


METHODS = (
    Rival("LoRA all-linear", (), (2e-3, 3e-3)),
    Rival("LoRA qkv", ('model.lora.target_modules=["qkv"]',), (2e-3, 4e-3)),
    Rival(
        "head only",
        ("model.use_lora=false", "model.freeze_base=true", "training.epochs=40"),
        (1e-2, 3e-2, 1e-1),
    ),
    Rival("full fine-tuning", ("model.use_lora=false",), (2e-4, 5e-4)),
    Rival(
        "full from random weights",
        ("model.use_lora=false", "model.random_weights=true"),
        (5e-4, 1e-3),
    ),
    Rival("LoRA, one frame repeated", ("clip.sampling=middle_frame",), (2e-3, 3e-3)),
)

ON_REQUEST = (
    Rival(
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


def row_to_keep(row: MethodRow, found: Comparison) -> dict[str, Any]:
    """What the record holds of a method."""
    test = row.accuracy["test"]
    (rate,) = row.learning_rates
    return {
        "method": row.name,
        "trainable": row.trainable_parameters,
        "learning_rate": rate,
        "val_accuracy_by_learning_rate": row.tried,
        "val_accuracy_mean": row.accuracy["val"].mean,
        "accuracy_mean": test.mean,
        "accuracy_spread": test.spread or 0.0,
        "accuracies": list(test.by_seed),
        "interval_95": list(test.interval_95),
        "clips": round(test.clips),
        "chance": found.baselines[0].accuracy["test"].mean,
        "training_seconds_mean": row.seconds_per_epoch.mean * row.epochs.mean,
    }


def keep(found: Comparison) -> None:
    """Write the figures that the quickstart prints; methods that were not run stay as they were."""
    kept = json.loads(RECORD.read_text(encoding="utf-8"))["rows"] if RECORD.is_file() else []
    rows = [row_to_keep(row, found) for row in found.methods]
    by_name = {row["method"]: row for row in (*kept, *rows)}
    values = {
        "command": "python benchmarks/methods.py --seeds 3 --record",
        "seeds": min(len(row["accuracies"]) for row in by_name.values()),
        "torch": found.versions["torch"],
        "machine": platform.machine(),
        "rows": [by_name[rival.name] for rival in METHODS if rival.name in by_name],
    }
    RECORD.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")


@click.command()
@click.option("--data", type=click.Path(path_type=Path, exists=True), help="Labelled clips.")
@click.option("--seeds", type=click.IntRange(min=1), default=3, show_default=True)
@click.option("--set", "changes", multiple=True, metavar="KEY=VALUE", help="For every method.")
@click.option("--method", "names", multiple=True, help="Only methods whose name holds this.")
@click.option("--jobs", type=click.IntRange(min=1), default=2, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), help="Keep everything there, to go on.")
@click.option("--record", is_flag=True, help="Keep the figures for the quickstart to print.")
def main(
    data: Path | None,
    seeds: int,
    changes: tuple[str, ...],
    names: tuple[str, ...],
    jobs: int,
    out: Path | None,
    record: bool,
) -> None:
    """Print the comparison as a Markdown table."""
    rivals = list(METHODS)
    if names:
        rivals = [one for one in (*METHODS, *ON_REQUEST) if any(name in one.name for name in names)]
    if record and (data is not None or changes):
        raise click.UsageError("--record goes with the example clips and the methods as they are")
    with tempfile.TemporaryDirectory() as folder:
        work = out or Path(folder)
        source = data or work / "data"
        if data is None and not source.exists():
            write_example(source)
        methods = [rival.method(changes) for rival in rivals]
        found = compare(methods, source, work / "compared", seeds=seeds, jobs=jobs)
    click.echo(as_markdown(found))
    if record:
        keep(found)


if __name__ == "__main__":
    main()
