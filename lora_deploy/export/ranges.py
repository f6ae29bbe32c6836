"""How small and how large the values inside a graph become on real clips, clip by clip."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

from lora_deploy.errors import NothingDecodedError
from lora_deploy.export.graph import copy_of, new_node

_EDGES = ("ReduceMin", "ReduceMax")
_MEAN = "ReduceMean"


@dataclass(frozen=True)
class Measured:
    """What `measure` found."""

    edges: NDArray[np.float32]
    """[clips, values, 2]: the least and the largest number."""
    means: dict[str, NDArray[np.float32]]
    """By value, the mean of each of its channels, over tokens and clips."""


def measure(
    model: onnx.ModelProto,
    values: Sequence[str],
    calibration: Iterable[NDArray[np.float32]],
    *,
    channels: Sequence[str] = (),
) -> Measured:
    """Run clips through a graph and look at the values inside it.

    Only a few numbers of each value leave the graph, so memory stays that of one clip however
    many there are.

    Args:
        model: In float32.
        values: Names of float values in the graph.
        calibration: Clips, each [1, frames, 3, height, width].
        channels: Values [batch, tokens, channels] of which the mean of each channel is wanted.

    Raises:
        NothingDecodedError: There is no clip.
    """
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        _watched(model, values, channels).SerializeToString(),
        options,
        providers=["CPUExecutionProvider"],
    )
    edges = [f"{value}/{edge}" for value in values for edge in _EDGES]
    means = [f"{value}/{_MEAN}" for value in channels]
    (pixels,) = (given.name for given in session.get_inputs())
    rows, sums = [], [np.float32(0)] * len(means)
    for clip in calibration:
        found = session.run([*edges, *means], {pixels: clip})
        rows.append(found[: len(edges)])
        sums = [total + mean for total, mean in zip(sums, found[len(edges) :], strict=True)]
    if not rows:
        raise NothingDecodedError("there is no clip to measure the model's values on")
    return Measured(
        np.array(rows, np.float32).reshape(len(rows), len(values), 2),
        {value: np.asarray(total / len(rows)) for value, total in zip(channels, sums, strict=True)},
    )


def _watched(
    model: onnx.ModelProto, values: Sequence[str], channels: Sequence[str]
) -> onnx.ModelProto:
    model = copy_of(model)
    axes = "measured/axes"
    model.graph.initializer.append(
        onnx.numpy_helper.from_array(np.array([0, 1], np.int64), axes)  # not the channels
    )
    wanted = [(edge, value, [value]) for value in values for edge in _EDGES]
    wanted += [(_MEAN, value, [value, axes]) for value in channels]
    for op_type, value, inputs in wanted:
        name = f"{value}/{op_type}"
        model.graph.node.append(new_node(op_type, inputs, [name], name, keepdims=0))
        kind = onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None)
        model.graph.output.append(kind)
    return model
