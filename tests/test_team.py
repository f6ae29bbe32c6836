"""One training in two processes, as torchrun starts them, with half of every batch each: the curve of one process."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from lora_deploy.artifact import run
from lora_deploy.config import settings_from, to_yaml
from lora_deploy.errors import ResumeMismatchError
from lora_deploy.runtime.load import load
from lora_deploy.train.fit import fit
from lora_deploy.train.learn import training_arguments

ROOT = Path(__file__).parents[1]

_CHILD = """
import os, sys
from lora_deploy import cli
from lora_deploy.clips.pool import DecodePool
from lora_deploy.train import run_folder

def telling(holder, name, told):
    real = getattr(holder, name)
    def instead(*given, **named):
        print(f"[{told} by {os.environ['RANK']}]", file=sys.stderr, flush=True)
        return real(*given, **named)
    setattr(holder, name, instead)

telling(DecodePool, "in_order", "decoded")
telling(run_folder.RunFolder, "save", "saved")
sys.exit(cli.run(sys.argv[1:]))
"""


def settings_of(base: Path, **training: Any) -> Any:
    return settings_from(
        {
            "model": {"base": str(base), "lora": {"lora_dropout": 0.0}},
            "training": {
                "batch_size": 4,
                "epochs": 3,
                "learning_rate": 1e-2,
                "early_stopping_patience": 0,
                **training,
            },
        },
        where="test",
    )


def train_in_two(
    settings: Any, clips: Path, out: Path, *more: str
) -> subprocess.CompletedProcess[str]:
    """In two processes at once."""
    files = out.parent
    (files / "child.py").write_text(_CHILD)
    (files / f"{out.name}.yaml").write_text(to_yaml(settings))
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    return subprocess.run(
        [
            sys.executable, *launcher, str(files / "child.py"), "train",
            "--config", str(files / f"{out.name}.yaml"), "--data", str(clips), "--out", str(out),
            "--device", "cpu", *more,
        ],
        capture_output=True,
        text=True,
        cwd=files,
        timeout=400,
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
            "GLOO_SOCKET_IFNAME": "lo",
        },
    )  # fmt: skip


def curve(out: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (out / run.METRICS).read_text().splitlines()]


def assert_same_curve(one: Path, other: Path) -> None:
    first, second = curve(one), curve(other)
    assert len(first) == len(second) > 0
    assert any("loss" in line for line in first)
    assert any("eval_loss" in line for line in first)
    for line, twin in zip(first, second, strict=True):
        assert line.keys() == twin.keys()
        for key in line:
            assert line[key] == pytest.approx(twin[key], rel=1e-5, abs=1e-5), key


@pytest.fixture(scope="module")
def alone_and_together(
    tmp_path_factory: pytest.TempPathFactory, tiny_base: Path, few_clips: Path
) -> tuple[Path, Path, subprocess.CompletedProcess[str]]:
    """The same training in one process, and in two with half of each batch; what the two said."""
    folder = tmp_path_factory.mktemp("team")
    one, two = folder / "one", folder / "two"
    fit(settings_of(tiny_base), few_clips, one)
    ended = train_in_two(settings_of(tiny_base, batch_size=2), few_clips, two)
    assert ended.returncode == 0, ended.stderr
    return one, two, ended


def test_two_processes_with_half_the_batch_have_the_curve_of_one(
    alone_and_together: tuple[Path, Path, subprocess.CompletedProcess[str]],
) -> None:
    one, two, _ = alone_and_together
    assert_same_curve(one, two)
    states = [
        torch.load(folder / "best_model.pth", weights_only=True)["state_dict"]
        for folder in (one, two)
    ]
    for name, tensor in states[0].items():
        torch.testing.assert_close(tensor, states[1][name], rtol=1e-3, atol=1e-4)


def test_two_processes_draw_every_augmentation_and_mixture_as_one_does(
    tmp_path: Path, tiny_base: Path, few_clips: Path
) -> None:
    """What is drawn for a clip, its partner too, does not depend on the batch that it comes into."""

    def settings(batch_size: int) -> Any:
        plain = settings_of(
            tiny_base, batch_size=batch_size, epochs=2, label_smoothing=0.1, balanced_sampling=True
        )
        augmentation = {
            "random_resized_crop": 0.5, "horizontal_flip": 0.5, "color_jitter": 0.3,
            "temporal_jitter": 3, "mixup_alpha": 0.4,
        }  # fmt: skip
        return settings_from(
            {**plain.model_dump(mode="json"), "augmentation": augmentation}, where="test"
        )

    fit(settings(4), few_clips, tmp_path / "one")
    ended = train_in_two(settings(2), few_clips, tmp_path / "two")
    assert ended.returncode == 0, ended.stderr
    assert_same_curve(tmp_path / "one", tmp_path / "two")


def test_only_the_first_decodes_writes_and_talks(
    alone_and_together: tuple[Path, Path, subprocess.CompletedProcess[str]], test_clips: list[Path]
) -> None:
    one, two, said = alone_and_together
    assert "[decoded by 0]" in said.stderr
    assert "[decoded by 1]" not in said.stderr
    assert "[saved by 0]" in said.stderr
    assert "[saved by 1]" not in said.stderr
    assert said.stdout.count("validation accuracy") == 1
    assert said.stderr.count("🎯 LoRA Configuration:") == 1
    assert said.stderr.count("Processes: 2, each with 2 clips of every step") == 1
    assert said.stderr.count("epoch 3/3") == 1
    assert sorted(path.name for path in one.iterdir()) == sorted(
        path.name for path in two.iterdir()
    )
    assert len(list((two / "tensorboard").iterdir())) == 1
    assert run.read_run_manifest(two).finished
    assert load(two).classify(test_clips[0]).label in ("bend", "wave_two_hands")


def test_two_processes_go_on_where_they_stopped_and_one_does_not_instead(
    alone_and_together: tuple[Path, Path, subprocess.CompletedProcess[str]],
    tiny_base: Path,
    few_clips: Path,
    tmp_path: Path,
) -> None:
    _, whole, _ = alone_and_together
    out = Path(shutil.copytree(whole, tmp_path / "run"))
    settings = settings_of(tiny_base, batch_size=2)
    _forget_the_last_epoch(out)
    with pytest.raises(ResumeMismatchError, match="processes was 2 and is 1"):
        fit(settings, few_clips, out, resume=True)
    ended = train_in_two(settings, few_clips, out, "--resume")
    assert ended.returncode == 0, ended.stderr
    assert curve(out) == curve(whole)
    one, other = (
        torch.load(folder / "best_model.pth", weights_only=True)["state_dict"]
        for folder in (out, whole)
    )
    assert all(torch.equal(one[name], other[name]) for name in one)


def _forget_the_last_epoch(out: Path) -> None:
    """As if it had been killed before the last epoch was whole."""
    shutil.rmtree(out / "checkpoints/epoch-00003")
    manifest = run.read_run_manifest(out)
    run.write_run_manifest(out, manifest.model_copy(update={"finished": False}))


def test_a_model_whose_loss_does_not_count_clips_shares_a_batch_too(
    tiny_bases: dict[str, Path], few_clips: Path, tmp_path: Path
) -> None:
    base = tiny_bases["timesformer"]
    fit(settings_of(base, epochs=1), few_clips, tmp_path / "one")
    ended = train_in_two(settings_of(base, epochs=1, batch_size=2), few_clips, tmp_path / "two")
    assert ended.returncode == 0, ended.stderr
    assert_same_curve(tmp_path / "one", tmp_path / "two")


def test_a_mistake_ends_them_all(few_clips: Path, tiny_base: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "mine.txt").write_text("mine")
    ended = train_in_two(settings_of(tiny_base), few_clips, tmp_path / "run")
    assert ended.returncode != 0
    assert ended.stderr.count("run exists already") == 1
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["mine.txt"]


def test_one_process_never_spreads_itself_over_cards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Trainer would, with a batch on each of them: nobody asked for so large a step."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    arguments = training_arguments(settings_of(tmp_path).training, tmp_path, use_cpu=False)
    assert arguments.n_gpu <= 1
    assert arguments.train_batch_size == 4
