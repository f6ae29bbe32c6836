"""Labels in shares: two clips mixed into one (Zhang et al. 2018, arXiv:1710.09412), and the loss for that."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from lora_deploy.train.augment import Draw

_MIXING = 6
"""The stream of random numbers; `augment` and `balance` have those before it."""


def draw_partner(alpha: float, clips: int, draw: Draw) -> tuple[int, float]:
    """The place of the clip that is mixed in, any of ``clips``, and the share of the one that is kept.

    Both are drawn for one place alone and not for a batch, so that neither the size of a batch nor
    the number of processes changes a figure. The share is drawn from Beta(alpha, alpha).
    """
    generator = draw.stream(_MIXING)
    share = float(generator.beta(alpha, alpha))
    return int(generator.integers(clips)), share


def mixed(
    one: NDArray[np.float32], other: NDArray[np.float32], share: float
) -> NDArray[np.float32]:
    """``share`` of one and the rest of the other, float32 of any one shape."""
    kept = np.float32(share)
    return one * kept + other * (np.float32(1) - kept)


def target(
    shares: dict[int, float],
    weights: NDArray[np.float64],
    *,
    label_smoothing: float,
) -> torch.Tensor:
    """What a clip teaches: of each label its share, smoothed, times the weight of its class.

    The loss is then the same as torch's ``cross_entropy`` of soft labels with these weights and
    this smoothing, clip by clip.

    Args:
        shares: By index of the label, 1 in all.
        weights: float64 [labels].
        label_smoothing: This part is spread evenly over all labels.

    Returns:
        float32 [labels]; the sum is 1 where all weights are.
    """
    values = np.full(len(weights), label_smoothing / len(weights))
    for label, share in shares.items():
        values[label] += (1 - label_smoothing) * share
    return torch.from_numpy((values * weights).astype(np.float32))


class SoftLoss:
    """Cross-entropy for `target`, in the words in which Trainer asks for a loss.

    Of clips that are judged and not learned from the labels are plain numbers: they all weigh 1.
    """

    def __init__(self, label_smoothing: float) -> None:
        """``label_smoothing`` is for plain labels; in a target it is already."""
        self._label_smoothing = label_smoothing

    def __call__(
        self,
        outputs: Any,
        labels: torch.Tensor,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> torch.Tensor:
        """The loss, summed over the clips and divided by their number.

        Args:
            outputs: Of a model; its ``logits`` are [clips, labels].
            labels: Targets [clips, labels] float32, or indices [clips] int64.
            num_items_in_batch: How many numbers ``labels`` had in all batches, on all processes,
                whose gradients are added up; None: as many as here.
        """
        logits = outputs["logits"].float()
        if labels.is_floating_point():
            loss = -(labels * functional.log_softmax(logits, dim=-1)).sum()
        else:
            loss = functional.cross_entropy(
                logits, labels, label_smoothing=self._label_smoothing, reduction="sum"
            )
        numbers = labels.numel() if num_items_in_batch is None else num_items_in_batch
        return loss / (numbers * labels.shape[0] / labels.numel())
