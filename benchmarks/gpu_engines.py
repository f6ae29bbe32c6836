"""The same model in ONNX Runtime's providers and TensorRT's engines, for the GPU benchmark.

Each runs on what PyTorch has put into the device's memory, so none pays for a copy that another
does not make. What this computer has not says why, and is not measured.
"""

import importlib
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import numpy as np
import torch
from gpu_measure import Entrant, NotHere, Run
from gpu_models import LABELS, Size, make_model

Precision = Literal["fp32", "fp16"]

PROVIDERS = {
    "CUDA": "CUDAExecutionProvider",
    "TensorRT": "TensorrtExecutionProvider",
    "TensorRT for RTX": "NvTensorRTRTXExecutionProvider",
    "processor": "CPUExecutionProvider",
}

RTX_PLUGIN = "onnxruntime_ep_nv_tensorrt_rtx"
"""The package that brings the provider for RTX cards; it is not built into ONNX Runtime."""

PACKAGES = {"TensorRT": "tensorrt", "TensorRT for RTX": "tensorrt_rtx"}

REHEARSED = "SM86"
"""The card that engines are built for where there is none."""

SECONDS_TO_BEGIN = 120
"""Nothing is begun with less time left: TensorRT takes minutes to build an engine."""


class Graphs:
    """The model as ONNX, made by this project's own export, each precision when it is first asked for."""

    def __init__(self, size: Size) -> None:
        self.size = size
        self._folder = tempfile.TemporaryDirectory()
        self._failed: dict[Precision, Exception] = {}

    def __enter__(self) -> "Graphs":
        return self

    def __exit__(
        self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None
    ) -> None:
        self._folder.cleanup()

    def path(self, precision: Precision) -> Path:
        """Of the graph.

        Raises:
            NotHere: A package for the export is missing, or it failed; it is not tried again.
        """
        path = Path(self._folder.name) / f"{precision}.onnx"
        if precision not in self._failed and not path.exists():
            try:
                self._write(path, precision)
            except Exception as error:
                self._failed[precision] = error
        if precision in self._failed:
            raise NotHere(f"no ONNX graph: {self._failed[precision]}")
        return path

    def _write(self, path: Path, precision: Precision) -> None:
        if precision == "fp16":
            half, onnx = importlib.import_module("lora_deploy.export.half"), import_module("onnx")
            onnx.save_model(half.in_half(onnx.load(self.path("fp32"))), path)
            return
        to_onnx = importlib.import_module("lora_deploy.export.to_onnx")
        contract = importlib.import_module("lora_deploy.clips.contract")
        side = self.size.config.image_size
        pixels = contract.PixelContract(
            frames=self.size.config.num_frames, short_side=side, crop_height=side, crop_width=side
        )
        labels = [f"label {number}" for number in range(LABELS)]
        model = make_model(self.size, torch.device("cpu"))
        to_onnx.write_onnx(model, path, labels=labels, contract=pixels)


def engine_entrants(graphs: Graphs, clips: torch.Tensor, until: float) -> dict[str, Entrant]:
    """All of them by name; those that can't begin on this computer raise `NotHere`.

    Args:
        graphs: Of the model.
        clips: On the device, [batch, frames, 3, height, width] float32.
        until: When all has to be over, of ``time.perf_counter``.
    """

    def in_time(begin: Callable[[], Run]) -> Entrant:
        def make() -> Run:
            if time.perf_counter() + SECONDS_TO_BEGIN > until:
                raise NotHere("no time left")
            return begin()

        return Entrant(make)

    found: dict[str, Entrant] = {}
    for name, provider in PROVIDERS.items():
        for precision in precisions_of(name):
            found[f"ONNX Runtime, {name}, {precision}"] = in_time(
                lambda provider=provider, precision=precision: onnx_runtime(  # type: ignore[misc]
                    graphs.path(precision), provider, clips
                )
            )
    for name, package in PACKAGES.items():
        found[f"{name}, fp16"] = in_time(
            lambda package=package: engine(graphs.path("fp16"), package, clips)  # type: ignore[misc]
        )
    return found


def precisions_of(provider: str) -> Iterator[Precision]:
    """What a provider is asked for: a processor has no half precision."""
    yield "fp32"
    if provider != "processor":
        yield "fp16"


def import_module(name: str) -> Any:
    """A package that may be missing.

    Raises:
        NotHere: It is, or does not start.
    """
    try:
        return importlib.import_module(name)
    except Exception as error:  # a package whose library is missing ends in whatever it likes
        raise NotHere(f"{name} can't be imported: {error}") from error


# ONNX Runtime ------------------------------------------------------------------------------------


def onnx_runtime(path: Path, provider: str, clips: torch.Tensor) -> Run:
    """A session of one provider and no other, at the batch size of the clips.

    Raises:
        NotHere: This ONNX Runtime has no such provider, or the provider is for another device.
    """
    runtime = import_module("onnxruntime")
    where, index = clips.device.type, clips.device.index or 0
    is_cpu = provider == PROVIDERS["processor"]
    is_built_in = provider in runtime.get_available_providers()
    card = None if is_built_in else plugged_in(runtime, provider, index)
    if is_cpu != (where == "cpu"):
        raise NotHere(f"{provider} is not for device {where}")
    options = runtime.SessionOptions()
    options.log_severity_level = 4
    options.add_free_dimension_override_by_name("batch", len(clips))
    if not is_cpu:
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    providers = None
    if card is None:
        providers = [(provider, {} if is_cpu else {"device_id": str(index)})]
    else:
        options.add_provider_for_devices([card], {})
    session = runtime.InferenceSession(str(path), options, providers=providers)
    if session.get_providers()[0] != provider:
        raise NotHere(f"ONNX Runtime took {session.get_providers()[0]} instead")
    logits = torch.empty(len(clips), LABELS, device=clips.device)
    binding = session.io_binding()
    for bind, name, tensor in (
        (binding.bind_input, "pixel_values", clips),
        (binding.bind_output, "logits", logits),
    ):
        bind(name, where, index, np.float32, tuple(tensor.shape), tensor.data_ptr())

    def run() -> torch.Tensor:
        session.run_with_iobinding(binding)
        return logits

    return run


def plugged_in(runtime: Any, provider: str, index: int) -> Any:
    """The device of a provider that comes as a package of its own.

    Raises:
        NotHere: There is none, or it sees no card.
    """
    if provider != PROVIDERS["TensorRT for RTX"]:
        raise NotHere(f"ONNX Runtime {runtime.__version__} has no {provider}")
    library = import_module(RTX_PLUGIN).get_library_path()
    if not any(one.ep_name == provider for one in runtime.get_ep_devices()):
        runtime.register_execution_provider_library(provider, library)
    cards = [one for one in runtime.get_ep_devices() if one.ep_name == provider]
    if index >= len(cards):
        raise NotHere(f"{provider} sees {len(cards)} cards")
    return cards[index]


# Engines -----------------------------------------------------------------------------------------


def engine(path: Path, package: str, clips: torch.Tensor) -> Run:
    """An engine of a graph, built for the batch size of the clips, on a stream of its own.

    Raises:
        NotHere: The package is missing, refuses the graph or the card, or there is no card.
    """
    trt = import_module(package)
    log = trt.Logger(trt.Logger.ERROR)
    content = built(trt, log, path, clips)
    if clips.device.type != "cuda":
        raise NotHere(f"built for {REHEARSED}, {len(content) / 1e6:.1f} MB; no card to run it on")
    opened = trt.Runtime(log).deserialize_cuda_engine(content)
    if opened is None:
        raise NotHere(f"{package} {trt.__version__} does not open its own engine here")
    context = opened.create_execution_context()
    logits = torch.empty(len(clips), LABELS, device=clips.device)
    context.set_input_shape("pixel_values", tuple(clips.shape))
    context.set_tensor_address("pixel_values", clips.data_ptr())
    context.set_tensor_address("logits", logits.data_ptr())
    stream = torch.cuda.Stream(clips.device)

    def run() -> torch.Tensor:
        if not context.execute_async_v3(stream.cuda_stream):
            raise RuntimeError(f"{package} did not run its engine")
        return logits

    return run


def built(trt: Any, log: Any, path: Path, clips: torch.Tensor) -> bytes:
    """The engine as bytes, for the card that is here.

    Raises:
        NotHere: The graph or the card is refused.
    """
    builder = trt.Builder(log)
    typed = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    network = builder.create_network(0 if typed is None else 1 << int(typed))
    parser = trt.OnnxParser(network, log)
    if not parser.parse(path.read_bytes()):
        raise NotHere(f"{trt.__name__} refuses the graph: {parser.get_error(0).desc()}")
    config = builder.create_builder_config()
    profile = builder.create_optimization_profile()
    shape = tuple(clips.shape)
    profile.set_shape("pixel_values", shape, shape, shape)
    config.add_optimization_profile(profile)
    if clips.device.type != "cuda" and hasattr(config, "set_compute_capability"):
        config.num_compute_capabilities = 1
        config.set_compute_capability(getattr(trt.ComputeCapability, REHEARSED), 0)
    content = builder.build_serialized_network(network, config)
    if content is None:
        raise NotHere(f"{trt.__name__} {trt.__version__} builds no engine for this card")
    return bytes(content)
