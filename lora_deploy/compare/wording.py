"""A comparison in words and figures, alike on the terminal, in Markdown and on the page."""

from collections.abc import Iterator, Sequence

from lora_deploy.compare.result import (
    Accuracy,
    BaselineRow,
    Comparison,
    FailedRow,
    MethodRow,
    Spread,
)
from lora_deploy.compare.table import MOTION

AnyRow = MethodRow | FailedRow | BaselineRow

NOTHING = "–"
FULL = "full fine-tuning"

OWN_SETS = ("train", "val", "test")


def size(byte_count: int | None) -> str:
    """Bytes in kB, MB or GB, of which the last is a thousand million."""
    if byte_count is None:
        return NOTHING
    for unit, name in ((1e9, "GB"), (1e6, "MB")):
        if byte_count >= unit:
            return f"{byte_count / unit:.{0 if byte_count >= 100 * unit else 1}f} {name}"
    return f"{byte_count / 1e3:.0f} kB"


def measured(value: Spread, unit: str = "") -> str:
    """A mean with its spread, if there is any."""
    digits = 0 if value.mean >= 100 else 1 if value.mean >= 10 else 2
    spread = "" if value.spread is None else f" ± {value.spread:.{digits}f}"
    return f"{value.mean:.{digits}f}{spread}{f' {unit}' if unit else ''}"


def accuracy(value: Accuracy | None) -> str:
    """As a part of one, with its spread."""
    if value is None:
        return NOTHING
    spread = "" if value.spread is None else f" ± {value.spread:.3f}"
    return f"{value.mean:.3f}{spread}"


def interval(value: Accuracy | None) -> str:
    """Of 95%."""
    if value is None:
        return NOTHING
    low, high = value.interval_95
    return f"{low:.2f} to {high:.2f}"


def rates(row: MethodRow) -> str:
    """Learning rates that were used."""
    return ", ".join(f"{rate:g}" for rate in sorted(row.learning_rates))


def extra_sets(found: Comparison) -> list[str]:
    """Sets beside those of the data."""
    return [name for name in found.sets if name not in OWN_SETS]


def cost_header(found: Comparison) -> list[str]:
    """Columns of what each method costs; the guide's first."""
    memory = "GPU memory" if found.methods and found.methods[0].memory_of == "GPU" else "memory"
    return [
        "method", "trainable params", f"peak {memory}", "seconds an epoch", "seconds to best",
        "checkpoint", "adapter", "learning rate",
    ]  # fmt: skip


def cost_cells(row: MethodRow) -> list[str]:
    """Of one row, under `cost_header`."""
    return [
        row.name,
        f"{row.trainable_parameters:,} ({row.trainable_parameters / row.total_parameters:.1%})",
        size(row.peak_memory_bytes),
        measured(row.seconds_per_epoch),
        measured(row.seconds_to_best),
        size(row.checkpoint_bytes),
        size(row.adapter_bytes),
        rates(row),
    ]


def accuracy_header(found: Comparison) -> list[str]:
    """Columns of how often each row is right."""
    extra = [f"{name} accuracy" for name in extra_sets(found)]
    return ["method", "train accuracy", "val accuracy", "test accuracy", "95% interval", *extra]


def accuracy_cells(row: AnyRow, found: Comparison) -> list[str]:
    """Of one row, under `accuracy_header`."""
    by_set = {} if isinstance(row, FailedRow) else row.accuracy
    own = [accuracy(by_set.get(name)) for name in OWN_SETS]
    extra = [accuracy(by_set.get(name)) for name in extra_sets(found)]
    return [row.name, *own, interval(by_set.get("test")), *extra]


def header(found: Comparison) -> list[str]:
    """Columns of the whole table, which is the guide's and more."""
    return [*cost_header(found), *accuracy_header(found)[1:]]


def cells(row: AnyRow, found: Comparison) -> list[str]:
    """Of one row, under `header`."""
    cost = [row.name, *[NOTHING] * (len(cost_header(found)) - 1)]
    if isinstance(row, MethodRow):
        cost = cost_cells(row)
    return [*cost, *accuracy_cells(row, found)[1:]]


def rows(found: Comparison) -> list[AnyRow]:
    """All of them, in the order of the table."""
    return [*found.methods, *found.failed, *found.baselines]


def verdicts(found: Comparison) -> Iterator[str]:
    """What the figures say, and what they can't say."""
    by_name = {row.name: row for row in found.methods}
    full = by_name.get(FULL)
    for name, row in by_name.items():
        if full is not None and row is not full:
            yield f"{name} {_against(row.accuracy['test'], full.accuracy['test'])}"
    motion = next((row for row in found.baselines if row.name == MOTION), None)
    best = max(found.methods, key=lambda row: row.accuracy["test"].mean, default=None)
    if motion is not None and best is not None:
        without, with_model = motion.accuracy["test"], best.accuracy["test"]
        if _overlap(without, with_model) or without.mean > with_model.mean:
            yield (
                f"A linear layer on motion alone gets {without.mean:.3f} on the test clips, and the "
                f"best model ({best.name}) {with_model.mean:.3f}: these clips do not show that a "
                "video transformer is worth its cost"
            )


def headline(found: Comparison) -> str:
    """What a reader takes away; not more than the intervals allow."""
    if not found.methods:
        return "No training came to its end"
    tests = {row.name: row.accuracy["test"] for row in found.methods}
    best = max(tests, key=lambda name: tests[name].mean)
    others = [one for name, one in tests.items() if name != best]
    part = f"{tests[best].mean:.1%}"
    if not any(_overlap(tests[best], one) for one in others):
        return f"{best} is right on {part} of the test clips{', the others on fewer' if others else ''}"
    lowest = min(one.mean for one in others)
    span = part if f"{lowest:.1%}" == part else f"{lowest:.1%} to {part}"
    return f"No method is clearly ahead: {span} of the test clips right"


def _against(one: Accuracy, full: Accuracy) -> str:
    points = 100 * (one.mean - full.mean)
    where = f"{abs(points):.1f} points {'above' if points > 0 else 'below'}"
    where = "level with" if abs(points) < 0.05 else where
    told = (
        "the intervals overlap, so these clips do not tell which is better"
        if _overlap(one, full)
        else "the intervals do not overlap"
    )
    return f"is {where} {FULL} on the test clips ({one.mean:.3f} and {full.mean:.3f}); {told}"


def _overlap(one: Accuracy, other: Accuracy) -> bool:
    return one.interval_95[0] <= other.interval_95[1] and other.interval_95[0] <= one.interval_95[1]


def circumstances(found: Comparison) -> Iterator[str]:
    """How it was measured, a sentence each."""
    seeds = len(found.seeds)
    if len(found.folds) > 1:
        yield (
            f"{len(found.folds)} folds: each of {_listed(found.folds)} was left out in turn and "
            "tested by models that had never seen it; test accuracy is over all folds together"
        )
    yield (
        f"{seeds} {'training' if seeds == 1 else 'trainings'} of each method"
        f"{' and fold' if len(found.folds) > 1 else ''}, seed {_listed(map(str, found.seeds))}; "
        + ("± is the standard deviation" if seeds > 1 else "a single one has no spread")
        + "; the interval is Wilson's, of one model with the mean accuracy on so many clips"
    )
    sizes = ", ".join(f"{name} {count}" for name, count in found.sets.items())
    yield f"Clips: {sizes}{' (all folds added up)' if len(found.folds) > 1 else ''}"
    if any(row.tried for row in found.methods):
        yield "The learning rate was chosen on validation clips with the first seed"
    yield (
        "Validation clips chose the best epoch, so on those no figure is a test; test clips were "
        "asked once"
    )
    if found.methods:
        yield _memory(found)
    at_once = "" if found.jobs == 1 else f", {found.jobs} trainings at once, so seconds are longer"
    threads = _listed(map(str, found.threads))
    yield (
        f"Computer: {'; '.join(found.processors)}; {'; '.join(found.devices)}, threads: {threads}"
        f"{at_once}"
    )
    versions = [f"{name} {found.versions[name]}" for name in _VERSIONS if name in found.versions]
    yield f"Base {found.base}; {', '.join(versions)}; {found.date[:10]}"
    if found.command:
        yield f"Made by: {found.command}"


_VERSIONS = ("lora-deploy", "torch", "transformers", "peft")


def _memory(found: Comparison) -> str:
    if found.methods[0].memory_of == "GPU":
        return "Memory is the most that PyTorch held on the GPU (torch.cuda.max_memory_allocated)"
    before = size(max(row.memory_before_bytes for row in found.methods))
    return (
        f"Memory is the most that the process of a training held, {before} of it libraries before "
        "the training began; mapped frames are included, decoders and loaders beside it are not"
    )


def _listed(words: Sequence[str] | Iterator[str]) -> str:
    return ", ".join(words)
