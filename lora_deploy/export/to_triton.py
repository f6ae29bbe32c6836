"""A model repository for Triton Inference Server, made of a bundle's own graphs."""

import json
import os
import shutil
from pathlib import Path

import onnx
from onnx import TensorProto

from lora_deploy.artifact import bundle
from lora_deploy.artifact.bundle import BundleManifest
from lora_deploy.export.text_proto import Message, Word, text_proto

MODELS = {
    "recogniser": bundle.ONNX,
    "recogniser_frames": bundle.FRAMES_IN,
    "recogniser_fp16": bundle.HALF,
}
"""What each model is called, and the graph it is; those are served that the bundle holds."""

CONFIG = "config.pbtxt"
LABELS = "labels.txt"
VERSION = "1"

LARGEST_BATCH = 8
PREFERRED_BATCHES = (4, 8)
MOST_WAITING_MICROSECONDS = 5000
"""For company in a batch: little beside the time that decoding a clip takes."""

_TYPES: dict[int, Word] = {
    TensorProto.FLOAT: Word("TYPE_FP32"),
    TensorProto.FLOAT16: Word("TYPE_FP16"),
    TensorProto.UINT8: Word("TYPE_UINT8"),
}

_HEAD = """\
# Written by lora-deploy. Neither a name nor a path is in here: Triton calls the model as its folder
# is called, so the folder may be copied to another repository and renamed there.
"""


def write_repository(folder: Path, manifest: BundleManifest) -> None:
    """Write ``triton/``, what ``tritonserver --model-repository=BUNDLE/triton`` takes.

    Graphs are hard links to those of the bundle, where the file system has such: call it once they
    are finished. ``bundle.json`` must be written anew afterwards.

    Args:
        folder: The BUNDLE under way.
        manifest: Labels, pixels, temperature and threshold.
    """
    for name, graph in MODELS.items():
        if (folder / graph).is_file():
            _write_model(folder / bundle.TRITON / name, folder / graph, manifest)


def _write_model(model: Path, graph: Path, manifest: BundleManifest) -> None:
    (model / VERSION).mkdir(parents=True)
    _link_or_copy(graph, model / VERSION / "model.onnx")
    (model / LABELS).write_text(labels_text(manifest.labels), encoding="utf-8")
    config = config_of(onnx.load(graph), manifest)
    (model / CONFIG).write_text(_HEAD + text_proto(config), encoding="ascii")


def _link_or_copy(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # a file system without hard links
        shutil.copyfile(source, target)


def labels_text(labels: tuple[str, ...]) -> str:
    """One label a line, in the order of the logits; a line break inside one becomes a space."""
    return "".join(f"{' '.join(label.splitlines())}\n" for label in labels)


def config_of(model: onnx.ModelProto, manifest: BundleManifest) -> Message:
    """The fields of Triton's ``ModelConfig``, of a graph as it is.

    Args:
        model: The graph; its inputs and outputs begin with a batch of any size.
        manifest: What a client needs to know beside the graph: it reads this from the server.

    Raises:
        ValueError: The batch size of the graph is fixed, or Triton has no name for one of its types.
    """
    inputs = [_tensor(value) for value in model.graph.input]
    outputs = [{**_tensor(value), "label_filename": LABELS} for value in model.graph.output]
    return {
        "backend": "onnxruntime",
        "default_model_filename": "model.onnx",
        "max_batch_size": LARGEST_BATCH,
        "input": inputs,
        "output": outputs,
        "version_policy": {"latest": {"num_versions": 1}},
        "instance_group": [{"count": 1, "kind": Word("KIND_AUTO")}],  # a GPU where there is one
        "dynamic_batching": {
            "preferred_batch_size": PREFERRED_BATCHES,
            "max_queue_delay_microseconds": MOST_WAITING_MICROSECONDS,
        },
        "model_warmup": [_warm_up(batch, inputs) for batch in (1, *PREFERRED_BATCHES)],
        "parameters": [
            {"key": key, "value": {"string_value": value}}
            for key, value in _parameters(manifest).items()
        ],
    }


def _tensor(value: onnx.ValueInfoProto) -> dict[str, str | Word | list[int]]:
    """Name, type and dimensions after the batch."""
    kind = value.type.tensor_type.elem_type
    batch, *sizes = value.type.tensor_type.shape.dim
    if batch.HasField("dim_value"):
        raise ValueError(f"{value.name} takes batches of {batch.dim_value} only, not of any size")
    if kind not in _TYPES:
        raise ValueError(f"{value.name} is of ONNX's type {kind}; Triton is told of {list(_TYPES)}")
    dims = [size.dim_value if size.HasField("dim_value") else -1 for size in sizes]
    return {"name": value.name, "data_type": _TYPES[kind], "dims": dims}


def _warm_up(batch: int, inputs: list[dict[str, str | Word | list[int]]]) -> Message:
    """One request of zeros before the first real one, which else would wait for allocations."""
    given: list[Message] = [
        {
            "key": str(tensor["name"]),
            "value": {
                "data_type": tensor["data_type"],
                "dims": tensor["dims"],
                "zero_data": True,
            },
        }
        for tensor in inputs
    ]
    return {"name": f"batch_{batch}", "batch_size": batch, "inputs": given}


def _parameters(manifest: BundleManifest) -> dict[str, str]:
    """What a client reads to prepare its frames and to understand the answer."""
    threshold = manifest.unknown_threshold
    return {
        "labels": json.dumps(manifest.labels),
        "pixel_contract": manifest.contract.model_dump_json(),
        "temperature": json.dumps(manifest.temperature),
        **({} if threshold is None else {"unknown_threshold": json.dumps(threshold)}),
    }
