"""What strangers' RUNs, bundles, adapters and bases may hold: each gets an error with a name, none a wrong answer."""

import json
import resource
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from lora_deploy import cli
from lora_deploy.artifact.bundle import (
    read_bundle_manifest,
    record_files,
    write_bundle_manifest,
)
from lora_deploy.artifact.run import read_run_manifest, write_run_manifest
from lora_deploy.config import load_settings, settings_from
from lora_deploy.errors import (
    AdapterConfigError,
    AdapterShapeError,
    AnswersNotFiniteError,
    BaseConfigError,
    FileChangedError,
    HeadMissingError,
    HiddenAdapterError,
    KnownBadLibraryError,
    LabelsNotNamedError,
    ManifestError,
    ModelError,
    NotPlainLoraError,
    NotVideoMaeError,
    PixelsChangedError,
    ResumeMismatchError,
    WeightsMissingError,
)
from lora_deploy.model.base import open_base
from lora_deploy.runtime.load import load
from lora_deploy.runtime.ort import OnnxRuntimeBackend
from lora_deploy.train.fit import fit
from lora_deploy.versions import installed_versions
from tests.conftest import TINY_TRAINING
from tests.damage import edit_config, edit_tensors, vouch_again, without

LABELS = ("bend", "wave_two_hands")
ADAPTER = "best_model_lora_adapter"


@pytest.fixture
def adapter_copy(run_copy: Path) -> Path:
    """An adapter alone: no manifest vouches for its files."""
    return Path(shutil.copytree(run_copy / ADAPTER, run_copy.with_name("adapter")))


def edit_json(path: Path, **values: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def vouch_for_bundle(bundle: Path) -> None:
    manifest = read_bundle_manifest(bundle)
    write_bundle_manifest(bundle, manifest.model_copy(update={"files": record_files(bundle)}))


# Adapters ----------------------------------------------------------------------------------------


def test_another_module_that_was_saved_is_no_head(adapter_copy: Path) -> None:
    def rename(tensors: dict[str, torch.Tensor]) -> None:
        for name in [name for name in tensors if "classifier" in name]:
            tensors[name.replace("classifier", "elsewhere")] = tensors.pop(name)

    edit_tensors(adapter_copy, rename)
    with pytest.raises(HeadMissingError, match=r"classifier\.weight"):
        load(adapter_copy)


def test_a_fresh_pooler_that_was_not_saved_is_a_lost_head(
    tiny_bases: dict[str, Path], few_clips: Path, tmp_path: Path
) -> None:
    """An encoder of V-JEPA 2 has none: what peft's usual modules_to_save keep is not enough."""
    encoder = Path(shutil.copytree(tiny_bases["vjepa2"], tmp_path / "encoder"))
    path = encoder / "model.safetensors"
    tensors = load_file(path)
    save_file(
        {n: t for n, t in tensors.items() if not n.startswith(("pooler", "classifier"))}, path
    )
    settings = settings_from(
        {"model": {"base": str(encoder)}, "training": {**TINY_TRAINING, "epochs": 1}}, where="test"
    )
    fit(settings, few_clips, tmp_path / "run")
    adapter = tmp_path / "run" / ADAPTER
    load(adapter)
    edit_tensors(adapter, without(".pooler."))
    edit_config(adapter, modules_to_save=["classifier"])
    with pytest.raises(HeadMissingError, match=r"pooler\."):
        load(adapter)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"lora_alpha": 10**400}, AdapterConfigError),
        ({"r": 8.5}, AdapterConfigError),
        ({"r": True}, AdapterConfigError),
        ({"lora_dropout": 2}, AdapterConfigError),
        ({"target_modules": 5}, AdapterConfigError),
        ({"target_modules": [["q"]]}, AdapterConfigError),
        ({"modules_to_save": "classifier"}, AdapterConfigError),
        ({"modules_to_save": [1]}, AdapterConfigError),
        ({"peft_type": "IA3"}, NotPlainLoraError),
        ({"init_lora_weights": "pissa"}, NotPlainLoraError),
        ({"init_lora_weights": "olora"}, NotPlainLoraError),
    ],
)
def test_an_odd_configuration_is_refused_by_doctor_and_by_load(
    adapter_copy: Path, change: dict[str, object], error: type[Exception],
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    edit_config(adapter_copy, **change)
    with pytest.raises(error):
        load(adapter_copy)
    assert cli.run(["doctor", str(adapter_copy)]) == 1
    assert f"[{error.__name__}]" in capsys.readouterr().out


@pytest.mark.parametrize("beginning", [False, "gaussian"])
def test_how_a_and_b_began_is_no_matter(adapter_copy: Path, beginning: object) -> None:
    edit_config(adapter_copy, init_lora_weights=beginning)
    load(adapter_copy)


@pytest.mark.parametrize("text", ["[", "[" * 200_000, "[]", "5", "null"])
def test_a_torn_file_costs_a_finding_and_not_the_report(
    adapter_copy: Path, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("adapter_config.json", "labels.json"):
        kept = (adapter_copy / name).read_text()
        (adapter_copy / name).write_text(text)
        assert cli.run(["doctor", str(adapter_copy)]) == 1
        assert "Error]" in capsys.readouterr().out
        (adapter_copy / name).write_text(kept)
    assert cli.run(["doctor", str(adapter_copy)]) == 0


def test_an_adapter_of_a_huge_rank_takes_no_memory(adapter_copy: Path, tiny_base: Path) -> None:
    edit_config(adapter_copy, r=3_000_000)
    path = adapter_copy / "adapter_model.safetensors"
    save_file(load_file(path), path)  # without our record, which would name the rank first
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(AdapterShapeError, match="says r 3000000"):
        load(adapter_copy, base=str(tiny_base), labels=LABELS)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < before + 500_000  # KiB


def test_tensors_of_other_types_are_refused(adapter_copy: Path) -> None:
    def whole(tensors: dict[str, torch.Tensor]) -> None:
        name = next(name for name in tensors if "lora_A" in name)
        tensors[name] = tensors[name].to(torch.int8)

    edit_tensors(adapter_copy, whole)
    with pytest.raises(AdapterConfigError, match=r"torch\.int8"):
        load(adapter_copy)


@pytest.mark.parametrize("labels", ["a,a", "a,", "a"])
def test_labels_are_names_and_no_two_alike(
    adapter_copy: Path, tiny_base: Path, labels: str, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--base", str(tiny_base), "--labels", labels]
    assert cli.run(["doctor", str(adapter_copy), *options]) == 1
    assert f"[{LabelsNotNamedError.__name__}]" in capsys.readouterr().out


# RUNs --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_other_pixels_than_those_of_the_training_are_refused(
    run_copy: Path, full_run: Path, tmp_path: Path, kind: str
) -> None:
    run = run_copy if kind == "lora" else Path(shutil.copytree(full_run, tmp_path / "full"))
    manifest = read_run_manifest(run)
    other = manifest.contract.model_copy(update={"mean": (0.9, 0.1, 0.9)})
    write_run_manifest(run, manifest.model_copy(update={"contract": other}))
    with pytest.raises(PixelsChangedError, match="was trained on other pixels"):
        load(run)


@pytest.mark.parametrize(
    "weights", [{}, {"best_model.pth": "x"}, None], ids=["none", "one", "outside"]
)
def test_a_manifest_that_vouches_for_too_little_or_too_much_is_refused(
    run_copy: Path, weights: dict[str, str] | None
) -> None:
    manifest = read_run_manifest(run_copy)
    if weights is None:
        weights = {**manifest.weights, "../secret": "x"}
    write_run_manifest(run_copy, manifest.model_copy(update={"weights": weights}))
    with pytest.raises(
        ManifestError, match=r"does not vouch for|outside of its folder: \.\./secret"
    ):
        load(run_copy)


def test_weights_that_are_no_number_are_refused(full_run: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(full_run, tmp_path / "run"))
    content = torch.load(run / "best_model.pth", weights_only=True)
    content["state_dict"]["classifier.weight"][0, 0] = torch.nan
    torch.save(content, run / "best_model.pth")
    vouch_again(run)
    with pytest.raises(AnswersNotFiniteError, match=r"classifier\.weight"):
        load(run)


@pytest.mark.parametrize(
    "text", ["[" * 200_000, '{"schema_version": "9"}', '{"schema_version": -5}']
)
def test_an_odd_manifest_is_named(run_copy: Path, text: str) -> None:
    (run_copy / "run.json").write_text(text)
    with pytest.raises(ManifestError):
        load(run_copy)


@pytest.mark.parametrize("change", ["labels", "clips", "base", "weights"])
def test_a_finished_training_is_gone_on_with_only_where_it_is_the_same(
    run_copy: Path, tiny_base: Path, few_clips: Path, tmp_path: Path, change: str
) -> None:
    settings = load_settings(run_copy / "config.yaml")
    assert fit(settings, few_clips, run_copy, resume=True).finished
    data = tmp_path / "clips.csv"
    text = few_clips.read_text()
    if change == "labels":
        text = text.replace(",bend,", ",other,")
    elif change == "clips":
        text = "\n".join(line for line in text.splitlines() if "s0_mirror" not in line) + "\n"
    data.write_text(text)
    if change == "weights":
        (run_copy / "best_model.pth").write_bytes(b"junk")
    expected = FileChangedError if change == "weights" else ResumeMismatchError
    if change == "base":
        base = tiny_base / "model.safetensors"
        kept = base.read_bytes()
        tensors = load_file(base)
        tensors["videomae.encoder.layer.0.output.dense.bias"][0] += 1
        save_file(tensors, base, metadata={"format": "pt"})
    try:
        with pytest.raises(expected):
            fit(settings, data, run_copy, resume=True)
    finally:
        if change == "base":
            base.write_bytes(kept)


@pytest.mark.parametrize(
    ("field", "value"),
    [("model_type", ["videomae"]), ("model_type", None), ("hidden_act", "nope"), ("id2label", 5)],
)
def test_an_odd_configuration_of_a_full_model_is_named(
    full_run: Path, tmp_path: Path, field: str, value: object
) -> None:
    run = Path(shutil.copytree(full_run, tmp_path / "run"))
    values = read_run_manifest(run).model_config_values
    edit_json(run / "run.json", model_config_values={**values, field: value})
    with pytest.raises(ModelError):
        load(run)


# Bundles -----------------------------------------------------------------------------------------


def test_merged_weights_without_a_layer_are_refused(bundle_copy: Path) -> None:
    path = bundle_copy / "model" / "model.safetensors"
    tensors = {n: t for n, t in load_file(path).items() if "layer.1." not in n}
    save_file(tensors, path, metadata={"format": "pt"})
    vouch_for_bundle(bundle_copy)
    with pytest.raises(WeightsMissingError, match="missing keys"):
        load(bundle_copy, backend="torch")


def test_an_adapter_beside_weights_is_never_put_in_silently(
    bundle_copy: Path, lora_run: Path, tiny_base: Path, tmp_path: Path
) -> None:
    base = Path(shutil.copytree(tiny_base, tmp_path / "base"))
    for folder in (bundle_copy / "model", base):
        for name in ("adapter_config.json", "adapter_model.safetensors"):
            shutil.copy(lora_run / ADAPTER / name, folder / name)
    vouch_for_bundle(bundle_copy)
    with pytest.raises(HiddenAdapterError, match=r"adapter_config\.json"):
        load(bundle_copy, backend="torch")
    with pytest.raises(HiddenAdapterError, match=r"adapter_config\.json"):
        open_base(str(base), LABELS)


def test_no_form_is_opened_with_a_library_that_is_known_to_be_bad(
    bundle: Path, full_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    versions = {**installed_versions(), "transformers": "5.10.0"}
    monkeypatch.setattr("lora_deploy.known_bad.installed_versions", lambda: versions)
    with pytest.raises(KnownBadLibraryError):
        load(bundle, backend="torch")
    with pytest.raises(KnownBadLibraryError):
        load(full_run)


@pytest.mark.parametrize("name", ["../../elsewhere", "/elsewhere", "a/b"])
def test_an_adapter_outside_of_its_bundle_is_refused(bundle_copy: Path, name: str) -> None:
    manifest = read_bundle_manifest(bundle_copy)
    write_bundle_manifest(bundle_copy, manifest.model_copy(update={"adapters": (name,)}))
    with pytest.raises(ManifestError, match="outside of its folder"):
        load(bundle_copy)


def test_merged_weights_that_can_not_be_read_are_named(bundle_copy: Path) -> None:
    for name, content in (("model.safetensors", b"junk"), ("config.json", b"junk")):
        kept = (bundle_copy / "model" / name).read_bytes()
        (bundle_copy / "model" / name).write_bytes(content)
        vouch_for_bundle(bundle_copy)
        assert cli.run(["doctor", str(bundle_copy)]) == 1
        assert cli.run(["evaluate", str(bundle_copy), "--backend", "torch", "--data", "x"]) == 2
        (bundle_copy / "model" / name).write_bytes(kept)


def test_an_answer_that_is_no_number_becomes_no_label(
    bundle: Path, test_clips: list[Path], monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setattr(
        OnnxRuntimeBackend, "logits", lambda *_: np.array([[np.nan, 1.0]], np.float32)
    )
    assert cli.run(["classify", str(bundle), str(test_clips[0])]) == 1
    row = json.loads(capsys.readouterr().out)
    assert (row["label"], row["score"], row["top_k"]) == (None, None, [])
    assert row["error"]["kind"] == "no_answer"


# Bases -------------------------------------------------------------------------------------------


def test_a_card_in_another_encoding_is_no_obstacle(tiny_base: Path, tmp_path: Path) -> None:
    base = Path(shutil.copytree(tiny_base, tmp_path / "base"))
    (base / "README.md").write_bytes("---\nlicense: mit\n---\nGrüße".encode("latin-1"))
    assert open_base(str(base), LABELS).licence == "mit"


@pytest.mark.parametrize(
    "change", [{"hidden_size": 10**10}, {"num_hidden_layers": 10**6}, {"id2label": ["a", "b"]}]
)
def test_a_configuration_that_no_model_has_is_refused_at_once(
    tiny_base: Path, tmp_path: Path, change: dict[str, object]
) -> None:
    base = Path(shutil.copytree(tiny_base, tmp_path / "base"))
    edit_json(base / "config.json", **change)
    with pytest.raises(BaseConfigError):
        open_base(str(base), LABELS)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda s: s.update({"patch_embed.proj.weight": torch.zeros(4, 4)}),
        lambda s: s.update({"blocks.0.attn.qkv.weight": torch.zeros(2, 2)}),
        lambda s: s.update({"blocks.0.attn.qkv.weight": torch.tensor(1.0)}),
        lambda s: s.pop("blocks.0.mlp.fc1.weight"),
    ],
)
def test_a_checkpoint_of_odd_shapes_is_named(
    reference: Path, tmp_path: Path, spoil: Callable[[dict[str, torch.Tensor]], object]
) -> None:
    source = reference / "mcg_finetuned" / "checkpoint.pth"
    content = torch.load(source, weights_only=True)["model"]
    spoil(content)
    path = tmp_path / "checkpoint.pth"
    torch.save({"model": content}, path)
    with pytest.raises((NotVideoMaeError, BaseConfigError)):
        open_base(str(path), LABELS)
