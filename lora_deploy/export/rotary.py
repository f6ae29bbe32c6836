"""V-JEPA 2's rotary positions as two constant tables, for a graph whose tokens are always the same.

transformers computes them anew in each block, in 81 of its 115 nodes, from nothing but the shape of
the clip: without them the graph is smaller, and a deep model is exported in a sixth of the time.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.models.vjepa2.modeling_vjepa2 import VJEPA2RopeAttention


def rotary_tables(attention: nn.Module, tokens: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosines, and sines with their sign, as `attention` itself applies them; each [tokens, head].

    With x' as x with each even element and the odd one after it exchanged, the rotation is
    x · cosines + x' · sines, to the bit.
    """
    if not isinstance(attention, VJEPA2RopeAttention):
        raise TypeError(f"a {type(attention).__name__} has no rotary positions")
    size = attention.attention_head_size
    even = (torch.arange(size) % 2 == 0).float()
    positions = attention.get_position_ids(torch.empty(1, tokens, 1))
    # What becomes of 1, 0, 1, 0, … and of 0, 1, 0, 1, … tells all four parts.
    of_even, of_odd = (
        attention.apply_rotary_embeddings(probe.expand(1, 1, tokens, size), positions)[0, 0]
        for probe in (even, 1 - even)
    )
    odd = 1 - even
    return even * of_even + odd * of_odd, odd * of_even + even * of_odd


@contextmanager
def constant_positions(model: PreTrainedModel, frames: int) -> Iterator[None]:
    """Let the encoder of a V-JEPA 2 use tables while the block runs; other models stay as they are.

    Args:
        model: On the CPU, float32; called inside the block with clips of this many frames only.
        frames: Of a clip.
    """
    layers = [
        module
        for name, module in model.named_modules()
        if isinstance(module, VJEPA2RopeAttention) and ".predictor." not in name
    ]
    if not layers:
        yield
        return
    # A clip that is shorter than one tubelet is repeated to fill one.
    depth = max(1, frames // layers[0].config.tubelet_size)
    tokens = depth * layers[0].grid_size ** 2
    with torch.no_grad():
        cosines, sines = rotary_tables(layers[0], tokens)
    size = layers[0].attention_head_size
    exchanged = (torch.arange(size) ^ 1).clamp(max=size - 1)

    def rotate(states: torch.Tensor, positions: object) -> torch.Tensor:
        """``states`` [batch, heads, tokens, head]; the positions are in the tables."""
        return states * cosines + torch.index_select(states, -1, exchanged) * sines

    try:
        for layer in layers:
            layer.apply_rotary_embeddings = rotate  # type: ignore[method-assign]
        yield
    finally:
        for layer in layers:
            del layer.apply_rotary_embeddings
