"""A BUNDLE as large as VideoMAE-B, with random weights: what the other benchmarks here measure on.

python benchmarks/base_size_bundle.py FOLDER
"""

from pathlib import Path
from typing import Any

import click
import numpy as np
import onnx
import torch
from transformers import VideoMAEConfig, VideoMAEForVideoClassification

from lora_deploy.artifact import bundle
from lora_deploy.artifact.bundle import BundleManifest
from lora_deploy.artifact.manifest import BaseIdentity
from lora_deploy.clips.contract import PixelContract
from lora_deploy.clips.processor import write_processor
from lora_deploy.export.fuse import fused
from lora_deploy.export.half import in_half
from lora_deploy.export.plan import plan
from lora_deploy.export.quantize import in_int8
from lora_deploy.export.to_onnx import write_onnx
from lora_deploy.versions import installed_versions

CONTRACT = PixelContract(frames=16, short_side=224, crop_height=224, crop_width=224)
LABELS = tuple(f"label {number}" for number in range(10))
TINY: dict[str, Any] = {
    "image_size": 32, "patch_size": 8, "num_frames": 4, "hidden_size": 32, "num_hidden_layers": 2,
    "num_attention_heads": 2, "intermediate_size": 64,
}  # fmt: skip
TINY_CONTRACT = PixelContract(frames=4, short_side=32, crop_height=32, crop_width=32)
"""To try a benchmark out: nothing that is measured on it says anything."""

FLOP_PER_CLIP = 360_689_187_840
"""Counted with torch.utils.flop_counter, the attention as matrix multiplications."""


def make(folder: Path, seed: int = 0, *, tiny: bool = False) -> Path:
    """Write the bundle, unless a whole one lies there; returns the folder.

    Nothing of it was proved: its answers mean nothing, only its times do. Those of one that is
    ``tiny`` don't either.
    """
    if bundle.is_bundle(folder):
        return folder
    contract = TINY_CONTRACT if tiny else CONTRACT
    model = model_of_base_size(seed, tiny=tiny)
    model.save_pretrained(folder / bundle.MODEL)
    write_processor(contract, folder / bundle.MODEL, model.config.model_type)
    (folder / bundle.ONNX).parent.mkdir(parents=True, exist_ok=True)
    write_onnx(model, folder / bundle.ONNX, labels=LABELS, contract=contract)
    del model
    plain = onnx.load(folder / bundle.ONNX)
    noise = np.random.default_rng(seed).standard_normal(
        (2, 1, *contract.pixel_values_shape), np.float32
    )
    onnx.save_model(fused(plain).model, folder / bundle.FUSED)
    onnx.save_model(in_half(plain), folder / bundle.HALF)
    int8 = in_int8(plain, noise)
    onnx.save_model(int8, folder / bundle.INT8)
    onnx.save_model(fused(int8).model, folder / bundle.FUSED_INT8)
    forms = plan(("onnx", "openvino"), ("fp32", "fp16", "bf16", "int8")).forms
    manifest = BundleManifest(
        labels=LABELS,
        contract=contract,
        base=BaseIdentity(id="random", revision=None, fingerprint="sha256:", licence=None),
        forms=forms,
        flop_per_clip=None if tiny else FLOP_PER_CLIP,
        adapters=(),
        files=bundle.record_files(folder),
        versions=installed_versions(),
    )
    bundle.write_bundle_manifest(folder, manifest)
    return folder


def model_of_base_size(seed: int = 0, *, tiny: bool = False) -> VideoMAEForVideoClassification:
    """VideoMAE-B with random weights; equal ones for an equal seed."""
    torch.manual_seed(seed)
    names = dict(enumerate(LABELS))
    config = VideoMAEConfig(
        id2label=names,
        label2id={name: key for key, name in names.items()},
        **(TINY if tiny else {}),
    )
    model = VideoMAEForVideoClassification(config)
    model.eval()
    return model


@click.command()
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
def main(folder: Path) -> None:
    """Write the bundle to FOLDER."""
    print(make(folder))


if __name__ == "__main__":
    main()
