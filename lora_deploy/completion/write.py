"""What came out on a card, written into a bundle: certificate, page, card and manifest, all or none."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from lora_deploy import atomic, regular
from lora_deploy.artifact import bundle
from lora_deploy.artifact.bundle import BundleManifest, Engine, Ran, record_files
from lora_deploy.completion.judge import Outcome, Truth
from lora_deploy.errors import FileChangedError
from lora_deploy.proof.card_lines import completed_card
from lora_deploy.proof.certificate import Certificate, Completion
from lora_deploy.proof.flip_cards import thumbnails_in
from lora_deploy.proof.page import certificate_html


def write(folder: Path, outcomes: Sequence[Outcome], truth: Truth) -> None:
    """Replace what speaks of the forms that were run; the bundle is whole at every moment.

    Args:
        folder: The BUNDLE, held against others who would do the same.
        outcomes: What came out.
        truth: What they were held against; pictures of the page that is there are kept beside its own.

    Raises:
        ArtifactError: The bundle is another one meanwhile.
    """
    manifest, certificate = truth.manifest, truth.certificate
    if bundle.read_bundle_manifest(folder) != manifest:
        raise FileChangedError(f"{folder} is another bundle than the one whose forms were asked")
    for name in sorted({bundle.CERTIFICATE_PAGE, bundle.CARD} & manifest.files.keys()):
        bundle.verify_file(folder, manifest, name)  # much of them is kept
    pictures = truth.pictures(outcomes)
    page = regular.read_text(folder / bundle.CERTIFICATE_PAGE)
    new = completed(certificate, outcomes)
    with atomic.updating(folder) as stage:
        (stage / bundle.CERTIFICATE).write_text(
            new.model_dump_json(indent=1) + "\n", encoding="utf-8"
        )
        (stage / bundle.CERTIFICATE_PAGE).write_text(
            certificate_html(new, {**thumbnails_in(page, certificate), **pictures}),
            encoding="utf-8",
        )
        if bundle.CARD in manifest.files:
            card = regular.read_text(folder / bundle.CARD)
            (stage / bundle.CARD).write_text(
                completed_card(card, certificate, new), encoding="utf-8"
            )
        bundle.write_bundle_manifest(stage, _told(manifest, new, stage))


def completed(certificate: Certificate, outcomes: Sequence[Outcome]) -> Certificate:
    """A certificate that also says what came out, each form in the place of what was said of it."""
    names = {one.completion.form for one in outcomes}
    passed = [one for one in outcomes if one.completion.passed]
    kept = [one for one in certificate.completed if one.form not in names]

    def without(answers: Mapping[str, object]) -> dict[str, object]:
        return {name: rows for name, rows in answers.items() if name not in names}

    accuracy = {one.completion.form: one.accuracy for one in passed if one.accuracy is not None}
    logits = {one.completion.form: one.logits for one in passed if one.logits is not None}
    noise = {one.completion.form: one.noise for one in passed}
    return certificate.model_copy(
        update={
            "unrun": tuple(one for one in certificate.unrun if one.form not in names),
            "completed": (*kept, *(one.completion for one in outcomes)),
            "accuracy": {**without(certificate.accuracy), **accuracy},
            "logits": {**without(certificate.logits), **logits},
            "noise_logits": {**without(certificate.noise_logits), **noise},
        }
    )


def _told(manifest: BundleManifest, certificate: Certificate, stage: Path) -> BundleManifest:
    """The manifest with the new files' hashes, and with how each engine did."""
    by_form = {one.form: one for one in certificate.completed}
    engines = tuple(
        _ran(engine, by_form.get(engine.name), certificate) for engine in manifest.engines
    )
    files = {**manifest.files, **record_files(stage)}
    return manifest.model_copy(update={"engines": engines, "files": files})


def _ran(engine: Engine, found: Completion | None, certificate: Certificate) -> Engine:
    if found is None:
        return engine
    ran = Ran(
        card=found.card,
        date=found.date,
        clips=certificate.clips if found.is_of_clips else 0,
        passed=found.passed,
    )
    return engine.model_copy(update={"ran": ran})
