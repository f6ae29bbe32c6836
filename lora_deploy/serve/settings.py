"""What the operator of the service decides: where it listens, who may ask, and how much it takes."""

import math
from dataclasses import dataclass
from pathlib import Path

from lora_deploy.errors import ServeSettingError, TokenFileError, TokenNeededError
from lora_deploy.web.hosts import is_loopback, is_root_path
from lora_deploy.web.secret_files import read_secret_lines

SHORTEST_TOKEN = 16
"""Characters: nobody guesses one, so nothing has to slow guessing down."""


@dataclass(frozen=True)
class ServeSettings:
    """Limits are per server, sizes in bytes, times in seconds.

    Raises:
        TokenNeededError: The service would be open to a network, and nobody said that it may be.
        ServeSettingError: A value is outside what it may be.
    """

    host: str = "127.0.0.1"
    """An address or a name of this computer; 0.0.0.0 and :: are all of them."""
    port: int = 8000
    """0 takes any that is free."""
    tokens: tuple[str, ...] = ()
    """Whoever names one of them may ask. Needed beyond loopback."""
    without_token: bool = False
    """Says that everybody who reaches the address may ask."""
    max_upload_bytes: int = 200_000_000
    """Of one video."""
    queue: int = 16
    """Clips that wait, beside those that are worked on; the next one is told that it is busy."""
    timeout_seconds: float = 60.0
    """How long a clip may wait for a decoder, and how long decoding it may take."""
    grace_seconds: float = 30.0
    """What is under way may take so long after the server was asked to stop."""
    root_path: str = ""
    """Where a reverse proxy shows the service, as in ``/clips``; empty at the root of a host."""

    def __post_init__(self) -> None:
        _check_ranges(self)
        _check_tokens(self.tokens)
        if self.tokens and self.without_token:
            raise ServeSettingError("a token, and word that none is needed: one excludes the other")
        if self.is_public and not self.tokens and not self.without_token:
            raise TokenNeededError(
                f"the address {self.host} can be reached by others, and no token is set"
            )

    @property
    def is_public(self) -> bool:
        """Whether others than the users of this computer can reach the service."""
        return not is_loopback(self.host)

    @property
    def is_private(self) -> bool:
        """Whether it is for the users of this computer, and nobody said that others may ask."""
        return not (self.is_public or self.tokens or self.without_token)


def read_tokens(path: Path) -> tuple[str, ...]:
    """Tokens from a file with one a line; with two of them, one can be replaced without a gap.

    Raises:
        TokenFileError: It can't be read, or holds none.
    """
    try:
        lines = read_secret_lines(path)
    except ValueError as error:
        raise TokenFileError(f"the file with the tokens, {path}: {error}") from None
    if not lines:
        raise TokenFileError(f"{path} holds no token")
    for number, line in lines:
        if reason := _objection(line):
            raise TokenFileError(f"line {number} of {path}: {reason}")
    return tuple(line for _, line in lines)


def _check_ranges(settings: ServeSettings) -> None:
    ranges: tuple[tuple[str, float, float, float], ...] = (
        ("port", settings.port, 0, 65535),
        ("max_upload_bytes", settings.max_upload_bytes, 1, math.inf),
        ("queue", settings.queue, 0, 10_000),
        ("timeout_seconds", settings.timeout_seconds, 1, 3600),
        ("grace_seconds", settings.grace_seconds, 0, 3600),
    )
    for name, value, least, most in ranges:
        if not least <= value <= most:  # NaN is in no range either
            raise ServeSettingError(f"{name} is {value:g}; it may be {least:g} to {most:g}")
    if not is_root_path(settings.root_path):
        raise ServeSettingError(
            f"root_path is {settings.root_path!r}; it begins with a slash and ends without"
        )


def _check_tokens(tokens: tuple[str, ...]) -> None:
    for token in tokens:
        if reason := _objection(token):
            raise ServeSettingError(reason)


def _objection(token: str) -> str | None:
    """What is wrong with a token, which is not repeated; None where nothing is."""
    if len(token) < SHORTEST_TOKEN:
        return f"a token has {len(token)} characters; it needs {SHORTEST_TOKEN} or more"
    if not token.isascii() or not token.isprintable() or " " in token:
        return "a token has other signs than printable ASCII without spaces"
    return None
