"""The process that fetches a link: killed at the deadline with all it started, bare, and never believed."""

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from lora_deploy.errors import LinkError
from lora_deploy.links import LinkLimits, errand, fetch
from tests.loopback_web import VIDEO, Servers, endless

LINK = "https://youtu.be/dQw4w9WgXcQ"


@pytest.fixture
def out(tmp_path: Path) -> Path:
    folder = tmp_path / "out"
    folder.mkdir()
    return folder


def instead(monkeypatch: pytest.MonkeyPatch, program: str) -> None:
    """Another program in the place of the fetching process."""
    command = (sys.executable, "-c", f"import json, os, sys, time, subprocess\n{program}")
    monkeypatch.setattr(errand, "_child_command", lambda: command)


def refusal(out: Path, deadline_seconds: float = 20.0) -> LinkError:
    with pytest.raises(LinkError) as caught:
        fetch(LINK, out, limits=LinkLimits(deadline_seconds=deadline_seconds, max_bytes=1_000_000))
    assert list(out.iterdir()) == []
    return caught.value


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def test_at_the_deadline_the_process_is_killed_with_all_it_started(
    out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pids = tmp_path / "pids"
    instead(
        monkeypatch,
        f"""
import signal
signal.signal(signal.SIGTERM, signal.SIG_IGN)
grandchild = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
open({str(pids)!r}, "w").write(json.dumps([os.getpid(), grandchild.pid]))
time.sleep(600)
""",
    )
    started = time.monotonic()
    assert refusal(out, deadline_seconds=5.0).kind == "timeout"
    assert time.monotonic() - started < 9
    until = time.monotonic() + 5
    while any(map(is_alive, json.loads(pids.read_text()))) and time.monotonic() < until:
        time.sleep(0.02)
    assert not any(map(is_alive, json.loads(pids.read_text())))


def test_what_it_starts_ends_with_it_even_if_it_has_answered(
    out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pids = tmp_path / "pids"
    instead(
        monkeypatch,
        f"""
grandchild = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
open({str(pids)!r}, "w").write(str(grandchild.pid))
print(json.dumps({{"do": "refused", "kind": "sign_in"}}), flush=True)
""",
    )
    assert refusal(out).kind == "sign_in"
    until = time.monotonic() + 5
    while is_alive(int(pids.read_text())) and time.monotonic() < until:
        time.sleep(0.02)
    assert not is_alive(int(pids.read_text()))


def test_it_ends_when_the_process_that_asked_is_killed(
    link_servers: Servers, out: Path, tmp_path: Path
) -> None:
    link_servers.web.media = endless(b"", pause_seconds=0.1)
    pid = tmp_path / "pid"
    link_servers.change = f"import os; open({str(pid)!r}, 'w').write(str(os.getpid()))"
    program = f"""
from pathlib import Path
from lora_deploy.links import LinkLimits, errand, fetch
errand._child_command = lambda: {link_servers.command()!r}
fetch({VIDEO!r}, Path({str(out)!r}), limits=LinkLimits())
"""
    asking = subprocess.Popen([sys.executable, "-c", program])
    until = time.monotonic() + 60
    while not link_servers.web.media_requests() and time.monotonic() < until:
        time.sleep(0.05)
    assert is_alive(int(pid.read_text()))
    asking.kill()
    asking.wait()
    until = time.monotonic() + 5
    while is_alive(int(pid.read_text())) and time.monotonic() < until:
        time.sleep(0.02)
    assert not is_alive(int(pid.read_text()))


def test_its_environment_is_bare(
    out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = tmp_path / "environment"
    for name in ("http_proxy", "HTTPS_PROXY", "NO_PROXY", "SSLKEYLOGFILE", "AWS_SECRET_ACCESS_KEY",
                 "DENO_DIR", "DENO_AUTH_TOKENS", "XDG_CONFIG_HOME", "PYTHONSTARTUP", "LD_PRELOAD_X"):  # fmt: skip
        monkeypatch.setenv(name, "secret")
    instead(
        monkeypatch,
        f"""
open({str(seen)!r}, "w").write(json.dumps([dict(os.environ), os.getcwd()]))
print(json.dumps({{"do": "refused", "kind": "busy"}}), flush=True)
""",
    )
    refusal(out)
    environment, folder = json.loads(seen.read_text())
    assert set(environment) <= {
        "PYTHONPATH", "PYTHONHOME", "LD_LIBRARY_PATH", "PATH", "HOME", "TMPDIR", "LANG", "LC_CTYPE",
        "YTDLP_NO_PLUGINS", "DENO_NO_UPDATE_CHECK",
    }  # fmt: skip
    assert "secret" not in environment.values()
    assert not Path(environment["PATH"]).is_dir()
    assert environment["HOME"] == environment["TMPDIR"] == folder
    assert Path(folder).parent == out


def test_it_is_started_alone_in_its_session_and_reads_nothing_of_ours(
    out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = tmp_path / "seen"
    kept = os.open(tmp_path, os.O_RDONLY)
    os.set_inheritable(kept, True)
    instead(
        monkeypatch,
        f"""
open({str(seen)!r}, "w").write(json.dumps([os.getsid(0) == os.getpid(), os.listdir("/proc/self/fd")]))
print(json.dumps({{"do": "refused", "kind": "busy"}}), flush=True)
""",
    )
    refusal(out)
    os.close(kept)
    alone, descriptors = json.loads(seen.read_text())
    assert alone
    assert str(kept) not in descriptors


SAYS = [
    "",
    "no JSON\n",
    "[]\n",
    '{"do": "done"}\n',
    '{"do": "done", "name": "../../../etc/passwd", "title": ""}\n',
    '{"do": "done", "name": "clip.sh", "title": ""}\n',
    '{"do": "done", "name": "clip.mp4\\n", "title": ""}\n',
    '{"do": "done", "name": "clip.mp4", "title": "' + "x" * 201 + '"}\n',
    '{"do": "progress", "part": 2.0}\n',
    '{"do": "progress", "part": NaN}\n',
    '{"do": "refused", "kind": "whatever"}\n',
    '{"do": "refused", "kind": "too_long", "found_seconds": -1}\n',
    '{"do": "refused", "kind": "busy", "more": 1}\n',
    "x" * 100_000,
]


@pytest.mark.parametrize("says", SAYS, ids=lambda says: says[:60])
def test_what_it_says_is_taken_only_in_the_agreed_shape(
    out: Path, monkeypatch: pytest.MonkeyPatch, says: str
) -> None:
    instead(monkeypatch, f"sys.stdout.write({says!r}); sys.stdout.flush()")
    assert refusal(out).kind == "unavailable"


def test_a_line_without_end_is_not_waited_for(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    instead(monkeypatch, "while True: sys.stdout.write('x' * 65536)")
    assert refusal(out, deadline_seconds=3.0).kind == "unavailable"


@pytest.mark.parametrize(
    ("leaves", "kind"),
    [
        ("pass", "not_video"),
        ("os.mkdir('clip.mp4')", "not_video"),
        ("os.symlink('/etc/passwd', 'clip.mp4')", "not_video"),
        ("os.mkfifo('clip.mp4')", "not_video"),
        ("open('clip.mp4', 'w').write('<html></html>')", "not_video"),
        ("open('clip.mp4', 'wb').write(bytes(1_000_001))", "too_large"),
    ],
)
def test_what_it_leaves_is_looked_at_before_it_is_taken(
    out: Path, monkeypatch: pytest.MonkeyPatch, leaves: str, kind: str
) -> None:
    done = {"do": "done", "name": "clip.mp4", "title": "x"}
    instead(
        monkeypatch,
        f"os.chdir(json.loads(sys.stdin.readline())['folder'])\n{leaves}\nprint({json.dumps(done)!r})",
    )
    assert refusal(out).kind == kind


def test_a_link_to_a_sound_video_elsewhere_is_not_taken(
    out: Path, media: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    private = (media / "clips" / "arm_wrestling.mp4").resolve()
    done = {"do": "done", "name": "clip.mp4", "title": "x"}
    instead(
        monkeypatch,
        f"os.symlink({str(private)!r}, 'clip.mp4')\nprint({json.dumps(done)!r})",
    )
    assert refusal(out).kind == "not_video"


def test_a_folder_that_is_not_there_is_no_fault_of_the_visitor(tmp_path: Path) -> None:
    with pytest.raises(LinkError) as caught:
        fetch(LINK, tmp_path / "nowhere", limits=LinkLimits())
    assert caught.value.kind == "unavailable"
    assert str(tmp_path) not in str(caught.value)


def test_a_process_that_can_not_be_started_is_no_fault_of_the_visitor(
    out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(errand, "_child_command", lambda: (str(out / "nothing"),))
    assert refusal(out).kind == "unavailable"


def test_several_links_are_fetched_at_once(
    out: Path, media: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = (media / "clips" / "arm_wrestling.mp4").resolve()
    done = {"do": "done", "name": "clip.mp4", "title": "x"}
    instead(
        monkeypatch,
        f"import shutil\nshutil.copyfile({str(source)!r}, 'clip.mp4')\nprint({json.dumps(done)!r})",
    )
    paths: list[Path] = []
    threads = [
        threading.Thread(target=lambda: paths.append(fetch(LINK, out, limits=LinkLimits()).path))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(paths)) == 8
    assert sorted(paths) == sorted(out.iterdir())
    assert all(path.read_bytes() == source.read_bytes() for path in paths)


def test_the_serving_process_never_imports_what_fetches(tmp_path: Path) -> None:
    program = f"""
import sys
from pathlib import Path
from lora_deploy.links import LinkLimits, errand, fetch
errand._child_command = lambda: (sys.executable, "-c", "")
try:
    fetch({LINK!r}, Path({str(tmp_path)!r}), limits=LinkLimits())
except Exception as error:
    print(type(error).__name__)
print(sorted({{"yt_dlp", "safehttpx", "httpx", "torch", "numpy"}} & set(sys.modules)))
"""
    finished = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert finished.stdout.splitlines() == ["LinksUnavailableError", "[]"]


def test_deno_is_found_beside_python_or_on_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sysconfig.get_path", lambda name: str(tmp_path / "scripts"))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    assert errand._javascript() is None
    for folder in ("bin", "scripts"):
        (tmp_path / folder).mkdir()
        shutil.copy("/bin/true", tmp_path / folder / "deno")
        assert errand._javascript() == tmp_path / folder / "deno"
