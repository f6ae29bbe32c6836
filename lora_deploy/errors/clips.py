"""One video that gives no clip, and the kinds of reasons."""

from typing import Literal

from lora_deploy.errors.root import LoraDeployError

ClipErrorKind = Literal[
    "unreadable",
    "no_video",
    "too_large",
    "too_long",
    "forbidden",
    "timeout",
    "not_found",
    "no_answer",
]

CLIP_ERROR_KINDS: dict[ClipErrorKind, str] = {
    "unreadable": "It can't be read, is damaged, or is no video at all; or its decoder broke down.",
    "no_video": "It is sound, and holds no pictures, only sound or data.",
    "too_large": "Its pictures, the number of its streams, or the memory it needs exceed a limit.",
    "too_long": "It lasts longer, or has more frames, than is read; cut it.",
    "forbidden": "It is a folder, a device, a playlist, or of a kind that may name other files.",
    "timeout": "Decoding was not done within the deadline and was cut off.",
    "not_found": "There is no such file, or no such part of it.",
    "no_answer": "The file is sound; the model answers NaN or infinity to it.",
}
"""What each kind means of a file."""


class ClipError(LoraDeployError):
    """One video file that could not be turned into a clip.

    Args:
        kind: One of the kinds that an error row may carry.
        message: Without paths of the machine, FFmpeg's own text or other internals.
    """

    def __init__(self, kind: ClipErrorKind, message: str) -> None:
        super().__init__(message)
        self.kind: ClipErrorKind = kind
