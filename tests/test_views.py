"""Several looks at a video: the frames and crops that are asked for, and the mean of what they give."""

import math
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import av
import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from lora_deploy import cli
from lora_deploy.artifact.run import read_run_manifest
from lora_deploy.clips import pool
from lora_deploy.clips.contract import PixelContract
from lora_deploy.clips.pool import DecodePool
from lora_deploy.clips.transforms import resize_and_crop
from lora_deploy.clips.views import ONE_VIEW, contract_of, views_of
from lora_deploy.errors import ManifestError, ViewsError
from lora_deploy.evaluate import Views, evaluate, parse_views
from lora_deploy.runtime.load import load

CONTRACT = PixelContract(frames=4, short_side=32, crop_height=32, crop_width=32)


def slow_views(path: Path, clips: int, crops: int, contract: PixelContract) -> list[Any]:
    """Every picture of the file decoded, then each view put together by hand."""
    with av.open(str(path)) as container:
        pictures = list(container.decode(video=0))
        times = [float((one.pts or 0) * (one.time_base or Fraction(1))) for one in pictures]
        images = [one.to_ndarray(format="rgb24") for one in pictures]
    step = times[1] - times[0]
    length = times[-1] - times[0] + step
    views = []
    for clip in range(clips):
        shown = []
        for at in range(contract.frames):
            part = (at + (clip + 0.5) / clips) / contract.frames
            if contract.sampling == "middle_frame":
                part = (clip + 0.5) / clips
            begun = [time for time in times if time - times[0] <= part * length + 0.001]
            shown.append(images[len(begun) - 1])
        for crop in range(crops):
            views.append([slow_crop(image, crops, crop, contract) for image in shown])
    return views


def slow_crop(image: Any, crops: int, crop: int, contract: PixelContract) -> Any:
    height, width, _ = image.shape
    side = contract.short_side
    if height <= width:
        size = (int(side * width / height), side)
    else:
        size = (side, int(side * height / width))
    small = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BILINEAR))
    top, left = (size[1] - contract.crop_height) // 2, (size[0] - contract.crop_width) // 2
    if crops == 3 and size[0] >= size[1]:
        left = (0, left, size[0] - contract.crop_width)[crop]
    elif crops == 3:
        top = (0, top, size[1] - contract.crop_height)[crop]
    return small[top : top + contract.crop_height, left : left + contract.crop_width]


VIEWS = [Views(1, 1), Views(2, 1), Views(1, 3), Views(3, 3)]
SIZES = [
    CONTRACT,
    CONTRACT.model_copy(update={"short_side": 40}),
    CONTRACT.model_copy(update={"sampling": "middle_frame"}),
]


@pytest.mark.parametrize("contract", SIZES, ids=["as large", "larger", "middle frame"])
@pytest.mark.parametrize("views", VIEWS, ids=str)
def test_views_are_those_that_are_put_together_by_hand(
    views: Views, contract: PixelContract, test_clips: list[Path]
) -> None:
    for path in (test_clips[0], test_clips[5]):
        decoded = pool.shared().decode(path, contract_of(views, contract))
        found = views_of(decoded.frames, views, contract)
        assert found.shape == (views.count, *contract.frames_shape)
        assert np.array_equal(found, np.array(slow_views(path, views.clips, views.crops, contract)))


def test_one_view_is_the_clip_that_training_saw(test_clips: list[Path]) -> None:
    for contract in (CONTRACT, SIZES[2]):
        decoded = pool.shared().decode(test_clips[0], contract).frames
        one = pool.shared().decode(test_clips[0], contract_of(ONE_VIEW, contract)).frames
        assert np.array_equal(views_of(one, ONE_VIEW, contract)[0], decoded)


@pytest.mark.parametrize(("height", "width"), [(70, 32), (32, 70), (32, 32), (33, 64), (20, 90)])
def test_three_crops_reach_both_ends_and_the_middle_is_the_centre_crop(
    height: int, width: int
) -> None:
    frame = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    contract = PixelContract(frames=1, short_side=min(height, width), crop_height=32, crop_width=32)
    wide = contract.model_copy(update={"crops_per_clip": 3})
    first, middle, last = resize_and_crop(frame, wide)
    assert np.array_equal(middle, resize_and_crop(frame, contract)[0])
    resized = np.asarray(Image.fromarray(frame).resize((width, height), Image.Resampling.BILINEAR))
    if height >= 32 and width >= 32:
        rows, columns = (slice(0, 32), slice(-32, None))
        end_of = resized[columns, (width - 32) // 2 :][:, :32]
        if height > width:
            assert np.array_equal(first, resized[rows, (width - 32) // 2 :][:, :32])
            assert np.array_equal(last, end_of)
        else:
            assert np.array_equal(first, resized[(height - 32) // 2 :, rows][:32])
            assert np.array_equal(last, resized[(height - 32) // 2 :, columns][:32])
    else:  # 20 rows, padded to 32 by 6 above and below
        assert np.array_equal(last[6:26], resized[:, -32:])
        assert not last[:6].any()


@pytest.mark.parametrize("effort", ["exact", "fast", "whole"])
def test_every_effort_gives_three_crops(
    effort: Literal["exact", "fast", "whole"], test_clips: list[Path]
) -> None:
    contract = contract_of(Views(2, 3), CONTRACT)
    with DecodePool(1, effort=effort) as own:
        frames = own.decode(test_clips[0], contract).frames
    assert frames.shape == (4 * 2 * 3, 32, 32, 3)
    exact = pool.shared().decode(test_clips[0], contract).frames
    assert np.abs(frames.astype(int) - exact).mean() < 8


def test_decord_gives_the_same_crops(test_clips: list[Path]) -> None:
    pytest.importorskip("decord")
    contract = contract_of(Views(2, 3), CONTRACT)
    with DecodePool(1, decoder="decord") as own:
        frames = own.decode(test_clips[0], contract).frames
    exact = pool.shared().decode(test_clips[0], contract).frames
    assert np.abs(frames.astype(int) - exact).mean() < 2


def test_a_folder_of_pictures_gives_the_views_of_the_video_that_they_are_of(
    test_clips: list[Path], tmp_path: Path
) -> None:
    with av.open(str(test_clips[0])) as container:
        for number, frame in enumerate(container.decode(video=0)):
            Image.fromarray(frame.to_ndarray(format="rgb24")).save(tmp_path / f"{number}.png")
    contract = contract_of(Views(2, 3), CONTRACT)
    of_pictures = pool.shared().decode(tmp_path, contract).frames
    assert np.array_equal(of_pictures, pool.shared().decode(test_clips[0], contract).frames)


def test_probabilities_are_averaged_over_the_views(lora_run: Path, few_clips: Path) -> None:
    recogniser = load(lora_run)
    views = Views(3, 3)
    result = evaluate(recogniser, few_clips, views=views)
    assert result.views == views
    differ = 0
    for path, _, answer, score in result.answers:
        means = [0.0] * len(recogniser.labels)
        for view in slow_views(Path(path), 3, 3, recogniser.contract):
            [logits] = recogniser.logits(np.array([view])).tolist()
            powers = [math.exp(value) for value in logits]
            for at, power in enumerate(powers):
                means[at] += power / sum(powers) / 9
        best = max(range(len(means)), key=means.__getitem__)
        assert recogniser.labels[best] == answer
        assert score == pytest.approx(means[best], abs=1e-6)
        differ += abs(recogniser.classify(path).score - score) > 1e-4
    assert differ > 4  # it is not the one clip again


@pytest.mark.parametrize("batch_size", [1, 4, 8, 32])
def test_how_many_are_asked_at_once_changes_nothing(
    batch_size: int, lora_run: Path, few_clips: Path
) -> None:
    one = evaluate(load(lora_run), few_clips, views=Views(3, 1))
    many = evaluate(load(lora_run, batch_size=batch_size), few_clips, views=Views(3, 1))
    assert many.confusion == one.confusion
    assert [row[3] for row in many.answers] == pytest.approx(
        [row[3] for row in one.answers], abs=1e-5
    )


@pytest.fixture(scope="module")
def compiled(lora_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BUNDLE of both CPU runtimes."""
    from lora_deploy.export.pipeline import merge_export

    out = tmp_path_factory.mktemp("compiled") / "bundle"
    both = ["onnx", "openvino"]
    merge_export(lora_run, out, targets=both, precisions=["fp32", "fp16"], adapter_graph=True)
    return out


@pytest.mark.parametrize(
    "how",
    [
        {"backend": "onnxruntime"},
        {"backend": "onnxruntime", "precision": "fp16"},
        {"backend": "onnxruntime", "adapter": "default"},
        {"backend": "openvino"},
        {"backend": "torch"},
    ],
    ids=lambda how: "-".join(how.values()),
)
def test_every_backend_takes_views(
    how: dict[str, str], compiled: Path, lora_run: Path, few_clips: Path
) -> None:
    views = Views(2, 3)
    trained = evaluate(load(lora_run), few_clips, views=views)
    found = evaluate(load(compiled, **how), few_clips, views=views)  # type: ignore[arg-type]
    assert found.confusion == trained.confusion
    assert [row[3] for row in found.answers] == pytest.approx(
        [row[3] for row in trained.answers], abs=5e-3
    )


def test_a_clip_that_can_not_be_read_stands_in_nobodys_way(
    lora_run: Path, few_clips: Path, media: Path, tmp_path: Path
) -> None:
    bad = (media / "malformed" / "audio_only.mp4").resolve()
    manifest = tmp_path / "clips.csv"
    lines = few_clips.read_text().splitlines()
    good = [line for line in lines if ",test," in line]
    bad_row = f"{bad},bend,test,x"
    manifest.write_text("\n".join([lines[0], *good[:3], bad_row, *good[3:]]) + "\n")
    for batch_size in (1, 16):
        recogniser = load(lora_run, batch_size=batch_size)
        found = evaluate(recogniser, manifest, views=Views(2, 1))
        sound = evaluate(recogniser, few_clips, views=Views(2, 1))
        assert len(found.left_out) == 1
        assert found.answers == sound.answers


@pytest.mark.parametrize(
    ("text", "views"), [("1x1", Views(1, 1)), ("5x3", Views(5, 3)), (" 10 × 1 ", Views(10, 1))]
)
def test_views_are_read_as_they_are_written(text: str, views: Views) -> None:
    assert parse_views(text) == views
    assert parse_views(str(views)) == views


@pytest.mark.parametrize("text", ["", "5", "5x2", "0x1", "x3", "5x3x1", "-1x3", "1e3x1", "99999x1"])
def test_other_views_are_refused_with_what_is_allowed(
    text: str, lora_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ViewsError, match="crops 1 or 3"):
        parse_views(text)
    assert cli.run(["evaluate", str(lora_run), f"--views={text}"]) == 2
    assert "ViewsError" in capsys.readouterr().err


def test_views_that_no_memory_holds_are_refused_before_any_clip_is_decoded(
    lora_run: Path, few_clips: Path
) -> None:
    with pytest.raises(ViewsError, match="300x3 views are too many for clips of 4 frames of 32×32"):
        evaluate(load(lora_run), few_clips, views=Views(300, 3))
    large = CONTRACT.model_copy(update={"crop_height": 2048, "crop_width": 2048, "frames": 16})
    contract_of(Views(1, 1), large)
    with pytest.raises(ViewsError):
        contract_of(Views(1, 3), large)


def test_a_model_that_asks_for_three_crops_is_refused(run_copy: Path) -> None:
    """What is stored with a model has one; the word is for decoding only."""
    manifest = run_copy / "run.json"
    text = manifest.read_text()
    assert '"crops_per_clip": 1' in text
    manifest.write_text(text.replace('"crops_per_clip": 1', '"crops_per_clip": 3'))
    with pytest.raises(ManifestError, match="a model is given one crop"):
        read_run_manifest(run_copy)
    with pytest.raises(ValidationError):
        PixelContract.model_validate({**CONTRACT.model_dump(), "crops_per_clip": 2})
