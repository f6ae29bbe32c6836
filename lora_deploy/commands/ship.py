"""Commands for shipping: merge-export, verify, push."""

from pathlib import Path
from typing import Any

import click

from lora_deploy import terminal, texts
from lora_deploy.options import (
    FILE_OR_FOLDER,
    FOLDER,
    adapter_options,
    json_option,
    split,
)
from lora_deploy.terminal import show


@click.command("merge-export")
@click.argument("source", metavar="RUN", type=FOLDER)
@click.option("--out", type=FOLDER, required=True, help="The BUNDLE folder to make.")
@click.option(
    "--to",
    "targets",
    default="onnx",
    show_default=True,
    help="Runtimes to make forms for, with commas: onnx, openvino, tensorrt.",
)
@click.option(
    "--precision",
    "precisions",
    default="fp32",
    show_default=True,
    help="With commas: fp32, fp16 (onnx, tensorrt), bf16 (openvino, tensorrt), int8 (onnx, openvino).",
)
@click.option(
    "--target",
    "cards",
    default="",
    metavar="sm86,…",
    help="Kinds of cards to build tensorrt engines for; none has to be here.",
)
@click.option(
    "--batch-sizes",
    default="1,4,8",
    show_default=True,
    metavar="1,…",
    help="Sizes of batches that an engine takes.",
)
@click.option(
    "--flavour",
    type=click.Choice(["tensorrt-rtx", "tensorrt"]),
    default="tensorrt-rtx",
    show_default=True,
    help="Whose compiler builds engines; tensorrt builds for the card that is here.",
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
    "--triton",
    is_flag=True,
    help="Also a model repository for Triton Inference Server, in BUNDLE/triton, with --frames-in.",
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
    triton: bool,
    cards: str,
    batch_sizes: str,
    flavour: Any,
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
        *(["openvino"] if "openvino" in split(targets) else []),
        *([flavour.replace("-", "_")] if "tensorrt" in split(targets) else []),
        purpose="to export and to prove what was exported",
    )  # fmt: skip
    shipped = stage.merge_export(
        source,
        out,
        targets=split(targets),
        precisions=split(precisions),
        frames_in=frames_in,
        adapter_graph=adapter_graph,
        triton=triton,
        cards=split(cards),
        flavour=flavour,
        batch_sizes=_sizes(batch_sizes),
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


def _sizes(text: str) -> list[int]:
    try:
        return [int(word) for word in split(text)]
    except ValueError:
        raise click.BadParameter(f"{text!r} are no numbers with commas, as in 1,4,8") from None


@click.command()
@click.argument("folder", metavar="BUNDLE", type=FOLDER)
@click.option(
    "--data", type=FILE_OR_FOLDER, help="Labelled clips to ask every form about, beside noise."
)
@click.option(
    "--complete",
    is_flag=True,
    help="Run what the bundle holds for the card here, and write into it what came out.",
)
@click.option("--device", metavar="NAME", help="With --complete: cuda or cuda:N.")
@json_option
def verify(
    folder: Path, data: Path | None, complete: bool, device: str | None, as_json: bool
) -> int:
    """Repeat a bundle's proof here: every byte, and every form that this computer can run.

    Passes only where at least one form could be compared, with what the certificate records or with
    another form. What was built for cards and not run counts neither way; --complete runs it, on a
    computer with such a card.
    """
    if device is not None and not complete:
        raise click.UsageError("--device says which card --complete is to use; name both")
    if complete:
        from lora_deploy import completion

        found = completion.complete(folder, data, device=device, progress=terminal.progress)
    else:
        from lora_deploy import verification

        found = verification.verify(folder, data, progress=terminal.progress)
    show(found, texts.checkup, as_json)
    return 0 if found.passed else 1


@click.command()
@click.argument("source", metavar="RUN", type=FOLDER)
@click.argument("repo", metavar="OWNER/NAME")
@click.option("--public", is_flag=True, help="Let everybody read it; private by default.")
@click.option(
    "--with-clips",
    is_flag=True,
    help="Also upload splits.csv, near_duplicates.csv and report.html, which name clips and show them.",
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
