"""What `doctor` says of this computer."""

import json

import pytest

from lora_deploy import doctor
from lora_deploy.cli import run
from lora_deploy.clips.fence import Fence


def test_a_sound_computer_gives_no_complaint(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["doctor"]) == 0
    said = capsys.readouterr().out
    assert "torch" in said
    assert "the fence around the decoder is whole" in said
    assert run(["doctor", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["fence"] == {"holds": True, "missing": []}
    assert told["complaints"] == []


def test_packages_that_overwrite_each_other_are_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(doctor, "QUARRELS", (("torch", "numpy"), ("torch", "no-such-package")))
    assert run(["doctor"]) == 1
    assert "torch and numpy are both installed" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("fence", "words"),
    [
        (Fence(False, 7, True, True), "lacks user namespaces"),
        (Fence(False, 0, False, True), "NOT all refused"),
        (Fence(True, 0, True, True), "lacks Landlock"),
    ],
)
def test_gaps_in_the_fence_are_told_with_what_they_mean(fence: Fence, words: str) -> None:
    diagnosis = doctor.Diagnosis(versions={}, quarrels=(), fence=fence)
    [line] = diagnosis.complaints
    assert words in line
    assert ("NOT" not in line) == fence.holds
