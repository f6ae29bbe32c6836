"""Which versions of which packages are at work: read from their metadata, nothing is imported."""

import platform
from importlib.metadata import PackageNotFoundError, version

PACKAGES = (
    "lora-deploy", "torch", "transformers", "peft", "onnx", "onnxruntime", "onnxruntime-gpu",
    "openvino", "tensorrt", "av", "decord2", "numpy", "Pillow", "safetensors",
)  # fmt: skip


def installed_versions() -> dict[str, str]:
    """Python's version and that of each of `PACKAGES` that is installed."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
