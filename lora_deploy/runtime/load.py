"""The door: open a RUN or a BUNDLE with the backend that was asked for, or say what is missing."""

import json
from pathlib import Path
from typing import Any, Literal, get_args

from lora_deploy.artifact import bundle, run
from lora_deploy.artifact.bundle import BundleManifest
from lora_deploy.artifact.manifest import manifest_digest
from lora_deploy.clips.contract import PixelContract
from lora_deploy.errors import ArtifactError, BackendError
from lora_deploy.extras import import_backend, is_installed
from lora_deploy.runtime.base import Backend, Recogniser

BackendName = Literal["auto", "onnxruntime", "torch"]
BACKENDS: tuple[str, ...] = get_args(BackendName)


def load(
    model: str | Path,
    *,
    backend: str = "auto",
    adapter: str | None = None,
    device: str | None = None,
    batch_size: int = 1,
) -> Recogniser:
    """Open a trained model.

    Args:
        model: A RUN or a BUNDLE folder.
        backend: ``onnxruntime`` (bundles), ``torch``, or ``auto``: onnxruntime for a bundle where
            it is installed, else torch.
        adapter: Name of one of a bundle's adapters, to run it unmerged on its base (torch).
        device: For torch: ``cpu``, ``cuda``, or None for the best there is.
        batch_size: Clips run at once, always; fewer are padded.

    Raises:
        ArtifactError: The folder is neither, is damaged, or was changed.
        BackendError: The backend is unknown or can't run this model.
        MissingPackageError: The backend's package is not installed.
    """
    folder = Path(model)
    if backend not in BACKENDS:
        raise BackendError(f"backend {backend!r} is unknown; allowed: {', '.join(BACKENDS)}")
    if batch_size < 1:
        raise BackendError(f"batch size is {batch_size}; allowed: 1 or more")
    if bundle.is_bundle(folder):
        return _load_bundle(folder, backend, adapter, device, batch_size)
    if run.is_run(folder):
        return _load_run(folder, backend, adapter, device, batch_size)
    what = "is neither a RUN nor a BUNDLE folder" if folder.is_dir() else "does not exist"
    raise ArtifactError(
        f"{folder} {what}; give a folder that `lora-deploy train` or `merge-export` left "
        f"(one with {run.MANIFEST} or {bundle.MANIFEST})"
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
            raise BackendError(
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
        raise ArtifactError(
            f"{bundle.ONNX} does not say its labels and pixel contract; make the bundle again"
        ) from None
    if labels != list(manifest.labels):
        raise ArtifactError(
            f"{bundle.ONNX} was exported for the labels {labels}; {bundle.MANIFEST} says "
            f"{list(manifest.labels)}: make the bundle again"
        )
    if contract != manifest.contract:
        raise ArtifactError(
            f"{bundle.ONNX} and {bundle.MANIFEST} disagree on the pixel contract; "
            "make the bundle again"
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
            raise BackendError(
                f"{folder} has no {bundle.MODEL}/ for torch; use --backend onnxruntime"
            )
        bundle.verify_files(folder, manifest, under=bundle.MODEL)
        model, form = eager.open_merged(folder / bundle.MODEL), "merged"
    else:
        if adapter not in manifest.adapters:
            raise BackendError(
                f"{folder} has no adapter {adapter!r}; it has: {', '.join(manifest.adapters) or 'none'}"
            )
        under = f"{bundle.ADAPTERS}/{adapter}"
        bundle.verify_files(folder, manifest, under=under)
        model = eager.open_unmerged(folder / under, manifest.base, manifest.labels)
        form = "unmerged"
    opened: Backend = eager.TorchBackend(
        model, form=form, batch_size=batch_size, device=_device(device)
    )
    return opened


def _load_run(
    folder: Path, backend: str, adapter: str | None, device: str | None, batch_size: int
) -> Recogniser:
    if backend == "onnxruntime":
        raise BackendError(
            f"{folder} is a RUN, which onnxruntime can't run; make a bundle of it: "
            f"lora-deploy merge-export {folder} --out BUNDLE"
        )
    if adapter is not None:
        raise BackendError(f"{folder} is a RUN with one adapter of its own; leave --adapter out")
    manifest = run.read_run_manifest(folder)
    eager = import_backend(
        "lora_deploy.runtime.eager", "torch", "transformers", "peft", purpose="to open a RUN"
    )
    model = eager.open_run_model(folder, manifest)
    opened: Backend = eager.TorchBackend(
        model,
        form="unmerged" if manifest.kind == "lora" else "full",
        batch_size=batch_size,
        device=_device(device),
    )
    return Recogniser(
        backend=opened,
        labels=manifest.labels,
        contract=manifest.contract,
        temperature=1.0,
        digest=manifest_digest(folder / run.MANIFEST),
    )


def _device(name: str | None) -> Any:
    return import_backend("lora_deploy.device", "torch", purpose="to run with PyTorch").choose(name)
