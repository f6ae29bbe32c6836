"""A merged model as one ONNX file in plain operators, any batch size, labels and pixels inside."""

import ast
import json
import logging
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
import torch
from torch import nn
from transformers import PreTrainedModel

from lora_deploy.clips.contract import PixelContract
from lora_deploy.errors import NotExportableError, TooLargeForOnnxError
from lora_deploy.export.graph import Graph, attribute, new_node
from lora_deploy.export.rotary import constant_positions
from lora_deploy.model.architectures import logits_of

OPSET = 23
"""The first with ``Attention`` as one node; lower ones decompose it."""

_LARGEST_SINGLE_FILE_BYTES = 2**31 - 2**20


class _LogitsOnly(nn.Module):
    """What is traced: pixels in, logits out, no dictionary."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        return logits_of(self.model, pixel_values)


def write_onnx(
    model: PreTrainedModel,
    path: Path,
    *,
    labels: Sequence[str],
    contract: PixelContract,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Export; input ``pixel_values`` [batch, frames, 3, height, width], output ``logits`` [batch, labels].

    Args:
        model: Merged, float32, on the CPU.
        path: Of the ONNX file.
        labels: Written into the file's metadata, with the contract.
        contract: Gives the shape of a clip.
        metadata: More to be written beside them.

    Raises:
        TooLargeForOnnxError: The model is too large for one ONNX file.
        NotExportableError: The exporter can't follow it.
    """
    size = sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())
    if size > _LARGEST_SINGLE_FILE_BYTES:
        raise TooLargeForOnnxError(
            f"the model has {size / 1e9:.1f} GB of weights; one ONNX file holds at most 2 GB"
        )
    # A batch of 2: a batch of 1 would be taken for a constant.
    example = torch.zeros(2, *contract.pixel_values_shape)
    with warnings.catch_warnings(), _quiet(), constant_positions(model, contract.frames):
        warnings.simplefilter("ignore")  # deprecations inside the exporter itself
        program = torch.onnx.export(
            _LogitsOnly(model).eval(),
            (example,),
            dynamo=True,
            opset_version=OPSET,
            input_names=["pixel_values"],
            output_names=["logits"],
            dynamic_shapes={"pixel_values": {0: torch.export.Dim("batch", min=1, max=4096)}},
            verbose=False,
        )
    if program is None:
        raise NotExportableError("torch.onnx gave no program for this model")
    proto = program.model_proto
    onnx.helper.set_model_props(
        proto,
        {
            "labels": json.dumps(list(labels), ensure_ascii=False),
            "pixel_contract": contract.model_dump_json(),
            **(metadata or {}),
        },
    )
    _name_nodes(proto)
    _forget_traces(proto)
    _drop_idle_masks(proto)
    _whole_gelu(proto)
    _write_out_single_queries(proto)
    onnx.checker.check_model(proto, full_check=True)
    onnx.save_model(proto, path)


def _name_nodes(proto: onnx.ModelProto) -> None:
    """Name each node by its module and operator: ``videomae.encoder.layer.3.output.dense/MatMul``."""
    uses: Counter[str] = Counter()
    for node in proto.graph.node:
        module = _module_of(node)
        name = f"{module}/{node.op_type}" if module else node.op_type
        uses[name] += 1
        node.name = name if uses[name] == 1 else f"{name}_{uses[name] - 1}"


def _module_of(node: onnx.NodeProto) -> str:
    """The module whose forward made a node, as the model itself names it."""
    notes = {note.key: note.value for note in node.metadata_props}
    # From outside to inside, then the operation: ['', 'model', 'model.videomae', …, 'linear_2'].
    scopes = ast.literal_eval(notes.get("pkg.torch.onnx.name_scopes", "[]"))
    innermost: str = scopes[-2] if len(scopes) > 1 else ""
    return innermost.removeprefix("model").removeprefix(".") if innermost[:5] == "model" else ""


def _drop_idle_masks(proto: onnx.ModelProto) -> None:
    """ViViT hands its attention a mask that hides nothing; many engines have no fast path for masks."""
    graph = Graph(proto)
    for node in graph.nodes:
        if node.op_type != "Attention" or len(node.input) < 4 or not node.input[3]:
            continue
        spread = graph.maker(node.input[3], "Expand")
        mask = graph.constant(spread.input[0] if spread else node.input[3])
        if mask is not None and mask.dtype == np.bool_ and mask.all():
            node.input[3] = ""
            while not node.input[-1]:
                node.input.pop()
    graph.drop_unused()


def _write_out_single_queries(proto: onnx.ModelProto) -> None:
    """V-JEPA 2's pooler asks with one query: TensorRT has no whole attention for that, and its own
    way of writing one out fails at a batch of one (tensorrt-rtx 1.7.1)."""
    graph = Graph(proto)
    nodes: list[onnx.NodeProto] = []
    for node in graph.nodes:
        shape = graph.shape(node.input[0]) if node.op_type == "Attention" else None
        plain = len(node.input) == 3 and not attribute(node, "is_causal", 0)
        if plain and shape is not None and len(shape) == 4 and shape[2] == 1:
            nodes += _written_out(graph, node)
        else:
            nodes.append(node)
    graph.rebuild(nodes)


def _written_out(graph: Graph, node: onnx.NodeProto) -> list[onnx.NodeProto]:
    """MatMul, Mul, Softmax and MatMul in the place of an attention [batch, heads, tokens, head]."""
    query, key, value = node.input
    (output,) = node.output
    module = node.name.rpartition("/")[0]
    *outer, _, size = graph.shape(query) or ()
    tokens = (graph.shape(key) or ())[2]
    scale = attribute(node, "scale", float(size) ** -0.5)
    turned, scores, scaled, weights = (
        f"{output}/{what}" for what in ("turned", "scores", "scaled", "weights")
    )
    number = graph.store(f"{output}/scale", np.array(scale, np.float32))
    for name, shape in (
        (turned, [*outer, size, tokens]),
        (scores, [*outer, 1, tokens]),
        (scaled, [*outer, 1, tokens]),
        (weights, [*outer, 1, tokens]),
    ):
        told = onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)
        graph.model.graph.value_info.append(told)
    return [
        new_node("Transpose", [key], [turned], f"{module}/Transpose:{turned}", perm=[0, 1, 3, 2]),
        new_node("MatMul", [query, turned], [scores], f"{module}/MatMul:{scores}"),
        new_node("Mul", [scores, number], [scaled], f"{module}/Mul:{scaled}"),
        new_node("Softmax", [scaled], [weights], f"{module}/Softmax:{weights}", axis=-1),
        new_node("MatMul", [weights, value], [output], f"{module}/MatMul:{output}"),
    ]


_TANH_GELU = ("Mul", "Mul", "Mul", "Mul", "Add", "Mul", "Tanh", "Add", "Mul")


def _whole_gelu(proto: onnx.ModelProto) -> None:
    """ViViT's activation written out in nine nodes, as the one operator that it is."""
    graph = Graph(proto)
    nodes = list(graph.nodes)
    for start, first in enumerate(graph.nodes):
        chain = nodes[start : start + len(_TANH_GELU)]
        if tuple(node.op_type for node in chain) != _TANH_GELU:
            continue
        if _tanh_gelu(graph, chain) and len({node.name.split("/")[0] for node in chain}) == 1:
            whole = onnx.helper.make_node(
                "Gelu", [first.input[0]], chain[-1].output, approximate="tanh"
            )
            whole.name = first.name.replace("/Mul", "/Gelu")
            nodes[start + len(_TANH_GELU) - 1] = whole
    graph.rebuild(nodes)


def _tanh_gelu(graph: Graph, chain: Sequence[onnx.NodeProto]) -> bool:
    """Whether nine nodes compute ½x · (1 + tanh(√(2/π)·x · (1 + 0.044715·x²)))."""
    half, scaled, square, squared, plus, inner, tanh, one_more, _ = chain
    x = half.input[0]
    takes = [
        (half, x, 0.5), (scaled, x, np.sqrt(2 / np.pi)), (square, x, 0.044715),
        (squared, square.output[0], x), (plus, squared.output[0], 1.0),
        (inner, scaled.output[0], plus.output[0]), (tanh, inner.output[0], None),
        (one_more, tanh.output[0], 1.0), (chain[-1], half.output[0], one_more.output[0]),
    ]  # fmt: skip
    return all(_takes(graph, node, value, other) for node, value, other in takes)


def _takes(graph: Graph, node: onnx.NodeProto, value: str, other: str | float | None) -> bool:
    """Whether a node takes a value, and beside it another or a constant number."""
    if not isinstance(other, float):
        return list(node.input) == ([value] if other is None else [value, other])
    number = graph.constant(node.input[1])
    return node.input[0] == value and number is not None and bool(np.isclose(number, other).all())


def _forget_traces(proto: onnx.ModelProto) -> None:
    """Drop the exporter's notes on each node: stack traces with paths of this computer."""
    for node in proto.graph.node:
        del node.metadata_props[:]
        node.doc_string = ""
    for function in proto.functions:
        for node in function.node:
            del node.metadata_props[:]
            node.doc_string = ""
    for value in (*proto.graph.value_info, *proto.graph.input, *proto.graph.output):
        del value.metadata_props[:]
    for initializer in proto.graph.initializer:
        del initializer.metadata_props[:]
    del proto.graph.metadata_props[:]


class _quiet:
    """The exporter logs its own internals as warnings."""

    _NAMES = ("torch.onnx", "onnxscript", "onnx_ir")

    def __enter__(self) -> None:
        self._levels = [
            (logging.getLogger(name), logging.getLogger(name).level) for name in self._NAMES
        ]
        for logger, _ in self._levels:
            logger.setLevel(logging.ERROR)

    def __exit__(self, *_: object) -> None:
        for logger, level in self._levels:
            logger.setLevel(level)
