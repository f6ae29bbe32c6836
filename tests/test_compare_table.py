"""The table of a comparison: which methods, on which clips, and what is made of what they left."""

import csv
import io
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lora_deploy.clips.dataset import read_dataset
from lora_deploy.compare import outcome
from lora_deploy.compare.conduct import _Plan, sets_of, shared_clips
from lora_deploy.compare.folds import GROUP, check_pattern, make_folds, write_manifests
from lora_deploy.compare.keep import as_csv, as_markdown, as_text
from lora_deploy.compare.methods import Method, choose_methods, guide_methods, recipe_method
from lora_deploy.compare.outcome import Asked, Counted, Failure, Outcome, SetOfClips, Trained
from lora_deploy.compare.page import comparison_html
from lora_deploy.compare.result import Comparison
from lora_deploy.compare.table import Circumstances, Found, tabulate
from lora_deploy.compare.wording import headline, verdicts
from lora_deploy.config import Settings, load_settings, recipe_path
from lora_deploy.errors import (
    ComparisonChangedError,
    EmptySplitError,
    LeaveOutError,
    SettingsClashError,
)
from tests import sample_comparisons as samples
from tests.test_certificate_page import HOSTILE, Parsed

# Methods


def test_the_guides_three_differ_in_nothing_but_what_learns() -> None:
    settings = load_settings(recipe_path("quickstart"))
    full, eight, four = guide_methods(settings)
    assert [m.name for m in (full, eight, four)] == ["full fine-tuning", "LoRA r=8", "LoRA r=4"]
    assert not full.settings.model.use_lora
    assert full.settings.training.learning_rate == 1e-3
    assert eight.settings == settings
    assert (four.settings.model.lora.r, four.settings.model.lora.lora_alpha) == (4, 8)
    for method in (full, four):
        same = method.settings.model_copy(
            update={"model": settings.model, "training": settings.training}
        )
        assert same == settings


def test_kinds_of_lora_are_called_by_their_name_and_patterns_stay_with_their_rank() -> None:
    settings = load_settings(None, ["model.lora.use_dora=true", "model.lora.rank_pattern={fc: 16}"])
    _, eight, four = guide_methods(settings)
    assert (eight.name, four.name) == ("DoRA r=8", "DoRA r=4")
    assert eight.settings.model.lora.rank_pattern == {"fc": 16}
    assert four.settings.model.lora.rank_pattern == {}


def test_layer_decay_is_for_full_fine_tuning_alone() -> None:
    settings = load_settings(None, ["model.use_lora=false", "training.layer_decay=0.75"])
    full, eight, _ = guide_methods(settings)
    assert full.settings.training.layer_decay == 0.75
    assert eight.settings.training.layer_decay == 1.0


def test_the_ratio_of_rates_is_that_of_the_recipes() -> None:
    full = load_settings(recipe_path("full_finetuning")).training.learning_rate
    assert guide_methods(Settings())[0].learning_rates == (full,)


def test_settings_of_full_fine_tuning_give_the_same_table() -> None:
    full = load_settings(recipe_path("config"), ["model.use_lora=false"])
    rates = {m.name: m.learning_rates[0] for m in guide_methods(full)}
    assert rates == {"full fine-tuning": 1e-4, "LoRA r=8": 2e-4, "LoRA r=4": 2e-4}


def test_another_rank_and_the_head_alone_are_rows_too() -> None:
    sixteen = load_settings(recipe_path("lora_r16_qkv_fc"))
    assert "LoRA r=16" in [m.name for m in guide_methods(sixteen)]
    head = load_settings(None, ["model.use_lora=false", "model.freeze_base=true"])
    assert guide_methods(head)[-1].settings == head


def test_a_recipe_says_what_its_file_says_and_leaves_the_rest_as_it_is(tmp_path: Path) -> None:
    settings = load_settings(recipe_path("quickstart"), ["training.epochs=3"])
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("model:\n  lora:\n    target_modules: [qkv]\n")
    method = recipe_method(str(recipe), settings)
    assert method.name == "mine"
    lora = settings.model.lora.model_copy(update={"target_modules": ["qkv"]})
    model = settings.model.model_copy(update={"lora": lora})
    assert method.settings == settings.model_copy(update={"model": model})
    overridden = recipe_method("lora_r4", settings, ["training.epochs=2"])
    assert overridden.settings.training.epochs == 2
    assert overridden.settings.training.learning_rate == 1e-4
    assert overridden.settings.model.base == settings.model.base


def test_a_recipe_that_is_a_row_already_is_none_twice() -> None:
    settings = load_settings(recipe_path("config"))
    assert len(choose_methods(settings, ["config", "lora_r4"])) == 3


def test_two_recipes_of_one_name_are_refused(tmp_path: Path) -> None:
    paths = [tmp_path / "a" / "same.yaml", tmp_path / "b" / "same.yaml"]
    for number, path in enumerate(paths):
        path.parent.mkdir()
        path.write_text(f"training:\n  batch_size: {3 + number}\n")
    with pytest.raises(SettingsClashError, match="two methods are called same"):
        choose_methods(Settings(), [str(path) for path in paths])


def test_rates_are_multiples_of_each_methods_own() -> None:
    full, eight, _ = choose_methods(Settings(), rate_factors=(0.5, 1.0))
    assert full.learning_rates == (2.5e-5, 5e-5)
    assert eight.learning_rates == (5e-5, 1e-4)
    assert eight.training(learning_rate=5e-5, seed=7).training.seed == 7


# Folds


def test_a_layout_of_the_field_is_read_once_and_trainings_read_a_manifest(
    few_clips: Path, tmp_path: Path
) -> None:
    lines = [line.split(",") for line in few_clips.read_text().splitlines()[1:]]
    for _, label, split, _ in lines:
        (tmp_path / "lists" / split / label).mkdir(parents=True, exist_ok=True)
    for path, label, split, _ in lines:
        (tmp_path / "lists" / split / label / Path(path).name).symlink_to(path)
    settings = load_settings(None, ["data.format=folders", "data.fold=2"])
    (fold,) = make_folds(tmp_path / "lists", tmp_path, settings, None)
    write_manifests([fold])
    plan = _Plan(
        out=tmp_path, methods=guide_methods(settings), seeds=[0], folds=[fold],
        sets=[sets_of(fold, {})], device=None, threads=1,
    )  # fmt: skip
    told = plan.settings(plan.methods[0], 0, 0)
    assert told.data.format == "auto"  # ucf101, say, would look for its lists beside our manifest
    again = read_dataset(
        fold.manifest, val_fraction=0.1, test_fraction=0.1, seed=0, data_format=told.data.format
    )
    assert told.data.fold == 1
    assert again.labels == fold.dataset.labels
    assert len(again.of("test")) == 8


def test_one_division_is_drawn_once_and_tests_something(few_clips: Path, tmp_path: Path) -> None:
    (fold,) = make_folds(few_clips, tmp_path, Settings(), None)
    assert [len(fold.dataset.of(split)) for split in ("train", "val", "test")] == [12, 8, 8]
    lines = few_clips.read_text().splitlines()
    without = tmp_path / "without.csv"
    without.write_text("\n".join(line for line in lines if ",test," not in line))
    with pytest.raises(EmptySplitError, match="no test clips"):
        make_folds(without, tmp_path, Settings(), None)


@pytest.mark.parametrize("leave_out", [GROUP, r"/s(\d+)_"])
def test_each_group_is_tested_once_by_those_who_never_saw_it(
    leave_out: str, few_clips: Path, tmp_path: Path
) -> None:
    folds = make_folds(few_clips, tmp_path, Settings(), leave_out)
    tested = [clip.path for fold in folds for clip in fold.dataset.of("test")]
    everything = {clip.path for fold in folds for clip in fold.dataset.clips}
    assert len(folds) == 7
    assert len(tested) == len(set(tested)) == len(everything) == 28
    for fold in folds:
        people = {
            split: {clip.path.name.split("_")[0] for clip in fold.dataset.of(split)}
            for split in ("train", "val", "test")
        }
        assert all(people.values())
        assert people["train"].isdisjoint(people["val"] | people["test"])
        assert people["val"].isdisjoint(people["test"])
        assert people["test"] == {f"s{fold.name.removeprefix('s')}"}


def test_folds_stand_in_the_order_of_their_numbers(media: Path, tmp_path: Path) -> None:
    data = tmp_path / "clips.csv"
    clips = sorted((media / "dataset" / "weizmann4").rglob("*.mp4"))
    rows = [f"{clip},{clip.parent.name},g{10 + i % 4}\n" for i, clip in enumerate(clips)]
    data.write_text("path,label,group\n" + "".join(rows).replace("g10", "g2"))
    assert [fold.name for fold in make_folds(data, tmp_path, Settings(), GROUP)] == [
        "g2", "g11", "g12", "g13",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("leave_out", "words"),
    [
        (r"nothing(\d)", "finds no group in"),
        (r"/(wave|bend)[^/]*/", "finds 2 groups"),
    ],
)
def test_groups_that_cannot_be_left_out_are_an_error(
    leave_out: str, words: str, few_clips: Path, tmp_path: Path
) -> None:
    with pytest.raises(LeaveOutError, match=re.escape(words)):
        make_folds(few_clips, tmp_path, Settings(), leave_out)


def test_clips_without_a_group_cannot_be_left_out(few_clips: Path, tmp_path: Path) -> None:
    data = tmp_path / "clips.csv"
    data.write_text(re.sub(r",s0$", ",", few_clips.read_text(), flags=re.MULTILINE))
    with pytest.raises(LeaveOutError, match="has no group"):
        make_folds(data, tmp_path, Settings(), GROUP)


@pytest.mark.parametrize("pattern", ["(", "person", "(a)(b)"])
def test_a_pattern_needs_one_bracket(pattern: str) -> None:
    with pytest.raises(LeaveOutError):
        check_pattern(pattern)


# From outcomes to rows

METHOD = Method("LoRA r=8", Settings(), (1e-4,))


def trained(**changes: Any) -> Trained:
    values: dict[str, Any] = {
        "parameters": {"trainable": 10, "total": 100, "lora": 8, "head": 2},
        "base": "abc", "epochs": 4, "best_epoch": 2, "val_accuracy": 0.5, "val_loss": 1.0,
        "val_clips": 8, "seconds": 8.0, "seconds_to_best": 4.0, "peak_memory_bytes": 1000,
        "memory_of": "process", "memory_before_bytes": 400, "checkpoint_bytes": 50,
        "adapter_bytes": 5, "curve": ((1, 0.25), (2, 0.5)), "interrupted": False,
        "processor": "P", "device": "CPU", "threads": 1, "versions": {"torch": "2"},
        "date": "2026-11-26",
    }  # fmt: skip
    return Trained(**{**values, **changes})


def left(right: int, answered: int = 8, **changes: Any) -> Outcome:
    counted = Counted(clips="x", right=right, answered=answered, left_out=0)
    return Outcome(
        asked=Asked(settings={}, clips={}),
        trained=trained(**changes),
        sets={"train": counted, "test": counted},
    )


def table(few_clips: Path, out: Path, found: list[Found], seeds: int, folds: int = 1) -> Comparison:
    (fold,) = make_folds(few_clips, out, Settings(), None)
    sets = {
        split: SetOfClips(source=str(few_clips), split=split, clips="x")
        for split in ("train", "val", "test")
    }
    circumstances = Circumstances(
        command=None, data="clips", seeds=tuple(range(seeds)),
        folds=[replace(fold, name=str(i)) for i in range(folds)],
        sets=[sets] * folds, jobs=1, notes=(),
    )  # fmt: skip
    methods = list({one.method.name: one.method for one in found}.values())
    return tabulate(methods, found, Failure(error="none here", name=None), circumstances)


def test_accuracy_is_over_all_folds_together_and_its_spread_over_seeds(
    few_clips: Path, tmp_path: Path
) -> None:
    found = [
        Found(METHOD, 0, tried={0: left(8)}, outcomes={0: left(8), 1: left(6)}),
        Found(METHOD, 1, tried={0: left(0, 2)}, outcomes={0: left(0, 2), 1: left(2, 2)}),
    ]
    (row,) = table(few_clips, tmp_path, found, seeds=2, folds=2).methods
    test = row.accuracy["test"]
    assert test.by_seed == (8 / 10, 8 / 10)
    assert test.spread == 0
    assert test.clips == 10
    assert row.trainings == 4


def test_a_seed_that_lacks_a_fold_does_not_count(few_clips: Path, tmp_path: Path) -> None:
    found = [
        Found(METHOD, 0, tried={0: left(8)}, outcomes={0: left(8), 1: left(8)}),
        Found(METHOD, 1, tried={0: left(2)}, outcomes={0: left(2)}, failures=["it broke"]),
    ]
    shown = table(few_clips, tmp_path, found, seeds=2, folds=2)
    assert shown.methods[0].accuracy["test"].by_seed == (10 / 16,)
    assert shown.methods[0].accuracy["test"].spread is None
    assert shown.failures == ("it broke",)


def test_a_method_without_a_whole_seed_is_a_row_with_its_error(
    few_clips: Path, tmp_path: Path
) -> None:
    other = replace(METHOD, name="broken")
    found = [
        Found(METHOD, 0, tried={0: left(8)}, outcomes={0: left(8)}),
        Found(other, 0, failures=["broken, seed 0: no layer is called w2"]),
    ]
    shown = table(few_clips, tmp_path, found, seeds=1)
    assert [row.name for row in shown.failed] == ["broken"]
    for text in (as_text(shown), as_markdown(shown), as_csv(shown), comparison_html(shown)):
        assert "no layer is called w2" in text
        assert "LoRA r=8" in text


def test_the_rate_is_chosen_by_validation_clips_then_by_their_loss() -> None:
    better = left(0, val_accuracy=0.75)
    found = Found(METHOD, 0, tried={0: left(8, val_accuracy=0.5), 1: better})
    assert found.chosen == 1
    found.tried = {0: left(8, val_loss=1.1), 1: left(0, val_loss=0.9)}
    assert found.chosen == 1
    assert Found(METHOD, 0).chosen is None


def test_trainings_on_other_weights_of_the_same_base_are_not_mixed(
    few_clips: Path, tmp_path: Path
) -> None:
    other = replace(METHOD, name="LoRA r=4")
    found = [
        Found(METHOD, 0, tried={0: left(8)}, outcomes={0: left(8)}),
        Found(other, 0, tried={0: left(8)}, outcomes={0: left(8, base="another")}),
    ]
    with pytest.raises(ComparisonChangedError, match="different weights of videomae-nano"):
        table(few_clips, tmp_path, found, seeds=1)


def test_what_differs_between_trainings_is_noted(few_clips: Path, tmp_path: Path) -> None:
    changed = left(8, versions={"torch": "3"}, processor="Q", interrupted=True)
    found = [Found(METHOD, 0, tried={0: left(8)}, outcomes={0: left(8), 1: changed})]
    notes = " ".join(table(few_clips, tmp_path, found, seeds=2).notes)
    for words in ("several versions of torch: 2, 3", "several computers", "interrupted"):
        assert words in notes


def test_chance_names_the_most_frequent_label_of_each_set(few_clips: Path, tmp_path: Path) -> None:
    found = [Found(METHOD, 0, tried={0: left(8)}, outcomes={0: left(8)})]
    (chance,) = table(few_clips, tmp_path, found, seeds=1).baselines
    counts = Counter(line.split(",")[1] for line in few_clips.read_text().splitlines()[1:])
    assert set(counts.values()) == {14}
    assert chance.accuracy["test"].mean == 0.5


def test_figures_of_one_training_are_averages_of_what_it_left(
    few_clips: Path, tmp_path: Path
) -> None:
    longer = left(8, seconds=16.0, epochs=4, peak_memory_bytes=3000)
    found = [Found(METHOD, 0, tried={0: left(8)}, outcomes={0: left(8), 1: longer})]
    (row,) = table(few_clips, tmp_path, found, seeds=2).methods
    assert row.seconds_per_epoch.mean == 3.0
    assert row.peak_memory_bytes == 3000
    unknown = left(8, peak_memory_bytes=None)
    found = [Found(METHOD, 0, tried={0: unknown}, outcomes={0: unknown})]
    (row,) = table(few_clips, tmp_path, found, seeds=1).methods
    assert row.peak_memory_bytes is None


# What was made otherwise


def asked(**training: Any) -> Asked:
    settings = load_settings(None, [f"training.{key}={value}" for key, value in training.items()])
    return Asked.of(settings, {"train": "12 clips a", "val": "8 clips b"})


def test_what_was_made_otherwise_is_refused_with_its_difference(tmp_path: Path) -> None:
    outcome.write_outcome(tmp_path, left(8).model_copy(update={"asked": asked(epochs=3)}))
    outcome.check_same(tmp_path, asked(epochs=3))
    outcome.check_same(tmp_path, asked(epochs=3, workers=2))
    with pytest.raises(ComparisonChangedError, match=r"training.epochs was 3 and is 5"):
        outcome.check_same(tmp_path, asked(epochs=5))
    other = asked(epochs=3).model_copy(
        update={"clips": {"train": "13 clips c", "val": "8 clips b"}}
    )
    with pytest.raises(ComparisonChangedError, match="train clips were 12 clips a and are 13"):
        outcome.check_same(tmp_path, other)


def test_what_failed_may_be_tried_otherwise(tmp_path: Path) -> None:
    folder = tmp_path / "seed-0"
    job = outcome.Job(
        asked=asked(epochs=3), settings={}, manifest="", sets={}, frames="", device=None,
        threads=1, parent_pid=1,
    )  # fmt: skip
    folder.mkdir()
    (folder / outcome.JOB).write_text(job.model_dump_json())
    with pytest.raises(ComparisonChangedError):  # it was interrupted, and may go on
        outcome.check_same(folder, asked(epochs=5))
    (folder / outcome.FAILURE).write_text(Failure(error="x", name=None).model_dump_json())
    outcome.check_same(folder, asked(epochs=5))
    assert not folder.exists()


def test_a_clip_that_is_another_file_now_is_another_set(few_clips: Path, tmp_path: Path) -> None:
    (fold,) = make_folds(few_clips, tmp_path, Settings(), None)
    clips = fold.dataset.of("test")
    same = outcome.clips_digest(clips)
    copy = tmp_path / clips[0].path.name
    copy.write_bytes(clips[0].path.read_bytes())
    assert outcome.clips_digest([replace(clips[0], path=copy), *clips[1:]]) == same
    copy.write_bytes(b"shorter")
    assert outcome.clips_digest([replace(clips[0], path=copy), *clips[1:]]) != same


# What is written


def test_the_csv_has_plain_numbers_of_every_row() -> None:
    lines = list(
        csv.DictReader(io.StringIO(as_csv(samples.comparison(failed=(samples.failed(),)))))
    )
    assert [line["method"] for line in lines] == [
        "full fine-tuning", "LoRA r=8", "LoRA r=4", "huge", "chance", "motion, no model",
    ]  # fmt: skip
    eight = lines[1]
    assert int(eight["trainable_parameters"]) == 103_558
    assert float(eight["test_accuracy"]) == pytest.approx((342 + 345 + 340) / 3 / 360)
    assert float(eight["street_clips"]) == 40
    assert "SIGKILL" in lines[3]["failures"]
    assert lines[4]["peak_memory_bytes"] == ""


def test_markdown_is_one_table_with_what_belongs_to_it() -> None:
    text = as_markdown(samples.comparison(methods=(samples.method("a|b*c", 10),)))
    table_lines = [line for line in text.splitlines() if line.startswith("|")]
    assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table_lines}) == 1
    assert r"a\|b\*c" in text
    for words in (
        "standard deviation",
        "lora-deploy compare --config",
        "A processor",
        "2026-11-26",
    ):
        assert words in text


def test_the_page_holds_every_figure_and_loads_nothing() -> None:
    found = samples.comparison(
        methods=(*samples.comparison().methods, samples.method(HOSTILE, 10)),
        failed=(samples.failed(HOSTILE),), data=HOSTILE, command=HOSTILE, notes=(HOSTILE,),
    )  # fmt: skip
    page = comparison_html(found)
    parsed = Parsed(page)
    assert "script" not in parsed.tags
    assert not [value for _, name, value in parsed.attributes if name in ("src", "onerror")]
    assert "default-src 'none'" in page
    for words in ("1,878,214", "0.951 ± 0.007", "419 kB", "street", "SIGKILL", "Wilson"):
        assert words in parsed.text


def test_a_page_without_a_single_training_says_so() -> None:
    page = Parsed(comparison_html(samples.comparison(methods=(), failed=(samples.failed(),))))
    assert "No training came to its end" in page.text


@pytest.mark.parametrize(
    ("lora", "words"),
    [
        (samples.accuracies(360, 200, 205), "No method is clearly ahead"),
        (samples.accuracies(360, 342, 345), "LoRA r=8 is right on 95.4% of the test clips"),
    ],
)
def test_the_headline_says_no_more_than_the_intervals_allow(lora: Any, words: str) -> None:
    full = samples.method("full fine-tuning", 100)
    test = samples.accuracies(360, 198, 204)
    full = full.model_copy(update={"accuracy": {**full.accuracy, "test": test}})
    eight = samples.method("LoRA r=8", 10)
    eight = eight.model_copy(update={"accuracy": {**eight.accuracy, "test": lora}})
    assert headline(samples.comparison(methods=(full, eight))).startswith(words)


def test_a_set_that_motion_alone_solves_is_called_so() -> None:
    told = " ".join(
        verdicts(samples.comparison(baselines=(samples.baseline("motion, no model", 0.96),)))
    )
    assert "do not show that a video transformer is worth its cost" in told
    assert "worth its cost" not in " ".join(verdicts(samples.comparison()))


def test_clips_of_an_extra_set_that_were_learned_from_are_counted(
    few_clips: Path, tmp_path: Path
) -> None:
    folds = make_folds(few_clips, tmp_path, Settings(), None)
    of = {split: folds[0].dataset.of(split) for split in ("train", "val", "test")}
    street, fresh = tmp_path / "street.csv", tmp_path / "fresh.csv"
    for manifest, clips in (
        (street, (*of["train"][:2], of["val"][0], of["test"][0])),
        (fresh, of["test"]),
    ):
        rows = "".join(f"{clip.path},{clip.label}\n" for clip in clips)
        manifest.write_text(f"path,label\n{rows}")
    notes = list(shared_clips(folds, {"street": street, "fresh": fresh}))
    assert notes == ["3 clips of street were learned from or chose the best epoch, too"]
