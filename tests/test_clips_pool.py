"""The decode pool: same frames, one clip lost at most, whatever becomes of a worker, and no way out of one."""

import csv
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from lora_deploy.clips import decode, guard, pool
from lora_deploy.clips.contract import PixelContract
from lora_deploy.clips.pool import DecodePool
from lora_deploy.errors import ClipError
from tests.test_clips_decode import PICTURES

CONTRACT = PixelContract(frames=4, short_side=32, crop_height=32, crop_width=32)
ROOT = Path(__file__).parents[1]

Order = Callable[..., Path]


@pytest.fixture
def order(tmp_path: Path) -> Order:
    """Writes a file that tells the stub decoder what to do."""

    def write(do: str, **details: object) -> Path:
        path = tmp_path / f"{do}.mp4"
        path.write_text(json.dumps({"do": do, **details}))
        return path

    return write


def stub_worker(*changes: str) -> tuple[str, ...]:
    """The command of a real worker whose decoder is the stub, with lines that change the fence."""
    lines = (
        "import sys",
        f"sys.path.insert(0, {str(ROOT / 'tests')!r})",
        "from lora_deploy.clips import fence, seccomp, worker",
        "worker.DECODERS['av'] = 'stub_decoder'",
        *changes,
        "worker.main()",
    )
    return (sys.executable, "-c", "\n".join(lines))


@pytest.fixture
def stubbed(monkeypatch: pytest.MonkeyPatch) -> Iterator[DecodePool]:
    """A pool of one worker that obeys orders, with a short deadline."""
    monkeypatch.setattr(pool, "_WORKER_COMMAND", stub_worker())
    monkeypatch.setattr(guard, "_check_content", lambda head: None)
    with DecodePool(1, deadline_seconds=1.0) as running:
        yield running


def process_that_answers(running: DecodePool, order: Order) -> int:
    """Process id of the worker that decodes a sound clip."""
    warning = running.decode(order("nothing"), CONTRACT).warning
    assert warning is not None
    return int(warning)


@pytest.mark.parametrize(
    "name", ["clips/asl/book.mkv", "hostile/rot90.mp4", "clips/cricket_shot.gif"]
)
def test_the_pool_gives_what_the_decoder_gives(media: Path, name: str) -> None:
    plain = decode.decode(media / name, CONTRACT)
    fenced = pool.shared().decode(media / name, CONTRACT)
    np.testing.assert_array_equal(plain.frames, fenced.frames)
    assert plain.times_seconds == fenced.times_seconds
    assert plain.duration_seconds == fenced.duration_seconds
    assert plain.warning == fenced.warning


def test_every_file_gets_what_it_deserves_in_one_run(media: Path) -> None:
    with (media / "expected.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    with DecodePool(effort="whole") as running:
        waiting = [running.submit(media / row["file"], CONTRACT) for row in rows]
        found = {}
        for row, future in zip(rows, waiting, strict=True):
            error = future.exception()
            assert error is None or isinstance(error, ClipError)
            found[row["file"]] = error.kind if error else str(future.result().file_frames)
    expected = {row["file"]: row["kind"] or row["decodable_frames"] for row in rows}
    assert found == {**expected, **{name: str(count) for name, count in PICTURES.items()}}


def test_errors_and_warnings_come_through_in_the_same_words(media: Path) -> None:
    for name in ("derived/book_truncated_no_moov.mp4", "hostile/gone.mp4"):
        caught = []
        for decoder in (decode.decode, pool.shared().decode):
            with pytest.raises(ClipError) as error:
                decoder(media / name, CONTRACT)
            caught.append((error.value.kind, str(error.value)))
        assert caught[0] == caught[1]
    partial = pool.shared().decode(media / "derived/book_truncated_60pct_moov_first.mp4", CONTRACT)
    assert (
        partial.warning
        == decode.decode(media / "derived/book_truncated_60pct_moov_first.mp4", CONTRACT).warning
    )


def test_many_clips_at_once_come_back_each_to_its_own_future(media: Path) -> None:
    paths = sorted((media / "clips" / "asl").glob("*.mkv"))
    with DecodePool(2) as running:
        waiting = [running.submit(path, CONTRACT) for path in paths]
        for path, future in zip(paths, waiting, strict=True):
            np.testing.assert_array_equal(
                future.result().frames, decode.decode(path, CONTRACT).frames
            )
        assert len(running.worker_pids()) == 2


def test_a_decoder_that_never_returns_is_cut_off_and_replaced(
    stubbed: DecodePool, order: Order
) -> None:
    before = process_that_answers(stubbed, order)
    started = time.monotonic()
    with pytest.raises(ClipError, match="not done after 1 seconds") as caught:
        stubbed.decode(order("sleep"), CONTRACT)
    assert time.monotonic() - started < 3
    assert caught.value.kind == "timeout"
    assert process_that_answers(stubbed, order) != before


def test_a_stopped_worker_costs_one_clip(stubbed: DecodePool, order: Order) -> None:
    os.kill(process_that_answers(stubbed, order), signal.SIGSTOP)
    with pytest.raises(ClipError) as caught:
        stubbed.decode(order("nothing"), CONTRACT)
    assert caught.value.kind == "timeout"
    process_that_answers(stubbed, order)


def test_a_worker_that_dies_over_a_clip_costs_that_clip(stubbed: DecodePool, order: Order) -> None:
    before = process_that_answers(stubbed, order)
    with pytest.raises(ClipError, match="broke down") as caught:
        stubbed.decode(order("die"), CONTRACT)
    assert caught.value.kind == "unreadable"
    assert process_that_answers(stubbed, order) != before


def test_a_fault_of_the_decoder_itself_costs_one_clip_and_is_named(
    stubbed: DecodePool, order: Order
) -> None:
    before = process_that_answers(stubbed, order)
    with pytest.raises(ClipError, match="could not cope with the file \\(KeyError\\)"):
        stubbed.decode(order("unheard_of"), CONTRACT)
    assert process_that_answers(stubbed, order) == before


def test_a_worker_that_is_killed_between_clips_costs_none(
    stubbed: DecodePool, order: Order
) -> None:
    before = process_that_answers(stubbed, order)
    os.kill(before, signal.SIGKILL)
    time.sleep(0.2)
    assert process_that_answers(stubbed, order) != before


@pytest.mark.parametrize(
    "lie",
    [
        "\xff\xff\xff\xff",
        "\x00\x00\x00\x04null",
        '\x00\x00\x00\x10{"status": "ok"}',
        "\x00\x00\x00\x02hi",
    ],
    ids=["endless", "null", "no times", "no JSON"],
)
def test_a_worker_that_lies_costs_one_clip(stubbed: DecodePool, order: Order, lie: str) -> None:
    before = process_that_answers(stubbed, order)
    with pytest.raises(ClipError, match="broke down"):
        stubbed.decode(order("say", content=lie), CONTRACT)
    assert process_that_answers(stubbed, order) != before


def test_a_worker_is_replaced_after_its_share(
    stubbed: DecodePool, order: Order, monkeypatch: pytest.MonkeyPatch
) -> None:
    with DecodePool(1, clips_per_worker=2) as running:
        pids = [process_that_answers(running, order) for _ in range(5)]
    assert pids[0] == pids[1] != pids[2] == pids[3] != pids[4]


def test_closing_ends_every_worker_at_once(stubbed: DecodePool, order: Order) -> None:
    running = DecodePool(2, deadline_seconds=60)
    waiting = [running.submit(order("sleep"), CONTRACT) for _ in range(4)]
    while len(running.worker_pids()) < 2:
        assert not any(future.done() for future in waiting), waiting[0].exception()
        time.sleep(0.05)
    pids = running.worker_pids()
    started = time.monotonic()
    running.close()
    assert time.monotonic() - started < 5
    assert all(future.cancelled() or future.exception() for future in waiting)
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)


def test_workers_end_with_a_process_that_was_killed(tmp_path: Path, media: Path) -> None:
    script = tmp_path / "script.py"  # plain: no main guard
    script.write_text(
        "import os, signal\n"
        "from pathlib import Path\n"
        "from lora_deploy.clips import pool\n"
        "from lora_deploy.clips.contract import PixelContract\n"
        "contract = PixelContract(frames=2, short_side=8, crop_height=8, crop_width=8)\n"
        f"pool.shared().decode(Path({str(media / 'clips/asl/book.mkv')!r}), contract)\n"
        "print(*pool.shared().worker_pids(), flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    told = subprocess.run([sys.executable, script], stdout=subprocess.PIPE, check=False).stdout
    pids = [int(pid) for pid in told.split()]
    assert pids
    until = time.monotonic() + 5
    while any(Path(f"/proc/{pid}").exists() for pid in pids):
        assert time.monotonic() < until, "a worker outlived its parent"
        time.sleep(0.05)


def test_the_process_that_asks_never_loads_a_decoder(tmp_path: Path, media: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from lora_deploy.clips import pool;"
        "from lora_deploy.clips.contract import PixelContract;"
        "contract = PixelContract(frames=2, short_side=8, crop_height=8, crop_width=8);"
        f"pool.shared().decode(Path({str(media / 'clips/asl/book.mkv')!r}), contract);"
        "assert 'av' not in sys.modules and 'decord' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


# Escapes: each is refused, and each would work if the fence were taken away.

NO_FENCE = (
    "fence.leave_namespaces = lambda: False",
    "fence.lock_down = lambda **_: fence.Fence(False, 0, False, False)",
)
ONLY_FILTER = ("fence.leave_namespaces = lambda: False", "fence._restrict_files = lambda: 0")
NO_FILTER = ("seccomp.install = lambda: False",)

ALWAYS = {
    "read", "write", "connect", "send_datagram", "start_program", "replace_itself", "take_memory",
    "connect_abstract", "signal",
}  # fmt: skip
"""Refused without the system-call filter too, by another layer."""


@pytest.fixture
def targets(tmp_path: Path) -> Iterator[dict[str, dict[str, object]]]:
    """What each escape is aimed at; all of it belongs to the test."""
    canary = tmp_path / "canary.txt"
    canary.write_text("untouched")
    tcp, udp, unix = (
        socket.create_server(("127.0.0.1", 0)),
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM),
        socket.socket(socket.AF_UNIX),
    )
    udp.bind(("127.0.0.1", 0))
    name = f"lora-deploy-test-{os.getpid()}"
    unix.bind(f"\0{name}")
    unix.listen()
    bystander = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    with tcp, udp, unix:
        yield {
            "read": {"path": str(canary)},
            "write": {"path": str(canary)},
            "remove": {"path": str(canary)},
            "change_mode": {"path": str(canary)},
            "connect": {"port": tcp.getsockname()[1]},
            "send_datagram": {"port": udp.getsockname()[1]},
            "connect_abstract": {"name": name},
            "signal": {"pid": bystander.pid},
            "trace": {"pid": bystander.pid},
            "take_memory": {"size": 3 << 30},
            "start_program": {},
            "replace_itself": {},
            "start_process": {},
        }
    bystander.kill()
    bystander.wait()


def attempt(running: DecodePool, order: Order, name: str, details: dict[str, object]) -> str:
    """``refused`` or ``escaped``."""
    with pytest.raises(ClipError) as caught:
        running.decode(order(name, **details), CONTRACT)
    kinds = {"forbidden": "refused", "too_long": "escaped"}
    if name == "replace_itself" and caught.value.kind == "unreadable":
        return "escaped"  # the worker has become another program
    return kinds[caught.value.kind]


@pytest.mark.parametrize("changes", [(), ONLY_FILTER], ids=["whole fence", "system calls alone"])
def test_no_escape_succeeds(
    changes: tuple[str, ...],
    stubbed: DecodePool,
    order: Order,
    targets: dict[str, dict[str, object]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pool, "_WORKER_COMMAND", stub_worker(*changes))
    found = {name: attempt(stubbed, order, name, targets[name]) for name in targets}
    assert found == dict.fromkeys(targets, "refused")
    assert Path(str(targets["read"]["path"])).read_text() == "untouched"


def test_most_escapes_are_refused_by_a_second_layer_too(
    stubbed: DecodePool,
    order: Order,
    targets: dict[str, dict[str, object]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pool, "_WORKER_COMMAND", stub_worker(*NO_FILTER))
    found = {name: attempt(stubbed, order, name, targets[name]) for name in sorted(ALWAYS)}
    assert found == dict.fromkeys(sorted(ALWAYS), "refused")


def test_without_the_fence_every_escape_succeeds(
    stubbed: DecodePool,
    order: Order,
    targets: dict[str, dict[str, object]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Shows that the tests above can fail."""
    monkeypatch.setattr(pool, "_WORKER_COMMAND", stub_worker(*NO_FENCE))
    names = sorted(targets, key=lambda name: name == "remove")  # the others need the file
    found = {name: attempt(stubbed, order, name, targets[name]) for name in names}
    assert found == dict.fromkeys(names, "escaped")


def test_a_fence_with_gaps_is_told_aloud(
    stubbed: DecodePool,
    order: Order,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(pool, "_WORKER_COMMAND", stub_worker(*NO_FENCE))
    pool._tell_missing.cache_clear()
    fence = stubbed.fence()
    assert not fence.holds
    assert len(fence.missing) == 4
    assert "user namespaces" in caplog.text
    assert "Landlock" in caplog.text


def test_here_the_fence_is_whole() -> None:
    fence = pool.shared().fence()
    assert fence.missing == ()
    assert fence.holds
