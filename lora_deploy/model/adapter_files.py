"""An adapter that was saved, put back onto its base: whole, plain, finite and unchanged, or refused by name."""

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel
from peft.tuners.lora import Linear as LoraLinear
from peft.tuners.lora import LoraLayer
from peft.utils.other import get_pattern_key
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn
from transformers import PreTrainedModel

from lora_deploy.artifact.adapter_record import ADAPTER_CONFIG, ADAPTER_WEIGHTS, AdapterRecord
from lora_deploy.artifact.fingerprint import fingerprint
from lora_deploy.artifact.manifest import read_json
from lora_deploy.errors import (
    AdapterChangedError,
    AdapterConfigError,
    AdapterNotFiniteError,
    AdapterPartMissingError,
    AdapterPartUnknownError,
    AdapterShapeError,
    HeadMissingError,
    NoAdapterError,
    NotPlainLoraError,
)
from lora_deploy.model.adapter import recorded_options, wrap
from lora_deploy.model.mcg_nju import first_line

_PLAIN_OPTIONS = ("r", "lora_alpha", "lora_dropout", "target_modules", "bias", "modules_to_save")
_HARMLESS_OPTIONS = (
    "base_model_name_or_path", "revision", "inference_mode", "peft_version", "auto_mapping",
    "task_type",
)  # fmt: skip
"""Told, or read only when an adapter is made; the base is never taken from here."""

_PLAIN_BEGINNINGS = (True, False, None, "gaussian", "orthogonal")
"""Of ``init_lora_weights``: they draw A and B, and leave the base as it is."""

_KINDS = ("use_dora", "use_rslora")
_PATTERNS = ("rank_pattern", "alpha_pattern")
_MOST_IN_A_PATTERN = 4096
_LAYER_NAME = re.compile(r"\^?[\w.-]{1,200}")
"""What a pattern may name layers by: peft takes any regular expression, one without an end too."""

_ANY_MEMORY_HOLDS = 1024
"""A rank that may be tried on every layer."""

_TYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


def load_adapter(
    model: PreTrainedModel,
    folder: Path,
    record: AdapterRecord | None = None,
    *,
    head_modules: Sequence[str] = ("classifier",),
) -> PeftModel:
    """Put a saved adapter and its head onto an opened base, in evaluation mode.

    Args:
        model: Changed in place.
        folder: With ``adapter_config.json`` and ``adapter_model.safetensors``.
        record: What the adapter says of itself, if it does; rank and alpha are held against it.
        head_modules: Modules that the base does not supply, and that must so be in the file.

    Raises:
        NoAdapterError: The folder holds no adapter.
        AdapterError: It is torn, changed, not plain LoRA, or does not fit the model.
    """
    check_is_adapter(folder)
    config = read_adapter_config(folder / ADAPTER_CONFIG)
    if record is not None:
        check_unchanged(folder / ADAPTER_CONFIG, config, record)
    saved = read_adapter_tensors(folder / ADAPTER_WEIGHTS)
    _check_head(model, head_modules, saved)
    _check_ranks(config, saved)
    try:
        adapted = wrap(model, config)
    except (ValueError, TypeError, AttributeError, re.error) as error:  # no layer of these names
        raise AdapterPartUnknownError(
            f"{folder} does not fit the model: {first_line(error)}"
        ) from None
    if strange := [
        name
        for name, layer in adapted.named_modules()
        if isinstance(layer, LoraLayer) and not isinstance(layer, LoraLinear)
    ]:
        raise NotPlainLoraError(
            f"{folder} puts LoRA on {strange[0].removeprefix('base_model.model.')}, which is no "
            "linear layer"
        )
    fill(adapted, saved)
    adapted.eval()
    return adapted


def check_is_adapter(folder: Path) -> None:
    """See that both files are there.

    Raises:
        NoAdapterError: One is not.
    """
    for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS):
        if not (folder / name).is_file():
            raise NoAdapterError(f"{folder} is no adapter: it lacks {name}")


def read_adapter_config(path: Path) -> LoraConfig:
    """Read the configuration of a LoRA, rsLoRA or DoRA; what would change the base is refused.

    Raises:
        AdapterConfigError: It is torn, or its numbers make no sense.
        NotPlainLoraError: It has an option of another kind of adapter.
    """
    try:
        values = dict(read_json(path))
        given = {key: values.pop(key) for key in _PLAIN_OPTIONS}
    except (OSError, ValueError, TypeError, AttributeError, KeyError) as error:
        raise AdapterConfigError(
            f"{path} is no LoRA configuration ({type(error).__name__}: {error}); it needs "
            f"{', '.join(_PLAIN_OPTIONS)}"
        ) from None
    kind, beginning = values.pop("peft_type", "LORA"), values.pop("init_lora_weights", True)
    if kind != "LORA":
        raise NotPlainLoraError(f"{path} is of the type {kind!r}; allowed: LORA")
    if not any(beginning is plain or beginning == plain for plain in _PLAIN_BEGINNINGS):
        raise NotPlainLoraError(
            f"{path} has init_lora_weights: {beginning!r}, which changes the base or its sum"
        )
    given |= {name: _read_kind(path, name, values.pop(name, False)) for name in _KINDS}
    given |= {name: _read_pattern(path, name, values.pop(name, None)) for name in _PATTERNS}
    usual = LoraConfig().to_dict()
    strange = sorted(
        key
        for key, value in values.items()
        if key not in _HARMLESS_OPTIONS and value and value != usual.get(key)
    )
    if strange:
        raise NotPlainLoraError(
            f"{path} has {strange[0]}: {values[strange[0]]!r}; allowed: LoRA, rsLoRA, DoRA"
        )
    r, alpha, dropout = given["r"], given["lora_alpha"], given["lora_dropout"]
    if not (
        (type(r) is int and r >= 1)
        and (_is_number(alpha) and alpha > 0)
        and (_is_number(dropout) and 0 <= dropout < 1)
    ):
        raise AdapterConfigError(
            f"{path}: r is {r!r:.40}, lora_alpha is {alpha!r:.40} and lora_dropout is "
            f"{dropout!r:.40}; r must be a whole number above 0, lora_alpha a finite number above "
            "0, and lora_dropout at least 0 and below 1"
        )
    targets, heads = given["target_modules"], given["modules_to_save"]
    if not (isinstance(targets, str) or _is_texts(targets)) or not (
        heads is None or _is_texts(heads)
    ):
        raise AdapterConfigError(
            f"{path}: target_modules is {targets!r:.80} and modules_to_save is {heads!r:.80}; "
            "allowed are lists of names, and for target_modules a regular expression"
        )
    if given["bias"] != "none":
        raise NotPlainLoraError(f"{path}: bias is {given['bias']!r}; allowed: none")
    return LoraConfig(**given)


def _read_kind(path: Path, name: str, given: object) -> bool:
    if given is None:
        return False
    if not isinstance(given, bool):
        raise AdapterConfigError(f"{path}: {name} is {given!r:.40}; allowed: true, false")
    return given


def _read_pattern(path: Path, name: str, given: object) -> dict[str, float]:
    """Layers with a rank or an alpha of their own."""
    pattern = given if given is not None else {}
    if not isinstance(pattern, dict) or len(pattern) > _MOST_IN_A_PATTERN:
        raise AdapterConfigError(
            f"{path}: {name} is {given!r:.40}; allowed: at most {_MOST_IN_A_PATTERN} names of "
            "layers, each with a number"
        )
    for layer, number in pattern.items():
        sound = (
            _is_number(number) and number > 0 and (name != "rank_pattern" or type(number) is int)
        )
        if not sound or not _LAYER_NAME.fullmatch(layer):
            raise AdapterConfigError(
                f"{path}: {name} says {number!r:.40} of {layer!r:.80}; allowed: names of layers, "
                "each with a finite number above 0, a whole one for a rank"
            )
    return pattern


def check_unchanged(path: Path, config: LoraConfig, record: AdapterRecord) -> None:
    """Hold what scales the update against what training wrote down of it.

    Raises:
        AdapterChangedError: Something is another than it was; the text says what.
    """
    for name, found in recorded_options(config).items():
        trained = getattr(record, name)
        if found == trained:
            continue
        where = ""
        if isinstance(trained, dict):
            layer = min(
                one for one in trained.keys() | found.keys() if trained.get(one) != found.get(one)
            )
            found, trained, where = found.get(layer), trained.get(layer), f" for {layer}"
        raise AdapterChangedError(
            f"{path} says {name} {_said(found)}{where}; it was trained with {name} {_said(trained)}"
        )


def _said(value: object) -> str:
    if value is None:
        return "nothing of its own"
    return str(value).lower() if isinstance(value, bool) else f"{value:g}"


def _is_number(value: object) -> bool:
    try:
        return isinstance(value, int | float) and math.isfinite(value)
    except OverflowError:
        return False


def _is_texts(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def read_adapter_tensors(path: Path) -> dict[str, torch.Tensor]:
    """Every tensor of an adapter, as the file names it.

    Raises:
        AdapterConfigError: It is no safetensors file.
        AdapterNotFiniteError: One holds NaN or infinity.
    """
    try:
        saved: dict[str, torch.Tensor] = load_file(path)
    except (SafetensorError, OSError) as error:
        raise AdapterConfigError(f"{path.name} can't be read as safetensors: {error}") from None
    for name, tensor in saved.items():
        if tensor.dtype not in _TYPES:
            raise AdapterConfigError(
                f"{path.name}: {name} is of {tensor.dtype}; allowed: {', '.join(map(str, _TYPES))}"
            )
        if not torch.isfinite(tensor).all():
            raise AdapterNotFiniteError(f"{path.name}: {name} holds NaN or infinity")
    return saved


def adapter_fingerprint(path: Path) -> str:
    """Fingerprint of an adapter's tensors, to know it again inside merged weights."""
    return fingerprint(read_adapter_tensors(path))


def _is_head_of(name: str) -> bool:
    return ".lora_" not in name


def _check_head(
    model: PreTrainedModel, head_modules: Sequence[str], saved: Mapping[str, torch.Tensor]
) -> None:
    """What the base does not supply, and would be drawn at random, must have been saved."""
    lost = [
        f"{module_name}.{name}"
        for module_name, module in model.named_modules()
        if module_name.split(".", 1)[0] in head_modules
        and not isinstance(module, nn.LayerNorm)  # begins as 1 and 0, whoever makes it
        for name, _ in module.named_parameters(recurse=False)
        if f"base_model.model.{module_name}.{name}" not in saved
    ]
    if lost:
        raise HeadMissingError(
            f"{ADAPTER_WEIGHTS} lacks a part of the head that the base does not supply: "
            f"{_first(lost)}"
        )


def _check_ranks(config: LoraConfig, saved: Mapping[str, torch.Tensor]) -> None:
    """Before anything of these ranks is made."""
    found, pattern = [0], config.rank_pattern or {}
    for name, tensor in saved.items():
        layer = name.removeprefix("base_model.model.").partition(".lora_A.")[0]
        if layer == name.removeprefix("base_model.model."):
            continue
        rank = pattern.get(get_pattern_key(list(pattern), layer), config.r)
        if tensor.ndim == 0 or tensor.shape[0] != rank:
            raise AdapterShapeError(
                f"{ADAPTER_WEIGHTS}: {name} is {tuple(tensor.shape)}; {ADAPTER_CONFIG} says r {rank}"
            )
        found.append(tensor.shape[0])
    # Layers that the file lacks would be made first and told of afterwards.
    largest = max([config.r, *pattern.values()])
    if largest > max(*found, _ANY_MEMORY_HOLDS):
        raise AdapterShapeError(
            f"{ADAPTER_CONFIG} says r {largest}, and the largest in {ADAPTER_WEIGHTS} is {max(found)}"
        )


def fill(model: PeftModel, saved: Mapping[str, torch.Tensor]) -> None:
    """Copy every tensor of an adapter to its place, none left over and none left out.

    Args:
        model: With an adapter of the same kind on the same layers.
        saved: By the names that adapter files have.

    Raises:
        AdapterError: Parts are missing, unknown, or of another shape.
    """
    file_name = ADAPTER_WEIGHTS
    places = {
        _name_in_file(name): parameter
        for name, parameter in model.named_parameters()
        if ".lora_" in name or ".modules_to_save." in name
    }
    missing, unknown = sorted(places.keys() - saved.keys()), sorted(saved.keys() - places.keys())
    if heads := [name for name in missing if _is_head_of(name)]:
        raise HeadMissingError(f"{file_name} lacks a part of the head: {_first(heads)}")
    if missing:
        raise AdapterPartMissingError(
            f"{file_name} lacks {len(missing)} of {len(places)} parts: {_first(missing)}"
        )
    if unknown:
        raise AdapterPartUnknownError(
            f"{file_name} holds {len(unknown)} parts that the model has no place for: "
            f"{_first(unknown)}"
        )
    for name, place in places.items():
        if saved[name].shape != place.shape:
            raise AdapterShapeError(
                f"{file_name}: {name} is {tuple(saved[name].shape)}; the model has "
                f"{tuple(place.shape)}"
            )
        with torch.no_grad():
            place.copy_(saved[name])


def _name_in_file(name: str) -> str:
    """What peft calls a parameter where it saves it."""
    if name.endswith(".lora_magnitude_vector.default.weight"):
        return name.removesuffix(".default.weight")
    return name.replace(".default.", ".").replace(".modules_to_save.", ".")


def _first(names: Sequence[str], limit: int = 3) -> str:
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more
