"""Memory that runs out and files that vanish in the middle of a training: one line of advice, and a RUN that goes on."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import Trainer

from lora_deploy.artifact import run
from lora_deploy.config import Settings, settings_from
from lora_deploy.errors import FileVanishedError, MemoryFullError
from lora_deploy.runtime.load import load
from lora_deploy.train import checkpoints
from lora_deploy.train.fit import fit
from lora_deploy.train.mishaps import is_out_of_memory, less_memory, memory_named, vanished_named
from tests.conftest import TINY_TRAINING

ROOT = Path(__file__).parents[1]

CUDA = (
    "CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has a total capacity of 79.19 GiB of "
    "which 1.10 GiB is free."
)


def settings_of(base: Path | str = "videomae-nano", **sections: Any) -> Settings:
    model = {"base": str(base), **sections.get("model", {})}
    training = {**TINY_TRAINING, **sections.get("training", {})}
    return settings_from({"model": model, "training": training}, where="test")


def _numpy() -> None:
    np.empty(1 << 55, np.uint8)


def _torch() -> None:
    torch.empty(1 << 55, dtype=torch.uint8)


def _python() -> None:
    bytearray(1 << 60)


@pytest.mark.parametrize("ask", [_numpy, _torch, _python])
def test_whoever_asks_for_more_than_there_is_gets_advice(
    ask: Callable[[], None], tmp_path: Path
) -> None:
    with (
        pytest.raises(MemoryFullError, match=r"the memory of the computer is full.*; less is") as e,
        memory_named(settings_of(), tmp_path),
    ):
        ask()
    if ask is not _python:
        assert "(36,028,797,019 MB more were asked for)" in str(e.value)
    assert "--resume" not in str(e.value)  # nothing is there yet


@pytest.mark.gpu
def test_a_card_that_is_really_full_gets_advice(tmp_path: Path) -> None:
    with (
        pytest.raises(MemoryFullError, match=r"the memory of the card is full \([\d,]+ MB more"),
        memory_named(settings_of(), tmp_path),
    ):
        torch.empty(1 << 50, dtype=torch.uint8, device="cuda")


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError(CUDA),
        RuntimeError("CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. "),
        RuntimeError("could not create a memory object"),
        OSError(12, "Cannot allocate memory"),
    ],
)
def test_every_wording_is_known(error: Exception) -> None:
    assert is_out_of_memory(error)


@pytest.mark.parametrize(
    "error", [RuntimeError("mat1 and mat2 shapes"), ValueError("out of memory"), OSError(2, "gone")]
)
def test_other_errors_stay_what_they_are(error: Exception, tmp_path: Path) -> None:
    with pytest.raises(type(error)) as found, memory_named(settings_of(), tmp_path):
        raise error
    assert found.value is error


def test_what_is_advised_is_counted_from_the_settings() -> None:
    wide = settings_of(training={"batch_size": 6, "gradient_accumulation_steps": 2, "workers": 4})
    assert less_memory(wide, 12) == [
        "training.batch_size=3 and training.gradient_accumulation_steps=4 (learns the same, in "
        "smaller pieces)",
        "training.mixed_precision=bf16 (a fifth to a third less is kept for the way back)",
        "training.workers=0 (slower)",
        "model.lora.top_layers=6 (nothing is kept of the blocks below)",
        "model.lora.r=4 and model.lora.lora_alpha=8 (little)",
    ]
    odd = settings_of(training={"batch_size": 5, "mixed_precision": "bf16"})
    assert "training.batch_size=1 and training.gradient_accumulation_steps=5" in str(
        less_memory(odd, 12)
    )
    full = settings_of(model={"use_lora": False}, training={"batch_size": 1})
    assert less_memory(full, 12)[-1] == (
        "model.use_lora=true (no gradients, no optimizer for the base)"
    )
    least = settings_of(
        model={"lora": {"r": 1, "top_layers": 1}},
        training={"batch_size": 1, "mixed_precision": "bf16"},
    )
    assert less_memory(least, 12) == ["a smaller base (model.base)"]


def test_smaller_batches_that_are_summed_up_are_as_many_clips_a_step() -> None:
    for batch_size in range(2, 100):
        advice = less_memory(settings_of(training={"batch_size": batch_size}), 12)[0]
        words = dict(part.split("=") for part in advice.split(" (")[0].split(" and "))
        pieces = int(words["training.gradient_accumulation_steps"])
        assert int(words["training.batch_size"]) * pieces == batch_size


@pytest.fixture
def fails_in_epoch_2(monkeypatch: pytest.MonkeyPatch) -> Callable[[Exception], None]:
    step = Trainer.training_step

    def arm(error: Exception) -> None:
        def failing(self: Trainer, *given: Any, **named: Any) -> torch.Tensor:
            if (self.state.epoch or 0) >= 1:
                raise error
            answer: torch.Tensor = step(self, *given, **named)
            return answer

        monkeypatch.setattr(Trainer, "training_step", failing)

    return arm


def test_a_card_that_is_full_leaves_a_sound_run_that_goes_on(
    tiny_base: Path,
    few_clips: Path,
    lora_run: Path,
    tmp_path: Path,
    fails_in_epoch_2: Callable[[Exception], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out, settings = tmp_path / "run", settings_of(tiny_base)
    fails_in_epoch_2(torch.OutOfMemoryError(CUDA))
    with pytest.raises(MemoryFullError) as found:
        fit(settings, few_clips, out)
    said = str(found.value)
    assert "\n" not in said
    for words in (
        "the memory of the card is full (2,684 MB more were asked for)",
        "training.batch_size=2 and training.gradient_accumulation_steps=2",
        "model.lora.top_layers=1",
        f"{out} is whole up to epoch 1, and --resume goes on there",
        f"--init-from {out} --out ANOTHER",
    ):
        assert words in said
    assert run.read_run_manifest(out).best.epoch == 1
    assert np.isfinite(load(out).backend.logits(np.zeros((1, 4, 3, 32, 32), np.float32))).all()
    assert not list(out.glob(".*"))
    monkeypatch.undo()
    fit(settings, few_clips, out, resume=True)
    one, other = (
        torch.load(folder / "best_model.pth", weights_only=True)["state_dict"]
        for folder in (out, lora_run)
    )
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_memory_that_is_full_before_the_first_step_leaves_no_folder(
    tiny_base: Path, few_clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise torch.OutOfMemoryError(CUDA)

    monkeypatch.setattr("lora_deploy.train.fit.prove_alive", full)
    with pytest.raises(MemoryFullError, match="the memory of the card is full"):
        fit(settings_of(tiny_base), few_clips, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_file_that_vanishes_ends_the_training_with_what_was_whole(
    tiny_base: Path, few_clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    write = checkpoints.write

    def without_metrics(folder: Path, checkpoint: Any, fill: Any, *, keep: int) -> None:
        if checkpoint.epoch == 2:
            (folder / run.METRICS).unlink()
        write(folder, checkpoint, fill, keep=keep)

    monkeypatch.setattr(checkpoints, "write", without_metrics)
    with pytest.raises(FileVanishedError, match=r"metrics\.jsonl was taken away .* up to epoch 1"):
        fit(settings_of(tiny_base), few_clips, out)
    monkeypatch.undo()
    manifest = fit(settings_of(tiny_base), few_clips, out, resume=True)
    assert manifest.finished


def test_a_file_that_vanished_for_a_loader_is_named_too(tmp_path: Path) -> None:
    told = (
        "Caught FileNotFoundError in DataLoader worker process 0.\nOriginal …\n…: '/a/frames.npy'"
    )
    with pytest.raises(FileVanishedError, match=r"/a/frames\.npy"), vanished_named(tmp_path):
        raise FileNotFoundError(told)


_CHILD = """
import resource, sys
from lora_deploy import cli
from lora_deploy.train import checkpoints

write = checkpoints.write

def limited(*given, **named):
    write(*given, **named)
    size = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + 2_000_000, resource.RLIM_INFINITY))

if sys.argv.pop(1) == "limited":
    checkpoints.write = limited
import lora_deploy.train.fit, lora_deploy.runtime.eager
sys.exit(cli.run(sys.argv[1:]))
"""


def test_an_allocation_that_really_fails_is_told_and_the_run_goes_on(
    few_clips: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"

    def train(how: str, *more: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", _CHILD, how, "train", "--data", str(few_clips)]
        sets = ("training.batch_size=12", "training.epochs=2")
        return subprocess.run(
            [
                *command,
                "--out",
                str(out),
                *(word for one in sets for word in ("--set", one)),
                *more,
            ],
            capture_output=True,
            text=True,
            cwd=ROOT,
            timeout=300,
            env={
                **os.environ,
                "OMP_NUM_THREADS": "1",
                "PYTHONPATH": str(ROOT),
                "MALLOC_MMAP_THRESHOLD_": "65536",  # what is freed goes back to the system
            },
        )

    ended = train("limited")
    assert ended.returncode == 2, ended.stderr
    [line] = [line for line in ended.stderr.splitlines() if line.startswith("error: ")]
    assert "the memory of the computer is full" in line
    assert "training.batch_size=6 and training.gradient_accumulation_steps=2" in line
    assert f"{out} is whole up to epoch 1" in line
    assert line.endswith("[MemoryFullError]")
    assert "Traceback" not in ended.stderr
    assert run.read_run_manifest(out).best.epoch == 1
    assert not list(out.glob(".*"))
    ended = train("unlimited", "--resume")
    assert ended.returncode == 0, ended.stderr
    assert run.read_run_manifest(out).finished
