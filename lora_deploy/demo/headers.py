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


def content_policy(framed_by: Sequence[str], script: str = "'none'") -> str:
    """The content security policy; ``script`` says what may run beside files of this server."""
    frames = " ".join(("'self'", *framed_by))
    return "; ".join(
        (
            *_POLICY,
            f"script-src 'self' {script}".replace(" 'none'", ""),
            f"frame-ancestors {frames}",
        )
    )


class SafeHeaders:
    """Adds to each answer what it does not say itself."""

    def __init__(self, framed_by: Sequence[str]) -> None:
        self._headers = {
            "content-security-policy": content_policy(framed_by),
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
