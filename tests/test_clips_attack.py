"""Files that point to other files or computers, through the pool: nothing is opened, nobody is called.

The traps are shown to work; the attacks are shown to be live where neither guard nor fence
stands; and the fence alone, without the guard, is shown to stop them.
"""

import csv
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from lora_deploy.clips import guard
from lora_deploy.clips import pool as pool_module
from lora_deploy.clips.contract import PixelContract
from lora_deploy.clips.pool import DecodePool, Decoder
from lora_deploy.errors import ClipError
from tests.conftest import MEDIA
from tests.mutants.seeds import write_seeds
from tests.openings import Listener, opened_files

CONTRACT = PixelContract(frames=4, short_side=32, crop_height=32, crop_width=32)

UNGUARDED_WORKER = """
import sys
from lora_deploy.clips import fence, guard, worker
guard.OPEN_OPTIONS = {
    "safe": "0",
    "protocol_whitelist": "file,http,tcp,udp,rtp,data,crypto",
    "allowed_extensions": "ALL",
    "extension_picky": "0",
    "enable_drefs": "1",
    "use_absolute_path": "1",
}
guard.refuse_other_files = None
if sys.argv.pop(1) == "unfenced":
    fence.leave_namespaces = lambda: False
    fence.lock_down = lambda **limits: fence.Fence(False, 0, False, False)
worker.main()
"""
"""A worker that does all that FFmpeg can be talked into."""


def rows() -> list[dict[str, str]]:
    if not MEDIA.is_dir():
        return []
    with (MEDIA / "expected.csv").open(encoding="utf-8", newline="") as file:
        return [row for row in csv.DictReader(file) if row["file"][:7] in ("attack/", "hostile")]


@pytest.fixture(scope="module")
def listener() -> Iterator[Listener]:
    """What no playlist may reach."""
    opened = Listener()
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def traps(tmp_path_factory: pytest.TempPathFactory, media: Path, listener: Listener) -> Path:
    """The real attacks in a folder of our own, where nobody else opens a file.

    Those that name a port name ours, and what they name beyond their folders is there as well.
    """
    folder = tmp_path_factory.mktemp("traps")
    for name in ("attack", "hostile"):
        shutil.copytree(media / name, folder / name)
    (folder / "clips").mkdir()
    shutil.copy(folder / "attack/elsewhere/private.ts", folder / "clips/arm_wrestling.mp4")
    for path in folder.rglob("*.mp4"):
        content = path.read_bytes()
        if len(content) < 1000:
            renamed = re.sub(rb"(http://127\.0\.0\.1):\d+", rb"\1:%d" % listener.port, content)
            path.chmod(0o644)
            path.write_bytes(renamed)
    return folder


@pytest.fixture(scope="module")
def canary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sound file that our own playlists name by its absolute path."""
    folder = tmp_path_factory.mktemp("canary")
    written = next(path for path in write_seeds(folder) if path.suffix == ".ts")
    return written.rename(folder / "private.ts")


@pytest.fixture(scope="module", params=["av", "decord"])
def decoder(request: pytest.FixtureRequest) -> Decoder:
    name: Decoder = request.param
    if name == "decord" and not (
        find_spec("decord") and find_spec("lora_deploy.clips.decode_decord")
    ):
        pytest.skip("decord is not installed")
    return name


@pytest.fixture(scope="module")
def pool(decoder: Decoder) -> Iterator[DecodePool]:
    with DecodePool(1, decoder=decoder, deadline_seconds=20.0) as opened:
        opened.fence()
        yield opened


def hls(target: str) -> bytes:
    return f"#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:1.0,\n{target}\n#EXT-X-ENDLIST\n".encode()


def ffconcat(target: str) -> bytes:
    return f"ffconcat version 1.0\nfile '{target}'\n".encode()


def quicktime_reference(path: Path, sound: bytes) -> bytes:
    """A sound QuickTime file whose track says, by an alias of old Macintoshes, to lie elsewhere."""
    name = str(path).encode()
    name += b"\0" * (len(name) % 2)
    alias = bytes(10 + 1 + 27 + 12 + 1 + 63 + 16 + 4 + 16)
    alias += b"\0\2" + len(name).to_bytes(2, "big") + name + b"\xff\xff\0\0"
    entry = (12 + len(alias)).to_bytes(4, "big") + b"alis\0\0\0\0" + alias
    at = sound.index(b"dref") - 4
    old = int.from_bytes(sound[at : at + 4], "big")
    grown = 16 + len(entry) - old
    changed = bytearray(sound)
    changed[at : at + old] = (old + grown).to_bytes(4, "big") + b"dref" + bytes(7) + b"\1" + entry
    # Of its parents the last before it: sound tracks and handlers have boxes of these names too.
    for parent in (b"dinf", b"minf", b"mdia", b"trak", b"moov"):
        size_at = sound.rindex(parent, 0, at) - 4
        size = int.from_bytes(sound[size_at : size_at + 4], "big")
        changed[size_at : size_at + 4] = (size + grown).to_bytes(4, "big")
    return bytes(changed)


def http(port: int) -> str:
    return f"http://127.0.0.1:{port}/x.ts"


ATTACKS: dict[str, Callable[[Path, int], bytes]] = {
    "hls_file.mp4": lambda canary, _: hls(f"file://{canary}"),
    "hls_http.mp4": lambda _, port: hls(http(port)),
    "ffconcat_file.mp4": lambda canary, _: ffconcat(str(canary)),
    "ffconcat_http.mp4": lambda _, port: ffconcat(http(port)),
    "ffconcat_tcp.mp4": lambda _, port: ffconcat(f"tcp://127.0.0.1:{port}"),
    "reference.mov": lambda canary, _: quicktime_reference(
        canary, (canary.parent / "plain.mov").read_bytes()
    ),
}
"""Files of our own that lead FFmpeg to a canary or a port, where it is let."""

LIVE = tuple(name for name in ATTACKS if not name.startswith("hls"))
"""FFmpeg knows HLS by the name of its file, and what is handed over as a descriptor has none."""


def kind_of(pool: DecodePool, path: Path) -> str:
    """``clip``, or the kind of the error."""
    try:
        pool.decode(path, CONTRACT)
    except ClipError as error:
        kind, told = str(error.kind), str(error)
    else:
        kind, told = "clip", ""
    assert not re.search(r"/|Errno|127|private|canary|http:", told)
    return kind


def test_the_traps_tell_what_touches_them(canary: Path, listener: Listener) -> None:
    with opened_files(canary.parent) as opened:
        subprocess.run(["cat", str(canary)], stdout=subprocess.DEVNULL, check=True)
    assert opened == ["private.ts"]
    socket.create_connection(("127.0.0.1", listener.port)).close()
    assert listener.calls() == 1
    assert listener.calls() == 0


@pytest.mark.parametrize("row", rows(), ids=lambda row: row["file"])
def test_a_hostile_file_gets_what_it_deserves_and_touches_nothing(
    row: dict[str, str], traps: Path, pool: DecodePool, decoder: Decoder, listener: Listener
) -> None:
    path = traps / row["file"]
    folders = [traps / name for name in ("attack", "attack/elsewhere", "hostile", "clips")]
    with opened_files(*folders) as opened:
        kind = kind_of(pool, path)
    if decoder == "decord" and row["status"] == "ok":
        assert kind in ("clip", "unreadable")  # which, is told where decord is tested
    else:
        assert kind == (row["kind"] or "clip")
    assert opened == [path.name]
    assert listener.calls() == 0


def test_playlists_with_absolute_paths_are_forbidden_and_touch_nothing(
    canary: Path, tmp_path: Path, pool: DecodePool, media: Path
) -> None:
    subprocess.run(
        [sys.executable, str(media / "attack/make_attack.py"), str(tmp_path), str(canary)],
        check=True,
    )
    names = sorted(path.name for path in tmp_path.iterdir())
    assert len(names) >= 5
    with opened_files(tmp_path, canary.parent) as opened:
        assert {name: kind_of(pool, tmp_path / name) for name in names} == dict.fromkeys(
            names, "forbidden"
        )
    assert opened == names


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_of_our_own_touches_nothing(
    name: str, canary: Path, tmp_path: Path, pool: DecodePool, listener: Listener
) -> None:
    path = tmp_path / name
    path.write_bytes(ATTACKS[name](canary, listener.port))
    with opened_files(tmp_path, canary.parent) as opened:
        kind = kind_of(pool, path)
    assert kind == ("unreadable" if name == "reference.mov" else "forbidden")
    assert opened == [name]
    assert listener.calls() == 0


def unguarded(monkeypatch: pytest.MonkeyPatch, fence: str) -> DecodePool:
    """A pool that looks at nothing and forbids FFmpeg nothing; its worker is started."""
    command = (sys.executable, "-P", "-c", UNGUARDED_WORKER, fence)
    monkeypatch.setattr(pool_module, "_WORKER_COMMAND", command)
    monkeypatch.setattr(guard, "_check_content", lambda head: None)
    opened = DecodePool(1, deadline_seconds=1.5)
    if fence == "fenced" and not opened.fence().holds:
        opened.close()
        pytest.skip("this kernel grants no whole fence")
    return opened


@pytest.mark.parametrize("fence", ["fenced", "unfenced"])
@pytest.mark.parametrize("name", LIVE)
def test_without_the_guard_the_fence_alone_stops_what_else_is_live(
    name: str,
    fence: str,
    canary: Path,
    tmp_path: Path,
    listener: Listener,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = tmp_path / name
    path.write_bytes(ATTACKS[name](canary, listener.port))
    with unguarded(monkeypatch, fence) as pool, opened_files(tmp_path, canary.parent) as opened:
        kind_of(pool, path)
    touched = opened.count(canary.name) + listener.calls()
    assert (touched > 0) == (fence == "unfenced")


@pytest.mark.parametrize("fence", ["fenced", "unfenced"])
@pytest.mark.parametrize("folder", ["attack", "hostile"])
def test_without_the_guard_the_fence_alone_stops_relative_names_too(
    folder: str, fence: str, traps: Path, listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [
        row["file"].removeprefix(f"{folder}/")
        for row in rows()
        if row["file"].startswith(folder) and "playlist" in row["note"]
    ]
    # The worker stands among the playlists, so that the names in them mean something to it.
    monkeypatch.chdir(traps / folder)
    watched = [traps / name for name in ("attack", "attack/elsewhere", "hostile", "clips")]
    with unguarded(monkeypatch, fence) as pool, opened_files(*watched) as opened:
        kinds = [kind_of(pool, Path(name)) for name in names]
    assert ("clip" in kinds) == (fence == "unfenced")
    assert (opened != names) == (fence == "unfenced")
    assert listener.calls() == 0
