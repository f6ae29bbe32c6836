"""Prove that an adapter is part of what the model computes: before it learns, and whenever it is opened.

Four things must hold: each layer under LoRA is called (or its weight is read, see `bypass`); a
gradient reaches its B; with B set, the answers change when the update is switched off, the trained
head kept on; and merged weights answer as the adapter does. peft's own ``disable_adapter`` is no
such switch, because it takes the trained head away as well.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from peft import PeftModel

from lora_deploy.errors import (
    AnswersNotFiniteError,
    DeadAdapterError,
    DeadLayerError,
    MergeChangesAnswersError,
)
from lora_deploy.model.adapter import delta_off
from lora_deploy.model.architectures import logits_of
from lora_deploy.model.bypass import (
    answers,
    lora_layers,
    mend_bypassed,
    products_of,
    updates_of,
)

ALIVE_FACTOR = 100
"""The update must change logits by this many times what merging changes."""

LEAST_CHANGE = 1e-6
"""As a part of the largest logit: what the update must change at least, however exact a merge is."""

MERGE_TOLERANCE = 1e-4
"""As a part of the largest logit: by what merged float32 weights may answer otherwise."""

_TRIAL_STD = 0.02
"""Spread of the values that B is given for a trial, where it is still zero."""


@dataclass(frozen=True)
class Liveness:
    """What the proof measured, in logits."""

    layers: int
    """Under LoRA, each of them alive."""
    on_off_difference: float
    """Largest change when the update is switched off, the head kept."""
    merge_difference: float
    """Largest change when the update is merged into the weights."""


def noise(shape: tuple[int, int, int, int]) -> torch.Tensor:
    """A clip to prove with where none is at hand: [1, frames, 3, height, width], always the same."""
    return torch.randn(1, *shape, generator=torch.Generator().manual_seed(0))


def check_can_learn(model: PeftModel, pixel_values: torch.Tensor) -> Liveness:
    """The proof for an adapter that has not learned yet; weights and mode are left as they were.

    Args:
        model: With its adapter; attention that goes past it is mended aloud.
        pixel_values: A batch, [batch, frames, 3, height, width] float32.

    Raises:
        DeadLayerError: Names the first layer that is not called, or that no gradient reaches.
        DeadAdapterError: B set to some values changes no answer.
        MergeChangesAnswersError: Merged weights answer otherwise.
    """
    with _evaluating(model):
        _check_called(model, pixel_values)
        _check_gradients(model, pixel_values)
        with _trial_values(model):
            return _check_answers(model, pixel_values, answers(model, pixel_values)[0])


def check_trained(model: PeftModel, pixel_values: torch.Tensor) -> Liveness:
    """The proof for an adapter that has learned, as it is opened: three forward passes.

    Args:
        model: With its trained adapter; attention that goes past it is mended aloud.
        pixel_values: A batch, [batch, frames, 3, height, width] float32.

    Raises:
        DeadLayerError: Names the first layer that has learned nothing, or is not called.
        DeadAdapterError: It changes no answer, however well the head was trained.
        MergeChangesAnswersError: Merged weights answer otherwise.
    """
    untaught = _untaught(model)
    layers = len(lora_layers(model))
    if len(untaught) == layers:
        raise DeadAdapterError(
            f"the adapter is dead: in all {layers} layers its update B·A is zero, or lost in the "
            "rounding of the weight, so only the head has learned"
        )
    if untaught:
        raise DeadLayerError(
            f"the adapter on {untaught[0]} is dead: its update B·A is zero, or lost in the rounding "
            f"of the weight, so it has learned nothing ({len(untaught)} of {layers} layers)"
        )
    with _evaluating(model):
        return _check_answers(model, pixel_values, _check_called(model, pixel_values))


@torch.no_grad()
def _untaught(model: PeftModel) -> list[str]:
    """Layers whose B·A is too small to change any number of their weight.

    DoRA's lengths alone don't count: whatever moves them moves B too.
    """
    found = []
    for name, layer in lora_layers(model).items():
        weight = layer.get_base_layer().get_parameter("weight")
        update = sum(float(part.abs().max()) for part in products_of(layer).values())
        if not update > torch.finfo(torch.float32).eps * float(weight.abs().max()):
            found.append(name)
    return found


def _updates(model: PeftModel, part: str = ".lora_B.") -> dict[str, torch.nn.Parameter]:
    """B of every layer, or another part of its adapter, by the layer's name."""
    return {
        name.removeprefix("base_model.model.").partition(part)[0]: parameter
        for name, parameter in model.named_parameters()
        if part in name
    }


@contextmanager
def _evaluating(model: PeftModel) -> Iterator[None]:
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


def _check_called(model: PeftModel, pixel_values: torch.Tensor) -> torch.Tensor:
    """See that each layer is called, or mend it; returns the logits."""
    logits, uncalled = answers(model, pixel_values)
    if not uncalled:
        return logits
    if dead := mend_bypassed(model, pixel_values, uncalled):
        raise DeadLayerError(
            f"the adapter on {dead[0]} is dead: the model never calls that layer "
            f"({len(dead)} of {len(lora_layers(model))} layers)"
        )
    return answers(model, pixel_values)[0]


def _check_gradients(model: PeftModel, pixel_values: torch.Tensor) -> None:
    updates, lengths = _updates(model), _updates(model, ".lora_magnitude_vector.")
    try:
        with torch.enable_grad():
            logits = logits_of(model, pixel_values)
            torch.logsumexp(logits, dim=-1).sum().add(logits[:, 0].sum()).backward()
        learning = [*updates.items(), *lengths.items()]
        dead = [name for name, part in learning if part.grad is None or not part.grad.any()]
    finally:
        model.zero_grad(set_to_none=True)
    if dead:
        raise DeadLayerError(
            f"the adapter on {dead[0]} is dead: no gradient reaches it "
            f"({len(dead)} of {len(updates)} layers); the model goes past the layer it wraps"
        )


@contextmanager
@torch.no_grad()
def _trial_values(model: PeftModel) -> Iterator[None]:
    """Give B values for as long as the block lasts."""
    generator = torch.Generator().manual_seed(0)
    updates = _updates(model)
    before = {name: b.detach().clone() for name, b in updates.items()}
    for b in updates.values():
        b.copy_(_TRIAL_STD * torch.randn(b.shape, generator=generator))
    try:
        yield
    finally:
        for name, b in updates.items():
            b.copy_(before[name])


@torch.no_grad()
def _check_answers(model: PeftModel, pixel_values: torch.Tensor, on: torch.Tensor) -> Liveness:
    with delta_off(model):
        off = logits_of(model, pixel_values)
    with _merged(model):
        merged = logits_of(model, pixel_values)
    scale = float(on.abs().max())
    if not torch.isfinite(on).all() or not torch.isfinite(off).all():
        raise AnswersNotFiniteError("the model answers NaN or infinity to a plain clip")
    found = Liveness(
        layers=len(lora_layers(model)),
        on_off_difference=float((on - off).abs().max()),
        merge_difference=float((on - merged).abs().max()),
    )
    if not found.merge_difference <= MERGE_TOLERANCE * scale:
        raise MergeChangesAnswersError(
            f"merged weights answer otherwise than the adapter: logits differ by "
            f"{found.merge_difference:.2g}, at most {MERGE_TOLERANCE * scale:.2g} is rounding"
        )
    needed = max(ALIVE_FACTOR * found.merge_difference, LEAST_CHANGE * scale)
    if found.on_off_difference < needed:
        raise DeadAdapterError(
            f"the adapter is dead: switching it off changes logits by "
            f"{found.on_off_difference:.2g}, and at least {needed:.2g} is needed to tell it from "
            "rounding"
        )
    return found


@contextmanager
@torch.no_grad()
def _merged(model: PeftModel) -> Iterator[None]:
    """Put the update into the weights; afterwards the very weights from before, never a subtraction."""
    layers = lora_layers(model).values()
    weights = [layer.get_base_layer().get_parameter("weight") for layer in layers]
    before = [weight.detach().clone() for weight in weights]
    for layer, weight in zip(layers, weights, strict=True):
        for update in updates_of(layer):
            weight.add_(update)
    try:
        with delta_off(model):
            yield
    finally:
        for weight, values in zip(weights, before, strict=True):
            weight.copy_(values)
