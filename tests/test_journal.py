"""The journal of a run: whatever write or sync fails, and whenever the process is killed, nothing is lost or doubled."""

import json
import os
import resource
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lora_deploy import disk
from lora_deploy.classify import journal, stream
from lora_deploy.classify import run as stage
from lora_deploy.classify.inputs import Item
from lora_deploy.classify.journal import Journal, opened
from lora_deploy.classify.rows import Row, write_rows
from lora_deploy.classify.run import Batch, Finished, run
from lora_deploy.classify.terms import Model
from lora_deploy.clips.clip import Footage, Stretch
from lora_deploy.errors import JournalDiskError, NewerSchemaError
from tests.faults import Attempt, Mode, attempt
from tests.power_cut import out_of_order

CLIPS = 4


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
