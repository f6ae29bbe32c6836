"""``verify --complete``: what a bundle holds for cards and was never asked, asked on the card that is here.

Each form is held against the trained model's own answers, which stand in the certificate: on seeded
noise, and with the certificate's clips on those. What came out is written into certificate and
manifest, all or nothing, whether it was within budget or not.
"""

import logging
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
from lora_deploy.runtime.own_cache import cache_folder
from lora_deploy.runtime.vouched import vouch
from lora_deploy.verification import read_certificate

__all__ = ["CardForm", "complete"]

logger = logging.getLogger(__name__)

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
    bundle.read_bundle_manifest(folder)  # what is none is not held, either
    busy = CompletionBusyError(f"{folder} is being completed by another process")
    with held_folder(folder, busy):  # before it is read: who had it until now has written
        manifest = bundle.read_bundle_manifest(folder)
        _refuse_damaged(folder, manifest)
        certificate = _certificate(folder, manifest)
        here = on_card(folder, manifest, device)
        asked = [form for form in here if _wants_asking(form, certificate, data)]
        if not asked:
            return _nothing_to_ask(here, manifest, found)
        with judge.truth_of(certificate, manifest, data) as truth:
            results: list[judge.Outcome] = []
            try:
                for form in asked:
                    if (result := _asked(form, truth, found, progress)) is not None:
                        results.append(result)
            finally:  # whatever ends one form, what came out of those before it is kept
                _keep(folder, results, truth, found)
    return found


def _keep(folder: Path, results: Sequence[judge.Outcome], truth: Truth, found: Checkup) -> None:
    """Write down what came out, and remember the engines that may be opened without being named."""
    new = [one for one in results if _says_more(one.completion, truth.certificate)]
    if new:
        write.write(folder, new, truth)
        found.tell("certificate", f"says so of {len(new)} forms, {new[0].completion.date}")
    passed = {one.completion.form: one.completion for one in results if one.completion.passed}
    for engine in truth.manifest.engines:
        ran = passed.get(engine.name)
        if ran is not None and not vouch(truth.manifest, engine, ran.card):
            found.shrug(
                engine.name,
                f"could not be remembered, so --backend auto does not take it: {cache_folder()} can't "
                "be written to, or not by you alone (chmod go-w)",
            )


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
    """Whether it was never asked, not here or on another card, did not pass, or there are clips now and
    were none before."""
    before = _before(form.name, certificate)
    if before is None or not before.passed or before.card != form.card or not form.is_known_here:
        return True
    return not before.is_of_clips and data is not None


def _before(form: str, certificate: Certificate) -> Completion | None:
    return next((one for one in certificate.completed if one.form == form), None)


def _says_more(completion: Completion, certificate: Certificate) -> bool:
    """Whether it is to be written down: what clips decided, either way, stays so when noise agrees."""
    before = _before(completion.form, certificate)
    decided_before = before is not None and before.is_of_clips
    return not (decided_before and completion.passed and not completion.is_of_clips)


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
    if form.held_back:
        found.shrug(form.name, f"not run: {form.held_back}")
        return None
    try:
        outcome = judge.ask(form, truth, progress)
    except LoraDeployError as error:
        found.findings.append(
            Finding(form.name, False if form.is_promised else None, f"not run: {error}", error.name)
        )
        return None
    except Exception as error:
        if form.is_promised:
            raise
        # PyTorch and ONNX Runtime end in whatever they like, and are no promise of the bundle.
        logger.debug("%s did not run", form.name, exc_info=True)
        said = " ".join(str(error).split())[:300]
        found.shrug(form.name, f"not run: {type(error).__name__}: {said}")
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
