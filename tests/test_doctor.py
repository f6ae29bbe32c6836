"""`doctor` finds each trap of an environment where it is built in, and not where it is not."""

import json
import os
import platform
import shutil
import subprocess
import sys
import sysconfig
from collections import Counter
from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path
from typing import Any, get_args

import pytest

from lora_deploy import doctor, known_bad, texts
from lora_deploy.cli import run
from lora_deploy.clips.fence import Fence
from lora_deploy.doctor import hardware, packages, room, shadows, threads, trial, trials
from lora_deploy.doctor.complaint import Trap
from lora_deploy.doctor.decoders import Decoding, complaints
from lora_deploy.doctor.hardware import Nvidia
from lora_deploy.processor import Processor
from tests.computers import Computer, copy_of, tops_of

Told = dict[str, Any]


@pytest.fixture
def computer(tmp_path: Path) -> Computer:
    """Sound, with decoders and without a model's libraries."""
    made = Computer(tmp_path)
    made.link("decord2")
    return made


def traps(told: Told, *, serious: bool | None = None) -> list[str]:
    """Words of what was found."""
    return [one["trap"] for one in told["traps"] if serious in (None, one["serious"])]


def only(told: Told, trap: Trap) -> Told:
    """The one trap that was found, beside what the computer that runs the tests has of its own."""
    found = [one for one in told["traps"] if one["trap"] not in OWN_TRAPS or one["trap"] == trap]
    assert [one["trap"] for one in found] == [trap], told["traps"]
    one: Told = found[0]
    assert one["serious"] == (told["exit_code"] == 1)
    assert one["found"]
    assert "\n" not in one["found"]
    assert one["remedy"]
    line = f"{one['found']}; {one['remedy']}"
    assert any(said.startswith(line) for said in told["complaints" if one["serious"] else "hints"])
    return one


OWN_TRAPS = {"threads", "no-room"}
"""That may be true of the computer that runs the tests."""


# A sound computer -------------------------------------------------------------------------------


def test_a_sound_computer_gives_no_complaint(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["doctor"]) == 0
    said = capsys.readouterr().out
    assert "torch" in said
    assert "the fence around the decoder is whole" in said
    assert "!" not in said
    assert max(map(len, said.splitlines())) <= 100
    assert run(["doctor", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["fence"] == {"holds": True, "missing": []}
    assert told["complaints"] == []
    assert traps(told, serious=True) == []
    assert set(traps(told)) <= OWN_TRAPS
    assert told["ffmpeg"]["av"].startswith("8.")
    assert told["hardware"]["processor"]["usable_cores"] >= 1


def test_a_sound_environment_of_its_own_gives_none_either(computer: Computer) -> None:
    told = computer.doctor()
    assert set(traps(told)) <= OWN_TRAPS
    assert told["exit_code"] == 0
    assert set(told["decoders"]) == {"av", "decord"}
    assert set(told["ffmpeg"]) == {"av", "decord2"}
    assert told["versions"]["lora-deploy"] == "0.1.0"


def test_doctor_imports_no_model_library_into_its_own_process() -> None:
    code = (
        "import sys; from lora_deploy import doctor; doctor.examine();"
        "print(sorted({'torch', 'transformers', 'peft', 'onnx', 'onnxruntime', 'openvino', 'av', "
        "'decord'} & set(sys.modules)))"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout.strip() == "[]"


# 1, 2: pairs that overwrite each other ----------------------------------------------------------


def test_01_both_onnxruntimes_are_found(computer: Computer) -> None:
    package = {"onnxruntime/__init__.py": _session_on("CUDAExecutionProvider")}
    computer.add("onnxruntime", "1.32.0")
    computer.add("onnxruntime-gpu", "1.32.0", package)
    one = only(computer.doctor(), "onnxruntime-pair")
    assert (
        one["found"]
        == "onnxruntime and onnxruntime-gpu are both installed and overwrite each other"
    )
    assert "pip uninstall -y onnxruntime onnxruntime-gpu" in one["remedy"]


def test_02_both_decords_are_found(computer: Computer) -> None:
    computer.add("decord", "1.0.0")  # of a version that is not bad by itself
    one = only(computer.doctor(), "decord-pair")
    assert "decord and decord2 are both installed" in one["found"]


# 3: versions known to be bad --------------------------------------------------------------------

BAD = {
    "transformers": ("5.17.1", "drops the biases"),
    "torch": ("2.9.1", "can run code"),
    "safetensors": ("0.7.9", "destroys the older file"),
    "onnx": ("1.20.1", "follows links"),
    "gradio": ("6.19.0", "locks"),
    "av": ("17.1.0", "older FFmpeg"),
    "decord": ("0.6.0", "FFmpeg 4.1.6"),
    "yt-dlp": ("2025.10.22", "JavaScript"),
}


@pytest.mark.parametrize("package", BAD)
def test_03_a_version_that_is_known_to_be_bad_is_found(package: str) -> None:
    version, fault = BAD[package]
    [one] = known_bad.found_inside({package: version})
    assert fault in one.found
    assert f"{package} {version}" in one.found
    assert 'pip install "' in one.remedy


def test_03_what_is_installed_now_is_inside_no_window() -> None:
    assert known_bad.found_inside() == ()


@pytest.mark.parametrize(
    ("versions", "bad"),
    [
        ({"onnxruntime": "1.26.0"}, []),
        ({"onnxruntime": "1.26.0", "tensorrt": "10.9"}, []),
        ({"onnxruntime": "1.26.0", "tensorrt": "11.0.1"}, ["onnxruntime"]),
        ({"onnxruntime-gpu": "1.26.0", "tensorrt": "11.0.1"}, ["onnxruntime-gpu"]),
        ({"onnxruntime": "1.27.0", "tensorrt": "11.0.1"}, []),
        ({"torch": "2.10.0"}, []),
        ({"torch": "2.10.0a0+git5"}, ["torch"]),
        ({"torch": "no version"}, []),
    ],
)
def test_03_a_window_holds_what_lies_inside(versions: dict[str, str], bad: list[str]) -> None:
    assert [one.package for one in known_bad.found_inside(versions)] == bad


def test_03_the_old_decord_is_told_with_the_way_out(computer: Computer) -> None:
    computer.remove("decord2")
    computer.add("decord", "0.6.0")
    one = only(computer.doctor(), "bad-version")
    assert "pip uninstall -y decord && " in one["remedy"]


def test_03_what_only_doctor_tells_keeps_no_model_from_opening() -> None:
    known_bad.refuse_known_bad({package: BAD[package][0] for package in ("av", "yt-dlp", "gradio")})


def test_03_a_downloader_grows_old(computer: Computer) -> None:
    _add_downloader(computer, days_old=100)
    one = only(computer.doctor(), "bad-version")
    assert "100 days old" in one["found"]
    assert not one["serious"]


# 4: a card that PyTorch does not use ------------------------------------------------------------

TORCH = "class cuda:\n    is_available = staticmethod(lambda: {answer})\n    device_count = staticmethod(lambda: 1)\n"
SMI = 'echo "GPU 0: NVIDIA Example 9 (UUID: GPU-1234)"'


def _add_torch(
    computer: Computer, version: str, cuda: str | None, *, answers: bool = False
) -> None:
    files = {
        "torch/__init__.py": TORCH.format(answer=answers),
        "torch/version.py": f"from typing import Optional\ncuda: Optional[str] = {cuda!r}\n"
        "hip: Optional[str] = None\n",
    }
    computer.add("torch", version, files)


def test_04_pytorch_for_the_cpu_beside_a_card_is_found(computer: Computer) -> None:
    _add_torch(computer, "2.13.0+cpu", None)
    assert "gpu-unused" not in traps(computer.doctor())  # no card
    computer.program("nvidia-smi", SMI)
    one = only(computer.doctor(environment=_path(computer)), "gpu-unused")
    assert "NVIDIA Example 9 is here, and torch 2.13.0+cpu is a build for the CPU" in one["found"]


def test_04_pytorch_that_does_not_see_the_card_is_found(computer: Computer) -> None:
    _add_torch(computer, "2.13.0", "13.0")
    computer.program("nvidia-smi", SMI)
    one = only(computer.doctor(environment=_path(computer)), "gpu-unused")
    assert "built for cuda 13.0, sees no CUDA device" in one["found"]


def test_04_pytorch_that_sees_the_card_is_left_alone(computer: Computer) -> None:
    _add_torch(computer, "2.13.0", "13.0", answers=True)
    computer.program("nvidia-smi", SMI)
    assert "gpu-unused" not in traps(computer.doctor(environment=_path(computer)))


def test_04_a_card_is_seen_by_the_drivers_files(tmp_path: Path) -> None:
    assert hardware.look(tmp_path).nvidia is None
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev" / "nvidiactl").touch()
    assert str(hardware.look(tmp_path).nvidia) == "an NVIDIA card"
    card = tmp_path / "proc" / "driver" / "nvidia" / "gpus" / "0000:01:00.0"
    card.mkdir(parents=True)
    (card / "information").write_text("Model: \t\t NVIDIA H100 80GB HBM3\nIRQ: 1\n")
    (card.parents[1] / "version").write_text(
        "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.95.05  Release Build\n"
    )
    assert hardware.look(tmp_path).nvidia == Nvidia("580.95.05", ("NVIDIA H100 80GB HBM3",))


def test_04_pytorch_for_the_cpu_beside_a_drivers_files_is_found(
    computer: Computer, tmp_path: Path
) -> None:
    _add_torch(computer, "2.13.0+cpu", None)
    root = tmp_path / "root"
    (root / "dev").mkdir(parents=True)
    assert "gpu-unused" not in traps(computer.doctor(root=root))
    (root / "dev" / "nvidiactl").touch()
    assert "an NVIDIA card is here" in only(computer.doctor(root=root), "gpu-unused")["found"]


def test_04_a_tool_without_a_driver_is_no_card(
    computer: Computer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    computer.program("nvidia-smi", f"{SMI}; echo 'NVIDIA-SMI has failed'; exit 9")
    monkeypatch.setenv("PATH", str(computer.scripts))
    assert hardware.look(tmp_path).nvidia is None


def test_04_what_a_card_is_and_which_driver_it_has_is_told(
    computer: Computer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    tool = (
        'case "$1" in -L) echo "GPU 0: NVIDIA Example 9 (UUID: GPU-1)";; *compute_cap*) echo 8.6;; '
        "*driver*) echo 580.95.05;; esac"
    )
    computer.program("nvidia-smi", tool)
    monkeypatch.setenv("PATH", str(computer.scripts))
    found = hardware.look(tmp_path).nvidia
    assert found == Nvidia("580.95.05", ("NVIDIA Example 9",), ("8.6",))
    assert str(found) == "NVIDIA Example 9 (sm86) with driver 580.95.05"


def test_04_a_runtime_for_engines_that_can_t_reach_the_card_is_found(computer: Computer) -> None:
    computer.add("tensorrt-rtx", "1.7.1.116", {})
    computer.program("nvidia-smi", SMI)
    one = only(computer.doctor(environment=_path(computer)), "no-binding")
    assert "NVIDIA Example 9 is here, and tensorrt-rtx without cuda-bindings" in one["found"]
    assert one["serious"] is False
    assert "no-binding" not in traps(computer.doctor())  # no card
    computer.add("cuda-bindings", "13.5.0", {})
    found = computer.doctor(environment=_path(computer))
    assert "no-binding" not in traps(found)
    assert found["on_cards"]["packages"] == {"tensorrt-rtx": "1.7.1.116", "cuda-bindings": "13.5.0"}


def test_04_the_providers_for_cards_are_those_of_the_build(computer: Computer) -> None:
    assert computer.doctor()["on_cards"]["providers"] == []
    body = (
        "def get_available_providers():\n"
        "    return ['CUDAExecutionProvider', 'CPUExecutionProvider']\n"
    )
    computer.add("onnxruntime-gpu", "1.31.1", {"onnxruntime/__init__.py": body})
    assert computer.doctor()["on_cards"]["providers"] == ["CUDAExecutionProvider"]


# 5: another provider than was asked for ---------------------------------------------------------


def _session_on(provider: str) -> str:
    return (
        "class InferenceSession:\n"
        "    def __init__(self, graph, providers):\n"
        "        assert providers == ['CUDAExecutionProvider']\n"
        f"    def get_providers(self):\n        return [{provider!r}]\n"
    )


def test_05_a_session_that_fell_back_to_the_processor_is_found(computer: Computer) -> None:
    # The files of onnxruntime under the name of onnxruntime-gpu: what the pair makes of each other.
    for top in tops_of("onnxruntime"):
        if not top.name.endswith(".dist-info"):
            (computer.site / top.name).symlink_to(top)
    for name in ("flatbuffers", "protobuf"):
        computer.link(name)
    computer.add("onnxruntime-gpu", "1.32.0")
    one = only(computer.doctor(), "provider-fallback")
    assert "asked for CUDAExecutionProvider and took CPUExecutionProvider" in one["found"]
    assert "pip uninstall -y onnxruntime-gpu" in one["remedy"]


def test_05_a_session_on_the_card_is_left_alone(computer: Computer) -> None:
    package = {"onnxruntime/__init__.py": _session_on("CUDAExecutionProvider")}
    computer.add("onnxruntime-gpu", "1.32.0", package)
    assert set(traps(computer.doctor())) <= OWN_TRAPS


def test_05_the_graph_of_the_trial_is_one() -> None:
    assert trial.provider("CPUExecutionProvider") == "CPUExecutionProvider"


# 6: a downloader without JavaScript -------------------------------------------------------------


def _add_downloader(computer: Computer, *, days_old: int = 3, deno: str | None = "2.6.4") -> None:
    day = date.today() - timedelta(days=days_old)
    computer.add("yt-dlp", f"{day.year}.{day.month}.{day.day}", {"yt_dlp/__init__.py": ""})
    computer.add("yt-dlp-ejs", "0.8.0", {"yt_dlp_ejs/__init__.py": ""})
    if deno is not None:
        computer.program("deno", f'echo "deno {deno} (stable, release)"')


def test_06_a_downloader_without_a_javascript_runtime_is_found(
    computer: Computer, tmp_path: Path
) -> None:
    _add_downloader(computer, deno=None)
    nodes = computer.program("node", "echo v24.0.0", tmp_path / "nodes").parent
    told = computer.doctor(environment={"PATH": f"{nodes}{os.pathsep}{_without_deno()}"})
    one = only(told, "no-javascript")
    assert "finds no JavaScript runtime (node" in one["found"]
    assert 'pip install -U "yt-dlp[default,deno]"' in one["remedy"]


@pytest.mark.parametrize("on_path", [False, True])
def test_06_deno_is_found_where_the_downloader_looks(
    computer: Computer, tmp_path: Path, on_path: bool
) -> None:
    _add_downloader(computer)
    path = _without_deno()
    if on_path:
        (tmp_path / "elsewhere").mkdir()
        shutil.move(computer.scripts / "deno", tmp_path / "elsewhere" / "deno")
        path = f"{tmp_path / 'elsewhere'}{os.pathsep}{path}"
    assert set(traps(computer.doctor(environment={"PATH": path}))) <= OWN_TRAPS


def test_06_a_deno_that_is_too_old_or_does_not_start_is_found(computer: Computer) -> None:
    _add_downloader(computer, deno="2.2.9")
    assert "deno 2.2.9 is too old" in only(computer.doctor(), "no-javascript")["found"]
    computer.program("deno", "exit 127")
    assert "does not start" in only(computer.doctor(), "no-javascript")["found"]


def test_06_a_runtime_without_the_scripts_is_found(computer: Computer) -> None:
    _add_downloader(computer)
    shutil.rmtree(computer.site / "yt_dlp_ejs-0.8.0.dist-info")
    assert "yt-dlp-ejs" in only(computer.doctor(), "no-javascript")["found"]


def _without_deno() -> str:
    folders = os.environ["PATH"].split(os.pathsep)
    return os.pathsep.join(one for one in folders if shutil.which("deno", path=one) is None)


def _path(computer: Computer) -> dict[str, str]:
    return {"PATH": f"{computer.scripts}{os.pathsep}{os.defpath}"}


# 7: what the fence lacks ------------------------------------------------------------------------

REFUSE = """
import ctypes, os, struct, sys
number, errno = int(sys.argv[1]), int(sys.argv[2])
lines = [(0x20, 0, 0, 0), (0x15, 0, 1, number), (0x06, 0, 0, 0x00050000 | errno), (0x06, 0, 0, 0x7FFF0000)]
code = b"".join(struct.pack("<HBBI", *line) for line in lines)
class Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))
libc = ctypes.CDLL(None)
program = Program(len(lines), ctypes.create_string_buffer(code, len(code)).raw)
buffer = ctypes.create_string_buffer(code, len(code))
program.filter = ctypes.cast(buffer, ctypes.c_char_p)
zero = ctypes.c_ulong(0)
assert libc.prctl(38, ctypes.c_ulong(1), zero, zero, zero) == 0
assert libc.prctl(22, ctypes.c_ulong(2), ctypes.byref(program), zero, zero) == 0
os.execv(sys.argv[3], sys.argv[3:])
"""
"""Starts a program on a kernel that refuses one system call."""

UNSHARE = {"x86_64": 272, "aarch64": 97}.get(platform.machine())
LANDLOCK = 444


@pytest.mark.skipif(UNSHARE is None, reason="the numbers of system calls are not known here")
@pytest.mark.parametrize(
    ("number", "errno", "words"),
    [(UNSHARE, 1, "lacks user namespaces"), (LANDLOCK, 38, "lacks Landlock")],
)
def test_07_what_the_kernel_refuses_the_fence_is_found(
    computer: Computer, number: int, errno: int, words: str
) -> None:
    one = only(
        computer.doctor(before=[sys.executable, "-c", REFUSE, str(number), str(errno)]), "fence"
    )
    assert words in one["found"]
    assert "still refused" in one["found"]


@pytest.mark.parametrize(
    ("fence", "words"),
    [
        (Fence(False, 7, True, True), "lacks user namespaces"),
        (Fence(False, 0, False, True), "NOT all refused"),
        (Fence(True, 0, True, True), "lacks Landlock"),
    ],
)
def test_07_gaps_in_the_fence_are_told_with_what_they_mean(fence: Fence, words: str) -> None:
    [one] = complaints(Decoding(fence=fence))
    assert words in one.found
    assert ("NOT" not in one.found) == fence.holds


# 8: decoders ------------------------------------------------------------------------------------


def test_08_a_decoder_that_repeats_frames_is_found(computer: Computer) -> None:
    computer.remove("decord2")
    code = copy_of("decord2", computer.site)
    for libraries in (top for top in tops_of("decord2") if top.suffix == ".libs"):
        (computer.site / libraries.name).symlink_to(libraries)
    stuck = (code / "__init__.py").read_text() + STUCK
    computer.add("decord2", "3.4.0", {"decord/__init__.py": stuck})
    one = only(computer.doctor(), "decoder")
    assert one["error"] == "RepeatedFramesError"
    assert one["found"].startswith("decord2 3.4.0: ")


STUCK = """
_right = VideoReader.__getitem__
VideoReader.__getitem__ = lambda self, number: _right(self, min(number, 20))
"""
"""What follows the code of decord: it shows nothing that comes after its frame 20."""


def test_08_a_decoder_that_does_not_start_is_found(computer: Computer) -> None:
    computer.remove("av")
    fault = 'raise ImportError("libavcodec.so.62: cannot open shared object file")\n'
    computer.add("av", "18.1.0", {"av/__init__.py": fault})
    one = only(computer.doctor(), "decoder")
    assert "no video can be decoded" in one["found"]
    assert "libavcodec.so.62" in one["found"]
    assert "`lora-deploy doctor`" not in one["found"]  # what the error itself would send one to


# 9: needs that are not met ----------------------------------------------------------------------


def test_09_a_package_that_is_missing_is_found(computer: Computer) -> None:
    computer.add(
        "onnxruntime", "1.32.0", requires=["flatbuffers", 'coloredlogs; sys_platform == "win32"']
    )
    package = computer.site / "onnxruntime"
    package.mkdir()
    (package / "__init__.py").write_text(_session_on("CPUExecutionProvider").replace("CUDA", "CPU"))
    one = only(computer.doctor(), "unmet-requirement")
    assert one["found"] == "flatbuffers is not installed, but onnxruntime needs flatbuffers"
    assert one["remedy"] == 'type: pip install "flatbuffers"'
    computer.link("flatbuffers")
    assert set(traps(computer.doctor())) <= OWN_TRAPS


def test_09_a_version_that_somebody_does_not_take_is_found(computer: Computer) -> None:
    computer.remove("rich")
    computer.add("rich", "12.0.0", {"rich/__init__.py": ""})
    one = only(computer.doctor(), "unmet-requirement")
    assert one["found"] == "rich 12.0.0 is installed, but lora-deploy needs rich>=13"
    assert one["remedy"] == 'type: pip install "rich>=13"'


def test_09_of_an_extra_what_is_there_must_fit_and_what_is_not_is_not_missed(
    computer: Computer,
) -> None:
    computer.remove("decord2")
    computer.add("decord2", "3.3.0", {"decord2_is_not_imported.py": ""})
    one = only(computer.doctor(), "unmet-requirement")
    assert "decord2 3.3.0 is installed, but lora-deploy needs decord2>=3.4" in one["found"]


def test_09_a_version_known_to_be_bad_is_told_once(computer: Computer) -> None:
    computer.add("onnx", "1.20.0", {"onnx/__init__.py": ""})
    only(computer.doctor(), "bad-version")


# 10: files that hide a package ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("onnx.py", "onnx"),
        ("tensorrt.py", "tensorrt"),
        ("decord.py", "decord"),
        ("torch/__init__.py", "torch"),
        ("colorsys.py", "colorsys"),
    ],
)
def test_10_a_file_that_hides_a_package_is_found_in_pythonpath(
    computer: Computer, tmp_path: Path, file: str, name: str
) -> None:
    mine = tmp_path / "mine"
    (mine / file).parent.mkdir(parents=True)
    # Harmless where Python itself comes across it, so that only hiding is left to be found.
    (mine / file).write_text("VideoReader = None\n" if name != "decord" else _THE_REAL_DECORD)
    one = only(computer.doctor(environment={"PYTHONPATH": str(mine)}), "shadowed")
    kind = "standard module" if name == "colorsys" else "package"
    assert f"in PYTHONPATH hides the {kind} {name}" in one["found"]
    assert f"take {mine} out of PYTHONPATH" in one["remedy"]


_THE_REAL_DECORD = """
import sys
here = sys.path.pop(next(i for i, p in enumerate(sys.path) if p == __file__.rpartition("/")[0]))
del sys.modules["decord"]
import decord
sys.path.append(here)
"""


def test_10_a_hidden_module_that_decoding_needs_is_told_beside_what_comes_of_it(
    computer: Computer, tmp_path: Path
) -> None:
    (tmp_path / "statistics.py").write_text("")
    told = computer.doctor(environment={"PYTHONPATH": str(tmp_path)})
    assert set(traps(told, serious=True)) == {"shadowed", "decoder"}


def test_10_a_file_in_the_working_directory_hides_where_python_looks_there(
    computer: Computer,
) -> None:
    (computer.work / "onnx.py").write_text("")
    one = only(computer.doctor(module=True), "shadowed")
    assert one["found"] == "onnx.py in the working directory hides the package onnx"
    assert one["serious"]
    one = only(computer.doctor(), "shadowed")
    assert "from every script and notebook" in one["found"]
    assert not one["serious"]


def test_10_what_hides_nothing_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "onnx").mkdir()  # Python prefers the installed package to a folder without code
    (tmp_path / "onnx" / "model.onnx").touch()
    (tmp_path / "torch.txt").touch()
    (tmp_path / "mine.py").touch()
    (tmp_path / "turtle.py").touch()
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "__init__.py").touch()
    assert list(shadows.complaints(Path(sysconfig.get_path("stdlib")), environment={})) == []
    assert list(shadows.complaints(tmp_path, environment={})) == []
    (tmp_path / "onnx" / "__init__.py").touch()
    [one] = shadows.complaints(tmp_path, path=[""], environment={})
    assert one.found == "onnx in the working directory hides the package onnx"


def test_10_packages_that_were_installed_into_a_folder_are_meant(computer: Computer) -> None:
    computer.add("onnx", "1.23.0", {"onnx/__init__.py": ""})
    assert list(shadows.complaints(computer.site, environment={})) == []
    shutil.rmtree(computer.site / "onnx-1.23.0.dist-info")
    assert [one.trap for one in shadows.complaints(computer.site, environment={})] == ["shadowed"]


# 11: threads ------------------------------------------------------------------------------------


def processor_of(root: Path) -> Processor:
    return hardware.look(root).processor


@pytest.mark.parametrize(
    ("files", "share"),
    [
        ({}, None),
        ({"proc/self/cgroup": "0::/", "sys/fs/cgroup/cpu.max": "max 100000"}, None),
        ({"proc/self/cgroup": "0::/", "sys/fs/cgroup/cpu.max": "150000 100000"}, 1.5),
        (
            {
                "proc/self/cgroup": "0::/pod/box",
                "sys/fs/cgroup/pod/cpu.max": "50000 100000",
                "sys/fs/cgroup/pod/box/cpu.max": "200000 100000",
            },
            0.5,
        ),
        (
            {
                "proc/self/cgroup": "2:cpuacct,cpu:/box\n1:memory:/",
                "sys/fs/cgroup/cpu/box/cpu.cfs_quota_us": "25000",
                "sys/fs/cgroup/cpu/box/cpu.cfs_period_us": "100000",
            },
            0.25,
        ),
        (
            {
                "proc/self/cgroup": "2:cpu:/",
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000",
            },
            None,
        ),
    ],
)
def test_11_the_share_of_the_processor_is_read(
    tmp_path: Path, files: dict[str, str], share: float | None
) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text + "\n")
    assert processor_of(tmp_path).share == share


def test_11_a_share_that_is_smaller_than_the_cores_is_found() -> None:
    small = Processor("x", cores=64, usable_cores=64, share=2.0)
    [one] = threads.complaints(small, {})
    assert "gets 2 of 64 cores' time" in one.found
    assert one.remedy == "type: export OMP_NUM_THREADS=2"
    assert not one.serious
    assert list(threads.complaints(small, {"OMP_NUM_THREADS": "2"})) == []
    whole = Processor("x", cores=64, usable_cores=64, share=None)
    assert list(threads.complaints(whole, {})) == []
    pinned = Processor("x", cores=64, usable_cores=2, share=None)
    assert list(threads.complaints(pinned, {})) == []  # libraries see which cores they may use


@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="there is one core")
def test_11_a_control_group_that_grants_less_is_found(computer: Computer, tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "proc" / "self").mkdir(parents=True)
    (root / "proc" / "self" / "cgroup").write_text("0::/\n")
    (root / "sys" / "fs" / "cgroup").mkdir(parents=True)
    (root / "sys" / "fs" / "cgroup" / "cpu.max").write_text("100000 100000\n")
    one = only(computer.doctor(root=root), "threads")
    assert f"gets 1 of {os.cpu_count()} cores' time" in one["found"]
    assert one["remedy"] == "type: export OMP_NUM_THREADS=1"


def test_11_a_setting_that_asks_for_too_many_threads_is_found(computer: Computer) -> None:
    many = (os.cpu_count() or 1) + 3
    one = only(computer.doctor(environment={"OMP_NUM_THREADS": str(many)}), "threads")
    assert f"OMP_NUM_THREADS={many}" in one["found"]
    assert one["remedy"].startswith("type: export OMP_NUM_THREADS=")
    assert "threads wait for each other" in one["found"]
    assert traps(computer.doctor(environment={"OMP_NUM_THREADS": "1"})).count("threads") == 0


def test_11_a_process_that_is_kept_to_one_core_needs_one_thread(computer: Computer) -> None:
    core = str(min(os.sched_getaffinity(0)))
    two, pin = {"OMP_NUM_THREADS": "2"}, ["taskset", "-c", core]
    one = only(computer.doctor(environment=two, before=pin), "threads")
    assert one["remedy"] == "type: export OMP_NUM_THREADS=1"


# 12: no room ------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def small_disks() -> Callable[..., list[str]]:
    """Starts a program with small disks mounted, seen by it alone; skips where that is not allowed."""

    def before(*mounts: tuple[Path, str]) -> list[str]:
        lines = [f"mount -t tmpfs -o size={size} tmpfs '{folder}'" for folder, size in mounts]
        return ["unshare", "-Urm", "sh", "-c", " && ".join([*lines, 'exec "$@"']), "sh"]

    if subprocess.run([*before(), "true"], capture_output=True, check=False).returncode != 0:
        if os.environ.get("REQUIRE_SHARED") == "1":
            pytest.fail("no disk can be mounted for a test")
        pytest.skip("no disk can be mounted for a test")
    return before


def test_12_a_temporary_folder_that_is_nearly_full_is_found(
    computer: Computer, tmp_path: Path, small_disks: Callable[..., list[str]]
) -> None:
    small = tmp_path / "small"
    small.mkdir()
    told = computer.doctor(environment={"TMPDIR": str(small)}, before=small_disks((small, "9m")))
    one = only(told, "no-room")
    assert f"the temporary folder {small} has 9 MB free" in one["found"]
    assert "TMPDIR=" in one["remedy"]


def test_12_shared_memory_as_docker_gives_it_is_found_where_workers_may_need_it(
    computer: Computer, small_disks: Callable[..., list[str]]
) -> None:
    before = small_disks((Path("/dev/shm"), "64m"))
    assert "no-room" not in traps(computer.doctor(before=before))
    _add_torch(computer, "2.13.0+cpu", None)
    one = only(computer.doctor(before=before), "no-room")
    assert "shared memory /dev/shm has 67 MB free" in one["found"]
    assert "bus error" in one["found"]
    assert not one["serious"]


def test_12_a_full_disk_is_found(
    computer: Computer, tmp_path: Path, small_disks: Callable[..., list[str]]
) -> None:
    full = tmp_path / "full"
    full.mkdir()
    before = small_disks((full, "1m"))
    before[4] = before[4].replace(
        "exec", f"dd if=/dev/zero of='{full}/x' bs=1M count=2 2>/dev/null; exec"
    )
    one = only(computer.doctor(environment={"TMPDIR": str(full)}, before=before), "no-room")
    assert "No space left on device" in one["found"]


@pytest.mark.parametrize("variable", ["TMPDIR", "HF_HOME", "HF_HUB_CACHE"])
def test_12_a_place_that_can_not_be_written_is_found(computer: Computer, variable: str) -> None:
    _add_torch(computer, "2.13.0+cpu", None)
    one = only(computer.doctor(environment={variable: "/proc"}), "no-room")
    assert "can't be written: /proc" in one["found"]
    assert one["serious"]
    assert f"export {'TMPDIR' if variable == 'TMPDIR' else 'HF_HOME'}=" in one["remedy"]


def test_12_a_place_below_a_file_is_found(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    environment = {"TMPDIR": str(tmp_path), "HF_HOME": str(tmp_path / "file" / "cache")}
    rooms = room.look(tmp_path, environment)
    [one] = [one for one in rooms if one.trouble]
    assert one.use == room.CACHE
    assert one.trouble == f"can't be made, because {tmp_path / 'file'} is no folder"
    environment["HF_HOME"] = str(tmp_path / "made" / "when" / "needed")
    assert [one for one in room.look(tmp_path, environment) if one.trouble] == []
    assert not (tmp_path / "made").exists()


# 13: builds that do not fit each other ----------------------------------------------------------


@pytest.mark.parametrize(
    ("torch", "cuda", "companion", "words"),
    [
        ("2.13.0+cpu", None, ("torchvision", "0.28.0+cu130"), "a build for cpu, torchvision"),
        ("2.13.0+cu130", "13.0", ("torchvision", "0.28.0+cu126"), "one for cu126"),
        ("2.13.0+cu130", "13.0", ("torchvision", "0.28.0+cu130"), None),
        ("2.13.0", "13.0", ("torchvision", "0.28.0"), None),
        ("2.13.0+cpu", None, ("torchvision", "0.28.0+cpu"), None),
        pytest.param(
            "2.13.0+cpu", None, ("torchcodec", "0.17.0"), "torchcodec 0.17.0 one for CUDA",
            marks=pytest.mark.skipif(platform.machine() != "x86_64", reason="wheels differ"),
        ),
    ],
)  # fmt: skip
def test_13_companions_of_pytorch_built_for_another_device_are_found(
    computer: Computer, torch: str, cuda: str | None, companion: tuple[str, str], words: str | None
) -> None:
    _add_torch(computer, torch, cuda, answers=True)
    computer.add(*companion)
    told = computer.doctor()
    if words is None:
        assert "unlike-builds" not in traps(told)
    else:
        assert words in only(told, "unlike-builds")["found"]


# 14: what is broken is told, whatever it does ---------------------------------------------------

BROKEN = {
    "raises": ('raise OSError("libgomp.so.1: cannot open shared object file")', "libgomp.so.1"),
    "crashes": ("import os, signal; os.kill(os.getpid(), signal.SIGILL)", "ended by SIGILL"),
    "exits": ("raise SystemExit(3)", "ended with 3"),
    "floods": ("raise RuntimeError('x' * 10**6)", "RuntimeError: xxx"),
}


@pytest.mark.parametrize("how", BROKEN)
def test_14_a_package_that_does_not_start_is_found(computer: Computer, how: str) -> None:
    code, words = BROKEN[how]
    _add_torch(computer, "2.13.0+cpu", None)
    (computer.site / "torch" / "__init__.py").write_text(code + "\n")
    one = only(computer.doctor(), "broken-package")
    assert one["found"].startswith("torch is installed and does not start: ")
    assert words in one["found"]
    assert len(one["found"]) < 400


def test_14_a_package_that_hangs_is_found(
    computer: Computer, monkeypatch: pytest.MonkeyPatch
) -> None:
    _add_torch(computer, "2.13.0+cpu", None)
    (computer.site / "torch" / "__init__.py").write_text("import time; time.sleep(3600)\n")
    monkeypatch.setattr(trials, "TRIAL_SECONDS", 0.5)
    monkeypatch.setattr(sys, "executable", str(computer.python))
    assert trials.attempt("cuda") == trials.Outcome(None, "it was not done after 0 seconds")


def test_14_a_working_directory_that_was_deleted_breaks_nothing(computer: Computer) -> None:
    told = computer.doctor(before=["sh", "-c", 'rmdir "$PWD" && exec "$@"', "sh"])
    assert set(traps(told)) <= OWN_TRAPS


def test_14_a_part_that_can_not_be_looked_at_costs_not_the_report(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def odd() -> None:
        raise ZeroDivisionError("by\nnothing")

    monkeypatch.setattr(odd, "__module__", "lora_deploy.doctor.links")
    monkeypatch.setattr("lora_deploy.doctor.links.complaints", odd)
    [line] = doctor.examine().complaints
    assert line.startswith("links can't be looked at: ZeroDivisionError: by nothing; ")


@pytest.mark.parametrize(
    ("metadata", "reason"),
    [
        ("", "is empty"),
        ("Metadata-Version: 2.1\nName: onnx\n", "has no valid version"),
        ("Metadata-Version: 2.1\nName: onnx\nVersion: soon\n", "has no valid version"),
        (
            "Metadata-Version: 2.1\nName: onnx\nVersion: 1.23.0\nRequires-Dist: a b c\n",
            "has an invalid requirement",
        ),
        (None, "is empty"),
    ],
)
def test_14_torn_metadata_is_found(computer: Computer, metadata: str | None, reason: str) -> None:
    info = computer.add("onnx", "1.23.0", {"onnx/__init__.py": ""})
    if metadata is None:
        (info / "METADATA").unlink()
    else:
        (info / "METADATA").write_text(metadata)
    told = computer.doctor()
    assert f"the metadata of onnx {reason}" in only(told, "broken-package")["found"]
    assert None not in told["versions"].values()


def test_14_torn_metadata_of_a_decoder_costs_its_version_alone(computer: Computer) -> None:
    computer.remove("av")
    code = copy_of("av", computer.site)
    for libraries in (top for top in tops_of("av") if top.suffix == ".libs"):
        (computer.site / libraries.name).symlink_to(libraries)
    info = computer.add("av", "18.1.0", {"av/__init__.py": (code / "__init__.py").read_text()})
    (info / "METADATA").unlink()
    told = computer.doctor()
    assert "metadata of av is empty" in only(told, "broken-package")["found"]
    assert told["decoders"]["av"] == "av gives the right frames (5 clips)"


def test_14_a_numpy_that_is_broken_is_told_and_not_raised(computer: Computer) -> None:
    computer.remove("numpy")
    fault = 'raise ImportError("\\n\\nnumpy.core.multiarray\\nfailed to import")\n'
    computer.add("numpy", "2.4.6", {"numpy/__init__.py": fault})
    one = only(computer.doctor(), "decoder")
    assert "numpy.core.multiarray failed to import" in one["found"]


# How it is said ---------------------------------------------------------------------------------


def test_each_trap_is_in_the_documentation() -> None:
    page = (Path(__file__).parents[1] / "docs" / "doctor.md").read_text(encoding="utf-8")
    rows = [line.split("|")[1].strip(" `") for line in page.splitlines() if line.startswith("| `")]
    assert rows == list(get_args(Trap))


def test_hints_are_shown_and_cost_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "4096")
    found = doctor.examine()
    assert [one.trap for one in found.traps if not one.serious][:1] == ["threads"]
    assert found.complaints == ()
    assert " - OMP_NUM_THREADS=4096" in texts.diagnosis(found)


def test_a_package_that_is_not_there_is_not_looked_up() -> None:
    assert packages.look_up("no-such-package") is None


def test_old_installations_are_read_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file beside the package, or a folder that names its needs in a file of its own."""
    (tmp_path / "plain-1.2.egg-info").write_text("Name: plain\nVersion: 1.2\n")
    folder = tmp_path / "listing-3.4.egg-info"
    folder.mkdir()
    (folder / "PKG-INFO").write_text("Name: listing\nVersion: 3.4\n\nRequires-Dist: prose\n")
    (folder / "requires.txt").write_text("numpy>=1\n")
    monkeypatch.syspath_prepend(tmp_path)
    plain, listing = packages.look_up("plain"), packages.look_up("listing")
    assert isinstance(plain, packages.Package)
    assert isinstance(listing, packages.Package)
    assert (str(plain.version), plain.requires) == ("1.2", ())
    assert (str(listing.version), [str(need) for need in listing.requires]) == ("3.4", ["numpy>=1"])


def test_what_is_needed_by_many_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    real, asked = packages.look_up, Counter[str]()

    def look_up(name: str) -> packages.Package | packages.Unreadable | None:
        asked[name] += 1
        return real(name)

    monkeypatch.setattr(packages, "look_up", look_up)
    assert list(packages._unmet(set())) == []
    assert asked["numpy"] == 1
    assert set(asked.values()) == {1}
