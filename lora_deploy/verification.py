"""``verify``: a bundle's proof repeated, wherever it is: every byte, every form that runs here, on real clips.

Each form is asked about seeded noise, and must answer as it did when it was shipped. With clips the
chain is asked anew as well: on those of the certificate everything is held against the trained
model's own answers, which stand in it, and on others forms are held against each other.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lora_deploy.artifact import bundle
from lora_deploy.artifact.bundle import (
    PRECISIONS,
    BundleManifest,
    CompiledForm,
    Engine,
    Precision,
)
from lora_deploy.artifact.handing import handed
from lora_deploy.artifact.manifest import read_json
from lora_deploy.checkup import Checkup, Finding
from lora_deploy.clips.dataset import LabelledClip
from lora_deploy.config import ProofSettings
from lora_deploy.errors import (
    AnswersChangedError,
    BaseNotFoundError,
    BaseNotHereError,
    CardError,
    CertificateUnreadableError,
    FileChangedError,
    FormsDifferError,
    LoraDeployError,
    NothingComparedError,
    PrecisionNotHereError,
)
from lora_deploy.extras import is_installed
from lora_deploy.progress import Progress, silent
from lora_deploy.proof.answers import NOISE_CLIPS, Answering, Answers, Clips, Form, noise_frames
from lora_deploy.proof.certificate import (
    ADAPTER_GRAPH,
    ADAPTER_GRAPH_BASE,
    BASE,
    SCHEMA_VERSION,
    Budget,
    Certificate,
    Link,
)
from lora_deploy.proof.chain import Chain, budgets_of, link_objections
from lora_deploy.proof.compare import compare
from lora_deploy.proof.which_clips import proof_clips
from lora_deploy.proof.wording import completion_sentence
from lora_deploy.runtime.base import softmax
from lora_deploy.runtime.card import Card
from lora_deploy.runtime.load import load
from lora_deploy.runtime.open_bundle import as_recogniser, has_adapter_graph, open_form
from lora_deploy.runtime.open_engine import open_engine
from lora_deploy.runtime.vouched import is_vouched

MOST_CLIPS = 256


@dataclass(frozen=True)
class _Here:
    """A form that can be run on this computer."""

    form: Form
    made_of: str
    """Its file or folder: that two forms of one file agree proves nothing of the file."""
    recorded: str
    """What the certificate calls its answers."""
    truth: str | None = None
    """What the certificate calls the answers that it must give; None for the trained model's."""


@dataclass(frozen=True)
class _Known:
    """What the trained model said, when the bundle was shipped, of those clips that are here again."""

    answers: Answers
    """Logits [rows, labels]."""
    rows: list[int]
    """Which of the clips that are here."""


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
    _tell_cards(manifest, certificate, found)
    forms = list(_forms(folder, manifest, found))
    speaking = certificate if certificate and certificate.labels == manifest.labels else None
    if clips is None:
        for here in forms:
            with _asking(here.form.name, found):
                _ask_about_noise(here, manifest, speaking, found)
    else:
        _ask_about_clips(forms, clips, manifest, speaking, found, progress)
    _see_that_something_was_compared([here.form.name for here in forms], found)
    return found


@contextmanager
def _asking(part: str, found: Checkup) -> Iterator[None]:
    """What is true of this computer and not of the bundle is no fault of a form."""
    with found.looking_at(part):
        try:
            yield
        except (BaseNotFoundError, BaseNotHereError, PrecisionNotHereError, CardError) as error:
            found.shrug(part, f"not asked: {error.found}")


def _see_that_something_was_compared(forms: Sequence[str], found: Checkup) -> None:
    """A bundle of which nothing was compared has not passed."""
    if found.passed and not any(one.passed for one in found.findings if one.part in forms):
        error = NothingComparedError(
            "no form's answers could be compared, neither with recorded ones nor with another form's"
        )
        found.findings.append(Finding("answers", False, str(error), error.name))


def read_certificate(folder: Path) -> Certificate | None:
    """A bundle's ``certificate.json``; None where it is of an older version, which said less.

    Bundles of that time bear no seal: in one that does, an older version is damage.

    Raises:
        CertificateUnreadableError: It is missing, torn, or of a newer version.
    """
    path = folder / bundle.CERTIFICATE
    try:
        values = read_json(path)
        version = values.get("schema_version") if isinstance(values, dict) else None
        is_old = type(version) is int and 0 < version < SCHEMA_VERSION
        if is_old and bundle.is_sealed(folder) is None:
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
        and all(len(rows) == NOISE_CLIPS for rows in certificate.noise_logits.values())
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
    forms = [form.name for form in manifest.forms]
    if bundle.ADAPTER_GRAPH in manifest.files:
        forms += [ADAPTER_GRAPH, ADAPTER_GRAPH_BASE]
    unproved = [form for form in forms if form not in proved]
    ok = certificate.verdict == "proved" and certificate.labels == manifest.labels and not unproved
    text = f"{certificate.verdict} on {certificate.clips} clips, {certificate.date}"
    if unproved:
        text += f"; it does not speak of {', '.join(unproved)}"
    if certificate.labels != manifest.labels:
        text += "; it speaks of other labels"
    found.findings.append(Finding("certificate", ok, text))


def _forms(folder: Path, manifest: BundleManifest, found: Checkup) -> Iterator[_Here]:
    """Every form of the bundle that can be run here; of others it is said why not."""
    has_torch = all(map(is_installed, ("torch", "transformers", "peft")))
    if has_torch and (folder / bundle.MODEL).is_dir():
        merged = Form("merged", lambda: load(folder, backend="torch"))
        yield _Here(merged, bundle.MODEL, merged.name)
    elif (folder / bundle.MODEL).is_dir():
        found.shrug("merged", "not asked: PyTorch is not installed")
    if bundle.ONNX in manifest.files and is_installed("onnxruntime"):
        plain = CompiledForm(backend="onnxruntime", precision="fp32", file=bundle.ONNX)
        yield _Here(Form("onnx", _opening(folder, manifest, plain)), bundle.ONNX, "onnx")
    if bundle.FRAMES_IN in manifest.files and is_installed("onnxruntime"):
        frames_in = Form("frames-in", lambda: _open_frames_in(folder, manifest))
        yield _Here(frames_in, bundle.FRAMES_IN, frames_in.name)
    for form in manifest.forms:
        if not is_installed(form.backend):
            found.shrug(form.name, f"not asked: {form.backend} is not installed")
        else:
            opening = _opening(folder, manifest, form)
            yield _Here(Form(form.name, opening, form.precision), form.file, form.name)
    for name in manifest.adapters:
        if has_adapter_graph(manifest, name):
            yield from _of_adapter_graph(folder, manifest, name, found)
        if has_torch:
            unmerged = Form(f"adapter {name}", _opening_adapter(folder, name))
            yield _Here(unmerged, f"{bundle.ADAPTERS}/{name}", "unmerged")
        else:
            found.shrug(f"adapter {name}", "not asked: PyTorch is not installed")
    yield from _of_engines(folder, manifest)


def _of_engines(folder: Path, manifest: BundleManifest) -> Iterator[_Here]:
    """Those that this user has run here and found within budget; of others the bundle's word must do."""
    for engine in manifest.engines:
        if engine.ran is not None and engine.ran.passed and is_vouched(manifest, engine):
            form = Form(engine.name, _opening_engine(folder, manifest, engine), engine.precision)
            yield _Here(form, engine.file, engine.name)


def _tell_cards(manifest: BundleManifest, certificate: Certificate | None, found: Checkup) -> None:
    """What is known of forms for cards: that says nothing for a bundle, nor against it."""
    reasons = {} if certificate is None else {one.form: one.reason for one in certificate.unrun}
    for engine in manifest.engines:
        if engine.ran is None:
            reason = reasons.get(engine.name, "no card was at hand")
            found.shrug(
                engine.name,
                f"built, not run: {reason}; `lora-deploy verify BUNDLE --complete` asks it where a "
                "card is",
            )
    for one in () if certificate is None else certificate.completed:
        found.shrug(one.form, completion_sentence(one))


def _of_adapter_graph(
    folder: Path, manifest: BundleManifest, adapter: str, found: Checkup
) -> Iterator[_Here]:
    """The graph with an adapter in it, and with the adapter's head alone."""
    for name, form, truth in (
        (ADAPTER_GRAPH, "unmerged", None),
        (ADAPTER_GRAPH_BASE, "base", BASE),
    ):
        if is_installed("onnxruntime"):
            opening = _opening_graph(folder, adapter, form)
            yield _Here(Form(name, opening), bundle.ADAPTER_GRAPH, name, truth)
        else:
            found.shrug(name, "not asked: onnxruntime is not installed")


def _opening_graph(folder: Path, adapter: str, form: str) -> Callable[[], Answering]:
    return lambda: load(folder, backend="onnxruntime", form=form, adapter=adapter)


def _opening(folder: Path, manifest: BundleManifest, form: CompiledForm) -> Callable[[], Answering]:
    return lambda: as_recogniser(folder, manifest, open_form(folder, manifest, form))


def _opening_engine(
    folder: Path, manifest: BundleManifest, engine: Engine
) -> Callable[[], Answering]:
    def opening() -> Answering:
        size = engine.batch_sizes[0]
        return as_recogniser(
            folder, manifest, open_engine(folder, manifest, engine, Card(), batch_size=size)
        )

    return opening


def _opening_adapter(folder: Path, name: str) -> Callable[[], Answering]:
    return lambda: load(folder, backend="torch", adapter=name)


def _open_frames_in(folder: Path, manifest: BundleManifest) -> Answering:
    from lora_deploy.runtime.ort import FramesInGraph

    with handed(folder, manifest, bundle.FRAMES_IN) as graph:
        return FramesInGraph(graph)


def _ask_about_noise(
    here: _Here, manifest: BundleManifest, certificate: Certificate | None, found: Checkup
) -> None:
    opened = here.form.open()
    logits = opened.logits(noise_frames(opened.contract))
    said = _compare_noise(here, logits, manifest.temperature, certificate)
    if said is None:
        found.shrug(
            here.form.name, "opens and answers; the certificate has no answer of it to compare"
        )
    else:
        found.tell(here.form.name, said)


def _compare_noise(
    here: _Here,
    logits: NDArray[np.float32],
    temperature: float,
    certificate: Certificate | None,
) -> str | None:
    """What is to be said of a form's answers to noise; None where none are recorded.

    Raises:
        AnswersChangedError: They are others than those that are recorded.
    """
    recorded = certificate.noise_logits.get(here.recorded) if certificate is not None else None
    if recorded is None:
        return None
    largest = _largest_difference(np.array(recorded, np.float32), logits, temperature)
    allowed = budgets_in(certificate)[here.form.precision].largest_difference
    if not largest <= allowed:
        raise AnswersChangedError(
            f"{here.form.name} answers otherwise than when it was shipped: probabilities of noise "
            f"differ by up to {largest:.2g} (budget {allowed:.2g})"
        )
    return f"answers noise as when it was shipped: probabilities differ by {largest:.1e}"


def _largest_difference(
    one: NDArray[np.float32], other: NDArray[np.float32], temperature: float
) -> float:
    return float(np.abs(softmax(one / temperature) - softmax(other / temperature)).max())


def budgets_in(certificate: Certificate | None) -> dict[Precision, Budget]:
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
    forms: Sequence[_Here],
    clips: Sequence[LabelledClip],
    manifest: BundleManifest,
    certificate: Certificate | None,
    found: Checkup,
    progress: Progress,
) -> None:
    budgets = budgets_in(certificate)
    with Clips(clips, manifest.contract) as decoded:
        chain = Chain(
            decoded,
            manifest.labels,
            budgets=budgets,
            largest_share=_largest_share(certificate),
            progress=progress,
        )
        chain.temperature = manifest.temperature
        chain.unknown_threshold = manifest.unknown_threshold
        known = None if certificate is None else _recorded(certificate, decoded)
        _tell_clips(decoded, known, found)
        known_base = None if certificate is None else _recorded(certificate, decoded, BASE)
        if known is not None and len(known.rows) == len(decoded.readable):
            chain.answers[known.answers.form] = known.answers
        first: _Here | None = None  # the first form to which nobody objects
        for here in forms:
            with _asking(here.form.name, found):
                answers = chain.ask(here.form)
                # The base is right to answer otherwise than the trained model.
                is_trained = here.truth is None
                beside = first if is_trained else None
                truth = known if is_trained else known_base
                said = [
                    *_compare_clips(chain, budgets, here, truth, beside),
                    f"accuracy {chain.accuracy(answers):.3f}",
                ]
                noise = _compare_noise(here, answers.noise, chain.temperature, certificate)
                said += [noise] if noise is not None else []
                if noise is not None or truth is not None or _are_two(here, beside):
                    found.tell(here.form.name, "; ".join(said))
                else:
                    found.shrug(here.form.name, "; ".join([*said, _unproved(here, beside)]))
                first = first or (here if is_trained else None)
        if chain.answers and chain.void is not None:
            found.findings.append(Finding("clips", False, f"the proof is void: {chain.void}"))


def _tell_clips(clips: Clips, known: _Known | None, found: Checkup) -> None:
    here = len(clips.readable)
    if known is not None and len(known.rows) == here:
        found.tell("clips", f"{here} clips, all of them of the certificate")
    else:
        found.shrug(
            "clips",
            f"{here} clips, {len(known.rows) if known else 'none'} of them of the certificate; on "
            "others forms are held against each other and not against the trained model",
        )
    for reason in clips.left_out:
        found.shrug("left out", reason)


def _are_two(here: _Here, beside: _Here | None) -> bool:
    """Whether their agreement says something of what they are made of."""
    return beside is not None and beside.made_of != here.made_of


def _unproved(here: _Here, beside: _Here | None) -> str:
    if here.truth is not None:
        return "nothing recorded to hold it against"
    if beside is None:
        return "nothing recorded to hold it against; others are held against it"
    return f"made of the same file as {beside.form.name}, so that proves nothing of the file"


def _compare_clips(
    chain: Chain,
    budgets: Mapping[Precision, Budget],
    here: _Here,
    known: _Known | None,
    beside: _Here | None,
) -> list[str]:
    """Hold a form against the trained model where that is known, and against another form elsewhere.

    Raises:
        FormsDifferError: It answers otherwise, or names other labels.
    """
    links = []
    every = list(range(len(chain.clips.readable)))
    if known is not None:
        links.append(_link(chain, budgets, here, known.answers, known.rows))
    if beside is not None and (known is None or known.rows != every):
        links.append(_link(chain, budgets, here, chain.answers[beside.form.name], every))
    objections = [
        *(sentence for link in links for sentence in link_objections(link)),
        *(line for line in chain.label_objections() if line.startswith(f"{here.form.name} ")),
    ]
    if objections:
        raise FormsDifferError("; ".join(objections))
    return [
        f"same label as {link.forms[0]} on {link.agreement:.1%}, probabilities differ by at most "
        f"{link.largest_probability_difference:.1e}"
        for link in links
    ]


def _link(
    chain: Chain,
    budgets: Mapping[Precision, Budget],
    here: _Here,
    one: Answers,
    rows: list[int],
) -> Link:
    """From other answers, those of some of the clips, to a form's; the lower precision has a say."""
    answers = chain.answers[here.form.name]
    precision = max(one.precision, answers.precision, key=PRECISIONS.index)
    return compare(
        (one.form, here.form.name),
        one.logits,
        answers.logits[rows],
        labels=chain.labels,
        clips=[chain.clips.named[row] for row in rows],
        precision=precision,
        budget=budgets[precision],
        temperature=chain.temperature,
    )


def _recorded(certificate: Certificate, clips: Clips, form: str | None = None) -> _Known | None:
    """What a form, by default the trained model, said of those clips that are, byte for byte, the
    certificate's."""
    name = next(iter(certificate.logits), None) if form is None else form
    logits = certificate.logits.get(name or "", ())
    row_of = {clip.sha256: row for row, clip in enumerate(certificate.proof_clips)}
    found = [(row, row_of.get(clip.sha256)) for row, clip in enumerate(clips.records())]
    rows = {row: recorded for row, recorded in found if recorded is not None}
    if name is None or not logits or not rows:
        return None
    answers = Answers(
        form=name,
        precision="fp32",
        labels=certificate.labels,
        logits=np.array([logits[recorded] for recorded in rows.values()], np.float32),
        noise=np.array(certificate.noise_logits.get(name, ()), np.float32),
    )
    return _Known(answers, list(rows))
