"""The model card of a bundle."""

from lora_deploy.artifact.bundle import (
    ADAPTER_NAME,
    ADAPTERS,
    CERTIFICATE_PAGE,
    MANIFEST,
    MODEL,
    ONNX,
)
from lora_deploy.artifact.card import head, plain
from lora_deploy.proof.card_lines import unrun_lines
from lora_deploy.proof.certificate import ADAPTER_GRAPH, Certificate, Link
from lora_deploy.proof.wording import (
    calibration_sentences,
    compiled,
    count,
    figure,
    form_title,
    lowest_true_share,
    percent,
    rounded_percent,
    speed_sentence,
)
from lora_deploy.runtime.trained import Trained


def bundle_card(trained: Trained, certificate: Certificate) -> str:
    """README.md of a BUNDLE: what it tells apart, how to run each form, what was proved."""
    base = trained.base
    licence = base.licence or "not stated"
    return "\n".join(
        [
            *_head(trained),
            "",
            "# Action recogniser",
            "",
            f"Tells {len(trained.labels)} classes apart: "
            f"{', '.join(plain(label) for label in trained.labels)}.",
            f"Made from {plain(base.id)} (licence of its weights: {plain(licence)}).",
            "",
            "## Run it",
            "```bash",
            'pip install "lora-deploy[cpu]"',
            "lora-deploy classify THIS_FOLDER clip.mp4",
            *_commands(certificate),
            "```",
            "",
            "## What was proved",
            *_proved(certificate),
            "",
            *_forms(certificate),
            "",
            *_accuracy(trained),
            *_scores(certificate),
            *unrun_lines(certificate),
            "",
            f"`{ONNX}` opens with any ONNX runtime, `{ADAPTERS}/` with peft and, where it is there, "
            f"`{MODEL}/` with transformers; `{MANIFEST}` has labels, pixel contract and the hash of "
            "every file.",
            "",
        ]
    )


def _head(trained: Trained) -> list[str]:
    """What a hub reads, as YAML."""
    return head(
        {
            "base_model": trained.base.id,
            "license": trained.base.licence or "other",
            "pipeline_tag": "video-classification",
        }
    )


def _commands(certificate: Certificate) -> list[str]:
    """One line for each compiled form, and one for the adapter graph."""
    proved = [link.forms[1] for link in certificate.links]
    forms = [found for form in proved if (found := compiled(form))]
    lines = [
        f"lora-deploy classify THIS_FOLDER clip.mp4 --backend {backend} --precision {precision}"
        for backend, precision in dict.fromkeys(forms)
    ]
    if ADAPTER_GRAPH in proved:
        lines.append(
            "lora-deploy classify THIS_FOLDER clip.mp4 --backend onnxruntime "
            f"--adapter {ADAPTER_NAME}"
        )
    return lines


def _proved(certificate: Certificate) -> list[str]:
    where = f" on {plain(certificate.computer)}" if certificate.computer else ""
    when = f", {certificate.date}" if certificate.date else ""
    return [
        f"{count(certificate.clips, 'real clip')} ({plain(certificate.source)}) went through every "
        f"form, each from the video file to the label{where}{when}. `{CERTIFICATE_PAGE}` shows it; "
        "to repeat it here, or on clips of your own:",
        "",
        "```bash",
        "lora-deploy verify THIS_FOLDER --data CLIPS",
        "```",
    ]


def _forms(certificate: Certificate) -> list[str]:
    """The table of forms, as Markdown."""
    rows = [_form(link, certificate) for link in certificate.links]
    return [
        "| form | compared with | same label | true share ≥ | largest difference in probability | accuracy |",
        "|---|---|---|---|---|---|",
        *rows,
        "",
        "The true share is the lower end of the 95% interval: what the agreement may be on all clips "
        "like these.",
        *(["", *map(speed_sentence, certificate.speeds)] if certificate.speeds else []),
    ]


def _form(link: Link, certificate: Certificate) -> str:
    one, other = link.forms
    right = certificate.accuracy.get(other)
    cells = (
        plain(form_title(other)),
        plain(form_title(one)),
        percent(link.agreement),
        rounded_percent(lowest_true_share(link.agreement, certificate.clips)),
        figure(link.largest_probability_difference),
        "" if right is None else percent(right),
    )
    return f"| {' | '.join(cells)} |"


def _accuracy(trained: Trained) -> list[str]:
    if trained.best is None:
        return [f"Not known of the adapter: {sentence}." for sentence in trained.unknown]
    return [
        f"Validation accuracy {trained.best.val_accuracy:.3f} on {trained.best.val_clips} clips; "
        "they chose the best epoch, so expect less on new ones."
    ]


def _scores(certificate: Certificate) -> list[str]:
    if certificate.calibration is None:
        return []
    return ["", "## What a score means", *calibration_sentences(certificate.calibration)]
