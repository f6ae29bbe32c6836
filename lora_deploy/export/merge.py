"""Merge an adapter into the base: W + B·A·(alpha / r), DoRA's rows at their lengths, in float32, on a copy."""

import copy

import torch
from peft import PeftModel
from transformers import PreTrainedModel

from lora_deploy.errors import MergeNotFiniteError


def merge(model: PeftModel) -> PreTrainedModel:
    """The merged classifier; the unmerged one stays as it is.

    Raises:
        MergeNotFiniteError: A merged weight is not finite.
    """
    duplicate = copy.deepcopy(model).float()
    try:
        merged = duplicate.merge_and_unload(safe_merge=True)
    except ValueError as error:
        raise MergeNotFiniteError(f"the adapter can't be merged: {error}") from None
    for name, tensor in merged.state_dict().items():
        if not torch.isfinite(tensor).all():
            raise MergeNotFiniteError(f"merging made {name} NaN or infinite")
    return _classifier(merged)


def without_update(model: PeftModel) -> PreTrainedModel:
    """The base under the trained head, in float32; the adapter's model stays as it is."""
    return _classifier(copy.deepcopy(model).float().unload())


def _classifier(plain: torch.nn.Module) -> PreTrainedModel:
    if not isinstance(plain, PreTrainedModel):
        raise TypeError(f"taking the adapter away returned a {type(plain).__name__}")
    plain.eval()
    return plain
