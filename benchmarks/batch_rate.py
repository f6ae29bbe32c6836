"""Clips a second of `lora-deploy classify`, beside transformers' pipeline and beside its own parts, turn by turn.

Three questions, in one run whose rounds let everybody have a turn, in another order each time:

1. How many times as fast as `pipeline("video-classification")` of transformers is it from video
   files to rows? The pipeline is given for nothing what takes decoding: the same frames, sampled,
   resized and cropped, as arrays; and the best of several batch sizes.
2. Which part of 1 / (1 / decoding + 1 / model) is reached on the processor that both share? Alone,
   decoding has all cores, and so has the model, whose input is normalised already.
3. Which part of decoding alone is reached beside a stand-in for an accelerator, a backend that only
   sleeps: faster than decoding; and which part of the stand-in's own rate, where it is slower? It is
   handed frames, which an accelerator normalises itself; another one wants them normalised here.

Labels are those of random weights unless a bundle is named, and then show that numbers are the
same, nothing more. Run it where nothing else runs.

    python benchmarks/batch_rate.py --bundle FOLDER --clips CLIPS --rounds 5
"""

import logging
import os
import random
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
import transformers
from base_size_bundle import make
from numpy.typing import NDArray

from lora_deploy.artifact import bundle
from lora_deploy.bench.result import Spread
from lora_deploy.bench.turns import turns
from lora_deploy.classify.inputs import Item
from lora_deploy.classify.meter import Meter
from lora_deploy.classify.rows import Row
from lora_deploy.classify.stream import RowOptions, answers
from lora_deploy.clips.clip import Footage, Frames
from lora_deploy.clips.contract import PixelContract
from lora_deploy.clips.dataset import find_videos, read_split
from lora_deploy.clips.example import write_example
from lora_deploy.clips.pool import DecodePool
from lora_deploy.errors import LoraDeployError
from lora_deploy.processor import read_processor
from lora_deploy.runtime.base import Recogniser
from lora_deploy.runtime.load import load

FORMS = ("onnxruntime:fp32:1", "openvino:bf16:1", "openvino:int8:1")
BATCH_SIZES = (1, 2, 4, 8)
TIMES_PIPELINE, PART_OF_BOTH, PART_OF_DECODING, SAME_LABELS = 4.0, 0.9, 0.9, 0.99
"""What is aimed at."""

STAND_IN_BATCH = 8
FASTER, SLOWER = 4.0, 0.5
"""A stand-in's rate, times that of decoding alone."""


@dataclass(frozen=True)
class Material:
    """What everybody is given."""

    paths: tuple[Path, ...]
    frames: tuple[Frames, ...]
    """Of each, decoded."""


class StandIn:
    """Sleeps as an accelerator would keep everybody waiting, and takes no core meanwhile."""

    name, form = "stand-in", "merged"

    def __init__(self, labels: int, clips_per_second: float) -> None:
        self.batch_size = STAND_IN_BATCH
        self._labels = labels
        self._seconds = STAND_IN_BATCH / clips_per_second

    def logits(self, pixel_values: NDArray[np.float32]) -> NDArray[np.float32]:
        """Any numbers."""
        time.sleep(self._seconds)
        return np.zeros((len(pixel_values), self._labels), np.float32)


class StandInOfFrames(StandIn):
    """The same, which would normalise frames itself."""

    def logits_of_frames(self, frames: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Any numbers."""
        time.sleep(self._seconds)
        return np.zeros((len(frames), self._labels), np.float32)


class GivenFrames(transformers.VideoClassificationPipeline):
    """The pipeline, whose clips are decoded, resized and cropped before it sees them.

    By itself it takes the first frames of a file; another choice it can only be given.
    """

    def preprocess(self, video: Frames, *_: Any, **__: Any) -> Any:  # type: ignore[override]
        """As its own does with the frames that it decoded."""
        processor: Any = self.image_processor
        return processor(list(video), return_tensors="pt").to(self.dtype)


class Pipeline:
    """transformers' own, given arrays of frames."""

    def __init__(self, folder: Path, material: Material) -> None:
        # Nothing is left to resize, and it need not look.
        processor = transformers.AutoImageProcessor.from_pretrained(
            folder / bundle.MODEL, do_resize=False, do_center_crop=False
        )
        self._run: Any = transformers.pipeline(
            "video-classification",
            model=str(folder / bundle.MODEL),
            image_processor=processor,
            pipeline_class=GivenFrames,
            device="cpu",
        )
        self._clips = list(material.frames)
        self.labels: list[str] = []

    def rate(self, batch_size: int, clips: int | None = None) -> float:
        """Clips a second; the labels are kept."""
        given = self._clips[:clips]
        begun = time.perf_counter()
        found = self._run(given, batch_size=batch_size, top_k=1)
        seconds = time.perf_counter() - begun
        self.labels = [one[0]["label"] for one in found]
        return len(given) / seconds

    def best_batch_size(self, sizes: Sequence[int], clips: int) -> int:
        """The fastest of two tries each, in turns."""
        rates: dict[int, float] = dict.fromkeys(sizes, 0.0)
        for attempt in range(2):
            for size in turns(sizes, attempt):
                rates[size] = max(rates[size], self.rate(size, clips))
        told = ", ".join(f"{size}: {rate:.3g}" for size, rate in rates.items())
        click.echo(f"transformers, clips a second by batch size: {told}")
        return max(rates, key=lambda size: rates[size])


class Form:
    """One form of the bundle: alone, and from files to rows."""

    def __init__(self, folder: Path, name: str) -> None:
        backend, precision, batch_size = name.split(":")
        self.name = f"{backend} {precision}, batch {batch_size}"
        self.recogniser = load(
            folder, backend=backend, precision=precision, batch_size=int(batch_size)
        )
        self.scores: list[set[tuple[tuple[str, float], ...]]] = []
        """Of each clip, whatever was ever answered: one answer, if its bits are always the same."""

    def alone(self, material: Material) -> float:
        """Clips a second of the model, whose input is ready."""
        size = self.recogniser.backend.batch_size
        batches = []
        for at in range(0, len(material.frames) - size + 1, size):
            batches.append(self.recogniser.empty_batch())
            for place, frames in zip(batches[-1], material.frames[at : at + size], strict=True):
                self.recogniser.put(frames, place)
        begun = time.perf_counter()
        for batch in batches:
            self.recogniser.logits_of_batch(batch)
        return len(batches) * size / (time.perf_counter() - begun)

    def from_files(self, material: Material, pool: DecodePool, seed: int) -> tuple[float, Meter]:
        """Clips a second, from files to rows; the files in an order of this seed."""
        rate, rows, meter = rows_of(self.recogniser, material.paths, pool, seed)
        self.scores = self.scores or [set() for _ in material.paths]
        for number, row in rows.items():
            self.scores[number].add(row.top_k)
        return rate, meter

    @property
    def labels(self) -> list[str]:
        """The best label of each clip."""
        return [next(iter(found))[0][0] for found in self.scores]


def rows_of(
    recogniser: Recogniser, paths: Sequence[Path], pool: DecodePool, seed: int, times: int = 1
) -> tuple[float, dict[int, Row], Meter]:
    """Clips a second, the row of each, and what bounded it."""
    numbers = list(range(len(paths))) * times
    random.Random(seed).shuffle(numbers)
    items = ((number, Item(str(paths[number]), Footage(paths[number]))) for number in numbers)
    meter = Meter()
    options = RowOptions(top_k=len(recogniser.labels))
    begun = time.perf_counter()
    rows = dict(answers(recogniser, items, options=options, pool=pool, meter=meter))
    return len(numbers) / (time.perf_counter() - begun), rows, meter


def decoding_alone(
    pool: DecodePool, paths: Sequence[Path], contract: PixelContract, times: int
) -> float:
    """Clips a second with all workers at work, none of which ever waits."""
    begun = time.perf_counter()
    waiting = [pool.submit(path, contract) for path in [*paths] * times]
    for decoding in waiting:
        decoding.result()
    return len(waiting) / (time.perf_counter() - begun)


def readable(paths: Sequence[Path], contract: PixelContract, pool: DecodePool) -> Material:
    """The clips that decode, with their frames."""
    found = []
    for path, decoding in [(path, pool.submit(path, contract)) for path in paths]:
        try:
            found.append((path, decoding.result().frames))
        except LoraDeployError as error:
            click.echo(f"left out: {path.name}: {error}", err=True)
    return Material(tuple(path for path, _ in found), tuple(frames for _, frames in found))


def chosen(data: Path | None, scratch: Path, clips: int) -> list[Path]:
    """So many clips, evenly out of all; drawn ones where none are named."""
    if data is None:
        found = find_videos(write_example(scratch / "drawn"))
    elif data.is_file():
        found = [clip.path for clip in read_split(data, "all")]
    else:
        found = find_videos(data)
    step = max(1.0, len(found) / clips)
    return [found[int(at * step)] for at in range(min(len(found), clips))]


Rates = dict[str, list[float]]


def told(values: Sequence[float]) -> str:
    """Median, and from the least to the most."""
    return f"{Spread.of(values).p50:.3g} ({min(values):.3g} to {max(values):.3g})"


def ratios(above: Sequence[float], below: Sequence[float]) -> list[float]:
    """Round by round."""
    return [one / other for one, other in zip(above, below, strict=True)]


def both(decoding: Sequence[float], model: Sequence[float]) -> list[float]:
    """What two who share all cores can reach: 1 / (1 / decoding + 1 / model)."""
    return [1 / (1 / one + 1 / other) for one, other in zip(decoding, model, strict=True)]


def report(rates: Rates, forms: Sequence[Form], pipeline: Pipeline | None, batch_size: int) -> None:
    """The tables, in Markdown."""
    click.echo("\n| clips a second | median (least to most) |\n|---|---|")
    for name, values in rates.items():
        click.echo(f"| {name} | {told(values)} |")
    if pipeline is not None:
        theirs = rates[PIPELINE]
        click.echo(
            f"\n| form | times transformers (batch {batch_size}), from files | on the same frames "
            f"| same labels |\n|---|---|---|---|"
        )
        for form in forms:
            same = np.mean(
                [one == other for one, other in zip(form.labels, pipeline.labels, strict=True)]
            )
            click.echo(
                f"| {form.name} | {told(ratios(rates[from_files(form)], theirs))} "
                f"| {told(ratios(rates[alone(form)], theirs))} | {same:.1%} of "
                f"{len(form.labels)}, {len(set(form.labels))} different ones |"
            )
        click.echo(f"\naimed at: {TIMES_PIPELINE:g} times, from files; {SAME_LABELS:.0%}")
    click.echo(
        "\n| form | part of 1 / (1 / decoding + 1 / model) | bits in all rounds |\n|---|---|---|"
    )
    for form in forms:
        possible = both(rates[DECODING], rates[alone(form)])
        bits = "the same" if all(len(found) == 1 for found in form.scores) else "NOT the same"
        click.echo(f"| {form.name} | {told(ratios(rates[from_files(form)], possible))} | {bits} |")
    click.echo(f"\naimed at: {PART_OF_BOTH:g}")
    click.echo(
        f"\nbeside a stand-in {FASTER:g} times as fast as decoding: "
        f"{told(ratios(rates[FAST], rates[DECODING]))} of decoding alone, aimed at "
        f"{PART_OF_DECODING:g}\nbeside the same that wants frames normalised: "
        f"{told(ratios(rates[FAST_PIXELS], rates[DECODING]))}\nbeside one {SLOWER:g} times as fast: "
        f"{told(ratios(rates[SLOW], rates[SLOW_ALONE]))} of the stand-in alone"
    )


PIPELINE, DECODING = "transformers' pipeline", "decoding alone"
FAST, SLOW = "from files, fast stand-in", "from files, slow stand-in"
FAST_PIXELS = "from files, fast stand-in that wants frames normalised"
SLOW_ALONE = "slow stand-in alone"


def alone(form: Form) -> str:
    """What its rate alone is called."""
    return f"{form.name}: model alone"


def from_files(form: Form) -> str:
    """What its rate from files is called."""
    return f"{form.name}: from files"


@click.command()
@click.option(
    "--bundle", "folder", type=click.Path(path_type=Path, file_okay=False),
    help="One of VideoMAE-B's size with random weights is made by default, and kept there.",
)  # fmt: skip
@click.option(
    "--clips", "data", type=click.Path(path_type=Path, exists=True),
    help="A folder or a manifest of real clips; drawn ones by default.",
)  # fmt: skip
@click.option("--count", type=click.IntRange(min=8), default=40, show_default=True)
@click.option("--form", "names", multiple=True, default=FORMS, show_default=True)
@click.option("--rounds", type=click.IntRange(min=1), default=5, show_default=True)
@click.option("--workers", type=click.IntRange(min=1), help="That decode; one a core by default.")
@click.option("--pipeline/--no-pipeline", "compare", default=True, help="Beside transformers.")
@click.option("--quick", is_flag=True, help="A toy, to see that it runs: a tiny model, few clips.")
def main(
    folder: Path | None,
    data: Path | None,
    count: int,
    names: tuple[str, ...],
    rounds: int,
    workers: int | None,
    compare: bool,
    quick: bool,
) -> None:
    """Print the tables in Markdown."""
    logging.getLogger("transformers").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as scratch:
        folder = make(folder or Path(scratch) / "bundle", tiny=quick)
        count = min(count, 8) if quick else count
        paths = chosen(data, Path(scratch), count)
        contract = bundle.read_bundle_manifest(folder).contract
        with DecodePool(workers) as pool:
            measure(folder, paths, contract, names, rounds, pool, compare)


def measure(
    folder: Path,
    paths: Sequence[Path],
    contract: PixelContract,
    names: Sequence[str],
    rounds: int,
    pool: DecodePool,
    compare: bool,
) -> None:
    """Everybody's turn in every round, and the report."""
    material = readable(paths, contract, pool)
    decoding_alone(pool, material.paths, contract, 1)  # its workers are started
    click.echo(
        f"{len(material.paths)} clips, {rounds} rounds, {pool.workers} decoders; "
        f"{read_processor()}; torch {torch.__version__} with "
        f"{torch.get_num_threads()} threads, transformers {transformers.__version__}"
    )
    forms = opened(folder, names)
    pipeline = Pipeline(folder, material) if compare else None
    batch_size = 1
    if pipeline is not None:
        pipeline.rate(1, 1)
        batch_size = pipeline.best_batch_size(BATCH_SIZES, max(8, len(material.paths) // 4))
    decoding = decoding_alone(pool, material.paths, contract, 2)
    fast, slow = (stand_in(contract, decoding * factor) for factor in (FASTER, SLOWER))
    fast_pixels = replace(fast, backend=StandIn(2, decoding * FASTER))
    times = 3  # of the clips, so that beginning and end weigh little

    last: dict[str, Meter] = {}
    rates: Rates = {}

    def run(recogniser: Recogniser, name: str, number: int) -> float:
        rate, _, last[name] = rows_of(recogniser, material.paths, pool, number, times)
        return rate

    def run_alone(form: Form, number: int) -> float:
        return form.alone(material)

    def run_form(form: Form, name: str, number: int) -> float:
        rate, last[name] = form.from_files(material, pool, number)
        return rate

    entrants: dict[str, Callable[[int], float]] = {
        DECODING: lambda _: decoding_alone(pool, material.paths, contract, times),
        FAST: lambda number: run(fast, FAST, number),
        FAST_PIXELS: lambda number: run(fast_pixels, FAST_PIXELS, number),
        SLOW: lambda number: run(slow, SLOW, number),
        SLOW_ALONE: lambda _: decoding * SLOWER,
    }
    if pipeline is not None:
        running = pipeline
        entrants[PIPELINE] = lambda _: running.rate(batch_size)
    for form in forms:
        entrants[alone(form)] = partial(run_alone, form)
        name = from_files(form)
        entrants[name] = partial(run_form, form, name)
    for number in range(rounds):
        for name in turns(list(entrants), number):
            rates.setdefault(name, []).append(entrants[name](number))
    report({name: rates[name] for name in entrants}, forms, pipeline, batch_size)
    click.echo("\nthe last round:\n")
    for name, meter in last.items():
        click.echo(f"- {name}: {meter.sentence()}")


def opened(folder: Path, names: Sequence[str]) -> list[Form]:
    """The forms that can be run here."""
    forms = []
    for name in names:
        try:
            forms.append(Form(folder, name))
        except LoraDeployError as error:
            click.echo(f"left out: {name}: {error}", err=True)
    return forms


def stand_in(contract: PixelContract, clips_per_second: float) -> Recogniser:
    """A model that only sleeps."""
    return Recogniser(
        backend=StandInOfFrames(2, clips_per_second),
        labels=("one", "other"),
        contract=contract,
        temperature=1.0,
        digest="none",
    )


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    main()
