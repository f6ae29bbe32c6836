"""What target words would hit on a base, and what LoRA would cost there: nothing is attached or trained."""

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from lora_deploy.artifact import bundle, run
from lora_deploy.artifact.bundle import BundleManifest
from lora_deploy.artifact.run import RunManifest
from lora_deploy.clips.contract import PixelContract
from lora_deploy.config import LoraSettings
from lora_deploy.model.architectures import architecture_of
from lora_deploy.model.base import OpenedBase, open_base
from lora_deploy.model.embedded import EMBEDDED_BASES
from lora_deploy.model.targets import ResolvedTargets, find, fused_note

logger = logging.getLogger(__name__)

_STAND_IN_LABELS = ("one", "other")
"""For a base whose labels nobody has named yet: as few as a training takes."""


@dataclass(frozen=True)
class Reach:
    """What one word, or several together, would put under LoRA."""

    layers: tuple[str, ...]
    """Full names, in the order of the model; a layer that two words name stands here once."""
    kinds: str
    """Each kind of layer with its count, as training prints it."""
    lora_parameters: int


@dataclass(frozen=True)
class Survey:
    """A base, and what words would hit on it."""

    base_id: str
    """As the user gave it, or as the RUN names it."""
    revision: str | None
    """The commit of a hub id."""
    architecture: str
    licence: str | None
    """What the base's model card states."""
    contract: PixelContract
    hidden_layers: int
    base_parameters: int
    """Supplied by the base: the head is not among them."""
    head_parameters: int
    """Of the head that a training would begin, for this many ``labels``."""
    head_modules: tuple[str, ...]
    labels: int
    """A RUN's own number; 2 for a base."""
    r: int
    """The rank that LoRA parameters are counted at."""
    words: dict[str, Reach]
    """Each word by itself."""
    together: Reach | None
    """All words that were given; None where none was, and ``words`` are all that are known."""

    @property
    def total_parameters(self) -> int:
        """Base and head, without LoRA."""
        return self.base_parameters + self.head_parameters

    def as_dict(self) -> dict[str, Any]:
        """Plain types, for ``--json``."""
        return {
            **asdict(self),
            "contract": self.contract.model_dump(mode="json"),
            "total_parameters": self.total_parameters,
        }


def survey(model: str, *, targets: Sequence[str] = (), r: int = LoraSettings().r) -> Survey:
    """Open a base from this computer and see what words would hit on it.

    Args:
        model: Embedded base, transformers folder, hub id in the local cache, or a RUN or
            BUNDLE folder, whose base is then opened. Nothing is downloaded.
        targets: As ``target_modules`` takes them; every known word by default.
        r: Rank, as ``model.lora.r``.

    Raises:
        ModelError: There is no such base here, or it is of an unknown architecture.
        TargetError: A word names no layer.
        ArtifactError: It is a RUN or a BUNDLE that is torn or too new.
    """
    opened, labels = _open(model)
    base = opened.model
    architecture = architecture_of(base.config.model_type)
    if said := fused_note(architecture, targets):
        logger.warning("%s", said)
    sizes = {name: parameter.numel() for name, parameter in base.named_parameters()}
    head = sum(size for name, size in sizes.items() if name.split(".", 1)[0] in opened.head_modules)
    return Survey(
        base_id=opened.base_id,
        revision=opened.revision,
        architecture=base.config.model_type,
        licence=opened.licence,
        contract=opened.contract,
        hidden_layers=int(base.config.num_hidden_layers),
        base_parameters=sum(sizes.values()) - head,
        head_parameters=head,
        head_modules=opened.head_modules,
        labels=labels,
        r=r,
        words={word: reach(base, find(base, [word]), r) for word in targets or architecture.words},
        together=reach(base, find(base, targets), r) if targets else None,
    )


def _open(model: str) -> tuple[OpenedBase, int]:
    """The base that ``model`` is or stands on, and the number of labels of its classifier."""
    folder = Path(model)
    # An embedded name wins over a folder of that name here, as it does wherever a base is opened.
    manifest: RunManifest | BundleManifest
    if model not in EMBEDDED_BASES and bundle.is_bundle(folder):
        manifest = bundle.read_bundle_manifest(folder)
    elif model not in EMBEDDED_BASES and run.is_run(folder):
        manifest = run.read_run_manifest(folder)
    else:
        return open_base(model, _STAND_IN_LABELS, may_download=False), len(_STAND_IN_LABELS)
    identity = manifest.base
    opened = open_base(identity.id, manifest.labels, revision=identity.revision, may_download=False)
    return opened, len(manifest.labels)


def reach(model: PreTrainedModel, found: ResolvedTargets, r: int) -> Reach:
    """What LoRA of rank ``r`` on these layers would put there; nothing is attached."""
    lora_parameters = 0
    for name in found.layers:
        out_features, in_features = model.get_parameter(f"{name}.weight").shape
        lora_parameters += r * (in_features + out_features)  # of A [r, in] and B [out, r]
    return Reach(layers=found.layers, kinds=str(found), lora_parameters=lora_parameters)
