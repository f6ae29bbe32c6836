"""The fence around a decoding process: no way out of it, and each test can fail."""

import os
import platform
import re
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lora_deploy.clips import pool
from lora_deploy.clips.contract import PixelContract
from lora_deploy.clips.pool import DecodePool
from lora_deploy.errors import ClipError
from tests.stub_decoder import worker_command

CONTRACT = PixelContract(frames=4, short_side=32, crop_height=32, crop_width=32)

Order = Callable[..., Path]


def test_a_worker_inherits_no_secret_no_descriptor_and_no_terminal(
    stubbed: DecodePool, order: Order, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "secret")
    stubbed.decode(order("nothing"), CONTRACT)
    [pid] = stubbed.worker_pids()
    assert b"secret" not in Path(f"/proc/{pid}/environ").read_bytes()
    links = {path.name: str(path.readlink()) for path in Path(f"/proc/{pid}/fd").iterdir()}
    assert [links.pop(name) for name in "012"] == ["/dev/null"] * 3
    assert [link.partition(":")[0] for link in links.values()] == ["socket"]
    assert os.getsid(pid) == pid


def test_a_worker_has_closed_the_file_before_it_answers(
    stubbed: DecodePool, order: Order, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow_after_it = (
        "import time",
        "from lora_deploy.clips import answers",
        "send = answers._send",
        "answers._send = lambda *what: (send(*what), time.sleep(0.5))",
    )
    monkeypatch.setattr(pool, "_WORKER_COMMAND", worker_command(*slow_after_it))
    path = order("nothing")
    stubbed.decode(path, CONTRACT)
    [pid] = stubbed.worker_pids()
    assert str(path) not in [str(link.readlink()) for link in Path(f"/proc/{pid}/fd").iterdir()]


def test_a_worker_is_limited_and_without_any_right(stubbed: DecodePool, order: Order) -> None:
    stubbed.decode(order("nothing"), CONTRACT)
    [pid] = stubbed.worker_pids()
    limits = dict(
        re.findall(r"^(Max [a-z ]+?) {2,}\S+ +(\S+)", Path(f"/proc/{pid}/limits").read_text(), re.M)
    )
    assert limits["Max file size"] == limits["Max core file size"] == "0"
    assert int(limits["Max open files"]) <= 32
    assert int(limits["Max cpu time"]) < 100_000
    assert int(limits["Max address space"]) < 4 << 30
    status = dict(re.findall(r"^(\w+):\s+(\S+)$", Path(f"/proc/{pid}/status").read_text(), re.M))
    assert int(status["CapEff"], 16) == int(status["CapPrm"], 16) == 0
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
    for name in ("user", "net", "ipc"):
        theirs, ours = (Path(f"/proc/{process}/ns/{name}") for process in (pid, "self"))
        assert theirs.readlink() != ours.readlink()


# Each of these is refused, and would work if the fence were taken away.

NO_FENCE = (
    "fence.leave_namespaces = lambda: False",
    "fence.lock_down = lambda **_: fence.Fence(False, 0, False, False)",
)
ONLY_FILTER = ("fence.leave_namespaces = lambda: False", "fence._restrict_files = lambda: 0")
NO_FILTER = ("seccomp.install = lambda **_: False",)

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
            "share_memory": {},
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
    assert caught.value.kind in kinds, (name, str(caught.value))
    return kinds[caught.value.kind]


@pytest.mark.parametrize("changes", [(), ONLY_FILTER], ids=["whole fence", "system calls alone"])
def test_no_escape_succeeds(
    changes: tuple[str, ...],
    stubbed: DecodePool,
    order: Order,
    targets: dict[str, dict[str, object]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pool, "_WORKER_COMMAND", worker_command(*changes))
    found = {name: attempt(stubbed, order, name, targets[name]) for name in targets}
    assert found == dict.fromkeys(targets, "refused")
    assert Path(str(targets["read"]["path"])).read_text() == "untouched"


def test_most_escapes_are_refused_by_a_second_layer_too(
    stubbed: DecodePool,
    order: Order,
    targets: dict[str, dict[str, object]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pool, "_WORKER_COMMAND", worker_command(*NO_FILTER))
    found = {name: attempt(stubbed, order, name, targets[name]) for name in sorted(ALWAYS)}
    assert found == dict.fromkeys(sorted(ALWAYS), "refused")


def test_without_the_fence_every_escape_succeeds(
    stubbed: DecodePool,
    order: Order,
    targets: dict[str, dict[str, object]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Shows that the tests above can fail."""
    monkeypatch.setattr(pool, "_WORKER_COMMAND", worker_command(*NO_FENCE))
    names = sorted(targets, key=lambda name: name == "remove")  # the others need the file
    found = {name: attempt(stubbed, order, name, targets[name]) for name in names}
    assert found == dict.fromkeys(names, "escaped")


X86_CALLS = {
    "prlimit64": 302, "setpriority": 141, "sched_setaffinity": 203, "rt_sigqueueinfo": 129,
    "pidfd_send_signal": 424, "inotify_init1": 294, "shmget": 29, "stat": 4, "readlink": 89,
    "setxattrat": 463, "ioctl": 16, "fcntl": 72, "prctl": 157, "io_uring_setup": 425, "bpf": 321,
    "clone3": 435, "clone": 56, "open": 2, "openat2": 437, "socket": 41,
    "getpid by its second number": 0x40000000 + 39,
}  # fmt: skip


@pytest.mark.skipif(platform.machine() != "x86_64", reason="numbers of x86-64")
@pytest.mark.parametrize("name", X86_CALLS)
def test_system_calls_that_decoding_does_not_need_are_refused(
    stubbed: DecodePool, order: Order, name: str
) -> None:
    assert attempt(stubbed, order, "call", {"number": X86_CALLS[name]}) == "refused"


@pytest.mark.skipif(platform.machine() != "x86_64", reason="numbers of x86-64")
def test_without_the_filter_system_calls_are_answered(
    stubbed: DecodePool, order: Order, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Shows that the test above can fail."""
    monkeypatch.setattr(pool, "_WORKER_COMMAND", worker_command(*NO_FENCE))
    for name in ("setpriority", "inotify_init1", "ioctl", "fcntl", "clone3", "openat2"):
        assert attempt(stubbed, order, "call", {"number": X86_CALLS[name]}) == "escaped", name


def test_on_another_system_there_is_a_fence_with_gaps_and_no_crash(
    stubbed: DecodePool, order: Order, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = worker_command("fence._IS_LINUX = False")
    monkeypatch.setattr(pool, "_WORKER_COMMAND", elsewhere)
    fence = stubbed.fence()
    assert (fence.namespaces, fence.landlock_abi, fence.system_call_filter) == (False, 0, False)
    assert not fence.holds
    assert stubbed.decode(order("nothing"), CONTRACT).frames.shape == CONTRACT.frames_shape


def test_a_fence_with_gaps_is_told_aloud(
    stubbed: DecodePool,
    order: Order,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(pool, "_WORKER_COMMAND", worker_command(*NO_FENCE))
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
