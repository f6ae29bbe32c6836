"""Checkpoints of the original VideoMAE code (``.pth``), read as plain tensors and renamed as transformers names them."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig, PretrainedConfig

from lora_deploy.errors import BaseConfigError, NotVideoMaeError, UnsafeCheckpointError

ENDINGS = (".pth", ".pt")

HEADS_OF_WIDTH = {384: 6, 768: 12, 1024: 16, 1280: 16}
"""Attention heads of the published sizes S, B, L and H; a checkpoint does not say."""

PUBLISHED_FRAMES, PUBLISHED_SIDE = 16, 224

_WRAPPERS = ("model", "module", "state_dict")

_NAMES = (
    (r"patch_embed\.proj", "videomae.embeddings.patch_embeddings.projection"),
    (r"blocks\.(\d+)\.norm1", r"videomae.encoder.layer.\1.layernorm_before"),
    (r"blocks\.(\d+)\.norm2", r"videomae.encoder.layer.\1.layernorm_after"),
    (r"blocks\.(\d+)\.attn\.q_bias", r"videomae.encoder.layer.\1.attention.attention.query.bias"),
    (r"blocks\.(\d+)\.attn\.v_bias", r"videomae.encoder.layer.\1.attention.attention.value.bias"),
    (r"blocks\.(\d+)\.attn\.proj", r"videomae.encoder.layer.\1.attention.output.dense"),
    (r"blocks\.(\d+)\.mlp\.fc1", r"videomae.encoder.layer.\1.intermediate.dense"),
    (r"blocks\.(\d+)\.mlp\.fc2", r"videomae.encoder.layer.\1.output.dense"),
    (r"norm", "videomae.layernorm"),
    (r"head", "classifier"),
)
"""Beginnings of names there, and what they are here; ``qkv`` is cut in three instead."""

_QKV = re.compile(r"blocks\.(\d+)\.attn\.qkv\.weight")


def read_state(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a checkpoint in transformers' naming, on the CPU.

    Taken are ``{"model": …}`` and ``{"module": …}``, with or without an ``encoder.`` before each
    name, fine-tuned or masked autoencoder. What has no name here keeps its own.

    Raises:
        UnsafeCheckpointError: The file is no checkpoint of plain tensors.
        NotVideoMaeError: It is one of another model.
    """
    try:
        content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise UnsafeCheckpointError(
            f"{path} can't be read as plain tensors: {first_line(error)}; anything else could run code "
            "and is not opened"
        ) from None
    for wrapper in _WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
            break
    named = content.items() if isinstance(content, Mapping) else ()
    tensors = {
        re.sub(r"^(module\.)?(encoder\.)?", "", str(name)): tensor
        for name, tensor in named
        if isinstance(tensor, torch.Tensor)
    }
    if "patch_embed.proj.weight" not in tensors:
        raise NotVideoMaeError(
            f"{path} is no VideoMAE checkpoint: it has no patch_embed.proj.weight, only "
            f"{', '.join(sorted(tensors)[:4]) or 'no tensors'}"
        )
    state: dict[str, torch.Tensor] = {}
    if (
        tensors["patch_embed.proj.weight"].ndim != 5
        or 0 in tensors["patch_embed.proj.weight"].shape
    ):
        raise NotVideoMaeError(
            f"{path} is no VideoMAE checkpoint: its patch_embed.proj.weight is "
            f"{tuple(tensors['patch_embed.proj.weight'].shape)}"
        )
    for name, tensor in tensors.items():
        if match := _QKV.fullmatch(name):
            if tensor.ndim != 2 or len(tensor) % 3 or not len(tensor):
                raise NotVideoMaeError(
                    f"{path} is no VideoMAE checkpoint: {name} is {tuple(tensor.shape)}"
                )
            place = f"videomae.encoder.layer.{match[1]}.attention.attention"
            for part, weight in zip(("query", "key", "value"), tensor.chunk(3), strict=True):
                state[f"{place}.{part}.weight"] = weight.clone()
        else:
            state[_renamed(name)] = tensor
    return state


def _renamed(name: str) -> str:
    for pattern, here in _NAMES:
        if match := re.match(rf"{pattern}(?=\.(?:weight|bias)$|$)", name):
            return match.expand(here) + name[match.end() :]
    return name


def read_config(path: Path, state: Mapping[str, torch.Tensor]) -> PretrainedConfig:
    """The configuration for a checkpoint: ``config.json`` beside it, else what its shapes tell.

    Raises:
        BaseConfigError: The ``config.json`` is torn or of another model; or there is none, and the
            shapes are not those of a published size.
    """
    beside = path.with_name("config.json")
    if beside.is_file():
        return _read_beside(beside)
    projection = state["videomae.embeddings.patch_embeddings.projection.weight"]
    width, channels, tubelet, patch, _ = projection.shape
    if width not in HEADS_OF_WIDTH:
        raise BaseConfigError(
            f"{path} is {width} wide, and how many attention heads it has can't be told; known are "
            f"the widths {', '.join(map(str, HEADS_OF_WIDTH))}: put its config.json (that of "
            "transformers) beside it"
        )
    first = state.get("videomae.encoder.layer.0.intermediate.dense.weight")
    if first is None or first.ndim != 2:
        raise NotVideoMaeError(
            f"{path} is no VideoMAE checkpoint: it has no blocks.0.mlp.fc1.weight"
        )
    layers = {
        match[1] for name in state if (match := re.match(r"videomae\.encoder\.layer\.(\d+)", name))
    }
    is_autoencoder = "mask_token" in state
    return AutoConfig.for_model(
        "videomae",
        image_size=PUBLISHED_SIDE,
        patch_size=patch,
        num_channels=channels,
        num_frames=PUBLISHED_FRAMES,
        tubelet_size=tubelet,
        hidden_size=width,
        num_hidden_layers=len(layers),
        num_attention_heads=HEADS_OF_WIDTH[width],
        intermediate_size=first.shape[0],
        layer_norm_eps=1e-6,
        qkv_bias="videomae.encoder.layer.0.attention.attention.query.bias" in state,
        use_mean_pooling=is_autoencoder or "videomae.layernorm.weight" not in state,
    )


def _read_beside(path: Path) -> PretrainedConfig:
    try:
        config: PretrainedConfig = AutoConfig.from_pretrained(
            path.parent, trust_remote_code=False, local_files_only=True
        )
    except (OSError, ValueError, KeyError, TypeError, StrictDataclassError) as error:
        raise BaseConfigError(f"{path} can't be opened: {first_line(error)}") from None
    if config.model_type != "videomae":
        raise BaseConfigError(f"{path} is of a {config.model_type}, and the weights of a VideoMAE")
    return config


def first_line(error: Exception) -> str:
    """The first line of another library's error text, or the name of an error without one."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
