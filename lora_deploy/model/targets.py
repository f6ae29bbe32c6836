"""From the user's words (``qkv``, ``fc``) to the layers of a model that they name."""

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import nn
from transformers import PreTrainedModel

from lora_deploy.errors import TooManyTopLayersError, UnknownTargetError
from lora_deploy.model.architectures import Architecture, architecture_of

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ResolvedTargets:
    """What the words in ``target_modules`` hit."""

    layers: tuple[str, ...]
    """Full names of the linear layers, in the order of the model."""
    hits: dict[str, int]
    """How many layers each word named."""

    def __str__(self) -> str:
        """Each kind of layer with its count, as in ``12× attention.attention.query``."""
        kinds: dict[str, int] = {}
        for layer in self.layers:
            kind = _kind(layer)
            kinds[kind] = kinds.get(kind, 0) + 1
        return ", ".join(f"{count}× {kind}" for kind, count in kinds.items())


def resolve(
    model: PreTrainedModel, words: Sequence[str], *, top_layers: int | None = None
) -> ResolvedTargets:
    """Find the linear layers that words name, and say aloud where a word hits more than it says.

    The head is never among them, nor is a layer that a classifier never calls.

    Args:
        model: A classifier without an adapter.
        words: Words of `Architecture.words`, the end of a layer's name (that of transformers or of
            the original code), or a regular expression of one.
        top_layers: Only in so many of the last blocks; in all by default.

    Raises:
        UnknownTargetError: A word names no layer; the text lists what the model has.
        TooManyTopLayersError: The model has fewer blocks than that.
    """
    found = find(model, words, top_layers=top_layers)
    if said := fused_note(architecture_of(model.config.model_type), words):
        logger.warning("%s", said)
    return found


def find(
    model: PreTrainedModel, words: Sequence[str], *, top_layers: int | None = None
) -> ResolvedTargets:
    """As `resolve`, silently."""
    architecture = architecture_of(model.config.model_type)
    linear = _linear_layers(model, architecture)
    lowest = _lowest_block(linear, architecture, top_layers)
    chosen: set[str] = set()
    hits = {}
    for word in words:
        named = _named(linear, architecture, word)
        if not named:
            raise UnknownTargetError(_nothing_called(word, linear, architecture, model))
        named = [name for name in named if _is_from(name, lowest, architecture)]
        if not named:
            raise UnknownTargetError(
                f"{word} names layers of {model.config.model_type}, and none of its last "
                f"{top_layers} blocks (model.lora.top_layers)"
            )
        hits[word] = len(named)
        chosen.update(named)
    return ResolvedTargets(tuple(name for name in linear if name in chosen), hits)


def by_layer(
    model: PreTrainedModel, layers: Sequence[str], pattern: Mapping[str, int], *, setting: str
) -> dict[str, int]:
    """What a pattern of the settings says of each layer that is under LoRA.

    Args:
        model: A classifier without an adapter.
        layers: Those that LoRA is put on.
        pattern: Target words, each with a number; of two that name a layer the later one counts.
        setting: Named in an error.

    Returns:
        Numbers by full names, in the order of the model; layers that no word names are left out.

    Raises:
        UnknownTargetError: A word names no layer that is under LoRA.
    """
    architecture = architecture_of(model.config.model_type)
    found: dict[str, int] = {}
    for word, number in pattern.items():
        named = _named(list(layers), architecture, word)
        if not named:
            kinds = ", ".join(dict.fromkeys(_kind(name) for name in layers))
            raise UnknownTargetError(
                f"{setting}: {word} names no layer that is under LoRA; these end in {kinds}"
            )
        found.update(dict.fromkeys(named, number))
    return {name: found[name] for name in layers if name in found}


def _lowest_block(linear: list[str], architecture: Architecture, top_layers: int | None) -> int:
    """The first block that may be hit."""
    if top_layers is None:
        return 0
    blocks = {architecture.block_of(name) for name in linear} - {None}
    if top_layers > len(blocks):
        raise TooManyTopLayersError(
            f"model.lora.top_layers is {top_layers}, and {architecture.title} here has "
            f"{len(blocks)} blocks"
        )
    return len(blocks) - top_layers


def _is_from(name: str, lowest: int, architecture: Architecture) -> bool:
    block = architecture.block_of(name)
    return lowest == 0 or (block is not None and block >= lowest)


def fused_note(architecture: Architecture, words: Sequence[str]) -> str | None:
    """What to tell a user of words that name a part of a layer; None where there is nothing to tell."""
    fused = [word for word in words if word in architecture.fused_words]
    if not fused:
        return None
    return (
        f"{', '.join(fused)}: in {architecture.title} query, key and value are one layer (qkv), and "
        "its adapter changes all three"
    )


def _linear_layers(model: PreTrainedModel, architecture: Architecture) -> list[str]:
    """Names of all layers that may be hit, in the order of the model."""
    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear)
        and name.split(".", 1)[0] not in architecture.head_modules
        and not architecture.is_uncalled(name)
    ]


def _named(linear: list[str], architecture: Architecture, word: str) -> list[str]:
    known = architecture.words.get(word)
    try:
        expressions = [re.compile(rf"(?:.*\.)?(?:{pattern})") for pattern in known or (word,)]
    except (re.error, RecursionError, OverflowError) as error:
        raise UnknownTargetError(
            f"target {word!r} is not a known word, and not a regular expression: {error}"
        ) from None
    return [
        layer
        for layer in linear
        for names in [(layer,) if known else architecture.names_of(layer)]
        if any(expression.fullmatch(name) for expression in expressions for name in names)
    ]


def _nothing_called(
    word: str, linear: list[str], architecture: Architecture, model: PreTrainedModel
) -> str:
    endings = dict.fromkeys(_kind(name) for name in linear)
    return (
        f"no layer of {model.config.model_type} is called {word}; it knows the words "
        f"{', '.join(architecture.words)}, and has layers ending in {', '.join(endings)}"
    )


def _kind(layer: str) -> str:
    """A layer's name within its block."""
    return re.sub(r"^.*\.\d+\.", "", layer)
