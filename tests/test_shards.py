"""A run in shards: joined they are the unsharded file, and what does not belong together is refused by name."""

import hashlib
import itertools
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lora_deploy import cli
from lora_deploy.classify import places, run
from lora_deploy.classify.inputs import Item
from lora_deploy.classify.parts import Shard, parse_shard
from lora_deploy.classify.places import Batch
from lora_deploy.classify.terms import Model
from lora_deploy.clips.clip import Footage
from lora_deploy.errors import (
    BatchChangedError,
    DataError,
    PartMissingError,
    PartsDifferError,
    PartTornError,
    ShardError,
)

FORMATS = ("jsonl", "csv", "parquet")


@pytest.fixture(scope="module")
def clips(media: Path, test_clips: list[Path]) -> list[str]:
    """Sound clips and bad ones, one of them twice under two names."""
    return [
        *map(str, test_clips[:5]),
        str(media / "malformed" / "audio_only.mp4"),
        str(media / "nowhere.mp4"),
        str(test_clips[0].parent / ".." / test_clips[0].parent.name / test_clips[0].name),
    ]


@pytest.fixture(scope="module")
def done(bundle: Path, clips: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the rows of an unsharded run, and with three parts of them. Not to be changed."""
    folder = tmp_path_factory.mktemp("shards")
    whole = [word for ending in FORMATS for word in ("--out", str(folder / f"whole.{ending}"))]
    assert cli.run(["classify", str(bundle), *clips, *whole]) == 1
    side_by_side = [
        subprocess.Popen(
            [
                sys.executable, "-m", "lora_deploy", "classify", str(bundle), *clips,
                "--out", str(folder / "rows.jsonl"), "--shard", f"{number}/3",
            ]
        )
        for number in (3, 1, 2)
    ]  # fmt: skip
    assert sorted(shard.wait(timeout=300) for shard in side_by_side) == [0, 1, 1]
    return folder


@pytest.fixture
def copied(done: Path, tmp_path: Path) -> Path:
    """The three parts, that a test may damage: the place of their output."""
    for path in done.glob("rows.jsonl.part-*.jsonl"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path / "rows.jsonl"


def part(out: Path, number: int) -> Path:
    return Shard(number, 3).part_of(out)


def rewrite(path: Path, **values: Any) -> None:
    """Change the header of a part."""
    head, _, rows = path.read_bytes().partition(b"\n")
    path.write_bytes(json.dumps({**json.loads(head), **values}).encode() + b"\n" + rows)


def test_three_shards_joined_equal_the_unsharded_file_in_each_format(
    done: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    outs = [done / f"rows.{ending}" for ending in FORMATS]
    words = [word for out in outs for word in ("--out", str(out))]
    assert cli.run(["classify", "--join", *words]) == 1
    line = f"{', '.join(map(str, outs))}: 8 rows, 2 of them errors; joined from 3 parts\n"
    assert capsys.readouterr().err == line
    for out in outs:
        assert out.read_bytes() == out.with_stem("whole").read_bytes()
    assert not list(done.glob(".*"))


def test_each_clip_is_in_one_shard() -> None:
    for of, clips in itertools.product((1, 2, 3, 7, 16), (0, 1, 6, 7, 40)):
        shards = [Shard(number, of) for number in range(1, of + 1)]
        for position in range(clips):
            assert sum(shard.takes(position) for shard in shards) == 1
        assert [shard.share(clips) for shard in shards] == [
            sum(map(shard.takes, range(clips))) for shard in shards
        ]


@pytest.mark.parametrize("text", ["", "3", "0/3", "4/3", "1/0", "-1/3", "1/1001", "a/b", "1/3/5"])
def test_what_is_no_shard_is_refused(text: str) -> None:
    with pytest.raises(ShardError, match="is no shard; allowed: 1/N to N/N"):
        parse_shard(text)


def test_more_shards_than_clips_leave_empty_parts(
    bundle: Path, clips: list[str], tmp_path: Path
) -> None:
    out, whole = tmp_path / "rows.csv", tmp_path / "whole.csv"
    for number in (1, 2, 3):
        words = [*clips[:2], "--out", str(out), "--shard", f"{number}/3"]
        assert cli.run(["classify", str(bundle), *words]) == 0
    assert cli.run(["classify", "--join", "--out", str(out)]) == 0
    assert cli.run(["classify", str(bundle), *clips[:2], "--out", str(whole)]) == 0
    assert out.read_bytes() == whole.read_bytes()


def test_a_missing_part_is_named(copied: Path) -> None:
    part(copied, 2).unlink()
    with pytest.raises(PartMissingError, match=r"number 2; .* rows\.jsonl\.part-2-of-3\.jsonl"):
        run.join((copied,))
    with pytest.raises(PartMissingError, match="no part of"):
        run.join((copied.with_name("other.csv"),))
    assert not copied.exists()


def test_a_part_under_the_number_of_another_is_named(copied: Path) -> None:
    part(copied, 2).write_bytes(part(copied, 1).read_bytes())
    with pytest.raises(PartsDifferError, match=r"part-2-of-3\.jsonl is part 1/3 by what it holds"):
        run.join((copied,))


def test_parts_of_runs_in_other_numbers_of_shards_are_refused(copied: Path) -> None:
    Shard(4, 4).part_of(copied).write_bytes(part(copied, 1).read_bytes())
    with pytest.raises(PartsDifferError, match="in 3 and in 4 shards"):
        run.join((copied,))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def cut_at_a_line(path: Path) -> None:
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-1]))


def changed(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b'"score": 0.', b'"score": 0.1', 1))


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def without_header(path: Path) -> None:
    path.write_bytes(path.read_bytes().partition(b"\n")[2])


@pytest.mark.parametrize("damage", [cut, cut_at_a_line, changed, emptied, without_header])
def test_a_torn_part_is_named(copied: Path, damage: Callable[[Path], None]) -> None:
    damage(part(copied, 3))
    with pytest.raises(PartTornError, match=r"rows\.jsonl\.part-3-of-3\.jsonl"):
        run.join((copied,))
    assert not copied.exists()


def test_a_part_that_lacks_rows_is_told_how_many(copied: Path) -> None:
    cut_at_a_line(part(copied, 3))
    with pytest.raises(PartTornError, match=r"part-3-of-3\.jsonl holds 1 rows of 2"):
        run.join((copied,))


def test_a_part_that_somebody_made_up_is_named(copied: Path) -> None:
    head, _, rows = part(copied, 1).read_bytes().partition(b"\n")
    made_up = b'{"top_k": []}\n' * len(rows.splitlines())
    part(copied, 1).write_bytes(head + b"\n" + made_up)
    rewrite(part(copied, 1), sha256=hashlib.sha256(made_up).hexdigest())
    with pytest.raises(PartTornError, match=r"part-1-of-3.* holds a line that is no row"):
        run.join((copied,))
    assert not copied.exists()


def test_parts_by_other_settings_or_of_other_inputs_are_refused(copied: Path) -> None:
    header = json.loads(part(copied, 2).read_bytes().partition(b"\n")[0])
    rewrite(part(copied, 2), settings={**header["settings"], "top-k": "3"})
    with pytest.raises(PartsDifferError, match=r"part-2-of-3.*top-k was 5 and is 3"):
        run.join((copied,))
    rewrite(part(copied, 2), settings=header["settings"], inputs="sha256:other")
    with pytest.raises(PartsDifferError, match=r"part-2-of-3.*names other clips"):
        run.join((copied,))
    rewrite(part(copied, 2), inputs=header["inputs"], timed=True)
    with pytest.raises(PartsDifferError, match=r"part-2-of-3"):
        run.join((copied,))
    rewrite(part(copied, 2), timed=False)
    assert run.join((copied,)).rows == 8


def test_parts_of_other_versions_are_joined_and_that_is_said(
    copied: Path, caplog: pytest.LogCaptureFixture
) -> None:
    header = json.loads(part(copied, 2).read_bytes().partition(b"\n")[0])
    rewrite(part(copied, 2), surroundings={**header["surroundings"], "av": "99"})
    assert run.join((copied,)).rows == 8
    assert "and is 99 against part 1" in caplog.text


def test_shards_have_journals_of_their_own(done: Path) -> None:
    assert sorted(path.name for path in done.glob("rows.*.journal")) == [
        f"rows.jsonl.part-{number}-of-3.jsonl.journal" for number in (1, 2, 3)
    ]


def test_a_shard_does_not_go_on_in_the_journal_of_another(
    bundle: Path, clips: list[str], tmp_path: Path
) -> None:
    items = [Item(clip, Footage(Path(clip))) for clip in clips[:3]]
    outs, journal = (tmp_path / "rows.csv",), tmp_path / "a.journal"
    run.run(Batch(outs, journal=journal, shard=Shard(1, 2)), Model(bundle), lambda: items)
    with pytest.raises(BatchChangedError, match="shard was 1/2 and is 2/2"):
        run.run(Batch(outs, journal=journal, shard=Shard(2, 2)), Model(bundle), lambda: items)
    with pytest.raises(DataError, match="a shard has one output"):
        run.run(Batch((*outs, tmp_path / "b.csv"), shard=Shard(1, 2)), Model(bundle), list)


def test_a_shard_whose_output_many_computers_see_keeps_its_journal_on_this_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    local, shared = tmp_path / "local", tmp_path / "shared"
    local.mkdir()
    shared.mkdir()
    monkeypatch.setattr(places, "is_network", lambda folder: folder == shared)
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(local))
    out = shared / "rows.csv"
    place = places.journal_place(Batch((out,), shard=Shard(2, 3)))
    assert local in place.parents
    assert f"the journal of shard 2/3 is {place}" in caplog.text
    assert place == places.journal_place(Batch((out,), shard=Shard(2, 3)))
    assert place != places.journal_place(Batch((out,), shard=Shard(1, 3)))
    assert places.journal_place(Batch((out,))) == shared / "rows.csv.journal"
    named = tmp_path / "named"
    assert places.journal_place(Batch((out,), journal=named, shard=Shard(2, 3))) == named
    place.parent.chmod(0o777)  # somebody else may have made it
    assert places.journal_place(Batch((out,), shard=Shard(2, 3))).parent == shared


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--join"], "--join needs --out"),
        (["MODEL", "--join", "--out", "rows.csv"], "--join takes --out alone"),
        (["--join", "--shard", "1/3", "--out", "rows.csv"], "--join takes --out alone"),
        (["--join", "--restart", "--out", "rows.csv"], "--join takes --out alone"),
        (["MODEL", "x.mp4", "--shard", "1/3"], "need --out"),
        ([], "Missing argument 'MODEL'"),
        (["MODEL"], "Missing argument 'INPUT'"),
    ],
)
def test_what_can_not_be_meant_is_refused(
    words: list[str], said: str, bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(["classify", *(str(bundle) if word == "MODEL" else word for word in words)]) == 2
    assert said in capsys.readouterr().err
