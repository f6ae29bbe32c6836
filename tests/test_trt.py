"""Engines at run time: what is refused before one is opened, and the logic around the driver, on stand-ins.

There is no card here. What a stand-in answers says nothing of a real engine: `tests/test_gpu.py` does.
"""

import importlib.util
import inspect
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lora_deploy.artifact import handing
from lora_deploy.artifact.bundle import (
    Engine,
    Ran,
    read_bundle_manifest,
    write_bundle_manifest,
)
from lora_deploy.errors import (
    CardFailedError,
    EngineBatchError,
    EngineCardError,
    EngineOverBudgetError,
    EngineUnusableError,
    EngineVersionError,
    FileChangedError,
    FileUnknownError,
    LoraDeployError,
    MissingPackageError,
    NoCardError,
    NoSuchDeviceError,
    NoSuchEngineError,
)
from lora_deploy.runtime import card as card_module
from lora_deploy.runtime import trt, vouched
from lora_deploy.runtime.base import TakesFrames
from lora_deploy.runtime.card import CALLS, MEMBERS, Card, card_index
from lora_deploy.runtime.load import load
from lora_deploy.runtime.tensorrt_api import missing_names, open_tensorrt
from tests.card_computers import (
    CONTENT,
    CONTRACT,
    ENGINE,
    LABELS,
    PIXELS,
    Computer,
    means,
    with_engine,
)
from tests.stand_in_card import VERSION, StandInDriver

OTHER_FLAVOUR = ENGINE.model_copy(update={"flavour": "tensorrt"})


def clips(count: int) -> np.ndarray:
    return np.random.default_rng(count).normal(size=(count, *PIXELS)).astype(np.float32)


PROVED = Ran(card="Stand-in 3000 (sm86)", date="2026-11-26", clips=8, passed=True)

both_flavours = pytest.mark.parametrize("engine", [ENGINE, OTHER_FLAVOUR], ids=lambda one: one.name)


# The names that we use --------------------------------------------------------------------------


def test_each_name_that_is_used_exists_in_tensorrt_rtx() -> None:
    package = pytest.importorskip("tensorrt_rtx")
    assert list(missing_names(package, {**trt.SHARED, **trt.OF_RTX})) == []
    assert list(missing_names(package, trt.SHARED)) == []
    assert package.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE is not None
    assert package.DynamicShapesKernelSpecializationStrategy.EAGER is not None
    assert package.EngineValidity.INVALID is not None
    assert package.TensorIOMode.INPUT is not None
    assert package.DataType.FLOAT is not None
    assert package.ILogger.ERROR is not None


def test_each_call_that_is_used_exists_in_the_binding_with_these_arguments() -> None:
    binding = pytest.importorskip("cuda.bindings.driver")
    for name in CALLS:
        ours = list(inspect.signature(getattr(StandInDriver, name)).parameters)
        theirs = getattr(binding, name).__doc__.splitlines()[0]
        inside = theirs.removeprefix(f"{name}(").removesuffix(")")
        assert len(ours) - 1 == len([one for one in inside.split(",") if one.strip()]), theirs
    for owner, member in MEMBERS:
        assert getattr(getattr(binding, owner), member) is not None


def test_the_stand_in_has_the_calls_of_the_binding_and_no_others() -> None:
    theirs = {name for name in vars(StandInDriver) if name.startswith("cu") and name[2].isupper()}
    assert theirs == set(CALLS)


# Answers ----------------------------------------------------------------------------------------


@both_flavours
def test_answers_are_those_of_the_engine_batch_after_batch(engine: Engine) -> None:
    computer = Computer(engine)
    backend = computer.open(batch_size=2)
    assert (backend.name, backend.form, backend.batch_size) == (engine.flavour, "merged", 2)
    assert not isinstance(backend, TakesFrames)
    for seed in range(3):
        pixels = clips(2) + np.float32(seed)
        np.testing.assert_array_equal(backend.logits(pixels), means(pixels))


def test_an_answer_stays_what_it_was_when_the_next_batch_is_run() -> None:
    backend = Computer().open()
    first = backend.logits(clips(1))
    kept = first.copy()
    backend.logits(clips(1) + 1)
    np.testing.assert_array_equal(first, kept)


def test_tensorrt_is_run_as_one_graph_and_rtx_records_one_by_itself() -> None:
    for engine, launches in ((OTHER_FLAVOUR, 2), (ENGINE, 0)):
        computer = Computer(engine)
        backend = computer.open()
        backend.logits(clips(1))
        backend.logits(clips(1))
        assert computer.driver.launches == launches
    config = computer.package.configs[0]
    assert config.cuda_graph_strategy == "whole"
    assert config.dynamic_shapes_kernel_specialization_strategy == "eager"


def test_what_can_t_be_recorded_is_run_without_a_graph_and_told(
    caplog: pytest.LogCaptureFixture,
) -> None:
    computer = Computer(OTHER_FLAVOUR, can_capture=False)
    backend = computer.open()
    assert "runs without a CUDA graph" in caplog.text
    np.testing.assert_array_equal(backend.logits(clips(1)), means(clips(1)))
    assert computer.driver.launches == 0


def test_threads_take_turns_and_each_gets_its_own_answer() -> None:
    backend = Computer().open()
    wrong: list[int] = []

    def ask(seed: int) -> None:
        pixels = clips(1) * np.float32(seed)
        for _ in range(20):
            if not np.array_equal(backend.logits(pixels), means(pixels)):
                wrong.append(seed)

    threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_one_clip_is_not_spread_over_a_batch() -> None:
    backend = Computer().open(batch_size=2)
    with pytest.raises(ValueError, match="a batch has the shape"):
        backend.logits(clips(1))


# Giving back ------------------------------------------------------------------------------------


@both_flavours
def test_all_that_was_taken_is_given_back(engine: Engine) -> None:
    computer = Computer(engine)
    backend = computer.open()
    assert len(computer.driver.taken) > 4
    backend.close()
    assert computer.package.let_go == [True, True]  # a context and its engine, on their card
    assert computer.driver.taken == {}
    backend.close()
    assert computer.driver.depth == 0


def test_a_backend_that_nobody_has_any_more_gives_all_back() -> None:
    computer = Computer()
    backend = computer.open()
    del backend
    assert computer.driver.taken == {}


def test_a_card_that_is_full_is_told_and_nothing_stays_taken() -> None:
    computer = Computer(memory=100)
    with pytest.raises(CardFailedError, match=r"CUDA_ERROR_OUT_OF_MEMORY.*smaller --batch-size"):
        computer.open()
    assert computer.driver.taken == {}


# Refused before anything is opened ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "driver", "error", "says"),
    [
        ({"version": "1.7.0.1"}, {}, EngineVersionError, f"1.7.0.1, and {VERSION} is installed"),
        ({}, {"capability": "9.0"}, EngineCardError, "cards of sm86, and here is .*sm90"),
        (
            {"batch_sizes": (4, 8)},
            {},
            EngineBatchError,
            "no profile for batches of 1; it has: 4, 8",
        ),
    ],
)
def test_what_does_not_fit_is_refused_before_it_is_opened(
    change: dict[str, Any], driver: dict[str, Any], error: type[LoraDeployError], says: str
) -> None:
    computer = Computer(ENGINE.model_copy(update=change), **driver)
    with pytest.raises(error, match=says):
        computer.open()
    assert computer.package.deserialised == []


def test_an_engine_that_rtx_calls_invalid_is_not_opened() -> None:
    computer = Computer()
    computer.package.validity = "invalid"
    with pytest.raises(
        EngineUnusableError, match=r"does not fit this card or driver \(diagnosis 3"
    ):
        computer.open()
    assert computer.package.deserialised == []


@both_flavours
@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("opens", False, "can't be opened; tensorrt.* says: Magic tag does not match"),
        ("names", ["pixel_values", "probabilities"], "has .*probabilities.*, and needed are"),
        ("kinds", ["HALF", "FLOAT"], "has pixel_values in HALF, and float32 is needed"),
        ("batch_sizes", (1, 2, 4), "has 3 profiles, and its manifest names 2"),
        ("batch_sizes", (2, 1), r"takes batches of \(2, .*in profile 0"),
        ("pixels", (4, 3, 64, 64), r"\(1, 4, 3, 64, 64\) in profile 0, and the bundle's are"),
        ("labels", 4, r"answers with \(1, 4\), and the bundle's answers are \(1, 3\)"),
    ],
)
def test_an_engine_of_another_model_is_refused(
    engine: Engine, field: str, value: object, says: str
) -> None:
    computer = Computer(engine)
    setattr(computer.package, field, value)
    with pytest.raises(EngineUnusableError, match=says):
        computer.open()
    assert computer.driver.taken == {}


def test_without_a_driver_or_a_card_that_is_said() -> None:
    with pytest.raises(NoCardError, match=r"does not start .CUDA_ERROR_NO_DEVICE."):
        Card(driver=StandInDriver(cards=0))
    with pytest.raises(NoSuchDeviceError, match="cuda:3 was asked for, and the driver sees 1"):
        Card(3, driver=StandInDriver())


def test_without_a_driver_the_real_binding_says_so() -> None:
    pytest.importorskip("cuda.bindings.driver")
    if Path("/proc/driver/nvidia/version").exists():
        pytest.skip("a driver is here")
    with pytest.raises(NoCardError, match="no NVIDIA driver is here"):
        Card()


def test_devices_that_are_no_card_are_refused() -> None:
    assert [card_index(name) for name in (None, "auto", "cuda", "cuda:2")] == [0, 0, 0, 2]
    for name in ("cpu", "cuda:", "gpu", "cuda:x", "cuda:1 "):
        with pytest.raises(NoSuchDeviceError, match="is no NVIDIA card"):
            card_index(name)


# The kernels that tensorrt-rtx compiles -----------------------------------------------------------


def test_compiled_kernels_are_kept_for_the_next_start(tmp_path: Path) -> None:
    cache = tmp_path / "cache" / "tensorrt-rtx"
    for compiled in (1, 0):
        computer = Computer()
        computer.open(cache=cache)
        assert computer.package.compiled == compiled
    (kept,) = cache.iterdir()
    assert kept.name.endswith("-sm86.kernels")
    assert kept.stat().st_mode & 0o777 == 0o600
    assert cache.stat().st_mode & 0o777 == 0o700


def test_kernels_that_tensorrt_does_not_take_are_compiled_anew(tmp_path: Path) -> None:
    cache = tmp_path / "cache" / "tensorrt-rtx"
    Computer().open(cache=cache)
    (kept,) = cache.iterdir()
    kept.write_bytes(b"of another driver")
    computer = Computer()
    computer.open(cache=cache)
    assert computer.package.compiled == 1
    assert kept.read_bytes() == b"kernels"


@pytest.mark.parametrize("which", ["file", "folder", "link"])
def test_kernels_that_others_could_have_written_are_not_taken(which: str, tmp_path: Path) -> None:
    cache = tmp_path / "cache" / "tensorrt-rtx"
    Computer().open(cache=cache)
    (kept,) = cache.iterdir()
    if which == "file":
        kept.chmod(0o666)
    elif which == "folder":
        cache.chmod(0o777)
    else:
        kept.replace(tmp_path / "elsewhere")
        kept.symlink_to(tmp_path / "elsewhere")
    computer = Computer()
    computer.open(cache=cache)
    assert computer.package.compiled == (0 if which == "folder" else 1)  # then there is no cache
    assert computer.package.configs[0].cache is None or which != "folder"


def test_a_cache_that_can_t_be_written_costs_nothing_else(tmp_path: Path) -> None:
    blocked = tmp_path / "cache"
    blocked.write_text("no folder")
    backend = Computer().open(cache=blocked / "tensorrt-rtx")
    np.testing.assert_array_equal(backend.logits(clips(1)), means(clips(1)))


# Of a bundle ------------------------------------------------------------------------------------


def frames_of(folder: Path, count: int = 1) -> np.ndarray:
    shape = (count, *read_bundle_manifest(folder).contract.frames_shape)
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


def test_an_engine_of_a_bundle_is_opened_by_its_flavour(
    bundle_copy: Path, with_card: Computer, caplog: pytest.LogCaptureFixture
) -> None:
    with_engine(bundle_copy)
    opened = load(bundle_copy, backend="tensorrt-rtx")
    assert opened.backend.name == "tensorrt-rtx"
    assert "was built and never compared" in caplog.text
    expected = load(bundle_copy, backend="onnxruntime").logits(frames_of(bundle_copy))
    np.testing.assert_array_equal(opened.logits(frames_of(bundle_copy)), expected)
    assert with_card.package.deserialised == [CONTENT]


def test_only_the_bytes_that_the_manifest_vouches_for_are_opened(
    bundle_copy: Path, with_card: Computer
) -> None:
    manifest = with_engine(bundle_copy)
    path = bundle_copy / ENGINE.file
    for content in (CONTENT[:-1] + b"x", CONTENT + b"x", CONTENT[:-1], b""):
        path.write_bytes(content)
        with pytest.raises(FileChangedError):
            load(bundle_copy, backend="tensorrt-rtx")
        with pytest.raises(FileChangedError):
            handing.content_of(bundle_copy, manifest, ENGINE.file)
    path.unlink()
    path.symlink_to("/dev/zero")
    with pytest.raises(FileChangedError):
        load(bundle_copy, backend="tensorrt-rtx")
    assert with_card.package.deserialised == []


def test_an_engine_that_the_manifest_does_not_name_is_not_opened(
    bundle_copy: Path, with_card: Computer
) -> None:
    with_engine(bundle_copy)
    (bundle_copy / "tensorrt" / "another.engine").write_bytes(CONTENT)
    with pytest.raises(FileUnknownError):
        load(bundle_copy, backend="tensorrt-rtx")
    assert with_card.package.deserialised == []


@pytest.mark.parametrize(
    ("change", "options", "error"),
    [
        ({"precision": "fp16"}, {}, NoSuchEngineError),
        ({"compute_capability": "8.9"}, {}, EngineCardError),
        ({"version": "1.0"}, {}, EngineVersionError),
        ({}, {"batch_size": 3}, EngineBatchError),
        ({}, {"device": "cpu"}, NoSuchDeviceError),
        ({}, {"device": "cuda:1"}, NoSuchDeviceError),
        (
            {"ran": Ran(card="x", date="2026-11-26", clips=9, passed=False)},
            {},
            EngineOverBudgetError,
        ),
    ],
)
def test_what_does_not_fit_costs_one_clear_line_and_no_memory(
    change: dict[str, Any],
    options: dict[str, Any],
    error: type[LoraDeployError],
    bundle_copy: Path,
    with_card: Computer,
) -> None:
    with_engine(bundle_copy, **change)
    with pytest.raises(error) as raised:
        load(bundle_copy, backend="tensorrt-rtx", **options)
    assert "\n" not in str(raised.value)
    assert with_card.package.deserialised == []
    assert with_card.driver.taken == {}


@pytest.fixture
def no_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user who has run no engine yet; where that would be written down."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "own"))
    return tmp_path / "own" / "lora-deploy" / "engines"


@pytest.mark.parametrize("which", ["file", "folder", "link", "other bytes"])
def test_a_record_that_others_could_have_written_starts_no_engine(
    which: str, bundle_copy: Path, with_card: Computer, no_records: Path
) -> None:
    manifest = with_engine(bundle_copy, ran=PROVED)
    vouched.vouch(manifest, manifest.engines[0], "a card")
    (record,) = no_records.iterdir()
    assert load(bundle_copy).backend.name == "tensorrt-rtx"
    if which == "file":
        record.chmod(0o666)
    elif which == "folder":
        no_records.chmod(0o777)
    elif which == "link":
        record.replace(no_records.parent / "elsewhere")
        record.symlink_to(no_records.parent / "elsewhere")
    else:
        manifest = read_bundle_manifest(bundle_copy).model_copy(update={"engines": ()})
        write_bundle_manifest(bundle_copy, manifest)
        with_engine(bundle_copy, b"a stranger's engine", ran=PROVED)
    assert load(bundle_copy).backend.name == "onnxruntime"


@pytest.mark.parametrize(
    ("change", "driver", "taken"),
    [
        ({"ran": PROVED}, {}, "tensorrt-rtx"),
        ({"ran": None}, {}, "onnxruntime"),
        ({"ran": PROVED.model_copy(update={"clips": 0})}, {}, "onnxruntime"),
        ({"ran": PROVED.model_copy(update={"passed": False})}, {}, "onnxruntime"),
        ({"ran": PROVED}, {"cards": 0}, "onnxruntime"),
        ({"ran": PROVED}, {"capability": "8.9"}, "onnxruntime"),
        ({"ran": PROVED, "version": "1.0"}, {}, "onnxruntime"),
        ({"ran": PROVED, "precision": "fp16"}, {}, "onnxruntime"),
        ({"ran": PROVED}, {"memory": 10}, "onnxruntime"),
    ],
)
def test_auto_takes_an_engine_that_was_proved_on_clips_and_fits(
    change: dict[str, Any],
    driver: dict[str, Any],
    taken: str,
    bundle_copy: Path,
    computer: Callable[..., Computer],
    no_records: Path,
) -> None:
    plain = load(bundle_copy, backend="onnxruntime")
    made = computer(
        plain.backend.logits, plain.contract.pixel_values_shape, len(plain.labels), **driver
    )
    manifest = with_engine(bundle_copy, **change)
    assert load(bundle_copy).backend.name == "onnxruntime"  # whatever the bundle says of itself
    assert made.package.deserialised == []
    vouched.vouch(manifest, manifest.engines[0], "a card")
    opened = load(bundle_copy)
    assert opened.backend.name == taken
    if taken == "onnxruntime":
        assert made.driver.taken == {}
    assert load(bundle_copy, device="cpu").backend.name == "onnxruntime"


def test_a_package_that_is_missing_is_named_with_the_line_to_type(
    bundle_copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_engine(bundle_copy, flavour="tensorrt")
    if importlib.util.find_spec("tensorrt") is None:
        with pytest.raises(MissingPackageError, match=r'pip install "lora-deploy\[gpu\]"'):
            load(bundle_copy, backend="tensorrt")
    monkeypatch.setattr(card_module, "BINDING", "cuda_binding_that_is_nowhere.driver")
    with pytest.raises(MissingPackageError, match="cuda-bindings is needed to reach"):
        Card()


# The real tensorrt-rtx, without a card ------------------------------------------------------------


def test_the_real_tensorrt_rtx_refuses_what_is_no_engine_and_says_why() -> None:
    pytest.importorskip("tensorrt_rtx")
    package: Any = open_tensorrt("tensorrt-rtx")
    engine = ENGINE.model_copy(update={"version": package.__version__})
    card = Card(driver=StandInDriver())
    with pytest.raises(EngineUnusableError, match=r"rtx-fp32-sm86\.engine"):
        trt.TensorRtBackend(
            os.urandom(4096), engine, CONTRACT, labels=LABELS, card=card, api=package
        )
