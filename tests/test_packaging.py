"""What people install: the wheel, the sdist, an environment without PyTorch, and the scripts that make one."""

import json
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

CONTRACT_LINES = """\
import lora_deploy
recogniser = lora_deploy.load("bundle/")
prediction = recogniser.classify("clip.mp4", top_k=5)
prediction.label, prediction.score, prediction.top_k
"""
"""What we promise to Python scripts, word for word: no main guard, nothing around it."""

PRINT_ANSWER = """\
import json
print(json.dumps([prediction.label, prediction.score, prediction.top_k]))
"""


def run(*command: str | Path, cwd: Path) -> str:
    """Run a command without this checkout on its path; its stdout, or a failure with its stderr."""
    finished = subprocess.run(
        command,
        cwd=cwd,
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    return finished.stdout


@pytest.fixture(scope="session")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sdist of this checkout, and the wheel built from that sdist."""
    folder = tmp_path_factory.mktemp("distributions")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, ROOT, cwd=folder)
    return folder


@pytest.fixture(scope="session")
def wheel(distributions: Path) -> Path:
    (path,) = distributions.glob("*.whl")
    return path


@pytest.fixture(scope="session")
def small_python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of a fresh environment that holds the wheel with [cpu], and no PyTorch."""
    folder = tmp_path_factory.mktemp("small")
    python = folder / "venv" / "bin" / "python"
    run(sys.executable, "-m", "venv", "--without-pip", folder / "venv", cwd=folder)
    pip: list[str | Path] = [sys.executable, "-m", "pip", "--python", python]
    pinned: list[str | Path] = ["-c", ROOT / "constraints.txt"]
    run(*pip, "install", "-qq", "--no-compile", *pinned, f"{wheel}[cpu]", cwd=folder)
    return python


def test_wheel_holds_the_package_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    tops = {name.partition("/")[0] for name in names}
    (metadata,) = tops - {"lora_deploy"}
    assert metadata.endswith(".dist-info")
    assert f"{metadata}/licenses/LICENSE" in names
    assert "lora_deploy/py.typed" in names
    assert "lora_deploy/assets/videomae-nano/model.safetensors" in names
    assert "lora_deploy/assets/example-bundle/bundle.json" in names
    assert "lora_deploy/assets/decoder-proof/open-groups.mkv" in names


def test_wheel_has_every_file_of_the_package_unchanged(wheel: Path) -> None:
    package = ROOT / "lora_deploy"
    here = {
        str(path.relative_to(ROOT)): path.read_bytes()
        for path in package.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    with zipfile.ZipFile(wheel) as archive:
        there = {
            name: archive.read(name)
            for name in archive.namelist()
            if name.startswith("lora_deploy/")
        }
    assert sorted(there) == sorted(here)
    assert [name for name in here if here[name] != there[name]] == []


def test_sdist_holds_what_a_packager_needs_and_no_leftovers(distributions: Path) -> None:
    (path,) = distributions.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    needed = ["pyproject.toml", "LICENSE", "README.md", "constraints.txt"]
    assert names.issuperset(needed)
    assert "tests/test_packaging.py" in names
    tops = {name.partition("/")[0] for name in names}
    assert tops.isdisjoint({".venv", ".ci", ".git", "quickstart", "dist", "build"})


def test_environment_without_torch_answers_alike_from_the_shell_and_from_python(
    small_python: Path, tmp_path: Path
) -> None:
    # 1. There is no PyTorch here, and the package is the installed one.
    probe = (
        "import importlib.util, lora_deploy, pathlib;"
        "assert importlib.util.find_spec('torch') is None;"
        "print(pathlib.Path(lora_deploy.__file__).parent)"
    )
    package = Path(run(small_python, "-c", probe, cwd=tmp_path).strip())
    assert package.is_relative_to(small_python.parents[1])

    # 2. A bundle and a clip under the names that the contract's lines use.
    shutil.copytree(package / "assets" / "example-bundle", tmp_path / "bundle")
    make_clips = (
        "from pathlib import Path; from lora_deploy.clips.example import write_example;"
        "write_example(Path('data'), train_clips=0, val_clips=0, test_clips=1)"
    )
    run(small_python, "-c", make_clips, cwd=tmp_path)
    clip = min((tmp_path / "data").rglob("*.mp4"))
    clip.rename(tmp_path / "clip.mp4")

    # 3. Both ways, and the same answer.
    command = small_python.with_name("lora-deploy")
    row = json.loads(run(command, "classify", "bundle/", "clip.mp4", "--top-k", "5", cwd=tmp_path))
    (tmp_path / "script.py").write_text(CONTRACT_LINES + PRINT_ANSWER)
    label, score, top_k = json.loads(run(small_python, "script.py", cwd=tmp_path))

    assert row["status"] == "ok"
    assert row["label"] == label
    assert row["score"] == pytest.approx(score, abs=1e-6)
    assert [name for name, _ in row["top_k"]] == [name for name, _ in top_k]
    assert top_k[0] == [label, score]


STUB_PYTHON = """\
#!/usr/bin/env bash
echo "$*" >>"$CALLS"
if [[ $* == "-m venv --clear .venv" ]]; then
  mkdir -p .venv/bin
  cp "$0" .venv/bin/python
fi
"""
"""Stands for Python, so that a test sees what `scripts/environment` asks of it, in no time."""


def test_scripts_install_once_and_again_only_after_a_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkout, programs, calls = tmp_path / "a checkout", tmp_path / "programs", tmp_path / "calls"
    (checkout / "scripts").mkdir(parents=True)
    for name in ("scripts/environment", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, checkout / name)
    programs.mkdir()
    (programs / "python3.11").write_text(STUB_PYTHON)
    (programs / "python3.11").chmod(0o755)
    monkeypatch.setenv("PATH", str(programs), prepend=os.pathsep)
    monkeypatch.setenv("CALLS", str(calls))

    def installs_for(work: str) -> list[str]:
        """What pip was asked to install when the scripts made ready for ``work``."""
        calls.write_text("")
        run(checkout / "scripts" / "environment", work, cwd=tmp_path)
        lines = calls.read_text().splitlines()
        return [line.split("constraints.txt ")[1] for line in lines if " install " in line]

    assert installs_for("run") == ["torch", "-e .[cpu,train,export]"]
    assert installs_for("run") == []
    assert calls.read_text() == ""  # the second start asked Python nothing at all
    assert installs_for("develop") == ["torch", "-e .[cpu,train,export,rtx,demo,serve,decord,dev]"]
    assert installs_for("develop") == installs_for("run") == []
    with (checkout / "constraints.txt").open("a") as constraints:
        constraints.write("# changed\n")
    assert installs_for("run") == ["torch", "-e .[cpu,train,export]"]
    assert installs_for("develop") == ["torch", "-e .[cpu,train,export,rtx,demo,serve,decord,dev]"]


@pytest.mark.soak
def test_fresh_checkout_in_a_folder_with_a_space_becomes_ready(tmp_path: Path) -> None:
    checkout = tmp_path / "a checkout"
    leftovers = shutil.ignore_patterns(".venv", ".git", ".*_cache", "__pycache__")
    shutil.copytree(ROOT, checkout, ignore=leftovers)
    run(checkout / "scripts" / "environment", "run", cwd=tmp_path)
    assert "Usage" in run(checkout / "scripts" / "quickstart", "--help", cwd=tmp_path)
