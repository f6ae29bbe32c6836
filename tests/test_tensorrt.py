"""Engines really built by tensorrt-rtx, for cards that are not here: what stands in them, and that it is the same twice.

No card is asked here: an engine can't be opened on this computer. What is checked is what went into it.
"""

import re
import runpy
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from lora_deploy.artifact.bundle import Precision
from lora_deploy.errors import (
    EngineNotBuiltError,
    EnginePrecisionError,
    GraphError,
    OperatorsUnknownError,
    TargetPrecisionError,
)
from lora_deploy.export import to_tensorrt
from lora_deploy.export.blocks import block_outputs
from lora_deploy.export.engine_order import EngineOrder
from lora_deploy.export.fuse import fused
from lora_deploy.export.graph import copy_of
from lora_deploy.export.half import in_half
from lora_deploy.export.quantize import in_int8
from lora_deploy.export.rounded import rounded
from lora_deploy.export.to_tensorrt import Built, build
from lora_deploy.progress import Advance
from lora_deploy.runtime.tensorrt_api import heard_of, open_tensorrt
from tests.tiny_graphs import (
    MODEL_TYPES,
    in_onnxruntime,
    largest_difference,
    pixels_of,
)

ROOT = Path(__file__).parents[1]

BATCHES = (1, 3)

MANY: list[tuple[str, Precision]] = [
    ("8.6", "fp32"), ("8.6", "fp16"), ("8.6", "bf16"), ("8.9", "fp32"), ("8.9", "fp16"),
    ("12.0", "fp32"), ("12.0", "fp16"), ("7.5", "fp16"), ("8.0", "fp16"),
]  # fmt: skip

RARE: list[tuple[str, Precision]] = [
    ("8.0", "fp32"), ("8.0", "bf16"), ("8.9", "bf16"), ("12.0", "bf16"), ("12.1", "fp32"),
    ("12.1", "fp16"), ("12.1", "bf16"),
]  # fmt: skip
"""With those above, all that docs/tensorrt.md names."""

Builder = Callable[[str, str, Precision], Built]


def ordered(card: str, precision: Precision, batches: tuple[int, ...] = BATCHES) -> EngineOrder:
    return EngineOrder("tensorrt-rtx", card, precision, batches)


def graph_for(plain: onnx.ModelProto, card: str, precision: Precision) -> onnx.ModelProto:
    """As `merge_export` makes it for such an engine."""
    if precision == "fp32":
        return plain
    if precision == "bf16":
        return in_half(plain, kind="bf16")
    return in_half(plain, head=card == "7.5")


@pytest.fixture(scope="session")
def built(tiny_graphs: Mapping[str, onnx.ModelProto]) -> Builder:
    """An engine of one of the tiny models, built once."""

    @cache
    def make(model_type: str, card: str, precision: Precision) -> Built:
        graph = graph_for(tiny_graphs[model_type], card, precision)
        return build(graph.SerializeToString(), ordered(card, precision))

    return make


@pytest.mark.parametrize(
    ("card", "precision"),
    [*MANY, *(pytest.param(*pair, marks=pytest.mark.soak) for pair in RARE)],
)
@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_an_engine_takes_pixels_gives_logits_and_computes_as_its_graph_says(
    model_type: str,
    card: str,
    precision: Precision,
    built: Builder,
    tiny_graphs: Mapping[str, onnx.ModelProto],
) -> None:
    engine = built(model_type, card, precision)
    assert len(engine.content) > 1_000_000  # kernels lie in it
    (pixels,), (logits,) = engine.parsed.inputs, engine.parsed.outputs
    assert (pixels.name, pixels.precision, pixels.shape) == (
        "pixel_values", "fp32", (-1, 4, 3, 32, 32),
    )  # fmt: skip
    assert (logits.name, logits.precision, logits.shape) == ("logits", "fp32", (-1, 2))
    assert engine.profiles == tuple((size, 4, 3, 32, 32) for size in BATCHES)
    graph = graph_for(tiny_graphs[model_type], card, precision)
    expected = precisions_of(graph)
    names = {layer.name.removesuffix("_AttentionInput"): layer for layer in engine.parsed.layers}
    heavy = [node for node in graph.graph.node if node.op_type in HEAVY]
    assert len(heavy) >= 10
    for node in heavy:
        assert names[node.name].is_heavy
        assert names[node.name].precisions == (expected[node.output[0]],), node.name
    assert sum(engine.parsed.heavy().values()) == len(heavy)
    heads = {"classifier/Gemm"}
    of_head = "fp16" if card == "7.5" else "fp32"
    for name, layer in names.items():
        if layer.is_heavy:
            assert layer.precisions == ((of_head if name in heads else precision),)
        if layer.kind in ("NORMALIZATION", "SOFTMAX"):
            assert layer.precisions == ("fp32",)
    types = {p for layer in engine.parsed.layers for p in layer.precisions}
    assert types - {"INT64", "INT32", "BOOL"} == {"fp32", precision}


HEAVY = ("MatMul", "Gemm", "Conv", "Attention")

_NAMES = {
    TensorProto.FLOAT: "fp32",
    TensorProto.FLOAT16: "fp16",
    TensorProto.BFLOAT16: "bf16",
}


def precisions_of(model: onnx.ModelProto) -> dict[str, str]:
    """Of each value, as a strict reader infers it from the graph."""
    bare = copy_of(model)
    del bare.graph.value_info[:]
    inferred = onnx.shape_inference.infer_shapes(bare, check_type=True, strict_mode=True)
    values = (*inferred.graph.value_info, *inferred.graph.output)
    return {one.name: _NAMES.get(one.type.tensor_type.elem_type, "") for one in values}


@pytest.mark.parametrize(
    ("card", "precision"),
    [
        pytest.param(*pair, marks=() if pair[0] == "8.6" else pytest.mark.soak)
        for pair in (*MANY, *RARE)
    ],
)
@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_built_twice_an_engine_is_the_same_byte_for_byte(
    model_type: str,
    card: str,
    precision: Precision,
    built: Builder,
    tiny_graphs: Mapping[str, onnx.ModelProto],
    tmp_path: Path,
) -> None:
    file = tmp_path / "model.onnx"
    onnx.save_model(graph_for(tiny_graphs[model_type], card, precision), file)
    again = build(file, ordered(card, precision))
    assert again.content == built(model_type, card, precision).content
    assert again.sha256 == built(model_type, card, precision).sha256


def test_another_process_builds_the_same_bytes(
    built: Builder, tiny_graphs: Mapping[str, onnx.ModelProto], tmp_path: Path
) -> None:
    onnx.save_model(tiny_graphs["videomae"], tmp_path / "model.onnx")
    script = (
        "import sys; from pathlib import Path\n"
        "from lora_deploy.export.engine_order import EngineOrder\n"
        "from lora_deploy.export.to_tensorrt import build\n"
        f"order = EngineOrder('tensorrt-rtx', '8.6', 'fp32', {BATCHES})\n"
        "print(build(Path(sys.argv[1]), order).sha256)"
    )
    ended = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "model.onnx")],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert ended.stdout.strip() == built("videomae", "8.6", "fp32").sha256


def test_other_cards_precisions_and_batches_give_other_engines(
    built: Builder, tiny_graphs: Mapping[str, onnx.ModelProto]
) -> None:
    one = built("videomae", "8.6", "fp16")
    others = [built("videomae", *pair) for pair in MANY if pair != ("8.6", "fp16")]
    graph = in_half(tiny_graphs["videomae"]).SerializeToString()
    others.append(build(graph, ordered("8.6", "fp16", (1,))))
    assert len({one.sha256, *(other.sha256 for other in others)}) == len(MANY) + 1
    assert others[-1].profiles == ((1, 4, 3, 32, 32),)


def test_a_float32_graph_is_never_called_float16(
    tiny_graphs: Mapping[str, onnx.ModelProto],
) -> None:
    plain = tiny_graphs["videomae"]
    asked: tuple[Precision, ...] = ("fp16", "bf16")
    for precision in asked:
        with pytest.raises(
            EnginePrecisionError, match=f"none for a {precision} engine.*15 in fp32"
        ):
            build(plain.SerializeToString(), ordered("8.6", precision))
    with pytest.raises(EnginePrecisionError, match=r"none for a fp32 engine.*15 in fp16"):
        build(in_half(plain).SerializeToString(), ordered("8.6", "fp32"))
    with pytest.raises(EnginePrecisionError, match="none for a bf16 engine"):
        build(in_half(plain).SerializeToString(), ordered("8.6", "bf16"))


def test_a_few_blocks_may_stay_in_float32_and_most_may_not(
    tiny_graphs: Mapping[str, onnx.ModelProto],
) -> None:
    plain = tiny_graphs["videomae"]
    blocks = [block for block in block_outputs(plain) if ".layer." in block]
    kept = in_half(plain, keep=blocks[:1])
    engine = build(kept.SerializeToString(), ordered("8.6", "fp16"))
    assert engine.parsed.heavy() == Counter({"fp16": 8, "fp32": 8})  # its attention among them
    with pytest.raises(EnginePrecisionError, match="14 in fp32"):
        build(in_half(plain, keep=blocks).SerializeToString(), ordered("8.6", "fp16"))


def test_a_card_without_float32_products_gets_none_not_even_in_the_head(
    tiny_graphs: Mapping[str, onnx.ModelProto],
) -> None:
    plain = tiny_graphs["videomae"]
    with pytest.raises(TargetPrecisionError, match=r"the graph has 1 .*: classifier/Gemm"):
        build(in_half(plain).SerializeToString(), ordered("7.5", "fp16"))
    block = next(block for block in block_outputs(plain) if ".layer." in block)
    half = in_half(plain, keep=[block], head=True)
    with pytest.raises(TargetPrecisionError, match=r"the graph has 7 .*layer\.0"):
        build(half.SerializeToString(), ordered("7.5", "fp16"))


def test_what_the_refusals_say_of_the_compiler_is_still_true(
    tiny_graphs: Mapping[str, onnx.ModelProto], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Asked all the same, it builds none of those: if it learns to, the refusals are to go."""
    monkeypatch.setattr(to_tensorrt, "check_order", lambda _: None)
    monkeypatch.setattr(to_tensorrt, "multiplies_float32", lambda _: True)
    plain = tiny_graphs["videomae"]
    for card, precision, half, said in (
        ("7.5", "fp32", plain, "FP32 3D convolution is not supported"),
        ("7.5", "bf16", in_half(plain, kind="bf16"), "b16"),
        ("7.5", "fp16", in_half(plain), "FP32 GEMM is not supported"),
    ):
        with pytest.raises(EngineNotBuiltError, match=said):
            build(half.SerializeToString(), ordered(card, precision))  # type: ignore[arg-type]


def test_a_build_that_failed_leaves_no_trace_in_the_next_one(
    built: Builder, tiny_graphs: Mapping[str, onnx.ModelProto], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = built("videomae", "8.0", "fp16").content
    plain = tiny_graphs["videomae"]
    with monkeypatch.context() as patched:
        patched.setattr(to_tensorrt, "check_order", lambda _: None)
        patched.setattr(to_tensorrt, "multiplies_float32", lambda _: True)
        with pytest.raises(EngineNotBuiltError):
            build(plain.SerializeToString(), ordered("7.5", "fp32"))
    graph = in_half(plain).SerializeToString()
    assert build(graph, ordered("8.0", "fp16")).content == expected


def test_int8_as_we_make_it_is_not_what_tensorrt_takes(
    tiny_graphs: Mapping[str, onnx.ModelProto], real_frames: list[np.ndarray],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(to_tensorrt, "check_order", lambda _: None)
    plain = tiny_graphs["videomae"]
    int8 = in_int8(plain, iter(pixels_of(plain, real_frames[:2])))
    with pytest.raises(OperatorsUnknownError, match="Non-zero zero point is not supported"):
        build(int8.SerializeToString(), ordered("8.6", "int8"))


def test_a_float32_attention_is_split_and_a_float16_one_stays_whole(
    tiny_graphs: Mapping[str, onnx.ModelProto], built: Builder, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = tiny_graphs["vjepa2"]
    monkeypatch.setattr(to_tensorrt, "_let_attentions_be_written_out", lambda *_: None)
    whole = build(in_half(plain).SerializeToString(), ordered("8.6", "fp16"))
    assert whole.content == built("vjepa2", "8.6", "fp16").content
    with pytest.raises(EngineNotBuiltError, match="not supported by a dedicated kernel"):
        build(plain.SerializeToString(), ordered("8.6", "fp32"))


def test_float32_is_not_rounded_to_tensorfloat(
    tiny_graphs: Mapping[str, onnx.ModelProto], built: Builder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The compiler would, by default: told to, it builds another engine."""
    api = open_tensorrt("tensorrt-rtx")
    builder = api.Builder(heard_of(api).logger)
    config = builder.create_builder_config()
    assert config.get_flag(api.BuilderFlag.TF32)
    monkeypatch.setattr(type(config), "clear_flag", lambda *_: None)
    rounding = build(tiny_graphs["videomae"].SerializeToString(), ordered("8.6", "fp32"))
    assert rounding.content != built("videomae", "8.6", "fp32").content


def test_operators_and_opsets_that_the_parser_lacks_are_named(
    tiny_graphs: Mapping[str, onnx.ModelProto],
) -> None:
    foreign = fused(tiny_graphs["videomae"]).model
    for node in foreign.graph.node:
        if node.op_type == "MultiHeadAttention":
            node.op_type = "AttentionOfTomorrow"
    said = r"does not know AttentionOfTomorrow, which the graph \(opset 23\) holds"
    with pytest.raises(OperatorsUnknownError, match=said):
        build(foreign.SerializeToString(), ordered("8.6", "fp32"))
    broken = copy_of(tiny_graphs["videomae"])
    broken.graph.node[3].input[0] = "nowhere"
    name = re.escape(broken.graph.node[3].name)
    with pytest.raises(
        OperatorsUnknownError, match=rf"can't read the graph \(opset 23\): {name}: "
    ):
        build(broken.SerializeToString(), ordered("8.6", "fp32"))


def test_weights_outside_of_the_graph_are_not_looked_for(
    tiny_graphs: Mapping[str, onnx.ModelProto], tmp_path: Path
) -> None:
    outside = copy_of(tiny_graphs["videomae"])
    file = tmp_path / "model.onnx"
    onnx.save_model(outside, file, save_as_external_data=True, location="weights", size_threshold=0)
    for graph in (file, file.read_bytes()):
        with pytest.raises(GraphError, match="keeps weights outside of its file"):
            build(graph, ordered("8.6", "fp32"))
    with pytest.raises(GraphError, match="no ONNX file"):
        build(b"\xff\xff\xff", ordered("8.6", "fp32"))


def test_progress_is_told_and_ends(tiny_graphs: Mapping[str, onnx.ModelProto]) -> None:
    told: list[tuple[str, int]] = []
    open_ones = Counter[str]()

    @contextmanager
    def telling(what: str, total: int) -> Iterator[Advance]:
        told.append((what, total))
        open_ones[what] += 1
        steps = Counter[str]()
        yield lambda: steps.update([what])
        assert 0 < steps[what] <= total
        open_ones[what] -= 1

    graph = in_half(tiny_graphs["videomae"]).SerializeToString()
    build(graph, ordered("8.6", "fp16"), progress=telling)
    assert told
    assert all(what.startswith("building fp16 for sm86: ") for what, _ in told)
    assert all(total > 0 for _, total in told)
    assert not +open_ones


def test_a_phase_that_never_ends_is_taken_down() -> None:
    """What is shown of it on a terminal would stay there, behind a build that failed."""
    open_ones: list[str] = []

    @contextmanager
    def telling(what: str, _: int) -> Iterator[Advance]:
        open_ones.append(what)
        yield lambda: None
        open_ones.remove(what)

    watching = to_tensorrt._Watching(telling, "building")
    watching.start("outer", None, 3)
    watching.start("inner", "outer", 2)
    assert watching.step("inner")
    assert open_ones == ["building: outer"]
    watching.close()
    assert open_ones == []


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_whoever_watches_can_stop_a_build(
    error: type[BaseException], tiny_graphs: Mapping[str, onnx.ModelProto]
) -> None:
    steps = 0

    @contextmanager
    def stopping(_: str, __: int) -> Iterator[Advance]:
        def advance() -> None:
            nonlocal steps
            steps += 1
            raise error("enough")

        yield advance

    graph = in_half(tiny_graphs["videomae"]).SerializeToString()
    with pytest.raises(error, match="enough"):
        build(graph, ordered("8.6", "fp16"), progress=stopping)
    assert steps == 1
    assert build(graph, ordered("8.6", "fp16", (1,))).content


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_a_bfloat16_graph_is_proved_with_every_value_rounded(
    model_type: str, tiny_graphs: Mapping[str, onnx.ModelProto], real_frames: list[np.ndarray]
) -> None:
    plain = tiny_graphs[model_type]
    short = in_half(plain, kind="bf16")
    onnx.checker.check_model(short, full_check=True)
    kinds = precisions_of(short)
    assert {kind for kind in kinds.values() if kind} == {"fp32", "bf16"}
    before = short.SerializeToString()
    twin = rounded(short)
    assert short.SerializeToString() == before
    onnx.checker.check_model(twin, full_check=True)
    pixels = pixels_of(plain, real_frames[:1])[0]
    expected, found = in_onnxruntime(plain, pixels), in_onnxruntime(twin, pixels)
    assert 0 < largest_difference(found, expected) < 2e-2
    inside = [node.output[0] for node in short.graph.node if node.op_type in HEAVY][:-1]
    watched = copy_of(twin)
    del watched.graph.output[:]
    for value in (one for one in inside if kinds[one] == "bf16"):
        del watched.graph.output[:]
        watched.graph.output.append(helper.make_tensor_value_info(value, 1, None))
        numbers = in_onnxruntime(watched, pixels)
        bits = numbers.view(np.uint32)
        assert numbers.size
        assert not (bits & 0xFFFF).any(), value  # bfloat16 is the upper half of a float32


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_a_head_in_float16_still_gives_float32_and_nearly_the_same(
    model_type: str, tiny_graphs: Mapping[str, onnx.ModelProto], real_frames: list[np.ndarray]
) -> None:
    plain = tiny_graphs[model_type]
    half = in_half(plain, head=True)
    onnx.checker.check_model(half, full_check=True)
    kinds = precisions_of(half)
    assert kinds["logits"] == "fp32"
    heavy = [node.output[0] for node in half.graph.node if node.op_type in HEAVY]
    assert {kinds[value] for value in heavy} == {"fp16"}
    pixels = pixels_of(plain, real_frames[:1])[0]
    difference = largest_difference(in_onnxruntime(half, pixels), in_onnxruntime(plain, pixels))
    assert 0 < difference < 1e-3


@pytest.mark.soak
def test_engines_of_a_model_of_full_size(tmp_path: Path) -> None:
    """VideoMAE-B: every target and precision that there is, each built twice; about 10 minutes."""
    from lora_deploy.export.to_onnx import write_onnx

    script = runpy.run_path(str(ROOT / "benchmarks" / "base_size_bundle.py"))
    labels = script["LABELS"]
    file = tmp_path / "model.onnx"
    write_onnx(script["model_of_base_size"](), file, labels=labels, contract=script["CONTRACT"])
    plain = onnx.load(file)
    for card, precision in MANY:
        graph = graph_for(plain, card, precision).SerializeToString()
        one, other = (build(graph, ordered(card, precision, (1, 4, 8))) for _ in range(2))
        assert one.content == other.content
        assert one.profiles == tuple((size, 16, 3, 224, 224) for size in (1, 4, 8))
        assert one.parsed.outputs[0].shape == (-1, len(labels))
        # 12 blocks of four projections, two of the perceptron and an attention; the patches, the head
        heavy = one.parsed.heavy()
        assert sum(heavy.values()) == 12 * 7 + 2
        assert heavy[precision] >= 12 * 7 + 1
        print(f"sm{card.replace('.', '')} {precision}: {len(one.content) / 1e6:.0f} MB")
