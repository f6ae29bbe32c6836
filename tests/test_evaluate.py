"""Every figure is counted rightly, its interval is what it claims, and training clips never slip in."""

import json
import math
import random
import statistics
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.cells import cell_len

from lora_deploy import cli
from lora_deploy.clips.clip import Stretch
from lora_deploy.clips.dataset import LabelledClip
from lora_deploy.errors import (
    ClipsMissingError,
    DataNotNamedError,
    EmptySplitError,
    NothingDecodedError,
    SplitsNotNamedError,
    UnknownLabelError,
)
from lora_deploy.evaluate import (
    Evaluation,
    Measured,
    choose_data,
    evaluate,
    evaluate_clips,
    evaluate_sets,
    tally,
    wilson_interval,
)
from lora_deploy.evaluate.calibration import calibration_bins, calibration_error
from lora_deploy.runtime.load import load
from lora_deploy.texts import measured


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


# Every figure beside a slow count by hand.

ROWS = [  # truth, answer, probability of the answer, rank of the truth, person
    ("a", "a", 0.95, 1, "p1"),
    ("a", "a", 0.91, 1, "p1"),
    ("a", "b", 0.55, 2, "p1"),
    ("a", "d", 0.31, 4, "p2"),
    ("b", "b", 0.72, 1, "p2"),
    ("b", "a", 0.78, 3, "p2"),
    ("c", "c", 1.0, 1, "p3"),
    ("c", "a", 0.5, 2, "p3"),
    ("c", "c", 0.66, 1, "p3"),
    ("c", "c", 0.04, 1, "p3"),
]
LABELS = ("a", "b", "c", "d", "e")


def of_rows(rows: Sequence[tuple[str, str, float, int, str]], **more: Any) -> Evaluation:
    return tally(
        LABELS,
        [(str(at), truth, answer, score) for at, (truth, answer, score, _, _) in enumerate(rows)],
        ranks=[row[3] for row in rows],
        groups=[row[4] for row in rows],
        **more,
    )


def slow(rows: Sequence[tuple[str, str, float, int, str]]) -> dict[str, float]:
    """The figures by their definitions, one after the other."""
    recalls, f1s, precisions = [], [], []
    for label in LABELS:
        bearing = [row for row in rows if row[0] == label]
        getting = [row for row in rows if row[1] == label]
        right = [row for row in bearing if row[1] == label]
        if not bearing:
            continue
        recall = len(right) / len(bearing)
        precision = len(right) / len(getting) if getting else 0.0
        recalls.append(recall)
        precisions.append(precision)
        both = recall + precision
        f1s.append(2 * recall * precision / both if both else 0.0)
    gap = 0.0
    for low in range(10):
        inside = [row for row in rows if min(int(row[2] * 10), 9) == low]
        if inside:
            gap += abs(
                sum(row[0] == row[1] for row in inside) - math.fsum(row[2] for row in inside)
            )
    return {
        "accuracy": sum(row[0] == row[1] for row in rows) / len(rows),
        "mean_class_accuracy": statistics.fmean(recalls),
        "mean_precision": statistics.fmean(precisions),
        "mean_f1": statistics.fmean(f1s),
        "top_k": sum(row[3] <= 4 for row in rows) / len(rows),
        "calibration_error": gap / len(rows),
    }


def test_each_figure_is_that_of_its_definition() -> None:
    result = of_rows(ROWS)
    for name, value in slow(ROWS).items():
        found = result.top_k[1] if name == "top_k" and result.top_k else getattr(result, name)
        assert found == pytest.approx(value, abs=1e-12), name
    # and by hand, where that is quick
    assert result.accuracy == 0.6
    assert result.mean_class_accuracy == pytest.approx((2 / 4 + 1 / 2 + 3 / 4) / 3)
    a, d, e = (result.classes[label] for label in "ade")
    assert (a.clips, a.answered, a.precision, a.recall, a.f1) == (4, 4, 0.5, 0.5, 0.5)
    assert (d.clips, d.answered, d.precision, d.recall, d.f1) == (0, 1, 0.0, None, 0.0)
    assert (e.clips, e.answered, e.precision, e.recall, e.f1) == (0, 0, None, None, None)


@pytest.mark.parametrize(
    ("labels", "k", "right"),
    [(2, None, None), (3, 2, 0.5), (5, 4, 0.75), (6, 5, 0.75), (9, 5, 0.75)],
)
def test_top_k_stays_below_the_number_of_labels(
    labels: int, k: int | None, right: float | None
) -> None:
    names = [f"label {at}" for at in range(labels)]
    ranks = [1, min(3, labels), min(2, labels), labels]
    answers = [("x", names[1], names[0 if rank > 1 else 1], 0.5) for rank in ranks]
    result = tally(names, answers, ranks=ranks)
    assert result.top_k == (None if k is None else (k, right))
    assert result.top5 == (right if k == 5 else None)


def test_figures_of_thousands_of_answers_are_those_of_a_slow_count() -> None:
    dice = random.Random(1)
    rows = [
        (
            dice.choice("abc"), dice.choice("aaabcd"), dice.random(), dice.randint(1, 5),
            f"p{dice.randint(1, 9)}",
        )
        for _ in range(3000)
    ]  # fmt: skip
    result = of_rows(rows)
    for name, value in slow(rows).items():
        found = result.top_k[1] if name == "top_k" and result.top_k else getattr(result, name)
        assert found == pytest.approx(value, abs=1e-9), name


def test_a_model_that_means_what_it_says_has_no_calibration_error() -> None:
    scores = [0.75] * 8 + [0.25] * 8
    right = [True] * 6 + [False] * 2 + [True] * 2 + [False] * 6
    assert calibration_error(scores, right) == 0
    assert calibration_error([0.9, 0.9], [False, False]) == pytest.approx(0.9)
    ends = calibration_bins([0.0, 0.1, 1.0], [True, True, True])
    assert [one.clips for one in ends] == [1, 1, 0, 0, 0, 0, 0, 0, 0, 1]
    assert (ends[2].score, ends[2].accuracy) == (None, None)


# Resampling.


def test_resampled_figures_are_those_of_the_definition_on_the_clips_that_were_drawn(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each resample, made slowly: whole people drawn, their clips put together, counted anew."""
    drawn: list[list[int]] = []

    class Dice:
        def integers(self, units: int, size: int) -> Any:
            drawn.append([dice.randrange(units) for _ in range(size)])
            return drawn[-1]

    dice = random.Random(4)
    monkeypatch.setattr("numpy.random.default_rng", lambda seed: Dice())
    found = of_rows(ROWS).bootstrap(resamples=40)
    people = ["p1", "p2", "p3"]
    assert (found.units, found.resampled, len(drawn)) == (3, "groups", 40)
    slowly = [
        slow([row for person in one for row in ROWS if row[4] == people[person]]) for one in drawn
    ]
    for name in ("accuracy", "mean_class_accuracy", "mean_f1", "top_k"):
        values = sorted(one[name] for one in slowly)
        low, high = (between(values, part) for part in (0.025, 0.975))
        assert found.intervals[name] == pytest.approx((low, high)), name


def between(values: Sequence[float], part: float) -> float:
    """A quantile, as straight lines between the sorted values have it."""
    place = part * (len(values) - 1)
    below = math.floor(place)
    above = min(below + 1, len(values) - 1)
    return values[below] + (place - below) * (values[above] - values[below])


def test_the_same_seed_gives_the_same_intervals() -> None:
    result = of_rows(ROWS)
    assert result.bootstrap(seed=3) == result.bootstrap(seed=3)
    assert result.bootstrap(seed=3) != result.bootstrap(seed=4)
    assert result.as_dict()["bootstrap"] == result.as_dict()["bootstrap"]


def test_clips_of_one_person_make_the_interval_wider_than_as_many_strangers() -> None:
    """Twenty people, ten alike clips each: what is known is twenty things, not two hundred."""
    rows = [
        ("a", "a" if person % 2 else "b", 0.5, 1, f"p{person}")
        for person in range(20)
        for _ in range(10)
    ]
    together = of_rows(rows).bootstrap().intervals["accuracy"]
    alone = of_rows([(*row[:4], str(at)) for at, row in enumerate(rows)]).bootstrap()
    apart = alone.intervals["accuracy"]
    assert together is not None
    assert apart is not None
    assert together[1] - together[0] > 2.5 * (apart[1] - apart[0])


def test_one_person_tells_nothing_of_others() -> None:
    found = of_rows([(*row[:4], "p") for row in ROWS]).bootstrap()
    assert found.units == 1
    assert set(found.intervals.values()) == {None}


def test_resampling_single_clips_comes_near_wilson() -> None:
    rows = [("a", "a" if at % 4 else "b", 0.5, 1, "") for at in range(400)]
    result = tally(LABELS, [("x", *row[:3]) for row in rows])
    found = result.bootstrap()
    assert (found.resampled, found.units) == ("clips", 400)
    assert found.intervals["accuracy"] == pytest.approx(result.interval, abs=0.01)
    assert "top_k" not in found.intervals


def test_parts_of_one_file_are_drawn_together(lora_run: Path, test_clips: list[Path]) -> None:
    """They are one recording, even where nobody gave it a group."""
    recogniser = load(lora_run)
    footage = [
        (test_clips[0], Stretch(0.0, 0.5)), (test_clips[0], Stretch(0.5)),
        (test_clips[1], None), (test_clips[2], None),
    ]  # fmt: skip
    clips = [LabelledClip(path, "bend", "test", None, stretch) for path, stretch in footage]
    found = evaluate_clips(recogniser, clips)
    assert (found.bootstrap().resampled, found.bootstrap().units) == ("groups", 3)
    assert len({answer[0] for answer in found.answers}) == 4
    whole = evaluate_clips(recogniser, [replace(clip, stretch=None) for clip in clips])
    assert whole.bootstrap().resampled == "clips"
    for (path, stretch), answer in zip(footage, found.answers, strict=True):
        assert answer[3] == recogniser.classify(path, stretch=stretch).score


def test_clips_below_the_threshold_are_counted_as_unknown(lora_run: Path, few_clips: Path) -> None:
    recogniser = load(lora_run)
    scores = sorted(answer[3] for answer in evaluate(recogniser, few_clips).answers)
    strict = replace(recogniser, unknown_threshold=scores[3])
    assert evaluate(strict, few_clips).unknown == 3
    assert evaluate(recogniser, few_clips).unknown == 0


# The command.

KEYS = {
    "clips", "accuracy", "interval_95", "chance", "per_class", "labels", "confusion", "left_out",
    "unknown", "top_k", "top5", "mean_class_accuracy", "mean_precision", "mean_f1", "classes",
    "calibration_error", "calibration_bins", "bootstrap", "views", "learned",
}  # fmt: skip
"""Scripts lean on them: add to them, take none away."""


def test_json_has_every_key_whatever_the_data(
    lora_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(["evaluate", str(lora_run), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found.keys() == KEYS | {"sets"}
    assert found["sets"] == {}
    assert found["top_k"] is None  # of two labels
    assert found["learned"] == 0
    assert found["views"] == {"clips": 1, "crops": 1}
    assert found["classes"]["bend"].keys() == {"clips", "answered", "precision", "recall", "f1"}
    assert len(found["calibration_bins"]) == 10
    boot = found["bootstrap"]
    assert (boot["resampled"], boot["units"], boot["seed"]) == ("groups", 2, 0)
    assert boot["interval_95"].keys() == {"accuracy", "mean_class_accuracy", "mean_f1", "top_k"}


def test_real_answers_are_counted_as_one_by_one(lora_run: Path, few_clips: Path) -> None:
    recogniser = load(lora_run)
    result = evaluate(recogniser, few_clips, split="all")
    slowly = []
    lines = few_clips.read_text().splitlines()[1:]
    for path, truth, _, person in (line.split(",") for line in lines):
        logits = recogniser.classify(path).logits
        powers = [math.exp(value) for value in logits]
        scores = [power / sum(powers) for power in powers]
        best = scores.index(max(scores))
        rank = 1 + sum(score > scores[recogniser.labels.index(truth)] for score in scores)
        slowly.append((truth, recogniser.labels[best], scores[best], rank, person))
    assert [(one[1], one[2]) for one in result.answers] == [one[:2] for one in slowly]
    assert [one[3] for one in result.answers] == pytest.approx([one[2] for one in slowly])
    assert list(result.ranks) == [one[3] for one in slowly]
    assert list(result.groups) == [one[4] for one in slowly]
    right = sum(one[0] == one[1] for one in slowly)
    assert result.accuracy == right / len(slowly)


def test_named_sets_are_judged_beside_the_data(
    lora_run: Path, few_clips: Path, test_clips: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    youtube = few_clips.with_name("youtube.csv")  # names no splits
    youtube.write_text("path,label\n" + "".join(f"{path},bend\n" for path in test_clips[:3]))
    extras = ["--extra", f"youtube={youtube}", "--extra", f"the same={few_clips}"]
    assert cli.run(["evaluate", str(lora_run), *extras, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    sets = found.pop("sets")
    assert list(sets) == ["youtube", "the same"]
    assert all(one.keys() == KEYS for one in sets.values())
    assert sets["the same"] == found  # its test split
    alone = evaluate(load(lora_run), youtube, split="all")
    assert sets["youtube"]["confusion"] == [list(row) for row in alone.confusion]
    assert (sets["youtube"]["clips"], sets["youtube"]["bootstrap"]["resampled"]) == (3, "clips")
    assert cli.run(["evaluate", str(lora_run), *extras]) == 0
    out = capsys.readouterr().out
    assert "youtube" in out
    assert "the same" in out


def test_data_as_the_field_lays_it_out_is_judged_and_a_mismatch_is_told(
    lora_run: Path, few_clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [line.split(",") for line in few_clips.read_text().splitlines() if ",test," in line]
    listed = tmp_path / "test.txt"
    listed.write_text("".join(f"{path} {label}\n" for path, label, *_ in rows))
    words = ["evaluate", str(lora_run), "--data", str(listed), "--split", "all"]
    assert cli.run([*words, "--format", "list"]) == 0
    assert "on 8 clips" in capsys.readouterr().out
    assert cli.run([*words, "--format", "folders"]) == 2
    assert "DataFormatError" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("extras", "message"),
    [
        (["youtube"], "no NAME=DATA"),
        (["=clips"], "no NAME=DATA"),
        (["youtube="], "no NAME=DATA"),
        (["a=x", "a=y"], "the name a is taken"),
    ],
)
def test_sets_without_a_name_of_their_own_are_refused(
    extras: list[str], message: str, lora_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [word for extra in extras for word in ("--extra", extra)]
    assert cli.run(["evaluate", str(lora_run), *words]) == 2
    assert message in capsys.readouterr().err


def test_a_set_of_strange_labels_is_refused_before_any_clip_is_decoded(
    lora_run: Path, few_clips: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    strange = few_clips.with_name("strange.csv")
    text = few_clips.read_text().replace(",bend,", ",Bend it,")
    strange.write_text(text.replace(",wave_two_hands,", ",Wave two_hands,"))
    recogniser = load(lora_run)
    monkeypatch.setattr("lora_deploy.evaluate.ask", lambda *_: pytest.fail("a clip was looked at"))
    with pytest.raises(UnknownLabelError) as caught:
        evaluate_sets(recogniser, few_clips, {"youtube": strange})
    told = str(caught.value)
    assert told.startswith(f"the set youtube ({strange}) has labels that the model does not know: ")
    assert "Bend it, Wave two_hands; it knows: bend, wave_two_hands" in told
    assert "(Wave two_hands may be its wave_two_hands)" in told
    assert "name them as the model does" in told


def test_clips_that_the_run_learned_from_are_counted_and_told(
    lora_run: Path, few_clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = few_clips.read_text().splitlines()
    train = [line.split(",")[0] for line in lines if ",train," in line][:2]
    link = tmp_path / "another name.mp4"
    link.symlink_to(train[1])
    mixed = tmp_path / "mixed.csv"
    mixed.write_text(f"path,label\n{train[0]},bend\n{link},bend\n")
    words = ["evaluate", str(lora_run), "--extra", f"mixed={mixed}"]
    assert cli.run([*words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["learned"], found["sets"]["mixed"]["learned"]) == (0, 2)
    assert cli.run(words) == 0
    assert "! 2 of mixed are clips that the model learned from" in capsys.readouterr().out


def test_a_bundle_can_not_tell_what_it_learned_from(
    bundle: Path, few_clips: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(["evaluate", str(bundle), "--data", str(few_clips), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["learned"] is None


@pytest.mark.parametrize("long", ["kick", "a very long name " * 6, "挥手" * 30, "a\nb\x1b[31m"])
def test_the_table_stays_within_eighty_columns_and_obeys_no_label(long: str) -> None:
    labels = (long, "b", "c")
    answers = [("x", long, "b", 0.9), ("x", "b", "b", 0.9), ("x", "c", long, 0.9)]
    one = tally(labels, answers, ranks=[2, 1, 3], groups=["p", "q", "q"])
    told = measured(Measured(one, {long: one, "other": one}))
    for line in told.splitlines():
        assert cell_len(line) <= 80, line
    assert "\x1b" not in told
    assert ("…" in told) == (cell_len(long) > 26)
    assert "resampling whole groups (2)" in told
    assert "→ b  1 of 1" in told
