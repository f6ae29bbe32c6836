"""What a model says of labelled clips: probabilities, averaged over the views of each clip."""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from lora_deploy.clips.clip import DecodedClip
from lora_deploy.clips.dataset import LabelledClip
from lora_deploy.clips.pool import DecodePool, shared
from lora_deploy.clips.views import Views, contract_of, views_of
from lora_deploy.errors import ClipError
from lora_deploy.runtime.base import Recogniser

Answer = NDArray[np.float64] | ClipError
"""Probabilities [labels], or why there are none."""


def ask(
    recogniser: Recogniser,
    clips: Sequence[LabelledClip],
    views: Views,
    pool: DecodePool | None = None,
) -> Iterator[Answer]:
    """One answer a clip, in order, as soon as its batch is known.

    Clips are decoded a few ahead while the model works. Probabilities are averaged, not logits, as
    SlowFast and VideoMAE do ("we average the softmax scores": Feichtenhofer et al., 2019, section 4).

    Raises:
        ViewsError: The views are more than can be decoded at once.
    """
    contract = contract_of(views, recogniser.contract)
    at_once = max(1, recogniser.backend.batch_size // views.count)
    held: list[DecodedClip | ClipError] = []
    footage = (clip.footage for clip in clips)
    for _, outcome in (pool or shared()).in_order(footage, contract):
        held.append(outcome)
        decoded = sum(isinstance(one, DecodedClip) for one in held)
        if decoded == at_once or not decoded:
            yield from _answers(recogniser, held, views)
            held.clear()
    yield from _answers(recogniser, held, views)


def _answers(
    recogniser: Recogniser, outcomes: Sequence[DecodedClip | ClipError], views: Views
) -> Iterator[Answer]:
    looks = [
        views_of(one.frames, views, recogniser.contract)
        for one in outcomes
        if isinstance(one, DecodedClip)
    ]
    if not looks:
        yield from (one for one in outcomes if isinstance(one, ClipError))
        return
    probabilities = recogniser.probabilities(recogniser.logits(np.concatenate(looks)))
    by_clip = iter(probabilities.reshape(len(looks), views.count, -1).mean(axis=1))
    for outcome in outcomes:
        yield outcome if isinstance(outcome, ClipError) else next(by_clip)
