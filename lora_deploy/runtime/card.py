"""One NVIDIA card through its driver: memory, a stream, graphs; by NVIDIA's own binding, without PyTorch."""

# ruff: noqa: D102 - what the driver's calls do stands in its own documentation
import ctypes
import importlib
import importlib.util
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from lora_deploy.errors import (
    CardFailedError,
    MissingPackageError,
    NoCardError,
    NoSuchDeviceError,
)

BINDING = "cuda.bindings.driver"
"""Of NVIDIA's distribution ``cuda-bindings``; the driver itself is found when it is first called."""


class Driver(Protocol):
    """The calls of the binding that are used: each gives a status, and what was asked for behind it."""

    def cuInit(self, Flags: int) -> Sequence[Any]: ...
    def cuDriverGetVersion(self) -> Sequence[Any]: ...
    def cuDeviceGetCount(self) -> Sequence[Any]: ...
    def cuDeviceGet(self, ordinal: int) -> Sequence[Any]: ...
    def cuDeviceGetName(self, length: int, dev: Any) -> Sequence[Any]: ...
    def cuDeviceGetAttribute(self, attrib: Any, dev: Any) -> Sequence[Any]: ...
    def cuDevicePrimaryCtxRetain(self, dev: Any) -> Sequence[Any]: ...
    def cuDevicePrimaryCtxRelease(self, dev: Any) -> Sequence[Any]: ...
    def cuCtxPushCurrent(self, ctx: Any) -> Sequence[Any]: ...
    def cuCtxPopCurrent(self) -> Sequence[Any]: ...
    def cuMemAlloc(self, bytesize: int) -> Sequence[Any]: ...
    def cuMemFree(self, dptr: Any) -> Sequence[Any]: ...
    def cuMemHostAlloc(self, bytesize: int, Flags: int) -> Sequence[Any]: ...
    def cuMemFreeHost(self, p: Any) -> Sequence[Any]: ...
    def cuMemcpyHtoDAsync(
        self, dstDevice: Any, srcHost: Any, ByteCount: int, hStream: Any
    ) -> Sequence[Any]: ...
    def cuMemcpyDtoHAsync(
        self, dstHost: Any, srcDevice: Any, ByteCount: int, hStream: Any
    ) -> Sequence[Any]: ...
    def cuStreamCreate(self, Flags: int) -> Sequence[Any]: ...
    def cuStreamSynchronize(self, hStream: Any) -> Sequence[Any]: ...
    def cuStreamDestroy(self, hStream: Any) -> Sequence[Any]: ...
    def cuStreamBeginCapture(self, hStream: Any, mode: Any) -> Sequence[Any]: ...
    def cuStreamEndCapture(self, hStream: Any) -> Sequence[Any]: ...
    def cuGraphInstantiate(self, hGraph: Any, flags: int) -> Sequence[Any]: ...
    def cuGraphLaunch(self, hGraphExec: Any, hStream: Any) -> Sequence[Any]: ...
    def cuGraphDestroy(self, hGraph: Any) -> Sequence[Any]: ...
    def cuGraphExecDestroy(self, hGraphExec: Any) -> Sequence[Any]: ...

    CUdevice_attribute: Any
    CUstreamCaptureMode: Any
    CUstream_flags: Any


CALLS = tuple(name for name in vars(Driver) if name.startswith("cu"))
"""Names of those calls."""

MEMBERS = (
    ("CUdevice_attribute", "CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR"),
    ("CUdevice_attribute", "CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR"),
    ("CUstreamCaptureMode", "CU_STREAM_CAPTURE_MODE_THREAD_LOCAL"),
    ("CUstream_flags", "CU_STREAM_NON_BLOCKING"),
)
"""Constants of the binding that are used."""

_NAME_BYTES = 256


class Card:
    """A card, and what was taken of it; `close` gives that back.

    Its context is the device's primary one, so other libraries of this process share it.
    """

    def __init__(self, index: int = 0, *, driver: Driver | None = None) -> None:
        """Reach a card.

        Args:
            index: As ``cuda:N`` counts; ``CUDA_VISIBLE_DEVICES`` has its say.
            driver: The binding; NVIDIA's own by default.

        Raises:
            NoCardError: There is no driver, or no card.
            NoSuchDeviceError: There are fewer cards than that.
        """
        self._driver = open_driver() if driver is None else driver
        self.index = index
        self._given_back: list[Callable[[], object]] = []
        self.name = f"cuda:{index}"
        there = _count(self._driver)
        if index >= there:
            raise NoSuchDeviceError(
                f"device cuda:{index} was asked for, and the driver sees {there} cards"
            )
        self._device = self._do(self._driver.cuDeviceGet(index), "finding the card")
        told = self._do(self._driver.cuDeviceGetName(_NAME_BYTES, self._device), "its name")
        self.name = bytes(told).split(b"\0")[0].decode(errors="replace").strip()
        self.compute_capability = f"{self._attribute('MAJOR')}.{self._attribute('MINOR')}"
        """Such as ``8.6``."""
        self.cuda_version = _version(self._driver)
        """The newest CUDA that the driver knows, such as ``13.0``."""
        self._context = self._do(
            self._driver.cuDevicePrimaryCtxRetain(self._device), "reaching the card"
        )
        self._later(self._driver.cuDevicePrimaryCtxRelease, self._device)

    @property
    def target(self) -> str:
        """As ``--target`` names such cards: ``sm86``."""
        return f"sm{self.compute_capability.replace('.', '')}"

    def __str__(self) -> str:
        return f"{self.name} ({self.target})"

    @contextmanager
    def current(self) -> Iterator[None]:
        """The block's thread speaks to this card; each thread has to say so itself."""
        self._do(self._driver.cuCtxPushCurrent(self._context), "turning to the card")
        try:
            yield
        finally:
            self._driver.cuCtxPopCurrent()

    def device_memory(self, size: int) -> Any:
        """So many bytes on the card, until `close`."""
        pointer = self._do(self._driver.cuMemAlloc(size), f"taking {size} bytes of its memory")
        self._later(self._driver.cuMemFree, pointer)
        return pointer

    def host_memory(self, size: int) -> tuple[Any, NDArray[np.uint8]]:
        """So many bytes of this computer that the card reads and writes itself: address, and array."""
        address = self._do(self._driver.cuMemHostAlloc(size, 0), f"taking {size} locked bytes")
        self._later(self._driver.cuMemFreeHost, address)
        buffer = (ctypes.c_uint8 * size).from_address(int(address))
        return address, np.ctypeslib.as_array(buffer)

    def stream(self) -> Any:
        """A line of work of its own, that waits for nobody else's."""
        flag = self._driver.CUstream_flags.CU_STREAM_NON_BLOCKING
        stream = self._do(self._driver.cuStreamCreate(int(flag)), "making a stream")
        self._later(self._driver.cuStreamDestroy, stream)
        return stream

    def upload(self, to: Any, source: Any, size: int, stream: Any) -> None:
        """Put bytes of `host_memory` onto the card, when the stream gets there."""
        self._do(self._driver.cuMemcpyHtoDAsync(to, source, size, stream), "copying to it")

    def download(self, to: Any, source: Any, size: int, stream: Any) -> None:
        """Get bytes from the card into `host_memory`, when the stream gets there."""
        self._do(self._driver.cuMemcpyDtoHAsync(to, source, size, stream), "copying from it")

    def wait(self, stream: Any) -> None:
        """Wait until a stream is done.

        Raises:
            CardFailedError: Something on it failed.
        """
        self._do(self._driver.cuStreamSynchronize(stream), "computing")

    def recorded(self, stream: Any, work: Callable[[], None]) -> Callable[[], None]:
        """Record what ``work`` puts on a stream, as one graph; calling that puts all of it there.

        Raises:
            CardFailedError: Something in it can't be recorded.
        """
        mode = self._driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
        self._do(self._driver.cuStreamBeginCapture(stream, mode), "recording")
        try:
            work()
        finally:  # a stream that goes on recording could do nothing else any more
            ended = self._driver.cuStreamEndCapture(stream)
        graph = self._do(ended, "recording")
        try:
            ready = self._do(self._driver.cuGraphInstantiate(graph, 0), "making a graph")
        finally:
            self._driver.cuGraphDestroy(graph)
        self._later(self._driver.cuGraphExecDestroy, ready)
        return lambda: self._launch(ready, stream)

    def _launch(self, graph: Any, stream: Any) -> None:
        self._do(self._driver.cuGraphLaunch(graph, stream), "starting a graph")

    def close(self, first: Callable[[], object] = lambda: None) -> None:
        """Give everything back, the last taken first; what fails then has nobody to tell.

        Args:
            first: Lets go of what others took of the card, while the thread is turned to it.
        """
        if not self._given_back:
            return
        self._driver.cuCtxPushCurrent(self._context)
        first()
        *taken, context = reversed(self._given_back)
        self._given_back = []
        for give_back in taken:
            give_back()
        self._driver.cuCtxPopCurrent()
        context()

    def _later(self, call: Callable[[Any], object], what: Any) -> None:
        self._given_back.append(lambda: call(what))

    def _attribute(self, part: str) -> int:
        name = f"CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_{part}"
        which = getattr(self._driver.CUdevice_attribute, name)
        return int(self._do(self._driver.cuDeviceGetAttribute(which, self._device), "asking"))

    def _do(self, returned: Sequence[Any], doing: str) -> Any:
        """What a call gave.

        Raises:
            CardFailedError: It failed.
        """
        status, *values = returned
        if int(status) != 0:
            raise CardFailedError(f"{self.name}: {doing} failed ({_word(status)})")
        return values[0] if values else None


def has_binding() -> bool:
    """Whether NVIDIA's binding is installed."""
    try:
        return importlib.util.find_spec(BINDING) is not None
    except ModuleNotFoundError:  # of a package above it
        return False


def open_driver() -> Driver:
    """NVIDIA's binding; it needs no card to be imported.

    Raises:
        MissingPackageError: It is not installed.
    """
    if not has_binding():
        raise MissingPackageError(
            "cuda-bindings is needed to reach an NVIDIA card and not installed: pip install "
            '"lora-deploy[rtx]" (or [gpu])'
        )
    driver: Any = importlib.import_module(BINDING)
    return driver  # type: ignore[no-any-return]  # the binding has no types


def card_index(device: str | None) -> int:
    """Which card ``--device`` means.

    Raises:
        NoSuchDeviceError: It is no card.
    """
    if device in (None, "auto", "cuda"):
        return 0
    found = re.fullmatch(r"cuda:(\d{1,4})", device or "")
    if found is None:
        raise NoSuchDeviceError(
            f"device {device!r} is no NVIDIA card, and this backend runs on nothing else; "
            "allowed: auto, cuda, cuda:N"
        )
    return int(found[1])


def _count(driver: Driver) -> int:
    """How many cards there are, at least one.

    Raises:
        NoCardError: There are none, or no driver.
    """
    try:
        status, *_ = driver.cuInit(0)
    except Exception as error:  # the binding looks for the driver now, and says so in its own way
        raise NoCardError(f"no NVIDIA driver is here ({_first_line(error)})") from None
    if int(status) != 0:
        raise NoCardError(f"the NVIDIA driver does not start ({_word(status)})")
    status, count = driver.cuDeviceGetCount()
    if int(status) != 0 or not count:
        raise NoCardError("the NVIDIA driver sees no card")
    return int(count)


def _version(driver: Driver) -> str:
    status, version = driver.cuDriverGetVersion()
    if int(status) != 0:
        return "unknown"
    return f"{int(version) // 1000}.{int(version) % 1000 // 10}"


def _word(status: Any) -> str:
    return str(getattr(status, "name", status))


def _first_line(error: Exception) -> str:
    lines = str(error).splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__
