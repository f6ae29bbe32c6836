"""How many processor cores this process may use: what is shared out between decoding and inference."""

import os
from pathlib import Path

_CGROUP = Path("/sys/fs/cgroup")


def usable_cores(cgroup: Path = _CGROUP) -> int:
    """Cores that the scheduler gives this process: its affinity, cut by a container's share.

    Args:
        cgroup: Where the container's limits stand (cgroup v2, ``cpu.max``).
    """
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    share = cpu_share(cgroup)
    return cores if share is None else max(1, min(cores, int(share)))


def cpu_share(cgroup: Path = _CGROUP) -> float | None:
    """Cores' worth of time that a container is limited to; None where it is not."""
    try:
        quota, period = (cgroup / "cpu.max").read_text().split()
        share = None if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError, ZeroDivisionError):
        return None
    return share if share is None or share > 0 else None
