"""The processes of one training, as torchrun or accelerate start them: the first writes, the others read what it wrote."""

import atexit
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
from accelerate import PartialState  # type: ignore[import-untyped]

_LONGEST_WAIT = timedelta(days=7)
"""The first process may decode for long. One that fails is noticed by whoever started them all."""


@dataclass(frozen=True)
class Team:
    """This process among those of a training; alone by default."""

    rank: int = 0
    size: int = 1

    @property
    def is_first(self) -> bool:
        """Whether it is this one that decodes, writes and talks."""
        return self.rank == 0

    def wait(self) -> None:
        """Until every process has come to the same point."""
        if self.size > 1:
            torch.distributed.barrier()

    @contextmanager
    def one_talks(self) -> Iterator[None]:
        """All but the first are silent, unless something goes wrong."""
        logger = logging.getLogger("lora_deploy")
        level = logger.level
        if not self.is_first:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            logger.setLevel(level)


def join(*, use_cpu: bool) -> Team:
    """Meet the other processes, if this one was started as one of several."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return Team()
    was_met = torch.distributed.is_initialized()
    state = PartialState(cpu=use_cpu, timeout=_LONGEST_WAIT)
    if not was_met:
        atexit.register(_part)
    return Team(state.process_index, state.num_processes)


def is_first_process() -> bool:
    """Whether this process is the one that talks, before or after a training too."""
    return os.environ.get("RANK", "0") == "0"


def _part() -> None:
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
