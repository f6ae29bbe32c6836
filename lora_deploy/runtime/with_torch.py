"""How PyTorch is asked to run a model: device and precision, looked at before the model is opened."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from lora_deploy.artifact.bundle import Precision
from lora_deploy.clips.contract import PixelContract
from lora_deploy.extras import import_backend
from lora_deploy.runtime.base import Backend

TORCH_PACKAGES = ("torch", "transformers", "peft")
"""What the forms by PyTorch need."""


@dataclass(frozen=True)
class Opened:
    """A model of PyTorch, in memory of this computer."""

    model: Any
    contract: PixelContract
    form: str
    """Which form of the trained model it is."""


@dataclass(frozen=True)
class WithTorch:
    """What was asked for beside the model."""

    device: str | None = None
    batch_size: int = 1
    precision: Precision = "fp32"
    is_compiled: bool = False

    @property
    def names_card(self) -> bool:
        """Whether a card was asked for."""
        return self.device not in (None, "auto", "cpu")

    def run(self, opening: Callable[[], Opened]) -> Backend:
        """A model with PyTorch, once it is known that it can be run so.

        Raises:
            MissingPackageError: PyTorch is not installed.
            NoSuchDeviceError: The device is not there.
            BackendCannotError: PyTorch does not run models in that precision here.
            PrecisionNotHereError: The device does not compute in it.
        """
        purpose = "to run with PyTorch"
        eager = import_backend("lora_deploy.runtime.eager", *TORCH_PACKAGES, purpose=purpose)
        devices = import_backend("lora_deploy.device", "torch", purpose=purpose)
        device = devices.choose(self.device)
        eager.check_precision(self.precision, device)
        opened = opening()
        backend: Backend = eager.on_device(
            opened.model,
            opened.contract,
            form=opened.form,
            batch_size=self.batch_size,
            device=device,
            precision=self.precision,
            is_compiled=self.is_compiled,
        )
        return backend
