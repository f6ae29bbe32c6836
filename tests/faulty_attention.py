"""Attention as the original VideoMAE code wrote it: it reads its layers' weights and never calls them."""

from weakref import WeakKeyDictionary

import torch
from torch.nn.functional import linear, scaled_dot_product_attention
from transformers.models.videomae.modeling_videomae import VideoMAESelfAttention

_KEPT: WeakKeyDictionary[torch.nn.Module, list[torch.Tensor]] = WeakKeyDictionary()


def reads_weights(
    self: VideoMAESelfAttention, hidden_states: torch.Tensor
) -> tuple[torch.Tensor, None]:
    """``F.linear(x, self.query.weight, …)``, in the place of ``VideoMAESelfAttention.forward``."""
    projected = [linear(hidden_states, part.weight, part.bias) for part in _parts(self)]
    return _attend(self, *projected), None


def reads_own_copies(
    self: VideoMAESelfAttention, hidden_states: torch.Tensor
) -> tuple[torch.Tensor, None]:
    """Worse: it keeps copies of the weights from before the adapter, which nothing reaches."""
    if self not in _KEPT:
        _KEPT[self] = [part.weight.detach().clone() for part in _parts(self)]
    projected = [linear(hidden_states, weight) for weight in _KEPT[self]]
    return _attend(self, *projected), None


def calls_and_reads(
    self: VideoMAESelfAttention, hidden_states: torch.Tensor
) -> tuple[torch.Tensor, None]:
    """It calls its layers, and reads their weights for something else as well."""
    projected = [
        part(hidden_states) + 0.5 * linear(hidden_states, part.weight) for part in _parts(self)
    ]
    return _attend(self, *projected), None


def _parts(attention: VideoMAESelfAttention) -> tuple[torch.nn.Linear, ...]:
    return attention.query, attention.key, attention.value


def _attend(
    attention: VideoMAESelfAttention, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor
) -> torch.Tensor:
    def by_head(tensor: torch.Tensor) -> torch.Tensor:  # [batch, heads, tokens, width of a head]
        parts = tensor.reshape(*tensor.shape[:2], -1, attention.attention_head_size)
        return parts.transpose(1, 2)

    answered = scaled_dot_product_attention(by_head(query), by_head(key), by_head(value))
    return answered.transpose(1, 2).flatten(2)
