"""Opening bases: every age of checkpoint, the rule for the head, other keys refused."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from lora_deploy.errors import CheckpointError, ModelError
from lora_deploy.model.base import open_base


@pytest.mark.parametrize("name", ["mcg_finetuned", "mcg_module_prefix"])
def test_a_published_checkpoint_answers_as_the_original_code(reference: Path, name: str) -> None:
    folder = reference / name / "published"
    expected = np.load(reference / name / "expected.npz")
    labels = list(json.loads((folder / "config.json").read_text())["id2label"].values())
    base = open_base(str(folder), labels)
    with torch.no_grad():
        logits = base.model(torch.tensor(expected["pixel_values"])).logits.numpy()
    np.testing.assert_allclose(logits, expected["logits"], atol=2e-5)


def test_a_masked_autoencoder_gets_a_fresh_head_and_loses_its_decoder(reference: Path) -> None:
    folder = reference / "mcg_pretraining" / "published"
    expected = np.load(reference / "mcg_pretraining" / "expected.npz")
    base = open_base(str(folder), ["a", "b"])
    assert base.head_modules == ("classifier", "fc_norm")
    pooled = []
    base.model.get_submodule("fc_norm").register_forward_hook(lambda *call: pooled.append(call[2]))
    with torch.no_grad():
        base.model(torch.tensor(expected["pixel_values"]))
    np.testing.assert_allclose(pooled[0].numpy(), expected["pooled"], atol=2e-5)


def test_other_labels_start_a_new_classifier_even_if_their_number_is_the_same(
    tiny_base: Path,
) -> None:
    same = open_base(str(tiny_base), ["LABEL_0", "LABEL_1"])
    other = open_base(str(tiny_base), ["x", "y"])
    kept, fresh = (base.model.get_parameter("classifier.weight") for base in (same, other))
    assert not torch.equal(kept, fresh)
    assert same.fingerprint == other.fingerprint  # the head is no part of it


def test_the_seed_decides_the_new_classifier(tiny_base: Path) -> None:
    weights = [
        open_base(str(tiny_base), ["x", "y"], seed=seed).model.get_parameter("classifier.weight")
        for seed in (1, 1, 2)
    ]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_the_fingerprint_sees_one_changed_number(tiny_base: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_base, tmp_path / "base"))
    tensors = load_file(folder / "model.safetensors")
    name = next(name for name in tensors if name.endswith("query.weight"))
    tensors[name][0, 0] += 1e-3
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    one, other = (open_base(str(path), ["x", "y"]) for path in (tiny_base, folder))
    assert one.fingerprint != other.fingerprint


@pytest.mark.parametrize("fault", ["lost", "unknown"])
def test_missing_and_unexpected_weights_are_listed(
    tiny_base: Path, tmp_path: Path, fault: str
) -> None:
    folder = Path(shutil.copytree(tiny_base, tmp_path / "base"))
    tensors = load_file(folder / "model.safetensors")
    name = next(name for name in tensors if name.endswith("query.weight"))
    if fault == "lost":
        del tensors[name]
    else:
        name = "videomae.encoder.something"
        tensors[name] = torch.zeros(1)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=name.replace(".", r"\.")):
        open_base(str(folder), ["x", "y"])


def test_a_base_that_is_not_there_is_refused_with_what_is_allowed() -> None:
    with pytest.raises(ModelError, match=r"'nowhere'; allowed: an embedded base \(videomae-nano\)"):
        open_base("nowhere", ["x", "y"])


def test_another_architecture_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(ModelError, match="is a bert; supported: videomae"):
        open_base(str(tmp_path), ["x", "y"])


def test_the_contract_and_the_licence_come_from_the_base(tiny_base: Path) -> None:
    base = open_base(str(tiny_base), ["x", "y"])
    assert base.contract.pixel_values_shape == (4, 3, 32, 32)
    assert base.licence == "apache-2.0"
    assert base.base_id == str(tiny_base)


def test_the_embedded_base_opens_by_name_and_is_small() -> None:
    base = open_base("videomae-nano", ["x", "y"])
    assert base.base_id == "videomae-nano"
    assert base.licence == "apache-2.0"
    size = sum(tensor.numel() * 4 for tensor in base.model.state_dict().values())
    assert size <= 8_000_000


def test_a_hub_id_is_opened_at_its_revision_from_the_local_cache(
    tiny_base: Path, tmp_path: Path
) -> None:
    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = tmp_path / "hub" / "models--somebody--tiny"
    shutil.copytree(tiny_base, repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    script = (
        "from lora_deploy.model.base import open_base\n"
        "base = open_base('somebody/tiny', ['x', 'y'], may_download=False)\n"
        "print(base.base_id, base.revision, base.contract.short_side, base.fingerprint)\n"
    )
    environment = {**os.environ, "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    environment.pop("HF_HUB_CACHE", None)
    printed = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True
    ).stdout.split()
    fingerprint = open_base(str(tiny_base), ["x", "y"]).fingerprint
    assert printed == ["somebody/tiny", commit, "32", fingerprint]
