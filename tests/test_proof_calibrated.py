"""Temperature and threshold of a bundle: applied by every backend, in rows, in counts and in the graph with frames."""

import json
from pathlib import Path

import numpy as np
import pytest

from lora_deploy import cli
from lora_deploy.artifact import bundle
from lora_deploy.artifact.bundle import BundleManifest
from lora_deploy.clips import pool
from lora_deploy.clips.contract import PixelContract
from lora_deploy.evaluate import evaluate
from lora_deploy.runtime.base import UNKNOWN, Recogniser, softmax
from lora_deploy.runtime.load import load
from lora_deploy.runtime.ort import FramesInGraph
from lora_deploy.runtime.ov import has_bf16
from lora_deploy.verification import read_certificate
from tests.proved_models import ACTIONS

BACKENDS = [
    ("torch", "fp32"),
    ("onnxruntime", "fp32"),
    ("openvino", "fp32"),
    ("onnxruntime", "fp16"),
    *([("openvino", "bf16")] if has_bf16() else []),
    ("onnxruntime", "int8"),
    ("openvino", "int8"),
]


@pytest.fixture(scope="module")
def manifest(full_bundle: Path) -> BundleManifest:
    return bundle.read_bundle_manifest(full_bundle)


@pytest.fixture(scope="module")
def paths(few_untrue: Path) -> list[str]:
    rows = [line.split(",") for line in few_untrue.read_text().splitlines()[1:]]
    return [row[0] for row in rows if row[2] == "val"]


def test_the_bundle_has_what_was_fitted(full_bundle: Path, manifest: BundleManifest) -> None:
    certificate = read_certificate(full_bundle)
    assert certificate is not None
    assert certificate.calibration is not None
    assert manifest.temperature == certificate.calibration.temperature
    assert manifest.unknown_threshold == certificate.calibration.unknown_threshold
    assert manifest.temperature > 1.5
    logits = np.array(certificate.logits["unmerged"], np.float32)
    scores = softmax(logits / manifest.temperature).max(axis=1)
    assert manifest.unknown_threshold is not None
    assert int((scores < manifest.unknown_threshold).sum()) == 3  # a tenth of 32


@pytest.mark.parametrize(("backend", "precision"), BACKENDS)
def test_every_backend_applies_both(
    backend: str, precision: str, full_bundle: Path, manifest: BundleManifest, paths: list[str]
) -> None:
    recogniser = load(full_bundle, backend=backend, precision=precision)
    assert recogniser.temperature == manifest.temperature
    labels = set()
    for path in paths[::2]:
        found = recogniser.classify(path)
        probabilities = softmax(np.array(found.logits, np.float32) / manifest.temperature)
        assert found.score == pytest.approx(probabilities.max())
        assert found.top_k[0][0] == ACTIONS[int(np.argmax(found.logits))]
        assert manifest.unknown_threshold is not None
        is_known = found.score >= manifest.unknown_threshold
        assert found.label == (found.top_k[0][0] if is_known else UNKNOWN)
        labels.add(found.label)
    assert UNKNOWN in labels
    assert len(labels) > 2


def test_the_adapter_on_its_base_applies_both(
    full_bundle: Path, manifest: BundleManifest, paths: list[str]
) -> None:
    unmerged, merged = load(full_bundle, adapter="default"), load(full_bundle)
    for path in paths[:8]:
        one, other = unmerged.classify(path), merged.classify(path)
        assert one.label == other.label
        assert one.score == pytest.approx(other.score, abs=1e-4)
    assert unmerged.unknown_threshold == manifest.unknown_threshold


def test_rows_say_unknown_and_how_sure_the_best_label_was(
    full_bundle: Path, paths: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(["classify", str(full_bundle), *paths, "--top-k", "2"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    recogniser = load(full_bundle)
    unknown = [row for row in rows if row["label"] == UNKNOWN]
    assert len(unknown) == 3
    for row in rows:
        found = recogniser.classify(row["path"], top_k=2)
        assert (row["label"], row["score"]) == (found.label, pytest.approx(found.score))
        assert row["top_k"][0][0] in ACTIONS
        assert row["score"] == row["top_k"][0][1]


def test_evaluate_counts_unknown_clips_by_their_best_label(
    full_bundle: Path, four_actions: Path
) -> None:
    found = evaluate(load(full_bundle), four_actions, split="val")
    assert (found.clips, found.accuracy, found.unknown) == (32, 1.0, 3)
    assert found.as_dict()["unknown"] == 3
    assert {answer for _, _, answer, _ in found.answers} == set(ACTIONS)


def test_evaluate_prints_them(
    full_bundle: Path, four_actions: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["evaluate", str(full_bundle), "--data", str(four_actions), "--split", "val"]
    assert cli.run(arguments) == 0
    assert "unknown" in capsys.readouterr().out
    assert cli.run([*arguments, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["unknown"] == 3


@pytest.mark.parametrize(("score", "label"), [(0.7501, "a"), (0.7499, UNKNOWN), (0.99, "a")])
def test_a_score_below_the_threshold_is_unknown(score: float, label: str) -> None:
    class Silent:
        name, form, batch_size = "silent", "merged", 1

        def logits(self, pixel_values: np.ndarray) -> np.ndarray:
            raise NotImplementedError

    contract = PixelContract(frames=4, short_side=32, crop_height=32, crop_width=32)
    recogniser = Recogniser(
        backend=Silent(), labels=("a", "b"), contract=contract, temperature=2.0, digest="",
        unknown_threshold=0.75,
    )  # fmt: skip
    logits = 2 * np.log(np.array([score, 1 - score]))
    found = recogniser.predict(logits, top_k=1, duration_seconds=1.0, warning=None)
    assert found.score == pytest.approx(score)
    assert found.label == label


def test_the_graph_that_takes_frames_equals_the_recogniser(
    full_bundle: Path, manifest: BundleManifest, paths: list[str]
) -> None:
    graph = FramesInGraph((full_bundle / bundle.FRAMES_IN).read_bytes())
    assert (graph.labels, graph.contract) == (manifest.labels, manifest.contract)
    recogniser = load(full_bundle, backend="onnxruntime")
    frames = np.stack(
        [pool.shared().decode(Path(path), manifest.contract).frames for path in paths]
    )
    probabilities = graph._session.run(["probabilities"], {"frames": frames})[0]
    expected = [dict(recogniser.classify(path).top_k) for path in paths]
    for found, right in zip(probabilities, expected, strict=True):
        for label, probability in zip(ACTIONS, found, strict=True):
            assert probability == pytest.approx(right[label], abs=1e-5)
    logits = softmax(graph.logits(frames) / manifest.temperature)
    np.testing.assert_allclose(logits, probabilities, atol=1e-6)
