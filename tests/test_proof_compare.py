"""Two forms' answers compared: each figure against a plain computation, and no NaN ever passes."""

import math

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies
from hypothesis.extra import numpy as arrays

from lora_deploy.artifact.bundle import PRECISIONS, Precision
from lora_deploy.config import load_settings, settings_from
from lora_deploy.proof.certificate import Budget, Link
from lora_deploy.proof.chain import budgets_of, link_objections
from lora_deploy.proof.compare import compare, kl_divergence

LABELS = ("bend", "jump", "wave")
ANYTHING = Budget(agreement=0, largest_difference=1, mean_kl=1e9)
NOTHING = Budget(agreement=1, largest_difference=0, mean_kl=0)


def held(
    one: np.ndarray,
    other: np.ndarray,
    budget: Budget = ANYTHING,
    *,
    truths: tuple[str, ...] | None = None,
    temperature: float = 1.0,
    unknown_threshold: float | None = None,
) -> Link:
    truths = truths or tuple(LABELS[row % 3] for row in range(len(one)))
    return compare(
        ("unmerged", "other"),
        one.astype(np.float32),
        other.astype(np.float32),
        labels=LABELS,
        clips=[(f"clip{row}.mp4", truth) for row, truth in enumerate(truths)],
        precision="fp16",
        budget=budget,
        temperature=temperature,
        unknown_threshold=unknown_threshold,
    )


def plain_softmax(row: np.ndarray, temperature: float) -> list[float]:
    raised = [math.exp(float(value) / temperature) for value in row]
    return [value / sum(raised) for value in raised]


def plain_kl(p: list[float], q: list[float]) -> float:
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))


@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_every_figure_is_that_of_a_plain_computation(temperature: float) -> None:
    generator = np.random.default_rng(4)
    one = generator.normal(size=(12, 3)).astype(np.float32)
    other = (one + generator.normal(scale=0.5, size=(12, 3))).astype(np.float32)
    link = held(one, other, temperature=temperature)
    right = [plain_softmax(row, temperature) for row in one]
    found = [plain_softmax(row, temperature) for row in other]
    differences = [
        [abs(a - b) for a, b in zip(p, q, strict=True)] for p, q in zip(right, found, strict=True)
    ]
    divergences = [plain_kl(p, q) for p, q in zip(right, found, strict=True)]
    flipped = [
        row for row in range(12) if max(range(3), key=right[row].__getitem__)
        != max(range(3), key=found[row].__getitem__)
    ]  # fmt: skip
    assert 0 < len(flipped) < 12
    assert link.agreement == pytest.approx(1 - len(flipped) / 12)
    assert [flip.clip for flip in link.flips] == [f"clip{row}.mp4" for row in flipped]
    assert link.largest_probability_difference == pytest.approx(max(map(max, differences)))
    assert link.mean_probability_difference == pytest.approx(sum(map(sum, differences)) / 36)
    assert link.mean_kl == pytest.approx(sum(divergences) / 12)
    assert link.largest_kl == pytest.approx(max(divergences))
    for place, label in enumerate(LABELS):
        (mine,) = (row for row in link.per_class if row.label == label)
        rows = range(place, 12, 3)
        assert mine.clips == 4
        assert mine.agreement == pytest.approx(sum(row not in flipped for row in rows) / 4)
        assert mine.largest_difference == pytest.approx(max(max(differences[row]) for row in rows))
        assert mine.mean_difference == pytest.approx(
            sum(sum(differences[row]) for row in rows) / 12
        )


def test_a_flip_tells_both_labels_the_truth_and_by_how_much_the_first_was_sure() -> None:
    one, other = np.array([[2.0, 1.0, 0.0]]), np.array([[1.0, 2.0, 0.0]])
    (flip,) = held(one, other, truths=("wave",)).flips
    assert (flip.truth, flip.labels) == ("wave", ("bend", "jump"))
    right = plain_softmax(one[0], 1.0)
    assert flip.margin == pytest.approx(right[0] - right[1])


def test_a_constant_that_changes_no_probability_is_no_difference() -> None:
    """A graph that gives probabilities has lost it."""
    one = np.array([[2.0, 1.0, 0.0], [0.5, 3.0, 1.0]])
    link = held(one, one + np.array([[5.0], [-3.0]]), NOTHING.model_copy(update={"mean_kl": 1e-9}))
    assert link.largest_logit_difference == pytest.approx(0, abs=1e-6)
    assert held(one, one + np.array([1.0, 0, 0])).largest_logit_difference == pytest.approx(0.5)


def test_classes_without_clips_are_not_listed() -> None:
    one = np.zeros((2, 3))
    assert [row.label for row in held(one, one, truths=("wave", "bend")).per_class] == [
        "bend",
        "wave",
    ]


@pytest.mark.parametrize(
    ("budget", "passes"),
    [
        (Budget(agreement=0.5, largest_difference=1, mean_kl=9), True),
        (Budget(agreement=0.51, largest_difference=1, mean_kl=9), False),
        (Budget(agreement=0, largest_difference=0.4, mean_kl=9), False),
        (Budget(agreement=0, largest_difference=1, mean_kl=0.1), False),
    ],
    ids=["within", "agreement", "largest difference", "divergence"],
)
def test_each_part_of_a_budget_is_asked_for(budget: Budget, passes: bool) -> None:
    one = np.array([[2.0, 0, 0], [2.0, 0, 0]])
    other = np.array([[2.0, 0, 0], [0, 2.0, 0]])
    link = held(one, other, budget)
    assert link.passed is passes
    assert (link_objections(link) == []) is passes
    if not passes:
        (said,) = link_objections(link)
        assert "other answers differently from unmerged: 1 clips get another label" in said


def test_the_same_answers_pass_where_nothing_may_differ() -> None:
    one = np.random.default_rng(0).normal(size=(5, 3))
    assert held(one, one, NOTHING).passed


NO_NUMBERS = (float("nan"), float("inf"), float("-inf"))


@hypothesis.given(
    logits=arrays.arrays(
        np.float32, (4, 3), elements=strategies.floats(-50, 50, width=32)
    ),
    places=strategies.sets(strategies.integers(0, 11), min_size=1),
    value=strategies.sampled_from(NO_NUMBERS),
    precision=strategies.sampled_from(PRECISIONS),
)  # fmt: skip
@hypothesis.settings(max_examples=150, deadline=None)
def test_no_form_that_answers_no_number_passes(
    logits: np.ndarray, places: set[int], value: float, precision: Precision
) -> None:
    spoilt = logits.copy()
    spoilt.reshape(-1)[list(places)] = value
    with np.errstate(all="ignore"):
        for one, other in ((logits, spoilt), (spoilt, logits), (spoilt, spoilt)):
            for budget in (budgets_of(settings_from({}, where="test").proof)[precision], ANYTHING):
                link = held(one, other, budget)
                assert not link.passed
                assert link_objections(link)


def test_divergence_is_never_below_nothing_and_bears_a_probability_of_nothing() -> None:
    p = np.array([[1.0, 0.0], [0.5, 0.5]])
    found = kl_divergence(p, np.array([[0.0, 1.0], [0.5, 0.5]]))
    assert found[0] == pytest.approx(math.log(1e12), rel=1e-6)
    assert found[1] == 0
    assert np.isnan(kl_divergence(np.array([[np.nan, 1.0]]), p[:1])).all()


@hypothesis.given(
    arrays.arrays(np.float64, (2, 5), elements=strategies.floats(1e-6, 1.0)),
)
@hypothesis.settings(max_examples=60, deadline=None)
def test_divergence_is_that_of_the_book(raw: np.ndarray) -> None:
    p, q = raw / raw.sum(axis=1, keepdims=True)
    expected = plain_kl(list(p), list(q))
    assert kl_divergence(p[None], q[None])[0] == pytest.approx(expected, abs=1e-12)


def test_one_budget_from_the_command_line_leaves_the_others_as_they_were() -> None:
    usual = budgets_of(load_settings().proof)
    changed = budgets_of(load_settings(None, ["proof.int8.agreement=0.9"]).proof)
    assert changed["int8"] == usual["int8"].model_copy(update={"agreement": 0.9})
    assert changed["int8"].largest_difference == 0.35
    assert {name: changed[name] for name in changed if name != "int8"} == {
        name: usual[name] for name in usual if name != "int8"
    }
    assert usual["fp32"] == Budget(agreement=1.0, largest_difference=1e-4, mean_kl=1e-6)


def test_what_is_no_number_is_told_as_such() -> None:
    one = np.zeros((2, 3))
    with np.errstate(all="ignore"):
        link = held(one, np.where(np.eye(2, 3), -np.inf, 0), ANYTHING)
    assert link_objections(link) == ["unmerged or other answers NaN or infinity to a clip"]


def test_where_there_is_a_threshold_what_users_are_told_must_agree() -> None:
    """A form that is a little less sure calls every clip unknown, though its labels agree."""
    one = np.log(np.array([[0.91, 0.05, 0.04]] * 4))
    other = np.log(np.array([[0.89, 0.06, 0.05]] * 4))
    budget = Budget(agreement=0.98, largest_difference=0.35, mean_kl=0.02)
    assert held(one, other, budget).passed
    link = held(one, other, budget, unknown_threshold=0.9)
    assert (link.agreement, link.unknown_changes, link.passed) == (1, 4, False)
    assert "4 clips turn from known to unknown or back" in link_objections(link)[0]
    assert held(one, other, budget, unknown_threshold=0.95).passed  # both say unknown


def test_as_many_clips_may_turn_as_are_unknown_by_choice() -> None:
    one = np.log(np.array([[0.5, 0.3, 0.2], [0.91, 0.05, 0.04], [0.99, 0.005, 0.005]]))
    other = np.log(np.array([[0.5, 0.3, 0.2], [0.89, 0.06, 0.05], [0.99, 0.005, 0.005]]))
    budget = Budget(agreement=0.98, largest_difference=0.35, mean_kl=0.02)
    link = held(one, other, budget, unknown_threshold=0.9)
    assert (link.unknown_changes, link.passed) == (1, True)
    exact = budget.model_copy(update={"agreement": 1.0})
    assert not held(one, other, exact, unknown_threshold=0.9).passed


def test_a_form_that_skips_the_adapter_fails_however_little_the_adapter_changes() -> None:
    link = held(np.zeros((3, 3)), np.zeros((3, 3)))
    assert link.passed
    assert link_objections(link) == []
    skipped = link.model_copy(update={"adapter_skipped": True})
    assert "the adapter was skipped" in link_objections(skipped)[0]
