"""What the service says of its model: what it knows, what it sees, what ran, and what was proved."""

from pathlib import Path
from typing import Any

from lora_deploy.artifact import bundle
from lora_deploy.classify.terms import Model
from lora_deploy.runtime.base import Recogniser
from lora_deploy.verification import read_certificate
from lora_deploy.versions import installed_versions


def certificate_of(folder: Path) -> dict[str, Any] | None:
    """Verdict, clips and day of a bundle's certificate; None for a RUN, or one of an older version.

    Raises:
        ArtifactError: It is not the one that the manifest vouches for, or can't be read.
    """
    if not bundle.is_bundle(folder):
        return None
    manifest = bundle.read_bundle_manifest(folder)
    bundle.verify_file(folder, manifest, bundle.CERTIFICATE)
    certificate = read_certificate(folder)
    if certificate is None:
        return None
    return {
        "verdict": certificate.verdict,
        "clips": certificate.clips,
        "date": certificate.date or None,
        "not_run": [one.form for one in certificate.unrun],
    }


def about(
    model: Model, recogniser: Recogniser, certificate: dict[str, Any] | None
) -> dict[str, Any]:
    """What ``/v1/model`` answers."""
    return {
        "model": recogniser.digest,
        "labels": list(recogniser.labels),
        "contract": recogniser.contract.model_dump(mode="json"),
        "backend": recogniser.backend.name,
        "form": recogniser.backend.form,
        "precision": precision_of(model),
        "batch_size": recogniser.backend.batch_size,
        "temperature": recogniser.temperature,
        "unknown_threshold": recogniser.unknown_threshold,
        "certificate": certificate,
        "lora_deploy": installed_versions().get("lora-deploy", "unknown"),
    }


def precision_of(model: Model) -> str:
    """In what the model computes, most of it."""
    return "fp32" if model.precision == "auto" else model.precision
