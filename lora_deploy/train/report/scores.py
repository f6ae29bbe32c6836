"""Whether scores mean what they say: how many were right among the clips of each score."""

from lora_deploy.evaluate import Evaluation
from lora_deploy.proof.markup import section
from lora_deploy.proof.wording import percent

FEW = 30
"""Clips below which the picture says little."""

_SIDE, _LEFT, _BOTTOM, _TOP = 240.0, 44.0, 40.0, 10.0


def scores(evaluation: Evaluation) -> str:
    """HTML: columns of accuracy by score, beside what they should be."""
    bins = evaluation.calibration_bins
    filled = [one for one in bins if one.clips]
    few = (
        f"<p class=soft>{evaluation.clips} clips are few for this picture: each column stands on a "
        "handful."
        if evaluation.clips < FEW
        else ""
    )
    words = (
        f"<p>Scores are off by <b>{percent(evaluation.calibration_error)}</b> on average (expected "
        f"calibration error over {len(bins)} bins). A column below the dashed line stands for answers "
        "that are surer than they are right. <code>merge-export</code> can fit a temperature: one "
        f"number that makes scores more or less sure and changes no answer.</p>{few}"
    )
    told = "; ".join(
        f"score {one.low:.0%} to {one.high:.0%}: {one.accuracy or 0:.0%} of {one.clips} right"
        for one in filled
    )
    width, height = _SIDE + _LEFT + 22, _SIDE + _TOP + _BOTTOM
    parts = [f"<path class=ideal d='M{_LEFT} {_TOP + _SIDE}L{_LEFT + _SIDE} {_TOP}'/>"]
    for step in range(5):
        y = _TOP + _SIDE * (1 - step / 4)
        x = _LEFT + _SIDE * step / 4
        parts.append(f"<path class=grid d='M{_LEFT} {y:g}H{_LEFT + _SIDE}'/>")
        parts.append(
            f"<text class=axis x={_LEFT - 7} y={y + 4.5:g} text-anchor=end>{step / 4:.0%}</text>"
        )
        parts.append(
            f"<text class=axis x={x:g} y={_TOP + _SIDE + 17} text-anchor=middle>{step / 4:.0%}</text>"
        )
    for number, one in enumerate(bins):
        if one.accuracy is not None:
            x, tall = _LEFT + _SIDE * number / len(bins) + 2, max(_SIDE * one.accuracy, 1.5)
            parts.append(
                f"<rect class=column x={x:g} y={_TOP + _SIDE - tall:.1f} "
                f"width={_SIDE / len(bins) - 4:g} height={tall:.1f} rx=2><title>{one.clips} clips, "
                f"{one.accuracy:.0%} right</title></rect>"
            )
    parts.append(parts.pop(0))  # above the columns
    parts.append(
        f"<text class=axis x={_LEFT + _SIDE / 2} y={height - 4} text-anchor=middle>score of the answer</text>"
    )
    return section(
        "scores",
        "What a score means",
        "<div class=side><figure class=chart><figcaption>Right, by score</figcaption>"
        f"<svg viewBox='0 0 {width:g} {height:g}' role=img aria-label=\"{told}\">{''.join(parts)}</svg>"
        f"</figure><div>{words}</div></div>",
    )
