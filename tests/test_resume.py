"""A training that was killed and went on leaves what one without an interruption leaves, bit for bit."""

import errno
import fcntl
import json
import os
import random
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from transformers import TrainerState

from lora_deploy import disk
from lora_deploy.artifact import run
from lora_deploy.config import Settings, settings_from
from lora_deploy.errors import DiskFullError, ResumeMismatchError, RunBusyError
from lora_deploy.runtime.load import load
from lora_deploy.train import checkpoints, state
from lora_deploy.train.changes import settings_differences
from lora_deploy.train.fit import fit
from lora_deploy.train.lock import LOCK, claimed
from tests.conftest import TINY_TRAINING
from tests.nursery import Nursery, Start
from tests.test_samples import EVERYTHING

EPOCHS = 6


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    """Starts trainings quickly."""
    running = Nursery()
    yield running
    running.close()


class Training:
    """One training, in one folder, in as many lives as it takes."""

    def __init__(self, nursery: Nursery, folder: Path, options: list[str]) -> None:
        self.nursery = nursery
        self.out = folder / "run"
        self.log = folder / "log"
        self._events = folder / "events"
        self.options = list(options)
        folder.mkdir(parents=True, exist_ok=True)

    def start(self, *more: str, **how: Any) -> int:
        """Begin a life; its process id."""
        return self.nursery.start(
            Start(
                arguments=["train", *self.options, "--out", str(self.out), *more],
                out=str(self.out),
                log=str(self.log),
                **how,
            )
        )

    def live(self, *more: str, **how: Any) -> int:
        """One whole life; its exit code."""
        return self.nursery.wait(self.start(*more, **how))

    def live_unbroken(self) -> tuple[int, int]:
        """One life from beginning to end; the numbers of its events before the first step and in all."""
        assert self.live(count_events_to=str(self._events)) == 0, self.text
        before, all_of_them = json.loads(self._events.read_text())
        return before, all_of_them

    def wait_for(self, words: str) -> None:
        """Until the training says so."""
        deadline = time.monotonic() + 120
        while words not in self.text:
            assert time.monotonic() < deadline, self.text
            time.sleep(0.005)

    @property
    def text(self) -> str:
        """All that was said."""
        return self.log.read_text() if self.log.exists() else ""

    @property
    def epoch_lines(self) -> list[str]:
        """Lines of the epochs in order; an epoch that was trained again must say the same again."""
        lines: dict[str, str] = {}
        for line in re.findall(r"^epoch \d+/.*", self.text, re.MULTILINE):
            number = line.split(":")[0]
            assert lines.setdefault(number, line) == line
        return list(lines.values())

    def result(self) -> dict[str, Any]:
        """All that must be the same, however often it was interrupted."""
        manifest = json.loads((self.out / run.MANIFEST).read_text())
        assert manifest["finished"] is True
        assert manifest.pop("training_seconds") >= manifest["best"].pop("training_seconds") > 0
        last = max((self.out / checkpoints.FOLDER).iterdir())
        return {
            "run.json": manifest,
            "adapter": (self.out / run.ADAPTER / "adapter_model.safetensors").read_bytes(),
            "best_model.pth": (self.out / run.CHECKPOINT).read_bytes(),
            "metrics": (self.out / run.METRICS).read_bytes(),
            "last": last.name,
            "optimizer": (last / "optimizer_state.pt").read_bytes(),
            "scheduler": (last / "scheduler_state.pt").read_bytes(),
            "random": (last / "random_state.pt").read_bytes(),
            "weights": (last / "weights.safetensors").read_bytes(),
            "epochs": self.epoch_lines,
        }


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def options(tiny_base: Path, few_clips: Path) -> list[str]:
    values = {
        "model.lora.lora_dropout": 0.1, "training.random_crop_padding": 0.125,
        "training.epochs": EPOCHS, "training.batch_size": 4, "training.learning_rate": 0.02,
    }  # fmt: skip
    settings = [word for key, value in values.items() for word in ("--set", f"{key}={value}")]
    return ["--data", str(few_clips), "--base", str(tiny_base), *settings]


@pytest.fixture
def training(nursery: Nursery, options: list[str], tmp_path: Path) -> Training:
    return Training(nursery, tmp_path / "broken", options)


@pytest.fixture(scope="module")
def unbroken(
    nursery: Nursery, options: list[str], tmp_path_factory: pytest.TempPathFactory
) -> tuple[dict[str, Any], int]:
    """The result of a training without an interruption, and the number of its events."""
    whole = Training(nursery, tmp_path_factory.mktemp("unbroken"), options)
    _, events = whole.live_unbroken()
    assert len(whole.epoch_lines) == EPOCHS
    return whole.result(), events


@pytest.mark.parametrize("workers", [0, 2])
def test_five_kills_change_nothing(
    nursery: Nursery,
    unbroken: tuple[dict[str, Any], int],
    training: Training,
    tmp_path: Path,
    workers: int,
) -> None:
    training.options += ["--set", f"training.workers={workers}"]
    whole = Training(nursery, tmp_path / "whole", training.options)
    first_step, events = whole.live_unbroken()
    result = whole.result()
    for name in (
        "adapter",
        "optimizer",
        "metrics",
        "epochs",
    ):  # the same with any number of workers
        assert result[name] == unbroken[0][name]
    # Each kill is before some change on the disk, or some step: the first one while the training
    # starts, the others when it has got an epoch further.
    chance = random.Random(workers)
    kills = [{"kill_at_event": chance.randrange(1, first_step)}]
    kills += [{"kill_at_event": chance.randrange(1, 2 * events // (3 * EPOCHS))} for _ in range(4)]
    for number, kill in enumerate(kills):
        more = ["--resume"] if number else []
        code = training.live(*more, counts_from_checkpoint=number > 0, **kill)
        assert code == -signal.SIGKILL, training.text
    assert training.live("--resume") == 0, training.text
    assert len(set(re.findall(r"going on after epoch \d+", training.text))) >= 3, training.text
    assert training.result() == result


@pytest.mark.parametrize(
    ("workers", "balance"),
    [(0, "training.balanced_sampling=true"), (2, "training.class_weights=balanced")],
)
def test_kills_in_the_middle_of_epochs_change_nothing_with_every_augmentation_on(
    nursery: Nursery,
    options: list[str],
    uneven_clips: Path,
    tmp_path: Path,
    workers: int,
    balance: str,
) -> None:
    options = ["--data", str(uneven_clips), *options[2:]]
    values = [f"augmentation.{key}={json.dumps(value)}" for key, value in EVERYTHING.items()]
    for value in [*values, balance, "training.label_smoothing=0.1", "training.epochs=4"]:
        options += ["--set", value]
    options += ["--set", f"training.workers={workers}"]
    whole = Training(nursery, tmp_path / "whole", options)
    whole.live_unbroken()
    broken = Training(nursery, tmp_path / "broken", options)
    # 11 clips in batches of 4 are 3 steps an epoch: in the 1st, before any checkpoint; in the 1st
    # again; in the 2nd; and in the 3rd of a life that began with the 2nd.
    for resume, step in (([], 2), (["--resume"], 3), (["--resume"], 5), (["--resume"], 6)):
        assert broken.live(*resume, kill_at_step=step) == -signal.SIGKILL, broken.text
    assert broken.live("--resume") == 0, broken.text
    assert re.findall(r"going on after epoch (\d+)", broken.text) == ["1", "2"]
    assert broken.result() == whole.result()


def test_the_data_may_have_moved(
    unbroken: tuple[dict[str, Any], int], training: Training, few_clips: Path, tmp_path: Path
) -> None:
    result, events = unbroken
    assert training.live(kill_at_event=events // 2) == -signal.SIGKILL
    rows = [line.split(",") for line in few_clips.read_text().splitlines()]
    for row in rows[1:]:
        moved = tmp_path / "moved" / row[1] / Path(row[0]).name
        moved.parent.mkdir(parents=True, exist_ok=True)
        row[0] = shutil.copyfile(row[0], moved).as_posix()
    (tmp_path / "moved.csv").write_text("\n".join(",".join(row) for row in rows) + "\n")
    training.options[1] = str(tmp_path / "moved.csv")
    assert training.live("--resume") == 0, training.text
    assert training.result() == result


@pytest.mark.parametrize("part", ["random", "optimizer", "weights"])
def test_without_one_part_of_the_state_other_weights_would_come_out(
    unbroken: tuple[dict[str, Any], int], training: Training, part: str
) -> None:
    result, events = unbroken
    assert training.live(kill_at_event=events // 2) == -signal.SIGKILL
    without = f"lora_deploy.train.state:put_back_{part}"
    assert training.live("--resume", without=without) == 0, training.text
    last = max((training.out / checkpoints.FOLDER).iterdir())
    assert (last / "weights.safetensors").read_bytes() != result["weights"]


def test_a_setting_that_did_not_exist_yet_had_its_default() -> None:
    now = Settings().model_dump(mode="json")
    then = {section: dict(values) for section, values in now.items() if section != "augmentation"}
    del then["training"]["class_weights"]
    assert settings_differences(then, now) == []
    now["augmentation"]["color_jitter"] = 0.5
    now["augmentation"]["mirrored_labels"] = {"a": "b"}
    now["training"]["class_weights"] = "balanced"
    assert settings_differences(then, now) == [
        "training.class_weights was none and is balanced",
        "augmentation.color_jitter was 0.0 and is 0.5",
        "augmentation.mirrored_labels.a was not there and is b",
    ]


# Signals and real processes ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("number", "code", "part"),
    [
        (signal.SIGTERM, 143, 0.02), (signal.SIGTERM, 143, 0.31), (signal.SIGTERM, 143, 0.72),
        (signal.SIGINT, 130, 0.47), (signal.SIGINT, 130, 0.95),
    ],
)  # fmt: skip
def test_an_interruption_leaves_nothing_half_and_says_how_to_go_on(
    unbroken: tuple[dict[str, Any], int],
    training: Training,
    number: signal.Signals,
    code: int,
    part: float,
) -> None:
    result, events = unbroken
    assert training.live(kill_at_event=int(part * events), signal=number) == code, training.text
    assert training.text.count("\nto go on: lora-deploy train --data ") == 1
    assert "Traceback" not in training.text
    assert not list(training.out.rglob(".*"))
    for path in (training.out / checkpoints.FOLDER).glob("*"):
        checkpoints.read(path)
    if run.is_run(training.out):
        manifest = run.read_run_manifest(training.out)
        for name in manifest.weights:
            run.verify_weights(training.out, manifest, name)
    assert training.live("--resume") == 0, training.text
    assert training.result() == result


def test_a_termination_waits_until_the_checkpoint_is_whole(training: Training) -> None:
    assert training.live(terminate_in_checkpoint=3) == 143, training.text
    found = checkpoints.newest_whole(training.out)
    assert found is not None
    assert found[1].epoch == 3
    assert "epoch 4/" not in training.text


def test_real_processes_killed_terminated_and_gone_on_as_they_said(
    unbroken: tuple[dict[str, Any], int], training: Training
) -> None:
    def start(*words: str) -> subprocess.Popen[bytes]:
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", "lora_deploy", *words]
        with training.log.open("ab") as log:
            return subprocess.Popen(command, stdout=log, stderr=log, env=environment)

    arguments = ["train", *training.options, "--out", str(training.out)]
    with start(*arguments) as life:
        training.wait_for("epoch 2/")
        life.kill()
    with start(*arguments, "--resume") as life:
        training.wait_for("going on after epoch")
        training.wait_for("epoch 3/")
        life.terminate()
        assert life.wait() == 143, training.text
    [line] = re.findall(r"^to go on: lora-deploy (.*)$", training.text, re.MULTILINE)
    with start(*shlex.split(line)) as life:
        assert life.wait() == 0, training.text
    assert training.result() == unbroken[0]


# Where to go on from ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def interrupted_once(
    nursery: Nursery,
    options: list[str],
    unbroken: tuple[dict[str, Any], int],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """A RUN that was killed after its fourth epoch. Tests must not change it."""
    training = Training(nursery, tmp_path_factory.mktemp("interrupted"), options)
    assert training.live(kill_after_checkpoint=4) == -signal.SIGKILL, training.text
    return training.out


@pytest.fixture(scope="module")
def interrupted_log(interrupted_once: Path) -> str:
    """What it said until then."""
    return (interrupted_once.parent / "log").read_text()


@pytest.fixture
def interrupted(interrupted_once: Path, training: Training) -> Path:
    """A copy of it, where ``training`` goes on."""
    return Path(shutil.copytree(interrupted_once, training.out))


def damage(path: Path, how: str) -> None:
    content = bytearray(path.read_bytes())
    if how == "missing":
        path.unlink()
    elif how == "torn":
        path.write_bytes(content[: len(content) // 2])
    else:
        place = random.Random(path.name).randrange(len(content))
        content[place] ^= 1
        path.write_bytes(content)


FILES = (
    "checkpoint.json", "weights.safetensors", "optimizer_state.pt", "scheduler_state.pt",
    "random_state.pt", "trainer_state.json", "metrics.jsonl",
)  # fmt: skip


@pytest.mark.parametrize("how", ["missing", "torn", "flipped"])
def test_a_checkpoint_that_is_not_whole_is_passed_over_aloud(
    interrupted: Path, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    newest = interrupted / checkpoints.FOLDER / "epoch-00004"
    assert sorted(path.name for path in newest.iterdir()) == sorted(FILES)
    for name in FILES:
        whole = (newest / name).read_bytes()
        damage(newest / name, how)
        caplog.clear()
        found = checkpoints.newest_whole(interrupted)
        assert found is not None
        assert found[0].name == "epoch-00003"
        [message] = caplog.messages
        assert str(newest) in message
        assert name in message
        (newest / name).write_bytes(whole)
    found = checkpoints.newest_whole(interrupted)
    assert found is not None
    assert found[1].epoch == 4


@pytest.mark.parametrize(
    ("name", "how"),
    [("random_state.pt", "missing"), ("optimizer_state.pt", "torn")],
)
def test_going_on_from_the_checkpoint_before_changes_nothing(
    unbroken: tuple[dict[str, Any], int],
    interrupted: Path,
    training: Training,
    interrupted_log: str,
    name: str,
    how: str,
) -> None:
    damage(interrupted / checkpoints.FOLDER / "epoch-00004" / name, how)
    training.log.write_text(interrupted_log)
    assert training.live("--resume") == 0, training.text
    assert "warning: passed over: the checkpoint " in training.text
    assert "going on after epoch 3" in training.text
    assert training.result() == unbroken[0]


def test_without_one_whole_checkpoint_nothing_is_trained_and_nothing_touched(
    interrupted: Path, training: Training
) -> None:
    damage(interrupted / checkpoints.FOLDER / "epoch-00004" / "random_state.pt", "missing")
    damage(interrupted / checkpoints.FOLDER / "epoch-00003" / "optimizer_state.pt", "flipped")
    before = snapshot(interrupted)
    assert training.live("--resume") == 2
    del before[str(interrupted / LOCK)]
    assert snapshot(interrupted) == before
    error = training.text.splitlines()[-1]
    assert error.endswith("[NothingToResumeError]")
    assert "epoch-00004: random_state.pt is missing" in error
    assert "epoch-00003: optimizer_state.pt is torn or was changed" in error


def test_a_run_that_lost_all_its_checkpoints_is_not_begun_anew_over_its_best_model(
    interrupted: Path, training: Training
) -> None:
    shutil.rmtree(interrupted / checkpoints.FOLDER)
    assert training.live("--resume") == 2
    assert "holds no checkpoint at all, and its best model is of epoch" in training.text


def test_a_folder_of_something_else_is_not_gone_on_with(training: Training) -> None:
    training.out.mkdir()
    (training.out / "letter.txt").write_text("Dear")
    assert training.live("--resume") == 2
    assert "is no folder of a training" in training.text
    assert [path.name for path in training.out.iterdir()] == ["letter.txt"]


@pytest.mark.parametrize("resumed", [True, False])
def test_killed_before_the_first_frame_was_decoded_it_starts_from_the_beginning(
    unbroken: tuple[dict[str, Any], int], training: Training, resumed: bool
) -> None:
    assert training.live(kill_in="lora_deploy.train.frames:frames_digest") == -signal.SIGKILL
    assert sorted(path.name for path in training.out.iterdir()) == [".frames", ".lock"]
    assert training.live(*(["--resume"] if resumed else [])) == 0, training.text
    assert ("starting from the beginning" in training.text) == resumed
    assert training.result() == unbroken[0]


def test_killed_in_its_first_epoch_it_starts_from_the_beginning(
    unbroken: tuple[dict[str, Any], int], training: Training
) -> None:
    assert training.live(kill_in="lora_deploy.train.checkpoints:write") == -signal.SIGKILL
    assert run.read_run_manifest(training.out).best.epoch == 1
    assert training.live() == 2
    assert "interrupted: the same command with --resume goes on" in training.text
    assert training.live("--resume") == 0, training.text
    assert "starting from the beginning" in training.text
    assert training.result() == unbroken[0]


def test_killed_after_its_last_epoch_it_trains_no_further(
    nursery: Nursery, training: Training, tmp_path: Path
) -> None:
    training.options += ["--set", "training.early_stopping_patience=1"]
    whole = Training(nursery, tmp_path / "whole", training.options)
    assert whole.live() == 0
    assert 1 < len(whole.epoch_lines) < EPOCHS
    assert "stopped early" in whole.text
    assert training.live(kill_in="lora_deploy.train.report:write_report") == -signal.SIGKILL
    assert not run.read_run_manifest(training.out).finished
    assert training.live("--resume") == 0, training.text
    assert training.text.count("epoch ") == whole.text.count("epoch ") + 1  # going on after epoch …
    assert (training.out / run.REPORT).is_file()
    assert training.result() == whole.result()


def test_early_stopping_counts_from_the_best_epoch_before_the_kill(
    nursery: Nursery, training: Training, tmp_path: Path
) -> None:
    training.options += ["--set", "training.early_stopping_patience=2"]
    whole = Training(nursery, tmp_path / "whole", training.options)
    assert whole.live() == 0
    last = len(whole.epoch_lines)
    assert last < EPOCHS
    assert training.live(kill_after_checkpoint=last - 1) == -signal.SIGKILL
    assert training.live("--resume") == 0, training.text
    assert training.result() == whole.result()


def test_what_a_killed_training_left_half_done_is_taken_away(
    unbroken: tuple[dict[str, Any], int],
    interrupted: Path,
    training: Training,
    interrupted_log: str,
) -> None:
    for name in (
        ".update.abc.partial", "checkpoints/.epoch-00001.partial",
    ):  # fmt: skip
        (interrupted / name).mkdir()
        (interrupted / name / "half").write_text("x")
    (interrupted / ".run.json.abc.partial").write_text("x")
    training.log.write_text(interrupted_log)
    assert training.live("--resume") == 0, training.text
    assert not list(training.out.rglob(".*"))
    assert training.result() == unbroken[0]


def test_tensorboard_shows_each_epoch_once(training: Training) -> None:
    from tensorboard.backend.event_processing import (  # type: ignore[import-untyped]
        event_accumulator,
    )

    assert training.live(kill_in="lora_deploy.train.checkpoints:write") == -signal.SIGKILL
    assert training.live("--resume", kill_after_checkpoint=2) == -signal.SIGKILL
    damage(training.out / checkpoints.FOLDER / "epoch-00002" / "random_state.pt", "missing")
    assert training.live("--resume") == 0, training.text
    events = event_accumulator.EventAccumulator(str(training.out / "tensorboard")).Reload()
    steps = [event.step for event in events.Scalars("eval/accuracy")]
    assert steps == [3 * epoch for epoch in range(1, EPOCHS + 1)]


def test_frames_that_were_damaged_since_are_decoded_again(
    unbroken: tuple[dict[str, Any], int], training: Training
) -> None:
    assert training.live(kill_after_checkpoint=2) == -signal.SIGKILL
    [frames] = (training.out / ".frames").glob("*.npy")
    damage(frames, "flipped")
    assert training.live("--resume") == 0, training.text
    assert training.result() == unbroken[0]


def test_a_finished_run_stays_as_it_is(training: Training) -> None:
    training.options += ["--set", "training.epochs=1"]
    assert training.live() == 0, training.text
    before = snapshot(training.out)
    assert training.live("--resume") == 0
    assert "is finished already" in training.text
    assert training.live("--resume", "--set", "training.epochs=2") == 2
    assert "training.epochs was 1 and is 2" in training.text
    assert training.live() == 2
    assert "--resume" not in training.text.splitlines()[-1]
    assert snapshot(training.out) == before


def test_as_many_checkpoints_stay_as_were_asked_for(training: Training) -> None:
    training.options += ["--set", "training.keep_checkpoints=3"]
    assert training.live(kill_after_checkpoint=2) == -signal.SIGKILL
    assert training.live("--resume", "--set", "training.keep_checkpoints=1") == 0, training.text
    assert [path.name for path in (training.out / checkpoints.FOLDER).iterdir()] == [
        f"epoch-{EPOCHS:05}"
    ]


# What must be the same ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda rows: rows[1:], "clips.train was 12 clips"),
        (lambda rows: [rows[1], rows[0], *rows[2:]], "clips.train was 12 clips"),
        (
            lambda rows: [[row[0], row[1].replace("bend", "bow"), *row[2:]] for row in rows],
            "labels was ['bend', 'wave_two_hands'] and is ['bow', 'wave_two_hands']",
        ),
    ],
)
def test_other_clips_are_refused(
    interrupted: Path,
    training: Training,
    few_clips: Path,
    tmp_path: Path,
    change: Callable[[list[list[str]]], list[list[str]]],
    words: str,
) -> None:
    head, *lines = few_clips.read_text().splitlines()
    rows = change([line.split(",") for line in lines])
    training.options[1] = str(tmp_path / "other.csv")
    (tmp_path / "other.csv").write_text("\n".join([head, *(",".join(row) for row in rows)]) + "\n")
    assert_refused(training, words)


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("training.epochs=9", "training.epochs was 6 and is 9 (the course of the learning rate"),
        ("training.seed=1", "training.seed was 0 and is 1"),
        ("model.lora.r=4", "model.lora.r was 8 and is 4"),
    ],
)
def test_other_settings_are_refused(
    interrupted: Path, training: Training, setting: str, words: str
) -> None:
    assert_refused(training, words, "--set", setting)


def test_another_base_is_refused(interrupted: Path, training: Training) -> None:
    assert_refused(training, "model.base was", "--base", "videomae-nano")


def test_a_video_that_was_changed_is_refused(
    interrupted: Path, training: Training, few_clips: Path, tmp_path: Path
) -> None:
    head, first, *lines = few_clips.read_text().splitlines()
    path = Path(first.split(",")[0])
    other = path.parents[1] / "wave_two_hands" / path.name
    changed = shutil.copyfile(other, tmp_path / path.name)
    training.options[1] = str(tmp_path / "other.csv")
    rows = [head, first.replace(str(path), str(changed)), *lines]
    (tmp_path / "other.csv").write_text("\n".join(rows) + "\n")
    assert_refused(training, "the decoded frames are not those")


def test_another_base_under_the_same_name_is_refused(
    interrupted: Path, training: Training, tiny_base: Path, tmp_path: Path
) -> None:
    manifests = [path / checkpoints.MANIFEST for path in training_checkpoints(training)]
    base = Path(shutil.copytree(tiny_base, tmp_path / "base"))
    for path in manifests:  # as if it had been trained on this folder
        text = path.read_text().replace(json.dumps(str(tiny_base)), json.dumps(str(base)))
        checkpoint = checkpoints.Checkpoint.model_validate_json(text).sealed()
        path.write_text(checkpoint.model_dump_json(indent=1) + "\n")
    training.options[3] = str(base)
    weights = load_file(base / "model.safetensors")
    weights["videomae.encoder.layer.0.output.dense.bias"][0] += 1
    save_file(weights, base / "model.safetensors", metadata={"format": "pt"})
    assert_refused(training, "base was sha256:")


def training_checkpoints(training: Training) -> list[Path]:
    return list((training.out / checkpoints.FOLDER).iterdir())


def assert_refused(training: Training, words: str, *more: str) -> None:
    def kept() -> dict[str, bytes]:
        remains = (str(training.out / LOCK), str(training.out / ".frames"))
        return {
            path: content
            for path, content in snapshot(training.out).items()
            if not path.startswith(remains)
        }

    before = kept()
    assert training.live("--resume", *more) == 2, training.text
    error = training.text.splitlines()[-1]
    assert words in error
    assert error.endswith("[ResumeMismatchError]")
    assert kept() == before


def test_other_versions_are_told_and_not_refused(
    unbroken: tuple[dict[str, Any], int],
    interrupted: Path,
    training: Training,
    interrupted_log: str,
) -> None:
    for folder in training_checkpoints(training):
        text = (folder / checkpoints.MANIFEST).read_text()
        text = re.sub(r'"peft": "[^"]+"', '"peft": "0.1"', text)
        checkpoint = checkpoints.Checkpoint.model_validate_json(text).sealed()
        (folder / checkpoints.MANIFEST).write_text(checkpoint.model_dump_json(indent=1) + "\n")
    training.log.write_text(interrupted_log)
    assert training.live("--resume") == 0, training.text
    assert re.search(r"warning: peft was 0\.1 and is .*; the last bits", training.text)
    assert training.result() == unbroken[0]


# One at a time ----------------------------------------------------------------------------------


def test_a_second_training_into_the_same_folder_is_refused_and_touches_nothing(
    unbroken: tuple[dict[str, Any], int], nursery: Nursery, training: Training, tmp_path: Path
) -> None:
    second = Training(nursery, tmp_path / "second", training.options)
    second.out = training.out
    first = training.start()
    training.wait_for("epoch 2/")
    os.kill(first, signal.SIGSTOP)
    before = snapshot(training.out)
    for more in ([], ["--resume"]):
        assert second.live(*more) == 2, second.text
        assert second.text.splitlines()[-1].endswith("[RunBusyError]")
    assert snapshot(training.out) == before
    os.kill(first, signal.SIGCONT)
    assert nursery.wait(first) == 0, training.text
    assert training.result() == unbroken[0]


def test_a_killed_training_leaves_no_process_and_no_lock(
    nursery: Nursery, training: Training
) -> None:
    training.options += ["--set", "training.workers=2", "--set", "training.epochs=500"]
    parent = training.start()
    training.wait_for("epoch 2/")
    loaders, others = stopped_with_children(parent)
    try:
        os.kill(parent, signal.SIGKILL)
        assert nursery.wait(parent) == -signal.SIGKILL
        # Stopped, they could find out nothing by themselves, and close nothing.
        with claimed(training.out):
            pass
        deadline = time.monotonic() + 60
        while any(map(is_alive, loaders)):
            assert time.monotonic() < deadline
            time.sleep(0.01)
    finally:
        for pid in filter(is_alive, [*loaders, *others]):
            os.kill(pid, signal.SIGKILL)


def stopped_with_children(parent: int) -> tuple[list[int], list[int]]:
    """Stop a training while it has loaders, and all its children: loaders, and others (decoders)."""
    deadline = time.monotonic() + 60
    mine = Path(f"/proc/{parent}/cmdline").read_bytes()
    while time.monotonic() < deadline:
        os.kill(parent, signal.SIGSTOP)
        time.sleep(0.2)  # a fork of this very moment is over by then
        listed = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
        children = [pid for pid in map(int, listed) if is_alive(pid)]
        # a fork has the command line of its parent
        loaders = [pid for pid in children if Path(f"/proc/{pid}/cmdline").read_bytes() == mine]
        if loaders:
            for pid in children:
                os.kill(pid, signal.SIGSTOP)
            return loaders, [pid for pid in children if pid not in loaders]
        os.kill(parent, signal.SIGCONT)
        time.sleep(0.01)
    raise AssertionError("it never had loaders")


def is_alive(pid: int) -> bool:
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return status.rpartition(")")[2].split()[0] not in "ZX"


def test_a_fork_holds_no_lock(tmp_path: Path) -> None:
    with claimed(tmp_path), warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # threads of others are no concern here
        pid = os.fork()
        if pid == 0:
            code = 2
            try:
                opened = [path.resolve() for path in Path("/proc/self/fd").iterdir()]
                code = int(tmp_path.resolve() / LOCK in opened)
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        with pytest.raises(RunBusyError):
            claimed(tmp_path).__enter__()


def test_a_folder_is_claimed_by_one_and_free_afterwards(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    with claimed(folder), pytest.raises(RunBusyError, match="another process is training"):
        claimed(folder).__enter__()
    assert list(tmp_path.iterdir()) == []
    with claimed(folder):
        (folder / "x").write_text("x")
    assert [path.name for path in folder.iterdir()] == ["x"]


def test_a_lock_that_its_last_holder_took_away_meanwhile_counts_for_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flock = fcntl.flock
    late: list[int] = []

    def too_late(descriptor: int, operation: int) -> None:
        flock(descriptor, operation)
        if not late:
            late.append(descriptor)
            (tmp_path / LOCK).unlink()

    monkeypatch.setattr(fcntl, "flock", too_late)
    with claimed(tmp_path), pytest.raises(RunBusyError):
        claimed(tmp_path).__enter__()


def test_where_the_disk_knows_no_locks_that_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def no_locks(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with claimed(tmp_path / "run"):
        assert "knows no locks" in caplog.text
    assert list(tmp_path.iterdir()) == []


# A full disk ------------------------------------------------------------------------------------


def test_a_disk_that_gets_full_in_a_checkpoint_costs_that_checkpoint_alone(
    unbroken: tuple[dict[str, Any], int], training: Training
) -> None:
    assert training.live(file_limit_at_epoch=4) == 2
    error = training.text.splitlines()[-1]
    assert error.startswith(f"error: the disk is full, and {training.out} was not written")
    assert error.endswith("[DiskFullError]")
    assert sorted(path.name for path in training_checkpoints(training)) == [
        "epoch-00002", "epoch-00003",
    ]  # fmt: skip
    for path in training_checkpoints(training):
        checkpoints.read(path)
    load(training.out)
    assert training.live("--resume") == 0, training.text
    assert training.result() == unbroken[0]


def test_room_is_looked_for_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = shutil.disk_usage(tmp_path).free
    disk.check_room(tmp_path, 0)
    with pytest.raises(
        DiskFullError, match=r"MB are needed, and the disk of .* MB free; free some"
    ):
        disk.check_room(tmp_path, free)


def test_without_room_for_a_checkpoint_none_is_begun(
    tiny_base: Path, few_clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_from(
        {"model": {"base": str(tiny_base)}, "training": TINY_TRAINING}, where="test"
    )
    looked: list[Path] = []

    def usage(folder: Path) -> SimpleNamespace:
        looked.append(folder)
        return SimpleNamespace(free=1 << 30 if len(looked) < 3 else 1000)

    with monkeypatch.context() as patch:
        patch.setattr(disk, "shutil", SimpleNamespace(disk_usage=usage))
        with pytest.raises(DiskFullError, match=r"17 MB are needed, .* has 1 MB free"):
            fit(settings, few_clips, tmp_path / "run")
    assert sorted(path.name for path in (tmp_path / "run" / checkpoints.FOLDER).iterdir()) == [
        "epoch-00001", "epoch-00002",
    ]  # fmt: skip
    load(tmp_path / "run")
    assert fit(settings, few_clips, tmp_path / "run", resume=True).finished


def write_plainly() -> None:
    Path("/dev/full").write_text("x")


def write_as_rust_tells() -> None:
    raise SafetensorError("Error while serializing: I/O error: No space left (os error 28)")


def write_past_a_limit() -> None:
    raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))


@pytest.mark.parametrize("write", [write_plainly, write_as_rust_tells, write_past_a_limit])
def test_what_writers_say_of_a_full_disk_becomes_one_clear_error(write: Callable[[], None]) -> None:
    with (
        pytest.raises(DiskFullError, match=r"the disk is full, and /some/run was not written"),
        disk.failures_named(Path("/some/run")),
    ):
        write()


def test_other_faults_are_not_called_a_full_disk() -> None:
    for error in (RuntimeError("x"), FileNotFoundError(2, "x")):
        with pytest.raises(type(error)), disk.failures_named(Path("/some/run")):
            raise error
    with (
        pytest.raises(OSError, match="Input/output error") as caught,
        disk.failures_named(Path("/some/run")),
    ):
        raise SafetensorError("I/O error (os error 5)")
    assert caught.value.filename == "/some/run"


# Parts --------------------------------------------------------------------------------------------


def test_an_older_checkpoint_goes_only_when_the_new_one_stands(interrupted: Path) -> None:
    found = checkpoints.newest_whole(interrupted)
    assert found is not None
    following = found[1].model_copy(update={"epoch": 5})
    before = snapshot(interrupted)

    def fail(folder: Path) -> None:
        (folder / "half").write_text("x")
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with pytest.raises(OSError, match="Input"):
        checkpoints.write(interrupted, following, fail, keep=1)
    assert snapshot(interrupted) == before
    checkpoints.write(interrupted, following, lambda folder: None, keep=1)
    assert [path.name for path in (interrupted / checkpoints.FOLDER).iterdir()] == ["epoch-00005"]


def test_every_part_of_the_state_is_plain_and_comes_back(tmp_path: Path) -> None:
    class Wrapped(torch.optim.AdamW):
        scaler = torch.amp.GradScaler("cpu", init_scale=256.0)

    model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3))
    optimizer = Wrapped(model.parameters(), lr=0.1)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step))
    model(torch.randn(4, 2)).sum().backward()
    optimizer.step()
    scheduler.step()
    optimizer.scaler.load_state_dict({**optimizer.scaler.state_dict(), "scale": 128.0})
    state.write(
        tmp_path, model=model, optimizer=optimizer, scheduler=scheduler,
        trainer_state=TrainerState(epoch=1, global_step=1),
    )  # fmt: skip
    for path in tmp_path.glob("*.pt"):
        torch.load(path, weights_only=True)
    drawn = random.random(), np.random.rand(), torch.rand(1)
    other = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3))
    other_optimizer = Wrapped(other.parameters(), lr=0.1)
    other_optimizer.scaler = torch.amp.GradScaler("cpu", init_scale=1.0)
    other_scheduler = torch.optim.lr_scheduler.LambdaLR(
        other_optimizer, lambda step: 1 / (1 + step)
    )
    state.put_back_weights(tmp_path, other)
    state.put_back_optimizer(tmp_path, other_optimizer, other_scheduler)
    state.put_back_random(tmp_path)
    assert (random.random(), np.random.rand(), torch.rand(1)) == drawn
    assert other_optimizer.scaler.get_scale() == 128.0
    assert other_scheduler.get_last_lr() == scheduler.get_last_lr()
    for one, same in zip(model.state_dict().values(), other.state_dict().values(), strict=True):
        assert torch.equal(one, same)
    assert str(other_optimizer.state_dict()) == str(optimizer.state_dict())
    with pytest.raises(ResumeMismatchError, match=r"do not fit each other at 2\.bias"):
        state.put_back_weights(tmp_path, torch.nn.Sequential(*other, torch.nn.Linear(3, 1)))


# Slow ---------------------------------------------------------------------------------------------


@pytest.mark.soak
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("seed", [1, 2])
def test_twenty_kills_at_any_moment_change_nothing(
    nursery: Nursery, options: list[str], tmp_path: Path, workers: int, seed: int
) -> None:
    options = [*options, "--set", "training.epochs=12", "--set", f"training.workers={workers}"]
    whole = Training(nursery, tmp_path / "whole", options)
    begun = time.monotonic()
    _, events = whole.live_unbroken()
    seconds = time.monotonic() - begun
    chance = random.Random(seed)
    kills = 0
    for number in range(100):
        training = Training(nursery, tmp_path / f"chain-{number}", options)
        code = -signal.SIGKILL
        resume: list[str] = []
        while code != 0:
            if kills >= 20:
                code = training.live(*resume)
            elif chance.random() < 0.5:  # before a change on the disk, or a step
                at = chance.randrange(1, events // 3)
                code = training.live(*resume, kill_at_event=at)
            else:  # by the clock
                pid = training.start(*resume)
                time.sleep(chance.uniform(0, seconds / 2))
                os.kill(pid, signal.SIGKILL)
                code = nursery.wait(pid)
            assert code in (0, -signal.SIGKILL), training.text
            kills += code != 0
            resume = ["--resume"]
        assert training.result() == whole.result()
        if kills >= 20:
            break
    assert kills == 20
