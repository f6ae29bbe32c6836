"""Learning rates that fall towards the input: every parameter in one group, at the depth where it stands."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Trainer

from lora_deploy.config import settings_from
from lora_deploy.errors import SettingsClashError
from lora_deploy.model.base import open_base
from lora_deploy.train import checkpoints
from lora_deploy.train.fit import fit
from lora_deploy.train.layer_decay import depth_of, parameter_groups
from tests.conftest import TINY_TRAINING
from tests.tiny_graphs import MODEL_TYPES

LABELS = ("bend", "wave_two_hands")


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_every_parameter_that_learns_is_in_one_group_at_its_depth(
    tiny_bases: dict[str, Path], model_type: str
) -> None:
    model = open_base(str(tiny_bases[model_type]), LABELS).model
    decayed = {name for name, tensor in model.named_parameters() if tensor.ndim > 1}
    groups = parameter_groups(
        model, layer_decay=0.5, learning_rate=8e-3, weight_decay=0.1, decayed=decayed
    )
    names = {id(tensor): name for name, tensor in model.named_parameters()}
    placed = {names[id(tensor)]: group for group in groups for tensor in group["params"]}
    assert sum(len(group["params"]) for group in groups) == len(placed)
    assert placed.keys() == {n for n, tensor in model.named_parameters() if tensor.requires_grad}
    rates = {0: 1e-3, 1: 2e-3, 2: 4e-3, 3: 8e-3}
    for name, group in placed.items():
        if "embeddings" in name:
            depth = 0
        elif ".0." in name and not name.startswith("pooler"):
            depth = 1
        elif ".1." in name and not name.startswith("pooler"):
            depth = 2
        else:  # the last norm, a pooler, the classifier
            depth = 3
        assert depth_of(model, name) == depth, name
        assert group["lr"] == pytest.approx(rates[depth]), name
        assert group["weight_decay"] == (0.1 if name in decayed else 0.0), name
    assert {depth_of(model, name) for name in placed} == {0, 1, 2, 3}
    assert groups[0]["lr"] == 8e-3  # what a log names


@pytest.mark.parametrize("model", [{}, {"use_lora": False, "freeze_base": True}])
def test_it_is_refused_where_the_base_does_not_learn(model: dict[str, Any]) -> None:
    tree = {"model": model, "training": {"layer_decay": 0.75}}
    with pytest.raises(SettingsClashError, match=r"layer_decay is 0\.75, and only full fine-tun"):
        settings_from(tree, where="test")
    settings_from({"model": model}, where="test")


def training_of(base: Path, **training: Any) -> Any:
    return settings_from(
        {
            "model": {"base": str(base), "use_lora": False},
            "training": {**TINY_TRAINING, "epochs": 2, "learning_rate": 1e-3, **training},
        },
        where="test",
    )


def moved(run: Path, base: Path) -> dict[str, float]:
    state = torch.load(run / "best_model.pth", weights_only=True)["state_dict"]
    before = open_base(str(base), LABELS).model.state_dict()
    return {name: float((state[name] - before[name]).abs().max()) for name in before}


def test_a_decay_of_one_is_the_training_as_it_was(
    tiny_base: Path, few_clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The groups themselves change nothing: all at one rate they train what Trainer trains."""
    fit(training_of(tiny_base), few_clips, tmp_path / "plain")
    monkeypatch.setattr(
        "lora_deploy.train.going_on.parameter_groups",
        lambda *given, **named: parameter_groups(*given, **{**named, "layer_decay": 1.0}),
    )
    fit(training_of(tiny_base, layer_decay=0.5), few_clips, tmp_path / "grouped")
    one, other = (
        torch.load(tmp_path / name / "best_model.pth", weights_only=True)["state_dict"]
        for name in ("plain", "grouped")
    )
    for name in one:
        torch.testing.assert_close(one[name], other[name], rtol=0, atol=1e-7)


def test_lower_layers_move_less_and_resume_stays_exact(
    tiny_base: Path, few_clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = training_of(tiny_base, layer_decay=0.1, weight_decay=0.0)
    fit(settings, few_clips, tmp_path / "whole")
    distance = moved(tmp_path / "whole", tiny_base)
    at = "videomae.encoder.layer"
    low, high = (distance[f"{at}.{n}.intermediate.dense.weight"] for n in (0, 1))
    assert 5 < high / low < 20  # AdamW's steps are as long as the learning rate
    assert distance["videomae.embeddings.patch_embeddings.projection.weight"] < low / 5
    write = checkpoints.write

    def interrupted(*given: Any, **named: Any) -> None:
        write(*given, **named)
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoints, "write", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fit(settings, few_clips, tmp_path / "parts")
    monkeypatch.undo()
    fit(settings, few_clips, tmp_path / "parts", resume=True)
    one, other = (
        torch.load(tmp_path / name / "best_model.pth", weights_only=True)["state_dict"]
        for name in ("whole", "parts")
    )
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_the_metrics_name_the_learning_rate_of_the_head(
    tiny_base: Path, few_clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[float] = []
    log = Trainer.log

    def watched(self: Trainer, logs: dict[str, float], *given: Any, **named: Any) -> None:
        seen.extend([logs["learning_rate"]] if "learning_rate" in logs else [])
        log(self, logs, *given, **named)

    monkeypatch.setattr(Trainer, "log", watched)
    settings = training_of(tiny_base, layer_decay=0.5, lr_scheduler="constant", warmup_fraction=0.0)
    fit(settings, few_clips, tmp_path / "run")
    assert seen == [1e-3, 1e-3]
