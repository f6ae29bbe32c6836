"""The model card of a bundle."""

from lora_deploy.proof.certificate import Certificate
from lora_deploy.runtime.trained import Trained


def bundle_card(trained: Trained, certificate: Certificate) -> str:
    """README.md of a BUNDLE: what it tells apart, how to run it, what was proved."""
    base = trained.base
    rows = [
        f"| {' = '.join(link.forms)} | {link.agreement:.0%} | {link.largest_probability_difference:.1e} |"
        for link in certificate.links
    ]
    return "\n".join(
        [
            "---",
            f"base_model: {base.id}",
            f"license: {base.licence or 'other'}",
            "pipeline_tag: video-classification",
            "---",
            "",
            "# Action recogniser",
            "",
            f"Tells {len(trained.labels)} classes apart: {', '.join(trained.labels)}.",
            f"Made from {base.id} (licence of its weights: {base.licence or 'not stated'}).",
            "",
            "```bash",
            'pip install "lora-deploy[cpu]"',
            "lora-deploy classify THIS_FOLDER clip.mp4",
            "```",
            "",
            f"Proved on {certificate.clips} clips ({certificate.source}) before it was shipped:",
            "",
            "| forms | same label | largest difference in probability |",
            "|---|---|---|",
            *rows,
            "",
            *_accuracy(trained),
            "",
            "`onnx/model.onnx` opens with any ONNX runtime, `adapters/` with peft and, where it is "
            "there, `model/` with transformers; `bundle.json` has labels, pixel contract and the "
            "hash of every file.",
            "",
        ]
    )


def _accuracy(trained: Trained) -> list[str]:
    if trained.best is None:
        return [f"Not known of the adapter: {sentence}." for sentence in trained.unknown]
    return [
        f"Validation accuracy {trained.best.val_accuracy:.3f} on {trained.best.val_clips} clips; "
        "they chose the best epoch, so expect less on new ones."
    ]
