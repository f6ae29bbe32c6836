"""Curves of a training as pictures of lines and words, in the page's own colours."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise
from pathlib import Path
from typing import Any

from lora_deploy.proof.markup import folded
from lora_deploy.proof.wording import figure, percent

MOST_POINTS = 200
"""Of one line; more are averaged."""

_WIDTH, _HEIGHT = 440.0, 250.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 48.0, 12.0, 22.0, 40.0

Point = tuple[float, float]


@dataclass(frozen=True)
class Line:
    """One curve."""

    name: str
    points: Sequence[Point]
    """Epoch and value, by epoch."""


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of ``metrics.jsonl``; one that was cut off is passed over."""
    found = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            values = json.loads(line)
        except ValueError:
            continue
        if isinstance(values, dict) and isinstance(values.get("epoch"), int | float):
            found.append(values)
    return found


def curves(metrics: Sequence[dict[str, Any]], best_epoch: int) -> str:
    """HTML: loss, accuracy and learning rate over the epochs, and the figures of each epoch."""
    losses = [
        Line("training", _points(metrics, "loss")),
        Line("validation", _points(metrics, "eval_loss")),
    ]
    accuracies = [Line("validation", _points(metrics, "eval_accuracy"))]
    charts = [
        _chart("Loss", losses, best_epoch),
        _chart("Accuracy", accuracies, best_epoch, highest=1.0, as_percent=True),
    ]
    return f"<div class=charts>{''.join(charts)}</div>{_epochs(metrics, best_epoch)}"


def _points(metrics: Sequence[dict[str, Any]], key: str) -> list[Point]:
    found = [
        (float(line["epoch"]), float(line[key]))
        for line in metrics
        if isinstance(line.get(key), int | float) and math.isfinite(line[key])
    ]
    return _thinned(sorted(found))


def _thinned(points: list[Point]) -> list[Point]:
    """At most `MOST_POINTS`, each the mean of its neighbours."""
    size = math.ceil(len(points) / MOST_POINTS)
    if size <= 1:
        return points
    parts = [points[at : at + size] for at in range(0, len(points), size)]
    return [
        (sum(x for x, _ in part) / len(part), sum(y for _, y in part) / len(part)) for part in parts
    ]


def _chart(
    title: str,
    lines: Sequence[Line],
    best_epoch: int,
    *,
    highest: float | None = None,
    as_percent: bool = False,
) -> str:
    drawn = [line for line in lines if line.points]
    points = [point for line in drawn for point in line.points]
    if not points:
        return ""
    last = max(best_epoch, *(x for x, _ in points), 1.0)
    top = highest or _above(max(y for _, y in points))

    def place(point: Point) -> Point:
        x = _LEFT + point[0] / last * (_WIDTH - _LEFT - _RIGHT)
        y = _HEIGHT - _BOTTOM - min(point[1] / top, 1.0) * (_HEIGHT - _TOP - _BOTTOM)
        return round(x, 1), round(y, 1)

    def word(value: float) -> str:
        return f"{value:.0%}" if as_percent else f"{value:.3g}"

    parts = []
    for step in range(5):
        value = top * step / 4
        x, y = place((0.0, value))
        parts.append(f"<path class=grid d='M{x} {y}H{_WIDTH - _RIGHT}'/>")
        parts.append(f"<text class=axis x={x - 7} y={y + 4.5} text-anchor=end>{word(value)}</text>")
    for epoch in _ticks(last):
        x, y = place((epoch, 0.0))
        parts.append(f"<text class=axis x={x} y={y + 19} text-anchor=middle>{epoch}</text>")
    middle = _LEFT + (_WIDTH - _LEFT - _RIGHT) / 2
    parts.append(f"<text class=axis x={middle} y={_HEIGHT - 4} text-anchor=middle>epoch</text>")
    x, y = place((float(best_epoch), 0.0))
    anchor = "end" if x > _WIDTH - 70 else "start" if x < _LEFT + 40 else "middle"
    parts.append(f"<path class=best d='M{x} {y}V{_TOP - 4}'/>")
    parts.append(f"<text class=best-word x={x} y={_TOP - 8} text-anchor={anchor}>kept epoch</text>")
    parts += [_drawn(line, place, number) for number, line in enumerate(drawn)]
    told = "; ".join(
        f"{line.name} from {word(line.points[0][1])} to {word(line.points[-1][1])}"
        for line in drawn
    )
    return (
        f"<figure class=chart><figcaption>{escape(title)}"
        + "".join(_key(line, number) for number, line in enumerate(drawn))
        + f"</figcaption><svg viewBox='0 0 {_WIDTH:g} {_HEIGHT:g}' role=img "
        f'aria-label="{escape(f"{title} over the epochs: {told}")}">{"".join(parts)}</svg></figure>'
    )


def _drawn(line: Line, place: Any, number: int) -> str:
    style, dot = (("first", "dot"), ("second", "second-dot"))[number]
    places = [place(point) for point in line.points]
    path = "L".join(f"{x} {y}" for x, y in places)
    dots = places if len(places) <= 40 else places[-1:]
    return f"<path class={style} d='M{path}'/>" + "".join(
        f"<circle class={dot} cx={x} cy={y} r=2.8 />" for x, y in dots
    )


def _key(line: Line, number: int) -> str:
    style = ("first", "second")[number]
    return (
        f"<span class=key><svg viewBox='0 0 26 10' aria-hidden=true><path class={style} d='M1 5H25'/>"
        f"</svg>{escape(line.name)}</span>"
    )


def _above(value: float) -> float:
    """A round number that is not below a value."""
    if value <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    return next(
        power * step for step in (1, 1.2, 1.6, 2, 2.4, 3.2, 4, 5, 6, 8, 10) if power * step >= value
    )


def _ticks(last: float) -> list[int]:
    """Whole epochs, at most nine of them."""
    step = next(step for step in (1, 2, 5, 10, 20, 50, 100, 200, 500, 10**6) if last / step <= 8)
    return list(range(0, math.floor(last) + 1, step))


def _epochs(metrics: Sequence[dict[str, Any]], best_epoch: int) -> str:
    """The figures behind the lines, for who would rather read, or can't see."""
    judged = [line for line in metrics if "eval_accuracy" in line]
    training = [line for line in metrics if "loss" in line]
    if not judged:
        return ""
    rows = []
    before = [-math.inf, *(float(line["epoch"]) for line in judged)]
    for (since, until), line in zip(pairwise(before), judged, strict=True):
        losses = [float(one["loss"]) for one in training if since < one["epoch"] <= until]
        epoch = round(float(line["epoch"]))
        kept = " <b class=good>✓ kept</b>" if epoch == best_epoch else ""
        cells = (
            figure(sum(losses) / len(losses)) if losses else "–",
            figure(float(line.get("eval_loss", math.nan))),
            percent(float(line["eval_accuracy"])),
        )
        rows.append(f"<tr><th scope=row>{epoch}{kept}{''.join(f'<td>{cell}' for cell in cells)}")
    head = "".join(
        f"<th scope=col>{name}"
        for name in ("epoch", "training loss", "validation loss", "accuracy")
    )
    table = f"<table class=epochs><thead><tr>{head}<tbody>{''.join(rows)}</table>"
    return folded(f"The figures of {len(rows)} epochs", table)
