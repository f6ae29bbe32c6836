"""What a certificate says of the computer: cores that may be used, and the processor's telling instructions."""

import os
from pathlib import Path

import pytest

from lora_deploy.cores import cpu_share, usable_cores
from lora_deploy.processor_name import processor_name


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
    (tmp_path / "cpu.max").write_text(content)
    assert cpu_share(tmp_path) == share


def test_no_limit_where_no_file_is(tmp_path: Path) -> None:
    assert cpu_share(tmp_path) is None


@pytest.mark.parametrize(
    ("content", "cores"),
    [("max 100000", 4), ("250000 100000", 2), ("50000 100000", 1), ("900000 100000", 4)],
)
def test_cores_are_those_of_the_scheduler_cut_by_the_share(
    content: str, cores: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cpu.max").write_text(content)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 5, 7})
    assert usable_cores(tmp_path) == cores
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert usable_cores(tmp_path) == 1


CPU_INFO = """processor\t: 0
model name\t: Some Processor 9000
flags\t\t: fpu avx2 avx512f avx512_vnni sse2 avx512_bf16

processor\t: 1
model name\t: Another One
flags\t\t: fpu amx_int8
"""


def test_model_cores_and_telling_instructions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "cpuinfo"
    path.write_text(CPU_INFO)
    monkeypatch.setattr("lora_deploy.processor_name.usable_cores", lambda: 2)
    expected = "Some Processor 9000, 2 cores, avx2 avx512f avx512_vnni avx512_bf16"
    assert processor_name(path) == expected
    path.write_text(CPU_INFO.replace("avx", "nil"))
    monkeypatch.setattr("lora_deploy.processor_name.usable_cores", lambda: 1)
    assert processor_name(path) == "Some Processor 9000, 1 core"


def test_a_computer_that_says_nothing_has_a_name_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("platform.processor", lambda: "")
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    monkeypatch.setattr("lora_deploy.processor_name.usable_cores", lambda: 2)
    assert processor_name(tmp_path / "none") == "aarch64, 2 cores"
    odd = tmp_path / "cpuinfo"
    odd.write_bytes(b"\xff\xfe model name\n: :\nmodel name\t:\n")
    assert processor_name(odd) == "aarch64, 2 cores"
