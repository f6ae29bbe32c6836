"""The decode pool: same frames, and one clip lost at most, whatever becomes of a worker."""

import csv
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from lora_deploy.clips import decode, pool
from lora_deploy.clips.contract import PixelContract
from lora_deploy.clips.pool import DECODED_AHEAD, DecodePool
from lora_deploy.errors import ClipError, DecodersUnavailableError
from tests.stub_decoder import worker_command
from tests.test_clips_decode import PICTURES

CONTRACT = PixelContract(frames=4, short_side=32, crop_height=32, crop_width=32)

Order = Callable[..., Path]


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


def test_a_decoder_stuck_in_native_code_is_cut_off_too(stubbed: DecodePool, order: Order) -> None:
    # With Python's lock held, as decord gets stuck: no thread and no signal handler would run.
    before = process_that_answers(stubbed, order)
    with pytest.raises(ClipError) as caught:
        stubbed.decode(order("sleep_in_native_code"), CONTRACT)
    assert caught.value.kind == "timeout"
    assert process_that_answers(stubbed, order) != before


def test_decord_on_files_where_it_may_never_return_costs_those_clips_at_most(
    media: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = worker_command("worker.DECODERS['decord'] = 'naive_decord'")
    monkeypatch.setattr(pool, "_WORKER_COMMAND", command)
    contract = CONTRACT.model_copy(update={"frames": 8})
    sound = media / "clips" / "asl" / "book.mkv"
    with DecodePool(1, decoder="decord", deadline_seconds=2.0, proof=False) as running:
        expected = running.decode(sound, contract).frames
        # By chance it is stuck on them or not, for the same file and in the same process.
        for path in sorted((media / "hostile").glob("lg_*.mp4")):
            started = time.monotonic()
            error = running.submit(path, contract).exception()
            assert error is None or (isinstance(error, ClipError) and error.kind == "timeout")
            assert time.monotonic() - started < 4
            np.testing.assert_array_equal(running.decode(sound, contract).frames, expected)


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


def told(answer: dict[str, object]) -> str:
    """An answer as it goes over the wire."""
    content = json.dumps(answer).encode()
    return (len(content).to_bytes(4, "big") + content).decode("latin-1")


@pytest.mark.parametrize(
    "lie",
    [
        "\xff\xff\xff\xff",
        "\x00\x00\x00\x04null",
        '\x00\x00\x00\x10{"status": "ok"}',
        "\x00\x00\x00\x02hi",
        told({"status": "error", "error": "\x1b]0;gotcha\x07"}),
        told({"status": "error", "error": "=cmd|' /C calc'!A0"}),
        told({"status": "error", "error": "\N{RIGHT-TO-LEFT OVERRIDE}gpj.exe"}),
        told({"status": "ok", "times_seconds": [0, 1, 1, -1e300], "duration_seconds": 4}),
        told({"status": "ok", "times_seconds": [0, 2, 1, 3], "duration_seconds": 4}),
        told({"status": "ok", "times_seconds": [0, 1, 2, 3], "duration_seconds": "4"}),
        told({"status": "ok", "times_seconds": [0, 1, 2, 3], "file_frames": -7}),
    ],
    ids=[
        "endless", "null", "no times", "no JSON", "terminal codes", "a formula", "backwards text",
        "negative time", "falling time", "text for a number", "negative count",
    ],
)  # fmt: skip
def test_a_worker_that_lies_costs_one_clip(stubbed: DecodePool, order: Order, lie: str) -> None:
    before = process_that_answers(stubbed, order)
    with pytest.raises(ClipError, match="broke down"):
        stubbed.decode(order("say", content=lie), CONTRACT)
    assert process_that_answers(stubbed, order) != before


def test_how_long_workers_are_busy_is_counted(stubbed: DecodePool, order: Order) -> None:
    stubbed.decode(order("nothing"), CONTRACT)
    before = stubbed.busy_seconds
    stubbed.decode(order("sleep", seconds=0.3), CONTRACT)
    with pytest.raises(ClipError):
        stubbed.decode(order("sleep", seconds=30), CONTRACT)  # cut off after a second
    assert 1.3 <= stubbed.busy_seconds - before < 5


def test_a_worker_that_ran_out_of_memory_is_replaced(stubbed: DecodePool, order: Order) -> None:
    before = process_that_answers(stubbed, order)
    with pytest.raises(ClipError) as caught:
        stubbed.decode(order("run_out_of_memory"), CONTRACT)
    assert caught.value.kind == "too_large"
    assert process_that_answers(stubbed, order) != before


def test_of_many_files_only_a_few_wait_decoded(stubbed: DecodePool, order: Order) -> None:
    path, asked = str(order("nothing")), 0

    def endless() -> Iterator[str]:
        nonlocal asked
        while True:
            asked += 1
            assert asked < 100, "files are taken without end"
            yield path

    outcomes = stubbed.in_order(endless(), CONTRACT)
    for taken in range(1, 6):
        next(outcomes)
        assert asked <= taken + stubbed.workers + DECODED_AHEAD
    del outcomes


def test_an_answer_that_drips_is_cut_off_at_the_deadline(stubbed: DecodePool, order: Order) -> None:
    process_that_answers(stubbed, order)
    started = time.monotonic()
    with pytest.raises(ClipError) as caught:
        stubbed.decode(order("drip"), CONTRACT)
    assert time.monotonic() - started < 2.5
    assert caught.value.kind == "timeout"


def test_what_a_worker_says_unasked_is_never_the_answer_for_the_next_clip(
    stubbed: DecodePool, order: Order
) -> None:
    before = process_that_answers(stubbed, order)
    with pytest.raises(ClipError, match="Stale"):
        stubbed.decode(order("answer_twice"), CONTRACT)
    (worker,) = stubbed._all()
    select.select([worker.connection], [], [], 10)  # until the second answer is there
    assert process_that_answers(stubbed, order) != before


def test_a_clip_does_not_pay_for_the_one_before_it(stubbed: DecodePool, order: Order) -> None:
    path = order("die_at_the_second_clip")
    assert stubbed.decode(path, CONTRACT).warning != stubbed.decode(path, CONTRACT).warning


def test_a_worker_that_can_not_be_started_is_told_with_its_last_words(
    stubbed: DecodePool, order: Order, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = (sys.executable, "-c", "raise SystemExit('no decoder today')")
    monkeypatch.setattr(pool, "_WORKER_COMMAND", broken)
    told = "could not be started: no decoder today; `lora-deploy doctor` says what is missing"
    with pytest.raises(DecodersUnavailableError, match=told):
        stubbed.decode(order("nothing"), CONTRACT)
    assert stubbed.worker_pids() == []


def test_a_worker_is_replaced_after_its_share(stubbed: DecodePool, order: Order) -> None:
    with DecodePool(1, clips_per_worker=2, proof=False) as running:
        pids = [process_that_answers(running, order) for _ in range(5)]
    assert pids[0] == pids[1] != pids[2] == pids[3] != pids[4]


def test_closing_ends_every_worker_at_once(stubbed: DecodePool, order: Order) -> None:
    running = DecodePool(2, deadline_seconds=60, proof=False)
    path = order("sleep")
    waiting = [running.submit(path, CONTRACT) for _ in range(4)]
    while len(running.worker_pids()) < 2:
        time.sleep(0.05)
    pids = running.worker_pids()
    started = time.monotonic()
    running.close()
    assert time.monotonic() - started < 5
    assert all(future.cancelled() or future.exception() for future in waiting)
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)


def test_a_forked_process_gets_a_pool_of_its_own(media: Path) -> None:
    script = (
        "import os; from pathlib import Path; from lora_deploy.clips import pool;"
        "from lora_deploy.clips.contract import PixelContract;"
        "contract = PixelContract(frames=2, short_side=8, crop_height=8, crop_width=8);"
        f"path = Path({str(media / 'clips/asl/book.mkv')!r});"
        "pool.shared().decode(path, contract);"
        "pid = os.fork();"
        "pool.shared().decode(path, contract);"
        "pid and os.waitpid(pid, 0)"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)


def test_workers_end_with_a_process_that_was_killed_even_those_that_are_busy(
    tmp_path: Path, media: Path
) -> None:
    script = tmp_path / "script.py"  # plain: no main guard
    script.write_text(
        "import os, signal\n"
        "from pathlib import Path\n"
        "from lora_deploy.clips import pool\n"
        "from lora_deploy.clips.contract import PixelContract\n"
        "contract = PixelContract(frames=2, short_side=8, crop_height=8, crop_width=8)\n"
        f"pool.shared().decode(Path({str(media / 'clips/asl/book.mkv')!r}), contract)\n"
        "[pid] = pool.shared().worker_pids()\n"
        "os.kill(pid, signal.SIGSTOP)\n"  # it can't notice that its socket is closed
        "print(pid, flush=True)\n"
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
