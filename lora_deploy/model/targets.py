"""From the user's words (``qkv``, ``fc``) to the layers of a model that they name."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn
from transformers import PreTrainedModel

from lora_deploy.errors import TargetError
from lora_deploy.model.base import HEAD_MODULES

_ATTENTION = ("attention.attention.query", "attention.attention.key", "attention.attention.value")

WORDS: dict[str, dict[str, tuple[str, ...]]] = {
    "videomae": {
        "qkv": _ATTENTION,
        "q": _ATTENTION[:1],
        "k": _ATTENTION[1:2],
        "v": _ATTENTION[2:],
        "query": _ATTENTION[:1],
        "key": _ATTENTION[1:2],
        "value": _ATTENTION[2:],
        "proj": ("attention.output.dense",),
        "fc": ("intermediate.dense", r"layer\.\d+\.output.dense"),
        "fc1": ("intermediate.dense",),
        "fc2": (r"layer\.\d+\.output.dense",),
        "mlp": ("intermediate.dense", r"layer\.\d+\.output.dense"),
        "attention": (*_ATTENTION, "attention.output.dense"),
        "all-linear": (r".*",),
    },
}
"""By architecture: each word as regular expressions of the ends of layer names."""


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
            kind = re.sub(r"^.*\.\d+\.", "", layer)
            kinds[kind] = kinds.get(kind, 0) + 1
        return ", ".join(f"{count}× {kind}" for kind, count in kinds.items())


def resolve(model: PreTrainedModel, words: Sequence[str]) -> ResolvedTargets:
    """Find the linear layers that words name; the head is never among them.

    Args:
        model: A classifier without an adapter.
        words: Words of `WORDS`, the end of a layer's name, or a regular expression of one.

    Raises:
        TargetError: A word names no layer; the text lists what the model has.
    """
    linear = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and name.split(".", 1)[0] not in HEAD_MODULES
    ]
    vocabulary = WORDS[model.config.model_type]
    chosen: set[str] = set()
    hits = {}
    for word in words:
        named = _named(linear, vocabulary.get(word, (word,)), word)
        if not named:
            raise TargetError(_nothing_called(word, model, linear, vocabulary))
        hits[word] = len(named)
        chosen.update(named)
    return ResolvedTargets(tuple(name for name in linear if name in chosen), hits)


def _named(linear: list[str], patterns: Sequence[str], word: str) -> list[str]:
    try:
        expressions = [re.compile(rf"(?:.*\.)?(?:{pattern})") for pattern in patterns]
    except re.error as error:
        raise TargetError(
            f"target {word!r} is not a known word, and not a regular expression: {error}"
        ) from None
    return [name for name in linear if any(expr.fullmatch(name) for expr in expressions)]


def _nothing_called(
    word: str, model: PreTrainedModel, linear: list[str], vocabulary: dict[str, tuple[str, ...]]
) -> str:
    endings = dict.fromkeys(re.sub(r"^.*\.\d+\.", "", name) for name in linear)
    return (
        f"no layer of {model.config.model_type} is called {word}; it knows the words "
        f"{', '.join(vocabulary)}, and has layers ending in {', '.join(endings)}"
    )
