"""Tests that need a GPU skip without one, and fail where one was promised."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(("required", "says"), [("0", "skipped"), ("1", "failed")])
def test_without_a_gpu(required: str, says: str) -> None:
    environment = {**os.environ, "REQUIRE_GPU": required, "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/test_gpu.py"]
    ended = subprocess.run(
        [*command, "-k", "there_is_a_cuda_device"],
        cwd=ROOT, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert f"1 {says}" in ended.stdout
    assert ended.returncode == int(required)
