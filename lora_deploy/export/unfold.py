"""The patch embedding as a product of matrices: patches do not overlap, so no convolution is needed.

The numbers are the same; engines have no fast kernel for a convolution in three dimensions, and
ONNX Runtime none in int8.
"""

import numpy as np
import onnx

from lora_deploy.export.graph import Graph, attribute, copy_of, new_node


def unfolded(model: onnx.ModelProto) -> onnx.ModelProto:
    """Rewrite a convolution whose stride is its kernel; any other stays as it is.

    Args:
        model: In float32, as `write_onnx` makes it; it stays as it is. To be used before other
            rewriting. Values that leave a block bear the names that they had.
    """
    model = copy_of(model)
    graph = Graph(model)
    instead: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.nodes:
        if node.op_type == "Conv":
            instead.update(_as_product(graph, node))
    graph.rebuild(new for node in graph.nodes for new in instead.get(node.output[0], [node]))
    return model


def _as_product(graph: Graph, conv: onnx.NodeProto) -> dict[str, list[onnx.NodeProto]]:
    """By the first output of the node that goes, the nodes that stand in its place."""
    weight = graph.constant(conv.input[1])
    if weight is None or not _is_patches(conv, weight.shape):
        return {}
    joins = graph.takers(conv.output[0])  # [batch, hidden, …] to [batch, hidden, tokens]
    turns = graph.takers(joins[0].output[0]) if len(joins) == 1 else ()
    if [node.op_type for node in (*joins, *turns)] != ["Reshape", "Transpose"]:
        return {}
    result = turns[0].output[0]
    source, sizes, order = _patches(graph, conv, weight.shape)
    given = graph.shape(result)
    if attribute(turns[0], "perm") != [0, 2, 1] or not sizes or given is None or len(given) != 3:
        return {}
    tokens, hidden, (module, _, _) = given[1], weight.shape[0], conv.name.rpartition("/")
    made = f"{result}/patches"
    split = graph.store(f"{made}/split_shape", np.array([-1, *sizes], np.int64))
    flat = graph.store(f"{made}/flat_shape", np.array([-1, tokens, weight[0].size], np.int64))
    matrix = graph.store(f"{conv.input[1]}/matrix", weight.reshape(hidden, -1).T)
    bias = conv.input[2] if len(conv.input) > 2 else ""
    product = f"{made}/product" if bias else result
    nodes = [
        new_node("Reshape", [source, split], [f"{made}/split"], f"{module}/Reshape"),
        new_node("Transpose", [f"{made}/split"], [made], f"{module}/Transpose", perm=order),
        new_node("Reshape", [made, flat], [f"{made}/flat"], f"{module}/Reshape_1"),
        new_node("MatMul", [f"{made}/flat", matrix], [product], f"{module}/MatMul"),
    ]
    if bias:
        nodes.append(new_node("Add", [product, bias], [result], f"{module}/Add"))
    return {conv.output[0]: [], joins[0].output[0]: [], result: nodes}


def _is_patches(conv: onnx.NodeProto, shape: tuple[int, ...]) -> bool:
    """Whether each number that goes in is used once for each number that comes out."""
    rank = len(shape) - 2
    return (
        attribute(conv, "strides") == list(shape[2:])
        and attribute(conv, "pads", [0] * 2 * rank) == [0] * 2 * rank
        and attribute(conv, "dilations", [1] * rank) == [1] * rank
        and attribute(conv, "group", 1) == 1
    )


def _patches(
    graph: Graph, conv: onnx.NodeProto, shape: tuple[int, ...]
) -> tuple[str, list[int], list[int]]:
    """What to cut patches from, its sizes after cutting, and their order in a patch as in a weight.

    No sizes where the patches do not fill the picture.
    """
    source, kernel = conv.input[0], shape[2:]
    axes: tuple[int, ...]
    frames_first = graph.maker(source, "Transpose")
    if len(kernel) == 3 and frames_first and attribute(frames_first, "perm") == [0, 2, 1, 3, 4]:
        source = frames_first.input[0]  # [batch, frames, 3, height, width]
        given = graph.shape(source)
        axes, order = (1, 3, 4), [0, 1, 4, 6, 3, 2, 5, 7]
    elif len(kernel) == 2:
        given = graph.shape(source)  # [pictures, 3, height, width]
        axes, order = (2, 3), [0, 2, 4, 1, 3, 5]
    else:
        return source, [], []
    sizes: list[int] = []
    for axis, size in list(enumerate(given or ()))[1:]:
        if not isinstance(size, int):
            return source, [], []
        step = kernel[axes.index(axis)] if axis in axes else 0
        if step and size % step:
            return source, [], []
        sizes += [size // step, step] if step else [size]
    return source, sizes, order
