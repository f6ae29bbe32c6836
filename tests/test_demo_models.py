"""The models that a page serves: every form listed, opened once, few kept, and never another than was asked for."""

import os
import shutil
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lora_deploy.artifact import bundle as bundles
from lora_deploy.clips import pool
from lora_deploy.demo import forms as demo_forms
from lora_deploy.demo import models
from lora_deploy.demo.models import Choices
from lora_deploy.errors import (
    ArtifactError,
    FileChangedError,
    MissingPackageError,
    NoSuchChoiceError,
    ProviderFellBackError,
)
from lora_deploy.runtime import open_bundle
from lora_deploy.runtime.base import Recogniser
from lora_deploy.runtime.load import load
from lora_deploy.runtime.ort import OnnxRuntimeBackend
from lora_deploy.runtime.ov import has_bf16


def frames_of(recogniser: Recogniser, path: Path) -> Any:
    return pool.shared().decode(path, recogniser.contract).frames[None]


def hide(patch: pytest.MonkeyPatch, *packages: str) -> None:
    """Have the packages not installed, as far as this program sees."""
    from lora_deploy import extras

    def installed(package: str, really: Callable[[str], bool] = extras.is_installed) -> bool:
        return package not in packages and really(package)

    for module in (extras, demo_forms, open_bundle):
        patch.setattr(module, "is_installed", installed)


def test_every_form_of_a_bundle_is_listed_the_three_usual_ones_first(full_bundle: Path) -> None:
    choices = Choices([full_bundle])
    assert [choice.name for choice in choices.all[:3]] == ["merged", "unmerged", "base"]
    assert {choice.name for choice in choices.all[3:]} == {
        "openvino-fp32", "torch-fp32", "unmerged-onnxruntime", "base-onnxruntime",
        "onnxruntime-fp16", "onnxruntime-int8", "openvino-int8",
        *(["openvino-bf16"] if has_bf16() else []),
    }  # fmt: skip
    assert choices.default.name == "merged"
    assert choices.default.title == "Merged, ONNX Runtime, float32"
    assert all(choice.missing is None for choice in choices.all)
    assert len({choice.title for choice in choices.all}) == len(choices.all)


def test_every_choice_opens_as_what_it_says_and_answers_a_real_clip(
    full_bundle: Path, four_actions: Path
) -> None:
    clip = Path(four_actions.read_text().splitlines()[1].split(",")[0])
    choices = Choices([full_bundle], most_opened=20)
    answers = {}
    for choice in choices.all:
        recogniser = choices.open(choice.name)
        assert (recogniser.backend.name, recogniser.backend.form) == (choice.backend, choice.form)
        answers[choice.name] = recogniser.logits(frames_of(recogniser, clip))
    expected = load(full_bundle).classify(clip).logits
    for name in ("merged", "unmerged", "torch-fp32", "openvino-fp32", "unmerged-onnxruntime"):
        np.testing.assert_allclose(answers[name][0], expected, atol=1e-4)
    np.testing.assert_allclose(answers["base-onnxruntime"], answers["base"], atol=1e-4)
    assert np.abs(answers["base"] - answers["unmerged"]).max() > 0.1


def test_a_full_name_opens_the_very_model_of_the_usual_one(full_bundle: Path) -> None:
    choices = Choices([full_bundle])
    assert choices.open("onnxruntime-fp32") is choices.open("merged")
    assert choices.open("unmerged-torch") is choices.open("unmerged")


@pytest.mark.parametrize("names", [["merged"] * 6, ["merged", "base"] * 3])
def test_two_visitors_do_not_open_one_form_twice(
    names: list[str], bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    start = threading.Barrier(len(names))

    def counted(folder: Path, **options: Any) -> Recogniser:
        opened.append(options["form"])
        return load(folder, **options)

    monkeypatch.setattr(models, "load", counted)
    choices = Choices([bundle])

    def visit(name: str) -> Recogniser:
        start.wait()
        return choices.open(name)

    with ThreadPoolExecutor(len(names)) as visitors:
        found = list(visitors.map(visit, names))
    assert sorted(opened) == sorted(set(names))
    assert len(set(map(id, found))) == len(set(names))


def test_what_is_opened_has_answered_once(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shapes: list[tuple[int, ...]] = []
    really = OnnxRuntimeBackend.logits

    def watched(backend: OnnxRuntimeBackend, pixel_values: Any) -> Any:
        shapes.append(pixel_values.shape)
        return really(backend, pixel_values)

    monkeypatch.setattr(OnnxRuntimeBackend, "logits", watched)
    recogniser = Choices([bundle]).open("merged")
    assert shapes == [(1, *recogniser.contract.pixel_values_shape)]


def test_a_form_that_is_open_waits_for_no_other(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    choices = Choices([bundle])
    merged = choices.open("merged")
    begun, finish = threading.Event(), threading.Event()

    def slow(folder: Path, **options: Any) -> Recogniser:
        begun.set()
        finish.wait(30)
        return load(folder, **options)

    monkeypatch.setattr(models, "load", slow)
    with ThreadPoolExecutor(1) as visitor:
        base = visitor.submit(choices.open, "base")
        assert begun.wait(30)
        assert choices.open("merged") is merged
        assert not base.done()
        finish.set()
        assert base.result().backend.form == "base"


def test_no_more_are_kept_than_may_be_and_the_longest_unused_goes(bundle: Path) -> None:
    choices = Choices([bundle], most_opened=2)
    kept = {name: weakref.ref(choices.open(name).backend) for name in ("merged", "torch-fp32")}
    choices.open("merged")  # so the other one was not asked for longest
    kept["base"] = weakref.ref(choices.open("base").backend)
    assert {name for name, backend in kept.items() if backend() is not None} == {"merged", "base"}


def test_many_that_open_at_once_are_no_more_than_may_be_either(
    full_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opening = most = 0
    state = threading.Lock()

    def counted(folder: Path, **options: Any) -> Recogniser:
        nonlocal opening, most
        with state:
            opening += 1
            most = max(most, opening)
        try:
            return load(folder, **options)
        finally:
            with state:
                opening -= 1

    monkeypatch.setattr(models, "load", counted)
    choices = Choices([full_bundle], most_opened=1)
    with ThreadPoolExecutor(8) as visitors:
        found = list(visitors.map(choices.open, [choice.name for choice in choices.all]))
    assert len(found) == len(choices.all)
    assert most == 1


def test_visitors_who_ask_at_once_get_the_answers_of_those_who_ask_alone(
    full_bundle: Path, four_actions: Path
) -> None:
    paths = [Path(line.split(",")[0]) for line in four_actions.read_text().splitlines()[1:9]]
    recogniser = Choices([full_bundle]).open("openvino-fp32")
    frames = [frames_of(recogniser, path) for path in paths] * 5
    alone = [recogniser.logits(clip) for clip in frames]
    with ThreadPoolExecutor(4) as visitors:
        together = list(visitors.map(recogniser.logits, frames))
    np.testing.assert_array_equal(together, alone)


def test_what_is_not_installed_is_said_and_not_replaced(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hide(monkeypatch, "torch", "openvino")
    choices = Choices([bundle])
    missing = {choice.name: choice.missing for choice in choices.all}
    assert missing["merged"] is None
    for name in ("unmerged", "base", "torch-fp32"):
        assert missing[name] == 'torch is not installed: pip install "lora-deploy[train]"'
        with pytest.raises(MissingPackageError, match="torch"):
            choices.open(name)
    assert choices.default.name == "merged"


def test_without_pytorch_the_adapter_graph_is_the_unmerged_model(
    full_bundle: Path, four_actions: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clip = Path(four_actions.read_text().splitlines()[1].split(",")[0])
    forms = ("unmerged", "base")
    expected = [load(full_bundle, form=form, backend="torch").classify(clip) for form in forms]
    hide(monkeypatch, "torch")
    choices = Choices([full_bundle])
    for form, answer in zip(forms, expected, strict=True):
        [choice] = [one for one in choices.all if one.name == form]
        assert (choice.backend, choice.missing) == ("onnxruntime", None)
        found = choices.open(form).classify(clip)
        np.testing.assert_allclose(found.logits, answer.logits, atol=1e-4)
        with pytest.raises(MissingPackageError, match="torch"):
            choices.open(f"{form}-torch")


def test_without_onnxruntime_merged_is_the_next_one_that_runs_here(
    full_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hide(monkeypatch, "onnxruntime")
    choices = Choices([full_bundle])
    [merged] = [choice for choice in choices.all if choice.name == "merged"]
    assert (merged.backend, merged.missing) == ("openvino", None)
    with pytest.raises(MissingPackageError, match="onnxruntime"):
        choices.open("onnxruntime-fp32")


def test_another_form_than_was_asked_for_is_never_given(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    choices = Choices([bundle], most_opened=1)
    monkeypatch.setattr(models, "load", lambda folder, **_: load(folder))
    with pytest.raises(ProviderFellBackError, match="torch base was asked for"):
        choices.open("base")
    monkeypatch.undo()
    found: list[Recogniser] = []
    visitor = threading.Thread(target=lambda: found.append(choices.open("base")), daemon=True)
    visitor.start()
    visitor.join(60)  # a failure blocks nobody
    assert [one.backend.form for one in found] == ["base"]


def test_an_unknown_name_is_answered_with_the_known_ones(bundle: Path) -> None:
    with pytest.raises(NoSuchChoiceError, match="there is: merged, unmerged, base"):
        Choices([bundle]).open("tensorrt")


def test_an_adapter_without_its_base_is_said_to_miss_it(bundle_copy: Path) -> None:
    manifest = bundles.read_bundle_manifest(bundle_copy)
    base = manifest.base.model_copy(update={"id": "nobody/has-this-base"})
    bundles.write_bundle_manifest(bundle_copy, manifest.model_copy(update={"base": base}))
    missing = {choice.name: choice.missing for choice in Choices([bundle_copy]).all}
    assert missing["merged"] is missing["torch-fp32"] is None
    assert missing["unmerged"] == missing["base"] == "its base is not on this computer"


def test_a_run_has_its_adapter_on_and_off(lora_run: Path, test_clips: list[Path]) -> None:
    choices = Choices([lora_run])
    assert [choice.name for choice in choices.all] == ["unmerged", "base"]
    on, off = choices.open("unmerged"), choices.open("base")
    frames = frames_of(on, test_clips[0])
    np.testing.assert_array_equal(on.logits(frames), load(lora_run).logits(frames))
    assert np.abs(on.logits(frames) - off.logits(frames)).max() > 1e-3


def test_a_model_that_was_fine_tuned_as_a_whole_has_one_form(
    full_run: Path, test_clips: list[Path]
) -> None:
    choices = Choices([full_run])
    [choice] = choices.all
    assert (choice.name, choice.form) == ("merged", "merged")
    assert choice.title == "Fine-tuned as a whole, PyTorch, float32"
    recogniser = choices.open("merged")
    assert recogniser.classify(test_clips[0]) == load(full_run).classify(test_clips[0])


def test_several_models_have_names_that_tell_them_apart(
    bundle: Path, lora_run: Path, tmp_path: Path
) -> None:
    for place in ("a", "b"):
        shutil.copytree(bundle, tmp_path / place / "bundle")
    choices = Choices([tmp_path / "a" / "bundle", tmp_path / "b" / "bundle", lora_run, lora_run])
    names = [choice.name for choice in choices.all]
    assert len(set(names)) == len(names)
    assert {"a/bundle: merged", "b/bundle: merged", "run: unmerged"} <= set(names)
    assert not any(str(tmp_path) in name for name in names)
    assert choices.open("a/bundle: merged") is not choices.open("b/bundle: merged")
    assert choices.about("run: base").kind == "RUN"
    assert choices.about("b/bundle: merged").model == "b/bundle"


def test_a_model_says_what_it_is(bundle: Path, lora_run: Path) -> None:
    about = Choices([bundle]).about("merged")
    assert about.labels == ("bend", "wave_two_hands")
    assert about.licence == "apache-2.0"
    assert about.certificate == bundle / "certificate.html"
    assert about.card is not None
    assert "# Action recogniser" in about.card
    assert "onnxruntime" in about.versions
    assert about.digest == load(bundle).digest
    trained = Choices([lora_run]).about("base")
    assert (trained.kind, trained.certificate) == ("RUN", None)
    assert trained.card is not None


@pytest.mark.parametrize("name", ["certificate.html", "README.md"])
def test_a_page_that_nobody_vouches_for_is_not_shown(name: str, bundle_copy: Path) -> None:
    (bundle_copy / name).write_text("<script>alert(1)</script>")
    with pytest.raises(FileChangedError):
        Choices([bundle_copy]).about("merged")


def test_a_folder_that_is_no_model_is_refused_at_once(tmp_path: Path, bundle: Path) -> None:
    with pytest.raises(ArtifactError, match=r"run\.json or bundle\.json"):
        Choices([bundle, tmp_path])


def test_pytorch_is_imported_only_by_what_needs_it(bundle: Path, test_clips: list[Path]) -> None:
    script = (
        "import sys\n"
        "from pathlib import Path\n"
        "from lora_deploy.demo.models import Choices\n"
        f"choices = Choices([Path({str(bundle)!r})])\n"
        "choices.about('base')\n"
        f"choices.open('merged').classify({str(test_clips[0])!r})\n"
        "heavy = {'torch', 'transformers', 'peft', 'gradio'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "choices.open('base')\n"
        "assert 'torch' in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, env={**os.environ})
