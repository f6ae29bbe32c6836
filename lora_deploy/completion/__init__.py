"""``verify --complete``: what a bundle holds for cards and was never asked, asked on the card that is here.

Each form is held against the trained model's own answers, which stand in the certificate: on seeded
noise, and with the certificate's clips on those. What came out is written into certificate and
manifest, all or nothing, whether it was within budget or not.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

from lora_deploy.artifact import bundle
from lora_deploy.artifact.bundle import BundleManifest
from lora_deploy.checkup import Checkup, Finding
from lora_deploy.completion import forms, judge, write
from lora_deploy.completion.forms import CardForm
from lora_deploy.completion.judge import Truth
from lora_deploy.errors import (
    CompletionBusyError,
    EngineCardError,
    FileChangedError,
    LoraDeployError,
    NotCompletableError,
)
from lora_deploy.lock import held_folder
from lora_deploy.progress import Progress, silent
from lora_deploy.proof.certificate import Certificate, Completion
from lora_deploy.runtime.vouched import vouch
from lora_deploy.verification import read_certificate

__all__ = ["CardForm", "complete"]

Forms = Callable[[Path, BundleManifest, str | None], Sequence[CardForm]]


def complete(
    folder: Path,
    data: Path | None = None,
    *,
    device: str | None = None,
    on_card: Forms = forms.on_card,
    progress: Progress = silent,
) -> Checkup:
    """Run what a bundle holds for the card here, and write down what came out.

    Args:
        folder: The BUNDLE; it must be whole, and is again at every moment.
        data: Labelled clips, those of the certificate among them; None asks about noise alone.
        device: ``cuda`` or ``cuda:N``; None for the first card.
        on_card: What can be run here.
        progress: Told of each clip and form.

    Returns:
        What came out; it has passed where all that was run was within budget, and each engine for
        this card could be run.

    Raises:
        CardError: There is no card, or nothing in the bundle is for it; nothing was changed.
        ArtifactError: The bundle is damaged, of an older version, or completed by somebody else now.
        DataError: The clips can't be used, or lack some of the certificate.
    """
    found = Checkup(str(folder), "BUNDLE")
    manifest = bundle.read_bundle_manifest(folder)
    _refuse_damaged(folder, manifest)
    certificate = _certificate(folder, manifest)
    here = on_card(folder, manifest, device)
    asked = [form for form in here if _wants_asking(form, certificate, data)]
    if not asked:
        return _nothing_to_ask(here, manifest, found)
    busy = CompletionBusyError(f"{folder} is being completed by another process")
    with held_folder(folder, busy), judge.truth_of(certificate, manifest, data) as truth:
        results = [
            result for form in asked if (result := _asked(form, truth, found, progress)) is not None
        ]
        new = [result for result in results if _says_more(result.completion, certificate)]
        if new:
            write.write(folder, new, truth.pictures(new))
            found.tell("certificate", f"says so of {len(new)} forms, {new[0].completion.date}")
    for result in results:
        for engine in manifest.engines:
            if result.completion.passed and engine.name == result.completion.form:
                vouch(manifest, engine, result.completion.card)
    return found


def _refuse_damaged(folder: Path, manifest: BundleManifest) -> None:
    """What is written anew is sealed anew: damage must not come under that seal."""
    sealed = bundle.is_sealed(folder)
    if sealed is None:
        raise NotCompletableError(f"{folder} bears no seal: it was made before there were engines")
    if not sealed:
        raise FileChangedError(f"{folder / bundle.MANIFEST} is not what was written")
    bundle.verify_files(folder, manifest)


def _certificate(folder: Path, manifest: BundleManifest) -> Certificate:
    certificate = read_certificate(folder)
    if certificate is None or not certificate.logits or not certificate.noise_logits:
        raise NotCompletableError(f"{folder / bundle.CERTIFICATE} records no answers")
    if certificate.verdict != "proved" or certificate.labels != manifest.labels:
        raise NotCompletableError(f"{folder / bundle.CERTIFICATE} does not prove this bundle")
    return certificate


def _wants_asking(form: CardForm, certificate: Certificate, data: Path | None) -> bool:
    """Whether it was never asked, not here, did not pass, or there are clips now and were none before."""
    before = _before(form.name, certificate)
    if before is None or not before.passed or not form.is_known_here:
        return True
    return before.link is None and data is not None


def _before(form: str, certificate: Certificate) -> Completion | None:
    return next((one for one in certificate.completed if one.form == form), None)


def _says_more(completion: Completion, certificate: Certificate) -> bool:
    """Whether it is to be written down: what clips decided, either way, stays so when noise agrees."""
    before = _before(completion.form, certificate)
    decided_before = before is not None and before.link is not None
    return not (decided_before and completion.passed and completion.link is None)


def _nothing_to_ask(here: Sequence[CardForm], manifest: BundleManifest, found: Checkup) -> Checkup:
    if not here and manifest.engines:
        targets = ", ".join(engine.name for engine in manifest.engines)
        raise EngineCardError(f"the card that is here is for none of its engines: {targets}")
    found.tell("certificate", "is complete for this card: nothing is left to be asked here")
    return found


def _asked(
    form: CardForm, truth: Truth, found: Checkup, progress: Progress
) -> judge.Outcome | None:
    """Ask one form; that it can't be opened is a fault only where the bundle promises it."""
    try:
        outcome = judge.ask(form, truth, progress)
    except LoraDeployError as error:
        found.findings.append(
            Finding(form.name, False if form.is_promised else None, f"not run: {error}", error.name)
        )
        return None
    found.findings.append(
        Finding(form.name, outcome.completion.passed, _sentence(outcome.completion))
    )
    return outcome


def _sentence(completion: Completion) -> str:
    link = completion.link
    asked = "noise alone" if link is None else "noise and all clips of the certificate"
    if not completion.passed:
        return f"run on {completion.card}, and not within budget: {completion.reason}"
    largest = completion.noise_difference if link is None else link.largest_probability_difference
    said = f"run on {completion.card}, about {asked}: probabilities differ by at most {largest:.1e}"
    return said if link is not None else f"{said}; name the clips with --data to have it proved"
