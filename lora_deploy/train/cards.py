"""The texts that travel with an adapter: its labels and its model card."""

import json
from collections.abc import Sequence

from lora_deploy.artifact.run import RunManifest
from lora_deploy.config import Settings


def labels_json(labels: Sequence[str]) -> str:
    """The labels in the order of the logits."""
    return json.dumps(list(labels), ensure_ascii=False, indent=1) + "\n"


def adapter_card(manifest: RunManifest, settings: Settings) -> str:
    """A model card in hub form, with the licence of the base it stands on."""
    lora = settings.model.lora
    base = manifest.base
    header = [
        "---",
        "library_name: peft",
        f"base_model: {base.id}",
        f"license: {base.licence or 'other'}",
        "pipeline_tag: video-classification",
        "tags: [video-classification, lora]",
        "---",
    ]
    body = [
        f"# LoRA adapter for {base.id}",
        "",
        f"Tells {len(manifest.labels)} classes apart: {', '.join(manifest.labels)}.",
        "",
        f"- {lora.kind}, rank {lora.r}, alpha {lora.lora_alpha}, on {len(manifest.targets)} layers "
        f"({', '.join(lora.target_modules)}); {manifest.parameters['lora']:,} LoRA and "
        f"{manifest.parameters['head']:,} head parameters, as counted",
        f"- base fingerprint `{base.fingerprint}`"
        + (f", revision `{base.revision}`" if base.revision else ""),
        f"- validation accuracy {manifest.best.val_accuracy:.3f} on {manifest.best.val_clips} clips "
        f"(epoch {manifest.best.epoch}, chosen on these clips)",
        f"- licence of the base's weights: {base.licence or 'not stated'}",
        "",
        "`lora-deploy merge-export` merges it into the base; plain `peft` opens it too.",
        "",
    ]
    return "\n".join([*header, "", *body])
