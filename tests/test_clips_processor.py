"""transformers' preprocessor files and the pixel contract: what each class does, and nothing lost on the way."""

import json
from pathlib import Path
from typing import Any, cast

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from lora_deploy.clips.clip import Frames
from lora_deploy.clips.contract import IMAGENET_MEAN, IMAGENET_STD, PixelContract, ResizeFilter
from lora_deploy.clips.processor import (
    COMMON_FILE,
    IMAGE_FILE,
    VIDEO_FILE,
    contract_from_processor,
    contract_to_processor,
    read_processor,
    usual_contract,
    write_processor,
)
from lora_deploy.clips.transforms import normalise, resize_and_crop
from lora_deploy.errors import BaseConfigError

CONTRACTS = {
    "usual": PixelContract(frames=3, short_side=224, crop_height=224, crop_width=224),
    "bicubic": PixelContract(
        frames=3, short_side=65, crop_height=33, crop_width=61, resize_filter="bicubic"
    ),
    "smaller than the crop": PixelContract(
        frames=3,
        short_side=31,
        crop_height=96,
        crop_width=97,
        mean=(0.5, 0.4, 0.3),
        std=(0.1, 0.2, 1.0),
    ),
}

VIVIT = {
    "image_processor_type": "VivitImageProcessor",
    "size": {"shortest_edge": 36},
    "crop_size": {"height": 32, "width": 32},
    "rescale_factor": 0.00784313725490196,
    "offset": True,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
}
"""As published, but for the size of the picture."""

MODEL_TYPES = ("videomae", "timesformer", "vivit", "vjepa2")


def real_frames(media: Path) -> list[Frames]:
    with av.open(str(media / "clips" / "asl" / "book.mkv")) as container:
        decoded = container.decode(video=0)
        return [cast(Frames, next(decoded).to_ndarray(format="rgb24")) for _ in range(3)]


@pytest.mark.parametrize("contract", CONTRACTS.values(), ids=CONTRACTS.keys())
def test_a_contract_survives_the_preprocessor_file(contract: PixelContract) -> None:
    written = json.loads(json.dumps(contract_to_processor(contract)))
    assert contract_from_processor(written, contract.frames) == contract


numbers = st.tuples(*[st.floats(-1, 2, allow_nan=False)] * 3)
spreads = st.tuples(*[st.floats(0.01, 4, allow_nan=False)] * 3)
sides = st.integers(1, 600)


@given(numbers, spreads, sides, sides, sides, st.sampled_from(MODEL_TYPES))
def test_whatever_the_contract_it_is_read_back_as_it_was_written(
    mean: Any, std: Any, short_side: int, height: int, width: int, model_type: str
) -> None:
    contract = PixelContract(
        frames=4, sampling="middle_frame", short_side=short_side, crop_height=height,
        crop_width=width, mean=mean, std=std,
    )  # fmt: skip
    written = json.loads(json.dumps(contract_to_processor(contract, model_type)))
    read = contract_from_processor(written, 4, model_type=model_type)
    assert read == contract.model_copy(update={"sampling": "uniform"})


def test_a_processor_saved_by_transformers_is_read(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    contract = CONTRACTS["bicubic"]
    processor = transformers.VideoMAEImageProcessorPil(**contract_to_processor(contract))
    processor.save_pretrained(tmp_path)
    saved = read_processor(tmp_path, "videomae")
    assert saved is not None
    assert contract_from_processor(saved, 3) == contract


def test_what_a_processor_leaves_out_is_as_in_transformers() -> None:
    transformers = pytest.importorskip("transformers")
    defaults = transformers.VideoMAEImageProcessorPil().to_dict()
    assert contract_from_processor({}, 16) == contract_from_processor(defaults, 16)


# ViViT scales to -1..1 before it normalises -----------------------------------------------------


@pytest.mark.parametrize(
    "given_values",
    [
        VIVIT,
        {**VIVIT, "offset": False},
        {**VIVIT, "image_mean": [0.1, -0.2, 0.3], "image_std": [0.2, 0.9, 1.1]},
        {**VIVIT, "rescale_factor": 1 / 255, "offset": False},
    ],
    ids=["published", "no offset", "other mean", "as the others scale"],
)
def test_vivits_numbers_equal_those_of_its_own_processor(
    media: Path, given_values: dict[str, object]
) -> None:
    module = pytest.importorskip("transformers.models.vivit.image_processing_vivit")
    frames = real_frames(media)
    processor = module.VivitImageProcessor(
        **{key: value for key, value in given_values.items() if key != "image_processor_type"}
    )
    theirs = processor(frames, return_tensors="np")["pixel_values"][0]
    contract = contract_from_processor(given_values, 3)
    ours = normalise(resize_and_crop(np.stack(frames), contract), contract)
    assert ours.shape == theirs.shape
    if given_values is VIVIT:
        assert np.array_equal(ours, theirs)  # all in powers of two
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=2e-6)
    assert theirs.max() - theirs.min() > 1  # a clip with something in it


def test_vivits_processor_file_opens_as_its_own_class(media: Path, tmp_path: Path) -> None:
    module = pytest.importorskip("transformers.models.vivit.image_processing_vivit")
    contract = contract_from_processor(VIVIT, 3)
    assert contract.mean == (0.75,) * 3
    assert contract.std == (0.25,) * 3
    assert write_processor(contract, tmp_path, "vivit").name == IMAGE_FILE
    processor = module.VivitImageProcessor.from_pretrained(tmp_path)
    assert processor.offset is True
    theirs = processor(real_frames(media), return_tensors="np")["pixel_values"][0]
    ours = normalise(resize_and_crop(np.stack(real_frames(media)), contract), contract)
    assert np.array_equal(ours, theirs)


def test_vivits_video_processor_always_subtracts_one() -> None:
    video = {key: value for key, value in VIVIT.items() if key != "image_processor_type"}
    video["video_processor_type"] = "VivitVideoProcessor"
    del video["offset"]
    assert contract_from_processor(video, 3) == contract_from_processor(VIVIT, 3)
    with pytest.raises(BaseConfigError, match="offset: false, which"):
        contract_from_processor({**video, "offset": False}, 3)


# V-JEPA 2 has a video processor alone, and it resizes by its own rule ---------------------------

VJEPA2 = {
    "video_processor_type": "VJEPA2VideoProcessor",
    "size": {"shortest_edge": 292},
    "default_to_square": True,
    "crop_size": {"height": 256, "width": 256},
    "do_convert_rgb": None,
    "rescale_factor": 0.00392156862745098,
    "image_mean": [0.485, 0.456, 0.406],
    "image_std": [0.229, 0.224, 0.225],
    "resample": 2,
    "data_format": "channels_first",
}


@pytest.mark.parametrize("crop", [256, 384, 32])
def test_vjepa2_resizes_by_its_own_rule_whatever_its_file_says(crop: int) -> None:
    module = pytest.importorskip("transformers.models.vjepa2.video_processing_vjepa2")
    values = {**VJEPA2, "crop_size": {"height": crop, "width": crop}}
    theirs = module.VJEPA2VideoProcessor(
        **{key: value for key, value in values.items() if key != "video_processor_type"}
    )
    contract = contract_from_processor(values, 16)
    assert contract.short_side == theirs.size["shortest_edge"]
    assert contract.crop_height == contract.crop_width == crop
    assert (contract.mean, contract.std) == (IMAGENET_MEAN, IMAGENET_STD)


def test_vjepa2s_processor_file_opens_as_its_own_class(tmp_path: Path) -> None:
    module = pytest.importorskip("transformers.models.vjepa2.video_processing_vjepa2")
    contract = contract_from_processor(VJEPA2, 16)
    assert write_processor(contract, tmp_path, "vjepa2").name == VIDEO_FILE
    opened = module.VJEPA2VideoProcessor.from_pretrained(tmp_path)
    assert opened.size["shortest_edge"] == contract.short_side == 292
    assert (opened.crop_size["height"], opened.crop_size["width"]) == (256, 256)
    assert (tuple(opened.image_mean), tuple(opened.image_std)) == (contract.mean, contract.std)
    assert opened.rescale_factor == 1 / 255
    assert opened.resample == Image.Resampling.BILINEAR
    opened.save_pretrained(tmp_path / "again")
    saved = read_processor(tmp_path / "again", "vjepa2")
    assert saved is not None
    assert contract_from_processor(saved, 16, model_type="vjepa2") == contract


def test_a_contract_that_a_class_can_not_express_is_written_as_videomaes() -> None:
    contract = contract_from_processor(VJEPA2, 16).model_copy(update={"short_side": 256})
    written = contract_to_processor(contract, "vjepa2")
    assert written["image_processor_type"] == "VideoMAEImageProcessor"
    assert contract_from_processor(written, 16, model_type="vjepa2") == contract


# Which file, and what there is without one ------------------------------------------------------


def test_the_file_is_read_that_transformers_would_open(tmp_path: Path) -> None:
    assert read_processor(tmp_path, "vivit") is None
    nested = {"video_processor": {"crop_size": 3}, "image_processor": {"crop_size": 4}}
    (tmp_path / COMMON_FILE).write_text(json.dumps(nested))
    assert read_processor(tmp_path, "vivit") == {"crop_size": 3}
    (tmp_path / VIDEO_FILE).write_text('{"crop_size": 2}')
    assert read_processor(tmp_path, "vivit") == {"crop_size": 2}
    (tmp_path / IMAGE_FILE).write_text('{"crop_size": 1}')
    assert read_processor(tmp_path, "vivit") == {"crop_size": 1}
    assert read_processor(tmp_path, "vjepa2") == {"crop_size": 2}


@pytest.mark.parametrize("text", ["{", "[]", "\N{SNOWMAN}"])
def test_a_torn_file_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / IMAGE_FILE).write_text(text)
    with pytest.raises(BaseConfigError, match=IMAGE_FILE):
        read_processor(tmp_path, "videomae")


def test_without_a_file_each_model_gets_what_its_published_ones_do() -> None:
    plain = PixelContract(frames=8, short_side=64, crop_height=64, crop_width=64)
    assert usual_contract("videomae", 8, 64, 64) == plain
    assert usual_contract("timesformer", 8, 64, 64) == plain
    vivit = usual_contract("vivit", 32, 224, 224)
    assert (vivit.short_side, vivit.crop_height, vivit.mean[0], vivit.std[0]) == (
        256,
        224,
        0.75,
        0.25,
    )
    vjepa2 = usual_contract("vjepa2", 64, 256, 256)
    assert vjepa2 == contract_from_processor(VJEPA2, 64)


def test_the_class_that_a_file_names_wins_over_the_models_own() -> None:
    videomae = {"image_processor_type": "VideoMAEImageProcessor", "crop_size": 32, "size": 32}
    assert contract_from_processor(videomae, 4, model_type="vivit").mean == (0.5,) * 3
    assert contract_from_processor({}, 4, model_type="vivit").mean == (0.75,) * 3
    strange = {"image_processor_type": "ViTImageProcessor"}
    assert contract_from_processor(strange, 4, model_type="vivit").mean == (0.5,) * 3


@pytest.mark.parametrize(
    "size", [112, {"shortest_edge": 112}, {"shortest_edge": 112, "height": None}]
)
def test_spellings_of_the_short_side(size: object) -> None:
    contract = contract_from_processor({"size": size, "crop_size": 96}, 8)
    assert (contract.short_side, contract.crop_height, contract.crop_width) == (112, 96, 96)


@pytest.mark.parametrize(("number", "name"), [(0, "nearest"), (2, "bilinear"), (3, "bicubic")])
def test_filters_by_their_pillow_number(number: int, name: ResizeFilter) -> None:
    assert contract_from_processor({"resample": number}, 8).resize_filter == name
    assert Image.Resampling(number).name.lower() == name


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"size": {"height": 224, "width": 224}}, "distort"),
        ({"size": {"shortest_edge": 224, "longest_edge": 300}}, "shortest_edge"),
        ({"size": "large"}, "allowed are a whole number"),
        ({"crop_size": {"height": 224}}, "crop_size"),
        ({"resample": 1}, "0 (nearest), 2 (bilinear), 3 (bicubic)"),
        ({"image_mean": [0.5]}, "three numbers"),
        ({"image_std": [0.2, 0.0, 0.2]}, "above zero"),
        ({"do_center_crop": False}, "do_center_crop: False; only true"),
        ({"rescale_factor": 1 / 127.5}, "only 1/255"),
        ({"offset": True}, "offset: True, which is not known"),
        ({"default_to_square": True}, "default_to_square"),
        ({"default_to_square": True, "size": 224}, "default_to_square"),
        ({**VIVIT, "rescale_factor": 0.0}, "rescale_factor: 0.0; allowed is a number above 0"),
        ({**VIVIT, "offset": "yes"}, "offset: 'yes'; allowed are true and false"),
        ({**VJEPA2, "crop_size": {"width": 256}}, "crop_size"),
    ],
)
def test_what_the_contract_cannot_express_is_refused(config: dict[str, object], says: str) -> None:
    with pytest.raises(BaseConfigError) as caught:
        contract_from_processor(config, 16)
    assert says in str(caught.value)
