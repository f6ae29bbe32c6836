"""The base as an ONNX graph that adapters are put into: LoRA's factors and the head are inputs with a default.

The base goes through the same exporter as the merged model. Beside the product of each layer that
an adapter changes, two small ones are added, and what an adapter brings is handed in from outside:

``LAYER.lora_A``  [inputs, rank]       A, transposed
``LAYER.lora_B``  [rank, outputs]      B times alpha / r, transposed; the rank is free
``LAYER.lora_scale``  [outputs]        by what DoRA multiplies the sum; where the adapter is a DoRA
``MODULE.weight``, ``MODULE.weight.T`` of the head; ``.T`` where the exporter turned it

Left out, LoRA's factors are zeros of rank 1, DoRA's are ones, and the head is the one of the training: the graph by
itself is the base under the trained head. Files of ONNX Runtime's own format bring all of them.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from transformers import PreTrainedModel

from lora_deploy.artifact import bundle
from lora_deploy.errors import NotExportableError
from lora_deploy.export.fuse import fused
from lora_deploy.export.graph import Graph, copy_of, new_node
from lora_deploy.export.merge import without_update
from lora_deploy.export.to_onnx import write_onnx
from lora_deploy.model.bypass import lora_layers, products_of, row_factors
from lora_deploy.runtime.trained import Trained

Array = NDArray[np.float32]

RANK = ".rank"
"""Ending of the size that is free in the inputs of a layer: each layer may have another."""

_PRODUCTS = ("MatMul", "Gemm")


def write_adapter_graph(stage: Path, trained: Trained, name: str, *, fuse: bool) -> None:
    """Write ``onnx/adapters.onnx``, and the adapter as a file for it.

    Args:
        stage: The bundle under way; its ``onnx`` and ``adapters`` folders are there.
        trained: With an adapter.
        name: Of the adapter.
        fuse: Whether attentions are ONNX Runtime's own, as in its graph of the merged model.

    Raises:
        NotExportableError: A layer or a part of the head is not found in the exported graph.
        TooLargeForOnnxError: The base is too large for one ONNX file.
    """
    if not isinstance(trained.model, PeftModel):
        raise TypeError("a model without an adapter has no adapter graph")
    base, marks = marked_base(trained.model)
    path = stage / bundle.ADAPTER_GRAPH
    write_onnx(
        base,
        path,
        labels=trained.labels,
        contract=trained.contract,
        metadata={"run": trained.digest},
    )
    plain = onnx.load(path)
    lora, head = lora_factors(trained.model), head_tensors(trained.model)
    scales = dora_scales(trained.model)
    model = with_adapter_inputs(fused(plain).model if fuse else plain, lora, head, marks, scales)
    onnx.checker.check_model(model, full_check=not fuse)  # it knows no operators of ONNX Runtime
    onnx.save_model(model, path)
    path = stage / f"{bundle.ADAPTERS}/{name}{bundle.ONNX_ADAPTER}"
    write_onnx_adapter(path, adapter_for(model, lora, head, scales))


def marked_base(model: PeftModel) -> tuple[PreTrainedModel, dict[str, Array]]:
    """A copy of the base, with noise for a head: by that its parts are known again in the graph.

    The exporter leaves out a bias of zeros, and parts with equal values become one.
    """
    base = without_update(model)
    generator = torch.Generator().manual_seed(0)
    marks = {}
    with torch.no_grad():
        for name in head_tensors(model):
            parameter = base.get_parameter(name)
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
            marks[name] = parameter.cpu().numpy().copy()
    return base, marks


def lora_factors(model: PeftModel) -> dict[str, tuple[Array, Array]]:
    """By layer, A transposed [inputs, rank] and B·(alpha / r) transposed [rank, outputs]."""
    found = {}
    for name, layer in model.get_base_model().named_modules():
        if isinstance(layer, LoraLayer):
            [adapter] = layer.active_adapters
            a, b = (
                factors.get_parameter(f"{adapter}.weight").detach().float().cpu().numpy()
                for factors in (layer.lora_A, layer.lora_B)
            )
            scale = np.float32(layer.scaling[adapter])
            found[name] = (np.ascontiguousarray(a.T), np.ascontiguousarray(b.T * scale))
    return found


@torch.no_grad()
def dora_scales(model: PeftModel) -> dict[str, Array]:
    """By layer, what DoRA multiplies each output of W + B·A by, [outputs]; empty without DoRA."""
    found = {}
    for name, layer in lora_layers(model).items():
        [(adapter, product)] = products_of(layer).items()
        if (factors := row_factors(layer, adapter, product)) is not None:
            found[name] = factors.float().cpu().numpy()
    return found


def head_tensors(model: PeftModel) -> dict[str, Array]:
    """By their names in the model without its adapter, the parameters that are saved along with it."""
    kept = re.compile(r"^(.+?)\.modules_to_save\.[^.]+(\..+)$")
    return {
        match[1] + match[2]: parameter.detach().float().cpu().numpy()
        for name, parameter in model.get_base_model().named_parameters()
        if (match := kept.match(name))
    }


def with_adapter_inputs(
    model: onnx.ModelProto,
    lora: Mapping[str, tuple[Array, Array]],
    head: Mapping[str, Array],
    marks: Mapping[str, Array],
    scales: Mapping[str, Array] | None = None,
) -> onnx.ModelProto:
    """Have a graph of the base take what an adapter brings.

    Args:
        model: Of the base that `marked_base` gives, plain or fused; it stays as it is.
        lora: As `lora_factors` gives them.
        head: As `head_tensors` gives them.
        marks: What stands in their places.
        scales: As `dora_scales` gives them.

    Raises:
        NotExportableError: A layer or a part of the head is not found in the graph.
    """
    graph = Graph(copy_of(model))
    nodes = list(graph.nodes)
    for layer, (a, b) in lora.items():
        node = _product(nodes, layer)
        names = (f"{layer}.lora_A", f"{layer}.lora_B")
        scale = f"{layer}.lora_scale" if scales and layer in scales else None
        nodes[nodes.index(node) + 1 : nodes.index(node) + 1] = _added(node, layer, *names, scale)
        if scale is not None:
            _take(graph, scale, np.ones(b.shape[1], np.float32), (b.shape[1],))
        rank = f"{layer}{RANK}"
        _take(graph, names[0], np.zeros((a.shape[0], 1), np.float32), (a.shape[0], rank))
        _take(graph, names[1], np.zeros((1, b.shape[1]), np.float32), (rank, b.shape[1]))
    _take_head(graph, nodes, head, marks)
    graph.rebuild(nodes)
    return graph.model


def adapter_for(
    model: onnx.ModelProto,
    lora: Mapping[str, tuple[Array, Array]],
    head: Mapping[str, Array],
    scales: Mapping[str, Array] | None = None,
) -> dict[str, Array]:
    """What an adapter brings to a graph that `with_adapter_inputs` made, by the names of its inputs."""
    takes = {value.name for value in model.graph.input}
    brought: dict[str, Array] = {}
    for layer, (a, b) in lora.items():
        brought |= {f"{layer}.lora_A": a, f"{layer}.lora_B": b}
    brought |= {f"{layer}.lora_scale": scale for layer, scale in (scales or {}).items()}
    for name, tensor in head.items():
        turned = f"{name}.T" in takes
        brought[f"{name}.T" if turned else name] = tensor.T if turned else tensor
    return brought


def _product(nodes: Sequence[onnx.NodeProto], layer: str) -> onnx.NodeProto:
    """The one node that multiplies with a layer's weight."""
    found = [
        node
        for node in nodes
        if node.op_type in _PRODUCTS and node.name.rpartition("/")[0] == layer
    ]
    if len(found) != 1:
        raise NotExportableError(
            f"{layer} is {len(found)} products in the exported graph, not one, so no adapter can be "
            "put beside it"
        )
    return found[0]


def _added(
    node: onnx.NodeProto, layer: str, a: str, b: str, scale: str | None
) -> list[onnx.NodeProto]:
    """Nodes that add (x·A)·B to what ``node`` makes of x, scale the sum, and give it its name."""
    output, alone = node.output[0], f"{layer}.without_lora"
    node.output[0] = alone
    narrow, delta = f"{layer}.narrow", f"{layer}.delta"
    if scale is not None:
        if len(node.input) > 2:
            raise NotExportableError(
                f"{layer} adds its bias in the same node as it multiplies, and DoRA scales what lies "
                "between the two"
            )
        total = f"{layer}.unscaled"
        last = [new_node("Mul", [total, scale], [output], f"{layer}.lora_scale/Mul")]
        output = total
    else:
        last = []
    return [
        new_node("MatMul", [node.input[0], a], [narrow], f"{layer}.lora_A/MatMul"),
        new_node("MatMul", [narrow, b], [delta], f"{layer}.lora_B/MatMul"),
        new_node("Add", [alone, delta], [output], f"{layer}.lora/Add"),
        *last,
    ]


def _take_head(
    graph: Graph,
    nodes: Sequence[onnx.NodeProto],
    head: Mapping[str, Array],
    marks: Mapping[str, Array],
) -> None:
    """Make inputs of the head's parameters, wherever a node takes what stands in the place of one."""
    taken: dict[str, str] = {}
    for node in nodes:
        for at, value in enumerate(node.input):
            stored = graph.constant(value)
            name = None if stored is None else _marked(stored, marks)
            if stored is None or name is None:
                continue
            straight = np.array_equal(stored, marks[name])
            whole = name if straight else f"{name}.T"
            if taken.setdefault(name, whole) != whole:
                raise NotExportableError(
                    f"{name} of the head is taken straight and turned in the exported graph, so one "
                    "input can't be both"
                )
            if not graph.is_constant(whole):
                _take(graph, whole, head[name] if straight else head[name].T, stored.shape)
            node.input[at] = whole
    if lost := sorted(head.keys() - taken.keys()):
        raise NotExportableError(
            f"{lost[0]} of the head is not found in the exported graph, so an adapter can't bring it"
        )


def _marked(stored: NDArray[np.generic], marks: Mapping[str, Array]) -> str | None:
    """Whose mark is stored, straight or turned."""
    found = (
        name
        for name, mark in marks.items()
        if mark.size == stored.size
        and (np.array_equal(mark, stored) or np.array_equal(mark.T, stored))
    )
    return next(found, None)


def _take(graph: Graph, name: str, default: Array, shape: Sequence[int | str]) -> None:
    """One input more, with what it is where it is left out."""
    graph.store(name, default)
    graph.model.graph.input.append(
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)
    )


def write_onnx_adapter(path: Path, tensors: Mapping[str, Array]) -> None:
    """Write an adapter as ONNX Runtime's own format has it."""
    values = {
        name: onnxruntime.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(tensor))
        for name, tensor in tensors.items()
    }
    adapter = onnxruntime.AdapterFormat()
    adapter.set_adapter_version(1)
    adapter.set_model_version(1)
    adapter.set_parameters(values)
    adapter.export_adapter(str(path))
