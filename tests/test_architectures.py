"""VideoMAE, TimeSformer, ViViT and V-JEPA 2 alike: opened, resolved, alive, merged, exported, trained, shipped."""

import json
import logging
import math
import runpy
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForVideoClassification,
    PreTrainedModel,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from lora_deploy import cli
from lora_deploy.artifact.run import read_run_manifest
from lora_deploy.clips.contract import PixelContract
from lora_deploy.config import LoraSettings, settings_from
from lora_deploy.errors import (
    BaseConfigError,
    TooLargeForOnnxError,
    UnknownTargetError,
    UnsupportedArchitectureError,
    WeightsMissingError,
    WeightsUnexpectedError,
)
from lora_deploy.export import to_onnx
from lora_deploy.export.merge import merge
from lora_deploy.export.pipeline import merge_export
from lora_deploy.export.rotary import constant_positions
from lora_deploy.export.to_onnx import write_onnx
from lora_deploy.model.adapter import attach, count, delta_off
from lora_deploy.model.architectures import ARCHITECTURES, architecture_of, logits_of
from lora_deploy.model.base import OpenedBase, open_base
from lora_deploy.model.liveness import check_can_learn
from lora_deploy.model.survey import survey
from lora_deploy.model.targets import resolve
from lora_deploy.runtime.load import load
from lora_deploy.runtime.trained import open_run
from lora_deploy.train.fit import fit
from lora_deploy.train.learn import training_arguments
from lora_deploy.train.learner import prepare
from lora_deploy.train.tensors import Collate
from tests import tiny_models

ROOT = Path(__file__).parents[1]

NEW = ("timesformer", "vivit", "vjepa2")

SEPARATE = {
    "qkv": 6, "q": 2, "k": 2, "v": 2, "query": 2, "key": 2, "value": 2, "proj": 2, "fc": 4,
    "fc1": 2, "fc2": 2, "mlp": 4, "attention": 8, "all-linear": 12,
}  # fmt: skip
"""Layers of two blocks with one attention each, whose q, k and v are layers of their own."""

FUSED_TWICE = {
    "qkv": 4, "q": 4, "k": 4, "v": 4, "query": 4, "key": 4, "value": 4, "proj": 4, "fc": 4,
    "fc1": 2, "fc2": 2, "mlp": 4, "attention": 8, "all-linear": 14,
}  # fmt: skip
"""The same where each block attends twice with one layer for q, k and v, and projects in between."""

LAYERS_HIT = {
    "videomae": SEPARATE,
    "timesformer": FUSED_TWICE,
    "vivit": SEPARATE,
    "vjepa2": SEPARATE,
}

EVERY_WORD = [(kind, word) for kind, words in LAYERS_HIT.items() for word in words]

A_FEW_WORDS = [(kind, word) for kind in LAYERS_HIT for word in ("qkv", "mlp")]


def pixels(contract: PixelContract, clips: int = 2) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.randn(clips, *contract.pixel_values_shape, generator=generator)


def adapted(
    folder: Path, words: list[str], *, learned: bool = True
) -> tuple[PeftModel, OpenedBase]:
    """An adapter on these words; a learned one has a B that is not zero."""
    base = open_base(str(folder), ["x", "y", "z"])
    model = attach(
        base.model, LoraSettings(), layers=resolve(base.model, words).layers,
        head_modules=base.head_modules, base_id="tiny", revision=None,
    )  # fmt: skip
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".lora_B." in name and learned:
                parameter.normal_(std=0.1, generator=generator)
    return model.eval(), base


def test_the_tests_know_every_architecture_and_every_word() -> None:
    assert list(LAYERS_HIT) == list(ARCHITECTURES)
    for model_type, words in LAYERS_HIT.items():
        assert list(words) == list(ARCHITECTURES[model_type].words)


# Target words -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("model_type", "word"), EVERY_WORD)
def test_a_word_hits_as_many_layers_as_it_means(
    tiny_bases: dict[str, Path], model_type: str, word: str
) -> None:
    model = open_base(str(tiny_bases[model_type]), ["x", "y"]).model
    found = resolve(model, [word])
    assert len(set(found.layers)) == len(found.layers) == LAYERS_HIT[model_type][word]
    for layer in found.layers:
        assert isinstance(model.get_submodule(layer), torch.nn.Linear)
        assert not layer.startswith(("classifier", "pooler", "vjepa2.predictor"))


@pytest.mark.parametrize("model_type", LAYERS_HIT)
def test_words_that_name_different_parts_never_hit_one_layer(
    tiny_bases: dict[str, Path], model_type: str
) -> None:
    model = open_base(str(tiny_bases[model_type]), ["x", "y"]).model

    def layers(*words: str) -> set[str]:
        return set(resolve(model, words).layers)

    parts = [layers(word) for word in ("qkv", "proj", "fc1", "fc2")]
    together: set[str] = set().union(*parts)
    assert sum(map(len, parts)) == len(together)
    assert layers("fc") == layers("mlp") == layers("fc1", "fc2")
    assert layers("attention") == layers("qkv", "proj")
    assert layers("q", "k", "v") == layers("qkv")
    left_over = layers("all-linear") - together
    expected = {"temporal_dense"} if model_type == "timesformer" else set()
    assert {name.rsplit(".", 1)[-1] for name in left_over} == expected


@pytest.mark.parametrize(
    "word",
    [
        "classifier",
        r"pooler\..*",
        "pooler.cross_attention_layer.cross_attn.q_proj",
        r".*predictor.*",
        "vjepa2.predictor.layer.0.attention.query",
        "vjepa2.predictor.proj",
    ],
)
def test_neither_head_nor_predictor_of_vjepa2_is_hit_by_its_own_name(
    tiny_bases: dict[str, Path], word: str
) -> None:
    model = open_base(str(tiny_bases["vjepa2"]), ["x", "y"]).model
    with pytest.raises(UnknownTargetError, match="no layer of vjepa2 is called"):
        resolve(model, [word])
    assert len(resolve(model, [r".*"]).layers) == LAYERS_HIT["vjepa2"]["all-linear"]


@pytest.mark.parametrize(
    ("model_type", "words", "said"),
    [
        (
            "timesformer",
            ["q", "v", "fc"],
            "q, v: in TimeSformer query, key and value are one layer",
        ),
        ("timesformer", ["qkv", "fc"], None),
        ("vivit", ["q", "v"], None),
    ],
)
def test_a_word_that_hits_more_than_it_says_is_said_aloud(
    tiny_bases: dict[str, Path],
    caplog: pytest.LogCaptureFixture,
    model_type: str,
    words: list[str],
    said: str | None,
) -> None:
    model = open_base(str(tiny_bases[model_type]), ["x", "y"]).model
    with caplog.at_level(logging.WARNING, logger="lora_deploy"):
        resolve(model, words)
    assert len(caplog.records) == (0 if said is None else 1)
    if said is not None:
        assert said in caplog.text


@pytest.mark.parametrize(("model_type", "word"), EVERY_WORD)
def test_every_layer_under_lora_is_alive_and_merging_changes_no_answer(
    tiny_bases: dict[str, Path], model_type: str, word: str
) -> None:
    model, base = adapted(tiny_bases[model_type], [word])
    clips = pixels(base.contract)
    check_can_learn(model, clips)
    with torch.no_grad():
        unmerged = logits_of(model, clips)
        merged = logits_of(merge(model), clips)
        with delta_off(model):
            off = logits_of(model, clips)
    scale = unmerged.abs().max()
    assert (unmerged - merged).abs().max() < 1e-5 * scale
    assert (unmerged - off).abs().max() > 1e-3 * scale  # else the line above says nothing


def exported_as_merged(folder: Path, word: str, path: Path) -> None:
    """Export, and ask the graph for batches of other sizes than the traced one."""
    model, base = adapted(folder, [word])
    merged = merge(model)
    write_onnx(merged, path, labels=["x", "y", "z"], contract=base.contract)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for clips in (1, 3):
        given = pixels(base.contract, clips)
        with torch.no_grad():
            expected = logits_of(merged, given).numpy()
        [answer] = session.run(["logits"], {"pixel_values": given.numpy()})
        np.testing.assert_allclose(answer, expected, rtol=0, atol=1e-4)
        assert np.ptp(expected) > 0.01


@pytest.mark.parametrize(("model_type", "word"), A_FEW_WORDS)
def test_the_onnx_graph_answers_as_the_merged_model(
    tiny_bases: dict[str, Path], tmp_path: Path, model_type: str, word: str
) -> None:
    exported_as_merged(tiny_bases[model_type], word, tmp_path / "model.onnx")


def test_a_model_that_one_onnx_file_can_not_hold_is_refused(
    tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = open_base(str(tiny_base), ["x", "y"])
    monkeypatch.setattr(to_onnx, "_LARGEST_SINGLE_FILE_BYTES", 1000)
    with pytest.raises(TooLargeForOnnxError, match="one ONNX file holds at most 2 GB; choose"):
        write_onnx(base.model, tmp_path / "m.onnx", labels=["x", "y"], contract=base.contract)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    "changes", [{}, {"hidden_size": 36, "num_attention_heads": 4}, {"frames_per_clip": 8}]
)
def test_rotary_positions_from_tables_are_those_of_vjepa2_to_the_bit(
    changes: dict[str, Any],
) -> None:
    model = tiny_models.make("vjepa2", **changes)
    frames = model.config.frames_per_clip
    clips = torch.randn(2, frames, 3, 32, 32, generator=torch.Generator().manual_seed(3))
    attention = "apply_rotary_embeddings"
    with torch.no_grad():
        expected = logits_of(model, clips)
        with constant_positions(model, frames):
            assert any(attention in vars(module) for module in model.modules())
            assert torch.equal(logits_of(model, clips), expected)
            with pytest.raises(RuntimeError):  # the tables are of another length
                logits_of(model, clips[:, :2])
        assert not any(attention in vars(module) for module in model.modules())
        assert torch.equal(logits_of(model, clips), expected)


@pytest.mark.soak
@pytest.mark.parametrize(
    ("model_type", "word"), [pair for pair in EVERY_WORD if pair not in A_FEW_WORDS]
)
def test_the_onnx_graph_of_every_word_answers_as_the_merged_model(
    tiny_bases: dict[str, Path], tmp_path: Path, model_type: str, word: str
) -> None:
    exported_as_merged(tiny_bases[model_type], word, tmp_path / "model.onnx")


# Bases ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model_type", LAYERS_HIT)
def test_a_classifier_answers_as_transformers_opens_it(
    tiny_bases: dict[str, Path], model_type: str
) -> None:
    folder = tiny_bases[model_type]
    base = open_base(str(folder), ["LABEL_0", "LABEL_1"])
    theirs = AutoModelForVideoClassification.from_pretrained(folder).eval()
    clips = pixels(base.contract)
    with torch.no_grad():
        expected = theirs(**{theirs.main_input_name: clips}).logits
        assert torch.equal(logits_of(base.model, clips), expected)
    assert expected.std() > 0.01
    assert base.head_modules == ("classifier",)
    assert base.contract.pixel_values_shape == (4, 3, 32, 32)
    assert base.licence == "apache-2.0"


@pytest.mark.parametrize("prefixed", [False, True])
@pytest.mark.parametrize("model_type", NEW)
def test_a_base_without_a_head_gets_one_and_keeps_all_it_has_learned(
    tiny_bases: dict[str, Path], tmp_path: Path, model_type: str, prefixed: bool
) -> None:
    encoder = tiny_models.make(model_type, headless=True)
    tiny_models.save(encoder, tmp_path)
    if prefixed:
        path = tmp_path / "model.safetensors"
        tensors = {f"{model_type}.{name}": tensor for name, tensor in load_file(path).items()}
        save_file(tensors, path, metadata={"format": "pt"})
    base = open_base(str(tmp_path), ["x", "y"])
    assert base.head_modules == (
        ("classifier", "pooler") if model_type == "vjepa2" else ("classifier",)
    )
    own = base.model.get_submodule(model_type).state_dict()
    for name, tensor in encoder.state_dict().items():
        if not name.startswith("pooler."):  # of ViViT, which no classifier uses
            assert torch.equal(own[name], tensor), name


def test_the_seed_decides_a_new_pooler_and_it_is_trained_and_saved_as_head(tmp_path: Path) -> None:
    tiny_models.save(tiny_models.make("vjepa2", headless=True), tmp_path)
    one, same, other = (open_base(str(tmp_path), ["x", "y"], seed=seed) for seed in (1, 1, 2))
    name = "pooler.cross_attention_layer.mlp.fc1.weight"
    assert torch.equal(one.model.get_parameter(name), same.model.get_parameter(name))
    assert not torch.equal(one.model.get_parameter(name), other.model.get_parameter(name))
    assert one.fingerprint == other.fingerprint
    learner = prepare(
        one, settings_from({"model": {"lora": {"target_modules": ["qkv"]}}}, where="test")
    )
    trained = {name for name, tensor in learner.model.named_parameters() if tensor.requires_grad}
    heads = {name for name in trained if ".modules_to_save." in name}
    assert any(".pooler.modules_to_save.default.query_tokens" in name for name in heads)
    assert all(".lora_" in name for name in trained - heads)
    expected = sum(
        tensor.numel()
        for name, tensor in same.model.named_parameters()
        if name.startswith(("pooler.", "classifier."))
    )
    assert learner.parameters.head == expected
    full = prepare(other, settings_from({"model": {"use_lora": False}}, where="test"))
    assert full.parameters.head == expected
    random = open_base(str(tmp_path), ["x", "y"], random_weights=True)
    assert random.head_modules == one.head_modules


def change_weights(folder: Path, copy: Path, change: Any) -> Path:
    shutil.copytree(folder, copy)
    tensors = load_file(copy / "model.safetensors")
    change(tensors)
    save_file(tensors, copy / "model.safetensors", metadata={"format": "pt"})
    return copy


@pytest.mark.parametrize("part", ["vjepa2.predictor.", "vjepa2.predictor.layer.0.mlp."])
def test_a_predictor_that_is_gone_is_not_missed_and_is_no_part_of_the_fingerprint(
    tiny_bases: dict[str, Path], tmp_path: Path, part: str
) -> None:
    def take_away(tensors: dict[str, torch.Tensor]) -> None:
        for name in [name for name in tensors if name.startswith(part)]:
            del tensors[name]

    folder = change_weights(tiny_bases["vjepa2"], tmp_path / "copy", take_away)
    with_it, without = (
        open_base(str(path), ["x", "y"], seed=seed)
        for path, seed in ((tiny_bases["vjepa2"], 0), (folder, 7))
    )
    assert with_it.fingerprint == without.fingerprint
    clips = pixels(with_it.contract)
    with torch.no_grad():
        pooled = [base.model.get_submodule("vjepa2")(clips, skip_predictor=True) for base in
                  (with_it, without)]  # fmt: skip
    assert torch.equal(pooled[0].last_hidden_state, pooled[1].last_hidden_state)


def test_half_a_pooler_is_a_torn_checkpoint(tiny_bases: dict[str, Path], tmp_path: Path) -> None:
    name = "pooler.self_attention_layers.0.mlp.fc1.weight"
    folder = change_weights(
        tiny_bases["vjepa2"], tmp_path / "copy", lambda tensors: tensors.pop(name)
    )
    with pytest.raises(WeightsMissingError, match=r"missing: pooler.*each module as a whole"):
        open_base(str(folder), ["x", "y"])


@pytest.mark.parametrize("model_type", NEW)
def test_weights_that_are_lost_or_strange_are_errors_on_every_architecture(
    tiny_bases: dict[str, Path], tmp_path: Path, model_type: str
) -> None:
    def lose(tensors: dict[str, torch.Tensor]) -> None:
        names = [name for name in tensors if name.startswith(model_type) and "bias" in name]
        del tensors[next(name for name in names if "predictor" not in name)]

    def add(tensors: dict[str, torch.Tensor]) -> None:
        tensors["decoder.something"] = torch.zeros(1)

    lost = change_weights(tiny_bases[model_type], tmp_path / "lost", lose)
    with pytest.raises(WeightsMissingError, match=rf"missing: {model_type}\."):
        open_base(str(lost), ["x", "y"])
    strange = change_weights(tiny_bases[model_type], tmp_path / "strange", add)
    with pytest.raises(WeightsUnexpectedError, match=r"unexpected: decoder\.something"):
        open_base(str(strange), ["x", "y"])


@pytest.mark.parametrize("model_type", NEW)
def test_a_preprocessor_for_another_size_is_refused(
    tiny_bases: dict[str, Path], tmp_path: Path, model_type: str
) -> None:
    folder = Path(shutil.copytree(tiny_bases[model_type], tmp_path / "copy"))
    [path] = folder.glob("*preprocessor_config.json")
    values = json.loads(path.read_text())
    path.write_text(json.dumps({**values, "crop_size": {"height": 48, "width": 32}}))
    with pytest.raises(BaseConfigError, match=r"crops to 48×32 pixels, and the model .* 32×32"):
        open_base(str(folder), ["x", "y"])


def test_a_model_type_of_another_kind_is_refused() -> None:
    with pytest.raises(UnsupportedArchitectureError, match=r"is a bert; supported: videomae, time"):
        architecture_of("bert")
    with pytest.raises(UnsupportedArchitectureError, match="the base is a None"):
        architecture_of(None, what="the base")


# Inspection -------------------------------------------------------------------------------------


@pytest.mark.parametrize("model_type", NEW)
def test_inspection_counts_what_an_adapter_then_has(
    tiny_bases: dict[str, Path], model_type: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = str(tiny_bases[model_type])
    found = survey(folder)
    assert {word: len(reach.layers) for word, reach in found.words.items()} == LAYERS_HIT[
        model_type
    ]
    for word in ("qkv", "all-linear"):
        base = open_base(folder, ["x", "y"])
        model = attach(
            base.model, LoraSettings(), layers=found.words[word].layers,
            head_modules=base.head_modules, base_id="tiny", revision=None,
        )  # fmt: skip
        assert count(model).lora == found.words[word].lora_parameters
        assert count(model).total == found.total_parameters + found.words[word].lora_parameters
    assert cli.run(["inspect", folder, "--targets", "q,fc"]) == 0
    printed = capsys.readouterr()
    assert f"{model_type} of 2 hidden layers, 4 frames of 32×32 pixels" in printed.out
    assert ("are one layer" in printed.err) == (model_type == "timesformer")


def test_the_page_of_target_words_says_what_is_counted() -> None:
    script = runpy.run_path(str(ROOT / "benchmarks" / "target_counts.py"))
    written = (ROOT / "docs" / "targets.md").read_text(encoding="utf-8")
    assert written == script["page"](), "type scripts/docs"
    # Counted another way: attached, at the published size.
    model = script["published_model"]("videomae")
    layers = resolve(model, ["q", "v"]).layers
    with torch.device("meta"):
        attached = attach(
            model, LoraSettings(), layers=layers, head_modules=("classifier", "fc_norm"),
            base_id="published", revision=None,
        )  # fmt: skip
    assert f"| `q`, `v` | {len(layers)} · {count(attached).lora:,} |" in written


# Training ---------------------------------------------------------------------------------------


class Clips(torch.utils.data.Dataset[Any]):
    """Clips of noise with their labels."""

    def __init__(self, contract: PixelContract, number: int) -> None:
        self._pixels = pixels(contract, number)

    def __len__(self) -> int:
        return len(self._pixels)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"pixel_values": self._pixels[index], "labels": index % 2}


class KeepGradients(TrainerCallback):
    """Copies what the first step is about to use."""

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.found = {
            name: parameter.grad.clone()
            for name, parameter in kwargs["model"].named_parameters()
            if parameter.grad is not None
        }


def gradients(
    folder: Path, out: Path, *, clips: int, batch_size: int, with_adapter: bool, **training: Any
) -> dict[str, torch.Tensor]:
    """What one step of training on so many clips accumulates, in batches of this size."""
    base = open_base(str(folder), ["x", "y"])
    model: PreTrainedModel | PeftModel = base.model
    if with_adapter:
        model = attach(
            base.model, LoraSettings(lora_dropout=0.0), layers=resolve(base.model, ["qkv"]).layers,
            head_modules=base.head_modules, base_id="tiny", revision=None,
        )  # fmt: skip
    steps = math.ceil(clips / batch_size)
    settings = settings_from(
        {"training": {"batch_size": batch_size, "gradient_accumulation_steps": steps, **training}},
        where="test",
    ).training
    arguments = training_arguments(settings, out, use_cpu=True)
    arguments.eval_strategy = "no"
    arguments.max_steps = 1
    arguments.max_grad_norm = 0.0  # clipped gradients of any scale look alike
    listening = KeepGradients()
    Trainer(
        model=model, args=arguments, train_dataset=Clips(base.contract, clips),
        data_collator=Collate(base.model.config.model_type), callbacks=[listening],
    ).train()  # fmt: skip
    return listening.found


@pytest.mark.parametrize("with_adapter", [False, True], ids=["full", "lora"])
@pytest.mark.parametrize("training", [{}, {"label_smoothing": 0.1}], ids=["plain", "smoothed"])
@pytest.mark.parametrize("model_type", LAYERS_HIT)
def test_accumulated_gradients_are_those_of_the_whole_batch(
    tiny_bases: dict[str, Path],
    tmp_path: Path,
    model_type: str,
    training: dict[str, Any],
    with_adapter: bool,
) -> None:
    whole, parts = (
        gradients(
            tiny_bases[model_type],
            tmp_path / str(size),
            clips=4,
            batch_size=size,
            with_adapter=with_adapter,
            **training,
        )
        for size in (4, 1)
    )
    assert whole.keys() == parts.keys()
    assert any("classifier" in name for name in whole)
    assert not any(ARCHITECTURES[model_type].is_uncalled(name) for name in whole)
    largest = max(float(tensor.abs().max()) for tensor in whole.values())
    for name, gradient in whole.items():
        torch.testing.assert_close(parts[name], gradient, rtol=1e-3, atol=1e-5 * largest)


@pytest.mark.parametrize("model_type", LAYERS_HIT)
def test_a_last_batch_that_is_smaller_weighs_less_where_the_loss_counts_clips(
    tiny_bases: dict[str, Path], tmp_path: Path, model_type: str
) -> None:
    whole, parts = (
        gradients(
            tiny_bases[model_type],
            tmp_path / str(size),
            clips=3,
            batch_size=size,
            with_adapter=False,
        )["classifier.weight"]
        for size in (3, 2)
    )
    difference = float((whole - parts).abs().max() / whole.abs().max())
    assert (difference < 1e-3) == ARCHITECTURES[model_type].loss_counts_clips


TRAINING = {"batch_size": 4, "epochs": 1, "learning_rate": 2e-2, "early_stopping_patience": 0}


@pytest.mark.parametrize(
    ("model_type", "headless"), [("timesformer", False), ("vivit", True), ("vjepa2", True)]
)
def test_from_clips_to_a_bundle_that_answers(
    tiny_bases: dict[str, Path],
    few_clips: Path,
    test_clips: list[Path],
    tmp_path: Path,
    model_type: str,
    headless: bool,
) -> None:
    folder = tiny_bases[model_type]
    if headless:
        folder = tiny_models.save(tiny_models.make(model_type, headless=True), tmp_path / "base")
    settings = settings_from(
        {
            "model": {"base": str(folder), "lora": {"target_modules": ["qkv", "fc"]}},
            "training": TRAINING,
        },
        where="test",
    )
    fit(settings, few_clips, tmp_path / "run")
    manifest = read_run_manifest(tmp_path / "run")
    assert len(manifest.targets) == LAYERS_HIT[model_type]["qkv"] + LAYERS_HIT[model_type]["fc"]
    # So short a training names one label for all of 8 clips; test_proof_architectures has others.
    shipped = merge_export(
        tmp_path / "run", tmp_path / "bundle", overrides=["proof.largest_share=1.0"]
    )
    assert shipped.certificate.passed
    assert shipped.certificate.liveness is not None
    recognisers = [load(tmp_path / "run"), load(tmp_path / "bundle", backend="torch"),
                   load(tmp_path / "bundle", backend="onnxruntime")]  # fmt: skip
    for clip in test_clips[:2]:
        answers = [recogniser.classify(str(clip)) for recogniser in recognisers]
        assert len({answer.label for answer in answers}) == 1
        scores = [answer.score for answer in answers]
        assert max(scores) - min(scores) < 1e-4


def test_full_fine_tuning_of_vjepa2_leaves_the_predictor_alone(
    tiny_bases: dict[str, Path], few_clips: Path, tmp_path: Path
) -> None:
    settings = settings_from(
        {"model": {"base": str(tiny_bases["vjepa2"]), "use_lora": False}, "training": TRAINING},
        where="test",
    )
    fit(settings, few_clips, tmp_path / "run")
    manifest = read_run_manifest(tmp_path / "run")
    before = open_base(str(tiny_bases["vjepa2"]), manifest.labels).model
    after = open_run(tmp_path / "run").model
    old, new = before.state_dict(), after.state_dict()
    predictor = {name for name in old if name.startswith("vjepa2.predictor.")}
    assert predictor
    changed = {name for name in old if not torch.equal(old[name], new[name])}
    assert not changed & predictor
    assert "vjepa2.encoder.layer.0.attention.query.weight" in changed
    trainable = sum(tensor.numel() for name, tensor in old.items() if name not in predictor)
    assert manifest.parameters["trainable"] == trainable
