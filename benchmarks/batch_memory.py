"""Peak memory of `lora-deploy classify` over few clips and over ten times as many: it should be the same.

Each run is a process of its own, with its journal and its outputs; the clips are a few real
ones under many names. What counts is the most that the process ever held, and the most that
its decoders held together.

    python benchmarks/batch_memory.py --bundle BUNDLE --clips CLIPS
"""

import json
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path

import click

from lora_deploy import cli
from lora_deploy.clips.dataset import find_videos
from lora_deploy.clips.example import write_example
from lora_deploy.memory import peak_memory_bytes

MOST_GROWTH = 0.1
"""That is aimed at."""

MIB = 1 << 20
LOOKS_PER_SECOND = 5


def children() -> list[str]:
    """Process ids of those that this process started, by any of its threads."""
    found = []
    for listed in Path("/proc/self/task").glob("*/children"):
        try:
            found += listed.read_text().split()
        except OSError:
            continue  # the thread is gone
    return found


def classify(arguments: Sequence[str]) -> None:
    """Run the command in this process, and print what it and its decoders held at the most."""
    decoders, done = 0, threading.Event()

    def watch() -> None:
        nonlocal decoders
        while not done.wait(1 / LOOKS_PER_SECOND):
            decoders = max(decoders, sum(map(peak_memory_bytes, children())))

    watching = threading.Thread(target=watch)
    watching.start()
    code = cli.run(["classify", *arguments])
    done.set()
    watching.join()
    told = {"code": code, "process": peak_memory_bytes(), "decoders": decoders}
    print(json.dumps(told))


def linked(clips: Sequence[Path], count: int, folder: Path) -> Path:
    """A folder of so many names for the clips; no symbolic links, which would be known as one file."""
    folder.mkdir()
    for number in range(count):
        clip = clips[number % len(clips)]
        place = folder / f"{number:06}{clip.suffix}"
        try:
            place.hardlink_to(clip)
        except OSError:  # another disk
            shutil.copyfile(clip, place)
    return folder


def measured(folder: Path, inputs: Path, out: Path, options: Sequence[str]) -> dict[str, int]:
    """Bytes at the most, of a fresh process that classifies all inputs."""
    arguments = [str(folder), str(inputs), "--out", str(out), *options]
    finished = subprocess.run(
        [sys.executable, __file__, "--", *arguments], capture_output=True, text=True, check=False
    )
    lines = finished.stdout.splitlines()
    if finished.returncode or not lines:
        raise click.ClickException(finished.stderr.strip() or "the run printed nothing")
    found: dict[str, int] = json.loads(lines[-1])
    rows = len(out.read_text().splitlines())
    last = (finished.stderr.strip().splitlines() or [""])[-1]
    click.echo(
        f"| {rows} | {found['process'] / MIB:.0f} | {found['decoders'] / MIB:.0f} | {last} |"
    )
    return found


@click.command()
@click.option(
    "--bundle", "folder", type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="A tiny model with random weights by default.",
)  # fmt: skip
@click.option(
    "--clips", "data", type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="A folder of real clips; drawn ones by default.",
)  # fmt: skip
@click.option("--few", type=click.IntRange(min=1), default=200, show_default=True)
@click.option("--many", type=click.IntRange(min=1), default=2000, show_default=True)
@click.argument("options", nargs=-1)
def main(
    folder: Path | None, data: Path | None, few: int, many: int, options: tuple[str, ...]
) -> None:
    """Print a table in Markdown; OPTIONS behind ``--`` go to the command, as in -- --batch-size 4."""
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        if folder is None:
            # Not at the top: what is measured is a process of this file, and needs no PyTorch.
            from base_size_bundle import make

            folder = make(root / "bundle", tiny=True)
        clips = find_videos(data or write_example(root / "drawn"))
        click.echo("| clips | process, MiB | decoders together, MiB | its last words |")
        click.echo("|---|---|---|---|")
        found = [
            measured(folder, linked(clips, count, root / name), root / f"{name}.jsonl", options)
            for name, count in (("few", few), ("many", many))
        ]
        less, more = (one["process"] + one["decoders"] for one in found)
        click.echo(f"\ntogether: {more / less - 1:+.1%}, aimed at less than {MOST_GROWTH:.0%}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--"]:
        classify(sys.argv[2:])
    else:
        main()
