"""What is wrong with a RUN, a BUNDLE or an adapter's folder: every part is looked at, whatever the one before it said."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from math import prod
from pathlib import Path
from typing import Any, Literal

import numpy as np

from lora_deploy.artifact import adapter_record, bundle, run
from lora_deploy.artifact.adapter_record import is_adapter
from lora_deploy.artifact.bundle import BundleManifest, Engine
from lora_deploy.artifact.manifest import read_json
from lora_deploy.artifact.run import RunManifest
from lora_deploy.errors import (
    CountsDifferError,
    HeadMissingError,
    LoraDeployError,
    MissingPackageError,
    NotAModelError,
    PrecisionNotHereError,
)
from lora_deploy.extras import import_backend, is_installed, require
from lora_deploy.versions import installed_versions

Kind = Literal["RUN", "BUNDLE", "adapter"]


@dataclass(frozen=True)
class Finding:
    """What was found out about one part."""

    part: str
    passed: bool | None
    """None where it can't be told."""
    text: str
    error: str | None = None
    """The error's name, as the documentation lists it."""


@dataclass
class Checkup:
    """What was found out about a folder."""

    path: str
    kind: Kind
    findings: list[Finding] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """Whether nothing is wrong; what can't be told is not wrong."""
        return all(finding.passed is not False for finding in self.findings)

    def as_dict(self) -> dict[str, Any]:
        """Plain types, for ``--json``."""
        return {**asdict(self), "passed": self.passed}

    def tell(self, part: str, text: str) -> None:
        """Note that a part is as it should be."""
        self.findings.append(Finding(part, True, text))

    def shrug(self, part: str, text: str) -> None:
        """Note that something can't be told."""
        self.findings.append(Finding(part, None, text))

    @contextmanager
    def looking_at(self, part: str) -> Iterator[None]:
        """What the block raises is a finding, and the next part is looked at all the same."""
        try:
            yield
        except MissingPackageError as error:
            self.shrug(part, f"not looked at: {error}")
        except LoraDeployError as error:
            self.findings.append(Finding(part, False, str(error), error.name))
        except Exception as error:  # one odd part must not cost the report
            said = f"can't be looked at: {type(error).__name__}: {str(error)[:200]}"
            self.findings.append(Finding(part, False, said))


def check(path: Path, *, base: str | None = None, labels: Sequence[str] | None = None) -> Checkup:
    """Look at every part of a folder.

    Args:
        path: A RUN, a BUNDLE, or an adapter's folder, made by this program or by plain peft.
        base: What to put an adapter on, where it does not say it provably.
        labels: Of an adapter that does not name them, in the order of the logits.

    Raises:
        NotAModelError: It is none of these.
    """
    if bundle.is_bundle(path):
        found = Checkup(str(path), "BUNDLE")
        _look_at_bundle(path, found)
        return found
    if run.is_run(path):
        found = Checkup(str(path), "RUN")
        _look_at_run(path, found)
        return found
    if not is_adapter(path):
        raise NotAModelError(
            f"{path} holds no {run.MANIFEST}, {bundle.MANIFEST} or {adapter_record.ADAPTER_CONFIG}"
        )
    found = Checkup(str(path), "adapter")
    _look_at_adapter(path, found, base, labels)
    return found


def _look_at_run(folder: Path, found: Checkup) -> None:
    with found.looking_at("manifest"):
        manifest = run.read_run_manifest(folder)
        state = "finished" if manifest.finished else "NOT finished: the best epoch so far"
        found.tell(
            "manifest",
            f"{manifest.kind} on {manifest.base.id}, {len(manifest.labels)} labels, best epoch "
            f"{manifest.best.epoch}, {state}",
        )
        with found.looking_at("files"):
            for name in manifest.weights:
                run.verify_weights(folder, manifest, name)
            found.tell(
                "files", f"{len(manifest.weights)} files of weights are as training left them"
            )
        if manifest.kind == "lora":
            _tell_adapter(folder / run.ADAPTER, found)
    with found.looking_at("model"):
        trained = _trained_stage().open_run(folder)
        _tell_opened(trained, found)
        with found.looking_at("counts"):
            manifest = run.read_run_manifest(folder)
            found.tell("counts", _counted(trained.model, manifest))


def _counted(model: Any, manifest: RunManifest) -> str:
    """What the opened model has, where that is what ``run.json`` claims.

    Raises:
        CountsDifferError: It is not.
    """
    counting = import_backend("lora_deploy.model.adapter", "peft", purpose="to count parameters")
    counts = counting.count(model, manifest.head_modules)
    for part, counted in (("total", counts.total), ("lora", counts.lora), ("head", counts.head)):
        claimed = manifest.parameters.get(part)
        if claimed != counted:
            raise CountsDifferError(
                f"{run.MANIFEST} claims {claimed} parameters ({part}), the model has {counted}"
            )
    return (
        f"{counts.total:,} parameters, {counts.lora:,} of LoRA and {counts.head:,} of the head, "
        f"as {run.MANIFEST} claims"
    )


def _look_at_bundle(folder: Path, found: Checkup) -> None:
    with found.looking_at("manifest"):
        manifest = bundle.read_bundle_manifest(folder)
        found.tell(
            "manifest",
            f"{_forms_of(manifest)}, made from {manifest.base.id}, {len(manifest.labels)} labels",
        )
        with found.looking_at("files"):
            bundle.verify_files(folder, manifest)
            found.tell("files", f"{len(manifest.files)} files are as they were shipped")
        _tell_certificate(folder, found)
        for form in manifest.forms:
            _tell_form(folder, found, form.name, form.backend, form.precision)
        for engine in manifest.engines:
            found.shrug(engine.name, _known_of(engine))
        if (folder / bundle.MODEL).is_dir():
            _tell_form(folder, found, "torch", "torch", "fp32")
        for name in manifest.adapters:
            _tell_adapter_graph(folder, manifest, name, found)
            _tell_adapter(folder / bundle.ADAPTERS / name, found, f"adapter {name}")
            with found.looking_at(f"adapter {name}"):
                _, liveness = _trained_stage().open_on_base(
                    folder / bundle.ADAPTERS / name,
                    manifest.base,
                    manifest.labels,
                    manifest.contract,
                )
                found.tell(f"adapter {name}", _alive(liveness))


def _known_of(engine: Engine) -> str:
    """What is known of an engine without its card."""
    there = installed_versions().get(engine.flavour)
    if there is None:
        here = "which is not installed"
    elif there == engine.version:
        here = "which is installed"
    else:
        here = f"and {there} is installed"
    ran = "built, not run"
    if engine.ran is not None:
        within = "within" if engine.ran.passed else "NOT within"
        on = f"{engine.ran.clips} clips" if engine.ran.clips else "noise alone"
        ran = f"run on {engine.ran.card}, {engine.ran.date}, {within} budget on {on}"
    return (
        f"{ran}; not looked at: it opens on a card of {engine.target} alone, with {engine.flavour} "
        f"{engine.version}, {here}"
    )


def _forms_of(manifest: BundleManifest) -> str:
    forms = ", ".join(form.name for form in manifest.forms) or "no compiled form"
    if not manifest.engines:
        return forms
    return f"{forms}, engines {', '.join(engine.name for engine in manifest.engines)}"


def _tell_form(folder: Path, found: Checkup, part: str, backend: str, precision: str) -> None:
    """Whether one form of a bundle opens and answers, where its runtime is here."""
    if not is_installed(backend):
        found.shrug(part, f"not looked at: {backend} is not installed")
        return
    with found.looking_at(part):
        load = import_backend("lora_deploy.runtime.load", purpose="to open a bundle").load
        try:
            recogniser = load(folder, backend=backend, precision=precision)
        except PrecisionNotHereError as error:  # true of this computer, not of the bundle
            found.shrug(part, f"not looked at: {error.found}")
            return
        _check_answer(recogniser)
        found.tell(
            part,
            "opens, with the labels and pixels of the manifest, and answers with "
            f"{len(recogniser.labels)} numbers",
        )


def _tell_adapter_graph(
    folder: Path, manifest: BundleManifest, adapter: str, found: Checkup
) -> None:
    """Whether the graph that takes adapters opens with one and answers, where there is such a graph."""
    part = "adapter graph"
    if bundle.ADAPTER_GRAPH not in manifest.files:
        return
    if not is_installed("onnxruntime"):
        found.shrug(part, "not looked at: onnxruntime is not installed")
        return
    with found.looking_at(part):
        load = import_backend("lora_deploy.runtime.load", purpose="to open a bundle").load
        for form in ("unmerged", "base"):
            _check_answer(load(folder, backend="onnxruntime", form=form, adapter=adapter))
        found.tell(part, f"opens and answers, with the adapter {adapter} and without its update")


def _check_answer(recogniser: Any) -> None:
    """See one clip of grey through a model.

    Raises:
        AnswersNotFiniteError: It answers NaN or infinity.
        CountsDifferError: It gives more or fewer numbers than there are labels.
    """
    contract = recogniser.contract
    grey = np.full((1, *contract.frames_shape), 127, np.uint8)
    logits = recogniser.logits(grey)[0]
    recogniser.predict(logits, top_k=1, duration_seconds=0.0, warning=None)


def _tell_certificate(folder: Path, found: Checkup) -> None:
    path = folder / bundle.CERTIFICATE
    try:
        certificate = read_json(path)
        clips = int(certificate["clips"])
        passed = certificate["passed"] is True and clips > 0
        by_schema = "proof_clips" if "proof_clips" in certificate else "clip_names"
        named = len(certificate[by_schema])
    except (OSError, ValueError, KeyError, TypeError, OverflowError):
        found.findings.append(
            Finding("certificate", False, f"{path} can't be read; copy or make the bundle again")
        )
        return
    with found.looking_at("certificate"):
        if named != clips:
            raise CountsDifferError(f"{path} claims {clips} clips and names {named}")
        text = f"what was run was compared on {clips} clips"
        found.findings.append(Finding("certificate", passed, text))


def _look_at_adapter(
    folder: Path, found: Checkup, base: str | None, labels: Sequence[str] | None
) -> None:
    record = None
    with found.looking_at("record"):
        record = adapter_record.read_record(folder)
        if record is None:
            found.shrug("record", f"another program made it; {_named_base(folder)}")
        else:
            found.tell("record", f"trained on {record.base.id}, labels {', '.join(record.labels)}")
    _tell_adapter(folder, found)
    if record is None and base is None:
        found.shrug("alive", "not proved: name its base with --base")
        return
    with found.looking_at("model"):
        trained = _trained_stage().open_adapter(folder, base=base, labels=labels)
        _tell_opened(trained, found)
        for sentence in trained.unknown:
            found.shrug("unknown", sentence)


def _named_base(folder: Path) -> str:
    try:
        config = read_json(folder / adapter_record.ADAPTER_CONFIG)
        named = config.get("base_model_name_or_path")
    except (OSError, ValueError, AttributeError):
        named = None
    if not named:
        return "it names no base"
    return f"it names {named!r} as its base, which nothing proves, and which is not followed"


def _tell_adapter(folder: Path, found: Checkup, part: str = "adapter") -> None:
    """Its layers and its head, from the files alone."""
    with found.looking_at(part):
        require("torch", "peft", purpose="to look at an adapter")
        adapter = import_backend(
            "lora_deploy.model.adapter_files", "peft", purpose="to read an adapter"
        )
        adapter.check_is_adapter(folder)
        config = adapter.read_adapter_config(folder / adapter_record.ADAPTER_CONFIG)
        sizes = {name: prod(shape) for name, shape in adapter_record.tensor_shapes(folder).items()}
        kinds = Counter(
            re.sub(r"^.*\.\d+\.", "", name.partition(".lora_B")[0])
            for name in sizes
            if ".lora_B" in name
        )
        layers = ", ".join(f"{count}× {kind}" for kind, count in kinds.items())
        lora = sum(size for name, size in sizes.items() if ".lora_" in name)
        head = _head_of(sizes, config.modules_to_save or ())
        found.tell(
            part,
            f"{_kind(config)}, r {_numbers(config.r, config.rank_pattern)}, lora_alpha "
            f"{_numbers(config.lora_alpha, config.alpha_pattern)}, on {layers or 'no layer'} "
            f"({lora:,} parameters); head: {head}",
        )


def _kind(config: Any) -> str:
    kind = "DoRA" if config.use_dora else "LoRA"
    return f"rs{kind}" if config.use_rslora else kind


def _numbers(usual: float, pattern: Mapping[str, float]) -> str:
    """As in ``8 (16 on 4 layers)``."""
    others = ", ".join(
        f"{number:g} on {layers} layers" for number, layers in Counter(pattern.values()).items()
    )
    return f"{usual:g}" + (f" ({others})" if others else "")


def _head_of(sizes: Mapping[str, int], named: Sequence[str]) -> str:
    """Which modules the file holds whole, and how many parameters they have.

    Raises:
        HeadMissingError: The configuration names a module, and the file holds nothing of it.
    """
    whole = {
        name.removeprefix("base_model.model."): size
        for name, size in sizes.items()
        if ".lora_" not in name
    }
    for module in named:
        if not any(f".{module}." in f".{name}" for name in whole):
            raise HeadMissingError(
                f"{adapter_record.ADAPTER_CONFIG} names {module} as saved, and "
                f"{adapter_record.ADAPTER_WEIGHTS} holds nothing of it"
            )
    modules = dict.fromkeys(name.rpartition(".")[0] for name in whole)
    if not modules:
        return "none"
    return f"{', '.join(modules)} ({sum(whole.values()):,} parameters)"


def _tell_opened(trained: Any, found: Checkup) -> None:
    found.tell("model", f"opens on {trained.base.id}, fingerprint {trained.base.fingerprint[:19]}…")
    if trained.liveness is not None:
        found.tell("alive", _alive(trained.liveness))


def _alive(liveness: Any) -> str:
    return (
        f"the adapter is alive in all {liveness.layers} layers: switching it off changes logits by "
        f"{liveness.on_off_difference:.2g}, merging it by {liveness.merge_difference:.1g}"
    )


def _trained_stage() -> Any:
    return import_backend(
        "lora_deploy.runtime.trained", "torch", "transformers", "peft",
        purpose="to open a model and prove it alive",
    )  # fmt: skip
