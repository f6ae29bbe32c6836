"""Commands that look at something: inspect, doctor, bench."""

import re
from pathlib import Path

import click

from lora_deploy import terminal, texts
from lora_deploy.options import (
    FILE_OR_FOLDER,
    FOLDER,
    adapter_options,
    json_option,
)
from lora_deploy.terminal import show


@click.command("inspect")
@click.argument("model")
@click.option(
    "--targets",
    metavar="WORDS",
    help="Comma-separated, as in target_modules; every word that the architecture knows by default.",
)
@click.option(
    "--r",
    type=click.IntRange(1, 1024),
    default=8,
    show_default=True,
    help="Rank to count LoRA parameters at.",
)
@json_option
def inspect_model(model: str, targets: str | None, r: int, as_json: bool) -> None:
    """Show what target words would hit on a base, before anything is trained.

    MODEL is an embedded base, a transformers folder, a hub id that is here already, or a RUN or
    BUNDLE, whose base is then shown.
    """
    from lora_deploy.extras import import_backend

    words = [] if targets is None else _words(targets)
    stage = import_backend(
        "lora_deploy.model.survey", "torch", "transformers", purpose="to open a base"
    )
    show(stage.survey(model, targets=words, r=r), texts.survey, as_json)


def _words(text: str) -> list[str]:
    # The comma of a repetition, as in \d{1,2}, belongs to a regular expression.
    words = [word.strip() for word in re.split(r",(?![^{]*\})", text)]
    if not all(words):
        raise click.UsageError(
            f"--targets {text!r} has an empty word; give words with commas between them, as in qkv,fc"
        )
    return words


@click.command()
@click.argument("path", required=False, type=FOLDER)
@adapter_options
@json_option
def doctor(
    path: Path | None, base: str | None, labels: tuple[str, ...] | None, as_json: bool
) -> int:
    """Say what is wrong with this computer, or with a RUN, a BUNDLE or an adapter's folder.

    Without PATH: versions, clashes, the decoders and their fence. With it: every part of the
    folder, and whether its adapter is alive.
    """
    if path is None:
        if base is not None or labels is not None:
            raise click.UsageError(
                "--base and --labels belong to an adapter's folder; give its PATH"
            )
        from lora_deploy import doctor as stage

        diagnosis = stage.examine()
        show(diagnosis, texts.diagnosis, as_json)
        return 1 if diagnosis.complaints else 0
    from lora_deploy import checkup

    found = checkup.check(path, base=base, labels=labels)
    show(found, texts.checkup, as_json)
    return 0 if found.passed else 1


@click.command()
@click.argument("model", required=False, type=FOLDER)
@click.option(
    "--data",
    type=FILE_OR_FOLDER,
    help="Clips to measure on: a folder, a manifest or a video; drawn gestures by default.",
)
@click.option(
    "--rounds",
    type=click.IntRange(min=1),
    default=10,
    show_default=True,
    help="Turns of each form; more give a narrower spread.",
)
@click.option(
    "--threads", type=click.IntRange(min=1), help="Of each form; all usable cores by default."
)
@click.option("--out", type=FOLDER, help="Keep bench.json, bench.md and a plot there.")
@json_option
def bench(
    model: Path | None,
    data: Path | None,
    rounds: int,
    threads: int | None,
    out: Path | None,
    as_json: bool,
) -> None:
    """Measure each form of a RUN or a BUNDLE on this computer, all in one run, turn by turn.

    Each runs in a process of its own; one measures at a time. Without MODEL it is the example
    bundle. What can't run here is listed with the reason.
    """
    from lora_deploy.bench.keep import keep
    from lora_deploy.bench.measure import bench as measure

    found = measure(model, data=data, rounds=rounds, threads=threads, progress=terminal.progress)
    show(found, texts.bench, as_json)
    if out is not None:
        for path in keep(found, out, texts.bench(found)):
            click.echo(f"{path} written", err=True)
