"""The adapter graph in ONNX Runtime: the base with an adapter put in at run time, or with its head alone."""

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from lora_deploy.errors import (
    AdapterNotFiniteError,
    AdapterPartMissingError,
    AdapterPartUnknownError,
    AdapterShapeError,
    DeadAdapterError,
    GraphError,
)
from lora_deploy.processor import usable_cores
from lora_deploy.runtime.ort import check_signature, open_session

LORA_A, LORA_B = ".lora_A", ".lora_B"
"""Endings of the inputs that take LoRA's factors: [inputs, rank] and [rank, outputs], times alpha / r."""

DORA_SCALE = ".lora_scale"
"""Ending of the inputs that take what DoRA multiplies a layer's outputs by: [outputs]."""

_FLOAT = "tensor(float)"

Shape = tuple[int | str | None, ...]


class AdapterGraphBackend:
    """The base under a trained head, with the adapter's update or without."""

    name = "onnxruntime"

    def __init__(
        self,
        graph: bytes | Path,
        adapter: bytes,
        *,
        form: Literal["unmerged", "base"],
        batch_size: int = 1,
        threads: int = 0,
    ) -> None:
        """Open a graph and an adapter whose bytes were checked against the bundle's manifest.

        Args:
            graph: The bytes of an ONNX file, or a path that `handed` gave.
            adapter: The bytes of a file in ONNX Runtime's format for adapters.
            form: ``unmerged``: all of the adapter; ``base``: its head alone, and no update.
            batch_size: The one batch shape that will be run.
            threads: Of ONNX Runtime; 0 takes every core that this process may use.

        Raises:
            GraphError: One of them is not what this version of ONNX Runtime can run.
            AdapterError: The adapter is not one for this graph.
            DeadAdapterError: Its update is nothing but zeros.
        """
        self._session = open_session(graph, threads or usable_cores())
        check_signature(self._session, "pixel_values", "logits")
        self.form = form
        self.batch_size = batch_size
        self._options = onnxruntime.RunOptions()
        self._head: dict[str, NDArray[np.float32]] = {}
        takes: dict[str, Shape] = {
            node.name: tuple(node.shape)
            for node in self._session.get_overridable_initializers()
            if node.type == _FLOAT
        }
        with tempfile.TemporaryDirectory(prefix="lora-deploy-") as folder:
            # A file of our own: ONNX Runtime maps it into memory, and whoever writes to the
            # bundle's would write into a model that is running.
            own = Path(folder) / "adapter"
            own.write_bytes(adapter)
            brought = read_onnx_adapter(own)
            check_adapter(brought, takes)
            if form == "base":
                self._head = {name: brought[name] for name in brought if not _is_lora(name)}
            else:
                self._adapter = onnxruntime.LoraAdapter()
                self._adapter.Load(str(own))
                self._options.add_active_adapter(self._adapter)

    @property
    def metadata(self) -> dict[str, str]:
        """What the exporter wrote into the graph: labels, pixel contract, digest."""
        return dict(self._session.get_modelmeta().custom_metadata_map)

    def logits(self, pixel_values: NDArray[np.float32]) -> NDArray[np.float32]:
        """Run one batch [batch_size, frames, 3, height, width]; returns [batch_size, labels]."""
        given = {"pixel_values": pixel_values, **self._head}
        result: NDArray[np.float32] = self._session.run(["logits"], given, self._options)[0]
        return result


def _is_lora(name: str) -> bool:
    return name.endswith((LORA_A, LORA_B, DORA_SCALE))


def read_onnx_adapter(path: Path) -> dict[str, NDArray[np.float32]]:
    """Every tensor of an adapter's file, copied out of it.

    Raises:
        GraphError: It is no such file.
        AdapterShapeError: A tensor is of another type than float32.
    """
    try:
        values = onnxruntime.AdapterFormat.read_adapter(str(path)).get_parameters()
    except Exception as error:  # a name that is no UTF-8 fails in a way of its own
        version = onnxruntime.__version__
        raise GraphError(
            f"ONNX Runtime {version} can't open the ONNX adapter: it is torn, or no such file"
        ) from error
    for name, value in values.items():
        if value.data_type() != _FLOAT:
            raise AdapterShapeError(
                f"the ONNX adapter's {name} is a {value.data_type()}; needed: {_FLOAT}"
            )
    return {name: np.array(value.numpy()) for name, value in values.items()}


def check_adapter(brought: Mapping[str, NDArray[np.float32]], takes: Mapping[str, Shape]) -> None:
    """Hold an adapter against the inputs of a graph: what it leaves out would be a default in silence.

    Args:
        brought: Its tensors by name.
        takes: Shapes of the graph's optional inputs; a size that is a name is free.

    Raises:
        AdapterError: A tensor is missing, unknown, of another shape, or holds NaN or infinity.
        DeadAdapterError: The update of every layer is zero.
        GraphError: The graph takes no adapter.
    """
    if not any(map(_is_lora, takes)):
        raise GraphError("the graph takes no adapter")
    if missing := sorted(takes.keys() - brought.keys()):
        raise AdapterPartMissingError(
            f"the ONNX adapter lacks {len(missing)} of {len(takes)} parts: {missing[0]}"
        )
    if unknown := sorted(brought.keys() - takes.keys()):
        raise AdapterPartUnknownError(
            f"the ONNX adapter holds {len(unknown)} parts that the graph has no place for: "
            f"{unknown[0]}"
        )
    free: dict[str, int] = {}
    for name, tensor in brought.items():
        wanted = takes[name]
        bound = [
            free.setdefault(size, found) if isinstance(size, str) else size
            for size, found in zip(wanted, tensor.shape, strict=False)
        ]
        if len(wanted) != tensor.ndim or list(tensor.shape) != bound:
            raise AdapterShapeError(
                f"the ONNX adapter's {name} is {tensor.shape}; the graph takes "
                f"{tuple(bound) if len(bound) == len(wanted) else wanted}"
            )
        if not np.isfinite(tensor).all():
            raise AdapterNotFiniteError(f"the ONNX adapter's {name} holds NaN or infinity")
    updates = [name.removesuffix(LORA_A) for name in brought if name.endswith(LORA_A)]
    if not any(brought[one + LORA_A].any() and brought[one + LORA_B].any() for one in updates):
        raise DeadAdapterError(f"the ONNX adapter changes none of {len(updates)} layers")
