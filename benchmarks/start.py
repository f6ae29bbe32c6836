"""From the start of a process to its first answer: transformers' pipeline beside this package.

Every way is a fresh Python process that opens the same model and classifies the same clip; the
ways take turns. What counts is the time to the first answer less one warm answer, and the most
memory that was ever held, with the process that decodes.

    python benchmarks/start.py --bundle FOLDER --clip CLIP --repeats 5
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import click
from base_size_bundle import make

from lora_deploy.artifact import bundle
from lora_deploy.bench.turns import turns
from lora_deploy.clips.dataset import find_videos
from lora_deploy.clips.example import write_example
from lora_deploy.processor import read_processor

PIPELINE = "transformers' pipeline"

_TELL = """
warm = []
for _ in range(2):
    before = time.monotonic()
    classify(sys.argv[2])
    warm.append(time.monotonic() - before)
peak = lambda pid: sum(
    int(line.split()[1]) << 10 for line in open(f"/proc/{pid}/status") if line.startswith("VmHWM")
)
print(json.dumps({
    "start": first - float(sys.argv[3]) - min(warm),
    "warm": min(warm),
    "process": peak("self"),
    "decoder": sum(map(peak, decoders())),
    "torch": "torch" in sys.modules,
}))
"""

OURS = (
    """
import json, sys, time
import lora_deploy
backend, _, precision = sys.argv[4].partition("-")
classify = lora_deploy.load(sys.argv[1], backend=backend, precision=precision).classify
classify(sys.argv[2])
first = time.monotonic()
from lora_deploy.clips import pool
decoders = lambda: pool.shared().worker_pids()
"""
    + _TELL
)

THEIRS = (
    """
import json, sys, time
from transformers import pipeline
classify = pipeline("video-classification", model=sys.argv[1] + "/model", device="cpu")
classify(sys.argv[2])
first = time.monotonic()
decoders = lambda: ()
"""
    + _TELL
)


def start_once(way: str, folder: Path, clip: Path) -> dict[str, Any]:
    """What one fresh process tells."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    environment.pop("OMP_NUM_THREADS", None)
    program = THEIRS if way == PIPELINE else OURS
    told = [str(folder), str(clip), str(time.monotonic()), way]
    finished = subprocess.run(
        [sys.executable, "-c", program, *told],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )
    if finished.returncode:
        raise click.ClickException(f"{way}: {finished.stderr.strip().splitlines()[-1]}")
    answer: dict[str, Any] = json.loads(finished.stdout.splitlines()[-1])
    return answer


def as_markdown(heard: dict[str, list[dict[str, Any]]]) -> list[str]:
    """A row a way; ratios to the pipeline are taken repeat by repeat."""
    lines = [
        "| way | start to first answer, less a warm one, s: median (min to max) | of the pipeline's | "
        "peak memory, MB: process + decoder | of the pipeline's | warm answer, s |",
        "|---|---|---|---|---|---|",
    ]
    theirs = heard[PIPELINE]
    for way, mine in heard.items():
        starts = [one["start"] for one in mine]
        parts = [one["start"] / other["start"] for one, other in zip(mine, theirs, strict=True)]
        memory = [one["process"] + one["decoder"] for one in mine]
        less = [held / other["process"] for held, other in zip(memory, theirs, strict=True)]
        lines.append(
            f"| {way} | {statistics.median(starts):.2f} ({min(starts):.2f} to {max(starts):.2f}) | "
            f"{statistics.median(parts):.2f} | "
            f"{statistics.median(one['process'] for one in mine) / 1e6:,.0f} + "
            f"{statistics.median(one['decoder'] for one in mine) / 1e6:,.0f} | "
            f"{statistics.median(less):.2f} | "
            f"{statistics.median(one['warm'] for one in mine):.2f} |"
        )
    return lines


@click.command()
@click.option(
    "--bundle", "folder", type=click.Path(path_type=Path, file_okay=False),
    help="With model/ and compiled forms; one of VideoMAE-B's size is made by default.",
)  # fmt: skip
@click.option("--clip", type=click.Path(path_type=Path, exists=True), help="A real video.")
@click.option("--repeats", type=click.IntRange(min=1), default=5, show_default=True)
def main(folder: Path | None, clip: Path | None, repeats: int) -> None:
    """Print a table, and whether the bundle needs at most a third of the time and half of the memory."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = make(folder or Path(scratch) / "bundle")
        if clip is None:
            clip = find_videos(
                write_example(Path(scratch) / "clips", train_clips=0, val_clips=0, test_clips=1)
            )[0]
        forms = bundle.read_bundle_manifest(folder).forms
        ways = [PIPELINE, *(form.name for form in forms)]
        heard: dict[str, list[dict[str, Any]]] = {way: [] for way in ways}
        for repeat in range(repeats + 1):
            for way in turns(ways, repeat):
                answer = start_once(way, folder, clip)
                if repeat:  # the first one reads the files from the disk
                    heard[way].append(answer)
        print(f"{read_processor()}, load {os.getloadavg()[0]:.1f} at the end, {repeats} repeats")
        print("\n".join(as_markdown(heard)))
        assert not any(one["torch"] for way in heard if way != PIPELINE for one in heard[way])


if __name__ == "__main__":
    main()
