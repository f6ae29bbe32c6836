"""The processor as Linux tells of it: cores that are granted, and the instructions that matter."""

import os
from pathlib import Path

import pytest

from lora_deploy.processor import Processor, read_processor

CPU_INFO = """processor\t: 0
model name\t: Some Processor 9000
flags\t\t: fpu avx2 avx512f avx512_vnni sse2 avx512_bf16

processor\t: 1
model name\t: Another One
flags\t\t: fpu amx_int8
"""


def computer(root: Path, **files: str) -> Path:
    """A root folder with these files; two underlines in a name are a slash, one is a dot."""
    for name, content in files.items():
        path = root / name.replace("__", "/").replace("_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return root


@pytest.mark.parametrize(
    ("content", "share"),
    [
        ("max 100000\n", None),
        ("200000 100000\n", 2.0),
        ("150000 100000\n", 1.5),
        ("50000 100000\n", 0.5),
        ("", None),
        ("200000\n", None),
        ("many few\n", None),
        ("200000 0\n", None),
        ("-1 100000\n", None),
    ],
)
def test_the_share_of_a_container(content: str, share: float | None, tmp_path: Path) -> None:
    root = computer(tmp_path, proc__self__cgroup="0::/\n", sys__fs__cgroup__cpu_max=content)
    assert read_processor(root).share == share


@pytest.mark.parametrize(
    ("content", "cores"),
    [("max 100000", 4), ("250000 100000", 3), ("50000 100000", 1), ("900000 100000", 4)],
)
def test_cores_are_those_of_the_scheduler_cut_by_the_share(
    content: str, cores: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = computer(tmp_path, proc__self__cgroup="0::/\n", sys__fs__cgroup__cpu_max=content)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 5, 7})
    assert read_processor(root).granted_cores == cores
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert read_processor(root).granted_cores == 1


def test_model_and_telling_instructions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    found = read_processor(computer(tmp_path, proc__cpuinfo=CPU_INFO))
    assert str(found) == "Some Processor 9000, 2 of 8 cores, AVX2, AVX-512, VNNI, bf16"
    assert (found.has_bf16, found.has_int8_dots) == (True, True)
    plain = read_processor(computer(tmp_path, proc__cpuinfo=CPU_INFO.replace("avx", "nil")))
    assert str(plain) == "Some Processor 9000, 2 of 8 cores, no AVX2"
    assert (plain.has_bf16, plain.has_int8_dots) == (False, False)


@pytest.mark.parametrize(
    ("flag", "bf16", "int8"),
    [
        ("avx512_bf16", True, False),
        ("amx_bf16", True, False),
        ("avx512_vnni", False, True),
        ("avx_vnni", False, True),
        ("i8mm", False, True),
        ("avx512f", False, False),
    ],
)
def test_what_a_flag_means(flag: str, bf16: bool, int8: bool) -> None:
    found = Processor("x", cores=1, usable_cores=1, flags=frozenset({flag}))
    assert (found.has_bf16, found.has_int8_dots) == (bf16, int8)


def test_a_computer_that_says_nothing_has_a_name_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    assert read_processor(tmp_path).model == "aarch64"
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc" / "cpuinfo").write_bytes(b"\xff\xfe model name\n: :\nmodel name\t:\n")
    assert read_processor(tmp_path).model == "aarch64"
