"""What a control does, without a page: work has bounds, and a visitor is told no more than is theirs."""

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from lora_deploy.artifact import bundle
from lora_deploy.clips.example import write_sequence
from lora_deploy.clips.pool import DecodePool
from lora_deploy.demo.answers import Studio
from lora_deploy.demo.handlers import Handlers, Part, Problem
from lora_deploy.demo.models import Choices
from lora_deploy.demo.settings import DemoSettings
from lora_deploy.demo.watch import Watch

WHOLE = Part(None, None)


@pytest.fixture(scope="module")
def studio() -> Iterator[Studio]:
    with DecodePool(1) as pool:
        yield Studio(Choices([bundle.EXAMPLE]), pool)


@pytest.fixture
def handlers(studio: Studio) -> Handlers:
    return Handlers(studio, DemoSettings(), Watch(), str)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Three gestures, two seconds each."""
    path = tmp_path_factory.mktemp("gestures") / "clip.mp4"
    write_sequence(path, ("nod_up", "wave_left", "circle_right"), seed=5)
    return str(path)


def problem_of(handlers: Handlers, clip: str | None, name: str = "merged") -> Problem:
    with pytest.raises(Problem) as caught:
        handlers.ask(clip, name, WHOLE)
    return caught.value


def test_forms_that_are_named_again_are_compared_once(handlers: Handlers, clip: str) -> None:
    comparison, _ = handlers.compare(clip, ["merged", "unmerged"] * 20, WHOLE)
    assert comparison.count("<section") == 2


def test_one_form_named_twice_is_no_comparison(handlers: Handlers, clip: str) -> None:
    with pytest.raises(Problem) as caught:
        handlers.compare(clip, ["merged", "merged"], WHOLE)
    assert caught.value.kind == "too_few_forms"


def test_no_more_forms_are_compared_than_there_are(handlers: Handlers, clip: str) -> None:
    names = [f"form {number}" for number in range(len(handlers.studio.choices.all) + 1)]
    with pytest.raises(Problem) as caught:
        handlers.compare(clip, names, WHOLE)
    assert caught.value.kind == "too_many_forms"
