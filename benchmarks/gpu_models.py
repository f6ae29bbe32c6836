"""VideoMAE-B and L with random weights for the GPU benchmark, and what makes them faster: plain modules."""

import copy
from dataclasses import dataclass
from functools import cache
from typing import cast

import torch
from torch import nn
from torch.nn import functional
from transformers import VideoMAEConfig, VideoMAEForVideoClassification

LABELS = 10

SPREAD_FACTOR = 2.0
"""On all matrices. As initialised, attention is all but even, and no precision could harm it."""


@dataclass(frozen=True, eq=False)
class Size:
    """How large everything is."""

    name: str
    config: VideoMAEConfig
    batches: tuple[int, ...]
    train_batch: int
    gemm_side: int
    turns: int
    turn_seconds: float
    """That one form works in one turn, at least."""


def config_of(**sizes: int) -> VideoMAEConfig:
    """VideoMAE-B, or what of it is another size."""
    config = VideoMAEConfig(**sizes)  # type: ignore[arg-type]
    config.num_labels = LABELS
    return config


LARGE = {
    "hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16,
    "intermediate_size": 4096,
}  # fmt: skip

SMALL = {
    "image_size": 32, "patch_size": 8, "num_frames": 4, "tubelet_size": 2, "hidden_size": 32,
    "num_attention_heads": 2, "intermediate_size": 64,
}  # fmt: skip

FULL = (
    Size("VideoMAE-B", config_of(), (1, 8, 32), 8, 8192, 7, 0.1),
    Size("VideoMAE-L", config_of(**LARGE), (1, 8, 32), 8, 8192, 7, 0.1),
)
TINY = (
    Size("tiny", config_of(**SMALL, num_hidden_layers=6), (1, 2), 2, 64, 2, 0.002),
    Size("tiny, 3 layers", config_of(**SMALL, num_hidden_layers=3), (2,), 2, 64, 2, 0.002),
)


@cache
def pattern(size: Size) -> VideoMAEForVideoClassification:
    """Random weights on the CPU, to be copied: making them takes seconds."""
    torch.manual_seed(0)
    model = VideoMAEForVideoClassification(copy.deepcopy(size.config))
    model.eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(SPREAD_FACTOR)
    return model


def make_model(size: Size, device: torch.device) -> VideoMAEForVideoClassification:
    """Always the same weights."""
    return moved(copy.deepcopy(pattern(size)), device)


def moved(
    model: VideoMAEForVideoClassification, where: torch.device | torch.dtype
) -> VideoMAEForVideoClassification:
    """As ``model.to``, whose types are lost on the way."""
    nn.Module.to(model, where)
    return model


def make_clips(size: Size, batch: int, device: torch.device) -> torch.Tensor:
    """Noise, [batch, frames, 3, height, width] float32."""
    side, frames = cast(int, size.config.image_size), size.config.num_frames
    generator = torch.Generator().manual_seed(batch)
    return torch.randn(batch, frames, 3, side, side, generator=generator).to(device)


class LinearPatches(nn.Module):
    """The Conv3d patch embedding as what it is: one linear layer over patches laid out in rows."""

    def __init__(self, patches: nn.Module) -> None:
        super().__init__()
        convolution: nn.Conv3d = patches.projection  # type: ignore[assignment]
        self.patch = convolution.kernel_size  # frames, height, width
        self.linear = nn.Linear(convolution.weight[0].numel(), convolution.out_channels)
        self.linear.weight = nn.Parameter(convolution.weight.detach().flatten(1))
        assert convolution.bias is not None
        self.linear.bias = nn.Parameter(convolution.bias.detach())

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """[batch, frames, 3, height, width] to [batch, patches, hidden]."""
        batch, frames, channels, height, width = pixel_values.shape
        deep, high, wide = self.patch
        rows = pixel_values.view(
            batch, frames // deep, deep, channels, height // high, high, width // wide, wide
        )
        rows = rows.permute(0, 1, 4, 6, 3, 2, 5, 7).reshape(batch, -1, self.linear.in_features)
        result: torch.Tensor = self.linear(rows)
        return result


def with_linear_patches(model: VideoMAEForVideoClassification) -> None:
    """Put `LinearPatches` in place of the convolution."""
    embeddings = model.videomae.embeddings
    embeddings.register_module("patch_embeddings", LinearPatches(embeddings.patch_embeddings))


def with_table_on_device(model: VideoMAEForVideoClassification) -> None:
    """Keep the table of positions where the model is, in its type; it is no buffer."""
    like = model.classifier.weight
    embeddings = model.videomae.embeddings
    embeddings.position_embeddings = embeddings.position_embeddings.to(like.device, like.dtype)


class FusedAttention(nn.Module):
    """The attention of a block with one projection to queries, keys and values, in place of three."""

    def __init__(self, attention: nn.Module) -> None:
        super().__init__()
        parts = [cast(nn.Linear, getattr(attention, name)) for name in ("query", "key", "value")]
        self.heads = cast(int, attention.num_attention_heads)
        self.linear = nn.Linear(parts[0].in_features, 3 * parts[0].out_features)
        self.linear.weight = nn.Parameter(torch.cat([part.weight.detach() for part in parts]))
        biases = [  # keys have none
            torch.zeros_like(part.weight[:, 0]) if part.bias is None else part.bias.detach()
            for part in parts
        ]
        self.linear.bias = nn.Parameter(torch.cat(biases))

    def forward(self, hidden_states: torch.Tensor, *_: object) -> tuple[torch.Tensor, None]:
        """[batch, patches, hidden] to the same; weights of attention are not given out."""
        batch, patches, hidden = hidden_states.shape
        projected = self.linear(hidden_states).view(batch, patches, 3, self.heads, -1)
        query, key, value = projected.permute(2, 0, 3, 1, 4)  # each [batch, heads, patches, size]
        context = functional.scaled_dot_product_attention(query, key, value)
        return context.transpose(1, 2).reshape(batch, patches, hidden), None


def with_fused_qkv(model: VideoMAEForVideoClassification) -> None:
    """Put `FusedAttention` in place of each block's attention."""
    for layer in model.videomae.encoder.layer:
        attention: nn.Module = layer.attention  # type: ignore[assignment]
        fused = FusedAttention(attention.attention)  # type: ignore[arg-type]
        attention.register_module("attention", fused)
