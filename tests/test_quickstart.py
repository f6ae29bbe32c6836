"""The whole path on drawn clips: small in CI, in full under ``scripts/soak``."""

import json
from pathlib import Path

import numpy as np
import pytest

from lora_deploy.clips import decode
from lora_deploy.clips.contract import PixelContract
from lora_deploy.clips.dataset import find_videos
from lora_deploy.clips.example import GESTURES, PAIRS, render_gesture, write_example
from lora_deploy.errors import OutputExistsError
from lora_deploy.quickstart import ExampleSize, quickstart
from lora_deploy.runtime.load import load


@pytest.mark.parametrize("pair", PAIRS)
def test_the_gestures_of_a_pair_hold_the_same_frames_in_another_order(
    pair: tuple[str, str],
) -> None:
    for seed in range(5):
        one, other = (render_gesture(label, np.random.default_rng(seed)) for label in pair)
        assert one.dtype == np.uint8
        assert sorted(frame.tobytes() for frame in one) == sorted(
            frame.tobytes() for frame in other
        )
        assert not np.array_equal(one, other)


def test_example_clips_are_short_h264_files_and_the_same_for_the_same_seed(tmp_path: Path) -> None:
    one, two, other = (
        write_example(tmp_path / name, seed=seed, train_clips=1, val_clips=1, test_clips=2)
        for name, seed in (("one", 0), ("two", 0), ("other", 1))
    )
    files = [path.relative_to(one) for path in find_videos(one)]
    assert len(files) == len(GESTURES) * 4
    assert all((one / name).read_bytes() == (two / name).read_bytes() for name in files)
    assert all((one / name).read_bytes() != (other / name).read_bytes() for name in files)
    contract = PixelContract(frames=8, short_side=64, crop_height=64, crop_width=64)
    for name in files:
        clip = decode.decode(one / name, contract)
        assert clip.warning is None
        assert 1.0 < clip.duration_seconds < 3.0


def test_a_folder_that_holds_something_is_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").touch()
    with pytest.raises(OutputExistsError, match="exists already; choose another --out"):
        quickstart(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_the_whole_path(tmp_path: Path) -> None:
    out = tmp_path / "all"
    result = quickstart(
        out, size=ExampleSize(train=4, val=2, test=2), overrides=["training.epochs=2"]
    )
    text = result.as_text()
    assert "LoRA, this run" in text
    assert "merged = onnx: same label on 100% of 12 clips" in text
    assert f"lora-deploy classify {out / 'bundle'}" in text
    rows = [json.loads(line) for line in (out / "predictions.jsonl").read_text().splitlines()]
    assert len(rows) == len(GESTURES) * 2
    assert {row["status"] for row in rows} == {"ok"}
    assert load(out / "bundle").labels == tuple(sorted(GESTURES))
    assert load(out / "run").classify(rows[0]["path"]).label == rows[0]["label"]


@pytest.mark.soak
def test_the_example_is_learned(tmp_path: Path) -> None:
    result = quickstart(tmp_path / "all")
    assert result.evaluation.accuracy >= 0.80
    assert result.shipped.certificate.passed
