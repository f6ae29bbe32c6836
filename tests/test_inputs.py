"""What is to be classified: whatever names files can have and wherever they are named, each clip once."""

import csv
import json
import math
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from lora_deploy import cli
from lora_deploy.classify import lists, names, search
from lora_deploy.classify.inputs import Item, find_items, has_times
from lora_deploy.classify.rows import COLUMNS, TIMES
from lora_deploy.classify.seen import Seen
from lora_deploy.clips import pool
from lora_deploy.clips.clip import Footage, Stretch
from lora_deploy.clips.contract import PixelContract
from lora_deploy.clips.dataset import find_videos
from lora_deploy.errors import (
    CLIP_ERROR_KINDS,
    AdapterColumnError,
    ClipError,
    DataError,
    InputListError,
    InputNameError,
    InputRowError,
    NothingMatchesError,
    NoVideosError,
)

CONTRACT = PixelContract(frames=2, short_side=16, crop_height=16, crop_width=16)


def paths(*inputs: str | Path, stdin: bytes = b"") -> list[str]:
    return [item.path for item in find_items(inputs, stdin=BytesIO(stdin))]


def parts(*inputs: str | Path) -> list[tuple[str, Stretch | None]]:
    return [(item.path, item.footage.stretch) for item in find_items(inputs)]


def kind_of(item: Item) -> str:
    """What becomes of a clip: ``ok``, or the kind of its error row."""
    try:
        pool.shared().decode(item.footage.path, CONTRACT, item.footage.stretch)
    except ClipError as error:
        return error.kind
    return "ok"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to work in."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def clips(here: Path, test_clips: list[Path]) -> Path:
    """A folder of real clips and others' files: a.mp4, b/a.mkv, b/c/d.MP4, notes.txt, hidden ones."""
    for name in ("a.mp4", "b/a.mkv", "b/c/d.MP4", ".hidden.mp4", ".trash/old.mp4"):
        place = here / "clips" / name
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(test_clips[0], place)
    (here / "clips" / "notes.txt").write_text("no video")
    return Path("clips")


# Folders


def test_a_folder_is_searched_by_endings_in_the_order_of_its_names(clips: Path) -> None:
    assert paths(clips) == ["clips/a.mp4", "clips/b/a.mkv", "clips/b/c/d.MP4"]


def test_a_search_that_streams_finds_what_the_slow_one_finds(media: Path) -> None:
    found = paths(media)
    assert found == [str(path) for path in find_videos(media)]
    assert len(found) > 400


def test_what_a_folder_holds_under_a_videos_name_gets_a_row_whatever_it_is(clips: Path) -> None:
    (clips / "gone.mp4").symlink_to("nowhere.mp4")
    (clips / "loop.mp4").symlink_to("loop.mp4")
    os.mkfifo(clips / "pipe.mp4")
    kinds = {item.path: kind_of(item) for item in find_items([clips])}
    assert kinds == {
        "clips/a.mp4": "ok",
        "clips/b/a.mkv": "ok",
        "clips/b/c/d.MP4": "ok",
        "clips/gone.mp4": "not_found",
        "clips/loop.mp4": "unreadable",
        "clips/pipe.mp4": "forbidden",
    }


def test_links_to_folders_are_passed_over_aloud_so_a_loop_ends(
    clips: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (clips / "b" / "again").symlink_to("..")
    (clips / "elsewhere").symlink_to("b")
    assert paths(clips) == ["clips/a.mp4", "clips/b/a.mkv", "clips/b/c/d.MP4"]
    assert "passed over under clips: clips/b/again and 1 more" in caplog.text
    assert paths(clips / "elsewhere")[0] == "clips/elsewhere/a.mkv"  # but named, it is searched


def test_a_subfolder_that_can_not_be_read_becomes_a_row(
    clips: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.scandir

    def scandir(folder: str | Path) -> object:
        if str(folder) == "clips/b":  # whoever may read everything can't be refused by a mode
            raise PermissionError(13, "Permission denied")
        return real(folder)

    monkeypatch.setattr(os, "scandir", scandir)
    items = list(find_items([clips]))
    assert [item.path for item in items] == ["clips/a.mp4", "clips/b"]
    assert kind_of(items[1]) == "unreadable"
    assert paths("clips/**/*.mkv") == ["clips/b"]
    assert paths("clips/*/*/*.MP4") == ["clips/b"]


def test_a_folder_a_thousand_deep_is_searched(here: Path) -> None:
    top = os.open(".", os.O_RDONLY)
    try:
        for _ in range(1200):
            Path("d").mkdir()
            os.chdir("d")
        Path("a.mp4").write_bytes(b"")
        os.chdir(top)
        found = [paths("d"), paths("d/**/*.mp4")]
    finally:
        os.chdir(top)
        os.close(top)
        subprocess.run(["rm", "-r", "d"], check=True)  # which shutil can't do, nor can pytest
    assert [[path.count("/") for path in each] for each in found] == [[1200], [1200]]


def test_a_folder_without_videos_is_refused_before_anything_is_given(clips: Path) -> None:
    Path("empty").mkdir()
    with pytest.raises(NoVideosError, match="empty holds no file with a video ending"):
        find_items([clips, "empty"])


# Names


def test_a_file_that_is_named_is_always_taken(clips: Path) -> None:
    assert paths("clips/notes.txt", "clips/.hidden.mp4", "nowhere.mp4") == [
        "clips/notes.txt",
        "clips/.hidden.mp4",
        "nowhere.mp4",
    ]


def test_odd_names_survive_and_cost_a_row_at_most(here: Path, test_clips: list[Path]) -> None:
    odd = ["-v.mp4", "two\nlines.mp4", os.fsdecode(b"\xff\xfe.mp4"), " spaces .mp4", "[a]*?.mp4"]
    for name in odd:
        shutil.copy(test_clips[0], here / name)
    os.mkfifo("pipe")
    named = [*odd, "pipe", "/dev/zero", "x" * 300, "a/" * 3000 + "b.mp4", "-v.mp4/b.mp4"]
    items = list(find_items(named))
    assert [item.path for item in items] == named
    kinds = [kind_of(item) for item in items]
    assert kinds == ["ok"] * 5 + ["forbidden", "forbidden", "unreadable", "unreadable", "not_found"]
    assert paths(here) == sorted(f"{here}/{name}" for name in odd)


def test_each_clip_once_however_its_path_is_spelled(clips: Path, here: Path) -> None:
    os.link("clips/a.mp4", "clips/hard.mp4")
    Path("clips/soft.mp4").symlink_to("a.mp4")
    given: list[str | Path] = [
        "clips/b/a.mkv",
        "./clips/b//a.mkv",
        here / "clips/b/a.mkv",
        clips,
        "clips/a.mp4",
    ]
    assert paths(*given) == [
        "clips/b/a.mkv", "clips/a.mp4", "clips/b/c/d.MP4", "clips/hard.mp4", "clips/soft.mp4",
    ]  # fmt: skip


def test_two_dots_behind_a_link_are_not_taken_away(clips: Path) -> None:
    Path("link").symlink_to("clips/b/c")
    items = list(find_items(["clips/b/a.mkv", "link/../a.mkv", "link/../../b/a.mkv", "a.mkv"]))
    assert len(items) == 4
    assert [kind_of(item) for item in items] == ["ok", "ok", "ok", "not_found"]


def test_an_empty_name_is_refused(clips: Path) -> None:
    with pytest.raises(InputNameError, match="empty name"):
        find_items([clips, ""])


def test_clips_are_found_while_they_are_asked_for(
    clips: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    items = find_items([clips, "b.mp4"])
    assert next(items).path == "clips/a.mp4"
    shutil.copy("clips/a.mp4", "clips/b/c/new.mp4")  # its folder was not looked into yet
    assert [item.path for item in items][-2:] == ["clips/b/c/new.mp4", "b.mp4"]


# Patterns


@pytest.mark.parametrize(
    "pattern",
    [
        "clips/*.mp4", "*/*", "clips/**/*", "clips/?.mp4", "clips/**/*.mp4", "clips/**/*.[mM][pP]4", "**/*.mkv",
        "clips/**/c/*", "**/b/**/*.MP4", "clips/.*.mp4", "./clips/*.mp4", "clips/b/../*.mp4",
    ],
)  # fmt: skip
def test_a_pattern_matches_what_a_shell_would_match(clips: Path, pattern: str) -> None:
    ask = f'shopt -s globstar; for name in {pattern}; do printf "%s\\0" "$name"; done'
    said = subprocess.run(["bash", "-c", ask], capture_output=True, check=True).stdout.decode()
    matched = [name for name in said.split("\0") if name]
    files = [name for name in matched if Path(name).is_file()]
    assert files
    # What lies in folders is found by ** itself, so they are not searched once more.
    assert sorted(search.matching(pattern)) == sorted(files if "**" in pattern else matched)
    assert set(files) <= set(paths(pattern))


def test_a_pattern_gives_folders_one_after_the_other(clips: Path) -> None:
    for name in ("c/b.mp4", "b/c/a.mp4", "b/b.mp4"):
        (clips / name).parent.mkdir(exist_ok=True)
        shutil.copy("clips/a.mp4", clips / name)
    assert paths("clips/**/*.mp4") == [
        "clips/a.mp4", "clips/b/b.mp4", "clips/b/c/a.mp4", "clips/c/b.mp4",
    ]  # fmt: skip


def test_an_absolute_pattern(clips: Path, here: Path) -> None:
    assert paths(f"{here}/cl*/*.mp4") == [f"{here}/clips/a.mp4"]


def test_a_folder_that_a_pattern_matches_is_searched(clips: Path) -> None:
    Path("clips/empty").mkdir()
    assert paths("clips/[be]*") == ["clips/b/a.mkv", "clips/b/c/d.MP4"]
    with pytest.raises(NothingMatchesError, match="matches"):
        find_items(["clips/e*"])


def test_a_file_that_is_called_like_a_pattern_is_that_file(clips: Path) -> None:
    shutil.copy("clips/a.mp4", "clips/[ab].mp4")
    shutil.copy("clips/a.mp4", "clips/b.mp4")
    assert paths("clips/[ab].mp4") == ["clips/[ab].mp4"]
    Path("clips/[ab].mp4").unlink()
    assert paths("clips/[ab].mp4") == ["clips/a.mp4", "clips/b.mp4"]


def test_a_pattern_of_nothing_is_refused_in_one_line(
    clips: Path, bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(["classify", str(bundle), "clips/*.avi"]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "no file is called clips/*.avi, and none matches it" in said


# Lists


def write_csv(path: Path, rows: Sequence[dict[str, str]]) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, [*rows[0]])
        writer.writeheader()
        writer.writerows(rows)
    return path


def write_jsonl(path: Path, rows: Sequence[dict[str, object]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def write_parquet(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([*rows]), path)
    return path


WRITERS: dict[str, Callable[..., Path]] = {
    "csv": write_csv, "jsonl": write_jsonl, "parquet": write_parquet, "CSV": write_csv,
}  # fmt: skip


@pytest.mark.parametrize("ending", WRITERS)
def test_a_list_names_clips_and_parts_of_them_from_its_own_folder(
    clips: Path, here: Path, ending: str
) -> None:
    rows = [
        {"path": "a.mp4", "label": "bend", "start": None, "end": None},
        {"path": "b/a.mkv", "label": "bend", "start": 0.25, "end": 1.5},
        {"path": "b/a.mkv", "label": "wave", "start": None, "end": 1},
        {"path": f"{here}/clips/a.mp4", "label": "", "start": 0, "end": None},  # all of it, again
        {"path": "b/a.mkv", "label": "wave", "start": 0.25, "end": 1.5},  # again
        {"path": 'q"uo,te\n.mp4', "label": "", "start": 0, "end": None},
        {"path": "nowhere.mp4", "label": "", "start": None, "end": None},
    ]
    given = WRITERS[ending](clips / f"list.{ending}", rows)
    items = list(find_items([given]))
    assert [(item.path, item.footage.stretch) for item in items] == [
        ("a.mp4", None),
        ("b/a.mkv", Stretch(0.25, 1.5)),
        ("b/a.mkv", Stretch(0.0, 1.0)),
        ('q"uo,te\n.mp4', Stretch(0.0, None)),
        ("nowhere.mp4", None),
    ]
    assert items[1].footage == Footage(clips / "b/a.mkv", Stretch(0.25, 1.5))
    assert [kind_of(item) for item in items] == ["ok", "ok", "ok", "not_found", "not_found"]
    assert has_times(["x.mp4", given])


@pytest.mark.parametrize("ending", WRITERS)
def test_a_list_without_times_has_none(clips: Path, ending: str) -> None:
    given = WRITERS[ending](clips / f"list.{ending}", [{"path": "a.mp4"}, {"path": "b.mp4"}])
    assert parts(given) == [("a.mp4", None), ("b.mp4", None)]
    assert not has_times([given, clips, "-", "clips/*.csv"])


def test_times_in_any_line_of_json_lines_count(here: Path) -> None:
    for late in ('{"path": "b.mp4", "end": null}', '{"path": "b.mp4", "st\\u0061rt": 1}'):
        Path("list.jsonl").write_text('{"path": "start.mp4"}\n' + late + "\n")
        assert has_times(["list.jsonl"])
    Path("list.jsonl").write_text('{"path": "a.mp4", "note": "start"}\n')
    assert not has_times(["list.jsonl"])


def test_names_in_lists_that_are_no_utf8_survive(here: Path, test_clips: list[Path]) -> None:
    odd = b"\xff\xe9.mp4"
    shutil.copy(test_clips[0], os.fsdecode(odd))
    Path("list.csv").write_bytes(b"path\n" + odd + b"\n")
    Path("list.jsonl").write_bytes(b'{"path": "' + odd + b'"}\n')
    write_parquet(Path("list.parquet"), [{"path": odd}])
    for name in ("list.csv", "list.jsonl", "list.parquet"):
        assert [kind_of(item) for item in find_items([name])] == ["ok"], name


def test_what_other_systems_write_is_understood(here: Path) -> None:
    Path("list.csv").write_bytes("\ufeff path , start\r\nä.mp4, 1.5 \r\n\r\nb.mp4\r\n".encode())
    assert parts("list.csv") == [("ä.mp4", Stretch(1.5)), ("b.mp4", None)]
    Path("list.jsonl").write_bytes('\ufeff{"path": "a\u2028.mp4"}\r\n\r\n'.encode())
    assert parts("list.jsonl") == [("a\u2028.mp4", None)]


BAD_ROWS = {
    ("list.csv", "path,start\na.mp4,1\nb.mp4,soon\n"): "line 3 .*start 'soon'.*number of seconds",
    ("list.csv", "path,start,end\na.mp4,3,2\n"): "line 2 .*from 3 seconds to 2",
    ("list.csv", "path,start\na.mp4,-1\n"): "line 2 .*from -1",
    ("list.csv", "path,start\na.mp4,nan\n"): "line 2 .*from nan",
    ("list.csv", "path,end\na.mp4,inf\n"): "line 2 .*to inf",
    ("list.csv", "path\na,b.mp4\n"): "line 2 .*2 fields.*quotes",
    ("list.csv", "path\na.mp4\n\"b.mp4\n"): "line 3 .*no CSV",
    ("list.csv", "path,label\na.mp4,x\n,x\n"): "line 3 .*path ''",
    ("list.csv", "path\na\0b.mp4\n"): r"line 2 .*path 'a\\x00b.mp4'",
    ("list.csv", "path\n" + "x" * 200_000): "line 2 .*no CSV",
    ("list.jsonl", '{"path": "a.mp4"}\n\n["b.mp4"]\n'): "line 3 .*no JSON object",
    ("list.jsonl", '{"path": "a.mp4"}\n{"path": "b'): "line 2 .*no JSON object",
    ("list.jsonl", "[" * 100_000 + "\n"): "line 1 .*no JSON object",
    ("list.jsonl", '{"path": "' + "x" * 3_000_000 + '"}\n'): "line 1 .*no JSON object",
    ("list.jsonl", '{"path": 7}\n'): "line 1 .*path 7.*text",
    ("list.jsonl", '{"path": null}\n'): "line 1 .*path None",
    ("list.jsonl", '{"path": "\\ud800.mp4"}\n'): "line 1 .*no file can be called",
    ("list.jsonl", '{"path": "a.mp4", "start": true}\n'): "line 1 .*start True",
    ("list.jsonl", '{"path": "a.mp4", "start": [1]}\n'): "line 1 .*start",
    ("list.jsonl", '{"path": "a.mp4", "end": 1' + "0" * 400 + "}\n"): "line 1 .*end",
}  # fmt: skip


@pytest.mark.parametrize(("given", "said"), BAD_ROWS.items(), ids=BAD_ROWS.values())
def test_a_row_that_can_not_be_understood_is_named_by_its_line(
    here: Path, given: tuple[str, str], said: str
) -> None:
    name, text = given
    Path(name).write_text(text)
    with pytest.raises(InputRowError, match=said) as refusal:
        list(find_items([name]))
    assert "\n" not in str(refusal.value)
    assert name in str(refusal.value)


def test_a_row_of_parquet_that_can_not_be_understood_is_named_by_its_number(here: Path) -> None:
    rows = [{"path": f"{number}.mp4", "start": 0.0} for number in range(20_000)]
    rows[9_999]["start"] = math.nan
    given = write_parquet(Path("list.parquet"), rows)
    with pytest.raises(InputRowError, match=r"row 10000 .*from nan"):
        list(find_items([given]))


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("list.csv", b"file,start\na.mp4,1\n", "names no path, only file, start"),
        ("list.csv", b"path;start\na.mp4;1\n", "names no path, only path;start"),
        ("list.csv", b"", "names no path, only nothing"),
        ("list.csv", "path\na.mp4\n".encode("utf-16"), "UTF-16"),
        ("list.jsonl", b'{"file": "a.mp4"}\n', "line 1 .*names no path, only file"),
        ("list.parquet", b"path\na.mp4\n", "can't be read as Parquet"),
        ("list.parquet", b"", "can't be read as Parquet"),
    ],
)
def test_what_is_no_list_is_refused_at_once(
    here: Path, name: str, content: bytes, said: str
) -> None:
    Path(name).write_bytes(content)
    with pytest.raises(InputListError, match=said) as refusal:
        find_items([name])
    assert "\n" not in str(refusal.value)


def test_a_list_that_is_not_there_or_no_file_is_refused(here: Path) -> None:
    os.mkfifo("pipe.csv")
    for name in ("nowhere.csv", "pipe.csv", "x" * 300 + ".parquet"):
        for ask in (find_items, has_times):
            with pytest.raises(InputListError, match="can't be read"):
                ask([name])


@pytest.mark.parametrize("ending", WRITERS)
def test_a_list_without_rows_is_refused(here: Path, ending: str) -> None:
    given = Path(f"list.{ending}")
    if ending == "parquet":
        pyarrow.parquet.write_table(pyarrow.table({"path": pyarrow.array([], "string")}), given)
    else:
        given.write_text("" if ending == "jsonl" else "path\n")
    with pytest.raises(NoVideosError, match="has no rows"):
        find_items([given])


@pytest.mark.parametrize("ending", WRITERS)
def test_a_column_of_adapters_is_refused_and_says_what_to_do(here: Path, ending: str) -> None:
    given = WRITERS[ending](Path(f"list.{ending}"), [{"path": "a.mp4", "adapter": "one"}])
    with pytest.raises(AdapterColumnError, match=r"take the column out.*--adapter NAME"):
        list(find_items([given]))


def test_a_torn_parquet_is_refused_and_not_ours(here: Path) -> None:
    rows = [{"path": f"{number}.mp4"} for number in range(50_000)]
    whole = write_parquet(Path("list.parquet"), rows).read_bytes()
    for at in range(200, len(whole) - 200, len(whole) // 8):
        Path("list.parquet").write_bytes(whole[:at] + bytes(64) + whole[at + 64 :])
        with suppress(DataError):
            list(find_items(["list.parquet"]))


# Standard input


@pytest.mark.parametrize("size", [1, 2, 7, 1 << 16])
def test_standard_input_holds_a_name_a_line_or_ends_them_with_nul(
    monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    monkeypatch.setattr(names, "_CHUNK_BYTES", size)
    odd = os.fsdecode(b"\xff.mp4")
    assert paths("-", stdin=b"a.mp4\n\nb c.mp4 \r\n\xff.mp4\n-") == ["a.mp4", "b c.mp4 ", odd, "-"]
    assert paths("-", stdin=b"a.mp4\0b\nc.mp4\r\0\xff.mp4\0") == ["a.mp4", "b\nc.mp4\r", odd]
    assert paths("-", stdin=b"a.mp4") == ["a.mp4"]


def test_names_in_standard_input_are_clips_and_nothing_else(clips: Path) -> None:
    given = b"clips\nclips/*.mp4\nlist.csv\nclips/a.mp4\nclips/a.mp4\n"
    assert paths("x.mp4", "-", "y.mp4", stdin=given) == [
        "x.mp4", "clips", "clips/*.mp4", "list.csv", "clips/a.mp4", "y.mp4",
    ]  # fmt: skip


def test_names_that_end_in_two_ways_are_refused() -> None:
    with pytest.raises(InputNameError, match="all must end alike"):
        paths("-", stdin=b"a.mp4\n" + b"x" * 100_000 + b"\0b.mp4\0")


def test_standard_input_without_a_name_is_refused() -> None:
    for nothing in (b"", b"\n\n", b"\0"):
        with pytest.raises(NoVideosError, match="standard input names no file"):
            paths("-", stdin=nothing)


def test_names_are_given_before_the_last_one_came_in(tmp_path: Path) -> None:
    read, write = os.pipe()
    with os.fdopen(read, "rb") as stdin, os.fdopen(write, "wb", buffering=0) as writer:
        too_late = threading.Timer(10, writer.close)  # whoever waits for the end fails, and is done
        too_late.start()
        items = find_items(["-"], stdin=stdin)
        for number in range(3):
            writer.write(b"%d.mp4\n" % number)
            assert next(items).path == f"{number}.mp4"
        too_late.cancel()


def test_what_find_writes_is_read_by_the_command(
    bundle: Path, clips: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy("clips/a.mp4", "clips/two\nlines.mp4")
    found = subprocess.run(
        ["find", "clips", "-name", "*.mp4", "-print0"], capture_output=True, check=True
    ).stdout
    listed = Path("names")
    listed.write_bytes(found)
    with listed.open() as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        assert cli.run(["classify", str(bundle), "-"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["path"] for row in rows] == [name.decode() for name in found.split(b"\0")[:-1]]
    assert {row["status"] for row in rows} == {"ok"}


# Once


def test_a_set_of_digests_answers_as_a_set_of_texts_does() -> None:
    seen, slow = Seen(), set[str]()
    for number in range(20_000):
        text = f"{number * number % 7919}\udcff.mp4"
        assert seen.is_new(text) == (text not in slow)
        slow.add(text)


def test_a_million_clips_fit_into_modest_memory(tmp_path: Path) -> None:
    with (tmp_path / "list.csv").open("w") as file:
        file.write("path\n")
        file.writelines(f"folder-{n // 1000}/clip-{n:07}.mp4\n" for n in range(200_000))
    ask = (
        "import resource, sys; from lora_deploy.classify.inputs import find_items\n"
        "def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024\n"
        "before = peak(); count = sum(1 for _ in find_items([sys.argv[1]]))\n"
        "print(count, peak() - before)"
    )
    said = subprocess.run(
        [sys.executable, "-c", ask, str(tmp_path / "list.csv")],
        capture_output=True, check=True, text=True,
    )  # fmt: skip
    count, more_bytes = map(int, said.stdout.split())
    assert count == 200_000
    assert more_bytes < 64 * count + 4_000_000


# Told


def test_the_page_tells_every_column_and_every_kind_of_error() -> None:
    page = (Path(__file__).parents[1] / "docs" / "batch.md").read_text(encoding="utf-8")
    for told in (*COLUMNS, *TIMES, *CLIP_ERROR_KINDS, *lists.LIST_ENDINGS):
        assert f"`{told}`" in page or f"list{told}`" in page, told
