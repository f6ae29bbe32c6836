"""A trained model as it was trained, wherever it comes from: a RUN, or an adapter's folder on its base.

Nothing is believed: hashes, fingerprints, labels and parts are checked, and an adapter is proved
alive before anybody gets an answer from it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from peft import PeftModel
from transformers import PreTrainedModel

from lora_deploy.artifact import run
from lora_deploy.artifact.adapter_record import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    AdapterRecord,
    read_labels,
    read_record,
)
from lora_deploy.artifact.manifest import BaseIdentity, manifest_digest, sha256_of_file
from lora_deploy.artifact.run import BestEpoch, RunManifest
from lora_deploy.clips.contract import PixelContract
from lora_deploy.errors import (
    AdapterChangedError,
    AnswersNotFiniteError,
    BaseNotNamedError,
    FileChangedError,
    HalfFittingCheckpointError,
    LabelOrderError,
    LabelsNotNamedError,
    MergedTwiceError,
    PixelsChangedError,
    UnsafeCheckpointError,
    WrongBaseError,
)
from lora_deploy.model.adapter_files import (
    adapter_fingerprint,
    check_is_adapter,
    load_adapter,
    read_adapter_tensors,
)
from lora_deploy.model.base import OpenedBase, from_config, open_base
from lora_deploy.model.liveness import Liveness, check_trained, noise
from lora_deploy.model.mcg_nju import first_line

MERGED_MARK = "lora_deploy_merged"
"""Key of a merged model's ``config.json``: fingerprints of the adapters that are in its weights."""


@dataclass(frozen=True)
class Trained:
    """A trained model, and all that is known of it."""

    model: PreTrainedModel | PeftModel
    kind: Literal["lora", "full"]
    labels: tuple[str, ...]
    """In the order of the logits."""
    contract: PixelContract
    base: BaseIdentity
    adapter_files: Mapping[Path, str]
    """What belongs to the adapter, with the hash of what was opened; empty without one."""
    digest: str
    """One hash for the whole of it."""
    best: BestEpoch | None
    """None for an adapter that came without its RUN."""
    liveness: Liveness | None
    """What the proof measured; None without an adapter."""
    unknown: tuple[str, ...] = ()
    """What its files can't tell, a sentence each."""


def open_run(folder: Path) -> Trained:
    """The best model of a RUN: unmerged, or fully fine-tuned.

    Raises:
        ArtifactError: A part of the RUN is missing or changed.
        AdapterError: The adapter or its base is not what the RUN says.
        LivenessError: The adapter is dead.
    """
    while True:
        manifest = run.read_run_manifest(folder)
        digest = manifest_digest(folder / run.MANIFEST)
        try:
            return _open_run(folder, manifest, digest)
        except (FileChangedError, AdapterChangedError):
            # A training may have saved a better epoch after its manifest was read.
            run.read_run_manifest(folder)
            if manifest_digest(folder / run.MANIFEST) == digest:
                raise


def _open_run(folder: Path, manifest: RunManifest, digest: str) -> Trained:
    if manifest.kind == "full":
        return Trained(
            model=open_checkpoint(run.verify_weights(folder, manifest, run.CHECKPOINT), manifest),
            kind="full",
            labels=manifest.labels,
            contract=manifest.contract,
            base=manifest.base,
            adapter_files={},
            digest=digest,
            best=manifest.best,
            liveness=None,
        )
    files = run.verify_adapter(folder, manifest)
    model, liveness = open_on_base(
        folder / run.ADAPTER, manifest.base, manifest.labels, manifest.contract
    )
    return Trained(
        model=model,
        kind="lora",
        labels=manifest.labels,
        contract=manifest.contract,
        base=manifest.base,
        adapter_files={
            path: manifest.weights[path.relative_to(folder).as_posix()] for path in files
        },
        digest=digest,
        best=manifest.best,
        liveness=liveness,
    )


def open_on_base(
    adapter: Path, base: BaseIdentity, labels: tuple[str, ...], contract: PixelContract
) -> tuple[PeftModel, Liveness]:
    """An adapter and its head on the base that a manifest vouches for.

    Raises:
        AdapterError: It does not fit, or the base is not the one of the training.
        LivenessError: It is dead.
    """
    check_is_adapter(adapter)
    record = read_record(adapter)
    _check_labels(adapter, record, labels)
    opened = open_base(base.id, labels, revision=base.revision, may_download=False)
    _check_base(adapter, opened, base, record.base if record else None)
    if record is not None and record.contract != contract:
        raise PixelsChangedError(
            f"{adapter} was trained on other pixels than its manifest names: {record.contract} "
            f"instead of {contract}"
        )
    return _put_on(opened, adapter, record, contract)


def open_adapter(
    folder: Path, *, base: str | None = None, labels: Sequence[str] | None = None
) -> Trained:
    """An adapter's folder by itself, made by this program or by plain peft.

    Args:
        folder: With ``adapter_config.json`` and ``adapter_model.safetensors``.
        base: What to put it on; by default the base that our own record in it names. The one that
            ``adapter_config.json`` names is never followed.
        labels: In the order of the logits; by default those of the record or of ``labels.json``.

    Raises:
        BaseNotNamedError: There is no record, and no base was given.
        LabelsNotNamedError: Nothing says what the outputs mean.
        AdapterError: It does not fit, or the base is not the one of the training.
        LivenessError: It is dead.
    """
    check_is_adapter(folder)
    record = read_record(folder)
    if base is None and record is None:
        raise BaseNotNamedError(
            f"{folder} was not made by this program, and which base it belongs to can't be proved"
        )
    known = labels or (record.labels if record else read_labels(folder))
    if known is None:
        raise LabelsNotNamedError(f"{folder} does not say what its {_outputs(folder)} outputs mean")
    names = tuple(known)
    if len(set(names)) != len(names) or not all(name.strip() for name in names) or len(names) < 2:
        raise LabelsNotNamedError(
            f"{list(names)} are no two or more labels, each with a name of its own"
        )
    _check_labels(folder, record, names)
    if base is None and record is not None:
        opened = open_base(record.base.id, names, revision=record.base.revision, may_download=False)
    else:
        opened = open_base(str(base), names)
    _check_base(folder, opened, record.base if record else None)
    contract = record.contract if record else opened.contract
    model, liveness = _put_on(opened, folder, record, contract)
    return Trained(
        model=model,
        kind="lora",
        labels=names,
        contract=contract,
        base=BaseIdentity(
            id=opened.base_id,
            revision=opened.revision,
            fingerprint=opened.fingerprint,
            licence=opened.licence,
        ),
        adapter_files={
            path: sha256_of_file(path)
            for path in (folder / ADAPTER_CONFIG, folder / ADAPTER_WEIGHTS)
        },
        digest=f"sha256:{sha256_of_file(folder / ADAPTER_WEIGHTS)}",
        best=None,
        liveness=liveness,
        unknown=() if record else _unknown_of_a_stranger(opened),
    )


def _unknown_of_a_stranger(opened: OpenedBase) -> tuple[str, ...]:
    return (
        f"whether {opened.base_id} is the base that it was trained on: it fits, and no more can be "
        "told from the adapter's files",
        "how its clips were sampled and scaled: the base's own preprocessing is taken, with frames "
        "spread evenly over the whole clip",
        "whether its labels are in the order of its outputs: they are taken as they were given",
        "how well it does: measure it with lora-deploy evaluate",
    )


def _put_on(
    opened: OpenedBase, folder: Path, record: AdapterRecord | None, contract: PixelContract
) -> tuple[PeftModel, Liveness]:
    model = load_adapter(opened.model, folder, record, head_modules=opened.head_modules)
    return model, check_trained(model, noise(contract.pixel_values_shape))


def _check_base(folder: Path, opened: OpenedBase, *trained_on: BaseIdentity | None) -> None:
    merged: Any = getattr(opened.model.config, MERGED_MARK, None)
    if isinstance(merged, list) and adapter_fingerprint(folder / ADAPTER_WEIGHTS) in merged:
        raise MergedTwiceError(f"{opened.base_id} has the adapter {folder} in its weights already")
    for base in trained_on:
        if base is not None and base.fingerprint != opened.fingerprint:
            raise WrongBaseError(
                f"the base {opened.base_id!r} is not the one that {folder.name} was trained on: its "
                f"fingerprint is {opened.fingerprint[:19]}…, the adapter needs "
                f"{base.fingerprint[:19]}…"
            )


def _check_labels(folder: Path, record: AdapterRecord | None, labels: tuple[str, ...]) -> None:
    """Every place that names the labels must name these, in this order."""
    for where, found in (
        ("the record in its weights", record.labels if record else None),
        ("its labels.json", read_labels(folder)),
    ):
        if found is not None and found != labels:
            raise LabelOrderError(
                f"{folder} was trained for other labels, or for another order of them: {where} "
                f"says {list(found)}, here they are {list(labels)}"
            )
    outputs = _outputs(folder)
    if outputs is not None and outputs != len(labels):
        raise LabelOrderError(
            f"{folder} has a head of {outputs} outputs; here are {len(labels)} labels"
        )


def _outputs(folder: Path) -> int | None:
    """Outputs of the saved head; None where no head was saved."""
    tensors = read_adapter_tensors(folder / ADAPTER_WEIGHTS)
    return next(
        (
            len(tensor)
            for name, tensor in tensors.items()
            if name.endswith("classifier.weight") and tensor.ndim > 0
        ),
        None,
    )


def open_checkpoint(path: Path, manifest: RunManifest) -> PreTrainedModel:
    """A fully fine-tuned model from ``best_model.pth``.

    Raises:
        UnsafeCheckpointError: The file can't be read as plain tensors.
        LabelOrderError: It was trained for other labels than ``run.json`` names.
        HalfFittingCheckpointError: It does not fit the model of ``run.json``.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        state, labels = dict(content["state_dict"]), tuple(content["labels"])
    except Exception as error:
        raise UnsafeCheckpointError(
            f"{path} can't be read as plain tensors: {first_line(error)}"
        ) from error
    if labels != manifest.labels:
        raise LabelOrderError(
            f"{path} was trained for the labels {list(labels)}; {run.MANIFEST} says "
            f"{list(manifest.labels)}"
        )
    if "contract" in content and content["contract"] != manifest.contract.model_dump(mode="json"):
        raise PixelsChangedError(
            f"{path} was trained on other pixels than {run.MANIFEST} names: {content['contract']}"
        )
    model = from_config(manifest.model_config_values)
    try:
        model.load_state_dict(state, strict=True)
    except Exception as error:  # of another form, or not even tensors
        reasons = str(error).splitlines()
        raise HalfFittingCheckpointError(
            f"{path.name} does not fit the model of {run.MANIFEST}: {' '.join(reasons[1:2]).strip()}"
        ) from error
    for name, tensor in state.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise AnswersNotFiniteError(f"{path.name}: {name} holds NaN or infinity")
    model.eval()
    return model
