"""The few pieces of HTML that the certificate's page is put together from; each escapes what it is given.

A ``str`` that is named or returned as HTML may be put into the page as it is. Anything else is text, and
passes `shown` or `escape` first.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape


@dataclass(frozen=True)
class Row:
    """Of a `stacked_table`."""

    cells_html: Sequence[str]
    fails: bool = False


def shown(text: str) -> str:
    """A name that a stranger may have chosen, as HTML.

    Its writing direction ends where the name ends, else a label could turn the words after it round.
    """
    return f"<bdi>{escape(text)}</bdi>"


def section(identifier: str, title: str, *parts_html: str) -> str:
    """A heading with what stands under it."""
    return f"<section id={identifier}><h2>{escape(title)}</h2>{''.join(parts_html)}</section>"


def paragraph(text: str, style: str = "") -> str:
    """Text as a paragraph."""
    return f"<p{f' class={style}' if style else ''}>{escape(text)}</p>"


def stacked_table(columns: Sequence[str], rows: Iterable[Row]) -> str:
    """A table that becomes a pile of cards where the screen is narrow; the first cell heads its row.

    The roles are said because laying a table out as cards takes them away from screen readers.
    """
    head = "".join(f"<th role=columnheader scope=col>{escape(column)}" for column in columns)
    return (
        f"<table class=stacked role=table><thead role=rowgroup><tr role=row>{head}</thead>"
        f"<tbody role=rowgroup>{''.join(_row(columns, row) for row in rows)}</tbody></table>"
    )


def _row(columns: Sequence[str], row: Row) -> str:
    first, *others = row.cells_html
    cells = "".join(
        f'<td role=cell data-label="{escape(column)}"><div>{cell}</div>'
        for column, cell in zip(columns[1:], others, strict=True)
    )
    return f"<tr role=row{' class=fails' if row.fails else ''}><th role=rowheader scope=row>{first}{cells}"


def folded(summary: str, body_html: str) -> str:
    """Something long that opens on a click."""
    return f"<details><summary>{escape(summary)}</summary>{body_html}</details>"


def bar(part: float) -> str:
    """A bar as long as a part of one; decoration beside a figure that is printed anyway."""
    width = 100 * min(max(0.0, part), 1.0)  # in this order NaN gives 0
    return f'<span class=bar aria-hidden=true><i style="width:{width:.1f}%"></i></span>'


def mark(holds: bool) -> str:
    """``holds`` or ``fails``, with a sign and a colour."""
    return "<b class=good>✓ holds</b>" if holds else "<b class=bad>✗ fails</b>"
