"""What of the installed packages runs models on NVIDIA cards: providers, engines' runtimes, the driver's binding."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from lora_deploy.doctor.complaint import Complaint
from lora_deploy.doctor.hardware import Nvidia
from lora_deploy.doctor.packages import Package, look_up
from lora_deploy.doctor.trials import attempt

RUNTIMES = ("tensorrt", "tensorrt-rtx")
BINDING = "cuda-bindings"
PLUGIN = "onnxruntime-ep-nv-tensorrt-rtx"
_PLUGINS = (f"{PLUGIN}-cu13", f"{PLUGIN}-cu12", PLUGIN)

_NOT_FOR_CARDS = {"CPUExecutionProvider", "AzureExecutionProvider"}


@dataclass(frozen=True)
class OnCards:
    """What could run a model on a card; whether it does shows when it is asked to."""

    providers: tuple[str, ...]
    """Of ONNX Runtime, those for cards that its build has."""
    packages: dict[str, str]
    """Versions of engines' runtimes, of the driver's binding, and of ONNX Runtime's plug-in."""

    def __str__(self) -> str:
        words = [f"ONNX Runtime's {name}" for name in self.providers]
        words += [f"{name} {version}" for name, version in self.packages.items()]
        return ", ".join(words) or "nothing beside PyTorch"

    def as_dict(self) -> dict[str, Any]:
        """Plain types, for ``--json``."""
        return {"providers": list(self.providers), "packages": self.packages}


def look() -> OnCards:
    """Read what is installed; ONNX Runtime is asked in a process of its own."""
    packages = {}
    for name in (*RUNTIMES, BINDING, *_PLUGINS):
        found = look_up(name)
        if isinstance(found, Package):
            packages[name] = str(found.version)
    return OnCards(_providers(), packages)


def _providers() -> tuple[str, ...]:
    if look_up("onnxruntime") is None and look_up("onnxruntime-gpu") is None:
        return ()
    answer = attempt("providers").answer or ""
    return tuple(one for one in answer.split(",") if one and one not in _NOT_FOR_CARDS)


def complaints(found: OnCards, nvidia: Nvidia | None) -> Iterator[Complaint]:
    """What keeps a runtime that is there from the card that is there."""
    runtimes = [name for name in RUNTIMES if name in found.packages]
    if nvidia is not None and runtimes and BINDING not in found.packages:
        extra = "rtx" if runtimes == ["tensorrt-rtx"] else "gpu"
        yield Complaint(
            "no-binding",
            f"{nvidia} is here, and {' and '.join(runtimes)} without {BINDING}, so engines are "
            "built and not run",
            f'type: pip install "lora-deploy[{extra}]"',
            serious=False,
        )
