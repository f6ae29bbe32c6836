"""int8 projections: close to float32, on integer kernels, and a ruined layer is found where it is."""

import collections
from collections.abc import Mapping
from types import SimpleNamespace

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, numpy_helper

from lora_deploy.artifact import bundle
from lora_deploy.errors import NothingDecodedError
from lora_deploy.export import quantize
from lora_deploy.export.blocks import block_of, block_outputs, is_head
from lora_deploy.export.fuse import fused
from lora_deploy.export.graph import copy_of
from lora_deploy.export.quantize import _Quantising, in_int8
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

CALIBRATION = slice(0, 12)  # the clips of `few_clips` that a training would learn from


@pytest.fixture(scope="session")
def quantised(
    tiny_graphs: dict[str, onnx.ModelProto], real_frames: list[np.ndarray]
) -> dict[str, onnx.ModelProto]:
    return {
        model_type: in_int8(graph, iter(pixels_of(graph, real_frames[CALIBRATION])))
        for model_type, graph in tiny_graphs.items()
    }


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_answers_in_int8_are_close(
    model_type: str,
    tiny_graphs: dict[str, onnx.ModelProto],
    quantised: dict[str, onnx.ModelProto],
    real_frames: list[np.ndarray],
) -> None:
    plain, coarse = tiny_graphs[model_type], quantised[model_type]
    onnx.checker.check_model(coarse, full_check=True)
    for clips in (real_frames[13:14], real_frames[14:17]):
        pixels = np.concatenate(pixels_of(plain, clips))
        expected = in_onnxruntime(plain, pixels)
        for answers in (
            in_onnxruntime(coarse, pixels),
            in_openvino(coarse, pixels),
            in_onnxruntime(fused(coarse).model, pixels),
        ):
            assert 0 < largest_difference(answers, expected) < 0.01


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_weights_of_seven_bits_give_what_the_graph_says_on_every_processor(
    model_type: str, tiny_graphs: dict[str, onnx.ModelProto], real_frames: list[np.ndarray]
) -> None:
    """With 8 bits, processors without VNNI cut sums off: probabilities are off by 0.01 and more."""
    plain = tiny_graphs[model_type]
    coarse = in_int8(plain, iter(pixels_of(plain, real_frames[CALIBRATION])), weight_bits=7)
    pixels = np.concatenate(pixels_of(plain, real_frames[13:17]))
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    as_written = onnxruntime.InferenceSession(coarse.SerializeToString(), options)
    [expected] = as_written.run(None, {as_written.get_inputs()[0].name: pixels})
    for answers in (
        in_onnxruntime(coarse, pixels),
        in_onnxruntime(fused(coarse).model, pixels),
        in_openvino(coarse, pixels),
    ):
        assert largest_difference(answers, expected) < 2e-4


@pytest.mark.parametrize(("has_dots", "bits", "largest"), [(True, "8", 127), (False, "7", 64)])
def test_a_processor_without_8_bit_dot_products_gets_weights_of_seven_bits(
    has_dots: bool,
    bits: str,
    largest: int,
    tiny_graphs: dict[str, onnx.ModelProto],
    real_frames: list[np.ndarray],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plain = tiny_graphs["videomae"]
    here = SimpleNamespace(has_int8_dots=has_dots)
    monkeypatch.setattr(quantize, "read_processor", lambda: here)
    coarse = in_int8(plain, iter(pixels_of(plain, real_frames[:1])))
    notes = {entry.key: entry.value for entry in coarse.metadata_props}
    assert notes.pop(bundle.INT8_WEIGHT_BITS) == bits
    assert notes == {entry.key: entry.value for entry in plain.metadata_props}
    weights = [numpy_helper.to_array(tensor) for tensor in coarse.graph.initializer]
    assert max(np.abs(one.astype(int)).max() for one in weights if one.dtype == np.int8) == largest


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_every_projection_is_int8_and_the_head_is_not(
    model_type: str,
    tiny_graphs: dict[str, onnx.ModelProto],
    quantised: dict[str, onnx.ModelProto],
) -> None:
    plain, coarse = tiny_graphs[model_type], quantised[model_type]
    assert is_as_shipped(coarse)
    assert contract_of(coarse) == contract_of(plain)
    assert block_outputs(coarse) == block_outputs(plain)
    names = [node.name for node in coarse.graph.node]
    assert len(set(names)) == len(names)
    weights = {tensor.name: tensor for tensor in plain.graph.initializer}
    projections = [
        node.name
        for node in plain.graph.node
        if node.op_type in ("MatMul", "Conv") and node.input[1] in weights
    ]
    assert _integer_nodes(coarse) == projections
    stored = [numpy_helper.to_array(tensor) for tensor in coarse.graph.initializer]
    held = sum(array.size for array in stored if array.dtype == np.int8)
    assert held > 0.8 * sum(array.size for array in stored)


def _integer_nodes(model: onnx.ModelProto) -> list[str]:
    """Nodes both of whose inputs were 8-bit numbers a moment ago."""
    makers = {node.output[0]: node.op_type for node in model.graph.node}
    return [
        node.name
        for node in model.graph.node
        if [makers.get(value) for value in node.input[:2]] == ["DequantizeLinear"] * 2
    ]


def test_onnxruntime_runs_them_on_integer_kernels(
    quantised: dict[str, onnx.ModelProto], tmp_path: object
) -> None:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.optimized_model_filepath = f"{tmp_path}/optimised.onnx"
    onnxruntime.InferenceSession(
        quantised["videomae"].SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    ran = collections.Counter(
        node.op_type for node in onnx.load(options.optimized_model_filepath).graph.node
    )
    assert ran["MatMulIntegerToFloat"] == 12
    assert ran["MatMul"] == 0


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_a_block_can_be_kept_in_float(
    model_type: str, tiny_graphs: dict[str, onnx.ModelProto], real_frames: list[np.ndarray]
) -> None:
    plain = tiny_graphs[model_type]
    pixels = pixels_of(plain, real_frames[:2])
    blocks = [block for block in block_outputs(plain) if not is_head(f"{block}/")]
    kept, *others = blocks[1:]
    coarse = in_int8(plain, pixels, keep=[kept])
    in_integers = {block_of(name) for name in _integer_nodes(coarse)}
    assert kept not in in_integers
    assert others[0] in in_integers
    exact = in_int8(plain, pixels, keep=blocks)
    assert _integer_nodes(exact) == []
    assert not any(tensor.data_type == TensorProto.INT8 for tensor in exact.graph.initializer)
    with pytest.raises(ValueError, match="no block is called head"):
        in_int8(plain, pixels, keep=["head"])


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_rounded_weights_do_not_shift_what_they_give(
    model_type: str,
    tiny_graphs: dict[str, onnx.ModelProto],
    real_frames: list[np.ndarray],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plain = tiny_graphs[model_type]
    clips = pixels_of(plain, real_frames[CALIBRATION])
    first = next(block for block in block_outputs(plain) if block.endswith(".0"))
    values = [
        node.output[0]
        for node in plain.graph.node
        if node.op_type == "Add"
        and node.name.startswith(f"{first}.")
        and node.input[1][:4] != "add_"
    ]
    expected = measure(plain, [], clips, channels=values).means

    def shifts() -> float:
        found = measure(in_int8(plain, clips), [], clips, channels=values).means
        return float(np.mean([np.abs(found[value] - expected[value]).mean() for value in values]))

    corrected = shifts()
    monkeypatch.setattr(_Quantising, "correct_bias", lambda *_: None)
    assert corrected < 0.9 * shifts()  # what rounding inputs adds is left


def test_without_clips_nothing_is_quantised(tiny_graphs: dict[str, onnx.ModelProto]) -> None:
    with pytest.raises(NothingDecodedError):
        in_int8(tiny_graphs["videomae"], [])


@pytest.mark.parametrize("model_type", MODEL_TYPES)
@pytest.mark.parametrize("place", [0, 1])
def test_a_ruined_layer_is_the_first_that_departs(
    model_type: str,
    place: int,
    tiny_graphs: dict[str, onnx.ModelProto],
    quantised: dict[str, onnx.ModelProto],
    real_frames: list[np.ndarray],
) -> None:
    plain = tiny_graphs[model_type]
    layers = [block for block in block_outputs(plain) if block.endswith(f".{place}")]
    ruined = copy_of(quantised[model_type])
    node = next(
        node
        for node in ruined.graph.node
        if node.op_type == "DequantizeLinear"
        and node.name.startswith(f"{layers[0]}.")
        and node.input[0].partition("/")[2].startswith("coded/")
    )
    (scale,) = (t for t in ruined.graph.initializer if t.name == node.input[1])
    scale.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(scale) * 300, scale.name))
    pixels = pixels_of(plain, real_frames[13:14])[0]
    departures = _departures(plain, ruined, pixels)
    limits = _departures(plain, quantised[model_type], pixels)
    departed = [block for block in departures if departures[block] > 3 * limits[block]]
    assert departed[0] == layers[0]


def _departures(
    plain: onnx.ModelProto, other: onnx.ModelProto, pixels: np.ndarray
) -> Mapping[str, float]:
    """By block, how far the value that leaves it is from where it was, as a part of its spread."""
    found = {}
    for block, value in block_outputs(plain).items():
        one, two = (in_onnxruntime(_giving(model, value), pixels) for model in (plain, other))
        found[block] = float(np.abs(one - two).max() / one.std())
    return found


def _giving(model: onnx.ModelProto, value: str) -> onnx.ModelProto:
    model = copy_of(model)
    del model.graph.output[:]
    model.graph.output.append(onnx.helper.make_tensor_value_info(value, TensorProto.FLOAT, None))
    return model
