"""An ONNX graph that can be asked and changed: who makes a value, who takes it, what is constant."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

FLOATS = frozenset({onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16})


class Graph:
    """The main graph of a model. Nodes are changed in place; the order of nodes stays valid."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = model
        self._constants = {tensor.name: tensor for tensor in model.graph.initializer}
        self._types = {
            value.name: value.type.tensor_type
            for value in (*model.graph.input, *model.graph.value_info, *model.graph.output)
        }
        self._read()

    def _read(self) -> None:
        self._makers = {name: node for node in self.nodes for name in node.output}
        self._takers: dict[str, list[onnx.NodeProto]] = {}
        for node in self.nodes:
            for name in dict.fromkeys(node.input):
                self._takers.setdefault(name, []).append(node)

    @property
    def nodes(self) -> Sequence[onnx.NodeProto]:
        """In an order in which they can run."""
        return self.model.graph.node  # type: ignore[no-any-return]

    @property
    def outputs(self) -> set[str]:
        """The values that the graph gives."""
        return {value.name for value in self.model.graph.output}

    def maker(self, value: str, op_type: str | None = None) -> onnx.NodeProto | None:
        """The node that makes a value, if there is one, and of this type if one is named."""
        node = self._makers.get(value)
        return None if node is None or (op_type and node.op_type != op_type) else node

    def takers(self, value: str) -> Sequence[onnx.NodeProto]:
        """The nodes that take a value, in their order."""
        return self._takers.get(value, ())

    def is_constant(self, value: str) -> bool:
        """Whether a value is stored in the file."""
        return value in self._constants

    def constant(self, value: str) -> NDArray[np.generic] | None:
        """What is stored, if the value is."""
        tensor = self._constants.get(value)
        return None if tensor is None else numpy_helper.to_array(tensor)

    def element_type(self, value: str) -> int | None:
        """As `onnx.TensorProto` numbers them; None where the file does not say it."""
        if value in self._constants:
            return int(self._constants[value].data_type)
        kind = self._types.get(value)
        return None if kind is None else int(kind.elem_type)

    def shape(self, value: str) -> tuple[int | str, ...] | None:
        """Sizes, and names of sizes that are free; None where the file does not say it."""
        if value in self._constants:
            return tuple(self._constants[value].dims)
        kind = self._types.get(value)
        if kind is None or not kind.HasField("shape"):
            return None
        return tuple(
            size.dim_value if size.HasField("dim_value") else size.dim_param
            for size in kind.shape.dim
        )

    def store(self, name: str, array: NDArray[np.generic]) -> str:
        """Store a constant; a name that is there already must hold the same."""
        if name not in self._constants:
            tensor = numpy_helper.from_array(np.ascontiguousarray(array), name)
            self.model.graph.initializer.append(tensor)
            self._constants[name] = self.model.graph.initializer[-1]
        elif not np.array_equal(numpy_helper.to_array(self._constants[name]), array):
            raise ValueError(f"{name} is stored already, with other values")
        return name

    def rebuild(self, nodes: Iterable[onnx.NodeProto]) -> None:
        """Take other nodes instead, and drop what then nobody needs."""
        kept = [_copy(node) for node in nodes]
        del self.model.graph.node[:]
        self.model.graph.node.extend(kept)
        self.drop_unused()

    def drop_unused(self) -> None:
        """Drop nodes and constants of which no output of the graph comes."""
        needed = set(self.outputs)
        kept = []
        for node in reversed(self.nodes):
            if needed.intersection(node.output):
                kept.append(node)
                needed.update(node.input)
        graph = self.model.graph
        if len(kept) < len(graph.node):
            kept = [_copy(node) for node in reversed(kept)]
            del graph.node[:]
            graph.node.extend(kept)
        for index in reversed(range(len(graph.initializer))):
            if graph.initializer[index].name not in needed:
                del graph.initializer[index]
        made = {name for node in graph.node for name in node.output}
        for index in reversed(range(len(graph.value_info))):
            if graph.value_info[index].name not in made:
                del graph.value_info[index]
        self._constants = {tensor.name: tensor for tensor in graph.initializer}
        self._read()


def attribute(node: onnx.NodeProto, name: str, default: object = None) -> object:
    """What a node's attribute says, or ``default``."""
    for found in node.attribute:
        if found.name == name:
            return onnx.helper.get_attribute_value(found)
    return default


def new_node(
    op_type: str, inputs: Sequence[str], outputs: Sequence[str], name: str, **attributes: Any
) -> onnx.NodeProto:
    """A node, with ``domain`` and the operator's attributes by their names."""
    return onnx.helper.make_node(op_type, inputs, outputs, name=name, **attributes)


def copy_of(model: onnx.ModelProto) -> onnx.ModelProto:
    """A model that can be changed while the first stays as it is."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    return copy


def needs(model: onnx.ModelProto, domain: str, version: int) -> None:
    """Have the model say that it takes operators of ``domain``."""
    if all(opset.domain != domain for opset in model.opset_import):
        model.opset_import.append(onnx.helper.make_opsetid(domain, version))


def _copy(node: onnx.NodeProto) -> onnx.NodeProto:
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    return copy
