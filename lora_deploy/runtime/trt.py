"""An engine of TensorRT, or of TensorRT for RTX, on one NVIDIA card; without PyTorch.

Deserialising an engine equals running native code. So whatever can be told from the bundle's manifest
is told before: whether the package, its version, the card and the batch fit. Who calls this sees to
it that the bytes are those that the manifest vouches for.
"""

# ruff: noqa: D102 - what TensorRT's calls do stands in its own documentation
import hashlib
import logging
import threading
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from lora_deploy import atomic, regular
from lora_deploy.artifact.bundle import Engine
from lora_deploy.clips.contract import PixelContract
from lora_deploy.errors import (
    CardFailedError,
    DiskFullError,
    EngineBatchError,
    EngineCardError,
    EngineUnusableError,
    EngineVersionError,
)
from lora_deploy.runtime.card import Card
from lora_deploy.runtime.own_cache import is_own, ready_folder
from lora_deploy.runtime.tensorrt_api import heard_of, open_tensorrt

logger = logging.getLogger(__name__)

INPUT, OUTPUT = "pixel_values", "logits"

CACHE_BYTES = 1 << 30
"""Kernels of other days are removed beyond this."""


class Runtime(Protocol):
    """``Runtime``."""

    def deserialize_cuda_engine(self, serialized_engine: bytes) -> Any: ...


class CudaEngine(Protocol):
    """``ICudaEngine``."""

    num_io_tensors: int
    num_optimization_profiles: int

    def get_tensor_name(self, index: int) -> str: ...
    def get_tensor_dtype(self, name: str) -> Any: ...
    def get_tensor_mode(self, name: str) -> Any: ...
    def get_tensor_shape(self, name: str) -> Any: ...
    def get_tensor_profile_shape(self, name: str, profile_index: int) -> Any: ...
    def create_execution_context(self, runtime_config: Any = None) -> Any: ...


class ExecutionContext(Protocol):
    """``IExecutionContext``."""

    def set_optimization_profile_async(self, profile_index: int, stream_handle: int) -> bool: ...
    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool: ...
    def get_tensor_shape(self, name: str) -> Any: ...
    def set_tensor_address(self, name: str, memory: int) -> bool: ...
    def execute_async_v3(self, stream_handle: int) -> bool: ...


class RtxRuntime(Runtime, Protocol):
    """The same of ``tensorrt-rtx``."""

    def get_engine_validity(self, buffer: bytes) -> Any: ...


class RtxEngine(CudaEngine, Protocol):
    """The same of ``tensorrt-rtx``, which finishes compiling when an engine is opened."""

    def create_runtime_config(self) -> Any: ...


class RtxConfig(Protocol):
    """``IRuntimeConfig`` of ``tensorrt-rtx``."""

    cuda_graph_strategy: Any
    dynamic_shapes_kernel_specialization_strategy: Any

    def create_runtime_cache(self) -> Any: ...
    def set_runtime_cache(self, cache: Any) -> bool: ...


class RtxCache(Protocol):
    """``IRuntimeCache`` of ``tensorrt-rtx``: the kernels that were compiled for a card."""

    def serialize(self) -> Any: ...
    def deserialize(self, blob: bytes) -> bool: ...


class TensorRT(Protocol):
    """The package itself, as far as running goes."""

    __version__: str
    DataType: Any
    ILogger: Any
    TensorIOMode: Any

    def Runtime(self, logger: Any) -> Runtime: ...  # their name


class TensorRTForRtx(TensorRT, Protocol):
    """The same of ``tensorrt-rtx``."""

    CudaGraphStrategy: Any
    DynamicShapesKernelSpecializationStrategy: Any
    EngineValidity: Any


SHARED: dict[str, type] = {
    "": TensorRT, "Runtime": Runtime, "ICudaEngine": CudaEngine,
    "IExecutionContext": ExecutionContext,
}  # fmt: skip
"""What both packages call a class, and what we use of it; '' is the package itself."""

OF_RTX: dict[str, type] = {
    "": TensorRTForRtx, "Runtime": RtxRuntime, "ICudaEngine": RtxEngine,
    "IRuntimeConfig": RtxConfig, "IRuntimeCache": RtxCache,
}  # fmt: skip
"""What ``tensorrt-rtx`` has beside it."""


def open_api(engine: Engine) -> TensorRT:
    """The package that opens an engine.

    Raises:
        MissingPackageError: It is not installed.
        TensorRTUnusableError: It is, and can't be imported.
        EngineVersionError: It is another version than the engine's.
    """
    api = cast(TensorRT, open_tensorrt(engine.flavour, purpose="to run engines"))
    check_version(engine, api)
    return api


def check_version(engine: Engine, api: TensorRT) -> None:
    """See that an engine was compiled by the version that is installed.

    Raises:
        EngineVersionError: It was not.
    """
    if api.__version__ != engine.version:
        raise EngineVersionError(
            f"{engine.file} was compiled by {engine.flavour} {engine.version}, and "
            f"{api.__version__} is installed"
        )


def check_card(engine: Engine, card: Card) -> None:
    """See that an engine is for a card.

    Raises:
        EngineCardError: It is for others.
    """
    if engine.compute_capability != card.compute_capability:
        raise EngineCardError(
            f"{engine.file} was compiled for cards of {engine.target}, and here is {card}"
        )


def profile_for(engine: Engine, batch_size: int) -> int:
    """The number of the optimisation profile of a batch size.

    Raises:
        EngineBatchError: The engine has none.
    """
    if batch_size not in engine.batch_sizes:
        raise EngineBatchError(
            f"{engine.file} has no profile for batches of {batch_size}; it has: "
            f"{', '.join(map(str, engine.batch_sizes))}"
        )
    return engine.batch_sizes.index(batch_size)


class TensorRtBackend:
    """An engine at one batch size, with memory and a stream of its own.

    It takes normalised frames: to normalise on the card needs a kernel of our own, and none is built.
    """

    form = "merged"

    def __init__(
        self,
        content: bytes,
        engine: Engine,
        contract: PixelContract,
        *,
        labels: int,
        card: Card,
        api: TensorRT,
        batch_size: int = 1,
        cache: Path | None = None,
    ) -> None:
        """Open an engine whose bytes were checked against the bundle's manifest.

        Args:
            content: The engine.
            engine: What the manifest says of it.
            contract: Which pixels it is given.
            labels: How many numbers it answers a clip with.
            card: Where it runs; closed with this.
            api: The package of the engine's flavour.
            batch_size: The one batch shape that will be run; the engine has a profile for it.
            cache: A folder in which ``tensorrt-rtx`` keeps the kernels that it compiles when it
                opens an engine; None compiles them anew.

        Raises:
            EngineVersionError, EngineCardError, EngineBatchError: It does not fit; nothing was opened.
            EngineUnusableError: TensorRT does not open it, or it is another model.
            CardFailedError: The driver refused something.
        """
        check_version(engine, api)
        check_card(engine, card)
        profile = profile_for(engine, batch_size)
        self.name: str = engine.flavour
        self.batch_size = batch_size
        self.card = card
        self._engine, self._api = engine, api
        heard = heard_of(api)
        self._listening = ExitStack()
        self._errors = self._listening.enter_context(heard.listening())
        self._lock = threading.Lock()
        self._graph: Callable[[], None] | None = None
        self._kernels: RtxCache | None = None
        self._known = b""
        """What the cache gave."""
        self._in_shape = (batch_size, *contract.pixel_values_shape)
        self._out_shape = (batch_size, labels)
        try:
            with card.current():
                self._runtime = api.Runtime(heard.logger)
                self._opened: CudaEngine = self._deserialised(self._runtime, content)
                self._check_tensors(profile)
                self._stream = card.stream()
                key = hashlib.sha256(content).hexdigest()
                self._open_context(profile, cache and cache / f"{key}-{card.target}.kernels")
                self._take_memory()
                self._prepare()
        except BaseException:
            self.close()
            raise

    def logits(self, pixel_values: NDArray[np.float32]) -> NDArray[np.float32]:
        """Run one batch [batch_size, frames, 3, height, width]; returns [batch_size, labels].

        Threads take turns.

        Raises:
            CardFailedError: The card did.
        """
        if pixel_values.shape != self._in_shape:  # one clip would be spread over the batch
            raise ValueError(f"a batch has the shape {self._in_shape}, not {pixel_values.shape}")
        with self._lock, self.card.current():
            self._input[:] = pixel_values
            (self._graph or self._enqueue)()
            self.card.wait(self._stream)
            return self._output.copy()

    def close(self) -> None:
        """Give the card's memory back; nothing can be asked any more."""
        with self._lock:
            self.card.close(self._let_go)
            self._listening.close()

    def _let_go(self) -> None:
        # Each of them refers to the next one, and all to the card.
        for part in ("_graph", "_context", "_kernels", "_opened", "_runtime"):
            setattr(self, part, None)

    def __del__(self) -> None:
        with suppress(
            Exception
        ):  # at the very end of a process nothing may be left to close it with
            self.close()

    # Opening --------------------------------------------------------------------------------------

    def _deserialised(self, runtime: Runtime, content: bytes) -> CudaEngine:
        """Native code begins to run here."""
        if self._is_rtx:
            api = cast(TensorRTForRtx, self._api)
            validity, reasons = cast(RtxRuntime, runtime).get_engine_validity(content)[:2]
            if validity == api.EngineValidity.INVALID:
                raise self._unusable(f"does not fit this card or driver (diagnosis {reasons})")
        self._errors.clear()
        opened: CudaEngine | None = runtime.deserialize_cuda_engine(content)
        if opened is None:
            raise self._unusable("can't be opened")
        return opened

    def _check_tensors(self, profile: int) -> None:
        """An engine has no place for labels and pixel contract; that it is this model shows in its shapes."""
        opened = self._opened
        names = {opened.get_tensor_name(index) for index in range(opened.num_io_tensors)}
        if names != {INPUT, OUTPUT}:
            raise self._unusable(f"has {sorted(names)}, and needed are {INPUT} and {OUTPUT}")
        for name, mode in ((INPUT, "INPUT"), (OUTPUT, "OUTPUT")):
            kind = opened.get_tensor_dtype(name)
            if kind != self._api.DataType.FLOAT:
                raise self._unusable(f"has {name} in {kind}, and float32 is needed")
            if opened.get_tensor_mode(name) != getattr(self._api.TensorIOMode, mode):
                raise self._unusable(f"does not have {name} as its {mode.lower()}")
        if opened.num_optimization_profiles != len(self._engine.batch_sizes):
            raise self._unusable(
                f"has {opened.num_optimization_profiles} profiles, and its manifest names "
                f"{len(self._engine.batch_sizes)}"
            )
        least, _, most = (tuple(one) for one in opened.get_tensor_profile_shape(INPUT, profile))
        if not (
            len(least) == len(most) == len(self._in_shape)
            and least[0] <= self._in_shape[0] <= most[0]
            and least[1:] == most[1:] == self._in_shape[1:]
        ):
            raise self._unusable(
                f"takes batches of {least} to {most} in profile {profile}, and the bundle's are "
                f"{self._in_shape}"
            )

    def _open_context(self, profile: int, kept: Path | None) -> None:
        if self._is_rtx:
            config = self._rtx_config(kept)
            context = self._opened.create_execution_context(config)
        else:
            context = self._opened.create_execution_context()
        if context is None:
            raise CardFailedError(
                f"{self.card}: making a context failed ({self._first_error or 'no reason was given'})"
            )
        self._context: ExecutionContext = context
        self._kept = kept
        stream = int(self._stream)
        self._must(
            self._context.set_optimization_profile_async(profile, stream),
            f"refuses profile {profile}",
        )
        self.card.wait(self._stream)
        self._must(
            self._context.set_input_shape(INPUT, self._in_shape), f"refuses {self._in_shape}"
        )
        found = tuple(self._context.get_tensor_shape(OUTPUT))
        if found != self._out_shape:
            raise self._unusable(
                f"answers with {found}, and the bundle's answers are {self._out_shape}"
            )

    def _rtx_config(self, kept: Path | None) -> Any:
        api = cast(TensorRTForRtx, self._api)
        config: RtxConfig = cast(RtxEngine, self._opened).create_runtime_config()
        config.cuda_graph_strategy = api.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
        # Else kernels are replaced while answers are given, and a clip's numbers change with them.
        strategies = api.DynamicShapesKernelSpecializationStrategy
        config.dynamic_shapes_kernel_specialization_strategy = strategies.EAGER
        if kept is not None and ready_folder(kept.parent, "*.kernels", CACHE_BYTES) is not None:
            kernels: RtxCache = config.create_runtime_cache()
            content = _own_content(kept)
            if content is not None and kernels.deserialize(content):
                self._known = content
            if config.set_runtime_cache(kernels):
                self._kernels = kernels
        return config

    def _take_memory(self) -> None:
        self._host_in, pixels = self.card.host_memory(4 * int(np.prod(self._in_shape)))
        self._host_out, numbers = self.card.host_memory(4 * int(np.prod(self._out_shape)))
        self._input = pixels.view(np.float32).reshape(self._in_shape)
        self._output = numbers.view(np.float32).reshape(self._out_shape)
        self._card_in = self.card.device_memory(self._input.nbytes)
        self._card_out = self.card.device_memory(self._output.nbytes)
        for name, place in ((INPUT, self._card_in), (OUTPUT, self._card_out)):
            self._must(
                self._context.set_tensor_address(name, int(place)), f"refuses memory for {name}"
            )

    def _prepare(self) -> None:
        """Run once, so that all is compiled and taken; then as one graph where that can be recorded."""
        self._input[:] = 0
        self._enqueue()
        self.card.wait(self._stream)
        if self._is_rtx:  # it records a graph by itself
            self._keep_kernels()
            return
        try:
            self._graph = self.card.recorded(self._stream, self._enqueue)
        except CardFailedError as error:
            logger.warning("%s runs without a CUDA graph: %s", self._engine.name, error.found)

    def _enqueue(self) -> None:
        card, stream = self.card, self._stream
        card.upload(self._card_in, self._host_in, self._input.nbytes, stream)
        if not self._context.execute_async_v3(int(stream)):
            raise CardFailedError(
                f"{card}: {self._engine.name} did not run ({self._first_error or 'no reason given'})"
            )
        card.download(self._host_out, self._card_out, self._output.nbytes, stream)

    def _keep_kernels(self) -> None:
        """Put what was compiled into the cache; that it can't be kept costs the next start time."""
        if self._kernels is None or self._kept is None:
            return
        content = bytes(self._kernels.serialize())
        if content == self._known:
            return
        with suppress(OSError, DiskFullError):
            with atomic.replacing(self._kept) as partial:
                partial.write_bytes(content)
            self._kept.chmod(0o600)  # else nobody would trust it under a umask that is open

    # Words ----------------------------------------------------------------------------------------

    @property
    def _is_rtx(self) -> bool:
        return self._engine.flavour == "tensorrt-rtx"

    def _must(self, done: bool, refusal: str) -> None:
        if not done:
            raise self._unusable(refusal)

    @property
    def _first_error(self) -> str:
        """What TensorRT complained of; what follows it are its consequences."""
        return " ".join(self._errors[0].split())[:300] if self._errors else ""

    def _unusable(self, what: str) -> EngineUnusableError:
        said = f"; {self._engine.flavour} says: {self._first_error}" if self._first_error else ""
        return EngineUnusableError(f"{self._engine.file} {what}{said}")


def _own_content(path: Path) -> bytes | None:
    """A file of the cache, if nobody else could have written it: its kernels will run."""
    try:
        with regular.opened(path, follow=False) as file:
            return file.readall() if is_own(file.fileno()) else None
    except OSError:
        return None
