"""Pieces of the service alone: a form in pieces of any size, the model's line, room, settings."""

import asyncio
import errno
import io
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import httpx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.types import Message

from lora_deploy.artifact.bundle import EXAMPLE
from lora_deploy.classify.terms import Model
from lora_deploy.clips import guard
from lora_deploy.clips.clip import DecodedClip
from lora_deploy.clips.contract import PixelContract
from lora_deploy.errors import ServeSettingError, TokenNeededError
from lora_deploy.runtime.base import Recogniser
from lora_deploy.runtime.load import load
from lora_deploy.serve import launch
from lora_deploy.serve.door import Door
from lora_deploy.serve.engine import Engine
from lora_deploy.serve.form import FormFile
from lora_deploy.serve.line import Line
from lora_deploy.serve.parcel import Parcel, Room
from lora_deploy.serve.receiving import Receiving
from lora_deploy.serve.refusals import Refusing
from lora_deploy.serve.settings import ServeSettings, read_tokens
from lora_deploy.web.bodies import Body
from lora_deploy.web.pulse import Pulse
from lora_deploy.web.server import OrderlyServer, listening
from lora_deploy.web.turned import Turned
from lora_deploy.web.watch import Watch

FORM = (
    b"--edge\r\nContent-Disposition: form-data; name=\"file\"; filename*=UTF-8''a%%20b.mp4; "
    b'filename="a b.mp4"\r\nContent-Type: video/mp4\r\n\r\n%b\r\n--edge--\r\n'
)


@given(st.binary(max_size=200), st.lists(st.integers(1, 40), min_size=1))
def test_a_form_gives_its_file_whatever_the_pieces_it_comes_in(
    content: bytes, pieces: list[int]
) -> None:
    if b"\r\n--edge" in b"\r\n" + content:
        return
    whole, found, at, number = FORM % content, b"", 0, 0
    form = FormFile("multipart/form-data; boundary=edge")
    while at < len(whole):
        size = pieces[number % len(pieces)]
        found += form.take(whole[at : at + size])
        at, number = at + size, number + 1
    form.check_whole()
    assert found == content


@given(st.binary(max_size=300))
def test_bytes_that_are_no_form_are_a_bad_request(content: bytes) -> None:
    form = FormFile("multipart/form-data; boundary=b")
    with pytest.raises(Turned) as caught:
        form.take(b"--b\r\n" + content)
        form.check_whole()
    assert (caught.value.status, caught.value.reason) == (400, "bad_request")


def test_what_a_form_has_around_its_file_is_bounded() -> None:
    form = FormFile("multipart/form-data; boundary=edge")
    assert form.take(FORM % bytes(100_000)) == bytes(100_000)
    with pytest.raises(Turned, match="around its file"):
        for _ in range(66):
            form.take(b"x" * 1000)


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


def test_a_parcel_is_read_by_its_path_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, media: Path
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    content = min((media / "clips" / "asl").glob("*.mkv")).read_bytes()

    async def fill() -> Parcel:
        parcel = Parcel()
        for start in range(0, len(content), 1000):
            await parcel.add(content[start : start + 1000])
        await parcel.flush()
        return parcel

    parcel = asyncio.run(fill())
    assert list(tmp_path.iterdir()) == []
    for _ in range(2):
        with guard.open_clip(parcel.path) as file:
            assert file.read() == content
    place, reading = parcel.path, Future[object]()
    parcel.close_after(reading)
    assert place.exists()
    reading.set_result(None)
    assert not place.exists() or place.resolve().name != place.name


def test_a_parcel_is_whole_however_little_the_disk_takes_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Sips(io.FileIO):
        def write(self, data: Any) -> int:
            return super().write(memoryview(data)[:7])

    monkeypatch.setattr("tempfile.TemporaryFile", lambda **_: Sips(tmp_path / "file", "w+"))
    parcel = Parcel.of(b"a whole video")
    assert parcel.path.read_bytes() == b"a whole video"
    parcel.close_after(None)


def test_a_large_upload_is_not_kept_in_memory() -> None:
    parcel = Parcel()
    asyncio.run(parcel.add(bytes(1 << 20)))
    assert parcel.path.stat().st_size == 1 << 20
    parcel.close_after(None)


def test_a_disk_that_is_full_is_a_clean_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    full = Path("/dev/full")
    monkeypatch.setattr("tempfile.TemporaryFile", lambda **_: full.open("wb", buffering=0))

    async def fill() -> None:
        parcel = Parcel()
        try:
            await parcel.add(b"x")
            await parcel.flush()
        finally:
            parcel.close_after(None)

    with pytest.raises(Turned) as caught:
        asyncio.run(fill())
    assert (caught.value.status, caught.value.reason) == (503, "no_room")


def test_an_upload_that_is_turned_away_is_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = (tmp_path / "file").open("w+b", buffering=0)
    monkeypatch.setattr("tempfile.TemporaryFile", lambda **_: file)

    async def large() -> Message:
        return {"type": "http.request", "body": bytes(11), "more_body": False}

    async def take() -> None:
        receiving = Receiving(ServeSettings(max_upload_bytes=10))
        async with receiving.parcel(Headers({"content-type": "video/mp4"}), Body(large)):
            raise AssertionError

    with pytest.raises(Turned, match="too large"):
        asyncio.run(take())
    assert file.closed


def test_the_last_of_the_disk_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    free = 64_000_000 + 1000

    class Usage:
        def __init__(self) -> None:
            self.free = free

    monkeypatch.setattr("shutil.disk_usage", lambda _: Usage())
    room = Room(10**9)
    with room.of(600):
        with pytest.raises(Turned), room.of(401):
            pass
        with room.of(400):
            assert room.taken_bytes == 1000
    assert room.taken_bytes == 0


def test_what_is_written_is_not_taken_from_the_disk_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    free = [2 << 30]
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=free[0]))
    room, size = Room(10**10), 200_000_000
    with ExitStack() as uploads:
        for number in range(10):
            place = uploads.enter_context(room.of(size))
            place.written_bytes = size
            free[0] -= size
            assert room.taken_bytes == (number + 1) * size
        with pytest.raises(Turned), room.of(size):
            pass


def test_a_small_upload_of_unknown_length_takes_no_more_room_than_it_has() -> None:
    parts = iter([(bytes(2 << 20), True), (b"abc", False)])

    async def receive() -> Message:
        part, more = next(parts)
        return {"type": "http.request", "body": part, "more_body": more}

    async def take() -> None:
        receiving = Receiving(ServeSettings())
        headers = Headers({"content-type": "video/mp4"})
        async with receiving.parcel(headers, Body(receive)) as parcel:
            assert receiving.room.taken_bytes == parcel.bytes == (2 << 20) + 3
            (place,) = receiving.room._places
            assert place.written_bytes == parcel.bytes
            parcel.close_after(None)
        assert receiving.room.taken_bytes == 0

    asyncio.run(take())


def test_an_upload_that_no_file_may_be_opened_for_may_come_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full(**_: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr("tempfile.TemporaryFile", full)

    async def take() -> None:
        receiving = Receiving(ServeSettings())
        async with receiving.parcel(Headers({"content-type": "video/mp4"}), Body(silent)):
            raise AssertionError

    with pytest.raises(Turned) as caught:
        asyncio.run(take())
    assert (caught.value.status, caught.value.reason) == (503, "no_room")


async def silent() -> Message:
    """A visitor who neither sends anything nor leaves."""
    await asyncio.sleep(60)
    raise AssertionError


def test_what_is_read_for_nothing_has_an_end() -> None:
    parts = iter([{"type": "http.request", "body": b"x" * 10, "more_body": True}] * 100)

    async def endless() -> Message:
        return next(parts)

    async def drain() -> None:
        await Body(endless).drain(50, 60)
        await asyncio.wait_for(Body(silent).drain(50, 0.01), 10)

    asyncio.run(drain())
    assert len(list(parts)) == 94


# The door -----------------------------------------------------------------------------------------


def asked(settings: ServeSettings, path: str, address: str = "127.0.0.1", **headers: str) -> int:
    """The status of a GET; 200 where the door lets it through."""
    door = Door(PlainTextResponse("inside"), settings, Refusing(settings, Watch("serve")))
    return got(door, path, address, **headers).status_code


def got(door: Door, path: str, address: str = "127.0.0.1", **headers: str) -> httpx.Response:
    """What a door answers to a GET."""

    async def ask() -> httpx.Response:
        transport = httpx.ASGITransport(door, client=(address, 1))
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as visitor:
            return await visitor.get(path, headers=headers)

    return asyncio.run(ask())


@pytest.mark.parametrize(
    ("address", "status"), [("127.0.0.1", 200), ("::1", 200), ("192.0.2.7", 401)]
)
def test_metrics_are_for_this_computer_or_with_a_token(address: str, status: int) -> None:
    settings = ServeSettings(host="0.0.0.0", tokens=("x" * 16,))
    assert asked(settings, "/metrics", address) == status
    assert asked(settings, "/metrics", address, authorization=f"Bearer {'x' * 16}") == 200


@pytest.mark.parametrize(
    ("path", "status"),
    [("/clips/readyz", 200), ("/readyz", 200), ("/clips/v1/model", 401), ("/clipsreadyz", 401)],
)
def test_below_a_path_of_a_proxy_health_needs_no_token_either(path: str, status: int) -> None:
    assert asked(ServeSettings(tokens=("x" * 16,), root_path="/clips"), path) == status


@pytest.mark.parametrize(
    "name", ["x-forwarded-for", "x-forwarded-host", "forwarded", "x-real-ip", "via"]
)
def test_what_was_passed_on_does_not_come_from_this_computer(name: str) -> None:
    assert asked(ServeSettings(), "/v1/model") == 200
    assert asked(ServeSettings(), "/v1/model", **{name: "192.0.2.7"}) == 403


def test_what_breaks_before_there_is_an_answer_is_answered_and_counted() -> None:
    async def broken(*_: object) -> None:
        raise RuntimeError("secret")

    watch, settings = Watch("serve"), ServeSettings()
    answer = got(Door(broken, settings, Refusing(settings, watch)), "/v1/model")
    assert (answer.status_code, answer.json()["error"]["kind"]) == (500, "fault")
    assert "secret" not in answer.text
    assert b'lora_deploy_rejected_total{reason="fault"} 1.0' in watch.metrics()


def test_a_connection_ends_though_nobody_reads_its_last_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("lora_deploy.web.server.UNREAD_SECONDS", 0.3)
    answer = PlainTextResponse("x" * 60_000, headers={"connection": "close"})
    with listening("127.0.0.1", 0) as (listener, _), socket.socket() as visitor:
        for one, buffer in ((listener, socket.SO_SNDBUF), (visitor, socket.SO_RCVBUF)):
            one.setsockopt(socket.SOL_SOCKET, buffer, 1)  # the least that the system gives
        server = OrderlyServer(
            Starlette(routes=[Route("/", answer)]), Pulse(),
            connections=5, request_seconds=10, grace_seconds=0,
        )  # fmt: skip
        thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
        thread.start()
        until(lambda: server.started)
        visitor.connect(listener.getsockname())
        visitor.sendall(b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n")
        until(lambda: server.server_state.total_requests == 1)
        until(lambda: not server.server_state.connections)
        server.stop()
        thread.join(20)


def until(holds: Callable[[], bool], seconds: float = 15) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_no_web_socket_is_opened() -> None:
    said: list[Any] = []

    async def connect() -> Message:
        return {"type": "websocket.connect"}

    async def send(message: Message) -> None:
        said.append(message["type"])

    settings = ServeSettings()
    door = Door(PlainTextResponse("inside"), settings, Refusing(settings, Watch("serve")))
    asyncio.run(door({"type": "websocket", "path": "/readyz", "headers": []}, connect, send))
    assert said == ["websocket.close"]


# The engine ---------------------------------------------------------------------------------------


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
    assert caplog.text == ""
    engine.close()


@pytest.mark.parametrize("is_stopping", [True, False])
def test_a_model_that_does_not_open_is_a_fault_unless_it_is_the_end(is_stopping: bool) -> None:
    def broken() -> None:
        raise RuntimeError

    engine: Any = SimpleNamespace(open=broken)
    server: Any = SimpleNamespace(is_stopping=is_stopping, fault=None, should_exit=False)
    launch._open(engine, server, Model(EXAMPLE), Watch("serve"))
    assert server.should_exit == (server.fault is not None) == (not is_stopping)


# Settings -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "values",
    [{"port": 70_000}, {"queue": -1}, {"timeout_seconds": 0.5}, {"timeout_seconds": float("nan")},
     {"grace_seconds": -1}, {"max_upload_bytes": 0}, {"root_path": "clips"}, {"root_path": "/"},
     {"root_path": "/cl\nips"}, {"tokens": ("short",)}, {"tokens": ("é" * 20,)},
     {"tokens": ("x\t" * 10,)}, {"tokens": ("x" * 20,), "without_token": True}],
)  # fmt: skip
def test_settings_outside_what_they_may_be_are_named(values: dict[str, Any]) -> None:
    with pytest.raises(ServeSettingError):
        ServeSettings(**values)


def test_a_long_file_of_tokens_is_read_to_its_end(tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    file.write_text(f"{'x' * 16}\n" * 70_000)
    assert read_tokens(file) == ("x" * 16,) * 70_000


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "clips.example", ""])
def test_beyond_this_computer_a_token_is_needed(host: str) -> None:
    with pytest.raises(TokenNeededError):
        ServeSettings(host=host)
    assert ServeSettings(host=host, without_token=True).is_public
    assert not ServeSettings(host=host, tokens=("x" * 16,)).is_private


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost", "127.9.9.9"])
def test_this_computer_needs_none(host: str) -> None:
    assert ServeSettings(host=host).is_private
    assert not ServeSettings(host=host, tokens=("x" * 16,)).is_private
