"""The processor of this computer, as Linux describes it, and how much of it this process may use."""

import os
import platform
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

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

_BF16 = frozenset({"amx_bf16", "avx512_bf16", "avx_ne_convert", "bf16"})
_INT8_DOTS = frozenset({"amx_int8", "avx512_vnni", "avx_vnni", "asimddp", "i8mm"})


@dataclass(frozen=True)
class Processor:
    """What computes here."""

    model: str
    cores: int
    """That programs see."""
    usable_cores: int
    """That this process may run on."""
    share: float | None = None
    """Cores' worth of time that a control group grants; None where nothing is set."""
    flags: frozenset[str] = field(default=frozenset(), repr=False)
    """As ``/proc/cpuinfo`` names them; empty where there is no such file."""

    @property
    def granted_cores(self) -> int:
        """Threads that can really run side by side."""
        if self.share is None:
            return self.usable_cores
        return max(1, min(self.usable_cores, int(self.share + 0.5)))

    @property
    def features(self) -> tuple[str, ...]:
        """The instructions of `FEATURES` that it has, by name."""
        return tuple(dict.fromkeys(name for flag, name in FEATURES.items() if flag in self.flags))

    @property
    def has_bf16(self) -> bool:
        """Whether it multiplies bfloat16 in hardware."""
        return bool(self.flags & _BF16)

    @property
    def has_int8_dots(self) -> bool:
        """Whether it has VNNI or the like: sums of products of 8-bit numbers."""
        return bool(self.flags & _INT8_DOTS)

    def __str__(self) -> str:
        granted = self.usable_cores if self.share is None else min(self.share, self.usable_cores)
        features = ", ".join(self.features) or "no AVX2"
        return f"{self.model}, {granted:g} of {self.cores} cores, {features}"


def read_processor(root: Path = Path("/")) -> Processor:
    """Read what the system says of its first core; ``root`` is where its files lie."""
    text = _text(root / "proc/cpuinfo")
    model = re.search(r"^(?:model name|Model)[ \t]*:[ \t]*(\S.*)$", text, re.MULTILINE)
    flags = re.search(r"^(?:flags|Features)[ \t]*:[ \t]*(.+)$", text, re.MULTILINE)
    usable = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else ()
    cores = os.cpu_count() or 1
    return Processor(
        model=model[1].strip() if model else platform.machine() or "unknown processor",
        cores=cores,
        usable_cores=len(usable) or cores,
        share=min(_shares(root), default=None),
        flags=frozenset(flags[1].split()) if flags else frozenset(),
    )


def usable_cores() -> int:
    """Threads of this process that can really run side by side: for decoding and for inference."""
    return read_processor().granted_cores


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


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
