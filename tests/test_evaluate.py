"""Accuracy is counted rightly, its interval is Wilson's, and training clips never slip in."""

import json
from pathlib import Path

import pytest

from lora_deploy import cli
from lora_deploy.errors import (
    ClipsMissingError,
    DataNotNamedError,
    EmptySplitError,
    NothingDecodedError,
    SplitsNotNamedError,
    UnknownLabelError,
)
from lora_deploy.evaluate import choose_data, evaluate, tally, wilson_interval
from lora_deploy.runtime.load import load


def test_counts_by_hand() -> None:
    answers = [
        ("1", "a", "a", 0.9),
        ("2", "a", "b", 0.6),
        ("3", "a", "a", 0.9),
        ("4", "b", "b", 0.7),
    ]
    result = tally(["a", "b", "c"], answers)
    assert result.confusion == ((2, 1, 0), (0, 1, 0), (0, 0, 0))
    assert result.clips == 4
    assert result.accuracy == 0.75
    assert result.chance == 0.75
    assert result.per_class == {"a": pytest.approx(2 / 3), "b": 1.0}


@pytest.mark.parametrize(
    ("right", "clips", "low", "high"),
    [  # from the formula's usual tables
        (0, 10, 0.0, 0.2775),
        (5, 10, 0.2366, 0.7634),
        (10, 10, 0.7225, 1.0),
        (81, 263, 0.2553, 0.3662),
    ],
)
def test_the_interval_is_wilsons(right: int, clips: int, low: float, high: float) -> None:
    assert wilson_interval(right, clips) == pytest.approx((low, high), abs=1e-4)


def test_the_model_is_asked_about_each_clip_of_the_split(bundle: Path, few_clips: Path) -> None:
    recogniser = load(bundle)
    result = evaluate(recogniser, few_clips, split="test")
    assert result.clips == 8
    for path, _, answer, score in result.answers:
        prediction = recogniser.classify(path)
        assert (prediction.label, prediction.score) == (answer, score)


def test_a_clip_that_can_not_be_read_is_named_and_not_counted(
    bundle: Path, few_clips: Path, media: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = tmp_path / "clips.csv"
    bad = (media / "malformed" / "audio_only.mp4").resolve()
    manifest.write_text(few_clips.read_text() + f"{bad},bend,test,x\n")
    assert cli.run(["evaluate", str(bundle), "--data", str(manifest), "--json"]) == 1
    printed = capsys.readouterr()
    result = json.loads(printed.out)
    assert result["clips"] == 8
    assert "audio_only.mp4" in result["left_out"][0]


def test_labels_that_the_model_does_not_know_are_refused(bundle: Path, media: Path) -> None:
    with pytest.raises(UnknownLabelError, match="jumping_jack"):
        evaluate(load(bundle), media / "dataset" / "weizmann4.csv", split="test")


def test_a_run_is_evaluated_on_its_own_test_clips(
    lora_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(["evaluate", str(lora_run)]) == 0
    assert "on 8 clips (95% interval" in capsys.readouterr().out


def test_a_missing_training_clip_is_in_nobodys_way(bundle: Path, few_clips: Path) -> None:
    manifest = few_clips.with_name("gone.csv")
    manifest.write_text(few_clips.read_text().replace("s0_orig.mp4", "gone.mp4"))
    assert evaluate(load(bundle), manifest, split="test").clips == 8
    with pytest.raises(ClipsMissingError, match="do not exist"):
        evaluate(load(bundle), manifest, split="train")


def test_clips_without_splits_are_judged_only_when_all_are_meant(
    bundle: Path, few_clips: Path
) -> None:
    manifest = few_clips.with_name("unsplit.csv")
    rows = [line.split(",") for line in few_clips.read_text().splitlines()]
    manifest.write_text("\n".join(",".join(row[:2]) for row in rows) + "\n")
    with pytest.raises(SplitsNotNamedError, match="--split all"):
        evaluate(load(bundle), manifest, split="test")
    assert evaluate(load(bundle), manifest, split="all").clips == len(rows) - 1


def test_a_split_without_clips_is_refused_with_those_that_are_there(
    bundle: Path, few_clips: Path
) -> None:
    manifest = few_clips.with_name("no-val.csv")
    lines = [line for line in few_clips.read_text().splitlines() if ",val," not in line]
    manifest.write_text("\n".join(lines) + "\n")
    with pytest.raises(EmptySplitError, match="the split val; it has: test, train; give some"):
        evaluate(load(bundle), manifest, split="val")


def test_a_bundle_has_no_clips_of_its_own(bundle: Path) -> None:
    with pytest.raises(DataNotNamedError, match="is no RUN with clips of its own; name some"):
        choose_data(bundle, None)


def test_clips_of_which_none_can_be_decoded_are_no_accuracy(
    bundle: Path, media: Path, tmp_path: Path
) -> None:
    bad = (media / "malformed" / "audio_only.mp4").resolve()
    manifest = tmp_path / "clips.csv"
    manifest.write_text(f"path,label,split\n{bad},bend,test\n")
    with pytest.raises(NothingDecodedError, match=r"none of 1 clips .*holds no video"):
        evaluate(load(bundle), manifest)
