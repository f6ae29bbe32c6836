"""Which engine is to be built: compiler, kind of card, precision, batch sizes; and which can't be.

What is impossible is known before anything is read or built: nobody waits for an export that can't
end well. Nothing here imports TensorRT but `check_order`.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, cast

from lora_deploy.artifact import bundle
from lora_deploy.artifact.bundle import Engine, Flavour, Precision
from lora_deploy.errors import (
    BatchSizesError,
    BuildNeedsCardError,
    CardNotHereError,
    TargetNotBuiltError,
    TargetPrecisionError,
    UnknownCardError,
)
from lora_deploy.export.cards_here import cards_here
from lora_deploy.runtime.tensorrt_api import TensorRTForRtx, open_tensorrt

BATCH_SIZES = (1, 4, 8)
"""One clip, as a live picture or a timeline asks; what a server gathers in a moment; many clips."""

GRAPHS: dict[Precision, str] = {
    "fp32": bundle.ONNX,
    "fp16": bundle.HALF,
    "bf16": bundle.BFLOAT16,
}
"""The graph that an engine of a precision is made of: networks are strongly typed."""

Wish = Literal["refit", "strip-plan"]
"""``refit``: weights can be put in later; ``strip-plan``: they are left out of the file."""

_LARGEST_BATCH = 4096

_TOO_OLD: dict[str, dict[Precision, str]] = {
    "7.5": {
        "fp32": "tensorrt-rtx has no float32 convolution or matrix product for it",
        "bf16": "such cards do not know bfloat16",
    }
}
"""By compute capability, what tensorrt-rtx does not build, and why."""


@dataclass(frozen=True)
class EngineOrder:
    """One engine that is to be built."""

    flavour: Flavour
    compute_capability: str
    """Of the card, such as ``8.6``."""
    precision: Precision
    batch_sizes: tuple[int, ...] = BATCH_SIZES
    wishes: tuple[Wish, ...] = ()

    @property
    def target(self) -> str:
        """As ``--target`` names the card: ``sm86``."""
        return f"sm{self.compute_capability.replace('.', '')}"

    @property
    def made_of(self) -> str:
        """The ONNX file of a bundle that it is compiled from."""
        return GRAPHS[self.precision]

    @property
    def file(self) -> str:
        """Where it lies in a bundle."""
        return f"{bundle.ENGINES}/{self.flavour}-{self.precision}-{self.target}.engine"

    def engine(self, version: str) -> Engine:
        """What a manifest says of it, once it is built."""
        return Engine(
            flavour=self.flavour,
            version=version,
            compute_capability=self.compute_capability,
            precision=self.precision,
            file=self.file,
            made_of=self.made_of,
            batch_sizes=self.batch_sizes,
        )


def compute_capability_of(target: str) -> str:
    """``8.6`` of ``sm86``.

    Raises:
        UnknownCardError: It is no such word.
    """
    found = re.fullmatch(r"sm_?([1-9][0-9]?)([0-9])", target.strip().lower())
    if found is None:
        raise UnknownCardError(f"--target {target!r} is no kind of card; sm86 is one")
    return f"{found[1]}.{found[2]}"


def batch_sizes_of(sizes: Sequence[int]) -> tuple[int, ...]:
    """In their order, the smallest first.

    Raises:
        BatchSizesError: There are none, one comes twice, or one is out of bounds.
    """
    told = ", ".join(map(str, sizes)) or "none"
    if not sizes or len(set(sizes)) < len(sizes):
        raise BatchSizesError(f"batch sizes are {told}; allowed: at least one, each once")
    if not all(1 <= size <= _LARGEST_BATCH for size in sizes):
        raise BatchSizesError(f"batch sizes are {told}; allowed: 1 to {_LARGEST_BATCH}")
    return tuple(sorted(sizes))


def multiplies_float32(order: EngineOrder) -> bool:
    """Whether float32 matrices can be multiplied on the card at all, if only in the head."""
    return "fp32" not in _refused(order)


def _refused(order: EngineOrder) -> dict[Precision, str]:
    if order.flavour != "tensorrt-rtx":
        return {}
    return _TOO_OLD.get(order.compute_capability, {})


def check_pair(order: EngineOrder) -> None:
    """Refuse a precision that the card can't have; needs neither TensorRT nor a card.

    Raises:
        TargetPrecisionError: It can't.
    """
    if order.precision not in GRAPHS:
        raise TargetPrecisionError(
            f"no {order.precision} engine is made: TensorRT takes integers that are symmetric around "
            f"zero, and those of {bundle.INT8} are not; there are {', '.join(GRAPHS)}"
        )
    if (reason := _refused(order).get(order.precision)) is not None:
        able = [one for one in GRAPHS if one not in _refused(order)]
        raise TargetPrecisionError(
            f"no {order.precision} engine can be built for {order.target}: {reason}; it has "
            f"{', '.join(able)}"
        )


def check_order(order: EngineOrder) -> None:
    """Refuse what can't be built here.

    Raises:
        MissingPackageError: The compiler is not installed.
        TargetNotBuiltError: It has nothing for the card.
        TargetPrecisionError: The card does not have the precision.
        CardNotHereError: The compiler needs the card itself.
        BuildNeedsCardError: One of the wishes needs a card.
    """
    check_pair(order)
    batch_sizes_of(order.batch_sizes)
    api = open_tensorrt(order.flavour)
    if order.flavour == "tensorrt-rtx":
        targets = rtx_targets(cast(TensorRTForRtx, api).ComputeCapability)
        if order.target not in targets:
            raise TargetNotBuiltError(
                f"tensorrt-rtx {api.__version__} compiles for {', '.join(targets)}, not for "
                f"{order.target}{_who(order.compute_capability)}"
            )
    elif order.compute_capability not in (here := cards_here())[:1]:  # where it builds
        raise CardNotHereError(
            f"tensorrt compiles for the first card that is here, not for {order.target}; here is "
            f"{', '.join(here) or 'none'}"
        )
    if order.wishes and not cards_here():
        raise BuildNeedsCardError(
            f"{' and '.join(order.wishes)}: TensorRT builds such an engine only where a card is, "
            "and none is here"
        )


def rtx_targets(members: object) -> tuple[str, ...]:
    """What ``ComputeCapability`` of tensorrt-rtx names, as ``--target`` does: ``sm75``, …, ``sm121``."""
    found = [name for name in dir(members) if re.fullmatch(r"SM[0-9]{2,3}", name)]
    return tuple(name.lower() for name in sorted(found, key=lambda name: int(name[2:])))


def _who(compute_capability: str) -> str:
    return " (H100, H200)" if compute_capability == "9.0" else ""
