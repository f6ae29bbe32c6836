"""The base that ships is what its card says, and has not seen the example's gestures."""

import json
import re
from pathlib import Path

from lora_deploy.clips.example import GESTURES
from lora_deploy.model.embedded import embedded_base

BASE = embedded_base("videomae-nano")


def test_no_gesture_of_the_example_is_in_its_vocabulary() -> None:
    labels = set(json.loads((BASE / "config.json").read_text())["label2id"])
    assert len(labels) == 56
    assert not labels & set(GESTURES)
    for label in labels:  # and no motion is undone by the next, as in a wave or a nod
        first, _, second = label.partition("_then_")
        undone = {"left": "right", "up": "down", "nearer": "farther", "turn_left": "turn_right"}
        pairs = {**undone, **{b: a for a, b in undone.items()}}
        assert second != pairs[first]


def test_the_weights_are_small_and_those_of_the_log() -> None:
    assert (BASE / "model.safetensors").stat().st_size <= 8_000_000
    lines = [json.loads(line) for line in (BASE / "pretrain_log.jsonl").read_text().splitlines()]
    card = (BASE / "README.md").read_text()
    assert f"{lines[-1]['clips_seen']:,} clips seen" in card
    assert f"{lines[-1]['held_out_accuracy']:.3f} over 56 classes" in card


def test_the_settings_that_made_it_stand_beside_the_script() -> None:
    settings = (Path(__file__).parents[1] / "train/embedded_base/pretrain.yaml").read_text()
    config = json.loads((BASE / "config.json").read_text())
    for key in ("hidden_size", "intermediate_size", "patch_size", "image_size"):
        assert re.search(rf"{key}: {config[key]}\b", settings), key
