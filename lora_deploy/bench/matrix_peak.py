"""How fast this computer multiplies large matrices: the ceiling that a model is held against."""

import time
from collections.abc import Callable, Sequence

import numpy as np

from lora_deploy.runtime.unreported import unreported

SIZES = (1024, 2048)
"""Rows and columns; what fits the caches is faster, what does not is nearer to a model."""

IN_A_ROW = 4
"""Multiplications in one go, so that rounding the first operand is soon forgotten."""

TRIES = 3
"""In a turn; the fastest counts."""

Multiply = Callable[[], object]


class MatrixPeak:
    """Multiplications in one package, at the size that it is fastest at."""

    def __init__(self, package: str, precisions: Sequence[str], threads: int) -> None:
        """Try each size once for each of ``precisions`` (``fp32``, ``bf16``)."""
        make = _with_torch if package == "torch" else _with_openvino
        self._best: dict[str, tuple[int, Multiply]] = {}
        for precision in precisions:
            tried = [(size, make(size, precision, threads)) for size in SIZES]
            self._best[precision] = max(tried, key=lambda one: _flop_per_second(*one))

    def measure(self) -> dict[str, float]:
        """Floating-point operations a second, by precision."""
        return {name: _flop_per_second(*best) for name, best in self._best.items()}


def _flop_per_second(size: int, multiply: Multiply) -> float:
    multiply()
    seconds = []
    for _ in range(TRIES):
        start = time.perf_counter()
        multiply()
        seconds.append(time.perf_counter() - start)
    return IN_A_ROW * 2 * size**3 / min(seconds)


def _with_torch(size: int, precision: str, threads: int) -> Multiply:
    import torch

    torch.set_num_threads(threads)
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    generator = torch.Generator().manual_seed(0)
    left, right = (torch.randn(size, size, generator=generator).to(dtype) for _ in range(2))
    out = torch.empty(size, size, dtype=dtype)

    @torch.inference_mode()
    def multiply() -> None:
        for _ in range(IN_A_ROW):
            torch.mm(left, right, out=out)

    return multiply


def _with_openvino(size: int, precision: str, threads: int) -> Multiply:
    from lora_deploy.runtime.openvino_core import CORE

    with unreported():
        import openvino
        from openvino import opset13 as operators

    generator = np.random.default_rng(0)
    first = product = operators.parameter([size, size], np.float32)
    for _ in range(IN_A_ROW):
        right = generator.standard_normal((size, size), np.float32) / np.float32(size**0.5)
        product = operators.matmul(product, operators.constant(right), False, False)
    compiled = CORE.compile_model(
        openvino.Model([product], [first]),
        "CPU",
        {
            "INFERENCE_PRECISION_HINT": "bf16" if precision == "bf16" else "f32",
            "INFERENCE_NUM_THREADS": threads,
            "PERFORMANCE_HINT": "LATENCY",
        },
    )
    request = compiled.create_infer_request()
    left = generator.standard_normal((size, size), np.float32)
    return lambda: request.infer([left], share_inputs=True)
