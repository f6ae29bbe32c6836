"""RUN in, proven BUNDLE out: merge, export, prove, and only then put it in its place."""

import logging
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from peft import PeftModel
from transformers import PreTrainedModel

from lora_deploy import atomic
from lora_deploy.artifact import bundle, run
from lora_deploy.artifact.adapter_record import ADAPTER_WEIGHTS, is_adapter
from lora_deploy.artifact.bundle import BundleManifest
from lora_deploy.clips.contract import PixelContract
from lora_deploy.clips.dataset import LabelledClip, read_split
from lora_deploy.clips.processor import write_processor
from lora_deploy.errors import (
    AdapterSkippedError,
    ArtifactError,
    BackendCannotError,
    DataError,
    EmptySplitError,
    ExportUnreadableError,
    FormsDifferError,
    ModelError,
    OutputExistsError,
    UnknownLabelError,
)
from lora_deploy.export.cards import bundle_card
from lora_deploy.export.certificate_page import certificate_html
from lora_deploy.export.merge import merge
from lora_deploy.export.to_onnx import write_onnx
from lora_deploy.export.verify import Certificate, Form, certify
from lora_deploy.model.adapter_files import adapter_fingerprint
from lora_deploy.model.base import config_labels, read_contract
from lora_deploy.model.weights import quiet_loading
from lora_deploy.progress import Progress, silent
from lora_deploy.runtime import eager
from lora_deploy.runtime.base import Recogniser
from lora_deploy.runtime.eager import TorchBackend
from lora_deploy.runtime.load import load
from lora_deploy.runtime.trained import MERGED_MARK, Trained, open_adapter, open_run
from lora_deploy.versions import installed_versions

logger = logging.getLogger(__name__)

ADAPTER_NAME = "default"
MOST_CLIPS = 256
"""More validation clips than this are thinned out evenly."""


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
    verify_on: Path | None = None,
    base: str | None = None,
    labels: Sequence[str] | None = None,
    progress: Progress = silent,
) -> Shipped:
    """Make a BUNDLE of a RUN; it appears at ``out`` only if every form answers alike.

    Args:
        source: A RUN, or the folder of an adapter that plain peft wrote.
        out: The BUNDLE folder; it must not exist or be empty.
        verify_on: Labelled clips to prove it on; by default the RUN's validation clips.
        base: What to put an adapter's folder on, where the adapter does not say it provably.
        labels: Of an adapter's folder that does not name them, in the order of the logits.
        progress: Told how the proof goes on.

    Raises:
        CheckFailed: A form differs; nothing is left at ``out``.
        LoraDeployError: The RUN, its base or the clips can't be used.
    """
    if not atomic.is_free(out):
        raise OutputExistsError(f"{out} exists already")
    trained = open_source(source, base=base, labels=labels)
    clips = proof_clips(source, verify_on, trained.labels)
    with atomic.staged_folder(out) as stage:
        _write_forms(stage, trained)
        _vouch(stage, trained)
        certificate = certify(
            _forms(stage, trained),
            clips,
            source="named by the user" if verify_on else "validation clips of the training",
            progress=progress,
        )
        if not certificate.passed:
            skipped = any(link.adapter_skipped for link in certificate.links)
            raise (AdapterSkippedError if skipped else FormsDifferError)(
                f"no bundle was made, {out} is untouched: {'; '.join(certificate.objections)}"
            )
        atomic.write_text(stage / bundle.CERTIFICATE, certificate.model_dump_json(indent=1) + "\n")
        atomic.write_text(stage / bundle.CERTIFICATE_PAGE, certificate_html(certificate))
        atomic.write_text(stage / bundle.CARD, bundle_card(trained, certificate))
        shipped = _vouch(stage, trained)
    return Shipped(out, shipped, certificate)


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


def proof_clips(
    folder: Path, verify_on: Path | None, labels: tuple[str, ...]
) -> list[LabelledClip]:
    """The clips that the certificate is made on: validation clips, never training ones.

    Raises:
        DataError: There are none, or they are gone.
    """
    source = verify_on or folder / run.SPLITS
    try:
        clips = _not_for_training(source)
    except DataError as error:
        if verify_on is not None:
            raise
        raise EmptySplitError(
            f"{folder} brings no clips for the proof ({error}); name some with --verify-on"
        ) from None
    strange = sorted({clip.label for clip in clips} - set(labels))
    if strange:
        raise UnknownLabelError(
            f"{source} has labels that the model does not know: {', '.join(strange)}"
        )
    step = max(1.0, len(clips) / MOST_CLIPS)
    return [clips[int(index * step)] for index in range(min(len(clips), MOST_CLIPS))]


def _not_for_training(source: Path) -> tuple[LabelledClip, ...]:
    """The validation clips, else the test clips, else those of which no split is told."""
    splits = {clip.split for clip in read_split(source, "all", must_exist=False)}
    if splits == {"train"}:
        raise EmptySplitError(
            f"{source} has nothing but training clips; others are needed for a proof"
        )
    if "val" in splits:
        return read_split(source, "val")
    told = splits != {"test"}  # of clips without a split, test is told
    return read_split(source, "test" if told else "all")


def _write_forms(stage: Path, trained: Trained) -> None:
    model = trained.model
    if isinstance(model, PeftModel):
        merged = merge(model)
        earlier = list(getattr(merged.config, MERGED_MARK, None) or ())
        inside = adapter_fingerprint(
            next(p for p in trained.adapter_files if p.name == ADAPTER_WEIGHTS)
        )
        setattr(merged.config, MERGED_MARK, [*earlier, inside])
    else:
        merged = model
    save_model(merged, stage / bundle.MODEL, trained.contract)
    (stage / bundle.ONNX).parent.mkdir(parents=True)
    write_onnx(
        merged,
        stage / bundle.ONNX,
        labels=trained.labels,
        contract=trained.contract,
        metadata={"run": trained.digest},
    )
    if trained.adapter_files:
        adapter = stage / bundle.ADAPTERS / ADAPTER_NAME
        adapter.mkdir(parents=True)
        for path in trained.adapter_files:
            shutil.copyfile(path, adapter / path.name)


def save_model(merged: PreTrainedModel, folder: Path, contract: PixelContract) -> None:
    """The merged weights as a transformers folder, with its preprocessor."""
    merged.config.name_or_path = ""  # else a path of this computer would be shipped
    with quiet_loading():
        merged.save_pretrained(str(folder))
    write_processor(contract, folder, merged.config.model_type)


def _forms(stage: Path, trained: Trained) -> list[Form]:
    """The trained model as it is, and the shipped forms as they lie in the staged folder."""
    first = Recogniser(
        backend=TorchBackend(trained.model, form="unmerged"),
        labels=trained.labels,
        contract=trained.contract,
        temperature=1.0,
        digest=trained.digest,
    )
    try:
        merged = _merged_as_transformers_opens_it(stage, trained)
        compiled = load(stage, backend="onnxruntime")
    except (ArtifactError, ModelError) as error:
        raise ExportUnreadableError(
            f"no bundle was made, what was exported can't be opened: {error}"
        ) from error
    return [
        Form("unmerged" if isinstance(trained.model, PeftModel) else "trained", first),
        Form("merged", merged),
        Form("onnx", compiled),
    ]


def _merged_as_transformers_opens_it(stage: Path, trained: Trained) -> Recogniser:
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


def _vouch(stage: Path, trained: Trained) -> BundleManifest:
    """Write ``bundle.json`` for the files that lie there now."""
    shipped = BundleManifest(
        labels=trained.labels,
        contract=trained.contract,
        base=trained.base,
        adapters=(ADAPTER_NAME,) if trained.kind == "lora" else (),
        files=bundle.record_files(stage),
        versions=installed_versions(),
    )
    bundle.write_bundle_manifest(stage, shipped)
    return shipped
