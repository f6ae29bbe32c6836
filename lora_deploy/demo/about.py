"""What the page tells of a model: its labels, pixels, proof, card and versions. A stranger's words stay words."""

import html
from pathlib import Path

from markdown_it import MarkdownIt

from lora_deploy import regular
from lora_deploy.clips.contract import PixelContract
from lora_deploy.demo.models import About, Choices
from lora_deploy.proof.markup import shown
from lora_deploy.versions import installed_versions

MOST_PAGE_BYTES = 16 << 20
"""Of a certificate that is shown within the page."""


def forms(choices: Choices) -> str:
    """A table of every form, and why one can't be run here."""
    rows = "".join(
        f"<tr><td>{html.escape(one.title)}<td><code>{html.escape(one.name)}</code>"
        f"<td>{html.escape(one.missing) if one.missing else 'runs here'}"
        for one in choices.all
    )
    return (
        "<h2>Forms</h2><table><thead><tr><th>form<th>name for programs<th>here</thead>"
        f"<tbody>{rows}</table>"
    )


def model(found: About) -> str:
    """What the model knows and stands on."""
    labels = "".join(f"<li>{shown(label)}" for label in found.labels)
    licence = found.licence or "not stated"
    rows = {
        "Model": shown(found.model),
        "What it is": "a bundle, proved when it was made"
        if found.certificate
        else "a training run",
        "Base": f"{shown(found.base)}, licence of its weights: {shown(licence)}",
        "What it sees": html.escape(_pixels(found.contract)),
        "Digest": f"<code>{html.escape(found.digest)}</code>",
        "Made with": html.escape(_versions(dict(found.versions))),
        "Running with": html.escape(_versions(installed_versions())),
    }
    table = "".join(f"<tr><th scope=row>{name}<td>{value}" for name, value in rows.items())
    return f"<table><tbody>{table}</table><h2>{len(found.labels)} labels</h2><ul>{labels}</ul>"


def certificate(page: Path | None) -> str:
    """The certificate's own page in a frame of its own, in which nothing runs and from which nothing leads."""
    if page is None:
        return "<h2>Certificate</h2><p>A training run has none; <code>lora-deploy merge-export</code> makes one.</p>"
    with regular.opened(page) as file:
        content = file.read(MOST_PAGE_BYTES)
    text = (content or b"").decode("utf-8", "replace")
    return (
        "<h2>Certificate</h2><iframe title=Certificate sandbox "
        f'srcdoc="{_one_line(html.escape(text))}"></iframe>'
    )


def _one_line(attribute_html: str) -> str:
    """The page's pieces are in one line each: Markdown ends a piece of HTML at an empty one."""
    return attribute_html.replace("\r", "").replace("\n", "&#10;")


def card(found: About) -> str:
    """The model's card; of what a stranger may have written in it, text and its structure alone.

    No HTML, no picture, no link: what is shown stands in our page.
    """
    text = found.card or ""
    if text.startswith("---\n"):  # settings for a hub
        _, _, text = text[4:].partition("\n---\n")
    markdown = MarkdownIt("commonmark", {"html": False}).enable("table")
    markdown.disable(["image", "link", "autolink", "html_inline", "html_block", "reference"])
    return f"<div>{_one_line(markdown.render(text))}</div>" if text else ""


def _pixels(contract: PixelContract) -> str:
    how = (
        "spread evenly over the clip"
        if contract.sampling == "uniform"
        else "the middle one, repeated"
    )
    return (
        f"{contract.frames} frames of {contract.crop_width}×{contract.crop_height} pixels, {how}, cut from "
        f"the middle of a picture whose shorter side is {contract.short_side}"
    )


def _versions(versions: dict[str, str]) -> str:
    return ", ".join(f"{package} {version}" for package, version in versions.items())
