"""What browsers are told of the page: load from here alone, believe no other type, be in no frame."""

from collections.abc import Sequence

from starlette.datastructures import MutableHeaders
from starlette.types import Message, Send

_POLICY = (
    "default-src 'self'",
    "style-src 'self' 'unsafe-inline'",  # Gradio's components carry their style
    "img-src 'self' data: blob:",
    "media-src 'self' data: blob:",  # blob: what the camera recorded
    "font-src 'self' data:",
    "worker-src 'self' blob:",
    "object-src 'none'",
    "base-uri 'self'",
    "form-action 'self'",
)


class PagePolicy:
    """The content security policy; it lets run what comes from this server, and scripts with a mark.

    Args:
        framed_by: Other origins that may show the page in a frame.
        has_scripts: Whether texts may be made functions of, as Gradio does with a page's own.
    """

    def __init__(self, framed_by: Sequence[str], *, has_scripts: bool = False) -> None:
        self._frames = " ".join(("frame-ancestors 'self'", *framed_by))
        self._scripts = "script-src 'self'" + (" 'unsafe-eval'" if has_scripts else "")

    def without_scripts(self) -> str:
        """For all answers but the page."""
        return "; ".join((*_POLICY, "script-src 'self'", self._frames))

    def with_mark(self, mark: str) -> str:
        """For the page whose script elements bear ``mark``, which nobody could guess."""
        return "; ".join((*_POLICY, f"{self._scripts} 'nonce-{mark}'", self._frames))


class SafeHeaders:
    """Adds to each answer what it does not say itself."""

    def __init__(self, framed_by: Sequence[str]) -> None:
        self._headers = {
            "content-security-policy": PagePolicy(framed_by).without_scripts(),
            "x-content-type-options": "nosniff",
            "referrer-policy": "same-origin",
            "permissions-policy": "camera=(self), microphone=(self), geolocation=(), payment=(), usb=()",
            "cross-origin-resource-policy": "same-origin",
            "cross-origin-opener-policy": "same-origin",
        }
        if not framed_by:  # for browsers that don't know frame-ancestors; it can't name others
            self._headers["x-frame-options"] = "SAMEORIGIN"

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
