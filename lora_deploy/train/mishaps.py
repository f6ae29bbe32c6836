"""What ends a training from outside, told in one line with what to do: memory that is full, a file that is gone."""

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from lora_deploy.config import Settings
from lora_deploy.errors import FileVanishedError, LoraDeployError, MemoryFullError
from lora_deploy.train import checkpoints

_MEMORY_WORDS = re.compile(
    r"out of memory|can(?:'|no)t allocate memory|unable to allocate|bad_alloc|_ALLOC_FAILED"
    r"|could not create a memory object"  # oneDNN's
    r"|killed by signal: (?:Killed|Bus error)",  # a loader's process, ended by the kernel
    re.IGNORECASE,
)
_ASKED = re.compile(
    r"(?:tried to allocate|unable to allocate) (\d+(?:\.\d+)?) ?(bytes|[KMGTP]iB)", re.IGNORECASE
)
_UNITS = {
    unit: 1 << (10 * power)
    for power, unit in enumerate(("bytes", "kib", "mib", "gib", "tib", "pib"))
}
_CARD_WORDS = re.compile(r"cuda|cublas|cudnn|GPU \d", re.IGNORECASE)


@contextmanager
def memory_named(settings: Settings, out: Path, *, blocks: int | None = None) -> Iterator[None]:
    """Turn what PyTorch, numpy and Python raise without memory into one line of advice.

    Args:
        settings: Of the training; what is advised is counted from them.
        out: Its RUN folder.
        blocks: Of the base; None where it is not open yet.

    Raises:
        MemoryFullError: The memory of the computer or of the card was full.
    """
    try:
        yield
    except LoraDeployError:
        raise
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        card = isinstance(error, torch.OutOfMemoryError) or _CARD_WORDS.search(str(error))
        advice = "; or ".join(less_memory(settings, blocks))
        raise MemoryFullError(
            f"the memory of the {'card' if card else 'computer'} is full{_asked(error)}; less is "
            f"needed with {advice}{_what_stays(out)}"
        ) from error


@contextmanager
def vanished_named(out: Path) -> Iterator[None]:
    """Say of a file that is gone in the middle of a training what that means.

    Raises:
        FileVanishedError: Something that was there is there no more.
    """
    try:
        yield
    except FileNotFoundError as error:
        # From a loader's process only a text arrives, with the path in it.
        what = error.filename or str(error).strip().splitlines()[-1]
        raise FileVanishedError(
            f"{what} was taken away while the training ran{_what_stays(out)}"
        ) from error


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error, in whatever library's words, says that memory was not to be had."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, RuntimeError) and _MEMORY_WORDS.search(str(error)) is not None


def less_memory(settings: Settings, blocks: int | None) -> list[str]:
    """Settings that need less, each with what it costs; what helps most and costs least first."""
    training, lora = settings.training, settings.model.lora
    found = []
    if training.batch_size > 1:
        parts = next(n for n in range(2, training.batch_size + 1) if training.batch_size % n == 0)
        found.append(
            f"training.batch_size={training.batch_size // parts} and "
            f"training.gradient_accumulation_steps={training.gradient_accumulation_steps * parts} "
            "(learns the same, in smaller pieces)"
        )
    if training.mixed_precision == "no":
        found.append(
            "training.mixed_precision=bf16 (a fifth to a third less is kept for the way back)"
        )
    if training.workers:
        found.append("training.workers=0 (slower)")
    if not settings.model.use_lora:
        if not settings.model.freeze_base:
            found.append("model.use_lora=true (no gradients, no optimizer for the base)")
        return found or ["a smaller base (model.base)"]
    top = lora.top_layers or blocks or 1
    if top > 1:
        found.append(f"model.lora.top_layers={top // 2} (nothing is kept of the blocks below)")
    if lora.r > 1:
        found.append(
            f"model.lora.r={lora.r // 2} and model.lora.lora_alpha={max(1, lora.lora_alpha // 2)} "
            "(little)"
        )
    return found or ["a smaller base (model.base)"]


def _asked(error: BaseException) -> str:
    found = _ASKED.search(str(error))
    if found is None:
        return ""
    megabytes = float(found[1]) * _UNITS[found[2].lower()] / 1e6
    return f" ({megabytes:,.0f} MB more were asked for)"


def _what_stays(out: Path) -> str:
    epoch = checkpoints.newest_epoch(out)
    if epoch is None:
        return ""
    return (
        f"; {out} is whole up to epoch {epoch}, and --resume goes on there with the same settings; "
        f"with others, begin with what it learned: --init-from {out} --out ANOTHER"
    )
