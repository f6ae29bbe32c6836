"""Commands for learning: quickstart, train, config, compare."""

import math
from pathlib import Path
from typing import TYPE_CHECKING

import click

from lora_deploy import terminal, texts
from lora_deploy.options import (
    FILE_OR_FOLDER,
    FOLDER,
    format_option,
    json_option,
    named_sets,
    offline_option,
    pool_options,
    set_option,
    settings_of,
    split,
)
from lora_deploy.terminal import show

if TYPE_CHECKING:
    from lora_deploy.clips.pool import DecodePool


@click.command()
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


@click.command()
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
    settings = settings_of(source, (*overrides, *named), base)
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


@click.command()
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
    settings = settings_of(recipe, overrides, None)
    is_file = Path(recipe).is_file()
    if overrides or effective or is_file:
        click.echo(to_yaml(settings), nl=False)
    else:
        click.echo(recipe_path(recipe).read_text(encoding="utf-8"), nl=False)


@click.command()
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
    settings = settings_of(source, (*overrides, *named), base)
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
        extras=named_sets(extras),
        jobs=jobs,
        device_name=device,
        command=terminal.command_line(),
        progress=terminal.progress,
    )
    kept = keep(found, out)
    show(found, as_text, as_json)
    for path in kept:
        click.echo(f"{path} written", err=True)
    return 1 if found.failures else 0


def _factors(text: str) -> list[float]:
    try:
        factors = [float(word) for word in split(text)]
    except ValueError:
        factors = []
    if not factors or not all(0 < factor < math.inf for factor in factors):
        raise click.UsageError(f"--rates {text!r} is no list of numbers above 0, as in 0.5,1,2")
    return factors
