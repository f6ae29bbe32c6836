"""The model card of a bundle: every form with its command, what was proved, what a score means."""

import re
import shlex
from typing import Any, cast

import click
import pytest
import yaml

from lora_deploy.artifact.manifest import BaseIdentity
from lora_deploy.artifact.run import BestEpoch
from lora_deploy.cli import commands
from lora_deploy.clips.contract import PixelContract
from lora_deploy.export.cards import bundle_card
from lora_deploy.proof.certificate import Certificate
from lora_deploy.runtime.trained import Trained
from tests.sample_certificates import FORMS, LABELS, link, proved


def trained(**changes: Any) -> Trained:
    """All that a card reads of a trained model, which is not the model itself."""
    values: dict[str, Any] = {
        "model": cast(Any, None),
        "kind": "lora",
        "labels": LABELS,
        "contract": PixelContract(frames=4, short_side=32, crop_height=32, crop_width=32),
        "base": BaseIdentity(
            id="MCG-NJU/videomae-base", revision=None, fingerprint="f", licence="cc-by-nc-4.0"
        ),
        "adapter_files": {},
        "digest": "sha256:0",
        "best": BestEpoch(epoch=3, val_accuracy=0.914, val_loss=0.3, val_clips=128),
        "liveness": None,
        **changes,
    }
    return Trained(**values)


def test_the_card_has_one_command_for_every_form_and_the_command_line_takes_it() -> None:
    card = bundle_card(trained(), proved(links=proved().links + proved().links))
    lines = [shlex.split(line) for line in re.findall(r"^lora-deploy (.*)$", card, re.MULTILINE)]
    assert lines == [
        ["classify", "THIS_FOLDER", "clip.mp4"],
        *(
            [
                "classify", "THIS_FOLDER", "clip.mp4", "--backend", backend, "--precision", precision,
            ]
            for backend, precision in (
                ("onnxruntime", "fp32"),
                ("onnxruntime", "fp16"),
                ("openvino", "bf16"),
                ("openvino", "int8"),
            )
        ),
        ["verify", "THIS_FOLDER", "--data", "CLIPS"],
    ]  # fmt: skip
    command = commands.commands["classify"]
    for line in lines[:-1]:
        _, left_over, _ = command.make_parser(click.Context(command)).parse_args(line[1:])
        assert left_over == []


def test_the_card_has_a_row_for_every_form_and_what_was_proved() -> None:
    card = bundle_card(trained(), proved())
    rows = re.findall(r"^\| (?!form)(.*) \|$", card, re.MULTILINE)
    assert len(rows) == len(FORMS)
    assert rows[-1] == "OpenVINO int8 | Trained adapter | 99.2% | 96% | 0.0083 | 91.4%"
    assert len({row.count("|") for row in rows}) == 1
    assert "128 real clips (validation clips of the training) went through every form" in card
    assert "Validation accuracy 0.914 on 128 clips" in card
    assert "OpenVINO int8 was 7.42 times as fast as ONNX Runtime fp32 on the computer" in card


def test_the_card_names_the_licence_and_what_a_score_means() -> None:
    card = bundle_card(trained(), proved())
    assert "license: cc-by-nc-4.0" in card
    assert "licence of its weights: cc-by-nc-4.0" in card
    assert "A clip whose best label is below 43% is called unknown" in card
    unstated = trained(base=trained().base.model_copy(update={"licence": None}))
    assert "licence of its weights: not stated" in bundle_card(unstated, proved())
    assert "What a score means" not in bundle_card(trained(), proved(calibration=None))


def test_the_card_says_what_is_not_known_of_a_strangers_adapter() -> None:
    card = bundle_card(trained(best=None, unknown=("how well it does",)), proved())
    assert "Not known of the adapter: how well it does." in card
    assert "Validation accuracy" not in card


@pytest.mark.parametrize(
    "strange", ["a|b", "a\\|b", "<b>a", "a`b", "a\n\n# b", "a\n| b |", "[a](b)"]
)
def test_no_label_or_source_becomes_markup_of_the_card(strange: str) -> None:
    certificate = proved(source=strange, computer=strange)
    plain = bundle_card(trained(), proved(source="a", computer="a"))
    card = bundle_card(trained(labels=(strange, "other")), certificate)
    assert len(card.splitlines()) == len(plain.splitlines())
    assert "<b>" not in card
    for line in card.splitlines():
        unescaped = re.sub(r"\\.", "", line.removeprefix("```"))
        assert not re.search(r"[\[\]]", unescaped.replace('"lora-deploy[cpu]"', ""))
        assert unescaped.count("|") in (0, 7)
        assert unescaped.count("`") % 2 == 0


@pytest.mark.parametrize("strange", ["/a: b", "mit\ntags: [x]", "- a", '"', "yes #no", "no"])
def test_the_head_of_the_card_is_yaml_whatever_the_base_is_called(strange: str) -> None:
    base = trained().base.model_copy(update={"id": strange, "licence": strange})
    head = bundle_card(trained(base=base), proved()).split("---\n")[1]
    assert yaml.safe_load(head) == {
        "base_model": strange,
        "license": strange,
        "pipeline_tag": "video-classification",
    }


def test_a_form_that_no_option_asks_for_gets_a_row_but_no_command() -> None:
    certificate: Certificate = proved(links=(link("unmerged", "frames-in", "fp32"),))
    card = bundle_card(trained(), certificate)
    assert "| ONNX with raw frames in | Trained adapter |" in card
    assert "--backend" not in card
