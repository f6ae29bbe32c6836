"""Who may come in: users with passwords, a cookie for browsers, and a brake on guessing."""

import hashlib
import hmac
import ipaddress
import secrets
import time
from base64 import b64decode
from collections import OrderedDict, deque
from collections.abc import Callable

from starlette.requests import cookie_parser

COOKIE_SECONDS = 12 * 3600
"""How long a browser stays logged in."""

TRIES = 10
"""Wrong passwords from one address within `TRIES_SECONDS`; after that it has to wait."""

TRIES_OF_ALL = 200
"""Wrong passwords from everywhere within `TRIES_SECONDS`."""

TRIES_SECONDS = 300.0

_MOST_ADDRESSES = 10_000


class TooManyTriesError(Exception):
    """Somebody guesses; the answer is to wait."""


class Login:
    """The users of one server; nothing is stored but the number of recent mistakes."""

    def __init__(
        self, pairs: tuple[tuple[str, str], ...], *, clock: Callable[[], float] = time.time
    ) -> None:
        self._secret = secrets.token_bytes(32)
        self._known = [self._digest(user, password) for user, password in pairs]
        self._clock = clock
        self._mistakes: OrderedDict[str, deque[float]] = OrderedDict()
        self._mistakes_of_all: deque[float] = deque()
        self.cookie = f"lora_deploy_{secrets.token_hex(4)}"
        """The cookie's name, one of its own for each server: ports don't keep cookies apart."""

    @property
    def is_needed(self) -> bool:
        """Whether anybody is to log in."""
        return bool(self._known)

    def accepts(self, user: str, password: str, address: str) -> bool:
        """Whether this is one of the pairs; takes equally long whatever is wrong.

        Raises:
            TooManyTriesError: This address, or all together, were wrong too often of late. The
                pair is then not even looked at.
        """
        place = _network(address)
        if self._is_braked(place):
            raise TooManyTriesError
        given = self._digest(user, password)
        # every pair is compared, so that time tells nothing
        right = sum(hmac.compare_digest(given, known) for known in self._known) > 0
        if not right:
            self._note_mistake(place)
        return right

    def accepts_basic(self, header: str, address: str) -> bool:
        """Whether an ``Authorization`` header holds one of the pairs, as curl's ``-u`` sends it.

        Raises:
            TooManyTriesError: As of `accepts`.
        """
        scheme, _, coded = header.partition(" ")
        if scheme.lower() != "basic":
            return False
        try:
            user, _, password = b64decode(coded, validate=True).decode().partition(":")
        except ValueError:
            return False
        return self.accepts(user, password, address)

    def ticket(self) -> str:
        """The value of a cookie that is good from now on for `COOKIE_SECONDS`."""
        until = str(int(self._clock()) + COOKIE_SECONDS)
        return f"{until}.{self._signature(until)}"

    def accepts_cookies(self, header: str) -> bool:
        """Whether a ``Cookie`` header holds a ticket of this server that is still good."""
        # http.cookies stops at the first oddity, and other programs on this host set cookies too
        until, _, signature = cookie_parser(header).get(self.cookie, "").partition(".")
        ours = hmac.compare_digest(signature.encode(), self._signature(until).encode())
        return ours and int(until) >= self._clock()

    def _digest(self, user: str, password: str) -> bytes:
        # of equal length whatever is given; a colon can't be part of a user's name
        return hmac.digest(self._secret, f"{user}:{password}".encode(), hashlib.sha256)

    def _signature(self, until: str) -> str:
        return hmac.new(self._secret, f"ticket {until}".encode(), hashlib.sha256).hexdigest()

    def _is_braked(self, place: str) -> bool:
        now = self._clock()
        for mistakes, most in (
            (self._mistakes_of_all, TRIES_OF_ALL),
            (self._mistakes.get(place, deque()), TRIES),
        ):
            while mistakes and now - mistakes[0] > TRIES_SECONDS:
                mistakes.popleft()
            if len(mistakes) >= most:
                return True
        return False

    def _note_mistake(self, place: str) -> None:
        now = self._clock()
        self._mistakes_of_all.append(now)
        self._mistakes.setdefault(place, deque()).append(now)
        self._mistakes.move_to_end(place)
        if len(self._mistakes) > _MOST_ADDRESSES:
            self._mistakes.popitem(last=False)


def _network(address: str) -> str:
    """Whose address it is: of IPv6, one household has a whole /64."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return address
    if isinstance(found, ipaddress.IPv6Address):
        return str(ipaddress.ip_network((found, 64), strict=False))
    return str(found)
