"""The report of a training: real figures, safe for any label, nothing loaded or run, down to a phone's width."""

import base64
import io
import json
import re
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, ConsoleMessage

from lora_deploy.artifact import run
from lora_deploy.clips.clip import Footage
from lora_deploy.clips.duplicates import NearDuplicate
from lora_deploy.evaluate import Evaluation, tally
from lora_deploy.proof.page import POLICY
from lora_deploy.proof.wording import percent
from lora_deploy.runtime.load import load
from lora_deploy.train.duplicates import write_duplicates
from lora_deploy.train.report import MOST_CLASSES, write_report
from lora_deploy.train.report.copies import MOST_PAIRS
from lora_deploy.train.report.curves import MOST_POINTS, curves
from lora_deploy.train.report.matrix import MOST_NAMED
from lora_deploy.train.report.worst import MOST_FOLDED, SHOWN
from tests.sample_reports import (
    ACTIONS,
    evaluation_of,
    frames_of,
    manifest_of,
    metrics_of,
    write_sample,
)
from tests.test_certificate_page import HOSTILE, Parsed


def page_of(folder: Path, evaluation: Evaluation, metrics: str | None = None) -> str:
    return write_sample(folder / "run", evaluation, metrics=metrics).read_text()


def section_of(page: str, identifier: str) -> str:
    """One section's text."""
    [body] = re.findall(rf"<section id={identifier}>(.*?)</section>", page, re.DOTALL)
    return Parsed(body).text


def test_the_report_shows_what_was_measured(lora_run: Path) -> None:
    page = (lora_run / "report.html").read_text()
    best = run.read_run_manifest(lora_run).best
    text = Parsed(page).text
    assert f"{percent(best.val_accuracy)} of {best.val_clips} validation clips right" in text
    assert "wave_two_hands" in text
    assert "Drawing whole groups again (2 of them)" in text or best.val_accuracy in (0, 1)
    for identifier in ("curves", "classes", "confusion", "worst", "scores", "made-with", "words"):
        assert len(section_of(page, identifier)) > 20, identifier
    judged = [
        line
        for line in map(json.loads, (lora_run / "metrics.jsonl").read_text().splitlines())
        if "eval_accuracy" in line
    ]
    assert f"The figures of {len(judged)} epochs" in text
    assert text.count("✓ kept") == 1


def test_the_report_of_a_whole_fine_tuning_has_no_adapter(full_run: Path) -> None:
    assert "no adapter" in Parsed((full_run / "report.html").read_text()).text


def test_validation_answers_are_those_of_the_run_opened_anew(
    lora_run: Path, few_clips: Path
) -> None:
    recogniser = load(lora_run)
    rows = [line.split(",") for line in few_clips.read_text().splitlines()]
    wrong = [
        Path(path).name
        for path, label, split, *_ in rows
        if split == "val" and recogniser.classify(path).label != label
    ]
    text = section_of((lora_run / "report.html").read_text(), "worst")
    assert wrong
    assert f"{len(wrong)} clip" in text
    assert all(name in text for name in wrong)


SAMPLES = {
    "few": evaluation_of(ACTIONS[:6], 64, 0.85),
    "named": evaluation_of([f"class {at}" for at in range(MOST_NAMED)], 90, 0.7),
    "a picture": evaluation_of([f"class {at}" for at in range(60)], 200, 0.5),
    "all right": evaluation_of(ACTIONS[:2], 6, 1.0),
    "strange": evaluation_of(["مصافحة", "x" * 120, "挥手", "a b " * 40], 40, 0.5),
}
each_sample = pytest.mark.parametrize("evaluation", SAMPLES.values(), ids=SAMPLES)


@each_sample
def test_the_report_is_sound_html_that_runs_and_loads_nothing(
    evaluation: Evaluation, tmp_path: Path
) -> None:
    page = page_of(tmp_path, evaluation)
    parsed = Parsed(page)
    assert not {"script", "iframe", "object", "embed", "form", "base"} & set(parsed.tags)
    assert [name for _, name, _ in parsed.attributes if name.startswith("on")] == []
    addresses = [value for _, name, value in parsed.attributes if name in ("src", "href")]
    assert all(address.startswith("data:") for address in addresses)
    assert not re.findall(r"url\(|@import|://", page)
    assert page.index(POLICY) < page.index("<style>")


def test_no_word_of_a_stranger_becomes_markup(tmp_path: Path) -> None:
    def report(spoil: str) -> str:
        labels = [f"{label}{spoil}" for label in ACTIONS[:4]]
        answers = [
            (f"/data/{at}{spoil}.mp4", labels[at % 4], labels[at % 3], 0.6) for at in range(20)
        ]
        evaluation = tally(labels, answers, [f"x{spoil}"])
        folder = tmp_path / f"run{len(spoil)}"
        folder.mkdir()
        (folder / run.METRICS).write_text(metrics_of(3))
        (folder / run.SETTINGS).write_text(f"model: {spoil}\n")
        pair = NearDuplicate(
            Footage(Path(f"/data/a{spoil}.mp4")),
            "train",
            Footage(Path(f"/data/b{spoil}.mp4")),
            "test",
            0.1,
            True,
        )
        write_duplicates(folder, [pair] * (MOST_PAIRS + 2))
        base = manifest_of(labels).base.model_copy(
            update={"id": f"base{spoil}", "licence": f"mit{spoil}"}
        )
        manifest = manifest_of(labels).model_copy(
            update={"base": base, "versions": {f"torch{spoil}": f"2{spoil}"}}
        )
        write_report(folder, manifest, evaluation, frames_of)
        return (folder / run.REPORT).read_text()

    tame, wild = Parsed(report("")), Parsed(report(HOSTILE.replace("/", "∕")))
    assert "2 more pairs in near_duplicates.csv" in tame.text
    assert set(wild.tags) == set(tame.tags)
    assert {name for _, name, _ in wild.attributes} == {name for _, name, _ in tame.attributes}
    assert wild.text.count("<script>alert(1)") > 30


def test_a_direction_mark_turns_nothing_but_its_own_name_round(tmp_path: Path) -> None:
    labels = [f"{label}\u202e" for label in ACTIONS[:4]]
    page = page_of(tmp_path, evaluation_of(labels, 40, 0.5))
    for at in (found.start() for found in re.finditer("\u202e", page)):
        before = page[:at]
        assert before.rfind("<bdi>") > before.rfind("</bdi>")


def test_classes_that_do_worst_come_first_and_the_rest_are_folded(tmp_path: Path) -> None:
    evaluation = evaluation_of([f"class {at}." for at in range(MOST_CLASSES + 3)], 150, 0.6)
    page = page_of(tmp_path, evaluation)
    [body] = re.findall(r"<section id=classes>(.*?)</section>", page, re.DOTALL)
    f1s = [float(found) for found in re.findall(r'data-label="F1"><div>([\d.]+)%', body)]
    assert len(f1s) == MOST_CLASSES + 3
    assert f1s == sorted(f1s)
    assert body.split("<details>")[0].count("<tr role=row><th role=rowheader") == MOST_CLASSES
    assert "3 classes that do better" in body


def test_the_matrix_has_each_count_in_its_cell(tmp_path: Path) -> None:
    evaluation = SAMPLES["few"]
    page = page_of(tmp_path, evaluation)
    [table] = re.findall(r"<table class='matrix.*?</table>", page, re.DOTALL)
    rows = re.findall(r"<tr><th scope=row>(.*?)(?=<tr>|</table>)", table, re.DOTALL)
    found = [[int(value or 0) for value in re.findall(r"<td[^>]*>(\d*)", row)] for row in rows]
    assert found == [list(row) for row in evaluation.confusion]
    text = section_of(page, "confusion")
    truth, answer, clips, of = evaluation.confusions[0]
    assert f"{truth} → {answer} {clips} of {of}" in text


def test_more_labels_than_can_be_named_are_a_picture(tmp_path: Path) -> None:
    page = page_of(tmp_path, SAMPLES["a picture"])
    cells = sum(value > 0 for row in SAMPLES["a picture"].confusion for value in row)
    assert page.count("<rect class=r ") + page.count("<rect class=w ") == cells
    assert "<table class='matrix" not in page


def test_the_surest_wrong_answers_come_first_with_the_middle_frame_of_their_clip(
    tmp_path: Path,
) -> None:
    evaluation = evaluation_of(ACTIONS, 200, 0.5)
    wrong = [(at, row) for at, row in enumerate(evaluation.answers) if row[1] != row[2]]
    assert len(wrong) > SHOWN + MOST_FOLDED
    wrong.sort(key=lambda one: -one[1][3])
    page = page_of(tmp_path, evaluation)
    [body] = re.findall(r"<section id=worst>(.*?)</section>", page, re.DOTALL)
    assert body.split("<details>")[0].count("<li class=card>") == SHOWN
    assert body.count("<li class=card>") == SHOWN + MOST_FOLDED
    assert f"{len(wrong) - SHOWN - MOST_FOLDED} more are not shown" in body
    names = re.findall(r"<b><bdi>(.*?)</bdi></b>", body)
    assert names == [Path(row[0]).name for _, row in wrong[: SHOWN + MOST_FOLDED]]
    first = re.findall(r"data:image/jpeg;base64,([^\"]+)", body)[0]
    shown = np.asarray(Image.open(io.BytesIO(base64.b64decode(first))), np.int64)
    frames = frames_of(wrong[0][0])
    assert np.abs(shown - frames[len(frames) // 2]).mean() < 12


def test_metrics_with_gaps_and_nonsense_still_give_curves() -> None:
    assert curves([], 1) == "<div class=charts></div>"
    lines = [
        {"epoch": 0.5, "loss": float("nan")},
        {"epoch": 0.7, "loss": 0.0},
        {"epoch": 1.0, "eval_loss": float("inf"), "eval_accuracy": 0.5},
    ]
    Parsed(curves(lines, 1))
    only_training = curves([{"epoch": 1.0, "loss": 2.0}], 1)
    assert "Accuracy" not in only_training
    assert "nan" not in curves(lines, 1)


def test_many_steps_are_averaged_and_keep_their_mean() -> None:
    lines = [{"epoch": step / 1000, "loss": 1 + (step % 2)} for step in range(10_000)]
    page = curves(lines, 1)
    [path] = re.findall(r"<path class=first d='M([^']*)'/><circle", page)
    heights = [float(point.split()[1]) for point in path.split("L")]
    assert len(heights) <= MOST_POINTS
    assert max(heights) - min(heights) < 1  # all at 1.5


def test_a_metrics_line_that_was_cut_off_is_passed_over(tmp_path: Path) -> None:
    page = page_of(tmp_path, SAMPLES["few"], metrics=metrics_of(3) + '{"epoch": 4.0, "lo')
    assert "The figures of 3 epochs" in page


def test_metrics_are_plain_json_lines(lora_run: Path) -> None:
    for line in (lora_run / "metrics.jsonl").read_text().splitlines():
        assert isinstance(json.loads(line), dict)


def test_a_page_of_hundreds_of_classes_stays_small(tmp_path: Path) -> None:
    page = page_of(tmp_path, evaluation_of([f"class {at}" for at in range(400)], 4000, 0.5))
    assert len(page) < 1_000_000


def _note(said: list[str], message: ConsoleMessage) -> None:
    said.append(message.text)


@pytest.mark.parametrize("width", [1280, 360])
def test_nobody_scrolls_sideways_and_the_browser_complains_of_nothing(
    width: int, chromium: Browser, tmp_path: Path, lora_run: Path
) -> None:
    pages = {name: tmp_path / name / "report.html" for name in SAMPLES}
    for name, evaluation in SAMPLES.items():
        write_sample(pages[name].parent, evaluation)
    pages["real"] = Path(shutil.copy(lora_run / "report.html", tmp_path))
    context = chromium.new_context(viewport={"width": width, "height": 900})
    try:
        for name, path in pages.items():
            page = context.new_page()
            complaints: list[str] = []
            page.on("console", partial(_note, complaints))
            page.goto(path.as_uri())
            page.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
            assert page.evaluate("document.documentElement.scrollWidth") <= width, name
            beyond = page.evaluate(
                "[...document.querySelectorAll('main *')].filter(one => "
                "one.getBoundingClientRect().right > innerWidth + 1).map(one => one.outerHTML)"
            )
            assert beyond == [], name
            assert complaints == [], name
            page.close()
    finally:
        context.close()
