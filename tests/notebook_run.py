"""Runs a notebook as a plain program: its cells one after the other in one namespace, plots drawn and counted.

    python -m tests.notebook_run NOTEBOOK NAME=VALUE…

Values go to the cell that is tagged ``parameters``. Jupyter is not needed.
"""

import json
import re
import sys
from pathlib import Path
from typing import Any


def cells(notebook: Path) -> list[dict[str, Any]]:
    """All cells, their source as one text."""
    found = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    return [{**cell, "source": "".join(cell["source"])} for cell in found]


def with_parameters(source: str, values: dict[str, str]) -> str:
    """The cell of the parameters with other values; each must be there."""
    for name, value in values.items():
        line = f"{name} = {value}".replace("\\", r"\\")
        source, times = re.subn(rf"(?m)^{name} = .*$", line, source)
        if times != 1:
            raise SystemExit(f"the notebook has no parameter {name}")
    return source


def main() -> None:
    """Run it; an exception in a cell ends the program with its traceback."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    drawn: list[int] = []

    def show() -> None:
        figures = pyplot.get_fignums()
        for number in figures:
            pyplot.figure(number).savefig(Path(f"figure-{len(drawn)}-{number}.png"))
        pyplot.close("all")
        drawn.append(len(figures))

    pyplot.show = show  # type: ignore[assignment]
    values = dict(argument.split("=", 1) for argument in sys.argv[2:])
    namespace: dict[str, Any] = {"__name__": "__main__"}
    for number, cell in enumerate(cells(Path(sys.argv[1]))):
        if cell["cell_type"] != "code":
            continue
        source = cell["source"]
        if "parameters" in cell["metadata"].get("tags", ()):
            source = with_parameters(source, values)
        exec(compile(source, f"cell {number}", "exec"), namespace)
    print("figures drawn:", drawn)


if __name__ == "__main__":
    main()
