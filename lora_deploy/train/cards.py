"""The texts that travel with a model: its labels, and the model cards of an adapter and of a RUN."""

import json
from collections.abc import Sequence
from typing import Any

from lora_deploy.artifact.card import base_model, base_name, head, licence, model_index, plain
from lora_deploy.artifact.run import RunManifest
from lora_deploy.config import Settings
from lora_deploy.evaluate import Evaluation

MOST_CLASSES = 60
"""Rows in the card's table, those that do worst; a longer one nobody reads."""


def labels_json(labels: Sequence[str]) -> str:
    """The labels in the order of the logits."""
    return json.dumps(list(labels), ensure_ascii=False, indent=1) + "\n"


def adapter_card(manifest: RunManifest, settings: Settings) -> str:
    """A model card in hub form, with the licence of the base it stands on."""
    lora = settings.model.lora
    base = manifest.base
    best = manifest.best
    title = f"LoRA adapter for {base_name(base)}"
    values = {
        **_shared(manifest),
        "library_name": "peft",
        "tags": ["video-classification", "action-recognition", "lora", "lora-deploy"],
        "metrics": ["accuracy"],
        "model-index": model_index(
            title, "validation", [("accuracy", "Accuracy", best.val_accuracy)]
        ),
    }
    words = ", ".join(plain(word) for word in lora.target_modules)
    body = [
        f"# LoRA adapter for {plain(base_name(base))}",
        "",
        f"Tells {len(manifest.labels)} classes apart: {_labels(manifest)}.",
        "",
        f"- {lora.kind}, rank {lora.r}, alpha {lora.lora_alpha}, on {len(manifest.targets)} layers "
        f"({words}); {manifest.parameters['lora']:,} LoRA and "
        f"{manifest.parameters['head']:,} head parameters, as counted",
        f"- base fingerprint `{base.fingerprint}`"
        + (f", revision `{base.revision}`" if base.revision else ""),
        f"- validation accuracy {best.val_accuracy:.3f} on {best.val_clips} clips "
        f"(epoch {best.epoch}, chosen on these clips)",
        f"- licence of the base's weights: {plain(base.licence or 'not stated')}",
        "",
        "`lora-deploy merge-export` merges it into the base; plain `peft` opens it too.",
        "",
    ]
    return "\n".join([*head(values), "", *body])


def run_card(manifest: RunManifest, settings: Settings, evaluation: Evaluation) -> str:
    """README.md of a RUN: what it tells apart, how well, how to run it, what it stands on.

    Args:
        manifest: Of the RUN.
        settings: It was trained with.
        evaluation: Of the model that was kept, on the validation clips.
    """
    is_lora = manifest.kind == "lora"
    values = {
        **_shared(manifest),
        "library_name": "lora-deploy",
        "tags": [
            "video-classification", "action-recognition", *(["lora"] if is_lora else []),
            "lora-deploy",
        ],
        "metrics": ["accuracy", "recall", "f1"],
        "model-index": model_index("Action recogniser", "validation", _metrics(evaluation)),
    }  # fmt: skip
    body = [
        "# Action recogniser",
        "",
        f"Tells {len(manifest.labels)} classes apart: {_labels(manifest)}. A clip of anything else "
        "gets one of these labels all the same.",
        "",
        "## Figures",
        *_figures(manifest, evaluation),
        "",
        "## Run it",
        "```bash",
        'pip install "lora-deploy[train]"',
        "lora-deploy classify THIS_FOLDER clip.mp4",
        "lora-deploy evaluate THIS_FOLDER --data CLIPS --split all   # how well it does on yours",
        "lora-deploy merge-export THIS_FOLDER --out bundle       # a form without PyTorch",
        "```",
        *(
            ["", "`best_model_lora_adapter/` is the adapter alone, which plain `peft` opens too."]
            if is_lora
            else []
        ),
        "",
        "## How it was trained",
        *_training(manifest, settings),
        "",
    ]
    return "\n".join([*head(values), "", *body])


def _shared(manifest: RunManifest) -> dict[str, Any]:
    return {
        **licence(manifest.base),
        **base_model(manifest.base),
        "pipeline_tag": "video-classification",
    }


def _labels(manifest: RunManifest) -> str:
    return ", ".join(plain(label) for label in manifest.labels)


def _metrics(evaluation: Evaluation) -> list[tuple[str, str, float]]:
    top_k = evaluation.top_k
    return [
        ("accuracy", "Accuracy", evaluation.accuracy),
        *([("accuracy", f"Top-{top_k[0]} accuracy", top_k[1])] if top_k else []),
        ("recall", "Mean class accuracy", evaluation.mean_class_accuracy),
        ("f1", "Mean F1", evaluation.mean_f1),
    ]


def _figures(manifest: RunManifest, evaluation: Evaluation) -> list[str]:
    low, high = evaluation.interval
    resampled = evaluation.bootstrap()
    grouped = resampled.intervals["accuracy"] if resampled.resampled == "groups" else None
    rows = [f"| {name} | {value:.3f} |" for _, name, value in _metrics(evaluation)]
    classes = sorted(
        ((label, one) for label, one in evaluation.classes.items() if one.clips),
        key=lambda entry: (entry[1].f1 or 0.0, entry[0]),
    )
    return [
        f"On {evaluation.clips} validation clips, which chose the epoch ({manifest.best.epoch}): expect "
        "less on new ones.",
        "",
        "| figure | value |",
        "|---|---|",
        *rows,
        f"| Accuracy, 95% interval | {low:.3f} to {high:.3f} |",
        *(
            [
                f"| The same, whole groups drawn again ({resampled.units}) | {grouped[0]:.3f} to "
                f"{grouped[1]:.3f} |"
            ]
            if grouped
            else []
        ),
        f"| Always the most frequent label | {evaluation.chance:.3f} |",
        f"| Calibration error (10 bins) | {evaluation.calibration_error:.3f} |",
        "",
        "| label | clips | precision | recall | F1 |",
        "|---|---|---|---|---|",
        *(
            f"| {plain(label)} | {one.clips} | "
            + ("–" if one.precision is None else f"{one.precision:.3f}")
            + f" | {one.recall or 0:.3f} | {one.f1 or 0:.3f} |"
            for label, one in classes[:MOST_CLASSES]
        ),
        *(
            [f"| and {len(classes) - MOST_CLASSES} that do better | | | | |"]
            if len(classes) > MOST_CLASSES
            else []
        ),
    ]


def _training(manifest: RunManifest, settings: Settings) -> list[str]:
    base, contract, training = manifest.base, manifest.contract, settings.training
    lora = settings.model.lora
    trainable, total = manifest.parameters["trainable"], manifest.parameters["total"]
    how = (
        f"{lora.kind} of rank {lora.r}, alpha {lora.lora_alpha}, on {len(manifest.targets)} layers"
        if manifest.kind == "lora"
        else ("the head alone" if settings.model.freeze_base else "the whole model")
    )
    return [
        f"- base: {plain(base_name(base))}"
        + (f", revision `{base.revision}`" if base.revision else "")
        + f", fingerprint `{base.fingerprint}`; licence of its weights: "
        f"{plain(base.licence or 'not stated')}",
        f"- trained: {how}; {trainable:,} of {total:,} parameters",
        f"- clips of {contract.frames} frames ({contract.sampling}), {contract.crop_width}×"
        f"{contract.crop_height} pixels",
        f"- at most {training.epochs} epochs, batches of {training.batch_size}, learning rate "
        f"{training.learning_rate:g}; every setting is in `config.yaml`",
    ]
