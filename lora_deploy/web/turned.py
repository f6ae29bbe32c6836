"""A request that is not let through: the answer, and the word to count it by."""

from collections.abc import Mapping


class Turned(Exception):
    """Ends a request; the text is for the visitor and tells nothing of the server."""

    def __init__(
        self, status: int, reason: str, text: str, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(text)
        self.status = status
        self.reason = reason
        self.text = text
        self.headers = dict(headers or {})
