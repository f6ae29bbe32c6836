"""Pairs of clips in different splits that show the same, as a table: where figures may be too good."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from lora_deploy.proof.markup import Row, paragraph, section, shown, stacked_table
from lora_deploy.proof.wording import count, rounded_percent

MOST_PAIRS = 50
"""In the page; all of them are in the RUN's table."""


def copies(pairs: Sequence[Mapping[str, str]], table: str) -> str:
    """HTML of the pairs; nothing where there are none.

    Args:
        pairs: As `lora_deploy.train.duplicates.read_duplicates` gives them.
        table: Name of the file that holds all of them.
    """
    if not pairs:
        return ""
    rows = [
        Row(
            [
                _clip(pair, "first"),
                f"{_clip(pair, 'other')}{' <small>mirrored</small>' if pair['mirrored'] == 'yes' else ''}",
                rounded_percent(float(pair["difference"])),
            ]
        )
        for pair in pairs[:MOST_PAIRS]
    ]
    more = len(pairs) - len(rows)
    return section(
        "copies",
        "Copies across splits",
        paragraph(
            f"{count(len(pairs), 'pair')} of clips in different splits show the same, so what was "
            "judged may have been seen in training. Put both into one split, or give them one group."
        ),
        stacked_table(("clip", "shows the same as", "looks differ by"), rows),
        paragraph(f"{count(more, 'more pair')} in {table}.", "soft") if more > 0 else "",
    )


def _clip(pair: Mapping[str, str], which: str) -> str:
    return f"{shown(Path(pair[which]).name)} <small>{shown(pair[f'{which}_split'])}</small>"
