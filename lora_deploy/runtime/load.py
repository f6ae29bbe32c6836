"""The door: open a RUN or a BUNDLE with the backend that was asked for, or say what is missing."""

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, get_args

from lora_deploy.artifact import bundle, run
from lora_deploy.artifact.adapter_record import is_adapter
from lora_deploy.artifact.bundle import BundleManifest
from lora_deploy.artifact.manifest import manifest_digest
from lora_deploy.clips.contract import PixelContract
from lora_deploy.errors import (
    BackendCannotError,
    GraphDisagreesError,
    GraphError,
    LabelOrderError,
    NotAModelError,
    UnknownBackendError,
)
from lora_deploy.extras import import_backend, is_installed
from lora_deploy.runtime.base import Backend, Recogniser

logger = logging.getLogger(__name__)

BackendName = Literal["auto", "onnxruntime", "torch"]
BACKENDS: tuple[str, ...] = get_args(BackendName)


def load(
    model: str | Path,
    *,
    backend: str = "auto",
    adapter: str | None = None,
    device: str | None = None,
    batch_size: int = 1,
    base: str | None = None,
    labels: Sequence[str] | None = None,
) -> Recogniser:
    """Open a trained model.

    Args:
        model: A RUN or a BUNDLE folder, or the folder of an adapter that plain peft wrote.
        backend: ``onnxruntime`` (bundles), ``torch``, or ``auto``: onnxruntime for a bundle where
            it is installed, else torch.
        adapter: Name of one of a bundle's adapters, to run it unmerged on its base (torch).
        device: For torch: ``cpu``, ``cuda``, or None for the best there is.
        batch_size: Clips run at once, always; fewer are padded.
        base: What to put an adapter's folder on, where the adapter does not say it provably.
        labels: Of an adapter's folder that does not name them, in the order of the logits.

    Raises:
        ArtifactError: The folder is none of these, is damaged, or was changed.
        AdapterError: The adapter is torn, or stands on another base.
        LivenessError: The adapter changes no answer.
        BackendError: The backend is unknown or can't run this model.
        MissingPackageError: The backend's package is not installed.
    """
    folder = Path(model)
    if backend not in BACKENDS:
        raise UnknownBackendError(f"backend {backend!r} is unknown; allowed: {', '.join(BACKENDS)}")
    if batch_size < 1:
        raise BackendCannotError(f"batch size is {batch_size}; allowed: 1 or more")
    adapter_alone = is_adapter(folder) and not run.is_run(folder) and not bundle.is_bundle(folder)
    if not adapter_alone and (base is not None or labels is not None):
        raise BackendCannotError(
            f"{folder} is no adapter's folder, and brings its base and labels itself; leave --base "
            "and --labels out"
        )
    if bundle.is_bundle(folder):
        return _load_bundle(folder, backend, adapter, device, batch_size)
    if run.is_run(folder) or adapter_alone:
        return _load_trained(folder, backend, adapter, device, batch_size, base, labels)
    raise _not_a_model(folder)


def _not_a_model(folder: Path) -> NotAModelError:
    what = "is neither a RUN nor a BUNDLE folder" if folder.is_dir() else "does not exist"
    return NotAModelError(
        f"{folder} {what}: one with {run.MANIFEST} or {bundle.MANIFEST} is needed here"
    )


def _load_bundle(
    folder: Path, backend: str, adapter: str | None, device: str | None, batch_size: int
) -> Recogniser:
    manifest = bundle.read_bundle_manifest(folder)
    if backend == "auto":
        torch_asked = adapter is not None or not is_installed("onnxruntime")
        backend = "torch" if torch_asked and is_installed("torch") else "onnxruntime"
    if backend == "onnxruntime":
        if adapter is not None:
            raise BackendCannotError(
                "an adapter is run unmerged by torch only; leave --adapter out, or install "
                '"lora-deploy[train]" and use --backend torch'
            )
        opened: Backend = _open_onnx(folder, manifest, batch_size)
    else:
        opened = _open_torch_bundle(folder, manifest, adapter, device, batch_size)
    return Recogniser(
        backend=opened,
        labels=manifest.labels,
        contract=manifest.contract,
        temperature=manifest.temperature,
        digest=manifest_digest(folder / bundle.MANIFEST),
    )


def _open_onnx(folder: Path, manifest: BundleManifest, batch_size: int) -> Backend:
    ort = import_backend("lora_deploy.runtime.ort", "onnxruntime", purpose="to run ONNX files")
    graph = bundle.verified_bytes(folder, manifest, bundle.ONNX)
    opened: Any = ort.OnnxRuntimeBackend(graph, batch_size=batch_size)
    _check_metadata(opened.metadata, manifest)
    backend: Backend = opened
    return backend


def _check_metadata(metadata: dict[str, str], manifest: BundleManifest) -> None:
    """The graph and the manifest must speak of the same labels and pixels."""
    try:
        labels = json.loads(metadata["labels"])
        contract = PixelContract.model_validate_json(metadata["pixel_contract"])
    except (KeyError, ValueError):
        raise GraphError(f"{bundle.ONNX} does not say its labels and pixel contract") from None
    if labels != list(manifest.labels):
        raise LabelOrderError(
            f"{bundle.ONNX} was exported for the labels {labels}; {bundle.MANIFEST} says "
            f"{list(manifest.labels)}"
        )
    if contract != manifest.contract:
        raise GraphDisagreesError(
            f"{bundle.ONNX} and {bundle.MANIFEST} disagree on the pixel contract"
        )


def _open_torch_bundle(
    folder: Path,
    manifest: BundleManifest,
    adapter: str | None,
    device: str | None,
    batch_size: int,
) -> Backend:
    eager = import_backend(
        "lora_deploy.runtime.eager", "torch", "transformers", "peft", purpose="to run with PyTorch"
    )
    if adapter is None:
        if not (folder / bundle.MODEL).is_dir():
            raise BackendCannotError(
                f"{folder} has no {bundle.MODEL}/ for torch; use --backend onnxruntime"
            )
        bundle.verify_files(folder, manifest, under=bundle.MODEL)
        model, form = eager.open_merged(folder / bundle.MODEL, manifest.labels), "merged"
    else:
        if adapter not in manifest.adapters:
            raise BackendCannotError(
                f"{folder} has no adapter {adapter!r}; it has: {', '.join(manifest.adapters) or 'none'}"
            )
        under = f"{bundle.ADAPTERS}/{adapter}"
        bundle.verify_files(folder, manifest, under=under)
        trained = import_backend(
            "lora_deploy.runtime.trained", "torch", purpose="to open an adapter"
        )
        model, _ = trained.open_on_base(
            folder / under, manifest.base, manifest.labels, manifest.contract
        )
        form = "unmerged"
    opened: Backend = eager.TorchBackend(
        model, form=form, batch_size=batch_size, device=_device(device)
    )
    return opened


def _load_trained(
    folder: Path,
    backend: str,
    adapter: str | None,
    device: str | None,
    batch_size: int,
    base: str | None,
    labels: Sequence[str] | None,
) -> Recogniser:
    """A RUN, or an adapter's folder."""
    is_run = run.is_run(folder)
    what = "RUN" if is_run else "adapter"
    if backend == "onnxruntime":
        raise BackendCannotError(f"{folder} is a {what}, which onnxruntime can't run")
    if adapter is not None:
        raise BackendCannotError(f"{folder} is a {what} of its own; leave --adapter out")
    trained = import_backend(
        "lora_deploy.runtime.trained", "torch", "transformers", "peft", purpose="to open a RUN"
    )
    opened = (
        trained.open_run(folder)
        if is_run
        else trained.open_adapter(folder, base=base, labels=labels)
    )
    for sentence in opened.unknown:
        logger.warning("not known of %s: %s", folder, sentence)
    eager = import_backend("lora_deploy.runtime.eager", "torch", purpose="to run with PyTorch")
    torch_backend: Backend = eager.TorchBackend(
        opened.model,
        form="unmerged" if opened.kind == "lora" else "full",
        batch_size=batch_size,
        device=_device(device),
    )
    return Recogniser(
        backend=torch_backend,
        labels=opened.labels,
        contract=opened.contract,
        temperature=1.0,
        digest=opened.digest,
    )


def _device(name: str | None) -> Any:
    return import_backend("lora_deploy.device", "torch", purpose="to run with PyTorch").choose(name)
