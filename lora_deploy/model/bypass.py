"""Attention that reads a layer's weight instead of calling the layer, and so goes past its adapter: found and mended.

The original VideoMAE code, and transformers' before 5.6, compute ``F.linear(x, self.qkv.weight, …)``.
LoRA wraps the *call* of ``self.qkv``, which never happens: no gradient reaches it, the adapter
changes nothing, and merging it changes the answers.
"""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from peft import PeftModel
from peft.tuners.lora import Linear as LoraLinear

from lora_deploy.model.architectures import logits_of

logger = logging.getLogger(__name__)


class _ReadThrough(LoraLinear):
    """A LoRA layer whose ``weight`` is that of base and update together for whoever reads it.

    ``F.linear(x, layer.weight)`` then gives what calling the layer would give without dropout.
    """

    was_read = False

    @property
    def weight(self) -> torch.Tensor:
        """[out, in], with gradients to A and B."""
        self.was_read = True
        weight = self.get_base_layer().get_parameter("weight")
        if self.merged or self.disable_adapters:
            return weight
        return torch.stack([weight, *updates_of(self)]).sum(0)


def updates_of(layer: LoraLinear) -> list[torch.Tensor]:
    """What each adapter that is active on a layer adds to its weight, [out, in].

    That is B·A times its scale; under DoRA, what scaling the rows of the sum to their learned
    lengths makes of it.
    """
    return [_lengthened(layer, name, product) for name, product in products_of(layer).items()]


def products_of(layer: LoraLinear) -> dict[str, torch.Tensor]:
    """B·A times its scale, [out, in], of each adapter that is active on a layer."""
    active = [name for name in layer.active_adapters if name in layer.lora_A]
    return {name: layer.get_delta_weight(name) for name in active}


def row_factors(layer: LoraLinear, name: str, product: torch.Tensor) -> torch.Tensor | None:
    """By what DoRA multiplies each row of W + B·A, [out]; None for an adapter of another kind.

    As in its paper (section 4.3, https://arxiv.org/abs/2402.09353), and in peft, the length of the
    row that is divided by gets no gradient.
    """
    if name not in layer.lora_magnitude_vector:
        return None
    weight = layer.get_base_layer().get_parameter("weight")
    found = torch.linalg.vector_norm(weight + product, dim=1).detach()
    learned: torch.Tensor = layer.get_parameter(f"lora_magnitude_vector.{name}.weight")
    factors: torch.Tensor = learned / found
    return factors


def _lengthened(layer: LoraLinear, name: str, product: torch.Tensor) -> torch.Tensor:
    factors = row_factors(layer, name, product)
    if factors is None:
        return product
    weight = layer.get_base_layer().get_parameter("weight")
    return factors[:, None] * (weight + product) - weight


def lora_layers(model: torch.nn.Module) -> dict[str, LoraLinear]:
    """Every layer under LoRA, by its name in the model without an adapter."""
    return {
        name.removeprefix("base_model.model."): module
        for name, module in model.named_modules()
        if isinstance(module, LoraLinear)
    }


@torch.no_grad()
def answers(model: PeftModel, pixel_values: torch.Tensor) -> tuple[torch.Tensor, tuple[str, ...]]:
    """Logits [batch, labels], and the layers under LoRA that were not called for them."""
    with _calls_of(model) as called:
        logits = logits_of(model, pixel_values)
    return logits, tuple(name for name in lora_layers(model) if name not in called)


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


def mend_bypassed(
    model: PeftModel, pixel_values: torch.Tensor, uncalled: Sequence[str]
) -> tuple[str, ...]:
    """Let every layer whose weight is read, and which is never called, give W + B·A to its reader.

    Args:
        model: Changed in place; in evaluation mode.
        pixel_values: A batch, [batch, frames, 3, height, width] float32.
        uncalled: As `answers` found them.

    Returns:
        The layers that nobody calls and nobody reads: nothing can be done for these.
    """
    layers = lora_layers(model)
    for name in uncalled:
        layers[name].__class__ = _ReadThrough
    with torch.no_grad():
        logits_of(model, pixel_values)
    mended = [name for name in uncalled if _was_read(layers[name])]
    if mended:
        logger.warning(
            "this model reads the weight of %s (%d layers) instead of calling the layer, past its "
            "adapter; mended: what it reads is W + B·A now, without lora_dropout. Other programs "
            "run this adapter only when it is merged",
            mended[0],
            len(mended),
        )
    return tuple(name for name in uncalled if name not in mended)


def _was_read(layer: LoraLinear) -> bool:
    return isinstance(layer, _ReadThrough) and layer.was_read
