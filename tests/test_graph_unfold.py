"""The patch embedding without a convolution: the same answers from every architecture."""

import numpy as np
import onnx
import pytest

from lora_deploy.export.blocks import block_outputs
from lora_deploy.export.fuse import fused
from lora_deploy.export.graph import copy_of
from lora_deploy.export.half import in_half
from lora_deploy.export.quantize import in_int8
from lora_deploy.export.unfold import unfolded
from tests.tiny_graphs import (
    MODEL_TYPES,
    in_onnxruntime,
    in_openvino,
    is_as_shipped,
    largest_difference,
    pixels_of,
)


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_answers_stay_without_a_convolution(
    model_type: str, tiny_graphs: dict[str, onnx.ModelProto], real_frames: list[np.ndarray]
) -> None:
    plain = tiny_graphs[model_type]
    flat = unfolded(plain)
    onnx.checker.check_model(flat, full_check=True)
    assert "Conv" in {node.op_type for node in plain.graph.node}
    assert "Conv" not in {node.op_type for node in flat.graph.node}
    assert block_outputs(flat) == block_outputs(plain)
    assert is_as_shipped(flat)
    names = [node.name for node in flat.graph.node]
    assert len(set(names)) == len(names)
    for count in (1, 3):
        pixels = np.concatenate(pixels_of(plain, real_frames[:count]))
        expected = in_onnxruntime(plain, pixels)
        for answers in (in_onnxruntime(flat, pixels), in_openvino(flat, pixels)):
            assert largest_difference(answers, expected) < 1e-6


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_every_form_can_be_made_of_it(
    model_type: str, tiny_graphs: dict[str, onnx.ModelProto], real_frames: list[np.ndarray]
) -> None:
    plain = tiny_graphs[model_type]
    flat = unfolded(plain)
    pixels = pixels_of(plain, real_frames[:6])
    expected = in_onnxruntime(plain, pixels[0])
    forms = {1e-6: fused(flat).model, 1e-3: in_half(flat), 1e-2: in_int8(flat, pixels)}
    for budget, form in forms.items():
        assert largest_difference(in_onnxruntime(form, pixels[0]), expected) < budget


@pytest.mark.parametrize("change", ["pads", "strides", "dilations"])
def test_a_convolution_of_overlapping_patches_is_left_alone(
    change: str, tiny_graphs: dict[str, onnx.ModelProto]
) -> None:
    other = copy_of(tiny_graphs["videomae"])
    conv = next(node for node in other.graph.node if node.op_type == "Conv")
    numbers = next(entry.ints for entry in conv.attribute if entry.name == change)
    numbers[-1] += 1
    assert "Conv" in {node.op_type for node in unfolded(other).graph.node}
