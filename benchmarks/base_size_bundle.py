"""A BUNDLE as large as VideoMAE-B, with random weights: what the other benchmarks here measure on.

python benchmarks/base_size_bundle.py FOLDER
"""

import importlib
import importlib.util
from pathlib import Path

import click
import onnx
import torch
from transformers import VideoMAEConfig, VideoMAEForVideoClassification

from lora_deploy.artifact import bundle
from lora_deploy.artifact.bundle import BundleManifest, CompiledForm
from lora_deploy.artifact.manifest import BaseIdentity
from lora_deploy.clips.contract import PixelContract
from lora_deploy.export.pipeline import save_model
from lora_deploy.export.to_onnx import write_onnx
from lora_deploy.versions import installed_versions

CONTRACT = PixelContract(frames=16, short_side=224, crop_height=224, crop_width=224)
LABELS = tuple(f"label {number}" for number in range(10))
FLOP_PER_CLIP = 360_700_000_000
"""Counted with torch.utils.flop_counter, the attention as matrix multiplications."""


def make(folder: Path, seed: int = 0) -> Path:
    """Write the bundle, unless a whole one lies there; returns the folder.

    Nothing of it was proved: its answers mean nothing, only its times do.
    """
    if bundle.is_bundle(folder):
        return folder
    torch.manual_seed(seed)
    names = dict(enumerate(LABELS))
    config = VideoMAEConfig(id2label=names, label2id={name: key for key, name in names.items()})
    model = VideoMAEForVideoClassification(config).eval()
    save_model(model, folder / bundle.MODEL, CONTRACT)
    (folder / bundle.ONNX).parent.mkdir(parents=True, exist_ok=True)
    write_onnx(model, folder / bundle.ONNX, labels=LABELS, contract=CONTRACT)
    forms = [
        CompiledForm(backend="onnxruntime", precision="fp32", file=bundle.ONNX),
        CompiledForm(backend="openvino", precision="fp32", file=bundle.ONNX),
        CompiledForm(backend="openvino", precision="bf16", file=bundle.ONNX),
    ]
    manifest = BundleManifest(
        labels=LABELS,
        contract=CONTRACT,
        base=BaseIdentity(id="random", revision=None, fingerprint="sha256:", licence=None),
        forms=tuple(forms),
        flop_per_clip=FLOP_PER_CLIP,
        adapters=(),
        files=bundle.record_files(folder),
        versions=installed_versions(),
    )
    bundle.write_bundle_manifest(folder, manifest)
    return folder


@click.command()
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
def main(folder: Path) -> None:
    """Write the bundle to FOLDER."""
    print(make(folder))


if __name__ == "__main__":
    main()
