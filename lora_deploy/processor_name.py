"""What kind of processor this computer has, for figures that mean nothing without it."""

import platform
from pathlib import Path

from lora_deploy.cores import usable_cores

_CPU_INFO = Path("/proc/cpuinfo")
_TELLING = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_bf16", "amx_int8")


def processor_name(cpu_info: Path = _CPU_INFO) -> str:
    """Model, cores that may be used, and the instructions that decide which precision is fast."""
    fields: dict[str, str] = {}
    try:
        for line in cpu_info.read_text(encoding="utf-8", errors="replace").splitlines():
            key, _, value = line.partition(":")
            fields.setdefault(key.strip(), value.strip())
    except OSError:
        pass
    model = fields.get("model name") or platform.processor() or platform.machine()
    there = set(fields.get("flags", "").split())
    telling = [flag for flag in _TELLING if flag in there]
    cores = usable_cores()
    told = f"{model}, {cores} core{'s' if cores != 1 else ''}"
    return f"{told}, {' '.join(telling)}" if telling else told
