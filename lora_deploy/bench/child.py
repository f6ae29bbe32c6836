"""The process of one form: it opens it, answers once, and then measures whenever it is its turn.

Started by `lora_deploy.bench.process` as ``python -m lora_deploy.bench.child``; of no use by hand.
Orders come as JSON lines on stdin, answers go as JSON lines to where stdout was.
"""

import itertools
import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from lora_deploy.clips import fence
from lora_deploy.errors import LoraDeployError
from lora_deploy.memory import peak_memory_bytes

STAGES = ("decode", "preprocess", "transfer", "infer", "post")
"""From a video file to a prediction; what is moved to the device and back is one stage."""


def main() -> None:
    """Open, say how long it took, and obey until stdin ends."""
    job = json.loads(sys.argv[1])
    fence.die_with_parent(job["parent_pid"])
    answers = _keep_stdout()
    try:
        runs: Peak | Model = Peak(job) if job["kind"] == "peak" else Model(job)
    except LoraDeployError as error:
        _say(answers, {"error": str(error)})
        return
    _say(answers, runs.opened)
    for line in sys.stdin:
        order = json.loads(line)
        if order["do"] == "end":
            break
        try:
            answer = getattr(runs, order["do"])(order)
        except LoraDeployError as error:
            answer = {"error": str(error)}
        _say(answers, answer)
    runs.close()


class Peak:
    """Multiplies matrices."""

    def __init__(self, job: Mapping[str, Any]) -> None:
        """Try out which size is the fastest."""
        from lora_deploy.bench.matrix_peak import MatrixPeak

        self._peak = MatrixPeak(job["package"], job["precisions"], job["threads"])
        self.opened: dict[str, Any] = {}

    def turn(self, order: Mapping[str, Any]) -> dict[str, Any]:
        """Operations a second, by precision."""
        return {"flop_per_second": self._peak.measure()}

    def close(self) -> None:
        """Nothing is held."""


class Model:
    """Classifies clips, with a clock between the stages."""

    def __init__(self, job: Mapping[str, Any]) -> None:
        """Import, open, answer once; ``opened`` has the seconds of each."""
        from lora_deploy.bench import engines
        from lora_deploy.clips import transforms
        from lora_deploy.clips.pool import DecodePool

        engines.import_packages(job)
        imported = time.monotonic()
        self._engine = engines.open_engine(job)
        open_ = time.monotonic()
        self._normalise = transforms.normalise
        self._clips = [Path(path) for path in job["clips"]]
        self._next = 0
        self._pool = DecodePool(1)
        _, label = self._classify(self._clips[0])
        answered = time.monotonic()
        started = job["started"]  # by the same clock, in the process that started this one
        self.opened: dict[str, Any] = {
            "cold_seconds": {
                "imports": imported - started,
                "opening": open_ - imported,
                "first_answer": answered - open_,
                "all": answered - started,
            },
            "packages": engines.heavy_packages(),
            "label": label,
        }

    def turn(self, order: Mapping[str, Any]) -> dict[str, Any]:
        """Classify clips one by one until the time is over, at least one.

        Returns:
            Milliseconds by stage, a number a clip; and the label of each clip that was seen.
        """
        self._classify(self._clips[self._next])  # untimed: others had the caches meanwhile
        stages: dict[str, list[float]] = {stage: [] for stage in STAGES}
        labels: dict[str, str] = {}
        until = time.monotonic() + order["seconds"]
        while True:
            times, label = self._classify(self._clips[self._next])
            for stage, milliseconds in zip(STAGES, times, strict=True):
                stages[stage].append(milliseconds)
            labels[str(self._next)] = label
            self._next = (self._next + 1) % len(self._clips)
            if time.monotonic() >= until:
                return {"stages_ms": stages, "labels": labels}

    def memory(self, _: Mapping[str, Any]) -> dict[str, Any]:
        """The most bytes held so far, here and in the process that decodes."""
        return {
            "process": peak_memory_bytes(),
            "decoder": sum(peak_memory_bytes(str(pid)) for pid in self._pool.worker_pids()),
        }

    def flop(self, _: Mapping[str, Any]) -> dict[str, Any]:
        """What one clip costs in operations."""
        return {"per_clip": self._engine.flop_per_clip()}

    def close(self) -> None:
        """End the process that decodes."""
        self._pool.close()

    def _classify(self, path: Path) -> tuple[Sequence[float], str]:
        """Milliseconds of each of `STAGES`, and the label."""
        engine = self._engine
        marks = [time.perf_counter()]
        clip = self._pool.decode(path, engine.recogniser.contract)
        marks.append(time.perf_counter())
        pixel_values = self._normalise(clip.frames[None], engine.recogniser.contract)
        marks.append(time.perf_counter())
        on_device = engine.to_device(pixel_values)
        marks.append(time.perf_counter())
        result = engine.infer(on_device)
        marks.append(time.perf_counter())
        logits = engine.to_host(result)
        marks.append(time.perf_counter())
        prediction = engine.recogniser.predict(
            logits[0], top_k=5, duration_seconds=clip.duration_seconds, warning=clip.warning
        )
        marks.append(time.perf_counter())
        decode, preprocess, there, infer, back, post = (
            1000 * (later - earlier) for earlier, later in itertools.pairwise(marks)
        )
        return (decode, preprocess, there + back, infer, post), prediction.top_k[0][0]


def _keep_stdout() -> IO[str]:
    """Where answers go. What libraries print from now on goes to stderr."""
    kept = os.dup(1)
    os.dup2(2, 1)
    return os.fdopen(kept, "w")


def _say(answers: IO[str], answer: Mapping[str, Any]) -> None:
    answers.write(json.dumps(answer) + "\n")
    answers.flush()


if __name__ == "__main__":
    main()
