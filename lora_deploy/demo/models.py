"""The models that are served: each form opened once, only so many kept open, and what each says of itself."""

import threading
from collections import Counter, OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from lora_deploy import regular
from lora_deploy.artifact import bundle, run
from lora_deploy.artifact.manifest import manifest_digest
from lora_deploy.clips.contract import PixelContract
from lora_deploy.demo.forms import Choice, Form, Source, forms_of
from lora_deploy.errors import NoSuchChoiceError, ProviderFellBackError
from lora_deploy.processor import read_processor
from lora_deploy.runtime.base import Backend, Recogniser
from lora_deploy.runtime.load import load

__all__ = ["MOST_OPENED", "About", "Choice", "Choices", "Form"]

MOST_OPENED = 2
"""How many are kept open by default; each holds a model in memory."""


@dataclass(frozen=True)
class About:
    """What a model says of itself."""

    model: str
    """Its name among those that are served."""
    kind: Literal["RUN", "BUNDLE"]
    labels: tuple[str, ...]
    """In the order of the logits."""
    contract: PixelContract
    base: str
    """What it was trained on, as its trainer named it."""
    licence: str | None
    """Of the base's weights, as their card states it."""
    certificate: Path | None
    """The page of a bundle's certificate, its hash checked; None for a RUN."""
    card: str | None
    """The model card, as Markdown of whoever made the model: a stranger's words."""
    versions: Mapping[str, str]
    """Of the packages that made it."""
    digest: str


class Choices:
    """Every form of the models that are served; safe to be used by many threads."""

    def __init__(self, models: Sequence[Path], *, most_opened: int = MOST_OPENED) -> None:
        """Read manifests; nothing heavy is imported or opened before `open`.

        Args:
            models: RUN and BUNDLE folders, at least one; one that is named twice is served once.
            most_opened: So many are kept open; before another is opened, the one that was not
                asked for longest is let go. What somebody still uses stays in memory till then.

        Raises:
            ArtifactError: A folder is neither, or its manifest is damaged.
        """
        folders = list(dict.fromkeys(_place(Path(model)) for model in models))
        if not folders:
            raise ValueError("no model was named")
        self._models = dict(zip(_names(folders), folders, strict=True))
        self._sources: dict[str, Source] = {}
        found: list[Choice] = []
        processor = read_processor()
        for name, folder in self._models.items():
            before = f"{name}: " if len(folders) > 1 else ""
            offers, full_names = forms_of(folder, processor)
            for choice, source in offers:
                named = replace(choice, name=before + choice.name, title=before + choice.title)
                found.append(named)
                self._sources[named.name] = source
            for full_name, source in full_names.items():
                self._sources[before + full_name] = source
        self.all: tuple[Choice, ...] = tuple(found)
        self._most_opened = max(1, most_opened)
        self._opened: OrderedDict[tuple[object, ...], Recogniser] = OrderedDict()
        self._opening = 0
        self._state = threading.Condition()
        self._locks = {source.key: threading.Lock() for source in self._sources.values()}

    @property
    def default(self) -> Choice:
        """The first that can be run here; the first of all if none can."""
        return next((choice for choice in self.all if choice.missing is None), self.all[0])

    def open(self, name: str) -> Recogniser:
        """Open a form, warm it with one clip of zeros, and keep it; never another than was asked for.

        Its answers are computed for one caller at a time.

        Args:
            name: Of a `Choice`; or a form's backend and precision, as in ``onnxruntime-fp32``,
                ``torch-fp32``, ``unmerged-torch``, ``base-onnxruntime``, whatever ``merged``,
                ``unmerged`` and ``base`` are here.

        Raises:
            NoSuchChoiceError: Nothing is called so.
            LoraDeployError: It can't be opened here, or is not what its manifest says.
        """
        source = self._source(name)
        with self._locks[source.key]:
            with self._state:
                if source.key in self._opened:
                    self._opened.move_to_end(source.key)
                    return self._opened[source.key]
                self._state.wait_for(lambda: self._opening < self._most_opened)
                self._opening += 1
                while self._opened and len(self._opened) + self._opening > self._most_opened:
                    self._opened.popitem(last=False)
            try:
                recogniser = _opened(source)
                with self._state:
                    self._opened[source.key] = recogniser
                return recogniser
            finally:
                with self._state:
                    self._opening -= 1
                    self._state.notify_all()

    def about(self, name: str) -> About:
        """What the model of a choice says of itself.

        Raises:
            NoSuchChoiceError: Nothing is called so.
            ArtifactError: Its certificate or card is not the one that its manifest vouches for.
        """
        folder = self._source(name).folder
        model = next(known for known, where in self._models.items() if where == folder)
        if bundle.is_bundle(folder):
            return _about_bundle(model, folder)
        return _about_run(model, folder)

    def _source(self, name: str) -> Source:
        if name not in self._sources:
            raise NoSuchChoiceError(
                f"no form is called {name!r:.80}; there is: "
                f"{', '.join(choice.name for choice in self.all)}"
            )
        return self._sources[name]


class _OneAtATime:
    """A backend whose answers are computed for one caller at a time: some can't do more, and several
    clips at once would each take their own memory."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._lock = threading.Lock()

    @property
    def name(self) -> str:
        return self._backend.name

    @property
    def form(self) -> str:
        return self._backend.form

    @property
    def batch_size(self) -> int:
        return self._backend.batch_size

    def logits(self, pixel_values: NDArray[np.float32]) -> NDArray[np.float32]:
        with self._lock:
            return self._backend.logits(pixel_values)


def _opened(source: Source) -> Recogniser:
    recogniser = load(source.folder, **source.options)
    asked = (source.options["backend"], source.form)
    found = (recogniser.backend.name, recogniser.backend.form)
    if found != asked:
        raise ProviderFellBackError(
            f"{' '.join(found)} was opened where {' '.join(asked)} was asked for"
        )
    recogniser = replace(recogniser, backend=_OneAtATime(recogniser.backend))
    recogniser.logits(np.zeros((1, *recogniser.contract.frames_shape), np.uint8))
    return recogniser


def _place(model: Path) -> Path:
    """Without dots, and under the name that it was given: it may be a link to another."""
    return model.parent.resolve() / model.name if model.name.strip(".") else model.resolve()


def _names(folders: Sequence[Path]) -> list[str]:
    """A name for each model that no other has: its folder's, with those above where two are alike."""
    names = [folder.name or "model" for folder in folders]
    for length in range(2, max(len(folder.parts) for folder in folders) + 1):
        repeated = {name for name, times in Counter(names).items() if times > 1}
        names = [
            "/".join(folder.parts[1:][-length:]) if name in repeated else name
            for name, folder in zip(names, folders, strict=True)
        ]
    return names


def _about_bundle(model: str, folder: Path) -> About:
    manifest = bundle.read_bundle_manifest(folder)
    for name in (bundle.CERTIFICATE_PAGE, bundle.CARD):
        if name in manifest.files:
            bundle.verify_file(folder, manifest, name)
    page = folder / bundle.CERTIFICATE_PAGE if bundle.CERTIFICATE_PAGE in manifest.files else None
    return About(
        model=model,
        kind="BUNDLE",
        labels=manifest.labels,
        contract=manifest.contract,
        base=manifest.base.id,
        licence=manifest.base.licence,
        certificate=page,
        card=_text(folder / bundle.CARD) if bundle.CARD in manifest.files else None,
        versions=manifest.versions,
        digest=manifest_digest(folder / bundle.MANIFEST),
    )


def _about_run(model: str, folder: Path) -> About:
    manifest = run.read_run_manifest(folder)
    card = f"{run.ADAPTER}/README.md"
    if card in manifest.weights:
        run.verify_weights(folder, manifest, card)
    return About(
        model=model,
        kind="RUN",
        labels=manifest.labels,
        contract=manifest.contract,
        base=manifest.base.id,
        licence=manifest.base.licence,
        certificate=None,
        card=_text(folder / card) if card in manifest.weights else None,
        versions=manifest.versions,
        digest=manifest_digest(folder / run.MANIFEST),
    )


def _text(path: Path) -> str | None:
    try:
        return regular.read_text(path)
    except (OSError, ValueError):
        return None
