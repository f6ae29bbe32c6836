"""Clips that got another label in some form, as cards with a picture: what a person judges a form by."""

import base64
import re
from collections.abc import Mapping, Sequence

from lora_deploy.proof.certificate import Certificate, Flip, Link
from lora_deploy.proof.markup import folded, paragraph, shown
from lora_deploy.proof.wording import count, form_title, percent

MOST_CARDS = 12
"""Clips beyond these are folded away."""

_Flipped = Sequence[tuple[Link, Flip]]


def flip_cards(certificate: Certificate, thumbnails: Mapping[str, bytes]) -> str:
    """HTML: a card a clip, those first whose first label was the surest.

    Args:
        certificate: Names the flips.
        thumbnails: JPEGs by clip; a clip without one gets an empty place.
    """
    by_clip: dict[str, list[tuple[Link, Flip]]] = {}
    on_cards = [one.link for one in certificate.completed if one.link is not None]
    for link in (*certificate.links, *on_cards):
        for flip in link.flips:
            by_clip.setdefault(flip.clip, []).append((link, flip))
    if not by_clip:
        return paragraph("None: no clip got another label in any form.")
    order = sorted(by_clip, key=lambda clip: (-max(f.margin for _, f in by_clip[clip]), clip))
    cards = [_card(clip, by_clip[clip], thumbnails.get(clip)) for clip in order]
    more = cards[MOST_CARDS:]
    return (
        paragraph(
            f"{count(len(by_clip), 'clip')} of {certificate.clips} got another label in at least one "
            "form. The margin says by how much the form that it was compared with preferred its own label: a small one "
            "was nearly a toss-up, a large one is a real change of mind. The largest come first; ✓ stands "
            "at the label that the data names."
        )
        + f"<ul class=cards>{''.join(cards[:MOST_CARDS])}</ul>"
        + (
            folded(
                f"{count(len(more), 'more clip')}, with smaller margins",
                f"<ul class=cards>{''.join(more)}</ul>",
            )
            if more
            else ""
        )
    )


def thumbnails_in(page_html: str, certificate: Certificate) -> dict[str, bytes]:
    """The pictures of a certificate's page that was made before, by clip: they are nowhere else."""
    found = re.findall(
        r'<img class=thumbnail [^>]*base64,([A-Za-z0-9+/=]+)"><div class=caption><b>(.*?)</b>',
        page_html,
    )
    by_name = {name: base64.b64decode(data) for data, name in found}
    return {
        clip.name: by_name[shown(clip.name)]
        for clip in certificate.proof_clips
        if shown(clip.name) in by_name
    }


def _card(clip: str, flipped: _Flipped, thumbnail: bytes | None) -> str:
    truth = flipped[0][1].truth
    return (
        f"<li class=card>{_picture(thumbnail)}<div class=caption><b>{shown(clip)}</b>"
        f"<p>in the data: {shown(truth)}"
        f"<dl>{''.join(_change(link, flip) for link, flip in flipped)}</dl></div>"
    )


def _picture(thumbnail: bytes | None) -> str:
    if thumbnail is None:
        return "<span class=thumbnail aria-hidden=true></span>"
    data = base64.b64encode(thumbnail).decode("ascii")
    return f'<img class=thumbnail alt="its middle frame" src="data:image/jpeg;base64,{data}">'


def _change(link: Link, flip: Flip) -> str:
    one, other = flip.labels
    return (
        f"<dt>{shown(form_title(link.forms[1]))}"
        f"<dd>{_label(one, flip.truth)} → {_label(other, flip.truth)} "
        f"<small>margin {percent(flip.margin)}</small>"
    )


def _label(label: str, truth: str) -> str:
    """A label, with a sign where it is the true one."""
    return (
        f"{shown(label)}<span class=good title=right> ✓</span>" if label == truth else shown(label)
    )
