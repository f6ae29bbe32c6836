"""The whole parity chain at the size of VideoMAE-B: every form against an adapter that answers sensibly.

python benchmarks/parity.py DATA FOLDER

The base has random weights, so the adapter is made, not trained: random LoRA on q, k and v, and a
head fitted in closed form (ridge regression) on the adapted model's own features of the training
clips. A random head would name one label for nearly every clip, and agreement on that says nothing.
All other clips prove every form. It takes about half an hour on two cores.

On features of random weights a head tells clips apart by so little that bfloat16 changes some of
its answers. ``--base FOLDER`` takes one that was trained, such as `trained_base.py` leaves.
"""

import csv
from collections.abc import Sequence
from pathlib import Path

import click
import numpy as np
import torch
from numpy.typing import NDArray
from peft import PeftModel
from transformers import VideoMAEConfig, VideoMAEForVideoClassification

from lora_deploy import texts
from lora_deploy.artifact.adapter_record import AdapterRecord
from lora_deploy.artifact.manifest import BaseIdentity
from lora_deploy.clips import transforms
from lora_deploy.clips.contract import PixelContract
from lora_deploy.clips.dataset import LabelledClip, read_split
from lora_deploy.clips.pool import shared
from lora_deploy.clips.processor import write_processor
from lora_deploy.config import LoraSettings
from lora_deploy.errors import ClipError
from lora_deploy.export.pipeline import merge_export
from lora_deploy.model.adapter import attach, save_adapter
from lora_deploy.model.architectures import logits_of
from lora_deploy.model.base import open_base
from lora_deploy.model.targets import resolve
from lora_deploy.terminal import progress

CONTRACT = PixelContract(frames=16, short_side=224, crop_height=224, crop_width=224)
SHARPNESS = 10.0
"""Ridge regression gives scores between 0 and 1; times this they are as sharp as trained logits."""

RIDGES = (1.0, 0.1, 0.01, 1e-3, 1e-4)
"""Times the mean square of a clip's features; the strongest that names every label is taken."""


def make_base(folder: Path) -> Path:
    """A VideoMAE-B with random weights, as a transformers folder."""
    torch.manual_seed(0)
    model = VideoMAEForVideoClassification(VideoMAEConfig())
    model.save_pretrained(folder)
    write_processor(CONTRACT, folder, "videomae")
    return folder


def make_adapter(
    base: Path,
    folder: Path,
    clips: Sequence[LabelledClip],
    proving: Sequence[LabelledClip],
    strength: float | None = None,
) -> Path:
    """Random LoRA on q, k and v, and the head that fits the clips best.

    Args:
        base: As `make_base` leaves it.
        folder: Where the adapter goes.
        clips: What the head is fitted on.
        proving: What the forms are proved on: among the answers to these, too, each label must be,
            unless a ridge is given.
        strength: Of the ridge; by default the strongest that names every label.
    """
    labels = tuple(sorted({clip.label for clip in clips}))
    opened = open_base(str(base), labels)
    lora = LoraSettings(lora_dropout=0.0)
    model = attach(
        opened.model,
        lora,
        layers=resolve(opened.model, lora.target_modules).layers,
        head_modules=opened.head_modules,
        base_id=str(base),
        revision=None,
    ).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.02, generator=generator)
    features, truths = features_of(model, clips)
    targets = np.array([labels.index(truth) for truth in truths])
    unseen = None if strength is not None else features_of(model, proving)[0]
    weight, bias = ridge(features, targets, len(labels), unseen, strength)
    with torch.no_grad():
        prefix = "base_model.model.classifier.modules_to_save.default"
        model.get_parameter(f"{prefix}.weight").copy_(torch.from_numpy(weight))
        model.get_parameter(f"{prefix}.bias").copy_(torch.from_numpy(bias))
    identity = BaseIdentity(
        id=str(base), revision=None, fingerprint=opened.fingerprint, licence=None
    )
    record = AdapterRecord(
        base=identity, labels=labels, contract=CONTRACT, r=lora.r, lora_alpha=lora.lora_alpha
    )
    save_adapter(model, folder, record)
    return folder


@torch.inference_mode()
def features_of(
    model: PeftModel, clips: Sequence[LabelledClip]
) -> tuple[NDArray[np.float64], list[str]]:
    """What the classifier is given, [clips, hidden], and the labels of the clips that decode."""
    rows: list[NDArray[np.float64]] = []
    truths = []
    head = model.get_submodule("base_model.model.classifier")
    hook = head.register_forward_pre_hook(
        lambda _, inputs: rows.append(inputs[0][0].double().numpy())
    )
    decoded = shared().in_order([clip.footage for clip in clips], CONTRACT)
    with progress("fitting the head", len(clips)) as advance:
        for clip, (_, outcome) in zip(clips, decoded, strict=True):
            advance()
            if not isinstance(outcome, ClipError):
                pixel_values = transforms.normalise(outcome.frames[None], CONTRACT)
                logits_of(model, torch.from_numpy(pixel_values))
                truths.append(clip.label)
    hook.remove()
    return np.stack(rows), truths


def ridge(
    features: NDArray[np.float64],
    targets: NDArray[np.int64],
    classes: int,
    unseen: NDArray[np.float64] | None = None,
    strength: float | None = None,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Weight [classes, hidden] and bias [classes] of a linear head, by ridge regression.

    A weak ridge follows each training clip and makes features that hardly differ decide; too strong
    a one names only the labels with the most clips. So, unless a ``strength`` is given, the
    strongest is taken with which every label is named, among the clips that are fitted and among
    ``unseen`` ones.

    Raises:
        SystemExit: None of `RIDGES` does that.
    """
    wanted = np.eye(classes)[targets]
    centre = features.mean(axis=0)
    x = features - centre
    kernel = x @ x.T
    for tried in RIDGES if strength is None else (strength,):
        on_diagonal = tried * np.trace(kernel) / len(x) * np.eye(len(x))
        slope = x.T @ np.linalg.solve(kernel + on_diagonal, wanted - wanted.mean(axis=0))
        offset = wanted.mean(axis=0) - centre @ slope
        answered = [
            (some @ slope + offset).argmax(axis=1)
            for some in (features, unseen)
            if some is not None
        ]
        if strength is not None or all(len(set(named.tolist())) == classes for named in answered):
            break
    else:
        raise SystemExit(f"no ridge of {RIDGES} names all {classes} labels")
    right = np.mean(answered[0] == targets)
    print(
        f"ridge {tried:g}: {right:.3f} of the training clips, {len(set(answered[0].tolist()))} labels"
    )
    return (SHARPNESS * slope.T).astype(np.float32), (SHARPNESS * offset).astype(np.float32)


def proof_clips(data: Path) -> list[LabelledClip]:
    """All clips that the head did not learn from."""
    return [*read_split(data, "val"), *read_split(data, "test")]


def proof_manifest(data: Path, path: Path) -> Path:
    """The clips that prove, as one split."""
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["path", "label", "split"])
        rows.writerows((clip.path.resolve(), clip.label, "val") for clip in proof_clips(data))
        rows.writerows(
            (clip.path.resolve(), clip.label, "train") for clip in read_split(data, "train")
        )
    return path


@click.command()
@click.argument("data", type=click.Path(path_type=Path, exists=True))
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
@click.option("--set", "overrides", multiple=True, help="A setting of the proof.")
@click.option(
    "--ridge", "strength", type=float,
    help="Of the head; by default the strongest with which every label is named.",
)  # fmt: skip
@click.option("--precision", "precisions", default="fp32,fp16,bf16,int8", show_default=True)
@click.option(
    "--base", type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="A VideoMAE-B as a transformers folder; one with random weights by default.",
)  # fmt: skip
def main(
    data: Path,
    folder: Path,
    overrides: tuple[str, ...],
    strength: float | None,
    precisions: str,
    base: Path | None,
) -> None:
    """Prove every form of a VideoMAE-B on the clips of DATA; all of it is kept in FOLDER."""
    folder.mkdir(parents=True, exist_ok=True)
    base = base or make_base(folder / "base")
    fitted, proving = read_split(data, "train"), proof_clips(data)
    adapter = make_adapter(base, folder / "adapter", fitted, proving, strength)
    shipped = merge_export(
        adapter,
        folder / "bundle",
        targets=("onnx", "openvino"),
        precisions=tuple(precisions.split(",")),
        frames_in=True,
        verify_on=proof_manifest(data, folder / "proof.csv"),
        overrides=overrides,
        progress=progress,
    )
    print(texts.certificate(shipped.certificate))
    print(f"answered: {shipped.certificate.answered}")


if __name__ == "__main__":
    main()
