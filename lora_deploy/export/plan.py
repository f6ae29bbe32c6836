"""Which forms a bundle is to hold: what was asked for, and which file each runtime reads."""

from collections.abc import Sequence
from dataclasses import dataclass

from lora_deploy.artifact import bundle
from lora_deploy.artifact.bundle import PRECISIONS, CompiledForm, Compiler, Precision
from lora_deploy.errors import FormNotMadeError

TARGETS: dict[str, Compiler] = {"onnx": "onnxruntime", "openvino": "openvino"}
"""What ``--to`` takes, and the runtime that it means."""

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

    def at(self, precision: Precision) -> tuple[CompiledForm, ...]:
        """The forms of one precision."""
        return tuple(form for form in self.forms if form.precision == precision)


def plan(
    targets: Sequence[str] = ("onnx",),
    precisions: Sequence[str] = ("fp32",),
    *,
    frames_in: bool = False,
    adapter_graph: bool = False,
    triton: bool = False,
    fuse: bool = True,
) -> Plan:
    """What was asked for, as forms; float32 is always among them.

    Args:
        targets: Of `TARGETS`; in float32 ``onnx`` is always among them.
        precisions: Of ``fp32``, ``fp16``, ``bf16``, ``int8``.
        frames_in: Whether to make the graph with the preprocessing inside, too.
        adapter_graph: Whether to make the graph that takes adapters, too.
        triton: Whether to make a model repository for Triton, too, and the graph of ``frames_in`` for it.
        fuse: Whether ONNX Runtime gets graphs of its own; else it reads the plain ones.

    Raises:
        FormNotMadeError: A word is unknown, or no target that was asked for takes a precision.
    """
    for words, allowed, option in (
        (targets, tuple(TARGETS), "--to"),
        (precisions, PRECISIONS, "--precision"),
    ):
        for word in words:
            if word not in allowed:
                raise FormNotMadeError(
                    f"{option} {word!r} is not made; allowed: {', '.join(allowed)}"
                )
    named = [TARGETS[word] for word in TARGETS if word in targets]
    forms = []
    for precision in (one for one in PRECISIONS if one in precisions or one == "fp32"):
        compilers = [TARGETS["onnx"], *named] if precision == "fp32" else named
        taken = [one for one in dict.fromkeys(compilers) if (one, precision) in _FILES]
        if not taken:
            able = [to for to, one in TARGETS.items() if (one, precision) in _FILES]
            raise FormNotMadeError(f"--precision {precision} is made for {', '.join(able)} only")
        for one in taken:
            file = _FILES[one, precision]
            if not fuse:
                file = _UNFUSED.get(file, file)
            forms.append(CompiledForm(backend=one, precision=precision, file=file))
    return Plan(tuple(forms), frames_in or triton, adapter_graph, triton, fuse)
