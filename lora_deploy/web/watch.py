"""What a server counts, times and logs: numbers and kinds, never visitors' contents, names or addresses."""

import asyncio
import json
import logging
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from lora_deploy.errors import ClipError, LoraDeployError

CONTENT_TYPE = CONTENT_TYPE_LATEST
"""Of what `Watch.metrics` gives."""

_PACKAGE = Path(__file__).parents[1]

_SECONDS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0)
"""Upper edges of the histograms: half a decade each, from a table's look-up to a long video."""


class Watch:
    """Counts of one server; safe from threads.

    Labels are names that stand in the code (endpoints, stages, kinds), so their number is bounded
    whatever visitors send.

    Args:
        served: What it is; the log's lines are under ``lora_deploy.`` and this word.
    """

    def __init__(self, served: str = "demo") -> None:
        self._logger = logging.getLogger(f"lora_deploy.{served}")
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)  # memory, processor time, open files
        self._requests = self._counter("requests", "Requests by outcome", "endpoint", "outcome")
        self._errors = self._counter("errors", "Requests that failed", "endpoint", "kind")
        self._request_seconds = self._histogram("request_seconds", "Whole requests", "endpoint")
        self._stage_seconds = self._histogram("stage_seconds", "Parts of requests", "stage")
        self._rejected = self._counter("rejected", "Turned away before any work", "reason")
        self._uploads = self._counter("uploads", "Requests that uploaded files")
        self._upload_bytes = self._counter("upload_bytes", "Bytes that were uploaded")
        self._deleted = self._counter("deleted_files", "Files of visitors that were deleted")
        self._under_way = self._gauge("requests_under_way", "Requests that are worked on")

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"lora_deploy_{name}", text, labels, registry=self._registry)

    def _gauge(self, name: str, text: str) -> Gauge:
        return Gauge(f"lora_deploy_{name}", text, registry=self._registry)

    def _histogram(self, name: str, text: str, *labels: str) -> Histogram:
        return Histogram(
            f"lora_deploy_{name}", text, labels, buckets=_SECONDS, registry=self._registry
        )

    @contextmanager
    def request(self, endpoint: str) -> Iterator["RequestWatch"]:
        """Count one request, time it, and write one line about it when it ends.

        An exception passes through, and is counted by its kind.
        """
        request = RequestWatch(self)
        begun = time.monotonic()
        self._under_way.inc()
        try:
            yield request
        except (GeneratorExit, asyncio.CancelledError):
            request.outcome = "cancelled"
            raise
        except BaseException as error:
            request.failed(kind_of(error))
            raise
        finally:
            self._under_way.dec()
            self._ended(endpoint, request, time.monotonic() - begun)

    def _ended(self, endpoint: str, request: "RequestWatch", seconds: float) -> None:
        self._requests.labels(endpoint, request.outcome).inc()
        self._request_seconds.labels(endpoint).observe(seconds)
        if request.kind:
            self._errors.labels(endpoint, request.kind).inc()
        stages = {name: round(took, 4) for name, took in request.stages.items()}
        self.log(
            "request",
            endpoint=endpoint,
            outcome=request.outcome,
            **({"kind": request.kind} if request.kind else {}),
            seconds=round(seconds, 4),
            stages=stages,
        )

    def observe_stage(self, stage: str, seconds: float) -> None:
        """Add one duration to those of ``stage``."""
        self._stage_seconds.labels(stage).observe(seconds)

    def rejected(self, reason: str) -> None:
        """Count and log somebody who was turned away; ``reason`` is a word of the code."""
        self._rejected.labels(reason).inc()
        self.log("rejected", reason=reason)

    def uploaded(self, size_bytes: int) -> None:
        """Count a request that uploaded."""
        self._uploads.inc()
        self._upload_bytes.inc(size_bytes)

    def deleted(self, files: int) -> None:
        """Count files of visitors that are gone."""
        self._deleted.inc(files)

    def follow(self, name: str, text: str, value: Callable[[], float]) -> None:
        """Show a number that somebody else keeps, such as the length of the queue."""
        self._gauge(name, text).set_function(value)

    def counter(self, name: str, text: str) -> Callable[[], None]:
        """Something else to be counted; call what comes back at each."""
        return self._counter(name, text).inc

    def tell(self, name: str, text: str, **labels: str) -> None:
        """Show facts that are no numbers, such as which model answers, as labels of a 1."""
        fact = Gauge(f"lora_deploy_{name}", text, labels, registry=self._registry)
        fact.labels(**labels).set(1)

    def log(self, event: str, **fields: object) -> None:
        """Write one line of JSON; the caller gives words and numbers only."""
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        self._logger.info(json.dumps({"at": now, "event": event, **fields}))

    def fault(self, error: BaseException, *, endpoint: str) -> None:
        """Log what broke and where in our code; not its words, which may be a visitor's."""
        self.log("fault", endpoint=endpoint, error=type(error).__name__, place=_place(error))

    def metrics(self) -> bytes:
        """Everything in the text format of Prometheus."""
        return generate_latest(self._registry)


class RequestWatch:
    """One request while it is worked on."""

    def __init__(self, watch: Watch) -> None:
        self.outcome = "ok"
        """ok, error, rejected or cancelled."""
        self.kind: str | None = None
        """Of its error."""
        self.stages: dict[str, float] = {}
        """Seconds by the name of the stage; a stage that is repeated adds up."""
        self._watch = watch

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time a part of the request, whether it ends well or not."""
        begun = time.monotonic()
        try:
            yield
        finally:
            self.took(name, time.monotonic() - begun)

    def took(self, name: str, seconds: float) -> None:
        """Add to the time of a part that somebody else has timed."""
        self.stages[name] = self.stages.get(name, 0.0) + seconds
        self._watch.observe_stage(name, seconds)

    def failed(self, kind: str) -> None:
        """Say that the request gives an error without raising one; the first word stands."""
        self.outcome = "error"
        self.kind = self.kind or kind


def _place(error: BaseException) -> str | None:
    """``file:line:function`` of the last frame that is of this package; None where there is none."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        file = Path(frame.filename)
        if file.is_relative_to(_PACKAGE):
            return f"{file.relative_to(_PACKAGE).as_posix()}:{frame.lineno}:{frame.name}"
    return None


def kind_of(error: BaseException) -> str:
    """The word under which an error is counted: of a named one its name, else that it is ours."""
    if isinstance(error, ClipError):
        return error.kind
    if isinstance(error, LoraDeployError):
        return error.name or type(error).__name__
    return "fault"
