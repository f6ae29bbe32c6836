"""decord as its manual has it, inside a real worker: it never returns from some files."""

import io
from typing import BinaryIO

import decord

from lora_deploy.clips.clip import WHOLE_FILE, DecodedClip, Effort, Stretch
from lora_deploy.clips.contract import PixelContract
from lora_deploy.clips.sampling import nearest_frames, sample_times
from lora_deploy.clips.transforms import resize_and_crop
from lora_deploy.errors import ClipError

BY_ITS_TIMES = False


def decode_file(
    file: BinaryIO, contract: PixelContract, effort: Effort, stretch: Stretch = WHOLE_FILE
) -> DecodedClip:
    """Evenly spread frames by `get_batch`, believing all that decord says."""
    try:
        reader = decord.VideoReader(io.BytesIO(file.read()), num_threads=1)
        numbers = [index * len(reader) // contract.frames for index in range(contract.frames)]
        if BY_ITS_TIMES:
            times = reader.get_frame_timestamp(range(len(reader)))
            begins = (times[:, 0] - times[0, 0]).tolist()
            length = float(times[-1, 1] - times[0, 0])
            numbers = nearest_frames(sample_times(contract, length), begins)
        pictures = reader.get_batch(numbers).asnumpy()
    except Exception:
        raise ClipError("unreadable", "decord can't read the file") from None
    return DecodedClip(
        frames=resize_and_crop(pictures, contract),
        times_seconds=tuple(map(float, numbers)),
        duration_seconds=float(len(reader)),
        warning=None,
    )
