"""``verify --complete``: what was built for a card is run there, and the bundle says so, or stays as it was.

No card is here: ONNX Runtime's answers stand for an engine's, and `tests/card_computers.py` for a card.
"""

import dataclasses
import json
import os
import shutil
from collections.abc import Callable
from html import unescape
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from numpy.typing import NDArray

from lora_deploy import atomic, checkup, cli
from lora_deploy.artifact import bundle as artifact
from lora_deploy.artifact.bundle import (
    BundleManifest,
    Ran,
    read_bundle_manifest,
    write_bundle_manifest,
)
from lora_deploy.checkup import Checkup
from lora_deploy.completion import CardForm, complete, forms
from lora_deploy.errors import (
    CompletionBusyError,
    EngineCardError,
    EngineOverBudgetError,
    EngineUnusableError,
    EngineVersionError,
    FileChangedError,
    NoCardError,
    NotCompletableError,
    ProofClipsMissingError,
)
from lora_deploy.export.build_engines import timing_cache
from lora_deploy.export.engine_order import EngineOrder
from lora_deploy.export.to_tensorrt import _remembering
from lora_deploy.proof.answers import NOISE_CLIPS, Answering, Clips
from lora_deploy.proof.certificate import Certificate
from lora_deploy.runtime.card import has_binding
from lora_deploy.runtime.load import load
from lora_deploy.runtime.own_cache import cache_folder, ready_folder
from lora_deploy.runtime.vouched import is_vouched
from lora_deploy.verification import verify
from tests.card_computers import ENGINE, REASON, Computer, with_engine
from tests.faults import attempt

CARD = "Stand-in 3000 (sm86)"
NAME = ENGINE.name

SPEAKING = ("bundle.json", "certificate.json", "certificate.html", "README.md")
"""What says whether an engine was run."""


class Answers:
    """A stand-in for an engine: another form's answers, changed or not."""

    def __init__(self, folder: Path, change: Callable[[NDArray[np.float32]], Any]) -> None:
        self._plain = load(folder, backend="onnxruntime")
        self._change = change
        self.labels, self.contract = self._plain.labels, self._plain.contract

    def logits(self, frames: NDArray[np.uint8]) -> NDArray[np.float32]:
        return np.asarray(self._change(self._plain.logits(frames)), np.float32)


def same(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    return logits


def turned(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """The last label as the first one: as wrong as can be."""
    return logits[:, ::-1]


def nothing(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    return logits * np.float32(np.nan)


def a_little(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Other answers, and within budget."""
    return logits + np.array([1e-4, 0], np.float32)


Forms = Callable[[Path, BundleManifest, str | None], list[CardForm]]


def here(*changes: Callable[..., Any], name: str = NAME, **more: Any) -> Forms:
    """A computer on which one form can be run, at as many batch sizes as there are changes."""

    more.setdefault("card", CARD)

    def on_card(folder: Path, manifest: BundleManifest, device: str | None) -> list[CardForm]:
        def opening(change: Callable[..., Any]) -> Callable[[], Answering]:
            return lambda: Answers(folder, change)

        openings = {size: opening(change) for size, change in enumerate(changes or (same,), 1)}
        versions = {"tensorrt-rtx": "1.7.1.116"}
        return [CardForm(name, "fp32", openings=openings, versions=versions, **more)]

    return on_card


@pytest.fixture
def folder(bundle_copy: Path) -> Path:
    """A BUNDLE with an engine that was never run."""
    with_engine(bundle_copy)
    return bundle_copy


def certificate_of(folder: Path) -> Certificate:
    return Certificate.model_validate_json((folder / artifact.CERTIFICATE).read_text())


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def lines(found: Checkup, part: str = NAME) -> list[tuple[bool | None, str]]:
    return [(one.passed, one.text) for one in found.findings if one.part == part]


def is_whole(folder: Path) -> bool:
    manifest = read_bundle_manifest(folder)
    artifact.verify_files(folder, manifest)
    return artifact.is_sealed(folder) is True


# Before -----------------------------------------------------------------------------------------


def test_verify_says_built_not_run_and_neither_passes_nor_fails_for_it(folder: Path) -> None:
    found = verify(folder)
    assert found.passed
    [(passed, text)] = lines(found)
    assert passed is None
    assert text.startswith(f"built, not run: {REASON}")
    assert "verify BUNDLE --complete" in text


def test_what_doctor_knows_of_an_engine_is_how_it_did_and_whether_its_version_is_here(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def known(there: dict[str, str]) -> str:
        monkeypatch.setattr(checkup, "installed_versions", lambda: there)
        [(passed, text)] = lines(checkup.check(folder))
        assert passed is None
        return text

    assert known({}).startswith("built, not run; not looked at: it opens on a card of sm86 alone")
    assert known({}).endswith(f"tensorrt-rtx {ENGINE.version}, which is not installed")
    assert known({"tensorrt-rtx": ENGINE.version}).endswith("which is installed")
    assert known({"tensorrt-rtx": "1.0"}).endswith("and 1.0 is installed")
    complete(folder, on_card=here(turned))
    assert known({}).startswith(f"run on {CARD}, ")
    assert "NOT within budget on noise alone" in known({})


def test_an_engine_alone_is_no_proof(folder: Path) -> None:
    """Built and not run is not compared: such a bundle must not pass for its engine's sake."""
    manifest = read_bundle_manifest(folder)
    certificate = certificate_of(folder).model_copy(update={"noise_logits": {}, "logits": {}})
    (folder / artifact.CERTIFICATE).write_text(certificate.model_dump_json())
    files = {**manifest.files, **artifact.record_files(folder)}
    write_bundle_manifest(folder, manifest.model_copy(update={"files": files}))
    assert not verify(folder).passed


# Within budget ----------------------------------------------------------------------------------


def test_with_the_clips_an_engine_is_proved_and_everything_says_so(
    folder: Path, few_clips: Path
) -> None:
    before = certificate_of(folder)
    found = complete(folder, few_clips, on_card=here())
    assert found.passed
    [(passed, text)] = lines(found)
    assert passed
    assert text.startswith(f"run on {CARD}, about noise and all clips of the certificate")
    assert is_whole(folder)

    after = certificate_of(folder)
    assert after.unrun == ()
    [one] = after.completed
    assert (one.form, one.card, one.passed, one.reason) == (NAME, CARD, True, "")
    assert one.versions == {"tensorrt-rtx": "1.7.1.116"}
    assert one.link is not None
    assert one.link.forms == ("unmerged", NAME)
    assert one.link.agreement == 1.0
    assert len(after.logits[NAME]) == before.clips
    np.testing.assert_allclose(
        after.logits[NAME], after.logits["onnxruntime-fp32"], atol=1e-5, rtol=0
    )
    # what was there before is there still, word for word
    kept = after.model_dump(exclude={"unrun", "completed", "logits", "noise_logits", "accuracy"})
    assert kept == before.model_dump(
        exclude={"unrun", "completed", "logits", "noise_logits", "accuracy"}
    )
    assert before.logits.items() <= after.logits.items()

    [engine] = read_bundle_manifest(folder).engines
    assert engine.ran is not None
    assert engine.ran.is_proved
    assert (engine.ran.card, engine.ran.clips, engine.ran.date) == (CARD, before.clips, one.date)
    page = (folder / artifact.CERTIFICATE_PAGE).read_text()
    card = (folder / artifact.CARD).read_text()
    for text in (page, card):
        assert CARD in text
        assert one.date in text
        assert "Run since, on cards" in text
        assert "Built, not run" not in text
    assert "Proved. Every form answers alike." in page


def test_the_clips_may_be_in_any_order_and_among_others(
    folder: Path, few_clips: Path, tmp_path: Path
) -> None:
    head, *rows = few_clips.read_text().splitlines()
    others = [row for row in rows if ",val," in row]
    data = tmp_path / "other-order.csv"
    data.write_text("\n".join([head, *reversed(others)]) + "\n")
    assert complete(folder, data, on_card=here()).passed
    after = certificate_of(folder)
    np.testing.assert_allclose(after.logits[NAME], after.logits["unmerged"], atol=1e-4, rtol=0)
    assert len(set(after.logits[NAME])) > 1


def test_without_clips_it_was_run_on_noise_alone_and_is_not_called_proved(folder: Path) -> None:
    found = complete(folder, on_card=here())
    assert found.passed
    [(_, text)] = lines(found)
    assert "about noise alone" in text
    assert "name the clips with --data to have it proved" in text
    [engine] = read_bundle_manifest(folder).engines
    assert engine.ran is not None
    assert (engine.ran.passed, engine.ran.is_proved) == (True, False)
    page = (folder / artifact.CERTIFICATE_PAGE).read_text()
    assert "on noise alone" in page
    assert "Every form that was compared on clips answers alike." in page
    assert NAME not in certificate_of(folder).logits
    again = complete(folder, on_card=here())
    assert "nothing is left to be asked here" in lines(again, "certificate")[0][1]


def test_noise_first_and_clips_later_leave_one_line_each_time(
    folder: Path, few_clips: Path
) -> None:
    for data in (None, few_clips):
        assert complete(folder, data, on_card=here()).passed
        assert len(certificate_of(folder).completed) == 1
        assert (folder / artifact.CARD).read_text().count("Run since, on cards") == 1
    [engine] = read_bundle_manifest(folder).engines
    assert engine.ran is not None
    assert engine.ran.is_proved
    before = contents(folder)
    found = complete(folder, few_clips, on_card=here())
    assert found.passed
    assert "nothing is left to be asked here" in lines(found, "certificate")[0][1]
    assert contents(folder) == before


def test_a_completed_bundle_is_verified_like_any_other(folder: Path, few_clips: Path) -> None:
    complete(folder, few_clips, on_card=here())
    found = verify(folder, few_clips)
    assert found.passed
    said = lines(found)
    assert any(f"was run on {CARD}" in text for _, text in said)
    assert {passed for passed, _ in said} == {None}  # no card is here, so it is not asked again


def test_a_completed_engine_is_asked_again_where_its_card_is(
    folder: Path, few_clips: Path, with_card: Computer
) -> None:
    complete(folder, few_clips)
    assert (True, True) in [
        (passed, "answers noise as when it was shipped" in text)
        for passed, text in lines(verify(folder))
    ]
    real = with_card.package.answer
    with_card.package.answer = lambda pixels: turned(real(pixels))
    found = verify(folder)
    assert not found.passed
    assert any(passed is False for passed, _ in lines(found))


def test_a_stranger_s_word_starts_no_engine_in_verify(
    folder: Path, few_clips: Path, with_card: Computer, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "somebody"))
    complete(folder, few_clips)
    assert with_card.package.deserialised != []
    with_card.package.deserialised = []
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "somebody else"))
    assert verify(folder).passed
    assert load(folder).backend.name == "onnxruntime"
    assert with_card.package.deserialised == []


def test_what_was_proved_elsewhere_is_asked_here_once_and_stays_proved(
    folder: Path, few_clips: Path, with_card: Computer, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "somebody"))
    complete(folder, few_clips)
    before = contents(folder)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "somebody else"))
    assert complete(folder).passed  # on noise alone
    assert contents(folder) == before
    assert load(folder).backend.name == "tensorrt-rtx"
    with_card.package.deserialised = []
    assert complete(folder).passed
    assert with_card.package.deserialised == []
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "a third"))
    real = with_card.package.answer
    with_card.package.answer = lambda pixels: turned(real(pixels))
    assert not complete(folder).passed
    assert not certificate_of(folder).completed[0].passed  # and that is written down
    assert NAME not in certificate_of(folder).logits | certificate_of(folder).noise_logits


def test_what_is_proved_anew_on_clips_is_written_anew(folder: Path, few_clips: Path) -> None:
    complete(folder, few_clips, on_card=here())
    complete(folder, few_clips, on_card=here(card="Another 4000 (sm86)", is_known_here=False))
    assert certificate_of(folder).completed[0].card == "Another 4000 (sm86)"


@pytest.mark.parametrize("is_promised", [True, False])
def test_what_was_run_on_another_card_is_not_complete_for_this_one(
    is_promised: bool, folder: Path
) -> None:
    for card in (CARD, "Another 4000 (sm86)"):
        found = complete(folder, on_card=here(card=card, is_promised=is_promised))
        assert lines(found)[0][1].startswith(f"run on {card}")
    assert certificate_of(folder).completed[0].card == card
    assert "nothing is left" in lines(
        complete(folder, on_card=here(card=card)), "certificate"
    )[0][1]  # fmt: skip


def test_only_what_is_for_the_card_and_installed_is_asked_at_each_batch_size(
    folder: Path, with_card: Computer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "own"))
    over = Ran(card=CARD, date="2026-11-26", clips=8, passed=False)
    with_engine(
        folder, b"of another card", compute_capability="8.9", file="tensorrt/other", ran=over
    )
    manifest = read_bundle_manifest(folder)
    found = forms.on_card(folder, manifest, None)
    assert [form.name for form in found] == [NAME, "torch-bf16"]
    assert list(found[0].openings) == list(ENGINE.batch_sizes)
    for size, opening in found[0].openings.items():
        assert opening().backend.batch_size == size  # type: ignore[attr-defined]
    assert complete(folder).passed
    assert [is_vouched(manifest, engine) for engine in manifest.engines] == [True, False]
    monkeypatch.setattr(forms, "is_installed", lambda package: package != "peft")
    assert [form.name for form in forms.on_card(folder, manifest, None)] == [NAME]
    monkeypatch.setattr(forms, "is_installed", lambda _: True)
    monkeypatch.setattr(forms, "_has_provider", lambda backend: backend == "onnxruntime-cuda")
    shutil.rmtree(folder / artifact.MODEL)
    found = forms.on_card(folder, manifest, None)
    assert [form.name for form in found] == [NAME, "onnxruntime-cuda-fp32"]
    without = manifest.model_copy(update={"files": {ENGINE.file: manifest.files[ENGINE.file]}})
    assert [form.name for form in forms.on_card(folder, without, None)] == [NAME]


def test_an_engine_that_was_over_budget_is_opened_on_trial(
    bundle_copy: Path, with_card: Computer
) -> None:
    with_engine(bundle_copy, ran=Ran(card=CARD, date="2026-11-26", clips=8, passed=False))
    assert complete(bundle_copy).passed
    assert load(bundle_copy, backend="tensorrt-rtx").backend.name == "tensorrt-rtx"


# Over budget ------------------------------------------------------------------------------------


@pytest.mark.parametrize("with_clips", [True, False])
@pytest.mark.parametrize("change", [turned, nothing])
def test_over_budget_is_said_and_written_and_such_an_engine_is_not_opened(
    change: Callable[..., Any], with_clips: bool, folder: Path, few_clips: Path,
    with_card: Computer,
) -> None:  # fmt: skip
    found = complete(folder, few_clips if with_clips else None, on_card=here(change))
    assert not found.passed
    [(passed, text)] = lines(found)
    assert passed is False
    assert "not within budget" in text
    assert is_whole(folder)
    after = certificate_of(folder)
    [one] = after.completed
    assert not one.passed
    assert one.reason
    assert NAME not in after.logits | after.noise_logits | after.accuracy
    assert after.unrun == ()
    assert after.verdict == "proved"  # of what was run when the bundle was made
    page = (folder / artifact.CERTIFICATE_PAGE).read_text()
    assert "On a card TensorRT for RTX fp32, sm86 does not answer alike." in unescape(page)
    assert "Every form answers alike" not in page
    with pytest.raises(EngineOverBudgetError):
        load(folder, backend="tensorrt-rtx")
    assert load(folder).backend.name == "onnxruntime"
    assert verify(folder).passed
    [said] = [text for _, text in lines(verify(folder)) if "is not within its budget" in text]
    assert said.endswith(". It is not opened.")


def test_of_what_opens_all_the_same_it_is_not_said_that_it_does_not(folder: Path) -> None:
    complete(folder, on_card=here(turned, name="torch-bf16", is_promised=False))
    [(_, said)] = lines(verify(folder), "torch-bf16")
    assert "is not within its budget" in said
    for text in (said, (folder / artifact.CARD).read_text()):
        assert "not opened" not in text


@pytest.mark.parametrize("with_clips", [True, False])
def test_what_was_over_budget_is_asked_again(
    with_clips: bool, folder: Path, few_clips: Path
) -> None:
    data = few_clips if with_clips else None
    complete(folder, data, on_card=here(turned))
    assert complete(folder, data, on_card=here()).passed
    [engine] = read_bundle_manifest(folder).engines
    assert engine.ran is not None
    assert (engine.ran.passed, engine.ran.is_proved) == (True, with_clips)


@pytest.mark.parametrize("change", [turned, nothing])
def test_what_was_over_budget_on_clips_stays_so_when_noise_agrees(
    change: Callable[..., Any], folder: Path, few_clips: Path
) -> None:
    complete(folder, few_clips, on_card=here(change))
    before = contents(folder)
    complete(folder, on_card=here())
    assert contents(folder) == before
    [engine] = read_bundle_manifest(folder).engines
    assert engine.ran is not None
    assert engine.ran.clips == certificate_of(folder).clips


def test_a_completion_from_before_clips_were_counted_is_still_read(
    folder: Path, few_clips: Path
) -> None:
    complete(folder, few_clips, on_card=here(turned))
    path = folder / artifact.CERTIFICATE
    values = json.loads(path.read_text())
    del values["completed"][0]["clips"]
    path.write_text(json.dumps(values))
    with_new_hashes(folder)
    assert certificate_of(folder).completed[0].is_of_clips  # its link says so
    before = contents(folder)
    complete(folder, on_card=here())
    assert contents(folder) == before


def test_clips_that_got_another_label_are_shown_and_stay_on_the_page(
    folder: Path, few_clips: Path
) -> None:
    def pictures() -> int:
        return (folder / artifact.CERTIFICATE_PAGE).read_text().count("data:image/jpeg")

    complete(folder, few_clips, on_card=here(turned))
    assert pictures() == 8
    complete(folder, on_card=here(name="torch-bf16"))
    assert pictures() == 8


def test_the_worst_batch_size_counts(folder: Path, few_clips: Path) -> None:
    assert not complete(folder, few_clips, on_card=here(same, turned, same)).passed
    assert not certificate_of(folder).completed[0].passed


def test_of_batch_sizes_within_budget_the_worst_is_written_down(folder: Path) -> None:
    assert complete(folder, on_card=here(same, a_little, same)).passed
    found = certificate_of(folder).completed[0].noise_difference
    assert found is not None
    assert found > 5e-6


@pytest.mark.parametrize("with_clips", [True, False])
@pytest.mark.parametrize(("batch_size", "first_wrong"), [(8, 2), (16, 12)])
def test_no_place_of_a_batch_goes_without_a_clip(
    batch_size: int, first_wrong: int, with_clips: bool, bundle_copy: Path, few_clips: Path,
    with_card: Computer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Of clips there are 8, of noise 2: places beyond those get some of them again."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "own"))
    with_engine(bundle_copy, batch_sizes=(1, batch_size))
    with_card.package.batch_sizes = (1, batch_size)
    real = with_card.package.answer

    def wrong_there(pixels: NDArray[np.float32]) -> NDArray[np.float32]:
        logits: NDArray[np.float32] = real(pixels)
        logits[first_wrong:] = logits[first_wrong:, ::-1] * 5 + 1
        return logits

    with_card.package.answer = wrong_there
    assert not complete(bundle_copy, few_clips if with_clips else None).passed
    manifest = read_bundle_manifest(bundle_copy)
    assert not is_vouched(manifest, manifest.engines[0])
    assert load(bundle_copy, batch_size=batch_size).backend.name == "onnxruntime"


@pytest.mark.parametrize("rows", ["clips", "noise"])
def test_no_number_for_clips_or_for_noise_alone_is_over_budget_too(
    rows: str, folder: Path, few_clips: Path
) -> None:
    asked = count()

    def partly(logits: NDArray[np.float32]) -> NDArray[np.float32]:
        """Noise is asked about first, clip by clip."""
        return nothing(logits) if (next(asked) < NOISE_CLIPS) == (rows == "noise") else logits

    assert not complete(folder, few_clips, on_card=here(partly, a_little)).passed
    assert not certificate_of(folder).completed[0].passed


# Nothing changed --------------------------------------------------------------------------------


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


def with_new_hashes(folder: Path) -> None:
    manifest = read_bundle_manifest(folder)
    files = {**manifest.files, **artifact.record_files(folder)}
    write_bundle_manifest(folder, manifest.model_copy(update={"files": files}))


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


# Cut off ----------------------------------------------------------------------------------------


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


# From the command line, on a stand-in's card ------------------------------------------------------


def test_the_command_completes_a_bundle_where_a_card_is(
    folder: Path, few_clips: Path, with_card: Computer, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(["verify", str(folder), "--complete", "--data", str(few_clips), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["passed"] is True
    [engine] = read_bundle_manifest(folder).engines
    assert engine.ran is not None
    assert engine.ran.is_proved
    assert engine.ran.card == CARD
    assert set(with_card.driver.taken) == set()
    assert load(folder).backend.name == "tensorrt-rtx"  # auto takes it from now on
    assert cli.run(["verify", str(folder)]) == 0


def test_the_command_ends_with_1_where_an_engine_is_over_budget(
    folder: Path, with_card: Computer, capsys: pytest.CaptureFixture[str], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "own"))
    real = with_card.package.answer
    with_card.package.answer = lambda pixels: turned(real(pixels))
    assert cli.run(["verify", str(folder), "--complete"]) == 1
    assert "not within budget" in capsys.readouterr().out
    manifest = read_bundle_manifest(folder)
    assert not is_vouched(manifest, manifest.engines[0])


@pytest.mark.parametrize("made_by", ["ready_folder", "timing"])
def test_an_engine_is_remembered_under_a_umask_that_is_open_to_a_group(
    made_by: str, folder: Path, with_card: Computer, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Whoever makes the cache's folder first, as OpenVINO's part of it or TensorRT's timings do."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "own"))
    previous = os.umask(0o002)
    try:
        if made_by == "ready_folder":
            assert ready_folder(cache_folder("openvino") / "f32", "*.blob", 1) is not None
        else:
            timing = timing_cache(EngineOrder("tensorrt", "8.6", "fp32"))
            config = SimpleNamespace(
                create_timing_cache=lambda content: content,
                set_timing_cache=lambda *_: True,
                get_timing_cache=lambda: SimpleNamespace(serialize=lambda: b"times"),
            )
            keep = _remembering(cast(Any, config), timing)
            assert keep is not None
            keep()
            assert timing.read_bytes() == b"times"
        found = complete(folder)
    finally:
        os.umask(previous)
    manifest = read_bundle_manifest(folder)
    assert is_vouched(manifest, manifest.engines[0])
    assert not any("remembered" in text for _, text in lines(found))


def test_that_an_engine_can_t_be_remembered_is_told(
    folder: Path, with_card: Computer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    (tmp_path / "lora-deploy").mkdir()
    (tmp_path / "lora-deploy").chmod(0o775)
    found = complete(folder)
    assert found.passed
    assert (None, True) in [
        (passed, "could not be remembered" in text) for passed, text in lines(found)
    ]
    manifest = read_bundle_manifest(folder)
    assert not is_vouched(manifest, manifest.engines[0])


def test_a_card_is_given_back_where_its_engine_is_refused(
    folder: Path, few_clips: Path, with_card: Computer
) -> None:
    assert complete(folder, few_clips).passed
    with_card.package.__version__ = "1.0"
    assert any("1.0 is installed" in text for _, text in lines(verify(folder)))
    assert with_card.driver.taken == {}
    manifest = read_bundle_manifest(folder)
    [opening, *_] = forms.on_card(folder, manifest, None)[0].openings.values()
    with pytest.raises(EngineVersionError):
        opening()
    assert with_card.driver.taken == {}


def test_a_device_is_for_completing_alone(folder: Path) -> None:
    assert cli.run(["verify", str(folder), "--device", "cuda"]) == 2


def test_without_a_card_the_door_says_so_in_python_too(folder: Path) -> None:
    if not has_binding() or Path("/proc/driver/nvidia/version").exists():
        pytest.skip("for computers with the binding and without a driver")
    with pytest.raises(NoCardError):
        complete(folder)


# From an export to a proved engine ----------------------------------------------------------------


def test_a_bundle_that_was_exported_with_an_engine_is_completed_and_says_so_everywhere(
    lora_run: Path, few_clips: Path, tmp_path: Path, computer: Callable[..., Computer]
) -> None:
    """The engine is a real one of tensorrt-rtx; that it is run is the stand-in's part."""
    pytest.importorskip("tensorrt_rtx")
    from lora_deploy.export.pipeline import merge_export

    out = tmp_path / "bundle"
    merge_export(lora_run, out, targets=["onnx", "tensorrt"], cards=["sm86"], batch_sizes=[1, 2])
    [engine] = read_bundle_manifest(out).engines
    assert engine.ran is None
    assert "Built, not run" in (out / artifact.CARD).read_text()
    assert "Built, not run" in (out / artifact.CERTIFICATE_PAGE).read_text()
    said = lines(verify(out), engine.name)
    assert [passed for passed, _ in said] == [None]
    assert said[0][1].startswith("built, not run: ")

    plain = load(out, backend="onnxruntime")
    made = computer(plain.backend.logits, plain.contract.pixel_values_shape, len(plain.labels))
    made.package.__version__, made.package.batch_sizes = engine.version, engine.batch_sizes
    assert complete(out, few_clips).passed
    assert made.package.deserialised[0] == (out / engine.file).read_bytes()
    assert is_whole(out)
    [engine] = read_bundle_manifest(out).engines
    assert engine.ran is not None
    assert engine.ran.is_proved
    for name in (artifact.CARD, artifact.CERTIFICATE_PAGE):
        text = (out / name).read_text()
        assert "Built, not run" not in text
        assert "Run since, on cards" in text
    assert certificate_of(out).unrun == ()
    assert load(out, batch_size=2).backend.name == "tensorrt-rtx"
    assert verify(out).passed
