"""A plain graph with ONNX Runtime's own operators in it: whole attentions that need no transposes.

ONNX Runtime runs ``com.microsoft.MultiHeadAttention`` by flash kernels, and it takes queries, keys
and values as the projections give them: [batch, tokens, hidden]. What only brought them to
[batch, heads, tokens, head] is dropped. Other engines do not read this graph.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from lora_deploy.export.graph import Graph, attribute, copy_of, needs, new_node

DOMAIN = "com.microsoft"

_SWAP = [0, 2, 1, 3]


@dataclass(frozen=True)
class Fused:
    """What `fused` made."""

    model: onnx.ModelProto
    attentions: int
    """How many attentions are one node of ONNX Runtime's now."""
    unfused: int
    """How many are still written out."""


def fused(model: onnx.ModelProto) -> Fused:
    """Rewrite each attention for ONNX Runtime; what can't be rewritten stays as it is.

    Args:
        model: As `write_onnx` makes it; it stays as it is. Values that leave a block, metadata
            and the free batch size are in the new graph too.
    """
    model = copy_of(model)
    rewriting = _Rewriting(Graph(model))
    nodes = list(model.graph.node)
    count = 0
    for node in model.graph.node:
        if node.op_type == "Attention":
            count += rewriting.attention(node)
        elif node.op_type == "Softmax":
            count += rewriting.written_out_attention(node)
    rewriting.graph.rebuild(
        new for node in nodes for new in rewriting.instead.get(node.output[0], [node])
    )
    if count:
        needs(model, DOMAIN, 1)
    unfused = sum(node.op_type in ("Attention", "Softmax") for node in model.graph.node)
    return Fused(model, count, unfused)


class _Rewriting:
    """Collects, by the first output of the node that goes, the nodes that stand in its place."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.instead: dict[str, list[onnx.NodeProto]] = {}
        self._new: list[onnx.NodeProto] = []
        self._split: set[str] = set()

    def attention(self, node: onnx.NodeProto) -> int:
        """1 if an ``Attention`` [batch, heads, tokens, head] was rewritten, else 0."""
        plain = not attribute(node, "is_causal", 0) and not attribute(node, "softcap", 0.0)
        if len(node.input) != 3 or not plain or len(node.output) != 1:
            return 0
        scale = attribute(node, "scale")
        return self._rewrite(node, list(node.input), node.output[0], scale)

    def written_out_attention(self, softmax: onnx.NodeProto) -> int:
        """1 if MatMul, Mul, Softmax, MatMul were one attention and were rewritten, else 0."""
        graph = self.graph
        scaling = graph.maker(softmax.input[0], "Mul")
        scores = graph.maker(scaling.input[0], "MatMul") if scaling else None
        turned = graph.maker(scores.input[1], "Transpose") if scores else None
        takers = graph.takers(softmax.output[0])
        if scaling is None or scores is None or turned is None or len(takers) != 1:
            return 0
        (last,) = takers
        scale = graph.constant(scaling.input[1])
        turns = attribute(turned, "perm") == [0, 1, 3, 2]
        if last.op_type != "MatMul" or scale is None or scale.size != 1 or not turns:
            return 0
        inputs = [scores.input[0], turned.input[0], last.input[1]]
        return self._rewrite(last, inputs, last.output[0], float(scale.item()))

    def _rewrite(self, node: onnx.NodeProto, inputs: list[str], output: str, scale: object) -> int:
        shapes = [self.graph.shape(value) for value in inputs]
        heads = {shape[1] for shape in shapes if shape and len(shape) == 4}
        if len(heads) != 1 or not all(shapes) or not isinstance(one := heads.pop(), int):
            return 0
        self._new = []
        flat = [self._flat(value, one) for value in inputs]
        result = self._end(output)
        attributes = {} if scale is None else {"scale": scale}
        module = node.name.rpartition("/")[0]
        self._new.append(
            new_node(
                "MultiHeadAttention", flat, [result], f"{module}/MultiHeadAttention",
                domain=DOMAIN, num_heads=one, **attributes,
            )
        )  # fmt: skip
        if result == f"{output}/flat":
            self._unflatten(result, output, one, node)
            self.instead[output] = self._new
        else:
            self.instead[output] = []
            self.instead[result] = self._new
        return 1

    def _flat(self, value: str, heads: int) -> str:
        """What is [batch, heads, tokens, head] as [batch, tokens, heads · head], for free if it can be."""
        swap = self.graph.maker(value, "Transpose")
        if swap and attribute(swap, "perm") == _SWAP:
            split = self.graph.maker(swap.input[0], "Reshape")
            if split and len(self.graph.shape(split.input[0]) or ()) == 3:
                return str(split.input[0])
        return self._rotated(value, heads) or self._selected(value) or self._flattened(value)

    def _selected(self, value: str) -> str | None:
        """TimeSformer's one projection of all three: a third of it, as it comes."""
        select = self.graph.maker(value, "Gather")
        turn = self.graph.maker(select.input[0], "Transpose") if select else None
        split = self.graph.maker(turn.input[0], "Reshape") if turn else None
        if select is None or turn is None or split is None:
            return None
        whole, which = split.input[0], self.graph.constant(select.input[1])
        sizes = self.graph.shape(split.output[0]) or ()
        three = len(sizes) == 5 and sizes[2] == 3 and len(self.graph.shape(whole) or ()) == 3
        turned = attribute(turn, "perm") == [2, 0, 3, 1, 4] and attribute(select, "axis", 0) == 0
        if not three or not turned or which is None or which.size != 1:
            return None
        thirds = [f"{whole}/query", f"{whole}/key", f"{whole}/value"]
        if whole not in self._split:
            self._split.add(whole)
            module = split.name.rpartition("/")[0]
            self._new.append(
                new_node("Split", [whole], thirds, f"{module}/Split", axis=-1, num_outputs=3)
            )
        return thirds[int(which.item())]

    def _rotated(self, value: str, heads: int) -> str | None:
        """V-JEPA 2's x · cosines + x' · sines, the same on flat values: no transposes before it."""
        total = self.graph.maker(value, "Add")
        parts = [self.graph.maker(part, "Mul") for part in total.input] if total else []
        if total is None or len(parts) != 2 or parts[0] is None or parts[1] is None:
            return None
        exchanged = self.graph.maker(parts[1].input[0], "Gather")
        cosines, sines = (self.graph.constant(part.input[1]) for part in parts if part)
        straight = parts[0].input[0]
        if exchanged is None or exchanged.input[0] != straight or cosines is None or sines is None:
            return None
        order = self.graph.constant(exchanged.input[1])
        if order is None or order.ndim != 1 or cosines.ndim != 2 or sines.ndim != 2:
            return None
        flat = self._flat(straight, heads)
        size = len(order)
        offsets = np.arange(heads)[:, None] * size
        wide = (offsets + order.astype(np.int64)[None, :]).reshape(-1)
        names = [f"{exchanged.input[1]}/wide", *(f"{part.input[1]}/wide" for part in parts if part)]
        tables: list[NDArray[np.generic]] = [wide, np.tile(cosines, heads), np.tile(sines, heads)]
        for name, table in zip(names, tables, strict=True):
            self.graph.store(name, table)
        module = total.name.rpartition("/")[0]
        made = f"{value}/rotated"
        self._add("Gather", [flat, names[0]], f"{made}/exchanged", module, axis=-1)
        self._add("Mul", [flat, names[1]], f"{made}/straight", module)
        self._add("Mul", [f"{made}/exchanged", names[2]], f"{made}/crossed", module)
        self._add("Add", [f"{made}/straight", f"{made}/crossed"], made, module)
        return made

    def _flattened(self, value: str) -> str:
        shape = self.graph.shape(value)
        assert shape is not None
        maker = self.graph.maker(value)
        module = maker.name.rpartition("/")[0] if maker else ""
        self._add("Transpose", [value], f"{value}/swapped", module, perm=_SWAP)
        sizes = self.graph.store(f"{value}/flat_shape", np.array([0, 0, -1], np.int64))
        self._add("Reshape", [f"{value}/swapped", sizes], f"{value}/flat", module)
        return f"{value}/flat"

    def _end(self, output: str) -> str:
        """The flat value into which an attention's output is turned anyway, or a new one."""
        value = output
        for op_type in ("Reshape", "Transpose", "Reshape"):
            takers = self.graph.takers(value)
            if op_type == "Reshape" and value == output and not self._is_idle(takers):
                continue
            if [taker.op_type for taker in takers] != [op_type]:
                return f"{output}/flat"
            if op_type == "Transpose" and attribute(takers[0], "perm") != _SWAP:
                return f"{output}/flat"
            value = takers[0].output[0]
        _, heads, tokens, size = self.graph.shape(output) or (0, 0, 0, 0)
        joined = (self.graph.shape(value) or ())[1:]
        whole = (
            isinstance(heads, int) and isinstance(size, int) and joined == (tokens, heads * size)
        )
        return value if whole else f"{output}/flat"

    def _is_idle(self, takers: Sequence[onnx.NodeProto]) -> bool:
        """Of a query of one token: a Reshape to the shape that it has already."""
        return [taker.op_type for taker in takers] == ["Reshape"] and self.graph.shape(
            takers[0].input[0]
        ) == self.graph.shape(takers[0].output[0])

    def _unflatten(self, flat: str, output: str, heads: int, node: onnx.NodeProto) -> None:
        shape = self.graph.shape(output)
        assert shape is not None
        module = node.name.rpartition("/")[0]
        sizes = self.graph.store(f"{output}/split_shape", np.array([0, 0, heads, -1], np.int64))
        self._add("Reshape", [flat, sizes], f"{output}/split", module)
        self._add("Transpose", [f"{output}/split"], output, module, perm=_SWAP)

    def _add(
        self, op_type: str, inputs: list[str], output: str, module: str, **attributes: Any
    ) -> None:
        """A node more, named by its module and, so that names stay unique, by what it makes."""
        name = f"{module}/{op_type}:{output}"
        self._new.append(new_node(op_type, inputs, [output], name, **attributes))
