"""A float32 graph with int8 weights and 8-bit inputs to them, as QuantizeLinear and DequantizeLinear.

Static: how large the inputs become was measured on real clips. ONNX Runtime and OpenVINO fold what
is inserted here into their integer kernels. Attention, normalisation, activations, the residual
stream and the classifier stay in float.

Integer kernels of x86 processors without 8-bit dot products (VNNI) add two products of an 8-bit
input and an 8-bit weight in 16 bits, and what does not fit is cut off in silence. Weights from -64
to 64 always fit (2 · 255 · 64 < 2^15), so such a graph answers alike on every processor; it rounds
weights twice as coarsely.
"""

from collections.abc import Collection, Iterable, Mapping
from typing import Literal

import numpy as np
import onnx
from numpy.typing import NDArray

from lora_deploy.artifact import bundle
from lora_deploy.export.blocks import block_of, check_blocks, is_head
from lora_deploy.export.graph import Graph, copy_of, new_node
from lora_deploy.export.ranges import measure
from lora_deploy.processor import read_processor

WeightBits = Literal[7, 8]
_REACH: Mapping[WeightBits, int] = {7: 64, 8: 127}

_OUTPUT_AXIS = {"MatMul": -1, "Gemm": -1, "Conv": 0}
"""Along which axis of its weight a node's outputs lie; each output has a scale of its own."""


def in_int8(
    model: onnx.ModelProto,
    calibration: Iterable[NDArray[np.float32]],
    keep: Collection[str] = (),
    weight_bits: WeightBits | None = None,
) -> onnx.ModelProto:
    """Quantise projections and the patch embedding.

    Args:
        model: In float32, as `write_onnx` makes it; it stays as it is.
        calibration: Real clips, each [1, frames, 3, height, width]; a few dozen, of every label.
        keep: Blocks that are left in float32, as `block_of` names them.
        weight_bits: 7 answers alike on every processor; None takes 8 where the processor here has
            8-bit dot products.

    Returns:
        The graph; values that leave a block bear the names that they had.

    Raises:
        ValueError: No block bears a name in ``keep``.
        NothingDecodedError: There is no clip to calibrate on.
    """
    check_blocks(model, keep)
    model = copy_of(model)
    graph = Graph(model)
    chosen = [node for node in graph.nodes if _is_quantised(graph, node, keep)]
    if not chosen:
        return model
    values = list(dict.fromkeys(node.input[0] for node in chosen))
    channels = [value for value in values if len(graph.shape(value) or ()) == 3]
    found = measure(model, values, calibration, channels=channels)
    bits = weight_bits or (8 if read_processor().has_int8_dots else 7)
    onnx.helper.set_model_props(model, {**_properties(model), bundle.INT8_WEIGHT_BITS: str(bits)})
    quantising = _Quantising(graph, _REACH[bits])
    ranges = {
        value: (float(low), float(high))
        for value, low, high in zip(
            values, found.edges[..., 0].min(0), found.edges[..., 1].max(0), strict=True
        )
    }
    names = {node.name for node in chosen}
    for node in graph.nodes:
        if node.name in names:
            mean = found.means.get(node.input[0])
            if node.op_type == "MatMul" and mean is not None:
                quantising.correct_bias(node, mean)
            node.input[0] = quantising.activation(node.input[0], ranges[node.input[0]])
            node.input[1] = quantising.weight(node.input[1], node)
        quantising.nodes.append(node)
    graph.rebuild(quantising.nodes)
    return model


def _properties(model: onnx.ModelProto) -> dict[str, str]:
    return {entry.key: entry.value for entry in model.metadata_props}


def _is_quantised(graph: Graph, node: onnx.NodeProto, keep: Collection[str]) -> bool:
    return (
        node.op_type in _OUTPUT_AXIS
        and not is_head(node.name)
        and block_of(node.name) not in keep
        and graph.is_constant(node.input[1])
        and not graph.is_constant(node.input[0])
    )


class _Quantising:
    """Inserts pairs of QuantizeLinear and DequantizeLinear, one for each value that is taken."""

    def __init__(self, graph: Graph, reach: int) -> None:
        self.graph = graph
        self._reach = reach
        self.nodes: list[onnx.NodeProto] = []
        self._done: dict[str, str] = {}

    def activation(self, value: str, edges: tuple[float, float]) -> str:
        """One scale for the whole value, and a zero point: what follows an activation is lopsided."""
        if value in self._done:
            return self._done[value]
        low, high = min(edges[0], 0.0), max(edges[1], 0.0)
        scale = np.maximum((high - low) / 255, np.finfo(np.float32).tiny).astype(np.float32)
        zero = np.clip(np.rint(-low / scale), 0, 255).astype(np.uint8)
        inputs = [
            self.graph.store(f"{value}/scale", np.asarray(scale)),
            self.graph.store(f"{value}/zero", np.asarray(zero)),
        ]
        coded, name = f"{value}/coded", f"{value}/rounded"
        self.nodes += [
            new_node("QuantizeLinear", [value, *inputs], [coded], self._named(coded, value)),
            new_node("DequantizeLinear", [coded, *inputs], [name], self._named(name, value)),
        ]
        self._done[value] = name
        return name

    def weight(self, value: str, node: onnx.NodeProto) -> str:
        """Symmetric int8, each output with a scale of its own."""
        numbers = self.graph.constant(value)
        assert numbers is not None
        transposed = node.op_type == "Gemm" and any(
            entry.name == "transB" and entry.i for entry in node.attribute
        )
        axis = 0 if transposed else _OUTPUT_AXIS[node.op_type] % numbers.ndim
        name = f"{value}/rounded/{axis}"
        if name in self._done:
            return self._done[name]
        coded, scale = _rounded(numbers, axis, self._reach)
        inputs = [
            self.graph.store(f"{value}/coded/{axis}", coded),
            self.graph.store(f"{value}/scale/{axis}", scale.reshape(-1)),
            self.graph.store(f"{value}/zero/{axis}", np.zeros(scale.size, np.int8)),
        ]
        module = node.name.rpartition("/")[0]
        self.nodes.append(
            new_node(
                "DequantizeLinear", inputs, [name], f"{module}/DequantizeLinear:{name}", axis=axis
            )
        )
        self._done[name] = name
        return name

    def correct_bias(self, node: onnx.NodeProto, mean: NDArray[np.float32]) -> None:
        """Take from the bias what rounding the weights adds to the mean of each output.

        Rounding errors of one output's weights do not cancel, and inputs have a mean; so without
        this every block would shift what it is given, on every clip in the same direction.
        """
        numbers = self.graph.constant(node.input[1])
        takers = self.graph.takers(node.output[0])
        if numbers is None or [taker.op_type for taker in takers] != ["Add"]:
            return
        slots = [slot for slot, value in enumerate(takers[0].input) if value != node.output[0]]
        bias = self.graph.constant(takers[0].input[slots[0]]) if slots else None
        if bias is None or bias.shape != numbers.shape[-1:]:
            return
        coded, scale = _rounded(numbers, 1, self._reach)
        shift = mean @ (coded * scale - numbers.astype(np.float32))  # [outputs]
        name = f"{takers[0].input[slots[0]]}/corrected:{node.input[1]}"
        takers[0].input[slots[0]] = self.graph.store(name, (bias - shift).astype(np.float32))

    def _named(self, value: str, source: str) -> str:
        maker = self.graph.maker(source)
        module = maker.name.rpartition("/")[0] if maker else ""
        op_type = "QuantizeLinear" if value.endswith("/coded") else "DequantizeLinear"
        return f"{module}/{op_type}:{value}"


def _rounded(
    numbers: NDArray[np.generic], axis: int, reach: int
) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """A weight in int8, at most ``reach``, and the scale along ``axis`` that gives it back, of as many dimensions."""
    others = tuple(other for other in range(numbers.ndim) if other != axis)
    largest = np.abs(numbers).max(axis=others, keepdims=True)
    scale = np.maximum(largest / reach, np.finfo(np.float32).tiny).astype(np.float32)
    return np.clip(np.rint(numbers / scale), -reach, reach).astype(np.int8), scale
