"""What is uploaded: a form in pieces of any size, the file it becomes, and the room for it."""

import asyncio
import errno
import io
from concurrent.futures import Future
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.datastructures import Headers
from starlette.types import Message

from lora_deploy.clips import guard
from lora_deploy.serve.form import FormFile
from lora_deploy.serve.parcel import Parcel, Room
from lora_deploy.serve.receiving import Receiving
from lora_deploy.serve.settings import ServeSettings
from lora_deploy.web.bodies import Body
from lora_deploy.web.turned import Turned

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
