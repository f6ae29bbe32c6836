"""From a model to a service on a port: it listens at once, is ready when the model is, and stops in order."""

import logging
import threading
from collections.abc import Callable

from lora_deploy.classify.terms import Model
from lora_deploy.clips.pool import DecodePool
from lora_deploy.runtime.load import require_model
from lora_deploy.serve.about import about, certificate_of, precision_of
from lora_deploy.serve.door import Door
from lora_deploy.serve.engine import Engine
from lora_deploy.serve.service import application
from lora_deploy.serve.settings import ServeSettings
from lora_deploy.web.server import OrderlyServer, listening
from lora_deploy.web.watch import Watch

CONNECTIONS = 600
"""At once; who asks on another one is told 503."""

REQUEST_SECONDS = 10.0
"""For a request to arrive, up to its body, after the connection is made or its first byte is sent."""


def run_service(
    model: Model,
    settings: ServeSettings,
    *,
    workers: int | None = None,
    ready: Callable[[str], None] | None = None,
) -> int:
    """Serve a model until SIGTERM or Ctrl-C.

    Args:
        model: Which, and how it is opened.
        settings: Where, for whom, and how much.
        workers: Processes that decode; by default one a core.
        ready: Called with the address when requests are taken; the model may not be open then.

    Returns:
        The exit code: 0 where all that was under way was answered, 1 where some of it was given
        up, 128 and the signal's number where a second one ended it at once.

    Raises:
        ArtifactError: The folder is no model, or is damaged.
        BackendError: It can't be run so here.
        AddressTakenError: The port is taken, or the address is not this computer's.
    """
    logging.getLogger("python_multipart").setLevel(logging.ERROR)  # it repeats what strangers send
    require_model(model.folder)
    certificate = certificate_of(model.folder)
    watch = Watch("serve")
    with (
        listening(settings.host, settings.port) as (listener, url),
        DecodePool(workers, deadline_seconds=settings.timeout_seconds) as pool,
    ):
        engine = Engine(model.open, pool, settings, watch, batch_size=model.batch_size)
        door = application(engine, settings, watch, lambda one: about(model, one, certificate))
        server = _Server(door, settings)
        opening = threading.Thread(
            target=_open, args=(engine, server, model, watch), name="open", daemon=True
        )

        def start() -> None:
            watch.log("listening", public=settings.is_public, token=bool(settings.tokens))
            if ready is not None:
                ready(url)
            opening.start()

        server.at_start = start
        server.run([listener])
        engine.close()
    watch.log("stopped", unanswered=server.unanswered)
    if server.fault is not None:
        raise server.fault
    if server.ended_by is not None:
        return 128 + server.ended_by
    return 1 if server.unanswered else 0


class _Server(OrderlyServer):
    """Works as long as a request with a video is received, asked about, or answered."""

    def __init__(self, door: Door, settings: ServeSettings) -> None:
        super().__init__(
            door,
            door.pulse,
            connections=CONNECTIONS,
            request_seconds=REQUEST_SECONDS,
            grace_seconds=settings.grace_seconds,
            http="h11",  # it limits the size of headers
        )
        self._door = door
        self.fault: Exception | None = None
        """Why there is no model."""
        self.unanswered = 0
        """Requests with a video that were given up at the end."""

    @property
    def is_stopping(self) -> bool:
        """Whether it was asked to stop."""
        return self._pulse.is_stopping

    def is_working(self) -> bool:
        """Whether anybody waits for an answer."""
        return self._door.under_way > 0

    def end_work(self) -> None:
        """Tell those who wait that there will be none."""
        self.unanswered = self._door.under_way
        self._door.give_up()


def _open(engine: Engine, server: _Server, model: Model, watch: Watch) -> None:
    try:
        engine.open()
    except Exception as error:
        if server.is_stopping:  # then it was the end that came between
            return
        server.fault = error
        server.should_exit = True
        watch.log("no_model", kind=getattr(error, "name", None) or type(error).__name__)
        return
    recogniser = engine.recogniser
    assert recogniser is not None
    watch.tell(
        "model_info",
        "Which model answers",
        digest=recogniser.digest,
        backend=recogniser.backend.name,
        precision=precision_of(model),
    )
    watch.log("ready", model=recogniser.digest)
