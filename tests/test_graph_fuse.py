"""ONNX Runtime's own attention in a graph: all of them, the same answers, nothing lost."""

import numpy as np
import onnx
import pytest

from lora_deploy.export.blocks import block_outputs
from lora_deploy.export.fuse import fused
from lora_deploy.export.graph import copy_of
from tests.tiny_graphs import (
    MODEL_TYPES,
    contract_of,
    in_onnxruntime,
    in_openvino,
    is_as_shipped,
    largest_difference,
    pixels_of,
)

ATTENTIONS = {"videomae": 2, "timesformer": 4, "vivit": 2, "vjepa2": 4}
"""Of two layers: TimeSformer attends twice in each, V-JEPA 2 twice more in its pooler."""


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_every_attention_becomes_one_node_and_answers_stay(
    model_type: str, tiny_graphs: dict[str, onnx.ModelProto], real_frames: list[np.ndarray]
) -> None:
    plain = tiny_graphs[model_type]
    result = fused(plain)
    ops = [node.op_type for node in result.model.graph.node]
    assert (result.attentions, result.unfused) == (ATTENTIONS[model_type], 0)
    assert ops.count("MultiHeadAttention") == ATTENTIONS[model_type]
    assert not {"Attention", "Softmax"} & set(ops)
    for count in (1, 3):
        pixels = np.concatenate(pixels_of(plain, real_frames[:count]))
        expected = in_onnxruntime(plain, pixels)
        assert largest_difference(in_onnxruntime(result.model, pixels), expected) < 1e-6
        assert largest_difference(in_openvino(plain, pixels), expected) < 1e-6


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_labels_names_and_values_between_blocks_are_kept(
    model_type: str, tiny_graphs: dict[str, onnx.ModelProto]
) -> None:
    plain = tiny_graphs[model_type]
    before = plain.SerializeToString()
    model = fused(plain).model
    assert plain.SerializeToString() == before
    assert is_as_shipped(model)
    assert contract_of(model) == contract_of(plain)
    assert block_outputs(model) == block_outputs(plain)
    names = [node.name for node in model.graph.node]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("model_type", ["videomae", "vivit", "vjepa2"])
def test_no_transpose_is_left_around_an_attention(
    model_type: str, tiny_graphs: dict[str, onnx.ModelProto]
) -> None:
    ops = [node.op_type for node in fused(tiny_graphs[model_type]).model.graph.node]
    assert ops.count("Transpose") == 2  # around the patch embedding


def test_an_attention_whose_neighbours_are_strange_is_fused_with_transposes_of_its_own(
    tiny_graphs: dict[str, onnx.ModelProto], real_frames: list[np.ndarray]
) -> None:
    plain = copy_of(tiny_graphs["videomae"])
    position, attention = next(
        (index, node) for index, node in enumerate(plain.graph.node) if node.op_type == "Attention"
    )
    for slot, (value, end) in enumerate(
        [*((value, False) for value in attention.input), (attention.output[0], True)]
    ):
        (kind,) = (info for info in plain.graph.value_info if info.name == value)
        between = onnx.ValueInfoProto()
        between.CopyFrom(kind)
        between.name = f"{value}/between"
        plain.graph.value_info.append(between)
        source, target = (between.name, value) if end else (value, between.name)
        twice = onnx.helper.make_node("Identity", [source], [target], name=f"odd/Identity_{slot}")
        if end:
            attention.output[0] = between.name
        else:
            attention.input[slot] = between.name
        place = position + slot + (1 if end else 0)
        plain.graph.node.insert(place, twice)
    result = fused(plain)
    assert result.attentions == 2
    pixels = np.concatenate(pixels_of(plain, real_frames[:3]))
    difference = largest_difference(
        in_onnxruntime(result.model, pixels), in_onnxruntime(plain, pixels)
    )
    assert difference < 1e-6


def test_products_and_a_softmax_that_are_no_attention_are_left_alone(
    tiny_graphs: dict[str, onnx.ModelProto],
) -> None:
    other = copy_of(tiny_graphs["timesformer"])
    turn = next(
        node
        for node in other.graph.node
        if node.op_type == "Transpose" and list(node.attribute[0].ints) == [0, 1, 3, 2]
    )
    turn.attribute[0].ints[:] = [0, 1, 2, 3]  # keys that are not turned
    result = fused(other)
    assert (result.attentions, result.unfused) == (3, 1)


@pytest.mark.parametrize("change", ["causal", "masked"])
def test_an_attention_of_another_kind_is_left_alone(
    change: str, tiny_graphs: dict[str, onnx.ModelProto]
) -> None:
    plain = copy_of(tiny_graphs["videomae"])
    attention = next(node for node in plain.graph.node if node.op_type == "Attention")
    if change == "causal":
        next(entry for entry in attention.attribute if entry.name == "is_causal").i = 1
    else:
        attention.input.append("mask")
    result = fused(plain)
    assert (result.attentions, result.unfused) == (1, 1)
