"""The adapter: counted, switched off with its head kept on, loaded whole or not at all."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file

from lora_deploy.config import LoraSettings
from lora_deploy.errors import CheckpointError, NoAdapterError
from lora_deploy.model.adapter import attach, count, delta_off
from lora_deploy.model.adapter_files import load_adapter
from lora_deploy.model.base import open_base
from lora_deploy.model.targets import resolve

LABELS = ("bend", "wave_two_hands")


def attached(tiny_base: Path, words: list[str] | None = None) -> PeftModel:
    base = open_base(str(tiny_base), LABELS)
    return attach(
        base.model,
        LoraSettings(),
        layers=resolve(base.model, words or ["qkv"]).layers,
        head_modules=base.head_modules,
        base_id=base.base_id,
        revision=None,
    )


def test_parameters_are_counted_not_guessed(tiny_base: Path) -> None:
    counts = count(attached(tiny_base))
    assert counts.lora == 2 * 3 * (8 * 32 + 32 * 8)  # layers × q, k, v × (A + B)
    assert counts.head == 32 * 2 + 2
    assert counts.trainable == counts.lora + counts.head
    base = open_base(str(tiny_base), LABELS).model
    assert counts.total == sum(p.numel() for p in base.parameters()) + counts.lora


def test_videomae_base_has_the_counts_that_arithmetic_gives() -> None:
    from transformers import VideoMAEConfig, VideoMAEForVideoClassification

    with torch.device("meta"):
        config = VideoMAEConfig()
        config.id2label = {index: str(index) for index in range(10)}
        model = VideoMAEForVideoClassification(config)
    adapted = attach(
        model,
        LoraSettings(),
        layers=resolve(model, ["qkv"]).layers,
        head_modules=("classifier",),
        base_id="videomae-base",
        revision=None,
    )
    counts = count(adapted)
    assert counts.lora == 12 * 3 * 2 * 768 * 8 == 442_368
    assert counts.total - counts.lora == 86_234_890


def test_off_means_the_update_off_and_the_trained_head_on(tiny_base: Path) -> None:
    model = attached(tiny_base).eval()
    torch.manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "modules_to_save" in name:
                parameter.normal_()
    pixels = torch.randn(2, 4, 3, 32, 32)
    with torch.no_grad():
        on = model(pixel_values=pixels).logits
        with delta_off(model):
            off = model(pixel_values=pixels).logits
        assert torch.equal(on, off)  # lora_B is still zero: a dead adapter under a trained head
        for name, parameter in model.named_parameters():
            if ".lora_B." in name:
                parameter.normal_()
        alive = model(pixel_values=pixels).logits
        with delta_off(model):
            assert torch.equal(model(pixel_values=pixels).logits, off)
        assert torch.equal(model(pixel_values=pixels).logits, alive)
    assert (alive - off).abs().max() > 1e-3


def damaged(run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(run / "best_model_lora_adapter", tmp_path / "adapter"))


@pytest.mark.parametrize("fault", ["missing", "unknown", "shape", "nan"])
def test_an_adapter_that_is_not_whole_is_refused(
    tiny_base: Path, lora_run: Path, tmp_path: Path, fault: str
) -> None:
    folder = damaged(lora_run, tmp_path)
    path = folder / "adapter_model.safetensors"
    tensors = load_file(path)
    name = sorted(tensors)[0]
    match fault:
        case "missing":
            del tensors[name]
        case "unknown":
            tensors["base_model.model.extra"] = torch.zeros(1)
        case "shape":
            tensors[name] = tensors[name][:1].clone()
        case "nan":
            tensors[name][0] = torch.nan
    save_file(tensors, path)
    base = open_base(str(tiny_base), LABELS)
    with pytest.raises(CheckpointError, match=r"adapter_model\.safetensors"):
        load_adapter(base.model, folder)


def test_an_infinite_alpha_is_refused(tiny_base: Path, lora_run: Path, tmp_path: Path) -> None:
    folder = damaged(lora_run, tmp_path)
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "lora_alpha": float("inf")}))
    with pytest.raises(CheckpointError, match="lora_alpha is inf"):
        load_adapter(open_base(str(tiny_base), LABELS).model, folder)


def test_a_folder_without_an_adapter_says_what_it_lacks(tiny_base: Path, tmp_path: Path) -> None:
    with pytest.raises(NoAdapterError, match=r"lacks adapter_config\.json"):
        load_adapter(open_base(str(tiny_base), LABELS).model, tmp_path)


@pytest.mark.parametrize(
    "option",
    [{"use_qalora": True}, {"layers_to_transform": [1]}, {"bias": "all"},
     {"init_lora_weights": "pissa"}, {"lora_bias": True}],
)  # fmt: skip
def test_what_is_not_plain_lora_is_refused(
    tiny_base: Path, lora_run: Path, tmp_path: Path, option: dict[str, object]
) -> None:
    folder = damaged(lora_run, tmp_path)
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **option}))
    with pytest.raises(CheckpointError, match=next(iter(option))):
        load_adapter(open_base(str(tiny_base), LABELS).model, folder)


def test_a_torn_adapter_configuration_is_refused(
    tiny_base: Path, lora_run: Path, tmp_path: Path
) -> None:
    folder = damaged(lora_run, tmp_path)
    (folder / "adapter_config.json").write_text("{")
    with pytest.raises(CheckpointError, match="is no LoRA configuration"):
        load_adapter(open_base(str(tiny_base), LABELS).model, folder)
