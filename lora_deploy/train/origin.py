"""What a training was begun with: settings, clips, frames, base. Only the same can go on exactly."""

import hashlib
from collections.abc import Mapping
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict

from lora_deploy.clips.cache import FrameCache
from lora_deploy.clips.dataset import ClipDataset, Split
from lora_deploy.config import Settings
from lora_deploy.train.changes import MAY_DIFFER, settings_differences, tree_differences
from lora_deploy.versions import installed_versions

_SPLITS: tuple[Split, ...] = ("train", "val", "test")


class Origin(BaseModel):
    """What a training was begun with."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    settings: dict[str, Any]
    """Without those that change no figure."""
    labels: tuple[str, ...]
    clips: dict[str, str]
    """By split: how many clips, and a hash over them in their order; not over their folder."""
    base: str
    """Its fingerprint."""
    processes: int = 1
    """Each takes a batch of every step."""
    begun_with: str = "nothing"
    """SHA-256 of the weights of the adapter that it was begun with."""
    surroundings: dict[str, str]
    """Versions, device and threads: with others the last bits of a figure may differ."""


def origin_of(
    settings: Settings,
    dataset: ClipDataset,
    base_fingerprint: str,
    device: torch.device,
    begun_with: str | None = None,
    processes: int = 1,
) -> Origin:
    """What a training with all of this is begun with."""
    tree = settings.model_dump(mode="json", exclude={"proof"})
    for key in MAY_DIFFER:
        section, name = key.split(".")
        tree[section].pop(name)
    versions = installed_versions()
    return Origin(
        settings=tree,
        labels=dataset.labels,
        clips={split: _clips_digest(dataset, split) for split in _SPLITS},
        base=base_fingerprint,
        begun_with=begun_with or "nothing",
        processes=processes,
        surroundings={
            **{name: versions[name] for name in ("torch", "transformers", "peft", "numpy")},
            "device": _device_name(device),
            "threads": str(torch.get_num_threads()),
        },
    )


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type} with {torch.backends.cpu.get_cpu_capability()}"


def differences(then: Origin, now: Origin) -> list[str]:
    """What differs, apart from the surroundings; each as ``key was A and is B``."""
    fields = {"settings", "surroundings"}
    return settings_differences(then.settings, now.settings) + tree_differences(
        then.model_dump(exclude=fields), now.model_dump(exclude=fields)
    )


def changed_surroundings(then: Origin, now: Origin) -> list[str]:
    """Versions, device or threads that are others now; each as ``name was A and is B``."""
    return tree_differences(then.surroundings, now.surroundings)


def frames_digest(dataset: ClipDataset, caches: Mapping[Split, FrameCache]) -> str:
    """A hash over every frame that is learned from or judged on, in the order of the clips.

    It differs when a video was changed, when another decoder chose other frames, and when the
    cache on the disk was damaged.
    """
    digest = hashlib.sha256()
    for split in _SPLITS[:2]:
        cache = caches[split]
        for clip in dataset.of(split):
            if clip.footage not in cache.errors:
                digest.update(f"{split} {clip.label}\n".encode())
                digest.update(cache.choices(clip).data)
    return digest.hexdigest()


def _clips_digest(dataset: ClipDataset, split: Split) -> str:
    clips = dataset.of(split)
    lines = [
        repr((clip.path.name, clip.label, clip.group))
        + (f" {clip.stretch}" if clip.stretch else "")
        for clip in clips
    ]
    digest = hashlib.sha256("\n".join(lines).encode()).hexdigest()
    return f"{len(clips)} clips {digest[:16]}"
