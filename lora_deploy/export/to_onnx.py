"""A merged model as one ONNX file in plain operators, any batch size, labels and pixels inside."""

import json
import logging
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import onnx
import torch
from torch import nn
from transformers import PreTrainedModel

from lora_deploy.clips.contract import PixelContract
from lora_deploy.errors import NotExportableError, TooLargeForOnnxError
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
    _forget_traces(proto)
    onnx.checker.check_model(proto, full_check=True)
    onnx.save_model(proto, path)


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
