"""An adapter that was saved, put back onto its base: whole, plain, finite and unchanged, or refused by name."""

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel
from peft.tuners.lora import Linear as LoraLinear
from peft.tuners.lora import LoraLayer
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
from lora_deploy.model.adapter import wrap
from lora_deploy.model.mcg_nju import first_line

_PLAIN_OPTIONS = ("r", "lora_alpha", "lora_dropout", "target_modules", "bias", "modules_to_save")
_HARMLESS_OPTIONS = (
    "base_model_name_or_path", "revision", "inference_mode", "peft_version", "auto_mapping",
    "task_type",
)  # fmt: skip
"""Told, or read only when an adapter is made; the base is never taken from here."""

_PLAIN_BEGINNINGS = (True, False, None, "gaussian", "orthogonal")
"""Of ``init_lora_weights``: they draw A and B, and leave the base as it is."""

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
    if record is not None and (config.r, config.lora_alpha) != (record.r, record.lora_alpha):
        raise AdapterChangedError(
            f"{folder / ADAPTER_CONFIG} says r {config.r} and lora_alpha {config.lora_alpha:g}; "
            f"it was trained with r {record.r} and lora_alpha {record.lora_alpha:g}"
        )
    saved = read_adapter_tensors(folder / ADAPTER_WEIGHTS)
    _check_head(model, head_modules, saved)
    _check_rank(config.r, saved)
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
    _fill(adapted, saved, ADAPTER_WEIGHTS)
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
    """Read a plain LoRA's configuration; what would change the base or the sum is refused.

    Raises:
        AdapterConfigError: It is torn, or its numbers make no sense.
        NotPlainLoraError: It has an option that is not plain LoRA.
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
    usual = LoraConfig().to_dict()
    strange = sorted(
        key
        for key, value in values.items()
        if key not in _HARMLESS_OPTIONS and value and value != usual.get(key)
    )
    if strange:
        raise NotPlainLoraError(
            f"{path} has {strange[0]}: {values[strange[0]]!r}, which is not plain LoRA"
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


def _check_rank(r: int, saved: Mapping[str, torch.Tensor]) -> None:
    """Before anything of that rank is made."""
    for name, tensor in saved.items():
        if ".lora_A." in name and (tensor.ndim == 0 or tensor.shape[0] != r):
            raise AdapterShapeError(
                f"{ADAPTER_WEIGHTS}: {name} is {tuple(tensor.shape)}; {ADAPTER_CONFIG} says r {r}"
            )


def _fill(model: PeftModel, saved: dict[str, torch.Tensor], file_name: str) -> None:
    """Copy every tensor of an adapter file to its place, none left over and none left out."""
    places = {
        name.replace(".default.", ".").replace(".modules_to_save.", "."): parameter
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


def _first(names: Sequence[str], limit: int = 3) -> str:
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more
