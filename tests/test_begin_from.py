"""A training that begins with an adapter of before: the same base, other classes too, and told aloud."""

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel

from lora_deploy.artifact import run
from lora_deploy.artifact.adapter_record import read_record
from lora_deploy.config import Settings, settings_from
from lora_deploy.errors import (
    AdapterChangedError,
    BeginningMismatchError,
    DeadAdapterError,
    LoraDeployError,
    ResumeMismatchError,
    WrongBaseError,
)
from lora_deploy.model.base import open_base
from lora_deploy.train import checkpoints
from lora_deploy.train.begin_from import begin_from, read_beginning
from lora_deploy.train.fit import fit
from lora_deploy.train.learner import prepare
from tests import tiny_models
from tests.conftest import TINY_TRAINING
from tests.damage import edit_config, edit_tensors, kill_adapter, without

CLASSIFIER = "base_model.model.classifier.modules_to_save.default"


def settings_of(base: Path, **lora: Any) -> Settings:
    return settings_from(
        {"model": {"base": str(base), "lora": lora}, "training": {**TINY_TRAINING, "epochs": 1}},
        where="test",
    )


def begun(base: Path, source: Path, labels: tuple[str, ...], **lora: Any) -> PeftModel:
    """A model that has not made a step yet."""
    settings = settings_of(base, **lora)
    opened = open_base(settings.model.base, labels, seed=0)
    learner = prepare(opened, settings)
    assert isinstance(learner.model, PeftModel)
    begin_from(learner.model, read_beginning(source), opened, labels=labels, contract=opened.contract)  # fmt: skip
    return learner.model


def tensors_of(source: Path) -> dict[str, torch.Tensor]:
    return dict(torch.load(source / "best_model.pth", weights_only=True)["state_dict"])


def test_it_begins_where_the_other_one_ended(tiny_base: Path, lora_run: Path) -> None:
    model = begun(tiny_base, lora_run, ("bend", "wave_two_hands"))
    before, now = tensors_of(lora_run), model.state_dict()
    learned = [name for name in now if ".lora_" in name or ".modules_to_save." in name]
    assert len(learned) == 6 * 2 + 2
    assert all(torch.equal(now[name], before[name]) for name in learned)


def test_the_head_keeps_the_rows_of_known_labels_wherever_they_stand(
    tiny_base: Path, lora_run: Path, caplog: pytest.LogCaptureFixture
) -> None:
    labels = ("wave_two_hands", "a new one", "jump")
    with caplog.at_level(logging.INFO, logger="lora_deploy"):
        model = begun(tiny_base, lora_run, labels)
    fresh = prepare(open_base(str(tiny_base), labels, seed=0), settings_of(tiny_base)).model
    before = tensors_of(lora_run)
    for part in ("weight", "bias"):
        now = model.state_dict()[f"{CLASSIFIER}.{part}"]
        assert torch.equal(now[0], before[f"{CLASSIFIER}.{part}"][1])
        assert torch.equal(now[1:], fresh.state_dict()[f"{CLASSIFIER}.{part}"][1:])
    assert (
        "rows of the head: 1 kept (wave_two_hands); 2 new (a new one, jump); 1 left behind (bend)"
        in caplog.text
    )


def test_a_training_that_began_so_says_with_what_and_is_a_run_like_any_other(
    tiny_base: Path, lora_run: Path, few_clips: Path, tmp_path: Path
) -> None:
    clips = tmp_path / "clips.csv"  # one label more, which the earlier one never saw
    clips.write_text(few_clips.read_text().replace("s2_mirror.mp4,bend", "s2_mirror.mp4,bow"))
    manifest = fit(settings_of(tiny_base), clips, tmp_path / "run", init_from=lora_run)
    assert manifest.labels == ("bend", "bow", "wave_two_hands")
    assert manifest.begun_with == read_beginning(lora_run).digest
    record = read_record(tmp_path / "run" / run.ADAPTER)
    assert record is not None
    assert record.labels == manifest.labels
    weights = tensors_of(tmp_path / "run")
    assert weights[f"{CLASSIFIER}.weight"].shape == (3, 32)


def test_what_was_learned_is_known_before_the_first_step(
    tiny_base: Path, lora_run: Path, few_clips: Path, tmp_path: Path
) -> None:
    """With a learning rate of almost nothing the first epoch answers as the earlier RUN did."""
    settings = settings_of(tiny_base)
    slow = settings.model_copy(
        update={"training": settings.training.model_copy(update={"learning_rate": 1e-12})}
    )
    begun_run = fit(slow, few_clips, tmp_path / "run", init_from=lora_run)
    earlier = run.read_run_manifest(lora_run).best
    assert begun_run.best.val_loss == pytest.approx(earlier.val_loss, rel=1e-5)
    assert begun_run.best.val_accuracy == earlier.val_accuracy


def test_an_adapter_by_itself_will_do(tiny_base: Path, lora_run: Path) -> None:
    begun(tiny_base, lora_run / run.ADAPTER, ("bend", "wave_two_hands"))


def test_dora_begins_with_its_lengths(tiny_base: Path, few_clips: Path, tmp_path: Path) -> None:
    lora = {"use_dora": True, "rank_pattern": {"query": 4}}
    fit(settings_of(tiny_base, **lora), few_clips, tmp_path / "run")
    model = begun(tiny_base, tmp_path / "run", ("bend", "jump"), **lora)
    before, now = tensors_of(tmp_path / "run"), model.state_dict()
    lengths = [name for name in now if "magnitude" in name]
    assert len(lengths) == 6
    assert all(torch.equal(now[name], before[name]) for name in lengths)


def test_another_base_is_refused_by_its_fingerprint(
    tiny_base: Path, lora_run: Path, few_clips: Path, tmp_path: Path
) -> None:
    other = Path(shutil.copytree(tiny_base, tmp_path / "other"))

    def nudge(tensors: dict[str, torch.Tensor]) -> None:
        name = next(name for name in tensors if name.endswith("query.weight"))
        tensors[name][0, 0] += 1e-3

    _edit_base(other, nudge)
    with pytest.raises(WrongBaseError, match=r"was trained on .* fingerprint"):
        fit(settings_of(other), few_clips, tmp_path / "run", init_from=lora_run)
    vivit = tiny_models.save(tiny_models.make("vivit"), tmp_path / "vivit")
    with pytest.raises(WrongBaseError):
        fit(settings_of(vivit), few_clips, tmp_path / "run", init_from=lora_run)
    assert not (tmp_path / "run").exists()


def _edit_base(folder: Path, change: Any) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("lora", "words"),
    [
        ({"r": 4}, "model.lora.r is 4 and was 8"),
        ({"lora_alpha": 32}, "model.lora.lora_alpha is 32 and was 16"),
        ({"use_dora": True}, "model.lora.use_dora is True and was False"),
        ({"use_rslora": True}, "model.lora.use_rslora is True and was False"),
        ({"target_modules": ["qkv", "fc"]}, "target_modules and top_layers name 10 .* named 6"),
        ({"top_layers": 1}, "name 3 layers and named 6"),
        ({"rank_pattern": {"query": 2}}, "model.lora.rank_pattern is"),
    ],
)
def test_another_kind_of_adapter_is_refused_with_the_settings_to_change(
    tiny_base: Path, lora_run: Path, lora: dict[str, Any], words: str
) -> None:
    with pytest.raises(BeginningMismatchError, match=words):
        begun(tiny_base, lora_run, ("bend", "wave_two_hands"), **lora)


def test_what_has_no_adapter_is_no_beginning(
    tiny_base: Path, full_run: Path, lora_run: Path, few_clips: Path, tmp_path: Path
) -> None:
    with pytest.raises(BeginningMismatchError, match="fine-tuned as a whole"):
        fit(settings_of(tiny_base), few_clips, tmp_path / "run", init_from=full_run)
    full = settings_from({"model": {"base": str(tiny_base), "use_lora": False}}, where="test")
    with pytest.raises(BeginningMismatchError, match=r"model\.use_lora is false"):
        fit(full, few_clips, tmp_path / "run", init_from=lora_run)
    with pytest.raises(LoraDeployError, match=r"no adapter: it lacks adapter_config\.json"):
        fit(settings_of(tiny_base), few_clips, tmp_path / "run", init_from=tmp_path)
    assert not (tmp_path / "run").exists()


def test_a_damaged_beginning_is_refused(tiny_base: Path, run_copy: Path, tmp_path: Path) -> None:
    labels = ("bend", "wave_two_hands")
    alone = Path(shutil.copytree(run_copy / run.ADAPTER, tmp_path / "alone"))
    edit_config(run_copy / run.ADAPTER, lora_alpha=32)
    with pytest.raises(AdapterChangedError, match="hash differs"):
        begun(tiny_base, run_copy, labels)
    edit_config(alone, lora_alpha=32)
    with pytest.raises(AdapterChangedError, match="lora_alpha 32; it was trained with"):
        begun(tiny_base, alone, labels, lora_alpha=32)
    edit_config(alone, lora_alpha=16)
    kill_adapter(alone)
    with pytest.raises(DeadAdapterError):
        begun(tiny_base, alone, labels)
    edit_tensors(alone, without("lora_A"))
    with pytest.raises(LoraDeployError, match="lacks 6 of"):
        begun(tiny_base, alone, labels)
    (alone / "adapter_model.safetensors").write_bytes(
        _without_record((alone / "adapter_model.safetensors").read_bytes())
    )
    with pytest.raises(BeginningMismatchError, match="not made by this program"):
        read_beginning(alone)


def _without_record(content: bytes) -> bytes:
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:end])
    del header["__metadata__"]
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + content[end:]


def test_it_goes_on_only_with_the_beginning_that_it_had(
    tiny_base: Path,
    lora_run: Path,
    few_clips: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = tmp_path / "run"
    settings = settings_from(
        {"model": {"base": str(tiny_base)}, "training": {**TINY_TRAINING, "epochs": 2}},
        where="test",
    )
    whole = fit(settings, few_clips, tmp_path / "whole", init_from=lora_run)
    write = checkpoints.write

    def interrupted(*given: Any, **named: Any) -> None:
        write(*given, **named)
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoints, "write", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fit(settings, few_clips, out, init_from=lora_run)
    monkeypatch.undo()
    with pytest.raises(ResumeMismatchError, match=r"begun_with was [0-9a-f]{64} and is nothing"):
        fit(settings, few_clips, out, resume=True)
    resumed = fit(settings, few_clips, out, resume=True, init_from=lora_run)
    assert (tmp_path / "whole" / run.METRICS).read_bytes() == (out / run.METRICS).read_bytes()
    assert resumed.best.epoch == whole.best.epoch
    one, other = tensors_of(out), tensors_of(tmp_path / "whole")
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert np.isfinite(resumed.best.val_loss)
