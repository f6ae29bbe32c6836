"""Real clips, a tiny real base, and a RUN and a BUNDLE made from them once for all tests."""

import functools
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis
import pytest
import torch
from transformers import VideoMAEConfig, VideoMAEForVideoClassification

from lora_deploy.clips import guard, pool
from lora_deploy.clips.contract import PixelContract
from lora_deploy.clips.pool import DecodePool
from lora_deploy.clips.processor import contract_to_processor
from lora_deploy.config import settings_from
from lora_deploy.model.weights import quiet_loading
from tests import faults, proved_models, stub_decoder, tiny_models
from tests.card_computers import computer, with_card  # noqa: F401  fixtures
from tests.chromium import chromium  # noqa: F401  a fixture
from tests.loopback_web import link_certificate, link_clip, link_servers, web  # noqa: F401
from tests.tiny_graphs import real_frames, tiny_graphs  # noqa: F401  fixtures

if TYPE_CHECKING:
    from lora_deploy.export.pipeline import Shipped

os.environ.setdefault("HF_HUB_OFFLINE", "1")

# A computer that is busy is no failure.
hypothesis.settings.register_profile("untimed", hypothesis.settings(), deadline=None)
hypothesis.settings.load_profile("untimed")

POLICY, PRIORITY = os.sched_getscheduler(0), os.sched_getparam(0)

MEDIA = Path(__file__).parents[2] / "shared" / "media"
REFERENCE = MEDIA.parent / "reference"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """``gpu`` tests skip without a CUDA device, and fail where ``REQUIRE_GPU=1`` promised one."""
    if torch.cuda.is_available() or os.environ.get("REQUIRE_GPU") == "1":
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))


def pytest_sessionstart() -> None:
    """Nothing skips for want of real clips where they were promised."""
    if os.environ.get("REQUIRE_SHARED") == "1" and not MEDIA.is_dir():
        raise pytest.UsageError(
            "REQUIRE_SHARED=1, but the test material is not beside the checkout"
        )


def _needed(folder: Path) -> Path:
    if folder.is_dir():
        return folder
    reason = f"the folder {folder.name} of real test material is not beside the checkout"
    if os.environ.get("REQUIRE_SHARED") == "1":
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def media() -> Path:
    """Real, awkward and hostile videos."""
    return _needed(MEDIA)


@pytest.fixture(scope="session")
def reference() -> Path:
    """Checkpoints with the outputs that the original code computed from them."""
    return _needed(REFERENCE)


@pytest.fixture(scope="session")
def fault_injection() -> None:
    """Skips where the kernel lets no process watch another one's calls, but not in CI."""
    try:
        faults.attempt(lambda: None, Path())
    except faults.InjectionRefused as refused:
        if os.environ.get("CI") == "true" or os.environ.get("REQUIRE_SHARED") == "1":
            pytest.fail(f"no faults can be injected: {refused}")
        pytest.skip(f"no faults can be injected: {refused}")


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What OpenVINO compiles for tests does not fill the cache of whoever runs them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True)
def as_found() -> Iterator[None]:
    """What a test sets for the whole process ends with it."""
    logger = logging.getLogger("lora_deploy")
    level, handlers, propagate = logger.level, logger.handlers, logger.propagate
    yield
    logger.setLevel(level)
    logger.handlers, logger.propagate = handlers, propagate
    if os.sched_getscheduler(0) != POLICY:
        os.sched_setscheduler(0, POLICY, PRIORITY)
        pytest.fail("it left this thread a priority that all that comes after it would have")


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A VideoMAE of two thin layers with random weights, in transformers format."""
    folder = tmp_path_factory.mktemp("tiny-base")
    config = VideoMAEConfig(
        image_size=32, patch_size=8, num_frames=4, tubelet_size=2, hidden_size=32,
        num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
    )  # fmt: skip
    torch.manual_seed(0)
    model = VideoMAEForVideoClassification(config)
    with torch.no_grad():  # weights that leave something of the input in the answer
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1:
                parameter.mul_(4.0)
            elif name.endswith("bias"):
                parameter.normal_(std=0.1)
    with quiet_loading():
        model.save_pretrained(folder)
    contract = PixelContract(frames=4, short_side=32, crop_height=32, crop_width=32)
    (folder / "preprocessor_config.json").write_text(json.dumps(contract_to_processor(contract)))
    (folder / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    return folder


@pytest.fixture(scope="session")
def tiny_bases(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path) -> dict[str, Path]:
    """A classifier of two thin layers of each architecture, by its ``model_type``."""
    folders = {"videomae": tiny_base}
    for model_type in tiny_models.MAKERS:
        folder = tmp_path_factory.mktemp(f"tiny-{model_type}")
        tiny_models.save(tiny_models.make(model_type), folder)
        folders[model_type] = folder
    return folders


@pytest.fixture(scope="session")
def few_clips(tmp_path_factory: pytest.TempPathFactory, media: Path) -> Path:
    """A manifest of real clips: two actions of Weizmann, three people a split."""
    manifest = tmp_path_factory.mktemp("few-clips") / "clips.csv"
    lines = ["path,label,split,group"]
    folder = (media / "dataset" / "weizmann4").resolve()
    for label in ("bend", "wave_two_hands"):
        for split, people in (("train", (0, 1, 2)), ("val", (5, 6)), ("test", (7, 8))):
            for person in people:
                for view in ("orig", "mirror"):
                    path = folder / label / f"s{person}_{view}.mp4"
                    lines.append(f"{path},{label},{split},s{person}")
    manifest.write_text("\n".join(lines) + "\n")
    return manifest


@pytest.fixture(scope="session")
def uneven_clips(tmp_path_factory: pytest.TempPathFactory, media: Path) -> Path:
    """A manifest of real clips: bending to the left, to the right, and waving, of which there is more."""
    manifest = tmp_path_factory.mktemp("uneven-clips") / "clips.csv"
    lines = ["path,label,split,group"]
    folder = (media / "dataset" / "weizmann4").resolve()
    for split, people in (("train", (0, 1, 2)), ("val", (5, 6))):
        for person in people:
            for view, side in (("orig", "right"), ("mirror", "left")):
                bent = f"{folder}/bend/s{person}_{view}.mp4,bend_to_image_{side}"
                waved = f"{folder}/wave_two_hands/s{person}_{view}.mp4,wave_two_hands"
                if person > 0 or side == "right":
                    lines.append(f"{bent},{split},s{person}")
                lines.append(f"{waved},{split},s{person}")
    manifest.write_text("\n".join(lines) + "\n")
    return manifest


TINY_TRAINING = {
    "batch_size": 4,
    "epochs": 3,
    "learning_rate": 2e-2,
    "early_stopping_patience": 0,
}


@pytest.fixture(scope="session")
def lora_run(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path, few_clips: Path) -> Path:
    """A RUN with an adapter. Tests must not change it."""
    from lora_deploy.train.fit import fit

    out = tmp_path_factory.mktemp("lora") / "run"
    settings = settings_from(
        {"model": {"base": str(tiny_base)}, "training": TINY_TRAINING}, where="test"
    )
    fit(settings, few_clips, out)
    return out


@pytest.fixture(scope="session")
def full_run(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path, few_clips: Path) -> Path:
    """A fully fine-tuned RUN. Tests must not change it."""
    from lora_deploy.train.fit import fit

    out = tmp_path_factory.mktemp("full") / "run"
    settings = settings_from(
        {
            "model": {"base": str(tiny_base), "use_lora": False},
            "training": {**TINY_TRAINING, "epochs": 1},
        },
        where="test",
    )
    fit(settings, few_clips, out)
    return out


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory, lora_run: Path) -> Path:
    """A BUNDLE of ``lora_run``. Tests must not change it."""
    from lora_deploy.export.pipeline import merge_export

    out = tmp_path_factory.mktemp("bundle") / "bundle"
    merge_export(lora_run, out)
    return out


@pytest.fixture(scope="session")
def four_actions(tmp_path_factory: pytest.TempPathFactory, media: Path) -> Path:
    """A manifest of real clips: four actions, 40 clips to learn from and 32 to prove on."""
    out = tmp_path_factory.mktemp("four-actions") / "clips.csv"
    return proved_models.write_clips((media / "dataset" / "weizmann4").resolve(), out)


@pytest.fixture(scope="session")
def few_untrue(four_actions: Path, media: Path) -> Path:
    """The same clips, of which three that are to prove something bear another label."""
    folder = (media / "dataset" / "weizmann4").resolve()
    return proved_models.write_clips(folder, four_actions.with_name("untrue.csv"), untrue=3)


@pytest.fixture(scope="session")
def proved_run(
    tmp_path_factory: pytest.TempPathFactory, tiny_bases: dict[str, Path], four_actions: Path
) -> Callable[[str], Path]:
    """A RUN of an architecture that tells four actions apart. Tests must not change it."""

    @functools.cache
    def run(model_type: str) -> Path:
        out = tmp_path_factory.mktemp(f"proved-{model_type}") / "run"
        return proved_models.train(tiny_bases[model_type], four_actions, out)

    return run


@pytest.fixture(scope="session")
def shipped(
    tmp_path_factory: pytest.TempPathFactory,
    proved_run: Callable[[str], Path],
    few_untrue: Path,
) -> Callable[[str], "Shipped"]:
    """A BUNDLE of that RUN with all forms that this computer can prove. Tests must not change it."""
    from lora_deploy.export.pipeline import merge_export
    from lora_deploy.runtime.ov import has_bf16

    @functools.cache
    def bundle(model_type: str) -> "Shipped":
        out = tmp_path_factory.mktemp(f"shipped-{model_type}") / "bundle"
        return merge_export(
            proved_run(model_type),
            out,
            verify_on=few_untrue,
            overrides=[proved_models.ANY_SPEED, "proof.unknown_rate=0.1"],
            targets=["onnx", "openvino"],
            precisions=["fp32", "fp16", "int8", *(["bf16"] if has_bf16() else [])],
            frames_in=True,
            adapter_graph=True,
        )

    return bundle


@pytest.fixture(scope="session")
def full_bundle(shipped: Callable[[str], "Shipped"]) -> Path:
    """A VideoMAE with all forms at all precisions. Tests must not change it."""
    return shipped("videomae").bundle


@pytest.fixture
def full_bundle_copy(full_bundle: Path, tmp_path: Path) -> Path:
    """A BUNDLE with all forms that a test may damage."""
    return Path(shutil.copytree(full_bundle, tmp_path / "full-bundle"))


@pytest.fixture
def run_copy(lora_run: Path, tmp_path: Path) -> Path:
    """A RUN that a test may damage."""
    return Path(shutil.copytree(lora_run, tmp_path / "run"))


@pytest.fixture
def bundle_copy(bundle: Path, tmp_path: Path) -> Path:
    """A BUNDLE that a test may damage."""
    return Path(shutil.copytree(bundle, tmp_path / "bundle"))


@pytest.fixture(scope="session")
def test_clips(few_clips: Path) -> list[Path]:
    """The real clips of the test split, in the order of the manifest."""
    rows = [line.split(",") for line in few_clips.read_text().splitlines()[1:]]
    return [Path(row[0]) for row in rows if row[2] == "test"]


@pytest.fixture
def order(tmp_path: Path) -> Callable[..., Path]:
    """Writes a file that tells the stub decoder what to do."""

    def write(do: str, **details: object) -> Path:
        path = tmp_path / f"{do}.mp4"
        path.write_text(json.dumps({"do": do, **details}))
        return path

    return write


@pytest.fixture
def stubbed(monkeypatch: pytest.MonkeyPatch) -> Iterator[DecodePool]:
    """A pool of one worker that obeys orders, with a short deadline."""
    monkeypatch.setattr(pool, "_WORKER_COMMAND", stub_decoder.worker_command())
    monkeypatch.setattr(guard, "_check_content", lambda head: None)
    with DecodePool(1, deadline_seconds=1.0, proof=False) as running:  # it decodes no video
        yield running
