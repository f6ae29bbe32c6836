"""How many turns a comparison of speed takes: few of a slow model, many of one within the noise."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lora_deploy.artifact import bundle as bundles
from lora_deploy.export import timing


@pytest.mark.parametrize(
    ("seconds", "rounds"),
    [(1.0, timing.LEAST_ROUNDS), (1 / 128, 33), (0.0001, timing.MOST_ROUNDS)],
)
def test_a_fast_model_takes_more_turns(
    seconds: float, rounds: int, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]

    class Answering:
        def logits(self, pixels: np.ndarray) -> np.ndarray:
            now[0] += seconds
            return pixels

    def opened(*_: Any, **__: Any) -> Answering:
        return Answering()

    monkeypatch.setattr(timing, "open_form", opened)
    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    manifest = bundles.read_bundle_manifest(bundle)
    frames = np.zeros(manifest.contract.frames_shape, np.uint8)
    found = timing.speed_of(bundle, manifest, manifest.forms[0], manifest.forms[0], frames)
    assert found.rounds == rounds
    assert found.ratio == pytest.approx(1, rel=0.01)
