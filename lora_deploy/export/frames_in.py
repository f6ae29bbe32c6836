"""A graph that takes frames as a decoder gives them, and gives probabilities."""

import json

import numpy as np
import onnx
from onnx import TensorProto

from lora_deploy.clips.contract import PixelContract
from lora_deploy.export.graph import Graph, copy_of, new_node

INPUT = "frames"
OUTPUT = "probabilities"


def frames_in(
    model: onnx.ModelProto, contract: PixelContract, temperature: float
) -> onnx.ModelProto:
    """Put what `normalise` does before a graph of any form, and a softmax behind it.

    Args:
        model: Takes ``pixel_values`` and gives ``logits``; it stays as it is.
        contract: Gives mean, std and the shape of a clip.
        temperature: Divides the logits; it is written into the metadata too.

    Returns:
        The graph from ``frames``, uint8 RGB [batch, frames, height, width, 3], resized and cropped
        already, to ``probabilities``, float32 [batch, labels].

    Raises:
        ValueError: The temperature is no positive number.
    """
    if not 0 < temperature < float("inf"):
        raise ValueError(f"the temperature is {temperature}; it must be a positive number")
    model = copy_of(model)
    graph = Graph(model)
    (pixels,), (logits,) = model.graph.input, model.graph.output
    batch = pixels.type.tensor_type.shape.dim[0].dim_param
    labels = [size.dim_value or size.dim_param for size in logits.type.tensor_type.shape.dim][1]
    before, after = _before(graph, contract, pixels.name), _after(graph, temperature, logits.name)
    _replace(model.graph.input, INPUT, TensorProto.UINT8, [batch, *contract.frames_shape])
    _replace(model.graph.output, OUTPUT, TensorProto.FLOAT, [batch, labels])
    graph.rebuild([*before, *graph.nodes, *after])
    known = {entry.key: entry.value for entry in model.metadata_props}
    onnx.helper.set_model_props(model, {**known, "temperature": json.dumps(temperature)})
    return model


def _before(graph: Graph, contract: PixelContract, pixels: str) -> list[onnx.NodeProto]:
    """In the order in which `normalise` rounds, so that the numbers are the same."""
    constants = {
        "scale": np.float32(255),
        "mean": np.array(contract.mean, np.float32),
        "std": np.array(contract.std, np.float32),
    }
    for name, value in constants.items():
        graph.store(f"{INPUT}/{name}", np.asarray(value))
    steps = [
        ("Cast", [INPUT], "numbers", {"to": TensorProto.FLOAT}),
        ("Div", [f"{INPUT}/numbers", f"{INPUT}/scale"], "scaled", {}),
        ("Sub", [f"{INPUT}/scaled", f"{INPUT}/mean"], "centred", {}),
        ("Div", [f"{INPUT}/centred", f"{INPUT}/std"], "spread", {}),
    ]
    nodes = [
        new_node(op_type, inputs, [f"{INPUT}/{output}"], f"{INPUT}/{op_type}:{output}", **more)
        for op_type, inputs, output, more in steps
    ]
    # [batch, frames, height, width, 3] to [batch, frames, 3, height, width]
    channels = {"perm": [0, 1, 4, 2, 3]}
    return [
        *nodes,
        new_node("Transpose", [f"{INPUT}/spread"], [pixels], f"{INPUT}/Transpose", **channels),
    ]


def _after(graph: Graph, temperature: float, logits: str) -> list[onnx.NodeProto]:
    divisor = graph.store(f"{OUTPUT}/temperature", np.asarray(np.float32(temperature)))
    cooled = f"{OUTPUT}/cooled"
    return [
        new_node("Div", [logits, divisor], [cooled], f"{OUTPUT}/Div"),
        new_node("Softmax", [cooled], [OUTPUT], f"{OUTPUT}/Softmax", axis=-1),
    ]


def _replace(
    values: "list[onnx.ValueInfoProto]", name: str, kind: int, shape: list[int | str]
) -> None:
    del values[:]
    values.append(onnx.helper.make_tensor_value_info(name, kind, shape))
