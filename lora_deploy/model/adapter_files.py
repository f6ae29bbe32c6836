"""An adapter that was saved, put back onto its base: whole, plain, finite and unchanged, or refused by name."""

import json
import math
from collections.abc import Sequence
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel
from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers import PreTrainedModel

from lora_deploy.artifact.adapter_record import ADAPTER_CONFIG, ADAPTER_WEIGHTS, AdapterRecord
from lora_deploy.artifact.fingerprint import fingerprint
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

_PLAIN_OPTIONS = ("r", "lora_alpha", "lora_dropout", "target_modules", "bias", "modules_to_save")
_HARMLESS_OPTIONS = (
    "base_model_name_or_path", "revision", "inference_mode", "peft_version", "peft_type",
    "auto_mapping", "task_type",
)  # fmt: skip
"""Told, or read only when an adapter is made; the base is never taken from here."""


def load_adapter(
    model: PreTrainedModel, folder: Path, record: AdapterRecord | None = None
) -> PeftModel:
    """Put a saved adapter and its head onto an opened base, in evaluation mode.

    Args:
        model: Changed in place.
        folder: With ``adapter_config.json`` and ``adapter_model.safetensors``.
        record: What the adapter says of itself, if it does; rank and alpha are held against it.

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
    if not config.modules_to_save or not any(_is_head_of(name) for name in saved):
        raise HeadMissingError(f"{folder} holds LoRA alone, and no head for its labels")
    try:
        adapted = wrap(model, config)
    except ValueError as error:  # peft finds no layer of these names
        raise AdapterPartUnknownError(
            f"{folder} does not fit the model: {str(error).splitlines()[0]}"
        ) from None
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
        values = json.loads(path.read_text(encoding="utf-8"))
        given = {key: values.pop(key) for key in _PLAIN_OPTIONS}
    except (OSError, ValueError, AttributeError, KeyError) as error:
        raise AdapterConfigError(
            f"{path} is no LoRA configuration ({type(error).__name__}: {error}); it needs "
            f"{', '.join(_PLAIN_OPTIONS)}"
        ) from None
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
    if not (_is_number(r) and r >= 1 and _is_number(alpha) and alpha > 0 and _is_number(dropout)):
        raise AdapterConfigError(
            f"{path}: r is {r}, lora_alpha is {alpha} and lora_dropout is {dropout}; r and "
            "lora_alpha must be finite numbers above 0"
        )
    if given["bias"] != "none":
        raise NotPlainLoraError(f"{path}: bias is {given['bias']!r}; allowed: none")
    return LoraConfig(**given)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


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
        if not torch.isfinite(tensor).all():
            raise AdapterNotFiniteError(f"{path.name}: {name} holds NaN or infinity")
    return saved


def adapter_fingerprint(path: Path) -> str:
    """Fingerprint of an adapter's tensors, to know it again inside merged weights."""
    return fingerprint(read_adapter_tensors(path))


def _is_head_of(name: str) -> bool:
    return ".lora_" not in name


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
