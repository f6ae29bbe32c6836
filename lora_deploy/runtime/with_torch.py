"""How PyTorch is asked to run a model: device and precision, looked at before the model is opened."""

from dataclasses import dataclass
from types import ModuleType
from typing import Any

from lora_deploy.artifact.bundle import Precision
from lora_deploy.clips.contract import PixelContract
from lora_deploy.extras import import_backend
from lora_deploy.runtime.base import Backend

TORCH_PACKAGES = ("torch", "transformers", "peft")
"""What the forms by PyTorch need."""

_PURPOSE = "to run with PyTorch"


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

    def check(self) -> None:
        """See that PyTorch can run a model so, before one is opened.

        Raises:
            MissingPackageError: PyTorch is not installed.
            NoSuchDeviceError: The device is not there.
            BackendCannotError: PyTorch does not run models in that precision here.
            PrecisionNotHereError: The device does not compute in it.
        """
        _eager().check_precision(self.precision, self._chosen())

    def run(self, opened: Opened) -> Backend:
        """A model with PyTorch.

        Raises:
            NoSuchDeviceError: The device is not there.
        """
        backend: Backend = _eager().on_device(
            opened.model,
            opened.contract,
            form=opened.form,
            batch_size=self.batch_size,
            device=self._chosen(),
            precision=self.precision,
            is_compiled=self.is_compiled,
        )
        return backend

    def _chosen(self) -> Any:
        return import_backend("lora_deploy.device", "torch", purpose=_PURPOSE).choose(self.device)


def _eager() -> ModuleType:
    return import_backend("lora_deploy.runtime.eager", *TORCH_PACKAGES, purpose=_PURPOSE)
