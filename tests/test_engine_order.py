"""Engines that are asked for: what is planned, and each impossible one refused before anything is built."""

import ctypes
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lora_deploy import cli
from lora_deploy.artifact import bundle
from lora_deploy.artifact.bundle import Flavour, Precision
from lora_deploy.errors import (
    BatchSizesError,
    BuildNeedsCardError,
    CardNotHereError,
    EngineError,
    FormNotMadeError,
    MissingPackageError,
    TargetMissingError,
    TargetNotBuiltError,
    TargetPrecisionError,
    UnknownCardError,
)
from lora_deploy.export import engine_order, plan, to_tensorrt
from lora_deploy.export.cards_here import cards_here
from lora_deploy.export.engine_order import (
    EngineOrder,
    Wish,
    batch_sizes_of,
    check_order,
    compute_capability_of,
    rtx_targets,
)
from lora_deploy.export.to_tensorrt import build
from lora_deploy.runtime.tensorrt_api import open_tensorrt


def order(
    card: str = "8.6",
    precision: Precision = "fp16",
    *,
    flavour: Flavour = "tensorrt-rtx",
    batch_sizes: tuple[int, ...] = (1,),
    wishes: tuple[Wish, ...] = (),
) -> EngineOrder:
    return EngineOrder(flavour, card, precision, batch_sizes, wishes)


@pytest.fixture
def card_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if a card of 8.6 were here, and ``tensorrt`` installed."""
    for module in (engine_order, plan):
        monkeypatch.setattr(module, "cards_here", lambda: ("8.6",))
    stand_in = SimpleNamespace(__version__="11.0")
    monkeypatch.setattr(
        engine_order,
        "open_tensorrt",
        lambda flavour: stand_in if flavour == "tensorrt" else open_tensorrt(flavour),
    )


IMPOSSIBLE: list[tuple[EngineOrder, type[EngineError], str]] = [
    (
        order("7.5", "fp32"), TargetPrecisionError,
        "no fp32 engine can be built for sm75: tensorrt-rtx has no float32 convolution or matrix "
        "product for it; it has fp16; take a precision that the target has, as in `--precision fp16`",
    ),
    (
        order("7.5", "bf16"), TargetPrecisionError,
        "no bf16 engine can be built for sm75: such cards do not know bfloat16; it has fp16",
    ),
    (
        order("8.6", "int8"), TargetPrecisionError,
        "no int8 engine is made: TensorRT takes integers that are symmetric around zero, and those "
        "of onnx/model.int8.onnx are not; there are fp32, fp16, bf16",
    ),
    (
        order("9.0"), TargetNotBuiltError,
        "compiles for sm75, sm80, sm86, sm89, sm120, sm121, not for sm90 (H100, H200); take a target "
        "that there is; on another card run the ONNX file (--backend onnxruntime-cuda), or compile "
        "where the card is, with `--flavour tensorrt`",
    ),
    (order("6.1"), TargetNotBuiltError, ", not for sm61; take a target that there is"),
    (
        order("8.6", wishes=("refit",)), BuildNeedsCardError,
        "refit: TensorRT builds such an engine only where a card is, and none is here; leave it out, "
        "or export on a computer with an NVIDIA card",
    ),
    (order("8.6", wishes=("refit", "strip-plan")), BuildNeedsCardError, "refit and strip-plan: "),
    (order(batch_sizes=()), BatchSizesError, "batch sizes are none; allowed: at least one"),
    (order(batch_sizes=(4, 4)), BatchSizesError, "batch sizes are 4, 4; allowed: at least one, each"),
    (order(batch_sizes=(0, 8)), BatchSizesError, "batch sizes are 0, 8; allowed: 1 to 4096"),
]  # fmt: skip


@pytest.mark.parametrize(("asked", "error", "said"), IMPOSSIBLE)
def test_what_is_impossible_is_refused_before_the_graph_is_read(
    asked: EngineOrder, error: type[EngineError], said: str
) -> None:
    with pytest.raises(error) as caught:
        build(Path("there is no such file"), asked)
    assert said in str(caught.value)


@pytest.mark.usefixtures("card_here")
@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (
            order("8.9", flavour="tensorrt"),
            "for the first card that is here, not for sm89; here is 8.6",
        ),
        (order("9.0", flavour="tensorrt"), "not for sm90; here is 8.6"),
    ],
)
def test_tensorrt_builds_for_no_other_card_than_the_one_that_is_here(
    asked: EngineOrder, said: str
) -> None:
    with pytest.raises(CardNotHereError) as caught:
        check_order(asked)
    assert said in str(caught.value)
    assert str(caught.value).endswith("compiles for cards that are not here")
    check_order(order("8.6", flavour="tensorrt"))


def test_of_several_cards_tensorrt_takes_the_first_on_which_it_builds(
    card_here: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (engine_order, plan):
        monkeypatch.setattr(module, "cards_here", lambda: ("8.6", "12.0"))
    found = planned([], ["fp16"], flavour="tensorrt")
    assert [one.compute_capability for one in found.engines] == ["8.6"]
    check_order(order("8.6", flavour="tensorrt"))
    with pytest.raises(CardNotHereError, match=r"not for sm120; here is 8\.6, 12\.0") as caught:
        check_order(order("12.0", flavour="tensorrt"))
    assert "CUDA_VISIBLE_DEVICES=1" in str(caught.value)


@pytest.mark.usefixtures("card_here")
def test_where_a_card_is_what_needs_one_can_be_asked_for() -> None:
    check_order(order("8.6", wishes=("refit", "strip-plan")))
    check_order(order("7.5", "fp32", flavour="tensorrt") if cards_here() else order())


def test_tensorrt_without_its_package_names_the_line_to_type() -> None:
    if cards_here():
        pytest.skip("a card is here")
    with pytest.raises(MissingPackageError, match=r'tensorrt is needed .*"lora-deploy\[gpu\]"'):
        check_order(order(flavour="tensorrt"))


def test_all_that_the_compiler_names_is_a_target() -> None:
    targets = rtx_targets(open_tensorrt("tensorrt-rtx").ComputeCapability)  # type: ignore[attr-defined]
    assert {"sm75", "sm80", "sm86", "sm89", "sm120"} <= set(targets)
    assert "sm90" not in targets
    for target in targets:
        check_order(order(compute_capability_of(target)))


@pytest.mark.parametrize(
    ("word", "capability"),
    [("sm86", "8.6"), ("SM120", "12.0"), ("sm_75", "7.5"), ("sm121", "12.1")],
)
def test_a_target_is_a_compute_capability(word: str, capability: str) -> None:
    assert compute_capability_of(word) == capability
    assert order(capability).target == word.lower().replace("_", "")


@pytest.mark.parametrize("word", ["rtx4090", "86", "8.6", "sm8", "sm1200", "sm", "sm86a", ""])
def test_an_unknown_target_is_told(word: str) -> None:
    with pytest.raises(UnknownCardError, match="is no kind of card; sm86 is one; `nvidia-smi"):
        compute_capability_of(word)


def test_sizes_of_batches_are_put_in_order() -> None:
    assert batch_sizes_of([8, 1, 4]) == (1, 4, 8)


def test_an_order_becomes_an_engine_of_the_manifest() -> None:
    made = order("8.6", "fp16", batch_sizes=(1, 8)).engine("1.7.1.116")
    assert made.name == "tensorrt-rtx-fp16-sm86"
    assert made.target == "sm86"
    assert made.file == "tensorrt/tensorrt-rtx-fp16-sm86.engine"
    assert made.made_of == bundle.HALF
    assert made.batch_sizes == (1, 8)


def planned(
    cards: Sequence[str],
    precisions: Sequence[str],
    targets: Sequence[str] = ("tensorrt",),
    **more: Any,
) -> plan.Plan:
    return plan.plan(targets, precisions, cards=cards, **more)


def test_every_card_gets_every_precision_and_the_graphs_are_proved_as_forms() -> None:
    found = planned(["sm86", "sm89"], ["fp32", "fp16", "bf16"])
    assert [(one.target, one.precision) for one in found.engines] == [
        ("sm86", "fp32"), ("sm86", "fp16"), ("sm86", "bf16"),
        ("sm89", "fp32"), ("sm89", "fp16"), ("sm89", "bf16"),
    ]  # fmt: skip
    assert [form.name for form in found.forms] == ["onnxruntime-fp32", "onnxruntime-fp16"]
    assert {one.batch_sizes for one in found.engines} == {(1, 4, 8)}
    assert found.left_out == ()
    assert not found.half_head
    assert planned(["sm86", "SM86"], ["fp16"], batch_sizes=[2]).engines == (
        order("8.6", "fp16", batch_sizes=(2,)),
    )


def test_an_engine_that_is_impossible_beside_others_is_left_out_aloud() -> None:
    found = planned(["sm75", "sm86"], ["fp32", "fp16", "bf16"])
    assert [one.precision for one in found.engines if one.target == "sm75"] == ["fp16"]
    assert len([one for one in found.engines if one.target == "sm86"]) == 3
    assert [sentence.split(":")[0] for sentence in found.left_out] == [
        "no fp32 engine can be built for sm75", "no bf16 engine can be built for sm75",
    ]  # fmt: skip
    assert found.half_head  # for its sake the one float16 graph has no float32 product


@pytest.mark.parametrize(
    ("cards", "precisions", "error"),
    [
        (["sm75"], ["fp32"], TargetPrecisionError),
        (["sm75", "sm86"], ["fp32"], TargetPrecisionError),
        (["sm75", "sm86"], ["fp32", "bf16"], TargetPrecisionError),
        (["sm86"], ["int8"], TargetPrecisionError),
        (["sm86"], ["fp16", "int8"], TargetPrecisionError),
        (["sm75"], ["fp16", "bf16"], TargetPrecisionError),
        ([], ["fp16"], TargetMissingError),
        (["h100"], ["fp16"], UnknownCardError),
    ],
)
def test_a_card_or_a_precision_that_would_get_no_engine_is_refused(
    cards: list[str], precisions: list[str], error: type[EngineError]
) -> None:
    with pytest.raises(error):
        planned(cards, precisions)


def test_int8_is_made_for_whoever_takes_it() -> None:
    found = planned(["sm86"], ["fp16", "int8"], ["onnx", "tensorrt"])
    assert [one.precision for one in found.engines] == ["fp16"]
    assert "onnxruntime-int8" in [form.name for form in found.forms]
    assert found.left_out[0].startswith("no int8 engine is made")


def test_cards_are_for_engines_only() -> None:
    with pytest.raises(
        FormNotMadeError, match="--target sm86 names cards, and --to onnx asks for no"
    ):
        planned(["sm86"], ["fp32"], ["onnx"])
    assert planned([], ["fp32"], ["onnx"]).engines == ()


@pytest.mark.usefixtures("card_here")
def test_tensorrt_takes_the_card_that_is_here() -> None:
    found = planned([], ["fp16"], flavour="tensorrt")
    assert [one.compute_capability for one in found.engines] == ["8.6"]


def test_tensorrt_without_a_card_is_refused() -> None:
    if cards_here():
        pytest.skip("a card is here")
    with pytest.raises(CardNotHereError, match="for the card that is here, and none is"):
        planned([], ["fp16"], flavour="tensorrt")


@pytest.mark.parametrize(
    ("options", "name"),
    [
        (["--to", "tensorrt"], "TargetMissingError"),
        (["--to", "onnx,tensorrt", "--target", "rtx"], "UnknownCardError"),
        (["--to", "tensorrt", "--target", "sm75"], "TargetPrecisionError"),
        (["--to", "tensorrt", "--target", "sm90", "--precision", "fp16"], "TargetNotBuiltError"),
        (["--to", "tensorrt", "--target", "sm86", "--batch-sizes", "4,4"], "BatchSizesError"),
    ],
)
def test_the_command_refuses_before_it_opens_anything(
    options: list[str], name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["merge-export", str(tmp_path), "--out", str(tmp_path / "out"), *options]
    assert cli.run(arguments) == 2
    assert capsys.readouterr().err.rstrip().endswith(f"[{name}]")
    assert not (tmp_path / "out").exists()


def test_batch_sizes_are_numbers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["merge-export", str(tmp_path), "--out", str(tmp_path / "out")]
    assert cli.run([*arguments, "--batch-sizes", "1,many"]) == 2
    assert "'1,many' are no numbers with commas" in capsys.readouterr().err


def test_tensorrt_is_needed_only_where_engines_are_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from lora_deploy import extras

    installed = extras.is_installed
    monkeypatch.setattr(
        extras, "is_installed", lambda one: one != "tensorrt_rtx" and installed(one)
    )
    arguments = ["merge-export", str(tmp_path), "--out", str(tmp_path / "out")]
    assert cli.run([*arguments, "--to", "onnx"]) == 2
    assert "[NotAModelError]" in capsys.readouterr().err  # TensorRT is not missed
    assert cli.run([*arguments, "--to", "onnx,tensorrt", "--target", "sm86"]) == 2
    assert 'pip install "lora-deploy[rtx]"' in capsys.readouterr().err


class StandInDriver:
    """Answers as a driver with two cards does: no real one is asked."""

    def __init__(self, *, started: int = 0) -> None:
        self.started = started

    def cuInit(self, _: int) -> int:
        return self.started

    def cuDeviceGetCount(self, count: Any) -> int:
        ctypes.cast(count, ctypes.POINTER(ctypes.c_int))[0] = 2
        return 0

    def cuDeviceGetAttribute(self, value: Any, number: int, index: int) -> int:
        found = {(75, 0): 8, (76, 0): 6, (75, 1): 12, (76, 1): 0}[number, index]
        ctypes.cast(value, ctypes.POINTER(ctypes.c_int))[0] = found
        return 0


def test_cards_are_asked_of_the_driver() -> None:
    def no_driver(_: str) -> Any:
        raise OSError("libcuda.so.1: cannot open shared object file")

    assert cards_here(no_driver) == ()
    assert cards_here(lambda _: StandInDriver(started=100)) == ()
    assert cards_here(lambda _: StandInDriver()) == ("8.6", "12.0")


class StandInCache:
    def __init__(self, content: bytes) -> None:
        self.content = content

    def serialize(self) -> bytes:
        return self.content + b", and now"


class StandInConfig:
    """Takes a timing cache as ``tensorrt`` does; one that is stale it refuses."""

    def __init__(self) -> None:
        self.taken: StandInCache | None = None

    def create_timing_cache(self, content: bytes) -> StandInCache:
        return StandInCache(content)

    def set_timing_cache(self, cache: StandInCache, ignore_mismatch: bool) -> bool:
        assert not ignore_mismatch
        if cache.content == b"stale":
            return False
        self.taken = cache
        return True

    def get_timing_cache(self) -> StandInCache:
        assert self.taken is not None
        return self.taken


@pytest.mark.parametrize(
    ("before", "after"),
    [(None, b", and now"), (b"measured", b"measured, and now"), (b"stale", b", and now")],
)
def test_what_was_timed_on_a_card_is_kept(
    before: bytes | None, after: bytes, tmp_path: Path
) -> None:
    file = tmp_path / "cache" / "timing-sm86"
    if before is not None:
        file.parent.mkdir()
        file.write_bytes(before)
    config: Any = StandInConfig()
    keep = to_tensorrt._remembering(config, file)
    assert keep is not None
    assert file.is_file() is (before is not None)
    keep()
    assert file.read_bytes() == after
    assert to_tensorrt._remembering(config, None) is None
