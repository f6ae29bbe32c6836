"""A graph in float16: nearly the same answers, float32 where it matters, never an infinity."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper
from onnx.reference import ReferenceEvaluator

from lora_deploy.errors import NothingDecodedError
from lora_deploy.export.blocks import block_of, block_outputs, is_head
from lora_deploy.export.fuse import fused
from lora_deploy.export.graph import copy_of
from lora_deploy.export.half import LARGEST_HALF, in_half
from lora_deploy.export.ranges import measure
from tests.tiny_graphs import (
    MODEL_TYPES,
    contract_of,
    in_onnxruntime,
    in_openvino,
    is_as_shipped,
    largest_difference,
    pixels_of,
)


def element_types(model: onnx.ModelProto) -> dict[str, int]:
    """Of each value that a strict reader infers."""
    bare = copy_of(model)
    del bare.graph.value_info[:]
    inferred = onnx.shape_inference.infer_shapes(bare, check_type=True, strict_mode=True)
    values = (*inferred.graph.value_info, *inferred.graph.input, *inferred.graph.output)
    found = {value.name: value.type.tensor_type.elem_type for value in values}
    return found | {tensor.name: tensor.data_type for tensor in inferred.graph.initializer}


def in_true_half(model: onnx.ModelProto, pixels: np.ndarray) -> np.ndarray:
    """By numpy, which rounds after every node; on CPUs the engines compute such graphs in float32."""
    with np.errstate(all="ignore"):
        answers = ReferenceEvaluator(model).run(None, {"pixel_values": pixels})
    assert isinstance(answers, list)
    return np.asarray(answers[0])


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_answers_in_half_are_nearly_the_same(
    model_type: str, tiny_graphs: dict[str, onnx.ModelProto], real_frames: list[np.ndarray]
) -> None:
    plain = tiny_graphs[model_type]
    half = in_half(plain)
    onnx.checker.check_model(half, full_check=True)
    for count in (1, 3):
        pixels = np.concatenate(pixels_of(plain, real_frames[:count]))
        expected = in_onnxruntime(plain, pixels)
        for answers in (
            in_onnxruntime(half, pixels),
            in_openvino(half, pixels),
            in_onnxruntime(fused(half).model, pixels),
            in_true_half(half, pixels),
        ):
            assert answers.dtype == np.float32
            assert np.abs(answers - expected).max() > 0
            assert largest_difference(answers, expected) < 1e-3


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_what_must_be_exact_stays_in_float32(
    model_type: str, tiny_graphs: dict[str, onnx.ModelProto]
) -> None:
    half = in_half(tiny_graphs[model_type])
    types = element_types(half)
    assert types["pixel_values"] == types["logits"] == TensorProto.FLOAT
    for node in half.graph.node:
        if node.op_type in ("LayerNormalization", "Softmax", "ReduceMean") or is_head(node.name):
            assert TensorProto.FLOAT16 not in {types[value] for value in node.output}
        if node.op_type in ("MatMul", "Conv", "Attention", "Gelu") and not is_head(node.name):
            assert {types[value] for value in (*node.input, *node.output)} == {TensorProto.FLOAT16}
    outputs = block_outputs(half)
    layers = [value for block, value in outputs.items() if ".layer" in block]
    assert {types[value] for value in layers} == {TensorProto.FLOAT}
    assert outputs == block_outputs(tiny_graphs[model_type])
    declared = {value.name: value.type.tensor_type.elem_type for value in half.graph.value_info}
    assert {name for name in declared if declared[name] != types[name]} == set()


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_a_half_graph_is_half_as_large_and_tells_what_it_told(
    model_type: str, tiny_graphs: dict[str, onnx.ModelProto]
) -> None:
    plain = tiny_graphs[model_type]
    before = plain.SerializeToString()
    half = in_half(plain)
    assert plain.SerializeToString() == before
    assert is_as_shipped(half)
    assert contract_of(half) == contract_of(plain)
    weights = [sum(_sizes(model)) for model in (plain, half)]
    assert weights[1] < 0.6 * weights[0]  # norms and positions stay
    names = [node.name for node in half.graph.node]
    assert len(set(names)) == len(names)


def _sizes(model: onnx.ModelProto) -> list[int]:
    return [numpy_helper.to_array(tensor).nbytes for tensor in model.graph.initializer]


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_a_block_can_be_kept_in_float32(
    model_type: str, tiny_graphs: dict[str, onnx.ModelProto]
) -> None:
    plain = tiny_graphs[model_type]
    block = next(block for block in block_outputs(plain) if block.endswith(".1"))
    half = in_half(plain, keep=[block])
    types = element_types(half)
    inside = [node for node in half.graph.node if block_of(node.name) == block]
    made = [(node.name, types[value]) for node in inside for value in node.output]
    assert {name for name, kind in made if kind == TensorProto.FLOAT16} == set()
    assert any(kind == TensorProto.FLOAT16 for kind in types.values())
    with pytest.raises(ValueError, match="no block is called layer 1"):
        in_half(plain, keep=["layer 1"])


def test_a_value_too_large_for_half_is_left_in_float32(
    tiny_graphs: dict[str, onnx.ModelProto], real_frames: list[np.ndarray]
) -> None:
    """What a massive activation does: one projection gives more than float16 can hold."""
    plain = copy_of(tiny_graphs["videomae"])
    first, second = (
        next(
            node for node in plain.graph.node if node.name.endswith(f"layer.0.{part}.dense/MatMul")
        )
        for part in ("intermediate", "output")
    )
    for node, factor in ((first, 2.0e5), (second, 0.5e-5)):
        (weight,) = (t for t in plain.graph.initializer if t.name == node.input[1])
        weight.CopyFrom(
            numpy_helper.from_array(numpy_helper.to_array(weight) * np.float32(factor), weight.name)
        )
    pixels = pixels_of(plain, real_frames)
    expected = in_onnxruntime(plain, pixels[0])
    (top,) = measure(plain, [first.output[0]], pixels).edges.max(axis=(0, 2))
    assert top > LARGEST_HALF
    assert not np.isfinite(in_true_half(in_half(plain), pixels[0])).all()
    measured = in_half(plain, calibration=iter(pixels))
    assert element_types(measured)[first.output[0]] == TensorProto.FLOAT
    assert largest_difference(in_true_half(measured, pixels[0]), expected) < 1e-3


def test_a_weight_too_large_for_half_is_left_in_float32(
    tiny_graphs: dict[str, onnx.ModelProto],
) -> None:
    plain = copy_of(tiny_graphs["videomae"])
    node = next(
        node for node in plain.graph.node if node.name.endswith("layer.0.output.dense/MatMul")
    )
    (weight,) = (t for t in plain.graph.initializer if t.name == node.input[1])
    numbers = numpy_helper.to_array(weight).copy()
    numbers[0, 0] = 1e6
    weight.CopyFrom(numpy_helper.from_array(numbers, weight.name))
    half = in_half(plain)
    stored = {t.name: numpy_helper.to_array(t) for t in half.graph.initializer}
    assert stored[weight.name].dtype == np.float32
    assert all(np.isfinite(array).all() for array in stored.values())


def test_a_graph_that_tells_no_types_is_cast_all_the_same_or_refused(
    tiny_graphs: dict[str, onnx.ModelProto],
) -> None:
    bare = copy_of(tiny_graphs["videomae"])
    del bare.graph.value_info[:]
    kinds = [node.op_type for node in in_half(bare).graph.node]
    assert kinds == [node.op_type for node in in_half(tiny_graphs["videomae"]).graph.node]
    foreign = fused(tiny_graphs["videomae"]).model
    del foreign.graph.value_info[:]
    with pytest.raises(ValueError, match="before it gets operators of one engine"):
        in_half(foreign)


def test_ranges_and_means_are_those_of_each_clip(
    tiny_graphs: dict[str, onnx.ModelProto], real_frames: list[np.ndarray]
) -> None:
    plain = tiny_graphs["vivit"]
    pixels = pixels_of(plain, real_frames[:3])
    stream = block_outputs(plain)["vivit.layers.0"]
    found = measure(plain, ["pixel_values", "logits"], iter(pixels), channels=[stream])
    for row, clip in zip(found.edges, pixels, strict=True):
        logits = in_onnxruntime(plain, clip)
        expected = [[clip.min(), clip.max()], [logits.min(), logits.max()]]
        np.testing.assert_allclose(row, expected, rtol=1e-5)
    giving = copy_of(plain)
    del giving.graph.output[:]
    giving.graph.output.append(onnx.helper.make_tensor_value_info(stream, 1, None))
    values = np.concatenate([in_onnxruntime(giving, clip) for clip in pixels])
    np.testing.assert_allclose(found.means[stream], values.mean(axis=(0, 1)), rtol=1e-4, atol=1e-6)
    with pytest.raises(NothingDecodedError, match="no clip to measure"):
        measure(plain, ["logits"], [])
