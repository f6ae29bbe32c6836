"""ONNX Runtime's providers for cards, without one: nothing falls back in silence, here too.

The CPU's build of ONNX Runtime has two providers, and the other one, for a cloud, computes nothing by
itself: it stands here for a card's provider that does not take a graph. `tests/test_gpu.py` asks real ones.
"""

import re
import sys
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

from lora_deploy.artifact import bundle as artifact
from lora_deploy.artifact.bundle import Precision
from lora_deploy.errors import (
    BackendCannotError,
    NoSuchDeviceError,
    NoSuchFormError,
    ProviderFellBackError,
    ProviderMissingError,
    ProviderRefusesError,
)
from lora_deploy.runtime import open_bundle, ort_gpu, providers
from lora_deploy.runtime.load import load
from lora_deploy.runtime.ort_gpu import BATCH, NO_CPU, OnnxRuntimeOnCard, has_provider
from lora_deploy.runtime.providers import PROVIDER_BACKENDS, PROVIDERS, ProviderBackend, options_of
from tests.tiny_graphs import MODEL_TYPES

ELSEWHERE = "AzureExecutionProvider"

ARITHMETIC_OF_SHAPES = {"Shape", "Size", "ConstantOfShape", "NonZero", "Range"}


@pytest.fixture
def other_provider(monkeypatch: pytest.MonkeyPatch) -> None:
    """A provider that this build really has, and that takes no node."""
    if ELSEWHERE not in onnxruntime.get_available_providers():
        pytest.skip(f"this ONNX Runtime has no {ELSEWHERE}")
    monkeypatch.setitem(PROVIDERS, "onnxruntime-cuda", ELSEWHERE)
    monkeypatch.setattr(ort_gpu, "options_of", lambda *_, **__: {})


@pytest.mark.parametrize("backend", PROVIDER_BACKENDS)
def test_a_build_without_the_provider_says_so_and_answers_nothing(
    backend: ProviderBackend, bundle: Path
) -> None:
    if has_provider(backend):
        pytest.skip(f"this ONNX Runtime has {backend}")
    with pytest.raises(
        ProviderMissingError, match=r"that is installed has: .*CPUExecutionProvider"
    ):
        load(bundle, backend=backend)


def test_a_graph_of_which_a_node_would_be_left_to_the_processor_is_not_opened(
    other_provider: None, bundle: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(
        ProviderRefusesError, match="fallback to CPU EP has been explicitly disabled"
    ):
        load(bundle, backend="onnxruntime-cuda")
    said = capfd.readouterr()
    assert said.out == ""
    assert said.err == ""


def test_a_provider_that_was_not_asked_for_is_not_taken(
    other_provider: None, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As ONNX Runtime does without the option: it says nothing, and takes the processor.
    monkeypatch.setattr(ort_gpu, "NO_CPU", "session.an_option_that_is_not_there")
    with pytest.raises(ProviderFellBackError, match=f"chose .* where {ELSEWHERE} was asked for"):
        real = onnxruntime.InferenceSession

        def without_it(path: str, options: Any, providers: Any, **others: Any) -> Any:
            return real(path, options, providers=["CPUExecutionProvider"])

        monkeypatch.setattr(onnxruntime, "InferenceSession", without_it)
        load(bundle, backend="onnxruntime-cuda")


def test_the_option_is_one_that_onnx_runtime_knows() -> None:
    """Unknown ones are ignored by it, so that a wrong name would forbid nothing."""
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry(NO_CPU, "1")
    node = onnx.helper.make_node("Identity", ["x"], ["y"])
    values = [onnx.helper.make_tensor_value_info(name, 1, [1]) for name in "xy"]
    graph = onnx.helper.make_graph([node], "g", values[:1], values[1:])
    opsets = [onnx.helper.make_opsetid("", 20)]
    model = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=10)
    with pytest.raises(Exception, match=r"(?i)fallback"):
        onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_with_a_fixed_batch_no_arithmetic_of_shapes_is_left_for_the_processor(
    model_type: str, tiny_graphs: dict[str, onnx.ModelProto], tmp_path: Path
) -> None:
    """Providers leave that to the processor, and with it the graph would not open on a card."""
    left: dict[int | None, Counter[str]] = {}
    for batch in (None, 1, 4):
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        written = options.optimized_model_filepath = str(tmp_path / f"{batch}.onnx")
        if batch is not None:
            options.add_free_dimension_override_by_name(BATCH, batch)
        onnxruntime.InferenceSession(
            tiny_graphs[model_type].SerializeToString(),
            options,
            providers=["CPUExecutionProvider"],
        )
        nodes = onnx.load(written).graph.node
        left[batch] = Counter(
            node.op_type for node in nodes if node.op_type in ARITHMETIC_OF_SHAPES
        )
    assert left[1] == left[4] == Counter()
    assert (left[None] == Counter()) == (model_type == "videomae")  # so there was something to do


def test_a_low_precision_needs_a_graph_of_it(bundle: Path) -> None:
    with pytest.raises(NoSuchFormError, match="no graph for onnxruntime-cuda at fp16"):
        load(bundle, backend="onnxruntime-cuda", precision="fp16")


def test_devices_that_are_no_card_and_cards_for_who_runs_on_none_are_refused(bundle: Path) -> None:
    with pytest.raises(NoSuchDeviceError, match="'cpu' is no NVIDIA card"):
        load(bundle, backend="onnxruntime-cuda", device="cpu")
    for backend in ("onnxruntime", "openvino"):
        with pytest.raises(BackendCannotError, match="runs on the processor; on cuda run: onnxr"):
            load(bundle, backend=backend, device="cuda")
    with pytest.raises(NoSuchDeviceError):  # and not onnxruntime, which auto takes otherwise
        load(bundle, device="cuda:99")


def test_an_adapter_that_is_to_run_on_a_card_is_not_left_to_the_processor(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(BackendCannotError, match="runs adapters on the processor; on cuda run: t"):
        load(bundle, backend="onnxruntime", form="unmerged", device="cuda")
    monkeypatch.setattr(open_bundle, "is_installed", lambda package: package == "onnxruntime")
    with pytest.raises(NoSuchDeviceError):  # torch was asked, though it is not what auto would take
        load(bundle, form="unmerged", device="cuda:99")


def test_no_option_lets_a_float32_answer_be_less_or_change_from_start_to_start() -> None:
    cuda = options_of("onnxruntime-cuda", precision="fp32", index=1, cache=None)
    assert cuda == {"device_id": "1", "use_tf32": "0", "cudnn_conv_algo_search": "HEURISTIC"}
    plain = options_of("onnxruntime-tensorrt", precision="fp32", index=0, cache=None)
    assert (plain["trt_fp16_enable"], plain["trt_bf16_enable"]) == ("0", "0")
    assert "trt_engine_cache_enable" not in plain


@pytest.mark.parametrize(("precision", "enabled"), [("fp16", ("1", "0")), ("bf16", ("0", "1"))])
def test_tensorrt_computes_in_the_precision_of_its_graph(
    precision: Precision, enabled: tuple[str, str]
) -> None:
    found = options_of("onnxruntime-tensorrt", precision=precision, index=0, cache=None)
    assert (found["trt_fp16_enable"], found["trt_bf16_enable"]) == enabled


def test_each_graph_has_a_folder_of_its_own_in_the_cache(tmp_path: Path) -> None:
    """TensorRT's provider knows engines by the names in a graph: weights are no part of that."""
    folders = set()
    for content, size in ((b"weights", 1), (b"other weights", 1), (b"weights", 8)):
        graph = tmp_path / "model.onnx"
        graph.write_bytes(content)
        folder = ort_gpu._folder_of(graph, tmp_path / "cache" / "onnxruntime-tensorrt", size)
        assert folder is not None
        assert folder.stat().st_mode & 0o777 == 0o700
        options = options_of("onnxruntime-tensorrt", precision="fp32", index=0, cache=folder)
        assert options["trt_engine_cache_path"] == str(folder)
        kernels = options_of("onnxruntime-rtx", precision="fp32", index=0, cache=folder)
        assert kernels == {"nv_runtime_cache_path": str(folder)}
        folders.add(folder)
    assert len(folders) == 3
    (tmp_path / "cache" / "onnxruntime-tensorrt").chmod(0o777)
    assert ort_gpu._folder_of(graph, tmp_path / "cache" / "onnxruntime-tensorrt", 1) is None


@pytest.fixture
def on_the_processor(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The processor, as if it were every card's provider, and what each opening asked options with."""
    asked: list[dict[str, Any]] = []
    for backend in PROVIDER_BACKENDS:
        monkeypatch.setitem(PROVIDERS, backend, "CPUExecutionProvider")
    monkeypatch.setattr(ort_gpu, "NO_CPU", "session.an_option_that_is_not_there")
    monkeypatch.setattr(OnnxRuntimeOnCard, "_bind", lambda self, index: None)

    def no_options(*_: Any, **more: Any) -> dict[str, str]:
        asked.append(more)
        return {}

    monkeypatch.setattr(ort_gpu, "options_of", no_options)
    return asked


def test_what_is_compiled_for_one_batch_size_is_not_taken_for_another(
    bundle: Path, on_the_processor: list[dict[str, Any]]
) -> None:
    for size in (1, 8, 8):
        load(bundle, backend="onnxruntime-tensorrt", batch_size=size)
    one, eight, again = [Path(options["cache"]) for options in on_the_processor]
    assert one != eight == again
    assert one.parent == eight.parent


def test_tensorrt_s_own_package_brings_its_libraries_before_the_provider_looks_for_them(
    bundle: Path, on_the_processor: list[dict[str, Any]], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: None)
    monkeypatch.setitem(sys.modules, "tensorrt", None)  # so that it is gone afterwards
    monkeypatch.syspath_prepend(str(tmp_path))
    package = tmp_path / "tensorrt"
    package.mkdir()
    for content in ("print('loaded')", "raise OSError('libnvinfer.so.10 is missing')"):
        (package / "__init__.py").write_text(content)
        del sys.modules["tensorrt"]
        load(bundle, backend="onnxruntime-cuda")
        assert "tensorrt" not in sys.modules
        load(bundle, backend="onnxruntime-tensorrt")
        assert ("tensorrt" in sys.modules) == content.startswith("print")
    assert capfd.readouterr().out == ""


def test_a_session_is_for_one_batch_size_and_opening_it_prints_nothing(
    bundle: Path, on_the_processor: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """ONNX Runtime's search for CUDA prints what it lacks."""
    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: print("Failed to load libcublas"))
    opened = load(bundle, backend="onnxruntime-cuda", batch_size=3)
    backend: Any = opened.backend
    assert backend._session.get_inputs()[0].shape[0] == 3
    frames = np.zeros((2, *opened.contract.frames_shape), np.uint8)
    expected = load(bundle, backend="onnxruntime").logits(frames)
    np.testing.assert_allclose(opened.logits(frames), expected, atol=1e-5)
    assert capfd.readouterr().out == ""


# Around the plug-in, on stand-ins -----------------------------------------------------------------


@pytest.fixture
def plugin(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A stand-in for the package of the plug-in, and what was registered of it."""
    registered: list[str] = []
    name = providers.RTX_PLUGIN
    package = SimpleNamespace(get_library_path=lambda: "/nowhere/plugin.so")
    monkeypatch.setitem(sys.modules, name, package)
    monkeypatch.setattr(ort_gpu, "is_installed", lambda one: one == name)
    monkeypatch.setattr(
        onnxruntime, "register_execution_provider_library",
        lambda one, path: registered.append(f"{one} {path}"),
    )  # fmt: skip
    card = SimpleNamespace(ep_name=PROVIDERS["onnxruntime-rtx"])
    others = SimpleNamespace(ep_name="CPUExecutionProvider")
    monkeypatch.setattr(
        onnxruntime, "get_ep_devices", lambda: [others, *([card] if registered else [])]
    )
    return registered


def test_the_plug_in_is_registered_once_and_its_cards_are_counted(plugin: list[str]) -> None:
    for _ in range(2):
        assert len(ort_gpu._devices("onnxruntime-rtx", 0)) == 1
    assert plugin == ["NvTensorRTRTXExecutionProvider /nowhere/plugin.so"]
    with pytest.raises(NoSuchDeviceError, match=r"cuda:1 was asked for, and .* sees 1 cards"):
        ort_gpu._devices("onnxruntime-rtx", 1)


def test_a_plug_in_that_does_not_start_is_told(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Really so: there is no such library."""
    package = SimpleNamespace(get_library_path=lambda: "/nowhere/plugin.so")
    monkeypatch.setitem(sys.modules, providers.RTX_PLUGIN, package)
    monkeypatch.setattr(ort_gpu, "is_installed", lambda one: True)
    with pytest.raises(ProviderRefusesError, match=r"does not start: .*nowhere/plugin.so"):
        load(bundle, backend="onnxruntime-rtx")


class _StandInSession:
    """A session whose memory is a card's by name alone."""

    def __init__(self) -> None:
        self.bound: dict[str, Any] = {}

    def get_inputs(self) -> list[Any]:
        return [SimpleNamespace(name="pixel_values", shape=["batch", 4, 3, 2, 2])]

    def get_outputs(self) -> list[Any]:
        return [SimpleNamespace(name="logits")]

    def io_binding(self) -> Any:
        return SimpleNamespace(
            bind_ortvalue_input=lambda name, value: self.bound.update({name: value}),
            bind_output=lambda name, device: self.bound.update({name: device}),
            copy_outputs_to_cpu=lambda: [self.bound["pixel_values"].numpy().sum(axis=(2, 3, 4))],
        )

    def run_with_iobinding(self, binding: Any) -> None:
        self.bound["ran"] = self.bound.get("ran", 0) + 1


def test_memory_for_the_input_is_taken_once_and_filled_for_each_batch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    session = _StandInSession()
    monkeypatch.setattr(ort_gpu, "_devices", lambda backend, index: [])
    monkeypatch.setattr(ort_gpu, "_open", lambda *_: session)
    real = onnxruntime.OrtValue.ortvalue_from_shape_and_type
    asked: list[Any] = []

    def on_the_processor(shape: Any, kind: Any, device: str, index: int) -> Any:
        asked.append((shape, device, index))
        return real(shape, kind)

    monkeypatch.setattr(
        onnxruntime.OrtValue, "ortvalue_from_shape_and_type", staticmethod(on_the_processor)
    )
    backend = OnnxRuntimeOnCard(b"", "onnxruntime-cuda", batch_size=2, index=1)
    for seed in range(3):
        pixels = np.random.default_rng(seed).normal(size=(2, 4, 3, 2, 2)).astype(np.float32)
        np.testing.assert_allclose(backend.logits(pixels), pixels.sum(axis=(2, 3, 4)))
    assert asked == [([2, 4, 3, 2, 2], "cuda", 1)]
    assert session.bound["ran"] == 3


def test_the_graph_that_is_opened_is_the_plain_one(
    other_provider: None, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one with ONNX Runtime's own operators was made for its processor's kernels."""
    opened: list[bytes] = []

    class Opened:
        def __init__(self, graph: Path, *_: Any, **__: Any) -> None:
            opened.append(graph.read_bytes())
            self.metadata = dict(
                onnxruntime.InferenceSession(str(graph)).get_modelmeta().custom_metadata_map
            )

    monkeypatch.setattr(ort_gpu, "OnnxRuntimeOnCard", Opened)
    load(bundle, backend="onnxruntime-cuda")
    assert opened == [(bundle / "onnx" / "model.onnx").read_bytes()]


def test_every_name_is_one_of_the_command_line() -> None:
    from lora_deploy import options
    from lora_deploy.runtime.load import BACKENDS

    assert options.BACKENDS == BACKENDS
    assert set(PROVIDERS) == set(PROVIDER_BACKENDS) < set(BACKENDS)
    assert re.fullmatch(r"onnx/.*\.onnx", artifact.ONNX)
