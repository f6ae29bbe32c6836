"""The fetching process: one errand, then it ends. Its parent kills it at the deadline.

Started by `lora_deploy.links.errand` as ``python -m lora_deploy.links.child``; of no use by hand.
"""

import os
import sys
import time
from collections.abc import Callable
from typing import IO

from lora_deploy.clips.fence import die_with_parent
from lora_deploy.links import gate
from lora_deploy.links.messages import Done, Errand, Progress, Refusal, Refused

_ROOM_BYTES = 1 << 20
"""Over the limit, so that it is this package that refuses, and the kernel only where that fails."""

_PROCESSOR_SECONDS = 600
_VAGUE = ("no_network", "refused", "outdated", "no_format", "no_javascript", "unavailable")
_TELL_SECONDS = 0.2


def main() -> None:
    """Read the errand from stdin, and say on stdout what becomes of it."""
    answers = _keep_stdout()
    errand = Errand.model_validate_json(sys.stdin.buffer.readline())
    die_with_parent(errand.parent_pid)
    os.chdir(errand.folder)
    gate.limit_resources(
        file_bytes=errand.max_bytes + _ROOM_BYTES, processor_seconds=_PROCESSOR_SECONDS
    )
    try:
        message: Done | Refused = _run(errand, answers)
    except Refusal as refusal:
        message = refusal.message
    except (
        Exception
    ) as error:  # a fault of ours, or of a library; the parent has one sentence for it
        text = " ".join(f"{type(error).__name__}: {error}".split())
        message = Refused(kind="unavailable", log=text[:500])
    _say(answers, message)


def _run(errand: Errand, answers: IO[str]) -> Done:
    """Import first, then close the gate, then go."""
    tell = _teller(answers)
    if errand.kind == "video":
        sys.modules["curl_cffi"] = None  # type: ignore[assignment]  # it connects past the gate
        from lora_deploy.links import youtube

        closed = gate.Gate(domains=youtube.DOMAINS, program=errand.javascript, ports=youtube.PORTS)
        fetch: Callable[[Errand, Callable[[float], None]], Done] = youtube.fetch_video
    else:
        from lora_deploy.links import plain

        closed = gate.Gate(domains=errand.hosts, program=None)
        fetch = plain.fetch_file
    closed.close()
    try:
        return fetch(errand, tell)
    except Exception as error:
        told = error.message if isinstance(error, Refusal) else None
        if told is None or told.kind in _VAGUE:  # what a library made of the gate's refusal
            if gate.ADDRESS in closed.refused:
                raise Refusal("address", log=told.log if told else str(error)) from None
            if gate.NAME in closed.refused:
                raise Refusal("redirect", log=told.log if told else str(error)) from None
        raise


def _teller(answers: IO[str]) -> Callable[[float], None]:
    """Tells the parent how far it is, now and then."""
    last = 0.0

    def tell(part: float) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= _TELL_SECONDS:
            last = now
            _say(answers, Progress(part=part))

    return tell


def _say(answers: IO[str], message: Progress | Done | Refused) -> None:
    answers.write(message.model_dump_json() + "\n")
    answers.flush()


def _keep_stdout() -> IO[str]:
    """Where answers go. What libraries print goes nowhere: it may hold anything."""
    kept = os.dup(1)
    nowhere = os.open(os.devnull, os.O_RDWR)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    os.close(nowhere)
    return os.fdopen(kept, "w", encoding="utf-8")


if __name__ == "__main__":
    main()
