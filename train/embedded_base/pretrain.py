"""Pre-train the embedded base on generated clips alone: supervised, from random weights, on a CPU.

The vocabulary is that of ``motions.py``: straight motions of a drawn hand, alone or two of
different kinds one after the other.

    python train/embedded_base/pretrain.py --out DIR [--config pretrain.yaml] [--minutes M]
"""

import argparse
import json
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from motions import VOCABULARY, ClipPool, Clips, draw_clips, varied
from settings import ModelSettings, Settings, TrainingSettings, read_settings
from torch import Tensor, nn
from transformers import (
    VideoMAEConfig,
    VideoMAEForVideoClassification,
)

from lora_deploy.clips.drawn import Frames

_MEAN = (0.485, 0.456, 0.406)
_STD = (0.229, 0.224, 0.225)


def build_model(settings: ModelSettings) -> VideoMAEForVideoClassification:
    """A VideoMAE classifier with random weights over the vocabulary."""
    config = VideoMAEConfig(
        image_size=settings.image_size,
        patch_size=settings.patch_size,
        num_frames=settings.frames,
        tubelet_size=settings.tubelet_size,
        hidden_size=settings.hidden_size,
        num_hidden_layers=settings.layers,
        num_attention_heads=settings.heads,
        intermediate_size=settings.intermediate_size,
        use_mean_pooling=True,
        id2label=dict(enumerate(VOCABULARY)),
        label2id={name: place for place, name in enumerate(VOCABULARY)},
    )
    return VideoMAEForVideoClassification(config)


class Pretrainer(nn.Module):
    """The classifier and, for training only, a head that reads the hand's state per tubelet."""

    def __init__(self, model: VideoMAEForVideoClassification) -> None:
        """Put the auxiliary head beside the model."""
        super().__init__()
        self.model = model
        self.tubelets = model.config.num_frames // model.config.tubelet_size
        self.track = nn.Linear(model.config.hidden_size, 9)

    def forward(self, pixel_values: Tensor) -> tuple[Tensor, Tensor]:
        """Logits [batch, classes] and states [batch, tubelets, 9]."""
        tokens = self.model.videomae(pixel_values).last_hidden_state  # [batch, tokens, hidden]
        norm = self.model.fc_norm
        assert norm is not None  # the config asks for mean pooling, and so for this norm
        logits = self.model.classifier(norm(tokens.mean(1)))
        per_tubelet = tokens.reshape(len(tokens), self.tubelets, -1, tokens.shape[-1]).mean(2)
        return logits, self.track(per_tubelet)


def track_targets(states: Tensor, tubelet_size: int) -> Tensor:
    """What the auxiliary head is to say: [batch, frames, 4] to [batch, tubelets, 9].

    Mean place, log scale and direction of the hand, and how each of the four changes in
    the tubelet; each scaled to about unit spread.
    """
    parts = states.reshape(len(states), -1, tubelet_size, 4)  # [batch, tubelets, frames in one, 4]
    mean = parts.mean(2)
    change = parts[:, :, -1] - parts[:, :, 0]
    angle = mean[..., 3]
    values = [
        (mean[..., 0] - 0.5) * 5.0,
        (mean[..., 1] - 0.5) * 5.0,
        mean[..., 2] * 3.0,
        angle.sin() * 1.4,
        angle.cos() * 1.4,
        change[..., 0] * 25.0,
        change[..., 1] * 25.0,
        change[..., 2] * 12.0,
        change[..., 3] * 8.0,
    ]
    return torch.stack(values, dim=-1)


def as_pixels(frames: Frames, gain: Tensor | None = None, offset: Tensor | None = None) -> Tensor:
    """uint8 [batch, frames, height, width, 3] to normalised [batch, frames, 3, height, width]."""
    pixels = torch.from_numpy(frames).permute(0, 1, 4, 2, 3).contiguous().float().div_(255.0)
    if gain is not None and offset is not None:
        pixels.mul_(gain).add_(offset).clamp_(0.0, 1.0)
    mean = torch.tensor(_MEAN).view(3, 1, 1)
    std = torch.tensor(_STD).view(3, 1, 1)
    return pixels.sub_(mean).div_(std)


def colour_jitter(rng: np.random.Generator, batch: int) -> tuple[Tensor, Tensor]:
    """Gain and offset per clip and channel, both [batch, 1, 3, 1, 1]."""
    shape = (batch, 1, 3, 1, 1)
    gain = rng.uniform(0.75, 1.25, (batch, 1, 1, 1, 1)) * rng.uniform(0.9, 1.1, shape)
    offset = rng.uniform(-0.12, 0.12, (batch, 1, 1, 1, 1)) + rng.uniform(-0.05, 0.05, shape)
    return torch.from_numpy(gain).float(), torch.from_numpy(offset).float()


def learning_rate_at(minutes: float, settings: TrainingSettings) -> float:
    """Linear warm-up, then half a cosine to zero at the end of the time budget."""
    if minutes < settings.warmup_minutes:
        return settings.learning_rate * max(minutes / settings.warmup_minutes, 0.01)
    span = max(settings.minutes - settings.warmup_minutes, 1e-6)
    done = min((minutes - settings.warmup_minutes) / span, 1.0)
    return settings.learning_rate * 0.5 * (1.0 + float(np.cos(np.pi * done)))


@torch.no_grad()
def held_out_accuracy(trainer: Pretrainer, clips: Clips) -> float:
    """Share of the held-out clips whose class is named first, in float32."""
    trainer.eval()
    right = 0
    for start in range(0, len(clips.labels), 128):
        part = slice(start, start + 128)
        logits, _ = trainer(as_pixels(clips.frames[part]))
        right += int((logits.argmax(1).numpy() == clips.labels[part]).sum())
    trainer.train()
    return right / len(clips.labels)


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Decay matrices only."""
    matrices = [p for p in model.parameters() if p.requires_grad and p.ndim > 1]
    rest = [p for p in model.parameters() if p.requires_grad and p.ndim <= 1]
    return [
        {"params": matrices, "weight_decay": weight_decay},
        {"params": rest, "weight_decay": 0.0},
    ]


def save(model: VideoMAEForVideoClassification, out: Path) -> None:
    """Leave the model as a transformers folder with its preprocessing beside it."""
    model.save_pretrained(out)
    size = model.config.image_size
    preprocessing = {
        "image_processor_type": "VideoMAEImageProcessor",
        "do_resize": True,
        "size": {"shortest_edge": size},
        "resample": 2,
        "do_center_crop": True,
        "crop_size": {"height": size, "width": size},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(_MEAN),
        "image_std": list(_STD),
    }
    text = json.dumps(preprocessing, indent=2) + "\n"
    (out / "preprocessor_config.json").write_text(text, encoding="utf-8")


def pretrain(settings: Settings, out: Path) -> None:
    """Train until the time is spent; ``out`` gets a checkpoint every few minutes and a log."""
    torch.set_num_threads(settings.training.threads)
    torch.manual_seed(settings.seed)
    rng = np.random.default_rng((settings.seed, 2))
    out.mkdir(parents=True, exist_ok=True)
    model = build_model(settings.model)
    trainer = Pretrainer(model).train()
    held_out = draw_clips(
        (settings.seed, 0),
        settings.clips.held_out,
        settings.model.frames,
        settings.model.image_size,
    )
    with ProcessPoolExecutor(max_workers=1) as workers:
        _train(trainer, ClipPool(settings, workers), held_out, rng, settings, out)
        workers.shutdown(cancel_futures=True)


def _train(
    trainer: Pretrainer,
    pool: ClipPool,
    held_out: Clips,
    rng: np.random.Generator,
    settings: Settings,
    out: Path,
) -> None:
    """The loop itself."""
    training = settings.training
    optimizer = torch.optim.AdamW(
        parameter_groups(trainer, training.weight_decay),
        lr=training.learning_rate,
        betas=(0.9, 0.98),
    )
    classify = nn.CrossEntropyLoss(label_smoothing=training.label_smoothing)
    seen, step, running, started = 0, 0, [0.0, 0.0], time.monotonic()
    last_step, next_checkpoint = 0, min(1.0, settings.clips.checkpoint_minutes)
    minutes = 0.0
    while minutes < training.minutes:
        batch = varied(rng, pool.clips, rng.integers(len(pool), size=training.batch_size))
        pixels = as_pixels(batch.frames, *colour_jitter(rng, training.batch_size))
        for group in optimizer.param_groups:
            group["lr"] = learning_rate_at(minutes, training)
        with torch.autocast("cpu", torch.bfloat16, enabled=training.bfloat16):
            logits, states = trainer(pixels)
        targets = track_targets(torch.from_numpy(batch.states), settings.model.tubelet_size)
        class_loss = classify(logits.float(), torch.from_numpy(batch.labels))
        track_loss = nn.functional.smooth_l1_loss(states.float(), targets)
        loss = class_loss + training.track_weight * track_loss
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(trainer.parameters(), training.gradient_norm)
        optimizer.step()
        seen += training.batch_size
        step += 1
        running = [running[0] + class_loss.item(), running[1] + track_loss.item()]
        pool.refresh(step)
        minutes = (time.monotonic() - started) / 60
        if minutes >= min(next_checkpoint, training.minutes):
            steps = step - last_step
            row = {
                "minutes": round(minutes, 2),
                "clips_seen": seen,
                "class_loss": round(running[0] / steps, 4),
                "track_loss": round(running[1] / steps, 4),
                "held_out_accuracy": round(held_out_accuracy(trainer, held_out), 4),
                "learning_rate": learning_rate_at(minutes, training),
            }
            with (out / "pretrain_log.jsonl").open("a", encoding="utf-8") as log:
                log.write(json.dumps(row) + "\n")
            print(json.dumps(row), flush=True)
            save(trainer.model, out)
            running, last_step = [0.0, 0.0], step
            next_checkpoint += settings.clips.checkpoint_minutes


def main() -> None:
    """Read the options, train."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--out", type=Path, required=True, help="folder for the weights and the log"
    )
    parser.add_argument("--config", type=Path, default=Path(__file__).with_name("pretrain.yaml"))
    parser.add_argument("--minutes", type=float, help="instead of the settings' time budget")
    options = parser.parse_args()
    settings = read_settings(options.config)
    if options.minutes is not None:
        settings = replace(settings, training=replace(settings.training, minutes=options.minutes))
    print(json.dumps(asdict(settings)), flush=True)
    pretrain(settings, options.out)


if __name__ == "__main__":
    main()
