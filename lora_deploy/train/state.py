"""Everything that decides how a training goes on, at the end of an epoch: written and put back.

Trainer's own code does the same, but passes over a missing file without a word, and the weights
then come out differently. Here each part is there or it is an error, and nothing is a pickle of
more than plain tensors and plain types.
"""

import io
import random
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save
from torch import nn
from transformers import TrainerState

from lora_deploy.errors import ResumeMismatchError

WEIGHTS = "weights.safetensors"
OPTIMIZER = "optimizer_state.pt"
SCHEDULER = "scheduler_state.pt"
RANDOM = "random_state.pt"
SCALER = "scaler_state.pt"
"""Only with mixed precision fp16."""
TRAINER_STATE = "trainer_state.json"
"""As transformers calls it, because Trainer reads it itself; and nothing else here is so called."""


def learned(model: nn.Module) -> dict[str, torch.Tensor]:
    """What of a model may be another after a step: the parameters that learn, and all buffers."""
    parameters = {name: tensor for name, tensor in model.named_parameters() if tensor.requires_grad}
    buffers = dict(model.state_dict())
    for name, _ in model.named_parameters(remove_duplicate=False):
        buffers.pop(name, None)
    return {**buffers, **parameters}


def write(
    folder: Path,
    *,
    model: nn.Module,
    optimizer: Any,
    scheduler: Any,
    trainer_state: TrainerState,
) -> None:
    """Write all of it into an empty folder.

    Args:
        folder: Is there, and empty.
        model: Whose weights have learned.
        optimizer: As callbacks are given it; with a ``scaler`` where accelerate scales gradients.
        scheduler: Of the learning rate.
        trainer_state: Counters and logs.

    Raises:
        OSError: The disk is full, or fails.
    """
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in learned(model).items()}
    (folder / WEIGHTS).write_bytes(save(weights))
    _save(optimizer.state_dict(), folder / OPTIMIZER)
    _save(scheduler.state_dict(), folder / SCHEDULER)
    _save(_random_state(), folder / RANDOM)
    if (scaler := _scaler(optimizer)) is not None:
        _save(scaler.state_dict(), folder / SCALER)
    trainer_state.save_to_json(str(folder / TRAINER_STATE))


def size_bytes(model: nn.Module, optimizer: Any) -> int:
    """About what `write` will need, logs not counted."""
    tensors = list(learned(model).values())
    for values in optimizer.state_dict()["state"].values():
        tensors += [value for value in values.values() if isinstance(value, torch.Tensor)]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def put_back_weights(folder: Path, model: nn.Module) -> None:
    """Give a model the weights that were written.

    Raises:
        ResumeMismatchError: They are those of a model with other parts.
    """
    weights = load_file(folder / WEIGHTS)
    places = learned(model)
    strange = [
        name
        for name in sorted(weights.keys() | places.keys())
        if name not in weights or name not in places or weights[name].shape != places[name].shape
    ]
    if strange:
        raise ResumeMismatchError(f"{folder} and the model do not fit each other at {strange[0]}")
    with torch.no_grad():
        for name, tensor in weights.items():
            places[name].copy_(tensor)


def put_back_optimizer(folder: Path, optimizer: Any, scheduler: Any) -> None:
    """Give optimizer, scheduler and gradient scaler the state that was written."""
    optimizer.load_state_dict(_load(folder / OPTIMIZER))
    scheduler.load_state_dict(_load(folder / SCHEDULER))
    if (scaler := _scaler(optimizer)) is not None:
        scaler.load_state_dict(_load(folder / SCALER))


def put_back_random(folder: Path) -> None:
    """Let every source of random numbers go on from where it was.

    What was written on a computer with other CUDA devices leaves those here as they are.
    """
    state = _load(folder / RANDOM)
    version, numbers, gauss_next = state["python"]
    random.setstate((version, tuple(numbers), gauss_next))
    name, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), position, has_gauss, cached))
    torch.set_rng_state(state["torch"])
    if torch.cuda.is_initialized() and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])


def _random_state() -> dict[str, Any]:
    version, numbers, gauss_next = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    return {
        "python": (version, list(numbers), gauss_next),
        "numpy": (
            str(name),
            torch.from_numpy(np.asarray(keys).astype(np.int64)),
            int(position),
            int(has_gauss),
            float(cached),
        ),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else [],
    }


def _scaler(optimizer: Any) -> Any:
    return getattr(optimizer, "scaler", None)  # accelerate's wrapper has it; None without fp16


def _save(state: Any, path: Path) -> None:
    # By way of memory: torch.save forgets what the system said of a full disk, and writes the
    # name of the file into it.
    content = io.BytesIO()
    torch.save(state, content)
    path.write_bytes(content.getbuffer())


def _load(path: Path) -> Any:
    return torch.load(path, map_location="cpu", weights_only=True)
