"""Whatever call fails, and whenever the process is killed: a RUN or a BUNDLE is the old or the new one, whole."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pytest
from safetensors import SafetensorError

from lora_deploy import cli
from lora_deploy.artifact import bundle as bundles
from lora_deploy.artifact import run as runs
from lora_deploy.atomic import UPDATE
from lora_deploy.errors import AdapterChangedError
from lora_deploy.export import write_forms
from lora_deploy.runtime.load import load
from tests.faults import NEED_ROOM, Call, attempt
from tests.power_cut import out_of_order

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Came:
    """What came of one fault."""

    folder: Path
    mode: str
    nth: int
    fault: Call
    ended: str
    error: str

    def __str__(self) -> str:
        return f"{self.mode} {self.nth} {self.fault}"


@dataclass(frozen=True)
class Trial:
    """What a run of `fault_runs` left."""

    work: Path
    whole: list[list[Call]]
    """Calls of the attempts without a fault."""
    came: list[Came]


def tried(what: str, work: Path, base: Path, extent: str = "some") -> Trial:
    """Run a trial in a process of its own."""
    quiet = {"OMP_NUM_THREADS": "1", "HF_DEACTIVATE_ASYNC_LOAD": "1", "HF_HUB_OFFLINE": "1"}
    subprocess.run(
        [sys.executable, "-m", "tests.fault_runs", what, str(work), str(base), extent],
        cwd=ROOT, env={**os.environ, **quiet}, check=True, timeout=3600,
    )  # fmt: skip
    whole, came = [], []
    for entry in json.loads((work / "came.json").read_text()):
        if "nth" not in entry:
            assert entry["ended"] == "done", entry["error"]
            whole.append([Call(**call) for call in entry["calls"]])
        else:
            came.append(came_of(entry, work))
    for one in came:  # the calls come in the same order each time
        assert one.fault.name == whole[-1][one.nth - 1].name, one
    return Trial(work, whole, came)


def came_of(entry: dict[str, Any], work: Path) -> Came:
    mode, nth = entry["mode"], entry["nth"]
    assert entry["fault"], f"{mode} {nth}: there was no such call"
    fault = Call(**entry["fault"])
    return Came(work / f"{mode}-{nth}", mode, nth, fault, entry["ended"], entry["error"])


@pytest.fixture(scope="module")
def saves(
    tmp_path_factory: pytest.TempPathFactory, tiny_base: Path, fault_injection: None
) -> Trial:
    """Saving epoch 2 over epoch 1, with a fault at each call."""
    return tried("save", tmp_path_factory.mktemp("saves"), tiny_base)


@pytest.fixture(scope="module")
def exports(
    tmp_path_factory: pytest.TempPathFactory, tiny_base: Path, fault_injection: None
) -> Trial:
    """Exports with a fault at all calls that publish or sync, and at some of the others."""
    return tried("export", tmp_path_factory.mktemp("exports"), tiny_base)


def answers(model: Path) -> bytes:
    """What a model says of a clip, to the last bit, opened as users open it."""
    recogniser = load(model)
    contract = recogniser.contract
    shape = (1, contract.frames, contract.crop_height, contract.crop_width, 3)
    frames = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    return recogniser.logits(frames).tobytes()


def hidden(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.name.startswith(".")]


def check_ends(came: Iterable[Came]) -> None:
    """A failed call is told, in one line that fits what happened; a fatal one was fatal."""
    for one in came:
        assert one.ended == ("raised" if one.mode == "fail" else "killed"), one
        if one.mode == "fail":
            kind = "DiskFullError: " if one.fault.name in NEED_ROOM else "OSError: [Errno 5] "
            assert one.error.startswith(kind), f"{one}: {one.error}"
            assert "\n" not in one.error


def test_calls_on_the_folder_count_from_any_thread_and_no_others_do(
    tmp_path: Path, fault_injection: None
) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()

    def action() -> None:
        folder.mkdir(exist_ok=True)
        (tmp_path / "outside").write_text("x")
        thread = threading.Thread(target=lambda: (folder / "a").write_text("x"))
        thread.start()
        thread.join()
        subprocess.run(["/bin/sh", "-c", f"echo x > '{folder}/b'"], check=True)
        os.rename("folder/a", "outside")  # noqa: PTH104 (a path that the kernel resolves)

    with contextlib.chdir(tmp_path):
        came = attempt(action, folder)
    assert (came.ended, came.error, came.fault) == ("done", "", None)
    assert came.calls == (
        Call("openat", "a"),
        Call("write", "a"),
        Call("rename", "a", str(tmp_path / "outside")),
    )
    assert (folder / "b").read_text() == "x\n"


def test_a_save_tells_of_each_call_that_failed(saves: Trial) -> None:
    [whole] = saves.whole
    for mode in ("fail", "kill"):
        assert [one.nth for one in saves.came if one.mode == mode] == [*range(1, len(whole) + 1)]
    check_ends(saves.came)


def test_a_save_that_was_cut_off_leaves_the_old_or_the_new_model(saves: Trial) -> None:
    old, new = answers(saves.work / "old"), answers(saves.work / "new")
    assert old != new
    for mode in ("fail", "kill"):
        found = []
        for one in saves.came:
            if one.mode != mode:
                continue
            answer = answers(one.folder)
            manifest = runs.read_run_manifest(one.folder)
            assert answer == {1: old, 2: new}[manifest.best.epoch], one
            runs.verify_weights(one.folder, manifest, runs.CHECKPOINT)
            found.append(manifest.best.epoch)
            if mode == "fail":
                assert hidden(one.folder) == [], one
        assert found == sorted(found)  # one call makes the new one count
        assert set(found) == {1, 2}


def test_a_first_save_that_was_cut_off_once_it_counts_is_opened(
    saves: Trial, tmp_path: Path
) -> None:
    folder = shutil.copytree(saves.work / "old", tmp_path / "run")
    update = folder / UPDATE
    update.mkdir()
    for name in (runs.CHECKPOINT, runs.ADAPTER, runs.MANIFEST):
        (folder / name).rename(update / name)
    assert answers(folder) == answers(saves.work / "old")
    assert hidden(folder) == []


def test_a_torn_file_of_a_save_that_was_cut_off_is_refused(saves: Trial, tmp_path: Path) -> None:
    folder = shutil.copytree(saves.work / "old", tmp_path / "run")
    weights = Path(runs.ADAPTER) / "adapter_model.safetensors"
    (folder / UPDATE / runs.ADAPTER).mkdir(parents=True)
    (folder / weights).rename(folder / UPDATE / weights)
    content = (folder / UPDATE / weights).read_bytes()
    (folder / UPDATE / weights).write_bytes(content[:-1])
    with pytest.raises(AdapterChangedError, match="is not the file that training left"):
        load(folder)


def test_the_save_after_one_that_was_cut_off_works_and_leaves_nothing_behind(saves: Trial) -> None:
    check_next_saves(saves)


def check_next_saves(saves: Trial) -> None:
    again = [one.folder.with_name(f"{one.folder.name}-next") for one in saves.came]
    again = [folder for folder in again if folder.exists()]
    assert again
    for folder in again:
        assert hidden(folder) == []
        manifest = runs.read_run_manifest(folder)
        assert manifest.best.epoch == 3
        assert manifest.finished
        for name in manifest.weights:
            runs.verify_weights(folder, manifest, name)


def check_exports(exports: Trial) -> None:
    check_ends(exports.came)
    expected = answers(exports.work / "whole" / "bundle")
    shipped = set()
    for one in exports.came:
        target = one.folder / "bundle"
        if not target.exists() or not any(target.iterdir()):
            shipped.add(False)
        else:
            check_bundle(target, expected)
            shipped.add(True)
        if one.mode == "fail":
            assert hidden(one.folder) == [], one
        again = one.folder.with_name(f"{one.folder.name}-next")
        if again.exists():
            check_bundle(again / "bundle", expected)
            assert hidden(again) == [], one
    assert shipped == {True, False}


def check_bundle(folder: Path, expected: bytes) -> None:
    bundles.verify_files(folder, bundles.read_bundle_manifest(folder))
    assert answers(folder) == expected


def test_an_export_that_was_cut_off_leaves_a_whole_bundle_or_none(exports: Trial) -> None:
    check_exports(exports)


def test_a_full_disk_ends_an_export_with_one_clear_line(
    saves: Trial,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def full(*_: object) -> None:
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(write_forms, "save_model", full)
    out = tmp_path / "out" / "bundle"
    assert cli.run(["merge-export", str(saves.work / "old"), "--out", str(out)]) == 2
    under_way, line = capsys.readouterr().err.splitlines()
    assert under_way.startswith("merging, and exporting in fp32")
    assert line == (
        f"error: the disk is full, and {out} was not written; free some space and give the same "
        "command again, a training with --resume [DiskFullError]"
    )
    assert list(out.parent.iterdir()) == []


def test_what_the_trial_of_exports_prepares_makes_no_call_that_counts(exports: Trial) -> None:
    plain, prepared = ([(call.name, named(call.path)) for call in calls] for calls in exports.whole)
    assert plain == prepared


def named(path: str) -> str:
    """A path without the letters that a temporary name has by chance."""
    parts = (
        f"{part.rpartition('.')[0].rpartition('.')[0]}.partial" if part.endswith(".partial")
        else ".tmp" if part.startswith(".tmp") else part
        for part in PurePosixPath(path).parts
    )  # fmt: skip
    return "/".join(parts)


def test_nothing_counts_before_it_is_on_the_disk(saves: Trial, exports: Trial) -> None:
    for calls in (*saves.whole, *exports.whole):
        assert out_of_order(calls) == []


@pytest.mark.soak
def test_every_call_of_an_export_and_each_save_after_a_fault(
    tmp_path: Path, tiny_base: Path, fault_injection: None
) -> None:
    (tmp_path / "exports").mkdir()
    exports = tried("export", tmp_path / "exports", tiny_base, "every")
    for mode in ("fail", "kill"):
        assert [one.nth for one in exports.came if one.mode == mode] == [
            *range(1, len(exports.whole[1]) + 1)
        ]
    check_exports(exports)
    (tmp_path / "saves").mkdir()
    check_next_saves(tried("save", tmp_path / "saves", tiny_base, "every"))
