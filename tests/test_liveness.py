"""The proof that an adapter is part of what the model computes, on models that go past it in every known way."""

import logging
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from peft.tuners.lora import Linear as LoraLinear
from transformers.models.videomae.modeling_videomae import VideoMAESelfAttention

from lora_deploy.config import LoraSettings, settings_from
from lora_deploy.errors import (
    AnswersNotFiniteError,
    DeadAdapterError,
    DeadLayerError,
    MergeChangesAnswersError,
)
from lora_deploy.export.merge import merge
from lora_deploy.export.pipeline import merge_export
from lora_deploy.model.adapter import attach, delta_off
from lora_deploy.model.base import open_base
from lora_deploy.model.bypass import lora_layers
from lora_deploy.model.liveness import check_can_learn, check_trained
from lora_deploy.model.targets import resolve
from lora_deploy.runtime.load import load
from lora_deploy.train.fit import fit
from tests import faulty_attention
from tests.conftest import TINY_TRAINING

LABELS = ("bend", "wave_two_hands")


@pytest.fixture
def pixels() -> torch.Tensor:
    return torch.randn(2, 4, 3, 32, 32, generator=torch.Generator().manual_seed(3))


def attached(base: Path, *words: str) -> PeftModel:
    opened = open_base(str(base), LABELS)
    return attach(
        opened.model,
        LoraSettings(),
        layers=resolve(opened.model, words or ["qkv"]).layers,
        head_modules=opened.head_modules,
        base_id=opened.base_id,
        revision=None,
    )


@torch.no_grad()
def teach(model: PeftModel, part: str) -> None:
    """Give every parameter with ``part`` in its name values, as a training would."""
    generator = torch.Generator().manual_seed(1)
    for name, parameter in model.named_parameters():
        if part in name:
            parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))


def update_of(layer: LoraLinear) -> torch.Tensor:
    """B, [out, r]."""
    return layer.get_parameter("lora_B.default.weight")


@torch.no_grad()
def logits(model: torch.nn.Module, pixels: torch.Tensor) -> torch.Tensor:
    answer: torch.Tensor = model.eval()(pixel_values=pixels).logits
    return answer


def test_a_living_adapter_passes_and_nothing_of_it_is_changed(
    tiny_base: Path, pixels: torch.Tensor
) -> None:
    model = attached(tiny_base, "all-linear").train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    found = check_can_learn(model, pixels)
    assert found.layers == 12
    assert found.on_off_difference > 100 * found.merge_difference
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert model.training
    teach(model, ".lora_B.")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert check_trained(model, pixels).on_off_difference > 0.01
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_a_dead_adapter_under_a_trained_head_is_refused(
    tiny_base: Path, pixels: torch.Tensor
) -> None:
    model = attached(tiny_base)
    head_before = logits(model, pixels)
    teach(model, ".modules_to_save.")
    with model.disable_adapter():
        naive = logits(model, pixels)
    assert (logits(model, pixels) - naive).abs().max() > 0.01  # what blinds a naive proof
    assert not torch.equal(logits(model, pixels), head_before)
    with pytest.raises(
        DeadAdapterError, match=r"in all 6 layers its update B·A is zero, .* so only the head"
    ):
        check_trained(model, pixels)


def test_one_layer_that_learned_nothing_is_named(tiny_base: Path, pixels: torch.Tensor) -> None:
    model = attached(tiny_base)
    teach(model, ".lora_B.")
    layer = lora_layers(model)["videomae.encoder.layer.1.attention.attention.key"]
    for part, factor in (("B", 0.0), ("A", 0.0), ("B", 1e-30)):
        weight = layer.get_parameter(f"lora_{part}.default.weight")
        before = weight.detach().clone()
        with torch.no_grad():
            weight.mul_(factor)
        with pytest.raises(
            DeadLayerError, match=r"layer\.1\.attention\.attention\.key is dead: its update B·A is"
        ):
            check_trained(model, pixels)
        with torch.no_grad():
            weight.copy_(before)
    check_trained(model, pixels)


def test_an_update_that_changes_nothing_is_refused(tiny_base: Path, pixels: torch.Tensor) -> None:
    model = attached(tiny_base)
    teach(model, ".lora_B.")
    for layer in lora_layers(model).values():
        layer.scaling = dict.fromkeys(layer.scaling, 3e-6)
    with pytest.raises(DeadAdapterError, match="switching it off changes logits by"):
        check_trained(model, pixels)


def test_a_layer_that_no_gradient_reaches_is_named(tiny_base: Path, pixels: torch.Tensor) -> None:
    model = attached(tiny_base)
    layer = lora_layers(model)["videomae.encoder.layer.1.attention.attention.value"]
    layer.register_forward_hook(lambda _, __, output: output.detach())
    with pytest.raises(
        DeadLayerError, match=r"layer\.1\.attention\.attention\.value .*no gradient"
    ):
        check_can_learn(model, pixels)


def test_a_model_that_answers_nan_is_refused(tiny_base: Path, pixels: torch.Tensor) -> None:
    model = attached(tiny_base)
    teach(model, ".lora_B.")
    torch.nn.init.constant_(model.get_parameter("base_model.model.fc_norm.weight"), torch.nan)
    with pytest.raises(AnswersNotFiniteError):
        check_trained(model, pixels)


# Attention that goes past its layers ----------------------------------------------------------


def test_what_the_faulty_pattern_does_with_plain_peft(
    tiny_base: Path, pixels: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Why all this is needed: no gradient, no change, and another answer after merging."""
    monkeypatch.setattr(VideoMAESelfAttention, "forward", faulty_attention.reads_weights)
    model = attached(tiny_base)
    teach(model, ".lora_B.")
    on = logits(model, pixels)
    with delta_off(model):
        assert torch.equal(logits(model, pixels), on)
    assert (logits(merge(model), pixels) - on).abs().max() > 0.01


def test_the_faulty_pattern_is_mended_aloud_and_then_alive(
    tiny_base: Path,
    pixels: torch.Tensor,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    sound = attached(tiny_base)
    teach(sound, ".lora_")
    monkeypatch.setattr(VideoMAESelfAttention, "forward", faulty_attention.reads_weights)
    model = attached(tiny_base)
    with caplog.at_level(logging.WARNING, logger="lora_deploy"):
        check_can_learn(model, pixels)
    assert (
        "layer.0.attention.attention.query (6 layers) instead of calling the layer" in caplog.text
    )
    teach(model, ".lora_")
    found = check_trained(model, pixels)
    assert found.on_off_difference > 0.01
    mended = logits(model, pixels)
    monkeypatch.undo()
    expected = logits(sound, pixels)
    assert (mended - expected).abs().max() < 1e-5 * expected.abs().max()


def test_an_adapter_on_faulty_attention_is_trained_opened_and_merged_alive(
    tiny_base: Path,
    few_clips: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(VideoMAESelfAttention, "forward", faulty_attention.reads_weights)
    settings = settings_from(
        {"model": {"base": str(tiny_base)}, "training": {**TINY_TRAINING, "epochs": 1}},
        where="test",
    )
    fit(settings, few_clips, tmp_path / "run")
    assert "instead of calling the layer" in caplog.text
    model = load(tmp_path / "run").backend.model  # type: ignore[attr-defined]
    layers = lora_layers(model).values()
    assert all(bool(update_of(layer).any()) for layer in layers)
    certificate = merge_export(tmp_path / "run", tmp_path / "bundle").certificate
    assert certificate.passed
    assert certificate.liveness is not None
    assert certificate.liveness.largest_logit_difference > 1e-3


def test_attention_with_copies_of_its_own_can_not_be_mended_and_is_refused(
    tiny_base: Path, few_clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(VideoMAESelfAttention, "forward", faulty_attention.reads_own_copies)
    settings = settings_from({"model": {"base": str(tiny_base)}}, where="test")
    with pytest.raises(DeadLayerError, match=r"query is dead: the model never calls .*\(6 of 6"):
        fit(settings, few_clips, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_trained_adapter_is_refused_on_a_model_that_goes_past_it(
    lora_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(VideoMAESelfAttention, "forward", faulty_attention.reads_own_copies)
    with pytest.raises(DeadLayerError, match="never calls"):
        load(lora_run)


def test_attention_that_calls_and_reads_would_answer_otherwise_when_merged(
    tiny_base: Path, pixels: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(VideoMAESelfAttention, "forward", faulty_attention.calls_and_reads)
    with pytest.raises(MergeChangesAnswersError, match="merged weights answer otherwise"):
        check_can_learn(attached(tiny_base), pixels)


def test_a_mended_layer_is_still_a_layer_of_peft(
    tiny_base: Path, pixels: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(VideoMAESelfAttention, "forward", faulty_attention.reads_weights)
    model = attached(tiny_base)
    names = list(model.state_dict())
    check_can_learn(model, pixels)
    assert list(model.state_dict()) == names
    assert all(isinstance(layer, LoraLinear) for layer in lora_layers(model).values())
    teach(model, ".lora_B.")
    merged = merge(model)
    assert (logits(merged, pixels) - logits(model, pixels)).abs().max() < 1e-5
