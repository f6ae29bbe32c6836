"""Which clips a proof is made on, and which ones int8 takes its ranges from."""

import logging
from collections.abc import Sequence
from pathlib import Path

from lora_deploy.artifact import run
from lora_deploy.clips.dataset import LabelledClip, read_split
from lora_deploy.errors import DataError, EmptySplitError, UnknownLabelError

logger = logging.getLogger(__name__)


def proof_clips(
    folder: Path, verify_on: Path | None, labels: tuple[str, ...], *, most: int
) -> list[LabelledClip]:
    """The clips that the certificate is made on: validation clips, never training ones.

    Raises:
        DataError: There are none, or they are gone.
    """
    source = verify_on or folder / run.SPLITS
    try:
        clips = not_for_training(source)
    except DataError as error:
        if verify_on is not None:
            raise
        raise EmptySplitError(
            f"{folder} brings no clips for the proof ({error}); name some with --verify-on"
        ) from None
    strange = sorted({clip.label for clip in clips} - set(labels))
    if strange:
        raise UnknownLabelError(
            f"{source} has labels that the model does not know: {', '.join(strange)}"
        )
    return thinned(clips, most)


def thinned(clips: Sequence[LabelledClip], most: int) -> list[LabelledClip]:
    """At most so many of them, taken evenly from the whole."""
    step = max(1.0, len(clips) / most)
    return [clips[int(index * step)] for index in range(min(len(clips), most))]


def not_for_training(source: Path) -> tuple[LabelledClip, ...]:
    """The validation clips, else the test clips, else those of which no split is told."""
    splits = {clip.split for clip in read_split(source, "all", must_exist=False)}
    if splits == {"train"}:
        raise EmptySplitError(
            f"{source} has nothing but training clips; others are needed for a proof"
        )
    if "val" in splits:
        return read_split(source, "val")
    told = splits != {"test"}  # of clips without a split, test is told
    return read_split(source, "test" if told else "all")


def calibration_clips(
    sources: Sequence[Path], proof: Sequence[LabelledClip], *, most: int
) -> tuple[list[LabelledClip], str]:
    """Training clips for int8's ranges; those of the proof where the training's are not there.

    Args:
        sources: Data with a training split, the better ones first; what can't be read is passed over.
        proof: What is taken else, and said.
        most: How many at most.

    Returns:
        The clips, and whose they are, for the certificate.
    """
    for source in sources:
        try:
            clips = [
                clip for clip in read_split(source, "train", must_exist=False) if clip.path.exists()
            ]
        except DataError:
            continue
        if clips:
            taken = thinned(clips, most)
            return taken, f"{len(taken)} training clips"
    logger.warning("no training clips are here, so int8 takes its ranges from clips of the proof")
    taken = thinned(proof, most)
    return taken, f"{len(taken)} clips of this very proof, as no training clips were at hand"
