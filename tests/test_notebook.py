"""The notebook runs from its first cell to its last, in the order of the guide, and carries no outputs."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.notebook_run import cells

ROOT = Path(__file__).parents[1]
NOTEBOOK = ROOT / "train" / "notebooks" / "02_model_training.ipynb"

IN_THE_GUIDES_ORDER = (
    "Load pretrained VideoMAE", "Apply LoRA adapters", "How few parameters", "Train only the LoRA",
    "Curves", "Evaluate", "Save and load", "Merge and export",
)  # fmt: skip

SMALL = {
    "CLIPS_A_GESTURE": "16",
    "CHANGES": '["training.epochs=3"]',
}
"""Enough to learn something that can be proved, and little enough to wait for."""


def test_it_holds_no_outputs() -> None:
    for cell in json.loads(NOTEBOOK.read_text())["cells"]:
        if cell["cell_type"] == "code":
            assert cell["outputs"] == []
            assert cell["execution_count"] is None


def test_it_goes_in_the_guides_order_in_small_cells() -> None:
    text = "\n".join(c["source"] for c in cells(NOTEBOOK) if c["cell_type"] == "markdown")
    places = [text.index(f". {title}") for title in IN_THE_GUIDES_ORDER]
    assert places == sorted(places)
    assert max(len(cell["source"].splitlines()) for cell in cells(NOTEBOOK)) <= 25


def test_every_cell_runs_and_plots_are_drawn(tmp_path: Path) -> None:
    values = [f"{name}={value}" for name, value in SMALL.items()]
    finished = subprocess.run(
        [sys.executable, "-m", "tests.notebook_run", str(NOTEBOOK), *values],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert finished.returncode == 0, finished.stderr[-3000:]
    said = finished.stdout
    for words in (
        "🎯 LoRA Configuration:", "Rank (r): 8", "Alpha: 16", "Trainable params: 103,558",
        "Total params:", "test accuracy", "unmerged = merged: same label on 100%",
        "figures drawn: [1, 1, 1, 1]",
    ):  # fmt: skip
        assert words in said, said[-3000:]
    work = tmp_path / "notebook-work"
    assert (work / "run" / "best_model_lora_adapter" / "adapter_model.safetensors").is_file()
    assert (work / "bundle" / "certificate.json").is_file()


def test_a_parameter_that_is_not_there_is_refused(tmp_path: Path) -> None:
    finished = subprocess.run(
        [sys.executable, "-m", "tests.notebook_run", str(NOTEBOOK), "EPOCH=1"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert finished.returncode == 1
    assert "no parameter EPOCH" in finished.stderr


def test_jupyter_runs_it_too(tmp_path: Path) -> None:
    nbformat = pytest.importorskip("nbformat", reason="Jupyter is not installed")
    nbclient = pytest.importorskip("nbclient", reason="Jupyter is not installed")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    for cell in notebook.cells:
        if "parameters" in cell.metadata.get("tags", ()):
            cell.source = "\n".join([cell.source, *(f"{n} = {v}" for n, v in SMALL.items())])
    nbclient.NotebookClient(
        notebook, timeout=600, resources={"metadata": {"path": tmp_path}}
    ).execute()
    pictures = [
        output
        for cell in notebook.cells
        for output in cell.get("outputs", ())
        if "image/png" in output.get("data", {})
    ]
    assert len(pictures) == 4
