"""For which device PyTorch and its companions were built: read from their files, nothing is imported."""

import platform
import re
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from lora_deploy.doctor.complaint import Complaint
from lora_deploy.doctor.hardware import Nvidia
from lora_deploy.doctor.packages import Package, look_up

COMPANIONS = ("torchvision", "torchaudio", "torchcodec")
"""Packages with code that is linked against PyTorch's."""

_INDEX = "https://download.pytorch.org/whl"


def build_of_torch() -> str | None:
    """``cpu``, or a device's name and version as in ``cuda 13.0``; None where it can't be told."""
    try:
        path = Path(str(distribution("torch").locate_file("torch/version.py")))
        text = path.read_text(encoding="utf-8")
    except (PackageNotFoundError, OSError, UnicodeError):
        return None
    found = dict(re.findall(r"^(cuda|hip|xpu)\b[^=\n]*=\s*(\S+)", text, re.MULTILINE))
    if not found:
        return None
    built = (
        f"{device} {told.strip(chr(34) + chr(39))}"
        for device, told in found.items()
        if told != "None"
    )
    return next(built, "cpu")


def complaints(nvidia: Nvidia | None) -> Iterator[Complaint]:
    """A build for the CPU beside a card, and builds that can't be loaded together."""
    torch = look_up("torch")
    build = build_of_torch()
    if not isinstance(torch, Package) or build is None:
        return
    if build == "cpu" and nvidia is not None:
        yield Complaint(
            "gpu-unused",
            f"{nvidia} is here, and torch {torch.version} is a build for the CPU, so all trains there",
            'type: pip uninstall -y torch && pip install "torch>=2.10" (PyPI\'s own build is for '
            "NVIDIA cards)",
        )
    for name in COMPANIONS:
        companion = look_up(name)
        if isinstance(companion, Package):
            theirs = _build_of_companion(companion)
            if theirs is not None and theirs != _short(build):
                yield Complaint(
                    "unlike-builds",
                    f"torch {torch.version} is a build for {_short(build)}, {name} "
                    f"{companion.version} one for {theirs}: importing both fails",
                    f"type: pip install --force-reinstall --no-deps {name}=={companion.version.public} "
                    f"--index-url {_INDEX}/{_short(build)}, or take {name} out: pip uninstall -y {name}",
                )


def _short(build: str) -> str:
    """As wheels are labelled: ``cuda 13.0`` is ``cu130``."""
    device, _, version = build.partition(" ")
    digits = "".join(version.split(".")[:2])
    return {"cuda": f"cu{digits}", "hip": f"rocm{version}"}.get(device, device)


def _build_of_companion(companion: Package) -> str | None:
    """From the label of its wheel; PyPI's have none, and are for CUDA on x86-64 Linux."""
    label = companion.version.local
    if label and re.fullmatch(r"cpu|cu\d+", label):
        return label
    torch = look_up("torch")
    if label is None and isinstance(torch, Package) and torch.version.local == "cpu":
        on_x86_linux = platform.system() == "Linux" and platform.machine() == "x86_64"
        return "CUDA" if on_x86_linux else None
    return None
