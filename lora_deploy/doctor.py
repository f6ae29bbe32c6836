"""What this computer offers and lacks: versions, packages that break each other, decoders and their fence."""

from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from lora_deploy import known_bad
from lora_deploy.clips import proven
from lora_deploy.clips.fence import Fence
from lora_deploy.clips.pool import DecodePool
from lora_deploy.clips.proven import DecoderFinding
from lora_deploy.versions import installed_versions

QUARRELS = (("onnxruntime", "onnxruntime-gpu"), ("decord", "decord2"))
"""Distributions that overwrite each other's files."""


@dataclass(frozen=True)
class Diagnosis:
    """What was found."""

    versions: dict[str, str]
    quarrels: tuple[tuple[str, str], ...]
    """Pairs of `QUARRELS` that are both installed."""
    fence: Fence
    decoders: tuple[DecoderFinding, ...] = ()

    @property
    def complaints(self) -> tuple[str, ...]:
        """What should be mended, a line each; empty where all is well."""
        lines = [
            f"{one} and {other} are both installed and overwrite each other: uninstall both, "
            "then install the one you want"
            for one, other in self.quarrels
        ]
        lines += known_bad.complaints(self.versions)
        if self.fence.missing:
            kept = "still refused" if self.fence.holds else "NOT all refused"
            lines.append(
                f"the fence around the decoder lacks {'; '.join(self.fence.missing)}: a hostile "
                f"video's way to files, network and other processes is {kept}"
            )
        lines += [str(finding) for finding in self.decoders if not finding.is_right]
        return tuple(lines)

    def as_dict(self) -> dict[str, Any]:
        """Plain types, for ``--json``."""
        return {
            "versions": self.versions,
            "fence": {"holds": self.fence.holds, "missing": list(self.fence.missing)},
            "decoders": {one.decoder: str(one) for one in self.decoders},
            "complaints": list(self.complaints),
        }


def examine() -> Diagnosis:
    """Look at the installed packages, and start decoding processes to see their fence and frames."""
    with DecodePool(1) as pool:
        fence = pool.fence()
    return Diagnosis(
        versions=installed_versions(),
        quarrels=tuple(pair for pair in QUARRELS if all(map(_is_there, pair))),
        fence=fence,
        decoders=proven.examine(),
    )


def _is_there(distribution: str) -> bool:
    try:
        version(distribution)
    except PackageNotFoundError:
        return False
    return True
