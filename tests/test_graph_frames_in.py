"""Frames in, probabilities out: the same as preparing the pixels outside, on top of any form."""

import json

import numpy as np
import onnx
import pytest

from lora_deploy.clips.transforms import normalise
from lora_deploy.export.frames_in import frames_in
from lora_deploy.export.fuse import fused
from lora_deploy.export.graph import copy_of
from lora_deploy.export.half import in_half
from lora_deploy.export.quantize import in_int8
from tests.tiny_graphs import (
    MODEL_TYPES,
    contract_of,
    in_onnxruntime,
    in_openvino,
    is_as_shipped,
    metadata_of,
    pixels_of,
    probabilities,
)

TEMPERATURE = 1.7


def _form(name: str, plain: onnx.ModelProto, frames: list[np.ndarray]) -> onnx.ModelProto:
    if name == "half":
        return in_half(plain)
    if name == "int8":
        return in_int8(plain, pixels_of(plain, frames))
    return fused(plain).model if name == "fused" else plain


@pytest.mark.parametrize("model_type", MODEL_TYPES)
@pytest.mark.parametrize("form", ["plain", "fused", "half", "int8"])
def test_frames_give_the_probabilities_that_pixels_give(
    model_type: str,
    form: str,
    tiny_graphs: dict[str, onnx.ModelProto],
    real_frames: list[np.ndarray],
) -> None:
    model = _form(form, tiny_graphs[model_type], real_frames[:6])
    whole = frames_in(model, contract_of(model), TEMPERATURE)
    if form != "fused":
        onnx.checker.check_model(whole, full_check=True)
    for count in (1, 3):
        frames = np.stack(real_frames[:count])
        logits = in_onnxruntime(model, normalise(frames, contract_of(model)))
        expected = probabilities(logits / TEMPERATURE)
        answers = in_onnxruntime(whole, frames)
        assert answers.dtype == np.float32
        np.testing.assert_allclose(answers, expected, rtol=0, atol=1e-6)
        if form != "fused":  # a pixel may fall on the other side of a rounding
            coarse = 1e-6 if form == "plain" else 2e-3
            np.testing.assert_allclose(in_openvino(whole, frames), expected, rtol=0, atol=coarse)


def test_its_pixels_are_ours_to_the_bit(tiny_graphs: dict[str, onnx.ModelProto]) -> None:
    for model in tiny_graphs.values():
        contract = contract_of(model)
        whole = frames_in(model, contract, 1.0)
        name = model.graph.input[0].name
        shape: list[str | int | None] = ["batch", *contract.pixel_values_shape]
        del whole.graph.output[:]
        whole.graph.output.append(onnx.helper.make_tensor_value_info(name, 1, shape))
        values = np.arange(256, dtype=np.uint8)  # every value, in every channel
        count = int(np.prod(contract.frames_shape))
        frames = np.resize(np.repeat(values, 3), count).reshape(1, *contract.frames_shape)
        assert np.array_equal(in_onnxruntime(whole, frames), normalise(frames, contract))


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_it_says_what_it_takes_and_gives(
    model_type: str, tiny_graphs: dict[str, onnx.ModelProto]
) -> None:
    plain = tiny_graphs[model_type]
    whole = frames_in(plain, contract_of(plain), TEMPERATURE)
    assert is_as_shipped(whole)
    assert json.loads(metadata_of(whole)["temperature"]) == TEMPERATURE
    assert _signature(whole.graph.input[0]) == ("frames", 2, ["batch", 4, 32, 32, 3])
    assert _signature(whole.graph.output[0]) == ("probabilities", 1, ["batch", 2])
    assert "temperature" not in metadata_of(plain)
    assert copy_of(plain).graph.input[0].name == "pixel_values"


def _signature(value: onnx.ValueInfoProto) -> tuple[str, int, list[int | str]]:
    kind = value.type.tensor_type
    return value.name, kind.elem_type, [size.dim_value or size.dim_param for size in kind.shape.dim]


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan"), float("inf")])
def test_a_temperature_that_divides_nothing_is_refused(
    temperature: float, tiny_graphs: dict[str, onnx.ModelProto]
) -> None:
    plain = tiny_graphs["videomae"]
    with pytest.raises(ValueError, match="must be a positive number"):
        frames_in(plain, contract_of(plain), temperature)
