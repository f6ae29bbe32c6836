"""A BUNDLE opened with the backend and the precision that were asked for, each file checked first."""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from lora_deploy.artifact import bundle
from lora_deploy.artifact.bundle import (
    COMPILERS,
    PRECISIONS,
    BundleManifest,
    CompiledForm,
    Compiler,
    Precision,
)
from lora_deploy.artifact.handing import handed
from lora_deploy.artifact.manifest import manifest_digest
from lora_deploy.errors import (
    AdapterGraphMissingError,
    BackendCannotError,
    NoSuchAdapterError,
    NoSuchFormError,
    NoUnmergedFormError,
)
from lora_deploy.extras import import_backend, is_installed
from lora_deploy.runtime import own_cache
from lora_deploy.runtime.base import Backend, Recogniser
from lora_deploy.runtime.frugal import frugal_opening
from lora_deploy.runtime.graph_notes import check_notes, tell_of_sums
from lora_deploy.runtime.open_engine import open_for_card, open_proved
from lora_deploy.runtime.open_provider import open_on_provider
from lora_deploy.runtime.providers import PROVIDER_BACKENDS
from lora_deploy.runtime.tensorrt_api import FLAVOURS
from lora_deploy.runtime.with_torch import TORCH_PACKAGES, Opened, WithTorch

logger = logging.getLogger(__name__)

_RUNS = {
    "onnxruntime": "to run ONNX files",
    "openvino": "to run ONNX files with OpenVINO",
}

FASTEST_FIRST: dict[Precision, tuple[Compiler, ...]] = {
    "fp32": ("onnxruntime", "openvino"),
    "fp16": ("onnxruntime", "openvino"),
    "bf16": ("openvino",),
    "int8": ("openvino", "onnxruntime"),
}
"""Whom ``--backend auto`` asks first; measured, see docs/forms.md."""


def open_bundle(
    folder: Path,
    *,
    backend: str,
    precision: str,
    form: str,
    adapter: str | None,
    device: str | None,
    batch_size: int,
    is_compiled: bool = False,
) -> Recogniser:
    """Open a BUNDLE; arguments as `lora_deploy.runtime.load.load`.

    Raises:
        LoraDeployError: As there.
    """
    manifest = bundle.read_bundle_manifest(folder)
    how = WithTorch(device, batch_size, _precision(precision), is_compiled)
    if how.is_compiled and backend != "torch":
        raise BackendCannotError("only torch compiles a model when it is opened: --backend torch")
    unmerged = _unmerged(folder, manifest, form, adapter)
    if unmerged is not None:
        opened = _open_unmerged(folder, manifest, unmerged, backend, how)
    else:
        opened = _open_merged(folder, manifest, backend, how)
    return as_recogniser(folder, manifest, opened)


def _open_merged(folder: Path, manifest: BundleManifest, backend: str, how: WithTorch) -> Backend:
    """The merged model, by whatever compiled it, or by PyTorch."""
    options: dict[str, Any] = {"device": how.device, "batch_size": how.batch_size}
    compiled = None
    if flavour := next((one for one in FLAVOURS if one == backend), None):
        return open_for_card(folder, manifest, flavour, how.precision, **options)
    if provider := next((one for one in PROVIDER_BACKENDS if one == backend), None):
        return open_on_provider(folder, manifest, provider, how.precision, **options)
    if backend == "auto":
        proved = open_proved(folder, manifest, how.precision, **options)
        if proved is not None:
            return proved
    if backend in COMPILERS and how.names_card:
        others = ", ".join((*PROVIDER_BACKENDS, *FLAVOURS, "torch"))
        raise BackendCannotError(f"{backend} runs on the processor; on {how.device} run: {others}")
    if not (backend == "auto" and how.names_card):
        compiled = _form(folder, manifest, backend, how.precision)
    if compiled is not None:
        return open_form(folder, manifest, compiled, batch_size=how.batch_size)
    return _open_torch(folder, manifest, None, how)


def as_recogniser(folder: Path, manifest: BundleManifest, backend: Backend) -> Recogniser:
    """A backend with what the manifest says of it."""
    return Recogniser(
        backend=backend,
        labels=manifest.labels,
        contract=manifest.contract,
        temperature=manifest.temperature,
        unknown_threshold=manifest.unknown_threshold,
        digest=manifest_digest(folder / bundle.MANIFEST),
    )


def _precision(name: str) -> Precision:
    found: Precision | None = next((one for one in PRECISIONS if one == name), None)
    if name == "auto":
        return "fp32"  # the trained numbers; less is given to those who ask for it
    if found is None:
        raise BackendCannotError(
            f"precision {name!r} is unknown; allowed: auto, {', '.join(PRECISIONS)}"
        )
    return found


def _form(
    folder: Path, manifest: BundleManifest, backend: str, precision: Precision
) -> CompiledForm | None:
    """What is to be run; None for torch."""
    if backend == "torch":
        return None
    asked = (
        FASTEST_FIRST[precision]
        if backend == "auto"
        else tuple(one for one in COMPILERS if one == backend)
    )
    there = [form for one in asked if (form := manifest.form(one, precision)) is not None]
    if not there:
        if backend == "auto" and precision == "fp32" and (folder / bundle.MODEL).is_dir():
            return None
        raise NoSuchFormError(
            f"{folder} has no {backend if backend != 'auto' else 'form'} at {precision}; it has: "
            f"{', '.join(form.name for form in manifest.forms) or 'none'}"
        )
    installed = [form for form in there if is_installed(form.backend)]
    if backend == "auto" and not installed and precision == "fp32" and is_installed("torch"):
        return None
    return (installed or there)[0]


def open_form(
    folder: Path,
    manifest: BundleManifest,
    form: CompiledForm,
    *,
    batch_size: int = 1,
    threads: int = 0,
    cache: Path | None = None,
) -> Backend:
    """Open one compiled form of a BUNDLE.

    Args:
        folder: The bundle.
        manifest: Its ``bundle.json``.
        form: One of the manifest's.
        batch_size: Clips run at once, always; more than one tells OpenVINO to go for throughput.
        threads: 0 takes every core that this process may use.
        cache: A folder in which OpenVINO keeps what it compiled, such as `cache_folder`. It opens
            an int8 model a little sooner and takes more memory doing so (docs/bench.md).

    Raises:
        MissingPackageError: Its runtime is not installed.
        ArtifactError: The file has changed.
        BackendError: The runtime can't run it here.
    """
    module = import_backend(
        "lora_deploy.runtime.ort" if form.backend == "onnxruntime" else "lora_deploy.runtime.ov",
        form.backend,
        purpose=_RUNS[form.backend],
    )
    opened: Any
    with frugal_opening(), handed(folder, manifest, form.file) as graph:
        if form.backend == "onnxruntime":
            opened = module.OnnxRuntimeBackend(graph, batch_size=batch_size, threads=threads)
        else:
            opened = module.OpenVinoBackend(
                graph,
                precision=form.precision,
                batch_size=batch_size,
                hint="latency" if batch_size == 1 else "throughput",
                threads=threads,
                cache=cache,
            )
    check_notes(opened.metadata, manifest, form.file)
    tell_of_sums(opened.metadata, form)
    backend: Backend = opened
    return backend


def open_adapter_graph(
    folder: Path,
    manifest: BundleManifest,
    adapter: str,
    form: Literal["unmerged", "base"],
    *,
    batch_size: int = 1,
    threads: int = 0,
) -> Backend:
    """Open the graph that takes adapters, with one of them or with its head alone; without PyTorch.

    Args:
        folder: The bundle.
        manifest: Its ``bundle.json``.
        adapter: Name of one of its adapters.
        form: ``unmerged``, or ``base`` for the adapter's update switched off.
        batch_size: Clips run at once, always.
        threads: 0 takes every core that this process may use.

    Raises:
        AdapterGraphMissingError: The bundle has none.
        MissingPackageError: ONNX Runtime is not installed.
        ArtifactError: A file has changed.
        AdapterError: The adapter is not one for this graph.
    """
    if not has_adapter_graph(manifest, adapter):
        raise AdapterGraphMissingError(
            f"{folder} has no ONNX graph that takes the adapter {adapter!r}"
        )
    module = import_backend(
        "lora_deploy.runtime.ort_adapters", "onnxruntime", purpose=_RUNS["onnxruntime"]
    )
    with handed(folder, manifest, onnx_adapter(adapter)) as file:
        content = file.read_bytes()
    with frugal_opening(), handed(folder, manifest, bundle.ADAPTER_GRAPH) as graph:
        opened = module.AdapterGraphBackend(
            graph, content, form=form, batch_size=batch_size, threads=threads
        )
    check_notes(opened.metadata, manifest, bundle.ADAPTER_GRAPH)
    backend: Backend = opened
    return backend


def onnx_adapter(name: str) -> str:
    """The file of an adapter for the bundle's adapter graph."""
    return f"{bundle.ADAPTERS}/{name}{bundle.ONNX_ADAPTER}"


def has_adapter_graph(manifest: BundleManifest, adapter: str) -> bool:
    """Whether an adapter of a bundle can be run unmerged without PyTorch."""
    return {bundle.ADAPTER_GRAPH, onnx_adapter(adapter)} <= manifest.files.keys()


def cache_folder() -> Path:
    """Where OpenVINO keeps what it compiled: in the user's cache, by the usual variable."""
    return own_cache.cache_folder("openvino")


@dataclass(frozen=True)
class _Unmerged:
    """An adapter that is to be run beside the weights of its base."""

    adapter: str
    form: Literal["unmerged", "base"]
    """``base``: its update switched off, its trained head kept on."""


def _unmerged(
    folder: Path, manifest: BundleManifest, form: str, adapter: str | None
) -> _Unmerged | None:
    """What of a bundle is to be run unmerged; None where the merged model is meant."""
    if adapter is None and form in ("auto", "merged"):
        return None
    if form == "merged":
        raise BackendCannotError(
            f"the merged model has its adapter in its weights; leave out the adapter {adapter!r}, "
            "or ask for the form unmerged"
        )
    if not manifest.adapters:
        raise NoUnmergedFormError(
            f"{folder} was fine-tuned as a whole, so it has no adapter to leave out"
        )
    known = ", ".join(manifest.adapters)
    if adapter is None and len(manifest.adapters) > 1:
        raise NoSuchAdapterError(f"{folder} has several adapters: {known}")
    name = manifest.adapters[0] if adapter is None else adapter
    if name not in manifest.adapters:
        raise NoSuchAdapterError(f"{folder} has no adapter {adapter!r}; it has: {known}")
    return _Unmerged(name, "base" if form == "base" else "unmerged")


def _open_unmerged(
    folder: Path, manifest: BundleManifest, unmerged: _Unmerged, backend: str, how: WithTorch
) -> Backend:
    if how.precision != "fp32" and backend != "torch":
        raise BackendCannotError(
            f"an adapter is run unmerged in fp32, or by torch on a card in bf16, not in {how.precision}"
        )
    if backend == "auto":
        has_torch = all(map(is_installed, TORCH_PACKAGES))
        backend = "torch" if has_torch or how.names_card else "onnxruntime"
    if backend == "torch":
        return _open_torch(folder, manifest, unmerged, how)
    if backend != "onnxruntime":
        raise BackendCannotError(f"{backend} takes no adapters; onnxruntime and torch do")
    if how.names_card:
        raise BackendCannotError(
            f"onnxruntime runs adapters on the processor; on {how.device} run: torch"
        )
    return open_adapter_graph(
        folder, manifest, unmerged.adapter, unmerged.form, batch_size=how.batch_size
    )


def _open_torch(
    folder: Path, manifest: BundleManifest, unmerged: _Unmerged | None, how: WithTorch
) -> Backend:
    if unmerged is None and not (folder / bundle.MODEL).is_dir():
        raise BackendCannotError(
            f"{folder} has no {bundle.MODEL}/ for torch; use --backend onnxruntime"
        )
    how.check()
    if unmerged is None:
        return how.run(_merged_model(folder, manifest))
    return how.run(_unmerged_model(folder, manifest, unmerged))


def _merged_model(folder: Path, manifest: BundleManifest) -> Opened:
    eager = import_backend(
        "lora_deploy.runtime.eager", *TORCH_PACKAGES, purpose="to run with PyTorch"
    )
    bundle.verify_files(folder, manifest, under=bundle.MODEL)
    model = eager.open_merged(folder / bundle.MODEL, manifest.labels)
    return Opened(model, manifest.contract, "merged")


def _unmerged_model(folder: Path, manifest: BundleManifest, unmerged: _Unmerged) -> Opened:
    under = f"{bundle.ADAPTERS}/{unmerged.adapter}"
    bundle.verify_files(folder, manifest, under=under)
    trained = import_backend("lora_deploy.runtime.trained", "torch", purpose="to open an adapter")
    model, _ = trained.open_on_base(
        folder / under, manifest.base, manifest.labels, manifest.contract
    )
    if unmerged.form == "base":
        adapters = import_backend("lora_deploy.model.adapter", "peft", purpose="to open a base")
        adapters.switch_delta_off(model)
    return Opened(model, manifest.contract, unmerged.form)
