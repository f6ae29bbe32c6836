"""Open a base model as a classifier of our labels, and know which part of it is new.

The head is every parameter that the base does not supply: the classifier, a fresh ``fc_norm``
where the base is a masked autoencoder, the attentive pooler where it is a V-JEPA 2 encoder.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from transformers import AutoConfig, PretrainedConfig, PreTrainedModel

from lora_deploy.artifact.fingerprint import fingerprint
from lora_deploy.clips.contract import PixelContract
from lora_deploy.clips.processor import contract_from_processor, read_processor, usual_contract
from lora_deploy.errors import BaseConfigError, ModelError
from lora_deploy.known_bad import refuse_known_bad
from lora_deploy.model import mcg_nju
from lora_deploy.model.architectures import Architecture, architecture_of
from lora_deploy.model.locate import locate
from lora_deploy.model.mcg_nju import first_line
from lora_deploy.model.weights import (
    build,
    check_sizes,
    fill,
    load_weights,
    read_config,
    set_labels,
)


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
        may_download: False forbids asking a hub: for work offline, and where somebody else's
            file names the base.

    Raises:
        ModelError: It can't be found, is of an architecture that is not supported, or an installed
            library is known to open it wrongly.
        CheckpointError: Its weights lack something, or hold something unknown.
    """
    refuse_known_bad()
    place, commit = locate(base, revision, may_download=may_download)
    state = mcg_nju.read_state(place) if place.is_file() else None
    folder = place if state is None else place.parent
    config = read_config(folder, base) if state is None else mcg_nju.read_config(place, state)
    architecture = architecture_of(config.model_type, what=f"base {base!r}")
    architecture.check(config)
    contract = read_contract(folder, config)
    trained_for = config_labels(config)
    id2label = dict(enumerate(labels))
    torch.manual_seed(seed)
    if random_weights:
        set_labels(config, id2label)
        model = build(config)
        new = {"classifier", "pooler"}  # what has to be learned before it says anything
    else:
        if state is None:
            model, new = load_weights(folder, base, id2label)
        else:
            model, new = fill(config, state, base, id2label)
        if trained_for != tuple(labels) or "classifier" in new:
            _restart_classifier(model, seed)
            new.add("classifier")
    # The classifier is trained even where a base with the very same labels supplies one.
    head_modules = tuple(name for name in architecture.head_modules if name in new | {"classifier"})
    _settle(model, architecture)
    return OpenedBase(
        model=model,
        base_id=base,
        revision=commit,
        licence=_licence(folder) if state is None else None,
        contract=contract,
        head_modules=head_modules,
        fingerprint=base_fingerprint(model, head_modules),
    )


def from_config(config: dict[str, Any]) -> PreTrainedModel:
    """A model of this configuration with fresh weights, to load a full checkpoint into.

    Raises:
        ModelError: It is of an architecture that is not supported, or can't be built.
    """
    refuse_known_bad()
    values = {key: value for key, value in config.items() if key != "auto_map"}
    model_type = values.pop("model_type", None)
    architecture = architecture_of(model_type)
    try:
        ready = AutoConfig.for_model(model_type, **values)
        check_sizes(ready, "the RUN")
        model = build(ready)
    except ModelError:
        raise
    except Exception as error:  # a stranger's values fail in ways of their own
        raise BaseConfigError(
            f"no model can be built from its configuration: {first_line(error)}"
        ) from error
    _settle(model, architecture)
    return model


def _settle(model: PreTrainedModel, architecture: Architecture) -> None:
    """Evaluation mode, and nothing is trained or counted as learning that no answer depends on."""
    model.eval()
    for name, parameter in model.named_parameters():
        if architecture.is_uncalled(name):
            parameter.requires_grad = False
    if not architecture.loss_counts_clips:
        # Read by transformers' Trainer: the loss is a mean, to be divided by the number of batches
        # that are accumulated. Where nobody says so, their gradients are summed.
        model.accepts_loss_kwargs = False  # type: ignore[assignment]


def config_labels(config: PretrainedConfig) -> tuple[str, ...]:
    """The labels that a transformers configuration names, in the order of the logits."""
    id2label = {int(index): label for index, label in (config.id2label or {}).items()}
    return tuple(id2label[index] for index in sorted(id2label))


def base_fingerprint(model: PreTrainedModel, head_modules: Sequence[str]) -> str:
    """Fingerprint of the parameters that came from the base and that answers depend on."""
    architecture = architecture_of(model.config.model_type)
    return fingerprint(
        {
            name: tensor
            for name, tensor in model.state_dict().items()
            if name.split(".", 1)[0] not in head_modules and not architecture.is_uncalled(name)
        }
    )


def read_contract(folder: Path, config: PretrainedConfig) -> PixelContract:
    """The pixel contract that a transformers folder was trained with.

    Raises:
        BaseConfigError: Its preprocessor says something that can't be obeyed, or crops to another
            size than the model takes.
    """
    architecture = architecture_of(config.model_type)
    try:
        frames, (height, width) = architecture.frames(config), architecture.picture(config)
    except (TypeError, ValueError) as error:
        raise BaseConfigError(
            f"{folder}: config.json has no usable {architecture.frames_field} and "
            f"{architecture.picture_field}: {error}"
        ) from None
    processor = read_processor(folder, config.model_type)
    try:
        if processor is None:
            return usual_contract(config.model_type, frames, height, width)
        contract = contract_from_processor(processor, frames, model_type=config.model_type)
    except ValidationError as error:
        problem = error.errors()[0]
        raise BaseConfigError(
            f"{folder}: {'.'.join(map(str, problem['loc']))} of its clips is {problem['input']!r}: "
            f"{problem['msg']}"
        ) from None
    # Some of these models answer all the same, with the positions of their tokens mixed up.
    if (contract.crop_height, contract.crop_width) != (height, width):
        raise BaseConfigError(
            f"{folder}: the preprocessor crops to {contract.crop_height}×{contract.crop_width} "
            f"pixels, and the model of config.json takes {height}×{width}"
        )
    return contract


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
        r"^license:\s*(\S+)\s*$",
        card.read_text(encoding="utf-8", errors="replace")[:4000],
        re.MULTILINE,
    )
    return match.group(1) if match else None
