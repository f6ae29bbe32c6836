"""The files of a bundle: merged weights, adapters, and the ONNX graphs that everything else is made of."""

import logging
import shutil
import warnings
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from peft import PeftModel
from torch.utils.flop_counter import FlopCounterMode
from transformers import PreTrainedModel

from lora_deploy.artifact import bundle
from lora_deploy.artifact.adapter_record import ADAPTER_WEIGHTS
from lora_deploy.artifact.bundle import Precision
from lora_deploy.artifact.manifest import sha256_of_file
from lora_deploy.clips import transforms
from lora_deploy.clips.contract import PixelContract
from lora_deploy.clips.dataset import LabelledClip
from lora_deploy.clips.pool import shared
from lora_deploy.errors import AdapterChangedError, ClipError
from lora_deploy.export.frames_in import frames_in
from lora_deploy.export.fuse import fused
from lora_deploy.export.half import in_half
from lora_deploy.export.merge import merge
from lora_deploy.export.plan import Plan
from lora_deploy.export.quantize import WeightBits, in_int8
from lora_deploy.export.to_onnx import write_onnx
from lora_deploy.model.adapter_files import adapter_fingerprint
from lora_deploy.model.architectures import logits_of
from lora_deploy.model.weights import quiet_loading
from lora_deploy.runtime.trained import MERGED_MARK, Trained

logger = logging.getLogger(__name__)


def write_float32(stage: Path, trained: Trained, plan: Plan) -> None:
    """Write ``model/``, ``adapters/`` and the float32 graphs: plain, and fused where it is asked for."""
    merged = _merged(trained)
    save_model(merged, stage / bundle.MODEL, trained.contract)
    (stage / bundle.ONNX).parent.mkdir(parents=True)
    write_onnx(
        merged,
        stage / bundle.ONNX,
        labels=trained.labels,
        contract=trained.contract,
        metadata={"run": trained.digest},
    )
    if any(form.file == bundle.FUSED for form in plan.forms):
        onnx.save_model(fused(onnx.load(stage / bundle.ONNX)).model, stage / bundle.FUSED)
    if trained.adapter_files:
        _copy_adapter(trained, stage / bundle.ADAPTERS / bundle.ADAPTER_NAME)


def _merged(trained: Trained) -> PreTrainedModel:
    model = trained.model
    if not isinstance(model, PeftModel):
        return model
    merged = merge(model)
    earlier = list(getattr(merged.config, MERGED_MARK, None) or ())
    inside = adapter_fingerprint(
        next(p for p in trained.adapter_files if p.name == ADAPTER_WEIGHTS)
    )
    setattr(merged.config, MERGED_MARK, [*earlier, inside])
    return merged


def save_model(merged: PreTrainedModel, folder: Path, contract: PixelContract) -> None:
    """The merged weights as a transformers folder, with its preprocessor."""
    from lora_deploy.clips.processor import write_processor

    merged.config.name_or_path = ""  # else a path of this computer would be shipped
    with quiet_loading():
        merged.save_pretrained(str(folder))
    write_processor(contract, folder, merged.config.model_type)


def _copy_adapter(trained: Trained, folder: Path) -> None:
    folder.mkdir(parents=True)
    for path, digest in trained.adapter_files.items():
        shutil.copyfile(path, folder / path.name)
        if sha256_of_file(folder / path.name) != digest:
            raise AdapterChangedError(f"{path} was changed while it was exported")


def write_lower(
    stage: Path,
    plan: Plan,
    precision: Precision,
    keep: Collection[str],
    calibration: "CalibrationClips",
    weight_bits: WeightBits | None = None,
) -> None:
    """Write the graph of a lower precision, made of the plain one.

    Args:
        stage: The bundle under way.
        plan: Whether ONNX Runtime gets a file of its own.
        precision: ``fp16``, ``bf16`` (for engines) or ``int8``.
        keep: Blocks that stay in float32.
        calibration: What int8 takes its ranges from, and fp16 learns which values are too large for it.
        weight_bits: Of int8's weights, as `in_int8` takes it.
    """
    plain = onnx.load(stage / bundle.ONNX)
    if precision == "fp16":
        half = in_half(plain, keep, calibration, head=plan.half_head)
        onnx.save_model(half, stage / bundle.HALF)
    elif precision == "bf16":
        onnx.save_model(in_half(plain, keep, kind="bf16"), stage / bundle.BFLOAT16)
    else:
        int8 = in_int8(plain, calibration, keep, weight_bits)
        onnx.save_model(int8, stage / bundle.INT8)
        if any(form.file == bundle.FUSED_INT8 for form in plan.forms):
            onnx.save_model(fused(int8).model, stage / bundle.FUSED_INT8)


def write_frames_in(stage: Path, contract: PixelContract, temperature: float) -> None:
    """Write the graph that takes raw frames and gives probabilities."""
    plain = onnx.load(stage / bundle.ONNX)
    onnx.save_model(frames_in(plain, contract, temperature), stage / bundle.FRAMES_IN)


class CalibrationClips:
    """Clips that int8 takes its ranges from, as often as it wants to see them: one in memory at a time."""

    def __init__(self, clips: Sequence[LabelledClip], contract: PixelContract) -> None:
        """Decode nothing yet."""
        self.clips = list(clips)
        self._contract = contract

    def __iter__(self) -> Iterator[NDArray[np.float32]]:
        """Yield [1, frames, 3, height, width] of each clip that can be decoded."""
        decoded = shared().in_order([clip.footage for clip in self.clips], self._contract)
        for _, outcome in decoded:
            if not isinstance(outcome, ClipError):
                yield transforms.normalise(outcome.frames[None], self._contract)


def flop_per_clip(trained: Trained) -> int | None:
    """Floating-point operations of one forward pass; None where they can't be counted.

    Counted on a copy without weights; a multiplication and an addition are two.
    """
    model = trained.model
    inner = model.get_base_model() if isinstance(model, PeftModel) else model
    try:
        with torch.device("meta"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            bare = type(inner)(inner.config)
            with torch.inference_mode(), FlopCounterMode(display=False) as counter:
                logits_of(bare.eval(), torch.zeros(1, *trained.contract.pixel_values_shape))
    except Exception as error:
        logger.debug("operations can't be counted: %s", error)
        return None
    return counter.get_total_flops() or None
