"""What an adapter says of itself, kept in the header of its weights so that the two can't be parted.

``adapter_model.safetensors`` stays a file that plain peft opens: the record stands in the metadata
that the format has a place for. An adapter of another program has none.
"""

import json
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from safetensors import SafetensorError, safe_open

from lora_deploy import regular
from lora_deploy.artifact.manifest import SCHEMA_VERSION, BaseIdentity, Label, read_json
from lora_deploy.clips.contract import ModelContract
from lora_deploy.errors import AdapterConfigError, NewerSchemaError

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
LABELS = "labels.json"

_KEY = "lora_deploy"
_LABELS = TypeAdapter(list[Label])


class AdapterRecord(BaseModel):
    """Enough to open an adapter without its RUN, and to notice what was changed beside it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: int = SCHEMA_VERSION
    base: BaseIdentity
    labels: tuple[Label, ...] = Field(min_length=2)
    """In the order of the logits."""
    contract: ModelContract
    r: int
    lora_alpha: float
    use_dora: bool = False
    use_rslora: bool = False
    rank_pattern: dict[str, int] = {}
    """By full names of layers."""
    alpha_pattern: dict[str, float] = {}


def is_adapter(folder: Path) -> bool:
    """Whether a folder looks like a LoRA adapter as peft writes one."""
    return (folder / ADAPTER_CONFIG).is_file()


def write_record(folder: Path, record: AdapterRecord) -> None:
    """Put the record into the header of the weights that lie in ``folder``.

    The header is 8 bytes of length and JSON, padded to a multiple of 8
    (https://github.com/huggingface/safetensors#format). safetensors' own writer puts two entries
    of metadata into another order in each process, and the same training must give the same bytes.
    """
    path = folder / ADAPTER_WEIGHTS
    content = path.read_bytes()
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:end])
    header["__metadata__"] = {**header.get("__metadata__", {}), _KEY: record.model_dump_json()}
    text = json.dumps(header, sort_keys=True, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(len(text).to_bytes(8, "little") + text + content[end:])


def read_record(folder: Path) -> AdapterRecord | None:
    """The record of an adapter; None where another program wrote it.

    Raises:
        AdapterConfigError: The weights are no safetensors, or the record is torn.
        NewerSchemaError: A newer version of this program wrote it.
    """
    path = folder / ADAPTER_WEIGHTS
    try:
        with regular.opened(path), safe_open(path, framework="numpy") as file:
            text = (file.metadata() or {}).get(_KEY)
    except (SafetensorError, OSError) as error:
        raise AdapterConfigError(f"{path} can't be read as safetensors: {error}") from None
    if text is None:
        return None
    try:
        values: Any = json.loads(text)
        version = values.get("schema_version")
        if isinstance(version, int) and version > SCHEMA_VERSION:
            raise NewerSchemaError(
                f"{path} has schema version {version}; this program knows up to {SCHEMA_VERSION}"
            )
        return AdapterRecord.model_validate(values)
    except (ValueError, AttributeError, RecursionError, ValidationError):
        raise AdapterConfigError(f"the header of {path} holds a record that is torn") from None


def read_labels(folder: Path) -> tuple[str, ...] | None:
    """The labels that ``labels.json`` names, in the order of the logits; None without the file.

    Raises:
        AdapterConfigError: It is no list of texts.
    """
    path = folder / LABELS
    if not path.is_file():
        return None
    try:
        return tuple(_LABELS.validate_python(read_json(path), strict=True))
    except (OSError, ValueError):
        raise AdapterConfigError(f"{path} is no JSON list of labels") from None


def tensor_shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor of an adapter, from the header of its weights alone.

    Raises:
        AdapterConfigError: The weights are no safetensors.
    """
    path = folder / ADAPTER_WEIGHTS
    try:
        with regular.opened(path), safe_open(path, framework="numpy") as file:
            return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise AdapterConfigError(f"{path} can't be read as safetensors: {error}") from None
