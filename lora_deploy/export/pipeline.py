"""RUN in, proven BUNDLE out: merge, export, prove, and only then put it in its place."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lora_deploy import atomic
from lora_deploy.artifact import bundle, run
from lora_deploy.artifact.adapter_record import is_adapter
from lora_deploy.artifact.bundle import BundleManifest, Flavour
from lora_deploy.clips.dataset import LabelledClip
from lora_deploy.config import ProofSettings, load_settings
from lora_deploy.errors import (
    AdapterSkippedError,
    BackendCannotError,
    FormsDifferError,
    NoUnmergedFormError,
    OutputExistsError,
    OverrideError,
)
from lora_deploy.export.cards import bundle_card
from lora_deploy.export.engine_order import BATCH_SIZES, check_order
from lora_deploy.export.plan import plan
from lora_deploy.export.proving import Proving
from lora_deploy.export.to_triton import write_repository
from lora_deploy.processor import read_processor
from lora_deploy.progress import Progress, silent
from lora_deploy.proof.answers import Clips
from lora_deploy.proof.certificate import Certificate
from lora_deploy.proof.chain import Chain, budgets_of
from lora_deploy.proof.page import certificate_html
from lora_deploy.proof.thumbnails import thumbnail
from lora_deploy.proof.which_clips import calibration_clips, proof_clips
from lora_deploy.runtime.trained import Trained, open_adapter, open_run

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Shipped:
    """What `merge_export` left."""

    bundle: Path
    manifest: BundleManifest
    certificate: Certificate


def merge_export(
    source: Path,
    out: Path,
    *,
    targets: Sequence[str] = ("onnx",),
    precisions: Sequence[str] = ("fp32",),
    frames_in: bool = False,
    adapter_graph: bool = False,
    triton: bool = False,
    fuse: bool = True,
    cards: Sequence[str] = (),
    flavour: Flavour = "tensorrt-rtx",
    batch_sizes: Sequence[int] = BATCH_SIZES,
    verify_on: Path | None = None,
    report: Path | None = None,
    overrides: Sequence[str] = (),
    base: str | None = None,
    labels: Sequence[str] | None = None,
    progress: Progress = silent,
) -> Shipped:
    """Make a BUNDLE of a RUN; it appears at ``out`` only if every form answers alike.

    Args:
        source: A RUN, or the folder of an adapter that plain peft wrote.
        out: The BUNDLE folder; it must not exist or be empty.
        targets: Runtimes that forms are made for: ``onnx``, ``openvino``, ``tensorrt``.
        precisions: ``fp32``, ``fp16``, ``bf16``, ``int8``.
        frames_in: Whether to make a graph that takes raw frames and gives probabilities, too.
        adapter_graph: Whether to make a graph of the base that takes the adapter at run time, too:
            the unmerged model without PyTorch. It is as large as the base.
        triton: Whether to make a model repository for Triton Inference Server of the graphs, too;
            ``frames_in`` comes with it.
        fuse: Whether ONNX Runtime gets graphs of its own, faster and as large again.
        cards: Which cards engines are built for, as ``sm86``; they need not be here.
        flavour: Whose compiler builds them; ``tensorrt`` needs the card itself.
        batch_sizes: An engine takes batches of these sizes.
        verify_on: Labelled clips to prove it on; by default the RUN's validation clips.
        report: Where to write the certificate's page, whether it passed or not; nothing else is
            left of what is refused.
        overrides: Settings of the proof beside those of the RUN, each ``proof.KEY=VALUE``.
        base: What to put an adapter's folder on, where the adapter does not say it provably.
        labels: Of an adapter's folder that does not name them, in the order of the logits.
        progress: Told how the proof goes on.

    Raises:
        CheckFailed: A form differs; nothing is left at ``out``.
        NoUnmergedFormError: There is no adapter that a graph could take.
        LoraDeployError: The RUN, its base or the clips can't be used.
    """
    if not atomic.is_free(out):
        raise OutputExistsError(f"{out} exists already")
    wanted = plan(
        targets,
        precisions,
        frames_in=frames_in,
        adapter_graph=adapter_graph,
        triton=triton,
        fuse=fuse,
        cards=cards,
        flavour=flavour,
        batch_sizes=batch_sizes,
        has_bf16=read_processor().has_bf16,
    )
    for order in wanted.engines:
        check_order(order)
    for sentence in wanted.left_out:
        logger.warning("left out: %s", sentence)
    settings = proof_settings(source, overrides)
    trained = open_source(source, base=base, labels=labels)
    if adapter_graph and trained.kind == "full":
        raise NoUnmergedFormError(
            f"{source} was fine-tuned as a whole, so there is no adapter that a graph could take"
        )
    clips = proof_clips(source, verify_on, trained.labels, most=settings.clips)
    with atomic.staged_folder(out) as stage, Clips(clips, trained.contract) as decoded:
        chain = Chain(
            decoded,
            trained.labels,
            budgets=budgets_of(settings),
            largest_share=settings.largest_share,
            progress=progress,
        )
        ranges: list[LabelledClip] = []
        ranges_from = ""
        if wanted.at("int8") or wanted.at("fp16"):
            sources = [source / run.SPLITS, *([verify_on] if verify_on else [])]
            ranges, ranges_from = calibration_clips(
                sources, decoded.readable, most=settings.calibration_clips
            )
        export = Proving(stage, trained, wanted, settings, chain, ranges, progress=progress)
        certificate = export.prove(
            "named by the user" if verify_on else "validation clips of the training",
            ranges_from=ranges_from,
        )
        page = certificate_html(certificate, _thumbnails(certificate, decoded, trained))
        if report is not None:
            atomic.write_text(report, page)
        _refuse_unproved(certificate, out)
        atomic.write_text(stage / bundle.CERTIFICATE, certificate.model_dump_json(indent=1) + "\n")
        atomic.write_text(stage / bundle.CERTIFICATE_PAGE, page)
        atomic.write_text(stage / bundle.CARD, bundle_card(trained, certificate))
        if wanted.triton:
            write_repository(stage, bundle.read_bundle_manifest(stage))
        shipped = export.vouch()
    return Shipped(out, shipped, certificate)


def _refuse_unproved(certificate: Certificate, out: Path) -> None:
    if certificate.passed:
        return
    skipped = any(link.adapter_skipped for link in certificate.links)
    raise (AdapterSkippedError if skipped else FormsDifferError)(
        f"no bundle was made, {out} is untouched: {'; '.join(certificate.objections)}"
    )


def proof_settings(source: Path, overrides: Sequence[str]) -> ProofSettings:
    """What the RUN's settings ask of a proof, and what was changed beside them.

    Raises:
        SettingsError: A setting is unknown or not allowed, or is none of the proof.
    """
    for override in overrides:
        if not override.startswith("proof."):
            raise OverrideError(f"--set {override!r} is no setting of the proof (proof.KEY=VALUE)")
    file = source / run.SETTINGS
    return load_settings(file if run.is_run(source) and file.is_file() else None, overrides).proof


def open_source(
    source: Path, *, base: str | None = None, labels: Sequence[str] | None = None
) -> Trained:
    """What is to be merged: a RUN's best model, or an adapter on its base.

    Raises:
        LoraDeployError: It is neither, or can't be trusted.
    """
    if run.is_run(source) or not is_adapter(source):
        if base is not None or labels is not None:
            raise BackendCannotError(
                f"{source} is no adapter's folder; leave --base and --labels out"
            )
        return open_run(source)
    trained = open_adapter(source, base=base, labels=labels)
    for sentence in trained.unknown:
        logger.warning("not known of %s: %s", source, sentence)
    return trained


def _thumbnails(certificate: Certificate, clips: Clips, trained: Trained) -> dict[str, bytes]:
    """Of the clips that flip in any form, by name."""
    flipped = {flip.clip for link in certificate.links for flip in link.flips}
    frames = clips.frames(trained.contract)
    return {
        name: thumbnail(frames[row]) for row, (name, _) in enumerate(clips.named) if name in flipped
    }
