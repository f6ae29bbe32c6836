"""Prove that an adapter can learn: every wrapped layer is really called and gets a gradient."""

import torch
from peft import PeftModel

from lora_deploy.errors import ModelError
from lora_deploy.model.architectures import logits_of


def check_alive(model: PeftModel, pixel_values: torch.Tensor) -> None:
    """One forward and backward pass; weights, gradients and mode are left as they were.

    Args:
        pixel_values: A batch, [batch, frames, 3, height, width] float32.

    Raises:
        ModelError: Names the first wrapped layer that no gradient reaches. Some attention code
            calls ``F.linear(x, self.qkv.weight)``, past the layer and so past its adapter.
    """
    updates = {
        name.removeprefix("base_model.model.").partition(".lora_B.")[0]: parameter
        for name, parameter in model.named_parameters()
        if ".lora_B." in name
    }
    was_training = model.training
    model.eval()
    try:
        with torch.enable_grad():
            logits = logits_of(model, pixel_values)
            torch.logsumexp(logits, dim=-1).sum().add(logits[:, 0].sum()).backward()
        dead = [
            name
            for name, parameter in updates.items()
            if parameter.grad is None or not parameter.grad.any()
        ]
    finally:
        model.zero_grad(set_to_none=True)
        model.train(was_training)
    if dead:
        raise ModelError(
            f"the adapter on {dead[0]} is dead: no gradient reaches it "
            f"({len(dead)} of {len(updates)} layers); the model goes past the layer it wraps. "
            "Choose other target_modules, or install transformers>=5.18"
        )
