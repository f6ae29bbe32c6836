"""How far one gets with no video transformer: a linear layer on where and when things move.

Features: the absolute difference of neighbouring grey frames, averaged to 16×16, one map per pair
of frames. A data set on which this does as well as a trained model shows nothing about the model.

    python benchmarks/motion_energy.py --data clips.csv
"""

import tempfile
from pathlib import Path

import click
import numpy as np
import torch
from numpy.typing import NDArray

from lora_deploy.clips.cache import build_cache
from lora_deploy.clips.contract import PixelContract
from lora_deploy.clips.dataset import read_dataset
from lora_deploy.clips.example import write_example
from lora_deploy.evaluate import wilson_interval

CONTRACT = PixelContract(frames=8, short_side=64, crop_height=64, crop_width=64)
WEIGHT_DECAYS = (1e-4, 1e-3, 1e-2, 1e-1)


def features(frames: NDArray[np.uint8]) -> NDArray[np.float32]:
    """uint8 [frames, 64, 64, 3] to float32 [(frames - 1) · 256]."""
    grey = frames.astype(np.float32).mean(axis=-1) / 255
    moved = np.abs(np.diff(grey, axis=0))  # [frames - 1, 64, 64]
    maps: NDArray[np.float32] = moved.reshape(len(moved), 16, 4, 16, 4).mean(axis=(2, 4))
    return maps.reshape(-1)


def fit_linear(
    inputs: torch.Tensor, labels: torch.Tensor, classes: int, weight_decay: float
) -> torch.nn.Linear:
    """Multinomial logistic regression with an L2 penalty, by L-BFGS."""
    torch.manual_seed(0)
    layer = torch.nn.Linear(inputs.shape[1], classes)
    optimizer = torch.optim.LBFGS(layer.parameters(), max_iter=300, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(layer(inputs), labels)
        loss = loss + weight_decay * layer.weight.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    return layer


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
        parts = {}
        for split in ("train", "val", "test"):
            clips = [clip for clip in dataset.of(split) if clip.footage not in cache.errors]
            inputs = np.stack([features(cache.frames(clip)) for clip in clips])
            labels = [dataset.labels.index(clip.label) for clip in clips]
            parts[split] = (torch.from_numpy(inputs), torch.tensor(labels))
    mean, spread = parts["train"][0].mean(0), parts["train"][0].std(0) + 1e-3
    scaled = {split: ((x - mean) / spread, y) for split, (x, y) in parts.items()}

    def accuracy(layer: torch.nn.Linear, split: str) -> float:
        inputs, labels = scaled[split]
        return float((layer(inputs).argmax(1) == labels).float().mean())

    layers = [fit_linear(*scaled["train"], len(dataset.labels), decay) for decay in WEIGHT_DECAYS]
    best = max(layers, key=lambda layer: accuracy(layer, "val"))
    test = accuracy(best, "test")
    clips_tested = len(scaled["test"][1])
    low, high = wilson_interval(round(test * clips_tested), clips_tested)
    click.echo(
        f"linear layer on motion energy: validation {accuracy(best, 'val'):.3f}, test {test:.3f} "
        f"({low:.2f} to {high:.2f}) on {clips_tested} clips"
    )


if __name__ == "__main__":
    main()
