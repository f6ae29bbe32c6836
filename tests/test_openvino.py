"""OpenVINO as a backend: one clip's numbers whatever its company, a safe cache, and clear words for the rest."""

import json
import os
import stat
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import onnx
import openvino
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.external_data_helper import set_external_data

from lora_deploy import cli
from lora_deploy.artifact import bundle
from lora_deploy.artifact.bundle import Compiler, Precision
from lora_deploy.errors import (
    GraphError,
    LabelOrderError,
    PrecisionNotHereError,
    ProviderFellBackError,
)
from lora_deploy.export.graph import copy_of
from lora_deploy.runtime import graph_notes, ov
from lora_deploy.runtime.load import load
from lora_deploy.runtime.open_bundle import cache_folder, open_form
from lora_deploy.runtime.ort import OnnxRuntimeBackend
from lora_deploy.runtime.outside_data import refuse_outside_data
from lora_deploy.runtime.ov import OpenVinoBackend
from tests.tiny_graphs import MODEL_TYPES, pixels_of


@pytest.fixture(scope="module")
def graph(full_bundle: Path) -> Path:
    return full_bundle / bundle.ONNX


def written(content: bytes, folder: Path) -> Path:
    """A graph alone in a folder, as a bundle's is handed to OpenVINO."""
    path = folder / "alone" / "model.onnx"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    return path


@pytest.fixture(scope="module")
def pixels(full_bundle: Path, real_frames: list[np.ndarray]) -> np.ndarray:
    model = onnx.load(full_bundle / bundle.ONNX)
    return np.concatenate(pixels_of(model, real_frames[:5]))


# A clip's numbers ---------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_clip_has_the_same_numbers_in_any_company_and_with_any_hint(
    precision: Precision, graph: Path, pixels: np.ndarray
) -> None:
    if precision == "bf16" and not ov.has_bf16():
        pytest.skip("this CPU does not compute in bfloat16")
    alone = OpenVinoBackend(graph, precision=precision, batch_size=1)
    expected = np.concatenate([alone.logits(pixels[row : row + 1]) for row in range(5)])
    assert len({row.tobytes() for row in expected}) == 5
    for hint in ("latency", "throughput"):
        for size in (1, 2, 5):
            backend = OpenVinoBackend(
                graph, precision=precision, batch_size=size, hint=hint, threads=2
            )
            assert backend.batch_size == size
            for order in ([0, 1, 2, 3, 4], [4, 2, 0, 3, 1], [3, 3, 3, 0, 3]):
                found = np.concatenate(
                    [backend.logits(pixels[order[at : at + size]]) for at in range(0, 5, size)]
                )
                np.testing.assert_array_equal(found, expected[order])


def test_throughput_runs_several_clips_at_once(graph: Path) -> None:
    backend = OpenVinoBackend(graph, batch_size=2, hint="throughput", threads=2)
    assert len(backend._requests) == 2
    assert len(OpenVinoBackend(graph, batch_size=1, hint="throughput", threads=2)._requests) == 1


def test_answers_outlive_the_next_question(graph: Path, pixels: np.ndarray) -> None:
    backend = OpenVinoBackend(graph)
    first = backend.logits(pixels[:1])
    kept = first.copy()
    backend.logits(pixels[1:2])
    np.testing.assert_array_equal(first, kept)


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_float32_answers_as_onnxruntime_does(
    model_type: str,
    tiny_graphs: Mapping[str, onnx.ModelProto],
    real_frames: list[np.ndarray],
    tmp_path: Path,
) -> None:
    model = tiny_graphs[model_type]
    given = np.concatenate(pixels_of(model, real_frames[:2]))
    content = written(model.SerializeToString(), tmp_path)
    np.testing.assert_allclose(
        OpenVinoBackend(content, batch_size=2).logits(given),
        OnnxRuntimeBackend(content, batch_size=2).logits(given),
        atol=2e-5,
    )


def test_the_metadata_are_those_that_were_exported(graph: Path, full_bundle: Path) -> None:
    metadata = OpenVinoBackend(graph).metadata
    manifest = bundle.read_bundle_manifest(full_bundle)
    assert json.loads(metadata["labels"]) == list(manifest.labels)
    assert metadata["pixel_contract"] == manifest.contract.model_dump_json()


# Precisions ---------------------------------------------------------------------------------------


@pytest.fixture
def without_bf16(monkeypatch: pytest.MonkeyPatch, full_bundle: Path) -> None:
    """A processor that does not list bfloat16, after another one that does has made the bundle."""
    if bundle.read_bundle_manifest(full_bundle).form("openvino", "bf16") is None:
        pytest.skip("this CPU does not compute in bfloat16")
    asked = openvino.Core.get_property

    def get_property(core: openvino.Core, *arguments: str) -> object:
        found = asked(core, *arguments)
        if arguments[-1] == "OPTIMIZATION_CAPABILITIES":
            return [one for one in found if one != "BF16"]
        return found

    monkeypatch.setattr(openvino.Core, "get_property", get_property)


@pytest.mark.usefixtures("without_bf16")
def test_bfloat16_where_the_processor_has_none(
    full_bundle: Path, capsys: pytest.CaptureFixture[str], test_clips: list[Path]
) -> None:
    with pytest.raises(PrecisionNotHereError, match="does not compute in bfloat16"):
        load(full_bundle, backend="openvino", precision="bf16")
    with pytest.raises(PrecisionNotHereError):
        load(full_bundle, precision="bf16")
    arguments = ["classify", str(full_bundle), str(test_clips[0]), "--precision", "bf16"]
    assert cli.run(arguments) == 2
    assert "[PrecisionNotHereError]" in capsys.readouterr().err


@pytest.mark.usefixtures("without_bf16")
def test_int8_then_runs_with_the_rest_in_float32(
    full_bundle: Path, pixels: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    hints = []
    hint_of = ov.precision_hint

    def noted(precision: Precision) -> str:
        hints.append(hint_of(precision))
        return hints[-1]

    monkeypatch.setattr(ov, "precision_hint", noted)
    content = full_bundle / bundle.INT8
    found = OpenVinoBackend(content, precision="int8").logits(pixels[:1])
    assert hints == ["f32"]
    expected = OnnxRuntimeBackend(content).logits(pixels[:1])
    assert np.abs(found - expected).max() < 0.5
    assert load(full_bundle, backend="openvino", precision="int8").backend.name == "openvino"


@pytest.mark.parametrize("backend", ["openvino", "onnxruntime"])
@pytest.mark.parametrize("has_dots", [True, False])
def test_int8_that_this_processor_cuts_off_is_told_of(
    backend: str,
    has_dots: bool,
    full_bundle: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    here = SimpleNamespace(has_int8_dots=has_dots)
    monkeypatch.setattr(graph_notes, "read_processor", lambda: here)
    manifest = bundle.read_bundle_manifest(full_bundle)
    form = manifest.form(cast(Compiler, backend), "int8")
    assert form is not None
    opened = cast(Any, open_form(full_bundle, manifest, form))
    has_eight = opened.metadata[bundle.INT8_WEIGHT_BITS] == "8"
    assert ("proof.int8_weight_bits=7" in caplog.text) == (has_eight and not has_dots)
    caplog.clear()
    monkeypatch.setattr(bundle, "INT8_WEIGHT_BITS", "what older graphs do not say")
    open_form(full_bundle, manifest, form)
    assert ("proof.int8_weight_bits=7" in caplog.text) == (not has_dots)


def test_hints_follow_the_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    for has, expected in (
        (True, {"fp32": "f32", "fp16": "f32", "bf16": "bf16", "int8": "bf16"}),
        (False, {"fp32": "f32", "fp16": "f32", "int8": "f32"}),
    ):
        monkeypatch.setattr(ov, "has_bf16", lambda has=has: has)
        assert {name: ov.precision_hint(name) for name in expected} == expected  # type: ignore[arg-type]
    with pytest.raises(PrecisionNotHereError):
        ov.precision_hint("bf16")


def test_another_precision_than_was_asked_for_is_told(
    graph: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = openvino.CompiledModel.get_property

    class Other:
        def to_string(self) -> str:
            return "f16"

    monkeypatch.setattr(
        openvino.CompiledModel,
        "get_property",
        lambda model, name: Other() if "PRECISION" in name else asked(model, name),
    )
    with pytest.raises(ProviderFellBackError, match="OpenVINO chose f16 where f32 was asked for"):
        OpenVinoBackend(graph)


# The cache ----------------------------------------------------------------------------------------


def blobs(cache: Path) -> list[Path]:
    return sorted(cache.rglob("*.blob"))


def test_what_is_compiled_is_kept_for_this_user_alone(
    graph: Path, pixels: np.ndarray, tmp_path: Path
) -> None:
    cache = tmp_path / "a" / "cache"
    fresh = OpenVinoBackend(graph, cache=cache)
    assert len(blobs(cache)) == 1
    for folder in {cache, *(blob.parent for blob in blobs(cache))}:
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    again = OpenVinoBackend(graph, cache=cache)
    assert len(blobs(cache)) == 1
    np.testing.assert_array_equal(again.logits(pixels[:1]), fresh.logits(pixels[:1]))


def test_a_model_cached_in_one_precision_is_not_opened_in_another(
    graph: Path, pixels: np.ndarray, tmp_path: Path
) -> None:
    """OpenVINO 2026.4 does so by itself, and answers wrongly without a word."""
    if not ov.has_bf16():
        pytest.skip("this CPU does not compute in bfloat16")
    precisions: tuple[Precision, ...] = ("fp32", "bf16")
    for number, order in enumerate((precisions, precisions[::-1])):
        cache = tmp_path / f"cache{number}"
        for precision in (*order, *order):
            found = OpenVinoBackend(graph, precision=precision, cache=cache)
            expected = OpenVinoBackend(graph, precision=precision)
            np.testing.assert_array_equal(found.logits(pixels[:1]), expected.logits(pixels[:1]))
        assert len(blobs(cache)) == 2


@pytest.mark.parametrize("inner", [False, True], ids=["the cache", "a folder in it"])
@pytest.mark.parametrize("mode", [0o777, 0o770, 0o702])
def test_a_cache_that_others_may_write_is_not_used(
    mode: int, inner: bool, graph: Path, tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    open_to_all = cache / "f32" if inner else cache
    open_to_all.mkdir(parents=True)
    cache.chmod(0o755)
    open_to_all.chmod(mode)
    OpenVinoBackend(graph, cache=cache)
    assert blobs(cache) == []


def test_a_cache_of_somebody_else_is_not_used(
    graph: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    OpenVinoBackend(graph, cache=tmp_path / "cache")
    assert blobs(tmp_path / "cache") == []


def test_where_no_cache_can_be_it_is_compiled_anew(graph: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    OpenVinoBackend(graph, cache=tmp_path / "file")
    OpenVinoBackend(graph, cache=tmp_path / "file" / "below")


def test_of_a_full_cache_the_oldest_are_removed(
    graph: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache"
    for number, folder in enumerate(("bf16", "bf16", "f32", "f32")):
        path = cache / folder / f"{number}.blob"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes(100))
        os.utime(path, (1000 + number, 1000 + number))
    monkeypatch.setattr(ov, "CACHE_BYTES", 250)
    OpenVinoBackend(graph, cache=cache)
    assert {path.name for path in blobs(cache)} >= {"2.blob", "3.blob"}
    assert not {path.name for path in blobs(cache)} & {"0.blob", "1.blob"}


def test_the_cache_lies_where_the_user_keeps_such_things(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "lora-deploy" / "openvino"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache_folder() == tmp_path / "home" / ".cache" / "lora-deploy" / "openvino"


# Graphs that are none -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [b"", b"garbage", b"<?xml version='1.0'?><net/>", bytes(1000), b"\x08\x07" * 500],
    ids=["nothing", "words", "another format", "zeros", "fields of no meaning"],
)
def test_garbage_gets_one_clear_line(content: bytes, tmp_path: Path) -> None:
    with pytest.raises(GraphError, match=r"can't (be opened|open the graph): ") as raised:
        OpenVinoBackend(written(content, tmp_path))
    assert "\n" not in str(raised.value)


def test_a_graph_that_is_cut_short_gets_one_clear_line(graph: Path, tmp_path: Path) -> None:
    content = graph.read_bytes()
    for size in (len(content) // 2, len(content) - 1, 10, 1):
        with pytest.raises(GraphError) as raised:
            OpenVinoBackend(written(content[:size], tmp_path))
        assert "\n" not in str(raised.value)


def test_what_openvino_says_of_a_graph_is_one_line(tmp_path: Path) -> None:
    nodes = [helper.make_node("NoSuchOperator", ["pixel_values"], ["logits"])]
    ports = [
        helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, 4])
        for n in ("pixel_values", "logits")
    ]
    model = helper.make_model(helper.make_graph(nodes, "graph", ports[:1], ports[1:]))
    with pytest.raises(GraphError, match=f"OpenVINO {openvino.__version__} can't open") as raised:
        OpenVinoBackend(written(model.SerializeToString(), tmp_path))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("port", ["input", "output"])
def test_a_graph_that_takes_or_gives_something_else_is_refused(
    port: str, graph: Path, tmp_path: Path
) -> None:
    model = onnx.load(graph)
    old = getattr(model.graph, port)[0].name
    for node in model.graph.node:
        for names in (node.input, node.output):
            names[:] = ["other" if name == old else name for name in names]
    getattr(model.graph, port)[0].name = "other"
    with pytest.raises(GraphError, match=r"takes \[.*\] and gives \[.*\]; needed: pixel_values"):
        OpenVinoBackend(written(model.SerializeToString(), tmp_path))


def graph_with_outside_data(place: str, location: str) -> onnx.ModelProto:
    """Adds a weight that lies in another file, as an initializer or in a node."""
    weight = numpy_helper.from_array(np.zeros(4, np.float32), "weight")
    set_external_data(weight, location)
    weight.ClearField("raw_data")
    nodes = [helper.make_node("Add", ["pixel_values", "weight"], ["logits"])]
    if place == "node":
        nodes.insert(0, helper.make_node("Constant", [], ["weight"], value=weight))
    pixels = helper.make_tensor_value_info("pixel_values", TensorProto.FLOAT, ["batch", 4])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 4])
    weights = [weight] if place == "initializer" else []
    return helper.make_model(
        helper.make_graph(nodes, "graph", [pixels], [logits], weights),
        opset_imports=[helper.make_opsetid("", 18)],
        ir_version=10,
    )


@pytest.mark.parametrize("place", ["initializer", "node"])
@pytest.mark.parametrize("location", ["beside.bin", "../beside.bin", "*/_ORT_MEM_ADDR_/*"])
def test_nothing_outside_of_a_graph_is_opened(place: str, location: str, tmp_path: Path) -> None:
    """OpenVINO opens what lies beside a graph, and by the last of these names takes an address."""
    content = graph_with_outside_data(place, location).SerializeToString()
    path = written(content, tmp_path)
    for folder in (path.parent, tmp_path):
        (folder / "beside.bin").write_bytes(np.arange(4, dtype=np.float32).tobytes())
    with pytest.raises(GraphError, match="keeps weights outside of its file"):
        OpenVinoBackend(path)
    with pytest.raises(GraphError):
        OnnxRuntimeBackend(content)


def test_weights_of_a_graph_inside_of_a_graph_are_looked_for_too(tmp_path: Path) -> None:
    inner = graph_with_outside_data("node", "secret.bin").graph
    node = helper.make_node("If", ["condition"], ["logits"], then_branch=inner, else_branch=inner)
    function = helper.make_function(
        "domain", "Function", ["pixel_values"], ["logits"], list(inner.node),
        [helper.make_opsetid("", 18)],
    )  # fmt: skip
    empty = helper.make_graph([], "graph", [], [])
    for model in (
        helper.make_model(helper.make_graph([node], "graph", [], [])),
        helper.make_model(empty, functions=[function]),
    ):
        with pytest.raises(GraphError, match="keeps weights outside of its file"):
            refuse_outside_data(written(model.SerializeToString(), tmp_path))
    refuse_outside_data(written(helper.make_model(empty).SerializeToString(), tmp_path))


def test_no_spelling_of_the_bytes_hides_outside_data(tmp_path: Path) -> None:
    """Numbers of a protobuf message may be written longer than they need to be."""
    model = graph_with_outside_data("initializer", "secret.bin")
    graph = model.graph.SerializeToString()
    model.ClearField("graph")
    size = len(graph)
    key, length = bytes([0xBA, 0x80, 0x00]), bytes([size & 0x7F | 0x80, size >> 7 | 0x80, 0x00])
    spelt = model.SerializeToString() + key + length + graph
    assert onnx.load_from_string(spelt).graph.initializer[0].external_data
    with pytest.raises(GraphError, match="keeps weights outside of its file"):
        refuse_outside_data(written(spelt, tmp_path))


def test_a_graph_of_other_labels_is_refused(full_bundle_copy: Path, full_bundle: Path) -> None:
    path = full_bundle_copy / bundle.INT8
    model = copy_of(onnx.load(path))
    for entry in model.metadata_props:
        if entry.key == "labels":
            entry.value = json.dumps(["x", "y", "z", "w"])
    onnx.save(model, path)
    manifest = bundle.read_bundle_manifest(full_bundle_copy)
    files = bundle.record_files(full_bundle_copy)
    bundle.write_bundle_manifest(full_bundle_copy, manifest.model_copy(update={"files": files}))
    with pytest.raises(LabelOrderError, match=r"model\.int8\.onnx was exported for the labels"):
        load(full_bundle_copy, backend="openvino", precision="int8")
    load(full_bundle_copy, backend="openvino")


# The life of a process ----------------------------------------------------------------------------

CLOSED_ELSEWHERE = """
import os, signal, sys, threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from lora_deploy.runtime.ov import OpenVinoBackend
held = [OpenVinoBackend(Path(sys.argv[1]))]
closing = threading.Thread(target=held.clear)
closing.start()
closing.join()
try:
    os.kill(os.getpid(), signal.SIGINT)
except KeyboardInterrupt:
    print("interrupted in order")
"""


def test_a_signal_finds_its_stack_after_a_model_was_closed_by_another_thread(graph: Path) -> None:
    """The plugin would unmap, with its last core, the stack that it gave to the first thread."""
    done = subprocess.run(
        [sys.executable, "-c", CLOSED_ELSEWHERE, str(graph)], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (0, "interrupted in order\n"), done.stderr
