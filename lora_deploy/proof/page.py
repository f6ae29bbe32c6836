"""The certificate as a self-contained page that a manager can read.

No script, nothing loaded from elsewhere, and any label, clip name or objection may be a stranger's words.
"""

from collections import Counter
from collections.abc import Mapping
from html import escape
from types import MappingProxyType

from lora_deploy.evaluate import wilson_interval
from lora_deploy.proof.certificate import Budget, Certificate, ClassDifference, Link, Speed
from lora_deploy.proof.chain_picture import chain_picture
from lora_deploy.proof.flip_cards import flip_cards
from lora_deploy.proof.markup import (
    Row,
    bar,
    folded,
    mark,
    paragraph,
    section,
    shown,
    stacked_table,
)
from lora_deploy.proof.page_style import STYLE
from lora_deploy.proof.wording import (
    COMPLETE,
    NOT_RUN,
    calibration_sentences,
    certainty,
    completion_sentence,
    count,
    failing_forms,
    failing_on_cards,
    figure,
    form_title,
    listed,
    lowest_true_share,
    over_budget,
    percent,
    rounded_percent,
)

POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; "
    "form-action 'none'"
)

MOST_CLASSES = 12
"""A longer table is folded, its head left out in the open."""

_NO_THUMBNAILS: Mapping[str, bytes] = MappingProxyType({})

_ICONS = {
    "proved": "<path d='M14 25l7 7 14-15'/>",
    "failed": "<path d='M16 16l16 16M32 16L16 32'/>",
    "void": "<path d='M18 19a6 6 0 1 1 9 5q-3 2-3 5M24 34.5v.5'/>",
}
"""On a disc of 48 pixels."""


def certificate_html(
    certificate: Certificate, thumbnails: Mapping[str, bytes] = _NO_THUMBNAILS
) -> str:
    """Render ``certificate.json`` as one HTML file.

    Args:
        certificate: Any, whether it passed or not.
        thumbnails: JPEGs of clips by name, put into the page; others are shown without a picture.
    """
    sections = (
        _objections(certificate),
        _chain(certificate),
        _links(certificate),
        _unrun(certificate),
        section("flips", "Clips that changed their label", flip_cards(certificate, thumbnails)),
        _classes(certificate),
        _blocks(certificate),
        _completed(certificate),
        _accuracy(certificate),
        _speeds(certificate),
        _calibration(certificate),
        _clips(certificate),
        _versions(certificate),
        _glossary(),
    )
    return (
        "<!doctype html><html lang=en><meta charset=utf-8>"
        f'<meta http-equiv=Content-Security-Policy content="{POLICY}">'
        '<meta name=viewport content="width=device-width,initial-scale=1">'
        f"<title>Certificate: {escape(certificate.verdict)}</title><link rel=icon href='data:,'>"
        f"<style>{STYLE}</style><main class={certificate.verdict}-page>{_verdict(certificate)}{''.join(sections)}</main>"
        "<footer>Made by lora-deploy from certificate.json, which has every figure. "
        "Repeat it with <code>lora-deploy verify BUNDLE --data CLIPS</code>.</footer></html>\n"
    )


def _verdict(certificate: Certificate) -> str:
    verdict = certificate.verdict
    facts = {
        "Compared on": count(certificate.clips, "real clip"),
        "Whose clips": certificate.source,
        "Forms": str(len({form for link in certificate.links for form in link.forms})),
        "Built, not run": count(len(certificate.unrun), "engine") if certificate.unrun else "",
        "Run since, on cards": _counted(certificate),
        "Labels": str(len(certificate.labels)),
        "Date": certificate.date,
        "Processor": certificate.computer,
    }
    icon = f"<circle cx=24 cy=24 r=21 />{_ICONS[verdict]}"
    return (
        f"<header><div class='verdict {verdict}'><svg viewBox='0 0 48 48' fill=none stroke=currentColor "
        f"stroke-width=4 stroke-linecap=round stroke-linejoin=round aria-hidden=true>{icon}</svg>"
        f"<h1>{shown(_headline(certificate))}</h1><div>{_meaning(certificate)}</div></div>"
        + "<dl class=facts>"
        + "".join(
            f"<div{' class=long' if len(value) > 40 else ''}><dt>{name}<dd>{shown(value)}</div>"
            for name, value in facts.items()
            if value
        )
        + "</dl></header>"
    )


def _headline(certificate: Certificate) -> str:
    if certificate.verdict == "proved":
        if failing := failing_on_cards(certificate):
            do = "does" if len(failing) == 1 else "do"
            return f"Proved when it was made. On a card {listed(failing)} {do} not answer alike."
        run = " that was run" if certificate.unrun else ""
        if not run and any(one.link is None for one in certificate.completed):
            run = " that was compared on clips"
        return f"Proved. Every form{run} answers alike."
    if certificate.verdict == "void":
        return "Void. These clips can prove nothing."
    failing = failing_forms(certificate)
    if not failing:
        alive = certificate.liveness is None or certificate.liveness.passed
        return f"Failed. {'The proof was not passed.' if alive else 'The adapter changes nothing.'}"
    if len(failing) > 3:
        return f"Failed. {len(failing)} forms do not answer as the trained model does."
    do = "does" if len(failing) == 1 else "do"
    return f"Failed. {listed(failing)} {do} not answer as the trained model does."


def _meaning(certificate: Certificate) -> str:
    if certificate.void is not None:
        return (
            f"<p>The reason: {shown(certificate.void)}."
            "<p>Forms that agree here may still differ elsewhere. Prove it again on clips that get "
            "different labels."
        )
    if not certificate.passed:
        return (
            "<p>Do not ship this model: what would be shipped is not what was trained. The reasons are "
            "below, with the clips that they show on."
        )
    changed = {flip.clip for link in certificate.links for flip in link.flips}
    flips = (
        f" {count(len(changed), 'clip')}, shown below, got another label in some form, which the "
        "budgets allow."
        if changed
        else ""
    )
    what = "was run" if certificate.unrun else "is shipped"
    if certificate.completed:
        what = "was run when the bundle was made"
    return (
        f"<p>What {what} gives the answers of the model that was trained: no form is further from it "
        f"than its budget allows.{flips}{_unrun_sentence(certificate)}"
        f"<p>{_least_agreement(certificate)}Agreement does not say how often the answers are right."
    )


def _least_agreement(certificate: Certificate) -> str:
    if not certificate.links:
        return ""
    least = min(certificate.links, key=lambda link: link.agreement)
    which = (
        "Every form names the same label as the one it was compared with, on"
        if least.agreement == 1
        else f"{shown(form_title(least.forms[1]))} agrees least: the same label on"
    )
    return f"{which} {escape(certainty(least.agreement, certificate.clips))}. "


def _objections(certificate: Certificate) -> str:
    told = [
        text
        for text in certificate.objections
        if certificate.void is None or certificate.void not in text
    ]
    if not told:
        return ""
    items = "".join(f"<li>{shown(text)}" for text in told)
    return section("objections", "Why it did not pass", f"<ul class=plain>{items}</ul>")


def _chain(certificate: Certificate) -> str:
    liveness = certificate.liveness
    words = (
        "There is no adapter: the whole model was fine-tuned."
        if liveness is None
        else f"Switching the adapter off changes logits by up to "
        f"{figure(liveness.largest_logit_difference)}; at least {figure(liveness.needed)} is needed, "
        "or it would have learned nothing."
    )
    return section(
        "chain",
        "From the trained model to what is shipped",
        paragraph(
            "Each form was opened as a user opens it, and given the same video files. The percentages "
            "say on how many clips it names the label of the form that it was compared with."
        ),
        chain_picture(certificate),
        paragraph(words, "soft"),
    )


def _links(certificate: Certificate) -> str:
    columns = (
        "form", "same label", "flips", "largest difference", "mean difference", "mean KL", "verdict",
    )  # fmt: skip
    rows = [_link_row(link, certificate.clips) for link in certificate.links]
    return section(
        "links",
        "Each form in figures",
        paragraph(
            "Differences are of a probability, from 0 to 1, over all clips and labels. Small print says "
            "what the budget asks for, and how low the share of all clips like these may be (95% interval)."
        ),
        stacked_table(columns, rows),
    )


def _unrun_sentence(certificate: Certificate) -> str:
    if not certificate.unrun:
        return ""
    engines = count(len(certificate.unrun), "engine")
    was = "was" if len(certificate.unrun) == 1 else "were"
    return f"<p><b>{engines} for NVIDIA cards {was} built, not run</b>: nothing is known of the answers."


def _unrun(certificate: Certificate) -> str:
    """What lies in the bundle and was never asked."""
    if not certificate.unrun:
        return ""
    items = "".join(
        f"<li><b>{shown(form_title(one.form))}</b>: not run. <small>{shown(one.reason)}.</small>"
        for one in certificate.unrun
    )
    return section(
        "unrun",
        "Built, not run",
        paragraph(NOT_RUN),
        f"<ul class=plain>{items}</ul>",
        f"<p>Where such a card is, <code>{escape(COMPLETE)}</code> asks them.",
    )


def _link_row(link: Link, clips: int) -> Row:
    one, other = link.forms
    budget: Budget = link.budget
    over = over_budget(link)

    def judged(field: str, value: str, *small: str) -> str:
        value = f"<span class=over>✗ {value}</span>" if field in over else value
        return value + "".join(f"<small>{line}</small>" for line in small)

    verdict = mark(link.passed)
    if link.adapter_skipped:
        verdict += "<small>answers as without its adapter</small>"
    low = rounded_percent(lowest_true_share(link.agreement, clips))
    return Row(
        [
            f"{shown(form_title(other))}<small>compared with {shown(form_title(one))}</small>",
            judged(
                "agreement",
                percent(link.agreement),
                f"needs {percent(budget.agreement)}",
                f"true share ≥ {low}",
            ),
            str(len(link.flips)),
            judged(
                "largest_difference",
                figure(link.largest_probability_difference),
                f"at most {budget.largest_difference:g}",
            ),
            figure(link.mean_probability_difference),
            judged("mean_kl", figure(link.mean_kl), f"at most {budget.mean_kl:g}"),
            verdict,
        ],
        fails=not link.passed,
    )


def _classes(certificate: Certificate) -> str:
    by_label: dict[str, list[tuple[Link, ClassDifference]]] = {}
    for link in certificate.links:
        for found in link.per_class:
            by_label.setdefault(found.label, []).append((link, found))
    if not by_label:
        return ""
    order = sorted(
        by_label,
        key=lambda label: (
            min(found.agreement for _, found in by_label[label]),
            -max(found.largest_difference for _, found in by_label[label]),
        ),
    )
    differing = [label for label in order if any(one.agreement < 1 for _, one in by_label[label])]
    open_ones = differing[:MOST_CLASSES]
    folded_ones = order[len(open_ones) :]
    words = "A class can suffer where the whole does not. " + (
        "Those that agree least come first."
        if differing
        else f"Here none does: in each of {len(order)}, every form names the same labels."
    )

    def table(labels: list[str]) -> str:
        rows = [_class_row(label, by_label[label]) for label in labels]
        columns = ("label in the data", "clips", "largest difference", "same label")
        return stacked_table(columns, rows)

    others = count(len(folded_ones), "class", "classes")
    return section(
        "classes",
        "Each class",
        paragraph(words),
        table(open_ones) if open_ones else "",
        folded(f"{others}{_also(differing, open_ones)}", table(folded_ones)) if folded_ones else "",
    )


def _also(differing: list[str], open_ones: list[str]) -> str:
    return " more" if len(open_ones) < len(differing) else " with the same label in every form"


def _class_row(label: str, found: list[tuple[Link, ClassDifference]]) -> Row:
    below = sorted(
        ((one.agreement, form_title(link.forms[1])) for link, one in found if one.agreement < 1)
    )
    lines = [f"{percent(agreement)} in {shown(title)}" for agreement, title in below]
    if len(below) < len(found):
        lines.append("100% in every other form" if below else "100% in every form")
    return Row(
        [
            shown(label),
            str(max(one.clips for _, one in found)),
            figure(max(one.largest_difference for _, one in found)),
            "<br>".join(lines),
        ]
    )


def _blocks(certificate: Certificate) -> str:
    items = []
    for link in certificate.links:
        other = shown(form_title(link.forms[1]))
        if link.departs is not None:
            items.append(
                f"{other} departs from {shown(form_title(link.forms[0]))} first in the block "
                f"<code>{shown(link.departs)}</code>: what is computed before it still agrees."
            )
        if link.kept:
            blocks = ", ".join(f"<code>{shown(block)}</code>" for block in link.kept)
            items.append(
                f"In {other}, {count(len(link.kept), 'block')} stayed in a higher precision, because "
                f"it was over budget without: {blocks}."
            )
    if not items:
        return ""
    return section(
        "blocks",
        "Inside the model",
        f"<ul class=plain>{''.join(f'<li>{item}' for item in items)}</ul>",
    )


def _counted(certificate: Certificate) -> str:
    forms = len(certificate.completed)
    return count(forms, "form") if forms else ""


def _completed(certificate: Certificate) -> str:
    """What was run on cards since the bundle was made."""
    if not certificate.completed:
        return ""
    items = (
        f"<li{'' if one.passed else ' class=fails'}>{shown(completion_sentence(one))} "
        f"<small>{shown(', '.join(f'{name} {told}' for name, told in one.versions.items()))}</small>"
        for one in certificate.completed
    )
    return section(
        "completed",
        "Run since, on cards",
        paragraph(
            "These were asked after the bundle was made, on another computer, and held against what "
            "the trained model had said. The verdict above does not speak of them."
        ),
        f"<ul class=plain>{''.join(items)}</ul>",
    )


def _accuracy(certificate: Certificate) -> str:
    rows = []
    for form, part in certificate.accuracy.items():
        right = round(part * certificate.clips)
        low, high = wilson_interval(right, certificate.clips) if certificate.clips else (0.0, 1.0)
        rows.append(
            f"<li><span>{shown(form_title(form))}</span>{bar(part)}<span><b>{percent(part)}</b> "
            f"<small>{right} of {certificate.clips}; {low:.0%} to {high:.0%}</small></span>"
        )
    return section(
        "accuracy",
        "How often they are right",
        paragraph(
            "On the same clips, with 95% intervals. Validation clips chose the best epoch of the "
            "training, so on those this is no test: expect less on new clips."
        ),
        f"<ul class=bars>{''.join(rows)}</ul>",
    )


def _speeds(certificate: Certificate) -> str:
    if not certificate.speeds:
        return ""
    largest = max(speed.ratio for speed in certificate.speeds)
    return section(
        "speeds",
        "How fast they are",
        paragraph(
            "Medians of one clip, measured in turns on the computer that exported; on another the "
            "ratios differ."
        ),
        "<ul class=bars>"
        + "".join(_speed(speed, largest) for speed in certificate.speeds)
        + "</ul>",
    )


def _speed(speed: Speed, largest: float) -> str:
    one, other = speed.forms
    slower = ", so slower" if speed.ratio < 1 else ""
    return (
        f"<li><span>{shown(form_title(one))}</span>{bar(speed.ratio / largest if largest else 0)}"
        f"<span><b>{speed.ratio:.3g} times</b> <small>as fast as {shown(form_title(other))}{slower}; "
        f"{count(speed.rounds, 'round')}</small></span>"
    )


def _calibration(certificate: Certificate) -> str:
    if certificate.calibration is None:
        return ""
    return section(
        "calibration",
        "What a score means",
        *(f"<p>{shown(text)}</p>" for text in calibration_sentences(certificate.calibration)),
    )


def _clips(certificate: Certificate) -> str:
    answered = certificate.answered
    in_data = Counter(clip.label for clip in certificate.proof_clips)
    rows = [
        Row([shown(label), str(in_data[label]), str(answered.get(label, 0))])
        for label in certificate.labels
    ]
    table = stacked_table(("label", "clips in the data", "named by the trained model"), rows)
    named = [label for label in certificate.labels if answered.get(label)]
    words = (
        f"<p>The trained model named {len(named)} of {count(len(certificate.labels), 'label')}"
        + (f", most often {_most_often(answered, certificate.clips)}" if named else "")
        + ". A model that gives nearly all clips one label would agree with anything.</p>"
    )
    names = "".join(
        f"<li>{shown(clip.name)} <small>{shown(clip.label)}, SHA-256 "
        f"{shown(clip.sha256[:12])}…</small>"
        for clip in certificate.proof_clips
    )
    which = folded("Which clips", f"<ul class='plain many'>{names}</ul>") if names else ""
    long = len(rows) > MOST_CLASSES
    return section(
        "clips",
        "The clips",
        words,
        folded(f"All {len(rows)} labels", table) if long else table,
        which,
        _ranges(certificate),
        _left_out(certificate),
    )


def _most_often(answered: Mapping[str, int], clips: int) -> str:
    label = max(answered, key=lambda name: answered[name])
    return f"{shown(label)} ({percent(answered[label] / max(clips, 1))} of the clips)"


def _ranges(certificate: Certificate) -> str:
    if not certificate.ranges_from:
        return ""
    return f"<p>int8 took its ranges from {shown(certificate.ranges_from)}.</p>"


def _left_out(certificate: Certificate) -> str:
    if not certificate.left_out:
        return paragraph("Every clip could be decoded; none was left out.")
    items = "".join(f"<li>{shown(text)}" for text in certificate.left_out)
    return (
        f"<h3>Left out</h3><p>{count(len(certificate.left_out), 'clip')} could not be decoded:</p>"
        f"<ul class=plain>{items}</ul>"
    )


def _versions(certificate: Certificate) -> str:
    if not certificate.versions:
        return ""
    rows = "".join(
        f"<tr><th scope=row>{shown(name)}<td>{shown(version)}"
        for name, version in certificate.versions.items()
    )
    return section("versions", "Made with", f"<table class=short>{rows}</table>")


def _glossary() -> str:
    words = {
        "Form": "One way to run the same model: as it was trained, with the adapter merged into its "
        "weights, as an ONNX file, or compiled in a smaller number format (fp16, bf16, int8) that is "
        "faster and less exact.",
        "Engine": "The model compiled for one kind of NVIDIA card. It runs on no other kind, and only "
        "there can its answers be compared.",
        "Flip": "A clip on which two forms name different labels.",
        "Margin": "By how much the first form found its own label more probable than the other's. A "
        "flip at a margin of 1% was nearly a toss-up.",
        "KL": "Kullback-Leibler divergence: how different two sets of probabilities are as a whole, "
        "0 where they are equal. It sees a form that drifts before labels change.",
        "Budget": "How far a form may be from the trained model and still be shipped. The fewer bits "
        "a format has, the larger its budget.",
    }
    items = "".join(f"<dt>{word}<dd>{escape(text)}" for word, text in words.items())
    return section("words", "Words", f"<dl class=words>{items}</dl>")
