"""More threads than processor time: a control group's share, or a setting that asks for too many."""

import os
from collections.abc import Iterator, Mapping

from lora_deploy.doctor.complaint import Complaint
from lora_deploy.processor import Processor

SETTINGS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "OMP_THREAD_LIMIT")
"""Variables by which PyTorch, NumPy and OpenVINO's helpers choose their threads."""


def complaints(
    processor: Processor, environment: Mapping[str, str] = os.environ
) -> Iterator[Complaint]:
    """Slow, not wrong: neither is serious."""
    granted = processor.granted_cores
    asked = {name: _number(environment.get(name, "")) for name in SETTINGS}
    too_many = {name: threads for name, threads in asked.items() if threads > granted}
    too_many.pop("OMP_THREAD_LIMIT", None)  # a limit asks for nothing
    told = (
        f"{granted} of {processor.cores} cores' time"
        if granted < processor.cores
        else f"{granted} {'core' if granted == 1 else 'cores'}"
    )
    if too_many:
        settings = ", ".join(f"{name}={threads}" for name, threads in too_many.items())
        yield Complaint(
            "threads",
            f"{settings}, but this process gets {told}: threads wait for each other",
            f"type: export {' '.join(f'{name}={granted}' for name in too_many)}",
            serious=False,
        )
    elif granted < processor.usable_cores and not (
        asked["OMP_NUM_THREADS"] or asked["OMP_THREAD_LIMIT"]
    ):
        yield Complaint(
            "threads",
            f"this process gets {told}, and libraries start a thread for each of "
            f"{processor.usable_cores}: they are halted again and again",
            f"type: export OMP_NUM_THREADS={granted}",
            serious=False,
        )


def _number(text: str) -> int:
    """Of threads; 0 where nothing is said. ``OMP_NUM_THREADS=4,2`` names inner levels behind the comma."""
    first = text.partition(",")[0].strip()
    return int(first) if first.isdecimal() else 0
