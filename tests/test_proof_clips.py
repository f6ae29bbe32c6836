"""Clips of a proof: decoded once for each contract, told apart, and never ones that were learnt from."""

import csv
import dataclasses
import hashlib
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from lora_deploy.clips import pool
from lora_deploy.clips.clip import Footage, Stretch
from lora_deploy.clips.contract import PixelContract
from lora_deploy.clips.dataset import LabelledClip, read_split
from lora_deploy.clips.pool import DecodePool
from lora_deploy.config import ProofSettings
from lora_deploy.errors import EmptySplitError, NothingDecodedError, UnknownLabelError
from lora_deploy.export.pipeline import Shipped
from lora_deploy.proof import which_clips
from lora_deploy.proof.answers import Clips, Form, ask, names_of, noise_frames
from lora_deploy.proof.chain import Chain, budgets_of
from lora_deploy.proof.which_clips import (
    calibration_clips,
    not_for_training,
    proof_clips,
    thinned,
)
from tests.proved_models import ACTIONS

CONTRACT = PixelContract(frames=4, short_side=32, crop_height=32, crop_width=32)
OTHER = CONTRACT.model_copy(update={"resize_filter": "nearest"})


@pytest.fixture(scope="module")
def clips(four_actions: Path) -> list[LabelledClip]:
    """One of each action, and all of them bear the same file name."""
    found = read_split(four_actions, "val")
    return [next(clip for clip in found if clip.label == action) for action in ACTIONS]


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, PixelContract]]:
    """What the pool is asked for, in order."""
    asked: list[tuple[str, PixelContract]] = []
    in_order, decode = DecodePool.in_order, DecodePool.decode

    def many(self: DecodePool, paths: Sequence[Footage], contract: PixelContract) -> object:
        asked.extend((str(path), contract) for path in paths)
        return in_order(self, paths, contract)

    def one(
        self: DecodePool, path: Path, contract: PixelContract, stretch: Stretch | None = None
    ) -> object:
        asked.append((str(Footage(path, stretch)), contract))
        return decode(self, path, contract, stretch)

    monkeypatch.setattr(DecodePool, "in_order", many)
    monkeypatch.setattr(DecodePool, "decode", one)
    return asked


class Counting:
    """Answers with the mean of each colour, and remembers what it was shown."""

    def __init__(self, labels: tuple[str, ...], contract: PixelContract = CONTRACT) -> None:
        self.labels, self.contract = labels, contract
        self.shown: list[tuple[int, ...]] = []

    def logits(self, frames: np.ndarray) -> np.ndarray:
        self.shown.append(frames.shape)
        means = frames.astype(np.float32).mean(axis=(1, 2, 3))
        return np.concatenate([means, means[:, :1] / 2], axis=1)[:, : len(self.labels)]


def test_frames_are_those_of_the_pool_and_decoded_once_a_contract(
    clips: list[LabelledClip], decoded: list[tuple[str, PixelContract]]
) -> None:
    with Clips(clips, CONTRACT) as opened:
        for _ in range(2):
            for contract in (CONTRACT, OTHER):
                frames = opened.frames(contract)
                assert frames.shape == (4, *contract.frames_shape)
        shown = [np.array(opened.frames(one)) for one in (CONTRACT, OTHER)]
    paths = [str(clip.path) for clip in clips]
    assert decoded == [(path, one) for one in (CONTRACT, OTHER) for path in paths]
    for contract, frames in zip((CONTRACT, OTHER), shown, strict=True):
        for clip, found in zip(clips, frames, strict=True):
            np.testing.assert_array_equal(found, pool.shared().decode(clip.path, contract).frames)
    assert not np.array_equal(shown[0], shown[1])


def test_a_whole_export_decodes_each_proof_clip_once(
    clips: list[LabelledClip], decoded: list[tuple[str, PixelContract]]
) -> None:
    with Clips(clips, CONTRACT) as opened:
        chain = Chain(opened, ACTIONS, budgets=budgets_of(ProofSettings()))
        for name in "abc":
            chain.ask(Form(name, lambda: Counting(ACTIONS)))
    assert len(decoded) == len(clips)


def test_clips_of_one_file_name_stay_apart(clips: list[LabelledClip]) -> None:
    assert len({clip.path.name for clip in clips}) == 1
    with Clips(clips, CONTRACT) as opened:
        assert opened.named == [(f"{action}/s5_orig.mp4", action) for action in ACTIONS]
        records = opened.records()
        assert len({record.name for record in records}) == 4
        assert len({record.sha256 for record in records}) == 4
    assert names_of(clips) == [record.name for record in records]


def test_clips_of_one_folder_name_stay_apart(clips: list[LabelledClip], tmp_path: Path) -> None:
    """Each keeps its own name, label, hash and place, whatever lies around it."""
    paths = [tmp_path / name for name in ("s1/wave/001.mp4", "s2/wave/001.mp4", "s2/bend/001.mp4")]
    for path, clip in zip(paths, clips, strict=False):
        path.parent.mkdir(parents=True)
        path.write_bytes(clip.path.read_bytes())
    copied = [dataclasses.replace(clips[0], path=path) for path in paths]
    names = ["s1/wave/001.mp4", "s2/wave/001.mp4", "bend/001.mp4"]
    with Clips(copied, CONTRACT) as opened:
        assert [name for name, _ in opened.named] == names
        assert [record.name for record in opened.records()] == names


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["/a/b/c.mp4"], ["b/c.mp4"]),
        (["c.mp4", "/c.mp4"], ["c.mp4 1", "c.mp4 2"]),
        (["/x/a/b/c.mp4", "/y/a/b/c.mp4"], ["x/a/b/c.mp4", "y/a/b/c.mp4"]),
        (["b/c.mp4", "/home/b/c.mp4"], ["b/c.mp4", "home/b/c.mp4"]),
        (["/p/q/b/c.mp4", "/p/q/b/c.mp4"], ["b/c.mp4 1", "b/c.mp4 2"]),
        (
            ["/p/1/b/c.mp4", "/p/1/b/c.mp4", "/p/2/b/c.mp4"],
            ["1/b/c.mp4 1", "1/b/c.mp4 2", "2/b/c.mp4"],
        ),
        ([], []),
    ],
)
def test_a_name_has_as_many_folders_as_it_needs_and_no_more(
    paths: list[str], names: list[str]
) -> None:
    assert names_of([LabelledClip(Path(path), "bend", "val", None) for path in paths]) == names


def test_one_path_from_two_places_is_told_apart_by_its_hash(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A relative path that repeats an absolute one."""
    (tmp_path / "c.mp4").write_bytes(b"one")
    monkeypatch.chdir(tmp_path)
    inner = tmp_path.relative_to("/") / "c.mp4"
    inner.parent.mkdir(parents=True)
    (tmp_path / inner).write_bytes(b"other")
    clips = [LabelledClip(path, "bend", "val", None) for path in (tmp_path / "c.mp4", inner)]
    one, other = names_of(clips)
    assert one.endswith(f"c.mp4 {hashlib.sha256(b'one').hexdigest()[:8]}")
    assert other.endswith(f"c.mp4 {hashlib.sha256(b'other').hexdigest()[:8]}")
    assert not one.startswith("/")


def test_what_can_not_be_decoded_is_left_out_and_said(
    clips: list[LabelledClip], tmp_path: Path, media: Path
) -> None:
    (tmp_path / "torn.mp4").write_bytes(b"torn")
    torn = dataclasses.replace(clips[0], path=tmp_path / "torn.mp4")
    silent = dataclasses.replace(clips[0], path=media / "malformed" / "audio_only.mp4")
    with Clips([torn, clips[0], silent, *clips[1:]], CONTRACT) as opened:
        assert opened.readable == clips
        assert [line.partition(": ")[0] for line in opened.left_out] == names_of([torn, silent])
        assert all(line.partition(": ")[2] for line in opened.left_out)
        frames = opened.frames(CONTRACT)
        assert len(frames) == len(opened.frames(OTHER)) == 4
        for clip, found in zip(clips, frames, strict=True):
            np.testing.assert_array_equal(found, pool.shared().decode(clip.path, CONTRACT).frames)


def test_nothing_is_left_of_them_afterwards(
    clips: list[LabelledClip], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    (tmp_path / "torn.mp4").write_bytes(b"torn")
    torn = dataclasses.replace(clips[0], path=tmp_path / "torn.mp4")
    with pytest.raises(NothingDecodedError, match="none of 1 clips can be decoded"):
        Clips([torn], CONTRACT)
    with pytest.raises(ZeroDivisionError), Clips(clips, CONTRACT) as opened:
        assert [path.name[:12] for path in tmp_path.iterdir() if path.is_dir()] == ["lora-deploy-"]
        opened.frames(OTHER)
        raise ZeroDivisionError
    assert [path.name for path in tmp_path.iterdir()] == ["torn.mp4"]


def test_answers_are_put_into_one_order_of_labels(clips: list[LabelledClip]) -> None:
    turned = Counting(tuple(reversed(ACTIONS)))
    with Clips(clips, CONTRACT) as opened:
        found = ask(Form("turned", lambda: turned), opened, ACTIONS)
        plain = ask(
            Form("plain", lambda: Counting(tuple(reversed(ACTIONS)))), opened, turned.labels
        )
    assert found.labels == turned.labels
    np.testing.assert_array_equal(found.logits[:, ::-1], plain.logits)
    np.testing.assert_array_equal(found.noise[:, ::-1], plain.noise)
    assert turned.shown == [(1, *CONTRACT.frames_shape)] * 4 + [(2, *CONTRACT.frames_shape)]


def test_a_label_that_a_form_lacks_is_never_likely_and_an_objection(
    clips: list[LabelledClip],
) -> None:
    with Clips(clips, CONTRACT) as opened:
        chain = Chain(opened, ACTIONS, budgets=budgets_of(ProofSettings()))
        chain.ask(Form("first", lambda: Counting(ACTIONS)))
        found = chain.ask(Form("other", lambda: Counting((*ACTIONS[:3], "dance"))))
        assert np.isneginf(found.logits[:, 3]).all()
        assert chain.label_objections() == [
            f"other names other labels, or in another order, than first: "
            f"{[*ACTIONS[:3], 'dance']} instead of {list(ACTIONS)}"
        ]
        with np.errstate(all="ignore"):
            assert not chain.compare("first", "other").passed


def test_noise_is_the_same_everywhere() -> None:
    one, again = noise_frames(CONTRACT), noise_frames(CONTRACT)
    np.testing.assert_array_equal(one, again)
    assert one.shape == (2, *CONTRACT.frames_shape)
    assert one[0, 0, 0, 0].tolist() == [95, 130, 194]
    assert one.std() > 60


# Which clips --------------------------------------------------------------------------------------


def manifest(folder: Path, clips: list[LabelledClip], *splits: str) -> Path:
    out = folder / f"{'-'.join(splits) or 'none'}.csv"
    with out.open("w") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "label", "split"] if splits else ["path", "label"])
        for clip, split in zip(clips, splits or [""] * len(clips), strict=True):
            writer.writerow([clip.path, clip.label, *([split] if splits else [])])
    return out


@pytest.mark.parametrize(
    ("splits", "taken"),
    [
        (("train", "val", "test", "val"), [1, 3]),
        (("train", "test", "test", "train"), [1, 2]),
        (("test", "test", "test", "test"), [0, 1, 2, 3]),
        ((), [0, 1, 2, 3]),
    ],
)
def test_training_clips_are_never_taken(
    splits: tuple[str, ...], taken: list[int], clips: list[LabelledClip], tmp_path: Path
) -> None:
    found = not_for_training(manifest(tmp_path, clips, *splits))
    assert [clip.path for clip in found] == [clips[index].path for index in taken]


def test_training_clips_alone_are_refused(clips: list[LabelledClip], tmp_path: Path) -> None:
    with pytest.raises(EmptySplitError, match="nothing but training clips"):
        not_for_training(manifest(tmp_path, clips, *["train"] * 4))


def test_labels_that_the_model_does_not_know_are_refused(
    clips: list[LabelledClip], tmp_path: Path
) -> None:
    source = manifest(tmp_path, clips, *["val"] * 4)
    with pytest.raises(UnknownLabelError, match="does not know: wave_one_hand, wave_two_hands"):
        proof_clips(tmp_path, source, ACTIONS[:2], most=9)


@pytest.mark.parametrize(
    ("clips_there", "most", "taken"),
    [(4, 9, [0, 1, 2, 3]), (4, 4, [0, 1, 2, 3]), (10, 4, [0, 2, 5, 7]), (100, 3, [0, 33, 66])],
)
def test_too_many_are_thinned_out_evenly(clips_there: int, most: int, taken: list[int]) -> None:
    clips = [LabelledClip(Path(str(index)), "bend", "val", None) for index in range(clips_there)]
    assert [int(clip.path.name) for clip in thinned(clips, most)] == taken


def test_int8_takes_its_ranges_from_training_clips_that_are_there(
    clips: list[LabelledClip], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    gone = dataclasses.replace(clips[0], path=tmp_path / "gone.mp4")
    one = manifest(tmp_path, [gone, gone, clips[2], clips[3]], *["train"] * 2, "val", "val")
    two = manifest(tmp_path, [gone, *clips[1:]], "train", "train", "train", "val")
    nowhere = tmp_path / "nowhere.csv"
    found, whose = calibration_clips([nowhere, one, two], clips[3:], most=2)
    assert whose == "2 training clips"
    assert [clip.path for clip in found] == [clips[1].path, clips[2].path]
    assert caplog.text == ""
    found, whose = calibration_clips([nowhere, one], clips[2:], most=1)
    assert whose.startswith("1 clips of this very proof")
    assert [clip.path for clip in found] == [clips[2].path]
    assert "takes its ranges from clips of the proof" in caplog.text
    assert which_clips.logger.name == "lora_deploy.proof.which_clips"


def test_a_certificate_names_each_clip_once_and_by_its_hash(
    shipped: Callable[[str], Shipped],
) -> None:
    clips = shipped("videomae").certificate.proof_clips
    assert len({clip.name for clip in clips}) == len({clip.sha256 for clip in clips}) == 32
    assert {clip.name.split("/")[0] for clip in clips} == set(ACTIONS)
