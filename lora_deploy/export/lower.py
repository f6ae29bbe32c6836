"""Forms of lower precision, brought within their budget: what departs first is kept higher, and tried again."""

import logging
from collections.abc import Callable, Collection, Sequence

import numpy as np
from numpy.typing import NDArray

from lora_deploy.export.departure import Departure, first_departing
from lora_deploy.proof.answers import Form
from lora_deploy.proof.certificate import Link
from lora_deploy.proof.chain import Chain
from lora_deploy.runtime.base import softmax

logger = logging.getLogger(__name__)

CLIPS_TO_LOOK_INTO = 4
"""Those that differ most are sent through the graph block by block."""

Departing = Callable[[Form, NDArray[np.int64]], list[Departure]]
"""A form and the rows of some clips to what departs where."""


def prove_lower(
    chain: Chain,
    forms: Sequence[Form],
    *,
    make: Callable[[Collection[str]], None] | None,
    departing: Departing,
    most_kept: int,
) -> list[Link]:
    """Make a file of lower precision and ask every form that runs it, until all are within budget.

    Args:
        chain: Has asked the trained model already.
        forms: What runs the file.
        make: Writes the file, with the blocks it is given kept in higher precision; None where
            nothing can be kept, as the runtime itself rounds.
        departing: Finds out where a form departs.
        most_kept: So many blocks may be kept in higher precision.

    Returns:
        A link of the trained model to each form, whether it holds or not.
    """
    kept: list[str] = []
    while True:
        if make is not None:
            make(tuple(kept))
        for form in forms:
            chain.ask(form)
        first = chain.first.form
        links = [chain.compare(first, form.name) for form in forms]
        links = [link.model_copy(update={"kept": tuple(kept)}) for link in links]
        failing = next((one for one, link in enumerate(links) if not link.passed), None)
        if failing is None:
            return links
        found = departing(forms[failing], _worst(chain, forms[failing].name))
        named = first_departing(found).block
        links[failing] = links[failing].model_copy(update={"departs": named})
        block = _to_keep(found, kept)
        if make is None or block is None or len(kept) >= most_kept:
            return links
        logger.info("%s is over its budget; tried again with %s kept", forms[failing].name, block)
        kept.append(block)


def _worst(chain: Chain, form: str) -> NDArray[np.int64]:
    """Rows of the clips on which a form differs most from the trained model."""
    right, found = (
        softmax(one.logits / chain.temperature) for one in (chain.first, chain.answers[form])
    )
    differences = np.nan_to_num(np.abs(right - found).max(axis=1), nan=np.inf)
    return np.argsort(-differences, kind="stable")[:CLIPS_TO_LOOK_INTO]


def _to_keep(found: Sequence[Departure], kept: Collection[str]) -> str | None:
    """The block that adds most of the error and is not kept yet."""
    left = [one for one in found if one.block not in kept and one.added > 0]
    return max(left, key=lambda one: one.added).block if left else None
