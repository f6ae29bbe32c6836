"""What makes VideoMAE-B fast on a GPU: one change after the other, against plain PyTorch, in one run.

python benchmarks/gpu_forms.py --out FOLDER [--device cuda] [--compile] [--tiny]

It needs torch, transformers and peft alone, no video and no network: weights are random, made from
the configuration, and clips are noise. All forms of one batch size take turns; each turn gives a
ratio to float32 of that turn, and the table has their median and range. Beside the speed stands
what each form costs: memory, and by how much its logits differ. Then a training step of LoRA.
"""

import argparse
import copy
import gc
import json
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from statistics import median
from typing import cast

import peft
import torch
import transformers
from torch import nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from transformers import VideoMAEConfig, VideoMAEForVideoClassification

Run = Callable[[], torch.Tensor]
"""One batch through a form: logits [batch, labels]."""

Kernel = Callable[[], AbstractContextManager[object]]
"""Sets which attention kernel runs."""

LABELS = 10
BASELINE = "float32"

SPREAD_FACTOR = 2.0
"""On all matrices. As initialised, attention is all but even, and no precision could harm it."""

KERNELS = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "cuDNN": SDPBackend.CUDNN_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
}


@dataclass(frozen=True, eq=False)
class Size:
    """How large everything is."""

    config: VideoMAEConfig
    batches: tuple[int, ...]
    train_batch: int
    gemm_side: int
    turns: int
    turn_seconds: float
    """That one form works in one turn, at least."""


def config_of(**sizes: int) -> VideoMAEConfig:
    """VideoMAE-B, or what of it is another size."""
    config = VideoMAEConfig(**sizes)  # type: ignore[arg-type]
    config.num_labels = LABELS
    return config


FULL = Size(config_of(), (1, 8, 32), 8, 8192, 7, 0.1)
TINY = Size(
    config_of(
        image_size=32, patch_size=8, num_frames=4, tubelet_size=2, hidden_size=32,
        num_hidden_layers=6, num_attention_heads=2, intermediate_size=64,
    ),
    (1, 2), 2, 64, 2, 0.002,
)  # fmt: skip


@dataclass
class Measured:
    """One form at one batch size."""

    form: str
    batch: int
    clips_per_second: float | None = None
    slowest_and_fastest: tuple[float, float] | None = None
    """Clips a second in the worst and the best turn."""
    ratio: float | None = None
    """Median over the turns of this form's speed to that of `BASELINE` in the same turn."""
    ratio_range: tuple[float, float] | None = None
    part_of_gemm: float | None = None
    """Of the FLOP a second that a large bf16 matrix product reaches in the same turns."""
    peak_mb: float | None = None
    """Of device memory, that this form allocates from its weights on."""
    difference: float | None = None
    """Largest of all logits to those of `BASELINE`, as a part of the largest of those."""
    loss: float | None = None
    cosine: float | None = None
    """Of all gradients with those of the float32 step over the same layers."""
    not_possible: str | None = None
    seconds: list[list[float]] = field(default_factory=list)
    """Of one batch, turn by turn; those of `BASELINE` beside them."""


# Models ------------------------------------------------------------------------------------------


@cache
def pattern(size: Size) -> VideoMAEForVideoClassification:
    """Random weights on the CPU, to be copied: making them takes seconds."""
    torch.manual_seed(0)
    model = VideoMAEForVideoClassification(copy.deepcopy(size.config))
    model.eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(SPREAD_FACTOR)
    return model


def make_model(size: Size, device: torch.device) -> VideoMAEForVideoClassification:
    """Always the same weights."""
    return moved(copy.deepcopy(pattern(size)), device)


def moved(
    model: VideoMAEForVideoClassification, where: torch.device | torch.dtype
) -> VideoMAEForVideoClassification:
    """As ``model.to``, whose types are lost on the way."""
    nn.Module.to(model, where)
    return model


def make_clips(size: Size, batch: int, device: torch.device) -> torch.Tensor:
    """Noise, [batch, frames, 3, height, width] float32."""
    side, frames = cast(int, size.config.image_size), size.config.num_frames
    generator = torch.Generator().manual_seed(batch)
    return torch.randn(batch, frames, 3, side, side, generator=generator).to(device)


class LinearPatches(nn.Module):
    """The Conv3d patch embedding as what it is: one linear layer over patches laid out in rows."""

    def __init__(self, patches: nn.Module) -> None:
        super().__init__()
        convolution: nn.Conv3d = patches.projection  # type: ignore[assignment]
        self.patch = convolution.kernel_size  # frames, height, width
        self.linear = nn.Linear(convolution.weight[0].numel(), convolution.out_channels)
        self.linear.weight = nn.Parameter(convolution.weight.detach().flatten(1))
        assert convolution.bias is not None
        self.linear.bias = nn.Parameter(convolution.bias.detach())

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """[batch, frames, 3, height, width] to [batch, patches, hidden]."""
        batch, frames, channels, height, width = pixel_values.shape
        deep, high, wide = self.patch
        rows = pixel_values.view(
            batch, frames // deep, deep, channels, height // high, high, width // wide, wide
        )
        rows = rows.permute(0, 1, 4, 6, 3, 2, 5, 7).reshape(batch, -1, self.linear.in_features)
        result: torch.Tensor = self.linear(rows)
        return result


def with_linear_patches(model: VideoMAEForVideoClassification) -> None:
    """Put `LinearPatches` in place of the convolution."""
    embeddings = model.videomae.embeddings
    embeddings.register_module("patch_embeddings", LinearPatches(embeddings.patch_embeddings))


def with_table_on_device(model: VideoMAEForVideoClassification) -> None:
    """Keep the table of positions where the model is, in its type; it is no buffer."""
    like = model.classifier.weight
    embeddings = model.videomae.embeddings
    embeddings.position_embeddings = embeddings.position_embeddings.to(like.device, like.dtype)


# Forms of inference ------------------------------------------------------------------------------


@contextmanager
def tensor_float_32() -> Iterator[None]:
    """Products of float32 by tensor cores, which keep 10 bits of the mantissa."""
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.allow_tf32 = True
    try:
        yield
    finally:
        exact_float_32()


def exact_float_32() -> None:
    """No TensorFloat-32 anywhere; PyTorch leaves it on for convolutions."""
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False


def any_kernel() -> AbstractContextManager[object]:
    """The one that PyTorch takes by itself."""
    return nullcontext()


def only(backend: SDPBackend) -> Kernel:
    """One kernel and no other: where it can't run, an error."""
    return lambda: sdpa_kernel(backend)


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


def makers(
    models: Models, clips: torch.Tensor, kernel: Kernel, kernel_name: str, *, compile_too: bool
) -> dict[str, Callable[[], Run]]:
    """By its name, what makes each form; from the linear patches on, each has what the last had."""
    low = clips.to(torch.bfloat16)
    made: dict[str, Callable[[], Run]] = {
        BASELINE: lambda: plain(models.float32, clips),
        "float32, TF32": lambda: plain(models.float32, clips, tf32=True),
        "bfloat16": lambda: plain(models.bfloat16, low),
    }
    for name, backend in KERNELS.items():
        made[f"bfloat16, {name} attention"] = lambda backend=backend: plain(  # type: ignore[misc]
            models.bfloat16, low, only(backend)
        )
    made |= {
        f"with {kernel_name} attention: linear patches": lambda: plain(models.linear, low, kernel),
        "… table on the device": lambda: plain(models.table, low, kernel),
        "… as one CUDA graph": lambda: graph(models.table, low, kernel),
    }
    if compile_too:
        made["… by torch.compile instead"] = lambda: compiled(models.table, low, kernel)
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


# Measuring ---------------------------------------------------------------------------------------


def wait(device: torch.device) -> None:
    """Until the device has done all that it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def timed(run: Callable[[], object], times: int, device: torch.device) -> float:
    """Seconds of one run, from so many one after the other."""
    wait(device)
    begin = time.perf_counter()
    for _ in range(times):
        run()
    wait(device)
    return (time.perf_counter() - begin) / times


def enough(run: Callable[[], object], size: Size, device: torch.device) -> int:
    """How many runs fill a turn."""
    run()
    return max(1, round(size.turn_seconds / max(timed(run, 2, device), 1e-6)))


@contextmanager
def peak_of(measured: Measured, device: torch.device, weights: int = 0) -> Iterator[None]:
    """Note what is allocated at most in the meantime, and the weights that were there before."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
    yield
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        peak = torch.cuda.max_memory_allocated(device) - before + weights
        measured.peak_mb = peak / (1 << 20)


def reason(error: Exception) -> str:
    """Why something was not possible, for a cell of a table."""
    said = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {said[0][:90]}".replace("|", "/")


def bytes_of(model: nn.Module) -> int:
    """Of all weights."""
    return sum(weight.numel() * weight.element_size() for weight in model.parameters())


def gemm(size: Size, device: torch.device) -> tuple[Callable[[], object], int]:
    """A large product of bf16 matrices, and its floating-point operations."""
    side = size.gemm_side
    left, right = (torch.randn(side, side, device=device, dtype=torch.bfloat16) for _ in range(2))
    return lambda: left @ right, 2 * side**3


def flops_of_one_clip(size: Size) -> int:
    """Of the float32 model, counted and not estimated."""
    model, clip = make_model(size, torch.device("cpu")), make_clips(size, 1, torch.device("cpu"))
    model.set_attn_implementation(
        "eager"
    )  # the products of attention are counted, whoever runs them
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        model(pixel_values=clip)
    return int(counter.get_total_flops())


def take_turns(
    runs: dict[str, Callable[[], object]], size: Size, device: torch.device
) -> dict[str, list[float]]:
    """Seconds of one run of each, turn by turn."""
    times = {name: enough(run, size, device) for name, run in runs.items()}
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(size.turns):
        for name, run in runs.items():
            seconds[name].append(timed(run, times[name], device))
    return seconds


def fill(measured: Measured, own: Sequence[float], baseline: Sequence[float], batch: int) -> None:
    """Write speeds and ratios, of the turns of a form and of the baseline's."""
    speeds = [batch / seconds for seconds in own]
    ratios = [theirs / ours for ours, theirs in zip(own, baseline, strict=True)]
    measured.clips_per_second = median(speeds)
    measured.slowest_and_fastest = (min(speeds), max(speeds))
    measured.ratio = median(ratios)
    measured.ratio_range = (min(ratios), max(ratios))
    measured.seconds = [list(pair) for pair in zip(own, baseline, strict=True)]


def infer(
    size: Size, device: torch.device, *, flops: int, compile_too: bool
) -> tuple[list[Measured], float]:
    """All forms at all batch sizes, and the FLOP a second of the large product."""
    models = Models(size, device)
    product, product_flops = gemm(size, device)
    found, rates = [], []
    for batch in size.batches:
        clips = make_clips(size, batch, device)
        kernel_name, kernel = best_kernel(models, clips)
        runs: dict[str, Callable[[], object]] = {}
        rows: list[Measured] = []
        expected: torch.Tensor | None = None
        for name, make in makers(
            models, clips, kernel, kernel_name, compile_too=compile_too
        ).items():
            row = Measured(name, batch)
            rows.append(row)
            try:
                weights = bytes_of(models.float32 if "float32" in name else models.bfloat16)
                with peak_of(row, device, weights):
                    run = make()
                    logits = run().float()
            except Exception as error:  # one form must not cost the others
                row.not_possible = reason(error)
                continue
            expected = logits.clone() if expected is None else expected
            row.difference = float((logits - expected).abs().max() / expected.abs().max())
            runs[name] = run
        seconds = take_turns({**runs, "product": product}, size, device)
        rate = product_flops / median(seconds["product"])
        rates.append(rate)
        for row in rows:
            if row.form in runs:
                fill(row, seconds[row.form], seconds[BASELINE], batch)
                assert row.clips_per_second is not None
                row.part_of_gemm = row.clips_per_second * flops / rate
        found += rows
        del runs
    return found, median(rates)


# Training ----------------------------------------------------------------------------------------

PROJECTIONS = ("query", "key", "value", "q_proj", "k_proj", "v_proj")
"""Names of the layers that LoRA goes on, in one version of transformers or another."""


@dataclass(frozen=True)
class Step:
    """One way to take a training step."""

    name: str
    layers: int
    """Under LoRA, counted from the top."""
    base: torch.dtype = torch.float32
    autocast: bool = False
    below: str = "as it comes"
    """What is done with the layers below the lowest adapter: ``as it comes``, ``no_grad`` or
    ``kept`` (their outputs are computed once, before the training)."""
    low_adapter: bool = False
    """Whether LoRA's own weights are as the base's; peft makes them float32."""
    attention: str | None = None
    """One of `KERNELS`, or PyTorch's choice."""
    mended: bool = False
    """Whether the patches are linear and the table of positions is on the device."""


def steps(layers: int) -> list[Step]:
    """All ways; ``layers`` has the model."""
    top = layers // 3
    half = torch.bfloat16
    return [
        Step("LoRA on all layers, float32", layers),
        Step("LoRA on all layers, float32 base under autocast", layers, autocast=True),
        Step("LoRA on all layers, bfloat16 base", layers, half),
        Step("LoRA on all layers, all of it bfloat16", layers, half, low_adapter=True),
        *(
            Step(
                f"LoRA on all layers, bfloat16 base, {name} attention", layers, half, attention=name
            )
            for name in KERNELS
        ),
        Step(
            "LoRA on all layers, bfloat16 base, patches and table mended", layers, half, mended=True
        ),
        Step(f"LoRA on the top {top}, float32", top),
        Step(f"LoRA on the top {top}, bfloat16 base", top, half),
        Step(
            f"LoRA on the top {top}, bfloat16 base, no gradient below", top, half, below="no_grad"
        ),
        Step(f"LoRA on the top {top}, bfloat16 base, features below kept", top, half, below="kept"),
    ]


def make_learner(size: Size, step: Step, device: torch.device) -> nn.Module:
    """The model with LoRA r=8 on q, k and v of its top layers, and a head that learns."""
    model = moved(make_model(size, device), step.base)
    if step.mended:
        with_linear_patches(model)
        with_table_on_device(model)
    count = size.config.num_hidden_layers
    upper = tuple(f".layer.{at}." for at in range(count - step.layers, count))
    wanted = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear)
        and name.rpartition(".")[2] in PROJECTIONS
        and any(layer in name for layer in upper)
    ]
    assert len(wanted) == 3 * step.layers, "q, k and v of each layer"
    learner = peft.get_peft_model(
        model,
        peft.LoraConfig(
            r=8, lora_alpha=16, lora_dropout=0.0, target_modules=wanted,
            modules_to_save=["classifier"],
        ),
        autocast_adapter_dtype=not step.low_adapter,
    )  # fmt: skip
    torch.manual_seed(1)
    with torch.no_grad():  # B is zero before the first step, and A would have no gradient
        for name, parameter in learner.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.02)
    result: nn.Module = learner.train()
    return result


def features_below(
    model: VideoMAEForVideoClassification, count: int, clips: torch.Tensor
) -> torch.Tensor:
    """What the lowest ``count`` layers make of clips: [batch, patches, hidden]."""
    hidden: torch.Tensor = model.videomae.embeddings(clips, None)
    for layer in model.videomae.encoder.layer[:count]:
        hidden = one_of(layer(hidden))
    return hidden


def one_of(given: torch.Tensor | tuple[torch.Tensor, ...]) -> torch.Tensor:
    """What a layer gives, which is a tuple in some versions."""
    return given[0] if isinstance(given, tuple) else given


def answer(model: VideoMAEForVideoClassification, count: int, hidden: torch.Tensor) -> torch.Tensor:
    """What the layers above ``count`` and the head make of that: logits [batch, labels]."""
    for layer in model.videomae.encoder.layer[count:]:
        hidden = one_of(layer(hidden))
    if model.videomae.layernorm is not None:
        hidden = model.videomae.layernorm(hidden)
    pooled = hidden[:, 0] if model.fc_norm is None else model.fc_norm(hidden.mean(1))
    logits: torch.Tensor = model.classifier(pooled)
    return logits


class Training:
    """A learner, its optimizer and one batch."""

    def __init__(self, size: Size, step: Step, device: torch.device) -> None:
        self.step = step
        self.kernel = only(KERNELS[step.attention]) if step.attention else any_kernel
        self.learner = make_learner(size, step, device)
        self.model: VideoMAEForVideoClassification = self.learner.get_base_model()  # type: ignore[operator]
        self.below = size.config.num_hidden_layers - step.layers
        self.clips = make_clips(size, size.train_batch, device).to(step.base)
        self.targets = torch.arange(size.train_batch, device=device) % LABELS
        self.learned = [weight for weight in self.learner.parameters() if weight.requires_grad]
        self.optimizer = torch.optim.AdamW(self.learned, lr=0.0, fused=device.type == "cuda")
        self.kept = None
        if step.below == "kept":
            with torch.no_grad():
                self.kept = features_below(self.model, self.below, self.clips)

    def logits(self) -> torch.Tensor:
        """Of the batch, in the way of the step."""
        if self.kept is not None:
            return answer(self.model, self.below, self.kept)
        if self.step.below == "no_grad":
            with torch.no_grad():
                hidden = features_below(self.model, self.below, self.clips)
            return answer(self.model, self.below, hidden)
        logits: torch.Tensor = self.learner(pixel_values=self.clips).logits
        return logits

    def take(self) -> torch.Tensor:
        """One step, at a rate of 0 so that all ways stay comparable; the loss."""
        self.optimizer.zero_grad(set_to_none=True)
        kind = self.clips.device.type
        with self.kernel():
            with torch.autocast(kind, torch.bfloat16, enabled=self.step.autocast):
                logits = self.logits()
            loss = functional.cross_entropy(logits.float(), self.targets)
            loss.backward()
        self.optimizer.step()
        return loss.detach()

    def gradients(self) -> torch.Tensor:
        """All of them in one row, float32; none may be missing, or an adapter is dead."""
        rows = []
        for weight in self.learned:
            assert weight.grad is not None
            assert weight.grad.abs().max() > 0, "an adapter that no gradient reaches"
            rows.append(weight.grad.float().flatten())
        return torch.cat(rows)


def train(size: Size, device: torch.device) -> list[Measured]:
    """All ways of a step; what each keeps in between, weights and features, stays where it is."""
    found: list[Measured] = []
    exact: dict[int, torch.Tensor] = {}
    runs: dict[str, Callable[[], object]] = {}
    for step in steps(size.config.num_hidden_layers):
        row = Measured(step.name, size.train_batch)
        found.append(row)
        try:
            with peak_of(row, device):
                training = Training(size, step, device)
                row.loss = float(training.take())
            gradients = training.gradients()
        except Exception as error:
            row.not_possible = reason(error)
            continue
        expected = exact.setdefault(step.layers, gradients)
        row.cosine = float(functional.cosine_similarity(gradients, expected, dim=0))
        training.optimizer.zero_grad(set_to_none=True)
        runs[step.name] = training.take
    seconds = take_turns(runs, size, device)
    for row in found:
        if row.form in runs:
            fill(row, seconds[row.form], seconds[found[0].form], size.train_batch)
    return found


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


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print the tables, write ``gpu_forms.json`` and ``gpu_forms.md``."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="rehearse with a tiny model")
    parser.add_argument("--compile", action="store_true", help="try torch.compile, too: minutes")
    parser.add_argument("--without-training", action="store_true")
    options = parser.parse_args(arguments)
    device, size = torch.device(options.device), TINY if options.tiny else FULL
    begin = time.perf_counter()
    exact_float_32()
    flops = flops_of_one_clip(size)
    inference, rate = infer(size, device, flops=flops, compile_too=options.compile)
    about: dict[str, object] = {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "peft": peft.__version__,
        "python": platform.python_version(),
        "gflop_per_clip": flops / 1e9,
        "gemm_side": size.gemm_side,
        "gemm_tflop_per_second": rate / 1e12,
    }
    tell(options.out, about, inference, [], time.perf_counter() - begin)  # whatever comes after
    if not options.without_training:
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()
        training = train(size, device)
        tell(options.out, about, inference, training, time.perf_counter() - begin)
    print((options.out / "gpu_forms.md").read_text())


def tell(
    out: Path,
    about: dict[str, object],
    inference: Sequence[Measured],
    training: Sequence[Measured],
    seconds: float,
) -> None:
    """Write both files."""
    lines = [
        f"{about['device']}, torch {about['torch']}, transformers {about['transformers']}, "
        f"peft {about['peft']}; {about['gflop_per_clip']:.1f} GFLOP a clip; a bf16 product of "
        f"{about['gemm_side']}³ reaches {about['gemm_tflop_per_second']:.1f} TFLOP/s",
        "",
        *table(inference, "Form"),
        "",
        *(table(training, "Step") if training else []),
        "",
        f"{seconds:.0f} s in all.",
    ]
    out.mkdir(parents=True, exist_ok=True)
    rows = {"inference": inference, "training": training}
    found = {**about, "seconds": seconds}
    found |= {name: [asdict(row) for row in some] for name, some in rows.items()}
    (out / "gpu_forms.json").write_text(json.dumps(found, indent=1))
    (out / "gpu_forms.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
