"""The door: open a RUN or a BUNDLE with the backend that was asked for, or say what is missing."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, get_args

from lora_deploy.artifact import bundle, run
from lora_deploy.artifact.adapter_record import is_adapter
from lora_deploy.errors import (
    BackendCannotError,
    NoSuchFormError,
    NotAModelError,
    NoUnmergedFormError,
    UnknownBackendError,
    UnknownFormError,
)
from lora_deploy.extras import import_backend
from lora_deploy.runtime.base import Recogniser
from lora_deploy.runtime.open_bundle import open_bundle
from lora_deploy.runtime.with_torch import Opened, WithTorch

logger = logging.getLogger(__name__)

BackendName = Literal[
    "auto", "onnxruntime", "openvino", "torch", "onnxruntime-cuda", "onnxruntime-tensorrt",
    "onnxruntime-rtx", "tensorrt", "tensorrt-rtx",
]  # fmt: skip
BACKENDS: tuple[str, ...] = get_args(BackendName)

FormName = Literal["auto", "merged", "unmerged", "base"]
FORMS: tuple[str, ...] = get_args(FormName)


def load(
    model: str | Path,
    *,
    backend: str = "auto",
    precision: str = "auto",
    form: str = "auto",
    adapter: str | None = None,
    device: str | None = None,
    batch_size: int = 1,
    is_compiled: bool = False,
    base: str | None = None,
    labels: Sequence[str] | None = None,
) -> Recogniser:
    """Open a trained model.

    Args:
        model: A RUN or a BUNDLE folder, or the folder of an adapter that plain peft wrote.
        backend: ``onnxruntime`` and ``openvino`` (bundles, on the processor), ``torch``; of bundles
            on NVIDIA cards ``tensorrt`` and ``tensorrt-rtx`` (their engines), and
            ``onnxruntime-cuda``, ``onnxruntime-tensorrt`` and ``onnxruntime-rtx``; or ``auto``: for
            a bundle an engine that fits the card here and was proved on real clips, else what it
            was compiled for and is installed, else torch.
        precision: ``fp32`` (and ``auto``), or a lower one that the bundle was proved at: ``fp16``,
            ``bf16``, ``int8``. torch takes ``bf16`` on a card.
        form: ``merged``: the adapter in the weights, as bundles are shipped; ``unmerged``: the
            adapter beside the weights of its base; ``base``: the same with the adapter's update
            switched off and its trained head kept on. ``auto`` is ``unmerged`` for a RUN with an
            adapter and wherever ``adapter`` is given, else ``merged``.
        adapter: Name of one of a bundle's adapters, to be run unmerged, or of which the head is
            kept: by torch where that is installed, else by the bundle's adapter graph
            (``merge-export --adapter-graph``), without PyTorch. May be left out where a bundle has one.
        device: ``cpu``, ``cuda`` or ``cuda:N``; None for the best that the backend runs on.
        batch_size: Clips run at once, always; fewer are padded.
        is_compiled: For torch: whether ``torch.compile`` makes kernels for the one batch shape.
        base: What to put an adapter's folder on, where the adapter does not say it provably.
        labels: Of an adapter's folder that does not name them, in the order of the logits.

    Raises:
        ArtifactError: The folder is none of these, is damaged, or was changed.
        AdapterError: The adapter is torn, or stands on another base.
        LivenessError: The adapter changes no answer.
        BackendError: The backend is unknown or can't run this model, or there is no such form.
        MissingPackageError: The backend's package is not installed.
    """
    folder = Path(model)
    if backend not in BACKENDS:
        raise UnknownBackendError(f"backend {backend!r} is unknown; allowed: {', '.join(BACKENDS)}")
    if form not in FORMS:
        raise UnknownFormError(f"form {form!r} is unknown; allowed: {', '.join(FORMS)}")
    if batch_size < 1:
        raise BackendCannotError(f"batch size is {batch_size}; allowed: 1 or more")
    require_model(folder)
    adapter_alone = not run.is_run(folder) and not bundle.is_bundle(folder)
    if not adapter_alone and (base is not None or labels is not None):
        raise BackendCannotError(
            f"{folder} is no adapter's folder, and brings its base and labels itself; leave --base "
            "and --labels out"
        )
    if bundle.is_bundle(folder):
        return open_bundle(
            folder,
            backend=backend,
            precision=precision,
            form=form,
            adapter=adapter,
            device=device,
            batch_size=batch_size,
            is_compiled=is_compiled,
        )
    if precision not in ("auto", "fp32", "bf16"):
        raise BackendCannotError(
            f"{folder} is no bundle, and runs in fp32, or on a card in bf16, only"
        )
    how = WithTorch(device, batch_size, "bf16" if precision == "bf16" else "fp32", is_compiled)
    return _load_trained(folder, backend, form, adapter, how, base, labels)


def require_model(folder: Path) -> None:
    """See that a folder is one that `load` opens, or has what names it such.

    Raises:
        NotAModelError: It is neither a RUN, nor a BUNDLE, nor the folder of an adapter.
    """
    if bundle.is_bundle(folder) or run.is_run(folder) or is_adapter(folder):
        return
    what = "is neither a RUN nor a BUNDLE folder" if folder.is_dir() else "does not exist"
    raise NotAModelError(
        f"{folder} {what}: one with {run.MANIFEST} or {bundle.MANIFEST} is needed here"
    )


def _load_trained(
    folder: Path,
    backend: str,
    form: str,
    adapter: str | None,
    how: WithTorch,
    base: str | None,
    labels: Sequence[str] | None,
) -> Recogniser:
    """A RUN, or an adapter's folder."""
    is_run = run.is_run(folder)
    what = "RUN" if is_run else "adapter"
    if backend not in ("auto", "torch"):
        raise BackendCannotError(f"{folder} is a {what}, which {backend} can't run")
    if adapter is not None:
        raise BackendCannotError(f"{folder} is a {what} of its own; leave --adapter out")
    trained = import_backend(
        "lora_deploy.runtime.trained", "torch", "transformers", "peft", purpose="to open a RUN"
    )
    how.check()
    opened = (
        trained.open_run(folder)
        if is_run
        else trained.open_adapter(folder, base=base, labels=labels)
    )
    for sentence in opened.unknown:
        logger.warning("not known of %s: %s", folder, sentence)
    as_form = _form_of_trained(folder, opened.kind == "lora", form)
    if as_form == "base":
        adapters = import_backend("lora_deploy.model.adapter", "peft", purpose="to open a base")
        adapters.switch_delta_off(opened.model)
    return Recogniser(
        backend=how.run(Opened(opened.model, opened.contract, as_form)),
        labels=opened.labels,
        contract=opened.contract,
        temperature=1.0,
        unknown_threshold=None,
        digest=opened.digest,
    )


def _form_of_trained(folder: Path, has_adapter: bool, form: str) -> str:
    """What is run of a RUN or an adapter's folder."""
    if not has_adapter:
        if form in ("unmerged", "base"):
            raise NoUnmergedFormError(
                f"{folder} was fine-tuned as a whole, so it has no {form} form: there is no "
                "adapter to leave out"
            )
        return "full"
    if form == "merged":
        raise NoSuchFormError(f"{folder} is not merged yet; it has: unmerged, base")
    return "unmerged" if form == "auto" else form
