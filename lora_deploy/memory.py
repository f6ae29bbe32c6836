"""The most memory that a process has ever held, as Linux counts it."""

import resource
from pathlib import Path


def peak_memory_bytes(pid: str = "self") -> int:
    """Resident bytes at the highest; 0 where the kernel does not say.

    Not ``ru_maxrss``: that starts with what the process held that started this one.
    """
    try:
        status = Path("/proc", pid, "status").read_text()
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10 if pid == "self" else 0
    lines = [line for line in status.splitlines() if line.startswith("VmHWM:")]
    return int(lines[0].split()[1]) << 10 if lines else 0
