"""RUN in, proven BUNDLE out: merge, export, prove, and only then put it in its place."""

import logging
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from peft import PeftModel

from lora_deploy import atomic
from lora_deploy.artifact import bundle, run
from lora_deploy.artifact.adapter_record import is_adapter
from lora_deploy.artifact.bundle import BundleManifest, CompiledForm, Precision
from lora_deploy.artifact.handing import handed
from lora_deploy.clips import transforms
from lora_deploy.clips.dataset import LabelledClip
from lora_deploy.config import ProofSettings, load_settings
from lora_deploy.errors import (
    AdapterSkippedError,
    ArtifactError,
    BackendCannotError,
    ExportUnreadableError,
    FormsDifferError,
    ModelError,
    OutputExistsError,
)
from lora_deploy.export.cards import bundle_card
from lora_deploy.export.departure import Departure, departures
from lora_deploy.export.lower import prove_lower
from lora_deploy.export.plan import Plan, plan
from lora_deploy.export.timing import speed_of
from lora_deploy.export.verify import answers_without_adapter, liveness_of, mark_skipped
from lora_deploy.export.write_forms import (
    ADAPTER_NAME,
    CalibrationClips,
    flop_per_clip,
    write_float32,
    write_frames_in,
    write_lower,
)
from lora_deploy.model.base import config_labels, read_contract
from lora_deploy.progress import Progress, silent
from lora_deploy.proof.answers import Answering, Clips, Form
from lora_deploy.proof.calibrate import calibrate
from lora_deploy.proof.certificate import Calibration, Certificate, Speed
from lora_deploy.proof.chain import Chain, budgets_of
from lora_deploy.proof.page import certificate_html
from lora_deploy.proof.thumbnails import thumbnail
from lora_deploy.proof.which_clips import calibration_clips, proof_clips
from lora_deploy.runtime import eager
from lora_deploy.runtime.base import Recogniser
from lora_deploy.runtime.eager import TorchBackend
from lora_deploy.runtime.open_bundle import as_recogniser, open_form
from lora_deploy.runtime.trained import Trained, open_adapter, open_run
from lora_deploy.versions import installed_versions

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
    fuse: bool = True,
    verify_on: Path | None = None,
    overrides: Sequence[str] = (),
    base: str | None = None,
    labels: Sequence[str] | None = None,
    progress: Progress = silent,
) -> Shipped:
    """Make a BUNDLE of a RUN; it appears at ``out`` only if every form answers alike.

    Args:
        source: A RUN, or the folder of an adapter that plain peft wrote.
        out: The BUNDLE folder; it must not exist or be empty.
        targets: Runtimes that forms are made for: ``onnx``, ``openvino``.
        precisions: ``fp32``, ``fp16``, ``bf16``, ``int8``.
        frames_in: Whether to make a graph that takes raw frames and gives probabilities, too.
        fuse: Whether ONNX Runtime gets graphs of its own, faster and as large again.
        verify_on: Labelled clips to prove it on; by default the RUN's validation clips.
        overrides: Settings of the proof beside those of the RUN, each ``proof.KEY=VALUE``.
        base: What to put an adapter's folder on, where the adapter does not say it provably.
        labels: Of an adapter's folder that does not name them, in the order of the logits.
        progress: Told how the proof goes on.

    Raises:
        CheckFailed: A form differs; nothing is left at ``out``.
        LoraDeployError: The RUN, its base or the clips can't be used.
    """
    if not atomic.is_free(out):
        raise OutputExistsError(f"{out} exists already")
    wanted = plan(targets, precisions, frames_in=frames_in, fuse=fuse)
    settings = proof_settings(source, overrides)
    trained = open_source(source, base=base, labels=labels)
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
        if wanted.at("int8") or wanted.at("fp16"):
            sources = [source / run.SPLITS, *([verify_on] if verify_on else [])]
            ranges = calibration_clips(sources, decoded.readable, most=settings.calibration_clips)
        export = _Export(stage, trained, wanted, settings, chain, ranges)
        certificate = export.prove(
            "named by the user" if verify_on else "validation clips of the training"
        )
        if not certificate.passed:
            skipped = any(link.adapter_skipped for link in certificate.links)
            raise (AdapterSkippedError if skipped else FormsDifferError)(
                f"no bundle was made, {out} is untouched: {'; '.join(certificate.objections)}"
            )
        atomic.write_text(stage / bundle.CERTIFICATE, certificate.model_dump_json(indent=1) + "\n")
        page = certificate_html(certificate, _thumbnails(certificate, decoded, trained))
        atomic.write_text(stage / bundle.CERTIFICATE_PAGE, page)
        atomic.write_text(stage / bundle.CARD, bundle_card(trained, certificate))
        shipped = export.vouch()
    return Shipped(out, shipped, certificate)


def proof_settings(source: Path, overrides: Sequence[str]) -> ProofSettings:
    """What the RUN's settings ask of a proof, and what was changed beside them.

    Raises:
        SettingsError: A setting is unknown or not allowed.
    """
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


class _Export:
    """One bundle under way: files, questions, answers, in the order in which they are needed."""

    def __init__(
        self,
        stage: Path,
        trained: Trained,
        wanted: Plan,
        settings: ProofSettings,
        chain: Chain,
        ranges: Sequence[LabelledClip],
    ) -> None:
        self._stage = stage
        self._trained = trained
        self._plan = wanted
        self._settings = settings
        self._chain = chain
        self._ranges = CalibrationClips(ranges, trained.contract)
        self._calibration: Calibration | None = None
        self._flop_per_clip: int | None = None

    def prove(self, source: str) -> Certificate:
        """Make every form and hold it against the trained model."""
        chain, trained = self._chain, self._trained
        self._flop_per_clip = flop_per_clip(trained)
        first = Recogniser(
            backend=TorchBackend(trained.model, form="unmerged"),
            labels=trained.labels,
            contract=trained.contract,
            temperature=1.0,
            digest=trained.digest,
        )
        is_adapted = isinstance(trained.model, PeftModel)
        name = "unmerged" if is_adapted else "trained"
        chain.ask(Form(name, lambda: first), opened=first)
        off = answers_without_adapter(first, chain.clips, trained.labels)
        self._calibrate()

        # 1. The float32 forms, each opened as its users open it.
        write_float32(self._stage, trained, self._plan)
        self.vouch()
        chain.ask(Form("merged", _or_unreadable(lambda: _as_transformers(self._stage, trained))))
        plain = CompiledForm(backend="onnxruntime", precision="fp32", file=bundle.ONNX)
        chain.ask(self._form(plain, "onnx"))
        chain.links += [chain.compare(name, "merged"), chain.compare("merged", "onnx")]
        for form in self._plan.at("fp32"):
            chain.ask(self._form(form))
            chain.links.append(chain.compare(name, form.name))

        # 2. What is made of a sound float32 graph.
        if all(link.passed for link in chain.links) and not chain.label_objections():
            if self._plan.frames_in:
                self._prove_frames_in(name)
            for precision in ("fp16", "bf16", "int8"):
                self._prove_lower(precision)
        speeds = self._speeds()

        # 3. Whether all that says anything.
        liveness = None
        if off is not None:
            merging = chain.links[0]
            liveness = liveness_of(chain.first.logits, off, merging)
            mark_skipped(chain, off)
        return chain.certificate(
            source=source,
            liveness=liveness,
            calibration=self._calibration,
            speeds=speeds,
            objections=self._too_slow(speeds),
        )

    def vouch(self) -> BundleManifest:
        """Write ``bundle.json`` for the files that lie there now."""
        return _vouch(
            self._stage,
            self._trained,
            forms=self._plan.forms,
            calibration=self._calibration,
            flop_per_clip=self._flop_per_clip,
        )

    def _calibrate(self) -> None:
        chain = self._chain
        self._calibration = calibrate(
            chain.first.logits,
            chain.truths,
            chain.labels,
            fit=self._settings.fit_temperature,
            unknown_rate=self._settings.unknown_rate,
        )
        chain.temperature = self._calibration.temperature

    def _form(self, form: CompiledForm, name: str | None = None) -> Form:
        def opened() -> Answering:
            manifest = bundle.read_bundle_manifest(self._stage)
            return as_recogniser(self._stage, manifest, open_form(self._stage, manifest, form))

        return Form(name or form.name, _or_unreadable(opened), form.precision)

    def _prove_frames_in(self, name: str) -> None:
        from lora_deploy.runtime.ort import FramesInGraph

        write_frames_in(self._stage, self._trained.contract, self._chain.temperature)
        manifest = self.vouch()

        def opened() -> Answering:
            with handed(self._stage, manifest, bundle.FRAMES_IN) as graph:
                return FramesInGraph(graph)

        self._chain.ask(Form("frames-in", _or_unreadable(opened)))
        self._chain.links.append(self._chain.compare(name, "frames-in"))

    def _prove_lower(self, precision: Precision) -> None:
        forms = self._plan.at(precision)
        if not forms:
            return
        by_name = {form.name: form for form in forms}

        def make(keep: Collection[str]) -> None:
            write_lower(self._stage, self._plan, precision, keep, self._ranges)
            self.vouch()

        def departing(form: Form, rows: NDArray[np.int64]) -> list[Departure]:
            compiled = by_name[form.name]
            contract = self._trained.contract
            frames = np.stack([self._chain.clips.frames(contract)[row] for row in rows])
            return departures(
                onnx.load(self._stage / bundle.ONNX),
                onnx.load(self._stage / compiled.file),
                transforms.normalise(frames, contract),
                backend=compiled.backend,
                precision=precision,
            )

        self._chain.links += prove_lower(
            self._chain,
            [self._form(form) for form in forms],
            make=None if precision == "bf16" else make,
            departing=departing,
            most_kept=self._settings.kept_blocks,
        )

    def _speeds(self) -> list[Speed]:
        """Of each form that was asked, beside float32 in the same runtime."""
        lower = [
            form
            for form in self._plan.forms
            if form.precision != "fp32" and form.name in self._chain.answers
        ]
        if not lower:
            return []
        manifest = bundle.read_bundle_manifest(self._stage)
        frames = self._chain.clips.frames(self._trained.contract)[0]
        found = []
        for form in lower:
            beside = manifest.form(form.backend, "fp32")
            if beside is not None:
                found.append(speed_of(self._stage, manifest, form, beside, frames))
        return found

    def _too_slow(self, speeds: Sequence[Speed]) -> list[str]:
        if self._settings.int8_may_be_slower:
            return []
        return [
            f"{speed.forms[0]} is no faster than {speed.forms[1]} on this computer "
            f"({speed.ratio:.2f} times): leave int8 out, or ship it all the same with "
            "--set proof.int8_may_be_slower=true"
            for speed in speeds
            if speed.forms[0].endswith("int8") and not speed.ratio > 1
        ]


def _or_unreadable(opening: Callable[[], Answering]) -> Callable[[], Answering]:
    """A form that can't be opened is a fault of the export, not of the user's folder."""

    def opened() -> Answering:
        try:
            return opening()
        except (ArtifactError, ModelError) as error:
            raise ExportUnreadableError(
                f"no bundle was made, what was exported can't be opened: {error}"
            ) from error

    return opened


def _as_transformers(stage: Path, trained: Trained) -> Recogniser:
    """``model/`` with the labels and the preprocessor that stand beside the weights, not ours."""
    folder = stage / bundle.MODEL
    model = eager.open_merged(folder)
    contract = read_contract(folder, model.config)
    return Recogniser(
        backend=TorchBackend(model, form="merged"),
        labels=config_labels(model.config),
        # transformers' preprocessor does not say which frames to take
        contract=contract.model_copy(update={"sampling": trained.contract.sampling}),
        temperature=1.0,
        digest="",  # no row is written
    )


def _vouch(
    stage: Path,
    trained: Trained,
    *,
    forms: tuple[CompiledForm, ...],
    calibration: Calibration | None,
    flop_per_clip: int | None,
) -> BundleManifest:
    shipped = BundleManifest(
        labels=trained.labels,
        contract=trained.contract,
        temperature=calibration.temperature if calibration else 1.0,
        unknown_threshold=calibration.unknown_threshold if calibration else None,
        base=trained.base,
        forms=forms,
        flop_per_clip=flop_per_clip,
        adapters=(ADAPTER_NAME,) if trained.kind == "lora" else (),
        files=bundle.record_files(stage),
        versions=installed_versions(),
    )
    bundle.write_bundle_manifest(stage, shipped)
    return shipped


def _thumbnails(certificate: Certificate, clips: Clips, trained: Trained) -> dict[str, bytes]:
    """Of the clips that flip in any form, by name."""
    flipped = {flip.clip for link in certificate.links for flip in link.flips}
    frames = clips.frames(trained.contract)
    return {
        name: thumbnail(frames[row]) for row, (name, _) in enumerate(clips.named) if name in flipped
    }
