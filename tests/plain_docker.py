"""A Dockerfile read, and carried out in a plain folder, where no Docker is.

Each stage has the folder ``root`` as its file system: paths that begin with a slash are looked for
in there, the stage before is put aside and what is copied from it comes back to the same path, so
that scripts which name their interpreter still find it. The base image is this computer: its shell
and its Python. What only a container does (users, limits, layers) is not in here.
"""

import fnmatch
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

_PLACES = re.compile(r"(?<![\w./:}])/(?=(?:opt|src|bundle|tmp|run)\b)")
"""Beginnings of paths of the image, in a command."""


@dataclass(frozen=True)
class Step:
    """One instruction."""

    word: str
    text: str
    flags: Mapping[str, str] = field(default_factory=dict)

    @property
    def words(self) -> list[str]:
        """Of the form in brackets (exec form), or split at blanks."""
        return json.loads(self.text) if self.text.startswith("[") else self.text.split()


def steps_of(text: str) -> list[Step]:
    """The instructions of a Dockerfile, in order.

    Raises:
        ValueError: A line is no instruction.
    """
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    joined = re.sub(r"\\\n", "", "\n".join(lines))
    return [_step(line) for line in joined.splitlines()]


def _step(line: str) -> Step:
    found = re.fullmatch(r"([A-Z]+)\s+((?:--[\w-]+=\S+\s+)*)(.+)", line)
    if found is None:
        raise ValueError(f"{line!r} is no instruction")
    flags = dict(flag.removeprefix("--").split("=", 1) for flag in found[2].split())
    return Step(found[1], found[3].strip(), flags)


def health_command(step: Step) -> list[str]:
    """What a HEALTHCHECK runs."""
    assert step.text.startswith("CMD ")
    return Step("CMD", step.text.removeprefix("CMD ").strip()).words


class Context:
    """What is sent to the builder: the files that ``.dockerignore`` leaves."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        lines = (folder / ".dockerignore").read_text().splitlines()
        self.rules = [line for line in lines if line and not line.startswith("#")]

    def is_sent(self, name: str) -> bool:
        """Whether a file is there for COPY; the last rule that fits it, or a folder above, decides."""
        parts = name.split("/")
        above = ["/".join(parts[: length + 1]) for length in range(len(parts))]
        sent = True
        for rule in self.rules:
            pattern = rule.removeprefix("!")
            if any(_fits(path, pattern) for path in above):
                sent = rule.startswith("!")
        return sent

    def files(self, source: str) -> Iterator[tuple[Path, str]]:
        """Files of a COPY: where they lie, and their path below what is copied; '' for a file."""
        path = self.folder / source
        found = sorted(path.rglob("*")) if path.is_dir() else [path]
        for one in found:
            if one.is_file() and self.is_sent(one.relative_to(self.folder).as_posix()):
                yield one, one.relative_to(path).as_posix() if path.is_dir() else ""


def _fits(path: str, pattern: str) -> bool:
    if pattern.startswith("**/"):
        return fnmatch.fnmatch(path.rsplit("/", 1)[-1], pattern.removeprefix("**/"))
    return path.count("/") == pattern.count("/") and fnmatch.fnmatch(path, pattern)


class PlainFolder:
    """One build."""

    def __init__(self, folder: Path, context: Path, arguments: Mapping[str, str]) -> None:
        self.root = folder / "root"
        self.aside = folder / "stages"
        self.context = Context(context)
        self.given = dict(arguments)
        self.entry: list[str] = []
        self.command: list[str] = []
        self.health: list[str] = []
        self.user = "0"
        self._before_all: dict[str, str] = {}
        self._stage = ""

    def build(self, text: str) -> None:
        """Carry out all instructions.

        Raises:
            CalledProcessError: A RUN failed.
        """
        for step in steps_of(text):
            getattr(self, f"_{step.word.lower()}")(step)

    def environment(self) -> dict[str, str]:
        """Of a process in the image as it is now; the network is this computer's."""
        network = {
            name: value
            for name, value in os.environ.items()
            if name.lower().endswith("_proxy") or name.startswith("PIP_") or "SSL_CERT" in name
        }
        return {**network, "OMP_NUM_THREADS": "1", **self.values}

    def placed(self, text: str) -> str:
        """Paths of the image, as they are in this folder."""
        return _PLACES.sub(f"{self.root}/", text)

    def run(self, *command: str, **more: str) -> "subprocess.CompletedProcess[str]":
        """Run a program as the image would."""
        return subprocess.run(
            [self.placed(word) for word in command],
            cwd=self.workdir,
            env={**self.environment(), **more},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=True,
        )

    def _from(self, step: Step) -> None:
        if self._stage:
            self.aside.mkdir(exist_ok=True)
            self.root.rename(self.aside / self._stage)
        image, *name = self._filled(step.text).split()
        assert re.fullmatch(r"python:3\.\d+\.\d+-slim-\w+", image), image
        self._stage = name[1] if name else "last"
        self.workdir = self.root
        programs = self.root / "usr" / "local" / "bin"
        programs.mkdir(parents=True)
        (self.root / "tmp").mkdir()
        (programs / "python").write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
        (programs / "python").chmod(0o755)
        self.values = {"PATH": f"{programs}:/usr/bin:/bin"}

    def _arg(self, step: Step) -> None:
        name, _, default = step.text.partition("=")
        known = self.values if self._stage else self._before_all
        known[name] = self.given.get(name, self._filled(default) or self._before_all.get(name, ""))

    def _env(self, step: Step) -> None:
        for name, value in re.findall(r"(\w+)=(\S+)", step.text):
            self.values[name] = self.placed(self._filled(value))

    def _workdir(self, step: Step) -> None:
        self.workdir = Path(self.placed(step.text))
        self.workdir.mkdir(parents=True, exist_ok=True)

    def _copy(self, step: Step) -> None:
        *sources, target = self._filled(step.text).split()
        place = Path(self.placed(target)) if target.startswith("/") else self.workdir / target
        if "from" in step.flags:
            assert len(sources) == 1
            there = self.aside / step.flags["from"] / sources[0].lstrip("/")
            shutil.copytree(there, place, symlinks=True)
            return
        for source in sources:
            files = list(self.context.files(source))
            assert files, f"{source} is not sent to the builder"
            for file, below in files:
                copied = place / (below or file.name)
                copied.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(file, copied)

    def _run(self, step: Step) -> None:
        self.run("/bin/sh", "-c", step.text)

    def _user(self, step: Step) -> None:
        self.user = step.text

    def _expose(self, step: Step) -> None:
        assert step.text.isdecimal()

    def _healthcheck(self, step: Step) -> None:
        self.health = health_command(step)

    def _entrypoint(self, step: Step) -> None:
        self.entry = step.words

    def _cmd(self, step: Step) -> None:
        self.command = step.words

    def _filled(self, text: str) -> str:
        known = {**self._before_all, **(self.values if self._stage else {})}
        return re.sub(r"\$\{(\w+)\}", lambda found: known[found[1]], text)
