"""``verify --complete``: what was built for a card is run there, and the bundle says so, or stays as it was.

No card is here: ONNX Runtime's answers stand for an engine's, and `tests/card_computers.py` for a card.
"""

import json
import shutil
from collections.abc import Callable
from html import unescape
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from lora_deploy import checkup
from lora_deploy.artifact import bundle as artifact
from lora_deploy.artifact.bundle import (
    Ran,
    read_bundle_manifest,
    write_bundle_manifest,
)
from lora_deploy.completion import complete, forms
from lora_deploy.errors import (
    EngineOverBudgetError,
)
from lora_deploy.proof.answers import NOISE_CLIPS
from lora_deploy.runtime.load import load
from lora_deploy.runtime.vouched import is_vouched
from lora_deploy.verification import verify
from tests.card_computers import ENGINE, REASON, Computer, with_engine
from tests.completing import (
    CARD,
    NAME,
    certificate_of,
    contents,
    here,
    is_whole,
    lines,
    same,
    turned,
    with_new_hashes,
)


def nothing(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    return logits * np.float32(np.nan)


def a_little(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Other answers, and within budget."""
    return logits + np.array([1e-4, 0], np.float32)


@pytest.fixture
def folder(bundle_copy: Path) -> Path:
    """A BUNDLE with an engine that was never run."""
    with_engine(bundle_copy)
    return bundle_copy


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
