"""A bfloat16 graph that processors can run: the same products in float32, each value rounded as the graph says.

ONNX Runtime has no bfloat16 kernels for processors. What an engine computes in bfloat16 is a sum in
float32 that is rounded when it leaves an operator, and that is what is done here.
"""

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from lora_deploy.export.graph import Graph, attribute, copy_of, new_node


def rounded(model: onnx.ModelProto) -> onnx.ModelProto:
    """The twin of a bfloat16 graph, with float32 wherever that has bfloat16.

    Args:
        model: As `in_half` makes it; it stays as it is. Values keep their names.
    """
    model = copy_of(model)
    graph = Graph(model)
    short = {
        value
        for node in graph.nodes
        for value in node.output
        if graph.element_type(value) == TensorProto.BFLOAT16
        or (node.op_type == "Cast" and attribute(node, "to") == TensorProto.BFLOAT16)
    }
    nodes: list[onnx.NodeProto] = []
    for node in graph.nodes:
        made = [value for value in node.output if value in short]
        if node.op_type == "Cast" and made:
            nodes += _round(node.name, node.input[0], made[0])
            continue
        nodes.append(node)
        for slot, value in enumerate(node.output):
            if value in short:
                node.output[slot] = f"{value}/whole"
                nodes += _round(f"{node.name}:{value}", f"{value}/whole", value)
    for tensor in model.graph.initializer:
        if tensor.data_type == TensorProto.BFLOAT16:
            numbers = numpy_helper.to_array(tensor).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(numbers, tensor.name))
    for told in model.graph.value_info:
        if told.type.tensor_type.elem_type == TensorProto.BFLOAT16:
            told.type.tensor_type.elem_type = TensorProto.FLOAT
    Graph(model).rebuild(nodes)
    return model


def _round(name: str, whole: str, value: str) -> list[onnx.NodeProto]:
    """Down to bfloat16 and up again, which ONNX Runtime does not leave out."""
    small = f"{value}/rounded"
    return [
        new_node("Cast", [whole], [small], f"{name}/down", to=TensorProto.BFLOAT16),
        new_node("Cast", [small], [value], f"{name}/up", to=TensorProto.FLOAT),
    ]
