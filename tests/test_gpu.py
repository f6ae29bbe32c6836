"""From drawn clips to a proven bundle on a CUDA device, and what runs bundles there; every other test runs on the CPU.

Nothing here needs the test material beside the checkout: clips are drawn, weights are random.
"""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from peft import PeftModel
from safetensors.torch import load_file

from lora_deploy import atomic
from lora_deploy.artifact import run
from lora_deploy.artifact.bundle import Flavour, read_bundle_manifest
from lora_deploy.clips import pool
from lora_deploy.clips.example import GESTURES, write_example
from lora_deploy.completion import complete
from lora_deploy.config import Settings, settings_from
from lora_deploy.doctor import hardware
from lora_deploy.errors import DeadAdapterError
from lora_deploy.export.pipeline import merge_export
from lora_deploy.extras import is_installed
from lora_deploy.model.bypass import lora_layers
from lora_deploy.model.liveness import ALIVE_FACTOR, check_can_learn, check_trained, noise
from lora_deploy.runtime import ort_gpu
from lora_deploy.runtime.card import Card, has_binding
from lora_deploy.runtime.load import load
from lora_deploy.runtime.providers import PROVIDER_BACKENDS, ProviderBackend
from lora_deploy.runtime.trained import open_run
from lora_deploy.train import checkpoints
from lora_deploy.train.fit import fit
from lora_deploy.verification import verify

pytestmark = pytest.mark.gpu

DEVICE = "cuda"

TOLERANCE = 1e-4
"""As a part of the largest logit: by what the same float32 sums, taken in another order, may differ."""

TRAINING: dict[str, Any] = {
    "batch_size": 8,
    "epochs": 4,
    "learning_rate": 2e-2,
    "early_stopping_patience": 0,
}


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A few clips of each gesture."""
    folder = tmp_path_factory.mktemp("drawn")
    return write_example(folder, train_clips=4, val_clips=2, test_clips=1)


def settings_on(base: Path, **training: Any) -> Settings:
    return settings_from(
        {"model": {"base": str(base)}, "training": {**TRAINING, **training}}, where="test"
    )


@pytest.fixture(scope="module")
def cuda_run(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path, drawn: Path) -> Path:
    """A RUN that was trained on the GPU. Tests must not change it."""
    out = tmp_path_factory.mktemp("cuda") / "run"
    fit(settings_on(tiny_base), drawn, out, device_name=DEVICE)
    return out


@pytest.fixture(scope="module")
def frames(drawn: Path, cuda_run: Path) -> NDArray[np.uint8]:
    """One drawn clip of each gesture, decoded: uint8 [clips, frames, height, width, 3]."""
    contract = open_run(cuda_run).contract
    clips = [next((drawn / "test" / label).glob("*.mp4")) for label in GESTURES]
    return np.stack([pool.shared().decode(clip, contract).frames for clip in clips])


def difference(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    """The largest, as a part of the largest logit."""
    return float(np.abs(one - other).max() / np.abs(other).max())


def test_there_is_a_cuda_device() -> None:
    assert torch.cuda.is_available()


def test_training_uses_the_gpu_and_leaves_a_run_that_needs_none(
    tiny_base: Path, drawn: Path, tmp_path: Path
) -> None:
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    out = tmp_path / "run"
    manifest = fit(settings_on(tiny_base, epochs=1), drawn, out, device_name=DEVICE)
    assert torch.cuda.max_memory_allocated() > before
    assert manifest.finished
    saved = torch.load(out / run.CHECKPOINT, weights_only=True)
    tensors = list(_tensors(saved))
    assert tensors
    assert {str(tensor.device) for tensor in tensors} == {"cpu"}


def _tensors(value: object) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, dict):
        for part in value.values():
            yield from _tensors(part)


def test_every_form_of_training_works_on_the_gpu(
    tiny_base: Path, drawn: Path, tmp_path: Path
) -> None:
    for precision in ("bf16", "fp16"):
        settings = settings_on(tiny_base, epochs=1, mixed_precision=precision)
        manifest = fit(settings, drawn, tmp_path / precision, device_name=DEVICE)
        assert manifest.finished


def test_the_torch_backend_answers_on_the_gpu_as_on_the_cpu(
    cuda_run: Path, frames: NDArray[np.uint8]
) -> None:
    on_gpu = load(cuda_run, backend="torch", device=DEVICE, batch_size=4)
    on_cpu = load(cuda_run, backend="torch", device="cpu", batch_size=4)
    model = on_gpu.backend.model  # type: ignore[attr-defined]
    assert next(model.parameters()).device.type == DEVICE
    assert difference(on_gpu.logits(frames), on_cpu.logits(frames)) <= TOLERANCE


def test_the_gpu_is_what_a_model_runs_on_where_nothing_is_said(cuda_run: Path) -> None:
    model = load(cuda_run, backend="torch").backend.model  # type: ignore[attr-defined]
    assert next(model.parameters()).device.type == DEVICE


def test_a_clip_is_answered_alike_in_any_company_on_the_gpu(
    cuda_run: Path, frames: NDArray[np.uint8]
) -> None:
    recogniser = load(cuda_run, backend="torch", device=DEVICE, batch_size=4)
    alone = recogniser.logits(frames[:1])[0]
    for at in range(4):
        company = frames[[1, 2, 3, 4]]
        company[at] = frames[0]
        np.testing.assert_array_equal(recogniser.logits(company)[at], alone)


def opened_on_gpu(folder: Path) -> tuple[PeftModel, torch.Tensor]:
    trained = open_run(folder)
    assert isinstance(trained.model, PeftModel)
    return trained.model.to(DEVICE), noise(trained.contract.pixel_values_shape).to(DEVICE)


def test_an_adapter_is_alive_on_the_gpu(cuda_run: Path) -> None:
    model, clip = opened_on_gpu(cuda_run)
    for found in (check_trained(model, clip), check_can_learn(model, clip)):
        assert found.layers == 6
        assert found.on_off_difference > ALIVE_FACTOR * found.merge_difference


def test_a_dead_adapter_is_refused_on_the_gpu(cuda_run: Path) -> None:
    model, clip = opened_on_gpu(cuda_run)
    with torch.no_grad():
        for layer in lora_layers(model).values():
            layer.get_parameter("lora_B.default.weight").zero_()
    with pytest.raises(DeadAdapterError):
        check_trained(model, clip)


class Interrupted(KeyboardInterrupt):
    """As by Ctrl-C."""


def last_weights(folder: Path) -> dict[str, torch.Tensor]:
    """Of the last epoch, which need not be the best."""
    last = max((folder / checkpoints.FOLDER).iterdir())
    return load_file(last / "weights.safetensors")


def test_a_training_on_the_gpu_goes_on_as_if_nothing_had_happened(
    cuda_run: Path,
    tiny_base: Path,
    drawn: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real = checkpoints.write
    written: list[int] = []

    def write_and_stop(*arguments: Any, **options: Any) -> None:
        real(*arguments, **options)
        written.append(arguments[1].epoch)
        if written == [1, 2]:
            raise Interrupted

    out = tmp_path / "run"
    monkeypatch.setattr(checkpoints, "write", write_and_stop)
    with pytest.raises(Interrupted):
        fit(settings_on(tiny_base), drawn, out, device_name=DEVICE)
    assert fit(settings_on(tiny_base), drawn, out, device_name=DEVICE, resume=True).finished
    assert written == [1, 2, 3, 4]
    one, other = last_weights(out), last_weights(cuda_run)
    assert one.keys() == other.keys()
    # Sums on a GPU may come in any order, so not bit for bit.
    for name, weights in one.items():
        torch.testing.assert_close(weights, other[name], atol=1e-3, rtol=0)


def test_a_run_of_the_gpu_becomes_a_bundle_that_answers_as_it_does(
    cuda_run: Path, frames: NDArray[np.uint8], tmp_path: Path
) -> None:
    out = tmp_path / "bundle"
    merge_export(cuda_run, out)
    assert not atomic.is_free(out)
    expected = load(cuda_run, backend="torch", device=DEVICE).logits(frames)
    for recogniser in (
        load(out, backend="onnxruntime"),
        load(out, backend="torch", device=DEVICE),
    ):
        assert difference(recogniser.logits(frames), expected) <= TOLERANCE * 10


# Bundles on the card ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bundle_of_cuda(tmp_path_factory: pytest.TempPathFactory, cuda_run: Path) -> Path:
    """A BUNDLE, with an engine for this card where its compiler is here. Tests must not change it."""
    out = tmp_path_factory.mktemp("cuda-bundle") / "bundle"
    if has_binding() and (flavour := flavour_here()):
        merge_export(
            cuda_run, out, targets=["onnx", "tensorrt"], cards=[Card().target], flavour=flavour,
            batch_sizes=[1, 4],
        )  # fmt: skip
    else:
        merge_export(cuda_run, out)
    return out


def flavour_here() -> Flavour | None:
    """Whose compiler is installed and builds for this card."""
    if is_installed("tensorrt"):
        return "tensorrt"
    is_one = is_installed("tensorrt_rtx") and Card().target in TARGETS_OF_RTX
    return "tensorrt-rtx" if is_one else None


TARGETS_OF_RTX = ("sm86", "sm89", "sm120")


def test_bytes_go_to_the_card_and_come_back_by_themselves_and_in_a_graph() -> None:
    pytest.importorskip("cuda.bindings.driver", reason="cuda-bindings is not installed")
    card = Card()
    major, minor = torch.cuda.get_device_capability()
    assert card.compute_capability == f"{major}.{minor}"
    with card.current():
        there, sent = card.host_memory(1 << 20)
        back, received = card.host_memory(1 << 20)
        memory, stream = card.device_memory(1 << 20), card.stream()

        def work() -> None:
            card.upload(memory, there, 1 << 20, stream)
            card.download(back, memory, 1 << 20, stream)

        for run in (work, card.recorded(stream, work)):
            sent[:] = np.random.default_rng().integers(0, 256, 1 << 20)
            run()
            card.wait(stream)
            np.testing.assert_array_equal(received, sent)
    card.close()


@pytest.mark.parametrize("is_compiled", [False, True])
def test_bfloat16_answers_nearly_as_float32_does(
    cuda_run: Path, frames: NDArray[np.uint8], is_compiled: bool
) -> None:
    if not torch.cuda.is_bf16_supported(including_emulation=False):
        pytest.skip("this card does not compute in bfloat16")
    exact = load(cuda_run, backend="torch", device=DEVICE, batch_size=4).logits(frames)
    halved = load(
        cuda_run, backend="torch", device=DEVICE, batch_size=4, precision="bf16",
        is_compiled=is_compiled,
    )  # fmt: skip
    assert next(halved.backend.model.parameters()).dtype == torch.bfloat16  # type: ignore[attr-defined]
    found = halved.logits(frames)
    assert found.dtype == np.float32
    assert 0 < difference(found, exact) <= 0.05


@pytest.mark.parametrize("backend", PROVIDER_BACKENDS)
def test_a_provider_answers_on_the_card_as_the_processor_does(
    backend: ProviderBackend, bundle_of_cuda: Path, frames: NDArray[np.uint8]
) -> None:
    if not ort_gpu.has_provider(backend):
        pytest.skip(f"this ONNX Runtime has no {backend}")
    expected = load(bundle_of_cuda, backend="onnxruntime").logits(frames)
    opened = load(bundle_of_cuda, backend=backend, batch_size=4)
    assert opened.backend.name == backend
    # tensor cores may round float32 to 10 bits where a provider has no option against it
    allowed = TOLERANCE * 10 if backend == "onnxruntime-cuda" else 0.02
    assert difference(opened.logits(frames), expected) <= allowed
    np.testing.assert_array_equal(opened.logits(frames), opened.logits(frames))


def test_an_engine_is_run_completed_and_then_taken_by_itself(
    bundle_of_cuda: Path, drawn: Path, frames: NDArray[np.uint8], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(bundle_of_cuda, tmp_path / "bundle"))
    manifest = read_bundle_manifest(folder)
    if not manifest.engines:
        pytest.skip("no compiler of engines for this card is installed")
    assert load(folder).backend.name == "onnxruntime"
    found = complete(folder, drawn)
    assert found.passed, found.findings
    [engine] = read_bundle_manifest(folder).engines
    assert engine.ran is not None
    assert engine.ran.is_proved
    expected = load(folder, backend="onnxruntime").logits(frames)
    for batch_size in engine.batch_sizes:
        opened = load(folder, batch_size=batch_size)
        assert opened.backend.name == engine.flavour
        assert difference(opened.logits(frames), expected) <= TOLERANCE * 10
        np.testing.assert_array_equal(opened.logits(frames), opened.logits(frames))
        alone = opened.logits(frames[:1])[0]
        np.testing.assert_array_equal(opened.logits(frames)[0], alone)
    assert verify(folder, drawn).passed


def test_doctor_sees_the_card() -> None:
    found = hardware.look().nvidia
    assert found is not None
    assert found.cards
