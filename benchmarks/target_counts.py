"""What target words hit at the published sizes, and what LoRA costs there: the page docs/targets.md.

Counted on models without memory behind their weights (the meta device), so nothing is downloaded.

    scripts/docs
"""

import torch
from transformers import AutoConfig, AutoModelForVideoClassification, PreTrainedModel

from lora_deploy.model.architectures import ARCHITECTURES, architecture_of
from lora_deploy.model.survey import reach
from lora_deploy.model.targets import ResolvedTargets, find

R = 8

PUBLISHED = {
    "videomae": "VideoMAE-B",
    "timesformer": "TimeSformer-B",
    "vivit": "ViViT-B",
    "vjepa2": "V-JEPA 2 ViT-L",
}
"""The size that each configuration of transformers has by default, as its paper calls it."""

TOGETHER = ("q,v", "qkv,fc")
"""Lists of words that people often give, beside each word by itself."""

PARTS = ("q", "k", "v", "proj", "fc1", "fc2")

PAGE = """# Target words
`model.lora.target_modules` takes words that mean the same on every architecture: VideoMAE, TimeSformer, ViViT and V-JEPA 2, as transformers names them. What they hit on a base of yours, before a training:

```bash
lora-deploy inspect videomae-nano --targets qkv,fc
```

## What they hit, and what LoRA costs
Layers hit, and LoRA parameters at r = {r}, at the published sizes, with any number of labels. At another r multiply; LoRA on a layer costs r × (inputs + outputs).

{counts}

The base without its head has {sizes} parameters.

- TimeSformer attends twice in each block, over time and over space, with one layer for query, key and value each time. `q`, `k` and `v` hit that layer, so they are `qkv` there, and a warning says so. `temporal_dense`, a projection between the two attentions, is hit by `all-linear` and by its name.
- V-JEPA 2's predictor ({predictor} of its parameters) guesses hidden tokens in pre-training and is skipped by a classifier: an adapter in it would be dead. No word hits it, nor does its name.
- The head is trained as it is and never hit: the classifier, VideoMAE's `fc_norm`, and V-JEPA 2's attentive pooler with all its linear layers. A V-JEPA 2 encoder comes without pooler, and gets a new one to be trained; a V-JEPA 2 classifier brings its own, which then stays as it is.

## The layers behind the words
{names}

`fc` and `mlp` are `fc1` and `fc2`; `qkv` is `q`, `k` and `v`; `query`, `key` and `value` are these by their long names; `attention` is `qkv` and `proj`; `all-linear` is every linear layer but those of the head.

## Other words
- The end of a layer's name, as in `layer.3.intermediate.dense`, or the whole of it.
- On VideoMAE, the names of the original code: `attn.qkv`, `attn.proj`, `mlp.fc1`, `blocks.3.attn.qkv`. Its fused `qkv` became three layers in transformers, so `attn.qkv` hits three.
- A regular expression of either: `layer\\.(9|10|11)\\..*` is every layer of the last three blocks of a VideoMAE-B.

A word that hits nothing is an error that lists the words and the layers that there are, even where other words hit something.

This page is written by `scripts/docs`, from models that are built at these sizes.
"""


def published_model(model_type: str) -> PreTrainedModel:
    """A classifier at the published size, without weights."""
    with torch.device("meta"):
        model: PreTrainedModel = AutoModelForVideoClassification.from_config(
            AutoConfig.for_model(model_type)
        )
    return model


def cell(model: PreTrainedModel, words: str) -> str:
    """Layers and LoRA parameters of a list of words, parted by a comma."""
    found = reach(model, find(model, words.split(",")), R)
    return f"{len(found.layers)} · {found.lora_parameters:,}"


def base_parameters(model: PreTrainedModel) -> int:
    """All parameters but those of a head."""
    heads = architecture_of(model.config.model_type).head_modules
    return sum(
        parameter.numel()
        for name, parameter in model.named_parameters()
        if name.split(".", 1)[0] not in heads
    )


def uncalled_parameters(model: PreTrainedModel) -> int:
    """Parameters that no answer depends on."""
    architecture = architecture_of(model.config.model_type)
    return sum(
        parameter.numel()
        for name, parameter in model.named_parameters()
        if architecture.is_uncalled(name)
    )


def kinds(found: ResolvedTargets) -> str:
    """The layers of a word within a block, without their count."""
    return ", ".join(f"`{kind.split('× ')[1]}`" for kind in str(found).split(", "))


def table(header: list[str], rows: list[list[str]]) -> str:
    """A table in Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def page() -> str:
    """The whole of docs/targets.md."""
    models = {model_type: published_model(model_type) for model_type in PUBLISHED}
    words = [*ARCHITECTURES["videomae"].words, *TOGETHER]
    header = ["word", *PUBLISHED.values()]
    return PAGE.format(
        r=R,
        counts=table(
            header,
            [
                [
                    f"`{'`, `'.join(word.split(','))}`",
                    *(cell(model, word) for model in models.values()),
                ]
                for word in words
            ],
        ),
        sizes=", ".join(
            f"{base_parameters(model):,} ({PUBLISHED[model_type]})"
            for model_type, model in models.items()
        ),
        predictor=f"{uncalled_parameters(models['vjepa2']):,}",
        names=table(
            header,
            [
                [f"`{part}`", *(kinds(find(model, [part])) for model in models.values())]
                for part in PARTS
            ],
        ),
    )


if __name__ == "__main__":
    print(page(), end="")
