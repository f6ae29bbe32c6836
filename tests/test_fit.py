"""Training leaves a RUN that is what it says."""

import json
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForVideoClassification

from lora_deploy.artifact import run
from lora_deploy.clips import decode, transforms
from lora_deploy.config import load_settings, settings_from
from lora_deploy.errors import ArtifactError, DataError, LoraDeployError, NoSuchDeviceError
from lora_deploy.model.base import open_base
from lora_deploy.model.liveness import check_can_learn
from lora_deploy.runtime.load import load
from lora_deploy.train.callbacks import EpochFigures
from lora_deploy.train.fit import fit
from lora_deploy.train.run_folder import RunFolder
from lora_deploy.train.tensors import ClipSamples, Sample
from tests.conftest import TINY_TRAINING


def test_a_run_holds_what_the_contract_names(lora_run: Path) -> None:
    for name in (
        "config.yaml", "run.json", "best_model.pth", "metrics.jsonl", "report.html", "splits.csv",
        "best_model_lora_adapter/adapter_config.json",
        "best_model_lora_adapter/adapter_model.safetensors",
        "best_model_lora_adapter/labels.json",
        "best_model_lora_adapter/README.md",
    ):  # fmt: skip
        assert (lora_run / name).is_file(), name
    assert list((lora_run / "tensorboard").iterdir())
    assert not list(lora_run.rglob("*.partial"))
    assert not (lora_run / ".frames").exists()


def test_the_manifest_says_what_was_trained(lora_run: Path, tiny_base: Path) -> None:
    manifest = run.read_run_manifest(lora_run)
    assert manifest.finished
    assert manifest.kind == "lora"
    assert manifest.labels == ("bend", "wave_two_hands")
    assert manifest.base.id == str(tiny_base)
    assert len(manifest.targets) == 6
    assert manifest.parameters["lora"] == 3072
    assert load_settings(lora_run / "config.yaml").training.epochs == TINY_TRAINING["epochs"]


def test_metrics_have_a_line_per_evaluation(lora_run: Path) -> None:
    lines = [json.loads(line) for line in (lora_run / "metrics.jsonl").read_text().splitlines()]
    evaluations = [line for line in lines if "eval_accuracy" in line]
    assert len(evaluations) == TINY_TRAINING["epochs"]
    best = run.read_run_manifest(lora_run).best
    assert best.val_accuracy == max(line["eval_accuracy"] for line in evaluations)


def test_the_checkpoint_is_plain_tensors_and_answers_as_the_adapter_does(
    lora_run: Path, test_clips: list[Path]
) -> None:
    content = torch.load(lora_run / "best_model.pth", weights_only=True)
    assert content["labels"] == ["bend", "wave_two_hands"]
    recogniser = load(lora_run)
    other = load(lora_run)
    model = other.backend.model  # type: ignore[attr-defined]
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    model.load_state_dict(content["state_dict"], strict=True)
    for path in test_clips[:2]:
        assert other.classify(path).logits == recogniser.classify(path).logits


def test_plain_peft_opens_the_adapter(
    lora_run: Path, tiny_base: Path, test_clips: list[Path]
) -> None:
    base = AutoModelForVideoClassification.from_pretrained(
        tiny_base, num_labels=2, ignore_mismatched_sizes=True
    )
    model = PeftModel.from_pretrained(base, lora_run / "best_model_lora_adapter").eval()
    recogniser = load(lora_run)
    for path in test_clips:
        frames = decode.decode(path, recogniser.contract).frames
        pixels = torch.from_numpy(transforms.normalise(frames, recogniser.contract))[None]
        with torch.no_grad():
            logits = model(pixel_values=pixels).logits[0].numpy()
        np.testing.assert_allclose(logits, recogniser.classify(path).logits, atol=1e-4)


def test_the_adapter_names_its_base_as_the_user_did(lora_run: Path, tiny_base: Path) -> None:
    config = json.loads((lora_run / "best_model_lora_adapter/adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(tiny_base)
    assert json.loads((lora_run / "best_model_lora_adapter/labels.json").read_text()) == [
        "bend",
        "wave_two_hands",
    ]


def test_only_lora_and_head_have_learned(lora_run: Path, tiny_base: Path) -> None:
    state = torch.load(lora_run / "best_model.pth", weights_only=True)["state_dict"]
    base = open_base(str(tiny_base), ("bend", "wave_two_hands")).model.state_dict()
    for name, tensor in base.items():
        if name.startswith("classifier"):
            continue
        kept = {
            f"base_model.model.{name}",
            f"base_model.model.{name}".replace(".weight", ".base_layer.weight").replace(
                ".bias", ".base_layer.bias"
            ),
        }
        [trained] = [state[key] for key in kept if key in state]
        assert torch.equal(trained, tensor), name
    moved = [t for name, t in state.items() if "lora_B" in name]
    assert len(moved) == 6
    assert all(tensor.abs().max() > 0 for tensor in moved)


def test_full_fine_tuning_moves_every_layer_and_leaves_no_adapter(
    full_run: Path, tiny_base: Path
) -> None:
    manifest = run.read_run_manifest(full_run)
    assert manifest.kind == "full"
    assert manifest.parameters["trainable"] == manifest.parameters["total"]
    assert not (full_run / "best_model_lora_adapter").exists()
    state = torch.load(full_run / "best_model.pth", weights_only=True)["state_dict"]
    base = open_base(str(tiny_base), manifest.labels).model.state_dict()
    assert not any(
        torch.equal(state[name], base[name]) for name in base if name.endswith("query.weight")
    )


def test_the_head_alone_can_be_trained(tiny_base: Path, few_clips: Path, tmp_path: Path) -> None:
    settings = settings_from(
        {
            "model": {"base": str(tiny_base), "use_lora": False, "freeze_base": True},
            "training": {**TINY_TRAINING, "epochs": 1},
        },
        where="test",
    )
    manifest = fit(settings, few_clips, tmp_path / "run")
    assert manifest.parameters["trainable"] == 2 * 32 + 2


def test_the_same_seed_gives_the_same_weights(
    lora_run: Path, tiny_base: Path, few_clips: Path, tmp_path: Path
) -> None:
    settings = load_settings(lora_run / "config.yaml")
    fit(settings, few_clips, tmp_path / "again")
    one, other = (
        torch.load(folder / "best_model.pth", weights_only=True)["state_dict"]
        for folder in (lora_run, tmp_path / "again")
    )
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_an_unreadable_clip_is_left_out_aloud(
    tiny_base: Path, few_clips: Path, media: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    manifest = tmp_path / "clips.csv"
    bad = (media / "derived" / "book_zero_byte.mp4").resolve()
    manifest.write_text(few_clips.read_text() + f"{bad},bend,train,x\n")
    settings = settings_from(
        {"model": {"base": str(tiny_base)}, "training": {**TINY_TRAINING, "epochs": 1}},
        where="test",
    )
    fit(settings, manifest, tmp_path / "run")
    assert "book_zero_byte.mp4: the file is empty" in caplog.text


def test_an_existing_folder_is_not_overwritten(lora_run: Path, few_clips: Path) -> None:
    with pytest.raises(ArtifactError, match="exists already"):
        fit(load_settings(), few_clips, lora_run)


def test_a_mistake_leaves_no_folder(tiny_base: Path, few_clips: Path, tmp_path: Path) -> None:
    settings = settings_from(
        {"model": {"base": str(tiny_base), "lora": {"target_modules": ["w2"]}}}, where="test"
    )
    with pytest.raises(Exception, match="w2"):
        fit(settings, few_clips, tmp_path / "run")
    with pytest.raises(DataError):
        fit(load_settings(), tmp_path / "nowhere", tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("epoch", [1, 2])
def test_a_loss_that_is_no_number_ends_the_training_and_is_never_kept(
    tiny_base: Path,
    few_clips: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    epoch: int,
) -> None:
    read = ClipSamples.__getitem__

    def spoilt(self: ClipSamples, index: int) -> Sample:
        sample = read(self, index)
        if self._learning and self._epoch >= epoch - 1 and started:
            sample["pixel_values"] = sample["pixel_values"] * torch.nan
        return sample

    started: list[bool] = []

    def alive(model: PeftModel, pixel_values: torch.Tensor) -> None:
        check_can_learn(model, pixel_values)
        started.append(True)

    monkeypatch.setattr("lora_deploy.train.learner.check_can_learn", alive)
    monkeypatch.setattr(ClipSamples, "__getitem__", spoilt)
    settings = settings_from(
        {"model": {"base": str(tiny_base)}, "training": TINY_TRAINING}, where="test"
    )
    with pytest.raises(
        LoraDeployError, match=rf"loss became nan in epoch {epoch}.*; lower training\.learning_rate"
    ):
        fit(settings, few_clips, tmp_path / "run")
    if epoch == 1:
        assert not (tmp_path / "run" / "run.json").exists()
    else:
        kept = run.read_run_manifest(tmp_path / "run")
        assert kept.best.epoch == 1
        assert [path.name for path in (tmp_path / "run/checkpoints").iterdir()] == ["epoch-00001"]
        assert all(
            np.isfinite(load(tmp_path / "run").classify(clip).logits).all()
            for clip in [Path(few_clips.read_text().splitlines()[1].split(",")[0])]
        )


def test_ctrl_c_waits_until_a_better_epoch_is_whole(
    tiny_base: Path, few_clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = RunFolder._write

    def interrupted(self: RunFolder, figures: EpochFigures, val_clips: int) -> None:
        signal.raise_signal(signal.SIGINT)
        write(self, figures, val_clips)

    monkeypatch.setattr(RunFolder, "_write", interrupted)
    settings = settings_from(
        {"model": {"base": str(tiny_base)}, "training": TINY_TRAINING}, where="test"
    )
    with pytest.raises(KeyboardInterrupt):
        fit(settings, few_clips, tmp_path / "run")
    assert run.read_run_manifest(tmp_path / "run").best.epoch == 1
    load(tmp_path / "run")


def test_a_device_that_is_not_there_is_refused_before_any_work(
    few_clips: Path, tmp_path: Path
) -> None:
    for name, words in (("cuda:99", "CUDA devices"), ("tpu", "allowed: auto, cpu, cuda")):
        with pytest.raises(NoSuchDeviceError, match=words):
            fit(load_settings(), few_clips, tmp_path / "run", device_name=name)
    assert not (tmp_path / "run").exists()
