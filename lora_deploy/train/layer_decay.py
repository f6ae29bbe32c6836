"""Learning rates that fall from the head down to the input, for full fine-tuning: one group of parameters a depth."""

from collections.abc import Collection
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from lora_deploy.model.architectures import architecture_of


def depth_of(model: PreTrainedModel, name: str) -> int:
    """How far a parameter is from the input.

    Args:
        model: Of any architecture.
        name: Of the parameter.

    Returns:
        0 for the embeddings, 1 and up for the blocks, and one more than the last block for
        what comes after them: the last norm and the head.
    """
    architecture = architecture_of(model.config.model_type)
    if (block := architecture.block_of(name)) is not None:
        return block + 1
    if "embeddings." in name and name.split(".", 1)[0] not in architecture.head_modules:
        return 0
    return int(model.config.num_hidden_layers) + 1


def parameter_groups(
    model: PreTrainedModel,
    *,
    layer_decay: float,
    learning_rate: float,
    weight_decay: float,
    decayed: Collection[str],
) -> list[dict[str, Any]]:
    """What an optimizer takes: each depth learns ``layer_decay`` times as fast as the one above it.

    As BEiT (https://arxiv.org/abs/2106.08254) and VideoMAE are fine-tuned.

    Args:
        model: All of whose parameters may learn; those that don't are left out.
        layer_decay: Above 0, at most 1.
        learning_rate: Of the head.
        weight_decay: For ``decayed``.
        decayed: Names of the parameters that decay; norms and biases usually don't.

    Returns:
        Groups from the head down: a log that names one learning rate names the first.
    """
    top = int(model.config.num_hidden_layers) + 1
    groups: dict[tuple[int, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            key = (depth_of(model, name), name in decayed)
            groups.setdefault(key, []).append(parameter)
    return [
        {
            "params": groups[depth, decays],
            "lr": learning_rate * layer_decay ** (top - depth),
            "weight_decay": weight_decay if decays else 0.0,
        }
        for depth, decays in sorted(groups, reverse=True)
    ]
