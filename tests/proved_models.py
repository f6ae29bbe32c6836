"""RUNs of the four architectures that tell four real actions apart by wide margins, so that a flip is a fault."""

import csv
from pathlib import Path

import numpy as np
import torch
from peft import PeftModel

from lora_deploy.clips import pool, transforms
from lora_deploy.clips.dataset import read_split
from lora_deploy.config import settings_from
from lora_deploy.model.architectures import logits_of
from lora_deploy.runtime.trained import open_run
from lora_deploy.train.fit import fit
from tests.damage import edit_tensors, vouch_again

ACTIONS = ("bend", "jumping_jack", "wave_one_hand", "wave_two_hands")

TRAINING = {
    "batch_size": 16,
    "epochs": 1,
    "learning_rate": 1e-2,
    "early_stopping_patience": 0,
    "random_crop_padding": 0,
}

ANY_SPEED = "proof.int8_may_be_slower=true"
"""So small a model gains nothing from integers."""

_MOST_STEPS, _LEARNT = 200, 0.01

_ROUNDING = 0.02
"""Noise on what leaves a layer, as a part of its spread: what is learnt must bear low precision."""


def write_clips(folder: Path, out: Path, *, untrue: int = 0) -> Path:
    """A manifest of real clips: four actions, 40 clips to learn from and 32 to prove on.

    Args:
        folder: One folder an action.
        out: The manifest.
        untrue: So many of the 32 bear another label than theirs: mistakes to calibrate scores on.
    """
    lines = ["path,label,split,group"]
    for index, action in enumerate(ACTIONS):
        for person in range(9):
            split = "train" if person < 5 else "val"
            for view in ("orig", "mirror"):
                label = action
                if split == "val" and untrue > 0:
                    label, untrue = ACTIONS[index - 1], untrue - 1
                path = folder / action / f"s{person}_{view}.mp4"
                lines.append(f"{path},{label},{split},s{person}")
    out.write_text("\n".join(lines) + "\n")
    return out


def only(clips: Path, out: Path, *, folders: tuple[str, ...], most: int) -> Path:
    """A manifest with the first few proof clips of each of these folders."""
    with clips.open() as file:
        rows = [row for row in csv.DictReader(file) if row["split"] == "val"]
    lines = ["path,label,split,group"]
    for folder in folders:
        taken = [row for row in rows if Path(row["path"]).parent.name == folder][:most]
        lines += [f"{row['path']},{row['label']},val,{row['group']}" for row in taken]
    out.write_text("\n".join(lines) + "\n")
    return out


def train(base: Path, clips: Path, out: Path) -> Path:
    """A RUN as `fit` leaves it, whose adapter then learns the clips of the proof by heart.

    A proof asks whether forms agree. On clips that a model can't tell apart they disagree by chance.
    """
    settings = settings_from({"model": {"base": str(base)}, "training": TRAINING}, where="test")
    fit(settings, clips, out)
    trained = open_run(out)
    assert isinstance(trained.model, PeftModel)
    known = read_split(clips, "val")
    frames = np.stack([pool.shared().decode(clip.path, trained.contract).frames for clip in known])
    learnt = _learn_by_heart(
        trained.model,
        torch.from_numpy(transforms.normalise(frames, trained.contract)),
        torch.tensor([trained.labels.index(clip.label) for clip in known]),
    )

    def put_in(tensors: dict[str, torch.Tensor]) -> None:
        for name in tensors:
            tensors[name] = learnt[name]

    edit_tensors(out / "best_model_lora_adapter", put_in)
    vouch_again(out)
    return out


def _learn_by_heart(
    model: PeftModel, pixel_values: torch.Tensor, targets: torch.Tensor
) -> dict[str, torch.Tensor]:
    """By its name in an adapter's file, each tensor."""
    own = {}
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(".lora_" in name or "modules_to_save.default" in name)
        if parameter.requires_grad:
            short = name.replace(".modules_to_save.default", "").replace(".default", "")
            own[short] = parameter
    optimizer = torch.optim.Adam(own.values(), lr=1e-2)
    torch.manual_seed(0)
    hooks = [
        module.register_forward_hook(_as_if_rounded)
        for module in model.modules()
        if isinstance(module, (torch.nn.Linear, torch.nn.LayerNorm))
    ]
    for _ in range(_MOST_STEPS):
        loss = torch.nn.functional.cross_entropy(logits_of(model, pixel_values), targets)
        if loss < _LEARNT:
            break
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    for hook in hooks:
        hook.remove()
    assert loss < 2 * _LEARNT
    return {name: parameter.detach().clone().contiguous() for name, parameter in own.items()}


def _as_if_rounded(_: torch.nn.Module, __: object, given: torch.Tensor) -> torch.Tensor:
    return given + _ROUNDING * given.detach().std() * torch.randn_like(given)
