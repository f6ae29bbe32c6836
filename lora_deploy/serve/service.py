"""The endpoints: FastAPI's application behind our door."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, Response
from fastapi.security import HTTPBearer
from starlette.exceptions import HTTPException

from lora_deploy.classify.inputs import Item
from lora_deploy.classify.rows import Row as ClipRow
from lora_deploy.classify.stream import RowOptions, row_of
from lora_deploy.clips.clip import Footage, Stretch
from lora_deploy.errors import ClipError
from lora_deploy.runtime.base import Recogniser
from lora_deploy.serve import shapes
from lora_deploy.serve.door import BODY, Door
from lora_deploy.serve.engine import Engine
from lora_deploy.serve.page import PAGE
from lora_deploy.serve.receiving import Receiving
from lora_deploy.serve.refusals import Refusing, opening, status_of
from lora_deploy.serve.settings import ServeSettings
from lora_deploy.versions import installed_versions
from lora_deploy.web import watch as watching
from lora_deploy.web.bodies import Body
from lora_deploy.web.turned import Turned
from lora_deploy.web.watch import RequestWatch, Watch

MOST_TOP_K = 1000

_NOWHERE = Path()
"""Of a row whose path nobody is told."""

_VIDEO = {"schema": {"type": "string", "format": "binary"}}
_FORM = {
    "schema": {
        "type": "object",
        "required": ["file"],
        "properties": {"file": {"type": "string", "format": "binary"}},
    }
}
_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "description": "A video: the file of a form, or the body itself. Links are not taken.",
        "content": {
            "multipart/form-data": _FORM,
            "video/*": _VIDEO,
            "application/octet-stream": _VIDEO,
        },
    }
}
_REFUSED: dict[int | str, dict[str, Any]] = {
    400: {"model": shapes.Refusal, "description": "bad_request"},
    401: {"model": shapes.Refusal, "description": "token"},
    403: {"model": shapes.Refusal, "description": "address, origin"},
    503: {"model": shapes.Refusal, "description": "busy, no_room, opening, stopping; says when"},
}
_CLASSIFIED: dict[int | str, dict[str, Any]] = {
    200: {"model": shapes.Row, "description": "What happens in the clip."},
    **_REFUSED,
    408: {"model": shapes.Refusal, "description": "slow"},
    413: {"model": shapes.Refusal | shapes.ErrorRow, "description": "too_large"},
    415: {"model": shapes.Refusal, "description": "content_type"},
    422: {"model": shapes.ErrorRow, "description": "The clip gives no answer."},
    500: {"model": shapes.Refusal, "description": "fault"},
}

_QUERIES: dict[str, Any] = {
    "top_k": Query(ge=1, le=MOST_TOP_K, description="Labels with their probabilities."),
    "start": Query(description="Where the part to be looked at begins, in seconds."),
    "end": Query(description="Where it ends; the end of the video by default."),
}


def application(
    engine: Engine,
    settings: ServeSettings,
    watch: Watch,
    about: Callable[[Recogniser], dict[str, Any]],
) -> Door:
    """The service as an ASGI application.

    Args:
        engine: Who answers.
        settings: What is allowed.
        watch: Where it is counted.
        about: What is said of an open model.
    """
    bearer = [Depends(HTTPBearer(auto_error=False))] if settings.tokens else []
    app = FastAPI(
        title="lora-deploy serve",
        version=installed_versions().get("lora-deploy", "unknown"),
        description="Send a video, get what happens in it.",
        docs_url=None,  # its scripts come from elsewhere
        redoc_url=None,
        root_path=settings.root_path,
    )
    refusing = Refusing(settings, watch)
    door = Door(app, settings, refusing)
    _Endpoints(engine, settings, watch, about, door, refusing).add_to(app, bearer)
    _add_refusals(app, refusing, watch)
    return door


class _Endpoints:
    """One method an address."""

    def __init__(
        self,
        engine: Engine,
        settings: ServeSettings,
        watch: Watch,
        about: Callable[[Recogniser], dict[str, Any]],
        door: Door,
        refusing: Refusing,
    ) -> None:
        self._engine = engine
        self._watch = watch
        self._about = about
        self._door = door
        self._refusing = refusing
        self._receiving = Receiving(settings)
        watch.follow(
            "upload_bytes_under_way",
            "Room that is set apart for uploads",
            lambda: self._receiving.room.taken_bytes,
        )

    def add_to(self, app: FastAPI, bearer: list[Any]) -> None:
        app.post(
            "/v1/classify", responses=_CLASSIFIED, openapi_extra=_BODY, dependencies=bearer,
            response_model=None,
        )(self.classify)  # fmt: skip
        app.get(
            "/v1/model", responses={200: {"model": shapes.About}, **_REFUSED}, dependencies=bearer,
            response_model=None,
        )(self.model)  # fmt: skip
        app.get("/healthz", response_model=shapes.State)(self.healthz)
        app.get(
            "/readyz", responses={503: {"model": shapes.State}}, response_model=shapes.State
        )(self.readyz)  # fmt: skip
        app.get("/metrics", response_class=Response, dependencies=bearer)(self.metrics)
        app.get("/docs", response_class=HTMLResponse, include_in_schema=False)(self.docs)

    async def classify(
        self,
        request: Request,
        top_k: Annotated[int, _QUERIES["top_k"]] = 5,
        start: Annotated[float | None, _QUERIES["start"]] = None,
        end: Annotated[float | None, _QUERIES["end"]] = None,
    ) -> Response:
        """Say what happens in a video, or in a part of it."""
        with self._watch.request("classify") as watched:
            try:
                row = await self._row(request, top_k, start, end, watched)
            except Turned as turned:
                watched.outcome = "cancelled" if turned.reason == "left" else "rejected"
                return await self._refusing.answer(turned, request.headers, request.scope[BODY])
            if row.error_kind is not None:
                watched.failed(row.error_kind)
            return _answer(row)

    async def _row(
        self,
        request: Request,
        top_k: int,
        start: float | None,
        end: float | None,
        watched: RequestWatch,
    ) -> ClipRow:
        if unknown := sorted(set(request.query_params) - set(_QUERIES)):
            raise Turned(
                400,
                "bad_request",
                f"nobody asks for {unknown[0][:40]!r}; what can be said is {', '.join(sorted(_QUERIES))}",
            )
        self._engine.check_room()  # before anything is sent for nothing
        body: Body = request.scope[BODY]
        async with self._receiving.parcel(request.headers, body) as parcel:
            self._watch.uploaded(body.bytes)
            try:
                stretch = None if start is None and end is None else Stretch(start or 0.0, end)
            except ClipError as error:
                parcel.close_after(None)
                return self._row_of(error, None, top_k)
            outcome = await self._engine.ask(parcel, stretch, body, watched)
        return self._row_of(outcome, stretch, top_k)

    def _row_of(self, outcome: Any, stretch: Stretch | None, top_k: int) -> ClipRow:
        recogniser = self._engine.recogniser
        assert recogniser is not None
        item = Item("", Footage(_NOWHERE, stretch))
        return row_of(recogniser, item, outcome, RowOptions(top_k))

    async def model(self) -> Response:
        """What the model knows and sees, what runs it, and what was proved."""
        recogniser = self._engine.recogniser
        if recogniser is None:
            raise opening()
        return JSONResponse(self._about(recogniser))

    async def healthz(self) -> Response:
        """The process lives."""
        return JSONResponse({"status": "ok"})

    async def readyz(self) -> Response:
        """A clip would be answered."""
        if self._door.pulse.is_stopping:
            status = "stopping"
        elif self._engine.recogniser is None:
            status = "opening"
        else:
            status = "ready" if await self._engine.is_well() else "failing"
        return JSONResponse({"status": status}, 200 if status == "ready" else 503)

    async def metrics(self) -> Response:
        """For Prometheus."""
        return Response(self._watch.metrics(), media_type=watching.CONTENT_TYPE)

    async def docs(self) -> Response:
        """For people."""
        return HTMLResponse(PAGE)


def _answer(row: ClipRow) -> JSONResponse:
    """The row, without a path: the server knows none."""
    values = row.as_dict()
    del values["path"]
    return JSONResponse(values, 200 if row.error_kind is None else status_of(row.error_kind))


def _add_refusals(app: FastAPI, refusing: Refusing, watch: Watch) -> None:
    """Whatever says no says it in our shape."""

    async def turned(request: Request, error: Exception) -> Response:
        assert isinstance(error, Turned)
        return await refusing.answer(error, request.headers, request.scope[BODY])

    async def no_such(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        if error.status_code == 405:
            found = Turned(405, "method", "this address is not asked so", error.headers)
        else:
            found = Turned(404, "no_such_address", "there is nothing here")
        return await turned(request, found)

    async def not_valid(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        first = error.errors()[0]
        text = f"{first['loc'][-1]}: {first['msg'][:1].lower()}{first['msg'][1:]}"
        with watch.request("classify") as watched:  # nothing else has values to be wrong
            watched.outcome = "rejected"
            return await turned(request, Turned(400, "bad_request", text))

    async def fault(request: Request, error: Exception) -> Response:
        del request
        return refusing.fault(error)

    app.add_exception_handler(Turned, turned)
    app.add_exception_handler(HTTPException, no_such)
    app.add_exception_handler(RequestValidationError, not_valid)
    app.add_exception_handler(Exception, fault)
