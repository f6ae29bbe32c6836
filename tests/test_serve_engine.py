"""The model's line and the engine behind the service: who shares a batch, what breaks, what ends."""

import asyncio
import errno
import logging
import threading
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import numpy as np
import pytest
from numpy.typing import NDArray
from starlette.types import Message

from lora_deploy.artifact.bundle import EXAMPLE
from lora_deploy.classify.terms import Model
from lora_deploy.clips.clip import DecodedClip
from lora_deploy.clips.contract import PixelContract
from lora_deploy.runtime.base import Recogniser
from lora_deploy.runtime.load import load
from lora_deploy.serve import launch
from lora_deploy.serve.engine import Engine
from lora_deploy.serve.line import Line
from lora_deploy.serve.parcel import Parcel
from lora_deploy.serve.settings import ServeSettings
from lora_deploy.web.bodies import Body
from lora_deploy.web.turned import Turned
from lora_deploy.web.watch import Watch


def frames(recogniser: Recogniser, number: int) -> NDArray[np.uint8]:
    return np.random.default_rng(number).integers(
        0, 256, recogniser.contract.frames_shape, dtype=np.uint8
    )


class Held:
    """A backend that waits for a gate, and counts how often it ran."""

    def __init__(self, real: Any) -> None:
        self._real = real
        self.gate = threading.Event()
        self.entered = threading.Semaphore(0)
        self.runs = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def logits(self, pixel_values: NDArray[np.float32]) -> NDArray[np.float32]:
        self.runs += 1
        self.entered.release()
        self.gate.wait(10)
        answer: NDArray[np.float32] = self._real.logits(pixel_values)
        return answer


@pytest.fixture
def held() -> tuple[Recogniser, Held]:
    recogniser = load(EXAMPLE, backend="onnxruntime", batch_size=4)
    backend = Held(recogniser.backend)
    return replace(recogniser, backend=backend), backend


def test_clips_that_gather_go_together_and_answer_as_alone(held: tuple[Recogniser, Held]) -> None:
    recogniser, backend = held
    batches: list[None] = []
    line = Line(recogniser, lambda: batches.append(None))
    clips = [frames(recogniser, number) for number in range(6)]
    asked = [line.submit(clips[0])]
    assert backend.entered.acquire(timeout=10)  # one alone waits for nobody
    asked += [line.submit(clip) for clip in clips[1:]]
    backend.gate.set()
    answers = [one.result(10) for one in asked]
    assert (backend.runs, len(batches)) == (3, 3)  # 1, 4, 1
    for clip, answer in zip(clips, answers, strict=True):
        alone = recogniser.logits(clip[None])[0]
        assert answer.logits.tobytes() == alone.tobytes()
        assert answer.model_seconds > 0


def test_who_shares_a_batch_with_a_clip_that_breaks_it_is_answered(
    held: tuple[Recogniser, Held],
) -> None:
    recogniser, backend = held
    line = Line(recogniser, lambda: None)
    first = line.submit(frames(recogniser, 0))
    assert backend.entered.acquire(timeout=10)
    bad = line.submit(np.full(recogniser.contract.frames_shape, 0, np.uint8))
    good = line.submit(frames(recogniser, 1))
    real, backend._real = backend._real, Breaks(backend._real, recogniser)
    backend.gate.set()
    assert first.result(10)
    with pytest.raises(RuntimeError, match="black"):
        bad.result(10)
    backend._real = real
    alone = recogniser.logits(frames(recogniser, 1)[None])[0]
    assert good.result(10).logits.tobytes() == alone.tobytes()


class Breaks:
    """Over a clip that is all black; padding is zeros, which no picture is once normalised."""

    def __init__(self, real: Any, recogniser: Recogniser) -> None:
        self._real = real
        black = np.zeros((1, *recogniser.contract.pixel_values_shape), np.float32)
        recogniser.put(np.zeros(recogniser.contract.frames_shape, np.uint8), black[0])
        self._black = black[0]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def logits(self, pixel_values: NDArray[np.float32]) -> NDArray[np.float32]:
        if any((one == self._black).all() for one in pixel_values):
            raise RuntimeError("black")
        answer: NDArray[np.float32] = self._real.logits(pixel_values)
        return answer


def test_a_clip_that_nobody_waits_for_any_more_is_not_computed(
    held: tuple[Recogniser, Held],
) -> None:
    recogniser, backend = held
    line = Line(recogniser, lambda: None)
    first = line.submit(frames(recogniser, 0))
    assert backend.entered.acquire(timeout=10)
    assert line.submit(frames(recogniser, 1)).cancel()
    backend.gate.set()
    first.result(10)
    line.submit(frames(recogniser, 2)).result(10)
    assert backend.runs == 2


async def silent() -> Message:
    """A visitor who neither sends anything nor leaves."""
    await asyncio.sleep(60)
    raise AssertionError


class Decoders:
    """A pool that gives black clips, and in place of the second a fault, or nothing as yet."""

    def __init__(
        self,
        workers: int,
        *,
        fault: Literal["at once", "later", "nothing", "no more files"] | None = None,
    ) -> None:
        self.workers = workers
        self._fault = fault
        self.asked = 0
        self.pending: Future[DecodedClip] = Future()
        self.pending.set_running_or_notify_cancel()

    def submit(self, _: Path, contract: PixelContract, *__: object) -> "Future[DecodedClip]":
        future: Future[DecodedClip] = Future()
        self.asked += 1
        if self.asked == 2 and self._fault == "at once":
            raise RuntimeError("decoder")
        if self.asked == 2 and self._fault == "nothing":
            return self.pending
        if self.asked == 2 and self._fault == "no more files":
            raise OSError(errno.EMFILE, "Too many open files")
        if self.asked == 2 and self._fault:
            future.set_exception(RuntimeError("decoder"))
        else:
            black = np.zeros(contract.frames_shape, np.uint8)
            future.set_result(DecodedClip(black, (), 1.0, None))
        return future


@pytest.mark.parametrize("broken", ["decoder", "black"])
def test_it_is_not_open_before_each_decoder_and_the_model_have_answered(broken: str) -> None:
    recogniser = load(EXAMPLE, backend="onnxruntime", batch_size=1)
    if broken == "black":
        recogniser = replace(recogniser, backend=Breaks(recogniser.backend, recogniser))
    pool: Any = Decoders(2, fault="later" if broken == "decoder" else None)
    engine = Engine(lambda: recogniser, pool, ServeSettings(), Watch("serve"), batch_size=1)
    with pytest.raises(RuntimeError, match=broken):
        engine.open()
    assert engine.recogniser is None
    engine.close()


def test_a_clip_that_can_not_be_opened_for_want_of_files_may_come_again() -> None:
    recogniser = load(EXAMPLE, backend="onnxruntime", batch_size=1)
    pool: Any = Decoders(1, fault="no more files")
    engine = Engine(lambda: recogniser, pool, ServeSettings(), Watch("serve"), batch_size=1)
    engine.open()

    async def ask() -> bool:
        with pytest.raises(Turned) as caught, Watch("serve").request("classify") as request:
            await engine.ask(Parcel.of(b"video"), None, Body(silent), request)
        assert (caught.value.status, caught.value.reason) == (503, "no_room")
        return await engine.is_well()

    assert asyncio.run(ask())
    assert pool.asked == 2  # nothing is sick, so nothing of our own was asked
    engine.close()


@pytest.mark.parametrize("fault", ["at once", "later"])
def test_after_a_fault_one_look_is_enough_for_all_who_ask(
    fault: Literal["at once", "later"],
) -> None:
    recogniser = load(EXAMPLE, backend="onnxruntime", batch_size=1)
    pool: Any = Decoders(1, fault=fault)
    watch = Watch("serve")
    settings = ServeSettings(timeout_seconds=1)  # for a decoder that nobody gave back
    engine = Engine(lambda: recogniser, pool, settings, watch, batch_size=1)
    engine.open()

    async def look() -> list[bool]:
        with watch.request("classify") as request, pytest.raises(RuntimeError, match="decoder"):
            await engine.ask(Parcel.of(b"video"), None, Body(silent), request)
        return await asyncio.gather(*(engine.is_well() for _ in range(4)))

    assert asyncio.run(look()) == [True] * 4
    assert pool.asked == 3
    engine.close()


def test_a_clip_that_is_decoded_after_the_end_disturbs_nobody(
    caplog: pytest.LogCaptureFixture,
) -> None:
    recogniser = load(EXAMPLE, backend="onnxruntime", batch_size=1)
    pool: Any = Decoders(1, fault="nothing")
    engine = Engine(lambda: recogniser, pool, ServeSettings(), Watch("serve"), batch_size=1)
    engine.open()

    async def ask() -> None:
        with pytest.raises(TimeoutError), Watch("serve").request("classify") as request:
            asked = engine.ask(Parcel.of(b"video"), None, Body(silent), request)
            await asyncio.wait_for(asked, 0.05)

    asyncio.run(ask())
    pool.pending.set_exception(RuntimeError("the decoder was killed"))
    assert [one for one in caplog.records if one.levelno >= logging.WARNING] == []
    engine.close()


@pytest.mark.parametrize("is_stopping", [True, False])
def test_a_model_that_does_not_open_is_a_fault_unless_it_is_the_end(is_stopping: bool) -> None:
    def broken() -> None:
        raise RuntimeError

    engine: Any = SimpleNamespace(open=broken)
    server: Any = SimpleNamespace(is_stopping=is_stopping, fault=None, should_exit=False)
    launch._open(engine, server, Model(EXAMPLE), Watch("serve"))
    assert server.should_exit == (server.fault is not None) == (not is_stopping)
