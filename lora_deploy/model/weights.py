"""Weights put into a classifier: none lost, none left over, none of another shape.

The head may be missing, each of its modules as a whole; parts that exist only for pre-training are
dropped by name. Any other missing or unexpected key is an error.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from transformers import (
    AutoConfig,
    AutoModelForVideoClassification,
    PretrainedConfig,
    PreTrainedModel,
)
from transformers.utils import logging as transformers_logging

from lora_deploy.errors import (
    BaseConfigError,
    CheckpointError,
    HiddenAdapterError,
    UnsafeCheckpointError,
    WeightShapeError,
    WeightsMissingError,
    WeightsUnexpectedError,
)
from lora_deploy.model.architectures import architecture_of
from lora_deploy.model.mcg_nju import first_line

_LARGEST = {
    "hidden_size": 16384,
    "intermediate_size": 65536,
    "num_hidden_layers": 512,
    "num_attention_heads": 1024,
    "num_frames": 4096,
    "frames_per_clip": 4096,
    "image_size": 8192,
    "crop_size": 8192,
    "pred_hidden_size": 16384,
    "pred_num_hidden_layers": 512,
}
"""Far above every published model."""


def load_weights(
    folder: Path, base: str, id2label: dict[int, str]
) -> tuple[PreTrainedModel, set[str]]:
    """Load the weights; returns the model and the names of its new modules."""
    refuse_hidden_adapter(folder)
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
    except Exception as error:  # each kind of file fails in a way of its own
        raise _unreadable(folder, base, id2label, error) from error
    mismatched = {entry[0]: entry for entry in report["mismatched_keys"]}
    misshapen = sorted(name for name in mismatched if not _is_of_head(model, name))
    if misshapen:
        name, found, needed = mismatched[misshapen[0]]
        raise WeightShapeError(
            f"the weights of base {base!r} don't fit its config.json: {name} is {tuple(found)}, and "
            f"the model has {tuple(needed)}"
        )
    missing = set(report["missing_keys"]) | mismatched.keys()
    _check_keys(model, base, missing, set(report["unexpected_keys"]))
    return model, {name.split(".", 1)[0] for name in missing}


def _unreadable(
    folder: Path, base: str, id2label: dict[int, str], error: Exception
) -> BaseConfigError | CheckpointError:
    """What is to blame: the configuration, weights that are not there, or what they are."""
    config = read_config(folder, base)
    set_labels(config, id2label)
    try:
        with torch.device("meta"):
            build(config)
    except Exception as reason:
        return BaseConfigError(
            f"no model can be built from the config.json of {base!r}: {first_line(reason)}"
        )
    what = f"the weights of base {base!r} can't be opened: {first_line(error)}"
    files = [*folder.glob("*.safetensors"), *folder.glob("pytorch_model*.bin")]
    return UnsafeCheckpointError(what) if files else WeightsMissingError(what)


def fill(
    config: PretrainedConfig,
    state: Mapping[str, torch.Tensor],
    base: str,
    id2label: dict[int, str],
) -> tuple[PreTrainedModel, set[str]]:
    """Put renamed tensors into a fresh model; returns it and the names of its new modules."""
    set_labels(config, id2label)
    model = build(config)
    own = model.state_dict()
    fitting = {
        name: tensor.float()
        for name, tensor in state.items()
        # for other labels, and so begun anew
        if not (name.startswith("classifier.") and name in own and own[name].shape != tensor.shape)
    }
    try:
        missing, unexpected = model.load_state_dict(fitting, strict=False)
    except RuntimeError as error:
        sizes = str(error).splitlines()[1:2] or [str(error)]
        raise WeightShapeError(
            f"the weights of base {base!r} don't fit its config.json: {sizes[0].strip()}"
        ) from None
    _check_keys(model, base, set(missing), set(unexpected))
    return model, {name.split(".", 1)[0] for name in missing}


def _check_keys(model: PreTrainedModel, base: str, missing: set[str], unexpected: set[str]) -> None:
    """Apply the rule for the head, for parts that exist only for pre-training, and for all others."""
    architecture = architecture_of(model.config.model_type)
    whole_modules = {
        head
        for head in architecture.head_modules
        if {name for name, _ in model.named_parameters() if name.startswith(f"{head}.")} <= missing
    }
    lost = sorted(
        name
        for name in missing
        if name.split(".", 1)[0] not in whole_modules and not architecture.is_uncalled(name)
    )
    unknown = sorted(name for name in unexpected if not name.startswith(architecture.dropped))
    if lost or unknown:
        kind = WeightsMissingError if lost else WeightsUnexpectedError
        raise kind(
            f"the weights of base {base!r} don't fit its config: "
            f"missing: {_some(lost)}; unexpected: {_some(unknown)}; only the head "
            f"({', '.join(architecture.head_modules)}) may be missing, each module as a whole"
        )


def _is_of_head(model: PreTrainedModel, parameter_name: str) -> bool:
    heads = architecture_of(model.config.model_type).head_modules
    return parameter_name.split(".", 1)[0] in heads


def _some(names: Iterable[str], limit: int = 8) -> str:
    names = list(names)
    shown = ", ".join(names[:limit]) or "nothing"
    return shown if len(names) <= limit else f"{shown} and {len(names) - limit} more"


def refuse_hidden_adapter(folder: Path) -> None:
    """transformers puts an adapter that lies beside the weights into the model, without a word.

    Raises:
        HiddenAdapterError: There is one.
    """
    for name in ("adapter_config.json", "adapter_model.safetensors", "adapter_model.bin"):
        if (folder / name).exists():
            raise HiddenAdapterError(f"{folder} holds weights, and {name} beside them")


def read_config(folder: Path, base: str) -> PretrainedConfig:
    """The configuration of a transformers folder; ``base`` is called so in the error.

    Raises:
        BaseConfigError: It is missing or torn.
    """
    try:
        config: PretrainedConfig = AutoConfig.from_pretrained(
            folder, trust_remote_code=False, local_files_only=True
        )
    except Exception as error:  # a stranger's values fail in ways of their own
        raise BaseConfigError(
            f"base {base!r} can't be opened: {first_line(error)}; a folder with config.json and "
            "model.safetensors in transformers format is needed"
        ) from error
    check_sizes(config, base)
    return config


def check_sizes(config: PretrainedConfig, base: str) -> None:
    """Refuse numbers that no model has, before memory is asked for.

    Raises:
        BaseConfigError: Names the field.
    """
    for field, most in _LARGEST.items():
        value = getattr(config, field, None)
        for number in value if isinstance(value, list | tuple) else [value]:
            if isinstance(number, int) and not 0 <= number <= most:
                raise BaseConfigError(
                    f"config.json of {base!r} says {field} {number}; at most {most} is allowed"
                )
    if not isinstance(config.id2label or {}, dict):
        raise BaseConfigError(f"config.json of {base!r} says id2label, and not as a mapping")


def build(config: PretrainedConfig) -> PreTrainedModel:
    """A classifier of this configuration, with random weights."""
    architecture_of(config.model_type).check(config)
    model: PreTrainedModel = AutoModelForVideoClassification.from_config(
        config, trust_remote_code=False
    )
    return model


def set_labels(config: PretrainedConfig, id2label: dict[int, str]) -> None:
    """Write labels into a configuration, both ways round."""
    config.id2label = id2label
    config.label2id = {label: index for index, label in id2label.items()}


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
