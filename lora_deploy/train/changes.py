"""Which values differ between two trees of settings, said key by key."""

from collections.abc import Iterator, Mapping
from typing import Any

from lora_deploy.config import Settings

MAY_DIFFER = (
    "training.workers",
    "training.keep_checkpoints",
    "training.report_to",
    "data.find_duplicates",
)
"""Settings that change no figure."""

_REASONS = {
    "training.epochs": "the course of the learning rate depends on it",
    "clips": "names, labels, groups, starts and ends, or their order",
}


def settings_differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Settings that differ, each as ``key was A and is B``; those that change no figure are left out.

    A setting that did not exist yet counts as its default, with which all is as it was without it.
    """
    before = {**dict(_flat(Settings().model_dump(mode="json"))), **dict(_flat(then))}
    return [
        line
        for line in tree_differences(before, now)
        if not line.startswith((*MAY_DIFFER, "proof."))
    ]


def tree_differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Each as ``key was A and is B``, with a reason where one is known."""
    old, new = dict(_flat(then)), dict(_flat(now))
    return [
        f"{key} was {old.get(key, 'not there')} and is {new.get(key, 'not there')}{_reason(key)}"
        for key in [*old, *(key for key in new if key not in old)]
        if old.get(key) != new.get(key)
    ]


def _flat(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, list(value) if isinstance(value, tuple) else value


def _reason(key: str) -> str:
    reason = _REASONS.get(key) or _REASONS.get(key.split(".")[0])
    return f" ({reason})" if reason else ""
