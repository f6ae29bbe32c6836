"""Classes of unequal size are made to count alike, in the loss or in what is drawn."""

from collections import Counter

import numpy as np
import pytest

from lora_deploy.train.balance import balanced_order, balanced_weights

CLASSES = [0] * 7 + [2] * 2 + [1] * 4 + [0] * 5


def test_all_classes_weigh_alike_and_the_mean_clip_weighs_one() -> None:
    weights = balanced_weights(CLASSES, 3)
    in_all = {number: sum(weights[one] for one in CLASSES if one == number) for number in range(3)}
    for total in in_all.values():
        assert total == pytest.approx(len(CLASSES) / 3)
    assert np.mean([weights[one] for one in CLASSES]) == pytest.approx(1)


def test_a_class_without_a_clip_weighs_nothing_and_takes_nothing_from_the_others() -> None:
    with np.errstate(all="raise"):
        weights = balanced_weights([0, 0, 2], 3)
    assert weights.tolist() == pytest.approx([0.75, 0, 1.5])


def test_an_epoch_has_as_many_clips_of_each_class_and_as_many_as_before() -> None:
    ones = set()
    for epoch in range(60):
        order = balanced_order(CLASSES, seed=0, epoch=epoch)
        assert len(order) == len(CLASSES) == 18
        assert Counter(CLASSES[clip] for clip in order) == {0: 6, 1: 6, 2: 6}
        more = Counter(
            CLASSES[:-1][clip] for clip in balanced_order(CLASSES[:-1], seed=0, epoch=epoch)
        )
        assert sorted(more.values()) == [5, 6, 6]
        ones.add(min(more, key=lambda number: more[number]))
    assert ones == {0, 1, 2}  # which class gets less is drawn too


def test_no_clip_is_drawn_again_before_all_of_its_class_were() -> None:
    for epoch in range(30):
        times = Counter(balanced_order(CLASSES, seed=1, epoch=epoch).tolist())
        for number in range(3):
            drawn = [times[clip] for clip, one in enumerate(CLASSES) if one == number]
            assert max(drawn) - min(drawn) <= 1


def test_every_clip_of_a_large_class_has_its_turn() -> None:
    drawn = {
        int(clip) for epoch in range(20) for clip in balanced_order(CLASSES, seed=0, epoch=epoch)
    }
    assert drawn == set(range(len(CLASSES)))


def test_the_order_is_that_of_its_seed_and_epoch() -> None:
    def order(seed: int, epoch: int) -> list[int]:
        return [int(clip) for clip in balanced_order(CLASSES, seed=seed, epoch=epoch)]

    assert order(3, 5) == order(3, 5)
    assert order(3, 5) != order(3, 6)
    assert order(3, 5) != order(4, 5)
