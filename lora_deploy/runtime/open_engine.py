"""An engine of a BUNDLE for the card that is here: chosen, held against what fits, and only then opened."""

import logging
from pathlib import Path

from lora_deploy.artifact.bundle import BundleManifest, Engine, Flavour, Precision
from lora_deploy.artifact.handing import content_of
from lora_deploy.errors import (
    CardError,
    EngineCardError,
    EngineError,
    EngineOverBudgetError,
    MissingPackageError,
    NoCardError,
    NoSuchEngineError,
)
from lora_deploy.runtime import trt
from lora_deploy.runtime.base import Backend
from lora_deploy.runtime.card import Card, card_index
from lora_deploy.runtime.own_cache import cache_folder
from lora_deploy.runtime.tensorrt_api import open_tensorrt
from lora_deploy.runtime.vouched import is_vouched

logger = logging.getLogger(__name__)


def open_for_card(
    folder: Path,
    manifest: BundleManifest,
    flavour: Flavour,
    precision: Precision,
    *,
    device: str | None = None,
    batch_size: int = 1,
) -> Backend:
    """Open the engine of a flavour and a precision that is for the card here.

    Args:
        folder: The bundle.
        manifest: Its ``bundle.json``.
        flavour: Whose compiler made it.
        precision: What it computes in.
        device: ``cuda`` or ``cuda:N``; None for the first card.
        batch_size: Clips run at once, always.

    Raises:
        NoSuchEngineError: The bundle has no such engine.
        EngineOverBudgetError: It was run, and its answers were wrong.
        MissingPackageError: Its package, or the driver's binding, is not installed.
        CardError: There is no card, or the engine does not fit it.
        ArtifactError: The file has changed.
    """
    there = [
        one for one in manifest.engines if (one.flavour, one.precision) == (flavour, precision)
    ]
    if not there:
        has = ", ".join(engine.name for engine in manifest.engines) or "none"
        raise NoSuchEngineError(
            f"{folder} has no engine of {flavour} at {precision}; it has: {has}"
        )
    index = card_index(device)
    open_tensorrt(flavour, purpose="to run engines")  # without it no card helps
    card = Card(index)
    try:
        engine = next(
            (one for one in there if one.compute_capability == card.compute_capability), None
        )
        if engine is None:
            targets = ", ".join(one.target for one in there)
            raise EngineCardError(
                f"{folder} has {flavour} engines at {precision} for {targets}, and here is {card}"
            )
        if engine.ran is None:
            logger.warning(
                "%s was built and never compared; `lora-deploy verify %s --complete` does that",
                engine.name, folder,
            )  # fmt: skip
        return open_engine(folder, manifest, engine, card, batch_size=batch_size)
    except BaseException:
        card.close()
        raise


def open_engine(
    folder: Path,
    manifest: BundleManifest,
    engine: Engine,
    card: Card,
    *,
    batch_size: int = 1,
    is_on_trial: bool = False,
) -> trt.TensorRtBackend:
    """Open one engine of a BUNDLE on a card, which is closed with it, or at once where it is refused.

    Args:
        folder: The bundle.
        manifest: Its ``bundle.json``.
        engine: One of the manifest's.
        card: Where it is to run.
        batch_size: Clips run at once, always.
        is_on_trial: Whether it is opened to be compared, so that an earlier outcome does not count.

    Raises:
        EngineOverBudgetError: It was run, and its answers were wrong.
        MissingPackageError: Its package is not installed.
        CardError: It does not fit package, card or batch.
        ArtifactError: The file has changed.
    """
    try:
        if engine.ran is not None and not engine.ran.passed and not is_on_trial:
            raise EngineOverBudgetError(
                f"{engine.name} was run on {engine.ran.card}, {engine.ran.date}, and was over its budget"
            )
        api = trt.open_api(engine)
        trt.check_card(engine, card)
        trt.profile_for(engine, batch_size)
        return trt.TensorRtBackend(
            content_of(folder, manifest, engine.file),
            engine,
            manifest.contract,
            labels=len(manifest.labels),
            card=card,
            api=api,
            batch_size=batch_size,
            cache=cache_folder(engine.flavour),
        )
    except BaseException:
        card.close()
        raise


def open_proved(
    folder: Path,
    manifest: BundleManifest,
    precision: Precision,
    *,
    device: str | None,
    batch_size: int,
) -> Backend | None:
    """What ``--backend auto`` takes before all else: an engine that was proved on real clips, and run by
    this user on this computer (`runtime.vouched`: the bundle's word alone starts no native code).

    None where there is no such engine; one that is there and can't be opened is passed over aloud.
    """
    proved = [
        one
        for one in manifest.engines
        if one.precision == precision and one.ran is not None and one.ran.is_proved
    ]
    for engine in [one for one in proved if not is_vouched(manifest, one)]:
        proved.remove(engine)
        logger.info(
            "%s was not run by you on this computer: name its backend, or type "
            "`lora-deploy verify %s --complete`", engine.name, folder,
        )  # fmt: skip
    if not proved:
        return None
    if device == "cpu":
        return None
    for engine in proved:
        try:
            card = Card(card_index(device))
            return open_engine(folder, manifest, engine, card, batch_size=batch_size)
        except (NoCardError, EngineCardError) as error:
            logger.info("%s is for other computers: %s", engine.name, error.found)
        except (CardError, EngineError, MissingPackageError) as error:
            logger.warning("%s is passed over: %s", engine.name, error.found)
    return None
