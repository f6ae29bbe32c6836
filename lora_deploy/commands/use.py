"""Commands for using a model: classify, evaluate, demo, timeline."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click

from lora_deploy import terminal, texts
from lora_deploy.options import (
    FILE_OR_FOLDER,
    FOLDER,
    adapter_options,
    backend_option,
    batch_option,
    batch_run_options,
    device_options,
    format_option,
    json_option,
    named_sets,
    pool_options,
    views_option,
)
from lora_deploy.terminal import show

if TYPE_CHECKING:
    from lora_deploy.classify.stream import RowOptions
    from lora_deploy.classify.terms import Model
    from lora_deploy.clips.pool import DecodePool


@click.command()
@click.argument("folder", metavar="MODEL", type=FOLDER, required=False)
@click.argument("inputs", metavar="INPUT...", nargs=-1)
@click.option(
    "--out",
    "outs",
    type=click.Path(path_type=Path, dir_okay=False),
    multiple=True,
    help="A .jsonl, .csv or .parquet file, may be repeated; JSON Lines on stdout by default.",
)
@batch_run_options
@backend_option
@device_options
@batch_option
@click.option("--adapter", help="Run this adapter of a bundle unmerged.")
@click.option("--top-k", type=click.IntRange(min=1), default=5, show_default=True)
@views_option
@pool_options
def classify(
    *,
    folder: Path | None,
    inputs: tuple[str, ...],
    outs: tuple[Path, ...],
    backend: str,
    precision: str,
    device: str | None,
    is_compiled: bool,
    batch_size: int,
    adapter: str | None,
    top_k: int,
    views: str,
    pool: "DecodePool",
    join: bool,
    shard: str | None,
    **batch: Any,
) -> int:
    """Classify videos; one row a clip, whatever its state.

    INPUT is a file, a folder, a pattern, a list (.csv, .jsonl, .parquet), or - for names on standard
    input. With --out nobody has to watch: whatever ends a run, the same command goes on.
    """
    if join:
        return _join(outs, folder, shard, batch)
    if folder is None or not inputs:
        raise click.UsageError(f"Missing argument {'INPUT' if folder else 'MODEL'!r}.")
    from lora_deploy.classify import inputs as given
    from lora_deploy.classify import parts, stream
    from lora_deploy.classify.terms import Model
    from lora_deploy.clips.views import parse_views

    model = Model(folder, backend, precision, adapter, batch_size, device, is_compiled)
    options = stream.RowOptions(top_k, parse_views(views))
    batch["shard"] = None if shard is None else parts.parse_shard(shard)
    if outs:
        return _run_batch(outs, model, inputs, options, pool, batch)
    if any(batch.values()):
        raise click.UsageError("a journal and what is done with it need --out")
    found, timed = given.find_items(inputs), given.has_times(inputs)
    clips = failed = 0
    with terminal.progress("classifying", None) as advance:
        for row in stream.classify(
            model.open(), found, top_k=top_k, views=options.views, pool=pool
        ):
            advance()
            clips += 1
            failed += row.status == "error"
            click.echo(texts.as_json(row.as_dict(timed=timed), indent=None))
    if failed:
        click.echo(f"{failed} of {clips} clips gave an error row", err=True)
    return 1 if failed else 0


def _join(
    outs: tuple[Path, ...], folder: Path | None, shard: str | None, batch: dict[str, Any]
) -> int:
    from lora_deploy.classify import run

    if not outs:
        raise click.UsageError("--join needs --out: the parts are looked for beside it")
    if folder is not None or shard is not None or any(batch.values()):
        raise click.UsageError("--join takes --out alone: all else is told by the parts")
    finished = run.join(outs)
    click.echo(texts.visible(finished.sentence), err=True)
    return 1 if finished.errors else 0


def _run_batch(
    outs: tuple[Path, ...],
    model: "Model",
    inputs: tuple[str, ...],
    options: "RowOptions",
    pool: "DecodePool",
    batch: dict[str, Any],
) -> int:
    from lora_deploy.classify import run
    from lora_deploy.classify.inputs import find_items, has_times
    from lora_deploy.classify.meter import Meter
    from lora_deploy.classify.places import Batch

    meter = Meter()
    try:
        finished = run.run(
            Batch(outs, **batch),
            model,
            lambda: find_items(inputs),
            options=options, timed=lambda: has_times(inputs), pool=pool, meter=meter,
            progress=terminal.progress,
        )  # fmt: skip
    except (KeyboardInterrupt, SystemExit) as stop:
        for kept in getattr(stop, "__notes__", ()):
            click.echo(texts.visible(kept), err=True)
        raise
    speed = f"; {meter.sentence()}" if meter.clips else ""
    click.echo(texts.visible(finished.sentence + speed), err=True)
    return 1 if finished.errors else 0


@click.command()
@click.argument("model", type=FOLDER)
@click.option("--data", type=FILE_OR_FOLDER, help="Labelled clips; a RUN's own by default.")
@format_option
@click.option(
    "--split", type=click.Choice(["train", "val", "test", "all"]), default="test", show_default=True
)
@click.option(
    "--extra",
    "extras",
    metavar="NAME=DATA",
    multiple=True,
    help="Another set, judged beside the data: its split of that name, or all of it; may be repeated.",
)
@views_option
@backend_option
@device_options
@batch_option
@click.option("--adapter", help="Run this adapter of a bundle unmerged.")
@adapter_options
@pool_options
@json_option
def evaluate(
    *,
    model: Path,
    data: Path | None,
    data_format: str | None,
    split: str,
    extras: tuple[str, ...],
    views: str,
    backend: str,
    precision: str,
    device: str | None,
    is_compiled: bool,
    batch_size: int,
    adapter: str | None,
    base: str | None,
    labels: tuple[str, ...] | None,
    as_json: bool,
    pool: "DecodePool",
) -> int:
    """Measure how often a model is right on labelled clips, with the uncertainty of each figure."""
    from lora_deploy import evaluate as stage
    from lora_deploy.runtime.load import load

    sets, looks = named_sets(extras), stage.parse_views(views)
    source = stage.choose_data(model, data)
    recogniser = load(
        model, backend=backend, precision=precision, adapter=adapter, batch_size=batch_size,
        device=device, is_compiled=is_compiled, base=base, labels=labels,
    )  # fmt: skip
    result = stage.evaluate_sets(
        recogniser, source, sets, split=cast(stage.Split, split), views=looks,
        data_format=cast(Any, data_format or "auto"),
        learned=stage.learned_from(model), pool=pool, progress=terminal.progress,
    )  # fmt: skip
    show(result, texts.measured, as_json)
    for reason in result.left_out:
        click.echo(f"left out: {reason}", err=True)
    return 1 if result.left_out else 0


@click.command()
@click.argument("models", metavar="[MODEL]...", nargs=-1, type=FOLDER)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port", type=click.IntRange(0, 65535), default=7860, show_default=True, help="0 takes any."
)
@click.option("--examples", type=FOLDER, help="Clips that visitors may try.")
@click.option(
    "--login-file",
    "login",
    type=click.Path(path_type=Path, dir_okay=False),
    help="A file with USER:PASSWORD a line; needed where others can reach the page.",
)
@click.option("--without-login", is_flag=True, help="Let everybody in who reaches the address.")
@click.option("--share", is_flag=True, help="Ask Gradio's relay for a public link.")
@click.option("--no-links", is_flag=True, help="Fetch nothing from YouTube.")
@click.option(
    "--link-host",
    "link_hosts",
    multiple=True,
    metavar="HOST",
    help="Also fetch plain video files from this host; may be repeated.",
)
@click.option(
    "--max-upload",
    type=click.IntRange(min=1),
    default=200,
    show_default=True,
    metavar="MB",
    help="The largest upload, in millions of bytes.",
)
@click.option(
    "--at-once",
    type=click.IntRange(1, 1000),
    default=2,
    show_default=True,
    help="Requests that are worked on; 20 more may wait.",
)
@click.option(
    "--most-opened",
    type=click.IntRange(min=1),
    default=2,
    show_default=True,
    help="Forms that are kept in memory.",
)
@click.option("--root-path", default="", help="Where a reverse proxy shows the page, as in /clips.")
def demo(
    *,
    models: tuple[Path, ...],
    host: str,
    port: int,
    examples: Path | None,
    login: Path | None,
    without_login: bool,
    share: bool,
    no_links: bool,
    link_hosts: tuple[str, ...],
    max_upload: int,
    at_once: int,
    most_opened: int,
    root_path: str,
) -> None:
    """Show a web page that classifies uploads, recordings and YouTube links.

    MODEL is a RUN or a BUNDLE; without one it is the example bundle.
    """
    from lora_deploy.extras import import_backend

    stage = import_backend(
        "lora_deploy.demo.launch", "gradio", "prometheus_client", purpose="for the web page"
    )
    from lora_deploy.demo.settings import DemoSettings, read_login

    settings = DemoSettings(
        host=host,
        port=port,
        login=() if login is None else read_login(login),
        without_login=without_login,
        share=share,
        links=not no_links,
        link_hosts=link_hosts,
        max_upload_bytes=max_upload * 1_000_000,
        at_once=at_once,
        root_path=root_path,
    )
    stage.run_demo(
        models,
        settings,
        examples=examples,
        most_opened=most_opened,
        ready=lambda address: click.echo(f"the page is at {address} (Ctrl-C ends it)"),
    )


@click.command()
@click.argument("model", type=FOLDER)
@click.argument("videos", metavar="VIDEO...", nargs=-1, required=True)
@click.option(
    "--out",
    "outs",
    type=click.Path(path_type=Path),
    multiple=True,
    help="A .json, .csv, .srt, .vtt or .html file; may be repeated; {} stands for the name of the "
    "video. JSON on stdout by default.",
)
@click.option(
    "--window",
    type=float,
    default=2.0,
    show_default=True,
    metavar="SECONDS",
    help="How much is looked at at once: about as long as the clips that the model learnt from.",
)
@click.option(
    "--stride",
    type=float,
    metavar="SECONDS",
    help="From one window to the next; half a window by default.",
)
@click.option(
    "--smoothing",
    type=int,
    default=3,
    show_default=True,
    metavar="WINDOWS",
    help="So many windows are averaged around each; odd.",
)
@click.option(
    "--lead",
    type=float,
    default=0.1,
    show_default=True,
    help="How much more probable another label must be to take over.",
)
@click.option(
    "--probabilities", is_flag=True, help="Put those of every window and label into the JSON, too."
)
@backend_option
@device_options
@batch_option
@click.option("--adapter", help="Run this adapter of a bundle unmerged.")
@pool_options
def timeline(
    *,
    model: Path,
    videos: tuple[str, ...],
    outs: tuple[Path, ...],
    window: float,
    stride: float | None,
    smoothing: int,
    lead: float,
    probabilities: bool,
    backend: str,
    precision: str,
    device: str | None,
    is_compiled: bool,
    batch_size: int,
    adapter: str | None,
    pool: "DecodePool",
) -> int:
    """Say what happens when in long videos: segments with start, end, label and confidence."""
    from lora_deploy.classify.timeline import several
    from lora_deploy.runtime.load import load

    options = several.options_for(window, stride, smoothing, lead)
    places = several.places(videos, outs)
    recogniser = load(
        model, backend=backend, precision=precision, adapter=adapter, batch_size=batch_size,
        device=device, is_compiled=is_compiled,
    )  # fmt: skip
    looked = several.timelines(
        recogniser, places, options, probabilities=probabilities, pool=pool,
        progress=terminal.progress,
    )  # fmt: skip
    failed = 0
    for one in looked:
        for sentence in one.sentences:
            click.echo(texts.line(f"{one.path}: {sentence}"), err=True)
        failed += one.document is None
        if one.document is not None and not outs:
            click.echo(texts.as_json(one.document, indent=1 if len(places) == 1 else None))
    return 1 if failed else 0
