"""Graphs handed to runtimes: only checked bytes come out, no other file is found, nothing is kept."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from lora_deploy.artifact import bundle as bundles
from lora_deploy.artifact.bundle import BundleManifest, CompiledForm
from lora_deploy.artifact.handing import handed
from lora_deploy.errors import ArtifactError, FileChangedError, GraphError
from lora_deploy.runtime.open_bundle import open_form
from lora_deploy.runtime.ov import OpenVinoBackend


def made(folder: Path, content: bytes) -> tuple[Path, BundleManifest]:
    """A folder with one file, and a manifest that vouches for it."""
    (folder / "onnx").mkdir()
    (folder / bundles.ONNX).write_bytes(content)
    manifest = BundleManifest.model_construct(files=bundles.record_files(folder))
    return folder, manifest


@pytest.mark.parametrize("size", [0, 1, 1000, 1 << 20, (3 << 20) + 1])
def test_the_very_bytes_come_out(tmp_path: Path, size: int) -> None:
    content = np.random.default_rng(0).bytes(size)
    with handed(*made(tmp_path, content), bundles.ONNX) as path:
        assert path.read_bytes() == content
        assert list(path.parent.iterdir()) == [path]  # nothing lies beside it
    assert not path.parent.exists()


@pytest.mark.parametrize("size", [1000, (3 << 20) + 1])
def test_a_changed_file_never_comes_out_whole(tmp_path: Path, size: int) -> None:
    folder, manifest = made(tmp_path, bytes(size))
    content = bytearray(size)
    content[5] = 1
    (folder / bundles.ONNX).write_bytes(content)
    came_out = b""
    with pytest.raises(FileChangedError, match="is not the file"), handed(folder, manifest, bundles.ONNX) as path:  # fmt: skip
        came_out = path.read_bytes()
        raise GraphError("what the runtime says of half a file")
    assert len(came_out) < size


def test_a_file_of_another_size_is_not_even_begun(tmp_path: Path) -> None:
    folder, manifest = made(tmp_path, bytes(100))
    (folder / bundles.ONNX).write_bytes(bytes(101))
    with pytest.raises(FileChangedError), handed(folder, manifest, bundles.ONNX):
        pytest.fail("it was handed over")


def test_a_missing_or_an_unknown_file_is_named(tmp_path: Path) -> None:
    folder, manifest = made(tmp_path, bytes(100))
    with pytest.raises(ArtifactError, match="does not vouch for"), handed(folder, manifest, "x"):
        pass
    (folder / bundles.ONNX).unlink()
    with (
        pytest.raises(ArtifactError, match="can't be read"),
        handed(folder, manifest, bundles.ONNX),
    ):
        pass


def test_a_file_that_is_written_to_while_it_is_read_is_refused(tmp_path: Path) -> None:
    folder, manifest = made(tmp_path, bytes(100))
    with pytest.raises(FileChangedError), handed(folder, manifest, bundles.ONNX):
        (folder / bundles.ONNX).write_bytes(bytes(100))


def test_what_is_put_in_the_place_of_a_file_is_not_read(tmp_path: Path) -> None:
    folder, manifest = made(tmp_path, bytes(100))
    came_out = b""
    with pytest.raises(FileChangedError), handed(folder, manifest, bundles.ONNX) as path:
        (folder / "other").write_bytes(b"1" * 100)
        (folder / "other").rename(folder / bundles.ONNX)
        came_out = path.read_bytes()
    assert came_out == bytes(100)


@pytest.mark.parametrize("named", ["weights.bin", "/{0}/weights.bin", "../weights.bin"])
@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_a_graph_that_names_another_file_finds_none(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, named: str, backend: str
) -> None:
    """OpenVINO would look in the current folder if it were given the graph as bytes."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "weights.bin").write_bytes(bytes(16))
    weights = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[4])
    weights.data_location = TensorProto.EXTERNAL
    place = weights.external_data.add()
    place.key, place.value = "location", named.format(str(tmp_path).strip("/"))
    graph = helper.make_graph(
        [helper.make_node("Add", ["pixel_values", "w"], ["logits"])],
        "g",
        [helper.make_tensor_value_info("pixel_values", TensorProto.FLOAT, [1, 4])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, 4])],
        initializer=[weights],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    (tmp_path / "made").mkdir()
    folder, _ = made(tmp_path / "made", model.SerializeToString())
    (folder / "onnx" / "weights.bin").write_bytes(bytes(16))
    manifest = bundles.read_bundle_manifest(bundle).model_copy(
        update={"files": bundles.record_files(folder)}
    )
    form = CompiledForm.model_validate(
        {"backend": backend, "precision": "fp32", "file": bundles.ONNX}
    )
    with pytest.raises(GraphError, match="can't open the graph"):
        open_form(folder, manifest, form)


def test_openvino_keeps_what_it_compiled_only_where_it_is_told_to(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    manifest = bundles.read_bundle_manifest(bundle)
    form = CompiledForm(backend="openvino", precision="fp32", file=bundles.ONNX)
    open_form(bundle, manifest, form)
    assert not (tmp_path / "home").exists()
    backend = open_form(bundle, manifest, form, cache=tmp_path / "cache")
    assert isinstance(backend, OpenVinoBackend)
    assert list((tmp_path / "cache").rglob("*.blob"))


def test_the_graph_reads_as_it_was_written(bundle: Path) -> None:
    manifest = bundles.read_bundle_manifest(bundle)
    with handed(bundle, manifest, bundles.ONNX) as path:
        assert onnx.load(str(path)) == onnx.load(bundle / bundles.ONNX)
