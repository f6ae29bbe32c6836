"""The linear motion baseline of `lora-deploy compare`, alone.

python benchmarks/motion_energy.py --data clips.csv
"""

import tempfile
from pathlib import Path

import click

from lora_deploy.clips.cache import build_cache
from lora_deploy.clips.dataset import read_dataset
from lora_deploy.clips.example import write_example
from lora_deploy.compare.motion import CONTRACT, motion_baseline
from lora_deploy.evaluate import wilson_interval


@click.command()
@click.option(
    "--data",
    type=click.Path(path_type=Path, exists=True),
    help="Labelled clips; the example gestures by default.",
)
def main(data: Path | None) -> None:
    """Print the accuracy; the penalty is chosen on validation clips."""
    with tempfile.TemporaryDirectory() as folder:
        source = data or write_example(Path(folder) / "data")
        dataset = read_dataset(source, val_fraction=0.15, test_fraction=0.15, seed=0)
        cache = build_cache(dataset.clips, CONTRACT, Path(folder) / "frames")
        sets = {split: dataset.of(split) for split in ("train", "val", "test")}
        found = motion_baseline(sets, dataset.labels, cache)
    test, val = found["test"], found["val"]
    low, high = wilson_interval(test.right, test.answered)
    click.echo(
        f"linear layer on motion energy: validation {val.right / val.answered:.3f}, test "
        f"{test.right / test.answered:.3f} ({low:.2f} to {high:.2f}) on {test.answered} clips"
    )


if __name__ == "__main__":
    main()
