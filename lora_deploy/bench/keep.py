"""A benchmark's result as files: JSON for programs, Markdown and a plot for people."""

import json
import logging
from collections.abc import Iterable, Iterator
from pathlib import Path

from lora_deploy import atomic
from lora_deploy.bench.result import BenchResult
from lora_deploy.extras import EXTRA_OF, import_backend, is_installed

logger = logging.getLogger(__name__)

JSON = "bench.json"
MARKDOWN = "bench.md"
PLOTS = ("bench.svg", "bench.png")


def keep(found: BenchResult, folder: Path, as_text: str) -> list[Path]:
    """Write the files; older ones of the same names are replaced.

    Args:
        found: The result.
        folder: It may exist.
        as_text: What the command printed, for the Markdown page.

    Returns:
        What was written. Without matplotlib the plot is left out, and that is said.
    """
    folder.mkdir(parents=True, exist_ok=True)
    document = json.dumps(found.as_dict(), ensure_ascii=False, indent=1) + "\n"
    atomic.write_text(folder / JSON, document)
    plotted = is_installed("matplotlib")
    atomic.write_text(folder / MARKDOWN, "\n".join(_page(found, as_text, plotted)) + "\n")
    if not plotted:
        logger.warning(
            'no plot was made: matplotlib is not installed: pip install "lora-deploy[%s]"',
            EXTRA_OF["matplotlib"],
        )
        return [folder / JSON, folder / MARKDOWN]
    plot = import_backend("lora_deploy.bench.plot", "matplotlib", purpose="to draw the plot")
    for name in PLOTS:
        with atomic.replacing(folder / name) as partial:
            plot.draw(found, partial, kind=Path(name).suffix.removeprefix("."))
    return [folder / name for name in (JSON, MARKDOWN, *PLOTS)]


def _page(found: BenchResult, as_text: str, plotted: bool) -> Iterator[str]:
    yield f"# {found.model}"
    yield ""
    yield f"Measured on {found.date} on {found.computer.processor}."
    yield ""
    if plotted:
        yield f"![clips a second by form]({PLOTS[0]})"
        yield ""
    yield from markdown_table(found)
    if found.skipped:
        yield ""
        yield from (f"- {one.name} was skipped: {one.reason}" for one in found.skipped)
    yield ""
    yield from ("```text", as_text, "```")
    versions = ", ".join(f"{package} {version}" for package, version in found.versions.items())
    yield ""
    yield f"Versions: {versions}."


def markdown_table(found: BenchResult) -> Iterable[str]:
    """A row a form: speed with its spread, start, memory."""
    yield (
        f"| form | infer, ms: p50 (p5 to p95), n | times {found.reference} (p5 to p95) | "
        "part of the matrix peak | start to first answer, s | peak memory, MB, with the decoder |"
    )
    yield "|---|---|---|---|---|---|"
    for form in found.forms:
        infer, ratio, part = form.stages_ms["infer"], form.times_reference, form.fraction_of_peak
        yield (
            f"| {form.name} | {infer.p50:.1f} ({infer.p5:.1f} to {infer.p95:.1f}), {infer.n} | "
            + (f"{ratio.p50:.2f} ({ratio.p5:.2f} to {ratio.p95:.2f})" if ratio else "not known")
            + " | "
            + (f"{part.p50:.2f}" if part else "not known")
            + f" | {form.cold_seconds['all'].p50:.2f} | "
            f"{form.peak_memory_bytes.together / 1e6:,.0f} |"
        )
