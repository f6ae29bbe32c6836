"""The settings of the pre-training, as `pretrain.yaml` gives them."""

from dataclasses import dataclass
from pathlib import Path

import yaml


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


def read_settings(path: Path) -> Settings:
    """Read the YAML file; an unknown or missing key is a TypeError."""
    raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    return Settings(
        seed=raw["seed"],
        model=ModelSettings(**raw["model"]),
        training=TrainingSettings(**raw["training"]),
        clips=ClipSettings(**raw["clips"]),
    )
