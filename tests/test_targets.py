"""Target words: what they hit, and what is said when they hit nothing."""

from pathlib import Path

import pytest

from lora_deploy.errors import TargetError
from lora_deploy.model.architectures import ARCHITECTURES
from lora_deploy.model.base import open_base
from lora_deploy.model.targets import resolve


@pytest.mark.parametrize(
    ("words", "count"),
    [
        (["qkv"], 6),
        (["q", "v"], 4),
        (["query", "value"], 4),
        (["k"], 2),
        (["proj"], 2),
        (["fc"], 4),
        (["fc1"], 2),
        (["fc2"], 2),
        (["mlp"], 4),
        (["attention"], 8),
        (["qkv", "fc"], 10),
        (["all-linear"], 12),
        (["videomae.encoder.layer.1.intermediate.dense"], 1),
        ([r"layer\.0\..*"], 6),
    ],
)
def test_a_word_hits_the_layers_that_it_means(
    tiny_base: Path, words: list[str], count: int
) -> None:
    model = open_base(str(tiny_base), ["x", "y"]).model
    resolved = resolve(model, words)
    assert len(resolved.layers) == count
    assert len(set(resolved.layers)) == count
    assert not any("classifier" in layer for layer in resolved.layers)


def test_fc2_is_not_the_projection_of_the_attention(tiny_base: Path) -> None:
    model = open_base(str(tiny_base), ["x", "y"]).model
    assert not set(resolve(model, ["fc2"]).layers) & set(resolve(model, ["proj"]).layers)


def test_one_dead_word_among_live_ones_is_an_error_that_lists_what_there_is(
    tiny_base: Path,
) -> None:
    model = open_base(str(tiny_base), ["x", "y"]).model
    with pytest.raises(TargetError, match=r"no layer of videomae is called w2") as caught:
        resolve(model, ["qkv", "w2"])
    for word in (
        *ARCHITECTURES["videomae"].words,
        "attention.attention.query",
        "intermediate.dense",
    ):
        assert word in str(caught.value)


def test_a_broken_regular_expression_is_the_users_mistake(tiny_base: Path) -> None:
    model = open_base(str(tiny_base), ["x", "y"]).model
    with pytest.raises(TargetError, match="not a regular expression"):
        resolve(model, ["layer.("])
