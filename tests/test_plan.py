"""Which forms are planned: every pair of runtime and precision that there is, and a word for the others."""

import itertools
from pathlib import Path
from types import SimpleNamespace

import pytest

from lora_deploy import cli
from lora_deploy.artifact import bundle
from lora_deploy.artifact.bundle import PRECISIONS, Precision
from lora_deploy.errors import FormNotMadeError, OverrideError, PrecisionNotHereError
from lora_deploy.export import pipeline
from lora_deploy.export.pipeline import proof_settings
from lora_deploy.export.plan import TARGETS, plan


def names(targets: list[str], precisions: list[str]) -> list[str]:
    return [form.name for form in plan(targets, precisions).forms]


def test_without_a_wish_it_is_float32_in_onnxruntime() -> None:
    found = plan()
    assert [form.name for form in found.forms] == ["onnxruntime-fp32"]
    assert not found.frames_in
    assert plan(frames_in=True).frames_in


def test_float32_and_onnxruntime_are_always_there() -> None:
    assert names(["openvino"], ["fp32"]) == ["onnxruntime-fp32", "openvino-fp32"]


def test_lower_precisions_are_made_for_the_named_targets_only() -> None:
    float32 = ["onnxruntime-fp32", "openvino-fp32"]
    assert names(["openvino"], ["int8"]) == [*float32, "openvino-int8"]
    with pytest.raises(FormNotMadeError, match="--precision fp16 is made for onnx, tensorrt only"):
        plan(["openvino"], ["fp16"])


def test_all_forms_and_the_file_that_each_reads() -> None:
    found = plan(["openvino", "onnx"], ["int8", "bf16", "fp16"])
    assert {form.name: form.file for form in found.forms} == {
        "onnxruntime-fp32": bundle.FUSED,
        "openvino-fp32": bundle.ONNX,
        "onnxruntime-fp16": bundle.HALF,
        "openvino-bf16": bundle.ONNX,
        "onnxruntime-int8": bundle.FUSED_INT8,
        "openvino-int8": bundle.INT8,
    }
    assert found.at("int8") == found.forms[-2:]


def test_without_fusing_every_runtime_reads_the_plain_files() -> None:
    found = plan(["openvino", "onnx"], ["int8"], fuse=False)
    assert {form.file for form in found.forms} == {bundle.ONNX, bundle.INT8}


def test_whatever_is_asked_for_the_order_is_the_same_and_nothing_comes_twice() -> None:
    everything = names(list(TARGETS), list(PRECISIONS))
    for targets in itertools.product(TARGETS, repeat=2):
        for precisions in itertools.permutations(PRECISIONS, 2):
            if "bf16" in precisions and "openvino" not in targets:
                continue
            if "fp16" in precisions and "onnx" not in targets:
                continue
            found = names(list(targets), list(precisions))
            assert found == [name for name in everything if name in found]
            assert len(set(found)) == len(found)


def test_bfloat16_needs_openvino_or_a_card() -> None:
    with pytest.raises(FormNotMadeError, match="bf16 is made for openvino, tensorrt only"):
        plan(["onnx"], ["bf16"])


def test_without_bfloat16_what_can_not_be_proved_is_left_out_or_refused_at_once() -> None:
    found = plan(["onnx", "openvino"], ["bf16", "int8"], has_bf16=False)
    assert [form.name for form in found.at("bf16")] == []
    assert len(found.at("int8")) == 2
    assert len(found.left_out) == 1
    assert "does not compute in bfloat16" in found.left_out[0]
    with pytest.raises(PrecisionNotHereError, match="does not compute in bfloat16"):
        plan(["openvino"], ["bf16"], has_bf16=False)
    engines = plan(["tensorrt", "openvino"], ["bf16"], cards=["sm86"], has_bf16=False)
    assert [order.precision for order in engines.engines_at("bf16")] == ["bf16"]
    assert engines.at("bf16") == ()


def test_what_is_left_out_for_several_cards_alike_is_told_once() -> None:
    found = plan(["onnx", "tensorrt"], ["fp16", "int8"], cards=["sm86", "sm89"])
    assert len(found.left_out) == len(set(found.left_out)) == 1


@pytest.mark.parametrize(
    ("targets", "precisions", "said"),
    [
        (["coreml"], ["fp32"], "--to 'coreml' is not made; allowed: onnx, openvino, tensorrt"),
        (["onnx", "ONNX"], ["fp32"], "--to 'ONNX' is not made"),
        (["onnx"], ["int4"], "--precision 'int4' is not made; allowed: fp32, fp16, bf16, int8"),
        (["onnx"], ["auto"], "--precision 'auto' is not made"),
    ],
)
def test_unknown_words_are_told(targets: list[str], precisions: list[str], said: str) -> None:
    with pytest.raises(FormNotMadeError, match=said):
        plan(targets, precisions)


def test_the_command_says_so_before_it_opens_anything(
    tmp_path: object, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["merge-export", f"{tmp_path}", "--out", f"{tmp_path}/out"]
    monkeypatch.setattr(pipeline, "read_processor", lambda: SimpleNamespace(has_bf16=False))
    assert cli.run([*arguments, "--to", "openvino", "--precision", "bf16"]) == 2
    assert "[PrecisionNotHereError]" in capsys.readouterr().err
    assert cli.run([*arguments, "--precision", "bf16"]) == 2
    assert "[FormNotMadeError]" in (said := capsys.readouterr().err)
    assert "made for openvino, tensorrt only" in said
    assert cli.run([*arguments, "--to", "onnx,coreml"]) == 2
    assert "'coreml' is not made" in capsys.readouterr().err


@pytest.mark.parametrize("precision", PRECISIONS)
def test_every_precision_can_be_planned(precision: Precision) -> None:
    assert plan(list(TARGETS), [precision]).at(precision)


def test_a_setting_of_the_training_is_none_of_an_export(tmp_path: Path) -> None:
    with pytest.raises(OverrideError, match="no setting of the proof"):
        proof_settings(tmp_path, ["training.epochs=2"])
    assert proof_settings(tmp_path, ["proof.clips=100"]).clips == 100
