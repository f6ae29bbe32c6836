"""Computers for `doctor` to look at: real environments with Python of their own, into which traps are built."""

import base64
import hashlib
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
from collections.abc import Mapping, Sequence
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import lora_deploy

ROOT = Path(__file__).parents[1]
BASE = (
    "numpy",
    "av",
    "pillow",
    "click",
    "rich",
    "pydantic",
    "annotated-types",
    "PyYAML",
    "safetensors",
    "packaging",
)
BELOW = (
    "pydantic_core",
    "typing_extensions",
    "typing-inspection",
    "markdown-it-py",
    "mdurl",
    "Pygments",
)
"""What `BASE` needs."""


class Computer:
    """An environment that holds this package, what it needs, and what a test adds.

    Installed packages are links to those of the environment that runs the tests.
    """

    def __init__(self, folder: Path) -> None:
        venv.EnvBuilder(symlinks=True, with_pip=False).create(folder / "venv")
        [self.site] = (folder / "venv").glob("lib/python*/site-packages")
        self.python = folder / "venv" / "bin" / "python"
        self.scripts = self.python.parent
        self.home = folder / "home"
        self.home.mkdir()
        self.work = folder / "work"
        """The working directory."""
        self.work.mkdir()
        (self.site / "lora_deploy").symlink_to(Path(lora_deploy.__file__).parent)
        self.add("lora-deploy", "0.1.0", requires=own_requirements())
        for name in (*BASE, *BELOW):
            self.link(name)

    def link(self, name: str) -> None:
        """Install what the running environment has under this name, in the same version."""
        for top in tops_of(name):
            (self.site / top.name).symlink_to(top)

    def remove(self, name: str) -> None:
        """Take an installed package out; its files in the running environment stay."""
        for top in tops_of(name):
            (self.site / top.name).unlink(missing_ok=True)

    def add(
        self,
        name: str,
        version: str,
        files: Mapping[str, str] | None = None,
        *,
        requires: Sequence[str] = (),
    ) -> Path:
        """Install a made-up package, with metadata as pip leaves it; returns its metadata's folder."""
        stem = name.replace("-", "_")
        info = self.site / f"{stem}-{version}.dist-info"
        metadata = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}"]
        extras = {
            line.split("extra == ")[1].strip("\"' )") for line in requires if "extra ==" in line
        }
        metadata += [f"Provides-Extra: {extra}" for extra in sorted(extras)]
        metadata += [f"Requires-Dist: {line}" for line in requires]
        written = {
            **(files or {}),
            f"{info.name}/METADATA": "\n".join(metadata) + "\n",
            f"{info.name}/INSTALLER": "pip\n",
        }
        record = []
        for path, text in written.items():
            place = self.site / path
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(text)
            digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=")
            record.append(f"{path},sha256={digest.decode()},{len(text)}")
        (info / "RECORD").write_text("\n".join([*record, f"{info.name}/RECORD,,"]) + "\n")
        return info

    def program(self, name: str, text: str, folder: Path | None = None) -> Path:
        """A program for the shell, by default beside the environment's own."""
        path = (folder or self.scripts) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)
        return path

    def doctor(
        self,
        *,
        environment: Mapping[str, str] | None = None,
        before: Sequence[str] = (),
        module: bool = False,
        root: Path | None = None,
    ) -> dict[str, Any]:
        """What ``lora-deploy doctor --json`` says there, with its exit code.

        Args:
            environment: Variables on top of a bare environment.
            before: A program that starts the command, with its own arguments.
            module: Whether to start it as ``python -m``, which looks into the working directory.
            root: Where the system's files lie, by default in the system's root.
        """
        start = ["-m", "lora_deploy"] if module else ["-c", _COMMAND]
        if root is not None:
            start = ["-c", _WITH_ROOT.format(root=str(root))]
        safe = [] if module else ["-P"]  # as the installed command: not from the working directory
        done = subprocess.run(
            [*before, str(self.python), *safe, *start, "doctor", "--json"],
            cwd=self.work,
            env={
                "PATH": os.defpath,
                "HOME": str(self.home),
                "LANG": "C.UTF-8",
                **(environment or {}),
            },
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode in (0, 1), done.stderr
        told: dict[str, Any] = json.loads(done.stdout)
        assert "Traceback" not in done.stderr
        return {**told, "exit_code": done.returncode}


_COMMAND = "from lora_deploy.cli import main; main()"

_WITH_ROOT = """
import json, pathlib, sys
from lora_deploy import doctor
found = doctor.examine(pathlib.Path({root!r}))
print(json.dumps(found.as_dict()))
sys.exit(1 if found.complaints else 0)
"""


def own_requirements() -> list[str]:
    """What this package needs, as its built metadata has it."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = list(project["dependencies"])
    for extra, requirements in project["optional-dependencies"].items():
        lines += [f'{line}; extra == "{extra}"' for line in requirements]
    return lines


def tops_of(name: str) -> list[Path]:
    """Files and folders in site-packages that an installed package owns."""
    site = Path(sysconfig.get_path("platlib"))
    found = distribution(name)
    parts = {file.parts[0] for file in found.files or ()} - {"..", "__pycache__"}
    tops = [site / part for part in sorted(parts)]
    assert tops, f"{name} is not installed in {site}, with {sys.executable}"
    return [top for top in tops if top.exists()]


def copy_of(name: str, folder: Path) -> Path:
    """The code of an installed package of one folder, to be changed."""
    [code] = [top for top in tops_of(name) if top.is_dir() and not top.suffix]
    return Path(shutil.copytree(code, folder / code.name))
