"""Versions of libraries that give a plausible, wrong result, or run code from a file of weights: refused by name."""

from collections.abc import Mapping
from dataclasses import dataclass

from packaging.version import InvalidVersion, Version

from lora_deploy.errors import KnownBadLibraryError
from lora_deploy.versions import installed_versions


@dataclass(frozen=True)
class Window:
    """Versions from ``since`` on and before ``until``."""

    package: str
    since: str
    until: str
    fault: str
    """What goes wrong, as a sentence's end."""
    install: str
    """What to install instead, as pip takes it."""
    uninstall: str = ""
    """What must go first."""
    beside: tuple[str, str] | None = None
    """Another package and its first version that the fault needs beside it."""

    def holds(self, versions: Mapping[str, str]) -> bool:
        """Whether what is installed lies inside."""
        version = _parsed(versions.get(self.package))
        if version is None or not Version(self.since) <= version < Version(self.until):
            return False
        if self.beside is None:
            return True
        other = _parsed(versions.get(self.beside[0]))
        return other is not None and other >= Version(self.beside[1])


def _parsed(version: str | None) -> Version | None:
    try:
        return Version(version or "")
    except InvalidVersion:
        return None  # torn metadata; `doctor` tells of it


@dataclass(frozen=True)
class InsideWindow:
    """An installed library that lies inside a window."""

    window: Window
    version: str

    @property
    def package(self) -> str:
        """The library's name."""
        return self.window.package

    @property
    def found(self) -> str:
        """What is installed, and what goes wrong with it."""
        return f"{self.package} {self.version} is known to be bad: {self.window.fault}"

    @property
    def remedy(self) -> str:
        """The line to type."""
        first = f"pip uninstall -y {self.window.uninstall} && " if self.window.uninstall else ""
        return f'type: {first}pip install "{self.window.install}"'

    def __str__(self) -> str:
        return f"{self.found}; {self.remedy}"


WINDOWS = (
    Window(
        "transformers", "0", "5.6",
        "its VideoMAE goes past LoRA on query and value, so that the adapter learns nothing",
        "transformers>=5.18",
    ),
    Window(
        "transformers", "5.6", "5.18",
        "its VideoMAE drops the biases of query and value when it opens a published checkpoint",
        "transformers>=5.18",
    ),
    Window(
        "torch", "0", "2.10",
        "a file of weights can run code in it even with weights_only (CVE-2025-32434, "
        "CVE-2026-24747)",
        "torch>=2.10",
    ),
    Window(
        "safetensors", "0", "0.8",
        "a full disk or a kill while it writes destroys the older file",
        "safetensors>=0.8",
    ),
    Window(
        "onnx", "0", "1.21",
        "it follows links in a graph's external data to other files of the computer",
        "onnx>=1.21",
    ),
)  # fmt: skip
"""In force wherever a model is opened."""

TOLD = (
    Window(
        "onnxruntime", "0", "1.27",
        "it can't use TensorRT 11, which is installed beside it",
        "onnxruntime>=1.27",
        beside=("tensorrt", "11"),
    ),
    Window(
        "onnxruntime-gpu", "0", "1.27",
        "it can't use TensorRT 11, which is installed beside it",
        "onnxruntime-gpu>=1.27",
        beside=("tensorrt", "11"),
    ),
    Window(
        "gradio", "0", "6.20",
        "the web page's locks were only tried on later versions",
        "gradio>=6.20",
    ),
    Window(
        "av", "0", "18",
        "it brings an older FFmpeg, whose holes a stranger's video may use",
        "av>=18,<19",
    ),
    Window(
        "decord", "0", "1",
        "it brings FFmpeg 4.1.6 of 2020, unpatched and without AV1; decord2 is the maintained one",
        "decord2>=3.4",
        uninstall="decord",
    ),
    Window(
        "yt-dlp", "0", "2025.11.12",
        "it can't call a JavaScript runtime, without which YouTube gives no videos",
        "yt-dlp[default,deno]>=2025.11.12",
    ),
)  # fmt: skip
"""Told by `doctor` only: models open all the same."""


def found_inside(
    versions: Mapping[str, str] | None = None, windows: tuple[Window, ...] = (*WINDOWS, *TOLD)
) -> tuple[InsideWindow, ...]:
    """Each installed library that lies inside a window; empty where all is well."""
    found = installed_versions() if versions is None else versions
    return tuple(
        InsideWindow(window, found[window.package]) for window in windows if window.holds(found)
    )


def refuse_known_bad(versions: Mapping[str, str] | None = None) -> None:
    """Stop before a wrong result, where an installed library is known to give one.

    Raises:
        KnownBadLibraryError: Names the library, what goes wrong and what to install.
    """
    if inside := found_inside(versions, WINDOWS):
        raise KnownBadLibraryError(str(inside[0]))
