"""Connections on which nothing is answered: who stays silent is ended, and of too many some give way."""

import time
from typing import Any


class Resting:
    """Those of uvicorn's connections on which no request is under way.

    Args:
        connections: Uvicorn's own set; one is in it until it is closed.
        most: Of more than these, resting ones are closed. What is under way never is.
        request_seconds: For a request to arrive, up to its body.
    """

    def __init__(self, connections: set[Any], *, most: int, request_seconds: float) -> None:
        self._connections = connections
        self._most = most
        self._request_seconds = request_seconds
        self._silent_since: dict[Any, float] = {}

    def came(self, connection: Any) -> None:
        """A connection was made: where it is one too many, another gives way."""
        self._silent_since[connection] = time.monotonic()
        if len(self._connections) > self._most:
            self._give_way(connection)

    def end_silent(self) -> None:
        """Those that are here for long and have sent no whole request; to be called often.

        Uvicorn has a limit for the time after an answer only, and a first byte ends that one.
        """
        now = time.monotonic()
        silent = (
            one
            for one in self._connections
            if (one.cycle is None or one.cycle.response_complete)
            and one.timeout_keep_alive_task is None
        )
        self._silent_since = {one: self._silent_since.get(one, now) for one in silent}
        for connection, since in self._silent_since.items():
            if now - since > self._request_seconds:
                connection.transport.close()

    def _give_way(self, newest: Any) -> None:
        """First who never asked anything, the longest silent first; then who had an answer longest ago.

        Left alone are whoever has begun to ask again, after an answer, and the newest one, which may
        be about to ask: what it then gets, if only a refusal, is an answer.
        """
        there = [one for one in self._connections if not one.transport.is_closing()]
        new = [one for one in there if one.cycle is None and one is not newest]
        answered = [one for one in there if one.timeout_keep_alive_task is not None]
        new.sort(key=self._silent_since.__getitem__)
        answered.sort(key=lambda one: one.timeout_keep_alive_task.when())
        for connection in [*new, *answered][: max(0, len(there) - self._most)]:
            connection.transport.close()
