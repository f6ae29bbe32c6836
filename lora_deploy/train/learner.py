"""A model of which the right part learns: the adapter and the head, the head alone, or everything."""

import logging
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from peft import PeftModel
from transformers import PreTrainedModel

from lora_deploy.config import Settings
from lora_deploy.model.adapter import ParameterCounts, attach, count, recorded_options
from lora_deploy.model.base import OpenedBase
from lora_deploy.model.liveness import check_can_learn
from lora_deploy.model.targets import ResolvedTargets, resolve
from lora_deploy.train.tensors import ClipSamples

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Learner:
    """A model of which the right part learns."""

    model: PreTrainedModel | PeftModel
    targets: ResolvedTargets | None
    parameters: ParameterCounts


def prepare(base: OpenedBase, settings: Settings) -> Learner:
    """Make the part of a base learn that the settings name.

    Raises:
        TargetError: A target word names no layer.
    """
    torch.manual_seed(settings.training.seed)
    targets = None
    model: PreTrainedModel | PeftModel = base.model
    if settings.model.use_lora:
        targets = resolve(
            base.model,
            settings.model.lora.target_modules,
            top_layers=settings.model.lora.top_layers,
        )
        model = attach(
            base.model,
            settings.model.lora,
            layers=targets.layers,
            head_modules=base.head_modules,
            base_id=base.base_id,
            revision=base.revision,
        )
    elif settings.model.freeze_base:
        for name, parameter in model.named_parameters():
            parameter.requires_grad = name.split(".", 1)[0] in base.head_modules
    return Learner(model, targets, count(model, base.head_modules))


def tell(settings: Settings, learner: Learner, *, processes: int = 1) -> None:
    """Say what learns, as counted; the lines are those of the user's guide."""
    counts = learner.parameters
    if settings.model.use_lora:
        lora = settings.model.lora
        logger.info("🎯 %s Configuration:", lora.kind)
        assert isinstance(learner.model, PeftModel)
        attached = recorded_options(learner.model.active_peft_config)
        logger.info("   Rank (r): %d%s", lora.r, _elsewhere(attached["rank_pattern"]))
        logger.info("   Alpha: %d%s", lora.lora_alpha, _elsewhere(attached["alpha_pattern"]))
        if lora.top_layers:
            logger.info("   Top layers: the last %d blocks", lora.top_layers)
        logger.info("   Target modules: %s", list(lora.target_modules))
        logger.info("   Resolved to: %s", learner.targets)
    else:
        logger.info("🎯 %s:", "Head only" if settings.model.freeze_base else "Full fine-tuning")
    if (decay := settings.training.layer_decay) != 1:
        logger.info("   Layer decay: each block learns %g times as fast as the one above", decay)
    logger.info(
        "   Trainable params: %s (%.2f%%)", f"{counts.trainable:,}", counts.trainable_percent
    )
    logger.info("   Total params: %s", f"{counts.total:,}")
    if processes > 1:
        clips = settings.training.batch_size * settings.training.gradient_accumulation_steps
        logger.info("   Processes: %d, each with %d clips of every step", processes, clips)


def _elsewhere(pattern: Mapping[str, int]) -> str:
    """Where a pattern says something else, as in ``, and 16 on 4 layers``."""
    return "".join(
        f", and {number} on {layers} layers" for number, layers in Counter(pattern.values()).items()
    )


def prove_alive(model: PeftModel, samples: ClipSamples) -> None:
    """See, on the first clips, that the adapter is part of what the model computes.

    Raises:
        LivenessError: It is not.
    """
    clips = [samples[index]["pixel_values"] for index in range(min(2, len(samples)))]
    check_can_learn(model, torch.stack(clips))
