"""Merge, export, prove: sound models are shipped and open everywhere, faults leave nothing."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import numpy_helper
from peft import PeftModel
from transformers import AutoModelForVideoClassification, VideoMAEImageProcessorPil

from lora_deploy import cli
from lora_deploy.artifact import bundle as bundles
from lora_deploy.artifact import run as runs
from lora_deploy.clips import decode, transforms
from lora_deploy.clips.processor import contract_to_processor
from lora_deploy.errors import AdapterChangedError, ArtifactError, CheckFailed, DataError
from lora_deploy.export import pipeline, proving
from lora_deploy.export.merge import merge
from lora_deploy.export.to_onnx import write_onnx
from lora_deploy.runtime.load import load
from lora_deploy.runtime.trained import Trained, open_run


def pixels_of(bundle: Path, path: Path) -> np.ndarray:
    contract = bundles.read_bundle_manifest(bundle).contract
    return transforms.normalise(decode.decode(path, contract).frames, contract)[None]


def test_a_bundle_holds_what_the_contract_names(bundle: Path) -> None:
    manifest = bundles.read_bundle_manifest(bundle)
    found = {p.relative_to(bundle).as_posix() for p in bundle.rglob("*") if p.is_file()}
    assert found == {*manifest.files, "bundle.json"}
    assert found >= {
        "onnx/model.onnx", "model/model.safetensors", "model/config.json",
        "model/preprocessor_config.json", "adapters/default/adapter_model.safetensors",
        "certificate.json", "certificate.html", "README.md",
    }  # fmt: skip
    bundles.verify_files(bundle, manifest)


def test_the_certificate_speaks_of_real_clips(bundle: Path) -> None:
    certificate = json.loads((bundle / "certificate.json").read_text())
    assert certificate["passed"]
    assert certificate["clips"] == 8
    assert "bend/s5_orig.mp4" in [clip["name"] for clip in certificate["proof_clips"]]
    assert [link["forms"] for link in certificate["links"]] == [
        ["unmerged", "merged"],
        ["merged", "onnx"],
        ["unmerged", "onnxruntime-fp32"],
    ]
    assert certificate["liveness"]["largest_logit_difference"] > 0.01
    page = (bundle / "certificate.html").read_text()
    assert "Every form answers alike" in page


def test_nothing_in_a_bundle_tells_where_it_was_made(bundle: Path, lora_run: Path) -> None:
    base_id = runs.read_run_manifest(lora_run).base.id  # here the user's own name is a path
    for path in bundle.rglob("*"):
        if path.is_file():
            content = path.read_bytes().replace(base_id.encode(), b"")
            assert b"site-packages" not in content, path
            assert str(Path(__file__).parents[1]).encode() not in content, path
            assert b"/tmp/" not in content, path


def test_transformers_opens_the_merged_model(bundle: Path, test_clips: list[Path]) -> None:
    model = AutoModelForVideoClassification.from_pretrained(bundle / "model").eval()
    recogniser = load(bundle)
    assert [model.config.id2label[i] for i in range(2)] == list(recogniser.labels)
    for path in test_clips:
        with torch.no_grad():
            logits = model(pixel_values=torch.from_numpy(pixels_of(bundle, path))).logits[0].numpy()
        np.testing.assert_allclose(logits, recogniser.classify(path).logits, atol=1e-4)


def test_transformers_own_preprocessor_gives_our_pixels(
    bundle: Path, test_clips: list[Path]
) -> None:
    processor = VideoMAEImageProcessorPil.from_pretrained(bundle / "model")
    contract = bundles.read_bundle_manifest(bundle).contract
    frames = decode.decode(test_clips[0], contract).frames
    theirs = processor(list(frames), return_tensors="np")["pixel_values"]
    np.testing.assert_array_equal(theirs, transforms.normalise(frames, contract)[None])


def test_plain_peft_opens_the_adapter_of_a_bundle(
    bundle: Path, tiny_base: Path, test_clips: list[Path]
) -> None:
    base = AutoModelForVideoClassification.from_pretrained(
        tiny_base, num_labels=2, ignore_mismatched_sizes=True
    )
    model = PeftModel.from_pretrained(base, bundle / "adapters" / "default").eval()
    for path in test_clips:
        with torch.no_grad():
            logits = model(pixel_values=torch.from_numpy(pixels_of(bundle, path))).logits[0].numpy()
        np.testing.assert_allclose(logits, load(bundle).classify(path).logits, atol=1e-4)


def test_plain_onnxruntime_opens_the_graph(bundle: Path, test_clips: list[Path]) -> None:
    session = onnxruntime.InferenceSession(
        bundle / "onnx" / "model.onnx", providers=["CPUExecutionProvider"]
    )
    pixels = np.concatenate([pixels_of(bundle, path) for path in test_clips[:5]])
    [logits] = session.run(None, {"pixel_values": pixels})
    assert logits.shape == (5, 2)  # any batch size
    recogniser = load(bundle, backend="torch")
    expected = [recogniser.classify(path).logits for path in test_clips[:5]]
    np.testing.assert_allclose(logits, expected, atol=1e-4)
    labels = json.loads(session.get_modelmeta().custom_metadata_map["labels"])
    assert labels == list(recogniser.labels)


def test_the_graph_is_plain_onnx_with_whole_attention(bundle: Path) -> None:
    graph = onnx.load(bundle / "onnx" / "model.onnx")
    assert {node.domain for node in graph.graph.node} == {""}
    kinds = [node.op_type for node in graph.graph.node]
    assert kinds.count("Attention") == 2
    assert not {"Shape", "Gather"} & set(kinds)


def test_merging_leaves_the_unmerged_model_as_it_was(lora_run: Path) -> None:
    model = open_run(lora_run).model
    assert isinstance(model, PeftModel)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    merged = merge(model)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert not any("lora" in name for name in merged.state_dict())


def test_a_fully_fine_tuned_run_is_exported_too(full_run: Path, tmp_path: Path) -> None:
    shipped = pipeline.merge_export(full_run, tmp_path / "bundle")
    assert shipped.certificate.liveness is None
    assert shipped.manifest.adapters == ()
    assert [link.forms for link in shipped.certificate.links] == [
        ("trained", "merged"),
        ("merged", "onnx"),
        ("trained", "onnxruntime-fp32"),
    ]


# Planted faults: each is caught on the clips, leaves nothing, and ends with exit code 1.


def transpose_a_weight(folder: Path) -> None:
    path = folder / "onnx" / "model.onnx"
    model = onnx.load(path)
    square = next(
        tensor
        for tensor in model.graph.initializer
        if len(tensor.dims) == 2 and tensor.dims[0] == tensor.dims[1] == 32
    )
    square.CopyFrom(
        numpy_helper.from_array(numpy_helper.to_array(square).T.copy(), name=square.name)
    )
    onnx.save(model, path)


def swap_labels(folder: Path) -> None:
    path = folder / "onnx" / "model.onnx"
    model = onnx.load(path)
    for entry in model.metadata_props:
        if entry.key == "labels":
            entry.value = json.dumps(json.loads(entry.value)[::-1])
    onnx.save(model, path)


def wrong_mean_in_the_preprocessor(folder: Path) -> None:
    path = folder / "model" / "preprocessor_config.json"
    values = json.loads(path.read_text())
    path.write_text(json.dumps({**values, "image_mean": [0.5, 0.5, 0.5]}))


def swap_labels_of_transformers(folder: Path) -> None:
    path = folder / "model" / "config.json"
    values = json.loads(path.read_text())
    one, two = values["id2label"]["0"], values["id2label"]["1"]
    path.write_text(json.dumps({**values, "id2label": {"0": two, "1": one}}))


def ship(monkeypatch: pytest.MonkeyPatch, bundle: Path, spoil: Callable[[Path], None]) -> None:
    """Let export write what a sound export wrote, then spoil it."""

    def write_float32(stage: Path, *_: object) -> None:
        for name in ("model", "onnx", "adapters"):
            shutil.copytree(bundle / name, stage / name)
        spoil(stage)

    monkeypatch.setattr(proving, "write_float32", write_float32)


def refused(lora_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """Export by the command line; returns the message after checking that nothing was left."""
    out = tmp_path / "out" / "bundle"
    assert cli.run(["merge-export", str(lora_run), "--out", str(out)]) == 1
    assert list(out.parent.iterdir()) == []
    message = capsys.readouterr().err
    assert "no bundle was made" in message
    return message


def test_what_is_not_spoilt_is_shipped(
    bundle: Path, lora_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the tests below would pass for another reason than the fault."""
    ship(monkeypatch, bundle, lambda _: None)
    assert cli.run(["merge-export", str(lora_run), "--out", str(tmp_path / "bundle")]) == 0


@pytest.mark.parametrize(
    "fault",
    [
        transpose_a_weight,
        swap_labels,
        wrong_mean_in_the_preprocessor,
        swap_labels_of_transformers,
    ],
)
def test_a_fault_in_one_file_is_caught_and_leaves_nothing(
    bundle: Path,
    lora_run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    fault: Callable[[Path], None],
) -> None:
    ship(monkeypatch, bundle, fault)
    refused(lora_run, tmp_path, capsys)


@pytest.mark.parametrize(
    "change",
    [
        {"labels": ("wave_two_hands", "bend")},
        {"mean": (0.5, 0.5, 0.5)},
        {"std": (0.1, 0.225, 0.225)},
        {"sampling": "middle_frame"},
    ],
    ids=["labels swapped", "wrong mean", "wrong std", "wrong sampling"],
)
def test_a_fault_on_which_all_shipped_files_agree_is_caught(
    bundle: Path,
    lora_run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    change: dict[str, object],
) -> None:
    sound = open_run(lora_run)
    if "labels" in change:
        wrong = replace(sound, **change)  # type: ignore[arg-type]
    else:
        wrong = replace(sound, contract=sound.contract.model_copy(update=change))

    def spoil(stage: Path) -> None:
        for path in (stage / "onnx").iterdir():
            graph = onnx.load(path)
            onnx.helper.set_model_props(
                graph,
                {
                    "labels": json.dumps(wrong.labels),
                    "pixel_contract": wrong.contract.model_dump_json(),
                },
            )
            onnx.save(graph, path)
        processor = stage / "model" / "preprocessor_config.json"
        processor.write_text(json.dumps(contract_to_processor(wrong.contract)))
        if "labels" in change:
            swap_labels_of_transformers(stage)

    vouch = proving._vouch
    monkeypatch.setattr(
        proving, "_vouch", lambda stage, _, **options: vouch(stage, wrong, **options)
    )
    ship(monkeypatch, bundle, spoil)
    message = refused(lora_run, tmp_path, capsys)
    expected = "names other labels" if "labels" in change else "answers differently"
    assert expected in message


def test_a_dead_adapter_under_a_trained_head_is_refused(
    lora_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dead(folder: Path) -> Trained:
        trained = open_run(folder)
        with torch.no_grad():
            for name, parameter in trained.model.named_parameters():
                if "lora_B" in name:
                    parameter.zero_()
        return trained

    monkeypatch.setattr(pipeline, "open_run", dead)
    with pytest.raises(CheckFailed, match="the adapter is dead"):
        pipeline.merge_export(lora_run, tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()


def test_an_existing_target_is_not_overwritten(bundle: Path, lora_run: Path) -> None:
    with pytest.raises(ArtifactError, match="exists already"):
        pipeline.merge_export(lora_run, bundle)


def test_clips_that_are_gone_are_asked_for(lora_run: Path, tmp_path: Path, few_clips: Path) -> None:
    copy = shutil.copytree(lora_run, tmp_path / "run")
    splits = copy / "splits.csv"
    splits.write_text(splits.read_text().replace("weizmann4", "gone"))
    with pytest.raises(DataError, match="--verify-on"):
        pipeline.merge_export(copy, tmp_path / "bundle")
    shipped = pipeline.merge_export(copy, tmp_path / "bundle", verify_on=few_clips)
    assert shipped.certificate.passed


def test_a_changed_weight_file_of_the_run_is_refused(lora_run: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(lora_run, tmp_path / "run")
    path = copy / "best_model_lora_adapter" / "adapter_model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(AdapterChangedError, match="is not the file that training left"):
        pipeline.merge_export(copy, tmp_path / "bundle")


def test_an_adapter_that_changes_while_it_is_exported_is_not_shipped(
    lora_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = shutil.copytree(lora_run, tmp_path / "run")
    write = write_onnx

    def save_meanwhile(*arguments: object, **options: object) -> None:
        write(*arguments, **options)  # type: ignore[arg-type]
        (copy / "best_model_lora_adapter" / "README.md").write_text("of a better epoch")

    monkeypatch.setattr("lora_deploy.export.write_forms.write_onnx", save_meanwhile)
    with pytest.raises(AdapterChangedError, match="was changed while it was exported"):
        pipeline.merge_export(copy, tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()


def test_a_strangers_run_can_not_smuggle_files_into_a_bundle(
    bundle: Path, lora_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = tmp_path / "secret"
    secret.write_text("not yours")
    copy = shutil.copytree(lora_run, tmp_path / "run")
    (copy / "best_model_lora_adapter" / "notes.txt").symlink_to(secret)
    shipped = pipeline.merge_export(copy, tmp_path / "bundle")
    assert not (shipped.bundle / "adapters" / "default" / "notes.txt").exists()
    (copy / "best_model_lora_adapter" / "labels.json").unlink()
    (copy / "best_model_lora_adapter" / "labels.json").symlink_to(secret)
    with pytest.raises(ArtifactError, match=r"lacks best_model_lora_adapter/labels\.json"):
        pipeline.merge_export(copy, tmp_path / "other")


def test_training_clips_prove_nothing(lora_run: Path, few_clips: Path, tmp_path: Path) -> None:
    manifest = few_clips.with_name("training-only.csv")
    lines = few_clips.read_text().splitlines()
    manifest.write_text("\n".join([lines[0], *(x for x in lines if ",train," in x)]) + "\n")
    with pytest.raises(DataError, match="nothing but training clips"):
        pipeline.merge_export(lora_run, tmp_path / "bundle", verify_on=manifest)


def test_the_page_of_a_refused_export_is_written_where_it_was_asked_for(
    bundle: Path, lora_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ship(monkeypatch, bundle, transpose_a_weight)
    page, out = tmp_path / "page.html", tmp_path / "out" / "bundle"
    command = ["merge-export", str(lora_run), "--out", str(out), "--report", str(page)]
    assert cli.run(command) == 1
    assert list(out.parent.iterdir()) == []
    assert "Failed." in page.read_text()
    ship(monkeypatch, bundle, lambda _: None)
    assert cli.run(command) == 0
    assert page.read_text() == (out / "certificate.html").read_text()
