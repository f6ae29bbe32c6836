"""What every model card has: a head that a hub reads, and names that can't become markup."""

import re
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import PurePath
from typing import Any

import yaml

from lora_deploy.artifact.manifest import BaseIdentity
from lora_deploy.errors import ManifestError

_LICENCE = re.compile(r"[a-z0-9][a-z0-9.-]{1,60}")


def plain(text: str) -> str:
    """A name as Markdown text: no cell, tag, link or line of its own making."""
    text = re.sub(r"([\\`*\[\]|])", r"\\\1", one_line(text))
    return escape(text, quote=False)


def one_line(text: str) -> str:
    """Without line breaks, so that nothing in a card's head looks like its end."""
    return " ".join(text.split())


def head(values: Mapping[str, Any]) -> list[str]:
    """The lines at the top of a card, as YAML between dashes."""
    text: str = yaml.safe_dump(dict(values), sort_keys=False, allow_unicode=True, width=10_000)
    return ["---", text.strip(), "---"]


def licence(base: BaseIdentity) -> dict[str, str]:
    """A hub's ``license``: that of the base, as its id; ``other`` and its name where it is no id."""
    found = one_line(base.licence or "")
    if _LICENCE.fullmatch(found):
        return {"license": found}
    return {"license": "other", "license_name": found or "not stated by the base"}


def base_model(base: BaseIdentity) -> dict[str, str]:
    """A hub's ``base_model``, of a base that came from one; any other has no address there."""
    return {"base_model": one_line(base.id)} if base.revision is not None else {}


def base_name(base: BaseIdentity) -> str:
    """A base's name for a text that may go anywhere: of a folder here its own name, without the path."""
    return one_line(base.id if base.revision is not None else PurePath(base.id).name)


def model_index(
    name: str, split: str, metrics: Sequence[tuple[str, str, float]]
) -> list[dict[str, Any]]:
    """A hub's ``model-index``: figures with the clips that they were measured on.

    The form is that of https://github.com/huggingface/hub-docs/blob/main/modelcard.md.

    Args:
        name: Of the model.
        split: Of the clips.
        metrics: Id at the hub, name and value of each figure.
    """
    return [
        {
            "name": name,
            "results": [
                {
                    "task": {"type": "video-classification", "name": "Video classification"},
                    "dataset": {
                        "name": f"the {split} clips of the training",
                        "type": "videofolder",
                        "split": split,
                    },
                    "metrics": [
                        {"type": kind, "name": words, "value": round(value, 6)}
                        for kind, words, value in metrics
                    ],
                }
            ],
        }
    ]


def with_datasets(card: str, datasets: Sequence[str]) -> str:
    """A card whose head names data sets of a hub.

    Raises:
        ManifestError: The card has no head.
    """
    parts = re.fullmatch(r"---\n(.*?)\n---\n(.*)", card, re.DOTALL)
    try:
        values = yaml.safe_load(parts[1]) if parts else None
    except yaml.YAMLError:
        values = None
    if parts is None or not isinstance(values, dict):
        raise ManifestError("the model card has no head that a hub could read")
    return "\n".join([*head({**values, "datasets": list(datasets)}), parts[2]])
