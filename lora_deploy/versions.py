"""Which versions of which packages are at work: read from their metadata, nothing is imported."""

import platform
from importlib.metadata import PackageNotFoundError, version

PACKAGES = (
    "lora-deploy", "torch", "torchvision", "torchcodec", "transformers", "peft", "onnx", "onnxruntime",
    "onnxruntime-gpu", "openvino", "nncf", "tensorrt", "tensorrt-rtx",
    "cuda-bindings", "av", "decord", "decord2", "numpy",
    "Pillow", "safetensors", "gradio", "yt-dlp",
)  # fmt: skip


def installed_versions() -> dict[str, str]:
    """Python's version and that of each of `PACKAGES` that is installed and says which it is."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            told: str | None = version(package)
        except (PackageNotFoundError, KeyError):
            continue
        if told:  # torn metadata has none
            found[package] = told
    return found
