"""PyTorch in bfloat16: on a card alone, and by nobody else; here the processor stands in for the card."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.attention import sdpa_kernel

from lora_deploy import cli
from lora_deploy.clips import transforms
from lora_deploy.errors import BackendCannotError, PrecisionNotHereError
from lora_deploy.runtime import eager
from lora_deploy.runtime.eager import ATTENTION, TorchOnCard, check_precision
from lora_deploy.runtime.load import load
from lora_deploy.runtime.trained import open_run

CPU = torch.device("cpu")


@pytest.mark.parametrize("which", ["lora_run", "bundle"])
def test_bfloat16_is_refused_on_the_processor(
    which: str, request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = request.getfixturevalue(which)
    with pytest.raises(PrecisionNotHereError, match=r"in bf16 on an NVIDIA card .* runs on cpu"):
        load(folder, backend="torch", device="cpu", precision="bf16")
    command = ["--backend", "torch", "--device", "cpu", "--precision", "bf16"]
    assert cli.run(["classify", str(folder), "clip.mp4", *command]) == 2
    printed = capsys.readouterr()
    assert len(printed.err.strip().splitlines()) == 1
    assert printed.out == ""


def test_a_card_without_bfloat16_is_refused_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: False)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "Old Card 7")
    with pytest.raises(PrecisionNotHereError, match="Old Card 7 does not compute in bfloat16"):
        check_precision("bf16", torch.device("cuda"))
    check_precision("fp32", torch.device("cuda"))


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_no_other_low_precision_is_run_by_pytorch(precision: str, bundle: Path) -> None:
    with pytest.raises(BackendCannotError, match=f"in bf16, not in {precision}"):
        load(bundle, backend="torch", precision=precision)


def on_card(folder: Path, **options: Any) -> TorchOnCard:
    opened = open_run(folder)
    return TorchOnCard(
        opened.model, opened.contract, form="unmerged", batch_size=2, device=CPU, **options
    )


@pytest.fixture
def frames(lora_run: Path) -> np.ndarray:
    shape = (2, *open_run(lora_run).contract.frames_shape)
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


def test_in_bfloat16_weights_are_halved_and_answers_nearly_those_of_float32(
    lora_run: Path, frames: np.ndarray
) -> None:
    exact, halved = on_card(lora_run), on_card(lora_run, precision="bf16")
    assert {one.dtype for one in halved.model.parameters()} == {torch.bfloat16}
    assert {one.dtype for one in exact.model.parameters()} == {torch.float32}
    expected, found = exact.logits_of_frames(frames), halved.logits_of_frames(frames)
    assert found.dtype == np.float32
    off = np.abs(found - expected).max() / np.abs(expected).max()
    assert 0 < off < 0.05


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_frames_normalised_on_the_card_give_the_same_bits(
    precision: Any, lora_run: Path, frames: np.ndarray
) -> None:
    backend = on_card(lora_run, precision=precision)
    contract = open_run(lora_run).contract
    pixels = np.stack([transforms.normalise(clip, contract) for clip in frames])
    np.testing.assert_array_equal(backend.logits_of_frames(frames), backend.logits(pixels))


def test_the_attention_kernels_are_tried_in_the_order_that_was_measured(
    lora_run: Path, frames: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    real: Callable[..., Any] = sdpa_kernel
    asked: list[Any] = []

    def noted(kernels: Any, **options: Any) -> Any:
        asked.append((kernels, options))
        return real(kernels, **options)

    monkeypatch.setattr(eager, "sdpa_kernel", noted)
    on_card(lora_run).logits_of_frames(frames)
    assert asked == []  # float32 is left as PyTorch has it
    on_card(lora_run, precision="bf16").logits_of_frames(frames)
    assert asked == [(ATTENTION, {"set_priority": True})]
    assert [one.name.partition("_")[0] for one in ATTENTION] == [
        "CUDNN",
        "FLASH",
        "EFFICIENT",
        "MATH",
    ]


def test_compiling_is_for_pytorch_and_for_one_shape(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled: list[dict[str, Any]] = []

    def compile_nothing(function: Any, **options: Any) -> Any:
        compiled.append(options)
        return function

    monkeypatch.setattr(torch, "compile", compile_nothing)
    load(bundle, backend="torch", device="cpu")
    assert compiled == []
    load(bundle, backend="torch", device="cpu", is_compiled=True)
    assert compiled == [{"dynamic": False}]
    for backend in ("auto", "onnxruntime", "tensorrt-rtx"):
        with pytest.raises(BackendCannotError, match="only torch compiles a model"):
            load(bundle, backend=backend, is_compiled=True)
    with pytest.raises(BackendCannotError, match="only torch compiles a model"):
        load(bundle, backend="onnxruntime", form="unmerged", is_compiled=True)
