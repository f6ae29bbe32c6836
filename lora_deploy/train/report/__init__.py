"""``report.html`` of a RUN: curves, each class, confusion, scores, the worst clips; nothing is loaded or run."""

from collections.abc import Callable
from pathlib import Path

from lora_deploy import atomic
from lora_deploy.artifact import run
from lora_deploy.artifact.run import RunManifest
from lora_deploy.clips.clip import Frames
from lora_deploy.evaluate import Evaluation
from lora_deploy.proof.markup import (
    Row,
    bar,
    folded,
    paragraph,
    section,
    shown,
    stacked_table,
)
from lora_deploy.proof.page import POLICY
from lora_deploy.proof.page_style import STYLE
from lora_deploy.proof.wording import count, percent, rounded_percent
from lora_deploy.train.duplicates import read_duplicates
from lora_deploy.train.report.copies import copies
from lora_deploy.train.report.curves import curves, read_metrics
from lora_deploy.train.report.matrix import confusion
from lora_deploy.train.report.scores import scores
from lora_deploy.train.report.style import REPORT_STYLE
from lora_deploy.train.report.worst import worst

MOST_CLASSES = 12
"""Classes in the open, those that do worst; the others are folded."""


def write_report(
    folder: Path,
    manifest: RunManifest,
    evaluation: Evaluation,
    frames_of: Callable[[int], Frames],
) -> None:
    """Write the page.

    Args:
        folder: The RUN; its metrics, its settings and its table of copies are read.
        manifest: Of the RUN.
        evaluation: Of the best model on the validation clips.
        frames_of: Frames of the clip with that number among ``evaluation.answers``, for thumbnails.
    """
    metrics = read_metrics(folder / run.METRICS)
    settings = (folder / run.SETTINGS).read_text(encoding="utf-8")
    sections = (
        section("curves", "How it learned", curves(metrics, manifest.best.epoch)),
        _classes(evaluation),
        confusion(evaluation),
        worst(evaluation, frames_of),
        scores(evaluation),
        copies(read_duplicates(folder), run.DUPLICATES),
        _left_out(evaluation),
        _made_with(manifest, settings),
        _words(),
    )
    page = (
        "<!doctype html><html lang=en><meta charset=utf-8>"
        f'<meta http-equiv=Content-Security-Policy content="{POLICY}">'
        '<meta name=viewport content="width=device-width,initial-scale=1">'
        "<title>Training report</title><link rel=icon href='data:,'>"
        f"<style>{STYLE}{REPORT_STYLE}</style><main>{_head(manifest, evaluation)}{''.join(sections)}"
        "</main><footer>Made by lora-deploy at the end of the training. Measure on other clips with "
        "<code>lora-deploy evaluate RUN --data CLIPS --split all</code>.</footer></html>\n"
    )
    atomic.write_text(folder / run.REPORT, page)


def _head(manifest: RunManifest, evaluation: Evaluation) -> str:
    low, high = evaluation.interval
    resampled = evaluation.bootstrap()
    grouped = resampled.intervals["accuracy"] if resampled.resampled == "groups" else None
    if grouped and grouped[0] == grouped[1]:
        grouped = None  # all right or all wrong: drawn again, they are so again
    of_groups = (
        f" Drawing whole groups again ({resampled.units} of them) gives {_range(grouped)}."
        if grouped
        else ""
    )
    top_k = evaluation.top_k
    facts = {
        "Mean class accuracy": percent(evaluation.mean_class_accuracy),
        "Mean F1": percent(evaluation.mean_f1),
        **({f"Top-{top_k[0]}": percent(top_k[1])} if top_k else {}),
        "Kept epoch": str(manifest.best.epoch),
        "Took": _duration(manifest.training_seconds),
        "Parameters trained": _learned(manifest),
    }
    return (
        "<header><div class=hero><p class=kicker>Training report</p>"
        f"<h1>{percent(evaluation.accuracy)} of {count(evaluation.clips, 'validation clip')} right</h1>"
        f"<p>95% interval {_range((low, high))}; always naming the most frequent label gives "
        f"{percent(evaluation.chance)}.{of_groups}</p>{_scale(evaluation)}"
        "<p class=soft>These clips chose the epoch that was kept, so expect less on new ones.</div>"
        "<dl class=facts>"
        + "".join(f"<div><dt>{name}<dd>{value}</div>" for name, value in facts.items())
        + f"<div class=long><dt>Base<dd>{shown(manifest.base.id)} <small>licence: "
        f"{shown(manifest.base.licence or 'not stated')}; {_adapter(manifest)}</small></div></dl></header>"
    )


def _range(interval: tuple[float, float]) -> str:
    return f"{rounded_percent(interval[0])} to {rounded_percent(interval[1])}"


def _scale(evaluation: Evaluation) -> str:
    """The accuracy on a line from 0 to 100%, its interval around it, chance as a mark."""
    low, high = (100 * end for end in evaluation.interval)
    at, chance = 100 * evaluation.accuracy, 100 * evaluation.chance
    near = abs(at - chance) < 22  # per cent of the line: words would run into each other
    told = "" if near else f'<span{_side(chance)} style="left:{chance:.1f}%">most frequent</span>'
    return (
        f'<div class=scale aria-hidden=true><i style="left:{low:.1f}%;width:{high - low:.1f}%"></i>'
        f'<s style="left:{chance:.1f}%"></s><b style="left:{at:.1f}%"></b>{told}'
        f'<span{_side(at)} style="left:{at:.1f}%">{percent(evaluation.accuracy)}</span></div>'
    )


def _side(place: float) -> str:
    return " class=start" if place < 10 else " class=end" if place > 90 else ""


def _learned(manifest: RunManifest) -> str:
    trainable, total = manifest.parameters["trainable"], manifest.parameters["total"]
    return f"{trainable:,} <small>({percent(trainable / total)})</small>"


def _adapter(manifest: RunManifest) -> str:
    if not manifest.targets:
        return "no adapter"
    return f"adapter on {count(len(manifest.targets), 'layer')}"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def _classes(evaluation: Evaluation) -> str:
    there = {label: one for label, one in evaluation.classes.items() if one.clips}
    order = sorted(there, key=lambda label: (there[label].f1 or 0.0, label))
    taken_for: dict[str, list[str]] = {}
    for truth, answer, clips, _ in evaluation.confusions:
        taken_for.setdefault(truth, []).append(f"{shown(answer)} <span class=soft>×{clips}</span>")
    columns = ("label", "clips", "recall", "precision", "F1", "taken for")

    def table(labels: list[str]) -> str:
        rows = []
        for label in labels:
            one = there[label]
            recall = one.recall or 0.0
            rows.append(
                Row(
                    [
                        shown(label),
                        str(one.clips),
                        f"{percent(recall)}{bar(recall)}",
                        "–" if one.precision is None else percent(one.precision),
                        percent(one.f1 or 0.0),
                        ", ".join(taken_for.get(label, [])[:3]) or "–",
                    ]
                )
            )
        return stacked_table(columns, rows)

    folded_ones = order[MOST_CLASSES:]
    absent = len(evaluation.labels) - len(there)
    return section(
        "classes",
        "Each class",
        paragraph("Those that do worst come first."),
        table(order[:MOST_CLASSES]),
        folded(f"{count(len(folded_ones), 'class', 'classes')} that do better", table(folded_ones))
        if folded_ones
        else "",
        paragraph(f"{count(absent, 'label')} had no validation clip.", "soft") if absent else "",
    )


def _left_out(evaluation: Evaluation) -> str:
    if not evaluation.left_out:
        return ""
    items = "".join(f"<li>{shown(text)}" for text in evaluation.left_out)
    return section("left-out", "Left out", f"<ul class=plain>{items}</ul>")


def _made_with(manifest: RunManifest, settings: str) -> str:
    rows = "".join(
        f"<tr><th scope=row>{shown(name)}<td>{shown(version)}"
        for name, version in manifest.versions.items()
    )
    return section(
        "made-with",
        "Made with",
        folded("The settings", f"<pre class=settings><code>{shown(settings.strip())}</code></pre>"),
        folded("Versions", f"<table class=short>{rows}</table>"),
    )


def _words() -> str:
    words = {
        "Recall": "Of the clips that bear a label, the part that got it.",
        "Precision": "Of the clips that got a label, the part that bears it.",
        "F1": "One number for both, 2 × right / (bearing + getting): low where either is low.",
        "Mean class accuracy": "The mean of all recalls: a rare label counts as much as a frequent one.",
        "Top-k": "The part of the clips whose true label is among the k that the model is surest of.",
        "95% interval": "Where the true figure may lie, judged by the number of clips. Clips of one "
        "person or recording resemble each other; then only whole groups drawn again tell how sure it is.",
    }
    items = "".join(f"<dt>{word}<dd>{text}" for word, text in words.items())
    return section("words", "Words", f"<dl class=words>{items}</dl>")
