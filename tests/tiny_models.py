"""Tiny TimeSformer, ViViT and V-JEPA 2 with random weights, as transformers makes and saves them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import (
    PretrainedConfig,
    PreTrainedModel,
    TimesformerConfig,
    TimesformerForVideoClassification,
    TimesformerModel,
    VivitConfig,
    VivitForVideoClassification,
    VivitModel,
    VJEPA2Config,
    VJEPA2ForVideoClassification,
    VJEPA2Model,
)

from lora_deploy.clips.processor import usual_contract, write_processor
from lora_deploy.model.weights import quiet_loading

FRAMES, SIDE = 4, 32


def _timesformer() -> PretrainedConfig:
    return TimesformerConfig(
        image_size=SIDE, patch_size=8, num_frames=FRAMES, hidden_size=32, num_hidden_layers=2,
        num_attention_heads=2, intermediate_size=64,
    )  # fmt: skip


def _vivit() -> PretrainedConfig:
    return VivitConfig(
        image_size=SIDE, tubelet_size=[2, 8, 8], num_frames=FRAMES, hidden_size=32,
        num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
    )  # fmt: skip


def _vjepa2() -> PretrainedConfig:
    return VJEPA2Config(
        crop_size=SIDE, patch_size=8, frames_per_clip=FRAMES, hidden_size=32, num_hidden_layers=2,
        num_attention_heads=2, mlp_ratio=2.0, num_pooler_layers=1, pred_hidden_size=16,
        pred_num_attention_heads=2, pred_num_hidden_layers=1,
    )  # fmt: skip


Maker = Callable[[Any], PreTrainedModel]

MAKERS: dict[str, tuple[Callable[[], PretrainedConfig], Maker, Maker]] = {
    "timesformer": (_timesformer, TimesformerForVideoClassification, TimesformerModel),
    "vivit": (_vivit, VivitForVideoClassification, VivitModel),
    "vjepa2": (_vjepa2, VJEPA2ForVideoClassification, VJEPA2Model),
}
"""By ``model_type``: its configuration, its classifier, and the same without a head."""


def make(model_type: str, *, headless: bool = False, **changes: Any) -> PreTrainedModel:
    """A model whose answers depend on the picture; equal weights whenever it is made."""
    configuration, classifier, encoder = MAKERS[model_type]
    config = configuration()
    for name, value in changes.items():
        setattr(config, name, value)
    torch.manual_seed(0)
    model = (encoder if headless else classifier)(config)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if not parameter.any() or name.endswith("bias"):  # tokens and positions start at zero
                parameter.normal_(std=0.1, generator=generator)
            elif parameter.ndim > 1:
                parameter.mul_(4.0)
    model.eval()
    return model


def save(model: PreTrainedModel, folder: Path) -> Path:
    """As a published folder: weights, configuration, processor file and card."""
    model_type = model.config.model_type
    with quiet_loading():
        model.save_pretrained(folder)
    write_processor(usual_contract(model_type, FRAMES, SIDE, SIDE), folder, model_type)
    (folder / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    return folder
