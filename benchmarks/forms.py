"""Every form of a model of VideoMAE-B's size, beside PyTorch eager float32, in one run, turn by turn.

The weights are random: what is measured is time, not answers; those are proved by the certificate
that `merge-export` makes. Runs on any computer, and says why where a figure can't be had.

    python benchmarks/forms.py --bundle FOLDER --rounds 10 --out FOLDER
"""

import tempfile
from pathlib import Path

import click
from base_size_bundle import make

from lora_deploy import texts
from lora_deploy.bench.forms import EAGER
from lora_deploy.bench.keep import keep, markdown_table
from lora_deploy.bench.measure import bench
from lora_deploy.bench.result import BenchResult, FormResult
from lora_deploy.processor import read_processor

TIMES_EAGER, TIMES_EAGER_INT8, PART_OF_PEAK = 5.0, 8.0, 0.8
"""What is aimed at on a processor with bfloat16 and 8-bit dot products."""


def aims(found: BenchResult) -> list[str]:
    """A line for each aim: what was reached, of what was aimed at."""
    by_name = {form.name: form for form in found.forms}
    if EAGER not in by_name:
        return ["PyTorch is not installed, so there is nothing to compare with"]
    compiled = [form for form in found.forms if not form.name.startswith("torch")]
    # Of those whose budget is 99% agreement: the weights here are random and prove nothing.
    exact = [form for form in compiled if form.precision != "int8"]
    lines = []
    if exact:
        fastest = max(exact, key=_times)
        lines.append(_line(f"fastest but int8, {fastest.name}", fastest, TIMES_EAGER))
    int8 = [form for form in compiled if form.precision == "int8"]
    if int8:
        best = max(int8, key=_times)
        lines.append(_line(f"int8, {best.name}", best, TIMES_EAGER_INT8))
    bf16 = [
        form for form in compiled if form.precision in ("bf16", "int8") and form.fraction_of_peak
    ]
    if not bf16:
        return [*lines, "part of the bf16 matrix peak: no form in bf16 or int8 was measured"]
    for form in bf16:
        part = form.fraction_of_peak
        assert part is not None
        lines.append(
            f"part of the bf16 matrix peak, {form.name}: {part.p50:.2f} "
            f"({part.p5:.2f} to {part.p95:.2f}), aimed at {PART_OF_PEAK}"
        )
    return lines


def _times(form: FormResult) -> float:
    return form.times_reference.p50 if form.times_reference else 0.0


def _line(what: str, form: FormResult, aim: float) -> str:
    ratio = form.times_reference
    assert ratio is not None
    return (
        f"{what}: {ratio.p50:.2f} times {EAGER} ({ratio.p5:.2f} to {ratio.p95:.2f}, "
        f"{ratio.n} rounds), aimed at {aim:.0f}"
    )


@click.command()
@click.option(
    "--bundle", "folder", type=click.Path(path_type=Path, file_okay=False),
    help="One of VideoMAE-B's size is made by default.",
)  # fmt: skip
@click.option(
    "--data", type=click.Path(path_type=Path, exists=True), help="Clips; drawn by default."
)
@click.option("--rounds", type=click.IntRange(min=1), default=10, show_default=True)
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), help="Keep it there.")
def main(folder: Path | None, data: Path | None, rounds: int, out: Path | None) -> None:
    """Print the tables of `lora-deploy bench`, and how near the aims are."""
    processor = read_processor()
    if not (processor.has_bf16 and processor.has_int8_dots):
        lacking = "bfloat16" if not processor.has_bf16 else "8-bit dot products"
        print(f"skipped: {processor.model} has no {lacking}, and the aims are for one that has")
        return
    with tempfile.TemporaryDirectory() as scratch:
        found = bench(make(folder or Path(scratch) / "bundle"), data=data, rounds=rounds)
    print(texts.bench(found))
    print("\n".join(["", *markdown_table(found), "", *aims(found)]))
    if out is not None:
        keep(found, out, texts.bench(found))


if __name__ == "__main__":
    main()
