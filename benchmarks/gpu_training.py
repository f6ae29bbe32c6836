"""A training step of LoRA in several ways, beside Trainer with peft on the same batch in memory."""

import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import peft
import torch
from gpu_measure import (
    KERNELS,
    Measured,
    NotHere,
    Run,
    Timer,
    any_kernel,
    fill,
    only,
    peak_of,
    reason,
    take_turns,
    wait,
)
from gpu_models import (
    LABELS,
    Size,
    make_clips,
    make_model,
    moved,
    with_linear_patches,
    with_table_on_device,
)
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader
from transformers import (
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    VideoMAEForVideoClassification,
)

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
    from_host: bool = False
    """Whether each step copies its batch, float32, from the host's memory, as Trainer does."""


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
        Step(
            "LoRA on all layers, bfloat16 base, mended, batch from the host",
            layers,
            half,
            mended=True,
            from_host=True,
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
    torch.manual_seed(1)  # the same A, whatever was drawn before
    learner = peft.get_peft_model(
        model,
        peft.LoraConfig(
            r=8, lora_alpha=16, lora_dropout=0.0, target_modules=wanted,
            modules_to_save=["classifier"],
        ),
        autocast_adapter_dtype=not step.low_adapter,
    )  # fmt: skip
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
        self.device = device
        self.clips = make_clips(size, size.train_batch, device).to(step.base)
        self.host = host_batch(size, device)["pixel_values"] if step.from_host else None
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
        if self.host is not None:
            self.clips = self.host.to(self.device, non_blocking=True).to(self.step.base)
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


def host_batch(size: Size, device: torch.device) -> dict[str, torch.Tensor]:
    """The one batch of all ways, in the host's memory; pinned where a card copies from it."""
    clips = make_clips(size, size.train_batch, torch.device("cpu"))
    targets = torch.arange(size.train_batch) % LABELS
    if device.type == "cuda":
        clips, targets = clips.pin_memory(), targets.pin_memory()
    return {"pixel_values": clips, "labels": targets}


class OneBatch(Trainer):
    """Trainer as it is, but for its loader: the same batch again and again, ready in memory."""

    def __init__(self, batch: dict[str, torch.Tensor], **more: Any) -> None:
        super().__init__(**more)
        self.batch = batch

    def get_train_dataloader(self) -> "DataLoader[Any]":
        """Of as many batches as there are steps."""
        batches = [self.batch] * max(1, self.args.max_steps)
        loader: DataLoader[Any] = DataLoader(batches, batch_size=None)  # type: ignore[arg-type]
        return self.accelerator.prepare(loader)  # type: ignore[no-any-return]


class Clock(TrainerCallback):
    """When each step ended."""

    def __init__(self, device: torch.device, times: int) -> None:
        self.device = device
        self.times = times
        self.ends: list[float] = []

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """Look at the clock; wait for the device at both ends alone, for steps may overlap."""
        if len(self.ends) in (0, self.times):
            wait(self.device)
        self.ends.append(time.perf_counter())


class TrainerSteps:
    """Trainer with peft on the same model, adapter and batch; nothing is logged or saved."""

    def __init__(self, size: Size, device: torch.device, *, bf16: bool) -> None:
        self.size, self.device, self.bf16 = size, device, bf16
        layers = size.config.num_hidden_layers
        self.learner = make_learner(size, Step("Trainer", layers), device)
        self.batch = host_batch(size, device)
        self.loss = 0.0

    def timed(self, times: int) -> float:
        """Seconds of one step, from so many; the first, before them, is not counted."""
        clock = Clock(self.device, times)
        with tempfile.TemporaryDirectory() as folder:
            trainer = OneBatch(
                self.batch,
                model=self.learner,
                args=self._arguments(Path(folder), steps=times + 1),
                callbacks=[clock],
            )
            trainer.remove_callback(PrinterCallback)
            trainer.train()
        self.loss = float(trainer.state.log_history[-1]["train_loss"])
        return (clock.ends[-1] - clock.ends[0]) / times

    def _arguments(self, folder: Path, steps: int) -> TrainingArguments:
        return TrainingArguments(
            output_dir=str(folder),
            per_device_train_batch_size=self.size.train_batch,
            max_steps=steps,
            learning_rate=0.0,  # as in all other ways
            bf16=self.bf16,
            use_cpu=self.device.type == "cpu",
            remove_unused_columns=False,
            report_to=[],
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
        )


TRAINERS = {
    "Trainer + peft, LoRA on all layers, float32": False,
    "Trainer + peft, LoRA on all layers, bf16=True": True,
}
"""Whether Trainer is told to compute under autocast."""


def train(size: Size, device: torch.device, until: float) -> list[Measured]:
    """All ways of a step; what each keeps in between, weights and features, stays where it is.

    Args:
        size: Of the model.
        device: Where.
        until: When nothing more is begun, of ``time.perf_counter``.
    """
    found: list[Measured] = []
    exact: dict[int, torch.Tensor] = {}
    runs: dict[str, Run | Timer] = {}
    for row, begin in ways(size, device):
        found.append(row)
        try:
            if time.perf_counter() > until:
                raise NotHere("no time left")
            with peak_of(row, device):
                runs[row.form], training = begin(row)
        except NotHere as error:
            row.not_here = reason(error)
            continue
        except Exception as error:
            row.not_possible = reason(error)
            continue
        if training is not None:
            gradients = training.gradients()
            training.optimizer.zero_grad(set_to_none=True)
            expected = exact.setdefault(training.step.layers, gradients)
            row.cosine = float(functional.cosine_similarity(gradients, expected, dim=0))
    seconds = take_turns(runs, size, device)
    for row in found:
        if row.form in runs:
            fill(row, seconds[row.form], seconds[found[0].form], size.train_batch)
    return found


Begun = tuple[Run | Timer, Training | None]
"""What takes a step again, and who has the gradients of the first one; nobody has Trainer's."""


def ways(
    size: Size, device: torch.device
) -> Iterator[tuple[Measured, Callable[[Measured], Begun]]]:
    """An empty row for each way, and what takes its first step."""

    def first_step(step: Step, row: Measured) -> Begun:
        training = Training(size, step, device)
        row.loss = float(training.take())
        return training.take, training

    def first_training(bf16: bool, row: Measured) -> Begun:
        trainer = TrainerSteps(size, device, bf16=bf16)
        trainer.timed(1)
        row.loss = trainer.loss
        return trainer, None

    for step in steps(size.config.num_hidden_layers):
        yield Measured(step.name, size.train_batch), lambda row, step=step: first_step(step, row)  # type: ignore[misc]
    for name, bf16 in TRAINERS.items():
        yield (
            Measured(name, size.train_batch),
            lambda row, bf16=bf16: first_training(bf16, row),  # type: ignore[misc]
        )
