"""What this computer has: its processor, how much of it may be used, and NVIDIA cards, seen without PyTorch."""

import re
import shutil
import subprocess
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lora_deploy.processor import Processor, read_processor

_SMI_SECONDS = 5.0


@dataclass(frozen=True)
class Nvidia:
    """NVIDIA cards whose driver is there."""

    driver: str | None
    cards: tuple[str, ...]
    """Names, where the driver tells them."""
    capabilities: tuple[str, ...] = ()
    """Compute capability of each, as ``8.6``, where NVIDIA's own tool tells them."""

    def __str__(self) -> str:
        known = len(self.capabilities) == len(self.cards)
        kinds = [f" (sm{one.replace('.', '')})" for one in self.capabilities]
        named = [f"{card}{kinds[at] if known else ''}" for at, card in enumerate(self.cards)]
        cards = ", ".join(named) or "an NVIDIA card"
        return f"{cards} with driver {self.driver}" if self.driver else cards


@dataclass(frozen=True)
class Hardware:
    """What there is to compute on."""

    processor: Processor
    nvidia: Nvidia | None

    def as_dict(self) -> dict[str, Any]:
        """Plain types, for ``--json``."""
        processor = asdict(self.processor)
        processor["features"] = list(self.processor.features)
        del processor["flags"]
        return {"processor": processor, "nvidia": asdict(self.nvidia) if self.nvidia else None}


def look(root: Path = Path("/")) -> Hardware:
    """Read what the system says; ``root`` is where its files lie."""
    return Hardware(read_processor(root), _nvidia(root))


def _nvidia(root: Path) -> Nvidia | None:
    version = _text(root / "proc/driver/nvidia/version")
    driver = re.search(r"Kernel Module\D+?(\d+\.\d+(?:\.\d+)?)", version.replace("x86_64", ""))
    cards = tuple(
        found[1].strip()
        for path in sorted((root / "proc/driver/nvidia/gpus").glob("*/information"))
        if (found := re.search(r"^Model:\s*(.+)$", _text(path), re.MULTILINE))
    )
    cards = cards or _cards_of_smi()
    if cards or version or (root / "dev/nvidiactl").exists():
        told = _smi("--query-gpu=compute_cap", "--format=csv,noheader")
        capabilities = tuple(re.findall(r"^\s*(\d{1,2}\.\d)\s*$", told, re.MULTILINE))
        return Nvidia(driver[1] if driver else _driver_of_smi(), cards, capabilities)
    return None


def _cards_of_smi() -> tuple[str, ...]:
    """What NVIDIA's own tool lists; some containers have it and no files of the driver."""
    return tuple(re.findall(r"^GPU \d+: (.+?)(?: \(UUID.*)?$", _smi("-L"), re.MULTILINE))


def _driver_of_smi() -> str | None:
    told = _smi("--query-gpu=driver_version", "--format=csv,noheader")
    found = re.search(r"^\s*(\d+\.\d+(?:\.\d+)?)\s*$", told, re.MULTILINE)
    return found[1] if found else None


def _smi(*options: str) -> str:
    """What the tool says; empty where it is not there, or fails."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return ""
    try:
        return subprocess.run(
            [tool, *options], capture_output=True, text=True, timeout=_SMI_SECONDS, check=True
        ).stdout
    except (OSError, ValueError, subprocess.SubprocessError):
        return ""


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
