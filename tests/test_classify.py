"""Batch inference: one row a clip, in order, whatever the clip; three formats of the same rows."""

import csv
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet
import pytest

from lora_deploy import cli
from lora_deploy.classify.inputs import find_items
from lora_deploy.classify.rows import COLUMNS, Row, check_ending, write_rows
from lora_deploy.classify.stream import classify
from lora_deploy.errors import DataError, LoraDeployError
from lora_deploy.runtime.load import load


@pytest.fixture(scope="module")
def mixed(media: Path, test_clips: list[Path]) -> list[str]:
    """Sound clips with bad ones among them."""
    return [
        str(test_clips[0]),
        str(media / "malformed" / "audio_only.mp4"),
        str(media / "attack" / "hls_relative_named.mp4"),
        str(test_clips[1]),
        str(media / "derived" / "book_zero_byte.mp4"),
        str(media / "nowhere.mp4"),
        str(media / "derived" / "book_rot90_upright_when_applied.mp4"),
    ]


@pytest.fixture(scope="module")
def rows(bundle: Path, mixed: list[str]) -> list[Row]:
    return list(classify(load(bundle), mixed))


def test_one_row_a_clip_in_order_whatever_the_clip(rows: list[Row], mixed: list[str]) -> None:
    assert [row.path for row in rows] == mixed
    assert [row.error_kind for row in rows] == [
        None, "no_video", "forbidden", None, "unreadable", "not_found", None,
    ]  # fmt: skip
    for row in rows:
        assert (row.status == "ok") == (row.label is not None) == (row.error is None)


def test_messages_tell_nothing_of_this_computer(rows: list[Row], media: Path) -> None:
    for row in rows:
        assert str(media) not in (row.error or "")
        assert "\n" not in (row.error or "")


def test_a_row_equals_what_python_answers(
    bundle: Path, rows: list[Row], test_clips: list[Path]
) -> None:
    prediction = load(bundle).classify(test_clips[0])
    assert (rows[0].label, rows[0].score) == (prediction.label, prediction.score)
    assert rows[0].top_k == prediction.top_k


def test_the_three_formats_hold_the_same_rows(rows: list[Row], tmp_path: Path) -> None:
    for ending in ("jsonl", "csv", "parquet"):
        write_rows(rows, tmp_path / f"rows.{ending}")
    lines = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert [tuple(line) for line in lines] == [COLUMNS] * len(rows)
    table = pyarrow.parquet.read_table(tmp_path / "rows.parquet").to_pylist()
    with (tmp_path / "rows.csv").open(newline="", encoding="utf-8") as file:
        texts = list(csv.DictReader(file))
    for line, values, text in zip(lines, table, texts, strict=True):
        assert [[pair["label"], pair["score"]] for pair in values.pop("top_k")] == line["top_k"]
        assert values == {key: value for key, value in line.items() if key != "top_k"}
        assert text["path"] == line["path"]
        assert json.loads(text["top_k"] or "[]") == line["top_k"]
        assert (json.loads(text["error"]) if text["error"] else None) == line["error"]
        assert (float(text["score"]) if text["score"] else None) == line["score"]


def test_the_same_inputs_give_the_same_bytes(
    bundle: Path, rows: list[Row], mixed: list[str], tmp_path: Path
) -> None:
    again = list(classify(load(bundle), mixed))
    for ending in ("jsonl", "csv", "parquet"):
        write_rows(rows, tmp_path / f"one.{ending}")
        write_rows(again, tmp_path / f"two.{ending}")
        assert (tmp_path / f"one.{ending}").read_bytes() == (
            tmp_path / f"two.{ending}"
        ).read_bytes()


def test_an_output_that_can_not_be_is_refused_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(LoraDeployError, match=r"\.jsonl, \.csv, \.parquet"):
        check_ending(tmp_path / "rows.txt")
    with pytest.raises(LoraDeployError, match="does not exist"):
        check_ending(tmp_path / "nowhere" / "rows.csv")


def test_a_folder_is_searched_and_a_named_file_is_always_taken(
    tmp_path: Path, test_clips: list[Path]
) -> None:
    (tmp_path / "inner").mkdir()
    (tmp_path / "notes.txt").write_text("no video")
    shutil.copy(test_clips[0], tmp_path / "inner" / "b.mp4")
    shutil.copy(test_clips[0], tmp_path / "a.MP4")
    named = str(tmp_path / "notes.txt")
    found = [item.path for item in find_items([named, tmp_path, named])]
    assert found == [named, str(tmp_path / "a.MP4"), str(tmp_path / "inner" / "b.mp4")]


def test_a_folder_without_videos_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no file with a video ending"):
        find_items([tmp_path])


def test_the_command_writes_rows_and_says_that_some_failed(
    bundle: Path, mixed: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "rows.csv"
    assert cli.run(["classify", str(bundle), *mixed, "--out", str(out)]) == 1
    assert "7 rows, 4 of them errors" in capsys.readouterr().err
    assert len(out.read_text().splitlines()) == 8


def test_the_command_prints_json_lines_and_nothing_else(
    bundle: Path, test_clips: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    paths = [str(path) for path in test_clips[:3]]
    assert cli.run(["classify", str(bundle), *paths, "--top-k", "1"]) == 0
    printed = capsys.readouterr()
    lines = [json.loads(line) for line in printed.out.splitlines()]
    assert [line["path"] for line in lines] == paths
    assert all(len(line["top_k"]) == 1 for line in lines)
    assert printed.err == ""


def test_a_name_that_is_no_utf8_costs_nothing(
    bundle: Path, test_clips: list[Path], tmp_path: Path
) -> None:
    odd = os.fsdecode(os.fsencode(tmp_path) + b"/\xff.mp4")
    shutil.copy(test_clips[0], odd)
    rows = list(classify(load(bundle), find_items([odd, "x" * 300 + ".mp4", str(test_clips[0])])))
    assert [row.status for row in rows] == ["ok", "error", "ok"]
    assert rows[0].path.endswith("/\\xff.mp4")
    for ending in ("jsonl", "csv", "parquet"):
        write_rows(rows, tmp_path / f"rows.{ending}")


def test_rows_are_the_same_in_batches_of_any_size(
    bundle: Path, test_clips: list[Path], tmp_path: Path
) -> None:
    torn = tmp_path / "torn.mp4"
    torn.write_bytes(b"no video")
    paths = [str(torn), *map(str, test_clips[:3]), str(torn), *map(str, test_clips[3:5])]
    alone = list(classify(load(bundle), paths))
    for size in (2, 3, 8):
        rows = list(classify(load(bundle, batch_size=size), paths))
        assert [(row.path, row.status, row.label) for row in rows] == [
            (row.path, row.status, row.label) for row in alone
        ]
        # Another batch shape may change the last bits.
        assert [row.score for row in rows] == [
            None if row.score is None else pytest.approx(row.score, abs=1e-5) for row in alone
        ]


def test_a_file_that_is_no_video_waits_for_no_batch(bundle: Path, tmp_path: Path) -> None:
    torn = tmp_path / "torn.mp4"
    torn.write_bytes(b"no video")
    asked: list[str] = []

    def paths() -> Iterator[str]:
        for _ in range(200):
            asked.append(str(torn))
            yield str(torn)

    assert next(classify(load(bundle, batch_size=8), paths())).status == "error"
    assert len(asked) < 200
