"""Whether all forms fit into memory at once, and in which groups they run where they do not."""

from collections.abc import Sequence
from pathlib import Path

from lora_deploy.bench.forms import MeasuredForm

_MEMINFO = Path("/proc/meminfo")
_CGROUP = Path("/sys/fs/cgroup")

TIMES_FILE = 4
"""A runtime holds the file, its parsed graph, and weights packed for its kernels."""

PROCESS_BYTES = 300 << 20
"""A process with its packages, and the one that decodes for it."""

SHARE = 0.9
"""Of what is free; something else may grow meanwhile."""


def free_bytes(meminfo: Path = _MEMINFO, cgroup: Path = _CGROUP) -> int | None:
    """Memory that can be had: the computer's, or what is left of a container's. None: not known."""
    found = [_of_computer(meminfo), _of_container(cgroup)]
    return min((value for value in found if value is not None), default=None)


def _of_computer(meminfo: Path) -> int | None:
    try:
        for line in meminfo.read_text().splitlines():
            name, _, value = line.partition(":")
            if name == "MemAvailable":
                return int(value.split()[0]) << 10
    except (OSError, ValueError, IndexError):
        pass
    return None


def _of_container(cgroup: Path) -> int | None:
    try:
        limit = (cgroup / "memory.max").read_text().strip()
        used = int((cgroup / "memory.current").read_text())
        return None if limit == "max" else max(0, int(limit) - used)
    except (OSError, ValueError):
        return None


def needed_bytes(form: MeasuredForm) -> int:
    """A generous guess of what measuring a form takes."""
    return TIMES_FILE * form.file_bytes + PROCESS_BYTES


def groups(
    forms: Sequence[MeasuredForm],
    beside_all: Sequence[MeasuredForm],
    free: int | None,
) -> list[list[MeasuredForm]]:
    """Part the forms so that each group fits; a form that fits nowhere is tried nearly alone.

    Args:
        forms: In the order in which they are measured.
        beside_all: What every group holds, first: the reference and the matrix peaks.
        free: As `free_bytes`; None puts all into one group.
    """
    others = [form for form in forms if form not in beside_all]
    if free is None or not others:
        return [[*beside_all, *others]]
    room = free * SHARE - sum(needed_bytes(form) for form in beside_all)
    parted: list[list[MeasuredForm]] = []
    left = 0.0
    for form in others:
        needed = needed_bytes(form)
        if not parted or needed > left:
            parted.append([*beside_all])
            left = room
        parted[-1].append(form)
        left -= needed
    return parted
