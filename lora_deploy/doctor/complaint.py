"""One trap of an environment that was found: which, what was seen, and what to type."""

from dataclasses import dataclass
from typing import Any, Literal

Trap = Literal[
    "onnxruntime-pair",
    "decord-pair",
    "bad-version",
    "gpu-unused",
    "provider-fallback",
    "no-binding",
    "no-javascript",
    "fence",
    "decoder",
    "unmet-requirement",
    "shadowed",
    "threads",
    "no-room",
    "unlike-builds",
    "broken-package",
]
"""Words that stay the same from release to release; ``docs/doctor.md`` explains each."""


@dataclass(frozen=True)
class Complaint:
    """What should be mended, in one line."""

    trap: Trap
    found: str
    remedy: str
    """What to do, with the line to type where one helps."""
    serious: bool = True
    """False where results are right all the same, as with something that is only slow."""
    error: str | None = None
    """The error's name, where the documentation of errors has one."""

    def __str__(self) -> str:
        name = f" [{self.error}]" if self.error else ""
        return f"{self.found}; {self.remedy}{name}"

    def as_dict(self) -> dict[str, Any]:
        """Plain types, for ``--json``."""
        told = {"trap": self.trap, "found": self.found, "remedy": self.remedy}
        return {**told, "serious": self.serious, **({"error": self.error} if self.error else {})}


def one_line(error: BaseException) -> str:
    """What an error says, without its line breaks; the beginning, where it says much."""
    return " ".join(str(error).split())[:200]
