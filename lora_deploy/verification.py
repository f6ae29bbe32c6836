"""``verify``: a bundle's proof repeated, wherever it is: every byte, every form that runs here, on real clips.

Without clips each form is asked about seeded noise, and must answer as it did when it was shipped.
With clips the chain is asked anew; where they are those of the certificate, the trained model's own
answers, which stand in it, are what everything is held against.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lora_deploy.artifact import bundle
from lora_deploy.artifact.bundle import BundleManifest, CompiledForm, Precision
from lora_deploy.artifact.handing import handed
from lora_deploy.artifact.manifest import read_json
from lora_deploy.checkup import Checkup, Finding
from lora_deploy.clips.dataset import LabelledClip
from lora_deploy.config import ProofSettings
from lora_deploy.errors import (
    AnswersChangedError,
    CertificateUnreadableError,
    FileChangedError,
    FormsDifferError,
    LoraDeployError,
)
from lora_deploy.extras import is_installed
from lora_deploy.progress import Progress, silent
from lora_deploy.proof.answers import Answering, Answers, Clips, Form, noise_frames
from lora_deploy.proof.certificate import SCHEMA_VERSION, Budget, Certificate
from lora_deploy.proof.chain import Chain, budgets_of, link_objections
from lora_deploy.proof.which_clips import proof_clips
from lora_deploy.runtime.base import softmax
from lora_deploy.runtime.load import load
from lora_deploy.runtime.open_bundle import as_recogniser, open_form

MOST_CLIPS = 256


def verify(folder: Path, data: Path | None = None, *, progress: Progress = silent) -> Checkup:
    """Repeat a bundle's proof.

    Args:
        folder: The BUNDLE.
        data: Labelled clips; their validation clips are taken where splits are told.
        progress: Told of each clip and form.

    Raises:
        ArtifactError: It is no bundle.
        DataError: The clips can't be used.
    """
    found = Checkup(str(folder), "BUNDLE")
    manifest = bundle.read_bundle_manifest(folder)
    clips = None if data is None else proof_clips(folder, data, manifest.labels, most=MOST_CLIPS)
    _look_at_bytes(folder, manifest, found)
    certificate = None
    with found.looking_at("certificate"):
        certificate = read_certificate(folder)
        _judge_certificate(certificate, manifest, found)
    forms = list(_forms(folder, manifest, found))
    if clips is None:
        for form in forms:
            with found.looking_at(form.name):
                _ask_about_noise(form, manifest, certificate, found)
    else:
        _ask_about_clips(forms, clips, manifest, certificate, found, progress)
    return found


def read_certificate(folder: Path) -> Certificate | None:
    """A bundle's ``certificate.json``; None where it is of an older version, which said less.

    Raises:
        CertificateUnreadableError: It is missing, torn, or of a newer version.
    """
    path = folder / bundle.CERTIFICATE
    try:
        values = read_json(path)
        version = values.get("schema_version") if isinstance(values, dict) else None
        if type(version) is int and 0 < version < SCHEMA_VERSION:
            return None
        certificate = Certificate.model_validate(values)
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise CertificateUnreadableError(f"{path} can't be read: {reason}") from None
    if certificate.schema_version != SCHEMA_VERSION:
        raise CertificateUnreadableError(
            f"{path} has schema version {certificate.schema_version}; this program knows up to "
            f"{SCHEMA_VERSION}"
        )
    if not _is_whole(certificate):
        raise CertificateUnreadableError(f"{path} does not have an answer for each of its clips")
    return certificate


def _is_whole(certificate: Certificate) -> bool:
    """Whether there are as many clips as it says, and an answer to each of them."""
    labels = len(certificate.labels)
    return (
        len(certificate.proof_clips) == certificate.clips > 0
        and all(len(rows) == certificate.clips for rows in certificate.logits.values())
        and all(
            len(row) == labels
            for answers in (certificate.logits, certificate.noise_logits)
            for rows in answers.values()
            for row in rows
        )
    )


def _look_at_bytes(folder: Path, manifest: BundleManifest, found: Checkup) -> None:
    """Every file, and not only the first that has changed."""
    sealed = bundle.is_sealed(folder)
    if sealed is None:
        found.shrug(bundle.MANIFEST, "bears no seal: it was made before there were any")
    elif not sealed:
        error = FileChangedError(f"{folder / bundle.MANIFEST} is not what was written")
        found.findings.append(Finding(bundle.MANIFEST, False, str(error), error.name))
    changed = []
    for name in manifest.files:
        try:
            bundle.verify_file(folder, manifest, name)
        except LoraDeployError as error:
            changed.append(name)
            found.findings.append(Finding(name, False, str(error), error.name))
    with found.looking_at("files"):
        bundle.check_nothing_added(folder, manifest)
        if not changed:
            found.tell("files", f"{len(manifest.files)} files are, byte for byte, as shipped")


def _judge_certificate(
    certificate: Certificate | None, manifest: BundleManifest, found: Checkup
) -> None:
    """Whether it speaks of this bundle, and for it."""
    if certificate is None:
        found.shrug("certificate", "is of an older version, which recorded no answers")
        return
    proved = {link.forms[1] for link in certificate.links if link.passed}
    unproved = [form.name for form in manifest.forms if form.name not in proved]
    ok = certificate.verdict == "proved" and certificate.labels == manifest.labels and not unproved
    text = f"{certificate.verdict} on {certificate.clips} clips, {certificate.date}"
    if unproved:
        text += f"; it does not speak of {', '.join(unproved)}"
    if certificate.labels != manifest.labels:
        text += "; it speaks of other labels"
    found.findings.append(Finding("certificate", ok, text))


def _forms(folder: Path, manifest: BundleManifest, found: Checkup) -> Iterator[Form]:
    """Every form of the bundle that can be run here; of others it is said why not."""
    has_torch = all(map(is_installed, ("torch", "transformers", "peft")))
    if has_torch and (folder / bundle.MODEL).is_dir():
        yield Form("merged", lambda: load(folder, backend="torch"))
    elif (folder / bundle.MODEL).is_dir():
        found.shrug("merged", "not asked: PyTorch is not installed")
    if bundle.ONNX in manifest.files and is_installed("onnxruntime"):
        plain = CompiledForm(backend="onnxruntime", precision="fp32", file=bundle.ONNX)
        yield Form("onnx", _opening(folder, manifest, plain))
    if bundle.FRAMES_IN in manifest.files and is_installed("onnxruntime"):
        yield Form("frames-in", lambda: _open_frames_in(folder, manifest))
    for form in manifest.forms:
        if not is_installed(form.backend):
            found.shrug(form.name, f"not asked: {form.backend} is not installed")
        else:
            yield Form(form.name, _opening(folder, manifest, form), form.precision)


def _opening(folder: Path, manifest: BundleManifest, form: CompiledForm) -> Callable[[], Answering]:
    return lambda: as_recogniser(folder, manifest, open_form(folder, manifest, form))


def _open_frames_in(folder: Path, manifest: BundleManifest) -> Answering:
    from lora_deploy.runtime.ort import FramesInGraph

    with handed(folder, manifest, bundle.FRAMES_IN) as graph:
        return FramesInGraph(graph)


def _ask_about_noise(
    form: Form, manifest: BundleManifest, certificate: Certificate | None, found: Checkup
) -> None:
    opened = form.open()
    logits = opened.logits(noise_frames(opened.contract))
    recorded = certificate.noise_logits.get(form.name) if certificate is not None else None
    if recorded is None:
        found.shrug(form.name, "opens and answers; the certificate has no answer of it to compare")
        return
    largest = _largest_difference(np.array(recorded, np.float32), logits, manifest.temperature)
    allowed = _budgets(certificate)[form.precision].largest_difference
    if not largest <= allowed:
        raise AnswersChangedError(
            f"{form.name} answers otherwise than when it was shipped: probabilities of noise "
            f"differ by up to {largest:.2g} (budget {allowed:.2g})"
        )
    found.tell(
        form.name, f"answers noise as when it was shipped: probabilities differ by {largest:.1e}"
    )


def _largest_difference(
    one: NDArray[np.float32], other: NDArray[np.float32], temperature: float
) -> float:
    return float(np.abs(softmax(one / temperature) - softmax(other / temperature)).max())


def _budgets(certificate: Certificate | None) -> dict[Precision, Budget]:
    """Those of the export; the defaults where no form of a precision was exported."""
    links = () if certificate is None else certificate.links
    return {**budgets_of(ProofSettings()), **{link.precision: link.budget for link in links}}


def _largest_share(certificate: Certificate | None) -> float:
    """What one label may have of the clips: what it had when the bundle was shipped, at least."""
    usual = ProofSettings().largest_share
    if certificate is None:
        return usual
    return max(usual, *(times / certificate.clips for times in certificate.answered.values()))


def _ask_about_clips(
    forms: Sequence[Form],
    clips: Sequence[LabelledClip],
    manifest: BundleManifest,
    certificate: Certificate | None,
    found: Checkup,
    progress: Progress,
) -> None:
    with Clips(clips, manifest.contract) as decoded:
        chain = Chain(
            decoded,
            manifest.labels,
            budgets=_budgets(certificate),
            largest_share=_largest_share(certificate),
            progress=progress,
        )
        chain.temperature = manifest.temperature
        trained = None if certificate is None else _recorded(certificate, decoded)
        if trained is not None:
            chain.answers[trained.form] = trained
            found.tell("clips", f"{len(decoded.readable)} clips, all of them of the certificate")
        else:
            found.shrug(
                "clips",
                f"{len(decoded.readable)} clips, not all of them of the certificate, so forms are "
                "held against each other and not against the trained model",
            )
        for reason in decoded.left_out:
            found.shrug("left out", reason)
        for form in forms:
            with found.looking_at(form.name):
                chain.ask(form)
                if form.name == chain.first.form:
                    found.tell(
                        form.name,
                        f"accuracy {chain.accuracy(chain.first):.3f}; the others are held against it",
                    )
                else:
                    _hold(chain, form, found)
        if chain.answers and chain.void is not None:
            found.findings.append(Finding("clips", False, f"the proof is void: {chain.void}"))


def _hold(chain: Chain, form: Form, found: Checkup) -> None:
    link = chain.compare(chain.first.form, form.name)
    objections = [
        *link_objections(link),
        *(line for line in chain.label_objections() if line.startswith(f"{form.name} ")),
    ]
    if objections:
        raise FormsDifferError("; ".join(objections))
    found.tell(
        form.name,
        f"same label as {chain.first.form} on {link.agreement:.1%}, probabilities differ by at "
        f"most {link.largest_probability_difference:.1e}; accuracy "
        f"{chain.accuracy(chain.answers[form.name]):.3f}",
    )


def _recorded(certificate: Certificate, clips: Clips) -> Answers | None:
    """What the trained model said of these very files; None where one of them is another."""
    name, logits = next(iter(certificate.logits.items()), (None, ()))
    row_of = {clip.sha256: row for row, clip in enumerate(certificate.proof_clips)}
    rows = [row_of.get(clip.sha256) for clip in clips.records()]
    if name is None or any(row is None for row in rows):
        return None
    return Answers(
        form=name,
        precision="fp32",
        labels=certificate.labels,
        logits=np.array([logits[row] for row in rows if row is not None], np.float32),
        noise=np.array(certificate.noise_logits.get(name, ()), np.float32),
    )
