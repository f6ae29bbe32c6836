"""Bundles that somebody made to do harm: each is refused in one clear line, and nothing hangs or dies."""

import faulthandler
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import TensorProto, helper

from lora_deploy import cli
from lora_deploy.artifact import adapter_record
from lora_deploy.artifact.bundle import (
    CERTIFICATE,
    MANIFEST,
    ONNX,
    read_bundle_manifest,
    record_files,
    verified_bytes,
    verify_file,
)
from lora_deploy.artifact.handing import handed
from lora_deploy.artifact.manifest import read_json
from lora_deploy.bench.measure import EXAMPLE
from lora_deploy.errors import (
    AdapterConfigError,
    ArtifactError,
    FileChangedError,
    FileMissingError,
    FileUnknownError,
    GraphError,
)
from lora_deploy.runtime.load import load
from lora_deploy.runtime.outside_data import refuse_outside_data


@pytest.fixture
def shipped(tmp_path: Path) -> Path:
    """The example bundle, which a test may damage."""
    return Path(shutil.copytree(EXAMPLE, tmp_path / "bundle"))


@pytest.fixture
def no_waiting() -> Iterator[None]:
    """End the tests where one waits: C and Rust, too, wait for pipes."""
    faulthandler.dump_traceback_later(60, exit=True)
    yield
    faulthandler.cancel_dump_traceback_later()


def edited(folder: Path, **values: Any) -> Path:
    """Change ``bundle.json``, as who does mischief would: it vouches for every file again."""
    content = json.loads((folder / MANIFEST).read_text())
    files = {name: record.model_dump() for name, record in record_files(folder).items()}
    content = {**content, "files": files, **values, "seal": None}
    (folder / MANIFEST).write_text(json.dumps(content))
    return folder


def with_graph(folder: Path, change: Callable[[onnx.ModelProto], None]) -> Path:
    """Change the graph, and vouch for it."""
    model = onnx.load(folder / ONNX)
    change(model)
    onnx.save(model, folder / ONNX)
    return edited(folder)


# Fields that are seen by one reader and not by the other -----------------------------------------


def varint(number: int) -> bytes:
    content = b""
    while number > 0x7F:
        content += bytes([number & 0x7F | 0x80])
        number >>= 7
    return content + bytes([number])


def graph_with(key: int, content: bytes) -> bytes:
    """A model whose graph holds one field more."""
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "w"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])],
    )
    field = varint(key) + (varint(len(content)) + content if key & 7 == 2 else b"")
    whole: bytes = graph.SerializeToString() + field
    return b"\x3a" + varint(len(whole)) + whole  # field 7 of the model


def outside_tensor() -> bytes:
    tensor = onnx.TensorProto(name="w", dims=[1], data_type=TensorProto.FLOAT)
    tensor.data_location = TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", "*/_ORT_MEM_ADDR_/*"
    content: bytes = tensor.SerializeToString()
    return content


INITIALIZER = 5 << 3 | 2


@pytest.mark.parametrize("above", [1 << 32, 1 << 35, 1 << 63])
def test_a_key_that_another_reader_cuts_short_is_refused(tmp_path: Path, above: int) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(graph_with(INITIALIZER | above, outside_tensor()))
    with pytest.raises(GraphError, match="no ONNX file"):
        refuse_outside_data(path)


@pytest.mark.parametrize("key", [2, 5 << 3 | 3, 5 << 3 | 4, 5 << 3 | 6, 5 << 3 | 7])
def test_a_field_without_a_number_and_groups_are_refused(tmp_path: Path, key: int) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(graph_with(key, b""))
    with pytest.raises(GraphError, match="no ONNX file"):
        refuse_outside_data(path)


def test_the_largest_key_that_all_readers_agree_on_is_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(graph_with((1 << 29) - 1 << 3 | 2, outside_tensor()))
    refuse_outside_data(path)


# Pipes, devices, links, and files that nobody vouches for -----------------------------------------


@pytest.mark.usefixtures("no_waiting")
@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_pipes_and_devices_are_refused_and_not_waited_for(shipped: Path, kind: str) -> None:
    manifest = read_bundle_manifest(shipped)
    for name in (ONNX, CERTIFICATE):
        (shipped / name).unlink()
        if kind == "pipe":
            os.mkfifo(shipped / name)
        else:
            (shipped / name).symlink_to("/dev/zero")
        for look in (verified_bytes, verify_file):
            with pytest.raises((FileMissingError, FileChangedError)):
                look(shipped, manifest, name)
    with pytest.raises(OSError, match="no ordinary file"):
        read_json(shipped / CERTIFICATE)
    with (
        pytest.raises((FileMissingError, FileChangedError)),
        handed(shipped, manifest, ONNX),
    ):
        pass
    assert cli.run(["doctor", str(shipped)]) == 1


@pytest.mark.usefixtures("no_waiting")
def test_weights_of_an_adapter_that_are_a_pipe_are_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / adapter_record.ADAPTER_WEIGHTS)
    for look in (adapter_record.read_record, adapter_record.tensor_shapes):
        with pytest.raises(AdapterConfigError, match="no ordinary file"):
            look(tmp_path)


def test_json_without_end_is_not_read_to_its_end(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    with path.open("wb") as file:
        file.truncate(65 << 20)
    with pytest.raises(OSError, match="larger than 64 MiB"):
        read_json(path)


@pytest.mark.parametrize("which", ["file", "folder"])
def test_a_graph_behind_a_link_is_refused(shipped: Path, tmp_path: Path, which: str) -> None:
    place = shipped / ONNX if which == "file" else (shipped / ONNX).parent
    place.rename(tmp_path / "elsewhere")
    place.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ArtifactError, match=r"through a link"):
        load(shipped, backend="onnxruntime")


def test_a_bundle_may_itself_be_reached_through_a_link(shipped: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(shipped)
    load(tmp_path / "link", backend="onnxruntime")


def test_a_file_beside_a_graph_that_nobody_vouches_for_is_refused(shipped: Path) -> None:
    (shipped / "onnx" / "weights.bin").write_bytes(b"1")
    with pytest.raises(FileUnknownError, match=r"onnx/weights\.bin"):
        load(shipped, backend="onnxruntime")
