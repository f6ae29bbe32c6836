"""What each kind of adapter costs, counted on a VideoMAE-B, and what it gets on the example gestures.

Parameters, operations and what is kept for the way back are counted, not timed: they are the same
on every computer. ``--train`` trains the embedded base with the quickstart's recipe once a kind and
seed, and asks each once about the test clips.

    python benchmarks/adapter_kinds.py
    python benchmarks/adapter_kinds.py --train --seeds 1
"""

import logging
import statistics
import tempfile
from pathlib import Path
from typing import Any

import click
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import VideoMAEConfig, VideoMAEForVideoClassification

from lora_deploy.clips.example import write_example
from lora_deploy.config import LoraSettings, load_settings, recipe_path
from lora_deploy.evaluate import evaluate, wilson_interval
from lora_deploy.model.adapter import attach, count
from lora_deploy.model.targets import resolve
from lora_deploy.runtime.load import load
from lora_deploy.train.fit import fit

BLOCKS = {"VideoMAE-B": 12, "videomae-nano": 4}


def kinds(blocks: int) -> dict[str, dict[str, Any]]:
    """Each kind as settings under ``model.lora``; half and a quarter of the blocks at the top."""
    return {
        "LoRA": {},
        "rsLoRA": {"use_rslora": True},
        "DoRA": {"use_dora": True},
        "rank 16 on fc2": {"rank_pattern": {"fc2": 16}, "alpha_pattern": {"fc2": 32}},
        f"top {blocks // 2} of {blocks}": {"top_layers": blocks // 2},
        f"top {blocks // 4} of {blocks}": {"top_layers": blocks // 4},
    }


def cost(lora: dict[str, Any]) -> tuple[int, float, float]:
    """LoRA parameters, 10^9 operations and 10^6 bytes kept, of a step with one clip of VideoMAE-B."""
    config = VideoMAEConfig()
    config.id2label = {index: str(index) for index in range(10)}
    settings = LoraSettings(target_modules=["all-linear"], lora_dropout=0.0, **lora)
    with torch.device("meta"):
        model = VideoMAEForVideoClassification(config)
        layers = resolve(model, settings.target_modules, top_layers=settings.top_layers).layers
        adapted = attach(
            model, settings, layers=layers, head_modules=("classifier",), base_id="", revision=None
        )
        clip = torch.empty(1, 16, 3, 224, 224)
    own = {parameter.untyped_storage()._cdata for parameter in adapted.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            kept[storage._cdata] = storage.nbytes()
        held.append(tensor)
        return tensor

    held: list[torch.Tensor] = []  # lest an address be used twice
    with FlopCounterMode(display=False) as counter:
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            logits = adapted.train()(pixel_values=clip).logits
        logits.sum().backward()
    return count(adapted).lora, counter.get_total_flops() / 1e9, sum(kept.values()) / 1e6


def accuracy(lora: dict[str, Any], seed: int, clips: Path, folder: Path) -> tuple[float, int]:
    """On the test clips, and how many these are."""
    changes = [
        f"training.seed={seed}",
        *(f"model.lora.{key}={value}" for key, value in lora.items()),
    ]
    settings = load_settings(recipe_path("quickstart"), changes)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        fit(
            settings,
            clips,
            Path(scratch) / "run",
            cache_folder=folder / "frames",
            device_name="cpu",
        )
        found = evaluate(load(Path(scratch) / "run"), clips, split="test")
    return found.accuracy, found.clips


@click.command()
@click.option("--train", is_flag=True, help="Train too; hours on a small computer.")
@click.option("--seeds", type=click.IntRange(1), default=3, show_default=True)
def main(train: bool, seeds: int) -> None:
    """Print both tables."""
    logging.getLogger("lora_deploy").setLevel(logging.ERROR)
    plain = cost({})
    click.echo(
        "| kind | LoRA parameters | operations, 10^9 | kept for the way back, MB |\n|---|---|---|---|"
    )
    for name, lora in kinds(BLOCKS["VideoMAE-B"]).items():
        parameters, operations, kept = cost(lora)
        click.echo(
            f"| {name} | {parameters:,} | {operations:,.0f} ({operations / plain[1]:.2f}) | "
            f"{kept:,.0f} ({kept / plain[2]:.2f}) |"
        )
    if not train:
        return
    click.echo("\n| kind | test accuracy | 95% interval of one run |\n|---|---|---|")
    with tempfile.TemporaryDirectory(prefix="lora-deploy-") as place:
        folder = Path(place)
        clips = write_example(folder / "example")
        for name, lora in kinds(BLOCKS["videomae-nano"]).items():
            found = [accuracy(lora, seed, clips, folder) for seed in range(seeds)]
            mean = statistics.mean(one for one, _ in found)
            spread = f" ± {statistics.stdev(one for one, _ in found):.3f}" if seeds > 1 else ""
            low, high = wilson_interval(round(mean * found[0][1]), found[0][1])
            click.echo(f"| {name} | {mean:.3f}{spread} | {low:.2f} to {high:.2f} |")


if __name__ == "__main__":
    main()
