"""How small and how large the values inside a graph become on real clips, clip by clip."""

from collections.abc import Iterable, Sequence

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

from lora_deploy.errors import NothingDecodedError
from lora_deploy.export.graph import copy_of, new_node

_EDGES = ("ReduceMin", "ReduceMax")


def value_ranges(
    model: onnx.ModelProto, values: Sequence[str], calibration: Iterable[NDArray[np.float32]]
) -> NDArray[np.float32]:
    """The least and the largest number in each value on each clip.

    Only these two numbers leave the graph, so memory stays that of one clip however many there are.

    Args:
        model: In float32.
        values: Names of float values in the graph.
        calibration: Clips, each [1, frames, 3, height, width].

    Returns:
        [clips, values, 2].

    Raises:
        NothingDecodedError: There is no clip.
    """
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        _with_edges(model, values).SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    names = [f"{value}/{edge}" for value in values for edge in _EDGES]
    (pixels,) = (given.name for given in session.get_inputs())
    rows = [session.run(names, {pixels: clip}) for clip in calibration]
    if not rows:
        raise NothingDecodedError("there is no clip to measure the model's values on")
    edges: NDArray[np.float32] = np.array(rows, np.float32).reshape(len(rows), len(values), 2)
    return edges


def _with_edges(model: onnx.ModelProto, values: Sequence[str]) -> onnx.ModelProto:
    model = copy_of(model)
    for value in values:
        for edge in _EDGES:
            name = f"{value}/{edge}"
            model.graph.node.append(new_node(edge, [value], [name], name, keepdims=0))
            kind = onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [])
            model.graph.output.append(kind)
    return model
