"""A process of its own that saves RUNs and makes BUNDLEs with a fault at each call, for `test_faults`.

``python -m tests.fault_runs save|export WORK BASE every|some`` prepares all that can be prepared,
forks once for each fault, and leaves what came of it under WORK, with a list in ``came.json``.
Nothing is judged here.
"""

import json
import random
import shutil
import sys
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, get_args

import torch

from lora_deploy import atomic
from lora_deploy.artifact import run
from lora_deploy.clips import pool
from lora_deploy.clips.clip import DecodedClip, Footage, Stretch
from lora_deploy.clips.contract import PixelContract
from lora_deploy.clips.dataset import read_dataset, read_split
from lora_deploy.clips.example import write_example
from lora_deploy.clips.pool import DecodePool
from lora_deploy.config import settings_from
from lora_deploy.export.pipeline import merge_export
from lora_deploy.model.base import open_base
from lora_deploy.proof import answers
from lora_deploy.train.callbacks import EpochFigures
from lora_deploy.train.learner import prepare
from lora_deploy.train.run_folder import RunFolder
from tests.faults import Attempt, Call, Mode, attempt

SAMPLE = 10
"""Calls that `some` takes beside those that `must_be_tried` names."""
NEXT = 4
"""After which of them `some` tries a second time: one in so many."""


class Saver:
    """Saves RUNs of a learner whose weights are drawn anew each time, in place of a training."""

    def __init__(self, work: Path, base: Path) -> None:
        clips = write_example(work / "clips", train_clips=1, val_clips=1, test_clips=0)
        self._settings = settings_from({"model": {"base": str(base)}}, where="test")
        self._dataset = read_dataset(clips, val_fraction=0.0, test_fraction=0.0, seed=0)
        self._base = open_base(str(base), self._dataset.labels)
        self._learner = prepare(self._base, self._settings)

    def save(self, folder: Path, epoch: int) -> None:
        """Save an epoch, the last one of its training; it alone decides the weights."""
        torch.manual_seed(epoch)
        with torch.no_grad():
            for parameter in self._learner.model.parameters():
                if parameter.requires_grad:
                    parameter.normal_(std=0.3)
        contract = self._base.contract
        writer = RunFolder(
            folder, self._settings, self._dataset, self._base, contract, self._learner
        )
        writer.save(EpochFigures(epoch=epoch, val_accuracy=0.5, val_loss=1.0), val_clips=6)
        run.write_run_manifest(folder, writer.outcome())


class Decoded:
    """Stands in for the pool: the proof's clips, decoded before, so that no fork needs workers."""

    def __init__(self, run_folder: Path) -> None:
        contract = run.read_run_manifest(run_folder).contract
        with DecodePool(1) as running:
            self._clips = {
                clip.path: running.decode(clip.path, contract)
                for clip in read_split(run_folder / run.SPLITS, "val")
            }

    def decode(
        self, path: Path, contract: PixelContract, stretch: Stretch | None = None
    ) -> DecodedClip:
        """What the pool said of this file."""
        return self._clips[path]

    def in_order(
        self, footage: Iterable[Footage], contract: PixelContract
    ) -> Iterator[tuple[str, DecodedClip]]:
        """What the pool said of these files."""
        for one in footage:
            yield str(one), self._clips[one.path]


def prepare_export(run_folder: Path) -> None:
    """Decode the clips and trace the graph once for all forks: neither writes to the target."""
    decoded = Decoded(run_folder)
    for module in (pool, answers):
        setattr(module, "shared", lambda: decoded)  # noqa: B010 (mypy knows them as constants)
    traced: list[Any] = []
    trace = torch.onnx.export

    def export(*arguments: Any, **options: Any) -> Any:
        if not traced:
            traced.append(trace(*arguments, **options))
        return traced[0]

    torch.onnx.export = export
    merge_export(run_folder, run_folder.with_name("warm") / "bundle")


def try_saving(work: Path, base: Path, *, every: bool) -> list[dict[str, Any]]:
    """Epoch 2 over epoch 1 in ``MODE-N``, and epoch 3 over what that left in ``MODE-N-next``.

    Each call is tried; ``every`` is about the second save.
    """
    saver = Saver(work, base)
    saver.save(work / "old", 1)
    folder = shutil.copytree(work / "old", work / "new")
    whole = attempt(lambda: saver.save(folder, 2), folder)

    def one(folder: Path, nth: int, mode: Mode) -> dict[str, Any]:
        shutil.copytree(work / "old", folder)
        came = attempt(lambda: saver.save(folder, 2), folder, nth=nth, mode=mode)
        if every or nth % NEXT == 0:
            after = shutil.copytree(folder, folder.with_name(f"{folder.name}-next"))
            saver.save(after, 3)
        return asdict(came)

    return [asdict(whole), *for_each(work, whole.calls, one, every=True)]


def try_exporting(work: Path, base: Path, *, every: bool) -> list[dict[str, Any]]:
    """A bundle in ``MODE-N``, and a second try, over what that left, in ``MODE-N-next``."""
    source = work / "run"
    Saver(work, base).save(source, 1)

    def export(folder: Path, nth: int | None = None, mode: Mode = "fail") -> Attempt:
        (folder if nth and nth % 2 else folder / "bundle").mkdir(parents=True)
        return attempt(lambda: merge_export(source, folder / "bundle"), folder, nth=nth, mode=mode)

    def one(folder: Path, nth: int, mode: Mode) -> dict[str, Any]:
        came = export(folder, nth, mode)
        if every or nth % NEXT == 0:
            after = shutil.copytree(folder, folder.with_name(f"{folder.name}-next"))
            if atomic.is_free(after / "bundle"):
                merge_export(source, after / "bundle")
        return asdict(came)

    plain = export(work / "plain")
    prepare_export(source)
    whole = export(work / "whole")
    return [asdict(plain), asdict(whole), *for_each(work, whole.calls, one, every=every)]


def for_each(
    work: Path,
    calls: Collection[Call],
    one: Callable[[Path, int, Mode], dict[str, Any]],
    *,
    every: bool,
) -> list[dict[str, Any]]:
    """Let each call, or some of them, fail and be fatal."""
    came = []
    for mode in get_args(Mode):
        numbered = enumerate(calls, start=1)
        others = [nth for nth, call in numbered if not must_be_tried(call, mode)]
        left_out = set() if every else set(others) - set(random.Random(0).sample(others, SAMPLE))
        for nth in range(1, len(calls) + 1):
            if nth not in left_out:
                found = one(work / f"{mode}-{nth}", nth, mode)
                came.append({"mode": mode, "nth": nth, **found})
    return came


def must_be_tried(call: Call, mode: Mode) -> bool:
    """Renaming is what publishes. Being killed at a sync is being killed at the call after it."""
    return call.name.startswith("rename") or (call.name == "fsync" and mode == "fail")


if __name__ == "__main__":
    torch.set_num_threads(1)  # a fork inherits no threads, and would wait for them
    what, work_folder, base_folder, extent = sys.argv[1:]
    trying = {"save": try_saving, "export": try_exporting}[what]
    found = trying(Path(work_folder), Path(base_folder), every=extent == "every")
    (Path(work_folder) / "came.json").write_text(json.dumps(found))
