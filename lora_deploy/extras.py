"""Which extra brings which package, and the line to type when one is missing."""

import importlib
import importlib.util
from types import ModuleType

from lora_deploy.errors import MissingPackageError

EXTRA_OF = {
    "torch": "train",
    "transformers": "train",
    "peft": "train",
    "accelerate": "train",
    "tensorboard": "train",
    "matplotlib": "train",
    "gradio": "demo",
    "yt_dlp": "demo",
    "safehttpx": "demo",
    "prometheus_client": "demo",
    "fastapi": "serve",
    "uvicorn": "serve",
    "python_multipart": "serve",
    "onnx": "export",
    "onnxscript": "export",
    "onnxruntime": "cpu",
    "openvino": "cpu",
    "tensorrt": "gpu",
    "tensorrt_rtx": "rtx",
    "pyarrow": "cpu",
    "decord": "decord",
}
"""Import name of a package to the extra of this project that installs it."""


def is_installed(package: str) -> bool:
    """Whether ``package`` can be found, without importing it."""
    return importlib.util.find_spec(package) is not None


def require(*packages: str, purpose: str) -> None:
    """Check that optional packages are there, before work that needs them begins.

    Args:
        packages: Import names, each a key of `EXTRA_OF`.
        purpose: What they are needed for, as in "to train".

    Raises:
        MissingPackageError: Names what is missing and the pip line that installs it.
    """
    missing = [package for package in packages if not is_installed(package)]
    if missing:
        extras = ",".join(sorted({EXTRA_OF[package] for package in missing}))
        raise MissingPackageError(
            f"{', '.join(missing)} {'is' if len(missing) == 1 else 'are'} needed {purpose} "
            f'and not installed: pip install "lora-deploy[{extras}]"'
        )


def import_backend(module: str, *packages: str, purpose: str) -> ModuleType:
    """Import one of our own modules that stands on optional packages.

    Raises:
        MissingPackageError: One of ``packages`` is not installed.
    """
    require(*packages, purpose=purpose)
    return importlib.import_module(module)
