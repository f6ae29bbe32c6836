"""ONNX Runtime's providers for NVIDIA cards: how each is called, and the options that it is given."""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal, get_args

from lora_deploy.artifact.bundle import Precision

ProviderBackend = Literal["onnxruntime-cuda", "onnxruntime-tensorrt", "onnxruntime-rtx"]
PROVIDER_BACKENDS: tuple[ProviderBackend, ...] = get_args(ProviderBackend)

PROVIDERS: dict[ProviderBackend, str] = {
    "onnxruntime-cuda": "CUDAExecutionProvider",
    "onnxruntime-tensorrt": "TensorrtExecutionProvider",
    "onnxruntime-rtx": "NvTensorRTRTXExecutionProvider",
}
"""What ONNX Runtime calls them. The last one comes as a plug-in in a package of its own."""

TF32_OFF = ("NVIDIA_TF32_OVERRIDE", "0")
"""A variable of the environment, and its value: only so TensorRT's provider does not round what it
multiplies in float32 to 10 bits."""

RTX_PLUGIN = "onnxruntime_ep_nv_tensorrt_rtx"
"""The import name of that package."""


def options_of(
    backend: ProviderBackend, *, precision: Precision, index: int, cache: Path | None
) -> Mapping[str, str]:
    """The options of a provider: which card, no less precise than was asked for, the same answers every time.

    Args:
        backend: Which provider.
        precision: What the graph is in.
        index: Of the card.
        cache: A folder for what it compiles of this one graph at one batch size; None compiles anew.
            TensorRT's provider knows an engine again by the names in its graph, and neither by
            its weights nor by its shapes, so two models or sizes may not share a folder.
    """
    if backend == "onnxruntime-cuda":
        return {
            "device_id": str(index),
            "use_tf32": "0",  # it is on by default, and rounds what is multiplied to 10 bits
            # The default measures kernels at each start, and may choose another one each time.
            "cudnn_conv_algo_search": "HEURISTIC",
        }
    if backend == "onnxruntime-tensorrt":
        kept = {} if cache is None else {
            "trt_engine_cache_enable": "1", "trt_engine_cache_path": str(cache),
            "trt_timing_cache_enable": "1", "trt_timing_cache_path": str(cache),
        }  # fmt: skip
        return {
            "device_id": str(index),
            "trt_fp16_enable": str(int(precision == "fp16")),
            "trt_bf16_enable": str(int(precision == "bf16")),
            **kept,
        }
    return {} if cache is None else {"nv_runtime_cache_path": str(cache)}
