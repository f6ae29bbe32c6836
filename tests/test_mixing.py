"""Two clips mixed into one, and the loss of labels in shares, against slow references."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional
from torch.utils.data import Dataset
from transformers import Trainer, TrainerCallback

from lora_deploy.config import settings_from
from lora_deploy.model.base import open_base
from lora_deploy.train.augment import Draw
from lora_deploy.train.learn import training_arguments
from lora_deploy.train.mixing import SoftLoss, draw_partner, mixed, target
from lora_deploy.train.tensors import Collate, Sample

WEIGHTS = np.array([0.5, 2.0, 1.25])


def test_a_mixed_clip_is_that_of_a_slow_loop() -> None:
    generator = np.random.default_rng(0)
    one, other = generator.normal(size=(2, 2, 3, 4, 5)).astype(np.float32)
    for share in (0.0, 0.3, 1.0):
        slow = [
            share * float(a) + (1 - share) * float(b)
            for a, b in zip(one.ravel(), other.ravel(), strict=True)
        ]
        fast = mixed(one, other, share)
        assert fast.dtype == np.float32
        np.testing.assert_allclose(fast.ravel(), slow, atol=1e-6)


def test_partners_and_shares_are_drawn_for_one_place_alone() -> None:
    drawn = [
        draw_partner(0.4, 10, Draw(0, epoch, place)) for epoch in range(9) for place in range(99)
    ]
    assert drawn[100] == draw_partner(0.4, 10, Draw(0, 1, 1))
    assert {partner for partner, _ in drawn} == set(range(10))
    shares = np.array([share for _, share in drawn])
    assert ((shares >= 0) & (shares <= 1)).all()
    # Beta(a, a) has mean 1/2 and variance 1 / (4 · (2a + 1)).
    assert abs(shares.mean() - 0.5) < 0.05
    assert abs(shares.var() - 1 / (4 * 1.8)) < 0.02
    assert len(set(shares.tolist())) > 850


def loss_slowly(
    logits: list[list[float]], shares: list[dict[int, float]], smoothing: float
) -> float:
    """As written in the papers, one number after the other."""
    total = 0.0
    for values, of_labels in zip(logits, shares, strict=True):
        log_sum = math.log(sum(math.exp(value) for value in values))
        for label, value in enumerate(values):
            share = (1 - smoothing) * of_labels.get(label, 0.0) + smoothing / len(values)
            total -= float(WEIGHTS[label]) * share * (value - log_sum)
    return total / len(logits)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_loss_is_that_of_a_slow_loop_and_that_of_torch(smoothing: float) -> None:
    logits = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    shares = [{0: 1.0}, {1: 0.3, 2: 0.7}, {2: 1.0}, {0: 0.5, 1: 0.5}, {1: 1.0}]
    targets = torch.stack([target(one, WEIGHTS, label_smoothing=smoothing) for one in shares])
    ours = SoftLoss(smoothing)({"logits": logits}, targets)
    assert float(ours) == pytest.approx(loss_slowly(logits.tolist(), shares, smoothing), rel=1e-5)
    plain = torch.zeros(5, 3)
    for row, of_labels in enumerate(shares):
        for label, share in of_labels.items():
            plain[row, label] = share
    theirs = functional.cross_entropy(
        logits, plain, weight=torch.tensor(WEIGHTS).float(), label_smoothing=smoothing,
        reduction="sum",
    )  # fmt: skip
    torch.testing.assert_close(ours * 5, theirs)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_clips_that_are_judged_all_weigh_the_same(smoothing: float) -> None:
    logits, labels = torch.randn(4, 3), torch.tensor([0, 2, 1, 1])
    loss = SoftLoss(smoothing)({"logits": logits}, labels, num_items_in_batch=4)
    theirs = functional.cross_entropy(logits, labels, label_smoothing=smoothing)
    torch.testing.assert_close(loss, theirs)


def test_half_precision_is_summed_up_in_whole_numbers() -> None:
    logits = torch.randn(3, 3).to(torch.bfloat16)
    targets = torch.eye(3)
    loss = SoftLoss(0.0)({"logits": logits}, targets)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, SoftLoss(0.0)({"logits": logits.float()}, targets))


# Gradients that are added up ---------------------------------------------------------------------


class Noise(Dataset[Sample]):
    """Clips of nothing, with labels in shares and weights of classes."""

    def __init__(self, shape: tuple[int, ...], clips: int) -> None:
        generator = torch.Generator().manual_seed(0)
        self._clips = torch.randn(clips, *shape, generator=generator)
        self._shares = torch.rand(clips, generator=generator).tolist()

    def __len__(self) -> int:
        return len(self._clips)

    def __getitem__(self, index: int) -> Sample:
        shares = {0: self._shares[index], 1: 1 - self._shares[index]}
        labels = target(shares, WEIGHTS[:2], label_smoothing=0.1)
        return {"pixel_values": self._clips[index], "labels": labels}


class KeepGradients(TrainerCallback):
    def on_pre_optimizer_step(self, *_: object, **kwargs: Any) -> None:
        self.found = {
            name: parameter.grad.clone()
            for name, parameter in kwargs["model"].named_parameters()
            if parameter.grad is not None
        }


@pytest.mark.parametrize(("clips", "batch_size"), [(4, 1), (3, 2)])
@pytest.mark.parametrize("model_type", ["videomae", "timesformer"])
def test_accumulated_gradients_are_those_of_the_whole_batch(
    tiny_bases: dict[str, Path], tmp_path: Path, model_type: str, clips: int, batch_size: int
) -> None:
    """Also where the last batch is smaller, on every architecture: our loss counts the clips."""

    def gradients(size: int) -> dict[str, torch.Tensor]:
        base = open_base(str(tiny_bases[model_type]), ["x", "y"])
        steps = math.ceil(clips / size)
        settings = settings_from(
            {"training": {"batch_size": size, "gradient_accumulation_steps": steps}}, where="test"
        ).training
        arguments = training_arguments(settings, tmp_path / str(size), use_cpu=True)
        arguments.eval_strategy = "no"
        arguments.max_steps = 1
        arguments.max_grad_norm = 0.0
        listening = KeepGradients()
        Trainer(
            model=base.model, args=arguments,
            train_dataset=Noise(base.contract.pixel_values_shape, clips),
            data_collator=Collate(model_type), callbacks=[listening],
            compute_loss_func=SoftLoss(0.1),
        ).train()  # fmt: skip
        return listening.found

    whole, parts = gradients(clips), gradients(batch_size)
    largest = max(float(tensor.abs().max()) for tensor in whole.values())
    assert largest > 1e-3
    for name, gradient in whole.items():
        torch.testing.assert_close(parts[name], gradient, rtol=1e-3, atol=1e-5 * largest)
