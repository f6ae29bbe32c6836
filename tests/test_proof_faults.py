"""Faults that are planted into an export, one by one: each is caught on real clips and leaves nothing.

Others of their kind: a transposed weight, swapped labels, a wrong mean, spread and sampling stand in
`test_export`; another base, an adapter merged twice or lost on the way in `test_silent_faults`.
"""

import json
import shutil
import tempfile
import time
from collections.abc import Callable, Collection
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from lora_deploy import cli
from lora_deploy.artifact import bundle
from lora_deploy.artifact.bundle import Precision
from lora_deploy.clips.processor import contract_to_processor
from lora_deploy.errors import (
    CheckFailed,
    ExportUnreadableError,
    FormsDifferError,
    NothingDecodedError,
    PrecisionNotHereError,
)
from lora_deploy.export import pipeline, proving, timing, write_forms
from lora_deploy.export.blocks import block_of
from lora_deploy.export.frames_in import frames_in
from lora_deploy.export.pipeline import Shipped, merge_export
from lora_deploy.export.plan import Plan
from lora_deploy.processor import read_processor
from lora_deploy.proof.certificate import Link
from lora_deploy.runtime import ov
from lora_deploy.runtime.base import softmax
from lora_deploy.runtime.open_bundle import open_form
from lora_deploy.runtime.ort import OnnxRuntimeBackend
from lora_deploy.runtime.ov import OpenVinoBackend
from lora_deploy.runtime.trained import Trained
from tests.proved_models import ACTIONS, ANY_SPEED, only


@pytest.fixture(scope="module")
def run(proved_run: Callable[[str], Path]) -> Path:
    return proved_run("videomae")


@pytest.fixture(scope="module")
def few(four_actions: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three proof clips of each action."""
    out = tmp_path_factory.mktemp("few") / "few.csv"
    return only(four_actions, out, folders=ACTIONS, most=3)


@pytest.fixture
def ready(full_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Export writes the float32 files that a sound export wrote, and spoils them."""

    def plant(spoil: Callable[[Path], None] = lambda _: None) -> None:
        def write_float32(stage: Path, *_: object) -> None:
            for name in ("model", "adapters"):
                shutil.copytree(full_bundle / name, stage / name)
            (stage / "onnx").mkdir()
            for name in (bundle.ONNX, bundle.FUSED):
                shutil.copyfile(full_bundle / name, stage / name)
            spoil(stage)

        monkeypatch.setattr(proving, "write_float32", write_float32)

    return plant


def ship(run: Path, few: Path, out: Path, *overrides: str, **options: object) -> Shipped:
    return merge_export(
        run, out, verify_on=few, overrides=[ANY_SPEED, *overrides], **options  # type: ignore[arg-type]
    )  # fmt: skip


def refused(
    run: Path,
    few: Path,
    out: Path,
    *overrides: str,
    error: type[CheckFailed] = FormsDifferError,
    **options: object,
) -> str:
    """What the export says; nothing is left at its place or beside it."""
    with pytest.raises(error) as raised, np.errstate(all="ignore"):
        ship(run, few, out / "place" / "bundle", *overrides, **options)
    assert list((out / "place").iterdir()) == []
    assert str(raised.value).startswith("no bundle was made, ")
    return str(raised.value)


def link_to(shipped: Shipped, form: str) -> Link:
    return next(link for link in shipped.certificate.links if link.forms[1] == form)


def test_what_is_not_spoilt_is_shipped(
    ready: Callable[..., None], run: Path, few: Path, tmp_path: Path
) -> None:
    """Else the tests below would pass for another reason than the fault."""
    ready()
    shipped = ship(run, few, tmp_path / "bundle", precisions=["int8"], frames_in=True)
    assert shipped.certificate.verdict == "proved"
    assert link_to(shipped, "onnxruntime-int8").kept == ()


def test_forms_are_compared_at_the_temperature_that_was_fitted(
    ready: Callable[..., None], run: Path, few_untrue: Path, tmp_path: Path
) -> None:
    ready()
    shipped = ship(run, few_untrue, tmp_path / "bundle", precisions=["fp16"], frames_in=True)
    fitted = shipped.manifest.temperature
    assert fitted > 1.5
    graph = onnx.load(shipped.bundle / bundle.FRAMES_IN)
    (written,) = (one.value for one in graph.metadata_props if one.key == "temperature")
    assert json.loads(written) == fitted
    one, other = (
        softmax(np.array(shipped.certificate.logits[form], np.float32) / np.float32(fitted))
        for form in ("unmerged", "onnxruntime-fp16")
    )
    found = link_to(shipped, "onnxruntime-fp16").largest_probability_difference
    assert found == pytest.approx(np.abs(one - other).max(), rel=1e-3)


# Pixels -------------------------------------------------------------------------------------------


def turn_frames_round(path: Path, graph_input: str, axis: int) -> None:
    model = onnx.load(path)
    for node in model.graph.node:
        node.input[:] = ["turned" if name == graph_input else name for name in node.input]
    for name, value in (("from", -1), ("to", -1000), ("along", axis), ("by", -1)):
        model.graph.initializer.append(
            numpy_helper.from_array(np.array([value], np.int64), f"turn_{name}")
        )
    turn = helper.make_node(
        "Slice", [graph_input, "turn_from", "turn_to", "turn_along", "turn_by"], ["turned"]
    )
    nodes = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend([turn, *nodes])
    onnx.save(model, path)


@pytest.mark.parametrize(
    ("file", "forms"),
    [(bundle.ONNX, ["onnx", "openvino-fp32"]), (bundle.FUSED, ["onnxruntime-fp32"])],
)
def test_reversed_frames(
    file: str,
    forms: list[str],
    ready: Callable[..., None],
    run: Path,
    few: Path,
    tmp_path: Path,
) -> None:
    ready(lambda stage: turn_frames_round(stage / file, "pixel_values", 1))
    said = refused(run, few, tmp_path, targets=["openvino"])
    for form in ("onnx", "openvino-fp32", "onnxruntime-fp32"):
        assert (f"{form} answers differently from " in said) is (form in forms)


def test_reversed_frames_in_the_graph_that_takes_frames(
    ready: Callable[..., None],
    run: Path,
    few: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write = write_forms.write_frames_in

    def turned(stage: Path, *rest: object) -> None:
        write(stage, *rest)  # type: ignore[arg-type]
        turn_frames_round(stage / bundle.FRAMES_IN, "frames", 1)

    ready()
    monkeypatch.setattr(proving, "write_frames_in", turned)
    said = refused(run, few, tmp_path, frames_in=True)
    assert "frames-in answers differently from unmerged" in said
    assert "onnx answers" not in said


def test_another_temperature_in_the_graph_that_takes_frames(
    ready: Callable[..., None],
    run: Path,
    few_untrue: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its metadata say the right one, the numbers come from another."""

    def hotter(stage: Path, contract: object, temperature: float) -> None:
        model = frames_in(onnx.load(stage / bundle.ONNX), contract, 2 * temperature)  # type: ignore[arg-type]
        for entry in model.metadata_props:
            if entry.key == "temperature":
                entry.value = json.dumps(temperature)
        onnx.save(model, stage / bundle.FRAMES_IN)

    ready()
    monkeypatch.setattr(proving, "write_frames_in", hotter)
    said = refused(run, few_untrue, tmp_path, frames_in=True)
    assert "frames-in answers differently from unmerged: 0 clips get another label" in said


def test_a_wrong_resize_filter_in_the_preprocessor(
    ready: Callable[..., None], run: Path, few: Path, tmp_path: Path
) -> None:
    def nearest(stage: Path) -> None:
        path = stage / "model" / "preprocessor_config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "resample": 0}))

    ready(nearest)
    said = refused(run, few, tmp_path)
    assert "merged answers differently from unmerged" in said


@pytest.mark.parametrize("resize_filter", ["bicubic", "nearest"])
def test_a_wrong_resize_filter_on_which_all_shipped_files_agree(
    resize_filter: str,
    ready: Callable[..., None],
    run: Path,
    few: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    vouch = proving._vouch

    def wrongly(stage: Path, trained: Trained, **options: object) -> object:
        contract = trained.contract.model_copy(update={"resize_filter": resize_filter})
        for path in (stage / "onnx").iterdir():
            graph = onnx.load(path)
            for entry in graph.metadata_props:
                if entry.key == "pixel_contract":
                    entry.value = contract.model_dump_json()
            onnx.save(graph, path)
        processor = stage / "model" / "preprocessor_config.json"
        processor.write_text(json.dumps(contract_to_processor(contract)))
        return vouch(stage, replace(trained, contract=contract), **options)  # type: ignore[arg-type]

    ready()
    monkeypatch.setattr(proving, "_vouch", wrongly)
    said = refused(run, few, tmp_path)
    assert "merged answers differently from unmerged" in said
    assert "onnxruntime-fp32 answers differently from unmerged" in said


# Layers -------------------------------------------------------------------------------------------

RUINED = "videomae.encoder.layer.0"


def ruin(path: Path, block: str) -> bool:
    """Spoil the stored weights of a block's last projection in a file; False if it has none of low precision."""
    model = onnx.load(path)
    stored = {
        tensor.name: tensor
        for tensor in model.graph.initializer
        if tensor.data_type in (TensorProto.INT8, TensorProto.FLOAT16) and len(tensor.dims) == 2
    }
    last = None
    for node in model.graph.node:
        if block_of(node.name) == block and node.op_type in ("DequantizeLinear", "MatMul"):
            found = [name for name in node.input if name in stored]
            # of integers, what they are multiplied with
            last = (
                (node.input[1] if node.op_type == "DequantizeLinear" else found[0])
                if found
                else last
            )
    if last is None:
        return False
    tensor = next(one for one in model.graph.initializer if one.name == last)
    array = numpy_helper.to_array(tensor)
    tensor.CopyFrom(numpy_helper.from_array(array * array.dtype.type(30), last))
    onnx.save(model, path)
    return True


def plant_ruin(
    monkeypatch: pytest.MonkeyPatch, block: str, *, always: bool = False
) -> list[tuple[str, ...]]:
    """Lower forms are written and spoilt; returns what was asked to be kept, try by try."""
    write = write_forms.write_lower
    tries: list[tuple[str, ...]] = []

    def spoilt(
        stage: Path, plan: Plan, precision: Precision, keep: Collection[str], *others: Any
    ) -> None:
        tries.append(tuple(keep))
        write(stage, plan, precision, keep if not always else (), *others)
        for file in {form.file for form in plan.at(precision)}:
            assert ruin(stage / file, block) is (always or block not in keep)

    monkeypatch.setattr(proving, "write_lower", spoilt)
    return tries


@pytest.mark.parametrize("block", [RUINED, "videomae.encoder.layer.1"])
@pytest.mark.parametrize(
    ("precision", "forms"),
    [("int8", ["onnxruntime-int8", "openvino-int8"]), ("fp16", ["onnxruntime-fp16"])],
)
def test_a_ruined_layer_is_named_kept_and_the_form_passes(
    block: str,
    precision: str,
    forms: list[str],
    ready: Callable[..., None],
    run: Path,
    few: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ready()
    tries = plant_ruin(monkeypatch, block)
    shipped = ship(
        run, few, tmp_path / "bundle", targets=["onnx", "openvino"], precisions=[precision]
    )
    assert tries == [(), (block,)]
    for form in forms:
        link = link_to(shipped, form)
        assert link.passed
        assert link.kept == (block,)
        assert link.departs is None
    card = (shipped.bundle / "certificate.html").read_text()
    assert block in card


@pytest.mark.parametrize("block", [RUINED, "videomae.encoder.layer.1"])
def test_a_ruined_layer_that_may_not_be_kept_is_named(
    block: str,
    ready: Callable[..., None],
    run: Path,
    few: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ready()
    tries = plant_ruin(monkeypatch, block)
    said = refused(run, few, tmp_path, "proof.kept_blocks=0", precisions=["int8"])
    assert tries == [()]
    assert "onnxruntime-int8 answers differently from unmerged: " in said
    assert f"{block} departs first" in said


def test_a_remedy_that_does_not_help_is_given_up(
    ready: Callable[..., None],
    run: Path,
    few: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ready()
    tries = plant_ruin(monkeypatch, RUINED, always=True)
    said = refused(run, few, tmp_path, "proof.kept_blocks=2", precisions=["int8"])
    assert f"{RUINED} departs first" in said
    assert tries[0] == ()
    assert tries[1] == (RUINED,)
    assert len(tries) <= 3


def test_a_form_that_openvino_alone_gets_wrong_is_refused_by_name(
    ready: Callable[..., None],
    run: Path,
    few: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answering = OpenVinoBackend.logits
    monkeypatch.setattr(
        OpenVinoBackend, "logits", lambda self, pixels: np.roll(answering(self, pixels), 1, axis=1)
    )
    ready()
    said = refused(run, few, tmp_path, targets=["openvino"], precisions=["int8"])
    assert "openvino-fp32 answers differently from unmerged: 12 clips get another label" in said
    assert "int8" not in said  # nothing is made of a float32 form that is wrong


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_form_that_answers_no_number_is_refused(
    value: float,
    ready: Callable[..., None],
    run: Path,
    few: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answering = OnnxRuntimeBackend.logits

    def spoilt(self: OnnxRuntimeBackend, pixels: np.ndarray) -> np.ndarray:
        logits = answering(self, pixels)
        logits[0, 1] = value
        return logits

    monkeypatch.setattr(OnnxRuntimeBackend, "logits", spoilt)
    ready()
    said = refused(run, few, tmp_path, "proof.fp32.largest_difference=1", "proof.fp32.agreement=0",
                   "proof.fp32.mean_kl=100")  # fmt: skip
    assert "answers NaN or infinity to a clip" in said


def test_what_can_not_be_opened_is_refused(
    ready: Callable[..., None], run: Path, few: Path, tmp_path: Path
) -> None:
    ready(lambda stage: (stage / bundle.FUSED).write_bytes(b"garbage") and None)
    said = refused(run, few, tmp_path, error=ExportUnreadableError)
    assert "what was exported can't be opened" in said


# Whether it says anything -------------------------------------------------------------------------


def test_clips_that_nearly_all_get_one_label_prove_nothing(
    ready: Callable[..., None], run: Path, four_actions: Path, tmp_path: Path
) -> None:
    one = only(four_actions, tmp_path / "one.csv", folders=("bend",), most=8)
    ready()
    said = refused(run, one, tmp_path)
    assert "the proof is void: the model names bend for 8 of 8 clips" in said
    assert "at most 90% may get one label (proof.largest_share)" in said
    shipped = ship(run, one, tmp_path / "bundle", "proof.largest_share=1")
    assert shipped.certificate.void is None
    three = only(four_actions, tmp_path / "three.csv", folders=ACTIONS[:3], most=2)
    said = refused(run, three, tmp_path, "proof.largest_share=0.3")
    assert "for 2 of 6 clips" in said
    assert "at most 30% may get one label" in said


def test_budgets_come_from_the_settings(
    ready: Callable[..., None], run: Path, few: Path, tmp_path: Path
) -> None:
    ready()
    said = refused(run, few, tmp_path, "proof.int8.largest_difference=1e-9",
                   "proof.kept_blocks=0", precisions=["int8"])  # fmt: skip
    assert "(budget 1e-09) and by" in said
    assert "nats (budget 0.02)" in said
    shipped = ship(run, few, tmp_path / "bundle", "proof.int8.agreement=0.5", precisions=["int8"])
    budget = link_to(shipped, "onnxruntime-int8").budget
    assert (budget.agreement, budget.largest_difference, budget.mean_kl) == (0.5, 0.35, 0.02)


# Speed --------------------------------------------------------------------------------------------


class Clock:
    """Goes by as many seconds as a form is said to take."""

    def __init__(self, seconds: dict[str, float]) -> None:
        self.seconds, self.now = seconds, 0.0
        self.asked: list[str] = []

    def perf_counter(self) -> float:
        return self.now


def with_clock(monkeypatch: pytest.MonkeyPatch, **seconds: float) -> Clock:
    clock = Clock(seconds)
    opening = open_form

    def opened(*arguments: object, **options: object) -> object:
        form = arguments[2]
        backend = opening(*arguments, **options)  # type: ignore[arg-type]
        answering = backend.logits

        def logits(pixels: np.ndarray) -> np.ndarray:
            clock.now += seconds[form.precision]  # type: ignore[attr-defined]
            clock.asked.append(form.precision)  # type: ignore[attr-defined]
            return answering(pixels)

        backend.logits = logits  # type: ignore[method-assign, assignment]
        return backend

    monkeypatch.setattr(timing, "open_form", opened)
    monkeypatch.setattr(time, "perf_counter", clock.perf_counter)
    return clock


@pytest.mark.parametrize(("int8", "ships"), [(0.9, True), (1.0, False), (1.1, False)])
def test_int8_that_is_no_faster_is_refused_unless_it_is_asked_for(
    int8: float,
    ships: bool,
    ready: Callable[..., None],
    run: Path,
    few: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = with_clock(monkeypatch, fp32=1.0, int8=int8)
    ready()
    usual = "proof.int8_may_be_slower=false"
    if ships:
        (speed,) = ship(run, few, tmp_path / "a", usual, precisions=["int8"]).certificate.speeds
        assert speed.forms == ("onnxruntime-int8", "onnxruntime-fp32")
        assert speed.ratio == pytest.approx(1 / int8)
    else:
        said = refused(run, few, tmp_path, usual, precisions=["int8"])
        assert f"no faster than onnxruntime-fp32 on this computer ({1 / int8:.2f} times)" in said
        assert "--set proof.int8_may_be_slower=true" in said
        assert ship(run, few, tmp_path / "b", precisions=["int8"]).certificate.passed
    assert clock.asked[:4] == ["int8", "fp32", "int8", "fp32"]  # in turns


def test_int8_for_another_processor_than_this_is_made_when_it_is_asked_for(
    ready: Callable[..., None], run: Path, few: Path, tmp_path: Path
) -> None:
    ready()
    bits = 7 if read_processor().has_int8_dots else 8
    ship(run, few, tmp_path / "a", f"proof.int8_weight_bits={bits}", precisions=["int8"])
    graph = onnx.load(tmp_path / "a" / bundle.INT8)
    notes = {entry.key: entry.value for entry in graph.metadata_props}
    assert notes[bundle.INT8_WEIGHT_BITS] == str(bits)


# bfloat16 -----------------------------------------------------------------------------------------


def test_bfloat16_on_a_computer_without_it_is_refused_by_name(
    ready: Callable[..., None],
    run: Path,
    few: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(pipeline, "read_processor", lambda: SimpleNamespace(has_bf16=True))
    monkeypatch.setattr(ov, "has_bf16", lambda: False)  # whatever the processor says of itself
    ready()
    options: dict[str, object] = {"targets": ["openvino"], "precisions": ["bf16"]}
    with pytest.raises(PrecisionNotHereError, match="does not compute in bfloat16"):
        ship(run, few, tmp_path / "bundle", **options)
    arguments = ["merge-export", str(run), "--out", str(tmp_path / "bundle"), "--verify-on", str(few),
                 "--to", "openvino", "--precision"]  # fmt: skip
    assert cli.run([*arguments, "bf16"]) == 2
    assert "[PrecisionNotHereError]" in capsys.readouterr().err
    assert not (tmp_path / "bundle").exists()
    assert cli.run([*arguments, "int8", "--set", ANY_SPEED]) == 0


# What is left behind ------------------------------------------------------------------------------


def open_files() -> set[str]:
    found = set()
    for path in Path("/proc/self/fd").iterdir():
        try:
            found.add(str(path.readlink()))
        except OSError:
            continue
    return {name for name in found if ".frames" in name}


@pytest.mark.parametrize("fault", ["none", "a form differs", "an exception", "no clip"])
def test_no_folder_and_no_open_file_is_left_behind(
    fault: str,
    ready: Callable[..., None],
    run: Path,
    few: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    clips = few

    def spoil(stage: Path) -> None:
        if fault == "a form differs":
            turn_frames_round(stage / bundle.ONNX, "pixel_values", 1)
        elif fault == "an exception":
            raise ZeroDivisionError

    if fault == "no clip":
        torn = tmp_path / "torn.mp4"
        torn.write_bytes(b"torn")
        clips = tmp_path / "clips.csv"
        clips.write_text(f"path,label,split,group\n{torn},bend,val,a\n")
    ready(spoil)
    errors: dict[str, type[Exception]] = {
        "a form differs": FormsDifferError,
        "an exception": ZeroDivisionError,
        "no clip": NothingDecodedError,
    }
    if fault == "none":
        ship(run, clips, tmp_path / "bundle")
    else:
        with pytest.raises(errors[fault]):
            ship(run, clips, tmp_path / "bundle")
    assert list(temporary.iterdir()) == []
    assert open_files() == set()
    assert {path.name for path in tmp_path.glob("*bundle*")} == (
        {"bundle"} if fault == "none" else set()
    )
