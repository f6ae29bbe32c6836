"""ONNX Runtime on an NVIDIA card, by one of its providers; nothing is left to the processor in silence."""

import contextlib
import hashlib
import importlib
import io
import threading
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from lora_deploy.artifact.bundle import Precision
from lora_deploy.artifact.handing import alone
from lora_deploy.errors import (
    GraphError,
    NoSuchDeviceError,
    ProviderFellBackError,
    ProviderMissingError,
    ProviderRefusesError,
)
from lora_deploy.extras import is_installed
from lora_deploy.runtime.ort import check_signature
from lora_deploy.runtime.outside_data import refuse_outside_data
from lora_deploy.runtime.own_cache import ready_folder
from lora_deploy.runtime.providers import PROVIDERS, RTX_PLUGIN, ProviderBackend, options_of

NO_CPU = "session.disable_cpu_ep_fallback"
"""With it a session does not open where a node would be computed by the processor."""

BATCH = "batch"
"""What the exporter calls the dimension of clips. With a number in its place the arithmetic of shapes,
which no provider takes, is done while a session is opened."""

CACHE_BYTES = 4 << 30
"""Engines of other days are removed beyond this."""


_WARNING, _FATAL = 2, 4
"""Of ONNX Runtime's own log."""


class OnnxRuntimeOnCard:
    """The merged graph in plain operators, at one batch size, on a card."""

    form = "merged"

    def __init__(
        self,
        graph: bytes | Path,
        backend: ProviderBackend,
        *,
        precision: Precision = "fp32",
        batch_size: int = 1,
        index: int = 0,
        cache: Path | None = None,
    ) -> None:
        """Open a graph whose bytes were checked against the bundle's manifest.

        Args:
            graph: The bytes of an ONNX file, or a path that `handed` gave; data in other files are
                not found.
            backend: Which provider.
            precision: What the graph is in.
            batch_size: The one batch shape that will be run.
            index: Of the card.
            cache: A folder for what the provider compiles; None compiles anew at each start.

        Raises:
            ProviderMissingError: This ONNX Runtime has no such provider.
            ProviderRefusesError: It does not start, or does not take all of the graph.
            ProviderFellBackError: ONNX Runtime took another one.
            GraphError: It is no ONNX graph, or none of ours.
        """
        self.name: str = backend
        self.batch_size = batch_size
        devices = _devices(backend, index)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = _FATAL
        options.add_session_config_entry(NO_CPU, "1")
        options.add_free_dimension_override_by_name(BATCH, batch_size)
        self._session = _open(graph, backend, options, devices, precision, index, cache, batch_size)
        check_signature(self._session, "pixel_values", "logits")
        self._lock = threading.Lock()
        self._binding: Any = None
        if backend != "onnxruntime-rtx":  # a plug-in's memory can't be had by this name
            self._bind(index)

    @property
    def metadata(self) -> dict[str, str]:
        """What the exporter wrote into the graph: labels, pixel contract, digest."""
        return dict(self._session.get_modelmeta().custom_metadata_map)

    def logits(self, pixel_values: NDArray[np.float32]) -> NDArray[np.float32]:
        """Run one batch [batch_size, frames, 3, height, width]; returns [batch_size, labels].

        Threads take turns, as they share memory of the card.
        """
        result: NDArray[np.float32]
        with self._lock:
            if self._binding is None:
                result = self._session.run(["logits"], {"pixel_values": pixel_values})[0]
                return result
            self._input.update_inplace(np.ascontiguousarray(pixel_values))
            self._session.run_with_iobinding(self._binding)
            result = self._binding.copy_outputs_to_cpu()[0]
            return result

    def _bind(self, index: int) -> None:
        """Take memory of the card for the input once, and not for each batch."""
        shape = self._session.get_inputs()[0].shape
        self._input = onnxruntime.OrtValue.ortvalue_from_shape_and_type(
            [self.batch_size, *shape[1:]], np.float32, "cuda", index
        )
        self._binding = self._session.io_binding()
        self._binding.bind_ortvalue_input("pixel_values", self._input)
        self._binding.bind_output("logits", "cpu")


def has_provider(backend: ProviderBackend) -> bool:
    """Whether the ONNX Runtime that is installed has a provider; not whether it starts here."""
    if backend == "onnxruntime-rtx":
        return is_installed(RTX_PLUGIN)
    return PROVIDERS[backend] in onnxruntime.get_available_providers()


def _devices(backend: ProviderBackend, index: int) -> list[Any]:
    """The plug-in's device, for whom it is one; empty for a provider that is built in.

    Raises:
        ProviderMissingError: It is not installed.
        ProviderRefusesError: The plug-in does not start.
        NoSuchDeviceError: It sees no such card.
    """
    name = PROVIDERS[backend]
    if not has_provider(backend):
        there = ", ".join(onnxruntime.get_available_providers())
        raise ProviderMissingError(
            f"{backend} needs {name}, and the ONNX Runtime {onnxruntime.__version__} that is "
            f"installed has: {there}"
        )
    if backend != "onnxruntime-rtx":
        return []
    plugin = importlib.import_module(RTX_PLUGIN)
    try:
        if not _seen(name):
            onnxruntime.register_execution_provider_library(name, plugin.get_library_path())
    except Exception as error:  # a library that is missing ends in whatever it likes
        raise ProviderRefusesError(f"{name} does not start: {_first_line(error)}") from error
    devices = _seen(name)
    if index >= len(devices):
        raise NoSuchDeviceError(
            f"device cuda:{index} was asked for, and {name} sees {len(devices)} cards that it runs on"
        )
    return [devices[index]]


def _seen(name: str) -> list[Any]:
    return [device for device in onnxruntime.get_ep_devices() if device.ep_name == name]


def _open(
    graph: bytes | Path,
    backend: ProviderBackend,
    options: onnxruntime.SessionOptions,
    devices: list[Any],
    precision: Precision,
    index: int,
    cache: Path | None,
    batch_size: int,
) -> onnxruntime.InferenceSession:
    name = PROVIDERS[backend]
    onnxruntime.set_default_logger_severity(_FATAL)  # what it says is said again by the error
    try:
        with alone(graph) as path:
            refuse_outside_data(path)
            kept = _folder_of(path, cache, batch_size)
            settings = dict(options_of(backend, precision=precision, index=index, cache=kept))
            if devices:
                options.add_provider_for_devices(devices, settings)
                providers = None
            else:
                providers = [(name, settings)]
                _preload(backend)
            session = onnxruntime.InferenceSession(
                str(path), options, providers=providers, enable_fallback=0
            )
    except GraphError:
        raise
    except Exception as error:
        raise ProviderRefusesError(
            f"{name} of ONNX Runtime {onnxruntime.__version__} does not open the graph: "
            f"{_first_line(error)}"
        ) from error
    finally:
        onnxruntime.set_default_logger_severity(_WARNING)
    session.disable_fallback()
    found = session.get_providers()[0]
    if found != name:
        raise ProviderFellBackError(f"ONNX Runtime chose {found} where {name} was asked for")
    return session


def _preload(backend: ProviderBackend) -> None:
    """Find libraries where pip or PyTorch brought them; stdout is for results, and it prints.

    ONNX Runtime looks for CUDA and cuDNN. Those of TensorRT lie in a folder where no loader looks, and
    are loaded when its package is imported; where that fails, there may be some in the system.
    """
    with contextlib.redirect_stdout(io.StringIO()):
        onnxruntime.preload_dlls()
        if backend == "onnxruntime-tensorrt":
            with contextlib.suppress(Exception):
                importlib.import_module("tensorrt")


def _folder_of(graph: Path, cache: Path | None, batch_size: int) -> Path | None:
    """A folder of the cache for this one graph at one batch size, if nobody else can write to it: its
    engines will run."""
    if cache is None:
        return None
    with graph.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return ready_folder(cache / f"{digest}-b{batch_size}", "*", CACHE_BYTES)


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
