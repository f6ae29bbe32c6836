"""Options that more than one command takes, as decorators."""

import functools
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

FOLDER = click.Path(path_type=Path, file_okay=False)
FILE_OR_FOLDER = click.Path(path_type=Path)
BACKENDS = (
    "auto", "onnxruntime", "openvino", "torch", "onnxruntime-cuda", "onnxruntime-tensorrt",
    "onnxruntime-rtx", "tensorrt", "tensorrt-rtx",
)  # fmt: skip
DATA_FORMATS = (
    "auto", "folders", "manifest", "ucf101", "hmdb51", "kinetics", "something-something",
    "videofolder", "list", "frames",
)  # fmt: skip
PRECISIONS = ("auto", "fp32", "fp16", "bf16", "int8")

Command = Callable[..., Any]


def json_option(command: Command) -> Command:
    """One JSON document on stdout, and nothing else there."""
    return click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")(command)


def pool_options(command: Command) -> Command:
    """How videos are decoded; the command is given a ``pool``, closed when it ends."""

    @click.option(
        "--decoder",
        type=click.Choice(["av", "decord"]),
        default="av",
        show_default=True,
        help="Who decodes videos; both behind the same fence.",
    )
    @click.option(
        "--decode",
        "effort",
        type=click.Choice(["exact", "fast", "whole"]),
        default="exact",
        show_default=True,
        help="The right frames; near ones, faster; or every picture, to find all damage.",
    )
    @functools.wraps(command)
    def with_pool(decoder: Any, effort: Any, **options: Any) -> Any:
        from lora_deploy.clips.pool import DecodePool

        with DecodePool(decoder=decoder, effort=effort) as pool:
            return command(pool=pool, **options)

    return with_pool


def offline_option(command: Command) -> Command:
    """No hub is asked while the command runs, by us or by a library."""

    @click.option(
        "--offline", is_flag=True, help="Ask no hub: a base must be here, or in the hub's cache."
    )
    @functools.wraps(command)
    def may_be_offline(offline: bool, **options: Any) -> Any:
        if not offline:
            return command(**options)
        before = os.environ.get("HF_HUB_OFFLINE")
        os.environ["HF_HUB_OFFLINE"] = "1"
        try:
            return command(**options)
        finally:
            if before is None:
                del os.environ["HF_HUB_OFFLINE"]
            else:
                os.environ["HF_HUB_OFFLINE"] = before

    return may_be_offline


def adapter_options(command: Command) -> Command:
    """What an adapter's folder that another program wrote can't say provably."""
    command = click.option(
        "--labels",
        metavar="A,B,…",
        callback=_labels,
        help="Of an adapter's folder without labels.json, in the order of its outputs.",
    )(command)
    command = offline_option(command)
    return click.option(
        "--base", help="What to put an adapter's folder on, where another program wrote it."
    )(command)


def _labels(_: click.Context, __: click.Parameter, text: str | None) -> tuple[str, ...] | None:
    return None if text is None else tuple(label.strip() for label in text.split(","))


def set_option(command: Command) -> Command:
    """Settings beside those of the file."""
    return click.option(
        "--set",
        "overrides",
        multiple=True,
        metavar="KEY=VALUE",
        help="Change one setting; may be repeated.",
    )(command)


def backend_option(command: Command) -> Command:
    """Which runtime answers, and in what precision."""
    command = click.option(
        "--precision",
        type=click.Choice(PRECISIONS),
        default="auto",
        show_default=True,
        help="One that the bundle was proved at; auto is fp32. torch takes bf16 on a card.",
    )(command)
    return click.option(
        "--backend",
        type=click.Choice(BACKENDS),
        default="auto",
        show_default=True,
        metavar="NAME",
        help=f"Of {', '.join(BACKENDS)}. auto takes an engine only where it was proved on clips.",
    )(command)


def device_options(command: Command) -> Command:
    """Where it runs, and whether PyTorch makes kernels for it."""
    command = click.option(
        "--compile", "is_compiled", is_flag=True, help="Let torch compile the model: slow to start."
    )(command)
    return click.option(
        "--device", metavar="NAME", help="cpu, cuda or cuda:N; by default the best there is."
    )(command)


def batch_option(command: Command) -> Command:
    """How many clips the runtime is given at once."""
    return click.option(
        "--batch-size",
        type=click.IntRange(1, 1024),
        default=1,
        show_default=True,
        help="Clips at once; OpenVINO then works on several side by side.",
    )(command)


def batch_run_options(command: Command) -> Command:
    """What becomes of the journal of a run with ``--out``: fields of `classify.places.Batch`."""
    for option in (
        click.option(
            "--join", is_flag=True, help="Join the parts of all shards beside --out; no MODEL then."
        ),
        click.option(
            "--shard",
            metavar="I/N",
            help="Take part I of N of the clips, to be joined with --join.",
        ),
        click.option(
            "--by-content", is_flag=True, help="Know files by what they hold, wherever they lie."
        ),
        click.option("--retry-errors", is_flag=True, help="Ask clips with error rows again."),
        click.option("--restart", is_flag=True, help="Forget what the journal knows."),
        click.option(
            "--journal",
            type=click.Path(path_type=Path, dir_okay=False),
            help="Where it is kept what is known already; by default beside --out.",
        ),
    ):
        command = option(command)
    return command


def views_option(command: Command) -> Command:
    """How many looks are taken at each video."""
    return click.option(
        "--views",
        default="1x1",
        show_default=True,
        metavar="CLIPSxCROPS",
        help="Average over clips spread in time and 1 or 3 crops, as in 5x3.",
    )(command)


def format_option(command: Command) -> Command:
    """How ``--data`` is laid out."""
    return click.option(
        "--format",
        "data_format",
        type=click.Choice(DATA_FORMATS),
        help="How the data is laid out; recognised by default. Same as --set data.format=…",
    )(command)


def settings_of(source: str, overrides: Sequence[str], base: str | None) -> Any:
    """The settings that ``--config``, ``--set`` and ``--base`` name."""
    from lora_deploy.config import load_settings, recipe_path

    path = Path(source)
    if not path.is_file() and not path.suffix:
        path = recipe_path(source)
    return load_settings(path, [*overrides, *([f"model.base={json.dumps(base)}"] if base else [])])


def split(text: str) -> list[str]:
    """The words of a list with commas."""
    return [word.strip() for word in text.split(",") if word.strip()]


def named_sets(texts: Sequence[str]) -> dict[str, Path]:
    """Labelled clips by name, from ``--extra NAME=DATA``."""
    sets: dict[str, Path] = {}
    for text in texts:
        name, equals, path = (part.strip() for part in text.partition("="))
        if not (name and equals and path):
            raise click.UsageError(f"--extra {text!r} is no NAME=DATA; as in youtube=clips/youtube")
        if name in (*sets, "train", "val", "test"):
            raise click.UsageError(f"--extra {text!r}: the name {name} is taken; give it another")
        sets[name] = Path(path)
    return sets
