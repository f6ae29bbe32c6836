"""The eighteen ways to get a plausible, wrong result with exit code 0: each is an error with a name.

Each test makes the fault happen with real files and opens the door that a user opens.
"""

import json
import re
import shutil
from pathlib import Path

import onnxruntime
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForVideoClassification, PreTrainedModel, TrainerState
from transformers.models.videomae.modeling_videomae import VideoMAESelfAttention

from lora_deploy import cli, errors
from lora_deploy.artifact.run import read_run_manifest, write_run_manifest
from lora_deploy.clips import pool
from lora_deploy.config import Settings, settings_from
from lora_deploy.errors import (
    AdapterChangedError,
    AdapterNotFiniteError,
    AdapterPartMissingError,
    AdapterSkippedError,
    DeadLayerError,
    FileChangedError,
    HalfFittingCheckpointError,
    HeadMissingError,
    KnownBadLibraryError,
    LabelOrderError,
    MergedTwiceError,
    NothingToResumeError,
    ProviderFellBackError,
    ResumeMismatchError,
    WeightsMissingError,
    WrongBaseError,
)
from lora_deploy.export import write_forms
from lora_deploy.export.pipeline import merge_export
from lora_deploy.model.base import open_base
from lora_deploy.runtime.load import load
from lora_deploy.train.callbacks import KeepBest
from lora_deploy.train.fit import fit
from lora_deploy.versions import installed_versions
from tests import faulty_attention, stub_decoder
from tests.conftest import TINY_TRAINING
from tests.damage import edit_config, edit_tensors, vouch_again, without

LABELS = ("bend", "wave_two_hands")
ADAPTER = "best_model_lora_adapter"


@pytest.fixture
def adapter_copy(run_copy: Path) -> Path:
    """Its adapter alone: no manifest vouches for its files."""
    return Path(shutil.copytree(run_copy / ADAPTER, run_copy.with_name("adapter")))


def test_01_an_adapter_that_the_model_goes_past(
    tiny_base: Path, few_clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(VideoMAESelfAttention, "forward", faulty_attention.reads_own_copies)
    settings = settings_from({"model": {"base": str(tiny_base)}}, where="test")
    with pytest.raises(DeadLayerError):
        fit(settings, few_clips, tmp_path / "run")


@pytest.mark.parametrize("version", ["5.6.0", "5.16.2", "5.17.0"])
def test_02_biases_that_a_known_bad_library_drops(
    version: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    versions = {**installed_versions(), "transformers": version}
    monkeypatch.setattr("lora_deploy.known_bad.installed_versions", lambda: versions)
    with pytest.raises(
        KnownBadLibraryError, match=r"transformers 5\..* biases .*transformers>=5.18"
    ):
        open_base("videomae-nano", LABELS)


def test_02_biases_that_are_missing_in_a_base(tiny_base: Path, tmp_path: Path) -> None:
    base = Path(shutil.copytree(tiny_base, tmp_path / "base"))
    path = base / "model.safetensors"
    tensors = load_file(path)
    biases = [name for name in tensors if name.endswith(("query.bias", "q_bias"))]
    for name in biases:
        del tensors[name]
    save_file(tensors, path, metadata={"format": "pt"})
    assert len(biases) == 2
    with pytest.raises(WeightsMissingError, match=r"query\.bias"):
        open_base(str(base), LABELS)


def test_03_a_checkpoint_of_which_only_a_part_fits(full_run: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(full_run, tmp_path / "run"))
    path = run / "best_model.pth"
    content = torch.load(path, weights_only=True)
    state = content["state_dict"]
    for name in [name for name in state if "layer.1." in name]:
        state[name.replace("layer.1.", "blocks.1.")] = state.pop(name)
    torch.save(content, path)
    vouch_again(run)
    with pytest.raises(HalfFittingCheckpointError, match=r"best_model\.pth"):
        load(run)


def test_04_another_base(run_copy: Path, tiny_base: Path, tmp_path: Path) -> None:
    base = Path(shutil.copytree(tiny_base, tmp_path / "other-base"))
    path = base / "model.safetensors"
    tensors = load_file(path)
    tensors["videomae.encoder.layer.0.output.dense.weight"][0, 0] += 1e-3
    save_file(tensors, path, metadata={"format": "pt"})
    manifest = read_run_manifest(run_copy)
    moved = manifest.base.model_copy(update={"id": str(base)})
    write_run_manifest(run_copy, manifest.model_copy(update={"base": moved}))
    with pytest.raises(WrongBaseError, match="fingerprint"):
        load(run_copy)
    with pytest.raises(WrongBaseError, match="fingerprint"):
        load(run_copy / ADAPTER, base=str(base))


def test_05_merged_twice(bundle: Path, run_copy: Path, few_clips: Path, tmp_path: Path) -> None:
    with pytest.raises(MergedTwiceError, match="in its weights already"):
        merge_export(
            run_copy / ADAPTER,
            tmp_path / "twice",
            base=str(bundle / "model"),
            verify_on=few_clips,
        )
    assert not (tmp_path / "twice").exists()


def test_06_a_head_that_was_not_saved(adapter_copy: Path, run_copy: Path) -> None:
    for adapter in (adapter_copy, run_copy / ADAPTER):
        edit_tensors(adapter, without("classifier"))
    with pytest.raises(HeadMissingError):
        load(adapter_copy)
    vouch_again(run_copy)
    with pytest.raises(HeadMissingError):
        load(run_copy)


def test_06_a_head_of_which_a_part_was_not_saved(adapter_copy: Path) -> None:
    edit_tensors(adapter_copy, without("classifier.bias"))
    with pytest.raises(HeadMissingError, match=r"classifier\.bias"):
        load(adapter_copy)


def test_07_a_layer_that_is_missing(adapter_copy: Path) -> None:
    edit_tensors(adapter_copy, without("layer.1.attention.attention.key"))
    with pytest.raises(AdapterPartMissingError, match=r"lacks 2 of 14 parts: .*layer\.1\..*key"):
        load(adapter_copy)


@pytest.mark.parametrize("change", [{"lora_alpha": 32}, {"lora_alpha": 16.5}])
def test_08_an_alpha_that_was_edited(
    adapter_copy: Path, run_copy: Path, change: dict[str, float]
) -> None:
    edit_config(adapter_copy, **change)
    with pytest.raises(AdapterChangedError, match="trained with lora_alpha 16"):
        load(adapter_copy)
    edit_config(run_copy / ADAPTER, **change)
    with pytest.raises(AdapterChangedError, match="its hash differs"):
        load(run_copy)
    vouch_again(run_copy)
    with pytest.raises(AdapterChangedError, match="trained with lora_alpha 16"):
        load(run_copy)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize("part", ["lora_A", "lora_B", "classifier"])
def test_09_a_value_that_is_no_number(adapter_copy: Path, part: str, value: float) -> None:
    def spoil(tensors: dict[str, torch.Tensor]) -> None:
        name = next(name for name in tensors if part in name)
        tensors[name].view(-1)[-1] = value

    edit_tensors(adapter_copy, spoil)
    with pytest.raises(AdapterNotFiniteError, match=part):
        load(adapter_copy)


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        pytest.param("stuck half way", "RepeatedFramesError", id="10 repeated frames"),
        pytest.param("pictures as stored", "RotationIgnoredError", id="11 rotation ignored"),
        pytest.param("middle of stretches", "SampledByIndexError", id="12 sampled by index"),
        pytest.param("first frames", "FirstFramesOnlyError", id="15 first frames only"),
    ],
)
def test_10_11_12_15_a_decoder_that_gives_wrong_frames(
    bundle: Path,
    test_clips: list[Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    fault: str,
    error: str,
) -> None:
    command = stub_decoder.worker_command(
        "import faulty_decoder",
        f"faulty_decoder.FAULT = {fault!r}",
        "worker.DECODERS['av'] = 'faulty_decoder'",
    )
    monkeypatch.setattr(pool, "_WORKER_COMMAND", command)
    monkeypatch.setattr(pool, "_PROVED", set())
    assert cli.run(["classify", str(bundle), str(test_clips[0])]) == 2
    captured = capsys.readouterr()
    assert f"[{error}]" in captured.err
    assert captured.out == ""


@pytest.fixture
def interrupted(
    tiny_base: Path, few_clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """A RUN whose training was interrupted in its second epoch."""

    def interrupt(
        _: KeepBest, args: object, state: TrainerState, *__: object, **___: object
    ) -> None:
        if round(state.epoch or 0) == 2:
            raise KeyboardInterrupt

    out = tmp_path / "interrupted"
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(KeepBest, "on_log", interrupt, raising=False)
        fit(training_settings(tiny_base), few_clips, out)
    return out


def training_settings(base: Path, **training: object) -> Settings:
    values = {**TINY_TRAINING, "random_crop_padding": 0.125, **training}
    return settings_from({"model": {"base": str(base)}, "training": values}, where="test")


@pytest.mark.parametrize("part", ["optimizer_state.pt", "random_state.pt", "weights.safetensors"])
def test_13_a_training_resumed_without_its_state(
    interrupted: Path, tiny_base: Path, few_clips: Path, part: str
) -> None:
    [checkpoint] = (interrupted / "checkpoints").iterdir()
    (checkpoint / part).unlink()
    with pytest.raises(NothingToResumeError, match=f"{re.escape(part)} is missing"):
        fit(training_settings(tiny_base), few_clips, interrupted, resume=True)


def test_13_a_training_resumed_beside_a_damaged_best_model(
    interrupted: Path, tiny_base: Path, few_clips: Path
) -> None:
    path = interrupted / "best_model.pth"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(FileChangedError, match=r"best_model\.pth is not the file"):
        fit(training_settings(tiny_base), few_clips, interrupted, resume=True)


@pytest.mark.parametrize(
    "change", [{"random_crop_padding": 0.25}, {"seed": 1}, {"epochs": 4}, {"batch_size": 2}]
)
def test_14_a_training_resumed_with_other_augmentation(
    interrupted: Path, tiny_base: Path, few_clips: Path, change: dict[str, object]
) -> None:
    with pytest.raises(ResumeMismatchError, match=next(iter(change))):
        fit(training_settings(tiny_base, **change), few_clips, interrupted, resume=True)


def test_14_random_augmentation_is_the_same_after_an_interruption(
    interrupted: Path, tiny_base: Path, few_clips: Path, tmp_path: Path
) -> None:
    fit(training_settings(tiny_base), few_clips, interrupted, resume=True)
    fit(training_settings(tiny_base), few_clips, tmp_path / "unbroken")
    for name in ("metrics.jsonl", f"{ADAPTER}/adapter_model.safetensors"):
        assert (interrupted / name).read_bytes() == (tmp_path / "unbroken" / name).read_bytes()


def test_16_a_runtime_that_fell_back_to_another_provider(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        onnxruntime.InferenceSession, "get_providers", lambda _: ["AzureExecutionProvider"]
    )
    with pytest.raises(ProviderFellBackError, match="AzureExecutionProvider"):
        load(bundle, backend="onnxruntime")


def test_17_an_export_that_lost_the_adapter(
    lora_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a pipeline does that opens the base which an adapter's folder names."""

    def merge_nothing(model: PeftModel) -> PreTrainedModel:
        base = AutoModelForVideoClassification.from_pretrained(
            read_run_manifest(lora_run).base.id, num_labels=2, ignore_mismatched_sizes=True
        )
        base.load_state_dict(head_of(model), strict=False)
        base.config.id2label = dict(enumerate(LABELS))
        opened: PreTrainedModel = base.eval()
        return opened

    monkeypatch.setattr(write_forms, "merge", merge_nothing)
    with pytest.raises(
        AdapterSkippedError, match="merged answers as the base does without its adapter"
    ):
        merge_export(lora_run, tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()


def head_of(model: PeftModel) -> dict[str, torch.Tensor]:
    saved = model.get_submodule("base_model.model.classifier.modules_to_save.default").state_dict()
    return {f"classifier.{name}": tensor for name, tensor in saved.items()}


def test_18_labels_in_another_order(adapter_copy: Path, run_copy: Path, full_run: Path) -> None:
    turned = list(reversed(LABELS))
    (adapter_copy / "labels.json").write_text(json.dumps(turned))
    with pytest.raises(LabelOrderError, match=r"labels\.json says"):
        load(adapter_copy)
    with pytest.raises(LabelOrderError, match="the record in its weights says"):
        load(run_copy / ADAPTER, labels=turned)
    for run in (run_copy, Path(shutil.copytree(full_run, run_copy.with_name("full")))):
        manifest = read_run_manifest(run)
        write_run_manifest(run, manifest.model_copy(update={"labels": tuple(turned)}))
        with pytest.raises(LabelOrderError, match="was trained for"):
            load(run)


def test_18_labels_of_a_bundle_in_another_order(bundle_copy: Path) -> None:
    path = bundle_copy / "bundle.json"
    values = json.loads(path.read_text())
    path.write_text(json.dumps({**values, "labels": list(reversed(LABELS))}))
    for options in ({"backend": "onnxruntime"}, {"backend": "torch"}, {"adapter": "default"}):
        with pytest.raises(LabelOrderError):
            load(bundle_copy, **options)  # type: ignore[arg-type]


def test_the_page_of_proofs_names_the_errors_that_are_raised_here() -> None:
    page = (Path(__file__).parents[1] / "docs" / "proofs.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| (\d+) \|.*\| ([^|]+) \|$", page, flags=re.MULTILINE))
    here = Path(__file__).read_text(encoding="utf-8")
    assert list(rows) == [str(number) for number in range(1, 19)]
    for number, cell in rows.items():
        names = re.findall(r"`(\w+Error)`", cell)
        assert names, number
        assert all(issubclass(getattr(errors, name), errors.LoraDeployError) for name in names)
        assert any(name in here for name in names), number
