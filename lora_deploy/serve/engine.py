"""From an upload to what the model says of it: a queue with an end, the decode pool, the model's line."""

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from lora_deploy import open_files
from lora_deploy.classify.overlap import Known
from lora_deploy.clips.clip import DecodedClip, Stretch
from lora_deploy.clips.pool import DecodePool
from lora_deploy.errors import ClipError
from lora_deploy.runtime.base import Recogniser
from lora_deploy.serve.line import Answered, Line
from lora_deploy.serve.parcel import Parcel
from lora_deploy.serve.refusals import later, no_room, opening
from lora_deploy.serve.settings import ServeSettings
from lora_deploy.web.bodies import Body
from lora_deploy.web.turned import Turned
from lora_deploy.web.watch import RequestWatch, Watch

_OWN_CLIP = Path(__file__).parents[1] / "assets" / "warm-up.mp4"
"""What the model is asked about before anybody else may ask."""


class Engine:
    """The model, the pool, and who waits for them. Used in one event loop, but for `open`."""

    def __init__(
        self,
        model: Callable[[], Recogniser],
        pool: DecodePool,
        settings: ServeSettings,
        watch: Watch,
        *,
        batch_size: int,
    ) -> None:
        """Open nothing yet.

        Args:
            model: Opens it.
            pool: Who decodes; as many clips at once as it has workers.
            settings: How many may wait, and how long.
            watch: Where it is counted.
            batch_size: Of the model.
        """
        self._model = model
        self._pool = pool
        self._timeout_seconds = settings.timeout_seconds
        self._room = pool.workers + batch_size + settings.queue
        self._decoders = asyncio.Semaphore(pool.workers)
        self._under_way = 0
        self._is_sick = False
        self._checking = asyncio.Lock()
        self.recogniser: Recogniser | None = None
        """None until it is open, warm, and has answered about a clip of our own."""
        self._line: Line | None = None
        self._own = Parcel.of(_OWN_CLIP.read_bytes())
        self._ran = watch.counter("batches", "Times that the model ran")
        watch.follow("queue_length", "Clips that wait or are worked on", lambda: self._under_way)
        watch.follow("queue_limit", "Most clips that may", lambda: self._room)

    def open(self) -> None:
        """Open the model, start all decoders, and ask about a clip of our own; takes seconds.

        The pool proves its decoder before that clip, as before any first one.

        Raises:
            LoraDeployError: The model can't be opened here, or decoders can't work.
        """
        recogniser = self._model()
        line = Line(recogniser, self._ran)
        decoding = [
            self._pool.submit(self._own.path, recogniser.contract)
            for _ in range(self._pool.workers)
        ]
        clips = [one.result() for one in decoding]
        line.submit(clips[0].frames).result()
        self._line, self.recogniser = line, recogniser

    async def is_well(self) -> bool:
        """Whether a clip would be answered; after a fault, one of our own is asked about to see."""
        if self.recogniser is None:
            return False
        async with self._checking:
            if self._is_sick:
                with suppress(Exception):
                    await self._asked(self._own.path, None, lambda *_: None, lambda _: None)
            return not self._is_sick

    def check_room(self) -> None:
        """See whether one more clip may come.

        Raises:
            Turned: The model is not open yet, or too many clips wait.
        """
        if self.recogniser is None:
            raise opening()
        if self._under_way >= self._room:
            raise later("busy", "many clips are waiting already: please try again")

    async def ask(
        self, parcel: Parcel, stretch: Stretch | None, body: Body, request: RequestWatch
    ) -> Known | ClipError:
        """What the model says of an upload, or why it says nothing.

        Args:
            parcel: The upload, whole; it is closed when it was read.
            stretch: Which part of it; None for the whole.
            body: Of the request: when who asked has gone, the work is given up.
            request: Told how long each part took.

        Raises:
            Turned: The clip can't wait, or waited too long; or nobody waits for the answer.
        """
        reading: Future[Any] | None = None

        def note(decoding: Future[DecodedClip]) -> None:
            nonlocal reading
            reading = decoding

        try:
            with self._place():
                return await self._unless_left(
                    body, self._asked(parcel.path, stretch, request.took, note)
                )
        finally:
            parcel.close_after(reading)

    def close(self) -> None:
        """Let go of what is kept; nobody asks any more."""
        self._own.close_after(None)

    @contextmanager
    def _place(self) -> Iterator[None]:
        self.check_room()
        self._under_way += 1
        try:
            yield
        finally:
            self._under_way -= 1

    async def _unless_left(
        self, body: Body, work: Coroutine[Any, Any, Known | ClipError]
    ) -> Known | ClipError:
        working = asyncio.create_task(work)
        leaving = asyncio.create_task(_until_left(body))
        try:
            await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if not working.done():
                raise Turned(499, "left", "")
            return working.result()
        finally:
            for task in (working, leaving):
                task.cancel()
            await asyncio.wait({working, leaving})

    async def _asked(
        self,
        path: Path,
        stretch: Stretch | None,
        took: Callable[[str, float], None],
        note: Callable[[Future[DecodedClip]], None],
    ) -> Known | ClipError:
        assert self.recogniser is not None
        assert self._line is not None
        try:
            clip = await self._decoded(path, stretch, took, note)
            answered: Answered = await asyncio.wrap_future(self._line.submit(clip.frames))
        except ClipError as error:
            return error
        except Turned:
            raise
        except Exception as error:
            if open_files.ran_out(error):
                raise no_room() from None
            self._is_sick = True
            raise
        took("queue", answered.waited_seconds)
        took("model", answered.model_seconds)
        self._is_sick = False
        return Known(answered.logits[None], clip.duration_seconds, clip.warning)

    async def _decoded(
        self,
        path: Path,
        stretch: Stretch | None,
        took: Callable[[str, float], None],
        note: Callable[[Future[DecodedClip]], None],
    ) -> DecodedClip:
        assert self.recogniser is not None
        begun = time.monotonic()
        try:
            async with asyncio.timeout(self._timeout_seconds):
                await self._decoders.acquire()
        except TimeoutError:
            raise later("busy", "this clip waited too long: please try again") from None
        finally:
            took("queue", time.monotonic() - begun)
        begun = time.monotonic()
        try:
            decoding = self._pool.submit(path, self.recogniser.contract, stretch)
        except BaseException:
            self._decoders.release()
            raise
        note(decoding)
        loop = asyncio.get_running_loop()

        def free(_: object) -> None:
            with suppress(RuntimeError):  # the loop has ended, and nobody waits any more
                loop.call_soon_threadsafe(self._decoders.release)

        # When the worker is free, and not when nobody waits for it any more.
        decoding.add_done_callback(free)
        try:
            return await asyncio.wrap_future(decoding)
        finally:
            took("decode", time.monotonic() - begun)


async def _until_left(body: Body) -> None:
    """Comes back when whoever sent a body that is complete has gone."""
    while (await body())["type"] != "http.disconnect":
        pass
