"""An ONNX graph compiled by TensorRT for one kind of card, with `tensorrt-rtx` where no card is.

Networks are strongly typed: what is computed in which precision stands in the graph, and is read
back from the parsed network before anything is built. An engine can't be opened where its card is
not, so what is known of one is what went into it.
"""

import hashlib
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import onnx

from lora_deploy import atomic
from lora_deploy.artifact.bundle import Precision
from lora_deploy.errors import (
    EngineNotBuiltError,
    EnginePrecisionError,
    OperatorsUnknownError,
    TargetPrecisionError,
)
from lora_deploy.export.blocks import is_head
from lora_deploy.export.engine_order import EngineOrder, check_order, multiplies_float32
from lora_deploy.progress import Advance, Progress, silent
from lora_deploy.runtime.outside_data import refuse_outside_data
from lora_deploy.runtime.own_cache import make_own
from lora_deploy.runtime.tensorrt_api import (
    AttentionLayer,
    Builder,
    Config,
    Network,
    OnnxParser,
    TargetedConfig,
    TensorRT,
    TensorRTForRtx,
    heard_of,
    open_tensorrt,
)

HEAVY = ("CONVOLUTION", "MATRIX_MULTIPLY", "ATTENTION_INPUT")
"""Kinds of layers that do the work, as TensorRT calls them."""

LEAST_SHARE = 0.5
"""Of the heavy layers before the head: so many compute in the engine's precision, at least. The rest
are blocks that the proof kept in float32, or values too large for float16."""

_TYPES: dict[Precision, str] = {"fp32": "FLOAT", "fp16": "HALF", "bf16": "BF16"}
_PRECISIONS = {name: precision for precision, name in _TYPES.items()}

_MOST_MESSAGES = 3


@dataclass(frozen=True)
class Value:
    """What goes into a network, or comes out."""

    name: str
    precision: str
    """``fp32``; of others TensorRT's own name."""
    shape: tuple[int, ...]
    """-1 where a size is free."""


@dataclass(frozen=True)
class BuiltLayer:
    """One layer of the parsed network."""

    name: str
    kind: str
    """As TensorRT calls it: ``MATRIX_MULTIPLY``."""
    precisions: tuple[str, ...]
    """Of what comes out: ``fp32``, ``fp16``, ``bf16``; of others TensorRT's own name."""

    @property
    def is_heavy(self) -> bool:
        """Whether it does much of the work, and decides on speed."""
        return self.kind in HEAVY


@dataclass(frozen=True)
class Parsed:
    """What TensorRT read in a graph, before it compiled anything."""

    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    layers: tuple[BuiltLayer, ...]

    def heavy(self) -> Counter[str]:
        """How many heavy layers there are of each precision."""
        return Counter(layer.precisions[0] for layer in self.layers if layer.is_heavy)


@dataclass(frozen=True)
class Built:
    """An engine, and what it was made of."""

    content: bytes
    """What is opened; running it equals running native code."""
    version: str
    """Of the compiler, in full."""
    parsed: Parsed
    profiles: tuple[tuple[int, ...], ...]
    """Shape of the input in each optimisation profile; it allows no other one."""

    @property
    def sha256(self) -> str:
        """Of the content."""
        return hashlib.sha256(self.content).hexdigest()


def build(
    graph: bytes | Path,
    order: EngineOrder,
    *,
    progress: Progress = silent,
    timing_cache: Path | None = None,
) -> Built:
    """Compile a graph; the same graph and order give the same bytes.

    Args:
        graph: ONNX with its weights inside, of the precision that is ordered: content, or a file.
        order: What for.
        progress: Told of each phase of the compiler.
        timing_cache: Where ``tensorrt`` remembers how fast which kernel was on this card, so that
            a second build is quick and chooses the same ones; ``tensorrt-rtx`` times nothing.

    Raises:
        EngineError: It can't be built; the leaf says why.
        GraphError: The graph keeps weights elsewhere, or is none.
        MissingPackageError: The compiler is not installed.
    """
    check_order(order)
    refuse_outside_data(graph)
    content = graph if isinstance(graph, bytes) else graph.read_bytes()
    api = open_tensorrt(order.flavour)
    heard = heard_of(api)
    with heard.listening() as errors:
        builder = api.Builder(heard.logger)
        strongly = 1 << int(api.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
        network = builder.create_network(strongly)
        # The parser must live as long as the network, whose weights lie in it.
        parser = api.OnnxParser(network, heard.logger)
        _parse(parser, content, order, api)
        parsed = read_back(network)
        check_precision(parsed, order.precision)
        _check_products(parsed, order)
        _let_attentions_be_written_out(api, network)
        config, profiles = _configured(api, builder, network, order)
        remember = _remembering(config, timing_cache) if order.flavour == "tensorrt" else None
        engine = _compiled(api, builder, network, config, order, progress, errors)
        if remember is not None:
            remember()
    return Built(engine, api.__version__, parsed, profiles)


def _configured(
    api: TensorRT, builder: Builder, network: Network, order: EngineOrder
) -> tuple[TargetedConfig, tuple[tuple[int, ...], ...]]:
    """How it is to be compiled, and the input's shape in each profile."""
    config = builder.create_builder_config()
    # Float32 means float32: its products would else be rounded to TensorFloat-32's ten bits.
    config.clear_flag(api.BuilderFlag.TF32)
    for wish in order.wishes:
        config.set_flag(getattr(api.BuilderFlag, wish.replace("-", "_").upper()))
    if order.flavour == "tensorrt-rtx":
        _aim(api, config, order)
    profiles = tuple(
        _add_profile(builder.create_optimization_profile(), config, network, size)
        for size in order.batch_sizes
    )
    return config, profiles


def _compiled(
    api: TensorRT,
    builder: Builder,
    network: Network,
    config: Config,
    order: EngineOrder,
    progress: Progress,
    errors: Sequence[str],
) -> bytes:
    """The engine; ``errors`` fills with what the compiler has against it.

    Raises:
        EngineNotBuiltError: There is none.
    """
    watching = _Watching(progress, f"building {order.precision} for {order.target}")
    monitor = config.progress_monitor = _monitor(api, watching)
    engine = builder.build_serialized_network(network, config)
    watching.close()
    del monitor  # it had to live as long as the build
    if engine is None:
        _settle(api, order)
    if watching.stopped_by is not None:
        raise watching.stopped_by
    if engine is None:
        raise EngineNotBuiltError(
            f"{order.flavour} {api.__version__} builds no {order.precision} engine for "
            f"{order.target}: {_said(errors)}"
        )
    return bytes(engine)


def _parse(parser: OnnxParser, content: bytes, order: EngineOrder, api: TensorRT) -> None:
    who = f"{order.flavour} {api.__version__}"
    model = onnx.load_from_string(content)
    operators = sorted({node.op_type for node in model.graph.node})
    unknown = [name for name in operators if not parser.supports_operator(name)]
    opset = next((one.version for one in model.opset_import if one.domain in ("", "ai.onnx")), 0)
    if unknown:
        raise OperatorsUnknownError(
            f"{who} does not know {', '.join(unknown)}, which the graph (opset {opset}) holds"
        )
    if not parser.parse(content):
        told = [parser.get_error(index) for index in range(parser.num_errors)]
        raise OperatorsUnknownError(
            f"{who} can't read the graph (opset {opset}): "
            + _said(f"{one.node_name()}: {one.desc()}" for one in told)
        )


def read_back(network: Network) -> Parsed:
    """What stands in a network, value by value and layer by layer."""
    inputs = (network.get_input(index) for index in range(network.num_inputs))
    outputs = (network.get_output(index) for index in range(network.num_outputs))
    layers = (network.get_layer(index) for index in range(network.num_layers))
    return Parsed(
        inputs=tuple(Value(one.name, _precision(one.dtype), tuple(one.shape)) for one in inputs),
        outputs=tuple(Value(one.name, _precision(one.dtype), tuple(one.shape)) for one in outputs),
        layers=tuple(
            BuiltLayer(
                layer.name,
                layer.type.name,
                tuple(
                    _precision(layer.get_output(index).dtype) for index in range(layer.num_outputs)
                ),
            )
            for layer in layers
        ),
    )


def _precision(dtype: Any) -> str:
    name: str = dtype.name
    return _PRECISIONS.get(name, name)


def check_precision(parsed: Parsed, precision: Precision) -> None:
    """See that a network computes in what the engine is to be called.

    Raises:
        EnginePrecisionError: It does not.
    """
    body = [layer for layer in parsed.layers if layer.is_heavy and not is_head(layer.name)]
    found = Counter(layer.precisions[0] for layer in body)
    allowed = {precision, "fp32"}
    told = ", ".join(f"{count} in {name}" for name, count in sorted(found.items())) or "none"
    few = found[precision] < LEAST_SHARE * len(body)
    if not body or few or not set(found) <= allowed:
        raise EnginePrecisionError(
            f"the graph is none for a {precision} engine: of its layers that do the work there are "
            f"{told}"
        )
    ends = {value.precision for value in (*parsed.inputs, *parsed.outputs)}
    if ends != {"fp32"}:
        raise EnginePrecisionError(
            f"the graph takes and gives {', '.join(sorted(ends))}; float32 is asked for"
        )


def _check_products(parsed: Parsed, order: EngineOrder) -> None:
    """Refuse float32 products where the card's compiler has none, however few they are.

    Raises:
        TargetPrecisionError: There is one.
    """
    if multiplies_float32(order):
        return
    found = [layer.name for layer in parsed.layers if layer.is_heavy and "fp32" in layer.precisions]
    if found:
        raise TargetPrecisionError(
            f"{order.flavour} multiplies no float32 matrices for {order.target}, and the graph has "
            f"{len(found)} that the proof kept in float32: {', '.join(found[:_MOST_MESSAGES])}"
        )


def _let_attentions_be_written_out(api: TensorRT, network: Network) -> None:
    """Where TensorRT has no kernel for a whole attention, as in float32, it must be allowed to split
    it; where it has one, that changes nothing."""
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        if layer.type.name == "ATTENTION_INPUT":
            layer.__class__ = cast(Any, api).IAttentionInputLayer  # their way of a narrower type
            cast(AttentionLayer, layer).attention.decomposable = True


def _aim(api: TensorRT, config: TargetedConfig, order: EngineOrder) -> None:
    config.num_compute_capabilities = 1
    target = getattr(cast(TensorRTForRtx, api).ComputeCapability, order.target.upper())
    if not config.set_compute_capability(target, 0):
        raise EngineNotBuiltError(f"{order.flavour} does not take {order.target} as a target")


def _add_profile(profile: Any, config: Config, network: Network, size: int) -> tuple[int, ...]:
    """One size of batch and no other: kernels are chosen for it, and a CUDA graph fits it."""
    given = network.get_input(0)
    shape = (size, *tuple(given.shape)[1:])
    profile.set_shape(given.name, shape, shape, shape)
    config.add_optimization_profile(profile)
    least, usual, most = (tuple(one) for one in profile.get_shape(given.name))
    assert least == usual == most == shape
    return shape


def _remembering(config: Config, file: Path | None) -> Callable[[], None] | None:
    """Give the compiler what it measured before; what is returned keeps what it measured now."""
    if file is None:
        return None
    before = file.read_bytes() if file.is_file() else b""
    cache = config.create_timing_cache(before)
    if not config.set_timing_cache(cache, False):  # of another card or version
        config.set_timing_cache(config.create_timing_cache(b""), False)

    def keep() -> None:
        make_own(file.parent)
        with atomic.replacing(file) as partial:
            partial.write_bytes(bytes(config.get_timing_cache().serialize()))

    return keep


def _settle(api: TensorRT, order: EngineOrder) -> None:
    """Build next to nothing, after a build that failed.

    The first engine behind one has other bytes than it has otherwise (tensorrt-rtx 1.7.1): so that
    is not the next one that somebody wants.
    """
    value = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1, 4])
    given = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1, 4])
    relu = onnx.helper.make_node("Relu", ["x"], ["y"])
    graph = onnx.helper.make_graph([relu], "nothing", [value], [given])
    model = onnx.helper.make_model(
        graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=9
    )
    logger = heard_of(api).logger
    builder = api.Builder(logger)
    network = builder.create_network(1 << int(api.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = api.OnnxParser(network, logger)
    parser.parse(model.SerializeToString())
    config = builder.create_builder_config()
    if order.flavour == "tensorrt-rtx":
        _aim(api, config, order)
    builder.build_serialized_network(network, config)


def _said(messages: Iterable[str]) -> str:
    """The first of what was told, each in one line."""
    told = [" ".join(message.split())[:300] for message in messages]
    return "; ".join(dict.fromkeys(told[:_MOST_MESSAGES])) or "it gives no reason"


class _Watching:
    """Hands the compiler's phases on to whoever watches; what that raises stops the build.

    TensorRT calls from threads of its own, where an exception would end the process.
    """

    def __init__(self, progress: Progress, what: str) -> None:
        self._progress = progress
        self._what = what
        self._lock = threading.Lock()
        self._shown: dict[str, tuple[AbstractContextManager[Advance], Advance]] = {}
        self.stopped_by: BaseException | None = None

    def start(self, phase: str, parent: str | None, steps: int) -> None:
        """A phase begins; those inside of others are not shown."""
        with self._careful():
            if parent is None and self.stopped_by is None:
                showing = self._progress(f"{self._what}: {phase}", steps)
                self._shown[phase] = (showing, showing.__enter__())

    def step(self, phase: str) -> bool:
        """A step is done; whether the build may go on."""
        with self._careful():
            if phase in self._shown:
                self._shown[phase][1]()
        return self.stopped_by is None

    def finish(self, phase: str) -> None:
        """A phase is over."""
        with self._careful():
            if (shown := self._shown.pop(phase, None)) is not None:
                shown[0].__exit__(None, None, None)

    def close(self) -> None:
        """Take down what is still shown."""
        for phase in list(self._shown):
            self.finish(phase)

    @contextmanager
    def _careful(self) -> Iterator[None]:
        """One thread at a time; what is raised is kept for later, a Ctrl-C too."""
        try:
            with self._lock:
                yield
        except BaseException as error:
            self.stopped_by = self.stopped_by or error


def _monitor(api: TensorRT, watching: _Watching) -> Any:
    class Monitor(api.IProgressMonitor):  # type: ignore[misc,name-defined]
        def __init__(self) -> None:
            api.IProgressMonitor.__init__(self)

        def phase_start(self, name: str, parent: str | None, steps: int) -> None:
            watching.start(name, parent, steps)

        def step_complete(self, name: str, step: int) -> bool:
            return watching.step(name)

        def phase_finish(self, name: str) -> None:
            watching.finish(name)

    return Monitor()
