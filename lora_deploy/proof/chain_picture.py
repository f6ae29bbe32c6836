"""The parity chain as a picture: forms, and how far each agrees with the one it was compared with.

Made of lists and CSS, so that it wraps on a phone and is read aloud in order. Forms that follow one
another stand in a line; where several were compared with the same one, the line branches.
"""

from collections.abc import Mapping, Sequence

from lora_deploy.proof.certificate import Certificate, Link, Liveness
from lora_deploy.proof.markup import shown
from lora_deploy.proof.wording import count, figure, form_title, percent


def chain_picture(certificate: Certificate) -> str:
    """HTML of the picture."""
    following: dict[str, list[Link]] = {}
    for link in certificate.links:
        following.setdefault(link.forms[0], []).append(link)
    reached = {link.forms[1] for link in certificate.links}
    starts = [form for form in following if form not in reached] or list(following)[:1]
    drawn: set[str] = set()
    lines = []
    for start in starts:
        liveness = certificate.liveness if start == starts[0] else None
        lines.append(_line(_beginning(start, liveness), start, following, drawn))
    return f"<div class=chain>{''.join(lines)}</div>"


def _line(items: str, form: str, following: Mapping[str, Sequence[Link]], drawn: set[str]) -> str:
    """The line that ``items`` begin and ``form`` goes on, up to where it ends or branches."""
    drawn.add(form)
    links = following.get(form, ())
    while len(links) == 1:
        [link] = links
        items += _step(link)
        form = link.forms[1]
        links = () if form in drawn else following.get(form, ())
        drawn.add(form)
    line = f"<ol class=line>{items}</ol>"
    if not links:
        return line
    branches = "".join(_branch(link, following, drawn) for link in links)
    return (
        f"{line}<p class=soft>Compared with {shown(form_title(form))}:</p>"
        f"<ul class=branches>{branches}</ul>"
    )


def _branch(link: Link, following: Mapping[str, Sequence[Link]], drawn: set[str]) -> str:
    if link.forms[1] in drawn:
        return f"<li><ol class=line>{_step(link)}</ol>"
    return f"<li>{_line(_step(link), link.forms[1], following, drawn)}"


def _step(link: Link) -> str:
    """A form with what leads to it, which no line break parts."""
    return f"<li class=step>{_edge(link)}{_node(link.forms[1], link)}"


def _node(form: str, link: Link | None = None) -> str:
    title = form_title(form)
    notes = []
    if link is not None:
        if link.precision != "fp32" and link.precision not in title:
            notes.append(f"computes in {link.precision}")
        if link.kept:
            notes.append(f"{count(len(link.kept), 'block')} kept in a higher precision")
    small = f"<small>{', '.join(notes)}</small>" if notes else ""
    failing = link is not None and not link.passed
    return f"<span class='node{' fails' if failing else ''}'><b>{shown(title)}</b>{small}</span>"


def _edge(link: Link) -> str:
    verdict = "holds" if link.passed else "fails"
    sign = "✓" if link.passed else "✗"
    small = "same label" if link.passed else f"same label · {verdict}"
    if link.adapter_skipped:
        small = "the adapter was skipped"
    return (
        f"<span class='edge {verdict}'><span class=pill><b><span aria-hidden=true>{sign}</span> "
        f"{percent(link.agreement)}</b><small>{small}</small></span></span>"
    )


def _beginning(form: str, liveness: Liveness | None) -> str:
    """The first form, after the link that must *not* agree: else nothing would have been learned."""
    if liveness is None:
        return f"<li class=step>{_node(form)}"
    verdict, sign = ("holds", "✓") if liveness.passed else ("fails", "✗")
    by = f"by up to {figure(liveness.largest_logit_difference)}"
    differs, words = ("differs", f"{by}, as it must") if liveness.passed else ("the same", by)
    return (
        "<li class=step><span class=node><b>Adapter switched off</b>"
        "<small>its trained head kept on</small></span>"
        f"<li class=step><span class='edge {verdict}'><span class=pill><b><span aria-hidden=true>{sign}"
        f"</span> {differs}</b><small>{words}</small></span></span>"
        f"{_node(form)}"
    )
