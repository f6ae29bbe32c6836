"""What makes VideoMAE fast on a GPU: one change after the other, against plain PyTorch, in one run.

python benchmarks/gpu_forms.py --out FOLDER [--device cuda] [--compile] [--tiny] [--minutes 10]

Its tables of VideoMAE-B and L, inference and training, need torch, transformers and peft alone, no
video and no network: weights are random, made from the configuration, and clips are noise. All forms
of one batch size take turns; each turn gives a ratio to float32 of that turn, and the table has their
median and range. Beside the speed stands what each form costs: memory, and by how much its logits
differ. Then training steps of LoRA, ours beside Trainer's (`gpu_training.py`). Last come ONNX
Runtime's providers and TensorRT's engines (`gpu_engines.py`); those that this computer has not are
listed with the reason. When time is over (`--minutes`), so are steps and engines.
"""

import argparse
import copy
import gc
import json
import platform
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median

import peft
import torch
import transformers
from gpu_engines import Graphs, engine_entrants
from gpu_measure import (
    BASELINE,
    KERNELS,
    Entrant,
    Kernel,
    Measured,
    Run,
    any_kernel,
    exact_float_32,
    flops_of_one_clip,
    infer_in_turns,
    only,
    tensor_float_32,
    timed,
)
from gpu_models import (
    FULL,
    TINY,
    Size,
    make_clips,
    make_model,
    moved,
    with_fused_qkv,
    with_linear_patches,
    with_table_on_device,
)
from gpu_training import train
from torch import nn

# Forms of inference ------------------------------------------------------------------------------


def plain(
    model: nn.Module, clips: torch.Tensor, kernel: Kernel = any_kernel, *, tf32: bool = False
) -> Run:
    """The model called as it is."""

    def run() -> torch.Tensor:
        with torch.inference_mode(), kernel(), tensor_float_32() if tf32 else nullcontext():
            logits: torch.Tensor = model(pixel_values=clips).logits
            return logits

    return run


def graph(model: nn.Module, clips: torch.Tensor, kernel: Kernel) -> Run:
    """The same as one CUDA graph: launched at once, on the memory it was captured with."""
    if clips.device.type != "cuda":
        raise RuntimeError("CUDA graphs need CUDA")
    run = plain(model, clips, kernel)
    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        for _ in range(3):
            run()
    torch.cuda.current_stream().wait_stream(aside)
    captured = torch.cuda.CUDAGraph()
    with torch.cuda.graph(captured):
        logits = run()

    def replay() -> torch.Tensor:
        captured.replay()
        return logits

    return replay


def compiled(model: nn.Module, clips: torch.Tensor, kernel: Kernel) -> Run:
    """By torch.compile, with its own CUDA graphs."""
    torch.compiler.reset()
    compiled_model = torch.compile(model, mode="max-autotune-no-cudagraphs", dynamic=False)
    return plain(compiled_model, clips, kernel)  # type: ignore[arg-type]


class Models:
    """The model in the states that forms need, each made once."""

    def __init__(self, size: Size, device: torch.device) -> None:
        self.float32 = make_model(size, device)
        self.bfloat16 = moved(copy.deepcopy(self.float32), torch.bfloat16)
        self.linear = copy.deepcopy(self.bfloat16)
        with_linear_patches(self.linear)
        self.table = copy.deepcopy(self.linear)
        with_table_on_device(self.table)
        self.fused = copy.deepcopy(self.table)
        with_fused_qkv(self.fused)


def entrants(
    models: Models, clips: torch.Tensor, kernel: Kernel, kernel_name: str, *, compile_too: bool
) -> dict[str, Entrant]:
    """All forms by name; from the linear patches on, each has what the last had."""
    low, high, half = clips.to(torch.bfloat16), models.float32, models.bfloat16
    made = {
        BASELINE: Entrant(lambda: plain(high, clips), high),
        "float32, TF32": Entrant(lambda: plain(high, clips, tf32=True), high),
        "bfloat16": Entrant(lambda: plain(half, low), half),
    }
    for name, backend in KERNELS.items():
        made[f"bfloat16, {name} attention"] = Entrant(
            lambda backend=backend: plain(half, low, only(backend)),  # type: ignore[misc]
            half,
        )
    made |= {
        f"with {kernel_name} attention: linear patches": Entrant(
            lambda: plain(models.linear, low, kernel), half
        ),
        "… table on the device": Entrant(lambda: plain(models.table, low, kernel), half),
        "… one projection of q, k and v": Entrant(lambda: plain(models.fused, low, kernel), half),
        "… as one CUDA graph": Entrant(lambda: graph(models.fused, low, kernel), half),
    }
    if compile_too:
        made["… by torch.compile instead"] = Entrant(
            lambda: compiled(models.fused, low, kernel), half
        )
    return made


def best_kernel(models: Models, clips: torch.Tensor) -> tuple[str, Kernel]:
    """The fastest at this batch, in a trial; PyTorch's own choice where none can be forced."""
    low = clips.to(torch.bfloat16)
    seconds: dict[str, float] = {}
    for name, backend in KERNELS.items():
        try:
            run = plain(models.bfloat16, low, only(backend))
            run()
            seconds[name] = min(timed(run, 3, clips.device) for _ in range(3))
        except RuntimeError:
            continue
    if not seconds:
        return "PyTorch's choice of", any_kernel
    name = min(seconds, key=seconds.__getitem__)
    return name, only(KERNELS[name])


# One model after the other -----------------------------------------------------------------------


@dataclass
class Found:
    """What was measured of one model."""

    model: str
    gflop_per_clip: float
    gemm_tflop_per_second: float = 0.0
    inference: list[Measured] = field(default_factory=list)
    training: list[Measured] = field(default_factory=list)
    engines: list[Measured] = field(default_factory=list)


def infer(size: Size, device: torch.device, found: Found, *, compile_too: bool) -> None:
    """All forms at all batch sizes."""
    models = Models(size, device)
    rates = []
    for batch in size.batches:
        clips = make_clips(size, batch, device)
        kernel_name, kernel = best_kernel(models, clips)
        forms = entrants(models, clips, kernel, kernel_name, compile_too=compile_too)
        rows, rate = infer_in_turns(forms, size, batch, device, round(found.gflop_per_clip * 1e9))
        found.inference += rows
        rates.append(rate)
    found.gemm_tflop_per_second = median(rates) / 1e12


def run_engines(size: Size, device: torch.device, found: Found, until: float) -> None:
    """All providers and engines at all batch sizes, beside PyTorch in float32."""
    model = make_model(size, device)
    with Graphs(size) as graphs:
        for batch in size.batches:
            clips = make_clips(size, batch, device)
            beside = {BASELINE: Entrant(lambda clips=clips: plain(model, clips), model)}  # type: ignore[misc]
            forms = beside | engine_entrants(graphs, clips, until)
            rows, _ = infer_in_turns(forms, size, batch, device, round(found.gflop_per_clip * 1e9))
            found.engines += rows


def free(device: torch.device) -> None:
    """Give back what the part before held."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


# Telling -----------------------------------------------------------------------------------------


def number(value: float | None, form: str = ".1f") -> str:
    """For a cell."""
    return "" if value is None else format(value, form)


def pair(value: tuple[float, float] | None, form: str) -> str:
    """A range, for a cell."""
    return "" if value is None else f" ({value[0]:{form}}–{value[1]:{form}})"


def table(rows: Sequence[Measured], what: str) -> list[str]:
    """Markdown."""
    training = what == "Step"
    last = "gradients' cosine | loss" if training else "largest difference | of the GEMM"
    lines = [
        f"| {what} | batch | clips/s (range) | times {'the first' if training else BASELINE} (range) "
        f"| peak MB | {last} |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        if row.not_here:
            lines.append(f"| {row.form} | {row.batch} | not here: {row.not_here} | | | | |")
            continue
        if row.not_possible:
            lines.append(f"| {row.form} | {row.batch} | not possible: {row.not_possible} | | | | |")
            continue
        ends = (
            [number(row.cosine, ".4f"), number(row.loss, ".4f")]
            if training
            else [number(row.difference, ".1e"), number(row.part_of_gemm, ".1%")]
        )
        cells = [
            row.form,
            str(row.batch),
            number(row.clips_per_second, ".1f") + pair(row.slowest_and_fastest, ".1f"),
            number(row.ratio, ".2f") + pair(row.ratio_range, ".2f"),
            number(row.peak_mb, ".0f"),
            *ends,
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def tell(out: Path, about: dict[str, object], found: Sequence[Found], seconds: float) -> None:
    """Write ``gpu_forms.json`` and ``gpu_forms.md``."""
    lines = [
        f"{about['device']}, torch {about['torch']}, transformers {about['transformers']}, "
        f"peft {about['peft']}; {about['date']}",
    ]
    for one in found:
        lines += [
            "",
            f"## {one.model}",
            f"{one.gflop_per_clip:.1f} GFLOP a clip; a bf16 product of {about['gemm_side']}³ reaches "
            f"{one.gemm_tflop_per_second:.1f} TFLOP/s",
        ]
        for what, rows in (
            ("Form", one.inference),
            ("Step", one.training),
            ("Engine", one.engines),
        ):
            lines += ["", *table(rows, what)] if rows else []
    lines += ["", f"{seconds:.0f} s in all."]
    out.mkdir(parents=True, exist_ok=True)
    told = {**about, "seconds": seconds, "models": [asdict(one) for one in found]}
    (out / "gpu_forms.json").write_text(json.dumps(told, indent=1))
    (out / "gpu_forms.md").write_text("\n".join(lines) + "\n")


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print the tables, write both files after each part."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="rehearse with tiny models")
    parser.add_argument("--compile", action="store_true", help="try torch.compile, too: minutes")
    parser.add_argument("--only", metavar="MODEL", help="such as VideoMAE-L; all by default")
    parser.add_argument("--without-training", action="store_true")
    parser.add_argument("--without-engines", action="store_true")
    parser.add_argument(
        "--minutes",
        type=float,
        default=10,
        help="no step is begun after these, no engine in the last two",
    )
    options = parser.parse_args(arguments)
    device = torch.device(options.device)
    sizes = [one for one in (TINY if options.tiny else FULL) if options.only in (None, one.name)]
    if not sizes:
        parser.error(f"--only {options.only}; there are {', '.join(one.name for one in FULL)}")
    begin = time.perf_counter()
    until = begin + 60 * options.minutes
    exact_float_32()
    about: dict[str, object] = {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "date": time.strftime("%Y-%m-%d"),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "peft": peft.__version__,
        "python": platform.python_version(),
        "gemm_side": sizes[0].gemm_side,
    }
    found = [Found(size.name, flops_of_one_clip(size) / 1e9) for size in sizes]

    def told() -> None:  # whatever comes after
        free(device)
        tell(options.out, about, found, time.perf_counter() - begin)

    for size, one in zip(sizes, found, strict=True):
        infer(size, device, one, compile_too=options.compile)
        told()
    for size, one in zip(sizes, found, strict=True):
        if not options.without_training:
            one.training = train(size, device, until)
            told()
    for size, one in zip(sizes, found, strict=True):
        if not options.without_engines:
            run_engines(size, device, one, until)
            told()
    print((options.out / "gpu_forms.md").read_text())


if __name__ == "__main__":
    main()
