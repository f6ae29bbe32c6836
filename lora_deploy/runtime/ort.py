"""ONNX Runtime on the CPU."""

import json
from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from lora_deploy.artifact.handing import alone
from lora_deploy.clips.contract import PixelContract
from lora_deploy.errors import CountsDifferError, GraphError, ProviderFellBackError
from lora_deploy.processor import usable_cores
from lora_deploy.runtime.outside_data import refuse_outside_data

_PROVIDER = "CPUExecutionProvider"


class FramesInGraph:
    """The graph with the preprocessing inside: raw frames in, probabilities out; on the CPU.

    For whoever embeds the model elsewhere; here it is opened to be proved.
    """

    def __init__(self, graph: bytes | Path) -> None:
        """Open a graph whose bytes were checked against the bundle's manifest.

        Raises:
            GraphError: It is no such graph.
        """
        self._session = open_session(graph, usable_cores())
        check_signature(self._session, "frames", "probabilities")
        metadata = self._session.get_modelmeta().custom_metadata_map
        try:
            self.labels: tuple[str, ...] = tuple(json.loads(metadata["labels"]))
            self.contract = PixelContract.model_validate_json(metadata["pixel_contract"])
            self._temperature = float(metadata["temperature"])
        except (KeyError, ValueError, TypeError, RecursionError):
            raise GraphError(
                "the graph does not say its labels, pixel contract and temperature"
            ) from None

    def logits(self, frames: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Frames [clips, frames, height, width, 3] to logits [clips, labels], but for a constant."""
        (probabilities,) = self._session.run(["probabilities"], {"frames": frames})
        if probabilities.shape != (len(frames), len(self.labels)):
            raise CountsDifferError(
                f"the graph answers with an array of {probabilities.shape} to {len(frames)} clips "
                f"and {len(self.labels)} labels"
            )
        least = np.finfo(np.float32).tiny  # the logarithm of 0 is no number
        result: NDArray[np.float32] = np.log(np.maximum(probabilities, least)) * np.float32(
            self._temperature
        )
        return result


class OnnxRuntimeBackend:
    """The merged graph in ONNX Runtime."""

    name = "onnxruntime"
    form = "merged"

    def __init__(self, graph: bytes | Path, *, batch_size: int = 1, threads: int = 0) -> None:
        """Open a graph whose bytes were checked against the bundle's manifest.

        Args:
            graph: The bytes of an ONNX file, or a path that `handed` gave; data in other files are not found.
            batch_size: The one batch shape that will be run.
            threads: Of ONNX Runtime; 0 takes every core that this process may use.

        Raises:
            GraphError: It is no ONNX graph that this version of ONNX Runtime can run.
            ProviderFellBackError: ONNX Runtime fell back to something else than was asked for.
        """
        self._session = open_session(graph, threads or usable_cores())
        check_signature(self._session, "pixel_values", "logits")
        self.batch_size = batch_size

    @property
    def metadata(self) -> dict[str, str]:
        """What the exporter wrote into the graph: labels, pixel contract, digest."""
        return dict(self._session.get_modelmeta().custom_metadata_map)

    def logits(self, pixel_values: NDArray[np.float32]) -> NDArray[np.float32]:
        """Run one batch [batch_size, frames, 3, height, width]; returns [batch_size, labels]."""
        result: NDArray[np.float32] = self._session.run(["logits"], {"pixel_values": pixel_values})[
            0
        ]
        return result


def open_session(graph: bytes | Path, threads: int) -> onnxruntime.InferenceSession:
    """A graph in ONNX Runtime on the CPU; data in other files are not found.

    Raises:
        GraphError: It is no ONNX graph that this version of ONNX Runtime can run.
        ProviderFellBackError: ONNX Runtime fell back to something else than was asked for.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    # Decoding goes on beside it: threads that wait must not keep cores busy.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # Planned memory is taken anew at the second run, beside what the first one took.
    options.enable_mem_pattern = False
    options.log_severity_level = 3
    try:
        with alone(graph) as path:
            refuse_outside_data(path)
            session = onnxruntime.InferenceSession(str(path), options, providers=[_PROVIDER])
    except GraphError:
        raise
    except Exception as error:
        first_line = str(error).splitlines()[0]
        raise GraphError(
            f"ONNX Runtime {onnxruntime.__version__} can't open the graph: {first_line}"
        ) from error
    found = session.get_providers()[0]
    if found != _PROVIDER:
        raise ProviderFellBackError(f"ONNX Runtime chose {found} where {_PROVIDER} was asked for")
    return session


def check_signature(session: onnxruntime.InferenceSession, takes: str, gives: str) -> None:
    """See that a graph needs one input and gives one output, called so.

    Raises:
        GraphError: It does not.
    """
    inputs = [node.name for node in session.get_inputs()]
    outputs = [node.name for node in session.get_outputs()]
    if inputs != [takes] or outputs != [gives]:
        raise GraphError(
            f"the graph takes {inputs} and gives {outputs}; needed: {takes} and {gives}"
        )
