"""The unmerged model without PyTorch: one graph, any adapter, and the base under the trained head."""

import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from peft import PeftModel

from lora_deploy import cli
from lora_deploy.artifact import bundle as bundles
from lora_deploy.artifact.handing import handed
from lora_deploy.config import LoraSettings
from lora_deploy.errors import (
    AdapterGraphMissingError,
    AdapterNotFiniteError,
    AdapterPartMissingError,
    AdapterPartUnknownError,
    AdapterShapeError,
    AdapterSkippedError,
    BackendCannotError,
    CheckFailed,
    DeadAdapterError,
    FileChangedError,
    FileUnknownError,
    FormsDifferError,
    GraphError,
    LabelOrderError,
    LoraDeployError,
    NoSuchAdapterError,
    NoSuchFormError,
    NotExportableError,
    NoUnmergedFormError,
    UnknownFormError,
)
from lora_deploy.export import proving
from lora_deploy.export.adapter_graph import (
    adapter_for,
    head_tensors,
    lora_factors,
    marked_base,
    with_adapter_inputs,
    write_adapter_graph,
    write_onnx_adapter,
)
from lora_deploy.export.fuse import fused
from lora_deploy.export.graph import Graph
from lora_deploy.export.pipeline import merge_export
from lora_deploy.export.to_onnx import write_onnx
from lora_deploy.model.adapter import attach, delta_off
from lora_deploy.model.architectures import logits_of
from lora_deploy.model.base import open_base
from lora_deploy.model.targets import resolve
from lora_deploy.runtime import open_bundle
from lora_deploy.runtime.load import load
from lora_deploy.runtime.ort_adapters import AdapterGraphBackend, read_onnx_adapter
from lora_deploy.runtime.trained import open_run
from lora_deploy.verification import verify
from tests import tiny_models
from tests.test_demo_models import hide
from tests.tiny_graphs import LABELS, MODEL_TYPES, pixels_of

Array = NDArray[np.float32]

GRAPH, ADAPTER = "onnx/adapters.onnx", "adapters/default.onnx_adapter"


def adapted(folder: Path, *, r: int = 8, words: str = "qkv", seed: int = 1) -> PeftModel:
    """An adapter that changes every layer, under a head that is no longer the base's."""
    opened = open_base(str(folder), LABELS)
    model = attach(
        opened.model,
        LoraSettings(r=r),
        layers=resolve(opened.model, [words]).layers,
        head_modules=opened.head_modules,
        base_id="base",
        revision=None,
    )
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".lora_B" in name:
                parameter.normal_(std=0.3, generator=generator)
            elif ".modules_to_save." in name:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def graph_of(
    model: PeftModel, folder: Path, out: Path, *, fuse: bool
) -> tuple[onnx.ModelProto, dict[str, Array]]:
    base, marks = marked_base(model)
    write_onnx(base, out / "base.onnx", labels=LABELS, contract=open_base(str(folder), LABELS).contract)  # fmt: skip
    plain = onnx.load(out / "base.onnx")
    graph = fused(plain).model if fuse else plain
    lora, head = lora_factors(model), head_tensors(model)
    graph = with_adapter_inputs(graph, lora, head, marks)
    return graph, adapter_for(graph, lora, head)


def by_torch(model: PeftModel, pixel_values: Array) -> Array:
    with torch.inference_mode():
        answers: Array = logits_of(model, torch.from_numpy(pixel_values)).numpy()
    return answers


def by_graph(
    graph: onnx.ModelProto, brought: Mapping[str, Array], pixel_values: Array, tmp: Path, form: Any
) -> Array:
    write_onnx_adapter(tmp / "an.onnx_adapter", brought)
    content = (tmp / "an.onnx_adapter").read_bytes()
    backend = AdapterGraphBackend(graph.SerializeToString(), content, form=form, threads=1)
    return np.concatenate([backend.logits(pixel_values[i : i + 1]) for i in range(len(pixel_values))])  # fmt: skip


@pytest.fixture(scope="session")
def headless(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A V-JEPA 2 encoder: its whole attentive pooler is part of the head."""
    model = tiny_models.make("vjepa2", headless=True)
    return tiny_models.save(model, tmp_path_factory.mktemp("headless"))


@pytest.mark.parametrize("model_type", [*MODEL_TYPES, "headless"])
def test_the_graph_answers_as_peft_does_with_the_adapter_on_and_off(
    model_type: str, tiny_bases: dict[str, Path], headless: Path,
    real_frames: list[NDArray[np.uint8]], tmp_path: Path,
) -> None:  # fmt: skip
    folder = tiny_bases.get(model_type, headless)
    model = adapted(folder, words="all-linear")
    graph, brought = graph_of(model, folder, tmp_path, fuse=False)
    pixel_values = np.concatenate(pixels_of(graph, real_frames[:4]))
    on = by_torch(model, pixel_values)
    with delta_off(model):
        off = by_torch(model, pixel_values)
    assert np.abs(on - off).max() > 0.05
    found = by_graph(graph, brought, pixel_values, tmp_path, "unmerged")
    np.testing.assert_allclose(found, on, atol=5e-6)
    found = by_graph(graph, brought, pixel_values, tmp_path, "base")
    np.testing.assert_allclose(found, off, atol=5e-6)


@pytest.mark.parametrize("model_type", [*MODEL_TYPES, "headless"])
def test_one_graph_takes_another_adapter_of_another_rank_and_its_head(
    model_type: str, tiny_bases: dict[str, Path], headless: Path,
    real_frames: list[NDArray[np.uint8]], tmp_path: Path,
) -> None:  # fmt: skip
    folder = tiny_bases.get(model_type, headless)
    first = adapted(folder, r=8)
    with torch.no_grad():  # a head of zeros and ones, which the exporter leaves out
        for name, parameter in first.named_parameters():
            if ".modules_to_save." in name and parameter.ndim == 1:
                parameter.fill_(0.0 if name.endswith("bias") else 1.0)
    graph, _ = graph_of(first, folder, tmp_path, fuse=True)
    other = adapted(folder, r=3, seed=5)
    brought = adapter_for(graph, lora_factors(other), head_tensors(other))
    pixel_values = np.concatenate(pixels_of(graph, real_frames[:2]))
    found = by_graph(graph, brought, pixel_values, tmp_path, "unmerged")
    np.testing.assert_allclose(found, by_torch(other, pixel_values), atol=5e-6)
    with delta_off(other):
        off = by_torch(other, pixel_values)
    found = by_graph(graph, brought, pixel_values, tmp_path, "base")
    np.testing.assert_allclose(found, off, atol=5e-6)


def test_the_graph_by_itself_is_the_base_under_the_trained_head(
    full_bundle: Path, four_actions: Path
) -> None:
    clip = Path(four_actions.read_text().splitlines()[1].split(",")[0])
    base = load(full_bundle, form="base", backend="torch")
    session = onnxruntime.InferenceSession(full_bundle / GRAPH)
    assert [node.name for node in session.get_inputs()] == ["pixel_values"]

    class Plain:
        name, form, batch_size = "onnxruntime", "base", 1

        def logits(self, pixel_values: Array) -> Array:
            answers: Array = session.run(["logits"], {"pixel_values": pixel_values})[0]
            return answers

    from dataclasses import replace

    alone = replace(base, backend=Plain()).classify(clip).logits
    np.testing.assert_allclose(alone, base.classify(clip).logits, atol=1e-4)


def test_plain_onnxruntime_puts_the_adapter_in(full_bundle: Path, four_actions: Path) -> None:
    session = onnxruntime.InferenceSession(full_bundle / GRAPH)
    adapter = onnxruntime.LoraAdapter()
    adapter.Load(str(full_bundle / ADAPTER))
    options = onnxruntime.RunOptions()
    options.add_active_adapter(adapter)
    recogniser = load(full_bundle, form="unmerged", backend="torch")
    pixel_values = np.random.default_rng(0).standard_normal(
        (1, *recogniser.contract.pixel_values_shape), np.float32
    )
    found = session.run(["logits"], {"pixel_values": pixel_values}, options)[0]
    np.testing.assert_allclose(found, recogniser.backend.logits(pixel_values), atol=1e-4)


@pytest.mark.parametrize("form", ["unmerged", "base"])
def test_both_backends_answer_alike_on_real_clips(
    form: str, full_bundle: Path, four_actions: Path
) -> None:
    opened = [
        load(full_bundle, form=form, backend=backend, batch_size=2)
        for backend in ("torch", "onnxruntime")
    ]
    assert [(one.backend.name, one.backend.form) for one in opened] == [
        ("torch", form),
        ("onnxruntime", form),
    ]
    answers = []
    for line in four_actions.read_text().splitlines()[1::16]:
        one, other = (recogniser.classify(line.split(",")[0]) for recogniser in opened)
        np.testing.assert_allclose(one.logits, other.logits, atol=1e-4)
        assert one.label == other.label
        answers.append(one.label)
    assert form == "base" or len(set(answers)) > 1


# Which one is opened ------------------------------------------------------------------------------


def test_the_adapter_runs_where_there_is_no_pytorch(full_bundle: Path, four_actions: Path) -> None:
    clip = four_actions.read_text().splitlines()[1].split(",")[0]
    script = (
        "import sys\n"
        "class Blocked:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name.partition('.')[0] in {'torch', 'transformers', 'peft', 'onnx'}:\n"
        "            raise ModuleNotFoundError(name)\n"
        "sys.meta_path.insert(0, Blocked())\n"
        "import json, lora_deploy\n"
        "from lora_deploy import extras\n"
        "from lora_deploy.runtime import open_bundle\n"
        "open_bundle.is_installed = extras.is_installed = lambda name: name == 'onnxruntime'\n"
        "opened = [\n"
        f"    lora_deploy.load({str(full_bundle)!r}, adapter='default'),\n"
        f"    lora_deploy.load({str(full_bundle)!r}, form='base'),\n"
        f"    lora_deploy.load({str(full_bundle)!r}, adapter='default', backend='onnxruntime'),\n"
        "]\n"
        "print(json.dumps([\n"
        f"    [one.backend.name, one.backend.form, one.classify({clip!r}).logits] for one in opened\n"
        "]))\n"
    )
    finished = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr
    found = json.loads(finished.stdout)
    assert [one[:2] for one in found] == [
        ["onnxruntime", "unmerged"], ["onnxruntime", "base"], ["onnxruntime", "unmerged"],
    ]  # fmt: skip
    for form, one in zip(("unmerged", "base", "unmerged"), found, strict=True):
        by_torch = load(full_bundle, form=form, backend="torch").classify(clip)
        np.testing.assert_allclose(one[2], by_torch.logits, atol=1e-4)


def test_auto_takes_pytorch_where_it_is_and_the_graph_elsewhere(
    full_bundle: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert load(full_bundle, adapter="default").backend.name == "torch"
    hide(monkeypatch, "peft")
    assert load(full_bundle, adapter="default").backend.name == "onnxruntime"
    with pytest.raises(AdapterGraphMissingError, match="--adapter-graph"):
        load(bundle, adapter="default")


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"form": "half"}, UnknownFormError, "allowed: auto, merged, unmerged, base"),
        ({"form": "merged", "adapter": "default"}, BackendCannotError, "in its weights"),
        ({"form": "base", "backend": "openvino"}, BackendCannotError, "openvino takes no adapters"),
        (
            {"form": "base", "precision": "int8"},
            BackendCannotError,
            "unmerged in fp32, or .*, not in int8",
        ),
        ({"form": "base", "adapter": "nobody"}, NoSuchAdapterError, "it has: default"),
    ],
)
def test_what_can_not_be_opened_is_said(
    options: dict[str, Any], error: type[LoraDeployError], words: str, full_bundle: Path
) -> None:
    with pytest.raises(error, match=words):
        load(full_bundle, **options)


@pytest.mark.parametrize("backend", ["auto", "torch", "onnxruntime"])
def test_a_bundle_without_the_graph_says_how_to_get_it(bundle: Path, backend: str) -> None:
    if backend == "onnxruntime":
        with pytest.raises(AdapterGraphMissingError, match="--adapter-graph"):
            load(bundle, adapter="default", backend=backend)
    else:
        assert load(bundle, form="base", backend=backend).backend.form == "base"


def test_a_run_is_opened_as_its_base_too(lora_run: Path, test_clips: list[Path]) -> None:
    trained = open_run(lora_run)
    base = load(lora_run, form="base")
    on, off = load(lora_run, form="unmerged").classify(test_clips[0]), base.classify(test_clips[0])
    assert load(lora_run).classify(test_clips[0]) == on
    assert on.logits != off.logits
    assert isinstance(trained.model, PeftModel)
    with delta_off(trained.model):
        from lora_deploy.runtime.eager import TorchBackend

        expected = TorchBackend(trained.model, form="base")
        zeros = np.zeros((1, *base.contract.pixel_values_shape), np.float32)
        np.testing.assert_array_equal(base.backend.logits(zeros), expected.logits(zeros))
    with pytest.raises(NoSuchFormError, match="is not merged yet"):
        load(lora_run, form="merged")


def test_what_was_fine_tuned_as_a_whole_has_no_adapter_to_leave_out(
    full_run: Path, tmp_path: Path
) -> None:
    for form in ("unmerged", "base"):
        with pytest.raises(NoUnmergedFormError, match="fine-tuned as a whole"):
            load(full_run, form=form)
    with pytest.raises(NoUnmergedFormError, match="no adapter that a graph could take"):
        merge_export(full_run, tmp_path / "bundle", adapter_graph=True)
    assert not (tmp_path / "bundle").exists()
    merge_export(full_run, tmp_path / "bundle")
    with pytest.raises(NoUnmergedFormError, match="fine-tuned as a whole"):
        load(tmp_path / "bundle", form="base")


# A stranger's files -------------------------------------------------------------------------------


def vouch(folder: Path) -> None:
    """What somebody does who knows of the hashes."""
    manifest = bundles.read_bundle_manifest(folder)
    files = bundles.record_files(folder)
    bundles.write_bundle_manifest(folder, manifest.model_copy(update={"files": files}))


def put_in(folder: Path, change: Callable[[dict[str, Array]], None]) -> None:
    """Change an adapter's tensors and vouch for them."""
    brought = read_onnx_adapter(folder / ADAPTER)
    change(brought)
    (folder / ADAPTER).unlink()
    write_onnx_adapter(folder / ADAPTER, brought)
    vouch(folder)


A, B = (
    f"videomae.encoder.layer.0.attention.attention.query.lora_{factor}" for factor in ("A", "B")
)


def _drop(brought: dict[str, Array]) -> None:
    del brought[B]


def _drop_head(brought: dict[str, Array]) -> None:
    del brought["classifier.bias"]


def _add(brought: dict[str, Array]) -> None:
    brought["layer.99.lora_A"] = brought[A]


def _widen(brought: dict[str, Array]) -> None:
    brought[A] = np.zeros((33, 8), np.float32)


def _other_rank(brought: dict[str, Array]) -> None:
    brought[A] = np.ones((32, 5), np.float32)


def _flatten(brought: dict[str, Array]) -> None:
    brought[A] = brought[A].ravel()


def _more_labels(brought: dict[str, Array]) -> None:
    brought["classifier.bias"] = np.zeros(9, np.float32)


def _not_finite(brought: dict[str, Array]) -> None:
    brought[B][0, 0] = np.nan


def _as_double(brought: dict[str, Array]) -> None:
    brought[A] = brought[A].astype(np.float64)


def _die(brought: dict[str, Array]) -> None:
    for name in brought:
        if name.endswith(".lora_B"):
            brought[name] = np.zeros_like(brought[name])


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        (_drop, AdapterPartMissingError, "lacks 1 of"),
        (_drop_head, AdapterPartMissingError, r"classifier\.bias"),
        (_add, AdapterPartUnknownError, r"layer\.99\.lora_A"),
        (_widen, AdapterShapeError, r"is \(33, 8\); the graph takes \(32, 8\)"),
        (_other_rank, AdapterShapeError, "the graph takes"),
        (_flatten, AdapterShapeError, r"is \(256,\)"),
        (_more_labels, AdapterShapeError, r"is \(9,\); the graph takes \(4,\)"),
        (_not_finite, AdapterNotFiniteError, "NaN or infinity"),
        (_as_double, AdapterShapeError, r"tensor\(double\)"),
        (_die, DeadAdapterError, "changes none of 6 layers"),
    ],
)
def test_an_adapter_that_is_none_for_the_graph_is_refused(
    change: Callable[[dict[str, Array]], None], error: type[LoraDeployError], words: str,
    full_bundle_copy: Path,
) -> None:  # fmt: skip
    put_in(full_bundle_copy, change)
    with pytest.raises(error, match=words):
        load(full_bundle_copy, adapter="default", backend="onnxruntime")


@pytest.mark.parametrize("keep", [0, 1, 7, 100, 0.5, -4])
def test_a_torn_adapter_is_refused(keep: float, full_bundle_copy: Path) -> None:
    path = full_bundle_copy / ADAPTER
    content = path.read_bytes()
    path.write_bytes(content[: int(keep * len(content)) if 0 < keep < 1 else int(keep)])
    vouch(full_bundle_copy)
    with pytest.raises(GraphError, match="can't open the ONNX adapter"):
        load(full_bundle_copy, adapter="default", backend="onnxruntime")


def test_random_bytes_in_an_adapter_end_no_process_and_open_no_other_shapes(
    full_bundle: Path, tmp_path: Path
) -> None:
    content = (full_bundle / ADAPTER).read_bytes()
    known = {name: one.shape for name, one in read_onnx_adapter(full_bundle / ADAPTER).items()}
    script = (
        "import sys\n"
        "from pathlib import Path\n"
        "from lora_deploy.errors import LoraDeployError\n"
        "from lora_deploy.runtime.ort_adapters import read_onnx_adapter\n"
        "for path in sorted(Path(sys.argv[1]).iterdir()):\n"
        "    try:\n"
        "        sizes = sum(one.nbytes for one in read_onnx_adapter(path).values())\n"
        "        assert sizes <= path.stat().st_size, path\n"
        "    except LoraDeployError:\n"
        "        pass\n"
        "print('whole')\n"
    )
    draw = np.random.default_rng(0)
    # Names, shapes and offsets lie between the tensors, and at both ends.
    places = [
        at for at in range(len(content)) if at < 64 or at > len(content) - 600 or content[at] == 0
    ]
    for number in range(300):
        spoilt = bytearray(content)
        for at in draw.choice(places, 3):
            spoilt[at] = int(draw.integers(256))
        (tmp_path / f"{number}.onnx_adapter").write_bytes(spoilt)
    finished = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True
    )
    assert (finished.returncode, finished.stdout) == (0, "whole\n"), finished.stderr
    assert len(known) == 14


@pytest.mark.parametrize("name", [GRAPH, ADAPTER])
def test_a_changed_byte_is_found_before_the_file_is_used(name: str, full_bundle_copy: Path) -> None:
    content = bytearray((full_bundle_copy / name).read_bytes())
    content[len(content) // 2] ^= 1
    (full_bundle_copy / name).write_bytes(content)
    with pytest.raises(FileChangedError, match=Path(name).name):
        load(full_bundle_copy, form="base", backend="onnxruntime")


def test_a_file_beside_the_adapter_that_nobody_vouches_for_is_refused(
    full_bundle_copy: Path,
) -> None:
    (full_bundle_copy / "adapters" / "other.onnx_adapter").write_bytes(b"x")
    with pytest.raises(FileUnknownError, match="does not vouch for"):
        load(full_bundle_copy, adapter="default", backend="onnxruntime")


def test_an_adapter_that_is_a_link_is_refused(full_bundle_copy: Path, tmp_path: Path) -> None:
    path = full_bundle_copy / ADAPTER
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(FileChangedError, match="through a link"):
        load(full_bundle_copy, adapter="default", backend="onnxruntime")


def test_writing_to_an_adapter_that_is_open_changes_no_answer(
    full_bundle_copy: Path, test_clips: list[Path]
) -> None:
    recogniser = load(full_bundle_copy, adapter="default", backend="onnxruntime")
    before = recogniser.classify(test_clips[0])
    with (full_bundle_copy / ADAPTER).open("r+b") as file:
        file.write(bytes((full_bundle_copy / ADAPTER).stat().st_size))
    assert recogniser.classify(test_clips[0]) == before


def test_a_graph_that_takes_no_adapter_is_refused(full_bundle_copy: Path) -> None:
    merged = (full_bundle_copy / bundles.FUSED).read_bytes()
    (full_bundle_copy / GRAPH).write_bytes(merged)
    vouch(full_bundle_copy)
    with pytest.raises(GraphError, match="takes no adapter"):
        load(full_bundle_copy, adapter="default", backend="onnxruntime")


def test_a_graph_for_other_labels_is_refused(full_bundle_copy: Path) -> None:
    graph = onnx.load(full_bundle_copy / GRAPH)
    for entry in graph.metadata_props:
        if entry.key == "labels":
            entry.value = json.dumps(["a", "b", "c", "d"])
    onnx.save(graph, full_bundle_copy / GRAPH)
    vouch(full_bundle_copy)
    with pytest.raises(LabelOrderError, match=r"adapters\.onnx was exported for the labels"):
        load(full_bundle_copy, adapter="default", backend="onnxruntime")


def test_weights_outside_of_the_graph_are_not_opened(full_bundle_copy: Path) -> None:
    graph = onnx.load(full_bundle_copy / GRAPH)
    largest = max(graph.graph.initializer, key=lambda tensor: len(tensor.raw_data))
    onnx.external_data_helper.set_external_data(largest, "/etc/passwd")
    largest.ClearField("raw_data")
    (full_bundle_copy / GRAPH).write_bytes(graph.SerializeToString())
    vouch(full_bundle_copy)
    with pytest.raises(GraphError, match="outside of its file"):
        load(full_bundle_copy, adapter="default", backend="onnxruntime")


# Exporting and proving ----------------------------------------------------------------------------


def spoil(monkeypatch: pytest.MonkeyPatch, fault: Callable[[Path], None]) -> None:
    """Let the graph be written with a fault in it."""
    really = write_adapter_graph

    def spoilt(stage: Path, *arguments: Any, **options: Any) -> None:
        really(stage, *arguments, **options)
        fault(stage)

    monkeypatch.setattr(proving, "write_adapter_graph", spoilt)


def edit_adapter(stage: Path, change: Callable[[dict[str, Array]], None]) -> None:
    brought = read_onnx_adapter(stage / ADAPTER)
    change(brought)
    write_onnx_adapter(stage / ADAPTER, brought)


def forget_the_scale(stage: Path) -> None:
    """alpha / r is 2."""

    def halve(brought: dict[str, Array]) -> None:
        for name in brought:
            if name.endswith(".lora_B"):
                brought[name] = np.float32(0.5) * brought[name]

    edit_adapter(stage, halve)


def skip_the_adapter(stage: Path) -> None:
    graph = onnx.load(stage / GRAPH)
    inside = Graph(graph)
    for node in inside.nodes:
        if node.name.endswith(".lora/Add"):
            node.op_type = "Identity"
            del node.input[1]
    onnx.save(graph, stage / GRAPH)


def untrained_head_in_the_adapter(stage: Path) -> None:
    def forget(brought: dict[str, Array]) -> None:
        brought["classifier.weight"] = np.flipud(brought["classifier.weight"])

    edit_adapter(stage, forget)


def merged_weights_in_the_graph(stage: Path) -> None:
    """An update that is in the base already: it is added twice, and can't be left out."""
    graph = onnx.load(stage / GRAPH)
    inside = Graph(graph)
    brought = read_onnx_adapter(stage / ADAPTER)
    for node in inside.nodes:
        layer = node.name.removesuffix("/MatMul")
        if f"{layer}.lora_A" in brought:
            weight = inside.constant(node.input[1])
            assert weight is not None
            delta = brought[f"{layer}.lora_A"] @ brought[f"{layer}.lora_B"]
            node.input[1] = inside.store(f"{layer}.merged", weight.astype(np.float32) + delta)
    onnx.save(graph, stage / GRAPH)


@pytest.mark.parametrize(
    ("fault", "error", "words"),
    [
        (forget_the_scale, FormsDifferError, "adapter-graph answers differently from unmerged"),
        (skip_the_adapter, AdapterSkippedError, "adapter-graph answers as the base does"),
        (untrained_head_in_the_adapter, FormsDifferError, "adapter-graph-base answers differently"),
        (merged_weights_in_the_graph, FormsDifferError, "adapter-graph-base answers differently"),
    ],
)
def test_a_fault_in_the_graph_is_caught_and_leaves_nothing(
    fault: Callable[[Path], None], error: type[CheckFailed], words: str, lora_run: Path,
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    spoil(monkeypatch, fault)
    with pytest.raises(error, match=words):
        merge_export(lora_run, tmp_path / "bundle", adapter_graph=True)
    assert list(tmp_path.iterdir()) == []


def test_the_graph_is_written_only_where_it_was_asked_for(bundle: Path, full_bundle: Path) -> None:
    assert not (bundle / GRAPH).exists()
    assert not (bundle / ADAPTER).exists()
    manifest = bundles.read_bundle_manifest(full_bundle)
    assert {GRAPH, ADAPTER} <= manifest.files.keys()
    base = sum((full_bundle / name).stat().st_size for name in ("model/model.safetensors",))
    assert manifest.files[GRAPH].bytes < 1.5 * base


def test_the_certificate_has_a_row_for_each_way_to_run_it(full_bundle: Path) -> None:
    certificate = json.loads((full_bundle / "certificate.json").read_text())
    links = {tuple(link["forms"]): link for link in certificate["links"]}
    for forms in (("unmerged", "adapter-graph"), ("base", "adapter-graph-base")):
        assert links[forms]["passed"]
        assert links[forms]["agreement"] == 1
        assert links[forms]["largest_probability_difference"] < 1e-5
        assert not links[forms]["adapter_skipped"]
    assert certificate["accuracy"]["base"] < certificate["accuracy"]["unmerged"]
    page = (full_bundle / "certificate.html").read_text()
    for title in ("Adapter graph", "Adapter graph without adapter", "Adapter switched off"):
        assert title in page
    card = (full_bundle / "README.md").read_text()
    assert "--backend onnxruntime --adapter default" in card


def test_nothing_in_the_graph_tells_where_it_was_made(full_bundle: Path) -> None:
    for name in (GRAPH, ADAPTER):
        content = (full_bundle / name).read_bytes()
        assert b"/tmp" not in content
        assert b".py" not in content


def test_a_layer_that_is_no_single_product_can_take_no_adapter(
    tiny_bases: dict[str, Path], tmp_path: Path
) -> None:
    folder = tiny_bases["videomae"]
    model = adapted(folder)
    graph, _ = graph_of(model, folder, tmp_path, fuse=False)
    plain = onnx.load(tmp_path / "base.onnx")
    lora, head = lora_factors(model), head_tensors(model)
    _, marks = marked_base(model)
    factors = next(iter(lora.values()))
    with pytest.raises(NotExportableError, match="nowhere is 0 products"):
        with_adapter_inputs(plain, {"nowhere": factors}, head, marks)
    with pytest.raises(NotExportableError, match=r"pooler\.bias of the head is not found"):
        with_adapter_inputs(plain, lora, {**head, "pooler.bias": np.ones(3, np.float32)}, marks)
    assert len(graph.graph.input) == 1 + 2 * len(lora) + len(head)


def test_verify_finds_an_adapter_and_a_graph_that_answer_otherwise(
    full_bundle_copy: Path, few_untrue: Path
) -> None:
    put_in(full_bundle_copy, lambda brought: brought.update({B: brought[B] * 3}))
    for clips in (None, few_untrue):
        wrong = [
            one.part for one in verify(full_bundle_copy, clips).findings if one.passed is False
        ]
        assert wrong == ["adapter-graph"]
    skip_the_adapter(full_bundle_copy)
    vouch(full_bundle_copy)
    for clips in (None, few_untrue):
        wrong = [
            one.part for one in verify(full_bundle_copy, clips).findings if one.passed is False
        ]
        assert wrong == ["adapter-graph"]
    graph = onnx.load(full_bundle_copy / GRAPH)
    for tensor in graph.graph.initializer:
        if len(tensor.dims) == 2 and len(tensor.raw_data) > 4000:
            values = 1.2 * onnx.numpy_helper.to_array(tensor)
            tensor.CopyFrom(onnx.numpy_helper.from_array(values.astype(np.float32), tensor.name))
    onnx.save(graph, full_bundle_copy / GRAPH)
    vouch(full_bundle_copy)
    for clips in (None, few_untrue):
        wrong = [
            one.part for one in verify(full_bundle_copy, clips).findings if one.passed is False
        ]
        assert wrong == ["adapter-graph", "adapter-graph-base"]


def test_verify_wants_the_graph_to_be_proved(full_bundle_copy: Path) -> None:
    path = full_bundle_copy / "certificate.json"
    values = json.loads(path.read_text())
    values["links"] = [link for link in values["links"] if "graph" not in link["forms"][1]]
    path.write_text(json.dumps(values))
    vouch(full_bundle_copy)
    [told] = [one for one in verify(full_bundle_copy).findings if one.part == "certificate"]
    assert told.passed is False
    assert "does not speak of adapter-graph, adapter-graph-base" in told.text


def test_the_commands_export_the_graph_run_it_and_look_at_it(
    lora_run: Path, test_clips: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "bundle"
    assert cli.run(["merge-export", str(lora_run), "--out", str(out), "--adapter-graph"]) == 0
    assert "base = adapter-graph-base: same label on 100%" in capsys.readouterr().out
    command = ["classify", str(out), str(test_clips[0]), "--adapter", "default"]
    assert cli.run([*command, "--backend", "onnxruntime"]) == 0
    by_graph = json.loads(capsys.readouterr().out)
    assert cli.run([*command, "--backend", "torch"]) == 0
    assert by_graph["label"] == json.loads(capsys.readouterr().out)["label"]
    assert cli.run(["doctor", str(out)]) == 0
    assert "adapter graph" in capsys.readouterr().out


def test_the_graphs_hash_is_asked_for_when_it_is_handed_over(
    full_bundle_copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    handed_over = []
    really = handed

    def watched(folder: Path, manifest: Any, name: str) -> Any:
        handed_over.append(name)
        return really(folder, manifest, name)

    monkeypatch.setattr(open_bundle, "handed", watched)
    load(full_bundle_copy, form="base", backend="onnxruntime")
    assert handed_over == [ADAPTER, GRAPH]
