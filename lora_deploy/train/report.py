"""``report.html`` of a RUN: curves, confusion, each class, the worst clips; nothing is loaded from elsewhere."""

import base64
import io
import json
from html import escape
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from PIL import Image

from lora_deploy import atomic
from lora_deploy.artifact import run
from lora_deploy.artifact.run import RunManifest
from lora_deploy.clips.cache import FrameCache
from lora_deploy.evaluate import Evaluation

WORST_CLIPS = 12

_STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#1c1c1e}"
    "table{border-collapse:collapse}td,th{padding:.3rem .8rem;border-bottom:1px solid #ddd;text-align:left}"
    "img.plot{max-width:100%}.clips{display:flex;flex-wrap:wrap;gap:1rem}figure{margin:0;width:8.5rem}"
    "figure img{width:100%;image-rendering:pixelated;border-radius:4px}figcaption{font-size:.8rem}small{color:#666}"
)


def write_report(
    folder: Path, manifest: RunManifest, evaluation: Evaluation, cache: FrameCache
) -> None:
    """Write the page.

    Args:
        folder: The RUN; its metrics are read.
        manifest: Of the RUN.
        evaluation: Of the best model on the validation clips.
        cache: Holds these clips' frames, for thumbnails.
    """
    lines = (folder / run.METRICS).read_text(encoding="utf-8").splitlines()
    metrics = [json.loads(line) for line in lines]
    low, high = evaluation.interval
    page = (
        "<!doctype html><html lang=en><meta charset=utf-8>"
        "<meta name=viewport content='width=device-width'>"
        f"<title>Training report</title><style>{_STYLE}</style><h1>Training report</h1>"
        f"<p>Validation accuracy <b>{evaluation.accuracy:.3f}</b> on {evaluation.clips} clips "
        f"(95% interval {low:.3f} to {high:.3f}; always naming the most frequent label: "
        f"{evaluation.chance:.3f}). <small>These clips chose the best epoch, number "
        f"{manifest.best.epoch}; measure on others with <code>lora-deploy evaluate</code>.</small></p>"
        f"{_facts(manifest)}<h2>Curves</h2>{_image(_curves(metrics))}"
        f"<h2>Confusion</h2>{_image(_confusion(evaluation))}"
        f"<h2>Each class</h2>{_per_class(evaluation)}"
        f"<h2>Worst clips</h2>{_worst(evaluation, cache)}</html>\n"
    )
    atomic.write_text(folder / run.REPORT, page)


def _facts(manifest: RunManifest) -> str:
    counts = manifest.parameters
    rows = {
        "base": manifest.base.id,
        "licence of the base": manifest.base.licence or "not stated",
        "parameters that learned": f"{counts['trainable']:,} of {counts['total']:,}",
        "layers under the adapter": str(len(manifest.targets))
        if manifest.targets
        else "no adapter",
        "seconds": f"{manifest.training_seconds:.0f}",
    }
    cells = "".join(f"<tr><th>{key}<td>{escape(value)}</tr>" for key, value in rows.items())
    return f"<table>{cells}</table>"


def _curves(metrics: list[dict[str, Any]]) -> Figure:
    figure = Figure(figsize=(9, 3.2), layout="constrained")
    losses, accuracies = figure.subplots(1, 2)
    for key, name in (("loss", "training"), ("eval_loss", "validation")):
        points = [(line["epoch"], line[key]) for line in metrics if key in line]
        losses.plot(*zip(*points, strict=True), label=name)
    points = [(line["epoch"], line["eval_accuracy"]) for line in metrics if "eval_accuracy" in line]
    accuracies.plot(*zip(*points, strict=True), color="tab:orange")
    accuracies.set_ylim(0, 1.02)
    losses.set_ylim(0, 1.05 * losses.get_ylim()[1])
    losses.legend(frameon=False)
    for axes, title in ((losses, "loss"), (accuracies, "validation accuracy")):
        axes.set_title(title)
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def _confusion(evaluation: Evaluation) -> Figure:
    count = len(evaluation.labels)
    side = min(12.0, 2.5 + 0.5 * count)
    figure = Figure(figsize=(side + 1, side), layout="constrained")
    axes = figure.subplots()
    axes.imshow(evaluation.confusion, cmap="Blues", vmin=0)
    # a label may hold dollar signs, which are no formula here
    axes.set_xticks(range(count), evaluation.labels, rotation=45, ha="right", parse_math=False)
    axes.set_yticks(range(count), evaluation.labels, parse_math=False)
    axes.set_xlabel("answer")
    axes.set_ylabel("true label")
    most = max(map(max, evaluation.confusion))
    if count <= 20:
        for row, values in enumerate(evaluation.confusion):
            for column, value in enumerate(values):
                colour = "white" if value > most / 2 else "black"
                axes.text(column, row, str(value), ha="center", va="center", color=colour)
    return figure


def _per_class(evaluation: Evaluation) -> str:
    clips = {
        label: sum(row) for label, row in zip(evaluation.labels, evaluation.confusion, strict=True)
    }
    cells = "".join(
        f"<tr><td>{escape(label)}<td>{clips[label]}<td>{part:.3f}</tr>"
        for label, part in evaluation.per_class.items()
    )
    return f"<table><tr><th>label<th>clips<th>right</tr>{cells}</table>"


def _worst(evaluation: Evaluation, cache: FrameCache) -> str:
    """Wrong answers, the most certain ones first."""
    wrong = [answer for answer in evaluation.answers if answer[1] != answer[2]]
    wrong.sort(key=lambda answer: -answer[3])
    if not wrong:
        return "<p>Every validation clip got its true label.</p>"
    figures = "".join(
        f"<figure><img src='{_thumbnail(cache, path)}' alt=''><figcaption>"
        f"{escape(Path(path).name)}<br>is {escape(truth)}, answered {escape(answer)} "
        f"({score:.0%})</figcaption></figure>"
        for path, truth, answer, score in wrong[:WORST_CLIPS]
    )
    return f"<p>{len(wrong)} wrong answers; the most certain:</p><div class=clips>{figures}</div>"


def _thumbnail(cache: FrameCache, name: str) -> str:
    frames = cache.frames(cache.named(name))
    content = io.BytesIO()
    Image.fromarray(frames[len(frames) // 2]).save(content, "JPEG", quality=85)
    return f"data:image/jpeg;base64,{base64.b64encode(content.getvalue()).decode()}"


def _image(figure: Figure) -> str:
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=110)
    return f"<img class=plot alt='' src='data:image/png;base64,{base64.b64encode(content.getvalue()).decode()}'>"
