"""A base of VideoMAE-B's size that tells clips apart: random weights, trained on small pictures of DATA.

python benchmarks/trained_base.py DATA FOLDER

No weights can be had where there is no hub, and a base with random ones tells clips apart by so
little that any rounding changes labels. So all of it is trained for some minutes on clips of 8
frames of 112×112, an eighth of the patches, and kept as a base for 16 frames of 224×224: positions
are computed and not learned, so all weights fit. It knows the training clips and little more, which
is enough to show what rounding does to answers that a model is sure of.
"""

import time
from pathlib import Path

import click
import numpy as np
import torch
from numpy.typing import NDArray
from transformers import VideoMAEConfig, VideoMAEForVideoClassification

from lora_deploy.clips import transforms
from lora_deploy.clips.clip import Frames
from lora_deploy.clips.contract import PixelContract
from lora_deploy.clips.dataset import read_split
from lora_deploy.clips.pool import shared
from lora_deploy.clips.processor import write_processor
from lora_deploy.errors import ClipError
from lora_deploy.processor import read_processor

CONTRACT = PixelContract(frames=16, short_side=224, crop_height=224, crop_width=224)
SMALL = PixelContract(frames=8, short_side=128, crop_height=128, crop_width=128)
"""What is decoded; a random 112×112 of it is learned from."""
SIDE = 112
LEARNING_RATE, WEIGHT_DECAY, BATCH = 1e-4, 0.05, 8


def clips_of(data: Path, labels: dict[str, int]) -> tuple[list[Frames], NDArray[np.int64]]:
    """Frames of the training clips that decode, and the numbers of their labels."""
    clips = read_split(data, "train")
    labels.update({name: at for at, name in enumerate(sorted({clip.label for clip in clips}))})
    frames, truths = [], []
    decoded = shared().in_order([clip.footage for clip in clips], SMALL)
    for clip, (_, outcome) in zip(clips, decoded, strict=True):
        if not isinstance(outcome, ClipError):
            frames.append(outcome.frames)
            truths.append(labels[clip.label])
    return frames, np.array(truths)


def train(
    model: VideoMAEForVideoClassification,
    frames: list[Frames],
    truths: NDArray[np.int64],
    minutes: float,
) -> None:
    """Learn until the time is up, each clip shifted by chance; the rate rises, then falls to nothing."""
    generator = np.random.default_rng(0)
    has_bf16 = read_processor().has_bf16  # else PyTorch multiplies such numbers on one core
    optimiser = torch.optim.AdamW(model.parameters(), LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    begun, epoch, done = time.monotonic(), 0, 0.0
    while done < 1:
        losses: list[float] = []
        right = 0
        order = generator.permutation(len(frames))
        for start in range(0, len(order), BATCH):
            done = min(1.0, (time.monotonic() - begun) / (60 * minutes))
            for group in optimiser.param_groups:
                group["lr"] = LEARNING_RATE * min(1.0, done / 0.05) * (1 - done)
            rows = order[start : start + BATCH]
            pixels = np.stack([cropped(frames[row], generator) for row in rows])
            targets = torch.from_numpy(truths[rows])
            with torch.autocast("cpu", torch.bfloat16, enabled=has_bf16):
                logits = model(pixel_values=torch.from_numpy(pixels)).logits.float()
            loss = torch.nn.functional.cross_entropy(logits, targets)
            optimiser.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimiser.step()
            losses.append(loss.item())
            right += int((logits.argmax(1) == targets).sum())
        epoch += 1
        part = right / len(frames)
        click.echo(f"epoch {epoch}: loss {np.mean(losses):.3f}, {part:.3f} right, {done:.0%} done")


def cropped(frames: Frames, generator: np.random.Generator) -> NDArray[np.float32]:
    """A random part of each clip, [frames, 3, 112, 112]."""
    top, left = generator.integers(0, frames.shape[1] - SIDE + 1, size=2)
    return transforms.normalise(
        np.ascontiguousarray(frames[:, top : top + SIDE, left : left + SIDE]), SMALL
    )


@click.command()
@click.argument("data", type=click.Path(path_type=Path, exists=True))
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
@click.option("--minutes", default=30.0, show_default=True, help="That it is trained.")
def main(data: Path, folder: Path, minutes: float) -> None:
    """Train on the training clips of DATA, and leave a transformers folder at FOLDER."""
    torch.manual_seed(0)
    labels: dict[str, int] = {}
    frames, truths = clips_of(data, labels)
    names = {at: name for name, at in labels.items()}
    small = VideoMAEConfig(
        image_size=SIDE, num_frames=SMALL.frames, id2label=names, label2id=labels
    )
    model = VideoMAEForVideoClassification(small)
    train(model, frames, truths, minutes)
    large = VideoMAEForVideoClassification(VideoMAEConfig(id2label=names, label2id=labels))
    large.load_state_dict(model.state_dict())
    large.save_pretrained(folder)
    write_processor(CONTRACT, folder, "videomae")


if __name__ == "__main__":
    main()
