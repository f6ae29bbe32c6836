"""``doctor PATH``: every part of a RUN, a BUNDLE or an adapter's folder, made here or elsewhere."""

import json
import shutil
from pathlib import Path

import onnx
import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from transformers import AutoModelForVideoClassification

from lora_deploy import checkup, cli
from lora_deploy.artifact.bundle import (
    FileRecord,
    read_bundle_manifest,
    record_files,
    write_bundle_manifest,
)
from lora_deploy.artifact.manifest import sha256_of_file
from lora_deploy.artifact.run import read_run_manifest, write_run_manifest
from lora_deploy.errors import NotAModelError, PrecisionNotHereError
from lora_deploy.runtime.load import load
from tests.damage import edit_config, edit_tensors, kill_adapter, vouch_again, without

LABELS = ("bend", "wave_two_hands")


def mistakes(found: checkup.Checkup) -> dict[str, str | None]:
    return {finding.part: finding.error for finding in found.findings if finding.passed is False}


def test_a_sound_run_and_a_sound_bundle_are_found_sound(
    lora_run: Path, full_run: Path, bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for folder in (lora_run, full_run, bundle, lora_run / "best_model_lora_adapter"):
        assert cli.run(["doctor", str(folder)]) == 0, capsys.readouterr().out
        said = capsys.readouterr().out
        assert "\n! " not in said
        assert ("alive in all 6 layers" in said) == (folder != full_run)


def test_a_dead_adapter_under_a_trained_head_is_found_and_not_opened(run_copy: Path) -> None:
    kill_adapter(run_copy / "best_model_lora_adapter")
    vouch_again(run_copy)
    assert mistakes(checkup.check(run_copy)) == {"model": "DeadAdapterError"}
    assert cli.run(["evaluate", str(run_copy)]) == 2


def test_every_part_is_looked_at_whatever_the_one_before_it_said(run_copy: Path) -> None:
    edit_config(run_copy / "best_model_lora_adapter", lora_alpha=64)
    found = checkup.check(run_copy)
    assert mistakes(found) == {"files": "AdapterChangedError", "model": "AdapterChangedError"}
    [adapter] = [finding.text for finding in found.findings if finding.part == "adapter"]
    assert "lora_alpha 64" in adapter


@pytest.mark.parametrize("part", ["onnx/model.onnx", "model/model.safetensors", "certificate.json"])
def test_a_flipped_byte_in_a_bundle_is_found(bundle_copy: Path, part: str) -> None:
    path = bundle_copy / part
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    found = mistakes(checkup.check(bundle_copy))
    assert found["files"] == "FileChangedError"


def test_a_certificate_that_did_not_pass_is_found(bundle_copy: Path) -> None:
    path = bundle_copy / "certificate.json"
    path.write_text(path.read_text().replace('"passed": true', '"passed": false', 1))
    manifest = read_bundle_manifest(bundle_copy)
    record = FileRecord(bytes=path.stat().st_size, sha256=sha256_of_file(path))
    files = {**manifest.files, "certificate.json": record}
    write_bundle_manifest(bundle_copy, manifest.model_copy(update={"files": files}))
    assert "certificate" in mistakes(checkup.check(bundle_copy))


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NotAModelError, match=r"holds no run\.json, bundle\.json or adapter_config"):
        checkup.check(tmp_path)


def test_as_json_each_finding_has_its_part_and_its_error(
    run_copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (run_copy / "best_model.pth").write_bytes(b"")
    assert cli.run(["doctor", str(run_copy), "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert told["kind"] == "RUN"
    assert not told["passed"]
    [wrong] = [finding for finding in told["findings"] if finding["passed"] is False]
    assert (wrong["part"], wrong["error"]) == ("files", "FileChangedError")


# Alive, the base, the head, the counts: each asked of a RUN and of a BUNDLE ------------------------


def test_the_four_questions_are_answered_aloud(
    lora_run: Path, bundle: Path, foreign: Path, tiny_base: Path
) -> None:
    texts = {
        "RUN": _said(checkup.check(lora_run)),
        "BUNDLE": _said(checkup.check(bundle)),
        "adapter": _said(checkup.check(foreign, base=str(tiny_base), labels=LABELS)),
    }
    for said in texts.values():
        assert "alive in all 6 layers" in said
        assert "head: classifier (66 parameters)" in said
        assert all(f"2× attention.attention.{word}" in said for word in ("query", "key", "value"))
        assert "(3,072 parameters)" in said  # 6 layers of 32 to 32 at r 8
    assert "fingerprint sha256:" in texts["RUN"]
    assert "3,072 of LoRA and 66 of the head, as run.json claims" in texts["RUN"]
    forms = len(read_bundle_manifest(bundle).forms)
    assert texts["BUNDLE"].count("answers with 2 numbers") == forms + 1  # and PyTorch
    assert "is the base that it was trained on" in texts["adapter"]


def _said(found: checkup.Checkup) -> str:
    assert found.passed
    return "\n".join(finding.text for finding in found.findings)


@pytest.mark.parametrize("part", ["total", "lora", "head"])
def test_counts_that_a_run_claims_and_does_not_have_are_found(run_copy: Path, part: str) -> None:
    manifest = read_run_manifest(run_copy)
    claimed = {**manifest.parameters, part: manifest.parameters[part] + 1}
    write_run_manifest(run_copy, manifest.model_copy(update={"parameters": claimed}))
    assert mistakes(checkup.check(run_copy)) == {"counts": "CountsDifferError"}


def test_counts_of_a_full_training_are_counted(full_run: Path) -> None:
    said = _said(checkup.check(full_run))
    assert "0 of LoRA and 66 of the head, as run.json claims" in said


def _another_base(tiny_base: Path, tmp_path: Path) -> str:
    """The same architecture with other numbers."""
    model = AutoModelForVideoClassification.from_pretrained(tiny_base)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.01)
    shutil.copytree(tiny_base, tmp_path / "another")
    model.save_pretrained(tmp_path / "another")
    return str(tmp_path / "another")


def test_another_base_under_a_run_or_a_bundle_is_found(
    run_copy: Path, bundle_copy: Path, tiny_base: Path, tmp_path: Path
) -> None:
    another = _another_base(tiny_base, tmp_path)
    trained = read_run_manifest(run_copy)
    base = trained.base.model_copy(update={"id": another})
    write_run_manifest(run_copy, trained.model_copy(update={"base": base}))
    assert mistakes(checkup.check(run_copy)) == {"model": "WrongBaseError"}
    shipped = read_bundle_manifest(bundle_copy)
    write_bundle_manifest(bundle_copy, shipped.model_copy(update={"base": base}))
    assert set(mistakes(checkup.check(bundle_copy)).values()) == {"WrongBaseError"}


def _vouch_for_bundle(folder: Path) -> None:
    manifest = read_bundle_manifest(folder)
    write_bundle_manifest(folder, manifest.model_copy(update={"files": record_files(folder)}))


@pytest.mark.parametrize("question", ["alive", "head"])
def test_a_dead_or_headless_adapter_in_a_bundle_is_found(bundle_copy: Path, question: str) -> None:
    [name] = read_bundle_manifest(bundle_copy).adapters
    folder = bundle_copy / "adapters" / name
    if question == "alive":
        kill_adapter(folder)
    else:
        edit_tensors(folder, without("classifier"))
    _vouch_for_bundle(bundle_copy)
    found = checkup.check(bundle_copy)
    error = {"alive": "DeadAdapterError", "head": "HeadMissingError"}[question]
    assert set(mistakes(found).items()) == {(f"adapter {name}", error)}


def test_a_headless_adapter_of_a_run_is_found(run_copy: Path) -> None:
    edit_tensors(run_copy / "best_model_lora_adapter", without("classifier"))
    vouch_again(run_copy)
    found = mistakes(checkup.check(run_copy))
    assert found == {"adapter": "HeadMissingError", "model": "HeadMissingError"}


def test_a_head_that_is_named_and_not_saved_is_found_without_the_base(foreign: Path) -> None:
    edit_tensors(foreign, without("classifier"))
    assert mistakes(checkup.check(foreign)) == {"adapter": "HeadMissingError"}


def test_a_dead_adapter_of_another_program_is_found(foreign: Path, tiny_base: Path) -> None:
    kill_adapter(foreign)
    found = checkup.check(foreign, base=str(tiny_base), labels=LABELS)
    assert mistakes(found) == {"model": "DeadAdapterError"}


def test_labels_more_than_another_programs_adapter_answers_are_found(
    foreign: Path, tiny_base: Path
) -> None:
    found = checkup.check(foreign, base=str(tiny_base), labels=(*LABELS, "one more"))
    assert mistakes(found) == {"model": "LabelOrderError"}


def test_a_certificate_that_names_other_clips_than_it_counts_is_found(bundle_copy: Path) -> None:
    path = bundle_copy / "certificate.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "clips": content["clips"] + 100}))
    _vouch_for_bundle(bundle_copy)
    assert mistakes(checkup.check(bundle_copy)) == {"certificate": "CountsDifferError"}


def _end_graph_with(folder: Path, *nodes: onnx.NodeProto, outputs: int = 2) -> str:
    """Put nodes between logits, as ``inner``, and output of a bundle's last form; which one it is."""
    form = read_bundle_manifest(folder).forms[-1]
    model = onnx.load(folder / form.file)
    for node in model.graph.node:
        node.output[:] = ["inner" if name == "logits" else name for name in node.output]
    model.graph.node.extend(nodes)
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = outputs
    onnx.save(model, folder / form.file)
    _vouch_for_bundle(folder)
    return form.name


def test_a_graph_that_answers_with_another_number_of_labels_is_found(bundle_copy: Path) -> None:
    twice = onnx.helper.make_node("Concat", ["inner", "inner"], ["logits"], axis=1)
    form = _end_graph_with(bundle_copy, twice, outputs=4)
    assert mistakes(checkup.check(bundle_copy))[form] == "CountsDifferError"


def test_a_graph_that_answers_with_no_number_is_found(bundle_copy: Path) -> None:
    zero = onnx.helper.make_node("Sub", ["inner", "inner"], ["zero"])
    no_number = onnx.helper.make_node("Div", ["zero", "zero"], ["logits"])
    form = _end_graph_with(bundle_copy, zero, no_number)
    assert mistakes(checkup.check(bundle_copy))[form] == "AnswersNotFiniteError"


def test_a_precision_that_this_processor_does_not_have_is_no_fault_of_the_bundle(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def without(*_: object, **options: object) -> None:
        raise PrecisionNotHereError("this CPU does not compute in bfloat16")

    monkeypatch.setattr("lora_deploy.runtime.load.load", without)
    found = checkup.check(bundle)
    assert found.passed
    told = [finding.text for finding in found.findings if finding.passed is None]
    assert told[-1] == "not looked at: this CPU does not compute in bfloat16"


# Adapters of other programs -------------------------------------------------------------------


@pytest.fixture
def foreign(tiny_base: Path, lora_run: Path, tmp_path: Path) -> Path:
    """What plain peft saves: the weights of ``lora_run``, and nothing of ours beside them."""
    base = AutoModelForVideoClassification.from_pretrained(
        tiny_base, num_labels=2, ignore_mismatched_sizes=True
    )
    model = get_peft_model(
        base,
        LoraConfig(
            r=8,
            lora_alpha=16,
            target_modules=["query", "key", "value"],
            modules_to_save=["classifier"],
        ),
    )
    trained = load_file(lora_run / "best_model_lora_adapter" / "adapter_model.safetensors")
    state = model.state_dict()
    for name, tensor in trained.items():
        place = name.replace(".lora_A.", ".lora_A.default.").replace(".lora_B.", ".lora_B.default.")
        place = place.replace("classifier.", "classifier.modules_to_save.default.")
        state[place].copy_(tensor)
    folder = tmp_path / "foreign"
    model.save_pretrained(str(folder))
    return folder


def test_of_another_programs_adapter_is_told_what_is_known_and_what_is_not(
    foreign: Path, tiny_base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(["doctor", str(foreign)]) == 0
    said = capsys.readouterr().out
    assert "which nothing proves, and which is not followed" in said
    assert "LoRA, r 8, lora_alpha 16, on 2× attention.attention" in said
    assert "not proved: name its base with --base" in said
    options = ["--base", str(tiny_base), "--labels", ",".join(LABELS)]
    assert cli.run(["doctor", str(foreign), *options]) == 0
    said = capsys.readouterr().out
    assert "alive in all 6 layers" in said
    assert "whether" in said
    assert "is the base that it was trained on" in said


def test_another_programs_adapter_answers_as_the_same_weights_do_here(
    foreign: Path, tiny_base: Path, lora_run: Path, test_clips: list[Path]
) -> None:
    theirs = load(foreign, base=str(tiny_base), labels=LABELS)
    ours = load(lora_run)
    for clip in test_clips:
        assert theirs.classify(clip).logits == ours.classify(clip).logits


def test_another_programs_adapter_is_evaluated_and_merged_on_a_base_that_is_named(
    foreign: Path, tiny_base: Path, few_clips: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    (foreign / "labels.json").write_text(json.dumps(LABELS))
    base = ["--base", str(tiny_base)]
    assert cli.run(["evaluate", str(foreign), *base, "--data", str(few_clips)]) == 0
    captured = capsys.readouterr()
    assert "accuracy" in captured.out
    assert "not known of" in captured.err
    out = tmp_path / "bundle"
    arguments = [
        "merge-export",
        str(foreign),
        *base,
        "--out",
        str(out),
        "--verify-on",
        str(few_clips),
    ]
    assert cli.run(arguments) == 0, capsys.readouterr().err
    assert checkup.check(out).passed
    assert "Not known of the adapter" in (out / "README.md").read_text()


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ([], "BaseNotNamedError"),
        (["--base", "TINY"], "LabelsNotNamedError"),
        (["--base", "TINY", "--labels", "a,b,c"], "LabelOrderError"),
        (["--base", "videomae-nano", "--labels", "a,b"], "AdapterPartMissingError"),
    ],
)
def test_what_another_programs_adapter_does_not_say_is_asked_for(
    foreign: Path, tiny_base: Path, few_clips: Path, capsys: pytest.CaptureFixture[str],
    options: list[str], error: str,
) -> None:  # fmt: skip
    options = [str(tiny_base) if option == "TINY" else option for option in options]
    assert cli.run(["evaluate", str(foreign), "--data", str(few_clips), *options]) == 2
    assert f"[{error}]" in capsys.readouterr().err


def test_an_adapter_without_its_head_is_refused(foreign: Path, tiny_base: Path) -> None:
    edit_tensors(foreign, without("classifier"))
    edit_config(foreign, modules_to_save=None)
    found = checkup.check(foreign, base=str(tiny_base), labels=LABELS)
    assert mistakes(found) == {"model": "HeadMissingError"}


def test_base_and_labels_belong_to_an_adapters_folder(
    lora_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(["evaluate", str(lora_run), "--base", "videomae-nano"]) == 2
    assert "[BackendCannotError]" in capsys.readouterr().err
    assert cli.run(["doctor", "--base", "videomae-nano"]) == 2


def test_a_fault_of_ours_costs_one_finding_and_not_the_report(
    lora_run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(_: Path) -> None:
        raise ZeroDivisionError("by nothing")

    monkeypatch.setattr("lora_deploy.runtime.trained.open_run", broken)
    assert cli.run(["doctor", str(lora_run)]) == 1
    said = capsys.readouterr().out
    assert "ok files" in said
    assert "can't be looked at: ZeroDivisionError: by nothing" in said
