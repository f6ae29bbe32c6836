"""Samples of a training: the same for the same seed, epoch and place; what is judged is as it was decoded."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from lora_deploy.artifact import run
from lora_deploy.clips import transforms
from lora_deploy.clips.contract import PixelContract
from lora_deploy.clips.dataset import ClipDataset, read_dataset
from lora_deploy.clips.decode import decode
from lora_deploy.config import Settings, settings_from
from lora_deploy.errors import NoClipHasLabelError, SettingsClashError
from lora_deploy.progress import silent
from lora_deploy.train.augment import Draw
from lora_deploy.train.fit import fit
from lora_deploy.train.frames import (
    FramesOfSplits,
    frames_of,
    learning_of,
    oversample_of,
    samples_of,
)
from lora_deploy.train.mixing import draw_partner
from lora_deploy.train.tensors import ClipSamples, Collate
from tests.conftest import TINY_TRAINING

CONTRACT = PixelContract(frames=4, short_side=32, crop_height=32, crop_width=32)

EVERYTHING: dict[str, Any] = {
    "random_resized_crop": 0.5,
    "horizontal_flip": 0.5,
    "mirrored_labels": {"bend_to_image_left": "bend_to_image_right"},
    "color_jitter": 0.3,
    "temporal_jitter": 3,
    "mixup_alpha": 0.4,
}


def settings_with(augmentation: dict[str, Any] | None = None, **training: Any) -> Settings:
    return settings_from({"augmentation": augmentation or {}, "training": training}, where="test")


@pytest.fixture(scope="module")
def dataset(uneven_clips: Path) -> ClipDataset:
    return read_dataset(uneven_clips, val_fraction=0.15, test_fraction=0.15, seed=0)


@pytest.fixture(scope="module")
def caches(dataset: ClipDataset, tmp_path_factory: pytest.TempPathFactory) -> FramesOfSplits:
    return frames_with(dataset, 3, tmp_path_factory.mktemp("frames"))


def samples_with(
    settings: Settings, dataset: ClipDataset, caches: FramesOfSplits
) -> dict[str, ClipSamples]:
    return samples_of(learning_of(settings, dataset.labels), dataset, caches)


def frames_with(dataset: ClipDataset, oversample: int, folder: Path) -> FramesOfSplits:
    caches, _ = frames_of(
        dataset, CONTRACT, folder,
        oversample=oversample, is_kept=True, digest=None, pool=None, progress=silent,
    )  # fmt: skip
    return caches


def as_bytes(samples: ClipSamples, places: range | None = None) -> list[bytes]:
    return [
        samples[place]["pixel_values"].numpy().tobytes()
        + torch.as_tensor(samples[place]["labels"]).numpy().tobytes()
        for place in places or range(len(samples))
    ]


@pytest.mark.parametrize("balance", [{"balanced_sampling": True}, {"class_weights": "balanced"}])
def test_samples_are_those_of_seed_epoch_and_place_with_any_number_of_workers(
    dataset: ClipDataset, caches: FramesOfSplits, balance: dict[str, Any]
) -> None:
    settings = settings_with(EVERYTHING, label_smoothing=0.1, **balance)
    samples = samples_with(settings, dataset, caches)["train"]
    first = as_bytes(samples)
    samples.set_epoch(4)
    fifth = as_bytes(samples)
    assert not set(first) & set(fifth)
    assert len(set(first)) == len(samples)  # a clip that is drawn twice is another each time
    again = samples_with(settings, dataset, caches)["train"]
    again.set_epoch(4)
    assert [*reversed(as_bytes(again, range(len(again) - 1, -1, -1)))] == fifth
    for workers in (1, 2):
        loader = DataLoader(
            again, batch_size=3, num_workers=workers, collate_fn=Collate("videomae")
        )
        batches = list(loader)
        pixels = torch.cat([batch["pixel_values"] for batch in batches])
        labels = torch.cat([batch["labels"] for batch in batches])
        assert [
            clip.numpy().tobytes() + label.numpy().tobytes()
            for clip, label in zip(pixels, labels, strict=True)
        ] == fifth
    other = samples_with(
        settings_with(EVERYTHING, label_smoothing=0.1, seed=1, **balance), dataset, caches
    )["train"]
    other.set_epoch(4)
    assert not set(as_bytes(other)) & set(fifth)


def test_what_is_judged_is_as_it_was_decoded_whatever_happens_to_what_is_learned(
    dataset: ClipDataset, caches: FramesOfSplits
) -> None:
    settings = settings_with(EVERYTHING, label_smoothing=0.1, balanced_sampling=True)
    judged = samples_with(settings, dataset, caches)["val"]
    judged.set_epoch(3)
    assert caches["val"].oversample == 1
    for place, clip in enumerate(dataset.of("val")):
        frames = decode(clip.path, CONTRACT).frames
        assert np.array_equal(
            judged[place]["pixel_values"].numpy(), transforms.normalise(frames, CONTRACT)
        )
        assert judged[place]["labels"] == dataset.labels.index(clip.label)
    assert not judged.has_targets


def test_without_temporal_jitter_both_splits_share_one_cache(
    dataset: ClipDataset, tmp_path: Path
) -> None:
    caches = frames_with(dataset, 1, tmp_path)
    assert caches["train"] is caches["val"]


def test_frames_of_every_moment_are_part_of_what_a_resumed_training_compares(
    dataset: ClipDataset, tmp_path: Path
) -> None:
    from lora_deploy.train.origin import frames_digest

    caches = frames_with(dataset, 3, tmp_path)
    before = frames_digest(dataset, caches)
    path = next(tmp_path.glob("frames-*.npy"))
    wide = caches["train"].array
    [path] = [one for one in tmp_path.glob("frames-*.npy") if one.stat().st_size > wide.nbytes]
    content = bytearray(path.read_bytes())
    content[-1] ^= 1  # of the last moment of the last frame
    path.write_bytes(content)
    assert frames_digest(dataset, frames_with(dataset, 3, tmp_path)) != before


def test_of_one_frame_repeated_no_moments_are_kept() -> None:
    settings = settings_with({"temporal_jitter": 5})
    assert oversample_of(settings, CONTRACT) == 5
    assert oversample_of(settings, CONTRACT.model_copy(update={"sampling": "middle_frame"})) == 1


def test_more_moments_than_a_clip_may_have_frames_are_refused() -> None:
    settings = settings_with({"temporal_jitter": 9})
    with pytest.raises(SettingsClashError, match=r"temporal_jitter is 9, which is 1152 frames"):
        oversample_of(settings, CONTRACT.model_copy(update={"frames": 128}))


def test_a_mixed_sample_is_two_clips_of_the_same_epoch_in_their_shares(
    dataset: ClipDataset, caches: FramesOfSplits
) -> None:
    only = {name: value for name, value in EVERYTHING.items() if name != "mixup_alpha"}
    plain = samples_with(settings_with(only, seed=5), dataset, caches)["train"]
    mixing = samples_with(
        settings_with({**only, "mixup_alpha": 0.4}, seed=5), dataset, caches
    )["train"]  # fmt: skip
    for samples in (plain, mixing):
        samples.set_epoch(2)
    shared = 0
    for place in range(len(plain)):
        partner, share = draw_partner(0.4, len(plain), Draw(5, 2, place))
        one, other = plain[place], plain[partner]
        pixels = [
            share * float(a) + (1 - share) * float(b)
            for a, b in zip(
                one["pixel_values"].ravel()[::37], other["pixel_values"].ravel()[::37], strict=True
            )
        ]
        np.testing.assert_allclose(mixing[place]["pixel_values"].ravel()[::37], pixels, atol=1e-5)
        labels = [0.0] * len(dataset.labels)
        labels[int(one["labels"])] += share
        labels[int(other["labels"])] += 1 - share
        np.testing.assert_allclose(torch.as_tensor(mixing[place]["labels"]), labels, atol=1e-6)
        shared += len(set(labels)) > 2
    assert shared  # some clips had a partner of another class


def test_class_weights_make_every_class_count_alike(
    dataset: ClipDataset, caches: FramesOfSplits
) -> None:
    weighted = samples_with(settings_with(class_weights="balanced"), dataset, caches)["train"]
    targets = torch.stack(
        [torch.as_tensor(weighted[place]["labels"]) for place in range(len(weighted))]
    )
    clips = Counter(clip.label for clip in dataset.of("train"))
    assert len(set(clips.values())) > 1
    torch.testing.assert_close(
        targets.sum(0), torch.full((len(clips),), len(weighted) / len(clips)), rtol=1e-5, atol=0
    )
    assert ((targets > 0).sum(1) == 1).all()


def test_balanced_sampling_shows_as_many_clips_of_each_class(
    dataset: ClipDataset, caches: FramesOfSplits
) -> None:
    balanced = samples_with(settings_with(balanced_sampling=True), dataset, caches)["train"]
    for epoch in range(3):
        balanced.set_epoch(epoch)
        shown = Counter(int(balanced[place]["labels"]) for place in range(len(balanced)))
        assert sum(shown.values()) == len(dataset.of("train"))
        assert max(shown.values()) - min(shown.values()) <= 1


def test_a_label_that_no_clip_has_is_refused_before_any_clip_is_decoded(
    tiny_base: Path, few_clips: Path, tmp_path: Path
) -> None:
    settings = settings_from(
        {"model": {"base": str(tiny_base)}, "augmentation": {"unflipped_labels": ["bent"]}},
        where="test",
    )
    with pytest.raises(NoClipHasLabelError, match="names bent, and the clips have bend, wave_two"):
        fit(settings, few_clips, tmp_path / "run", cache_folder=tmp_path / "frames")
    assert not (tmp_path / "frames").exists()


# Whole trainings ----------------------------------------------------------------------------------


def trained(
    base: Path, clips: Path, out: Path, augmentation: dict[str, Any], **training: Any
) -> bytes:
    settings = settings_from(
        {
            "model": {"base": str(base)},
            "augmentation": augmentation,
            "training": {**TINY_TRAINING, **training},
        },
        where="test",
    )
    fit(settings, clips, out)
    return (out / run.METRICS).read_bytes()


def test_the_same_seed_gives_the_same_metrics_twice_and_each_change_another(
    tiny_base: Path, uneven_clips: Path, tmp_path: Path
) -> None:
    def metrics(name: str, without: str = "", **training: Any) -> bytes:
        values = {key: value for key, value in EVERYTHING.items() if key != without}
        training = {"label_smoothing": 0.1, "balanced_sampling": True, "epochs": 2, **training}
        return trained(tiny_base, uneven_clips, tmp_path / name, values, **training)

    first = metrics("first")
    assert metrics("second", workers=2) == first
    fewer = [metrics(without, without) for without in EVERYTHING if without != "mirrored_labels"]
    fewer += [metrics("unbalanced", balanced_sampling=False), metrics("sharp", label_smoothing=0.0)]
    fewer += [metrics("weighted", balanced_sampling=False, class_weights="balanced")]
    fewer += [metrics("seed", seed=1)]
    assert len({first, *fewer}) == 1 + len(fewer)


def test_clips_know_the_epoch_where_accelerate_tells_it_to_their_sampler_alone(
    tiny_base: Path, few_clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As accelerate does with several processes: `elif hasattr(self.dataset, "set_epoch")`."""
    before = trained(tiny_base, few_clips, tmp_path / "before", {}, random_crop_padding=0.25)

    def to_the_sampler(self: Any, epoch: int) -> None:
        self.iteration = epoch
        if hasattr(self.batch_sampler.sampler, "set_epoch"):
            self.batch_sampler.sampler.set_epoch(epoch)

    monkeypatch.setattr("accelerate.data_loader.DataLoaderShard.set_epoch", to_the_sampler)
    after = trained(tiny_base, few_clips, tmp_path / "after", {}, random_crop_padding=0.25)
    assert after == before
