"""``inspect``: what it says of a base before a training is what the training then finds."""

import json
import shutil
from pathlib import Path

import pytest
from transformers import VideoMAEConfig, VideoMAEForPreTraining

from lora_deploy import cli
from lora_deploy.artifact.run import read_run_manifest
from lora_deploy.config import LoraSettings
from lora_deploy.errors import ModelError, TargetError
from lora_deploy.model import locate as locate_module
from lora_deploy.model.adapter import attach, count
from lora_deploy.model.architectures import ARCHITECTURES
from lora_deploy.model.base import open_base
from lora_deploy.model.embedded import embedded_base
from lora_deploy.model.survey import survey
from lora_deploy.model.targets import resolve
from lora_deploy.model.weights import quiet_loading

ATTENTION = "videomae.encoder.layer.{}.attention.attention.{}"


@pytest.fixture(scope="module", params=["videomae-nano", "tiny", "masked autoencoder"])
def any_base(
    request: pytest.FixtureRequest, tiny_base: Path, tmp_path_factory: pytest.TempPathFactory
) -> str:
    """The embedded base, a classifier, and a base whose head has an ``fc_norm`` of its own."""
    if request.param == "videomae-nano":
        return "videomae-nano"
    if request.param == "tiny":
        return str(tiny_base)
    folder = tmp_path_factory.mktemp("masked-autoencoder")
    config = VideoMAEConfig(
        image_size=32, patch_size=8, num_frames=4, tubelet_size=2, hidden_size=32,
        num_hidden_layers=1, num_attention_heads=2, intermediate_size=64, decoder_hidden_size=16,
        decoder_num_hidden_layers=1, decoder_num_attention_heads=2, decoder_intermediate_size=32,
    )  # fmt: skip
    with quiet_loading():
        VideoMAEForPreTraining(config).save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("r", [8, 3])
def test_parameters_are_those_counted_once_an_adapter_is_attached(any_base: str, r: int) -> None:
    found = survey(any_base, r=r)
    assert list(found.words) == list(ARCHITECTURES["videomae"].words)
    assert found.together is None
    for word, reach in found.words.items():
        opened = open_base(any_base, ["x", "y"])
        assert reach.kinds == str(resolve(opened.model, [word]))
        adapted = attach(
            opened.model,
            LoraSettings(r=r),
            layers=resolve(opened.model, [word]).layers,
            head_modules=opened.head_modules,
            base_id=any_base,
            revision=None,
        )
        counted = count(adapted)
        assert reach.lora_parameters == counted.lora, word
        assert found.total_parameters + reach.lora_parameters == counted.total, word
        assert found.head_parameters == counted.head, word


def test_a_base_is_described_as_its_own_files_do() -> None:
    config = json.loads((embedded_base("videomae-nano") / "config.json").read_text())
    found = survey("videomae-nano")
    assert (found.base_id, found.architecture, found.revision) == (
        "videomae-nano", config["model_type"], None,
    )  # fmt: skip
    assert found.hidden_layers == config["num_hidden_layers"]
    assert found.contract.frames == config["num_frames"]
    assert found.contract.crop_height == found.contract.crop_width == config["image_size"]
    assert found.licence == "apache-2.0"
    # Its card counts a head of 56 labels, each with a weight per feature and a bias.
    assert found.base_parameters == 1_887_864 - 56 * (config["hidden_size"] + 1)


def test_words_that_overlap_are_told_apart_and_counted_together_once(tiny_base: Path) -> None:
    found = survey(str(tiny_base), targets=["q", "attention", r"layer\.0\.attention\..*"], r=2)
    assert {word: len(reach.layers) for word, reach in found.words.items()} == {
        "q": 2,
        "attention": 8,
        r"layer\.0\.attention\..*": 4,
    }
    assert found.words["q"].layers == tuple(ATTENTION.format(layer, "query") for layer in (0, 1))
    assert found.together == found.words["attention"]
    assert found.words["attention"].lora_parameters == 8 * 2 * (32 + 32)


def test_a_word_that_names_nothing_is_the_same_error_as_in_a_training(tiny_base: Path) -> None:
    with pytest.raises(TargetError, match=r"no layer of videomae is called w2; it knows the words"):
        survey(str(tiny_base), targets=["qkv", "w2"])


def test_of_a_run_its_base_is_inspected_with_as_many_labels(lora_run: Path) -> None:
    manifest = read_run_manifest(lora_run)
    found = survey(str(lora_run), targets=["qkv"])
    assert found.base_id == manifest.base.id
    assert found.labels == len(manifest.labels)
    assert found.together is not None
    assert found.together.layers == manifest.targets
    assert found.together.lora_parameters == manifest.parameters["lora"]
    assert found.total_parameters == manifest.parameters["total"] - manifest.parameters["lora"]


def test_a_run_with_many_labels_has_a_larger_head(lora_run: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(lora_run, tmp_path / "run"))
    values = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps({**values, "labels": [f"l{n}" for n in range(5)]}))
    found = survey(str(run))
    assert (found.labels, found.head_parameters) == (5, 5 * (32 + 1))
    assert found.base_parameters == survey(str(lora_run)).base_parameters


def test_of_a_bundle_its_base_is_inspected(bundle: Path, lora_run: Path) -> None:
    assert survey(str(bundle)) == survey(str(lora_run))


@pytest.mark.parametrize("of_a_run", [False, True])
def test_nothing_is_downloaded(
    of_a_run: bool, lora_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def snapshot(hub_id: str, *, revision: str | None, local_files_only: bool, **_: object) -> str:
        asked.append((hub_id, revision, local_files_only))
        raise OSError("not in the cache")

    monkeypatch.setattr(locate_module, "snapshot_download", snapshot)
    model = "somebody/some-base"
    if of_a_run:
        values = json.loads((lora_run / "run.json").read_text())
        values["base"] |= {"id": model, "revision": "abc"}
        (tmp_path / "run.json").write_text(json.dumps(values))
        model = str(tmp_path)
    with pytest.raises(ModelError, match=r"somebody/some-base.*may not be asked now; fetch it"):
        survey(model)
    assert asked == [("somebody/some-base", "abc" if of_a_run else None, True)]


def printed(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> list[str]:
    """The lines of a command that must succeed, with single spaces."""
    assert cli.run(arguments) == 0
    return [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]


def test_the_table_has_a_line_for_every_word(capsys: pytest.CaptureFixture[str]) -> None:
    lines = printed(["inspect", "videomae-nano"], capsys)
    assert lines[0] == (
        "videomae-nano: videomae of 4 hidden layers, 8 frames of 64×64 pixels, licence apache-2.0"
    )
    assert lines[1].startswith("1,877,442 parameters: 1,877,056 of the base, 386 of a head")
    assert "proj 4 12,288 4× attention.output.dense" in lines
    assert "fc 8 53,248 4× intermediate.dense, 4× output.dense" in lines
    for word in ARCHITECTURES["videomae"].words:
        assert sum(line.startswith(f"{word} ") for line in lines) == 1, word


def test_words_and_regular_expressions_are_parted_by_commas(
    tiny_base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = r"fc1, layer\.\d{1,2}\.attention\.attention\.(query|key),intermediate.dense"
    arguments = ["inspect", str(tiny_base), "--r", "4", "--targets", words]
    lines = printed(arguments, capsys)
    assert "fc1 2 768 2× intermediate.dense" in lines
    assert r"layer\.\d{1,2}\.attention\.attention\.(query|key) 4 1,024" in " ".join(lines)
    assert lines[lines.index("together 6 layers, 1,792 LoRA parameters:") + 1 :] == [
        *(ATTENTION.format(0, kind) for kind in ("query", "key")),
        "videomae.encoder.layer.0.intermediate.dense",
        *(ATTENTION.format(1, kind) for kind in ("query", "key")),
        "videomae.encoder.layer.1.intermediate.dense",
    ]


def test_json_says_all_of_it(tiny_base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["inspect", str(tiny_base), "--targets", "q,fc2", "--json"]) == 0
    values = json.loads(capsys.readouterr().out)
    found = survey(str(tiny_base), targets=["q", "fc2"])
    assert values == json.loads(json.dumps(found.as_dict()))
    assert values["contract"]["frames"] == 4
    assert values["r"] == 8
    assert values["total_parameters"] == found.total_parameters
    assert list(values["words"]) == ["q", "fc2"]
    assert len(values["together"]["layers"]) == 4


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--targets", "qkv,w2"], "no layer of videomae is called w2"),
        (["--targets", "layer.("], "not a regular expression"),
        (["--targets", "qkv,"], "has an empty word"),
        (["--targets", ""], "has an empty word"),
        (["--r", "0"], "1<=x<=1024"),
        (["--r", "1025"], "1<=x<=1024"),
    ],
)
def test_a_mistake_is_exit_code_2_and_nothing_on_stdout(
    options: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(["inspect", "videomae-nano", *options]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert words in err
    assert len(err.splitlines()) == 1 or "Usage:" in err
