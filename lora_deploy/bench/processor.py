"""What the processor can do, as the kernel tells it."""

from dataclasses import dataclass
from pathlib import Path

_CPUINFO = Path("/proc/cpuinfo")

_BF16 = frozenset({"amx_bf16", "avx512_bf16", "avx_ne_convert", "bf16"})
_INT8_DOTS = frozenset({"amx_int8", "avx512_vnni", "avx_vnni", "asimddp", "i8mm"})


@dataclass(frozen=True)
class Processor:
    """The processor of this computer."""

    name: str
    flags: frozenset[str]
    """As ``/proc/cpuinfo`` names them; empty where there is no such file."""

    @property
    def has_bf16(self) -> bool:
        """Whether it multiplies bfloat16 in hardware."""
        return bool(self.flags & _BF16)

    @property
    def has_int8_dots(self) -> bool:
        """Whether it has VNNI or the like: sums of products of 8-bit numbers."""
        return bool(self.flags & _INT8_DOTS)

    @property
    def has_amx(self) -> bool:
        """Whether it has Intel's matrix unit."""
        return "amx_tile" in self.flags

    def describe(self) -> str:
        """The name, and what matters here."""
        able = [
            word
            for word, there in (
                ("AMX", self.has_amx),
                ("bf16", self.has_bf16),
                ("8-bit dot products", self.has_int8_dots),
            )
            if there
        ]
        return f"{self.name} ({', '.join(able) or 'neither bf16 nor 8-bit dot products'})"


def read_processor(cpuinfo: Path = _CPUINFO) -> Processor:
    """Read the first core's entry."""
    try:
        text = cpuinfo.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return Processor("an unknown processor", frozenset())
    fields: dict[str, str] = {}
    for line in text.partition("\n\n")[0].splitlines():
        key, _, value = line.partition(":")
        fields[key.strip()] = value.strip()
    flags = fields.get("flags", fields.get("Features", ""))
    return Processor(fields.get("model name", "an unknown processor"), frozenset(flags.split()))
