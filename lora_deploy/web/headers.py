"""Adds to each answer what browsers are to be told and it does not say itself."""

from collections.abc import Mapping

from starlette.datastructures import MutableHeaders
from starlette.types import Message, Send


class SafeHeaders:
    """Headers that every answer has.

    Args:
        headers: By name; an answer's own of the same name stands.
    """

    def __init__(self, headers: Mapping[str, str]) -> None:
        self._headers = headers

    def on(self, send: Send, *, may_be_kept: bool) -> Send:
        """``send`` with these headers; what visitors get for themselves alone is not kept."""

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in self._headers.items():
                    headers.setdefault(name, value)
                if not may_be_kept:
                    headers["cache-control"] = "no-store"
            await send(message)

        return sending
