"""Which device PyTorch works on."""

import re

import torch

from lora_deploy.errors import NoSuchDeviceError


def choose(name: str | None = None) -> torch.device:
    """The device that was asked for, or the best there is.

    Raises:
        NoSuchDeviceError: CUDA was asked for and is not there, or the name is unknown.
    """
    if name in (None, "auto"):
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name == "cpu":
        return torch.device("cpu")
    if name == "cuda" or re.fullmatch(r"cuda:\d+", name or ""):
        device = torch.device(name or "cuda")
        there = torch.cuda.device_count()
        if (device.index or 0) >= there:
            raise NoSuchDeviceError(
                f"device {name!r} was asked for, but PyTorch sees {there} CUDA devices"
            )
        return device
    raise NoSuchDeviceError(f"device {name!r} is unknown; allowed: auto, cpu, cuda, cuda:N")
