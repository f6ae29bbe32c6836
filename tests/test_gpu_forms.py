"""The GPU benchmark, rehearsed on the CPU with tiny models from end to end, so that no card's time is lost on a slip."""

import importlib
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import nn

from lora_deploy.extras import is_installed

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"

NEEDS_CUDA = {
    "bfloat16, cuDNN attention",
    "bfloat16, efficient attention",
    "… as one CUDA graph",
    "LoRA on all layers, bfloat16 base, cuDNN attention",
    "LoRA on all layers, bfloat16 base, efficient attention",
}

CPU = torch.device("cpu")

NEVER = float("inf")


@pytest.fixture(scope="module", autouse=True)
def on_the_path() -> Iterator[None]:
    """As Python does for a script: what lies beside it can be imported."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(BENCHMARKS)
        yield
    for name in [name for name in sys.modules if name.startswith("gpu_")]:
        del sys.modules[name]


def module(name: str) -> ModuleType:
    return importlib.import_module(name)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("gpu-forms")
    module("gpu_forms").main(["--device", "cpu", "--tiny", "--out", str(out)])
    return out


@pytest.fixture(scope="module")
def found(written: Path) -> dict[str, Any]:
    result: dict[str, Any] = json.loads((written / "gpu_forms.json").read_text())
    return result


def rows_of(found: dict[str, Any], *parts: str) -> Iterator[dict[str, Any]]:
    for model in found["models"]:
        for part in parts:
            yield from model[part]


def test_every_row_is_in_the_tables(written: Path, found: dict[str, Any]) -> None:
    table = (written / "gpu_forms.md").read_text()
    for model in found["models"]:
        assert f"\n## {model['model']}\n" in table
    for row in rows_of(found, "inference", "training", "engines"):
        assert f"\n| {row['form']} | {row['batch']} | " in table
    assert found["date"] in table


def test_every_form_is_measured_that_needs_no_gpu(found: dict[str, Any]) -> None:
    rows = list(rows_of(found, "inference", "training"))
    assert {row["form"] for row in rows if row["not_possible"]} == NEEDS_CUDA
    assert not any(row["not_here"] for row in rows)
    assert [len(model["training"]) for model in found["models"]] == [15, 15]
    for row in rows:
        if not row["not_possible"]:
            assert row["clips_per_second"] > 0
            assert row["ratio_range"][0] <= row["ratio"] <= row["ratio_range"][1]


def test_no_form_answers_otherwise(found: dict[str, Any]) -> None:
    for row in rows_of(found, "inference", "engines"):
        if row["clips_per_second"]:
            exact = {"float32": 0, "float32, TF32": 0, "ONNX Runtime, processor, fp32": 1e-5}
            assert row["difference"] <= exact.get(row["form"], 0.05)


def test_every_step_learns_the_same(found: dict[str, Any]) -> None:
    for model in found["models"]:
        losses: dict[str, float] = {}
        for row in model["training"]:
            if row["not_possible"]:
                continue
            layers = row["form"].removeprefix("Trainer + peft, ").partition(",")[0]
            assert row["loss"] == pytest.approx(losses.setdefault(layers, row["loss"]), abs=0.01)
            if not row["form"].startswith("Trainer"):
                assert row["cosine"] > 0.999


def test_trainer_takes_the_very_step_that_ours_takes(found: dict[str, Any]) -> None:
    for model in found["models"]:
        loss = {row["form"]: row["loss"] for row in model["training"]}
        ours, theirs = "LoRA on all layers, float32", "Trainer + peft, LoRA on all layers, float32"
        assert loss[theirs] == pytest.approx(loss[ours], abs=1e-5)


def test_engines_that_are_not_here_say_why(found: dict[str, Any]) -> None:
    rows = [row for row in rows_of(found, "engines") if row["form"] != "float32"]
    assert not any(row["not_possible"] for row in rows)
    said = {row["form"]: row["not_here"] for row in rows}
    assert {name for name, reason in said.items() if reason is None} == {
        "ONNX Runtime, processor, fp32"
    }
    assert "has no CUDAExecutionProvider" in said["ONNX Runtime, CUDA, fp16"]
    if not is_installed("tensorrt"):
        assert "No module named 'tensorrt'" in said["TensorRT, fp16"]
    if is_installed("tensorrt_rtx"):  # built really, since its builder needs no card
        assert "built for SM86" in said["TensorRT for RTX, fp16"]


def test_nothing_is_begun_when_time_is_over(tmp_path: Path) -> None:
    main = module("gpu_forms").main
    main(["--device", "cpu", "--tiny", "--only", "tiny, 3 layers", "--out", str(tmp_path), "--minutes", "0"])  # fmt: skip
    found = json.loads((tmp_path / "gpu_forms.json").read_text())
    assert [model["model"] for model in found["models"]] == ["tiny, 3 layers"]
    rows = [*rows_of(found, "training"), *rows_of(found, "engines")]
    late = [row for row in rows if row["form"] != "float32"]
    assert len(late) == 24
    assert {row["not_here"] for row in late} == {"no time left"}
    assert all(
        row["clips_per_second"] for row in rows_of(found, "inference") if not row["not_possible"]
    )


def test_a_model_that_there_is_not_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        module("gpu_forms").main(["--device", "cpu", "--only", "VideoMAE-H", "--out", "."])
    assert "there are VideoMAE-B, VideoMAE-L" in capsys.readouterr().err


def test_linear_patches_are_the_convolution() -> None:
    torch.manual_seed(0)
    patches = nn.Module()
    patches.projection = nn.Conv3d(3, 5, (2, 4, 8), stride=(2, 4, 8))
    clips = torch.randn(2, 6, 3, 8, 24)
    expected = patches.projection(clips.permute(0, 2, 1, 3, 4)).flatten(2).transpose(1, 2)
    torch.testing.assert_close(module("gpu_models").LinearPatches(patches)(clips), expected)


def test_one_projection_is_the_three() -> None:
    models = module("gpu_models")
    model = models.make_model(models.TINY[0], CPU)
    attention = model.videomae.encoder.layer[0].attention.attention
    with torch.no_grad():
        attention.query.bias.normal_()
        attention.value.bias.normal_()
    hidden = torch.randn(2, 7, 32)
    expected, _ = attention(hidden)
    torch.testing.assert_close(models.FusedAttention(attention)(hidden)[0], expected)
    models.with_fused_qkv(model)
    fused = [type(layer.attention.attention) for layer in model.videomae.encoder.layer]
    assert fused == [models.FusedAttention] * 6


def test_both_models_are_built_at_their_size() -> None:
    base, large = module("gpu_models").FULL
    for size, hidden, layers, heads, millions in ((base, 768, 12, 12, 86), (large, 1024, 24, 16, 304)):  # fmt: skip
        config = size.config
        assert (config.hidden_size, config.num_hidden_layers) == (hidden, layers)
        assert (config.num_attention_heads, config.image_size) == (heads, 224)
        assert size.batches == (1, 8, 32)
        with torch.device("meta"):
            model = module("gpu_models").VideoMAEForVideoClassification(config)
        weights = sum(parameter.numel() for parameter in model.parameters())
        assert weights / 1e6 == pytest.approx(millions, abs=1)


def test_flops_are_those_of_the_model_with_weights() -> None:
    models, measure = module("gpu_models"), module("gpu_measure")
    tiny = models.TINY[0]
    model = models.make_model(tiny, CPU)
    model.set_attn_implementation("eager")
    with torch.inference_mode(), measure.FlopCounterMode(display=False) as counter:
        model(pixel_values=models.make_clips(tiny, 1, CPU))
    assert measure.flops_of_one_clip(tiny) == counter.get_total_flops() > 1e6


def test_a_dead_adapter_is_not_measured() -> None:
    learn, models = module("gpu_training"), module("gpu_models")
    training = learn.Training(models.TINY[0], learn.steps(6)[0], CPU)
    training.take()
    training.gradients()
    training.learned[0].grad.zero_()
    with pytest.raises(AssertionError, match="no gradient reaches"):
        training.gradients()


def test_trainer_is_timed_without_its_first_step(monkeypatch: pytest.MonkeyPatch) -> None:
    learn, models = module("gpu_training"), module("gpu_models")
    steps = learn.TrainerSteps(models.TINY[1], CPU, bf16=False)
    taken: list[float] = []
    training_step = learn.OneBatch.training_step

    def slow_first(self: Any, *arguments: Any, **more: Any) -> Any:
        if not taken:
            time.sleep(0.5)
        taken.append(time.perf_counter())
        return training_step(self, *arguments, **more)

    monkeypatch.setattr(learn.OneBatch, "training_step", slow_first)
    begin = time.perf_counter()
    seconds = steps.timed(3)
    assert len(taken) == 4
    assert 0 < seconds < (time.perf_counter() - begin - 0.5) / 3


def test_an_entrant_that_fails_costs_no_other() -> None:
    measure, models = module("gpu_measure"), module("gpu_models")
    tiny = models.TINY[1]

    def absent() -> Any:
        raise measure.NotHere("no | such card")

    def broken() -> Any:
        raise RuntimeError("it broke\nand more")

    answer = torch.ones(2, 3)
    forms = {
        "first": measure.Entrant(lambda: lambda: answer),
        "absent": measure.Entrant(absent),
        "broken": measure.Entrant(broken),
        "last": measure.Entrant(lambda: lambda: answer * 1.5),
    }
    rows, rate = measure.infer_in_turns(forms, tiny, 2, CPU, 1000)
    assert [row.form for row in rows] == list(forms)
    assert [row.not_here for row in rows] == [None, "no / such card", None, None]
    assert [row.not_possible for row in rows] == [None, None, "RuntimeError: it broke", None]
    assert [row.difference for row in rows] == [0.0, None, None, 0.5]
    assert rate > 0


@pytest.mark.gpu
def test_on_a_card_nothing_of_pytorch_is_impossible(tmp_path: Path) -> None:
    assert torch.cuda.is_available()
    module("gpu_forms").main(["--tiny", "--out", str(tmp_path)])
    found = json.loads((tmp_path / "gpu_forms.json").read_text())
    rows = list(rows_of(found, "inference", "training"))
    kernels = {row["form"] for row in rows if row["not_possible"]}
    assert all("attention" in name for name in kernels)  # a card may lack one
    for row in rows:
        if row["form"] not in kernels:
            assert row["clips_per_second"] > 0
            assert row["peak_mb"] > 0
    for row in rows_of(found, "engines"):
        if row["clips_per_second"]:
            assert row["difference"] < 0.05
