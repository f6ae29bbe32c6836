"""What browsers are told of the page: load from here alone, believe no other type, be in no frame."""

from collections.abc import Sequence

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


def page_headers(framed_by: Sequence[str]) -> dict[str, str]:
    """What each answer says, by name, unless it says something else itself."""
    headers = {
        "content-security-policy": PagePolicy(framed_by).without_scripts(),
        "x-content-type-options": "nosniff",
        "referrer-policy": "same-origin",
        "permissions-policy": "camera=(self), microphone=(self), geolocation=(), payment=(), usb=()",
        "cross-origin-resource-policy": "same-origin",
        "cross-origin-opener-policy": "same-origin",
    }
    if not framed_by:  # for browsers that don't know frame-ancestors; it can't name others
        headers["x-frame-options"] = "SAMEORIGIN"
    return headers
