"""Files broken on purpose, through the pool: each gives a clip or one clear line, in time and in bounds."""

import os
import re
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from importlib.util import find_spec
from itertools import chain
from pathlib import Path
from typing import get_args

import av
import numpy as np
import pytest
from av.video.frame import VideoFrame

from lora_deploy.clips.clip import DecodedClip
from lora_deploy.clips.contract import PixelContract
from lora_deploy.clips.pool import DecodePool, Decoder
from lora_deploy.errors import ClipError, ClipErrorKind
from tests.conftest import MEDIA
from tests.mutants import Mutant, mutants
from tests.mutants.seeds import write_seeds

CONTRACT = PixelContract(frames=8, short_side=32, crop_height=32, crop_width=32)
DEADLINE_SECONDS = 4.0
MARGIN_SECONDS = 2.0
"""For starting a worker in place of one that died, which is no part of the deadline."""
MEMORY_BYTES = 384 << 20

REAL_SEEDS = (
    "hostile/ok.mp4", "hostile/ok.mkv", "hostile/ok.ts", "derived/book_tiny_24x16.mp4",
    "derived/book_frames_02.mp4", "derived/book_odd_161x119.webm", "derived/book_sar_2to1.mp4",
)  # fmt: skip

NOT_FOR_USERS = re.compile(
    r"/|Errno|0x|\n|Invalid data|not permitted|ffmpeg|avcodec|av\.|could not cope", re.I
)
"""Paths, numbers of the operating system, addresses, words of FFmpeg or PyAV, and faults of ours."""

OPEN_ALL = """
import sys
from pathlib import Path
import av
from av.error import FFmpegError
from lora_deploy.clips import guard
opened = 0
for path in Path(sys.argv[1]).iterdir():
    try:
        with path.open("rb") as file, av.open(file, options=guard.OPEN_OPTIONS) as container:
            opened += len(container.streams.video) > 0
    except (FFmpegError, MemoryError):
        pass
print(opened)
"""
"""Counts the files of a folder in which FFmpeg finds a video; in a process of its own."""

DIGEST_ALL = """
import sys
from hashlib import sha256
from pathlib import Path
from tests.mutants import mutants
digest = sha256()
for mutant in mutants(sorted(Path(sys.argv[1]).iterdir()), 200, 5):
    digest.update(mutant.name.encode() + mutant.content)
print(digest.hexdigest())
"""


@dataclass
class Outcome:
    """What became of one mutant."""

    mutant: str
    kind: str
    """``clip``, or the kind of the error."""
    told: str
    seconds: float
    lost_worker: bool


@pytest.fixture(scope="module")
def seed_files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Sound files of each container, made here."""
    return write_seeds(tmp_path_factory.mktemp("seeds"))


@contextmanager
def peak_memory(pool: DecodePool) -> Iterator[list[int]]:
    """The largest address space so far, in bytes, at each look at the pool's workers.

    The first look is done when this returns.
    """
    peaks: list[int] = []
    done = threading.Event()

    def look() -> None:
        for pid in pool.worker_pids():
            try:
                status = Path(f"/proc/{pid}/status").read_text()
            except OSError:  # it has just ended
                continue
            if found := re.search(r"VmPeak:\s+(\d+) kB", status):
                peaks.append(int(found[1]) << 10)

    def keep_looking() -> None:
        while not done.wait(0.02):
            look()

    look()
    watcher = threading.Thread(target=keep_looking)
    watcher.start()
    try:
        yield peaks
    finally:
        done.set()
        watcher.join()


def put_through(
    pool: DecodePool, wanted: Iterable[Mutant], sound: Path, folder: Path
) -> list[Outcome]:
    """Decode mutants one after the other; a sound clip must decode after each lost worker."""
    right = pool.decode(sound, CONTRACT)
    outcomes: list[Outcome] = []
    path = folder / "mutant"
    for number, mutant in enumerate(wanted):
        path.write_bytes(mutant.content)
        pids = pool.worker_pids()
        start = time.monotonic()
        try:
            clip = pool.decode(path, CONTRACT)
        except ClipError as error:
            kind, told = str(error.kind), str(error)
        else:
            kind, told = "clip", clip.warning or ""
            check_clip(clip)
        seconds = time.monotonic() - start
        lost = pool.worker_pids() != pids
        outcomes.append(Outcome(mutant.name, kind, told, seconds, lost))
        if lost or number % 20 == 0:
            assert np.array_equal(pool.decode(sound, CONTRACT).frames, right.frames), mutant.name
    return outcomes


def check_clip(clip: DecodedClip) -> None:
    assert clip.frames.shape == CONTRACT.frames_shape
    assert clip.frames.dtype == np.uint8
    assert len(clip.times_seconds) == CONTRACT.frames
    assert list(clip.times_seconds) == sorted(clip.times_seconds)
    assert 0 <= clip.times_seconds[0] <= clip.times_seconds[-1] <= clip.duration_seconds


def check_all(
    wanted: Iterable[Mutant], seed_files: list[Path], folder: Path, decoder: Decoder = "av"
) -> list[Outcome]:
    """Put mutants through a pool of one worker and hold it to what it promises."""
    with DecodePool(
        1, decoder=decoder, deadline_seconds=DEADLINE_SECONDS, memory_bytes=MEMORY_BYTES
    ) as pool:
        pool.fence()
        with peak_memory(pool) as peaks:
            fresh_bytes = max(peaks)
            outcomes = put_through(pool, wanted, seed_files[0], folder)
    assert max(peaks) <= fresh_bytes + MEMORY_BYTES
    known = {"clip", *get_args(ClipErrorKind)} - {"not_found"}
    assert [outcome for outcome in outcomes if outcome.kind not in known] == []
    assert [outcome for outcome in outcomes if NOT_FOR_USERS.search(outcome.told)] == []
    assert [outcome for outcome in outcomes if outcome.kind != "clip" and not outcome.told] == []
    latest = DEADLINE_SECONDS + MARGIN_SECONDS
    assert [outcome for outcome in outcomes if outcome.seconds > latest] == []
    return outcomes


def lost_workers(outcomes: list[Outcome]) -> list[Outcome]:
    """Those over which a worker ended that was neither stopped nor perhaps short of memory."""
    ends = ("timeout", "too_large")
    return [o for o in outcomes if o.lost_worker and o.kind not in ends]


def test_a_hundred_mutants_give_a_clip_or_one_clear_line(
    seed_files: list[Path], tmp_path: Path
) -> None:
    outcomes = check_all(mutants(seed_files, 100, seed=0), seed_files, tmp_path)
    assert lost_workers(outcomes) == []
    kinds = Counter(outcome.kind for outcome in outcomes)
    assert kinds["clip"] >= 50
    assert kinds["unreadable"] >= 10


def test_mutants_of_real_files_give_a_clip_or_one_clear_line(
    seed_files: list[Path], tmp_path: Path, media: Path
) -> None:
    real = [media / name for name in REAL_SEEDS]
    outcomes = check_all(mutants(real, 35, seed=0), seed_files, tmp_path)
    assert lost_workers(outcomes) == []
    assert Counter(outcome.kind for outcome in outcomes)["clip"] >= 15


@pytest.mark.soak
@pytest.mark.parametrize("seed", [1, 2])
def test_a_thousand_mutants_and_more(seed: int, seed_files: list[Path], tmp_path: Path) -> None:
    real = [MEDIA / name for name in REAL_SEEDS if MEDIA.is_dir()]
    wanted = chain(mutants(seed_files, 1_100, seed), mutants(real, 350, seed) if real else ())
    outcomes = check_all(wanted, seed_files, tmp_path)
    assert len(outcomes) >= 1_000
    assert lost_workers(outcomes) == []
    print(Counter(outcome.kind for outcome in outcomes))
    for slow in sorted(outcomes, key=lambda outcome: -outcome.seconds)[:10]:
        print(f"{slow.seconds:.2f} s, {slow.kind}: {slow.mutant:.150}")


@pytest.mark.skipif(
    not (find_spec("decord") and find_spec("lora_deploy.clips.decode_decord")),
    reason="decord is not installed",
)
@pytest.mark.parametrize("count", [50, pytest.param(500, marks=pytest.mark.soak)])
def test_where_decord_crashes_it_costs_one_clip(
    count: int, seed_files: list[Path], tmp_path: Path
) -> None:
    """decord2 3.4 dies of a fragment's data offset beyond the file: a segmentation fault."""
    content = bytearray(next(path for path in seed_files if path.name == "based.mp4").read_bytes())
    offset_at = content.index(b"trun") + 12
    content[offset_at : offset_at + 4] = b"\x7f\xff\xff\xff"
    crash = Mutant("crash", bytes(content))
    wanted = chain([crash], mutants(seed_files, count, seed=0))
    outcomes = check_all(wanted, seed_files, tmp_path, "decord")
    assert (outcomes[0].kind, outcomes[0].lost_worker) == ("unreadable", True)
    # A lost worker means a crash here, which is no rule: most files must do without.
    assert len(lost_workers(outcomes)) <= 1 + count // 20
    assert Counter(outcome.kind for outcome in outcomes)["clip"] >= count // 3


def test_most_mutants_get_past_the_first_look(seed_files: list[Path], tmp_path: Path) -> None:
    """A file that is refused at once tests nothing of what comes behind the header."""
    for number, mutant in enumerate(mutants(seed_files, 200, seed=0)):
        (tmp_path / str(number)).write_bytes(mutant.content)
    ran = subprocess.run(
        [sys.executable, "-c", OPEN_ALL, str(tmp_path)], capture_output=True, check=True, text=True
    )
    assert int(ran.stdout) >= 0.7 * 200


def test_a_mutant_is_named_by_its_seed_and_number(seed_files: list[Path]) -> None:
    first = list(mutants(seed_files, 60, seed=3))
    assert list(mutants(seed_files, 40, seed=3)) == first[:40]
    contents = [path.read_bytes() for path in seed_files]
    assert sum(mutant.content in contents for mutant in first) <= 6  # a no-op now and then
    assert len({mutant.content for mutant in first}) > 50
    assert first != list(mutants(seed_files, 60, seed=4))
    assert any(";" in mutant.name for mutant in first)


def test_mutants_are_the_same_in_every_process(seed_files: list[Path]) -> None:
    digests = {
        subprocess.run(
            [sys.executable, "-c", DIGEST_ALL, str(seed_files[0].parent)],
            capture_output=True, check=True, text=True,
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            cwd=Path(__file__).parents[1],
        ).stdout
        for hash_seed in ("1", "2")
    }  # fmt: skip
    assert len(digests) == 1


def test_a_file_that_takes_too_long_costs_itself_alone(
    seed_files: list[Path], tmp_path: Path
) -> None:
    """Ten thousand edits over the same pictures: little to read, very much to decode."""
    content = next(path for path in seed_files if path.name == "plain.mov").read_bytes()
    slow = Mutant("slow", with_edits(content, 10_000))
    with DecodePool(1, deadline_seconds=1.0) as pool:
        (outcome,) = put_through(pool, [slow], seed_files[0], tmp_path)
    assert (outcome.kind, outcome.lost_worker) == ("timeout", True)
    assert 1.0 <= outcome.seconds < 1.5


def test_a_file_that_needs_too_much_memory_costs_itself_alone(
    seed_files: list[Path], tmp_path: Path
) -> None:
    path = tmp_path / "large.avi"
    with av.open(str(path), "w") as out:
        stream = out.add_stream("mjpeg", 25)
        stream.width = stream.height = 3000
        stream.pix_fmt = "yuvj420p"
        frame = VideoFrame.from_ndarray(np.zeros((3000, 3000, 3), np.uint8)).reformat(
            format="yuvj420p"
        )
        frame.pts, frame.time_base = 0, Fraction(1, 25)
        out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    large = Mutant("large", path.read_bytes())
    with DecodePool(1, memory_bytes=24 << 20) as pool:
        pool.fence()
        with peak_memory(pool) as peaks:
            fresh_bytes = max(peaks)
            (outcome,) = put_through(pool, [large], seed_files[0], tmp_path)
    assert (outcome.kind, outcome.lost_worker) == ("too_large", True)
    assert max(peaks) <= fresh_bytes + (24 << 20)


def with_edits(content: bytes, count: int) -> bytes:
    """An MP4 with its only edit repeated."""
    at = content.index(b"elst") - 4
    row = content[at + 16 : at + 28]
    grown = 12 * (count - 1)
    mended = bytearray(content)
    mended[at : at + 28] = (
        (28 + grown).to_bytes(4, "big") + b"elst\0\0\0\0" + count.to_bytes(4, "big") + row * count
    )
    for name in (b"edts", b"trak", b"moov"):
        size_at = content.index(name) - 4
        size = int.from_bytes(content[size_at : size_at + 4], "big")
        mended[size_at : size_at + 4] = (size + grown).to_bytes(4, "big")
    return bytes(mended)
