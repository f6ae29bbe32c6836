"""The one door to TensorRT: which of its two packages, and the calls of it that build an engine.

``tensorrt`` and ``tensorrt_rtx`` share an API by name, and neither ships types. The Protocols below
are what we use of it, under the names that it has there; a test finds each in the package that is
installed.
"""
# ruff: noqa: D102 - what a call does is in its maker's documentation

import importlib
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from inspect import get_annotations
from typing import Any, Generic, Protocol, cast, get_args

from lora_deploy.artifact.bundle import Flavour
from lora_deploy.errors import TensorRTUnusableError
from lora_deploy.extras import require

logger = logging.getLogger(__name__)

FLAVOURS: tuple[Flavour, ...] = get_args(Flavour)

PACKAGES: dict[Flavour, str] = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}
"""What is imported."""


class Tensor(Protocol):
    """``ITensor``."""

    name: str
    dtype: Any
    """Of ``DataType``; its ``name`` is ``FLOAT``, ``HALF``, ``BF16``, …"""
    shape: Any
    """Sizes, -1 where one is free."""


class Attention(Protocol):
    """``IAttention``, which stands behind two layers."""

    decomposable: bool
    """Whether it may be computed as several operations where no kernel does it whole."""


class Layer(Protocol):
    """``ILayer``."""

    name: str
    type: Any
    """Of ``LayerType``; its ``name`` is ``CONVOLUTION``, …"""
    num_inputs: int
    num_outputs: int

    def get_input(self, index: int) -> Tensor | None: ...
    def get_output(self, index: int) -> Tensor: ...


class AttentionLayer(Layer, Protocol):
    """``IAttentionInputLayer``, and the output layer, which has the same."""

    attention: Attention


class Network(Protocol):
    """``INetworkDefinition``."""

    num_inputs: int
    num_outputs: int
    num_layers: int

    def get_input(self, index: int) -> Tensor: ...
    def get_output(self, index: int) -> Tensor: ...
    def get_layer(self, index: int) -> Layer: ...


class ParserError(Protocol):
    """What a parser has against a model."""

    def desc(self) -> str: ...
    def node_name(self) -> str: ...
    def node_operator(self) -> str: ...


class OnnxParser(Protocol):
    """``OnnxParser``: fills a network."""

    num_errors: int

    def parse(self, model: bytes) -> bool: ...
    def get_error(self, index: int) -> ParserError: ...
    def supports_operator(self, op_name: str) -> bool: ...


class Profile(Protocol):
    """``IOptimizationProfile``."""

    def set_shape(
        self, input: str, min: tuple[int, ...], opt: tuple[int, ...], max: tuple[int, ...]
    ) -> None: ...
    def get_shape(self, input: str) -> list[Any]: ...


class TimingCache(Protocol):
    """``ITimingCache``: how long which kernel took on a card."""

    def serialize(self) -> Any: ...


class Config(Protocol):
    """``IBuilderConfig``."""

    progress_monitor: Any
    num_optimization_profiles: int

    def add_optimization_profile(self, profile: Profile) -> int: ...
    def clear_flag(self, flag: Any) -> None: ...
    def set_flag(self, flag: Any) -> None: ...
    def get_flag(self, flag: Any) -> bool: ...
    def create_timing_cache(self, serialized_timing_cache: bytes) -> TimingCache: ...
    def get_timing_cache(self) -> TimingCache: ...
    def set_timing_cache(self, cache: TimingCache, ignore_mismatch: bool) -> bool: ...


class TargetedConfig(Config, Protocol):
    """The same of ``tensorrt-rtx``, which builds for cards that are not there."""

    num_compute_capabilities: int

    def set_compute_capability(self, compute_capability: Any, index: int) -> bool: ...


class Builder(Protocol):
    """``Builder``."""

    def create_network(self, flags: int) -> Network: ...
    def create_builder_config(self) -> TargetedConfig: ...
    def create_optimization_profile(self) -> Profile: ...
    def build_serialized_network(self, network: Network, config: Config) -> Any: ...


class TensorRT(Protocol):
    """The package itself, as far as building goes."""

    __version__: str
    BuilderFlag: Any
    DataType: Any
    ILogger: Any
    """Base of what takes the package's messages."""
    IProgressMonitor: Any
    """Base of what is told how a build goes on."""
    LayerType: Any
    NetworkDefinitionCreationFlag: Any

    def Builder(self, logger: Any) -> Builder: ...
    def OnnxParser(self, network: Network, logger: Any) -> OnnxParser: ...


class TensorRTForRtx(TensorRT, Protocol):
    """The same of ``tensorrt-rtx``."""

    ComputeCapability: Any
    """Cards that it compiles for: ``SM75``, …"""


SHARED: dict[str, type] = {
    "": TensorRT, "Builder": Builder, "IBuilderConfig": Config, "ILayer": Layer,
    "INetworkDefinition": Network, "IOptimizationProfile": Profile, "ITensor": Tensor,
    "ITimingCache": TimingCache, "OnnxParser": OnnxParser, "ParserError": ParserError,
}  # fmt: skip
"""What both packages call a class, and what we use of it; '' is the package itself."""

OF_RTX: dict[str, type] = {
    "": TensorRTForRtx, "IAttention": Attention, "IAttentionInputLayer": AttentionLayer,
    "IAttentionOutputLayer": AttentionLayer, "IBuilderConfig": TargetedConfig,
}  # fmt: skip
"""What ``tensorrt-rtx`` has beside it. Older ``tensorrt`` has no attention of its own."""


def open_tensorrt(flavour: Flavour, *, purpose: str = "to build engines") -> TensorRT:
    """Import the package of a flavour; importing the other one beside it is allowed.

    Args:
        flavour: Whose compiler.
        purpose: What it is needed for, as in "to build engines".

    Raises:
        MissingPackageError: It is not installed.
        TensorRTUnusableError: It is, and can't be imported, or lacks a call that we need.
    """
    package = PACKAGES[flavour]
    require(package, purpose=purpose)
    try:
        module = importlib.import_module(package)
    except Exception as error:  # libraries that are missing end in whatever they like
        raise TensorRTUnusableError(
            f"{package} is installed and can't be imported: {type(error).__name__}: {error}"
        ) from error
    wanted = SHARED if flavour == "tensorrt" else {**SHARED, **OF_RTX}
    if lacking := sorted(missing_names(module, wanted)):
        raise TensorRTUnusableError(
            f"{package} {getattr(module, '__version__', '?')} lacks {', '.join(lacking)}"
        )
    return cast(TensorRT, module)


class Heard:
    """What TensorRT says while somebody listens; all of it also goes to the log of this program."""

    def __init__(self, api: TensorRT) -> None:
        """Make the one logger of a package: it takes the first of a process, and no other one."""
        self._listeners: list[list[str]] = []
        self.logger = _logger_class(api)(self)

    @contextmanager
    def listening(self) -> Iterator[list[str]]:
        """Yield the list that errors are put into, in the order in which they are told."""
        errors: list[str] = []
        self._listeners.append(errors)
        try:
            yield errors
        finally:
            # By identity: what two listeners have heard may be equal.
            self._listeners = [one for one in self._listeners if one is not errors]

    def take(self, severity: str, message: str) -> None:
        """Called by TensorRT, from any of its threads."""
        logger.debug("TensorRT: %s: %s", severity.lower(), message)
        if severity in ("ERROR", "INTERNAL_ERROR"):
            for errors in self._listeners:
                errors.append(message)


def _logger_class(api: TensorRT) -> Any:
    class Logger(api.ILogger):  # type: ignore[misc,name-defined]
        def __init__(self, heard: Heard) -> None:
            api.ILogger.__init__(self)
            self._heard = heard

        def log(self, severity: Any, message: str) -> None:
            self._heard.take(str(getattr(severity, "name", severity)), message)

    return Logger


def heard_of(api: Any) -> Heard:
    """The one logger of a package, as `open_tensorrt` gives it; its messages go to whoever listens."""
    return _heard_of(api)


@cache
def _heard_of(api: Any) -> Heard:
    return Heard(api)


def missing_names(module: object, wanted: Mapping[str, type]) -> Iterator[str]:
    """The names of ``wanted`` that a package lacks, as ``Builder.create_network``."""
    for owner, protocol in wanted.items():
        found = getattr(module, owner, None) if owner else module
        for name in names_of(protocol):
            if not hasattr(found, name):
                yield f"{owner}.{name}".lstrip(".")


def names_of(protocol: type) -> set[str]:
    """What a Protocol asks for: its fields and its methods, inherited ones too."""
    asked = [one for one in protocol.__mro__ if one not in (object, Protocol, Generic)]
    methods = {name for one in asked for name in vars(one) if not name.startswith("_")}
    return methods.union(*(get_annotations(one) for one in asked))
