"""The model repository for Triton: by Triton's own definitions, held against the graphs that it serves."""

import json
import runpy
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from google.protobuf import text_format  # type: ignore[import-untyped]
from tritonclient.grpc import model_config_pb2  # type: ignore[import-untyped]

from lora_deploy import cli, verification
from lora_deploy.artifact import bundle as bundles
from lora_deploy.export.half import in_half
from lora_deploy.export.pipeline import merge_export
from lora_deploy.export.plan import plan
from lora_deploy.export.text_proto import Message, Word, text_proto
from lora_deploy.export.to_triton import MODELS, config_of, labels_text, write_repository
from lora_deploy.runtime.load import load
from tests.triton_stand_in import parsed, serving

CLIENT = Path(__file__).parents[1] / "export" / "triton" / "client.py"

TYPE_OF = {
    "tensor(float)": "TYPE_FP32",
    "tensor(float16)": "TYPE_FP16",
    "tensor(uint8)": "TYPE_UINT8",
}
"""ONNX Runtime's words, and Triton's."""

Config = Any
"""Triton's ``ModelConfig``, whose types no checker is told."""


@pytest.fixture(scope="module")
def with_triton(tmp_path_factory: pytest.TempPathFactory, lora_run: Path) -> Path:
    """A BUNDLE with a repository, made by the command."""
    out = tmp_path_factory.mktemp("triton") / "bundle"
    assert cli.run(["merge-export", str(lora_run), "--out", str(out), "--triton"]) == 0
    return out


def config_in(bundle: Path, model: str) -> Config:
    return parsed((bundle / "triton" / model / "config.pbtxt").read_text())


def test_the_bundle_holds_a_repository_and_vouches_for_it(with_triton: Path) -> None:
    found = {path.relative_to(with_triton).as_posix() for path in with_triton.rglob("*.*")}
    expected = {
        f"triton/{model}/{file}"
        for model in ("recogniser", "recogniser_frames")
        for file in ("config.pbtxt", "labels.txt", "1/model.onnx")
    }
    assert {name for name in found if name.startswith("triton/")} == expected
    assert expected <= bundles.read_bundle_manifest(with_triton).files.keys()
    assert verification.verify(with_triton).passed


@pytest.mark.parametrize("file", ["config.pbtxt", "labels.txt", "1/model.onnx"])
def test_a_byte_changed_in_the_repository_is_found(
    file: str, lora_run: Path, tmp_path: Path
) -> None:
    merge_export(lora_run, tmp_path / "bundle", triton=True)
    name = f"triton/recogniser_frames/{file}"
    content = bytearray((tmp_path / "bundle" / name).read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "bundle" / name).write_bytes(content)
    found = verification.verify(tmp_path / "bundle")
    assert not found.passed
    assert any(name in finding.text for finding in found.findings if not finding.passed)


def test_without_the_wish_there_is_none(bundle: Path) -> None:
    assert not (bundle / "triton").exists()
    assert not plan().triton
    assert plan(triton=True).frames_in


@pytest.mark.parametrize("model", ["recogniser", "recogniser_frames"])
def test_each_field_says_what_the_graph_says(model: str, with_triton: Path) -> None:
    config = config_in(with_triton, model)
    graph = with_triton / "triton" / model / "1" / config.default_model_filename
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    for told, real in (
        (config.input, session.get_inputs()),
        (config.output, session.get_outputs()),
    ):
        assert [(one.name, model_config_pb2.DataType.Name(one.data_type)) for one in told] == [
            (one.name, TYPE_OF[one.type]) for one in real
        ]
        assert [list(one.dims) for one in told] == [list(one.shape[1:]) for one in real]
        assert all(isinstance(one.shape[0], str) for one in real)  # a batch of any size
    [output] = config.output
    labels = (with_triton / "triton" / model / output.label_filename).read_text().splitlines()
    assert labels == list(load(with_triton).labels)
    assert list(output.dims) == [len(labels)]


def test_the_two_models_are_the_plain_graph_and_the_one_that_takes_frames(
    with_triton: Path,
) -> None:
    for model, names in (
        ("recogniser", ("pixel_values", "logits")),
        ("recogniser_frames", ("frames", "probabilities")),
    ):
        config = config_in(with_triton, model)
        assert (config.input[0].name, config.output[0].name) == names
        served = with_triton / "triton" / model / "1" / "model.onnx"
        assert served.read_bytes() == (with_triton / MODELS[model]).read_bytes()
        assert onnx.load(served).metadata_props  # whole, not a stub


@pytest.mark.parametrize("model", ["recogniser", "recogniser_frames"])
def test_every_field_is_as_it_is_meant(model: str, with_triton: Path) -> None:
    config = config_in(with_triton, model)
    assert {field.name for field, _ in config.ListFields()} == {
        "backend", "default_model_filename", "max_batch_size", "input", "output",
        "version_policy", "instance_group", "dynamic_batching", "model_warmup", "parameters",
    }  # fmt: skip
    assert config.backend == "onnxruntime"
    assert config.default_model_filename == "model.onnx"
    assert config.max_batch_size == 8
    assert config.version_policy.latest.num_versions == 1
    [group] = config.instance_group
    assert (group.count, group.kind) == (1, model_config_pb2.ModelInstanceGroup.KIND_AUTO)
    batching = config.dynamic_batching
    assert list(batching.preferred_batch_size) == [4, 8]
    assert max(batching.preferred_batch_size) <= config.max_batch_size
    assert batching.max_queue_delay_microseconds == 5000
    assert [sample.batch_size for sample in config.model_warmup] == [1, 4, 8]
    assert len({sample.name for sample in config.model_warmup}) == 3
    for sample in config.model_warmup:
        [(name, given)] = sample.inputs.items()
        [taken] = config.input
        assert (name, given.data_type, list(given.dims)) == (
            taken.name,
            taken.data_type,
            list(taken.dims),
        )
        assert given.zero_data


def test_a_client_is_told_all_that_it_needs(with_triton: Path) -> None:
    manifest = bundles.read_bundle_manifest(with_triton)
    told = {
        key: value.string_value
        for key, value in config_in(with_triton, "recogniser").parameters.items()
    }
    assert json.loads(told["labels"]) == list(manifest.labels)
    assert json.loads(told["pixel_contract"]) == manifest.contract.model_dump(mode="json")
    assert json.loads(told["temperature"]) == manifest.temperature
    assert "unknown_threshold" not in told
    strict = manifest.model_copy(update={"unknown_threshold": 0.25})
    graph = onnx.load(with_triton / bundles.ONNX)
    parameters = parsed(text_proto(config_of(graph, strict))).parameters
    assert json.loads(parameters["unknown_threshold"].string_value) == 0.25


def test_a_misspelt_field_would_not_parse(with_triton: Path) -> None:
    text = (with_triton / "triton" / "recogniser" / "config.pbtxt").read_text()
    for right, wrong in (
        ("max_batch_size", "max_batchsize"),
        ("KIND_AUTO", "KIND_ANY"),
        ("zero_data: true", "zero_data: yes"),
        ("max_queue_delay_microseconds", "max_queue_delay_ms"),
    ):
        assert right in text
        with pytest.raises(text_format.ParseError):
            parsed(text.replace(right, wrong))


def test_text_of_any_kind_comes_back_as_it_was() -> None:
    for text in ('say "no"', "back\\slash", "línea\nnueva\r\t", "跑步 🏃", "", "\x00\x7f", "a'b#c"):
        message: Message = {"name": text, "input": [{"name": text, "dims": [-1, 3]}]}
        config = parsed(text_proto(message))
        assert (config.name, config.input[0].name) == (text, text)
        assert list(config.input[0].dims) == [-1, 3]
        assert text_proto(message).isascii()


def test_several_messages_and_several_numbers_keep_their_order() -> None:
    config = parsed(
        text_proto(
            {
                "output": [{"name": "b"}, {"name": "a"}],
                "dynamic_batching": {"preferred_batch_size": (8, 4), "preserve_ordering": False},
                "instance_group": [{"kind": Word("KIND_CPU")}, {"kind": Word("KIND_GPU")}],
            }
        )
    )
    assert [one.name for one in config.output] == ["b", "a"]
    assert list(config.dynamic_batching.preferred_batch_size) == [8, 4]
    kinds = model_config_pb2.ModelInstanceGroup
    assert [one.kind for one in config.instance_group] == [kinds.KIND_CPU, kinds.KIND_GPU]


def test_one_label_is_one_line_whatever_is_in_it() -> None:
    assert labels_text(("wave", "two\nlines", "läuft")) == "wave\ntwo lines\nläuft\n"


def test_a_graph_of_one_batch_size_or_an_unknown_type_is_refused(with_triton: Path) -> None:
    manifest = bundles.read_bundle_manifest(with_triton)
    graph = onnx.load(with_triton / bundles.ONNX)
    graph.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.COMPLEX64
    with pytest.raises(ValueError, match="Triton is told of"):
        config_of(graph, manifest)
    graph = onnx.load(with_triton / bundles.ONNX)
    graph.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 4
    with pytest.raises(ValueError, match="batches of 4 only"):
        config_of(graph, manifest)


def test_graphs_are_linked_where_that_can_be_and_copied_where_not(
    with_triton: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    served = with_triton / "triton" / "recogniser" / "1" / "model.onnx"
    assert served.samefile(with_triton / bundles.ONNX)  # no second copy on the disk
    assert not served.is_symlink()

    def refused(source: Path, target: Path) -> None:
        raise OSError(f"no hard links here: {source}, {target}")

    monkeypatch.setattr("lora_deploy.export.to_triton.os.link", refused)
    (tmp_path / "onnx").mkdir()
    (tmp_path / bundles.ONNX).write_bytes((with_triton / bundles.ONNX).read_bytes())
    write_repository(tmp_path, bundles.read_bundle_manifest(with_triton))
    copied = tmp_path / "triton" / "recogniser" / "1" / "model.onnx"
    assert copied.read_bytes() == served.read_bytes()
    assert not (tmp_path / "triton" / "recogniser_frames").exists()  # its graph is not there


@pytest.mark.parametrize("model_type", ["timesformer", "vivit", "vjepa2"])
def test_other_architectures_are_served_too(
    model_type: str,
    tiny_graphs: dict[str, onnx.ModelProto],
    with_triton: Path,
) -> None:
    graph = tiny_graphs[model_type]
    config = parsed(text_proto(config_of(graph, bundles.read_bundle_manifest(with_triton))))
    session = onnxruntime.InferenceSession(
        graph.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    assert [list(one.dims) for one in config.input] == [
        list(one.shape[1:]) for one in session.get_inputs()
    ]


def test_half_precision_is_served_where_the_bundle_has_it(
    tiny_graphs: dict[str, onnx.ModelProto], with_triton: Path, tmp_path: Path
) -> None:
    (tmp_path / "onnx").mkdir()
    onnx.save_model(in_half(tiny_graphs["videomae"]), tmp_path / bundles.HALF)
    write_repository(tmp_path, bundles.read_bundle_manifest(with_triton))
    assert [path.name for path in (tmp_path / "triton").iterdir()] == ["recogniser_fp16"]
    config = config_in(tmp_path, "recogniser_fp16")
    session = onnxruntime.InferenceSession(
        tmp_path / "triton" / "recogniser_fp16" / "1" / "model.onnx",
        providers=["CPUExecutionProvider"],
    )
    [taken], [told] = session.get_inputs(), session.get_outputs()
    for one, real in ((config.input[0], taken), (config.output[0], told)):
        assert (one.name, model_config_pb2.DataType.Name(one.data_type)) == (
            real.name,
            TYPE_OF[real.type],
        )


@pytest.mark.parametrize("model", ["recogniser", "recogniser_frames"])
def test_the_client_example_answers_as_the_bundle_does(
    model: str, with_triton: Path, test_clips: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    client = runpy.run_path(str(CLIENT))
    recogniser = load(with_triton, backend="onnxruntime")
    with serving(with_triton / "triton") as url:
        asked = client["Model"](url, model)
        for clip in test_clips[:2]:
            expected = recogniser.classify(clip)
            scores = dict(zip(recogniser.labels, asked.probabilities(clip), strict=True))
            for label, score in expected.top_k:
                assert scores[label] == pytest.approx(score, abs=1e-5)
        client["main"]([str(test_clips[0]), "--url", url, "--model", model])
    path, label, likely = capsys.readouterr().out.strip().split("\t")
    expected = recogniser.classify(test_clips[0])
    assert (path, label) == (str(test_clips[0]), expected.label)
    assert float(likely) == pytest.approx(expected.score, abs=1e-3)


def test_a_batch_is_answered_row_by_row(with_triton: Path, test_clips: list[Path]) -> None:
    client = runpy.run_path(str(CLIENT))
    with serving(with_triton / "triton") as url:
        model = client["Model"](url, "recogniser_frames")
        frames = np.zeros((3, *model.contract.frames_shape), np.uint8)
        assert model.ask(frames, "UINT8").shape == (3, len(model.labels))
