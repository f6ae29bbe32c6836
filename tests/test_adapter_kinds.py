"""DoRA, rsLoRA, patterns and top layers: counted, proved alive, switched off, opened, merged and exported like plain LoRA."""

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForVideoClassification
from transformers.models.videomae.modeling_videomae import VideoMAESelfAttention

from lora_deploy import checkup
from lora_deploy.config import LoraSettings, settings_from
from lora_deploy.errors import (
    AdapterChangedError,
    AdapterConfigError,
    AdapterNotFiniteError,
    AdapterPartMissingError,
    AdapterPartUnknownError,
    AdapterShapeError,
    DeadAdapterError,
    DeadLayerError,
    LoraDeployError,
    SettingValueError,
    TooManyTopLayersError,
    UnknownTargetError,
)
from lora_deploy.export.merge import merge, without_update
from lora_deploy.export.pipeline import merge_export
from lora_deploy.model.adapter import attach, count, delta_off
from lora_deploy.model.adapter_files import load_adapter
from lora_deploy.model.architectures import logits_of
from lora_deploy.model.base import OpenedBase, open_base
from lora_deploy.model.bypass import lora_layers
from lora_deploy.model.liveness import check_can_learn, check_trained
from lora_deploy.model.targets import resolve
from lora_deploy.runtime.load import load
from lora_deploy.train.fit import fit
from tests import faulty_attention
from tests.conftest import TINY_TRAINING
from tests.damage import edit_config, edit_tensors, without
from tests.tiny_graphs import MODEL_TYPES

LABELS = ("bend", "wave_two_hands")

KINDS: dict[str, dict[str, Any]] = {
    "DoRA": {"use_dora": True},
    "rsLoRA": {"use_rslora": True},
    "patterns": {
        "target_modules": ["qkv", "fc"],
        "rank_pattern": {"fc": 4, "layer.1.output.dense": 2},
        "alpha_pattern": {"query": 40},
    },
    "top layers": {"top_layers": 1},
    "all at once": {
        "target_modules": ["all-linear"],
        "use_dora": True,
        "use_rslora": True,
        "rank_pattern": {"proj": 3},
        "alpha_pattern": {"fc1": 5},
        "top_layers": 1,
    },
}

FACTORS = {  # a row and a column for each rank, at 32 wide with 64 between fc1 and fc2
    "DoRA": 6 * 8 * (32 + 32),
    "rsLoRA": 6 * 8 * (32 + 32),
    "patterns": 6 * 8 * 64 + (3 * 4 + 2) * (32 + 64),
    "top layers": 3 * 8 * 64,
    "all at once": 3 * 8 * 64 + 3 * 64 + 2 * 8 * (32 + 64),
}
LENGTHS = {"DoRA": 6 * 32, "all at once": 4 * 32 + 64 + 32}

kinds = pytest.mark.parametrize("kind", KINDS)


def attached(base: Path | OpenedBase, **lora: Any) -> PeftModel:
    opened = base if isinstance(base, OpenedBase) else open_base(str(base), LABELS)
    settings = LoraSettings(**lora)
    found = resolve(opened.model, settings.target_modules, top_layers=settings.top_layers)
    return attach(
        opened.model,
        settings,
        layers=found.layers,
        head_modules=opened.head_modules,
        base_id=opened.base_id,
        revision=None,
    )


@torch.no_grad()
def teach(model: PeftModel, *parts: str) -> PeftModel:
    """Move every parameter with one of ``parts`` in its name, as a training would."""
    generator = torch.Generator().manual_seed(1)
    for name, parameter in model.named_parameters():
        if any(part in name for part in parts):
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


@pytest.fixture
def pixels() -> torch.Tensor:
    return torch.randn(2, 4, 3, 32, 32, generator=torch.Generator().manual_seed(3))


@torch.no_grad()
def logits(model: torch.nn.Module, pixels: torch.Tensor) -> torch.Tensor:
    answers: torch.Tensor = logits_of(model.eval(), pixels)
    return answers


@kinds
def test_parameters_are_those_that_arithmetic_gives(tiny_base: Path, kind: str) -> None:
    counts = count(attached(tiny_base, **KINDS[kind]))
    assert counts.lora == FACTORS[kind] + LENGTHS.get(kind, 0)
    assert counts.trainable == counts.lora + 32 * 2 + 2


def test_ranks_and_alphas_are_those_of_the_pattern(tiny_base: Path) -> None:
    model = attached(
        tiny_base,
        target_modules=["qkv", "fc"],
        rank_pattern={"fc": 4, r"layer\.1\.output\.dense": 2},
        alpha_pattern={"query": 40},
        use_rslora=True,
    )
    layers = lora_layers(model)
    at = "videomae.encoder.layer"
    found = {
        name: (layers[f"{at}.{name}"].r["default"], layers[f"{at}.{name}"].scaling["default"])
        for name in ("0.output.dense", "1.output.dense", "1.attention.attention.query")
    }
    assert found["0.output.dense"] == pytest.approx((4, 16 / 4**0.5))
    assert found["1.output.dense"] == pytest.approx((2, 16 / 2**0.5))
    assert found["1.attention.attention.query"] == pytest.approx((8, 40 / 8**0.5))


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_top_layers_are_the_last_blocks_of_every_architecture(
    tiny_bases: dict[str, Path], model_type: str
) -> None:
    model = open_base(str(tiny_bases[model_type]), LABELS).model
    every = resolve(model, ["all-linear"]).layers
    top = resolve(model, ["all-linear"], top_layers=1).layers
    assert len(top) == len(every) / 2
    assert all(".1." in name for name in top)
    assert resolve(model, ["all-linear"], top_layers=2).layers == every


def test_more_top_layers_than_blocks_are_refused(tiny_base: Path) -> None:
    with pytest.raises(TooManyTopLayersError, match=r"top_layers is 3, and VideoMAE here has 2"):
        attached(tiny_base, top_layers=3)


def test_a_word_below_the_top_layers_is_refused(tiny_base: Path) -> None:
    with pytest.raises(UnknownTargetError, match="none of its last 1 blocks"):
        attached(tiny_base, top_layers=1, target_modules=["qkv", r"layer\.0\.output\.dense"])


@pytest.mark.parametrize("setting", ["rank_pattern", "alpha_pattern"])
def test_a_pattern_for_layers_without_lora_is_refused(tiny_base: Path, setting: str) -> None:
    with pytest.raises(UnknownTargetError, match=rf"model\.lora\.{setting}: fc names no layer"):
        attached(tiny_base, **{setting: {"qkv": 4, "fc": 2}})


def test_a_pattern_of_no_numbers_is_refused_with_what_is_allowed() -> None:
    with pytest.raises(SettingValueError, match=r"rank_pattern.fc is 0; allowed: .* at least 1"):
        settings_from({"model": {"lora": {"rank_pattern": {"fc": 0}}}}, where="test")


# Alive, and off --------------------------------------------------------------------------------


@kinds
def test_off_is_the_base_bit_for_bit_under_the_trained_head(
    tiny_base: Path, pixels: torch.Tensor, kind: str
) -> None:
    model = teach(attached(tiny_base, **KINDS[kind]), ".lora_")
    untouched = open_base(str(tiny_base), LABELS).model
    expected = logits(untouched, pixels)
    on = logits(model, pixels)
    assert (on - expected).abs().max() > 1e-3
    with delta_off(model):
        assert torch.equal(logits(model, pixels), expected)
    assert torch.equal(logits(model, pixels), on)
    assert torch.equal(logits(without_update(model), pixels), expected)
    teach(model, ".modules_to_save.")
    with delta_off(model):
        assert not torch.equal(logits(model, pixels), expected)  # the trained head stays on


def test_a_scaling_of_zero_would_leave_the_lengths_of_dora_on(
    tiny_base: Path, pixels: torch.Tensor
) -> None:
    """Why `delta_off` does not do that: what it calls the base would be another model."""
    model = teach(attached(tiny_base, use_dora=True), ".lora_")
    for layer in lora_layers(model).values():
        layer.scaling = dict.fromkeys(layer.scaling, 0.0)
    untouched = open_base(str(tiny_base), LABELS).model
    assert (logits(model, pixels) - logits(untouched, pixels)).abs().max() > 1e-3


@kinds
@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_every_kind_is_alive_on_every_architecture_and_merges(
    tiny_bases: dict[str, Path], pixels: torch.Tensor, kind: str, model_type: str
) -> None:
    lora = {**KINDS[kind], "target_modules": ["all-linear"]}
    lora["rank_pattern"] = {"fc1": 3} if "rank_pattern" in lora else {}
    lora["alpha_pattern"] = {"fc1": 5} if "alpha_pattern" in lora else {}
    model = attached(tiny_bases[model_type], **lora)
    check_can_learn(model, pixels)
    teach(model, ".lora_")
    found = check_trained(model, pixels)
    assert found.layers == len(lora_layers(model))
    on = logits(model, pixels)
    assert (logits(merge(model), pixels) - on).abs().max() < 1e-5 * on.abs().max()


def test_lengths_alone_are_no_living_adapter(tiny_base: Path, pixels: torch.Tensor) -> None:
    model = teach(attached(tiny_base, use_dora=True), ".lora_magnitude_vector.", ".modules_to_save")
    with pytest.raises(DeadAdapterError, match="in all 6 layers its update B·A is zero"):
        check_trained(model, pixels)


def test_lengths_that_no_gradient_reaches_are_named(tiny_base: Path, pixels: torch.Tensor) -> None:
    model = attached(tiny_base, use_dora=True)
    name = "videomae.encoder.layer.1.attention.attention.value"
    lengths = lora_layers(model)[name].lora_magnitude_vector["default"]
    lengths.register_parameter(
        "weight", torch.nn.Parameter(lengths.get_parameter("weight").detach(), requires_grad=False)
    )
    with pytest.raises(DeadLayerError, match=r"value is dead: no gradient"):
        check_can_learn(model, pixels)


def test_attention_that_reads_weights_is_mended_for_dora_too(
    tiny_base: Path, pixels: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = logits(teach(attached(tiny_base, use_dora=True), ".lora_"), pixels)
    monkeypatch.setattr(VideoMAESelfAttention, "forward", faulty_attention.reads_weights)
    model = attached(tiny_base, use_dora=True)
    check_can_learn(model, pixels)
    teach(model, ".lora_")
    check_trained(model, pixels)
    assert (logits(model, pixels) - expected).abs().max() < 1e-5 * expected.abs().max()


# Trained, opened, exported ---------------------------------------------------------------------


@pytest.fixture(scope="session")
def run_of(
    tmp_path_factory: pytest.TempPathFactory, tiny_base: Path, few_clips: Path
) -> Callable[[str], Path]:
    """A RUN of each kind. Tests must not change it."""
    made: dict[str, Path] = {}

    def run(kind: str) -> Path:
        if kind not in made:
            out = tmp_path_factory.mktemp("kind") / "run"
            settings = settings_from(
                {
                    "model": {"base": str(tiny_base), "lora": KINDS[kind]},
                    "training": {**TINY_TRAINING, "epochs": 2},
                },
                where="test",
            )
            fit(settings, few_clips, out)
            made[kind] = out
        return made[kind]

    return run


@kinds
def test_unmerged_merged_and_onnx_agree_on_real_clips(
    run_of: Callable[[str], Path], test_clips: list[Path], tmp_path: Path, kind: str
) -> None:
    shipped = merge_export(run_of(kind), tmp_path / "bundle", adapter_graph=True)
    assert shipped.certificate.passed
    trained = load(run_of(kind))
    forms = {
        "merged": load(shipped.bundle, backend="torch"),
        "onnx": load(shipped.bundle, backend="onnxruntime"),
        "graph": load(shipped.bundle, backend="onnxruntime", form="unmerged"),
        "adapter": load(shipped.bundle, backend="torch", form="unmerged"),
    }
    off = {
        "graph": load(shipped.bundle, backend="onnxruntime", form="base"),
        "torch": load(shipped.bundle, backend="torch", form="base"),
    }
    furthest = 0.0
    for clip in test_clips:
        expected = np.array(trained.classify(clip).logits)
        for form, recogniser in forms.items():
            np.testing.assert_allclose(recogniser.classify(clip).logits, expected, atol=1e-4, err_msg=form)  # fmt: skip
        base = np.array(off["torch"].classify(clip).logits)
        np.testing.assert_allclose(off["graph"].classify(clip).logits, base, atol=1e-4)
        furthest = max(furthest, float(np.abs(base - expected).max()))
    assert furthest > 0.01


@kinds
def test_plain_peft_opens_every_kind(
    run_of: Callable[[str], Path], tiny_base: Path, pixels: torch.Tensor, kind: str
) -> None:
    base = AutoModelForVideoClassification.from_pretrained(
        tiny_base, num_labels=2, ignore_mismatched_sizes=True
    )
    model = PeftModel.from_pretrained(base, run_of(kind) / "best_model_lora_adapter").eval()
    ours = load(run_of(kind)).backend.logits(pixels[:1].numpy())
    np.testing.assert_allclose(logits(model, pixels[:1]).numpy(), ours, atol=1e-5)


def test_what_is_trained_is_told_as_it_is(
    tiny_base: Path, few_clips: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = settings_from(
        {
            "model": {"base": str(tiny_base), "lora": KINDS["all at once"]},
            "training": {**TINY_TRAINING, "epochs": 1},
        },
        where="test",
    )
    with caplog.at_level(logging.INFO, logger="lora_deploy"):
        manifest = fit(settings, few_clips, tmp_path / "run")
    lora = FACTORS["all at once"] + LENGTHS["all at once"]
    for line in (
        "🎯 rsDoRA Configuration:",
        "   Rank (r): 8, and 3 on 1 layers",
        "   Alpha: 16, and 5 on 1 layers",
        "   Top layers: the last 1 blocks",
        "1× attention.attention.query",
        f"   Trainable params: {lora + 66:,} (",
    ):
        assert line in caplog.text
    assert manifest.parameters["lora"] == lora
    assert all(".layer.1." in name for name in manifest.targets)
    card = (tmp_path / "run/best_model_lora_adapter/README.md").read_text()
    assert "- rsDoRA, rank 8" in card
    looked_at = checkup.check(tmp_path / "run")
    assert "rsDoRA, r 8 (3 on 1 layers), lora_alpha 16 (5 on 1 layers)" in str(looked_at)


# Files that were damaged -----------------------------------------------------------------------


@pytest.fixture
def adapter_of(run_of: Callable[[str], Path], tmp_path: Path) -> Callable[[str], Path]:
    def copy(kind: str) -> Path:
        return Path(
            shutil.copytree(run_of(kind) / "best_model_lora_adapter", tmp_path / "an adapter")
        )

    return copy


@pytest.mark.parametrize(
    ("kind", "change", "words"),
    [
        ("rsLoRA", {"lora_alpha": 32}, "lora_alpha 32; it was trained with lora_alpha 16"),
        ("rsLoRA", {"use_rslora": False}, "use_rslora false; it was trained with use_rslora true"),
        ("DoRA", {"use_dora": False}, "use_dora false; it was trained with use_dora true"),
        ("DoRA", {"use_dora": None}, "use_dora false; it was trained with use_dora true"),
        (
            "patterns",
            {"alpha_pattern": {}},
            "alpha_pattern nothing of its own for .*query; it was trained with alpha_pattern 40",
        ),
        (
            "top layers",
            {"alpha_pattern": {"query": 64}},
            "alpha_pattern 64 for query; it was trained with alpha_pattern nothing of its own",
        ),
    ],
)
def test_what_decides_the_sum_may_not_be_edited(
    adapter_of: Callable[[str], Path], kind: str, change: dict[str, Any], words: str
) -> None:
    adapter = adapter_of(kind)
    edit_config(adapter, **change)
    with pytest.raises(AdapterChangedError, match=words):
        load(adapter)


def test_a_pattern_of_other_ranks_does_not_fit_the_tensors(
    adapter_of: Callable[[str], Path], tiny_base: Path
) -> None:
    adapter = adapter_of("patterns")
    edit_config(adapter, rank_pattern={"query": 3})
    with pytest.raises(AdapterShapeError, match=r"query.lora_A.* says r 3"):
        load_adapter(open_base(str(tiny_base), LABELS).model, adapter)


def test_ranks_that_fill_any_memory_are_refused_before_they_are_made(
    adapter_of: Callable[[str], Path], tiny_base: Path
) -> None:
    adapter = adapter_of("top layers")
    config = json.loads((adapter / "adapter_config.json").read_text())
    below = [name.replace("layer.1", "layer.0") for name in config["target_modules"]]
    edit_config(
        adapter,
        target_modules=config["target_modules"] + below,
        rank_pattern={below[0]: 3_000_000},
    )
    with pytest.raises(AdapterShapeError, match=r"says r 3000000, and the largest .* is 8"):
        load_adapter(open_base(str(tiny_base), LABELS).model, adapter)


@pytest.mark.parametrize(
    "change",
    [
        {"use_dora": "yes"},
        {"use_rslora": 1},
        {"rank_pattern": []},
        {"rank_pattern": {"query": 2.5}},
        {"rank_pattern": {"query": True}},
        {"rank_pattern": {"query": 0}},
        {"alpha_pattern": {"query": float("inf")}},
        {"alpha_pattern": {"query": "16"}},
        {"alpha_pattern": {"(a+)+": 16}},  # a regular expression without an end
        {"alpha_pattern": {f"layer{number}": 1 for number in range(5000)}},
    ],
)
def test_a_configuration_that_makes_no_sense_is_refused(
    adapter_of: Callable[[str], Path], tiny_base: Path, change: dict[str, Any]
) -> None:
    adapter = adapter_of("rsLoRA")
    edit_config(adapter, **change)
    with pytest.raises(AdapterConfigError, match=next(iter(change))):
        load_adapter(open_base(str(tiny_base), LABELS).model, adapter)


def _nan(tensors: dict[str, torch.Tensor]) -> None:
    name = next(name for name in tensors if "magnitude" in name)
    tensors[name][0] = torch.nan


def _one_too_many(tensors: dict[str, torch.Tensor]) -> None:
    name = next(name for name in tensors if "magnitude" in name)
    tensors[name.replace("query", "dense").replace("layer.0", "layer.9")] = tensors[name].clone()


def _short(tensors: dict[str, torch.Tensor]) -> None:
    name = next(name for name in tensors if "magnitude" in name)
    tensors[name] = tensors[name][:-1].clone()


@pytest.mark.parametrize(
    ("damage", "error", "words"),
    [
        (without("layer.1.attention.attention.key.lora_magnitude_vector"),
         AdapterPartMissingError, "lacks 1 of .* parts: .*key.lora_magnitude_vector"),
        (without("magnitude"), AdapterPartMissingError, "lacks 6 of .* parts: .*magnitude"),
        (_nan, AdapterNotFiniteError, "lora_magnitude_vector holds NaN"),
        (_one_too_many, AdapterPartUnknownError, "no place for: .*lora_magnitude_vector"),
        (_short, AdapterShapeError, r"lora_magnitude_vector is \(31,\); the model has \(32,\)"),
    ],
)  # fmt: skip
def test_lengths_that_are_damaged_are_refused_by_name(
    adapter_of: Callable[[str], Path],
    damage: Callable[[dict[str, torch.Tensor]], None],
    error: type[LoraDeployError],
    words: str,
) -> None:
    adapter = adapter_of("DoRA")
    edit_tensors(adapter, damage)
    with pytest.raises(error, match=words):
        load(adapter)


def test_the_file_has_the_names_that_peft_gives(run_of: Callable[[str], Path]) -> None:
    names = load_file(run_of("DoRA") / "best_model_lora_adapter/adapter_model.safetensors")
    assert sum(name.endswith(".lora_magnitude_vector") for name in names) == 6
