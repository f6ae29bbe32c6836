"""RUN in, proven BUNDLE out: merge, export, prove, and only then put it in its place."""

import logging
import shutil
from dataclasses import dataclass
from pathlib import Path

from peft import PeftModel
from transformers import PreTrainedModel

from lora_deploy import atomic
from lora_deploy.artifact import bundle, run
from lora_deploy.artifact.bundle import BundleManifest
from lora_deploy.artifact.manifest import manifest_digest
from lora_deploy.artifact.run import RunManifest
from lora_deploy.clips.dataset import LabelledClip, read_split
from lora_deploy.clips.processor import write_processor
from lora_deploy.errors import ArtifactError, CheckFailed, CheckpointError, DataError, ModelError
from lora_deploy.export.cards import bundle_card
from lora_deploy.export.certificate_page import certificate_html
from lora_deploy.export.merge import merge
from lora_deploy.export.to_onnx import write_onnx
from lora_deploy.export.verify import Certificate, Form, certify
from lora_deploy.model.base import config_labels, quiet_loading, read_contract
from lora_deploy.progress import Progress, silent
from lora_deploy.runtime import eager
from lora_deploy.runtime.base import Recogniser
from lora_deploy.runtime.eager import TorchBackend
from lora_deploy.runtime.load import load
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
    run_folder: Path,
    out: Path,
    *,
    verify_on: Path | None = None,
    progress: Progress = silent,
) -> Shipped:
    """Make a BUNDLE of a RUN; it appears at ``out`` only if every form answers alike.

    Args:
        run_folder: What training left.
        out: The BUNDLE folder; it must not exist or be empty.
        verify_on: Labelled clips to prove it on; by default the RUN's validation clips.
        progress: Told how the proof goes on.

    Raises:
        CheckFailed: A form differs; nothing is left at ``out``.
        LoraDeployError: The RUN, its base or the clips can't be used.
    """
    if not atomic.is_free(out):
        raise ArtifactError(f"{out} exists already; choose another --out, or delete it first")
    manifest = run.read_run_manifest(run_folder)
    clips = proof_clips(run_folder, verify_on, manifest.labels)
    trained = eager.open_run_model(run_folder, manifest)
    with atomic.staged_folder(out) as stage:
        _write_forms(stage, run_folder, manifest, trained)
        _vouch(stage, manifest)
        certificate = certify(
            _forms(stage, run_folder, manifest, trained),
            clips,
            source="named by the user" if verify_on else "validation clips of the training",
            progress=progress,
        )
        if not certificate.passed:
            raise CheckFailed(
                f"no bundle was made, {out} is untouched: {'; '.join(certificate.objections)}"
            )
        atomic.write_text(stage / bundle.CERTIFICATE, certificate.model_dump_json(indent=1) + "\n")
        atomic.write_text(stage / bundle.CERTIFICATE_PAGE, certificate_html(certificate))
        atomic.write_text(stage / bundle.CARD, bundle_card(manifest, certificate))
        shipped = _vouch(stage, manifest)
    return Shipped(out, shipped, certificate)


def proof_clips(
    run_folder: Path, verify_on: Path | None, labels: tuple[str, ...]
) -> list[LabelledClip]:
    """The clips that the certificate is made on: validation clips, never training ones.

    Raises:
        DataError: There are none, or they are gone.
    """
    source = verify_on or run_folder / run.SPLITS
    try:
        clips = _not_for_training(source)
    except DataError as error:
        if verify_on is not None:
            raise
        raise DataError(
            f"the validation clips of {run_folder} are not there any more ({error}); "
            "name others with --verify-on"
        ) from None
    strange = sorted({clip.label for clip in clips} - set(labels))
    if strange:
        raise DataError(f"{source} has labels that the model does not know: {', '.join(strange)}")
    step = max(1.0, len(clips) / MOST_CLIPS)
    return [clips[int(index * step)] for index in range(min(len(clips), MOST_CLIPS))]


def _not_for_training(source: Path) -> tuple[LabelledClip, ...]:
    """The validation clips, else the test clips, else those of which no split is told."""
    splits = {clip.split for clip in read_split(source, "all", must_exist=False)}
    if splits == {"train"}:
        raise DataError(f"{source} has nothing but training clips; others are needed for a proof")
    if "val" in splits:
        return read_split(source, "val")
    told = splits != {"test"}  # of clips without a split, test is told
    return read_split(source, "test" if told else "all")


def _write_forms(
    stage: Path, run_folder: Path, manifest: RunManifest, trained: PreTrainedModel | PeftModel
) -> None:
    merged = merge(trained) if isinstance(trained, PeftModel) else trained
    save_model(merged, stage / bundle.MODEL, manifest)
    (stage / bundle.ONNX).parent.mkdir(parents=True)
    write_onnx(
        merged,
        stage / bundle.ONNX,
        labels=manifest.labels,
        contract=manifest.contract,
        metadata={"run": manifest_digest(run_folder / run.MANIFEST)},
    )
    if isinstance(trained, PeftModel):
        adapter = stage / bundle.ADAPTERS / ADAPTER_NAME
        adapter.mkdir(parents=True)
        for path in run.verify_adapter(run_folder, manifest):
            shutil.copyfile(path, adapter / path.name)


def save_model(merged: PreTrainedModel, folder: Path, manifest: RunManifest) -> None:
    """The merged weights as a transformers folder, with its preprocessor."""
    merged.config.name_or_path = ""  # else a path of this computer would be shipped
    with quiet_loading():
        merged.save_pretrained(str(folder))
    write_processor(manifest.contract, folder, merged.config.model_type)


def _forms(
    stage: Path, run_folder: Path, manifest: RunManifest, trained: PreTrainedModel | PeftModel
) -> list[Form]:
    """The trained model as it is, and the shipped forms as they lie in the staged folder."""
    first = Recogniser(
        backend=TorchBackend(trained, form="unmerged"),
        labels=manifest.labels,
        contract=manifest.contract,
        temperature=1.0,
        digest=manifest_digest(run_folder / run.MANIFEST),
    )
    try:
        merged = _merged_as_transformers_opens_it(stage, manifest)
        compiled = load(stage, backend="onnxruntime")
    except (ArtifactError, CheckpointError, ModelError) as error:
        raise CheckFailed(
            f"no bundle was made, what was exported can't be opened: {error}"
        ) from error
    return [
        Form("unmerged" if isinstance(trained, PeftModel) else "trained", first),
        Form("merged", merged),
        Form("onnx", compiled),
    ]


def _merged_as_transformers_opens_it(stage: Path, manifest: RunManifest) -> Recogniser:
    """``model/`` with the labels and the preprocessor that stand beside the weights, not ours."""
    folder = stage / bundle.MODEL
    model = eager.open_merged(folder)
    contract = read_contract(folder, model.config)
    return Recogniser(
        backend=TorchBackend(model, form="merged"),
        labels=config_labels(model.config),
        # transformers' preprocessor does not say which frames to take
        contract=contract.model_copy(update={"sampling": manifest.contract.sampling}),
        temperature=1.0,
        digest="",  # no row is written
    )


def _vouch(stage: Path, manifest: RunManifest) -> BundleManifest:
    """Write ``bundle.json`` for the files that lie there now."""
    shipped = BundleManifest(
        labels=manifest.labels,
        contract=manifest.contract,
        base=manifest.base,
        adapters=(ADAPTER_NAME,) if manifest.kind == "lora" else (),
        files=bundle.record_files(stage),
        versions=installed_versions(),
    )
    bundle.write_bundle_manifest(stage, shipped)
    return shipped
