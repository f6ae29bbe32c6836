"""What only a trial can tell: whether packages start, and whether the device that is asked for answers."""

import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from lora_deploy.doctor.builds import build_of_torch
from lora_deploy.doctor.complaint import Complaint
from lora_deploy.doctor.hardware import Nvidia
from lora_deploy.doctor.packages import look_up

TRIAL_SECONDS = 60.0
"""A cold import of PyTorch from a slow disk takes a good part of it."""

_PROGRAM = Path(__file__).with_name("trial.py")
_CUDA = "CUDAExecutionProvider"
_CPU = "CPUExecutionProvider"


@dataclass(frozen=True)
class Outcome:
    """How a trial went."""

    answer: str | None
    """None where it failed."""
    said: str
    """Last line on stderr, or how the process ended."""


def attempt(trial: str, argument: str = "") -> Outcome:
    """Run one trial; it may take its time, crash or hang, and nothing of that is raised."""
    try:
        done = subprocess.run(
            # -P: nothing that lies beside the script, or in the working directory, is taken for a library
            [sys.executable, "-P", str(_PROGRAM), trial, argument],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=TRIAL_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return Outcome(None, f"it was not done after {TRIAL_SECONDS:.0f} seconds")
    except OSError as error:
        return Outcome(None, str(error))
    said = [
        line.strip() for line in done.stderr.decode(errors="replace").splitlines() if line.strip()
    ]
    if done.returncode == 0:
        answers = done.stdout.decode(errors="replace").splitlines() or [""]
        return Outcome(answers[-1], said[-1] if said else "")
    if done.returncode < 0:
        return Outcome(None, f"it was ended by {signal.Signals(-done.returncode).name}")
    return Outcome(None, said[-1][:300] if said else f"it ended with {done.returncode}")


def of_torch(nvidia: Nvidia | None) -> tuple[Complaint, ...]:
    """Whether it starts, and uses the card that is there."""
    if look_up("torch") is None:
        return ()
    outcome = attempt("cuda")
    if outcome.answer is None:
        return (broken("torch", outcome, "torch>=2.10"),)
    build = build_of_torch()
    if nvidia is None or outcome.answer != "0" or build == "cpu":
        return ()
    reason = f" ({outcome.said[:200]})" if outcome.said else ""
    found = f"{nvidia} is here, and torch, built for {build}, sees no CUDA device{reason}"
    remedy = "bring the driver up to date, and see that CUDA_VISIBLE_DEVICES hides nothing"
    return (Complaint("gpu-unused", found, remedy),)


def of_onnxruntime(nvidia: Nvidia | None) -> tuple[Complaint, ...]:
    """Whether it opens a graph, and on the GPU where its build is for one."""
    for_gpu = look_up("onnxruntime-gpu") is not None
    if not for_gpu and look_up("onnxruntime") is None:
        return ()
    asked = _CUDA if for_gpu else _CPU
    outcome = attempt("provider", asked)
    if outcome.answer is None:
        return (broken("onnxruntime", outcome, f"onnxruntime{'-gpu' if for_gpu else ''}>=1.27"),)
    if outcome.answer == asked:
        return ()
    found = f"ONNX Runtime was asked for {asked} and took {outcome.answer} without an error"
    remedy = (
        "bring driver, CUDA and cuDNN to what this onnxruntime-gpu was built for"
        if nvidia
        else "no NVIDIA driver is here, so type: "
        "pip uninstall -y onnxruntime-gpu && pip install --force-reinstall onnxruntime"
    )
    return (Complaint("provider-fallback", found, remedy),)


def of_openvino(_: Nvidia | None) -> tuple[Complaint, ...]:
    """Whether it starts."""
    if look_up("openvino") is None:
        return ()
    outcome = attempt("import", "openvino")
    return () if outcome.answer is not None else (broken("openvino", outcome, "openvino"),)


def broken(package: str, outcome: Outcome, install: str) -> Complaint:
    """A package that is installed and can't be used."""
    return Complaint(
        "broken-package",
        f"{package} is installed and does not start: {outcome.said}",
        f'type: pip install --force-reinstall "{install}"',
    )
