"""Whose request it is: names that this computer has, marks of a proxy, other sites' pages."""

import ipaddress
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import Scope

from lora_deploy.web.turned import Turned

_PROXY_HEADERS = ("x-forwarded-for", "x-forwarded-host", "forwarded", "x-real-ip", "via")
"""What those who pass requests on add to them."""


def is_loopback(host: str) -> bool:
    """Whether ``host`` can be reached from this computer alone; a name other than localhost is not."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def is_root_path(path: str) -> bool:
    """Whether a proxy may show a server under ``path``, as in ``/clips``; empty at the root of a host."""
    return not path or (path.startswith("/") and not path.endswith("/") and path.isprintable())


def is_proxied(headers: Headers) -> bool:
    """Whether somebody passed the request on."""
    return any(name in headers for name in _PROXY_HEADERS)


def address_of(scope: Scope) -> str:
    """Who asks, as the connection or a trusted proxy says."""
    client = scope.get("client")
    return client[0] if client else ""


def path_of(scope: Scope, root_path: str) -> str:
    """The path that is asked for, without the part in front, which a proxy may take away or leave."""
    path: str = scope["path"]
    return path.removeprefix(root_path)


def check_own_name(headers: Headers, text: str) -> None:
    """Refuse what does not call this computer by one of its own names, or was passed on.

    So neither a proxy in front of a server that was started for this computer alone, nor a
    stranger's page whose name was pointed at 127.0.0.1, opens it by accident.

    Raises:
        Turned: With ``text``.
    """
    try:
        host = urlsplit(f"//{headers.get('host', '')}").hostname or ""
    except ValueError:  # brackets that hold no address
        host = ""
    if not is_loopback(host) or is_proxied(headers):
        raise Turned(403, "address", text)


def check_origin(headers: Headers) -> None:
    """Refuse what another site's page asks for in a visitor's name.

    Raises:
        Turned: It does.
    """
    site = headers.get("sec-fetch-site")
    if site in ("same-origin", "none"):
        return
    try:
        origin = urlsplit(headers.get("origin", "")).netloc
    except ValueError:  # brackets that hold no address
        origin = ""
    ours = {headers.get("host"), headers.get("x-forwarded-host")}
    if site is not None or ("origin" in headers and origin not in ours):
        raise Turned(403, "origin", "this request comes from another site's page")
