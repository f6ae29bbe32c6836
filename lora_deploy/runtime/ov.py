"""OpenVINO on the CPU: reads the bundle's ONNX files, and rounds to bfloat16 itself where the CPU has it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from lora_deploy.artifact.bundle import Precision
from lora_deploy.artifact.handing import alone
from lora_deploy.errors import GraphError, PrecisionNotHereError, ProviderFellBackError
from lora_deploy.processor import usable_cores
from lora_deploy.runtime.openvino_core import CORE
from lora_deploy.runtime.outside_data import refuse_outside_data
from lora_deploy.runtime.own_cache import ready_folder
from lora_deploy.runtime.unreported import unreported

with unreported():
    import openvino

Hint = Literal["latency", "throughput"]

CACHE_BYTES = 4 << 30
"""Compiled models of other days are removed beyond this."""

_DEVICE = "CPU"


def has_bf16() -> bool:
    """Whether this CPU computes in bfloat16."""
    return "BF16" in CORE.get_property(_DEVICE, "OPTIMIZATION_CAPABILITIES")


def precision_hint(precision: Precision) -> str:
    """What OpenVINO is told: ``f32`` or ``bf16``.

    Raises:
        PrecisionNotHereError: This CPU has no bfloat16.
    """
    if precision in ("fp32", "fp16"):
        return "f32"
    if has_bf16():
        return "bf16"
    if precision == "bf16":
        raise PrecisionNotHereError("this CPU does not compute in bfloat16")
    return "f32"


class OpenVinoBackend:
    """The merged graph in OpenVINO, one clip a request, at a fixed shape."""

    name = "openvino"
    form = "merged"

    def __init__(
        self,
        graph: bytes | Path,
        *,
        precision: Precision = "fp32",
        batch_size: int = 1,
        hint: Hint = "latency",
        threads: int = 0,
        cache: Path | None = None,
    ) -> None:
        """Open a graph whose bytes were checked against the bundle's manifest.

        Args:
            graph: The bytes of an ONNX file, or a path that `handed` gave; data in other files are
                not found.
            precision: ``fp32`` and ``fp16`` (weights in half) compute in float32; ``bf16`` rounds;
                ``int8`` takes what the graph says, and bfloat16 for its rest where there is any.
            batch_size: Clips that `logits` is given at once.
            hint: ``latency``: all cores work on one clip; ``throughput``: several clips at once.
            threads: 0 takes every core that this process may use.
            cache: Folder for compiled models; None compiles anew.

        Raises:
            GraphError: It is no ONNX graph that this version of OpenVINO can run.
            PrecisionNotHereError: This CPU has no bfloat16.
            ProviderFellBackError: OpenVINO chose another precision than was asked for.
        """
        self.batch_size = batch_size
        kind = precision_hint(precision)
        options: dict[str, Any] = {
            "INFERENCE_PRECISION_HINT": kind,
            "PERFORMANCE_HINT": hint.upper(),
            "INFERENCE_NUM_THREADS": threads or usable_cores(),
            # Decoding goes on beside it: the scheduler must be free to move threads.
            "ENABLE_CPU_PINNING": False,
        }
        # OpenVINO 2026.4 takes a model for cached whatever precision it was compiled for, and one
        # that was compiled for float32 and is opened for bfloat16 gives wrong answers.
        if cache is not None:
            folder = ready_folder(cache / kind, "*.blob", CACHE_BYTES)
            if folder is not None:
                options["CACHE_DIR"] = str(folder)
        try:
            with alone(graph) as path:
                refuse_outside_data(path)
                model = CORE.read_model(path)
            _check_signature(model)
            self.metadata = _metadata(model)
            model.reshape([1, *list(model.inputs[0].get_partial_shape())[1:]])
            compiled = CORE.compile_model(model, _DEVICE, options)
        except RuntimeError as error:
            raise GraphError(
                f"OpenVINO {openvino.__version__} can't open the graph: {_first_line(error)}"
            ) from error
        found = compiled.get_property("INFERENCE_PRECISION_HINT").to_string()
        if found != kind:
            raise ProviderFellBackError(f"OpenVINO chose {found} where {kind} was asked for")
        streams = compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS")
        self._requests = [compiled.create_infer_request() for _ in range(min(streams, batch_size))]

    def logits(self, pixel_values: NDArray[np.float32]) -> NDArray[np.float32]:
        """Run one batch [batch_size, frames, 3, height, width]; returns [batch_size, labels].

        Each clip is a request of its own, so its numbers don't depend on its company.
        """
        rows: list[NDArray[np.float32]] = []
        for start in range(0, len(pixel_values), len(self._requests)):
            clips = pixel_values[start : start + len(self._requests)]
            running = self._requests[: len(clips)]
            for request, clip in zip(running, clips, strict=True):
                request.start_async([clip[None]], share_inputs=True)
            for request in running:
                request.wait()
                rows.append(request.get_output_tensor(0).data.copy())
        return np.concatenate(rows)


def _check_signature(model: Any) -> None:
    inputs = [port.get_any_name() for port in model.inputs]
    outputs = [port.get_any_name() for port in model.outputs]
    if inputs != ["pixel_values"] or outputs != ["logits"]:
        raise GraphError(
            f"the graph takes {inputs} and gives {outputs}; needed: pixel_values and logits"
        )


def _metadata(model: Any) -> Mapping[str, str]:
    """What the exporter wrote into the graph: labels, pixel contract, digest."""
    if not model.has_rt_info(["framework"]):
        return {}
    values = model.get_rt_info(["framework"]).value
    return {name: str(getattr(value, "value", value)) for name, value in values.items()}


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
