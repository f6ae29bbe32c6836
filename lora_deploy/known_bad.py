"""Versions of libraries that give a plausible, wrong result, or run code from a file of weights: refused by name."""

from collections.abc import Mapping
from dataclasses import dataclass

from packaging.version import Version

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

    def holds(self, version: str) -> bool:
        """Whether a version lies inside."""
        return Version(self.since) <= Version(version) < Version(self.until)


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


def complaints(versions: Mapping[str, str] | None = None) -> tuple[str, ...]:
    """A line for each installed library that lies inside a window; empty where all is well."""
    found = installed_versions() if versions is None else versions
    return tuple(
        f"{window.package} {found[window.package]} is known to be bad: {window.fault}; "
        f'type: pip install "{window.install}"'
        for window in WINDOWS
        if window.package in found and window.holds(found[window.package])
    )


def refuse_known_bad(versions: Mapping[str, str] | None = None) -> None:
    """Stop before a wrong result, where an installed library is known to give one.

    Raises:
        KnownBadLibraryError: Names the library, what goes wrong and what to install.
    """
    if lines := complaints(versions):
        raise KnownBadLibraryError(lines[0])
