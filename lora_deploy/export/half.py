"""A float32 graph in float16 or bfloat16, by casts in the graph: what engines that are strongly typed obey.

In 16 bits: projections, attention, activations, patch embedding. In float32: what goes in and comes
out, the residual stream from block to block, normalisation, softmax as a node of its own, pooling
and classifier. So the sums that grow with the depth of a model can't overflow.
"""

from collections.abc import Collection, Iterable
from typing import Literal

import numpy as np
import onnx
from ml_dtypes import bfloat16
from numpy.typing import NDArray
from onnx import TensorProto

from lora_deploy.export.blocks import block_of, check_blocks, is_head
from lora_deploy.export.graph import Graph, copy_of, new_node
from lora_deploy.export.ranges import measure

LARGEST_HALF = float(np.finfo(np.float16).max)

HEADROOM = 8
"""A value that comes nearer to the largest float16 than by this factor is kept in float32."""

Half = Literal["fp16", "bf16"]

_KINDS = {
    "fp16": (TensorProto.FLOAT16, np.dtype(np.float16)),
    "bf16": (TensorProto.BFLOAT16, np.dtype(bfloat16)),
}

_HALF = frozenset({
    "Attention", "Conv", "Gelu", "Gemm", "MatMul", "Mul", "MultiHeadAttention", "Tanh",
})  # fmt: skip

_LAYOUT = frozenset({
    "Concat", "Expand", "Gather", "Identity", "Reshape", "Slice", "Split", "Squeeze", "Tile",
    "Transpose", "Unsqueeze",
})  # fmt: skip
"""They move values about, in whatever precision they come."""


def in_half(
    model: onnx.ModelProto,
    keep: Collection[str] = (),
    calibration: Iterable[NDArray[np.float32]] = (),
    *,
    kind: Half = "fp16",
    head: bool = False,
) -> onnx.ModelProto:
    """Cast a graph to 16 bits, inputs and outputs as they are.

    Args:
        model: In float32, as `write_onnx` makes it; it stays as it is.
        keep: Blocks that are left in float32, as `block_of` names them.
        calibration: Clips [1, frames, 3, height, width]. With them the values inside are
            measured, and a node that takes or makes one within `HEADROOM` of what float16 can
            hold is left in float32. Without them only weights are looked at. bfloat16 holds all
            that float32 does, and needs none.
        kind: Which 16 bits.
        head: Whether the classifier is cast too: some cards multiply no float32 matrices.

    Returns:
        The graph; float values bear the names that they had.

    Raises:
        ValueError: No block bears a name in ``keep``, or an operator of one engine hides
            what its output holds.
    """
    check_blocks(model, keep)
    model = _with_types(copy_of(model))
    graph = Graph(model)
    large = _large_values(model, graph, calibration) if kind == "fp16" else ()
    casting = _Casting(graph, kind)
    for node in graph.nodes:
        casting.cast(node, half=_may_be_half(graph, node, keep, large, head=head))
    for value in model.graph.value_info:
        if value.name in casting.half:
            value.type.tensor_type.elem_type = _KINDS[kind][0]
    graph.rebuild(casting.nodes)
    return model


def _with_types(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same model, where it did not say of each value what it holds."""
    values = [value for node in model.graph.node for value in node.output]
    graph = Graph(model)
    if all(graph.element_type(value) is not None for value in values):
        return model
    model = onnx.shape_inference.infer_shapes(model)
    graph = Graph(model)
    unknown = [value for value in values if graph.element_type(value) is None]
    if unknown:
        raise ValueError(
            f"nothing tells what {', '.join(unknown[:3])} hold; cast a graph to float16 before it "
            "gets operators of one engine"
        )
    return model


def _may_be_half(
    graph: Graph,
    node: onnx.NodeProto,
    keep: Collection[str],
    large: Collection[str],
    *,
    head: bool,
) -> bool:
    if (is_head(node.name) and not head) or block_of(node.name) in keep:
        return False
    if any(value in large for value in (*node.input, *node.output)):
        return False
    if node.op_type == "Add":
        return _is_inside_a_layer(graph, node)
    return node.op_type in _HALF | _LAYOUT


def _is_inside_a_layer(graph: Graph, add: onnx.NodeProto) -> bool:
    """A bias, or a rotation of [batch, heads, tokens, head]; not the residual stream or positions."""
    ranks = [len(graph.shape(value) or ()) for value in add.input if graph.is_constant(value)]
    return ranks == [1] or len(graph.shape(add.output[0]) or ()) == 4


def _large_values(
    model: onnx.ModelProto, graph: Graph, calibration: Iterable[NDArray[np.float32]]
) -> set[str]:
    limit = LARGEST_HALF / HEADROOM
    large = set()
    for tensor in model.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT:
            numbers = graph.constant(tensor.name)
            if numbers is not None and numbers.size and not np.abs(numbers).max() <= limit:
                large.add(tensor.name)
    clips = iter(calibration)
    first = next(clips, None)
    if first is None:
        return large
    values = [
        value
        for node in graph.nodes
        for value in node.output
        if graph.element_type(value) == TensorProto.FLOAT
    ]
    found = measure(model, values, (clip for part in ([first], clips) for clip in part))
    reach = np.abs(found.edges).max(axis=(0, 2))
    return large | {value for value, found in zip(values, reach, strict=True) if not found <= limit}


class _Casting:
    """Goes through the nodes in their order and casts what a node takes to what it works in."""

    def __init__(self, graph: Graph, kind: Half) -> None:
        self.graph = graph
        self._kind, self._numbers = _KINDS[kind]
        self.nodes: list[onnx.NodeProto] = []
        self.half: set[str] = set()
        """Values that are of 16 bits now, under the name that they had."""
        self._done: set[str] = set()

    def cast(self, node: onnx.NodeProto, *, half: bool) -> None:
        """Take over a node; ``half`` allows 16 bits, and layout follows what it is given."""
        floats = [value for value in node.input if self._is_float(value)]
        if node.op_type in _LAYOUT:
            moved = [value for value in floats if not self.graph.is_constant(value)]
            half = half and bool(moved) and all(value in self.half for value in moved)
        for slot, value in enumerate(node.input):
            if self._is_float(value):
                node.input[slot] = self._as(value, node, half=half)
        self.nodes.append(node)
        if half and floats:
            self._give(node)

    def _give(self, node: onnx.NodeProto) -> None:
        """What a node makes is of 16 bits; what the graph gives away is cast back."""
        for slot, value in enumerate(node.output):
            if not self._is_float(value):
                continue
            if value in self.graph.outputs:
                node.output[slot] = f"{value}/half"
                name = f"{node.name.rpartition('/')[0]}/Cast:{value}"
                back = new_node("Cast", [f"{value}/half"], [value], name, to=TensorProto.FLOAT)
                self.nodes.append(back)
            else:
                self.half.add(value)

    def _is_float(self, value: str) -> bool:
        return self.graph.element_type(value) == TensorProto.FLOAT

    def _as(self, value: str, node: onnx.NodeProto, *, half: bool) -> str:
        if half == (value in self.half):
            return value
        name = f"{value}/half" if half else f"{value}/single"
        if name in self._done:
            return name
        self._done.add(name)
        stored = self.graph.constant(value)
        if stored is not None:
            return self.graph.store(name, stored.astype(self._numbers))
        module = node.name.rpartition("/")[0]
        to = self._kind if half else TensorProto.FLOAT
        self.nodes.append(new_node("Cast", [value], [name], f"{module}/Cast:{name}", to=to))
        return name
