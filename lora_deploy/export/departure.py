"""Where a form of a graph leaves the float32 one: block by block, by the values between them.

Each runtime is asked for the same values inside of the graph. An error that a block is given grows
little on its way through it; the block that adds most is where the form departs.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray

from lora_deploy.artifact.bundle import Compiler, Precision
from lora_deploy.export.blocks import block_of, block_outputs

_FIRST_OF_THE_LARGE = 0.5
"""The first block that adds at least this part of what the worst one adds is named."""


@dataclass(frozen=True)
class Departure:
    """How far the values that leave a block are from what they should be."""

    block: str
    error: float
    """Norm of the difference over the norm of the right values."""
    added: float
    """By how much that is more than behind the block before."""


def departures(
    plain: onnx.ModelProto,
    other: onnx.ModelProto,
    pixel_values: NDArray[np.float32],
    *,
    backend: Compiler,
    precision: Precision,
) -> list[Departure]:
    """Compare what leaves each block that is computed otherwise, in the order of the model.

    Blocks whose nodes are those of the float32 graph are left out: an error that arrives in the
    classifier looks larger behind it, and yet nothing of it arose there. Where the runtime itself
    rounds, the two graphs are one, and every block counts.

    Args:
        plain: The float32 graph.
        other: The same values by the same names, in whatever precision.
        pixel_values: [clips, frames, 3, height, width], of a few clips.
        backend: What runs ``other``; ``plain`` is run by ONNX Runtime.
        precision: As the backend is told.
    """
    outputs = block_outputs(plain)
    right = _run_onnxruntime(plain, outputs, pixel_values)
    found = (
        _run_onnxruntime(other, outputs, pixel_values)
        if backend == "onnxruntime"
        else _run_openvino(other, outputs, pixel_values, precision)
    )
    lowered = _lowered(plain, other) & set(outputs) or set(outputs)
    before = 0.0
    result = []
    for block in outputs:
        error = _relative(right[block], found[block])
        if block in lowered:
            result.append(Departure(block, error, error - before))
        before = error
    return result


def _lowered(plain: onnx.ModelProto, other: onnx.ModelProto) -> set[str]:
    """Blocks that compute something else, or on other values, than in the float32 graph."""
    here, there = _nodes_by_block(plain), _nodes_by_block(other)
    return {block for block in here if here[block] != there.get(block)}


def _nodes_by_block(model: onnx.ModelProto) -> dict[str, set[tuple[str, ...]]]:
    found: dict[str, set[tuple[str, ...]]] = {}
    for node in model.graph.node:
        if (block := block_of(node.name)) is not None:
            found.setdefault(block, set()).add((node.op_type, *node.input, *node.output))
    return found


def first_departing(found: list[Departure]) -> Departure:
    """The block to name: the first of those that add most of the error."""
    worst = max(found, key=lambda one: -math.inf if math.isnan(one.added) else one.added)
    return next((one for one in found if one.added >= _FIRST_OF_THE_LARGE * worst.added), worst)


def _relative(right: NDArray[np.float32], found: NDArray[np.float32]) -> float:
    size = float(np.linalg.norm(right))
    error = float(np.linalg.norm(right - found)) / max(size, 1e-30)
    return error if np.isfinite(error) else float("inf")


def _with_outputs(model: onnx.ModelProto, names: Mapping[str, str]) -> bytes:
    """The graph with more values given out."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    given = {output.name for output in copy.graph.output}
    known = {
        value.name: value for value in onnx.shape_inference.infer_shapes(copy).graph.value_info
    }
    for name in names.values():
        if name not in given:
            copy.graph.output.append(known.get(name) or onnx.ValueInfoProto(name=name))
    content: bytes = copy.SerializeToString()
    return content


def _run_onnxruntime(
    model: onnx.ModelProto, names: Mapping[str, str], pixel_values: NDArray[np.float32]
) -> dict[str, NDArray[np.float32]]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        _with_outputs(model, names), options, providers=["CPUExecutionProvider"]
    )
    rows = [
        session.run(list(names.values()), {"pixel_values": clip[None]}) for clip in pixel_values
    ]
    return _stacked(names, rows)


def _run_openvino(
    model: onnx.ModelProto,
    names: Mapping[str, str],
    pixel_values: NDArray[np.float32],
    precision: Precision,
) -> dict[str, NDArray[np.float32]]:
    from lora_deploy.runtime.openvino_core import CORE
    from lora_deploy.runtime.ov import precision_hint

    opened = CORE.read_model(_with_outputs(model, names))
    opened.reshape([1, *pixel_values.shape[1:]])
    compiled = CORE.compile_model(
        opened, "CPU", {"INFERENCE_PRECISION_HINT": precision_hint(precision)}
    )
    rows = []
    for clip in pixel_values:
        answer = compiled([clip[None]])
        rows.append([answer[name] for name in names.values()])
    return _stacked(names, rows)


def _stacked(
    names: Mapping[str, str], rows: list[list[NDArray[np.float32]]]
) -> dict[str, NDArray[np.float32]]:
    return {
        block: np.concatenate([row[column].astype(np.float32) for row in rows])
        for column, block in enumerate(names)
    }
