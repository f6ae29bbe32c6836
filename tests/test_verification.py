"""``verify``: any changed byte is found, and any form that answers otherwise, with PyTorch and without."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from lora_deploy import cli, verification
from lora_deploy.artifact import bundle
from lora_deploy.artifact.bundle import CompiledForm
from lora_deploy.checkup import Checkup
from lora_deploy.config import ProofSettings
from lora_deploy.errors import (
    CertificateUnreadableError,
    DataError,
    LoraDeployError,
    NothingDecodedError,
)
from lora_deploy.proof.chain import budgets_of
from lora_deploy.runtime import ov
from lora_deploy.runtime.eager import TorchBackend
from lora_deploy.runtime.ort import OnnxRuntimeBackend
from lora_deploy.runtime.ov import OpenVinoBackend, has_bf16
from lora_deploy.verification import read_certificate, verify
from tests.damage import edit_tensors
from tests.proved_models import ACTIONS, only

FORMS = [
    "merged", "onnx", "frames-in", "onnxruntime-fp32", "openvino-fp32", "onnxruntime-fp16",
    *(["openvino-bf16"] if has_bf16() else []), "onnxruntime-int8", "openvino-int8",
    "adapter-graph", "adapter-graph-base", "adapter default",
]  # fmt: skip

EVERY_FILE = [
    "README.md", "adapters/default.onnx_adapter", "adapters/default/README.md",
    "adapters/default/adapter_config.json", "adapters/default/adapter_model.safetensors",
    "adapters/default/labels.json", "bundle.json",
    "certificate.html", "certificate.json", "model/config.json", "model/model.safetensors",
    "model/preprocessor_config.json", "onnx/adapters.onnx", "onnx/model.fp16.onnx", "onnx/model.frames.onnx",
    "onnx/model.int8.onnx", "onnx/model.int8.ort.onnx", "onnx/model.onnx", "onnx/model.ort.onnx",
]  # fmt: skip


@pytest.fixture
def other_clips(few_untrue: Path, tmp_path: Path, media: Path) -> Path:
    """One clip of each action that the certificate has, and one that it has not."""
    out = only(few_untrue, tmp_path / "other.csv", folders=ACTIONS, most=1)
    new = media / "dataset" / "weizmann4" / "bend" / "s0_orig.mp4"
    out.write_text(out.read_text() + f"{new.resolve()},bend,val,s0\n")
    return out


@pytest.fixture
def bytes_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A computer with no runtime at all."""
    monkeypatch.setattr(verification, "is_installed", lambda _: False)


def wrong(found: Checkup) -> list[str]:
    return [finding.part for finding in found.findings if finding.passed is False]


def about(found: Checkup, part: str) -> str:
    """All that is said of a part, its verdicts and errors before."""
    return "; ".join(
        f"{one.passed} {one.error} {one.text}" for one in found.findings if one.part == part
    )


def flip(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place % len(content)] ^= 1 << (place % 8)
    path.write_bytes(content)


# Sound bundles ------------------------------------------------------------------------------------


def test_a_run_is_told_what_to_do_first(lora_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["verify", str(lora_run)]) == 2
    said = capsys.readouterr().err
    assert "holds no bundle.json" in said
    assert "merge-export RUN --out BUNDLE" in said


def test_a_sound_bundle_passes_without_clips(full_bundle: Path) -> None:
    found = verify(full_bundle)
    assert wrong(found) == []
    assert [one.part for one in found.findings] == ["files", "certificate", *FORMS]
    assert all(one.passed for one in found.findings)
    for form in FORMS:
        assert "answers noise as when it was shipped" in about(found, form)


def test_on_the_certificates_clips_the_trained_model_is_what_is_held_against(
    full_bundle: Path, few_untrue: Path
) -> None:
    found = verify(full_bundle, few_untrue)
    assert wrong(found) == []
    assert about(found, "clips") == "True None 32 clips, all of them of the certificate"
    for form in FORMS:
        truth = "base" if form == "adapter-graph-base" else "unmerged"
        assert f"same label as {truth} on 100.0%" in about(found, form)


def test_on_other_clips_forms_are_held_against_each_other(
    full_bundle: Path, other_clips: Path
) -> None:
    found = verify(full_bundle, other_clips)
    assert wrong(found) == []
    assert about(found, "clips").startswith("None None 5 clips, 4 of them of the certificate")
    for form in FORMS:
        assert about(found, form).startswith("True")
        truth = "base" if form == "adapter-graph-base" else "unmerged"
        assert f"same label as {truth} on 100.0%" in about(found, form)
        assert "answers noise as when it was shipped" in about(found, form)
        alone = form in ("merged", "adapter-graph-base")
        assert ("same label as merged on 100.0%" in about(found, form)) != alone


def test_a_bundle_that_was_shipped_with_one_label_for_nearly_all_clips_is_not_void_later(
    full_bundle_copy: Path, few_untrue: Path, tmp_path: Path
) -> None:
    few = only(few_untrue, tmp_path / "few.csv", folders=("bend",), most=8)
    assert wrong(verify(full_bundle_copy, few)) == ["clips"]
    assert "the proof is void: the model names bend for 8 of 8" in about(
        verify(full_bundle_copy, few), "clips"
    )
    edit_certificate(full_bundle_copy, answered={"bend": 32})
    assert wrong(verify(full_bundle_copy, few)) == []


# Changed bytes ------------------------------------------------------------------------------------


def test_the_list_of_files_is_whole(full_bundle: Path) -> None:
    found = [p.relative_to(full_bundle).as_posix() for p in full_bundle.rglob("*") if p.is_file()]
    assert sorted(found) == EVERY_FILE


@pytest.mark.usefixtures("bytes_alone")
def test_one_flipped_byte_is_found_in_every_file(full_bundle_copy: Path) -> None:
    assert wrong(verify(full_bundle_copy)) == ["answers"]  # and that is no file
    generator = np.random.default_rng(5)
    for name in EVERY_FILE:
        path = full_bundle_copy / name
        sound = path.read_bytes()
        for place in map(
            int, generator.integers(0, len(sound), 40 if name == "bundle.json" else 1)
        ):
            flip(path, place)
            assert path.read_bytes() != sound
            try:
                found = verify(full_bundle_copy)
            except LoraDeployError:
                assert name == "bundle.json"  # it is no manifest any more
            else:
                assert name in wrong(found), (name, place)
                assert "FileChangedError" in about(found, name)
            path.write_bytes(sound)
    assert wrong(verify(full_bundle_copy)) == ["answers"]


@pytest.mark.usefixtures("bytes_alone")
def test_every_changed_file_is_named_and_not_only_the_first(full_bundle_copy: Path) -> None:
    names = ["README.md", "onnx/model.int8.onnx", "model/config.json"]
    for name in names:
        flip(full_bundle_copy / name, 7)
    assert set(wrong(verify(full_bundle_copy))) == set(names)


@pytest.mark.usefixtures("bytes_alone")
@pytest.mark.parametrize("name", ["extra.txt", "onnx/model.bf16.onnx", "model/adapter_config.json"])
def test_a_file_that_was_added_is_found(name: str, full_bundle_copy: Path) -> None:
    (full_bundle_copy / name).write_text("{}")
    found = verify(full_bundle_copy)
    assert wrong(found) == ["files"]
    assert "FileUnknownError" in about(found, "files")
    assert name in about(found, "files")


@pytest.mark.usefixtures("bytes_alone")
def test_every_missing_file_is_found(full_bundle_copy: Path) -> None:
    for name in EVERY_FILE:
        if name == "bundle.json":
            continue
        path = full_bundle_copy / name
        path.rename(aside := full_bundle_copy.with_name("aside"))
        found = verify(full_bundle_copy)
        assert name in wrong(found)
        assert "FileMissingError" in about(found, name)
        aside.rename(path)


@pytest.mark.usefixtures("bytes_alone")
def test_a_file_that_became_a_link_is_found(full_bundle_copy: Path) -> None:
    path = full_bundle_copy / "README.md"
    path.rename(aside := full_bundle_copy.with_name("aside"))
    path.symlink_to(aside)
    assert wrong(verify(full_bundle_copy)) == ["README.md"]


def test_a_bundle_without_a_seal_is_of_earlier_times_and_not_wrong(full_bundle_copy: Path) -> None:
    take_seal_away(full_bundle_copy)
    assert bundle.is_sealed(full_bundle_copy) is None
    found = verify(full_bundle_copy)
    assert wrong(found) == []
    assert "bears no seal" in about(found, "bundle.json")


def test_the_command_ends_with_1_and_names_the_error(
    full_bundle_copy: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verification, "is_installed", lambda name: name == "onnxruntime")
    assert cli.run(["verify", str(full_bundle_copy)]) == 0
    flip(full_bundle_copy / "onnx" / "model.int8.onnx", 1000)
    capsys.readouterr()
    assert cli.run(["verify", str(full_bundle_copy), "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert not told["passed"]
    assert {one["error"] for one in told["findings"] if one["error"]} == {"FileChangedError"}


# Forms that answer otherwise ----------------------------------------------------------------------


def drift(
    monkeypatch: pytest.MonkeyPatch, backend: type, by: Callable[[np.ndarray], np.ndarray]
) -> None:
    """As another version of a runtime might."""
    answering = backend.logits  # type: ignore[attr-defined]
    monkeypatch.setattr(backend, "logits", lambda self, pixels: by(answering(self, pixels)))


@pytest.mark.parametrize(
    ("backend", "forms"),
    [
        (OpenVinoBackend, [form for form in FORMS if form.startswith("openvino")]),
        (OnnxRuntimeBackend, [form for form in FORMS if form.startswith("onnx")]),
    ],
)
@pytest.mark.parametrize(
    "by",
    [lambda logits: np.roll(logits, 1, axis=1), lambda logits: logits * np.float32(np.nan)],
    ids=["other labels", "no numbers"],
)
def test_a_form_that_drifted_is_found_with_clips_and_without(
    backend: type,
    forms: list[str],
    by: Callable[[np.ndarray], np.ndarray],
    full_bundle: Path,
    few_untrue: Path,
    other_clips: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    drift(monkeypatch, backend, by)
    found = verify(full_bundle)
    assert wrong(found) == forms
    for form in forms:
        assert about(found, form).startswith(
            f"False AnswersChangedError {form} answers otherwise than when it was shipped"
        )
    with np.errstate(all="ignore"):
        for clips in (few_untrue, other_clips):
            found = verify(full_bundle, clips)
            assert wrong(found) == forms
            for form in forms:
                assert about(found, form).startswith("False FormsDifferError")


def test_the_command_names_a_form_that_drifted(
    full_bundle: Path,
    few_untrue: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    drift(monkeypatch, OpenVinoBackend, lambda logits: np.roll(logits, 1, axis=1))
    for arguments, error in (
        ([], "AnswersChangedError"),
        (["--data", str(few_untrue)], "FormsDifferError"),
    ):
        assert cli.run(["verify", str(full_bundle), *arguments, "--json"]) == 1
        told = json.loads(capsys.readouterr().out)["findings"]
        assert [one["part"] for one in told if one["error"] == error] == [
            form for form in FORMS if form.startswith("openvino")
        ]


def test_a_little_is_within_the_budget_that_the_bundle_was_shipped_with(
    full_bundle_copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    by = np.array([0.01, 0, 0, 0], np.float32)
    drift(monkeypatch, OpenVinoBackend, lambda logits: logits + by)
    assert wrong(verify(full_bundle_copy)) == ["openvino-fp32"]
    links = json.loads((full_bundle_copy / "certificate.json").read_text())["links"]
    for link in links:
        link["budget"]["largest_difference"] = 0.5 if link["precision"] == "fp32" else 0.0
    edit_certificate(full_bundle_copy, links=links)
    assert wrong(verify(full_bundle_copy)) == [
        form for form in FORMS if form in ("openvino-bf16", "openvino-int8")
    ]


# Bundles that were made again after a change ------------------------------------------------------


@pytest.fixture
def other_graph(full_bundle_copy: Path) -> Path:
    """A bundle whose forms are all of one graph, with another bias in its classifier, and sealed again."""
    keep = [
        CompiledForm(backend="onnxruntime", precision="fp32", file=bundle.ONNX),
        CompiledForm(backend="openvino", precision="fp32", file=bundle.ONNX),
    ]
    for name in ("model", "adapters"):
        shutil.rmtree(full_bundle_copy / name)
    for path in (full_bundle_copy / "onnx").glob("model.*.onnx"):
        path.unlink()
    manifest = bundle.read_bundle_manifest(full_bundle_copy)
    manifest = manifest.model_copy(update={"forms": tuple(keep), "adapters": ()})
    bundle.write_bundle_manifest(full_bundle_copy, manifest)
    graph = onnx.load(full_bundle_copy / bundle.ONNX)
    bias = next(one for one in graph.graph.initializer if one.name.endswith("classifier.bias"))
    # One label a little less likely: on clips that are learnt by heart, the labels stay.
    by = np.array([0.5, 0, 0, 0], np.float32)
    bias.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(bias) + by, bias.name))
    onnx.save(graph, full_bundle_copy / bundle.ONNX)
    seal_again(full_bundle_copy)
    return full_bundle_copy


ONE_GRAPH = ["onnx", "onnxruntime-fp32", "openvino-fp32"]


@pytest.mark.parametrize("known", [0, 1, 4], ids=["none", "one", "all but one"])
def test_clips_of_the_user_do_not_hide_that_a_graph_was_changed(
    known: int, other_graph: Path, other_clips: Path
) -> None:
    """Its forms agree with each other on any clip, being of one file."""
    assert wrong(verify(other_graph)) == ONE_GRAPH
    head, *rows = other_clips.read_text().splitlines()
    other_clips.write_text("\n".join([head, *rows[4 - known :]]))
    found = verify(other_graph, other_clips)
    assert wrong(found)[:3] == ONE_GRAPH
    error = "FormsDifferError" if known else "AnswersChangedError"
    for form in ONE_GRAPH:
        assert about(found, form).startswith(f"False {error}")


def test_clips_that_are_the_certificates_are_held_against_it_whatever_else_is_there(
    other_graph: Path, other_clips: Path
) -> None:
    edit_certificate(other_graph, noise_logits={})
    found = verify(other_graph, other_clips)
    assert wrong(found)[:3] == ONE_GRAPH
    assert "answers differently from unmerged" in about(found, "onnx")


def test_forms_of_one_file_prove_nothing_of_it_to_each_other(
    other_graph: Path, other_clips: Path
) -> None:
    edit_certificate(other_graph, noise_logits={}, logits={})
    for clips in (None, other_clips):
        found = verify(other_graph, clips)
        assert not any(one.passed for one in found.findings if one.part in ONE_GRAPH)
        assert "answers" in wrong(found)
        assert about(found, "answers").startswith("False NothingComparedError")
    assert "made of the same file as onnx" in about(found, "openvino-fp32")


def test_an_adapter_that_was_changed_is_found_with_clips_and_without(
    full_bundle_copy: Path, few_untrue: Path, other_clips: Path
) -> None:
    def change(tensors: dict[str, torch.Tensor]) -> None:
        for name, tensor in tensors.items():
            if "lora_B" in name:
                tensors[name] = -3 * tensor

    edit_tensors(full_bundle_copy / "adapters" / "default", change)
    seal_again(full_bundle_copy)
    for clips in (None, few_untrue, other_clips):
        assert wrong(verify(full_bundle_copy, clips)) == ["adapter default"]


def test_an_adapter_that_answers_otherwise_is_found_with_clips_and_without(
    full_bundle: Path, few_untrue: Path, other_clips: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    turn_torch(monkeypatch, "unmerged")
    for clips, error in (
        (None, "AnswersChangedError"),
        (few_untrue, "FormsDifferError"),
        (other_clips, "FormsDifferError"),
    ):
        found = verify(full_bundle, clips)
        assert wrong(found) == ["adapter default"]
        assert about(found, "adapter default").startswith(f"False {error}")


def turn_torch(monkeypatch: pytest.MonkeyPatch, form: str) -> None:
    """Let one of the forms that PyTorch runs name other labels."""
    answering = TorchBackend.logits

    def turned(self: TorchBackend, pixels: np.ndarray) -> np.ndarray:
        logits = answering(self, pixels)
        return np.roll(logits, 1, axis=1) if self.form == form else logits

    monkeypatch.setattr(TorchBackend, "logits", turned)


@pytest.fixture
def strange_clips(other_clips: Path) -> Path:
    """The clip alone that the certificate has not; one label for all of them is void, and is told."""
    head, *rows = other_clips.read_text().splitlines()
    other_clips.write_text("\n".join([head, rows[-1]]))
    return other_clips


def test_a_form_that_is_wrong_itself_accuses_no_other(
    full_bundle: Path, strange_clips: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    turn_torch(monkeypatch, "merged")
    found = verify(full_bundle, strange_clips)
    assert wrong(found) == ["merged", "clips"]
    assert "same label as onnx on 100.0%" in about(found, "openvino-fp32")


def test_a_form_held_against_a_lower_precision_has_the_budget_of_that(
    full_bundle_copy: Path, strange_clips: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = bundle.read_bundle_manifest(full_bundle_copy)
    forms = tuple(reversed(manifest.forms))
    bundle.write_bundle_manifest(full_bundle_copy, manifest.model_copy(update={"forms": forms}))
    monkeypatch.setattr(verification, "is_installed", lambda name: name == "openvino")
    found = verify(full_bundle_copy, strange_clips)
    assert wrong(found) == ["clips"]
    told = about(found, "openvino-fp32")
    assert "same label as openvino-int8 on 100.0%" in told
    apart = float(re.findall(r"differ by at most (\S+);", told)[0])
    assert apart > budgets_of(ProofSettings())["fp32"].largest_difference


# What is not here ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("base", "said"),
    [
        ("far/away", "base 'far/away' is no folder here"),
        ("far/away/base", "there is no base called 'far/away/base'"),
    ],
    ids=["hub id", "folder"],
)
def test_a_base_that_is_not_here_is_said_and_is_not_wrong(
    base: str, said: str, full_bundle_copy: Path, few_untrue: Path
) -> None:
    manifest = bundle.read_bundle_manifest(full_bundle_copy)
    away = manifest.base.model_copy(update={"id": base})
    bundle.write_bundle_manifest(full_bundle_copy, manifest.model_copy(update={"base": away}))
    for clips in (None, few_untrue):
        found = verify(full_bundle_copy, clips)
        assert found.passed
        assert about(found, "adapter default").startswith(f"None None not asked: {said}")


def test_a_precision_that_is_not_here_is_said_and_is_not_wrong(
    full_bundle_copy: Path, few_untrue: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = bundle.read_bundle_manifest(full_bundle_copy)
    half = CompiledForm(backend="openvino", precision="bf16", file=bundle.ONNX)
    if half not in manifest.forms:
        forms = (*manifest.forms, half)
        bundle.write_bundle_manifest(full_bundle_copy, manifest.model_copy(update={"forms": forms}))
        links = json.loads((full_bundle_copy / "certificate.json").read_text())["links"]
        speaking = {**links[0], "forms": ["unmerged", half.name]}
        edit_certificate(full_bundle_copy, links=[*links, speaking])
    monkeypatch.setattr(ov, "has_bf16", lambda: False)
    for clips in (None, few_untrue):
        found = verify(full_bundle_copy, clips)
        assert found.passed
        assert about(found, half.name).startswith("None None not asked: this CPU does not compute")


@pytest.mark.parametrize("with_clips", [False, True])
def test_without_any_runtime_nothing_is_compared_and_nothing_passes(
    with_clips: bool,
    full_bundle: Path,
    few_untrue: Path,
    bytes_alone: None,
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments = ["--data", str(few_untrue)] * with_clips
    assert cli.run(["verify", str(full_bundle), *arguments, "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert not told["passed"]
    assert [one["error"] for one in told["findings"] if one["passed"] is False] == [
        "NothingComparedError"
    ]


def test_a_certificate_that_records_no_answers_is_not_enough_without_clips(
    full_bundle_copy: Path, few_untrue: Path
) -> None:
    edit_certificate(full_bundle_copy, noise_logits={})
    assert wrong(verify(full_bundle_copy)) == ["answers"]
    assert wrong(verify(full_bundle_copy, few_untrue)) == []


_WITHOUT_TORCH = """
import sys
from lora_deploy import cli, extras
ABSENT = {"torch", "transformers", "peft", "onnx"}
class Blocked:
    def find_spec(self, name, *_):
        if name.partition(".")[0] in ABSENT:
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Blocked())
is_installed = extras.is_installed
extras.is_installed = lambda name: name not in ABSENT and is_installed(name)
sys.exit(cli.run(sys.argv[1:]))
"""


@pytest.mark.parametrize("with_clips", [False, True])
def test_it_needs_no_pytorch(with_clips: bool, full_bundle: Path, few_untrue: Path) -> None:
    arguments = ["verify", str(full_bundle), "--json"]
    finished = subprocess.run(
        [
            sys.executable,
            "-c",
            _WITHOUT_TORCH,
            *arguments,
            *(["--data", str(few_untrue)] * with_clips),
        ],
        capture_output=True,
        text=True,
    )
    assert finished.returncode == 0, finished.stderr
    told = {one["part"]: one for one in json.loads(finished.stdout)["findings"]}
    for form in ("merged", "adapter default"):
        assert told[form]["passed"] is None
        assert told[form]["text"] == "not asked: PyTorch is not installed"
    assert all(told[form]["passed"] for form in FORMS[1:-1])


def test_a_runtime_that_is_not_installed_is_said_and_is_not_wrong(
    full_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verification, "is_installed", lambda name: name == "onnxruntime")
    found = verify(full_bundle)
    assert found.passed
    for form in FORMS:
        told = about(found, form)
        assert told.startswith(
            "True"
            if form.startswith(("onnx", "frames", "adapter-graph"))
            else "None None not asked"
        )


# Certificates -------------------------------------------------------------------------------------


def edit_certificate(folder: Path, **values: object) -> None:
    path = folder / "certificate.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))
    seal_again(folder)


def seal_again(folder: Path) -> None:
    manifest = bundle.read_bundle_manifest(folder)
    files = bundle.record_files(folder)
    bundle.write_bundle_manifest(folder, manifest.model_copy(update={"files": files}))


def take_seal_away(folder: Path) -> None:
    path = folder / "bundle.json"
    values = json.loads(path.read_text())
    del values["seal"]
    path.write_text(json.dumps(values))


def write_old_certificate(folder: Path) -> None:
    """As version 0.1 wrote it, which knew no seals."""
    link = {
        "forms": ["unmerged", "merged"], "agreement": 1.0, "flips": [], "budget": 0.0001,
        "largest_logit_difference": 0.0, "largest_probability_difference": 0.0, "passed": True,
    }  # fmt: skip
    (folder / "certificate.json").write_text(
        json.dumps({
            "schema_version": 1, "passed": True, "clips": 2, "source": "validation clips",
            "clip_names": ["a.mp4", "b.mp4"], "left_out": [], "accuracy": {"merged": 0.9},
            "liveness": {"largest_logit_difference": 11.0, "needed": 1e-4, "passed": True},
            "links": [link], "objections": [],
        })
    )  # fmt: skip
    seal_again(folder)
    take_seal_away(folder)


def test_an_old_certificate_is_shrugged_at_and_all_the_rest_is_done(
    full_bundle_copy: Path,
    few_untrue: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write_old_certificate(full_bundle_copy)
    found = verify(full_bundle_copy)
    assert wrong(found) == ["answers"]  # of which none was compared
    assert about(found, "certificate").startswith("None None is of an older version")
    for form in FORMS:
        assert about(found, form).startswith("None None opens and answers")
    found = verify(full_bundle_copy, few_untrue)
    assert wrong(found) == []
    assert about(found, "merged").startswith("None None accuracy")
    alone = "adapter-graph-base"
    assert about(found, alone).endswith("nothing recorded to hold it against")
    for form in (one for one in FORMS[1:] if one != alone):
        assert about(found, form).startswith("True None same label as merged on 100.0%")
    drift(monkeypatch, OpenVinoBackend, lambda logits: -logits)
    assert wrong(verify(full_bundle_copy, few_untrue)) == [
        form for form in FORMS if form.startswith("openvino")
    ]
    flip(full_bundle_copy / "README.md", 3)
    assert "README.md" in wrong(verify(full_bundle_copy))


def test_an_old_certificate_in_a_sealed_bundle_is_damage(full_bundle_copy: Path) -> None:
    (full_bundle_copy / "certificate.json").write_text('{"schema_version": 1}')
    seal_again(full_bundle_copy)
    found = verify(full_bundle_copy)
    assert wrong(found) == ["certificate"]
    assert about(found, "certificate").startswith("False CertificateUnreadableError")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "No such file"),
        ("{", "can't be read"),
        ("[]", "can't be read"),
        ('{"schema_version": 2}', "can't be read"),
        ('{"schema_version": true}', "can't be read"),
        ("[" * 100_000, "nested too deeply"),
    ],
)
def test_a_certificate_that_can_not_be_read_is_an_error_and_all_the_rest_is_done(
    content: str | None, said: str, full_bundle_copy: Path, other_clips: Path
) -> None:
    path = full_bundle_copy / "certificate.json"
    path.unlink()
    if content is not None:
        path.write_text(content)
    with pytest.raises(CertificateUnreadableError, match=said):
        read_certificate(full_bundle_copy)
    seal_again(full_bundle_copy)
    found = verify(full_bundle_copy, other_clips)
    assert wrong(found) == ["certificate"]
    assert "CertificateUnreadableError" in about(found, "certificate")
    assert "same label as merged" in about(found, "onnxruntime-int8")


def test_a_certificate_of_a_newer_version_is_not_guessed_at(full_bundle_copy: Path) -> None:
    edit_certificate(full_bundle_copy, schema_version=3)
    with pytest.raises(CertificateUnreadableError, match="schema version 3; this program knows"):
        read_certificate(full_bundle_copy)


def test_a_certificate_whose_answers_are_not_of_its_clips_is_damaged(
    full_bundle_copy: Path,
) -> None:
    values = json.loads((full_bundle_copy / "certificate.json").read_text())
    for change in (
        {"clips": 31},
        {"clips": 0, "proof_clips": [], "logits": {}},
        {"proof_clips": values["proof_clips"][1:]},
        {"logits": {"unmerged": values["logits"]["unmerged"][1:]}},
        {"logits": {"unmerged": [[0.0]] * 32}},
        {"noise_logits": {"onnx": [[0.0], [0.0]]}},
        {"noise_logits": {"onnx": values["noise_logits"]["onnx"][:1]}},
    ):
        edit_certificate(full_bundle_copy, **{**values, **change})
        with pytest.raises(CertificateUnreadableError, match="an answer for each of its clips"):
            read_certificate(full_bundle_copy)


@pytest.mark.usefixtures("bytes_alone")
def test_a_certificate_that_does_not_speak_for_this_bundle_is_told(full_bundle_copy: Path) -> None:
    values = json.loads((full_bundle_copy / "certificate.json").read_text())
    without_int8 = [link for link in values["links"] if "int8" not in link["forms"][1]]
    turned = list(reversed(values["labels"]))
    for change, said in (
        ({"passed": False}, "failed on 32 clips"),
        ({"void": "because"}, "void on 32 clips"),
        ({"links": without_int8}, "does not speak of onnxruntime-int8, openvino-int8"),
        ({"labels": turned}, "speaks of other labels"),
    ):
        edit_certificate(full_bundle_copy, **{**values, **change})
        found = verify(full_bundle_copy)
        assert wrong(found) == ["certificate"], said
        assert said in about(found, "certificate")


def test_a_certificate_of_another_model_is_told_once_and_compared_with_nothing(
    full_bundle_copy: Path, other_clips: Path
) -> None:
    values = json.loads((full_bundle_copy / "certificate.json").read_text())
    for key in ("logits", "noise_logits"):
        values[key] = {form: [row[:3] for row in rows] for form, rows in values[key].items()}
    edit_certificate(full_bundle_copy, **{**values, "labels": values["labels"][:3]})
    for clips in (None, other_clips):
        assert wrong(verify(full_bundle_copy, clips)) == ["certificate"]


# Clips --------------------------------------------------------------------------------------------


def test_clips_that_can_not_be_used_are_the_users_mistake(
    full_bundle: Path, few_untrue: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    strange = tmp_path / "strange.csv"
    strange.write_text(few_untrue.read_text().replace(",bend,", ",dance,"))
    with pytest.raises(DataError, match="labels that the model does not know: dance"):
        verify(full_bundle, strange)
    assert cli.run(["verify", str(full_bundle), "--data", str(strange)]) == 2
    assert "[UnknownLabelError]" in capsys.readouterr().err


def test_a_clip_that_can_not_be_decoded_is_said_and_the_others_do(
    full_bundle: Path, few_untrue: Path, tmp_path: Path, media: Path
) -> None:
    clips = only(few_untrue, tmp_path / "clips.csv", folders=ACTIONS, most=1)
    torn = shutil.copy(media / "malformed" / "audio_only.mp4", tmp_path / "torn.mp4")
    clips.write_text(clips.read_text() + f"{torn},bend,val,s99\n")
    found = verify(full_bundle, clips)
    assert wrong(found) == []
    assert about(found, "clips").startswith("True None 4 clips, all of them")
    assert "torn.mp4: " in about(found, "left out")


def test_where_no_clip_can_be_decoded_the_option_that_was_used_is_named(
    full_bundle: Path, tmp_path: Path, media: Path
) -> None:
    clips = tmp_path / "clips.csv"
    torn = shutil.copy(media / "malformed" / "audio_only.mp4", tmp_path / "torn.mp4")
    clips.write_text(f"path,label,split,group\n{torn},bend,val,s99\n")
    with pytest.raises(NothingDecodedError, match=r"readable ones with --data \(verify\)"):
        verify(full_bundle, clips)


def test_nothing_is_asked_twice_of_a_form(
    full_bundle: Path, few_untrue: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Clips one by one and the noise: no more."""
    counted: list[int] = []

    def count(logits: np.ndarray) -> np.ndarray:
        counted.append(len(logits))
        return logits

    drift(monkeypatch, OpenVinoBackend, count)
    verify(full_bundle, few_untrue)
    forms = [form for form in FORMS if form.startswith("openvino")]
    assert sum(counted) == len(forms) * (32 + 2)


def test_the_example_that_comes_with_the_program_is_sound() -> None:
    found = verify(Path(verification.__file__).parent / "assets" / "example-bundle")
    assert wrong(found) == []
    assert "answers noise as when it was shipped" in about(found, "onnxruntime-fp32")
