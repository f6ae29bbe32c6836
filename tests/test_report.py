"""The report of a training: made of real figures, safe for any label, nothing loaded from elsewhere."""

import json
import re
import shutil
from pathlib import Path

import pytest

from lora_deploy.artifact import run
from lora_deploy.clips.cache import build_cache
from lora_deploy.clips.clip import Footage
from lora_deploy.evaluate import tally
from lora_deploy.train.report import write_report


def test_the_report_shows_what_was_measured(lora_run: Path) -> None:
    page = (lora_run / "report.html").read_text()
    best = run.read_run_manifest(lora_run).best
    assert f"<b>{best.val_accuracy:.3f}</b> on {best.val_clips} clips" in page
    assert page.count("data:image/png;base64,") == 2
    assert "wave_two_hands" in page


def test_the_report_loads_nothing_and_runs_nothing(lora_run: Path) -> None:
    page = (lora_run / "report.html").read_text()
    assert "<script" not in page
    assert not re.findall(r"(?:src|href)=(?!['\"]?data:)", page)


@pytest.mark.parametrize("strange", ["<b>wave</b>", "$x_{", "a & b", "挥手"])
@pytest.mark.filterwarnings("ignore:Glyph")
def test_any_label_will_do_and_wrong_clips_are_shown(
    lora_run: Path, tmp_path: Path, test_clips: list[Path], strange: str
) -> None:
    folder = shutil.copytree(lora_run, tmp_path / "run")
    manifest = run.read_run_manifest(folder)
    cache = build_cache(
        [Footage(path) for path in test_clips[:2]], manifest.contract, tmp_path / "frames"
    )
    answers = [(str(path), "bend", strange, 0.9) for path in test_clips[:2]]
    evaluation = tally(("bend", strange), answers)
    write_report(folder, manifest, evaluation, lambda at: cache.frames(Footage(test_clips[at])))
    page = (folder / "report.html").read_text()
    assert "2 wrong answers" in page
    assert page.count("data:image/jpeg;base64,") == 2
    assert "<b>wave" not in page


def test_metrics_are_plain_json_lines(lora_run: Path) -> None:
    for line in (lora_run / "metrics.jsonl").read_text().splitlines():
        assert isinstance(json.loads(line), dict)
