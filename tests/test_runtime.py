"""Opening models: the right backend, damaged bundles refused, a row's bits independent of its company."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

import lora_deploy
from lora_deploy.artifact import bundle as bundles
from lora_deploy.artifact import run as runs
from lora_deploy.artifact.manifest import sha256_of_file
from lora_deploy.clips import decode
from lora_deploy.errors import (
    AdapterChangedError,
    ArtifactError,
    BackendError,
    CheckpointError,
    ClipError,
    GraphError,
    ModelError,
    ProviderFellBackError,
)
from lora_deploy.model.base import open_base
from lora_deploy.runtime import ort
from lora_deploy.runtime.base import Recogniser, TakesFrames, softmax
from lora_deploy.runtime.eager import TorchBackend, TorchOnCard, on_device
from lora_deploy.runtime.load import load
from lora_deploy.runtime.trained import open_run

EXAMPLE_BUNDLE = Path(lora_deploy.__file__).parent / "assets" / "example-bundle"


def test_the_five_lines_of_the_readme(bundle: Path, test_clips: list[Path]) -> None:
    recogniser = lora_deploy.load(bundle)
    prediction = recogniser.classify(test_clips[0], top_k=5)
    assert prediction.label == prediction.top_k[0][0]
    assert prediction.score == prediction.top_k[0][1]
    assert sum(score for _, score in prediction.top_k) == pytest.approx(1)
    assert len(prediction.top_k) == 2  # there are only two labels
    assert prediction.duration_seconds > 0


def test_every_form_gives_the_same_answer(
    bundle: Path, lora_run: Path, test_clips: list[Path]
) -> None:
    forms = [
        load(bundle),
        load(bundle, backend="torch"),
        load(bundle, adapter="default"),
        load(lora_run),
    ]
    assert [(form.backend.name, form.backend.form) for form in forms] == [
        ("onnxruntime", "merged"),
        ("torch", "merged"),
        ("torch", "unmerged"),
        ("torch", "unmerged"),
    ]
    for path in test_clips:
        expected = forms[0].classify(path).logits
        for form in forms[1:]:
            np.testing.assert_allclose(form.classify(path).logits, expected, atol=1e-4)


@pytest.mark.parametrize("backend", ["onnxruntime", "torch"])
def test_a_rows_bits_depend_neither_on_its_place_nor_on_its_company(
    test_clips: list[Path], backend: str
) -> None:
    # At a width that people use: with 32 features and 2 labels, Intel's MKL takes a kernel for
    # small matrices in which the last bit depends on the row.
    if backend == "torch":
        opened = open_base("videomae-nano", ("bend", "wave_two_hands"))
        runs = TorchBackend(opened.model, form="merged", batch_size=4)
        recogniser = Recogniser(runs, ("bend", "wave_two_hands"), opened.contract, 1.0, "")
    else:
        recogniser = load(EXAMPLE_BUNDLE, backend="onnxruntime", batch_size=4)
    frames = np.stack([decode.decode(path, recogniser.contract).frames for path in test_clips])
    together = recogniser.logits(frames)
    backwards = recogniser.logits(frames[::-1])[::-1]
    alone = np.concatenate([recogniser.logits(clip[None]) for clip in frames])
    np.testing.assert_array_equal(together, backwards)
    np.testing.assert_array_equal(together, alone)


def test_what_an_accelerator_normalises_itself_has_the_same_bits(test_clips: list[Path]) -> None:
    opened = open_base("videomae-nano", ("bend", "wave_two_hands"))
    cpu = torch.device("cpu")
    here = on_device(opened.model, opened.contract, form="merged", batch_size=4, device=cpu)
    card = TorchOnCard(opened.model, opened.contract, form="merged", batch_size=4, device=cpu)
    assert not isinstance(here, TakesFrames)
    assert isinstance(card, TakesFrames)
    frames = np.stack([decode.decode(path, opened.contract).frames for path in test_clips])
    frames[0].flat[:256] = np.arange(256)  # every value
    expected, found = (
        Recogniser(runs, ("bend", "wave_two_hands"), opened.contract, 1.0, "").logits(frames)
        for runs in (here, card)
    )
    np.testing.assert_array_equal(found, expected)


def test_no_clips_give_no_rows(bundle: Path) -> None:
    recogniser = load(bundle)
    empty = np.zeros((0, *recogniser.contract.frames_shape), np.uint8)
    assert recogniser.logits(empty).shape == (0, 2)


@pytest.mark.parametrize("name", ["onnx/model.ort.onnx", "model/model.safetensors"])
def test_a_changed_byte_is_found_before_the_file_is_used(bundle_copy: Path, name: str) -> None:
    path = bundle_copy / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    backend = "onnxruntime" if name.startswith("onnx") else "torch"
    with pytest.raises(ArtifactError, match=r"is not the file that bundle\.json vouches for"):
        load(bundle_copy, backend=backend)


def test_a_file_that_the_manifest_does_not_vouch_for_is_not_opened(bundle_copy: Path) -> None:
    path = bundle_copy / "bundle.json"
    values = json.loads(path.read_text())
    del values["files"]["onnx/model.ort.onnx"]
    path.write_text(json.dumps(values))
    with pytest.raises(ArtifactError, match=r"does not vouch for onnx/model\.ort\.onnx"):
        load(bundle_copy)


def test_a_missing_file_is_named(bundle_copy: Path) -> None:
    (bundle_copy / "model" / "model.safetensors").unlink()
    with pytest.raises(ArtifactError, match=r"lacks model/model\.safetensors"):
        load(bundle_copy, backend="torch")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"schema_version": 2}, "install a newer lora-deploy"),
        ({"labels": ["a"]}, "damaged: labels"),
        ({"labels": ["wave_two_hands", "bend"]}, "exported for the labels"),
        ({"surprise": 1}, "damaged: surprise"),
    ],
)
def test_a_manifest_that_is_not_ours_is_refused(
    bundle_copy: Path, change: dict[str, object], words: str
) -> None:
    path = bundle_copy / "bundle.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(ArtifactError, match=words):
        load(bundle_copy)


def test_another_pixel_contract_than_the_graphs_is_refused(bundle_copy: Path) -> None:
    path = bundle_copy / "bundle.json"
    values = json.loads(path.read_text())
    values["contract"]["mean"] = [0.5, 0.5, 0.5]
    path.write_text(json.dumps(values))
    with pytest.raises(ArtifactError, match="disagree on the pixel contract"):
        load(bundle_copy)


def test_a_torn_manifest_is_refused(bundle_copy: Path) -> None:
    path = bundle_copy / "bundle.json"
    path.write_text(path.read_text()[:100])
    with pytest.raises(ArtifactError, match="can't be read"):
        load(bundle_copy)


def test_an_adapter_on_another_base_is_refused(bundle_copy: Path) -> None:
    path = bundle_copy / "bundle.json"
    values = json.loads(path.read_text())
    values["base"]["fingerprint"] = "sha256:" + "0" * 64
    path.write_text(json.dumps(values))
    with pytest.raises(CheckpointError, match="is not the one that default was trained on"):
        load(bundle_copy, adapter="default")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"backend": "magic"}, "allowed: auto, onnxruntime, openvino, torch"),
        ({"adapter": "nobody"}, "it has: default"),
        ({"backend": "onnxruntime", "adapter": "default"}, "--backend torch"),
        ({"batch_size": 0}, "allowed: 1 or more"),
        ({"backend": "torch", "device": "tpu"}, "allowed: auto, cpu, cuda"),
    ],
)
def test_what_can_not_be_done_is_said(bundle: Path, options: dict[str, object], words: str) -> None:
    with pytest.raises(BackendError, match=words):
        load(bundle, **options)  # type: ignore[arg-type]


def test_a_run_needs_torch(lora_run: Path) -> None:
    with pytest.raises(BackendError, match="merge-export"):
        load(lora_run, backend="onnxruntime")


def test_a_folder_that_is_neither_says_what_is_needed(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"run\.json or bundle\.json"):
        load(tmp_path)
    with pytest.raises(ArtifactError, match="does not exist"):
        load(tmp_path / "nowhere")


def test_a_clip_that_can_not_be_read_raises_its_kind(bundle: Path, media: Path) -> None:
    with pytest.raises(ClipError) as caught:
        load(bundle).classify(media / "malformed" / "audio_only.mp4")
    assert caught.value.kind == "no_video"


def test_the_onnx_path_imports_no_torch(bundle: Path, test_clips: list[Path]) -> None:
    script = (
        "import sys, lora_deploy\n"
        f"lora_deploy.load({str(bundle)!r}).classify({str(test_clips[0])!r})\n"
        "heavy = {'torch', 'transformers', 'peft'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, env={**os.environ})


def test_softmax_survives_large_logits() -> None:
    np.testing.assert_allclose(
        softmax(np.array([[1000.0, 1000.0, -1000.0]], np.float32)), [[0.5, 0.5, 0.0]]
    )


def vouch_again(folder: Path, **changes: object) -> None:
    """Rewrite ``bundle.json``, as somebody with a hex editor could."""
    path = folder / "bundle.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_weights_that_nobody_vouches_for_are_not_opened(bundle_copy: Path) -> None:
    files = json.loads((bundle_copy / "bundle.json").read_text())["files"]
    vouch_again(bundle_copy, files={n: f for n, f in files.items() if not n.startswith("model/")})
    with pytest.raises(ArtifactError, match="does not vouch for model/"):
        load(bundle_copy, backend="torch")


def test_a_file_put_beside_the_weights_is_refused(bundle_copy: Path) -> None:
    """transformers would load an adapter that it finds there, without a word."""
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        shutil.copy(bundle_copy / "adapters" / "default" / name, bundle_copy / "model" / name)
    with pytest.raises(ArtifactError, match=r"does not vouch for model/adapter_config\.json"):
        load(bundle_copy, backend="torch")


def test_a_link_in_a_bundle_is_refused(bundle_copy: Path, tmp_path: Path) -> None:
    path = bundle_copy / "model" / "model.safetensors"
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ArtifactError, match="is not the file that"):
        load(bundle_copy, backend="torch")


def test_an_edited_alpha_of_a_run_is_refused(lora_run: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(lora_run, tmp_path / "run")
    path = copy / "best_model_lora_adapter" / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "lora_alpha": 64}))
    with pytest.raises(AdapterChangedError, match=r"adapter_config\.json is not the file"):
        load(copy)


@pytest.mark.parametrize("saved", [True, False])
def test_a_better_epoch_that_is_saved_while_a_run_is_opened_is_opened_instead(
    lora_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, saved: bool
) -> None:
    """A training saves between the reading of run.json and that of the weights."""
    copy = Path(shutil.copytree(lora_run, tmp_path / "run"))
    card = copy / "best_model_lora_adapter" / "README.md"
    verify = runs.verify_adapter

    def save_first(folder: Path, manifest: runs.RunManifest) -> list[Path]:
        monkeypatch.setattr(runs, "verify_adapter", verify)
        card.write_text("of a better epoch")
        if saved:
            weights = {name: sha256_of_file(copy / name) for name in manifest.weights}
            later = manifest.model_copy(
                update={"weights": weights, "best": manifest.best.model_copy(update={"epoch": 99})}
            )
            runs.write_run_manifest(copy, later)
        return verify(folder, manifest)

    monkeypatch.setattr(runs, "verify_adapter", save_first)
    if saved:
        best = open_run(copy).best
        assert best is not None
        assert best.epoch == 99
    else:
        with pytest.raises(AdapterChangedError):
            open_run(copy)


def test_a_run_can_not_bring_code_or_another_architecture(full_run: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(full_run, tmp_path / "run")
    path = copy / "run.json"
    values = json.loads(path.read_text())
    values["model_config_values"] |= {
        "model_type": "bert",
        "auto_map": {"AutoModelForVideoClassification": "evil/repo--mod.Cls"},
    }
    path.write_text(json.dumps(values))
    with pytest.raises(ModelError, match="the model is a bert; supported: videomae"):
        load(copy)


def test_a_graph_of_another_kind_is_refused(bundle_copy: Path) -> None:
    path = bundle_copy / "onnx" / "model.ort.onnx"
    graph = onnx.load(path)
    for node in graph.graph.node:
        node.output[:] = ["answers" if name == "logits" else name for name in node.output]
    graph.graph.output[0].name = "answers"
    onnx.save(graph, path)
    records = bundles.record_files(bundle_copy)
    vouch_again(bundle_copy, files={n: r.model_dump() for n, r in records.items()})
    with pytest.raises(GraphError, match=r"gives \['answers'\]"):
        load(bundle_copy)


def test_another_provider_than_was_asked_for_is_an_error(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a computer without a GPU onnxruntime takes the CPU, and only warns."""
    monkeypatch.setattr(ort, "_PROVIDER", "CUDAExecutionProvider")
    graph = (bundle / "onnx" / "model.onnx").read_bytes()
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this onnxruntime may run it on a GPU")
    with (
        pytest.warns(UserWarning, match="CUDAExecutionProvider"),
        pytest.raises(ProviderFellBackError, match="chose CPUExecutionProvider where CUDA"),
    ):
        ort.OnnxRuntimeBackend(graph)


def test_what_is_no_graph_is_refused() -> None:
    with pytest.raises(GraphError, match=r"can't open the graph: .*; make the bundle again"):
        ort.OnnxRuntimeBackend(b"no graph")
