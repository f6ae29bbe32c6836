"""Bundles that somebody made to do harm: each is refused in one clear line, and nothing hangs or dies."""

import errno
import faulthandler
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from lora_deploy import cli
from lora_deploy.artifact import adapter_record
from lora_deploy.artifact.bundle import (
    CERTIFICATE,
    EXAMPLE,
    MANIFEST,
    ONNX,
    read_bundle_manifest,
    record_files,
    verify_file,
)
from lora_deploy.artifact.handing import handed
from lora_deploy.artifact.manifest import read_json
from lora_deploy.clips.dataset import LabelledClip
from lora_deploy.errors import (
    AdapterConfigError,
    ArtifactError,
    CertificateUnreadableError,
    CountsDifferError,
    DiskFullError,
    FileChangedError,
    FileMissingError,
    FileUnknownError,
    GraphError,
    LabelOrderError,
    ManifestError,
)
from lora_deploy.proof.answers import Clips
from lora_deploy.runtime.load import load
from lora_deploy.runtime.outside_data import refuse_outside_data
from lora_deploy.texts import as_json
from lora_deploy.verification import read_certificate


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
        with pytest.raises((FileMissingError, FileChangedError)):
            verify_file(shipped, manifest, name)
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


# Signs that a terminal obeys ----------------------------------------------------------------------


def with_certificate(folder: Path, **values: Any) -> Path:
    content = json.loads((folder / CERTIFICATE).read_text())
    (folder / CERTIFICATE).write_text(json.dumps({**content, **values}))
    return edited(folder)


CONTROL = "\x1b]0;pwned\x07\x1b[31m\x9b2J\r\u202eok"


@pytest.mark.parametrize("date", [CONTROL, "\ud800", "2026-01-31\n", "٢٠٢٦-٠١-٣١", "yesterday"])
def test_a_certificate_has_a_date_or_none(shipped: Path, date: str) -> None:
    with_certificate(shipped, date=date)
    with pytest.raises(CertificateUnreadableError):
        read_certificate(shipped)


@pytest.mark.parametrize("json_wanted", [False, True])
@pytest.mark.parametrize("name", [CONTROL, "half \ud800 of a sign", "a\nok everything"])
@pytest.mark.parametrize("command", ["doctor", "verify"])
def test_strangers_words_are_shown_and_not_obeyed(
    shipped: Path, capfdbinary: pytest.CaptureFixture[bytes], command: str, name: str,
    json_wanted: bool,
) -> None:  # fmt: skip
    base = {"id": name, "revision": None, "fingerprint": name, "licence": None}
    graph_labels = [f"{name}{number}" for number in range(6)]

    def rename(model: onnx.ModelProto) -> None:
        for entry in model.metadata_props:
            if entry.key == "labels":
                entry.value = json.dumps(graph_labels)

    with_graph(shipped, rename)
    edited(shipped, base=base, adapters=[])
    assert cli.run([command, str(shipped), *(["--json"] if json_wanted else [])]) == 1
    printed = b"".join(capfdbinary.readouterr()).decode()
    assert all(sign.isprintable() or sign == "\n" for sign in printed)
    assert not any(line.startswith("ok everything") for line in printed.splitlines())


def test_json_keeps_its_values() -> None:
    values = {"a": [CONTROL, "Grüße ✓ \U0001f600 \u00a0", "\ud800", 'x"\\']}
    assert json.loads(as_json(values)) == values
    assert "Grüße ✓ \U0001f600" in as_json(values)


@pytest.mark.parametrize("name", [CONTROL, "a\udc80"])
def test_an_error_shows_strangers_words_and_does_not_obey_them(
    shipped: Path, capfdbinary: pytest.CaptureFixture[bytes], name: str
) -> None:
    edited(shipped, adapters=[f"../{name}"])
    assert cli.run(["classify", str(shipped), "x.mp4"]) == 2
    printed = b"".join(capfdbinary.readouterr()).decode()
    assert "outside of its folder" in printed
    assert all(sign.isprintable() or sign == "\n" for sign in printed)


# Numbers that no bundle has -----------------------------------------------------------------------


def form(**values: str) -> dict[str, str]:
    return {"backend": "onnxruntime", "precision": "fp32", "file": ONNX, **values}


@pytest.mark.parametrize(
    ("values", "error"),
    [
        ({"forms": [form(), form()]}, ManifestError),
        ({"flop_per_clip": 10**400}, ManifestError),
        ({"flop_per_clip": 10**18 + 1}, ManifestError),
        ({"unknown_threshold": float("nan")}, ManifestError),
        ({"unknown_threshold": -0.1}, ManifestError),
        ({"unknown_threshold": 1.1}, ManifestError),
        ({"labels": ["\ud800", "b"]}, ManifestError),
        ({"files": {ONNX: {"bytes": 10**400, "sha256": ""}}}, ManifestError),
        ({"files": {ONNX: {"bytes": -1, "sha256": ""}}}, ManifestError),
    ],
)
def test_a_manifest_that_says_what_can_not_be_is_refused(
    shipped: Path, values: dict[str, Any], error: type[Exception],
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    edited(shipped, **values)
    with pytest.raises(error):
        read_bundle_manifest(shipped)
    for command in (["bench"], ["classify", "x.mp4"], ["verify"]):
        assert cli.run([command[0], str(shipped), *command[1:]]) == 2
        printed = capsys.readouterr().err
        assert printed.count("\n") == 1
        assert error.__name__ in printed


def test_a_form_whose_file_nobody_vouches_for_is_neither_measured_nor_run(
    shipped: Path, test_clips: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    edited(shipped, forms=[form(file="onnx/nothing.onnx")])
    for command in (["bench"], ["classify", str(test_clips[0])]):
        assert cli.run([command[0], str(shipped), *command[1:]]) == 2
        printed = capsys.readouterr().err
        assert printed.count("\n") == 1
        assert "does not vouch for onnx/nothing.onnx" in printed
    for look in ("doctor", "verify"):
        assert cli.run([look, str(shipped)]) == 1
        assert "does not vouch for onnx/nothing.onnx" in capsys.readouterr().out


@pytest.mark.parametrize("values", [{"unknown_threshold": 0}, {"unknown_threshold": 1}, {"flop_per_clip": 10**18}])  # fmt: skip
def test_the_largest_and_the_smallest_numbers_are_taken(
    shipped: Path, values: dict[str, float]
) -> None:
    read_bundle_manifest(edited(shipped, **values))


def test_a_bundle_without_forms_is_told_of_in_one_line(
    shipped: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(shipped / "adapters", ignore_errors=True)
    shutil.rmtree(shipped / "model", ignore_errors=True)
    edited(shipped, forms=[], adapters=[])
    for command, name in ((["bench"], "has no form that could be measured"), (["classify", "x.mp4"], "NoSuchFormError")):  # fmt: skip
        assert cli.run([command[0], str(shipped), *command[1:]]) == 2
        printed = capsys.readouterr().err
        assert printed.count("\n") == 1
        assert name in printed
    assert cli.run(["doctor", str(shipped)]) == 0
    assert "no compiled form" in capsys.readouterr().out


@pytest.mark.parametrize(
    "values",
    [
        {"answered": {"a": 10**400}},
        {"answered": {"a": -1}},
        {"clips": 10**6 + 1},
        {"clips": -1, "answered": {}},
    ],
)
def test_a_certificate_counts_its_own_clips(shipped: Path, values: dict[str, Any]) -> None:
    with_certificate(shipped, **values)
    with pytest.raises(CertificateUnreadableError, match="validation error"):
        read_certificate(shipped)
    assert cli.run(["verify", str(shipped)]) == 1


@pytest.mark.parametrize("text", ["[" * 200_000, "[", "5"])
def test_labels_of_a_graph_that_are_no_labels_are_refused(shipped: Path, text: str) -> None:
    def deepen(model: onnx.ModelProto) -> None:
        for entry in model.metadata_props:
            if entry.key == "labels":
                entry.value = text

    with_graph(shipped, deepen)
    with pytest.raises((GraphError, LabelOrderError)):
        load(shipped, backend="onnxruntime")


def twice(model: onnx.ModelProto) -> None:
    """Each logit comes twice."""
    after_logits(model, helper.make_node("Concat", ["l", "l"], ["logits"], axis=1), 12)


def highest(model: onnx.ModelProto) -> None:
    """The highest logit alone comes."""
    after_logits(model, helper.make_node("ReduceMax", ["l"], ["logits"], keepdims=1), 1)


def after_logits(model: onnx.ModelProto, last: onnx.NodeProto, numbers: int) -> None:
    for node in model.graph.node:
        for place, output in enumerate(node.output):
            if output == "logits":
                node.output[place] = "l"
    model.graph.node.append(last)
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = numbers


@pytest.mark.parametrize(("change", "numbers"), [(twice, 12), (highest, 1)])
@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_a_graph_with_other_outputs_than_labels_gives_no_answer(
    shipped: Path, backend: str, change: Callable[[onnx.ModelProto], None], numbers: int
) -> None:
    with_graph(shipped, change)
    edited(shipped, forms=[form(backend=backend)])
    recogniser = load(shipped, backend=backend)
    with pytest.raises(CountsDifferError, match=f"with {numbers} numbers to 6 labels"):
        recogniser.logits(np.zeros((1, *recogniser.contract.frames_shape), np.uint8))


# Memory and disks ---------------------------------------------------------------------------------


def test_a_clip_that_no_memory_holds_is_refused(shipped: Path) -> None:
    contract = json.loads((shipped / MANIFEST).read_text())["contract"]
    huge = {"frames": 1024, "crop_height": 4096, "crop_width": 4096}
    edited(shipped, contract={**contract, **huge})
    with pytest.raises(ManifestError, match="frames × crop_height × crop_width is 17179869184"):
        read_bundle_manifest(shipped)
    for allowed in ({"frames": 64, "crop_height": 512, "crop_width": 512}, {"frames": 1024}):
        edited(shipped, contract={**contract, **allowed})
        read_bundle_manifest(shipped)


@pytest.mark.parametrize(("free_bytes", "said"), [(0, "are needed"), (1 << 50, "the disk is full")])
def test_frames_that_find_no_room_are_an_error_and_not_the_end(
    test_clips: list[Path], monkeypatch: pytest.MonkeyPatch, free_bytes: int, said: str
) -> None:
    """The disk may fill up between the look at it and the writing."""

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=free_bytes))
    monkeypatch.setattr(os, "posix_fallocate", full)
    clips = [LabelledClip(test_clips[0], "a", "val", None)]
    with pytest.raises(DiskFullError, match=said):
        Clips(clips, read_bundle_manifest(EXAMPLE).contract)


def test_frames_of_a_proof_have_their_blocks_before_they_are_written(
    test_clips: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = []
    monkeypatch.setattr(os, "posix_fallocate", lambda *given: kept.append(given[1:]))
    monkeypatch.setattr(np, "memmap", lambda *_, shape, **__: np.zeros(shape, np.uint8))
    contract = read_bundle_manifest(EXAMPLE).contract
    with Clips([LabelledClip(test_clips[0], "a", "val", None)], contract) as clips:
        assert kept == [(0, clips.frames(contract).size)]
