"""The LoRA adapter: attach it, count it, switch its update off, save it, load it."""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from transformers import PreTrainedModel

from lora_deploy.artifact.adapter_record import (
    AdapterRecord,
    write_record,
)
from lora_deploy.config import LoraSettings
from lora_deploy.model.targets import by_layer


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
        lora: Rank, alpha, dropout and kind.
        layers: Full names, as `targets.resolve` gives them.
        head_modules: Modules that the base does not supply.
        base_id: What the adapter will name as its base.
        revision: Commit of a hub id.

    Raises:
        UnknownTargetError: A word of a pattern names none of the layers.
    """
    ranks, alphas = (
        by_layer(model, layers, pattern, setting=f"model.lora.{name}")
        for name, pattern in (
            ("rank_pattern", lora.rank_pattern),
            ("alpha_pattern", lora.alpha_pattern),
        )
    )
    config = LoraConfig(
        r=lora.r,
        lora_alpha=lora.lora_alpha,
        lora_dropout=lora.lora_dropout,
        bias=lora.bias,
        target_modules=list(layers),
        modules_to_save=list(head_modules),
        use_dora=lora.use_dora,
        use_rslora=lora.use_rslora,
        rank_pattern=ranks,
        alpha_pattern=alphas,
    )
    adapted = wrap(model, config)
    # peft takes these from the model's own path, which may lie inside this installation.
    config.base_model_name_or_path = base_id
    config.revision = revision
    return adapted


def wrap(model: PreTrainedModel, config: LoraConfig) -> PeftModel:
    """Put fresh LoRA layers into a model; its own path is not written into the configuration."""
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
    """Switch the update off and keep the trained head: every layer is the base's, bit for bit.

    peft's own ``disable_adapter`` swaps the untrained head back in as well, which makes a dead
    adapter look alive. A scaling of zero would leave DoRA's learned lengths on.
    """
    before = {layer: layer._disable_adapters for layer in _lora_layers(model)}
    switch_delta_off(model)
    try:
        yield
    finally:
        for layer, was_off in before.items():
            layer._disable_adapters = was_off


def switch_delta_off(model: torch.nn.Module) -> None:
    """The same for good: what is left is the base under the trained head."""
    for layer in _lora_layers(model):
        # Its own method, enable_adapters, changes which parameters learn, too.
        layer._disable_adapters = True


def _lora_layers(model: torch.nn.Module) -> list[LoraLayer]:
    return [module for module in model.modules() if isinstance(module, LoraLayer)]


_RECORDED = ("r", "lora_alpha", "use_dora", "use_rslora", "rank_pattern", "alpha_pattern")


def recorded_options(config: LoraConfig) -> dict[str, Any]:
    """What decides how the tensors of an adapter are summed up, as `AdapterRecord` keeps it."""
    return {name: getattr(config, name) or type(getattr(config, name))() for name in _RECORDED}


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
