"""Attention that reads a layer's weight instead of calling the layer, and so goes past its adapter: found and mended.

The original VideoMAE code, and transformers' before 5.6, compute ``F.linear(x, self.qkv.weight, …)``.
LoRA wraps the *call* of ``self.qkv``, which never happens: no gradient reaches it, the adapter
changes nothing, and merging it changes the answers.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer

from lora_deploy.model.architectures import logits_of

logger = logging.getLogger(__name__)


class _ReadsTheUpdateToo(LoraLayer):
    """A LoRA layer whose ``weight`` is W + B·A·(alpha / r) for whoever reads it.

    ``F.linear(x, layer.weight)`` then gives what calling the layer would give without dropout.
    """

    @property
    def weight(self) -> torch.Tensor:
        """[out, in], with gradients to A and B."""
        weight: torch.Tensor = self.get_base_layer().weight
        self.weight_was_read = True
        if self.merged or self.disable_adapters:
            return weight
        for adapter in self.active_adapters:
            if adapter in self.lora_A:
                weight = weight + self.get_delta_weight(adapter)
        return weight


def lora_layers(model: torch.nn.Module) -> dict[str, LoraLayer]:
    """Every layer under LoRA, by its name in the model without an adapter."""
    return {
        name.removeprefix("base_model.model."): module
        for name, module in model.named_modules()
        if isinstance(module, LoraLayer)
    }


def uncalled_layers(model: PeftModel, pixel_values: torch.Tensor) -> tuple[str, ...]:
    """Layers under LoRA that one forward pass does not call."""
    with _calls_of(model) as called, torch.no_grad():
        logits_of(model, pixel_values)
    return tuple(name for name in lora_layers(model) if name not in called)


@contextmanager
def _calls_of(model: PeftModel) -> Iterator[set[str]]:
    called: set[str] = set()
    hooks = [
        layer.register_forward_hook(lambda *_, name=name: called.add(name))
        for name, layer in lora_layers(model).items()
    ]
    try:
        yield called
    finally:
        for hook in hooks:
            hook.remove()


def mend_bypassed(model: PeftModel, pixel_values: torch.Tensor) -> tuple[str, ...]:
    """Let every layer whose weight is read, and which is never called, give W + B·A to its reader.

    Args:
        model: Changed in place, if at all; in evaluation mode.
        pixel_values: A batch, [batch, frames, 3, height, width] float32.

    Returns:
        The layers that nobody calls and nobody reads: nothing can be done for these.
    """
    layers = lora_layers(model)
    uncalled = uncalled_layers(model, pixel_values)
    if not uncalled:
        return ()
    for name in uncalled:
        layer = layers[name]
        layer.weight_was_read = False
        # A subclass of whatever class peft chose, so that all else stays as it is.
        layer.__class__ = type(
            f"ReadThrough{type(layer).__name__}", (_ReadsTheUpdateToo, type(layer)), {}
        )
    with torch.no_grad():
        logits_of(model, pixel_values)
    mended = [name for name in uncalled if layers[name].weight_was_read]
    if mended:
        logger.warning(
            "this model reads the weight of %s (%d layers) instead of calling the layer, past its "
            "adapter; mended: what it reads is W + B·A now, without lora_dropout. Other programs "
            "run this adapter only when it is merged",
            mended[0],
            len(mended),
        )
    return tuple(name for name in uncalled if name not in mended)
