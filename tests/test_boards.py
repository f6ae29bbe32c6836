"""Figures sent to a board beside TensorBoard: only where it was asked for, and only if it is installed."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from lora_deploy.artifact import run
from lora_deploy.config import Settings, settings_from
from lora_deploy.errors import MissingPackageError, SettingValueError
from lora_deploy.train.changes import settings_differences
from lora_deploy.train.fit import fit
from tests.conftest import TINY_TRAINING

_STAND_IN = """
import json, pathlib

LOG = pathlib.Path(__file__).with_name("log.jsonl")

class _Config(dict):
    def update(self, *given, **named):
        super().update(given[0])

config = _Config()

class _Space:
    def get(self):
        return None

class context_vars:
    current_space_id = _Space()

def _tell(*what):
    with LOG.open("a") as file:
        file.write(json.dumps(what) + "\\n")

def init(project, name, space_id, **named):
    _tell("init", project, name, space_id)

def log(values, **named):
    _tell("log", {key: float(value) for key, value in values.items()})

def finish():
    _tell("finish")
"""


def settings_of(base: Path, *boards: str) -> Settings:
    return settings_from(
        {
            "model": {"base": str(base)},
            "training": {**TINY_TRAINING, "epochs": 1, "report_to": list(boards)},
        },
        where="test",
    )


@pytest.fixture
def trackio(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A package of that name that writes down what it is told; gives where."""
    (tmp_path / "site" / "trackio").mkdir(parents=True)
    (tmp_path / "site" / "trackio" / "__init__.py").write_text(_STAND_IN)
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    yield tmp_path / "site" / "trackio" / "log.jsonl"
    sys.modules.pop("trackio", None)


def test_a_board_gets_the_figures_that_the_run_keeps(
    trackio: Path, tiny_base: Path, few_clips: Path, tmp_path: Path
) -> None:
    fit(settings_of(tiny_base, "trackio"), few_clips, tmp_path / "first run")
    told = [json.loads(line) for line in trackio.read_text().splitlines()]
    assert told[0] == ["init", "lora-deploy", "first run", None]  # on this computer, no Space
    assert told[-1] == ["finish"]
    losses = [line[1]["eval/loss"] for line in told if line[0] == "log" and "eval/loss" in line[1]]
    assert losses == [run.read_run_manifest(tmp_path / "first run").best.val_loss]


def test_nobody_is_told_unasked(
    trackio: Path, tiny_base: Path, few_clips: Path, tmp_path: Path
) -> None:
    fit(settings_of(tiny_base), few_clips, tmp_path / "run")
    assert not trackio.exists()


def test_a_board_that_is_not_installed_is_refused_before_any_work(
    tiny_base: Path, few_clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lora_deploy.train.learn.is_installed", lambda package: False)
    with pytest.raises(MissingPackageError, match="pip install wandb"):
        fit(settings_of(tiny_base, "wandb"), few_clips, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_board_that_nobody_knows_is_refused(tiny_base: Path) -> None:
    with pytest.raises(SettingValueError, match="allowed: a list of any of wandb, trackio"):
        settings_of(tiny_base, "a board")


def test_a_training_may_go_on_with_another_board(tiny_base: Path) -> None:
    one, other = (
        settings_of(tiny_base, *boards).model_dump(mode="json") for boards in ((), ("wandb",))
    )
    assert settings_differences(one, other) == []
