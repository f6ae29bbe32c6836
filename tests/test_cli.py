"""The command line: exit codes, one clear line for a mistake, stdout for results alone."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from lora_deploy import cli
from lora_deploy.config import recipe_names, recipe_path


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["--help"]) == 0
    text = capsys.readouterr().out
    for command in ("quickstart", "train", "evaluate", "merge-export", "classify", "config"):
        assert command in text


def test_version_names_the_packages_that_matter(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["--version"]) == 0
    text = capsys.readouterr().out
    assert text.startswith("lora-deploy 0.")
    assert "torch 2." in text


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["train", "--data", "x", "--out", "y", "--set", "model.lora.rank=4"], "model.lora.r"),
        (["train", "--data", "x", "--out", "y", "--config", "nowhere.yaml"], "nowhere.yaml"),
        (["train", "--data", "x", "--out", "y", "--config", "nowhere"], "there are: config"),
        (["train", "--data", "/nowhere", "--out", "y"], "there is nothing at /nowhere"),
        (["train", "--out", "y"], "--data"),
        (["classify", "/nowhere", "x.mp4"], "/nowhere does not exist"),
        (["evaluate", "/nowhere", "--data", "x"], "/nowhere does not exist"),
        (["merge-export", "/nowhere", "--out", "y"], "/nowhere is no folder"),
        (["merge-export", "x", "--out", "y", "--to", "coreml"], "allowed: onnx"),
        (["merge-export", "x", "--out", "y", "--precision", "int4"], "allowed: fp32"),
        (["config", "nowhere"], "there are: config"),
        (["dance"], "dance"),
    ],
)
def test_a_mistake_is_one_clear_line_and_exit_code_2(
    arguments: list[str],
    words: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.run(arguments) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert words in printed.err
    assert "Traceback" not in printed.err
    assert list(tmp_path.iterdir()) == []


def test_a_fault_of_ours_is_told_as_such(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from lora_deploy.runtime import load as door

    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("on purpose")

    monkeypatch.setattr(door, "load", broken)
    assert cli.run(["classify", str(bundle), "x.mp4"]) == 3
    plain = capsys.readouterr().err
    assert "please report" in plain
    assert "Traceback" not in plain
    assert cli.run(["-v", "classify", str(bundle), "x.mp4"]) == 3
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize("name", recipe_names())
def test_config_prints_each_recipe_as_it_is(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["config", name]) == 0
    assert capsys.readouterr().out == recipe_path(name).read_text(encoding="utf-8")


def test_config_prints_effective_settings_and_checks_files(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(["config", "--list"]) == 0
    assert capsys.readouterr().out.split() == recipe_names()
    assert cli.run(["config", "lora_r4", "--set", "training.epochs=3"]) == 0
    values = yaml.safe_load(capsys.readouterr().out)
    assert (values["model"]["lora"]["r"], values["training"]["epochs"]) == (4, 3)
    (tmp_path / "my.yaml").write_text("training: {epoch: 3}")
    assert cli.run(["config", str(tmp_path / "my.yaml")]) == 2
    assert "the nearest is training.epochs" in capsys.readouterr().err


def test_training_prints_the_guides_lines_with_counted_figures(
    tiny_base: Path, few_clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [
        "train", "--data", str(few_clips), "--out", str(tmp_path / "run"),
        "--base", str(tiny_base), "--set", "training.epochs=1",
    ]  # fmt: skip
    assert cli.run(arguments) == 0
    printed = capsys.readouterr()
    for line in (
        "🎯 LoRA Configuration:",
        "   Rank (r): 8",
        "   Alpha: 16",
        "   Target modules: ['qkv']",
        "   Trainable params: 3,138 (9.64%)",
        "   Total params: 32,546",
    ):
        assert line in printed.err.splitlines(), printed.err
    assert "validation accuracy" in printed.out
    assert cli.run(["train", "--data", str(few_clips), "--out", str(tmp_path / "run")]) == 2
    assert "exists already" in capsys.readouterr().err


def test_json_is_the_only_thing_on_stdout(
    lora_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(["evaluate", str(lora_run), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["clips"] == 8


def interrupted(arguments: list[str], number: signal.Signals, when: str) -> tuple[int, str]:
    """Start the command, wait until it has printed ``when``, send the signal."""
    seen = []
    with subprocess.Popen(
        [sys.executable, "-m", "lora_deploy", *arguments],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    ) as process:
        assert process.stderr is not None
        for line in process.stderr:
            seen.append(line)
            if when in line:
                process.send_signal(number)
                break
        seen.append(process.stderr.read())
    return process.returncode, "".join(seen)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_training_leaves_the_best_epoch_so_far(
    tiny_base: Path, few_clips: Path, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    from lora_deploy.runtime.load import load

    out = tmp_path / "run"
    arguments = [
        "train", "--data", str(few_clips), "--out", str(out), "--base", str(tiny_base),
        "--set", "training.epochs=100000", "--set", "training.warmup_fraction=0", "--set", "training.early_stopping_patience=0",
    ]  # fmt: skip
    found, text = interrupted(arguments, number, "epoch 2/")
    assert found == code, text
    assert "Traceback" not in text
    assert not json.loads((out / "run.json").read_text())["finished"]
    assert load(out).labels == ("bend", "wave_two_hands")
    assert not (out / ".frames").exists()


def test_a_folder_named_like_a_recipe_is_not_in_the_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "quickstart").mkdir()  # as `scripts/quickstart` leaves it
    monkeypatch.chdir(tmp_path)
    assert cli.run(["config", "quickstart"]) == 0
    assert "videomae-nano" in capsys.readouterr().out
    arguments = ["train", "--config", "quickstart", "--data", "/nowhere", "--out", "y"]
    assert cli.run(arguments) == 2
    assert "there is nothing at /nowhere" in capsys.readouterr().err


def test_a_place_that_can_not_be_written_is_the_users_mistake(
    bundle: Path, lora_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("x")
    below_a_file = str(tmp_path / "file" / "inner")
    assert cli.run(["merge-export", str(lora_run), "--out", below_a_file]) == 2
    assert str(tmp_path / "file") in capsys.readouterr().err
    assert cli.run(["classify", str(bundle), "x.mp4", "--out", "/proc/rows.jsonl"]) == 2
    assert "/proc" in capsys.readouterr().err
