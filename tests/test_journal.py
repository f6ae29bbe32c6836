"""The journal of a run: whatever write or sync fails, and whenever the process is killed, nothing is lost or doubled."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lora_deploy import disk
from lora_deploy.classify import journal
from lora_deploy.classify import run as stage
from lora_deploy.classify.inputs import Item
from lora_deploy.classify.journal import opened
from lora_deploy.classify.places import Batch
from lora_deploy.classify.rows import Row
from lora_deploy.classify.run import Finished, run
from lora_deploy.classify.terms import Model
from lora_deploy.clips.clip import Footage, Stretch
from lora_deploy.errors import NewerSchemaError
from tests.faults import Attempt, Mode, attempt

CLIPS = 3


class StandIn(Model):
    """A model that is open at once, and is asked through `answers_of`."""

    def open(self) -> Any:
        return SimpleNamespace(
            digest="sha256:0", backend=SimpleNamespace(name="stand-in", form="merged", batch_size=1)
        )

    def digest(self) -> str:
        return "sha256:0"


def row_of(item: Item) -> Row:
    """What the stand-in says: a third of its answers are errors."""
    number = int(item.footage.path.stem)
    good = number % 3 != 2
    return Row(
        path=item.path, status="ok" if good else "error", label=f"label {number}" if good else None,
        score=1 / (number + 3) if good else None,
        top_k=((f"label {number}", 1 / (number + 3)),) if good else (),
        duration_seconds=0.1 * number, warning=None, error_kind=None if good else "unreadable",
        error=None if good else "the file is a text", model="sha256:0",
    )  # fmt: skip


@dataclass(frozen=True)
class Job:
    """A run in a folder of its own, with a record elsewhere of what was asked and what was kept."""

    folder: Path
    clips: tuple[Path, ...]
    record: Path

    @property
    def outs(self) -> tuple[Path, ...]:
        return tuple(self.folder / f"rows.{ending}" for ending in ("jsonl", "csv"))

    def run(self, **batch: Any) -> Finished:
        items = [Item(str(clip), Footage(clip)) for clip in (*self.clips, self.clips[0])]
        return run(Batch(self.outs, **batch), StandIn(self.folder), lambda: items)

    def told(self, what: str) -> list[str]:
        """Clips that were ``asked`` or ``kept``."""
        lines = self.record.read_text().splitlines() if self.record.exists() else []
        return [line.split()[1] for line in lines if line.startswith(what)]

    def contents(self) -> list[bytes]:
        return [out.read_bytes() for out in self.outs]


@pytest.fixture
def jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Job]:
    """Makes jobs on the same clips, each answer of which is synced before the next is asked."""
    clips = tmp_path / "clips"
    clips.mkdir()
    for number in range(CLIPS):
        (clips / f"{number}.mp4").write_text(f"clip {number}")
    current: list[Path] = []

    def record(what: str) -> None:
        with current[-1].open("a") as file:
            file.write(f"{what}\n")

    def answers(
        recogniser: Any, items: Iterable[tuple[int, Item]], **_: Any
    ) -> Iterator[tuple[int, Row]]:
        for position, item in items:
            record(f"asked {item.footage.path.stem}")
            yield position, row_of(item)
            record(f"kept {item.footage.path.stem}")

    monkeypatch.setattr(stage, "answers", answers)
    monkeypatch.setattr(journal, "SECONDS_BETWEEN_SYNCS", 0)

    def job(name: str) -> Job:
        folder = tmp_path / name
        folder.mkdir()
        current.append(tmp_path / f"{name}.record")
        return Job(folder, tuple(sorted(clips.iterdir())), current[-1])

    return job


@pytest.fixture
def on_any_disk(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """A disk on a network has another kind of journal."""
    monkeypatch.setattr(journal, "is_network", lambda folder: request.param == "network")
    return str(request.param)


@pytest.mark.parametrize("on_any_disk", ["local", "network"], indirect=True)
@pytest.mark.parametrize("mode", ["fail", "kill"])
def test_after_any_failed_call_or_kill_nothing_is_lost_and_nothing_doubled(
    jobs: Callable[[str], Job], mode: Mode, on_any_disk: str, fault_injection: None
) -> None:
    whole = jobs("whole")
    came = attempt(whole.run, whole.folder)
    assert came.ended == "done", came.error
    calls = [(call.name, Path(call.path).suffix) for call in came.calls]
    log = ".journal-wal" if on_any_disk == "local" else ".journal-journal"
    written = {"pwrite64", "fdatasync", "fsync"}
    assert len([1 for name, of in calls if of == log and name in written]) > 2 * CLIPS
    ended = []
    for nth in range(1, len(came.calls) + 1):
        job = jobs(f"{mode}-{nth}")
        cut_off = attempt(job.run, job.folder, nth=nth, mode=mode)
        ended.append(check_end(cut_off, mode, job, whole))
        kept = job.told("kept")
        assert len(kept) == len(set(kept)), cut_off.fault
        job.record.unlink(missing_ok=True)
        finished = job.run()  # in this process, without a fault
        assert job.contents() == whole.contents(), cut_off.fault
        assert set(job.told("asked")).isdisjoint(kept), cut_off.fault
        assert finished.rows == CLIPS + 1
        again = sorted(path.name for path in job.folder.iterdir())
        assert again == ["rows.csv", "rows.jsonl", "rows.jsonl.journal"], cut_off.fault
    assert ended.count("raised" if mode == "fail" else "killed") > len(ended) / 2


def check_end(cut_off: Attempt, mode: Mode, job: Job, whole: Job) -> str:
    """A failed call is told in one line, unless all was well all the same."""
    if mode == "kill":
        assert cut_off.ended == "killed", cut_off.fault
    elif cut_off.ended == "done":
        assert job.contents() == whole.contents(), cut_off.fault
    else:
        kind, _, text = cut_off.error.partition(": ")
        assert kind in ("DiskFullError", "JournalDiskError", "OSError"), cut_off
        assert "\n" not in text
    return cut_off.ended


def items(count: int) -> Iterator[tuple[int, Item, str]]:
    for position in range(count):
        stretch = Stretch(position, position + 1) if position % 2 else None
        yield (
            position,
            Item(f"{position}.mp4", Footage(Path(f"{position}.mp4"), stretch)),
            str(position),
        )


def test_clips_come_back_as_they_went_in(tmp_path: Path) -> None:
    with opened(tmp_path / "j") as kept:
        kept.write_inputs(items(5))
        assert [*kept.unknown()] == [(position, item) for position, item, _ in items(5)]


def test_answers_are_given_while_clips_are_looked_up_and_each_clip_is_asked_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal, "_PAGE", 3)
    count = 50
    doubled = [
        (position, item, str(int(known_by) // 2)) for position, item, known_by in items(count)
    ]
    with opened(tmp_path / "j") as kept:
        kept.write_inputs(doubled)
        assert kept.unknown_count() == count // 2
        asked, at_work = [], []
        for position, item in kept.unknown():
            asked.append(position)
            at_work.append((position, item))
            if len(at_work) == 5:
                at, clip = at_work.pop()
                kept.add(at, row_of(clip))
        for at, clip in at_work:
            kept.add(at, row_of(clip))
        assert asked == [*range(0, count, 2)]
        assert kept.known().answered == count
        rows = [*kept.rows()]
    assert [row.path for row in rows] == [f"{position}.mp4" for position in range(count)]
    assert rows[1].start == 1.0
    assert rows[1].label == rows[0].label


def test_rows_are_written_down_to_the_last_bit(tmp_path: Path) -> None:
    item = Item("a\udcff.mp4", Footage(Path("4.mp4")))
    row = row_of(item)
    odd = {"score": 0.1 + 0.2, "label": 'drücken "x"\n', "warning": "\u2028"}
    row = Row(**{**{name: getattr(row, name) for name in Row.__dataclass_fields__}, **odd})
    with opened(tmp_path / "j") as kept:
        kept.write_inputs([(0, item, "key")])
        kept.add(0, row)
    with opened(tmp_path / "j") as kept:
        [again] = kept.rows()
    assert again.path == "a\\xff.mp4"
    assert (again.score, again.label, again.warning, again.top_k) == (*odd.values(), row.top_k)


def test_rows_are_synced_at_once_where_that_is_cheap_and_else_now_and_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, sync_seconds = [100.0], [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])

    def passing(seconds: float) -> None:
        clock[0] += seconds

    with opened(tmp_path / "j") as kept:
        kept.write_inputs(items(30))
        [*known] = kept.unknown()
        connection = kept._connection

        class Slow:
            """A connection to a disk whose syncs take their time."""

            def __getattr__(self, name: str) -> Any:
                return getattr(connection, name)

            def execute(self, statement: str, *values: Any) -> Any:
                passing(sync_seconds[0] if statement == "COMMIT" else 0)
                return connection.execute(statement, *values)

        monkeypatch.setattr(kept, "_connection", Slow())

        def synced(position: int, after: float) -> bool:
            passing(after)
            kept.add(position, row_of(known[position][1]))
            return not connection.in_transaction

        passing(60)  # a slow model gives a batch of rows at once
        sync_seconds[0] = 0.01
        assert all(synced(position, 0.001) for position in range(8))
        sync_seconds[0] = 10.0  # a disk that is very busy
        assert synced(8, 1)
        assert not synced(9, 0.1)
        assert not synced(10, 0.1)
        assert synced(11, journal.SECONDS_BETWEEN_SYNCS)


def test_a_journal_is_synced_in_full_and_shares_no_memory(tmp_path: Path) -> None:
    with opened(tmp_path / "j") as kept:
        asked = kept._connection.execute
        assert asked("PRAGMA synchronous").fetchone() == (2,)
        assert asked("PRAGMA journal_mode").fetchone() == ("wal",)
        kept.write_inputs(items(3))
        assert sorted(path.name for path in tmp_path.iterdir()) == ["j", "j-wal"]
    assert [path.name for path in tmp_path.iterdir()] == ["j"]


def test_a_journal_on_a_network_disk_has_no_log_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal, "is_network", lambda folder: True)
    with opened(tmp_path / "j") as kept:
        assert kept._connection.execute("PRAGMA journal_mode").fetchone() == ("delete",)
        assert kept._connection.execute("PRAGMA synchronous").fetchone() == (2,)


def test_a_journal_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    with opened(tmp_path / "j") as kept:
        kept._connection.execute("PRAGMA user_version = 2")
    with (
        pytest.raises(NewerSchemaError, match="has version 2; this program knows 1"),
        opened(tmp_path / "j"),
    ):
        pass


def test_memory_does_not_grow_with_the_rows(tmp_path: Path) -> None:
    few, many = (peak_kilobytes(tmp_path / str(rows), rows) for rows in (10_000, 30_000))
    assert many < few * 1.1


def peak_kilobytes(folder: Path, rows: int) -> int:
    """Of a process of its own that writes so many rows in all formats, from a journal."""
    folder.mkdir()
    program = f"""
from pathlib import Path
from lora_deploy.classify.journal import opened
from lora_deploy.classify.rows import write_rows
from tests.test_journal import items, row_of
with opened(Path("j")) as kept:
    kept.write_inputs(items({rows}))
    for position, item in kept.unknown():
        kept.add(position, row_of(item))
    for ending in ("jsonl", "csv", "parquet"):
        write_rows(kept.rows(), Path("rows." + ending), timed=True)
[peak] = [line for line in open("/proc/self/status") if line.startswith("VmHWM")]
print(peak.split()[1])  # ru_maxrss counts what the parent had, too
"""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=folder,
        env=environment,
        check=True,
        capture_output=True,
    )
    return int(done.stdout)


MOUNTS = """\
22 1 0:20 / / rw - overlay overlay rw
23 22 0:21 / /home rw shared:1 - nfs4 server:/home rw
24 23 8:1 / /home/local rw - ext4 /dev/sda1 rw
25 22 0:22 / /mnt/my\\040share rw - cifs //server/share rw
26 22 0:23 / /mnt/s3 rw - fuse.s3fs s3fs rw
27 22 0:24 / /media/stick rw - fuseblk /dev/sdb1 rw
28 22 0:25 / /scratch rw - lustre server rw
"""


@pytest.mark.parametrize(
    ("folder", "name", "network"),
    [
        ("/tmp", "overlay", False),
        ("/home/me", "nfs4", True),
        ("/homes", "overlay", False),
        ("/home/local/x", "ext4", False),
        ("/mnt/my share/rows", "cifs", True),
        ("/mnt/s3", "fuse.s3fs", True),
        ("/media/stick", "fuseblk", False),
        ("/scratch/a", "lustre", True),
    ],
)
def test_disks_on_a_network_are_known_by_their_file_systems(
    folder: str, name: str, network: bool, tmp_path: Path
) -> None:
    mounts = tmp_path / "mountinfo"
    mounts.write_text(MOUNTS)
    assert disk.file_system_of(Path(folder), mounts) == name
    assert disk.is_network(Path(folder), mounts) == network


def test_where_nothing_says_what_is_mounted_disks_are_local(tmp_path: Path) -> None:
    assert not disk.is_network(tmp_path, tmp_path / "no such file")
