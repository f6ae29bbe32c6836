"""The plain graph of a BUNDLE on a card, by one of ONNX Runtime's providers."""

from pathlib import Path
from typing import Any

from lora_deploy.artifact import bundle
from lora_deploy.artifact.bundle import BundleManifest, Precision
from lora_deploy.artifact.handing import handed
from lora_deploy.errors import NoSuchFormError
from lora_deploy.extras import import_backend
from lora_deploy.runtime import own_cache
from lora_deploy.runtime.base import Backend
from lora_deploy.runtime.card import card_index
from lora_deploy.runtime.frugal import frugal_opening
from lora_deploy.runtime.graph_notes import check_notes
from lora_deploy.runtime.providers import ProviderBackend


def open_on_provider(
    folder: Path,
    manifest: BundleManifest,
    backend: ProviderBackend,
    precision: Precision,
    *,
    device: str | None = None,
    batch_size: int = 1,
) -> Backend:
    """Open the plain graph of a BUNDLE on a card, by one of ONNX Runtime's providers.

    Args:
        folder: The bundle.
        manifest: Its ``bundle.json``.
        backend: Which provider.
        precision: ``fp32``; a lower one where an engine's graph of it is in the bundle.
        device: ``cuda`` or ``cuda:N``; None for the first card.
        batch_size: Clips run at once, always.

    Raises:
        NoSuchFormError: There is no graph of that precision.
        MissingPackageError: ONNX Runtime is not installed.
        CardError: It has no such provider, or the provider does not run all of the graph.
        ArtifactError: The file has changed.
    """
    graphs = {"fp32": bundle.ONNX, **{one.precision: one.made_of for one in manifest.engines}}
    has = {one: file for one, file in graphs.items() if file in manifest.files}
    if precision not in has:
        raise NoSuchFormError(
            f"{folder} has no graph for {backend} at {precision}; it has: {', '.join(has) or 'none'}"
        )
    file = has[precision]
    index = card_index(device)
    module = import_backend(
        "lora_deploy.runtime.ort_gpu", "onnxruntime", purpose="to run ONNX files"
    )
    with frugal_opening(), handed(folder, manifest, file) as graph:
        opened: Any = module.OnnxRuntimeOnCard(
            graph,
            backend,
            precision=precision,
            batch_size=batch_size,
            index=index,
            cache=own_cache.cache_folder(backend),
        )
    check_notes(opened.metadata, manifest, file)
    found: Backend = opened
    return found
