"""The model card of a bundle."""

from lora_deploy.artifact.run import RunManifest
from lora_deploy.export.verify import Certificate


def bundle_card(manifest: RunManifest, certificate: Certificate) -> str:
    """README.md of a BUNDLE: what it tells apart, how to run it, what was proved."""
    base = manifest.base
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
            f"Tells {len(manifest.labels)} classes apart: {', '.join(manifest.labels)}.",
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
            f"Validation accuracy {manifest.best.val_accuracy:.3f} on {manifest.best.val_clips} "
            "clips; they chose the best epoch, so expect less on new ones.",
            "",
            "`onnx/model.onnx` opens with any ONNX runtime, `adapters/` with peft and, where it is "
            "there, `model/` with transformers; `bundle.json` has labels, pixel contract and the "
            "hash of every file.",
            "",
        ]
    )
