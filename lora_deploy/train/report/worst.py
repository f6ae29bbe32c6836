"""The wrong answers as cards with a picture, the surest first: what a person learns most from."""

import base64
from collections.abc import Callable
from pathlib import Path

from lora_deploy.clips.clip import Frames
from lora_deploy.evaluate import Evaluation
from lora_deploy.proof.markup import bar, folded, paragraph, section, shown
from lora_deploy.proof.thumbnails import thumbnail
from lora_deploy.proof.wording import count, percent

SHOWN = 12
"""Cards in the open."""

MOST_FOLDED = 36
"""More beside these are only counted: a page should stay below a megabyte."""


def worst(evaluation: Evaluation, frames_of: Callable[[int], Frames]) -> str:
    """HTML of the clips that got a wrong label.

    Args:
        evaluation: Names them.
        frames_of: Frames of the clip with that number among ``evaluation.answers``.
    """
    wrong = [at for at, (_, truth, answer, _) in enumerate(evaluation.answers) if truth != answer]
    wrong.sort(key=lambda at: (-evaluation.answers[at][3], at))
    if not wrong:
        return section(
            "worst", "Wrong answers", paragraph("None: every validation clip got its true label.")
        )
    cards = [_card(evaluation, at, frames_of(at)) for at in wrong[: SHOWN + MOST_FOLDED]]
    more = cards[SHOWN:]
    return section(
        "worst",
        "Wrong answers",
        paragraph(
            f"{count(len(wrong), 'clip')} of {evaluation.clips} got a wrong label; those that the "
            "model was surest of come first. Look at them: a wrong label in the data, or two actions "
            "in one clip, is mended there and not by training longer."
        ),
        f"<ul class=cards>{''.join(cards[:SHOWN])}</ul>",
        folded(f"{count(len(more), 'more clip')}", f"<ul class=cards>{''.join(more)}</ul>")
        if more
        else "",
        paragraph(f"{len(wrong) - len(cards)} more are not shown.", "soft")
        if len(wrong) > len(cards)
        else "",
    )


def _card(evaluation: Evaluation, at: int, frames: Frames) -> str:
    path, truth, answer, score = evaluation.answers[at]
    data = base64.b64encode(thumbnail(frames)).decode("ascii")
    rank = (
        f"<dd><small>the true one came {_ordinal(evaluation.ranks[at])}</small>"
        if evaluation.ranks
        else ""
    )
    return (
        f'<li class=card><img class=thumbnail alt="its middle frame" src="data:image/jpeg;base64,{data}">'
        f"<div class=caption><b>{shown(Path(path).name)}</b><dl>"
        f"<dt>in the data<dd>{shown(truth)}<dt>answered<dd>{shown(answer)} "
        f"<small>{percent(score)}</small>{bar(score)}{rank}</dl></div>"
    )


def _ordinal(rank: int) -> str:
    ending = (
        {1: "st", 2: "nd", 3: "rd"}.get(rank % 10, "th") if rank % 100 not in (11, 12, 13) else "th"
    )
    return f"{rank}{ending}"
