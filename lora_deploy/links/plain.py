"""One plain file of a listed host, through safehttpx's transport, which connects to a checked address.

Runs in a fetching process only. safehttpx's own resolver is not used: it takes the first public of
several addresses, holds carriers' networks, 6to4 and one cloud's metadata to be public, and asks a
third party where it finds none; and its ``get`` holds a whole body in memory. Its transport drops
timeouts, so the end of a silent server is the deadline that the parent process keeps.
"""

import asyncio
import errno
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urldefrag, urljoin, urlsplit

import safehttpx

from lora_deploy.errors import LinkError
from lora_deploy.links.addresses import is_public
from lora_deploy.links.complaints import kind_of_status
from lora_deploy.links.link import File, read_link
from lora_deploy.links.messages import Done, Errand, Refusal, printable

httpx: Any = getattr(safehttpx, "httpx", None) or safehttpx.httpx2
"""Whichever of the two the installed safehttpx stands on: clients and transports must be of one."""

MOST_REDIRECTS = 5

_NAME = "clip.bin"
_HEADERS = {"Accept": "video/*,image/gif,*/*;q=0.1", "Accept-Encoding": "identity"}
_TYPES = ("video/", "image/gif", "application/mp4", "application/ogg", "application/x-matroska")
_UNTOLD = ("", "application/octet-stream", "binary/octet-stream", "application/x-download")
"""Types that say nothing; what the file is shows when it is opened."""


def fetch_file(errand: Errand, tell: Callable[[float], None]) -> Done:
    """Fetch the file into the current folder, which is the errand's.

    Raises:
        Refusal: With the kind.
    """
    try:
        return asyncio.run(_fetch(errand, tell))
    except httpx.InvalidURL as error:  # it reads where a redirect leads to, even if it is not to go
        raise Refusal("redirect", log=str(error)) from None
    except httpx.TransportError as error:
        kind = "no_network" if isinstance(error, httpx.ConnectError) else "refused"
        raise Refusal(kind, log=str(error)) from None  # type: ignore[arg-type]
    except httpx.HTTPError as error:
        raise Refusal("refused", log=str(error)) from None
    except OSError as error:
        if error.errno == errno.EFBIG:
            raise Refusal("too_large") from None
        kind = "unavailable" if error.errno == errno.ENOSPC else "no_network"
        raise Refusal(kind, log=str(error)) from None  # type: ignore[arg-type]


async def _fetch(errand: Errand, tell: Callable[[float], None]) -> Done:
    url = errand.url
    for _ in range(MOST_REDIRECTS + 1):
        next_url = await _fetch_once(url, errand, tell)
        if next_url is None:
            name = unquote(urlsplit(url).path.rpartition("/")[2])
            return Done(name=_NAME, title=printable(name) or str(urlsplit(url).hostname))
        url = next_url
    raise Refusal("redirect")


async def _fetch_once(url: str, errand: Errand, tell: Callable[[float], None]) -> str | None:
    """Write the file, or return where the host sends on to."""
    address = await _checked_address(url)
    transport = safehttpx.AsyncSecureTransport(address)
    async with (
        httpx.AsyncClient(transport=transport, headers=_HEADERS, trust_env=False) as client,
        client.stream("GET", url, follow_redirects=False) as response,
    ):
        if 300 <= response.status_code < 400:
            return _redirect(url, response.headers.get("Location", ""), errand)
        if response.status_code != 200:
            raise Refusal(kind_of_status(response.status_code))
        length = _look_at(response, errand)
        await _write(response, length, errand, tell)
    return None


async def _checked_address(url: str) -> str:
    """The address to connect to. Every one that the name has must be public, not only that one."""
    host = urlsplit(url).hostname
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (socket.gaierror, UnicodeError) as error:
        raise Refusal("no_network", log=str(error)) from None
    addresses = [str(place[0]) for *_, place in found]
    if not addresses or not all(is_public(address) for address in addresses):
        raise Refusal("address")
    return addresses[0]


def _redirect(url: str, location: str, errand: Errand) -> str:
    """Where to go on, if that place might have been the link itself."""
    if not location:
        raise Refusal("redirect", log="to nowhere")
    target = urldefrag(urljoin(url, location)).url
    try:
        link = read_link(target, hosts=errand.hosts, youtube=False)
    except LinkError as error:
        raise Refusal("redirect", log=error.found) from None
    assert isinstance(link, File)
    if url.startswith("https:") and not link.url.startswith("https:"):
        raise Refusal("redirect", log="from https to http")
    return link.url


def _look_at(response: Any, errand: Errand) -> int | None:
    """The announced length, after the headers were found to be those of a video."""
    kind = response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    if not kind.startswith(_TYPES) and kind not in _UNTOLD:
        raise Refusal("not_video", log=f"Content-Type {kind[:100]}")
    if response.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise Refusal("refused", log="compressed although it was asked not to be")
    announced = response.headers.get("Content-Length", "")
    length = int(announced) if announced.isascii() and announced.isdecimal() else None
    if length is not None and length > errand.max_bytes:
        raise Refusal("too_large", found_bytes=length)
    return length


async def _write(
    response: Any, length: int | None, errand: Errand, tell: Callable[[float], None]
) -> None:
    here = 0
    with Path(_NAME).open("xb") as file:
        async for block in response.aiter_raw(1 << 16):
            here += len(block)
            if here > errand.max_bytes:
                raise Refusal("too_large")
            file.write(block)
            tell(min(1.0, here / (length or errand.max_bytes)))
    if here == 0:
        raise Refusal("not_video", log="empty")
