"""A stand-in for Triton, for tests of a client: Triton's own gRPC service, and ONNX Runtime behind it.

It reads a model repository as Triton's documentation says, by Triton's own definitions, and answers
two calls. It is no Triton: how that loads, batches or warms up a model is not in here.
"""

from collections.abc import Iterator
from concurrent import futures
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc  # type: ignore[import-untyped]
import numpy as np
import onnxruntime
from google.protobuf import text_format  # type: ignore[import-untyped]
from tritonclient.grpc import (  # type: ignore[import-untyped]
    model_config_pb2,
    service_pb2,
    service_pb2_grpc,
)

NUMPY = {"FP32": np.float32, "FP16": np.float16, "UINT8": np.uint8}


def parsed(config: str) -> Any:
    """A ``config.pbtxt`` by Triton's definitions; a field that they lack is an error."""
    return text_format.Parse(config, model_config_pb2.ModelConfig())


class StandIn(service_pb2_grpc.GRPCInferenceServiceServicer):  # type: ignore[misc]
    """The models of a repository."""

    def __init__(self, repository: Path) -> None:
        self.configs: dict[str, Any] = {}
        self.sessions: dict[str, onnxruntime.InferenceSession] = {}
        for folder in repository.iterdir():
            config = parsed((folder / "config.pbtxt").read_text())
            assert not config.name or config.name == folder.name
            version = max(folder.glob("[0-9]*"), key=lambda path: int(path.name))
            self.configs[folder.name] = config
            self.sessions[folder.name] = onnxruntime.InferenceSession(
                version / config.default_model_filename, providers=["CPUExecutionProvider"]
            )

    def ModelConfig(
        self, request: service_pb2.ModelConfigRequest, _: grpc.ServicerContext
    ) -> service_pb2.ModelConfigResponse:
        return service_pb2.ModelConfigResponse(config=self.configs[request.name])

    def ModelInfer(
        self, request: service_pb2.ModelInferRequest, _: grpc.ServicerContext
    ) -> service_pb2.ModelInferResponse:
        config = self.configs[request.model_name]
        [given], [raw] = request.inputs, request.raw_input_contents
        [taken], [told] = config.input, config.output
        assert (given.name, f"TYPE_{given.datatype}") == (
            taken.name,
            model_config_pb2.DataType.Name(taken.data_type),
        )
        assert given.shape[0] <= config.max_batch_size
        assert list(given.shape[1:]) == list(taken.dims)
        batch = np.frombuffer(raw, NUMPY[given.datatype]).reshape(tuple(given.shape))
        [answer] = self.sessions[request.model_name].run([told.name], {taken.name: batch})
        response = service_pb2.ModelInferResponse(model_name=request.model_name)
        response.outputs.add(name=told.name, datatype="FP32", shape=answer.shape)
        response.raw_output_contents.append(answer.tobytes())
        return response


@contextmanager
def serving(repository: Path) -> Iterator[str]:
    """The address of a stand-in on this computer's loopback."""
    server = grpc.server(futures.ThreadPoolExecutor(2))
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(StandIn(repository), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(None).wait()
