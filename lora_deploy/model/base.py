"""Open a base model as a classifier of our labels, and know which part of it is new.

The head is every parameter that the base does not supply: the classifier, and a fresh
``fc_norm`` where the base is a masked autoencoder. Parts that exist only for pre-training are
dropped by name. Any other missing or unexpected key is an error.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled
from transformers import (
    AutoConfig,
    AutoModelForVideoClassification,
    PretrainedConfig,
    PreTrainedModel,
)
from transformers.utils import logging as transformers_logging

from lora_deploy.artifact.fingerprint import fingerprint
from lora_deploy.clips.contract import PixelContract
from lora_deploy.clips.transforms import contract_from_processor
from lora_deploy.errors import CheckpointError, ModelError
from lora_deploy.model import mcg_nju
from lora_deploy.model.embedded import EMBEDDED_BASES, embedded_base

PRETRAINING_ONLY = ("decoder.", "encoder_to_decoder.", "mask_token")
"""First words of the parameters that a masked autoencoder has and a classifier does not."""

HEAD_MODULES = ("classifier", "fc_norm")
"""Modules of a classifier that a base may leave to be learned."""

SUPPORTED_ARCHITECTURES = ("videomae",)

_HUB_ID = re.compile(r"^[\w.-]+/[\w.-]+$")


@dataclass(frozen=True)
class OpenedBase:
    """A base as a classifier: pretrained below, new at the head."""

    model: PreTrainedModel
    """In evaluation mode, float32, on the CPU."""
    base_id: str
    """As the user gave it; never a path of this installation for an embedded base."""
    revision: str | None
    """The commit of a hub id that was really opened."""
    licence: str | None
    """What the base's model card states."""
    contract: PixelContract
    """From the base's preprocessor; sampling is the default."""
    head_modules: tuple[str, ...]
    """Modules whose parameters the base did not supply."""
    fingerprint: str
    """Of the base's own tensors, the head left out."""


def open_base(
    base: str,
    labels: Sequence[str],
    *,
    revision: str | None = None,
    random_weights: bool = False,
    seed: int = 0,
    may_download: bool = True,
) -> OpenedBase:
    """Open a base as a classifier of ``labels``.

    Args:
        base: Name of an embedded base, a transformers folder, a checkpoint of the original code
            (``.pth``), or a hub id.
        labels: In the order of the logits.
        revision: Commit or tag of a hub id.
        random_weights: Keep the architecture and forget what the base has learned.
        seed: Of the new parameters.
        may_download: Whether a hub may be asked; False where somebody else's file names the base.

    Raises:
        ModelError: It can't be found or is of an architecture that is not supported.
        CheckpointError: Its weights lack something, or hold something unknown.
    """
    place, commit = _locate(base, revision, may_download=may_download)
    state = mcg_nju.read_state(place) if place.is_file() else None
    folder = place if state is None else place.parent
    config = _read_config(folder, base) if state is None else mcg_nju.read_config(place, state)
    _check_architecture(config, base)
    trained_for = config_labels(config)
    id2label = dict(enumerate(labels))
    torch.manual_seed(seed)
    if random_weights:
        _set_labels(config, id2label)
        model = AutoModelForVideoClassification.from_config(config, trust_remote_code=False)
        new = {"classifier"}
    else:
        if state is None:
            model, new = _load(folder, base, id2label)
        else:
            model, new = _fill(config, state, base, id2label)
        if trained_for != tuple(labels) or "classifier" in new:
            _restart_classifier(model, seed)
            new.add("classifier")
    # The classifier is trained even where a base with the very same labels supplies one.
    head_modules = tuple(name for name in HEAD_MODULES if name in new | {"classifier"})
    model.eval()
    return OpenedBase(
        model=model,
        base_id=base,
        revision=commit,
        licence=_licence(folder) if state is None else None,
        contract=read_contract(folder, config),
        head_modules=head_modules,
        fingerprint=base_fingerprint(model, head_modules),
    )


def from_config(config: dict[str, Any]) -> PreTrainedModel:
    """A model of this configuration with fresh weights, to load a full checkpoint into.

    Raises:
        ModelError: It is of an architecture that is not supported, or can't be built.
    """
    values = {key: value for key, value in config.items() if key != "auto_map"}
    model_type = values.pop("model_type", None)
    if model_type not in SUPPORTED_ARCHITECTURES:
        raise ModelError(
            f"the model is a {model_type}; supported: {', '.join(SUPPORTED_ARCHITECTURES)}"
        )
    try:
        model: PreTrainedModel = AutoModelForVideoClassification.from_config(
            AutoConfig.for_model(model_type, **values), trust_remote_code=False
        )
    except (TypeError, ValueError, ZeroDivisionError) as error:
        raise ModelError(f"no model can be built from its configuration: {error}") from error
    return model


def config_labels(config: PretrainedConfig) -> tuple[str, ...]:
    """The labels that a transformers configuration names, in the order of the logits."""
    id2label = {int(index): label for index, label in (config.id2label or {}).items()}
    return tuple(id2label[index] for index in sorted(id2label))


def base_fingerprint(model: PreTrainedModel, head_modules: Sequence[str]) -> str:
    """Fingerprint of the parameters that came from the base."""
    return fingerprint(
        {
            name: tensor
            for name, tensor in model.state_dict().items()
            if name.split(".", 1)[0] not in head_modules
        }
    )


def read_contract(folder: Path, config: PretrainedConfig) -> PixelContract:
    """The pixel contract that a transformers folder was trained with.

    Raises:
        ModelError: Its preprocessor says something that can't be obeyed.
    """
    frames = int(config.num_frames)
    path = folder / "preprocessor_config.json"
    if path.is_file():
        return contract_from_processor(json.loads(path.read_text(encoding="utf-8")), frames)
    # A folder without one gets what VideoMAE's own preprocessor does by default.
    side = int(config.image_size)
    return PixelContract(frames=frames, short_side=side, crop_height=side, crop_width=side)


def _locate(base: str, revision: str | None, *, may_download: bool) -> tuple[Path, str | None]:
    """The folder of a base, and the commit if it came from a hub."""
    if base in EMBEDDED_BASES:
        return embedded_base(base), None
    if Path(base).is_dir():
        return Path(base), None
    if Path(base).is_file():
        if Path(base).suffix in mcg_nju.ENDINGS:
            return Path(base), None
        raise ModelError(
            f"base {base!r} is a file; allowed is a checkpoint of the original VideoMAE code "
            f"({', '.join(mcg_nju.ENDINGS)}), or a folder with config.json and model.safetensors"
        )
    if _HUB_ID.match(base) and not base.startswith("."):
        folder = _snapshot(base, revision, may_download=may_download)
        return folder, folder.name
    raise ModelError(
        f"there is no base called {base!r}; allowed: an embedded base "
        f"({', '.join(EMBEDDED_BASES)}), an existing folder in transformers format, "
        "a .pth of the original VideoMAE code, or a hub id such as MCG-NJU/videomae-base"
    )


def _snapshot(hub_id: str, revision: str | None, *, may_download: bool) -> Path:
    """A base in the hub's own cache, fetched if need be; the folder is named after the commit."""
    patterns = [["config.json", "preprocessor_config.json", "README.md", "*.safetensors*"]]
    patterns.append([*patterns[0], "pytorch_model*.bin*"])  # where there are no safetensors
    try:
        for allowed in patterns:
            folder = Path(
                snapshot_download(
                    hub_id,
                    revision=revision,
                    allow_patterns=allowed,
                    local_files_only=not may_download,
                )
            )
            if any(folder.glob("*.safetensors")):
                break
    except (HfHubHTTPError, OfflineModeIsEnabled, OSError, ValueError) as error:
        what = f"base {hub_id!r} is no folder here, and not in this computer's hub cache"
        if not may_download:
            at = f" --revision {revision}" if revision else ""
            raise ModelError(
                f"{what}; fetch it first: hf download {hub_id}{at}, or start from the directory "
                "in which that folder lies"
            ) from error
        raise ModelError(
            f"{what}, and can't be fetched ({type(error).__name__}); check the name, the revision "
            "and the connection, or give a folder with config.json and model.safetensors"
        ) from error
    return folder


def _read_config(folder: Path, base: str) -> PretrainedConfig:
    try:
        config: PretrainedConfig = AutoConfig.from_pretrained(
            folder, trust_remote_code=False, local_files_only=True
        )
    except (OSError, ValueError, KeyError) as error:
        first_line = str(error).strip().splitlines()[0]
        raise ModelError(
            f"base {base!r} can't be opened: {first_line}; a folder with config.json and "
            "model.safetensors in transformers format is needed"
        ) from error
    return config


def _check_architecture(config: PretrainedConfig, base: str) -> None:
    if config.model_type not in SUPPORTED_ARCHITECTURES:
        raise ModelError(
            f"base {base!r} is a {config.model_type}; supported: {', '.join(SUPPORTED_ARCHITECTURES)}"
        )


def _set_labels(config: PretrainedConfig, id2label: dict[int, str]) -> None:
    config.id2label = id2label
    config.label2id = {label: index for index, label in id2label.items()}


def _load(folder: Path, base: str, id2label: dict[int, str]) -> tuple[PreTrainedModel, set[str]]:
    """Load the weights; returns the model and the names of its new modules."""
    try:
        with quiet_loading():
            model, report = AutoModelForVideoClassification.from_pretrained(
                folder,
                local_files_only=True,
                trust_remote_code=False,
                id2label=id2label,
                label2id={label: index for index, label in id2label.items()},
                ignore_mismatched_sizes=True,
                output_loading_info=True,
                dtype=torch.float32,
            )
    except (OSError, ValueError, RuntimeError) as error:
        first_line = str(error).strip().splitlines()[0]
        raise CheckpointError(
            f"the weights of base {base!r} can't be opened: {first_line}"
        ) from error
    mismatched = {entry[0] for entry in report["mismatched_keys"]}
    missing = set(report["missing_keys"]) | mismatched
    _check_keys(
        base, missing, set(report["unexpected_keys"]), mean_pooling=model.config.use_mean_pooling
    )
    return model, {name.split(".", 1)[0] for name in missing}


def _fill(
    config: PretrainedConfig,
    state: Mapping[str, torch.Tensor],
    base: str,
    id2label: dict[int, str],
) -> tuple[PreTrainedModel, set[str]]:
    """Put renamed tensors into a fresh model; returns it and the names of its new modules."""
    _set_labels(config, id2label)
    model: PreTrainedModel = AutoModelForVideoClassification.from_config(
        config, trust_remote_code=False
    )
    own = model.state_dict()
    fitting = {
        name: tensor.float()
        for name, tensor in state.items()
        # for other labels, and so begun anew
        if not (name.startswith("classifier.") and own[name].shape != tensor.shape)
    }
    try:
        missing, unexpected = model.load_state_dict(fitting, strict=False)
    except RuntimeError as error:
        sizes = str(error).splitlines()[1:2] or [str(error)]
        raise CheckpointError(
            f"the weights of base {base!r} don't fit its config.json: {sizes[0].strip()}"
        ) from None
    _check_keys(base, set(missing), set(unexpected), mean_pooling=config.use_mean_pooling)
    return model, {name.split(".", 1)[0] for name in missing}


@contextmanager
def quiet_loading() -> Iterator[None]:
    """Keep transformers from reporting on keys (we judge them) and from drawing bars on stderr."""
    verbosity = transformers_logging.get_verbosity()
    bars = transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if bars:
            transformers_logging.enable_progress_bar()


def _check_keys(base: str, missing: set[str], unexpected: set[str], *, mean_pooling: bool) -> None:
    """Apply the rule for the head and for parts that exist only for pre-training."""
    lost = sorted(name for name in missing if name.split(".", 1)[0] not in HEAD_MODULES)
    # A masked autoencoder norms its last tokens; a classifier with mean pooling uses fc_norm instead.
    dropped = (*PRETRAINING_ONLY, *(("videomae.layernorm.",) if mean_pooling else ()))
    unknown = sorted(name for name in unexpected if not name.startswith(dropped))
    if lost or unknown:
        raise CheckpointError(
            f"the weights of base {base!r} don't fit its config: "
            f"missing: {_some(lost)}; unexpected: {_some(unknown)}; only the head "
            f"({', '.join(HEAD_MODULES)}) may be missing"
        )


def _some(names: Iterable[str], limit: int = 8) -> str:
    names = list(names)
    shown = ", ".join(names[:limit]) or "nothing"
    return shown if len(names) <= limit else f"{shown} and {len(names) - limit} more"


def _restart_classifier(model: PreTrainedModel, seed: int) -> None:
    """Forget a classifier that was learned for other labels of the same number."""
    classifier = model.get_submodule("classifier")
    if not isinstance(classifier, torch.nn.Linear):
        raise TypeError(f"the classifier is a {type(classifier).__name__}, not a linear layer")
    generator = torch.Generator().manual_seed(seed)
    torch.nn.init.trunc_normal_(classifier.weight, std=0.02, generator=generator)
    torch.nn.init.zeros_(classifier.bias)


def _licence(folder: Path) -> str | None:
    """The ``license:`` line of the front matter of a base's model card."""
    card = folder / "README.md"
    if not card.is_file():
        return None
    match = re.search(
        r"^license:\s*(\S+)\s*$", card.read_text(encoding="utf-8")[:4000], re.MULTILINE
    )
    return match.group(1) if match else None
