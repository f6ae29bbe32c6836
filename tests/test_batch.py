"""A run of `classify` that nobody has to watch: it goes on, says what differs, and writes the same bytes."""

import errno
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest

from lora_deploy import cli
from lora_deploy.classify import run as stage
from lora_deploy.classify import stream, terms
from lora_deploy.classify.identity import state_of
from lora_deploy.classify.inputs import Item
from lora_deploy.classify.journal import Journal
from lora_deploy.classify.places import Batch
from lora_deploy.classify.rows import Row
from lora_deploy.classify.run import Finished, run
from lora_deploy.classify.stream import RowOptions
from lora_deploy.classify.terms import Model
from lora_deploy.clips.clip import Footage
from lora_deploy.errors import BatchBusyError, BatchChangedError, JournalTornError, NotAJournalError

ROOT = Path(__file__).parents[1]

FORMATS = ("jsonl", "csv", "parquet")


@pytest.fixture
def clips(tmp_path: Path, media: Path, test_clips: list[Path]) -> list[str]:
    """Sound clips and bad ones, in a folder that a test may change."""
    folder = tmp_path / "clips"
    folder.mkdir()
    found = [
        *(
            shutil.copy(clip, folder / f"{number}.mp4")
            for number, clip in enumerate(test_clips[:4])
        ),
        shutil.copy(media / "malformed" / "audio_only.mp4", folder),
        shutil.copy(media / "attack" / "hls_relative_named.mp4", folder),
        folder / "nowhere.mp4",
        shutil.copy(test_clips[0], folder / "same as 0.mp4"),
    ]
    return [str(clip) for clip in found]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the clips that were answered, in all runs; in any order."""
    names: list[str] = []
    answers = stream.answers

    def watched(
        recogniser: Any, items: Iterable[tuple[int, Item]], **options: Any
    ) -> Iterator[tuple[int, Row]]:
        for position, row in answers(recogniser, items, **options):
            names.append(Path(row.path).name)
            yield position, row

    monkeypatch.setattr(stage, "answers", watched)
    return names


def classify(
    bundle: Path, clips: Iterable[str], *outs: Path, options: RowOptions | None = None, **batch: Any
) -> Finished:
    items = [Item(clip, Footage(Path(clip))) for clip in clips]
    return run(Batch(outs, **batch), Model(bundle), lambda: items, options=options)


def outs_in(folder: Path) -> list[Path]:
    folder.mkdir(exist_ok=True)
    return [folder / f"rows.{ending}" for ending in FORMATS]


def contents(outs: list[Path]) -> list[bytes]:
    return [out.read_bytes() for out in outs]


def test_one_run_writes_all_formats_in_the_order_of_the_inputs(
    bundle: Path, clips: list[str], tmp_path: Path
) -> None:
    outs = outs_in(tmp_path / "out")
    finished = classify(bundle, clips, *outs)
    assert (finished.rows, finished.errors) == (8, 3)
    lines = [json.loads(line) for line in outs[0].read_text().splitlines()]
    assert [line["path"] for line in lines] == clips
    assert sorted(path.name for path in outs[0].parent.iterdir()) == [
        "rows.csv", "rows.jsonl", "rows.jsonl.journal", "rows.parquet",
    ]  # fmt: skip


def test_a_finished_run_writes_the_same_bytes_again_and_opens_no_model(
    bundle: Path, clips: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outs = outs_in(tmp_path / "out")
    classify(bundle, clips, *outs)
    before = contents(outs)
    for out in outs:
        out.unlink()
    monkeypatch.setattr(Model, "open", lambda self: pytest.fail("the model was opened"))
    finished = classify(bundle, clips, *outs)
    assert contents(outs) == before
    assert finished.sentence.endswith("all were known from before, so no clip was asked again")


def test_a_run_that_was_cut_off_asks_only_what_it_does_not_know(
    bundle: Path, clips: list[str], tmp_path: Path, asked: list[str]
) -> None:
    outs, whole = outs_in(tmp_path / "out"), outs_in(tmp_path / "whole")
    classify(bundle, clips, *whole)
    asked.clear()
    with pytest.raises(KeyboardInterrupt) as stop:
        interrupted_after(3, lambda: classify(bundle, clips, *outs))
    [kept] = stop.value.__notes__
    assert kept.startswith("3 of 8 rows are known and kept in ")
    assert not any(out.exists() for out in outs)
    kept_names = set(asked)
    asked.clear()
    finished = classify(bundle, clips, *outs)
    assert finished.known_before == len(kept_names) == 3
    assert sorted(asked) == sorted({Path(clip).name for clip in clips} - kept_names)
    assert contents(outs) == contents(whole)


def interrupted_after(rows: int, action: Callable[[], object]) -> None:
    """Run something that is interrupted when so many answers are written down."""
    add = Journal.add
    added: list[int] = []

    def interrupting(journal: Journal, position: int, row: Row) -> None:
        add(journal, position, row)
        added.append(position)
        if len(added) == rows:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Journal, "add", interrupting)
        action()


def test_where_no_more_files_may_be_open_the_run_ends_and_goes_on(
    bundle: Path, clips: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    real, out = os.open, tmp_path / "rows.jsonl"

    def full(path: Any, *rest: Any, **named: Any) -> int:
        if str(path) == clips[2]:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE), str(path))
        return real(path, *rest, **named)

    command = ["-q", "classify", str(bundle), *clips[:4], "--out", str(out)]
    monkeypatch.setattr(os, "open", full)
    assert cli.run(command) == 2
    assert capsys.readouterr().err == f"error: Too many open files: {clips[2]}\n"
    monkeypatch.setattr(os, "open", real)
    assert cli.run(command) == 0
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row["status"] for row in rows] == ["ok"] * 4


def test_another_model_or_setting_is_refused_by_name_with_both_values(
    bundle: Path, clips: list[str], tmp_path: Path
) -> None:
    out = tmp_path / "rows.csv"
    classify(bundle, clips[:2], out)
    before = out.read_bytes()
    with pytest.raises(BatchChangedError, match=r"top-k was 5 and is 1; .*--restart"):
        classify(bundle, clips[:2], out, options=RowOptions(top_k=1))
    with pytest.raises(BatchChangedError, match="files known by was path, size and time and is"):
        classify(bundle, clips[:2], out, by_content=True)
    other = tmp_path / "other"
    shutil.copytree(bundle, other)
    manifest = other / "bundle.json"
    manifest.write_text(manifest.read_text() + " ")
    with pytest.raises(BatchChangedError, match=r"model was sha256:\w{12}… and is sha256:\w{12}…"):
        classify(other, clips[:2], out)
    assert out.read_bytes() == before
    finished = classify(bundle, clips[:2], out, options=RowOptions(top_k=1), restart=True)
    assert finished.known_before == 0
    assert out.read_bytes() != before


def test_settings_may_change_while_nothing_is_known(
    bundle: Path, clips: list[str], tmp_path: Path
) -> None:
    out = tmp_path / "rows.csv"

    def interrupted() -> Iterator[Item]:
        yield Item(clips[0], Footage(Path(clips[0])))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as stop:
        run(Batch((out,)), Model(bundle, batch_size=2), interrupted)
    assert stop.value.__notes__[0].startswith("what is known is kept in ")
    assert classify(bundle, clips[:2], out, options=RowOptions(top_k=1)).rows == 2
    with pytest.raises(BatchChangedError, match="top-k was 1 and is 5"):
        classify(bundle, clips[:2], out)


def test_another_backend_is_refused_even_where_nothing_is_to_be_asked(
    bundle: Path, clips: list[str], tmp_path: Path
) -> None:
    out = tmp_path / "rows.csv"
    items = [Item(clip, Footage(Path(clip))) for clip in clips[:2]]
    run(Batch((out,)), Model(bundle, backend="onnxruntime"), lambda: items)
    with pytest.raises(BatchChangedError, match="backend was onnxruntime and is torch"):
        run(Batch((out,)), Model(bundle, backend="torch"), lambda: items)
    assert run(Batch((out,)), Model(bundle, backend="auto"), lambda: items).known_before == 2


def test_a_model_that_moved_to_a_card_is_refused(
    bundle: Path, clips: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, model = tmp_path / "rows.csv", Model(bundle, backend="torch")
    items = [Item(clip, Footage(Path(clip))) for clip in clips[:2]]
    run(Batch((out,)), model, lambda: items)
    moved: Any = model.open()
    moved.backend.runs_on = "cuda:0"
    monkeypatch.setattr(Model, "open", lambda self: moved)
    with pytest.raises(BatchChangedError, match="runs on was cpu and is cuda:0"):
        run(Batch((out,)), model, lambda: [*items, Item(clips[2], Footage(Path(clips[2])))])


def test_a_model_that_only_tells_who_it_is_when_open_is_opened_to_be_compared(
    bundle: Path, clips: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "rows.csv"
    classify(bundle, clips[:2], out)
    another = replace(Model(bundle).open(), digest=f"sha256:{'0' * 64}")
    monkeypatch.setattr(Model, "digest", lambda self: None)
    monkeypatch.setattr(Model, "open", lambda self: another)
    with pytest.raises(BatchChangedError, match=r"model was sha256:.* and is sha256:000000000000…"):
        classify(bundle, clips[:2], out)


def test_no_row_is_ever_left_out_in_silence(
    bundle: Path, clips: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lossy(*arguments: Any, **options: Any) -> Iterator[tuple[int, Row]]:
        return islice(stream.answers(*arguments, **options), 1)

    monkeypatch.setattr(stage, "answers", lossy)
    out = tmp_path / "rows.csv"
    with pytest.raises(RuntimeError, match="only 1 of 2 clips were answered"):
        classify(bundle, clips[:2], out)
    assert not out.exists()


def test_other_versions_or_another_processor_are_told_and_nothing_is_lost(
    bundle: Path,
    clips: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    asked: list[str],
) -> None:
    out = tmp_path / "rows.csv"
    classify(bundle, clips[:2], out)
    now = terms.surroundings()
    monkeypatch.setattr(terms, "surroundings", lambda: {**now, "av": "99.0"})
    classify(bundle, clips[:3], out)
    assert f"av was {now['av']} and is 99.0" in caplog.text
    assert sorted(asked) == ["0.mp4", "1.mp4", "2.mp4"]


def test_a_second_run_on_the_same_rows_or_journal_is_refused_at_once(
    bundle: Path, clips: list[str], tmp_path: Path
) -> None:
    journal = tmp_path / "made" / "for it" / "one.journal"
    one, two = tmp_path / "one.csv", tmp_path / "two.csv"

    def items() -> Iterator[Item]:  # the first run is at work here
        for outs, other in (((one,), two), ((two, one), None), ((two,), journal)):
            with pytest.raises(BatchBusyError, match="another run is at work on"):
                classify(bundle, clips, *outs, journal=other)
        yield Item(clips[0], Footage(Path(clips[0])))

    assert run(Batch((one,), journal=journal), Model(bundle), items).rows == 1
    assert not list(tmp_path.glob(".*.lock"))


def test_what_changed_is_asked_again_and_what_is_gone_is_not_found(
    bundle: Path, clips: list[str], tmp_path: Path, asked: list[str], test_clips: list[Path]
) -> None:
    out = tmp_path / "rows.jsonl"
    classify(bundle, clips, out)
    asked.clear()
    shutil.copy(test_clips[4], clips[1])
    Path(clips[2]).unlink()
    shutil.copy(test_clips[5], clips[6])  # that was nowhere
    classify(bundle, clips, out)
    assert sorted(asked) == ["1.mp4", "2.mp4", "nowhere.mp4"]
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert rows[2]["error"]["kind"] == "not_found"
    assert rows[6]["status"] == "ok"


def test_files_known_by_content_are_asked_once_wherever_they_lie(
    bundle: Path, clips: list[str], tmp_path: Path, asked: list[str]
) -> None:
    out, plain = tmp_path / "rows.jsonl", tmp_path / "plain.jsonl"
    classify(bundle, clips, plain)
    asked.clear()
    classify(bundle, clips, out, by_content=True)
    assert sorted(asked) == sorted(
        Path(clip).name for clip in clips[:-1]
    )  # the last is the first's copy
    assert out.read_bytes() == plain.read_bytes()
    asked.clear()
    os.utime(clips[0])
    moved = tmp_path / "moved.mp4"
    Path(clips[1]).rename(moved)
    classify(bundle, [clips[0], str(moved)], out, by_content=True)
    assert asked == []
    assert [json.loads(line)["path"] for line in out.read_text().splitlines()] == [
        clips[0], str(moved),
    ]  # fmt: skip


def test_two_dots_behind_a_link_lead_to_another_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "x" / "deep").mkdir(parents=True)
    (tmp_path / "x" / "a.mp4").write_bytes(b"behind")
    (tmp_path / "a.mp4").write_bytes(b"before")
    (tmp_path / "link").symlink_to("x/deep")
    monkeypatch.chdir(tmp_path)
    states = [
        state_of(Path(name)) for name in ("link/../a.mp4", "x/a.mp4", "a.mp4", "./x/../a.mp4")
    ]
    assert states[0] == states[1]
    assert states[2] == states[3]
    assert states[0] != states[2]


def test_what_is_no_file_has_no_content_and_is_not_waited_for(bundle: Path, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe.mp4"
    os.mkfifo(pipe)
    inputs = [str(pipe), "/dev/zero", str(tmp_path), "a\0b.mp4", "x" * 300]
    out = tmp_path / "rows.jsonl"
    classify(bundle, inputs, out, by_content=True)
    kinds = [json.loads(line)["error"]["kind"] for line in out.read_text().splitlines()]
    assert kinds[:2] == ["forbidden", "forbidden"]
    assert len(kinds) == len(inputs)


def test_only_clips_with_errors_are_tried_again_and_only_once(
    bundle: Path, clips: list[str], tmp_path: Path, asked: list[str]
) -> None:
    out = tmp_path / "rows.jsonl"
    classify(bundle, clips, out)
    before = out.read_bytes()
    asked.clear()
    with pytest.raises(KeyboardInterrupt):
        interrupted_after(2, lambda: classify(bundle, clips, out, retry_errors=True))
    assert classify(bundle, clips, out, retry_errors=True).known_before == 7
    errors = ["audio_only.mp4", "hls_relative_named.mp4", "nowhere.mp4"]
    assert sorted(asked) == errors  # none of them twice
    assert out.read_bytes() == before
    asked.clear()
    classify(bundle, clips, out, retry_errors=True)  # that run was finished, so this is another one
    assert sorted(asked) == errors


def test_parts_of_one_file_are_clips_of_their_own_and_their_rows_have_times(
    bundle: Path, clips: list[str], tmp_path: Path
) -> None:
    listed = tmp_path / "parts.csv"
    listed.write_text(
        f"path,start,end\n{clips[0]},,\n{clips[0]},0,0.5\n{clips[0]},0.5,1\n{clips[6]},1,2\n"
    )
    outs = outs_in(tmp_path / "out")
    words = [word for out in outs for word in ("--out", str(out))]
    assert cli.run(["classify", str(bundle), str(listed), *words]) == 1
    rows = [json.loads(line) for line in outs[0].read_text().splitlines()]
    times = [(row["start"], row["end"]) for row in rows]
    assert times == [(None, None), (0.0, 0.5), (0.5, 1.0), (1.0, 2.0)]
    assert [*rows[0]][:4] == ["path", "start", "end", "status"]
    assert [row["status"] for row in rows] == ["ok", "ok", "ok", "error"]
    assert len({row["duration_seconds"] for row in rows[:3]} - {None}) > 1
    assert len({row["score"] for row in rows[:3]}) == 3
    assert outs[1].read_text().startswith("path,start,end,status,")
    table = pyarrow.parquet.read_table(outs[2])
    assert table.column_names == [*rows[0]]
    assert [(row["start"], row["end"]) for row in table.to_pylist()] == times
    joined = tmp_path / "joined.jsonl"
    for shard in ("1/2", "2/2"):
        cli.run(["classify", str(bundle), str(listed), "--out", str(joined), "--shard", shard])
    assert cli.run(["classify", "--join", "--out", str(joined)]) == 1
    assert joined.read_bytes() == outs[0].read_bytes()


def test_names_that_are_no_utf8_are_kept(
    bundle: Path, test_clips: list[Path], tmp_path: Path
) -> None:
    odd = os.fsdecode(os.fsencode(tmp_path) + b"/\xff.mp4")
    shutil.copy(test_clips[0], odd)
    out = tmp_path / "rows.jsonl"
    assert classify(bundle, [odd], out).errors == 0
    assert json.loads(out.read_text())["path"].endswith("/\\xff.mp4")
    assert classify(bundle, [odd], out).known_before == 1


def test_a_file_that_is_no_journal_is_neither_written_to_nor_removed(
    bundle: Path, clips: list[str], tmp_path: Path
) -> None:
    out = tmp_path / "rows.csv"
    foreign = tmp_path / "foreign.db"
    with sqlite3.connect(foreign) as connection:
        connection.execute("CREATE TABLE dear (data)")
    connection.close()
    for path in (foreign, Path(clips[0]), Path("/dev/null")):
        before = path.read_bytes()
        for restart in (False, True):
            with pytest.raises(NotAJournalError, match="is no journal"):
                classify(bundle, clips, out, journal=path, restart=restart)
        assert path.read_bytes() == before


def test_a_journal_that_another_program_has_open_is_left_to_it(
    bundle: Path, clips: list[str], tmp_path: Path
) -> None:
    out = tmp_path / "rows.csv"
    classify(bundle, clips[:2], out)
    with closing(sqlite3.connect(f"{out}.journal", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(BatchBusyError, match=r"another program has the journal .* open"):
            classify(bundle, clips[:2], out)


def test_a_journal_with_a_row_that_is_none_is_damaged(
    bundle: Path, clips: list[str], tmp_path: Path
) -> None:
    out = tmp_path / "rows.csv"
    classify(bundle, clips[:2], out)
    for text in ("[]", "{}", "{", '{"top_k": 3}', "null"):
        with closing(sqlite3.connect(f"{out}.journal")) as other, other:
            other.execute("UPDATE answers SET row = ?", (text,))
        with pytest.raises(JournalTornError, match="is damaged"):
            classify(bundle, clips[:2], out)


def test_a_damaged_journal_is_refused_and_made_anew_on_request(
    bundle: Path, clips: list[str], tmp_path: Path
) -> None:
    out = tmp_path / "rows.csv"
    classify(bundle, clips[:2], out)
    before = out.read_bytes()
    journal = tmp_path / "rows.csv.journal"
    content = bytearray(journal.read_bytes())
    content[100:] = b"\xaa" * len(content[100:])
    journal.write_bytes(content)
    with pytest.raises(JournalTornError, match="is damaged"):
        classify(bundle, clips[:2], out)
    classify(bundle, clips[:2], out, restart=True)
    assert out.read_bytes() == before


def test_the_command_writes_each_out_and_says_how_it_went(
    bundle: Path, clips: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one, two = tmp_path / "a.jsonl", tmp_path / "b.csv"
    words = ["classify", str(bundle), *clips[:5], "--out", str(one), "--out", str(two)]
    for ending in ("5 clips in ", "all were known from before, so no clip was asked again"):
        assert cli.run(words) == 1
        [line] = capsys.readouterr().err.splitlines()
        assert line.startswith(f"{one}, {two}: 5 rows, 1 of them errors; {ending}")
    assert len(two.read_text().splitlines()) == 6


def test_the_command_needs_an_output_for_its_journal(
    bundle: Path, clips: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(["classify", str(bundle), clips[0], "--restart"]) == 2
    assert "need --out" in capsys.readouterr().err


def started(bundle: Path, clips: list[str], out: Path, *, after: int) -> "subprocess.Popen[str]":
    """The command in a process of its own, that stops and says so when ``after`` rows are known."""
    program = textwrap.dedent(
        f"""
        import sys, time
        from lora_deploy import cli
        from lora_deploy.classify.journal import Journal
        add, rows = Journal.add, []

        def stopping(journal, position, row):
            add(journal, position, row)
            rows.append(position)
            if len(rows) == {after}:
                print("here", flush=True)
                time.sleep(300)

        Journal.add = stopping
        sys.exit(cli.run(sys.argv[1:]))
        """
    )
    words = ["classify", str(bundle), *clips, "--out", str(out)]
    process = subprocess.Popen(
        [sys.executable, "-c", program, *words],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "here\n"
    return process


@pytest.mark.parametrize(
    ("number", "code", "word"),
    [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")],
)
def test_an_interrupted_command_says_what_is_kept_and_goes_on(
    bundle: Path,
    clips: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    number: int,
    code: int,
    word: str,
) -> None:
    out, whole = tmp_path / "rows.csv", tmp_path / "whole.csv"
    classify(bundle, clips, whole)
    process = started(bundle, clips, out, after=3)
    process.send_signal(number)
    _, printed = process.communicate(timeout=60)
    assert process.returncode == code
    kept = f"3 of 8 rows are known and kept in {out}.journal; the same command goes on"
    assert sorted(filter(None, printed.splitlines())) == sorted([kept, word])
    assert not out.exists()
    assert cli.run(["classify", str(bundle), *clips, "--out", str(out)]) == 1
    assert "; 3 were known from before" in capsys.readouterr().err
    assert out.read_bytes() == whole.read_bytes()


def test_a_killed_run_lets_the_next_one_in_and_is_gone_on_with(
    bundle: Path, clips: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, whole = tmp_path / "rows.csv", tmp_path / "whole.csv"
    classify(bundle, clips, whole)
    process = started(bundle, clips, out, after=3)
    with pytest.raises(BatchBusyError, match="another run is at work on"):
        classify(bundle, clips, out)
    process.kill()
    process.communicate(timeout=60)
    finished = classify(bundle, clips, out)
    assert finished.known_before <= 3  # what was not synced yet is asked again
    assert out.read_bytes() == whole.read_bytes()
    assert not list(tmp_path.glob(".*"))


def test_a_disk_that_takes_no_more_is_told_in_one_line_and_the_run_goes_on(
    bundle: Path, clips: list[str], tmp_path: Path
) -> None:
    out, whole = tmp_path / "rows.csv", tmp_path / "whole.csv"
    classify(bundle, clips, whole)
    words = ["classify", str(bundle), *clips, "--out", str(out)]
    ended = []
    for kilobytes in (0, 2, 16, 40, 64):
        program = (
            "import resource, sys; from lora_deploy import cli; "
            "from lora_deploy.classify import journal, run; "
            "journal.SECONDS_BETWEEN_SYNCS = 0\n"
            "def opened(place, restart, held=run._journal):\n"
            f"    resource.setrlimit(resource.RLIMIT_FSIZE, ({kilobytes << 10},) * 2)\n"
            "    return held(place, restart)\n"
            "run._journal = opened\n"
            "sys.exit(cli.run(sys.argv[1:]))"
        )
        command = [sys.executable, "-c", program, *words]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        ended.append(done.returncode)
        lines = done.stderr.splitlines()
        assert len(lines) == 1, lines
        if done.returncode == 2:
            assert lines[0].endswith(("[DiskFullError]", "[JournalDiskError]")), lines
            assert not out.exists()
    assert ended[:3] == [2, 2, 2]
    assert cli.run(words) == 1
    assert out.read_bytes() == whole.read_bytes()
