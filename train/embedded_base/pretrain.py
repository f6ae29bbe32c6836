"""Pre-train the embedded base on generated clips alone: supervised, from random weights, on a CPU.

The vocabulary is straight motions of a drawn hand, alone or two of different kinds one after
the other. Nothing here goes there and back and nothing is curved: those are the gestures of
the example data (``lora_deploy.clips.example``), which the base must not have seen.

    python train/embedded_base/pretrain.py --out DIR [--config pretrain.yaml] [--minutes M]
"""

import argparse
import json
import time
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import (
    VideoMAEConfig,
    VideoMAEForVideoClassification,
)

from lora_deploy.clips.drawn import Floats, Frames, Track, draw_drift, draw_look, place, render

# Motions by kind; a name and its partner undo each other.
KINDS: dict[str, tuple[str, str]] = {
    "x": ("left", "right"),
    "y": ("up", "down"),
    "log_scale": ("farther", "nearer"),
    "angle": ("turn_left", "turn_right"),
}
MOTIONS: tuple[str, ...] = tuple(name for pair in KINDS.values() for name in pair)
_KIND_OF = {name: kind for kind, pair in KINDS.items() for name in pair}
_SIGN_OF = {name: sign for pair in KINDS.values() for name, sign in zip(pair, (-1, 1), strict=True)}
# How far a motion goes when it has the clip to itself; each of two goes 0.75 as far.
_EXTENT = {"x": (0.22, 0.55), "y": (0.22, 0.55), "log_scale": (0.4, 1.0), "angle": (0.6, 1.8)}

_MEAN = (0.485, 0.456, 0.406)
_STD = (0.229, 0.224, 0.225)
_CHUNK_CLIPS = 256


def vocabulary() -> tuple[str, ...]:
    """Names of all classes: each motion alone, then each ordered pair of different kinds."""
    pairs = [f"{a}_then_{b}" for a in MOTIONS for b in MOTIONS if _KIND_OF[a] != _KIND_OF[b]]
    return (*MOTIONS, *pairs)


VOCABULARY = vocabulary()


@dataclass(frozen=True)
class ModelSettings:
    """Widths of the transformer."""

    hidden_size: int
    layers: int
    heads: int
    intermediate_size: int
    patch_size: int
    tubelet_size: int
    image_size: int
    frames: int


@dataclass(frozen=True)
class TrainingSettings:
    """How it is trained."""

    minutes: float
    batch_size: int
    learning_rate: float
    weight_decay: float
    warmup_minutes: float
    gradient_norm: float
    label_smoothing: float
    track_weight: float
    bfloat16: bool
    threads: int


@dataclass(frozen=True)
class ClipSettings:
    """How many clips are drawn and kept."""

    pool: int
    uses: int
    held_out: int
    checkpoint_minutes: float


@dataclass(frozen=True)
class Settings:
    """Everything in the YAML file."""

    seed: int
    model: ModelSettings
    training: TrainingSettings
    clips: ClipSettings


@dataclass(frozen=True)
class Clips:
    """Some drawn clips."""

    frames: Frames
    """uint8 [clips, frames, size, size, 3]."""
    labels: NDArray[np.int64]
    """Places in the vocabulary, [clips]."""
    states: Floats
    """x, y, log scale and angle of the hand, [clips, frames, 4]."""


def read_settings(path: Path) -> Settings:
    """Read the YAML file; an unknown or missing key is a TypeError."""
    raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    return Settings(
        seed=raw["seed"],
        model=ModelSettings(**raw["model"]),
        training=TrainingSettings(**raw["training"]),
        clips=ClipSettings(**raw["clips"]),
    )


# -- clips ---------------------------------------------------------------------------------


def _progress(times: Floats, start: float, end: float, ease: float) -> Floats:
    """Share of a motion done at each time: 0 before ``start``, 1 after ``end``."""
    linear = np.clip((times - start) / (end - start), 0.0, 1.0)
    smooth = linear * linear * (3.0 - 2.0 * linear)
    done: Floats = ((1.0 - ease) * linear + ease * smooth).astype(np.float32)
    return done


def draw_track(rng: np.random.Generator, label: str, frames: int) -> Track:
    """Draw a track that shows ``label``, with little drifts in all that the label leaves open."""
    times = ((np.arange(frames) + 0.5) / frames).astype(np.float32)
    centred = times - 0.5
    path = {
        "x": centred * rng.uniform(-0.06, 0.06),
        "y": centred * rng.uniform(-0.06, 0.06),
        "log_scale": centred * rng.uniform(-0.12, 0.12),
        "angle": centred * rng.uniform(-0.25, 0.25),
    }
    motions = label.split("_then_")
    start, end = rng.uniform(-0.1, 0.12), rng.uniform(0.88, 1.1)
    cuts = [start, end] if len(motions) == 1 else [start, rng.uniform(0.38, 0.62), end]
    for motion, begin, stop in zip(motions, cuts[:-1], cuts[1:], strict=True):
        low, high = _EXTENT[_KIND_OF[motion]]
        extent = rng.uniform(low, high) * (1.0 if len(motions) == 1 else 0.75)
        done = _progress(times, begin, stop, rng.uniform(0.0, 1.0)) - 0.5
        path[_KIND_OF[motion]] = path[_KIND_OF[motion]] + _SIGN_OF[motion] * extent * done
    return Track(
        x=place(rng, path["x"]),
        y=place(rng, path["y"]),
        log_scale=(path["log_scale"] + rng.uniform(-0.25, 0.25)).astype(np.float32),
        angle=(path["angle"] + rng.uniform(-0.6, 0.6)).astype(np.float32),
        drift_x=draw_drift(rng, times),
        drift_y=draw_drift(rng, times),
    )


def draw_clips(seed: tuple[int, ...], count: int, frames: int, size_px: int) -> Clips:
    """Draw ``count`` clips of random classes; the same seed gives the same clips."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(len(VOCABULARY), size=count)
    pictures = np.empty((count, frames, size_px, size_px, 3), np.uint8)
    states = np.empty((count, frames, 4), np.float32)
    for index, label in enumerate(labels):
        track = draw_track(rng, VOCABULARY[int(label)], frames)
        pictures[index] = render(track, draw_look(rng, frames, size_px), size_px)
        states[index] = np.stack([track.x, track.y, track.log_scale, track.angle], axis=1)
    return Clips(pictures, labels.astype(np.int64), states)


def _label_table(swaps: dict[str, str], *, backwards: bool) -> NDArray[np.int64]:
    """Where each class goes when motions are renamed and, if ``backwards``, undone in reverse."""
    partner = {a: b for one, two in KINDS.values() for a, b in ((one, two), (two, one))}
    places = {name: place for place, name in enumerate(VOCABULARY)}
    table = []
    for name in VOCABULARY:
        motions = [swaps.get(motion, motion) for motion in name.split("_then_")]
        if backwards:
            motions = [partner[motion] for motion in reversed(motions)]
        table.append(places["_then_".join(motions)])
    return np.array(table, np.int64)


_TURNED = {"turn_left": "turn_right", "turn_right": "turn_left"}
_MIRRORED_X = _label_table({"left": "right", "right": "left", **_TURNED}, backwards=False)
_MIRRORED_Y = _label_table({"up": "down", "down": "up", **_TURNED}, backwards=False)
_TRANSPOSED = _label_table(
    {"left": "up", "up": "left", "right": "down", "down": "right", **_TURNED}, backwards=False
)
_BACKWARDS = _label_table({}, backwards=True)


def varied(rng: np.random.Generator, clips: Clips, chosen: NDArray[np.int64]) -> Clips:
    """Take clips mirrored, transposed, backwards, shifted and recoloured at random.

    Labels and states follow what was done to the pictures.
    """
    frames = np.empty((len(chosen), *clips.frames.shape[1:]), np.uint8)
    labels = clips.labels[chosen].copy()
    states = clips.states[chosen].copy()
    size_px = frames.shape[2]
    for row, source in enumerate(chosen):
        flip_x, flip_y, transpose, backwards = rng.random(4) < 0.5
        shift_x, shift_y = rng.integers(-4, 5, size=2)
        picture = _shifted(_shifted(clips.frames[source], -int(shift_x), 2), -int(shift_y), 1)
        states[row, :, 0] -= shift_x / size_px
        states[row, :, 1] -= shift_y / size_px
        if flip_x:
            picture = picture[:, :, ::-1]
            labels[row] = _MIRRORED_X[labels[row]]
            states[row, :, 0] = 1.0 - states[row, :, 0]
            states[row, :, 3] *= -1.0
        if flip_y:
            picture = picture[:, ::-1]
            labels[row] = _MIRRORED_Y[labels[row]]
            states[row, :, 1] = 1.0 - states[row, :, 1]
            states[row, :, 3] = np.pi - states[row, :, 3]
        if transpose:
            picture = picture.swapaxes(1, 2)
            labels[row] = _TRANSPOSED[labels[row]]
            states[row, :, :2] = states[row, :, 1::-1]
            # Fingers point along (sin a, -cos a); exchanged axes give (-cos a, sin a).
            states[row, :, 3] = -np.pi / 2 - states[row, :, 3]
        if backwards:
            picture = picture[::-1]
            labels[row] = _BACKWARDS[labels[row]]
            states[row] = states[row, ::-1].copy()
        frames[row] = picture
    return Clips(frames, labels, states)


def _shifted(picture: Frames, by_px: int, axis: int) -> Frames:
    """Move a clip along an axis; what comes into view repeats the edge."""
    if by_px == 0:
        return picture
    source = picture.swapaxes(0, axis)
    moved = np.empty_like(picture).swapaxes(0, axis)
    if by_px > 0:
        moved[by_px:], moved[:by_px] = source[:-by_px], source[:1]
    else:
        moved[:by_px], moved[by_px:] = source[-by_px:], source[-1:]
    return moved.swapaxes(0, axis)


class ClipPool:
    """The newest clips, drawn by another process; the oldest chunk is replaced by each new one."""

    def __init__(self, settings: Settings, workers: ProcessPoolExecutor) -> None:
        """Reserve the pool's memory, order its first chunks and wait for enough to begin."""
        model = settings.model
        self._draw = partial(draw_clips, frames=model.frames, size_px=model.image_size)
        self._seed = settings.seed
        self._workers = workers
        self._chunks = max(2, settings.clips.pool // _CHUNK_CLIPS)
        capacity = self._chunks * _CHUNK_CLIPS
        shape = (capacity, model.frames, model.image_size, model.image_size, 3)
        self.clips = Clips(
            frames=np.zeros(shape, np.uint8),
            labels=np.zeros(capacity, np.int64),
            states=np.zeros((capacity, model.frames, 4), np.float32),
        )
        self._steps_per_chunk = settings.clips.uses * _CHUNK_CLIPS // settings.training.batch_size
        self._taken = 0
        self._waiting = [self._order(number) for number in range(self._chunks)]
        while self._taken < max(2, self._chunks // 6):
            self._take()

    def __len__(self) -> int:
        """Clips that can be drawn from now."""
        return min(self._taken, self._chunks) * _CHUNK_CLIPS

    def refresh(self, step: int) -> None:
        """Take in a new chunk, if one is due and drawn; call it once a training step."""
        growing = self._taken < self._chunks
        if self._waiting[0].done() and (growing or step % self._steps_per_chunk == 0):
            self._take()

    def _order(self, number: int) -> "Future[Clips]":
        return self._workers.submit(self._draw, (self._seed, 1, number), _CHUNK_CLIPS)

    def _take(self) -> None:
        fresh = self._waiting.pop(0).result()
        start = self._taken % self._chunks * _CHUNK_CLIPS
        part = slice(start, start + _CHUNK_CLIPS)
        self.clips.frames[part] = fresh.frames
        self.clips.labels[part] = fresh.labels
        self.clips.states[part] = fresh.states
        self._taken += 1
        if self._taken + len(self._waiting) < self._chunks + 2 or len(self._waiting) < 2:
            self._waiting.append(self._order(self._taken + len(self._waiting)))


# -- model ---------------------------------------------------------------------------------


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


# -- training ------------------------------------------------------------------------------


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
