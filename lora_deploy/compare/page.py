"""A comparison as a self-contained page: how often each method is right, what it costs, how it learned.

No script, nothing loaded from elsewhere; names of recipes and sets may be a stranger's words.
"""

from collections.abc import Callable, Sequence
from html import escape

from lora_deploy.compare import wording
from lora_deploy.compare.page_style import MOST_COLOURS, STYLE
from lora_deploy.compare.result import Accuracy, BaselineRow, Comparison, MethodRow
from lora_deploy.proof import page_style
from lora_deploy.proof.markup import Row, bar, paragraph, section, shown, stacked_table
from lora_deploy.proof.page import POLICY


def comparison_html(found: Comparison) -> str:
    """Render ``comparison.json`` as one HTML file."""
    sections = (
        _failures(found),
        _accuracies(found),
        _costs(found),
        _curves(found),
        _table(found),
        _circumstances(found),
    )
    return (
        "<!doctype html><html lang=en><meta charset=utf-8>"
        f'<meta http-equiv=Content-Security-Policy content="{POLICY}">'
        '<meta name=viewport content="width=device-width,initial-scale=1">'
        f"<title>Comparison: {escape(found.data)}</title><link rel=icon href='data:,'>"
        f"<style>{page_style.STYLE}{STYLE}</style><main>{_head(found)}{''.join(sections)}</main>"
        "<footer>Made by lora-deploy from comparison.json, which has every figure.</footer></html>\n"
    )


def _head(found: Comparison) -> str:
    seeds = len(found.seeds)
    facts = {
        "Clips": found.data,
        "Labels": str(len(found.labels)),
        "Test clips": str(found.sets["test"]),
        "Seeds": str(seeds),
        "Folds": str(len(found.folds)) if len(found.folds) > 1 else "",
        "Base": found.base,
        "Date": found.date[:10],
        "Computer": "; ".join(found.processors if found.devices == ("CPU",) else found.devices),
    }
    items = "".join(
        f"<div{' class=long' if len(value) > 40 else ''}><dt>{name}<dd>{shown(value)}</div>"
        for name, value in facts.items()
        if value
    )
    verdicts = "".join(f"<li>{_sentence(text)}" for text in wording.verdicts(found))
    return (
        f"<header><h1>{shown(wording.headline(found))}</h1>"
        f"<ul class='plain lead'>{verdicts}</ul><dl class=facts>{items}</dl></header>"
    )


def _sentence(text: str) -> str:
    return shown(text + ".")


def _failures(found: Comparison) -> str:
    if not found.failures:
        return ""
    items = "".join(f"<li>{shown(text)}" for text in found.failures)
    words = "The same command tries them again, and repeats nothing that is finished."
    return section(
        "failures", "Trainings that failed", paragraph(words), f"<ul class=plain>{items}</ul>"
    )


def _accuracies(found: Comparison) -> str:
    pictures = []
    for name in ["test", *wording.extra_sets(found)]:
        models: list[MethodRow | BaselineRow] = [*found.methods, *found.baselines]
        rows = [row for row in models if name in row.accuracy]
        title = "" if name == "test" else f"<h3>{shown(name)}</h3>"
        lines = "".join(_dots(row, row.accuracy[name]) for row in rows)
        pictures.append(f"{title}<ul class=dots>{lines}{_scale()}</ul>")
    return section(
        "accuracy",
        "How often each is right on the test clips",
        paragraph(
            "A dot is one training. The wide bar is the 95% interval: where the accuracy on all "
            "clips like these may lie. Where bars overlap, these clips do not tell which is better."
        ),
        *pictures,
    )


def _dots(row: MethodRow | BaselineRow, found: Accuracy) -> str:
    low, high = (100 * value for value in found.interval_95)
    marks = "".join(f'<b style="left:{100 * value:.2f}%"></b>' for value in found.by_seed)
    kind = " class=without" if isinstance(row, BaselineRow) else ""
    return (
        f"<li{kind}><span>{shown(row.name)}</span><span class=track aria-hidden=true>"
        f'<i style="left:{low:.2f}%;width:{high - low:.2f}%"></i>{marks}</span>'
        f"<span><b>{wording.accuracy(found)}</b> <small>{wording.interval(found)}</small></span>"
    )


def _scale() -> str:
    ticks = "".join(f'<em style="left:{part}%">{part}%</em>' for part in (0, 50, 100))
    return f"<li class=scale aria-hidden=true><span></span><span class=track>{ticks}</span><span></span>"


def _costs(found: Comparison) -> str:
    if not found.methods:
        return ""
    memory = "on the GPU" if found.methods[0].memory_of == "GPU" else "of the process"
    cards = (
        _cost("Parameters that learn", found.methods, lambda row: row.trainable_parameters,
              lambda row: f"{row.trainable_parameters:,}"),
        _cost(f"Peak memory {memory}", found.methods, lambda row: row.peak_memory_bytes or 0,
              lambda row: wording.size(row.peak_memory_bytes)),
        _cost("Seconds an epoch", found.methods, lambda row: row.seconds_per_epoch.mean,
              lambda row: wording.measured(row.seconds_per_epoch)),
        _cost("Seconds to the best epoch", found.methods, lambda row: row.seconds_to_best.mean,
              lambda row: wording.measured(row.seconds_to_best)),
        _cost("What is stored of it", found.methods, _stored_bytes,
              lambda row: wording.size(_stored_bytes(row))),
    )  # fmt: skip
    return section(
        "costs",
        "What each costs",
        paragraph(
            "Each bar starts at zero. Stored: the adapter where there is one, else the whole checkpoint."
        ),
        f"<div class=costs>{''.join(cards)}</div>",
    )


def _stored_bytes(row: MethodRow) -> int:
    return row.adapter_bytes or row.checkpoint_bytes


def _cost(
    title: str,
    rows: Sequence[MethodRow],
    value: Callable[[MethodRow], float],
    told: Callable[[MethodRow], str],
) -> str:
    most = max(value(row) for row in rows) or 1
    items = "".join(
        f"<li><span>{shown(row.name)}</span><b>{told(row)}</b>{bar(value(row) / most)}"
        for row in rows
    )
    return f"<div class=cost><h3>{escape(title)}</h3><ul>{items}</ul></div>"


def _curves(found: Comparison) -> str:
    if not found.methods:
        return ""
    last = max(epoch for row in found.methods for curve in row.curves for epoch, _ in curve)
    last = max(last, 2)
    lines = "".join(
        _line(curve, last, number % MOST_COLOURS)
        for number, row in enumerate(found.methods)
        for curve in row.curves
    )
    grid = "".join(f"<path class=grid d='M0 {y}H100'/>" for y in (0, 25, 50, 75, 100))
    names = "".join(
        f"<li class=c{number % MOST_COLOURS}>{shown(row.name)}"
        for number, row in enumerate(found.methods)
    )
    return section(
        "curves",
        "Validation accuracy, epoch by epoch",
        f"<ul class=names>{names}</ul><div class=plot><div class=heights aria-hidden=true>"
        "<span>100%</span><span>50%</span><span>0%</span></div>"
        "<svg viewBox='-1 -2 102 104' preserveAspectRatio=none role=img "
        f"aria-label='Validation accuracy by epoch'>{grid}{lines}</svg>"
        f"<div class=epochs aria-hidden=true><span>epoch 1</span><span>{last}</span></div></div>",
        paragraph("A line is one training.", "soft"),
    )


def _line(curve: Sequence[tuple[int, float]], last: int, colour: int) -> str:
    points = " ".join(
        f"{100 * (epoch - 1) / (last - 1):.2f},{100 * (1 - value):.2f}" for epoch, value in curve
    )
    return f"<polyline class=c{colour} points='{points}'/>"


def _table(found: Comparison) -> str:
    rates = [
        Row([shown(cell) for cell in wording.accuracy_cells(row, found)])
        for row in wording.rows(found)
    ]
    costs = [Row([shown(cell) for cell in wording.cost_cells(row)]) for row in found.methods]
    return section(
        "table",
        "All figures",
        stacked_table(wording.accuracy_header(found), rates),
        stacked_table(wording.cost_header(found), costs) if costs else "",
    )


def _circumstances(found: Comparison) -> str:
    told = [*found.notes, *wording.circumstances(found)]
    meanings = [f"{row.name}: {row.means}" for row in found.baselines]
    items = "".join(f"<li>{_sentence(text)}" for text in (*told, *meanings))
    return section("how", "How it was measured", f"<ul class=plain>{items}</ul>")
