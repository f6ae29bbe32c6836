"""``verify --complete`` from the command line and after an export, and what it leaves for the user who ran it.

No card is here: ONNX Runtime's answers stand for an engine's, and `tests/card_computers.py` for a card.
"""

import json
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from lora_deploy import cli
from lora_deploy.artifact import bundle as artifact
from lora_deploy.artifact.bundle import (
    read_bundle_manifest,
)
from lora_deploy.completion import complete, forms
from lora_deploy.errors import (
    EngineVersionError,
    NoCardError,
)
from lora_deploy.export.build_engines import timing_cache
from lora_deploy.export.engine_order import EngineOrder
from lora_deploy.export.to_tensorrt import _remembering
from lora_deploy.runtime.card import has_binding
from lora_deploy.runtime.load import load
from lora_deploy.runtime.own_cache import cache_folder, ready_folder
from lora_deploy.runtime.vouched import is_vouched
from lora_deploy.verification import verify
from tests.card_computers import Computer, with_engine
from tests.completing import CARD, certificate_of, is_whole, lines, turned


@pytest.fixture
def folder(bundle_copy: Path) -> Path:
    """A BUNDLE with an engine that was never run."""
    with_engine(bundle_copy)
    return bundle_copy


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
