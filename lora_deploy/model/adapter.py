"""The LoRA adapter: attach it, count it, switch its update off, save it, load it."""

import json
import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers import PreTrainedModel

from lora_deploy.artifact.adapter_record import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    AdapterRecord,
    write_record,
)
from lora_deploy.artifact.fingerprint import fingerprint
from lora_deploy.config import LoraSettings
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

_PLAIN_OPTIONS = ("r", "lora_alpha", "lora_dropout", "target_modules", "bias", "modules_to_save")
_HARMLESS_OPTIONS = (
    "base_model_name_or_path", "revision", "inference_mode", "peft_version", "peft_type",
    "auto_mapping", "task_type",
)  # fmt: skip
"""Told, or read only when an adapter is made; the base is never taken from here."""


@dataclass(frozen=True)
class ParameterCounts:
    """Numbers of parameters, as counted on the model itself."""

    total: int
    """All parameters of the model that will be shipped, adapter included."""
    trainable: int
    lora: int
    head: int

    @property
    def trainable_percent(self) -> float:
        """Trainable parameters in percent of the total."""
        return 100 * self.trainable / self.total

    def as_dict(self) -> dict[str, int]:
        """The four counts by name."""
        return asdict(self)


def attach(
    model: PreTrainedModel,
    lora: LoraSettings,
    *,
    layers: Sequence[str],
    head_modules: Sequence[str],
    base_id: str,
    revision: str | None,
) -> PeftModel:
    """Wrap layers of a classifier with LoRA; the head is trained and saved along with it.

    Args:
        model: Changed in place.
        lora: Rank, alpha and dropout.
        layers: Full names, as `targets.resolve` gives them.
        head_modules: Modules that the base does not supply.
        base_id: What the adapter will name as its base.
        revision: Commit of a hub id.
    """
    config = LoraConfig(
        r=lora.r,
        lora_alpha=lora.lora_alpha,
        lora_dropout=lora.lora_dropout,
        bias=lora.bias,
        target_modules=list(layers),
        modules_to_save=list(head_modules),
    )
    adapted = _wrap(model, config)
    # peft takes these from the model's own path, which may lie inside this installation.
    config.base_model_name_or_path = base_id
    config.revision = revision
    return adapted


def _wrap(model: PreTrainedModel, config: LoraConfig) -> PeftModel:
    config.base_model_name_or_path = None
    with warnings.catch_warnings():
        # peft 0.21 asks transformers 5.2x for this by an old name
        warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated")
        adapted = get_peft_model(model, config)
    if not isinstance(adapted, PeftModel):
        raise TypeError(f"peft returned a {type(adapted).__name__}")
    return adapted


def count(
    model: torch.nn.Module, head_modules: Sequence[str] = ("classifier", "fc_norm")
) -> ParameterCounts:
    """Count parameters; the untrained copy of the head that peft keeps aside is not counted."""
    total = trainable = lora = head = 0
    for name, parameter in model.named_parameters():
        if ".original_module." in name:
            continue
        total += parameter.numel()
        if parameter.requires_grad:
            trainable += parameter.numel()
            lora += parameter.numel() if ".lora_" in name else 0
            head += parameter.numel() if _is_head(name, head_modules) else 0
    return ParameterCounts(total=total, trainable=trainable, lora=lora, head=head)


def _is_head(name: str, head_modules: Sequence[str]) -> bool:
    return ".modules_to_save." in name or name.split(".", 1)[0] in head_modules


@contextmanager
def delta_off(model: torch.nn.Module) -> Iterator[None]:
    """Switch LoRA's update off and keep the trained head.

    peft's own ``disable_adapter`` swaps the untrained head back in as well, which makes a dead
    adapter look alive.
    """
    layers = [module for module in model.modules() if isinstance(module, LoraLayer)]
    scalings = [dict(layer.scaling) for layer in layers]
    for layer in layers:
        layer.scaling = dict.fromkeys(layer.scaling, 0.0)
    try:
        yield
    finally:
        for layer, scaling in zip(layers, scalings, strict=True):
            layer.scaling = scaling


def save_adapter(model: PeftModel, folder: Path, record: AdapterRecord) -> None:
    """Write ``adapter_config.json`` and ``adapter_model.safetensors``, as plain peft opens them.

    Args:
        model: With its adapter.
        folder: Made if it is not there.
        record: Goes into the header of the weights.
    """
    config = model.active_peft_config
    # peft keeps a set and writes it in the order of Python's hashes, another one in each process.
    config.target_modules = sorted(config.target_modules)
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore"
        )  # peft warns that it can't ask the hub for the base's config
        model.save_pretrained(str(folder), safe_serialization=True, save_embedding_layers=False)
    (folder / "README.md").unlink(missing_ok=True)  # peft's empty card; ours is written by the run
    write_record(folder, record)


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
        adapted = _wrap(model, config)
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
