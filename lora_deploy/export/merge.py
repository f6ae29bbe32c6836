"""Merge LoRA into the base: W + B·A·(alpha / r), in float32, on a copy."""

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
    if not isinstance(merged, PreTrainedModel):
        raise TypeError(f"merging returned a {type(merged).__name__}")
    merged.eval()
    return merged
