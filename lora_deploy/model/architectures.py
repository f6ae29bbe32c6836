"""What is different from one video transformer to the next: one table, and one way to call any of them."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import torch

from lora_deploy.errors import UnsupportedArchitectureError

EVERY_LAYER = (r".*",)


@dataclass(frozen=True)
class Architecture:
    """One ``model_type`` of transformers, as a classifier of videos."""

    title: str
    """As its paper calls it."""
    words: Mapping[str, tuple[str, ...]]
    """Each target word as regular expressions of the ends of layer names."""
    blocks: str
    """Where its transformer blocks stand, numbered from the input on."""
    head_modules: tuple[str, ...] = ("classifier",)
    """Modules of a classifier that a base may leave to be learned; ``classifier`` comes first."""
    input_name: str = "pixel_values"
    """Of the video that the model's ``forward`` takes, [batch, frames, 3, height, width]."""
    dropped: tuple[str, ...] = ()
    """Beginnings of parameter names that a pre-trained base has and a classifier does not."""
    uncalled: tuple[str, ...] = ()
    """Beginnings of parameter names that a classifier has and never calls; no target word hits them."""
    fused_words: frozenset[str] = frozenset()
    """Words that name only a part of the layer that they hit."""
    loss_counts_clips: bool = False
    """Whether its loss is divided by the ``num_items_in_batch`` that transformers' Trainer hands in.

    Elsewhere accumulated batches weigh alike, so clips of a smaller last batch weigh a little more.
    """
    original_names: tuple[tuple[str, str], ...] = ()
    """Layer names as regular expressions, and what the original code calls such a layer in full."""
    refused: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """By field of the configuration: values that can't be used, and why."""
    frames_field: str = "num_frames"
    picture_field: str = "image_size"
    """Where the configuration says how many frames, and of how many pixels, a clip has."""

    def check(self, config: Any) -> None:
        """Refuse a variant whose answers would be of no use.

        Raises:
            UnsupportedArchitectureError: Says which, and why.
        """
        for name, reasons in self.refused.items():
            value = str(getattr(config, name, None))
            if reason := reasons.get(value):
                raise UnsupportedArchitectureError(
                    f"{self.title} with {name} {value!r} can't be used: {reason}"
                )

    def frames(self, config: Any) -> int:
        """Frames of a clip."""
        return int(getattr(config, self.frames_field))

    def picture(self, config: Any) -> tuple[int, int]:
        """Height and width of a frame in pixels."""
        size = getattr(config, self.picture_field)
        height, width = (size, size) if isinstance(size, int) else size
        return int(height), int(width)

    def names_of(self, layer: str) -> tuple[str, ...]:
        """What a layer may be called: its own name, and that of the original code."""
        originals = [
            match.expand(original)
            for pattern, original in self.original_names
            if (match := re.fullmatch(pattern, layer))
        ]
        return (layer, *originals)

    def block_of(self, name: str) -> int | None:
        """The number of the block that a layer or parameter is in, from 0; None beside the blocks."""
        found = re.match(rf"{re.escape(self.blocks)}\.(\d+)\.", name)
        return int(found[1]) if found else None

    def is_uncalled(self, parameter_name: str) -> bool:
        """Whether no answer of the classifier depends on this parameter."""
        return parameter_name.startswith(self.uncalled)


def _words(
    *,
    query: tuple[str, ...],
    key: tuple[str, ...],
    value: tuple[str, ...],
    proj: tuple[str, ...],
    fc1: tuple[str, ...],
    fc2: tuple[str, ...],
) -> dict[str, tuple[str, ...]]:
    """The words that every architecture knows, from the six layers of a transformer block."""
    qkv = tuple(dict.fromkeys((*query, *key, *value)))
    return {
        "qkv": qkv,
        "q": query,
        "k": key,
        "v": value,
        "query": query,
        "key": key,
        "value": value,
        "proj": proj,
        "fc": (*fc1, *fc2),
        "fc1": fc1,
        "fc2": fc2,
        "mlp": (*fc1, *fc2),
        "attention": (*qkv, *proj),
        "all-linear": EVERY_LAYER,
    }


_VIDEOMAE = r"videomae\.encoder\.layer\.(\d+)"
_FUSED = (r"layer\.\d+\.(?:temporal_)?attention\.attention\.qkv",)

ARCHITECTURES: Final[Mapping[str, Architecture]] = {
    "videomae": Architecture(
        title="VideoMAE",
        words=_words(
            query=(r"attention\.attention\.query",),
            key=(r"attention\.attention\.key",),
            value=(r"attention\.attention\.value",),
            proj=(r"attention\.output\.dense",),
            fc1=(r"intermediate\.dense",),
            fc2=(r"layer\.\d+\.output\.dense",),
        ),
        blocks="videomae.encoder.layer",
        head_modules=("classifier", "fc_norm"),
        # A masked autoencoder norms its last tokens; with mean pooling fc_norm does that instead.
        dropped=(
            "decoder.",
            "encoder_to_decoder.",
            "mask_token",
            "videomae.layernorm.",
            "layernorm.",
        ),
        loss_counts_clips=True,
        original_names=(
            (
                rf"{_VIDEOMAE}\.attention\.attention\.(?:query|key|value)",
                r"encoder.blocks.\1.attn.qkv",
            ),
            (rf"{_VIDEOMAE}\.attention\.output\.dense", r"encoder.blocks.\1.attn.proj"),
            (rf"{_VIDEOMAE}\.intermediate\.dense", r"encoder.blocks.\1.mlp.fc1"),
            (rf"{_VIDEOMAE}\.output\.dense", r"encoder.blocks.\1.mlp.fc2"),
        ),
    ),
    "timesformer": Architecture(
        title="TimeSformer",
        # Each block attends twice, over time and then over space, with one layer for q, k and v
        # each time. ``temporal_dense``, a third projection between them, is hit by all-linear only.
        words=_words(
            query=_FUSED,
            key=_FUSED,
            value=_FUSED,
            proj=(r"layer\.\d+\.(?:temporal_)?attention\.output\.dense",),
            fc1=(r"layer\.\d+\.intermediate\.dense",),
            fc2=(r"layer\.\d+\.output\.dense",),
        ),
        blocks="timesformer.encoder.layer",
        fused_words=frozenset({"q", "k", "v", "query", "key", "value"}),
        refused={
            "attention_type": {"space_only": "transformers answers once a frame, not once a clip"}
        },
    ),
    "vivit": Architecture(
        title="ViViT",
        words=_words(
            query=(r"attention\.q_proj",),
            key=(r"attention\.k_proj",),
            value=(r"attention\.v_proj",),
            proj=(r"attention\.o_proj",),
            fc1=(r"mlp\.fc1",),
            fc2=(r"mlp\.fc2",),
        ),
        blocks="vivit.layers",
        dropped=("pooler.", "vivit.pooler."),  # tanh over the first token, which no classifier uses
        loss_counts_clips=True,
    ),
    "vjepa2": Architecture(
        title="V-JEPA 2",
        words=_words(
            query=(r"encoder\.layer\.\d+\.attention\.query",),
            key=(r"encoder\.layer\.\d+\.attention\.key",),
            value=(r"encoder\.layer\.\d+\.attention\.value",),
            proj=(r"encoder\.layer\.\d+\.attention\.proj",),
            fc1=(r"encoder\.layer\.\d+\.mlp\.fc1",),
            fc2=(r"encoder\.layer\.\d+\.mlp\.fc2",),
        ),
        blocks="vjepa2.encoder.layer",
        head_modules=("classifier", "pooler"),
        input_name="pixel_values_videos",
        # The predictor guesses hidden tokens in pre-training; a classifier is built with one and
        # skips it, so an adapter there would get no gradient.
        uncalled=("vjepa2.predictor.",),
        frames_field="frames_per_clip",
        picture_field="crop_size",
    ),
}
"""By the ``model_type`` of a transformers configuration."""


def architecture_of(model_type: str | None, *, what: str = "the model") -> Architecture:
    """The architecture of a ``model_type``; ``what`` is called so in the error.

    Raises:
        UnsupportedArchitectureError: It is not one of `ARCHITECTURES`.
    """
    if not isinstance(model_type, str) or model_type not in ARCHITECTURES:
        raise UnsupportedArchitectureError(
            f"{what} is a {model_type}; supported: {', '.join(ARCHITECTURES)}"
        )
    return ARCHITECTURES[model_type]


def logits_of(model: torch.nn.Module, pixel_values: torch.Tensor) -> torch.Tensor:
    """Call a classifier of any architecture, merged or under an adapter.

    Args:
        model: A transformers or peft model.
        pixel_values: [batch, frames, 3, height, width], of the model's type and device.

    Returns:
        [batch, labels].
    """
    config: Any = model.config
    name = architecture_of(config.model_type).input_name
    logits: torch.Tensor = model(**{name: pixel_values}).logits
    return logits
