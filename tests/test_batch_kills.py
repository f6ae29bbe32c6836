"""A batch that is killed again and again comes to the bytes of one that was left in peace."""

import re
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "batch_kills.py"


def test_killed_runs_end_with_the_rows_of_a_run_in_peace(
    bundle: Path, media: Path, tmp_path: Path
) -> None:
    command: list[str | Path] = [
        sys.executable, SCRIPT, "--model", bundle, "--media", media, "--clips", "60", "--kills", "5",
        "--work", tmp_path,
    ]  # fmt: skip
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    assert re.search(r"^60 rows: .*\bok\b", result.stdout, re.MULTILINE)
    for kind in ("unreadable", "forbidden"):
        assert kind in result.stdout
    assert len(re.findall(r"^kill ", result.stdout, re.MULTILINE)) == 5
    assert "3 of 3 outputs are byte for byte those in peace" in result.stdout
