"""ONNX Runtime on the CPU."""

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from lora_deploy.cores import usable_cores
from lora_deploy.errors import GraphError, ProviderFellBackError

_PROVIDER = "CPUExecutionProvider"


class OnnxRuntimeBackend:
    """The merged graph in ONNX Runtime."""

    name = "onnxruntime"
    form = "merged"

    def __init__(self, graph: bytes, *, batch_size: int = 1, threads: int = 0) -> None:
        """Open a graph whose bytes were checked against the bundle's manifest.

        Args:
            graph: An ONNX file without external data.
            batch_size: The one batch shape that will be run.
            threads: Of ONNX Runtime; 0 takes every core that this process may use.

        Raises:
            GraphError: It is no ONNX graph that this version of ONNX Runtime can run.
            ProviderFellBackError: ONNX Runtime fell back to something else than was asked for.
        """
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or usable_cores()
        # Decoding goes on beside it: threads that wait must not keep cores busy.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3
        try:
            # From bytes, not from a path: a graph that names external files finds none.
            self._session = onnxruntime.InferenceSession(graph, options, providers=[_PROVIDER])
        except Exception as error:
            first_line = str(error).splitlines()[0]
            raise GraphError(
                f"ONNX Runtime {onnxruntime.__version__} can't open the graph: {first_line}"
            ) from error
        found = self._session.get_providers()[0]
        if found != _PROVIDER:
            raise ProviderFellBackError(
                f"ONNX Runtime chose {found} where {_PROVIDER} was asked for"
            )
        self.batch_size = batch_size
        self._check_signature()

    def _check_signature(self) -> None:
        inputs = [node.name for node in self._session.get_inputs()]
        outputs = [node.name for node in self._session.get_outputs()]
        if inputs != ["pixel_values"] or outputs != ["logits"]:
            raise GraphError(
                f"the graph takes {inputs} and gives {outputs}; needed: pixel_values and logits"
            )

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
