"""What this computer has: its processor, how much of it may be used, and NVIDIA cards, seen without PyTorch."""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

FEATURES = {
    "avx2": "AVX2",
    "avx512f": "AVX-512",
    "avx512_vnni": "VNNI",
    "avx_vnni": "VNNI",
    "avx512_bf16": "bf16",
    "amx_bf16": "AMX bf16",
    "amx_int8": "AMX int8",
    "asimd": "NEON",
    "sve": "SVE",
    "i8mm": "int8 matrices",
    "bf16": "bf16",
}
"""Flags of Linux, and what they are called: what the fast forms of a model stand on."""

_SMI_SECONDS = 5.0


@dataclass(frozen=True)
class Processor:
    """The processor, as Linux describes it."""

    model: str
    cores: int
    """That programs see."""
    usable_cores: int
    """That this process may run on."""
    share: float | None
    """Cores' worth of time that a control group grants; None where nothing is set."""
    features: tuple[str, ...]

    @property
    def granted_cores(self) -> int:
        """Threads that can really run side by side."""
        if self.share is None:
            return self.usable_cores
        return max(1, min(self.usable_cores, int(self.share + 0.5)))

    def __str__(self) -> str:
        granted = self.usable_cores if self.share is None else min(self.share, self.usable_cores)
        features = ", ".join(self.features) or "no AVX2"
        return f"{self.model}, {granted:g} of {self.cores} cores, {features}"


@dataclass(frozen=True)
class Nvidia:
    """NVIDIA cards whose driver is there."""

    driver: str | None
    cards: tuple[str, ...]
    """Names, where the driver tells them."""

    def __str__(self) -> str:
        cards = ", ".join(self.cards) or "an NVIDIA card"
        return f"{cards} with driver {self.driver}" if self.driver else cards


@dataclass(frozen=True)
class Hardware:
    """What there is to compute on."""

    processor: Processor
    nvidia: Nvidia | None

    def as_dict(self) -> dict[str, Any]:
        """Plain types, for ``--json``."""
        return asdict(self)


def look(root: Path = Path("/")) -> Hardware:
    """Read what the system says; ``root`` is where its files lie."""
    return Hardware(_processor(root), _nvidia(root))


def _processor(root: Path) -> Processor:
    text = _text(root / "proc/cpuinfo")
    model = re.search(r"^(?:model name|Model)\s*:\s*(.+)$", text, re.MULTILINE)
    flags = re.search(r"^(?:flags|Features)\s*:\s*(.+)$", text, re.MULTILINE)
    have = set(flags[1].split()) if flags else set()
    names = dict.fromkeys(name for flag, name in FEATURES.items() if flag in have)
    usable = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else ()
    cores = os.cpu_count() or 1
    return Processor(
        model=model[1].strip() if model else "unknown processor",
        cores=cores,
        usable_cores=len(usable) or cores,
        share=min(_shares(root), default=None),
        features=tuple(names),
    )


def _shares(root: Path) -> Iterator[float]:
    """What each control group above this process grants, in cores."""
    groups = re.findall(r"^\d+:([^:\n]*):(/.*)$", _text(root / "proc/self/cgroup"), re.MULTILINE)
    for controllers, group in groups:
        if not controllers:  # version 2
            for folder in _with_parents(root / "sys/fs/cgroup", group):
                quota, _, period = _text(folder / "cpu.max").partition(" ")
                yield from _quotient(quota, period)
        elif "cpu" in controllers.split(","):
            for folder in _with_parents(root / "sys/fs/cgroup/cpu", group):
                quota = _text(folder / "cpu.cfs_quota_us")
                yield from _quotient(quota, _text(folder / "cpu.cfs_period_us"))


def _with_parents(top: Path, group: str) -> Iterator[Path]:
    folder = top / group.strip("/")
    yield folder
    while folder != top and top in folder.parents:
        folder = folder.parent
        yield folder


def _quotient(quota: str, period: str) -> Iterator[float]:
    try:
        if int(quota) > 0:  # version 1 says -1 for no limit, version 2 "max"
            yield int(quota) / int(period)
    except (ValueError, ZeroDivisionError):
        return


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
        return Nvidia(driver[1] if driver else None, cards)
    return None


def _cards_of_smi() -> tuple[str, ...]:
    """What NVIDIA's own tool lists; some containers have it and no files of the driver."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return ()
    try:
        said = subprocess.run(
            [tool, "-L"], capture_output=True, text=True, timeout=_SMI_SECONDS, check=True
        ).stdout
    except (OSError, ValueError, subprocess.SubprocessError):
        return ()
    return tuple(re.findall(r"^GPU \d+: (.+?)(?: \(UUID.*)?$", said, re.MULTILINE))


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
