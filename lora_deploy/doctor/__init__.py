"""What this computer offers and lacks: what is installed and how it fits, decoders, devices, room; each trap by name."""

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora_deploy.doctor import (
    builds,
    decoders,
    hardware,
    links,
    on_cards,
    packages,
    room,
    shadows,
    threads,
    trials,
)
from lora_deploy.doctor.complaint import Complaint, one_line
from lora_deploy.doctor.decoders import Decoding
from lora_deploy.doctor.hardware import Hardware
from lora_deploy.doctor.on_cards import OnCards
from lora_deploy.doctor.room import Room
from lora_deploy.versions import installed_versions

if TYPE_CHECKING:
    from lora_deploy.clips.proven import DecoderFinding

__all__ = ["Complaint", "Diagnosis", "examine"]


@dataclass(frozen=True)
class Diagnosis:
    """What was found."""

    versions: dict[str, str]
    hardware: Hardware
    on_cards: OnCards
    decoding: Decoding
    rooms: tuple[Room, ...]
    traps: tuple[Complaint, ...]
    """All that was found, serious or not."""

    @property
    def decoders(self) -> "tuple[DecoderFinding, ...]":
        """What each installed decoder makes of clips that are known."""
        return self.decoding.findings

    @property
    def complaints(self) -> tuple[str, ...]:
        """What must be mended, a line each; empty where all is well."""
        return tuple(str(one) for one in self.traps if one.serious)

    @property
    def hints(self) -> tuple[str, ...]:
        """What could be better and makes no result wrong, a line each."""
        return tuple(str(one) for one in self.traps if not one.serious)

    def as_dict(self) -> dict[str, Any]:
        """Plain types, for ``--json``."""
        fence = self.decoding.fence
        return {
            "versions": self.versions,
            "hardware": self.hardware.as_dict(),
            "on_cards": self.on_cards.as_dict(),
            "fence": fence and {"holds": fence.holds, "missing": list(fence.missing)},
            "decoders": {one.decoder: str(one) for one in self.decoders},
            "ffmpeg": self.decoding.ffmpeg,
            "room": [
                {"use": one.use, "folder": str(one.folder), "free_bytes": one.free_bytes}
                for one in self.rooms
            ],
            "traps": [one.as_dict() for one in self.traps],
            "complaints": list(self.complaints),
            "hints": list(self.hints),
        }


def examine(root: Path = Path("/")) -> Diagnosis:
    """Look at what is installed, and try in processes of their own what only a trial can tell.

    No library is imported here and none can break this: what is broken is told.

    Args:
        root: Where the system's own files lie (``/proc``, ``/dev``, ``/sys``).
    """
    there = hardware.look(root)
    card = there.nvidia
    with ThreadPoolExecutor(4) as side_by_side:
        decoding = side_by_side.submit(decoders.look)
        for_cards = side_by_side.submit(on_cards.look)
        tried = [
            side_by_side.submit(_told, look, card)
            for look in (trials.of_torch, trials.of_onnxruntime, trials.of_openvino)
        ]
        rooms = room.look(root)
        traps = [
            *_told(packages.complaints),
            *_told(builds.complaints, card),
            *_told(shadows.complaints),
            *_told(links.complaints),
        ]
        for one in tried:
            traps += one.result()
        traps += _told(on_cards.complaints, for_cards.result(), card)
        traps += _told(decoders.complaints, decoding.result())
    traps += [*_told(threads.complaints, there.processor), *_told(room.complaints, rooms)]
    return Diagnosis(
        installed_versions(), there, for_cards.result(), decoding.result(), rooms, tuple(traps)
    )


def _told(look: Callable[..., Iterable[Complaint]], *arguments: Any) -> list[Complaint]:
    """What a part finds; an environment that is odder than it knows costs that part alone."""
    try:
        return list(look(*arguments))
    except Exception as error:
        part = look.__module__.rpartition(".")[2]
        found = f"{part} can't be looked at: {type(error).__name__}: {one_line(error)}"
        return [Complaint("broken-package", found, "please report it with `lora-deploy --version`")]
