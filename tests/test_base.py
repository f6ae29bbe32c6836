"""Opening bases: every age of checkpoint, the rule for the head, other keys refused."""

import json
import os
import select
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForVideoClassification

from lora_deploy.errors import (
    BaseConfigError,
    BaseNotFoundError,
    BaseNotHereError,
    CheckpointError,
    NotVideoMaeError,
    UnsafeCheckpointError,
    UnsupportedArchitectureError,
    WeightShapeError,
    WeightsMissingError,
    WeightsUnexpectedError,
)
from lora_deploy.model.base import from_config, open_base


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


def original_form(reference: Path, name: str, folder: Path) -> Path:
    """The checkpoint in the original naming, with the configuration that the published one has."""
    for beside in ("config.json", "preprocessor_config.json"):
        shutil.copy(reference / name / "published" / beside, folder / beside)
    return Path(shutil.copy(reference / name / "checkpoint.pth", folder / "checkpoint.pth"))


@pytest.mark.parametrize("name", ["mcg_finetuned", "mcg_module_prefix"])
def test_a_checkpoint_of_the_original_code_answers_as_that_code(
    reference: Path, tmp_path: Path, name: str
) -> None:
    path = original_form(reference, name, tmp_path)
    expected = np.load(reference / name / "expected.npz")
    labels = list(json.loads((tmp_path / "config.json").read_text())["id2label"].values())
    base = open_base(str(path), labels)
    with torch.no_grad():
        logits = base.model(torch.tensor(expected["pixel_values"])).logits.numpy()
    np.testing.assert_allclose(logits, expected["logits"], atol=2e-5)
    assert base.head_modules == ("classifier",)
    published = open_base(str(reference / name / "published"), labels)
    assert base.fingerprint == published.fingerprint  # the form of the file is no part of it
    assert base.contract == published.contract
    assert base.licence is None


def test_a_masked_autoencoder_of_the_original_code_opens_as_the_published_one(
    reference: Path, tmp_path: Path
) -> None:
    path = original_form(reference, "mcg_pretraining", tmp_path)
    base = open_base(str(path), ["a", "b"])
    published = open_base(str(reference / "mcg_pretraining" / "published"), ["a", "b"])
    assert base.head_modules == published.head_modules == ("classifier", "fc_norm")
    assert base.fingerprint == published.fingerprint


def test_a_checkpoint_for_other_labels_gets_a_new_classifier(
    reference: Path, tmp_path: Path
) -> None:
    path = original_form(reference, "mcg_finetuned", tmp_path)
    base = open_base(str(path), ["a", "b", "c"])
    assert base.model.get_parameter("classifier.weight").shape[0] == 3
    assert base.head_modules == ("classifier",)


def test_the_published_sizes_need_no_configuration(tmp_path: Path) -> None:
    width = 384
    shapes = {
        "patch_embed.proj.weight": (width, 3, 2, 16, 16), "patch_embed.proj.bias": (width,),
        "fc_norm.weight": (width,), "fc_norm.bias": (width,), "head.weight": (4, width),
        "head.bias": (4,), "blocks.0.norm1.weight": (width,), "blocks.0.norm1.bias": (width,),
        "blocks.0.attn.q_bias": (width,), "blocks.0.attn.v_bias": (width,),
        "blocks.0.attn.qkv.weight": (3 * width, width), "blocks.0.attn.proj.weight": (width, width),
        "blocks.0.attn.proj.bias": (width,), "blocks.0.norm2.weight": (width,),
        "blocks.0.norm2.bias": (width,), "blocks.0.mlp.fc1.weight": (4 * width, width),
        "blocks.0.mlp.fc1.bias": (4 * width,), "blocks.0.mlp.fc2.weight": (width, 4 * width),
        "blocks.0.mlp.fc2.bias": (width,),
    }  # fmt: skip
    state = {name: torch.zeros(shape) for name, shape in shapes.items()}
    torch.save({"model": state}, tmp_path / "small.pth")
    base = open_base(str(tmp_path / "small.pth"), ["a", "b"])
    config = base.model.config
    assert (config.num_attention_heads, config.num_hidden_layers) == (6, 1)
    assert base.contract.pixel_values_shape == (16, 3, 224, 224)

    del state["blocks.0.attn.q_bias"], state["blocks.0.mlp.fc1.bias"]
    torch.save({"model": {**state, "blocks.0.gamma_1": torch.zeros(1)}}, tmp_path / "torn.pth")
    with pytest.raises(WeightsMissingError, match=r"intermediate\.dense\.bias.*blocks\.0\.gamma_1"):
        open_base(str(tmp_path / "torn.pth"), ["a", "b"])


def test_what_is_no_checkpoint_is_refused_and_never_run(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (os.system, (f"touch {tmp_path / 'trapped'}",))

    torch.save({"model": Trap()}, tmp_path / "trap.pth")
    with pytest.raises(UnsafeCheckpointError, match="can't be read as plain tensors"):
        open_base(str(tmp_path / "trap.pth"), ["a", "b"])
    assert not (tmp_path / "trapped").exists()
    torch.save({"model": {"weight": torch.zeros(1)}}, tmp_path / "other.pth")
    with pytest.raises(NotVideoMaeError, match="is no VideoMAE checkpoint"):
        open_base(str(tmp_path / "other.pth"), ["a", "b"])
    (tmp_path / "weights.bin").touch()
    with pytest.raises(NotVideoMaeError, match="is a file; allowed is a checkpoint"):
        open_base(str(tmp_path / "weights.bin"), ["a", "b"])


def test_a_width_whose_heads_are_unknown_asks_for_its_configuration(
    reference: Path, tmp_path: Path
) -> None:
    shutil.copy(reference / "mcg_finetuned" / "checkpoint.pth", tmp_path / "alone.pth")
    with pytest.raises(BaseConfigError, match=r"is 48 wide.*put its config\.json"):
        open_base(str(tmp_path / "alone.pth"), ["a", "b"])


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


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        ("lost", WeightsMissingError),
        ("unknown", WeightsUnexpectedError),
        ("of another shape", WeightShapeError),
    ],
)
def test_weights_that_do_not_fit_are_named(
    tiny_base: Path, tmp_path: Path, fault: str, error: type[CheckpointError]
) -> None:
    folder = Path(shutil.copytree(tiny_base, tmp_path / "base"))
    tensors = load_file(folder / "model.safetensors")
    name = next(name for name in tensors if name.endswith("query.weight"))
    if fault == "lost":
        del tensors[name]
    elif fault == "of another shape":
        tensors[name] = torch.zeros(32, 16)
    else:
        name = "videomae.encoder.something"
        tensors[name] = torch.zeros(1)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(error, match=name.replace(".", r"\.")):
        open_base(str(folder), ["x", "y"])


def test_a_base_that_is_not_there_is_refused_with_what_is_allowed() -> None:
    with pytest.raises(
        BaseNotFoundError, match=r"'nowhere'; allowed: an embedded base \(videomae-nano\)"
    ):
        open_base("nowhere", ["x", "y"])


def test_another_architecture_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(UnsupportedArchitectureError, match="is a bert; supported: videomae"):
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


@pytest.mark.parametrize("offline", [True, False])
def test_offline_no_connection_is_attempted(offline: bool, few_clips: Path, tmp_path: Path) -> None:
    """A hub on loopback that counts who comes; without ``--offline`` somebody does."""
    with socket.create_server(("127.0.0.1", 0)) as hub:
        hub.settimeout(0)
        environment = {
            **os.environ,
            "HF_HOME": str(tmp_path),
            "HF_ENDPOINT": f"http://127.0.0.1:{hub.getsockname()[1]}",
        }
        for name in ("HF_HUB_CACHE", "HF_HUB_OFFLINE"):
            environment.pop(name, None)
        arguments = ["train", "--base", "somebody/tiny", "--data", str(few_clips)]
        arguments += ["--out", str(tmp_path / "run"), *(["--offline"] if offline else [])]
        command = [sys.executable, "-m", "lora_deploy", *arguments]
        with subprocess.Popen(
            command, env=environment, stderr=subprocess.PIPE, text=True
        ) as training:
            came = False
            while training.poll() is None and not came:
                came = bool(select.select([hub], [], [], 0.1)[0])
            if came:
                training.kill()
            assert training.stderr is not None
            said = training.stderr.read()
    assert came is not offline
    if offline:
        assert "the hub may not be asked now" in said
        assert "[BaseNotHereError]" in said


def test_offline_no_connection_is_tried(tmp_path: Path) -> None:
    script = (
        "import socket, sys\n"
        "from lora_deploy.errors import BaseNotHereError\n"
        "from lora_deploy.model.base import open_base\n"
        "tried = []\n"
        "def refuse(*where):\n"
        "    tried.append(where)\n"
        "    raise OSError('no network')\n"
        "socket.getaddrinfo = socket.socket.connect = refuse\n"
        "try:\n"
        "    open_base('somebody/tiny', ['x', 'y'], may_download=sys.argv[1] == 'online')\n"
        "except BaseNotHereError as error:\n"
        "    print(len(tried), error)\n"
    )
    environment = {**os.environ, "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "0"}
    environment.pop("HF_HUB_CACHE", None)

    def asked(how: str) -> tuple[int, str]:
        printed = subprocess.run(
            [sys.executable, "-c", script, how],
            env=environment, capture_output=True, text=True, check=True,
        ).stdout  # fmt: skip
        number, _, message = printed.partition(" ")
        return int(number), message

    attempts, message = asked("offline")
    assert attempts == 0
    assert "the hub may not be asked now; fetch it where there is a connection" in message
    attempts, message = asked("online")
    assert attempts > 0
    assert "can't be fetched" in message


def test_a_hub_id_that_is_not_here_names_its_revision() -> None:
    with pytest.raises(BaseNotHereError, match=r"'somebody/tiny' .* at revision abc not in"):
        open_base("somebody/tiny", ["x", "y"], revision="abc", may_download=False)


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (None, WeightsMissingError),
        (b"torn", UnsafeCheckpointError),
        (b"\xff" * 64, UnsafeCheckpointError),
    ],
)
def test_weights_that_can_not_be_read_are_named(
    tiny_base: Path, tmp_path: Path, content: bytes | None, error: type[CheckpointError]
) -> None:
    folder = Path(shutil.copytree(tiny_base, tmp_path / "base"))
    (folder / "model.safetensors").unlink()
    if content is not None:
        (folder / "model.safetensors").write_bytes(content)
    with pytest.raises(error, match="can't be opened"):
        open_base(str(folder), ["x", "y"])


def test_weights_that_would_run_code_are_refused(tiny_base: Path, tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (os.system, (f"touch {tmp_path / 'trapped'}",))

    folder = Path(shutil.copytree(tiny_base, tmp_path / "base"))
    (folder / "model.safetensors").unlink()
    torch.save({"videomae.trap": Trap()}, folder / "pytorch_model.bin")
    with pytest.raises(UnsafeCheckpointError, match="can't be opened"):
        open_base(str(folder), ["x", "y"])
    assert not (tmp_path / "trapped").exists()


@pytest.mark.parametrize("text", ["{", "[1]", "{}"])
def test_a_configuration_that_is_torn_is_named(
    tiny_base: Path, reference: Path, tmp_path: Path, text: str
) -> None:
    folder = Path(shutil.copytree(tiny_base, tmp_path / "base"))
    (folder / "config.json").write_text(text)
    with pytest.raises(BaseConfigError):
        open_base(str(folder), ["x", "y"])
    path = original_form(reference, "mcg_finetuned", tmp_path)
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(BaseConfigError):
        open_base(str(path), ["x", "y"])


def test_weights_of_videomae_are_not_put_into_another_architecture(
    reference: Path, tiny_bases: dict[str, Path], tmp_path: Path
) -> None:
    path = original_form(reference, "mcg_finetuned", tmp_path)
    shutil.copy(tiny_bases["vivit"] / "config.json", tmp_path / "config.json")
    with pytest.raises(BaseConfigError, match="is of a vivit, and the weights of a VideoMAE"):
        open_base(str(path), ["x", "y"])


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        ({"num_frames": "many"}, BaseConfigError, "num_frames|can't be opened"),
        ({"image_size": None}, BaseConfigError, "image_size|can't be opened"),
        ({"num_frames": 0}, BaseConfigError, "frames of its clips is 0: .* greater than 0"),
        ({"image_size": 100_000}, BaseConfigError, "image_size 100000; at most 8192"),
        ({"hidden_size": 33}, BaseConfigError, "no model can be built .* 33"),
    ],
)
def test_a_configuration_that_makes_no_model_is_named(
    tiny_base: Path, tmp_path: Path, change: dict[str, object], error: type[Exception], says: str
) -> None:
    folder = Path(shutil.copytree(tiny_base, tmp_path / "base"))
    values = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**values, **change}))
    with pytest.raises(error, match=says):
        open_base(str(folder), ["x", "y"])


def test_timesformer_over_space_alone_is_refused(
    tiny_bases: dict[str, Path], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(tiny_bases["timesformer"], tmp_path / "base"))
    values = json.loads((folder / "config.json").read_text())
    values["attention_type"] = "space_only"
    (folder / "config.json").write_text(json.dumps(values))
    with pytest.raises(UnsupportedArchitectureError, match="once a frame, not once a clip"):
        open_base(str(folder), ["x", "y"])
    with pytest.raises(UnsupportedArchitectureError, match="once a frame, not once a clip"):
        from_config(values)


@pytest.mark.parametrize(
    ("values", "error"),
    [
        ({"model_type": "vjepa2", "hidden_size": 31}, BaseConfigError),
        ({"model_type": "vivit", "image_size": "large"}, BaseConfigError),
        ({"model_type": "videomae", "patch_size": 0}, BaseConfigError),
        ({"hidden_size": 32}, UnsupportedArchitectureError),
    ],
)
def test_a_described_model_that_can_not_be_built_is_named(
    values: dict[str, object], error: type[Exception]
) -> None:
    with pytest.raises(error):
        from_config(values)


def test_the_fingerprint_is_the_same_however_the_weights_are_stored(
    tiny_base: Path, tmp_path: Path
) -> None:
    one = open_base(str(tiny_base), ["x", "y"])
    shards, pickled = tmp_path / "shards", tmp_path / "pickled"
    for folder in (shards, pickled):
        shutil.copytree(tiny_base, folder)
        (folder / "model.safetensors").unlink()
    model = AutoModelForVideoClassification.from_pretrained(tiny_base)
    model.save_pretrained(shards, max_shard_size="20KB")
    assert len(list(shards.glob("*.safetensors"))) > 2
    torch.save(load_file(tiny_base / "model.safetensors"), pickled / "pytorch_model.bin")
    for folder in (shards, pickled):
        assert open_base(str(folder), ["x", "y"]).fingerprint == one.fingerprint
