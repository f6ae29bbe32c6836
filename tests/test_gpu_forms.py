"""The benchmark of GPU forms, rehearsed on the CPU with a tiny model, so that no GPU's time is lost on a slip."""

import json
import runpy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "gpu_forms.py"

NEEDS_CUDA = {
    "bfloat16, cuDNN attention",
    "bfloat16, efficient attention",
    "… as one CUDA graph",
    "LoRA on all layers, bfloat16 base, cuDNN attention",
    "LoRA on all layers, bfloat16 base, efficient attention",
}


@pytest.fixture(scope="module")
def script() -> dict[str, Any]:
    return runpy.run_path(str(SCRIPT))


@pytest.fixture(scope="module")
def found(script: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    out = tmp_path_factory.mktemp("gpu-forms")
    script["main"](["--device", "cpu", "--tiny", "--out", str(out)])
    table = (out / "gpu_forms.md").read_text()
    result: dict[str, Any] = json.loads((out / "gpu_forms.json").read_text())
    for row in result["inference"] + result["training"]:
        assert f"| {row['form']} |" in table
    return result


def test_every_form_is_measured_that_needs_no_gpu(found: dict[str, Any]) -> None:
    rows = found["inference"] + found["training"]
    assert {row["form"] for row in rows if row["not_possible"]} == NEEDS_CUDA
    assert len(found["training"]) == 12
    for row in rows:
        if not row["not_possible"]:
            assert row["clips_per_second"] > 0
            assert row["ratio_range"][0] <= row["ratio"] <= row["ratio_range"][1]


def test_no_form_answers_otherwise(found: dict[str, Any]) -> None:
    for row in found["inference"]:
        if not row["not_possible"]:
            assert row["difference"] <= (0 if row["form"].startswith("float32") else 0.05)


def test_every_step_learns_the_same(found: dict[str, Any]) -> None:
    losses: dict[str, float] = {}
    for row in found["training"]:
        if not row["not_possible"]:
            assert row["cosine"] > 0.99
            layers = row["form"].partition(",")[0]
            assert row["loss"] == pytest.approx(losses.setdefault(layers, row["loss"]), abs=0.05)


def test_linear_patches_are_the_convolution(script: dict[str, Any]) -> None:
    torch.manual_seed(0)
    patches = nn.Module()
    patches.projection = nn.Conv3d(3, 5, (2, 4, 8), stride=(2, 4, 8))
    clips = torch.randn(2, 6, 3, 8, 24)
    expected = patches.projection(clips.permute(0, 2, 1, 3, 4)).flatten(2).transpose(1, 2)
    torch.testing.assert_close(script["LinearPatches"](patches)(clips), expected)


def test_videomae_b_is_built_at_its_size(script: dict[str, Any]) -> None:
    config = script["FULL"].config
    assert (config.hidden_size, config.num_hidden_layers, config.image_size) == (768, 12, 224)
    assert script["FULL"].batches == (1, 8, 32)


def test_a_dead_adapter_is_not_measured(script: dict[str, Any]) -> None:
    training = script["Training"](script["TINY"], script["steps"](6)[0], torch.device("cpu"))
    training.take()
    training.gradients()
    training.learned[0].grad.zero_()
    with pytest.raises(AssertionError, match="no gradient reaches"):
        training.gradients()
