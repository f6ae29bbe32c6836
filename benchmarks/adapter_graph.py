"""What the unmerged model costs as a graph: size, memory, opening and one clip, beside the merged graph.

python benchmarks/adapter_graph.py FOLDER
"""

import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Literal

import click
import numpy as np

from lora_deploy.runtime.base import Backend
from lora_deploy.runtime.frugal import frugal_opening

PIXELS = (1, 16, 3, 224, 224)

MERGED, GRAPH, ADAPTER, TRUTH = "merged.onnx", "adapters.onnx", "an.onnx_adapter", "truth.npz"

_FORMS: tuple[Literal["unmerged", "base"], ...] = ("unmerged", "base")


def make(folder: Path) -> None:
    """Both graphs of one model, and what peft says."""
    import torch

    from lora_deploy.model.adapter import delta_off
    from lora_deploy.model.architectures import logits_of

    if (folder / TRUTH).is_file():
        return
    folder.mkdir(parents=True, exist_ok=True)
    model = trained()
    write_graphs(model, folder)
    with torch.inference_mode():
        on = logits_of(model, torch.from_numpy(clip())).numpy()
        with delta_off(model):
            off = logits_of(model, torch.from_numpy(clip())).numpy()
    np.savez(folder / TRUTH, merged=on, unmerged=on, base=off)


def trained() -> Any:
    """VideoMAE-B with random weights, LoRA of rank 8 on q, k and v, and its head."""
    import torch
    from base_size_bundle import LABELS
    from transformers import VideoMAEConfig, VideoMAEForVideoClassification

    from lora_deploy.config import LoraSettings
    from lora_deploy.model.adapter import attach
    from lora_deploy.model.targets import resolve

    torch.manual_seed(0)
    names = dict(enumerate(LABELS))
    config = VideoMAEConfig(id2label=names, label2id={name: key for key, name in names.items()})
    base = VideoMAEForVideoClassification(config).eval()
    model = attach(
        base, LoraSettings(r=8), layers=resolve(base, ["qkv"]).layers,
        head_modules=("classifier",), base_id="random", revision=None,
    ).eval()  # fmt: skip
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".lora_B" in name:
                parameter.normal_(std=0.02)
    return model


def write_graphs(model: Any, folder: Path) -> None:
    """The merged graph, the graph that takes adapters, and the adapter."""
    import onnx
    from base_size_bundle import CONTRACT, LABELS

    from lora_deploy.export import adapter_graph
    from lora_deploy.export.fuse import fused
    from lora_deploy.export.merge import merge
    from lora_deploy.export.to_onnx import write_onnx

    write_onnx(merge(model), folder / MERGED, labels=LABELS, contract=CONTRACT)
    onnx.save_model(fused(onnx.load(folder / MERGED)).model, folder / MERGED)
    base, marks = adapter_graph.marked_base(model)
    write_onnx(base, folder / GRAPH, labels=LABELS, contract=CONTRACT)
    lora, head = adapter_graph.lora_factors(model), adapter_graph.head_tensors(model)
    plain = fused(onnx.load(folder / GRAPH)).model
    graph = adapter_graph.with_adapter_inputs(plain, lora, head, marks)
    onnx.save_model(graph, folder / GRAPH)
    brought = adapter_graph.adapter_for(graph, lora, head)
    adapter_graph.write_onnx_adapter(folder / ADAPTER, brought)


def clip() -> np.ndarray:
    """Seeded noise [1, frames, 3, height, width]."""
    return np.random.default_rng(0).standard_normal(PIXELS, np.float32)


def opened(folder: Path, form: str, threads: int) -> Backend:
    """A form on so many threads."""
    from lora_deploy.runtime.ort import OnnxRuntimeBackend
    from lora_deploy.runtime.ort_adapters import AdapterGraphBackend

    with frugal_opening():
        for one in _FORMS:
            if form == one:
                adapter = (folder / ADAPTER).read_bytes()
                return AdapterGraphBackend(folder / GRAPH, adapter, form=one, threads=threads)
        return OnnxRuntimeBackend(folder / MERGED, threads=threads)


def most_memory_mb() -> float:
    """The most that this process ever held."""
    text = Path("/proc/self/status").read_text()
    [line] = [line for line in text.splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) * 1024 / 1e6


def start(folder: Path, form: str) -> str:
    """Opening and the first answer in a process of its own, as one line."""
    before_mb, begun = most_memory_mb(), time.perf_counter()
    backend = opened(folder, form, 1)
    seconds = time.perf_counter() - begun
    opened_mb = most_memory_mb()
    found = backend.logits(clip())
    peak_mb = most_memory_mb()
    largest = float(np.abs(found - np.load(folder / TRUTH)[form]).max())
    return (
        f"{form}: opened in {seconds:.2f} s; at most {before_mb:.0f} MB before, {opened_mb:.0f} MB when "
        f"open, {peak_mb:.0f} MB after one clip; "
        f"logits differ from peft by {largest:.1e}"
    )


@click.command()
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
@click.option("--rounds", default=5, show_default=True)
@click.option("--start", "form", hidden=True)
def main(folder: Path, rounds: int, form: str | None) -> None:
    """Measure, in FOLDER, which is made if it is not there."""
    if form is not None:
        print(start(folder, form))
        return
    make(folder)
    for name in (MERGED, GRAPH, ADAPTER):
        print(f"{name}: {(folder / name).stat().st_size / 1e6:.1f} MB")
    forms = ("merged", *_FORMS)
    for one in forms:
        subprocess.run([sys.executable, __file__, str(folder), "--start", one], check=True)
    backends = {one: opened(folder, one, 1) for one in forms}
    seconds: dict[str, list[float]] = {one: [] for one in forms}
    for _ in range(rounds + 1):
        for one, backend in backends.items():
            begun = time.process_time()
            backend.logits(clip())
            seconds[one].append(time.process_time() - begun)
    least = {one: min(times[1:]) for one, times in seconds.items()}
    for one in forms:
        print(
            f"{one}: {least[one]:.2f} s of processor time for a clip (median "
            f"{statistics.median(seconds[one][1:]):.2f}), {least[one] / least['merged']:.3f} of merged"
        )


if __name__ == "__main__":
    main()
