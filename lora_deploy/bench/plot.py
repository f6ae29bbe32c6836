"""A picture of a benchmark: how many clips a second each form does, and the memory that it takes."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lora_deploy.bench.result import BenchResult, FormResult

_INK, _QUIET, _PAPER = "#1c1c1e", "#55585c", "#ffffff"
_SPEED, _REFERENCE, _MEMORY = "#6fbf9f", "#e0b15e", "#9db4dc"
"""Light enough for a dark line on them."""
_WIDTH_INCHES, _DOTS_PER_INCH = 7.2, 150
"""1080 pixels: a third of it is a telephone, where 15 points become 10 pixels."""
_ROW_INCHES = 0.78


def draw(found: BenchResult, path: Path, *, kind: str) -> None:
    """Draw into a file.

    Args:
        found: The result.
        path: Of the file.
        kind: ``svg`` or ``png``.
    """
    forms = sorted(found.forms, key=lambda form: form.stages_ms["all"].p50)
    figure = Figure(
        figsize=(_WIDTH_INCHES, 1.9 + _ROW_INCHES * len(forms)), facecolor=_PAPER, layout=None
    )
    height = figure.get_figheight()
    bottom, top = 0.42 / height, 1 - 1.42 / height
    speed = figure.add_axes((0.035, bottom, 0.60, top - bottom))
    memory = figure.add_axes((0.70, bottom, 0.265, top - bottom))
    _title(figure, found, height)
    for axes in (speed, memory):
        _bare(axes, len(forms))
    _speed_bars(speed, forms, found.reference)
    _memory_bars(memory, forms)
    figure.savefig(path, format=kind, dpi=_DOTS_PER_INCH, metadata=_WITHOUT_DATE.get(kind))


_WITHOUT_DATE = {"svg": {"Date": ""}}


def _title(figure: Figure, found: BenchResult, height: float) -> None:
    figure.text(0.035, 1 - 0.40 / height, "Clips a second", size=21, weight="bold", color=_INK)
    figure.text(0.70, 1 - 0.40 / height, "Memory", size=21, weight="bold", color=_INK)
    threads = found.computer.threads
    figure.text(
        0.035,
        1 - 0.74 / height,
        f"{found.frames} frames of {found.width}×{found.height}, "
        f"{threads} {'core' if threads == 1 else 'cores'}; line: p5 to p95",
        size=13.5,
        color=_QUIET,
    )
    figure.text(
        0.035,
        1 - 1.04 / height,
        f"×: the model alone, times as fast as {found.reference}",
        size=13.5,
        color=_QUIET,
    )


def _bare(axes: Axes, rows: int) -> None:
    """No frame and no ticks: every bar says its number."""
    axes.set_ylim(rows - 0.45, -0.62)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_facecolor(_PAPER)
    for side in ("top", "right", "bottom"):
        axes.spines[side].set_visible(False)
    axes.spines["left"].set_color("#b0b4ba")


def _speed_bars(axes: Axes, forms: Sequence[FormResult], reference: str | None) -> None:
    most = max(1000 / form.stages_ms["all"].p5 for form in forms)
    axes.set_xlim(0, most * 1.5)  # room for the numbers behind the longest bar
    for row, form in enumerate(forms):
        whole = form.stages_ms["all"]
        usual, slow, fast = 1000 / whole.p50, 1000 / whole.p95, 1000 / whole.p5
        is_reference = form.name == reference
        colour = _REFERENCE if is_reference else _SPEED
        axes.barh(row + 0.1, usual, height=0.42, color=colour)
        axes.plot([slow, fast], [row + 0.1] * 2, color=_INK, linewidth=2.2, solid_capstyle="butt")
        for end in (slow, fast):
            axes.plot([end] * 2, [row - 0.02, row + 0.22], color=_INK, linewidth=2.2)
        axes.text(most * 0.012, row - 0.16, form.name, size=15, color=_INK, va="bottom")
        axes.text(
            max(usual, fast) + most * 0.03,
            row + 0.1,
            _numbers(form, usual, is_reference),
            size=15,
            color=_INK,
            va="center",
        )


def _numbers(form: FormResult, clips_per_second: float, is_reference: bool) -> str:
    number = f"{clips_per_second:.{0 if clips_per_second >= 100 else 1 if clips_per_second >= 10 else 2}f}"
    if is_reference or form.times_reference is None:
        return number
    return f"{number} · {form.times_reference.p50:.1f}×"


def _memory_bars(axes: Axes, forms: Sequence[FormResult]) -> None:
    most = max(form.peak_memory_bytes.together for form in forms)
    axes.set_xlim(0, most * 1.06)
    for row, form in enumerate(forms):
        held = form.peak_memory_bytes.together
        axes.barh(row + 0.1, held, height=0.42, color=_MEMORY)
        text = f"{held / 1e9:.2f} GB" if held >= 1e9 else f"{held / 1e6:.0f} MB"
        axes.text(most * 0.02, row - 0.16, text, size=15, color=_INK, va="bottom")
