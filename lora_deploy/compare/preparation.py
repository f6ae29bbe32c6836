"""Before the first training: every clip decoded once for all of them, and the motion baseline fitted."""

from contextlib import suppress
from functools import cache
from pathlib import Path

from lora_deploy.clips.cache import build_cache
from lora_deploy.clips.contract import PixelContract
from lora_deploy.clips.dataset import read_split
from lora_deploy.compare.motion import CONTRACT, motion_baseline
from lora_deploy.compare.outcome import Baseline, Counted, PreparationJob
from lora_deploy.config import settings_from
from lora_deploy.errors import LoraDeployError
from lora_deploy.model.base import open_base
from lora_deploy.train.frames import oversample_of


def prepare(job: PreparationJob) -> Baseline:
    """Decode, fit and count.

    A base that can't be opened is passed over here: its trainings will say why.
    """
    folds = [
        {name: read_split(Path(one.source), one.split) for name, one in fold.items()}
        for fold in job.folds
    ]
    frames = Path(job.frames)
    every = [clip for fold in folds for clips in fold.values() for clip in clips]
    for_motion = build_cache(every, CONTRACT, frames)
    found = [motion_baseline(fold, job.labels, for_motion) for fold in folds]
    learned_from = [clip for fold in folds for clip in fold["train"]]
    judged = [clip for fold in folds for name in ("val", "test") for clip in fold[name]]
    for contract, oversample in _ways_to_decode(job):
        if oversample == 1:  # as a training does: one cache for all
            build_cache([*learned_from, *judged], contract, frames)
        else:
            build_cache(learned_from, contract, frames, oversample=oversample)
            build_cache(judged, contract, frames)
    return Baseline(
        clips=[{name: one.clips for name, one in fold.items()} for fold in job.folds],
        folds=[
            {
                name: Counted(
                    clips=job.folds[index][name].clips,
                    right=answers.right,
                    answered=answers.answered,
                    left_out=answers.left_out,
                )
                for name, answers in fold.items()
            }
            for index, fold in enumerate(found)
        ],
    )


def _ways_to_decode(job: PreparationJob) -> set[tuple[PixelContract, int]]:
    """Contracts, and how many moments are kept for each frame that is learned from."""
    ways = set()
    contract_of = cache(
        lambda base, revision: open_base(base, job.labels, revision=revision).contract
    )
    for tree in job.bases:
        settings = settings_from(tree, where="compare")
        with suppress(LoraDeployError):
            contract = contract_of(settings.model.base, settings.model.revision)
            contract = contract.model_copy(update={"sampling": settings.clip.sampling})
            ways.add((contract, oversample_of(settings, contract)))
    return ways
