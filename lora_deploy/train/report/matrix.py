"""Which labels were taken for which: a matrix of cells, and the pairs in words."""

from html import escape

from lora_deploy.evaluate import Evaluation
from lora_deploy.proof.markup import paragraph, section, shown
from lora_deploy.proof.wording import count

MOST_NAMED = 30
"""Labels that still have names and figures in the matrix; more are a picture."""

SIZES = ((16, " tight dense"), (12, " tight"), (8, " dense"))
"""With more labels than this, cells are smaller: dense ones on a phone only."""

MOST_PAIRS = 10


def confusion(evaluation: Evaluation) -> str:
    """HTML: the matrix, and the pairs that are confused most."""
    named = len(evaluation.labels) <= MOST_NAMED
    words = (
        "A row is a label of the data, a column what was answered; the columns stand in the order of "
        "the rows. Blue is right, red is wrong; the colour grows with the part of the row."
    )
    return section(
        "confusion",
        "What was taken for what",
        paragraph(words),
        _table(evaluation) if named else _picture(evaluation),
        _pairs(evaluation),
    )


def _table(evaluation: Evaluation) -> str:
    labels = range(1, len(evaluation.labels) + 1)
    size = next((style for most, style in SIZES if len(labels) > most), "")
    columns = "".join("<col class=cell />" for _ in labels)
    head = "".join(
        f'<th scope=col title="{_plain(evaluation.labels[at - 1])}">{at}' for at in labels
    )
    rows = []
    for row, (label, values) in enumerate(
        zip(evaluation.labels, evaluation.confusion, strict=True)
    ):
        of = max(sum(values), 1)
        cells = "".join(
            _cell(value, value / of, row == column) for column, value in enumerate(values)
        )
        rows.append(f"<tr><th scope=row><div><b>{row + 1}</b>{shown(label)}</div>{cells}")
    return (
        f"<table class='matrix{size}'><colgroup><col class=name />{columns}</colgroup>"
        f"<thead><tr><th>{head}<tbody>{''.join(rows)}</table>"
    )


def _cell(value: int, part: float, right: bool) -> str:
    if not value:
        return "<td class=z>" if right else "<td>"
    kind = "r" if right else "w"
    tiers = "".join(f" t{tier}" for tier in (60, 75, 88) if part >= tier / 100)
    return f'<td class="{kind}{tiers}" style="--p:{part:.2f}">{value}'


def _picture(evaluation: Evaluation) -> str:
    size = len(evaluation.labels)
    cells = []
    for row, values in enumerate(evaluation.confusion):
        for column, value in enumerate(values):
            if value:
                kind = "r" if row == column else "w"
                strength = 0.25 + 0.75 * value / sum(values)
                cells.append(
                    f"<rect class={kind} x={column} y={row} width=1 height=1 "
                    f"opacity={strength:.2f} />"
                )
    told = f"Confusion of {size} labels; the pairs are listed below"
    return (
        f'<svg class=big viewBox="0 0 {size} {size}" role=img aria-label="{told}">'
        f"{''.join(cells)}</svg>"
    )


def _pairs(evaluation: Evaluation) -> str:
    pairs = evaluation.confusions
    if not pairs:
        return paragraph("No label was taken for another.")
    items = "".join(
        f"<li><span>{shown(truth)} → {shown(answer)}</span><small>{clips} of {of}</small>"
        for truth, answer, clips, of in pairs[:MOST_PAIRS]
    )
    more = len(pairs) - MOST_PAIRS
    rest = paragraph(f"and {count(more, 'rarer pair')}.", "soft") if more > 0 else ""
    return f"<h3>Most confused</h3><ul class=pairs>{items}</ul>{rest}"


def _plain(text: str) -> str:
    """A name inside of an attribute, where no element can fence its writing direction in."""
    return escape("".join(sign for sign in text if sign.isprintable()))
