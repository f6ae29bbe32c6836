"""What only PyTorch can tell of the trained model: that its adapter is alive, and that no form skips it."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from peft import PeftModel

from lora_deploy.model.adapter import delta_off
from lora_deploy.proof.answers import Answers, Clips, Form, ask
from lora_deploy.proof.certificate import BASE, Link, Liveness
from lora_deploy.proof.chain import Chain
from lora_deploy.runtime.base import Recogniser
from lora_deploy.runtime.eager import TorchBackend

ALIVE_FACTOR = 100
"""The adapter must change logits by this many times what merging changes."""

LEAST_ALIVE_DIFFERENCE = 1e-4
"""In logits: what an adapter must change at least, however exact the merge is."""


def answers_without_adapter(
    first: Recogniser, clips: Clips, labels: Sequence[str]
) -> Answers | None:
    """Those with the update off and the trained head on; None without an adapter."""
    backend = first.backend
    if not isinstance(backend, TorchBackend) or not isinstance(backend.model, PeftModel):
        return None
    with delta_off(backend.model):
        return ask(Form(BASE, lambda: first), clips, labels)


def mark_skipped(chain: Chain, off: NDArray[np.float32]) -> None:
    """Refuse forms that are far nearer to the base's answers than to the adapter's, however small
    the difference."""
    on = chain.first.logits

    def is_skipped(form: str) -> bool:
        logits = chain.answers[form].logits
        from_off = float(np.abs(logits - off).max())
        return ALIVE_FACTOR * from_off < float(np.abs(logits - on).max())

    chain.links = [
        link.model_copy(update={"adapter_skipped": True, "passed": False})
        if link.forms[0] != BASE and is_skipped(link.forms[1])
        else link
        for link in chain.links
    ]


def liveness_of(
    on: NDArray[np.float32], off: NDArray[np.float32], merging: Link | None
) -> Liveness:
    """Whether the adapter changes far more than merging it does.

    Args:
        on: Logits of the trained model.
        off: Without the update, the trained head kept on.
        merging: The link from the trained model to the merged one.
    """
    on_off = float(np.abs(on - off).max())
    # What a merge that went wrong changes says nothing of the adapter.
    changed = merging.largest_logit_difference if merging and merging.passed else 0.0
    needed = max(ALIVE_FACTOR * changed, LEAST_ALIVE_DIFFERENCE)
    return Liveness(largest_logit_difference=on_off, needed=needed, passed=on_off >= needed)
