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

from lora_deploy.config import LoraSettings
from lora_deploy.errors import ArtifactError, CheckpointError

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"

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


def count(model: torch.nn.Module) -> ParameterCounts:
    """Count parameters; the untrained copy of the head that peft keeps aside is not counted."""
    total = trainable = lora = head = 0
    for name, parameter in model.named_parameters():
        if ".original_module." in name:
            continue
        total += parameter.numel()
        if parameter.requires_grad:
            trainable += parameter.numel()
            lora += parameter.numel() if ".lora_" in name else 0
            head += parameter.numel() if _is_head(name) else 0
    return ParameterCounts(total=total, trainable=trainable, lora=lora, head=head)


def _is_head(name: str) -> bool:
    return ".modules_to_save." in name or name.startswith(("classifier.", "fc_norm."))


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


def save_adapter(model: PeftModel, folder: Path) -> None:
    """Write ``adapter_config.json`` and ``adapter_model.safetensors``, as plain peft opens them."""
    config = model.active_peft_config
    # peft keeps a set and writes it in the order of Python's hashes, another one in each process.
    config.target_modules = sorted(config.target_modules)
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore"
        )  # peft warns that it can't ask the hub for the base's config
        model.save_pretrained(str(folder), safe_serialization=True, save_embedding_layers=False)
    (folder / "README.md").unlink(missing_ok=True)  # peft's empty card; ours is written by the run


def load_adapter(model: PreTrainedModel, folder: Path) -> PeftModel:
    """Put a saved adapter and its head onto an opened base, in evaluation mode.

    Raises:
        ArtifactError: The folder holds no adapter.
        CheckpointError: Weights are missing, unknown, of another shape, or not finite.
    """
    for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS):
        if not (folder / name).is_file():
            raise ArtifactError(f"{folder} is no adapter: it lacks {name}")
    adapted = _wrap(model, read_adapter_config(folder / ADAPTER_CONFIG))
    _load_weights(adapted, folder / ADAPTER_WEIGHTS)
    adapted.eval()
    return adapted


def read_adapter_config(path: Path) -> LoraConfig:
    """Read a plain LoRA's configuration; what would change the base or the sum is refused.

    Raises:
        CheckpointError: It is torn, or has an option that is not plain LoRA.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        given = {key: values.pop(key) for key in _PLAIN_OPTIONS}
    except (OSError, ValueError, AttributeError, KeyError) as error:
        raise CheckpointError(
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
        raise CheckpointError(
            f"{path} has {strange[0]}: {values[strange[0]]!r}, which is not plain LoRA and can't "
            "be used; train with plain LoRA, or convert the adapter"
        )
    r, alpha, dropout = given["r"], given["lora_alpha"], given["lora_dropout"]
    if not (_is_number(r) and r >= 1 and _is_number(alpha) and alpha > 0 and _is_number(dropout)):
        raise CheckpointError(
            f"{path}: r is {r}, lora_alpha is {alpha} and lora_dropout is {dropout}; r and "
            "lora_alpha must be finite numbers above 0"
        )
    if given["bias"] != "none":
        raise CheckpointError(f"{path}: bias is {given['bias']!r}; allowed: none")
    return LoraConfig(**given)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _load_weights(model: PeftModel, path: Path) -> None:
    """Copy every tensor of an adapter file to its place, none left over and none left out."""
    try:
        saved = load_file(path)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path.name} can't be read as safetensors: {error}") from None
    places = {
        name.replace(".default.", ".").replace(".modules_to_save.", "."): parameter
        for name, parameter in model.named_parameters()
        if ".lora_" in name or ".modules_to_save." in name
    }
    missing, unknown = sorted(places.keys() - saved.keys()), sorted(saved.keys() - places.keys())
    if missing or unknown:
        raise CheckpointError(
            f"{path.name} does not fit the model: missing {missing[:4] or 'nothing'}, "
            f"unknown {unknown[:4] or 'nothing'}"
        )
    for name, place in places.items():
        tensor = saved[name]
        if tensor.shape != place.shape:
            raise CheckpointError(
                f"{path.name}: {name} is {tuple(tensor.shape)}; the model has {tuple(place.shape)}"
            )
        if not torch.isfinite(tensor).all():
            raise CheckpointError(f"{path.name}: {name} holds NaN or infinity; train again")
        with torch.no_grad():
            place.copy_(tensor)
