"""What a graph says of itself, held against its bundle and against the processor here."""

import json
import logging
from collections.abc import Mapping

from lora_deploy.artifact import bundle
from lora_deploy.artifact.bundle import BundleManifest, CompiledForm
from lora_deploy.clips.contract import PixelContract
from lora_deploy.errors import GraphDisagreesError, GraphError, LabelOrderError
from lora_deploy.processor import read_processor

logger = logging.getLogger(__name__)


def check_notes(metadata: Mapping[str, str], manifest: BundleManifest, file: str) -> None:
    """See that a graph and the manifest speak of the same labels and pixels.

    Raises:
        ArtifactError: The graph does not say so, or says otherwise.
    """
    try:
        labels = json.loads(metadata["labels"])
        contract = PixelContract.model_validate_json(metadata["pixel_contract"])
    except (KeyError, ValueError, RecursionError):
        raise GraphError(f"{file} does not say its labels and pixel contract") from None
    if labels != list(manifest.labels):
        raise LabelOrderError(
            f"{file} was exported for the labels {labels}; {bundle.MANIFEST} says "
            f"{list(manifest.labels)}"
        )
    if contract != manifest.contract:
        raise GraphDisagreesError(f"{file} and {bundle.MANIFEST} disagree on the pixel contract")


def tell_of_sums(metadata: Mapping[str, str], form: CompiledForm) -> None:
    """Warn of an int8 graph whose weights use all 8 bits, on a processor that adds them up in 16."""
    if form.precision != "int8" or metadata.get(bundle.INT8_WEIGHT_BITS) == "7":
        return
    if not read_processor().has_int8_dots:
        logger.warning(
            "%s was made for processors with 8-bit dot products (VNNI); this one cuts sums off at 16 "
            "bits, so answers may differ: `lora-deploy verify BUNDLE --data CLIPS` says by how much, and "
            "`merge-export … --set proof.int8_weight_bits=7` makes one that answers alike everywhere",
            form.name,
        )
