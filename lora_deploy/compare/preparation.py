"""Before the first training: every clip decoded once for all of them, and the motion baseline fitted."""

from collections.abc import Iterator
from pathlib import Path

from lora_deploy.clips.cache import build_cache
from lora_deploy.clips.contract import PixelContract
from lora_deploy.clips.dataset import read_split
from lora_deploy.compare.motion import CONTRACT, motion_baseline
from lora_deploy.compare.outcome import Baseline, Counted, PreparationJob
from lora_deploy.config import Settings, settings_from
from lora_deploy.errors import LoraDeployError
from lora_deploy.model.base import open_base


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
    cache = build_cache(every, CONTRACT, frames)
    found = [motion_baseline(fold, job.labels, cache) for fold in folds]
    learned_from = [clip for fold in folds for name in ("train", "val") for clip in fold[name]]
    for contract in _contracts(job):
        build_cache(learned_from, contract, frames)
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


def _contracts(job: PreparationJob) -> Iterator[PixelContract]:
    for tree in job.bases:
        settings = settings_from(tree, where="compare")
        try:
            yield _contract(settings, job.labels)
        except LoraDeployError:
            continue


def _contract(settings: Settings, labels: list[str]) -> PixelContract:
    """As a training decodes its clips."""
    base = open_base(settings.model.base, labels, revision=settings.model.revision)
    return base.contract.model_copy(update={"sampling": settings.clip.sampling})
