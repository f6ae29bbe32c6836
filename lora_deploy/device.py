"""Which device PyTorch works on."""

import torch

from lora_deploy.errors import BackendError


def choose(name: str | None = None) -> torch.device:
    """The device that was asked for, or the best there is.

    Raises:
        BackendError: CUDA was asked for and is not there, or the name is unknown.
    """
    if name in (None, "auto"):
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name == "cpu":
        return torch.device("cpu")
    if name == "cuda" or (name or "").startswith("cuda:"):
        if not torch.cuda.is_available():
            raise BackendError(
                f"device {name!r} was asked for, but PyTorch sees no CUDA device; use cpu"
            )
        return torch.device(name or "cuda")
    raise BackendError(f"device {name!r} is unknown; allowed: auto, cpu, cuda, cuda:N")
