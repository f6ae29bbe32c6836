"""Graphs of the four tiny models, pixels of real clips, and both engines, for the tests of graphs."""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from lora_deploy.clips import pool
from lora_deploy.clips.contract import PixelContract
from lora_deploy.clips.transforms import normalise
from lora_deploy.export.to_onnx import write_onnx
from lora_deploy.model.base import read_contract
from lora_deploy.runtime import eager

Pixels = NDArray[np.float32]

MODEL_TYPES = ("videomae", "timesformer", "vivit", "vjepa2")
LABELS = ["bend", "wave"]


@pytest.fixture(scope="session")
def tiny_graphs(
    tmp_path_factory: pytest.TempPathFactory, tiny_bases: Mapping[str, Path]
) -> dict[str, onnx.ModelProto]:
    """By ``model_type``. Tests must not change them."""
    return {
        model_type: _exported(folder, tmp_path_factory.mktemp("graphs"))
        for model_type, folder in tiny_bases.items()
    }


def _exported(folder: Path, out: Path) -> onnx.ModelProto:
    model = eager.open_merged(folder)
    path = out / "model.onnx"
    contract = read_contract(folder, model.config)
    write_onnx(model, path, labels=LABELS, contract=contract, metadata={"run": "0123"})
    return onnx.load(path)


@pytest.fixture(scope="session")
def real_frames(few_clips: Path) -> list[NDArray[np.uint8]]:
    """uint8 [frames, height, width, 3] of 20 real clips of two actions."""
    contract = PixelContract(frames=4, short_side=32, crop_height=32, crop_width=32)
    rows = [line.split(",") for line in few_clips.read_text().splitlines()[1:]]
    return [pool.shared().decode(Path(row[0]), contract).frames for row in rows]


def contract_of(model: onnx.ModelProto) -> PixelContract:
    return PixelContract.model_validate_json(metadata_of(model)["pixel_contract"])


def metadata_of(model: onnx.ModelProto) -> dict[str, str]:
    return {entry.key: entry.value for entry in model.metadata_props}


def pixels_of(model: onnx.ModelProto, frames: list[NDArray[np.uint8]]) -> list[Pixels]:
    """Each [1, frames, 3, height, width], as the model wants its pixels."""
    contract = contract_of(model)
    return [normalise(clip, contract)[None] for clip in frames]


def in_onnxruntime(model: onnx.ModelProto, given: NDArray[np.generic]) -> Pixels:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    answers: list[Pixels] = session.run(None, {session.get_inputs()[0].name: given})
    return answers[0]


def in_openvino(model: onnx.ModelProto, given: NDArray[np.generic]) -> Pixels:
    from lora_deploy.runtime.openvino_core import CORE

    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
    compiled = CORE.compile_model(CORE.read_model(model.SerializeToString()), "CPU", settings)
    answer: Pixels = compiled([given])[0]
    return answer


def probabilities(logits: Pixels) -> Pixels:
    raised = np.exp(logits - logits.max(axis=1, keepdims=True))
    shares: Pixels = raised / raised.sum(axis=1, keepdims=True)
    return shares


def largest_difference(one: Pixels, other: Pixels) -> float:
    return float(np.abs(probabilities(one) - probabilities(other)).max())


def is_as_shipped(model: onnx.ModelProto) -> bool:
    """Whether labels, contract and digest are there."""
    metadata = metadata_of(model)
    return json.loads(metadata["labels"]) == LABELS and {"pixel_contract", "run"} <= set(metadata)
