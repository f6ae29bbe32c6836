"""What a model says of labelled clips: probabilities, averaged over the views of each clip."""

from collections.abc import Iterator, Sequence
from contextlib import closing

import numpy as np
from numpy.typing import NDArray

from lora_deploy.classify.meter import Meter
from lora_deploy.classify.overlap import answered, in_turn
from lora_deploy.clips.dataset import LabelledClip
from lora_deploy.clips.pool import DecodePool, shared
from lora_deploy.clips.views import Views
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
    """One answer a clip, in order, each as soon as those before it are known.

    Clips are decoded a few ahead while the model works. Probabilities are averaged, not logits, as
    SlowFast and VideoMAE do ("we average the softmax scores": Feichtenhofer et al., 2019, section 4).

    Raises:
        ViewsError: The views are more than can be decoded at once.
        AnswersNotFiniteError: An answer is no number.
    """
    jobs = enumerate(clip.footage for clip in clips)
    outcomes = answered(recogniser, jobs, views=views, pool=pool or shared(), meter=Meter())
    with closing(outcomes):
        for outcome in in_turn(outcomes):
            if isinstance(outcome, ClipError):
                yield outcome
            else:
                yield recogniser.probabilities(outcome.logits).mean(axis=0)
