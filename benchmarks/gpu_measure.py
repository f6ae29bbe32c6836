"""How the GPU benchmark measures: forms take turns, and each turn gives a ratio to the first form."""

import copy
import gc
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from statistics import median
from typing import Protocol, cast, runtime_checkable

import torch
from gpu_models import Size
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from transformers import VideoMAEForVideoClassification

Run = Callable[[], torch.Tensor]
"""One batch through a form, logits [batch, labels]; or one step, its loss."""

Kernel = Callable[[], AbstractContextManager[object]]
"""Sets which attention kernel runs."""

BASELINE = "float32"

KERNELS = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "cuDNN": SDPBackend.CUDNN_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
}


@runtime_checkable
class Timer(Protocol):
    """What can only be measured from inside."""

    def timed(self, times: int) -> float:
        """Seconds of one run, from so many one after the other."""
        ...


class NotHere(Exception):
    """An entrant can't begin on this computer."""


@dataclass
class Measured:
    """One form at one batch size."""

    form: str
    batch: int
    clips_per_second: float | None = None
    slowest_and_fastest: tuple[float, float] | None = None
    """Clips a second in the worst and the best turn."""
    ratio: float | None = None
    """Median over the turns of this form's speed to that of `BASELINE` in the same turn."""
    ratio_range: tuple[float, float] | None = None
    part_of_gemm: float | None = None
    """Of the FLOP a second that a large bf16 matrix product reaches in the same turns."""
    peak_mb: float | None = None
    """Of device memory, that this form allocates from its weights on."""
    difference: float | None = None
    """Largest of all logits to those of `BASELINE`, as a part of the largest of those."""
    loss: float | None = None
    cosine: float | None = None
    """Of all gradients with those of the float32 step over the same layers."""
    not_possible: str | None = None
    not_here: str | None = None
    """Why an entrant could not begin on this computer."""
    seconds: list[list[float]] = field(default_factory=list)
    """Of one batch, turn by turn; those of `BASELINE` beside them."""


@contextmanager
def tensor_float_32() -> Iterator[None]:
    """Products of float32 by tensor cores, which keep 10 bits of the mantissa."""
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.allow_tf32 = True
    try:
        yield
    finally:
        exact_float_32()


def exact_float_32() -> None:
    """No TensorFloat-32 anywhere; PyTorch leaves it on for convolutions."""
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False


def any_kernel() -> AbstractContextManager[object]:
    """The one that PyTorch takes by itself."""
    return nullcontext()


def only(backend: SDPBackend) -> Kernel:
    """One kernel and no other: where it can't run, an error."""
    return lambda: sdpa_kernel(backend)


def wait(device: torch.device) -> None:
    """Until the device has done all that it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def timed(run: Callable[[], object], times: int, device: torch.device) -> float:
    """Seconds of one run, from so many one after the other."""
    wait(device)
    begin = time.perf_counter()
    for _ in range(times):
        run()
    wait(device)
    return (time.perf_counter() - begin) / times


@contextmanager
def peak_of(measured: Measured, device: torch.device, weights: int = 0) -> Iterator[None]:
    """Note what is allocated at most in the meantime, and the weights that were there before."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
    yield
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        peak = torch.cuda.max_memory_allocated(device) - before + weights
        measured.peak_mb = peak / (1 << 20)


def reason(error: Exception) -> str:
    """Why something was not possible, for a cell of a table."""
    said = str(error).strip().splitlines() or [""]
    kind = "" if isinstance(error, NotHere) else f"{type(error).__name__}: "
    return f"{kind}{said[0][:90]}".replace("|", "/")


def bytes_of(model: nn.Module) -> int:
    """Of all weights."""
    return sum(weight.numel() * weight.element_size() for weight in model.parameters())


def gemm(size: Size, device: torch.device) -> tuple[Run, int]:
    """A large product of bf16 matrices, and its floating-point operations."""
    side = size.gemm_side
    left, right = (torch.randn(side, side, device=device, dtype=torch.bfloat16) for _ in range(2))
    return lambda: left @ right, 2 * side**3


def flops_of_one_clip(size: Size) -> int:
    """Of the float32 model, counted on a copy without weights, and not estimated."""
    with torch.device("meta"), torch.inference_mode():
        model = VideoMAEForVideoClassification(copy.deepcopy(size.config)).eval()
        model.set_attn_implementation(
            "eager"
        )  # attention's products are counted, whoever runs them
        side, frames = cast(int, size.config.image_size), size.config.num_frames
        with FlopCounterMode(display=False) as counter:
            model(pixel_values=torch.zeros(1, frames, 3, side, side))
    return int(counter.get_total_flops())


def take_turns(
    runs: Mapping[str, Run | Timer], size: Size, device: torch.device
) -> dict[str, list[float]]:
    """Seconds of one run of each, turn by turn; a `Timer` measures itself."""

    def seconds_of(run: Run | Timer, times: int) -> float:
        return run.timed(times) if isinstance(run, Timer) else timed(run, times, device)

    times = {}
    for name, run in runs.items():
        first = seconds_of(run, 1)
        once = min(first, seconds_of(run, 2))
        times[name] = max(1, round(size.turn_seconds / max(once, 1e-6)))
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(size.turns):
        for name, run in runs.items():
            seconds[name].append(seconds_of(run, times[name]))
    return seconds


def fill(measured: Measured, own: Sequence[float], baseline: Sequence[float], batch: int) -> None:
    """Write speeds and ratios, of the turns of a form and of the baseline's."""
    speeds = [batch / seconds for seconds in own]
    ratios = [theirs / ours for ours, theirs in zip(own, baseline, strict=True)]
    measured.clips_per_second = median(speeds)
    measured.slowest_and_fastest = (min(speeds), max(speeds))
    measured.ratio = median(ratios)
    measured.ratio_range = (min(ratios), max(ratios))
    measured.seconds = [list(pair) for pair in zip(own, baseline, strict=True)]


@dataclass(frozen=True)
class Entrant:
    """A form of inference that is to be measured."""

    make: Callable[[], Run]
    weights: nn.Module | None = None
    """What it needs beside what it allocates; None where memory is not PyTorch's to count."""


def infer_in_turns(
    entrants: Mapping[str, Entrant], size: Size, batch: int, device: torch.device, flops: int
) -> tuple[list[Measured], float]:
    """Measure forms at one batch size; the first is the one that others are compared with.

    Returns:
        A row for each, and the FLOP a second that a large bf16 product reached meanwhile.
    """
    rows: list[Measured] = []
    runs: dict[str, Run | Timer] = {}
    expected: torch.Tensor | None = None
    for name, entrant in entrants.items():
        row = Measured(name, batch)
        rows.append(row)
        try:
            logits, runs[name] = _begin(row, entrant, device)
        except NotHere as error:
            row.not_here = reason(error)
            continue
        except Exception as error:  # one form must not cost the others
            row.not_possible = reason(error)
            continue
        expected = logits.clone() if expected is None else expected
        row.difference = float((logits - expected).abs().max() / expected.abs().max())
    product, product_flops = gemm(size, device)
    seconds = take_turns({**runs, "product": product}, size, device)
    rate = product_flops / median(seconds["product"])
    first = next(iter(entrants))
    for row in rows:
        if row.form in runs:
            fill(row, seconds[row.form], seconds[first], batch)
            assert row.clips_per_second is not None
            row.part_of_gemm = row.clips_per_second * flops / rate
    return rows, rate


def _begin(row: Measured, entrant: Entrant, device: torch.device) -> tuple[torch.Tensor, Run]:
    """What it answers, float32, and what runs it again; the row learns its memory."""
    counted = nullcontext()
    if entrant.weights is not None:
        counted = peak_of(row, device, bytes_of(entrant.weights))  # type: ignore[assignment]
    with counted:
        run = entrant.make()
        logits = run()
        wait(device)  # an engine has a stream of its own
        return logits.float(), run
