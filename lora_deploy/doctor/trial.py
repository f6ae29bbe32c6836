"""One trial, in a process of its own that may die of it: started by its path, standard library only.

``trial.py import MODULE``, ``trial.py cuda``, ``trial.py provider NAME``, ``trial.py
providers`` or ``trial.py ffmpeg FILE``;
the last line on stdout is the answer.
"""

import sys

GRAPH = (
    b'\x08\x08:7\n\x10\n\x01x\x12\x01y"\x08Identity\x12\x01gZ\x0f\n\x01x\x12\n\n\x08\x08\x01\x12\x04\n\x02\x08\x01'
    b"b\x0f\n\x01y\x12\n\n\x08\x08\x01\x12\x04\n\x02\x08\x01B\x04\n\x00\x10\r"
)
"""An ONNX file of one node, y = x."""


def import_module(name: str) -> str:
    """Import a package as a program would."""
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]  # a trial tells nobody
    module = __import__(name)
    return str(getattr(module, "__version__", ""))


def cuda(_: str) -> str:
    """Import PyTorch; how many CUDA devices it sees."""
    import torch

    return str(torch.cuda.device_count() if torch.cuda.is_available() else 0)


def provider(name: str) -> str:
    """Which provider ONNX Runtime really takes for a graph when one is asked for."""
    import onnxruntime

    session = onnxruntime.InferenceSession(GRAPH, providers=[name])
    return str(session.get_providers()[0])


def providers(_: str) -> str:
    """Those that ONNX Runtime's build has, with commas."""
    import onnxruntime

    return ",".join(onnxruntime.get_available_providers())


def ffmpeg(file: str) -> str:
    """The version that a libavutil says it is."""
    import ctypes

    told = ctypes.CDLL(file).av_version_info
    told.restype = ctypes.c_char_p
    return str(told().decode())


if __name__ == "__main__":
    trials = {
        "import": import_module, "cuda": cuda, "provider": provider, "providers": providers,
        "ffmpeg": ffmpeg,
    }  # fmt: skip
    answer = trials[sys.argv[1]](sys.argv[2])
    print(f"\n{answer}")  # noqa: T201 (the answer; a line of its own, whatever a library printed)
