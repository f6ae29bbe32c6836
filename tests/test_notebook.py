"""The notebook runs from its first cell to its last, in the order of the guide, and carries no outputs."""

import re
from pathlib import Path
from typing import Any

import nbclient
import nbformat

NOTEBOOK = Path(__file__).parents[1] / "train" / "notebooks" / "02_model_training.ipynb"

IN_THE_GUIDES_ORDER = (
    "Load pretrained VideoMAE", "Apply LoRA adapters", "How few parameters", "Train only the LoRA",
    "Curves", "Evaluate", "Save and load", "Merge and export",
)  # fmt: skip

SMALL = {"CLIPS_A_GESTURE": "16", "CHANGES": '["training.epochs=3"]'}
"""Parameters of the notebook: enough to learn something that can be proved, and little enough to wait for."""


def opened() -> Any:
    return nbformat.read(NOTEBOOK, as_version=4)


def test_it_holds_no_outputs() -> None:
    for cell in opened().cells:
        if cell.cell_type == "code":
            assert cell.outputs == []
            assert cell.execution_count is None


def test_it_goes_in_the_guides_order_in_small_cells() -> None:
    cells = opened().cells
    text = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    places = [text.index(f". {title}") for title in IN_THE_GUIDES_ORDER]
    assert places == sorted(places)
    assert max(len(cell.source.splitlines()) for cell in cells) <= 25


def test_every_cell_runs_and_plots_are_drawn(tmp_path: Path) -> None:
    notebook = opened()
    nbformat.validate(notebook)
    [parameters] = [
        cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", ())
    ]
    for name, value in SMALL.items():
        line = f"{name} = {value}".replace("\\", r"\\")
        parameters.source, times = re.subn(rf"(?m)^{name} = .*$", line, parameters.source)
        assert times == 1
    nbclient.NotebookClient(
        notebook, timeout=600, resources={"metadata": {"path": tmp_path}}
    ).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    said = "".join(
        output.get("text", "") + output.get("data", {}).get("text/plain", "") for output in outputs
    )
    for words in (
        "🎯 LoRA Configuration:", "Rank (r): 8", "Alpha: 16", "Trainable params: 103,558",
        "Total params:", "test accuracy", "unmerged = merged: same label on 100%",
    ):  # fmt: skip
        assert words in said, said[-3000:]
    assert len([output for output in outputs if "image/png" in output.get("data", {})]) == 4
    work = tmp_path / "notebook-work"
    assert (work / "run" / "best_model_lora_adapter" / "adapter_model.safetensors").is_file()
    assert (work / "bundle" / "certificate.json").is_file()
