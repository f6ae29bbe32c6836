"""The process of one training: it trains, says what that took, and judges the model on each set.

Started by `lora_deploy.compare.process` as ``python -m lora_deploy.compare.child FOLDER``; of no use
by hand. A process of its own, so that the most memory that was ever held is that of one training.
"""

import datetime
import json
import logging
import shutil
import sys
from pathlib import Path

import torch

from lora_deploy import atomic, device
from lora_deploy.artifact import run
from lora_deploy.artifact.run import RunManifest
from lora_deploy.clips.fence import die_with_parent
from lora_deploy.compare import outcome
from lora_deploy.compare.outcome import Counted, Failure, Job, Outcome, PreparationJob, Trained
from lora_deploy.compare.preparation import prepare
from lora_deploy.config import settings_from
from lora_deploy.errors import LoraDeployError
from lora_deploy.evaluate import evaluate
from lora_deploy.memory import peak_memory_bytes
from lora_deploy.processor import read_processor
from lora_deploy.runtime.load import load
from lora_deploy.train import checkpoints
from lora_deploy.train.fit import fit
from lora_deploy.versions import installed_versions


def main() -> int:
    """Do what ``job.json`` says; the exit code is 1 where ``failure.json`` says why it can't be."""
    folder = Path(sys.argv[1])
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="%(message)s")
    logging.getLogger("lora_deploy").setLevel(logging.INFO)
    text = (folder / outcome.JOB).read_text(encoding="utf-8")
    is_training = "asked" in json.loads(text)
    try:
        if is_training:
            training(folder, Job.model_validate_json(text))
        else:
            preparation(folder, PreparationJob.model_validate_json(text))
    except LoraDeployError as error:
        failure = Failure(error=str(error), name=error.name)
        atomic.write_text(folder / outcome.FAILURE, failure.model_dump_json(indent=1) + "\n")
        return 1
    return 0


def preparation(folder: Path, job: PreparationJob) -> None:
    """Decode all clips, and fit the baseline."""
    die_with_parent(job.parent_pid)
    torch.set_num_threads(job.threads)
    found = prepare(job)
    atomic.write_text(folder / outcome.BASELINE, found.model_dump_json(indent=1) + "\n")


def training(folder: Path, job: Job) -> None:
    """Train, or go on, or take what is finished; then judge on each set that is still missing."""
    die_with_parent(job.parent_pid)
    torch.set_num_threads(job.threads)
    known = outcome.read_outcome(folder)
    if known is None:
        known = Outcome(asked=job.asked, trained=train(folder, job), sets={})
        outcome.write_outcome(folder, known)
    recogniser = None
    for name in known.lacks(job.sets):
        recogniser = recogniser or load(folder / outcome.RUN, device=job.device)
        wanted = job.sets[name]
        found = evaluate(recogniser, Path(wanted.source), split=wanted.split)
        counted = Counted(
            clips=wanted.clips,
            right=round(found.accuracy * found.clips),
            answered=found.clips,
            left_out=len(found.left_out),
        )
        known = known.model_copy(update={"sets": {**known.sets, name: counted}})
        outcome.write_outcome(folder, known)


def train(folder: Path, job: Job) -> Trained:
    """One training from its beginning or its last checkpoint to its end, measured."""
    out = folder / outcome.RUN
    before = peak_memory_bytes()
    interrupted = out.exists()
    finished_before = run.is_run(out) and run.read_run_manifest(out).finished
    manifest = fit(
        settings_from(job.settings, where=outcome.JOB),
        Path(job.manifest),
        out,
        resume=interrupted,
        cache_folder=Path(job.frames),
        device_name=job.device,
    )
    chosen = device.choose(job.device)
    on_gpu = chosen.type == "cuda"
    peak = None
    if not finished_before:
        peak = torch.cuda.max_memory_allocated() if on_gpu else peak_memory_bytes()
    curve = validation_curve(out)
    shutil.rmtree(out / checkpoints.FOLDER, ignore_errors=True)  # of no use once it is finished
    return Trained(
        parameters=manifest.parameters,
        base=manifest.base.fingerprint,
        epochs=curve[-1][0],
        best_epoch=manifest.best.epoch,
        val_accuracy=manifest.best.val_accuracy,
        val_loss=manifest.best.val_loss,
        val_clips=manifest.best.val_clips,
        seconds=manifest.training_seconds,
        seconds_to_best=_seconds_to_best(manifest),
        peak_memory_bytes=peak,
        memory_of="GPU" if on_gpu else "process",
        memory_before_bytes=before,
        checkpoint_bytes=(out / run.CHECKPOINT).stat().st_size,
        adapter_bytes=folder_bytes(out / run.ADAPTER) if manifest.kind == "lora" else None,
        curve=curve,
        interrupted=interrupted,
        processor=str(read_processor()),
        device=torch.cuda.get_device_name(chosen) if on_gpu else "CPU",
        threads=torch.get_num_threads(),
        versions=installed_versions(),
        date=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    )


def _seconds_to_best(manifest: RunManifest) -> float:
    seconds = manifest.best.training_seconds
    return manifest.training_seconds if seconds is None else seconds


def validation_curve(out: Path) -> tuple[tuple[int, float], ...]:
    """Epoch and validation accuracy of a RUN, from its metrics."""
    lines = (out / run.METRICS).read_text(encoding="utf-8").splitlines()
    values = [json.loads(line) for line in lines]
    return tuple(
        (round(line["epoch"]), line["eval_accuracy"]) for line in values if "eval_accuracy" in line
    )


def folder_bytes(folder: Path) -> int:
    """Of all files under it."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


if __name__ == "__main__":
    sys.exit(main())
