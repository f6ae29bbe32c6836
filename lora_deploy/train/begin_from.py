"""An adapter that was trained before, as the beginning of another training on the same base, with other classes too."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from peft import PeftModel

from lora_deploy.artifact import run
from lora_deploy.artifact.adapter_record import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    AdapterRecord,
    read_record,
)
from lora_deploy.artifact.manifest import sha256_of_file
from lora_deploy.clips.contract import PixelContract
from lora_deploy.errors import BeginningMismatchError, WrongBaseError
from lora_deploy.model.adapter import recorded_options
from lora_deploy.model.adapter_files import (
    check_is_adapter,
    check_unchanged,
    fill,
    read_adapter_config,
    read_adapter_tensors,
)
from lora_deploy.model.base import OpenedBase
from lora_deploy.model.liveness import check_trained, noise

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Beginning:
    """A sound adapter to begin with."""

    folder: Path
    """Of the adapter."""
    record: AdapterRecord
    digest: str
    """SHA-256 of its weights."""


def read_beginning(source: Path) -> Beginning:
    """What to begin with.

    Args:
        source: A RUN with an adapter, or the folder of an adapter that this program wrote.

    Raises:
        BeginningMismatchError: It was fine-tuned as a whole, or another program wrote it.
        ArtifactError: A part of the RUN is missing or changed.
        AdapterError: There is no sound adapter.
    """
    folder = source
    if run.is_run(source):
        manifest = run.read_run_manifest(source)
        if manifest.kind != "lora":
            raise BeginningMismatchError(f"{source} was fine-tuned as a whole, and has no adapter")
        run.verify_adapter(source, manifest)
        folder = source / run.ADAPTER
    check_is_adapter(folder)
    record = read_record(folder)
    if record is None:
        raise BeginningMismatchError(
            f"{folder} was not made by this program, so its base and labels can't be proved"
        )
    return Beginning(folder, record, sha256_of_file(folder / ADAPTER_WEIGHTS))


def begin_from(
    model: PeftModel,
    beginning: Beginning,
    base: OpenedBase,
    *,
    labels: tuple[str, ...],
    contract: PixelContract,
) -> None:
    """Give a fresh adapter the values of the earlier one, and the head the rows of known labels.

    Rows of new labels stay as they were drawn. What is kept, new and left behind is told.

    Args:
        model: With a fresh adapter; changed in place.
        beginning: As `read_beginning` gives it.
        base: What the model stands on.
        labels: Of the training that begins, in the order of the logits.
        contract: Of that training's clips.

    Raises:
        WrongBaseError: The earlier adapter was trained on another base.
        BeginningMismatchError: It is of another kind or rank, or on other layers, than the settings
            ask for; the text names the settings to change.
        AdapterError: Its files are damaged.
        LivenessError: It is dead.
    """
    record = beginning.record
    if record.base.fingerprint != base.fingerprint:
        raise WrongBaseError(
            f"{beginning.folder} was trained on {record.base.id}, fingerprint "
            f"{record.base.fingerprint[:19]}…; here the base is {base.base_id}, fingerprint "
            f"{base.fingerprint[:19]}…"
        )
    _check_same_kind(model, beginning)
    saved = read_adapter_tensors(beginning.folder / ADAPTER_WEIGHTS)
    fill(model, {**saved, **_head_rows(model, saved, record.labels, labels)})
    model.eval()
    check_trained(model, noise(contract.pixel_values_shape))
    _tell(beginning, labels)
    if record.contract != contract:
        logger.warning(
            "%s saw its clips otherwise (%s) than they are seen now (%s)",
            beginning.folder, record.contract, contract,
        )  # fmt: skip


def _check_same_kind(model: PeftModel, beginning: Beginning) -> None:
    """The same layers, ranks, alphas and kind; what differs is named with its setting."""
    earlier = read_adapter_config(beginning.folder / ADAPTER_CONFIG)
    check_unchanged(beginning.folder / ADAPTER_CONFIG, earlier, beginning.record)
    now, then = (recorded_options(config) for config in (model.active_peft_config, earlier))
    differ = [
        f"model.lora.{name} is {now[name]} and was {then[name]}"
        for name in now
        if now[name] != then[name]
    ]
    targets, before = (
        set(config.target_modules or ()) for config in (model.active_peft_config, earlier)
    )
    if targets != before:
        differ.append(
            f"target_modules and top_layers name {len(targets)} layers and named {len(before)}"
        )
    if differ:
        raise BeginningMismatchError(
            f"the adapter of {beginning.folder} is another than the settings ask for: "
            f"{'; '.join(differ)}"
        )


def _head_rows(
    model: PeftModel,
    saved: Mapping[str, torch.Tensor],
    before: tuple[str, ...],
    labels: tuple[str, ...],
) -> dict[str, torch.Tensor]:
    """Weight and bias of the classifier: the rows of known labels, and fresh ones for the others."""
    rows = {}
    for part in ("weight", "bias"):
        name = f"base_model.model.classifier.{part}"
        fresh = model.get_parameter(f"base_model.model.classifier.modules_to_save.default.{part}")
        row = fresh.detach().clone()
        for index, label in enumerate(labels):
            if name in saved and label in before:
                row[index] = saved[name][before.index(label)]
        rows[name] = row
    return rows


def _tell(beginning: Beginning, labels: tuple[str, ...]) -> None:
    before = beginning.record.labels
    parts = {
        "kept": [label for label in labels if label in before],
        "new": [label for label in labels if label not in before],
        "left behind": [label for label in before if label not in labels],
    }
    said = "; ".join(
        f"{len(names)} {how} ({', '.join(names)})" for how, names in parts.items() if names
    )
    logger.info("beginning with the adapter of %s; rows of the head: %s", beginning.folder, said)
