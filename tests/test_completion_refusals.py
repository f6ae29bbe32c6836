"""When ``verify --complete`` changes nothing: what can't be completed, what changed meanwhile, and kills.

No card is here: ONNX Runtime's answers stand for an engine's, and `tests/card_computers.py` for a card.
"""

import dataclasses
import json
import shutil
from collections.abc import Callable
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from lora_deploy import atomic, cli
from lora_deploy.artifact import bundle as artifact
from lora_deploy.artifact.bundle import (
    BundleManifest,
    read_bundle_manifest,
    write_bundle_manifest,
)
from lora_deploy.completion import CardForm, complete, forms
from lora_deploy.errors import (
    CompletionBusyError,
    EngineCardError,
    EngineUnusableError,
    FileChangedError,
    NotCompletableError,
    ProofClipsMissingError,
)
from lora_deploy.proof.answers import Clips
from lora_deploy.runtime.card import has_binding
from lora_deploy.runtime.vouched import is_vouched
from tests.card_computers import ENGINE, Computer, with_engine
from tests.completing import (
    CARD,
    NAME,
    Answers,
    certificate_of,
    contents,
    here,
    is_whole,
    lines,
    same,
    turned,
    with_new_hashes,
)
from tests.faults import attempt

SPEAKING = ("bundle.json", "certificate.json", "certificate.html", "README.md")
"""What says whether an engine was run."""


@pytest.fixture
def folder(bundle_copy: Path) -> Path:
    """A BUNDLE with an engine that was never run."""
    with_engine(bundle_copy)
    return bundle_copy


def test_without_a_card_one_clear_line_and_nothing_changed(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if Path("/proc/driver/nvidia/version").exists():
        pytest.skip("a driver is here")
    before = contents(folder)
    assert cli.run(["verify", str(folder), "--complete"]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert len(printed.err.strip().splitlines()) == 1
    expected = "no NVIDIA driver is here" if has_binding() else "cuda-bindings is needed to reach"
    assert expected in printed.err
    assert contents(folder) == before


def raising(error: Exception) -> Callable[..., Any]:
    def change(logits: NDArray[np.float32]) -> Any:
        raise error

    return change


@pytest.mark.parametrize("is_promised", [True, False])
def test_what_can_t_be_run_stays_unrun(is_promised: bool, folder: Path) -> None:
    before = contents(folder)
    error = EngineUnusableError("it was of another kind")
    found = complete(folder, on_card=here(raising(error), is_promised=is_promised))
    assert found.passed is not is_promised  # an engine is promised by the bundle, a provider is not
    [(passed, text)] = lines(found)
    assert passed is (False if is_promised else None)
    assert text.startswith("not run: it was of another kind")
    assert contents(folder) == before


@pytest.mark.parametrize("is_promised", [True, False])
def test_what_ends_one_form_costs_nothing_that_came_out_before(
    is_promised: bool, folder: Path
) -> None:
    """PyTorch and ONNX Runtime have errors of their own, as that a card's memory is full."""
    error = RuntimeError("CUDA out of memory.\nTried to allocate 2 GiB")

    def both(*asked: Any) -> list[CardForm]:
        ended = here(raising(error), name="torch-bf16", is_promised=is_promised)
        return [*here()(*asked), *ended(*asked)]

    if is_promised:
        with pytest.raises(RuntimeError, match="out of memory"):
            complete(folder, on_card=both)
    else:
        found = complete(folder, on_card=both)
        assert found.passed
        said = "not run: RuntimeError: CUDA out of memory. Tried to allocate 2 GiB"
        assert lines(found, "torch-bf16") == [(None, said)]
    assert [one.form for one in certificate_of(folder).completed] == [NAME]
    manifest = read_bundle_manifest(folder)
    assert is_vouched(manifest, manifest.engines[0])
    assert is_whole(folder)


def test_a_provider_that_would_round_float32_is_not_asked_and_that_is_told(
    bundle_copy: Path, with_card: Computer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forms, "_has_provider", lambda backend: backend == "onnxruntime-tensorrt")
    manifest = read_bundle_manifest(bundle_copy)
    before = contents(bundle_copy)
    for value in (None, "1", "0"):
        if value is not None:
            monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", value)
        found = complete(bundle_copy)
        assert found.passed
        [(passed, text)] = lines(found, "onnxruntime-tensorrt-fp32")
        assert passed is None
        assert ("NVIDIA_TF32_OVERRIDE=0" in text) == (value != "0")
        assert [one.held_back != "" for one in forms.on_card(bundle_copy, manifest, None)] == [
            value != "0",
            False,
        ]
    assert contents(bundle_copy) == before


def test_clips_of_the_certificate_that_are_missing_are_counted(
    folder: Path, few_clips: Path, tmp_path: Path
) -> None:
    before = contents(folder)
    head, *rows = few_clips.read_text().splitlines()
    some = tmp_path / "some.csv"
    some.write_text("\n".join([head, *[row for row in rows if ",val," in row][:-1]]) + "\n")
    with pytest.raises(ProofClipsMissingError, match="has 7 of the 8 clips that the certificate"):
        complete(folder, some, on_card=here())
    assert contents(folder) == before


def test_clips_of_the_certificate_that_can_t_be_decoded_here_are_counted(
    folder: Path, few_clips: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Clips.records
    monkeypatch.setattr(Clips, "records", lambda self: real(self)[:-1])
    with pytest.raises(ProofClipsMissingError, match="1 clips of the certificate can't be decoded"):
        complete(folder, few_clips, on_card=here())


def test_a_damaged_bundle_is_not_sealed_anew(folder: Path) -> None:
    path = folder / artifact.MANIFEST
    path.write_text(path.read_text().replace('"temperature": 1.0', '"temperature": 2.0'))
    with pytest.raises(FileChangedError, match=r"bundle\.json is not what was written"):
        complete(folder, on_card=here())


@pytest.mark.parametrize("name", ["onnx/model.onnx", ENGINE.file, "certificate.json"])
def test_a_file_that_has_changed_is_not_vouched_for_anew(name: str, folder: Path) -> None:
    with (folder / name).open("ab") as file:
        file.write(b" ")
    before = contents(folder)
    with pytest.raises(FileChangedError):
        complete(folder, on_card=here())
    assert contents(folder) == before


def test_a_bundle_without_a_seal_can_t_be_completed(folder: Path) -> None:
    path = folder / artifact.MANIFEST
    values = json.loads(path.read_text())
    del values["seal"]
    path.write_text(json.dumps(values))
    with pytest.raises(NotCompletableError, match="bears no seal"):
        complete(folder, on_card=here())


def resealed(folder: Path, **change: Any) -> None:
    """Another certificate, vouched for by the manifest as if it had been written so."""
    certificate = certificate_of(folder).model_copy(update=change)
    (folder / artifact.CERTIFICATE).write_text(certificate.model_dump_json())
    with_new_hashes(folder)


@pytest.mark.parametrize("answers", ["logits", "noise_logits"])
def test_a_bundle_without_recorded_answers_can_t_be_completed(answers: str, folder: Path) -> None:
    resealed(folder, **{answers: {}})
    with pytest.raises(NotCompletableError, match="records no answers"):
        complete(folder, on_card=here())


@pytest.mark.parametrize(
    "change", [{"passed": False}, {"void": "one label"}, {"labels": ("wave_two_hands", "bend")}]
)
def test_a_proof_that_did_not_hold_is_not_completed(change: dict[str, Any], folder: Path) -> None:
    resealed(folder, **change)
    with pytest.raises(NotCompletableError, match="does not prove this bundle"):
        complete(folder, on_card=here())


@pytest.mark.parametrize("other", ["labels", "pixels"])
def test_a_form_of_other_labels_or_pixels_is_not_compared(other: str, folder: Path) -> None:
    answers = Answers(folder, same)
    if other == "labels":
        answers.labels = tuple(reversed(answers.labels))
    else:
        answers.contract = answers.contract.model_copy(update={"std": (1.0, 1.0, 1.0)})
    found = complete(
        folder, on_card=lambda *_: [CardForm(NAME, "fp32", CARD, {1: lambda: answers})]
    )
    assert not found.passed
    assert "names other labels or pixels" in lines(found)[0][1]
    assert certificate_of(folder).completed == ()


def test_without_engines_a_card_leaves_nothing_to_be_asked(bundle_copy: Path) -> None:
    found = complete(bundle_copy, on_card=lambda *_: [])
    assert [(one.part, one.passed) for one in found.findings] == [("certificate", True)]


def test_a_card_that_no_engine_is_for_is_told_what_there_is(folder: Path) -> None:
    with pytest.raises(EngineCardError, match=f"for none of its engines: {NAME}"):
        complete(folder, on_card=lambda *_: [])


def test_two_at_once_do_not_write_over_each_other(folder: Path) -> None:
    def meanwhile(logits: NDArray[np.float32]) -> NDArray[np.float32]:
        with pytest.raises(CompletionBusyError):
            complete(folder, on_card=here())
        return logits

    assert complete(folder, on_card=here(meanwhile)).passed


def test_nothing_is_read_before_it_is_held(folder: Path, few_clips: Path) -> None:
    """Else who comes between reading and holding would be written over."""

    def with_another(*asked: Any) -> list[CardForm]:
        with pytest.raises(CompletionBusyError):
            complete(folder, few_clips, on_card=here(turned))
        return here()(*asked)

    assert complete(folder, on_card=with_another).passed


def test_what_came_out_is_not_written_into_another_bundle(
    folder: Path, few_clips: Path, tmp_path: Path
) -> None:
    other = Path(shutil.copytree(folder, tmp_path / "other"))
    (other / ENGINE.file).write_bytes(b"of other bytes")
    with_new_hashes(other)
    before = contents(other)

    def meanwhile(logits: NDArray[np.float32]) -> NDArray[np.float32]:
        if other.exists():
            folder.rename(tmp_path / "first")
            other.rename(folder)
        return logits

    with pytest.raises(FileChangedError, match="is another bundle than the one"):
        complete(folder, few_clips, on_card=here(meanwhile))
    assert contents(folder) == before


@pytest.mark.parametrize("name", [artifact.CARD, artifact.CERTIFICATE_PAGE])
def test_what_is_changed_while_a_form_is_asked_is_not_sealed_anew(name: str, folder: Path) -> None:
    def meanwhile(logits: NDArray[np.float32]) -> NDArray[np.float32]:
        (folder / name).write_text("something else")
        return logits

    with pytest.raises(FileChangedError, match=name):
        complete(folder, on_card=here(meanwhile))
    assert certificate_of(folder).completed == ()


def test_whoever_completes_does_not_wait_for_himself(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def waiting(_: float) -> None:
        raise AssertionError("waited")

    monkeypatch.setattr(atomic, "time", SimpleNamespace(sleep=waiting))
    assert complete(folder, on_card=here()).passed


def test_killed_before_any_write_the_bundle_is_whole_and_all_old_or_all_new(
    folder: Path, tmp_path: Path, fault_injection: None
) -> None:
    old = contents(folder)
    seen = []
    form = here()(folder, read_bundle_manifest(folder), None)[0]
    asked = Answers(folder, same)  # opened once, as the child is forked for each try
    quick = dataclasses.replace(form, openings={1: lambda: asked})
    for nth in count(1):
        copy = Path(shutil.copytree(folder, tmp_path / str(nth)))
        came = attempt(
            lambda: complete(copy, on_card=lambda *_: [quick]),  # noqa: B023
            copy, nth=nth, mode="kill",
        )  # fmt: skip
        assert is_whole(copy)  # as whoever opens it finds it, without anything done before
        now = contents(copy)
        is_new = now["certificate.json"] != old["certificate.json"]
        assert all((now[name] != old[name]) == is_new for name in SPEAKING)
        assert verify_quietly(copy)
        if came.fault is None:
            assert came.ended == "done"
            assert is_new
            break
        assert came.ended == "killed"
        seen.append(is_new)
        shutil.rmtree(copy)
    assert seen == sorted(seen)
    assert set(seen) == {False, True}


def verify_quietly(folder: Path) -> bool:
    """Whether certificate and manifest fit each other, without asking a form."""
    certificate = certificate_of(folder)
    [engine] = read_bundle_manifest(folder).engines
    return (engine.ran is None) == (certificate.completed == ()) == (certificate.unrun != ())


def test_a_reader_in_the_middle_of_it_finds_the_bundle_whole(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between any two files on their way, and while they are still being written."""
    real = atomic._move_contents
    seen: list[bool] = []

    def look_then_move(source: Path, target: Path) -> None:
        monkeypatch.setattr(atomic, "_move_contents", real)
        first = min(source.iterdir())
        first.replace(target / first.name)  # one is moved, the others are not
        seen.append(is_whole(folder))
        real(source, target)

    def while_staged(stage: Path, manifest: BundleManifest) -> None:
        seen.append(is_whole(folder))
        write_bundle_manifest(stage, manifest)
        monkeypatch.setattr(atomic, "_move_contents", look_then_move)

    monkeypatch.setattr(artifact, "write_bundle_manifest", while_staged)
    assert complete(folder, on_card=here()).passed
    assert seen == [True, True]
