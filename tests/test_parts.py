"""Clips that are parts of files: from the manifest through training to the names in a proof."""

from pathlib import Path

import numpy as np
import pytest

from lora_deploy.artifact import run
from lora_deploy.artifact.manifest import sha256_of_file
from lora_deploy.clips.clip import Stretch
from lora_deploy.clips.contract import PixelContract
from lora_deploy.clips.dataset import LabelledClip, read_dataset, read_split
from lora_deploy.clips.decode import decode
from lora_deploy.config import settings_from
from lora_deploy.evaluate import evaluate
from lora_deploy.proof.answers import Clips
from lora_deploy.runtime.load import load
from lora_deploy.train.fit import fit
from lora_deploy.train.origin import _clips_digest
from tests.conftest import TINY_TRAINING

CONTRACT = PixelContract(frames=4, short_side=32, crop_height=32, crop_width=32)


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory, media: Path) -> Path:
    """A manifest of the first and the second half of a second of real clips."""
    folder = (media / "dataset" / "weizmann4").resolve()
    lines = ["path,label,split,start,end"]
    for label in ("bend", "wave_two_hands"):
        for split, people in (("train", (0, 1)), ("val", (5, 6)), ("test", (7,))):
            for person in people:
                path = folder / label / f"s{person}_orig.mp4"
                lines += [f"{path},{label},{split},,0.5", f"{path},{label},{split},0.5,1.25"]
    manifest = tmp_path_factory.mktemp("parts") / "clips.csv"
    manifest.write_text("\n".join(lines) + "\n")
    return manifest


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path, parts: Path) -> Path:
    """A RUN that was trained on parts."""
    out = tmp_path_factory.mktemp("of-parts") / "run"
    tree = {"model": {"base": str(tiny_base)}, "training": {**TINY_TRAINING, "epochs": 1}}
    fit(settings_from(tree, where="test"), parts, out)
    return out


def test_the_splits_of_a_run_name_the_same_parts(trained: Path, parts: Path) -> None:
    written = read_split(trained / run.SPLITS, "all")
    assert written == read_split(parts, "all")
    assert {clip.stretch for clip in written} == {Stretch(0.0, 0.5), Stretch(0.5, 1.25)}


def test_parts_are_validated_and_evaluated_as_parts(trained: Path) -> None:
    recogniser = load(trained, device="cpu")
    result = evaluate(recogniser, trained / run.SPLITS, split="val")
    assert result.clips == run.read_run_manifest(trained).best.val_clips == 8
    for (name, *_, score), clip in zip(
        result.answers, read_split(trained / run.SPLITS, "val"), strict=True
    ):
        assert name == str(clip.footage)
        assert clip.stretch is not None
        frames = decode(clip.path, recogniser.contract, stretch=clip.stretch).frames
        logits = recogniser.logits(frames[None])[0].astype(np.float64)
        expected = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
        assert score == pytest.approx(expected.max(), abs=1e-4)
    assert len({score for *_, score in result.answers}) == 8


def test_wrong_answers_about_parts_are_shown_in_the_report(trained: Path) -> None:
    result = evaluate(load(trained, device="cpu"), trained / run.SPLITS, split="val")
    wrong = sum(truth != answer for _, truth, answer, _ in result.answers)
    assert (trained / "report.html").read_text().count("data:image/jpeg;base64,") == wrong
    assert 0 < wrong < 8


def test_a_proof_tells_the_parts_of_a_file_apart(parts: Path) -> None:
    clips = read_split(parts, "val")
    with Clips(clips, CONTRACT) as decoded:
        records = decoded.records()
        frames = np.array(decoded.frames(CONTRACT))
        wider = CONTRACT.model_copy(update={"frames": 6})
        again = np.array(decoded.frames(wider))
    assert len({record.sha256 for record in records}) == len(clips)
    assert records[0].name == "bend/s5_orig.mp4#t=0.0,0.5"
    for clip, got, other in zip(clips, frames, again, strict=True):
        assert clip.stretch is not None
        assert np.array_equal(got, decode(clip.path, CONTRACT, stretch=clip.stretch).frames)
        assert np.array_equal(other, decode(clip.path, wider, stretch=clip.stretch).frames)


def test_a_whole_file_keeps_the_hash_that_certificates_know(media: Path) -> None:
    path = media / "clips/asl/book.mkv"
    with Clips([LabelledClip(path, "book", "val", None)], CONTRACT) as decoded:
        assert decoded.records()[0].sha256 == sha256_of_file(path)


def test_another_start_is_another_training(parts: Path, tmp_path: Path) -> None:
    def digests(manifest: Path) -> list[str]:
        dataset = read_dataset(manifest, val_fraction=0.1, test_fraction=0.1, seed=0)
        return [_clips_digest(dataset, split) for split in ("train", "val", "test")]

    moved = tmp_path / "moved.csv"
    moved.write_text(parts.read_text().replace("train,0.5,1.25", "train,0.5,1.5"))
    same = [one == other for one, other in zip(digests(parts), digests(moved), strict=True)]
    assert same == [False, True, True]
