"""Clips of two splits that show the same: copies are found, other people before the same camera are not."""

import logging
from pathlib import Path

import av
import numpy as np
import pytest

from lora_deploy.artifact import run
from lora_deploy.clips.cache import FrameCache, build_cache
from lora_deploy.clips.clip import Footage, Stretch
from lora_deploy.clips.contract import PixelContract
from lora_deploy.clips.dataset import ClipDataset, LabelledClip, read_dataset
from lora_deploy.clips.duplicates import near_duplicates
from lora_deploy.clips.rows import Split
from lora_deploy.config import settings_from
from lora_deploy.train.duplicates import read_duplicates, write_duplicates
from lora_deploy.train.fit import fit
from tests.conftest import TINY_TRAINING
from tests.test_certificate_page import Parsed

CONTRACT = PixelContract(frames=8, short_side=64, crop_height=64, crop_width=64)


TRAIN: Split = "train"


def clip(media: Path, name: str) -> Path:
    return (media / "dataset" / name).resolve()


def copy_of(path: Path, place: Path, *, change: str) -> Path:
    """The clip encoded anew, and changed in one way."""
    with av.open(str(path)) as container:
        frames = [
            np.asarray(frame.to_ndarray(format="rgb24"), np.uint8)
            for frame in container.decode(video=0)
        ]
    size = {"smaller": 48}.get(change, 64)
    with av.open(str(place), "w") as out:
        stream = out.add_stream("mpeg4", rate=25)
        stream.width = stream.height = size
        stream.pix_fmt, stream.bit_rate = "yuv420p", 300_000
        for frame in frames:
            if change == "brighter":
                frame = np.clip(frame.astype(int) + 25, 0, 255).astype(np.uint8)
            if change == "mirrored":
                frame = np.ascontiguousarray(frame[:, ::-1])
            picture = av.VideoFrame.from_ndarray(frame, format="rgb24")
            out.mux(stream.encode(picture.reformat(size, size)))
        out.mux(stream.encode())
    return place


def dataset_of(*clips: tuple[Path | Footage, Split]) -> ClipDataset:
    footage = [(one if isinstance(one, Footage) else Footage(one), split) for one, split in clips]
    return ClipDataset(
        tuple(LabelledClip(one.path, "x", split, None, one.stretch) for one, split in footage),
        ("x", "y"),
    )


def caches_of(dataset: ClipDataset, folder: Path) -> dict[Split, FrameCache]:
    cache = build_cache(dataset.clips, CONTRACT, folder)
    return {split: cache for split in ("train", "val", "test") if dataset.of(split)}


@pytest.mark.parametrize("split", ["val", "test"])
@pytest.mark.parametrize("change", ["encoded", "smaller", "brighter", "mirrored"])
def test_a_changed_copy_in_another_split_is_found(
    media: Path, tmp_path: Path, change: str, split: Split
) -> None:
    original = clip(media, "weizmann4/bend/s2_orig.mp4")
    copy = copy_of(original, tmp_path / "copy.mp4", change=change)
    names = [f"weizmann4/{action}/s{{}}_orig.mp4" for action in ("bend", "wave_one_hand")]
    others = [
        *((clip(media, name.format(4)), TRAIN) for name in names),
        *((clip(media, name.format(5)), split) for name in names),
    ]
    dataset = dataset_of(*others, (original, TRAIN), (copy, split))
    (found,) = near_duplicates(dataset, caches_of(dataset, tmp_path / "cache"))
    assert (found.first, found.other) == (Footage(original), Footage(copy))
    assert (found.first_split, found.other_split) == ("train", split)
    assert found.mirrored == (change == "mirrored")
    assert str(original) in str(found)
    assert str(copy) in str(found)


def test_copies_within_one_split_are_nobodys_business(media: Path, tmp_path: Path) -> None:
    original = clip(media, "weizmann4/bend/s2_orig.mp4")
    copy = copy_of(original, tmp_path / "copy.mp4", change="encoded")
    other = clip(media, "weizmann4/bend/s5_orig.mp4")
    dataset = dataset_of((original, "train"), (copy, "train"), (other, "test"))
    assert near_duplicates(dataset, caches_of(dataset, tmp_path / "cache")) == []


def test_clips_that_hardly_move_are_told_by_their_looks(media: Path, tmp_path: Path) -> None:
    still = clip(media, "fight300/no_fight/nofi084.mp4")
    same_place = clip(media, "fight300/no_fight/nofi085.mp4")
    elsewhere = clip(media, "fight300/no_fight/nofi090.mp4")
    later = clip(media, "fight300/no_fight/nofi088.mp4")  # of the camera of 090
    dataset = dataset_of(
        (still, "train"), (later, "train"), (same_place, "test"), (elsewhere, "test")
    )
    (found,) = near_duplicates(dataset, caches_of(dataset, tmp_path / "cache"))
    assert (found.first.path, found.other.path) == (still, same_place)


def test_other_parts_of_a_file_are_no_copies_and_overlapping_ones_are(
    media: Path, tmp_path: Path
) -> None:
    path = media / "clips" / "clean_and_jerk.mp4"
    first, same, later = (Footage(path, Stretch(*times)) for times in ((0, 4), (0.1, 4), (5, 9)))
    dataset = dataset_of((first, "train"), (same, "val"), (later, "val"))
    pairs = near_duplicates(dataset, caches_of(dataset, tmp_path / "cache"))
    assert [(pair.first, pair.other) for pair in pairs] == [(first, same)]


def test_other_people_before_the_same_wall_are_no_copies(media: Path, tmp_path: Path) -> None:
    dataset = read_dataset(
        media / "dataset" / "weizmann4.csv", val_fraction=0.2, test_fraction=0.2, seed=0
    )
    assert near_duplicates(dataset, caches_of(dataset, tmp_path / "cache")) == []


def test_what_cannot_be_decoded_is_passed_over(media: Path, tmp_path: Path) -> None:
    torn = media / "derived" / "book_truncated_no_moov.mp4"
    dataset = dataset_of((torn, "train"), (torn, "test"))
    assert near_duplicates(dataset, caches_of(dataset, tmp_path / "cache")) == []


@pytest.fixture
def leaking(media: Path, tmp_path: Path) -> Path:
    """A manifest of which one test clip is a mirrored copy of one to train on."""
    lines = ["path,label,split"]
    for label in ("bend", "wave_two_hands"):
        for person, split in ((0, "train"), (1, "train"), (5, "val"), (7, "test")):
            lines.append(f"{clip(media, f'weizmann4/{label}/s{person}_orig.mp4')},{label},{split}")
    lines.append(f"{clip(media, 'weizmann4/bend/s0_mirror.mp4')},bend,test")
    (tmp_path / "clips.csv").write_text("\n".join(lines) + "\n")
    return tmp_path / "clips.csv"


def train(manifest: Path, base: Path, out: Path, **data: object) -> Path:
    tree = {
        "model": {"base": str(base)}, "training": {**TINY_TRAINING, "batch_size": 2}, "data": data,
    }  # fmt: skip
    fit(settings_from(tree, where="test"), manifest, out)
    return out


def test_a_training_warns_of_them_and_keeps_them_in_the_run(
    leaking: Path, tiny_base: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = train(leaking, tiny_base, tmp_path / "run")
    (pair,) = read_duplicates(folder)
    assert pair["first"].endswith("bend/s0_orig.mp4")
    assert pair["other"].endswith("bend/s0_mirror.mp4")
    assert (pair["first_split"], pair["other_split"], pair["mirrored"]) == ("train", "test", "yes")
    (warning,) = [one for one in caplog.messages if "show the same" in one]
    assert "s0_orig.mp4 (train)" in warning
    assert "s0_mirror.mp4 (test): mirrored" in warning
    page = Parsed((folder / run.REPORT).read_text()).text
    assert "1 pair of clips in different splits show the same" in page
    assert "s0_orig.mp4 train" in page
    assert "s0_mirror.mp4 test mirrored" in page


def test_nobody_looks_for_them_where_that_was_not_wanted(
    leaking: Path, tiny_base: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    leaking.write_text(
        leaking.read_text().replace("s0_mirror.mp4,bend,test", "s0_mirror.mp4,bend,val")
    )
    folder = train(leaking, tiny_base, tmp_path / "run", find_duplicates=False)
    assert not (folder / run.DUPLICATES).exists()
    assert "show the same" not in caplog.text


def test_a_table_of_before_does_not_stay(tmp_path: Path) -> None:
    (tmp_path / run.DUPLICATES).write_text("old")
    write_duplicates(tmp_path, [])
    assert not (tmp_path / run.DUPLICATES).exists()
    assert read_duplicates(tmp_path) == []
