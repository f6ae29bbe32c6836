"""Which forms a bundle is to hold: what was asked for, and which file each runtime reads."""

from collections.abc import Sequence
from dataclasses import dataclass

from lora_deploy.artifact import bundle
from lora_deploy.artifact.bundle import PRECISIONS, CompiledForm, Compiler, Flavour, Precision
from lora_deploy.errors import (
    CardNotHereError,
    FormNotMadeError,
    PrecisionNotHereError,
    TargetMissingError,
    TargetPrecisionError,
)
from lora_deploy.export.cards_here import cards_here
from lora_deploy.export.engine_order import (
    BATCH_SIZES,
    GRAPHS,
    EngineOrder,
    batch_sizes_of,
    check_pair,
    compute_capability_of,
    multiplies_float32,
)

TARGETS: dict[str, Compiler] = {"onnx": "onnxruntime", "openvino": "openvino"}
"""What ``--to`` takes beside `ENGINES`, and the runtime that it means."""

ENGINES = "tensorrt"
"""What ``--to`` takes for engines of either flavour."""

_FILES: dict[tuple[Compiler, Precision], str] = {
    ("onnxruntime", "fp32"): bundle.FUSED,
    ("onnxruntime", "fp16"): bundle.HALF,
    ("onnxruntime", "int8"): bundle.FUSED_INT8,
    ("openvino", "fp32"): bundle.ONNX,
    ("openvino", "bf16"): bundle.ONNX,  # it rounds the float32 graph itself
    ("openvino", "int8"): bundle.INT8,
}

_UNFUSED = {bundle.FUSED: bundle.ONNX, bundle.FUSED_INT8: bundle.INT8}


@dataclass(frozen=True)
class Plan:
    """What to make."""

    forms: tuple[CompiledForm, ...]
    frames_in: bool = False
    """Whether a graph is made that takes raw frames and gives probabilities."""
    adapter_graph: bool = False
    """Whether a graph of the base is made that takes adapters."""
    triton: bool = False
    """Whether a model repository for Triton is made of the graphs."""
    fuse: bool = True
    """Whether what only ONNX Runtime reads has its own operators in it."""
    engines: tuple[EngineOrder, ...] = ()
    left_out: tuple[str, ...] = ()
    """What was asked for beside others and can't be made here, each with the reason."""

    def at(self, precision: Precision) -> tuple[CompiledForm, ...]:
        """The forms of one precision."""
        return tuple(form for form in self.forms if form.precision == precision)

    def engines_at(self, precision: Precision) -> tuple[EngineOrder, ...]:
        """The engines of one precision."""
        return tuple(order for order in self.engines if order.precision == precision)

    @property
    def half_head(self) -> bool:
        """Whether the classifier of the float16 graph is float16 too, as some card can't do it else."""
        return not all(map(multiplies_float32, self.engines_at("fp16")))


def plan(
    targets: Sequence[str] = ("onnx",),
    precisions: Sequence[str] = ("fp32",),
    *,
    frames_in: bool = False,
    adapter_graph: bool = False,
    triton: bool = False,
    fuse: bool = True,
    cards: Sequence[str] = (),
    flavour: Flavour = "tensorrt-rtx",
    batch_sizes: Sequence[int] = BATCH_SIZES,
    has_bf16: bool = True,
) -> Plan:
    """What was asked for, as forms; float32 is always among them.

    Args:
        targets: Of `TARGETS`, or `ENGINES`; in float32 ``onnx`` is always among them, and wherever an
            engine is made of the graph that it reads.
        precisions: Of ``fp32``, ``fp16``, ``bf16``, ``int8``.
        frames_in: Whether to make the graph with the preprocessing inside, too.
        adapter_graph: Whether to make the graph that takes adapters, too.
        triton: Whether to make a model repository for Triton, too, and the graph of ``frames_in`` for it.
        fuse: Whether ONNX Runtime gets graphs of its own; else it reads the plain ones.
        cards: Which cards engines are for: ``sm86``, …; ``tensorrt`` takes the first that is here.
        flavour: Whose compiler makes engines.
        batch_sizes: An engine takes batches of these sizes.
        has_bf16: Whether the processor here computes in bfloat16; else no form of it can be proved.

    Raises:
        FormNotMadeError: A word is unknown, or no target that was asked for takes a precision.
        PrecisionNotHereError: bfloat16 alone was asked for, of a processor that has none.
        EngineError: A card is unknown or missing, or gets no engine at any of the precisions.
    """
    for words, allowed, option in (
        (targets, (*TARGETS, ENGINES), "--to"),
        (precisions, PRECISIONS, "--precision"),
    ):
        for word in words:
            if word not in allowed:
                raise FormNotMadeError(
                    f"{option} {word!r} is not made; allowed: {', '.join(allowed)}"
                )
    if cards and ENGINES not in targets:
        raise FormNotMadeError(
            f"--target {','.join(cards)} names cards, and --to {','.join(targets)} asks for no engines "
            f"(--to onnx,{ENGINES})"
        )
    named = [TARGETS[word] for word in TARGETS if word in targets]
    asked = [one for one in PRECISIONS if one in precisions or one == "fp32"]
    engines: list[EngineOrder] = []
    refused: list[TargetPrecisionError] = []
    if ENGINES in targets:
        wanted = [one for one in asked if one in precisions]
        engines, refused = _engines(cards, wanted, flavour, batch_sizes_of(batch_sizes))
    left_out = [error.found for error in refused]
    forms = []
    for precision in asked:
        has_engine = any(order.precision == precision for order in engines)
        compilers = [TARGETS["onnx"], *named] if precision == "fp32" or has_engine else named
        taken = [one for one in dict.fromkeys(compilers) if (one, precision) in _FILES]
        if not taken and not has_engine:
            if refused:
                raise refused[0]
            able = [to for to, one in TARGETS.items() if (one, precision) in _FILES]
            able += [ENGINES] * (precision in GRAPHS)
            raise FormNotMadeError(f"--precision {precision} is made for {', '.join(able)} only")
        if precision == "bf16" and taken and not has_bf16:
            found = (
                "this processor does not compute in bfloat16, so OpenVINO's form can't be proved"
            )
            if set(precisions) == {"bf16"} and not has_engine:
                raise PrecisionNotHereError(found)
            left_out.append(found)
            taken = []
        for one in taken:
            file = _FILES[one, precision]
            if not fuse:
                file = _UNFUSED.get(file, file)
            forms.append(CompiledForm(backend=one, precision=precision, file=file))
    return Plan(
        forms=tuple(forms),
        frames_in=frames_in or triton,
        adapter_graph=adapter_graph,
        triton=triton,
        fuse=fuse,
        engines=tuple(engines),
        left_out=tuple(dict.fromkeys(left_out)),
    )


def _engines(
    cards: Sequence[str],
    precisions: Sequence[Precision],
    flavour: Flavour,
    batch_sizes: tuple[int, ...],
) -> tuple[list[EngineOrder], list[TargetPrecisionError]]:
    """What can be built of what was asked for, and why the rest can't.

    Raises:
        EngineError: A card is unknown, none is named, or one would get no engine at all.
    """
    named = [compute_capability_of(card) for card in cards]
    if flavour == "tensorrt" and not named:
        named = list(cards_here()[:1])
        if not named:
            raise CardNotHereError("tensorrt compiles for the card that is here, and none is")
    if not named:
        raise TargetMissingError(f"--to {ENGINES} needs cards to build for, and none was named")
    found, refused = [], []
    for card in dict.fromkeys(named):
        orders = [EngineOrder(flavour, card, one, batch_sizes) for one in precisions]
        possible = []
        for order in orders:
            try:
                check_pair(order)
                possible.append(order)
            except TargetPrecisionError as error:
                refused.append(error)
        if not possible:
            raise refused[-len(orders)]
        found += possible
    return found, refused
