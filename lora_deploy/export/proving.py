"""The forms of a bundle under way, written and held against the trained model one after the other."""

import logging
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from peft import PeftModel

from lora_deploy.artifact import bundle
from lora_deploy.artifact.bundle import BundleManifest, CompiledForm, Engine, Precision
from lora_deploy.artifact.handing import alone, handed
from lora_deploy.clips import transforms
from lora_deploy.clips.dataset import LabelledClip
from lora_deploy.config import ProofSettings
from lora_deploy.errors import ArtifactError, ExportUnreadableError, ModelError
from lora_deploy.export.adapter_graph import write_adapter_graph
from lora_deploy.export.build_engines import build_engines, unrun
from lora_deploy.export.departure import Departure, departures
from lora_deploy.export.lower import prove_lower
from lora_deploy.export.plan import Plan
from lora_deploy.export.rounded import rounded
from lora_deploy.export.timing import speed_of
from lora_deploy.export.verify import answers_without_adapter, liveness_of, mark_skipped
from lora_deploy.export.write_forms import (
    CalibrationClips,
    flop_per_clip,
    write_float32,
    write_frames_in,
    write_lower,
)
from lora_deploy.model.base import config_labels, read_contract
from lora_deploy.progress import Progress, silent
from lora_deploy.proof.answers import Answering, Answers, Form
from lora_deploy.proof.calibrate import calibrate
from lora_deploy.proof.certificate import (
    ADAPTER_GRAPH,
    ADAPTER_GRAPH_BASE,
    BASE,
    BFLOAT16_GRAPH,
    Calibration,
    Certificate,
    Speed,
)
from lora_deploy.proof.chain import Chain
from lora_deploy.runtime import eager
from lora_deploy.runtime.base import Recogniser
from lora_deploy.runtime.eager import TorchBackend
from lora_deploy.runtime.open_bundle import as_recogniser, open_adapter_graph, open_form
from lora_deploy.runtime.trained import Trained
from lora_deploy.versions import installed_versions

logger = logging.getLogger(__name__)


class Proving:
    """One bundle under way: files, questions, answers, in the order in which they are needed."""

    def __init__(
        self,
        stage: Path,
        trained: Trained,
        wanted: Plan,
        settings: ProofSettings,
        chain: Chain,
        ranges: Sequence[LabelledClip],
        *,
        progress: Progress = silent,
    ) -> None:
        """Write nothing yet.

        Args:
            stage: Folder of the bundle under way, empty.
            trained: What is exported.
            wanted: Which forms.
            settings: What is asked of them.
            chain: Has the clips, and has asked nobody.
            ranges: Clips that lower precisions take their ranges from.
            progress: Told how engines are built.
        """
        self._stage = stage
        self._trained = trained
        self._plan = wanted
        self._settings = settings
        self._chain = chain
        self._ranges = CalibrationClips(ranges, trained.contract)
        self._calibration: Calibration | None = None
        self._flop_per_clip: int | None = None
        self._progress = progress
        self._engines: tuple[Engine, ...] = ()

    def prove(self, source: str, *, ranges_from: str = "") -> Certificate:
        """Make every form and hold it against the trained model.

        Args:
            source: Whose clips the proof's are, in words.
            ranges_from: Whose those are that int8 takes its ranges from.
        """
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
        logger.info("merging, and exporting in fp32 (a large model takes minutes)")
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
            if self._plan.adapter_graph and off is not None:
                self._prove_adapter_graph(name, off)
            if self._plan.frames_in:
                self._prove_frames_in(name)
            for precision in ("fp16", "bf16", "int8"):
                self._prove_lower(precision)
            if self._plan.engines_at("bf16"):
                self._prove_bfloat16()
        speeds = self._speeds()
        if self._plan.engines and all(link.passed for link in chain.links):
            self._engines = build_engines(self._stage, self._plan.engines, progress=self._progress)

        # 3. Whether all that says anything.
        liveness = None
        if off is not None:
            merging = chain.links[0]
            liveness = liveness_of(chain.first.logits, off.logits, merging)
            mark_skipped(chain, off.logits)
        return chain.certificate(
            source=source,
            liveness=liveness,
            calibration=self._calibration,
            speeds=speeds,
            ranges_from=ranges_from if self._plan.at("int8") else "",
            objections=self._too_slow(speeds),
            unrun=[unrun(engine) for engine in self._engines],
        )

    def vouch(self) -> BundleManifest:
        """Write ``bundle.json`` for the files that lie there now."""
        return _vouch(
            self._stage,
            self._trained,
            forms=self._plan.forms,
            engines=self._engines,
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
        chain.unknown_threshold = self._calibration.unknown_threshold

    def _form(self, form: CompiledForm, name: str | None = None) -> Form:
        def opened() -> Answering:
            manifest = bundle.read_bundle_manifest(self._stage)
            return as_recogniser(self._stage, manifest, open_form(self._stage, manifest, form))

        return Form(name or form.name, _or_unreadable(opened), form.precision)

    def _prove_adapter_graph(self, name: str, off: Answers) -> None:
        """Hold the graph against the trained adapter, and without its update against the base."""
        logger.info("exporting the graph that takes the adapter")
        write_adapter_graph(self._stage, self._trained, bundle.ADAPTER_NAME, fuse=self._plan.fuse)
        manifest = self.vouch()

        def form(called: str, which: Literal["unmerged", "base"]) -> Form:
            def opened() -> Answering:
                graph = open_adapter_graph(self._stage, manifest, bundle.ADAPTER_NAME, which)
                return as_recogniser(self._stage, manifest, graph)

            return Form(called, _or_unreadable(opened))

        chain = self._chain
        chain.answers[BASE] = off
        chain.ask(form(ADAPTER_GRAPH, "unmerged"))
        chain.ask(form(ADAPTER_GRAPH_BASE, "base"))
        chain.links.append(chain.compare(name, ADAPTER_GRAPH))
        chain.links.append(chain.compare(BASE, ADAPTER_GRAPH_BASE))

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
            logger.info("making the %s forms", precision)
            bits = self._settings.int8_weight_bits
            write_lower(self._stage, self._plan, precision, keep, self._ranges, bits)
            self.vouch()

        def departing(form: Form, rows: NDArray[np.int64]) -> list[Departure]:
            compiled = by_name[form.name]
            return departures(
                onnx.load(self._stage / bundle.ONNX),
                onnx.load(self._stage / compiled.file),
                self._pixel_values(rows),
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

    def _prove_bfloat16(self) -> None:
        """Hold the graph of the bf16 engines against the trained model, rounded as they round."""
        file = self._stage / bundle.BFLOAT16

        def make(keep: Collection[str]) -> None:
            logger.info("making the bf16 graph of the engines")
            write_lower(self._stage, self._plan, "bf16", keep, self._ranges)
            self.vouch()

        def opened() -> Answering:
            from lora_deploy.runtime.ort import OnnxRuntimeBackend

            manifest = bundle.read_bundle_manifest(self._stage)
            with alone(rounded(onnx.load(file)).SerializeToString()) as graph:
                return as_recogniser(self._stage, manifest, OnnxRuntimeBackend(graph))

        def departing(_: Form, rows: NDArray[np.int64]) -> list[Departure]:
            return departures(
                onnx.load(self._stage / bundle.ONNX),
                rounded(onnx.load(file)),
                self._pixel_values(rows),
                backend="onnxruntime",
                precision="bf16",
            )

        self._chain.links += prove_lower(
            self._chain,
            [Form(BFLOAT16_GRAPH, _or_unreadable(opened), "bf16")],
            make=make,
            departing=departing,
            most_kept=self._settings.kept_blocks,
        )

    def _pixel_values(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Of some of the clips."""
        contract = self._trained.contract
        frames = np.stack([self._chain.clips.frames(contract)[row] for row in rows])
        return transforms.normalise(frames, contract)

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
    engines: tuple[Engine, ...],
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
        engines=engines,
        flop_per_clip=flop_per_clip,
        adapters=(bundle.ADAPTER_NAME,) if trained.kind == "lora" else (),
        files=bundle.record_files(stage),
        versions=installed_versions(),
    )
    bundle.write_bundle_manifest(stage, shipped)
    return shipped
