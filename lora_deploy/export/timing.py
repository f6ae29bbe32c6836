"""How fast one form is beside another on this computer: in turns, so that noise hits both."""

import statistics
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lora_deploy.artifact.bundle import BundleManifest, CompiledForm
from lora_deploy.clips import transforms
from lora_deploy.proof.certificate import Speed
from lora_deploy.runtime.open_bundle import open_form

LEAST_ROUNDS, MOST_ROUNDS = 7, 200
LEAST_SECONDS = 0.5
"""A small model answers within the noise of a computer: it takes turns until so much time is measured."""


def speed_of(
    folder: Path,
    manifest: BundleManifest,
    form: CompiledForm,
    beside: CompiledForm,
    frames: NDArray[np.uint8],
) -> Speed:
    """How many times faster ``form`` answers than ``beside``; median over the turns.

    Args:
        folder: The bundle.
        manifest: Its ``bundle.json``.
        form: Whose speed it is.
        beside: What it is compared with.
        frames: Of one clip, [frames, height, width, 3].
    """
    pixel_values = transforms.normalise(frames[None], manifest.contract)
    one, other = (open_form(folder, manifest, which) for which in (form, beside))
    seconds: tuple[list[float], list[float]] = ([], [])
    for turn in range(MOST_ROUNDS + 1):
        if turn > LEAST_ROUNDS and sum(map(sum, seconds)) > LEAST_SECONDS:
            break
        for model, times in zip((one, other), seconds, strict=True):
            started = time.perf_counter()
            model.logits(pixel_values)
            if turn:  # the first turn warms up
                times.append(time.perf_counter() - started)
    ratio = statistics.median(seconds[1]) / statistics.median(seconds[0])
    return Speed(forms=(form.name, beside.name), ratio=ratio, rounds=len(seconds[0]))
