"""Comparing: every training in a process of its own, none repeated, none lost, none ending the others."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from lora_deploy.artifact import run
from lora_deploy.cli import run as run_command
from lora_deploy.clips.cache import build_cache
from lora_deploy.clips.dataset import read_dataset
from lora_deploy.compare import outcome, process
from lora_deploy.compare.conduct import compare, sets_of
from lora_deploy.compare.folds import GROUP, file_name, make_folds, write_manifests
from lora_deploy.compare.methods import Method
from lora_deploy.compare.motion import CONTRACT, motion_baseline
from lora_deploy.compare.outcome import Failure, PreparationJob
from lora_deploy.compare.preparation import prepare
from lora_deploy.compare.process import Processes
from lora_deploy.compare.result import Comparison
from lora_deploy.config import settings_from
from lora_deploy.evaluate import evaluate
from lora_deploy.memory import peak_memory_bytes
from lora_deploy.model.base import open_base
from lora_deploy.progress import silent
from lora_deploy.runtime.load import load
from lora_deploy.train import checkpoints
from lora_deploy.train.frames import decode_all
from tests.conftest import TINY_TRAINING

EPOCHS = 2


@dataclass(frozen=True)
class Compared:
    """What one command left."""

    out: Path
    arguments: tuple[str, ...]
    exit_code: int
    found: Comparison


@pytest.fixture(scope="module")
def street(few_clips: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An extra set: clips of nobody that a model learned from."""
    lines = few_clips.read_text().splitlines()
    path = tmp_path_factory.mktemp("street") / "street.csv"
    path.write_text("\n".join([lines[0], *(line for line in lines if line.endswith("s8"))]) + "\n")
    return path


@pytest.fixture(scope="module")
def compared(
    tiny_base: Path, few_clips: Path, street: Path, tmp_path_factory: pytest.TempPathFactory
) -> Compared:
    """Three methods with two seeds, and one that can't be trained."""
    folder = tmp_path_factory.mktemp("compared")
    config, impossible = folder / "config.yaml", folder / "impossible.yaml"
    training = {**TINY_TRAINING, "epochs": EPOCHS}
    config.write_text(json.dumps({"model": {"base": str(tiny_base)}, "training": training}))
    impossible.write_text('{"model": {"lora": {"target_modules": ["w2"]}}}')
    arguments = (
        "compare", "--config", str(config), "--data", str(few_clips), "--out", str(folder / "out"),
        "--seeds", "2", "--recipe", str(impossible), "--extra", f"street={street}", "--jobs", "2",
    )  # fmt: skip
    code = run_command(arguments)
    text = (folder / "out" / "comparison.json").read_text()
    return Compared(folder / "out", arguments, code, Comparison.model_validate_json(text))


def trainings(out: Path, method: str) -> list[Path]:
    return sorted((out / "trainings" / file_name(method)).iterdir())


def test_a_launcher_that_starts_it_many_times_is_refused(
    compared: Compared, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert run_command(compared.arguments) == 2
    assert "one of 2 processes of a launcher" in capsys.readouterr().err


def test_every_cell_is_of_a_training_that_was_run(compared: Compared) -> None:
    names = [row.name for row in compared.found.methods]
    assert names == ["full fine-tuning", "LoRA r=8", "LoRA r=4"]
    for row in compared.found.methods:
        folders = trainings(compared.out, row.name)
        rate = f"{row.learning_rates[0]:g}"
        assert [folder.name for folder in folders] == [f"seed-{n}-rate-{rate}" for n in (0, 1)]
        manifests = [run.read_run_manifest(folder / "run") for folder in folders]
        assert {m.parameters["trainable"] for m in manifests} == {row.trainable_parameters}
        assert row.checkpoint_bytes == (folders[0] / "run" / run.CHECKPOINT).stat().st_size
        assert (row.adapter_bytes is None) == (row.name == "full fine-tuning")
        assert row.accuracy["val"].by_seed == tuple(m.best.val_accuracy for m in manifests)
        assert all(len(curve) == EPOCHS for curve in row.curves)
        seconds = [m.training_seconds / EPOCHS for m in manifests]
        assert row.seconds_per_epoch.mean == pytest.approx(sum(seconds) / 2)
        assert row.seconds_to_best.mean <= max(m.training_seconds for m in manifests)


def test_accuracies_are_those_that_evaluate_finds(compared: Compared, street: Path) -> None:
    row = compared.found.methods[1]
    recogniser = load(trainings(compared.out, row.name)[1] / "run")
    for name, data, split in (
        ("train", compared.out / "data.csv", "train"),
        ("test", compared.out / "data.csv", "test"),
        ("street", street, "test"),
    ):
        expected = evaluate(recogniser, data, split=split)  # type: ignore[arg-type]
        assert row.accuracy[name].by_seed[1] == expected.accuracy
        assert row.accuracy[name].clips == expected.clips


def test_memory_is_that_of_one_training(compared: Compared) -> None:
    for row in compared.found.methods:
        assert row.memory_of == "process"
        assert row.peak_memory_bytes is not None
        assert 100e6 < row.memory_before_bytes < row.peak_memory_bytes < 4e9


def test_a_process_does_not_count_the_memory_of_the_one_that_started_it() -> None:
    ballast = bytearray(os.urandom(1)) * (600 << 20)
    code = "from lora_deploy.memory import peak_memory_bytes; print(peak_memory_bytes())"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout
    assert int(said) < 300e6
    assert len(ballast) < peak_memory_bytes()


def test_beside_them_stand_chance_and_motion_alone(
    compared: Compared, few_clips: Path, tmp_path: Path
) -> None:
    chance, motion = compared.found.baselines
    assert chance.accuracy["test"].mean == 0.5
    dataset = read_dataset(few_clips, val_fraction=0.1, test_fraction=0.1, seed=0)
    cache = build_cache(dataset.clips, CONTRACT, tmp_path)
    sets = {split: dataset.of(split) for split in ("train", "val", "test")}
    expected = motion_baseline(sets, dataset.labels, cache)
    for name, answers in expected.items():
        assert motion.accuracy[name].mean == answers.right / answers.answered
    assert motion.accuracy["train"].mean == 1.0


def test_motion_alone_answers_labels_that_it_never_saw_wrongly(
    few_clips: Path, tmp_path: Path
) -> None:
    dataset = read_dataset(few_clips, val_fraction=0.1, test_fraction=0.1, seed=0)
    cache = build_cache(dataset.clips, CONTRACT, tmp_path)
    strange = [replace(clip, label="never") for clip in dataset.of("test")]
    sets = {"train": dataset.of("train"), "val": dataset.of("val"), "strange": strange}
    assert motion_baseline(sets, dataset.labels, cache)["strange"].right == 0


def test_a_training_that_fails_is_a_row_with_its_error(compared: Compared) -> None:
    assert compared.exit_code == 1
    (row,) = compared.found.failed
    assert row.name == "impossible"
    assert "no layer of" in row.failures[0]
    assert "is called w2" in row.failures[0]
    assert len(compared.found.methods) == 3


def test_the_table_is_kept_in_four_forms(compared: Compared) -> None:
    for ending in ("csv", "md", "html", "json"):
        text = (compared.out / f"comparison.{ending}").read_text()
        assert "LoRA r=8" in text
        assert "street" in text
    assert "--recipe" in (compared.found.command or "")


def test_frames_are_decoded_once_for_all(compared: Compared) -> None:
    arrays = list((compared.out / "frames").glob("frames-*.npy"))
    assert len(arrays) == 2  # as the base reads them, and as the motion baseline does
    prepared = (compared.out / "preparation" / "baseline.json").stat().st_mtime_ns
    assert all(path.stat().st_mtime_ns <= prepared for path in arrays)


@pytest.mark.parametrize("moments", [1, 3])
def test_trainings_find_the_frames_that_were_decoded_before(
    moments: int, tiny_base: Path, few_clips: Path, tmp_path: Path
) -> None:
    tree = {"model": {"base": str(tiny_base)}, "augmentation": {"temporal_jitter": moments}}
    settings = settings_from(tree, where="test")
    folds = make_folds(few_clips, tmp_path, settings, GROUP)
    write_manifests(folds)
    sets = [sets_of(fold, {}) for fold in folds]
    job = PreparationJob(
        bases=[settings.model_dump(mode="json")], folds=sets, labels=list(folds[0].dataset.labels),
        frames=str(tmp_path / "frames"), threads=1, parent_pid=1,
    )  # fmt: skip
    prepare(job)
    before = sorted(path.name for path in (tmp_path / "frames").iterdir())
    contract = open_base(str(tiny_base), folds[0].dataset.labels).contract
    for fold in folds:
        decode_all(
            fold.dataset, contract, tmp_path / "frames",
            oversample=moments, with_test=True, pool=None, progress=silent,
        )  # fmt: skip
    assert sorted(path.name for path in (tmp_path / "frames").iterdir()) == before


def test_checkpoints_of_finished_trainings_take_no_room(compared: Compared) -> None:
    assert not list(compared.out.rglob("checkpoints"))


def test_what_is_finished_is_not_done_again(
    compared: Compared, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[Path] = []

    def refuse(self: Processes, folder: Path, job: object) -> Failure:
        started.append(folder)
        return Failure(error="no process may be started", name=None)

    monkeypatch.setattr(Processes, "run", refuse)
    assert run_command(compared.arguments) == 1
    again = Comparison.model_validate_json((compared.out / "comparison.json").read_text())
    assert [folder.parent.name for folder in started if folder.name != "preparation"] == [
        "impossible"
    ]
    assert again.methods == compared.found.methods


def test_other_settings_or_clips_are_refused_before_anything_begins(
    compared: Compared, few_clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command([*compared.arguments, "--set", "training.batch_size=2"]) == 2
    assert "training.batch_size was 4 and is 2" in capsys.readouterr().err
    other = tmp_path / "other.csv"
    other.write_text(few_clips.read_text().replace(",s0", ",s9"))
    arguments = list(compared.arguments)
    arguments[arguments.index("--data") + 1] = str(other)
    assert run_command(arguments) == 2
    assert "the train clips were 12 clips" in capsys.readouterr().err


def one_method(tiny_base: Path, epochs: int) -> Method:
    settings = settings_from(
        {"model": {"base": str(tiny_base)}, "training": {**TINY_TRAINING, "epochs": epochs}},
        where="test",
    )
    return Method("LoRA r=8", settings, (settings.training.learning_rate,))


def test_a_new_set_judges_the_models_that_are_there(
    compared: Compared, tiny_base: Path, few_clips: Path, street: Path, tmp_path: Path
) -> None:
    weights = trainings(compared.out, "LoRA r=8")[0] / "run" / run.CHECKPOINT
    before = weights.stat()
    again = tmp_path / "again.csv"  # without splits
    rows = [line.split(",") for line in few_clips.read_text().splitlines()]
    again.write_text("\n".join(f"{path},{label}" for path, label, _, _ in rows))
    sets = {"street": street, "again": again}
    found = compare([one_method(tiny_base, EPOCHS)], few_clips, compared.out, seeds=1, extras=sets)
    assert found.methods[0].accuracy["again"].clips == 28
    assert found.methods[0].accuracy["street"].by_seed[0] in (
        compared.found.methods[1].accuracy["street"].by_seed
    )
    assert weights.stat() == before
    assert "20 clips of again were learned from" in found.notes[0]


@pytest.fixture
def started(tmp_path: Path, tiny_base: Path, few_clips: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A comparison that trains for long, in a process group of its own."""
    config = tmp_path / "config.yaml"
    config.write_text(
        json.dumps(
            {"model": {"base": str(tiny_base)}, "training": {**TINY_TRAINING, "epochs": 100}}
        )
    )
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "lora_deploy", "compare", "--config", str(config), "--seeds"),
            *("1", "--data", str(few_clips), "--out", str(tmp_path / "out")),
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    yield process
    process.kill()
    process.wait()


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_an_interruption_leaves_no_process_and_a_training_that_goes_on(
    how: signal.Signals,
    started: subprocess.Popen[bytes],
    tmp_path: Path,
    tiny_base: Path,
    few_clips: Path,
) -> None:
    folder = tmp_path / "out" / "trainings" / file_name("full fine-tuning") / "seed-0-rate-0.01"
    until = time.monotonic() + 120
    while checkpoints.newest_epoch(folder / "run") is None:  # half of one is none
        assert started.poll() is None
        assert time.monotonic() < until
        time.sleep(0.05)
    child = int(json.loads((folder / "job.json").read_text())["parent_pid"])
    assert child == started.pid
    started.send_signal(how)
    code = started.wait(timeout=30)
    assert code == {signal.SIGKILL: -9, signal.SIGINT: 130, signal.SIGTERM: 143}[how]
    until = time.monotonic() + 60
    while any(str(folder) in line for line in command_lines()):
        assert time.monotonic() < until, "its training goes on"
        time.sleep(0.05)
    assert outcome.read_outcome(folder) is None
    if how is signal.SIGKILL:
        full = one_method(tiny_base, 100)
        full = replace(
            full,
            name="full fine-tuning",
            settings=full.settings.model_copy(
                update={"model": full.settings.model.model_copy(update={"use_lora": False})}
            ),
            learning_rates=(TINY_TRAINING["learning_rate"] / 2,),
        )
        found = compare([full], few_clips, tmp_path / "out", seeds=1)
        assert "going on after epoch" in (folder / "log.txt").read_text()
        assert [epoch for epoch, _ in found.methods[0].curves[0]] == list(range(1, 101))
        assert "interrupted" in " ".join(found.notes)


def command_lines() -> list[str]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found.append(path.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
        except OSError:
            continue
    return found


def test_a_process_that_is_killed_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = PreparationJob(bases=[], folds=[], labels=[], frames="", threads=1, parent_pid=1)
    for code, words in (
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "want of memory"),
        ("raise SystemExit('no such thing')", "no such thing"),
    ):
        monkeypatch.setattr(process, "COMMAND", (sys.executable, "-c", code))
        with Processes(1) as processes:
            failure = processes.run(tmp_path, job)
        assert failure is not None
        assert words in failure.error
        assert (tmp_path / outcome.FAILURE).is_file()


def test_the_conductor_needs_no_torch() -> None:
    code = (
        "import sys, lora_deploy.compare.conduct, lora_deploy.compare.keep\n"
        "print([name for name in ('torch', 'transformers', 'matplotlib') if name in sys.modules])"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout
    assert said.strip() == b"[]"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--extra", "street"], "is no NAME=DATA"),
        (["--extra", "test=x"], "the name test is taken"),
        (["--rates", "1,0"], "no list of numbers above 0"),
        (["--rates", ""], "no list of numbers above 0"),
        (["--rates", "fast"], "no list of numbers above 0"),
        (["--leave-out", "("], "no regular expression"),
        (["--recipe", "nowhere"], "there is no recipe called"),
    ],
)
def test_a_mistake_is_told_before_anything_is_made(
    options: list[str],
    words: str,
    few_clips: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments = ["compare", "--data", str(few_clips), "--out", str(tmp_path / "out"), *options]
    assert run_command(arguments) == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
