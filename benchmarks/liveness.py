"""What the proof that an adapter is alive costs, in forward passes of one clip, measured side by side.

python benchmarks/liveness.py [--rounds 3] [--layers 12]
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from peft import PeftModel
from transformers import VideoMAEConfig, VideoMAEForVideoClassification

from lora_deploy.config import LoraSettings
from lora_deploy.model.adapter import attach
from lora_deploy.model.architectures import logits_of
from lora_deploy.model.liveness import check_can_learn, check_trained, noise
from lora_deploy.model.targets import resolve


def adapted(layers: int) -> PeftModel:
    """VideoMAE-B with random weights under LoRA r=8 on q, k and v, as if it had been trained."""
    torch.manual_seed(0)
    config = VideoMAEConfig(num_hidden_layers=layers)
    config.id2label = {index: str(index) for index in range(10)}
    model = VideoMAEForVideoClassification(config)
    found = resolve(model, ["qkv"])
    under = attach(
        model, LoraSettings(), layers=found.layers, head_modules=("classifier",), base_id="", revision=None
    )  # fmt: skip
    with torch.no_grad():
        for name, parameter in under.named_parameters():
            if ".lora_B." in name:
                parameter.normal_(std=0.02)
    return under.eval()


def seconds(work: Callable[[], object]) -> float:
    """How long one call takes."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def main() -> None:
    """Measure, interleaved, and print medians and ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--layers", type=int, default=12)
    options = parser.parse_args()
    model = adapted(options.layers)
    config = model.config
    clip = noise((config.num_frames, 3, config.image_size, config.image_size))

    def forward() -> None:
        with torch.no_grad():
            logits_of(model, clip)

    works = {
        "one clip": forward,
        "proof when an adapter is opened": lambda: check_trained(model, clip),
        "proof before a training": lambda: check_can_learn(model, clip),
    }
    forward()
    taken: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(options.rounds):
        for name, work in works.items():
            taken[name].append(seconds(work))
    unit = statistics.median(taken["one clip"])
    print(f"VideoMAE-B, {torch.get_num_threads()} threads, median of {options.rounds} rounds")
    for name, values in taken.items():
        median = statistics.median(values)
        print(f"{name:<33} {median:6.1f} s  {median / unit:5.2f} clips")


if __name__ == "__main__":
    main()
