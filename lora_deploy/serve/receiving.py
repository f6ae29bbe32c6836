"""A request's video, as the file of a form or as the body itself, into a parcel; with its limits."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.datastructures import Headers

from lora_deploy.serve.form import FormFile
from lora_deploy.serve.parcel import MOST_AT_ONCE, Parcel, Place, Room, lack_of_room_told
from lora_deploy.serve.settings import ServeSettings
from lora_deploy.web.bodies import (
    FORM_BYTES,
    LEAST_UPLOAD_BYTES_PER_SECOND,
    Body,
    cut_off,
    expected_bytes,
    in_words,
)
from lora_deploy.web.turned import Turned

IDLE_SECONDS = 30.0
"""Without a byte, after which an upload is given up; how fast it is counts from then on, too."""


class Receiving:
    """Takes uploads in, as many at once as there is room for."""

    def __init__(self, settings: ServeSettings) -> None:
        self._most_bytes = settings.max_upload_bytes
        self.room = Room(MOST_AT_ONCE * (settings.max_upload_bytes + FORM_BYTES))

    @asynccontextmanager
    async def parcel(self, headers: Headers, body: Body) -> AsyncIterator[Parcel]:
        """The video of a request, whole; whoever gets it closes it.

        Raises:
            Turned: It is too large, too slow, none at all, or there is no room for it.
        """
        form = _form_of(headers)
        most = self._most_bytes + (FORM_BYTES if form else 0)
        expected = expected_bytes(headers, most)
        if expected > most:
            raise self._too_large()
        with self.room.of(expected) as place:
            body.limit(expected, IDLE_SECONDS, least_bytes_per_second=LEAST_UPLOAD_BYTES_PER_SECOND)
            with lack_of_room_told():
                parcel = Parcel()
            try:
                await self._fill(parcel, place, form, body)
            except BaseException:
                parcel.close_after(None)
                raise
            place.bytes = parcel.bytes
            yield parcel

    async def _fill(self, parcel: Parcel, place: Place, form: FormFile | None, body: Body) -> None:
        while not body.is_complete:
            data = (await body()).get("body", b"")
            if body.cut:
                raise cut_off(body, self._too_large().text)
            if body.is_gone:
                raise Turned(499, "left", "")
            await parcel.add(form.take(data) if form else data)
            place.written_bytes = parcel.written_bytes
            if parcel.bytes > self._most_bytes:  # of a form, whose frame is smaller than it may be
                raise self._too_large()
        if form:
            form.check_whole()
        await parcel.flush()
        place.written_bytes = parcel.written_bytes

    def _too_large(self) -> Turned:
        most = in_words(self._most_bytes)
        return Turned(413, "too_large", f"this is too large: at most {most} can be uploaded")


def _form_of(headers: Headers) -> FormFile | None:
    """Who takes a form apart; None where the body is the video."""
    content_type = headers.get("content-type", "")
    kind = content_type.partition(";")[0].strip().lower()
    if headers.get("content-encoding", "identity").lower() != "identity":
        raise Turned(415, "content_type", "the body is encoded; send the video as it is")
    if kind == "multipart/form-data":
        return FormFile(content_type)
    if kind.startswith("video/") or kind == "application/octet-stream":
        return None
    raise Turned(
        415,
        "content_type",
        "send the video as the file of a form (multipart/form-data), or as the body with a content "
        "type of video/… or application/octet-stream",
    )
