"""What the operator of the page decides: where it listens, who may come in, and how much it takes."""

import math
from dataclasses import dataclass
from pathlib import Path

from lora_deploy.errors import DemoSettingError, LoginFileError, LoginNeededError
from lora_deploy.links.link import check_host
from lora_deploy.web.hosts import is_loopback, is_root_path
from lora_deploy.web.secret_files import read_secret_lines

SHORTEST_PASSWORD = 8
"""Characters; the brake on guessing lets a stranger try a few thousand a day."""


@dataclass(frozen=True)
class DemoSettings:
    """Limits are per server, sizes in bytes, times in seconds.

    Raises:
        LoginNeededError: The page would be open to a network, and nobody said that it may be.
        DemoSettingError: A value is outside what it may be.
        ListedHostError: One of ``link_hosts`` is no full name of a public host.
    """

    host: str = "127.0.0.1"
    """An address or a name of this computer; 0.0.0.0 and :: are all of them."""
    port: int = 7860
    """0 takes any that is free."""
    login: tuple[tuple[str, str], ...] = ()
    """Users with their passwords; whoever names one pair may come in. Needed beyond loopback."""
    without_login: bool = False
    """Says that everybody who reaches the address may come in."""
    share: bool = False
    """Ask Gradio's public relay for a link: then the page is on the internet, whatever ``host`` is."""
    links: bool = True
    """Whether visitors may name videos of YouTube."""
    link_hosts: tuple[str, ...] = ()
    """Other hosts from which plain video files are fetched."""
    max_upload_bytes: int = 200_000_000
    """Of one request that uploads."""
    max_link_seconds: float = 600.0
    """How long a video behind a link may last."""
    waiting: int = 20
    """Requests in the queue; the next one is told that the page is busy."""
    at_once: int = 2
    """Requests that are worked on."""
    keep_files_seconds: int = 600
    """Uploads and answers are deleted at the latest after that, whatever became of them."""
    max_folder_bytes: int | None = None
    """All uploads together; None is eight of the largest."""
    root_path: str = ""
    """Where a reverse proxy shows the page, as in ``/clips``; empty at the root of a host."""
    framed_by: tuple[str, ...] = ()
    """Origins that may show the page in a frame, such as ``https://huggingface.co``."""

    def __post_init__(self) -> None:
        _check_ranges(self)
        _check_login(self.login)
        for host in self.link_hosts:
            check_host(host)
        if self.login and self.without_login:
            raise DemoSettingError("a login, and word that none is needed: one excludes the other")
        if self.is_public and not self.login and not self.without_login:
            where = "a public link" if self.share else f"the address {self.host}"
            raise LoginNeededError(f"{where} can be reached by others, and no login is set")

    @property
    def is_public(self) -> bool:
        """Whether others than the users of this computer can reach the page."""
        return self.share or not is_loopback(self.host)

    @property
    def folder_bytes(self) -> int:
        """What all uploads together may take on the disk."""
        return 8 * self.max_upload_bytes if self.max_folder_bytes is None else self.max_folder_bytes


def read_login(path: Path) -> tuple[tuple[str, str], ...]:
    """Users and passwords from a file with one ``USER:PASSWORD`` a line; empty lines are skipped.

    Raises:
        LoginFileError: It can't be read, or a line is something else.
    """
    try:
        lines = read_secret_lines(path)
    except ValueError as error:
        raise LoginFileError(f"the file with the login, {path}: {error}") from None
    pairs = []
    for number, line in lines:
        user, colon, password = line.partition(":")
        if colon:
            pairs.append((user, password))
        else:  # which may be a password, so it is not repeated
            raise LoginFileError(f"line {number} of {path} is no USER:PASSWORD")
    if not pairs:
        raise LoginFileError(f"{path} names no user")
    return tuple(pairs)


def _check_ranges(settings: DemoSettings) -> None:
    ranges: tuple[tuple[str, float, float, float], ...] = (
        ("port", settings.port, 0, 65535),
        ("max_upload_bytes", settings.max_upload_bytes, 1, math.inf),
        ("max_folder_bytes", settings.folder_bytes, settings.max_upload_bytes, math.inf),
        ("max_link_seconds", settings.max_link_seconds, 1, math.inf),
        ("waiting", settings.waiting, 1, 10_000),
        ("at_once", settings.at_once, 1, 1_000),
        ("keep_files_seconds", settings.keep_files_seconds, 1, math.inf),
    )
    for name, value, least, most in ranges:
        if not least <= value <= most:  # NaN is in no range either
            raise DemoSettingError(f"{name} is {value:g}; it may be {least:g} to {most:g}")
    path = settings.root_path
    if not is_root_path(path):
        raise DemoSettingError(f"root_path is {path!r}; it begins with a slash and ends without")


def _check_login(login: tuple[tuple[str, str], ...]) -> None:
    for user, password in login:
        if not user or ":" in user:  # a colon ends the name in HTTP's own login
            raise DemoSettingError("a user's name is empty or has a colon")
        if len(password) < SHORTEST_PASSWORD:
            raise DemoSettingError(
                f"the password of {user} has {len(password)} characters; "
                f"it needs {SHORTEST_PASSWORD} or more"
            )
    if len({user for user, _ in login}) < len(login):
        raise DemoSettingError("one user has two passwords")
