"""Stand-ins for an NVIDIA card's driver and for TensorRT's run time, with their rules and no card.

They are for the logic around a driver, and prove nothing of a driver, an engine or a card. Memory of
the stand-in's card has addresses that this process can't read, calls on a stream are done when it is
waited for, and whatever breaks a rule of the real thing raises `Misuse`.
"""

import ctypes
import enum
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

VERSION = "1.7.1.116"

Answer = Callable[[NDArray[np.float32]], NDArray[np.float32]]


class Misuse(AssertionError):
    """Something that the real thing answers with a crash, or with nonsense."""


class Status(enum.IntEnum):
    CUDA_SUCCESS = 0
    CUDA_ERROR_OUT_OF_MEMORY = 2
    CUDA_ERROR_NO_DEVICE = 100
    CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED = 900


_OK = (Status.CUDA_SUCCESS,)
_CARD_MEMORY = 1 << 60
"""No process has an address there."""


class StandInDriver:
    """``cuda.bindings.driver`` of a computer with so many cards of one kind."""

    CUdevice_attribute = SimpleNamespace(
        CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR="major",
        CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR="minor",
    )
    CUstreamCaptureMode = SimpleNamespace(CU_STREAM_CAPTURE_MODE_THREAD_LOCAL=1)
    CUstream_flags = SimpleNamespace(CU_STREAM_NON_BLOCKING=1)

    def __init__(
        self, capability: str = "8.6", *, cards: int = 1, name: str = "Stand-in 3000",
        memory: int = 1 << 30, can_capture: bool = True,
    ) -> None:  # fmt: skip
        self.capability, self.cards, self.name = capability, cards, name
        self.left, self.can_capture = memory, can_capture
        self.taken: dict[Any, Any] = {}
        """Whatever was taken and not given back, by its handle."""
        self.depth = 0
        self.launches = 0
        self._next = _CARD_MEMORY
        self.waiting: list[Callable[[], None]] = []
        self.recording: list[Callable[[], None]] | None = None

    # The card ---------------------------------------------------------------------------------

    def cuInit(self, Flags: int) -> tuple[Any, ...]:
        return _OK if self.cards else (Status.CUDA_ERROR_NO_DEVICE,)

    def cuDriverGetVersion(self) -> tuple[Any, ...]:
        return *_OK, 13000

    def cuDeviceGetCount(self) -> tuple[Any, ...]:
        return *_OK, self.cards

    def cuDeviceGet(self, ordinal: int) -> tuple[Any, ...]:
        return *_OK, ordinal

    def cuDeviceGetName(self, length: int, dev: Any) -> tuple[Any, ...]:
        return *_OK, self.name.encode().ljust(length, b"\0")

    def cuDeviceGetAttribute(self, attrib: Any, dev: Any) -> tuple[Any, ...]:
        major, minor = self.capability.split(".")
        return *_OK, int(major if attrib == "major" else minor)

    def cuDevicePrimaryCtxRetain(self, dev: Any) -> tuple[Any, ...]:
        return *_OK, self._take(("context", dev), "context")

    def cuDevicePrimaryCtxRelease(self, dev: Any) -> tuple[Any, ...]:
        if len(self.taken) > 1:
            raise Misuse(f"the context is given back before {sorted(map(str, self.taken))}")
        return self._give_back(("context", dev))

    def cuCtxPushCurrent(self, ctx: Any) -> tuple[Any, ...]:
        self.depth += 1
        return _OK

    def cuCtxPopCurrent(self) -> tuple[Any, ...]:
        self.depth -= 1
        return *_OK, None

    # Memory -----------------------------------------------------------------------------------

    def cuMemAlloc(self, bytesize: int) -> tuple[Any, ...]:
        self.see_current()
        if bytesize > self.left:
            return Status.CUDA_ERROR_OUT_OF_MEMORY, None
        self.left -= bytesize
        self._next += 1 << 40
        return *_OK, self._take(self._next, np.zeros(bytesize, np.uint8))

    def cuMemFree(self, dptr: Any) -> tuple[Any, ...]:
        return self._give_back(dptr)

    def cuMemHostAlloc(self, bytesize: int, Flags: int) -> tuple[Any, ...]:
        self.see_current()
        buffer = ctypes.create_string_buffer(bytesize)
        return *_OK, self._take(ctypes.addressof(buffer), buffer)

    def cuMemFreeHost(self, p: Any) -> tuple[Any, ...]:
        return self._give_back(p)

    def cuMemcpyHtoDAsync(self, dst: Any, src: Any, size: int, stream: Any) -> tuple[Any, ...]:
        return self._put(lambda: self._copy(self.taken[dst], self._host(src), size))

    def cuMemcpyDtoHAsync(self, dst: Any, src: Any, size: int, stream: Any) -> tuple[Any, ...]:
        return self._put(lambda: self._copy(self._host(dst), self.taken[src], size))

    def _host(self, address: Any) -> NDArray[np.uint8]:
        return np.frombuffer(self.taken[address], np.uint8)

    def _copy(self, to: NDArray[np.uint8], source: NDArray[np.uint8], size: int) -> None:
        to[:size] = source[:size]

    # Streams and graphs -----------------------------------------------------------------------

    def cuStreamCreate(self, Flags: int) -> tuple[Any, ...]:
        self.see_current()
        return *_OK, self._take(7, "stream")

    def cuStreamDestroy(self, hStream: Any) -> tuple[Any, ...]:
        return self._give_back(hStream)

    def cuStreamSynchronize(self, hStream: Any) -> tuple[Any, ...]:
        self.see_current()
        if self.recording is not None:
            raise Misuse("a stream that is recorded is waited for")
        waiting, self.waiting = self.waiting, []
        for work in waiting:
            work()
        return _OK

    def cuStreamBeginCapture(self, hStream: Any, mode: Any) -> tuple[Any, ...]:
        self.recording = []
        return _OK

    def cuStreamEndCapture(self, hStream: Any) -> tuple[Any, ...]:
        if self.recording is None:
            raise Misuse("no recording to be ended")
        recorded, self.recording = self.recording, None
        if not self.can_capture:
            return Status.CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, None
        return *_OK, self._take("graph", recorded)

    def cuGraphInstantiate(self, hGraph: Any, flags: int) -> tuple[Any, ...]:
        return *_OK, self._take("ready graph", self.taken[hGraph])

    def cuGraphDestroy(self, hGraph: Any) -> tuple[Any, ...]:
        return self._give_back(hGraph)

    def cuGraphExecDestroy(self, hGraphExec: Any) -> tuple[Any, ...]:
        return self._give_back(hGraphExec)

    def cuGraphLaunch(self, hGraphExec: Any, hStream: Any) -> tuple[Any, ...]:
        self.see_current()
        self.launches += 1
        self.waiting += self.taken[hGraphExec]
        return _OK

    # Rules ------------------------------------------------------------------------------------

    def see_current(self) -> None:
        if self.depth < 1:
            raise Misuse("the thread has not turned to the card")

    def _take(self, handle: Any, what: Any) -> Any:
        if handle in self.taken:
            raise Misuse(f"{handle} is taken twice")
        self.taken[handle] = what
        return handle

    def _give_back(self, handle: Any) -> tuple[Any, ...]:
        if handle not in self.taken:
            raise Misuse(f"{handle} is given back and was not taken")
        del self.taken[handle]
        return _OK

    def _put(self, work: Callable[[], None]) -> tuple[Any, ...]:
        self.put(work)
        return _OK

    def put(self, work: Callable[[], None]) -> None:
        """Onto the stream, or into what is recorded of it."""
        self.see_current()
        (self.waiting if self.recording is None else self.recording).append(work)


class StandInTensorRT:
    """``tensorrt``, or ``tensorrt_rtx``, whose engines are functions: what is deserialised is `answer`."""

    DataType = SimpleNamespace(FLOAT="FLOAT", HALF="HALF")
    TensorIOMode = SimpleNamespace(INPUT="INPUT", OUTPUT="OUTPUT")
    CudaGraphStrategy = SimpleNamespace(WHOLE_GRAPH_CAPTURE="whole")
    DynamicShapesKernelSpecializationStrategy = SimpleNamespace(EAGER="eager")
    EngineValidity = SimpleNamespace(VALID="valid", INVALID="invalid")

    class ILogger:
        INTERNAL_ERROR, ERROR, WARNING = (
            SimpleNamespace(name=name) for name in ("INTERNAL_ERROR", "ERROR", "WARNING")
        )

        def log(self, severity: int, msg: str) -> None:
            raise NotImplementedError

    def __init__(
        self, driver: StandInDriver, answer: Answer, pixels: tuple[int, ...], labels: int,
        batch_sizes: tuple[int, ...] = (1, 2), *, version: str = VERSION, is_rtx: bool = True,
    ) -> None:  # fmt: skip
        self.__version__ = version
        self.driver, self.answer, self.is_rtx = driver, answer, is_rtx
        self.pixels, self.labels, self.batch_sizes = pixels, labels, batch_sizes
        self.deserialised: list[bytes] = []
        self.opens, self.validity = True, "valid"
        self.names, self.kinds = ["pixel_values", "logits"], ["FLOAT", "FLOAT"]
        self.compiled = 0
        self.configs: list[SimpleNamespace] = []
        self.let_go: list[bool] = []
        """Of each engine and context that was destroyed: whether the thread was turned to the card."""

    def Runtime(self, logger: Any) -> Any:
        self.listener = logger
        runtime = SimpleNamespace(deserialize_cuda_engine=self._deserialise)
        if self.is_rtx:
            runtime.get_engine_validity = lambda content: (self.validity, 3)
        return runtime

    def _deserialise(self, content: bytes) -> Any:
        self.deserialised.append(content)
        if not self.opens:
            self.listener.log(self.ILogger.ERROR, "Magic tag\ndoes not match")
            return None
        return _StandInEngine(self)


class _StandInEngine:
    def __init__(self, package: StandInTensorRT) -> None:
        self.package = package
        self.num_io_tensors = len(package.names)
        self.num_optimization_profiles = len(package.batch_sizes)

    def __del__(self) -> None:
        self.package.let_go.append(self.package.driver.depth > 0)

    def get_tensor_name(self, index: int) -> str:
        return self.package.names[index]

    def get_tensor_dtype(self, name: str) -> str:
        return self.package.kinds[self.package.names.index(name)]

    def get_tensor_mode(self, name: str) -> str:
        return "INPUT" if self.package.names.index(name) == 0 else "OUTPUT"

    def get_tensor_profile_shape(self, name: str, profile: int) -> Any:
        return [(self.package.batch_sizes[profile], *self.package.pixels)] * 3

    def create_runtime_config(self) -> Any:
        if not self.package.is_rtx:
            raise Misuse("tensorrt has no runtime cache")
        config = SimpleNamespace(cache=None)
        config.create_runtime_cache = lambda: StandInCache()
        config.set_runtime_cache = lambda cache: config.__dict__.update(cache=cache) is None
        self.package.configs.append(config)
        return config

    def create_execution_context(self, runtime_config: Any = None) -> Any:
        return _StandInContext(self.package, runtime_config)


class StandInCache:
    """The kernels of one engine, called so."""

    def __init__(self) -> None:
        self.content = b""

    def serialize(self) -> bytes:
        return self.content

    def deserialize(self, blob: bytes) -> bool:
        fits = blob == b"kernels"
        self.content = blob if fits else b""
        return fits


class _StandInContext:
    def __init__(self, package: StandInTensorRT, config: Any) -> None:
        self.package, self.config = package, config
        self.profile: int | None = None
        self.shape: tuple[int, ...] = ()
        self.places: dict[str, int] = {}

    def __del__(self) -> None:
        self.package.let_go.append(self.package.driver.depth > 0)

    def set_optimization_profile_async(self, profile: int, stream: int) -> bool:
        self.profile = profile
        return True

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        if self.profile is None:
            raise Misuse("a shape before a profile")
        self.shape = shape
        return shape == (self.package.batch_sizes[self.profile], *self.package.pixels)

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return (self.shape[0], self.package.labels)

    def set_tensor_address(self, name: str, memory: int) -> bool:
        if memory < _CARD_MEMORY:
            raise Misuse(f"{name} is not on the card")
        self.places[name] = memory
        return True

    def execute_async_v3(self, stream: int) -> bool:
        cache = getattr(self.config, "cache", None)
        if cache is not None and cache.content != b"kernels":
            self.package.compiled += 1
            cache.content = b"kernels"
        self.package.driver.put(self._compute)
        return True

    def _compute(self) -> None:
        memory = self.package.driver.taken
        pixels = memory[self.places["pixel_values"]].view(np.float32).reshape(self.shape)
        numbers = memory[self.places["logits"]].view(np.float32).reshape(self.shape[0], -1)
        numbers[:] = self.package.answer(pixels.copy())
