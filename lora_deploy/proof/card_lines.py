"""The lines of a bundle's card that change when it is completed: what was not run, and what was run since."""

from lora_deploy.artifact.card import plain
from lora_deploy.proof.certificate import Certificate
from lora_deploy.proof.wording import COMPLETE, NOT_RUN, completion_sentence, form_title

_SINCE = "## Run since, on cards"


def unrun_lines(certificate: Certificate) -> list[str]:
    """Engines, with what is not known of them; empty where there are none."""
    if not certificate.unrun:
        return []
    lines = [f"- {plain(form_title(one.form))}: {plain(one.reason)}." for one in certificate.unrun]
    return [
        "",
        "## Built, not run",
        NOT_RUN,
        "",
        *lines,
        "",
        "To ask them, where such a card is:",
        "",
        "```bash",
        COMPLETE.replace("BUNDLE", "THIS_FOLDER"),
        "```",
    ]


def completed_lines(certificate: Certificate) -> list[str]:
    """What was run since; empty where nothing was."""
    if not certificate.completed:
        return []
    lines = (f"- {plain(completion_sentence(one))}" for one in certificate.completed)
    return ["", _SINCE, *lines]


def completed_card(card: str, before: Certificate, after: Certificate) -> str:
    """A card that says what the certificate says after a completion, and else what it said before."""
    old, new = ("\n".join(unrun_lines(one)) for one in (before, after))
    if old:
        card = card.replace(f"{old}\n", f"{new}\n" if new else "", 1)
    told = "\n".join(completed_lines(before))
    kept = card.replace(f"{told}\n", "", 1) if told else card
    return kept + "\n".join(completed_lines(after)) + "\n"
