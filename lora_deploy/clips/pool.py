"""The one decode pool: strangers' files are decoded in fenced processes that can be killed.

Whatever a file does to its decoder, the process that asks gets a clip or a `ClipError`, within
the deadline. It knows nothing of how pictures are decoded; that is the worker's.
"""

import atexit
import contextlib
import json
import logging
import os
import select
import site
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import BinaryIO, Literal

from lora_deploy.clips import frame_folder, guard, wire
from lora_deploy.clips.clip import WHOLE_FILE, DecodedClip, Effort, Footage, Stretch
from lora_deploy.clips.contract import PixelContract
from lora_deploy.clips.fence import Fence
from lora_deploy.clips.proof import DecoderProof, prove_decoder
from lora_deploy.clips.shares import Shares
from lora_deploy.errors import ClipError, DecodersUnavailableError
from lora_deploy.extras import require
from lora_deploy.processor import usable_cores

logger = logging.getLogger(__name__)

Decoder = Literal["av", "decord"]

DEADLINE_SECONDS = 60.0
"""For one clip, from handing it over to having its frames."""

PROOF_DEADLINE_SECONDS = 5.0
"""For one of the known clips, which take milliseconds; some versions of decord never return from one."""

MEMORY_BYTES = 1536 << 20
"""What decoding one clip may take: 17 frames of the largest size that is read, and some room."""

CLIPS_PER_WORKER = 1000
"""Then a new process takes its place, so nothing that leaks or was bent lives long."""

MOST_WORKERS = 64

DECODED_AHEAD = 4
"""Clips that may wait, decoded, for whoever asked."""

_START_SECONDS = 60.0
_WORKER_COMMAND = (sys.executable, "-P", "-m", "lora_deploy.clips.worker")
_PACKAGE_ROOT = Path(__file__).parents[2]

_PROVED: set[tuple[tuple[str, ...], Decoder, Effort]] = set()
"""Workers, decoders and efforts that gave the right frames in this process."""


@dataclass(frozen=True)
class PoolOptions:
    """How clips are decoded; the same for all workers of a pool."""

    decoder: Decoder = "av"
    effort: Effort = "exact"
    deadline_seconds: float = DEADLINE_SECONDS
    memory_bytes: int = MEMORY_BYTES
    clips_per_worker: int = CLIPS_PER_WORKER


class DecodePool:
    """Processes that decode, each started when first needed and replaced when it dies.

    Safe to use from several threads. Use it as a context manager, or `close` it.
    """

    def __init__(
        self,
        workers: int | None = None,
        *,
        decoder: Decoder = "av",
        effort: Effort = "exact",
        deadline_seconds: float = DEADLINE_SECONDS,
        memory_bytes: int = MEMORY_BYTES,
        clips_per_worker: int = CLIPS_PER_WORKER,
        proof: bool = True,
    ) -> None:
        """Start nothing yet.

        Args:
            workers: Processes; by default one a core, `MOST_WORKERS` at most.
            decoder: ``av`` or ``decord``.
            effort: How much of a file is worked through.
            deadline_seconds: For one clip; then its worker is killed.
            memory_bytes: That decoding one clip may take.
            clips_per_worker: After which a worker is replaced.
            proof: Whether the decoder must give the right frames of known clips before it is
                given any other, once in this process.

        Raises:
            MissingPackageError: The decoder is not installed.
        """
        if decoder == "decord":
            require("decord", purpose="to decode with --decoder decord")
        self.workers = workers or min(usable_cores(), MOST_WORKERS)
        self.options = PoolOptions(
            decoder, effort, deadline_seconds, memory_bytes, clips_per_worker
        )
        self._needs_proof = proof
        self._proving = threading.Lock()
        self._threads = ThreadPoolExecutor(self.workers, thread_name_prefix="decode")
        # A worker dies with the thread that started it; those of `parts` come and go.
        self._starter = ThreadPoolExecutor(1, thread_name_prefix="start-decoder")
        self._of_thread = threading.local()
        self._lock = threading.Lock()
        self._alive: set[_Worker] = set()
        self._spare: _Worker | None = None
        """What `parts` has used and will use again."""
        self._closed = False
        self._busy_seconds = 0.0

    def submit(
        self, path: Path, contract: PixelContract, stretch: Stretch | None = None
    ) -> Future[DecodedClip]:
        """Decode a file, a part of it, or a folder of numbered pictures, when a worker is free.

        The future raises `ClipError` for a bad file.

        Where the decoder itself is found to give wrong frames, all raise a `DecoderError`.
        """
        return self._threads.submit(self._timed, path, contract, stretch or WHOLE_FILE)

    def decode(
        self, path: Path, contract: PixelContract, stretch: Stretch | None = None
    ) -> DecodedClip:
        """Decode a file, or a part of it, and wait for the clip.

        Raises:
            ClipError: The file gives no clip; ``timeout`` where it took too long.
            DecodersUnavailableError: No decoding process can be started on this computer.
            DecoderError: The decoder gives wrong frames of clips that are known.
        """
        return self.submit(path, contract, stretch).result()

    def prove(self) -> DecoderProof:
        """See whether the decoder gives the right frames of known clips, through a worker as always.

        Raises:
            DecodersUnavailableError: No decoding process can be started on this computer.
            DecoderError: It does not; named by what is wrong.
        """
        return self._threads.submit(self._prove).result()

    def in_order(
        self, paths: Iterable[str | Footage], contract: PixelContract
    ) -> Iterator[tuple[str, DecodedClip | ClipError]]:
        """Decode many files or parts of them, and give each, as a text, with what became of it.

        They come in the order of ``paths``.

        Only `DECODED_AHEAD` clips wait beside those that are being decoded, however many there are.
        """
        waiting: deque[tuple[str, Future[DecodedClip]]] = deque()

        def first() -> tuple[str, DecodedClip | ClipError]:
            name, decoding = waiting.popleft()
            try:
                return name, decoding.result()
            except ClipError as error:
                return name, error

        try:
            for one in paths:
                footage = Footage(Path(one)) if isinstance(one, str) else one
                decoding = self.submit(footage.path, contract, footage.stretch)
                waiting.append((str(one), decoding))
                if len(waiting) > self.workers + DECODED_AHEAD:
                    yield first()
            while waiting:
                yield first()
        finally:
            for _, decoding in waiting:
                decoding.cancel()

    def parts(
        self,
        path: Path,
        contract: PixelContract,
        stretches: Sequence[Stretch],
        *,
        patience_seconds: float = 0.0,
    ) -> Iterator[tuple[int, DecodedClip | ClipError]]:
        """Decode many parts of one file, each picture once, however many parts show it.

        It is done by workers beside those of the pool, one where there are few parts, so nobody
        else waits for it. With decord the file is decoded anew for each part.

        Args:
            path: The file.
            contract: Which frames of each part.
            stretches: The parts; the later ones should begin later, for the sake of memory.
            patience_seconds: The deadline is for each part, and begins anew with each sign that the
                work goes on; for so long at most. A damaged file is decoded all through first.

        Yields:
            Number of a part and what became of it, in the order of completion. `DECODED_AHEAD` wait.

        Raises:
            DecodersUnavailableError: No decoding process can be started on this computer.
            DecoderError: The decoder gives wrong frames of clips that are known.
        """
        self._threads.submit(self._prove_once).result()
        shares = Shares(
            self,
            path,
            contract,
            stretches,
            most_workers=self.workers,
            deadline_seconds=self.options.deadline_seconds,
            patience_seconds=patience_seconds,
            ahead=DECODED_AHEAD,
        )
        try:
            yield from shares
        finally:
            shares.close()

    def lend(self) -> "_Worker":
        """A worker for `parts`, that no thread of the pool has.

        Raises:
            CancelledError: The pool is closed.
            DecodersUnavailableError: None can be started.
        """
        with self._lock:
            spare, self._spare = self._spare, None
        if spare is not None:
            if _is_ready(spare):
                return spare
            self._end(spare)
        try:
            return self._starter.submit(self._started).result()
        except RuntimeError:  # it takes no more work
            raise CancelledError from None

    def take_back(self, worker: "_Worker", *, sound: bool) -> None:
        """Keep one for the next time; end it where there is one, or where it can't be trusted."""
        worker.clips += 1
        with self._lock:
            keep = sound and self._spare is None and worker.clips < self.options.clips_per_worker
            if keep:
                self._spare = worker
        if not keep:
            self._end(worker)

    def fence(self) -> Fence:
        """Which layers of the fence stand around the workers; starts one to find out."""
        fence = self._threads.submit(lambda: self._worker().fence).result()
        assert fence is not None
        return fence

    @property
    def busy_seconds(self) -> float:
        """Seconds of all workers together that went into clips that are done."""
        with self._lock:
            return self._busy_seconds

    def worker_pids(self) -> list[int]:
        """Of the processes that are alive now."""
        return sorted(worker.process.pid for worker in self._all())

    def close(self) -> None:
        """End all workers at once; clips that wait or are being decoded are given up."""
        self._closed = True
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._starter.shutdown(wait=False, cancel_futures=True)
        for worker in self._all():
            worker.process.kill()  # so that no thread waits for an answer
        self._threads.shutdown(wait=True)
        self._starter.shutdown(wait=True)
        for worker in self._all():
            self._end(worker)

    def __enter__(self) -> "DecodePool":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _prove(self) -> DecoderProof:
        frames_off = 1 if self.options.effort == "fast" else 0
        return prove_decoder(
            self._decode_known, decoder=self.options.decoder, frames_off=frames_off
        )

    def _prove_once(self) -> None:
        """Before the first stranger's file; others wait for the outcome."""
        kind = (_WORKER_COMMAND, self.options.decoder, self.options.effort)
        with self._proving:
            if self._needs_proof and kind not in _PROVED:
                self._prove()
                _PROVED.add(kind)

    def _timed(self, path: Path, contract: PixelContract, stretch: Stretch) -> DecodedClip:
        begun = time.monotonic()
        try:
            return self._decode(path, contract, stretch)
        finally:
            with self._lock:
                self._busy_seconds += time.monotonic() - begun

    def _decode(self, path: Path, contract: PixelContract, stretch: Stretch) -> DecodedClip:
        deadline_seconds = self.options.deadline_seconds
        if os.path.isdir(path):  # noqa: PTH112 (says no to a name that no file can have)
            with frame_folder.packed(path, contract, stretch) as parcel:
                return self._clip_of(
                    parcel.file, contract, stretch, deadline_seconds, parcel.pictures
                )
        with guard.open_clip(path) as file:  # what may not be opened needs neither worker nor proof
            self._prove_once()
            return self._clip_of(file, contract, stretch, deadline_seconds)

    def _decode_known(self, path: Path, contract: PixelContract) -> DecodedClip:
        deadline_seconds = min(self.options.deadline_seconds, PROOF_DEADLINE_SECONDS)
        with guard.open_clip(path) as file:
            return self._clip_of(file, contract, WHOLE_FILE, deadline_seconds)

    def _clip_of(
        self,
        file: BinaryIO,
        contract: PixelContract,
        stretch: Stretch,
        deadline_seconds: float,
        pictures: wire.Pictures | None = None,
    ) -> DecodedClip:
        answer = self._ask(file.fileno(), contract, stretch, deadline_seconds, pictures)
        if isinstance(answer, wire.Answer):
            raise ClipError(answer.error_kind, answer.error)
        return answer

    def _ask(
        self,
        descriptor: int,
        contract: PixelContract,
        stretch: Stretch,
        deadline_seconds: float,
        pictures: wire.Pictures | None,
    ) -> DecodedClip | wire.Answer:
        while True:
            worker = self._worker()
            until = time.monotonic() + deadline_seconds
            try:
                wire.send_job(worker.connection, contract, stretch, descriptor, pictures)
                answer = wire.receive_answer(worker.connection, contract, stretch, until)
            except wire.Deadline:
                self._end(worker)
                raise ClipError(
                    "timeout",
                    f"decoding was not done after {deadline_seconds:g} seconds and was cut off",
                ) from None
            except (wire.WireError, OSError):
                self._end(worker)
                if self._closed:
                    raise CancelledError from None
                if worker.clips:
                    continue  # it may have died of an earlier clip: once more, in a fresh one
                raise ClipError("unreadable", "the decoder broke down over this file") from None
            worker.clips += 1
            spent = isinstance(answer, wire.Answer) and answer.error_kind == "too_large"
            if spent or worker.clips >= self.options.clips_per_worker:
                self._end(worker)
            return answer

    def _worker(self) -> "_Worker":
        """The worker of this thread: the one it has, or a new one where that can't be used."""
        worker: _Worker | None = getattr(self._of_thread, "worker", None)
        if worker is not None and worker in self._all():
            if _is_ready(worker):
                return worker
            self._end(worker)
        worker = self._started()
        self._of_thread.worker = worker
        return worker

    def _started(self) -> "_Worker":
        try:
            return self._start()
        except (wire.WireError, OSError) as error:
            if self._closed:
                raise CancelledError from None
            raise DecodersUnavailableError(
                f"a decoding process could not be started: {error}"
            ) from error

    def _start(self) -> "_Worker":
        """Start a worker and wait until it stands in its fence."""
        ours, theirs = socket.socketpair()
        with theirs, contextlib.ExitStack() as on_error:
            on_error.callback(ours.close)
            process = _popen(self.options, theirs.fileno())
            worker = _Worker(process, ours)
            with self._lock:
                self._alive.add(worker)  # before it is ready, so that `close` finds it
            on_error.callback(self._end, worker)
            theirs.close()
            assert process.stderr is not None
            with process.stderr:
                try:
                    ready = wire.receive_ready(ours, time.monotonic() + _START_SECONDS)
                except wire.WireError as error:
                    process.kill()
                    said = process.stderr.read().decode(errors="replace").strip().splitlines()
                    raise wire.WireError(said[-1] if said else str(error)) from error
            if self._closed:
                raise wire.WireError("the pool is closed")
            worker.fence = ready.fence
            _tell_missing(ready.fence)
            on_error.pop_all()
        return worker

    def _all(self) -> "list[_Worker]":
        with self._lock:
            return list(self._alive)

    def _end(self, worker: "_Worker") -> None:
        with self._lock:
            self._alive.discard(worker)
        worker.process.kill()
        worker.process.wait()
        worker.connection.close()


@dataclass(eq=False)
class _Worker:
    process: subprocess.Popen[bytes]
    connection: socket.socket
    fence: Fence | None = None
    clips: int = 0


def _is_ready(worker: _Worker) -> bool:
    return worker.process.poll() is None and not _has_spoken(worker.connection)


def _has_spoken(connection: socket.socket) -> bool:
    """Whether a worker that was asked nothing has said something, or has closed its end."""
    poll = select.poll()
    poll.register(connection, select.POLLIN)
    return bool(poll.poll(0))


def _popen(options: PoolOptions, descriptor: int) -> subprocess.Popen[bytes]:
    told = json.dumps(
        {
            "descriptor": descriptor,
            "parent_pid": os.getpid(),
            "decoder": options.decoder,
            "effort": options.effort,
            "memory_bytes": options.memory_bytes,
            # A second line behind the deadline, should this process be gone.
            "processor_seconds": int(options.deadline_seconds * options.clips_per_worker) + 60,
        }
    )
    return subprocess.Popen(
        [*_WORKER_COMMAND, told],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        pass_fds=[descriptor],
        env=_environment(),
        start_new_session=True,  # Ctrl-C is for the process that asks
    )


def _environment() -> dict[str, str]:
    """What a worker needs to find this package and to start no thread; nothing secret goes along."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if name in ("PATH", "HOME", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "PYTHONHOME", "TMPDIR")
    }
    places = []
    if not sys.flags.ignore_environment:  # nor was it obeyed by this process
        named = os.environ.get("PYTHONPATH", "").split(os.pathsep)
        places = [place for place in named if os.path.isabs(place)]  # noqa: PTH117 (may be empty)
    usual_places = (*site.getsitepackages(), site.getusersitepackages())
    if str(_PACKAGE_ROOT) not in (*usual_places, *places):
        places.append(str(_PACKAGE_ROOT))
    threads = dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    return {**kept, **threads, "PYTHONPATH": os.pathsep.join(places)}


@cache
def _tell_missing(fence: Fence) -> None:
    """Once for each state of the fence."""
    if fence.missing:
        logger.warning(
            "the fence around the decoder is not whole on this computer; missing: %s",
            "; ".join(fence.missing),
        )


@cache
def shared() -> DecodePool:
    """A pool for callers that have none of their own; it lives as long as this process."""
    pool = DecodePool()
    atexit.register(pool.close)
    return pool


# The threads of a pool do not come along into a forked process.
os.register_at_fork(after_in_child=shared.cache_clear)
