"""The command line: each command reads options, calls one function, prints what it returned.

Nothing heavy is imported here; a command imports its stage when it runs.
"""

import json
import logging
import math
import re
import sys
from collections.abc import Callable, Sequence
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
    format_option,
    json_option,
    offline_option,
    pool_options,
    set_option,
)

if TYPE_CHECKING:
    from lora_deploy.clips.pool import DecodePool


def main() -> None:
    """Entry point of ``lora-deploy``."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Run one command; returns its exit code, as `terminal.exit_code_of`."""
    return terminal.exit_code_of(commands, arguments)


def _print_version(context: click.Context, _: click.Parameter, asked: bool) -> None:
    if not asked or context.resilient_parsing:
        return
    from lora_deploy.versions import installed_versions

    versions = installed_versions()
    click.echo(f"lora-deploy {versions.pop('lora-deploy', 'unknown')}")
    click.echo(", ".join(f"{package} {version}" for package, version in versions.items()))
    context.exit()


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_print_version,
    help="Print the versions that matter and exit.",
)  # fmt: skip
@click.option("-v", "--verbose", is_flag=True, help="Say more; show tracebacks.")
@click.option("-q", "--quiet", is_flag=True, help="Say nothing but warnings and errors.")
def commands(verbose: bool, quiet: bool) -> None:
    """From a folder of labelled videos to a proven, swappable action recogniser."""
    terminal.talk(logging.DEBUG if verbose else logging.WARNING if quiet else logging.INFO)


@commands.command()
@click.option(
    "--out",
    type=FOLDER,
    default=Path("quickstart"),
    show_default=True,
    help="Folder for all of it.",
)
@click.option("--seed", type=click.IntRange(0, 2**32 - 1), default=0, show_default=True)
def quickstart(out: Path, seed: int) -> None:
    """Make example clips, train, merge, export, prove and classify, all in one folder."""
    from lora_deploy.extras import import_backend

    stage = import_backend(
        "lora_deploy.quickstart", "torch", "transformers", "peft", "onnx", "onnxscript", "onnxruntime",
        purpose="for the quickstart",
    )  # fmt: skip
    click.echo(stage.quickstart(out, seed=seed, progress=terminal.progress).as_text())


@commands.command()
@click.option(
    "--config",
    "source",
    default="config",
    show_default=True,
    help="A YAML file, or the name of a recipe.",
)
@click.option(
    "--data",
    type=FILE_OR_FOLDER,
    required=True,
    help="A folder per class, a CSV or JSONL manifest, or a layout of docs/data.md.",
)
@format_option
@click.option("--out", type=FOLDER, required=True, help="The RUN folder to make.")
@click.option(
    "--base", help="Embedded base, transformers folder or hub id; same as --set model.base=…"
)
@set_option
@click.option(
    "--cache", type=FOLDER, help="Keep decoded frames here, for other trainings on the same clips."
)
@click.option("--device", help="cpu or cuda; the best there is by default.")
@click.option(
    "--push-to-hub", "repo", metavar="OWNER/NAME", help="Upload the RUN when it is done; private."
)
@offline_option
@click.option(
    "--resume", is_flag=True, help="Go on in --out where an interrupted training left off."
)
@click.option(
    "--init-from", type=FOLDER, help="A RUN or adapter to begin with: same base, other classes too."
)
@pool_options
@json_option
def train(
    *,
    source: str,
    data: Path,
    data_format: str | None,
    out: Path,
    resume: bool,
    init_from: Path | None,
    base: str | None,
    overrides: tuple[str, ...],
    cache: Path | None,
    device: str | None,
    repo: str | None,
    as_json: bool,
    pool: "DecodePool",
) -> None:
    """Train a LoRA adapter (or the whole model) on labelled clips."""
    from lora_deploy.extras import import_backend

    named = () if data_format is None else (f"data.format={data_format}",)
    settings = _settings(source, (*overrides, *named), base)
    if repo is not None:
        hub = import_backend("lora_deploy.train.push", "huggingface_hub", purpose="to upload")
        hub.check_repo_name(repo)
        hub.check_login()  # before hours of training
    stage = import_backend(
        "lora_deploy.train.fit", "torch", "transformers", "peft", "accelerate", "tensorboard", "matplotlib",
        purpose="to train",
    )  # fmt: skip
    try:
        manifest = stage.fit(
            settings,
            data,
            out,
            resume=resume,
            init_from=init_from,
            cache_folder=cache,
            device_name=device,
            pool=pool,
            progress=terminal.progress,
        )
    except (KeyboardInterrupt, SystemExit):
        click.echo(f"to go on: {terminal.command_line('--resume')}", err=True)
        raise
    if not stage.is_first_process():
        return
    if as_json:
        click.echo(manifest.model_dump_json(indent=1))
    else:
        best = manifest.best
        click.echo(
            f"{out}: validation accuracy {best.val_accuracy:.3f} on {best.val_clips} clips "
            f"(epoch {best.epoch}), trained in {manifest.training_seconds:.0f} s"
        )
    if repo is not None:
        plan = hub.plan_push(out, repo)
        click.echo(texts.push_plan(plan), err=True)
        click.echo(f"uploaded to {hub.push(plan)}", err=True)


def _settings(source: str, overrides: Sequence[str], base: str | None) -> Any:
    from lora_deploy.config import load_settings, recipe_path

    path = Path(source)
    if not path.is_file() and not path.suffix:
        path = recipe_path(source)
    return load_settings(path, [*overrides, *([f"model.base={json.dumps(base)}"] if base else [])])


@commands.command()
@click.argument("recipe", default="config")
@set_option
@click.option("--list", "list_recipes", is_flag=True, help="Print the names of the recipes.")
@click.option(
    "--effective", is_flag=True, help="Print every setting with its value, without comments."
)
def config(recipe: str, overrides: tuple[str, ...], list_recipes: bool, effective: bool) -> None:
    """Print a recipe (or check a YAML file), to be saved and edited."""
    from lora_deploy.config import recipe_names, recipe_path, to_yaml

    if list_recipes:
        click.echo("\n".join(recipe_names()))
        return
    settings = _settings(recipe, overrides, None)
    is_file = Path(recipe).is_file()
    if overrides or effective or is_file:
        click.echo(to_yaml(settings), nl=False)
    else:
        click.echo(recipe_path(recipe).read_text(encoding="utf-8"), nl=False)


@commands.command("merge-export")
@click.argument("source", metavar="RUN", type=FOLDER)
@click.option("--out", type=FOLDER, required=True, help="The BUNDLE folder to make.")
@click.option(
    "--to",
    "targets",
    default="onnx",
    show_default=True,
    help="Runtimes to make forms for, with commas: onnx, openvino.",
)
@click.option(
    "--precision",
    "precisions",
    default="fp32",
    show_default=True,
    help="With commas: fp32, fp16 (onnx), bf16 (openvino), int8.",
)
@click.option(
    "--frames-in",
    is_flag=True,
    help="Also a graph that takes raw frames and gives probabilities, for other programs.",
)
@click.option(
    "--adapter-graph",
    is_flag=True,
    help="Also the unmerged model as an ONNX graph, to run without PyTorch; as large as the base.",
)
@click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="proof.KEY=VALUE",
    help="Change one setting of the proof, such as proof.int8.agreement; may be repeated.",
)
@click.option(
    "--verify-on",
    type=FILE_OR_FOLDER,
    help="Labelled clips for the proof; the RUN's validation clips by default.",
)
@click.option(
    "--report",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write the certificate's page here too, even if it did not pass.",
)
@adapter_options
@json_option
def merge_export(
    *,
    source: Path,
    out: Path,
    targets: str,
    precisions: str,
    frames_in: bool,
    adapter_graph: bool,
    overrides: tuple[str, ...],
    verify_on: Path | None,
    report: Path | None,
    base: str | None,
    labels: tuple[str, ...] | None,
    as_json: bool,
) -> None:
    """Merge LoRA into the base, export, prove all forms equal on real clips.

    RUN may be the folder of an adapter that plain peft wrote; name its base with --base.
    """
    from lora_deploy.extras import import_backend

    stage = import_backend(
        "lora_deploy.export.pipeline",
        "torch", "transformers", "peft", "onnx", "onnxscript", "onnxruntime",
        *(["openvino"] if "openvino" in targets else []),
        purpose="to export and to prove what was exported",
    )  # fmt: skip
    shipped = stage.merge_export(
        source,
        out,
        targets=_split(targets),
        precisions=_split(precisions),
        frames_in=frames_in,
        adapter_graph=adapter_graph,
        verify_on=verify_on,
        report=report,
        overrides=overrides,
        base=base,
        labels=labels,
        progress=terminal.progress,
    )
    if as_json:
        click.echo(shipped.certificate.model_dump_json(indent=1))
    else:
        click.echo(texts.visible(texts.certificate(shipped.certificate)))
        click.echo(f"{out}: proved and shipped")


def _split(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


@commands.command()
@click.argument("model", type=FOLDER)
@click.argument("inputs", metavar="INPUT...", nargs=-1, required=True)
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    help="A .jsonl, .csv or .parquet file; JSON Lines on stdout by default.",
)
@backend_option
@batch_option
@click.option("--adapter", help="Run this adapter of a bundle unmerged.")
@click.option("--top-k", type=click.IntRange(min=1), default=5, show_default=True)
@pool_options
def classify(
    *,
    model: Path,
    inputs: tuple[str, ...],
    out: Path | None,
    backend: str,
    precision: str,
    batch_size: int,
    adapter: str | None,
    top_k: int,
    pool: "DecodePool",
) -> int:
    """Classify files and folders of videos; one row a clip, whatever its state."""
    from lora_deploy.classify import rows, stream
    from lora_deploy.runtime.load import load

    if out is not None:
        rows.check_ending(out)
    recogniser = load(
        model, backend=backend, precision=precision, adapter=adapter, batch_size=batch_size
    )
    paths = stream.find_inputs(inputs)
    written = []
    failed = 0
    with terminal.progress("classifying", len(paths)) as advance:
        for row in stream.classify(recogniser, paths, top_k=top_k, pool=pool):
            advance()
            failed += row.status == "error"
            if out is None:
                click.echo(texts.as_json(row.as_dict(), indent=None))
            else:
                written.append(row)
    if out is not None:
        rows.write_rows(written, out)
        click.echo(f"{out}: {len(paths)} rows, {failed} of them errors", err=True)
    elif failed:
        click.echo(f"{failed} of {len(paths)} clips gave an error row", err=True)
    return 1 if failed else 0


@commands.command()
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
@click.option(
    "--views",
    default="1x1",
    show_default=True,
    metavar="CLIPSxCROPS",
    help="Average over clips spread in time and 1 or 3 crops, as in 5x3.",
)
@backend_option
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

    sets, looks = _named_sets(extras), stage.parse_views(views)
    source = stage.choose_data(model, data)
    recogniser = load(
        model, backend=backend, precision=precision, adapter=adapter, batch_size=batch_size,
        base=base, labels=labels,
    )  # fmt: skip
    result = stage.evaluate_sets(
        recogniser, source, sets, split=cast(stage.Split, split), views=looks,
        data_format=cast(Any, data_format or "auto"),
        learned=stage.learned_from(model), pool=pool, progress=terminal.progress,
    )  # fmt: skip
    _print(result, texts.measured, as_json)
    for reason in result.left_out:
        click.echo(f"left out: {reason}", err=True)
    return 1 if result.left_out else 0


def _named_sets(texts: Sequence[str]) -> dict[str, Path]:
    sets: dict[str, Path] = {}
    for text in texts:
        name, equals, path = (part.strip() for part in text.partition("="))
        if not (name and equals and path):
            raise click.UsageError(f"--extra {text!r} is no NAME=DATA; as in youtube=clips/youtube")
        if name in (*sets, "train", "val", "test"):
            raise click.UsageError(f"--extra {text!r}: the name {name} is taken; give it another")
        sets[name] = Path(path)
    return sets


@commands.command()
@click.argument("source", metavar="RUN", type=FOLDER)
@click.argument("repo", metavar="OWNER/NAME")
@click.option("--public", is_flag=True, help="Let everybody read it; private by default.")
@click.option(
    "--with-clips",
    is_flag=True,
    help="Also upload splits.csv and report.html, which name clips and show them.",
)
@click.option(
    "--dataset",
    "datasets",
    metavar="OWNER/NAME",
    multiple=True,
    help="A data set at the hub that it was trained on, for the model card; may be repeated.",
)
@click.option("--dry-run", is_flag=True, help="Only tell what would be uploaded; asks no hub.")
def push(
    *,
    source: Path,
    repo: str,
    public: bool,
    with_clips: bool,
    datasets: tuple[str, ...],
    dry_run: bool,
) -> None:
    """Upload a RUN, or an adapter's folder, to a hub: what training wrote, and its model card."""
    from lora_deploy.extras import import_backend

    hub = import_backend("lora_deploy.train.push", "huggingface_hub", purpose="to upload")
    plan = hub.plan_push(source, repo, public=public, with_clips=with_clips, datasets=datasets)
    click.echo(texts.push_plan(plan), err=True)
    if dry_run:
        click.echo("nothing was uploaded", err=True)
    else:
        click.echo(hub.push(plan))


@commands.command()
@click.option(
    "--config",
    "source",
    default="config",
    show_default=True,
    help="A YAML file, or the name of a recipe; what all methods have in common.",
)
@click.option("--data", type=FILE_OR_FOLDER, required=True, help="Labelled clips.")
@format_option
@click.option("--out", type=FOLDER, required=True, help="Folder for all of it; go on there.")
@click.option("--seeds", type=click.IntRange(min=1), default=3, show_default=True)
@click.option(
    "--recipe",
    "recipes",
    multiple=True,
    metavar="NAME|FILE",
    help="One more row: a recipe laid over --config; may be repeated.",
)
@click.option(
    "--extra",
    "extras",
    multiple=True,
    metavar="NAME=DATA",
    help="Judge each model on these clips, too; may be repeated.",
)
@click.option(
    "--leave-out",
    metavar="group|PATTERN",
    help="Test on each group in turn; a pattern finds it in the path, as in '(person[0-9]+)_'.",
)
@click.option(
    "--rates",
    default="1",
    show_default=True,
    help="Learning rates to choose from on validation clips, as multiples, with commas: 0.5,1,2.",
)
@click.option(
    "--jobs",
    type=click.IntRange(1, 256),
    default=1,
    show_default=True,
    help="Trainings at once; more than one makes all seconds longer.",
)
@click.option("--base", help="Same as --set model.base=…")
@set_option
@click.option("--device", help="cpu or cuda; the best there is by default.")
@offline_option
@json_option
def compare(
    *,
    source: str,
    data: Path,
    data_format: str | None,
    out: Path,
    seeds: int,
    recipes: tuple[str, ...],
    extras: tuple[str, ...],
    leave_out: str | None,
    rates: str,
    jobs: int,
    base: str | None,
    overrides: tuple[str, ...],
    device: str | None,
    as_json: bool,
) -> int:
    """Train full, with LoRA r=8 and r=4, and by any recipe, with several seeds; print the table.

    Beside them stand chance and a linear layer on motion alone. The same command goes on where it
    was interrupted, and adds seeds, recipes and sets without repeating what is finished.
    """
    from lora_deploy.compare.methods import choose_methods
    from lora_deploy.extras import require

    named = () if data_format is None else (f"data.format={data_format}",)
    settings = _settings(source, (*overrides, *named), base)
    methods = choose_methods(settings, recipes, overrides=overrides, rate_factors=_factors(rates))
    require(
        "torch", "transformers", "peft", "accelerate", "tensorboard", "matplotlib",
        purpose="to train",
    )  # fmt: skip
    from lora_deploy.compare.conduct import compare as conduct
    from lora_deploy.compare.keep import as_text, keep

    found = conduct(
        methods,
        data,
        out,
        seeds=seeds,
        leave_out=leave_out,
        extras=_named_sets(extras),
        jobs=jobs,
        device_name=device,
        command=terminal.command_line(),
        progress=terminal.progress,
    )
    kept = keep(found, out)
    _print(found, as_text, as_json)
    for path in kept:
        click.echo(f"{path} written", err=True)
    return 1 if found.failures else 0


def _factors(text: str) -> list[float]:
    try:
        factors = [float(word) for word in _split(text)]
    except ValueError:
        factors = []
    if not factors or not all(0 < factor < math.inf for factor in factors):
        raise click.UsageError(f"--rates {text!r} is no list of numbers above 0, as in 0.5,1,2")
    return factors


@commands.command()
@click.argument("folder", metavar="BUNDLE", type=FOLDER)
@click.option(
    "--data", type=FILE_OR_FOLDER, help="Labelled clips to ask every form about, beside noise."
)
@json_option
def verify(folder: Path, data: Path | None, as_json: bool) -> int:
    """Repeat a bundle's proof here: every byte, and every form that this computer can run.

    Passes only where at least one form could be compared, with what the certificate records or with
    another form.
    """
    from lora_deploy import verification

    found = verification.verify(folder, data, progress=terminal.progress)
    _print(found, texts.checkup, as_json)
    return 0 if found.passed else 1


@commands.command("inspect")
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
    _print(stage.survey(model, targets=words, r=r), texts.survey, as_json)


def _words(text: str) -> list[str]:
    # The comma of a repetition, as in \d{1,2}, belongs to a regular expression.
    words = [word.strip() for word in re.split(r",(?![^{]*\})", text)]
    if not all(words):
        raise click.UsageError(
            f"--targets {text!r} has an empty word; give words with commas between them, as in qkv,fc"
        )
    return words


@commands.command()
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
        _print(diagnosis, texts.diagnosis, as_json)
        return 1 if diagnosis.complaints else 0
    from lora_deploy import checkup

    found = checkup.check(path, base=base, labels=labels)
    _print(found, texts.checkup, as_json)
    return 0 if found.passed else 1


@commands.command()
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
    _print(found, texts.bench, as_json)
    if out is not None:
        for path in keep(found, out, texts.bench(found)):
            click.echo(f"{path} written", err=True)


@commands.command()
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


def _print(value: Any, as_text: Callable[[Any], str], as_json: bool) -> None:
    if as_json:
        click.echo(texts.as_json(value.as_dict()))
    else:
        click.echo(texts.visible(as_text(value)))
