"""Target words: what they hit, and what is said when they hit nothing."""

from pathlib import Path

import pytest
import torch

from lora_deploy.errors import UnknownTargetError
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
    with pytest.raises(UnknownTargetError, match=r"no layer of videomae is called w2") as caught:
        resolve(model, ["qkv", "w2"])
    for word in (
        *ARCHITECTURES["videomae"].words,
        "attention.attention.query",
        "intermediate.dense",
    ):
        assert word in str(caught.value)


def test_a_broken_regular_expression_is_the_users_mistake(tiny_base: Path) -> None:
    model = open_base(str(tiny_base), ["x", "y"]).model
    with pytest.raises(UnknownTargetError, match="not a regular expression"):
        resolve(model, ["layer.("])


# Names of the original code ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "count"),
    [
        (["attn.qkv"], 6),
        (["attn.proj"], 2),
        (["mlp.fc1"], 2),
        (["mlp.fc2"], 2),
        (["blocks.1.attn.qkv"], 3),
        (["encoder.blocks.1.attn.qkv"], 3),
        ([r"blocks\.[01]\.mlp\.fc\d"], 4),
        (["attn.qkv", "qkv"], 6),
    ],
)
def test_names_of_the_original_code_hit_the_layers_that_they_became(
    tiny_base: Path, words: list[str], count: int
) -> None:
    model = open_base(str(tiny_base), ["x", "y"]).model
    assert len(resolve(model, words).layers) == count


@pytest.mark.parametrize("name", ["mcg_finetuned", "mcg_module_prefix", "mcg_pretraining"])
def test_each_layer_of_an_original_checkpoint_is_named_by_its_own_name(
    reference: Path, name: str
) -> None:
    """The weights of what the name hits are the weights that stand under it in the file."""
    content = torch.load(reference / name / "checkpoint.pth", weights_only=True)
    content = content.get("model", content.get("module", content))
    model = open_base(str(reference / name / "published"), ["x", "y"]).model
    layers = {
        layer.removesuffix(".weight"): tensor
        for layer, tensor in content.items()
        if "blocks." in layer and not layer.startswith("decoder.") and tensor.ndim == 2
    }
    assert len(layers) % 4 == 0
    assert layers
    for layer, tensor in layers.items():
        for word in (layer, layer.removeprefix("encoder.")):
            hit = resolve(model, [word]).layers
            assert torch.equal(
                torch.cat([model.get_parameter(f"{one}.weight") for one in hit]), tensor
            ), word


def test_original_names_are_no_names_of_another_architecture(tiny_bases: dict[str, Path]) -> None:
    model = open_base(str(tiny_bases["timesformer"]), ["x", "y"]).model
    with pytest.raises(UnknownTargetError, match="no layer of timesformer is called blocks"):
        resolve(model, ["blocks.0.attn.qkv"])
