"""The pixel contract: everything that decides which numbers a model sees of a video file.

It is written into every RUN and BUNDLE and into the ONNX metadata, and obeyed by
training, evaluation, the proofs and every backend alike.
"""

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, FiniteFloat, model_validator

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

MOST_PIXELS = 1 << 27
"""Of one clip, frames × height × width: eight times 64 frames of 512×512, 0.4 GB of bytes and 1.6 GB
as a model takes them. Each dimension alone may be far larger than all of them together."""

PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]

Sampling = Literal["uniform", "middle_frame"]
ResizeFilter = Literal["bilinear", "bicubic", "nearest"]


class PixelContract(BaseModel):
    """How a video file becomes the array that a model is given."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    frames: int = Field(gt=0, le=1024)
    """Frames per clip."""
    sampling: Sampling = "uniform"
    """``uniform``: the middles of equal stretches of the whole clip; ``middle_frame``: one frame,
    repeated, a probe that shows what can be told without motion."""
    clips_per_video: Literal[1] = 1
    crops_per_clip: Literal[1, 3] = 1
    """3: at both ends of the longer side and at its middle, instead of at the middle alone. Only to be
    decoded (see `lora_deploy.clips.views`): what is stored with a model has one."""
    short_side: int = Field(gt=0, le=4096)
    """Pixels of the shorter side after resizing; the aspect ratio is kept."""
    crop_height: int = Field(gt=0, le=4096)
    crop_width: int = Field(gt=0, le=4096)
    """Pixels cut from the centre after resizing; padded with zeros where the frame is smaller."""
    resize_filter: ResizeFilter = "bilinear"
    """Pillow's antialiased filter of this name."""
    mean: tuple[FiniteFloat, FiniteFloat, FiniteFloat] = IMAGENET_MEAN
    std: tuple[PositiveFloat, PositiveFloat, PositiveFloat] = IMAGENET_STD
    """Subtracted from and divided into red, green and blue after scaling to 0..1."""
    channel_order: Literal["rgb"] = "rgb"
    colour_matrix: Literal["as_tagged"] = "as_tagged"
    """The file's own matrix; FFmpeg's guess where it names none."""
    colour_range: Literal["as_tagged"] = "as_tagged"

    @model_validator(mode="after")
    def _fits_into_memory(self) -> Self:
        pixels = self.frames * self.crops_per_clip * self.crop_height * self.crop_width
        if pixels > MOST_PIXELS:
            raise ValueError(
                f"frames × crop_height × crop_width is {pixels}; allowed are at most {MOST_PIXELS}"
            )
        return self

    @property
    def frames_shape(self) -> tuple[int, int, int, int]:
        """Shape of the uint8 frames of one clip: [frames, height, width, 3].

        Of three crops, those of a frame follow each other: [frames × 3, height, width, 3].
        """
        return (self.frames * self.crops_per_clip, self.crop_height, self.crop_width, 3)

    @property
    def pixel_values_shape(self) -> tuple[int, int, int, int]:
        """Shape of what a model is given for one clip: [frames, 3, height, width], float32."""
        return (self.frames, 3, self.crop_height, self.crop_width)


def _one_crop(contract: PixelContract) -> PixelContract:
    if contract.crops_per_clip != 1:
        raise ValueError("crops_per_clip is 3; a model is given one crop of a clip")
    return contract


ModelContract = Annotated[PixelContract, AfterValidator(_one_crop)]
"""That of a model, as it is stored beside it."""
