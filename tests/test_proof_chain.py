"""The chain step by step: what is void, what is kept in higher precision, and which block is to blame."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest

from lora_deploy.clips.contract import PixelContract
from lora_deploy.config import ProofSettings
from lora_deploy.export.blocks import block_of, block_outputs
from lora_deploy.export.departure import Departure, departures, first_departing
from lora_deploy.export.half import in_half
from lora_deploy.export.lower import CLIPS_TO_LOOK_INTO, prove_lower
from lora_deploy.export.quantize import in_int8
from lora_deploy.export.verify import ALIVE_FACTOR, liveness_of, mark_skipped
from lora_deploy.proof.answers import Answers, Form
from lora_deploy.proof.certificate import Certificate, Liveness
from lora_deploy.proof.chain import Chain, budgets_of
from tests.test_proof_faults import ruin
from tests.tiny_graphs import MODEL_TYPES, pixels_of

LABELS = ("bend", "jump")
CONTRACT = PixelContract(frames=4, short_side=32, crop_height=32, crop_width=32)


class FewClips:
    """Ten clips that nobody decodes."""

    def __init__(self, clips: int = 10) -> None:
        self.readable = list(range(clips))
        self.left_out: list[str] = []
        self.named = [(f"{index}.mp4", LABELS[index % 2]) for index in range(clips)]

    def records(self) -> tuple[()]:
        return ()


def chain_of(first: np.ndarray, **options: object) -> Chain:
    chain = Chain(
        FewClips(len(first)), LABELS, budgets=budgets_of(ProofSettings()), **options  # type: ignore[arg-type]
    )  # fmt: skip
    put(chain, "unmerged", first)
    return chain


def put(chain: Chain, name: str, logits: np.ndarray, **options: object) -> None:
    values = {"precision": "fp32", "labels": LABELS, "noise": logits[:2], **options}
    chain.answers[name] = Answers(form=name, logits=logits.astype(np.float32), **values)  # type: ignore[arg-type]


def alternating(clips: int = 10) -> np.ndarray:
    return np.array([[2.0, 0.0], [0.0, 2.0]] * (clips // 2))


def certificate_of(chain: Chain, **options: object) -> Certificate:
    values = {"source": "test", "liveness": None, **options}
    return chain.certificate(**values)  # type: ignore[arg-type]


# What a certificate says --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("first_label", "share", "is_void"),
    [
        (9, 0.9, False),
        (10, 0.9, True),
        (1, 0.9, False),
        (0, 0.9, True),
        (10, 1.0, False),
        (6, 0.5, True),
    ],
)
def test_more_of_one_label_than_is_allowed_is_void(
    first_label: int, share: float, is_void: bool
) -> None:
    chain = chain_of(
        np.array([[2.0, 0.0]] * first_label + [[0.0, 2.0]] * (10 - first_label)),
        largest_share=share,
    )
    found = certificate_of(chain)
    assert (found.void is not None) is is_void
    assert found.verdict == ("void" if is_void else "proved")
    assert found.passed is not is_void
    if is_void:
        most = max(first_label, 10 - first_label)
        label = LABELS[first_label < 5]
        assert f"the model names {label} for {most} of 10 clips" in found.objections[0]
        assert f"at most {share:.0%} may get one label (proof.largest_share)" in found.objections[0]


def test_labels_in_another_order_are_an_objection_however_well_they_agree() -> None:
    chain = chain_of(alternating())
    put(chain, "onnx", alternating(), labels=LABELS[::-1])
    chain.links.append(chain.compare("unmerged", "onnx"))
    found = certificate_of(chain)
    assert chain.links[0].passed
    assert found.verdict == "failed"
    assert found.objections == (
        "onnx names other labels, or in another order, than unmerged: ['jump', 'bend'] instead of "
        "['bend', 'jump']",
    )


def test_a_dead_adapter_and_every_other_objection_fails_it() -> None:
    chain = chain_of(alternating())
    dead = Liveness(largest_logit_difference=1e-6, needed=1e-4, passed=False)
    assert "the adapter is dead" in certificate_of(chain, liveness=dead).objections[0]
    assert not certificate_of(chain, objections=["too slow"]).passed
    assert certificate_of(chain).passed


def test_answers_are_written_so_that_they_come_back_to_the_bit() -> None:
    logits = np.random.default_rng(0).normal(size=(10, 2)).astype(np.float32)
    chain = chain_of(logits)
    found = Certificate.model_validate_json(certificate_of(chain).model_dump_json())
    np.testing.assert_array_equal(np.array(found.logits["unmerged"], np.float32), logits)


def test_accuracy_and_counts_are_of_the_true_labels() -> None:
    logits = alternating()
    logits[0] = [0.0, 2.0]
    found = certificate_of(chain_of(logits))
    assert found.accuracy == {"unmerged": 0.9}
    assert found.answered == {"bend": 4, "jump": 6}


def test_temperature_is_what_probabilities_are_compared_at() -> None:
    chain = chain_of(alternating())
    put(chain, "onnx", alternating() * 1.5)
    cold = chain.compare("unmerged", "onnx").largest_probability_difference
    chain.temperature = 5.0
    warm = chain.compare("unmerged", "onnx").largest_probability_difference
    assert warm == pytest.approx(abs(1 / (1 + np.exp(-0.6)) - 1 / (1 + np.exp(-0.4))))
    assert cold != pytest.approx(warm)


@pytest.mark.parametrize(
    ("changed", "merging", "alive"), [(0.01, 0.0, True), (9e-5, 0.0, False), (0.01, 2e-4, False), (0.03, 2e-4, True)]
)  # fmt: skip
def test_an_adapter_must_change_far_more_than_merging_does(
    changed: float, merging: float, alive: bool
) -> None:
    chain = chain_of(alternating())
    put(chain, "merged", alternating() + np.array([2 * merging, 0.0]))
    link = chain.compare("unmerged", "merged").model_copy(update={"passed": True})
    off = alternating() + np.array([changed, 0.0])
    found = liveness_of(alternating().astype(np.float32), off.astype(np.float32), link)
    assert found.passed is alive
    assert ALIVE_FACTOR == 100


# Lower precision ----------------------------------------------------------------------------------


class Lowering:
    """Blocks add errors to a form until they are kept."""

    def __init__(self, chain: Chain, errors: Mapping[str, float], *, helps: bool = True) -> None:
        self.chain, self.errors, self.helps = chain, errors, helps
        self.tries: list[tuple[str, ...]] = []
        self.rows: list[np.ndarray] = []
        chain.ask = self.ask  # type: ignore[method-assign]

    def make(self, keep: Collection[str]) -> None:
        self.tries.append(tuple(keep))

    def ask(self, form: Form, opened: object = None) -> Answers:
        kept = self.tries[-1] if self.tries and self.helps else ()
        error = sum(one for block, one in self.errors.items() if block not in kept)
        put(
            self.chain,
            form.name,
            self.chain.first.logits + np.array([-error, error]),
            precision="int8",
        )
        return self.chain.answers[form.name]

    def departing(self, form: Form, rows: np.ndarray) -> list[Departure]:
        self.rows.append(rows)
        kept, total, found = self.tries[-1] if self.tries else (), 0.0, []
        for block, one in self.errors.items():
            added = 0.0 if block in kept and self.helps else one
            total += added
            found.append(Departure(block, total, added))
        return found

    def prove(self, *, most_kept: int = 3, forms: Sequence[str] = ("int8",), fixed: bool = False):  # type: ignore[no-untyped-def]
        return prove_lower(
            self.chain,
            [Form(name, lambda: SimpleNamespace(), "int8") for name in forms],
            make=None if fixed else self.make,
            departing=self.departing,
            most_kept=most_kept,
        )


def test_a_form_within_its_budget_is_made_once() -> None:
    lowering = Lowering(chain_of(alternating()), {"one": 0.01})
    (link,) = lowering.prove()
    assert (link.passed, link.kept, link.departs, lowering.tries) == (True, (), None, [()])
    assert lowering.rows == []


def test_what_adds_most_is_kept_first_and_then_the_next() -> None:
    lowering = Lowering(chain_of(alternating()), {"one": 0.6, "two": 2.0, "three": 0.01})
    (link,) = lowering.prove()
    assert lowering.tries == [(), ("two",), ("two", "one")]
    assert (link.passed, link.kept, link.departs) == (True, ("two", "one"), None)


def test_no_more_blocks_are_kept_than_allowed() -> None:
    for most in (0, 1):
        lowering = Lowering(chain_of(alternating()), {"one": 0.6, "two": 2.0, "three": 0.01})
        (link,) = lowering.prove(most_kept=most)
        assert len(lowering.tries) == most + 1
        assert not link.passed
        assert link.kept == lowering.tries[-1]
        assert link.departs == ("two" if most == 0 else "one")


def test_what_can_not_help_is_not_tried_for_ever() -> None:
    lowering = Lowering(chain_of(alternating()), {"one": 2.0, "two": 2.0}, helps=False)
    (link,) = lowering.prove(most_kept=1000)
    assert not link.passed
    assert len(lowering.tries) == 3


def test_where_the_runtime_rounds_nothing_can_be_kept() -> None:
    lowering = Lowering(chain_of(alternating()), {"one": 2.0})
    (link,) = lowering.prove(fixed=True)
    assert (link.passed, link.departs, lowering.tries) == (False, "one", [])


def test_one_form_over_budget_makes_all_of_its_file_anew() -> None:
    lowering = Lowering(chain_of(alternating()), {"one": 2.0})
    links = lowering.prove(forms=("a", "b"))
    assert [link.kept for link in links] == [("one",), ("one",)]
    assert all(link.passed for link in links)


def test_the_clips_that_differ_most_are_looked_into() -> None:
    chain = chain_of(alternating())
    lowering = Lowering(chain, {"one": 0.0})
    answers = chain.first.logits.copy()
    answers[7] += [-9, 9]
    answers[2] += [-5, 5]
    answers[4] = np.nan

    def ask(form: Form, opened: object = None) -> Answers:
        put(chain, form.name, answers, precision="int8")
        return chain.answers[form.name]

    chain.ask = ask  # type: ignore[method-assign]
    with np.errstate(all="ignore"):
        (link,) = lowering.prove(fixed=True)
    assert not link.passed
    assert lowering.rows[0].tolist()[:2] == [4, 2]
    assert len(lowering.rows[0]) == CLIPS_TO_LOOK_INTO


@pytest.mark.parametrize(
    ("added", "named"),
    [([0.1, 0.5, 0.2], "b"), ([0.3, 0.5, 0.2], "a"), ([0.0, np.inf, np.nan], "b"), ([np.nan, 0.1, 0.5], "c"), ([-1, -0.5, -0.7], "b")],
)  # fmt: skip
def test_the_first_of_those_that_add_most_is_named(added: list[float], named: str) -> None:
    found = [Departure(block, 1.0, one) for block, one in zip("abc", added, strict=True)]
    assert first_departing(found).block == named


# Blocks -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_the_ruined_block_of_each_architecture_is_named(
    model_type: str,
    backend: str,
    tiny_graphs: Mapping[str, onnx.ModelProto],
    real_frames: list[np.ndarray],
    tmp_path: Path,
) -> None:
    plain = tiny_graphs[model_type]
    pixels = pixels_of(plain, real_frames)
    onnx.save(in_int8(plain, iter(pixels[:6])), tmp_path / "int8.onnx")
    block = next(one for one in block_outputs(plain) if one.endswith(".0"))
    assert ruin(tmp_path / "int8.onnx", block)
    found = departures(
        plain, onnx.load(tmp_path / "int8.onnx"), np.concatenate(pixels[13:15]),
        backend=backend, precision="int8",  # type: ignore[arg-type]
    )  # fmt: skip
    assert first_departing(found).block == block


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_what_stays_in_float32_is_never_to_blame(
    model_type: str, tiny_graphs: Mapping[str, onnx.ModelProto], real_frames: list[np.ndarray]
) -> None:
    """The head is not made of integers, and yet errors look larger behind it."""
    plain = tiny_graphs[model_type]
    pixels = pixels_of(plain, real_frames[:2])
    for lower in (in_int8(plain, iter(pixels)), in_half(plain)):
        found = departures(plain, lower, pixels[0], backend="onnxruntime", precision="int8")
        named = [one.block for one in found]
        assert named
        assert not {"classifier", "fc_norm"} & set(named)
        assert named == [one for one in block_outputs(plain) if one in named]
    kept = block_of(f"{named[0]}/")
    assert kept is not None
    found = departures(
        plain, in_int8(plain, iter(pixels), [kept]), pixels[0], backend="onnxruntime", precision="int8"
    )  # fmt: skip
    assert kept not in [one.block for one in found]


def test_where_the_runtime_rounds_every_block_counts(
    tiny_graphs: Mapping[str, onnx.ModelProto], real_frames: list[np.ndarray]
) -> None:
    plain = tiny_graphs["videomae"]
    (pixels,) = pixels_of(plain, real_frames[:1])
    found = departures(plain, plain, pixels, backend="openvino", precision="fp32")
    assert [one.block for one in found] == list(block_outputs(plain))
    assert max(one.error for one in found) < 1e-5


def test_a_form_that_answers_as_the_base_is_refused_within_every_budget() -> None:
    """The adapter is alive and changes less than float32 forms may differ by."""
    off = alternating()
    on = off + 2e-4 * (off > 0)
    chain = chain_of(on)
    put(chain, "onnx", off)
    put(chain, "merged", on)
    chain.links = [chain.compare("unmerged", name) for name in ("onnx", "merged")]
    assert all(link.passed for link in chain.links)
    mark_skipped(chain, off.astype(np.float32))
    assert [link.passed for link in chain.links] == [False, True]
    assert "the adapter was skipped" in certificate_of(chain).objections[0]


def test_a_proof_on_the_few_clips_that_can_be_decoded_is_refused() -> None:
    chain = chain_of(alternating())
    chain.clips.left_out[:] = [f"{index}.mp4: torn" for index in range(10)]
    assert certificate_of(chain).passed
    chain.clips.left_out.append("10.mp4: torn")
    assert "11 clips can't be decoded and 10 can" in certificate_of(chain).objections[0]
