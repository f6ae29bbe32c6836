"""Who comes in: a form for people, the same address for programs, names that this computer has."""

from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import parse_qs

from starlette.datastructures import Headers
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.types import Scope

from lora_deploy.demo.login import COOKIE_SECONDS, TRIES_SECONDS, Login, TooManyTriesError
from lora_deploy.demo.settings import DemoSettings
from lora_deploy.web.bodies import Body
from lora_deploy.web.hosts import address_of, check_origin, check_own_name, is_loopback, is_proxied
from lora_deploy.web.turned import Turned
from lora_deploy.web.watch import Watch

MOST_FORM_BYTES = 16 << 10
"""Of a name and a password."""

_SECONDS = 20.0

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Log in</title>
<style>
:root {{ color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif; }}
body {{ display: grid; place-items: center; min-height: 100vh; margin: 0; }}
form {{ display: grid; gap: 0.75rem; width: min(20rem, 88vw); }}
h1 {{ font-size: 1.4rem; margin: 0; }}
label {{ display: grid; gap: 0.25rem; }}
input, button {{ font: inherit; padding: 0.55rem 0.7rem; border-radius: 0.5rem; border: 1px solid GrayText; }}
button {{ cursor: pointer; }}
p {{ margin: 0; min-height: 1.5em; }}
</style>
</head>
<body>
<form method="post" action="{action}">
<h1>Log in</h1>
<label>User <input name="username" autocomplete="username" required autofocus></label>
<label>Password
<input name="password" type="password" autocomplete="current-password" required></label>
<p role="alert">{told}</p>
<button>Log in</button>
</form>
</body>
</html>
"""


class Entrance:
    """Lets in whom the settings say."""

    def __init__(self, settings: DemoSettings, watch: Watch) -> None:
        self.login = Login(settings.login)
        self._settings = settings
        self._watch = watch
        self._root = f"{settings.root_path}/"
        self._is_private = not (settings.is_public or settings.login or settings.without_login)

    def check_address(self, headers: Headers) -> None:
        """Without a login, a page on loopback answers to this computer's own names only."""
        if self._is_private:
            check_own_name(
                headers,
                "this page was started for its own computer only: its operator may set a login, "
                "or say that none is needed",
            )

    def is_known(self, scope: Scope, headers: Headers) -> bool:
        """Whether a visitor is logged in, or needs not be."""
        if not self.login.is_needed or self.login.accepts_cookies(headers.get("cookie", "")):
            return True
        with _braked():
            return self.login.accepts_basic(headers.get("authorization", ""), address_of(scope))

    def may_see_metrics(self, scope: Scope, headers: Headers) -> bool:
        """Programs on this computer may, and whoever is logged in."""
        proxied = self._settings.share or is_proxied(headers)
        if not proxied and is_loopback(address_of(scope)):
            return True
        return self.login.is_needed and self.is_known(scope, headers)

    def page(self, status: int, told: str = "") -> Response:
        """The form."""
        action = f"{self._settings.root_path}/login"
        return HTMLResponse(_PAGE.format(action=action, told=told), status)

    def out(self, headers: Headers) -> Response:
        """Takes a browser's ticket away, where a person followed a link to this.

        A picture or a script that has this address, even on our own page, does nothing.
        """
        check_origin(headers)
        # within another site's frame, our page is no document but that frame
        wanted = {"document", "iframe"} if self._settings.framed_by else {"document"}
        if headers.get("sec-fetch-dest", "document") not in wanted:
            raise Turned(403, "origin", "only a link that is followed logs out")
        gone = RedirectResponse(self._root, 303)
        gone.delete_cookie(self.login.cookie, path=self._root)
        return gone

    async def come_in(self, scope: Scope, headers: Headers, body: Body) -> Response:
        """The answer to a form with ``username`` and ``password``."""
        check_origin(headers)
        form = parse_qs(
            (await body.whole(MOST_FORM_BYTES, _SECONDS) or b"").decode("utf-8", "replace")
        )
        user, password = (form.get(name, [""])[0] for name in ("username", "password"))
        with _braked():
            accepted = self.login.accepts(user, password, address_of(scope))
        wants_page = "text/html" in headers.get("accept", "")
        if not accepted:
            self._watch.rejected("login")
            if wants_page:
                return self.page(401, "This user and password are not known here.")
            return JSONResponse({"detail": "this user and password are not known here"}, 401)
        inside: Response = JSONResponse({"success": True})
        if wants_page:
            inside = RedirectResponse(self._root, 303)
        framed = bool(self._settings.framed_by)  # by another site, whose frames get no lax cookie
        inside.set_cookie(
            self.login.cookie,
            self.login.ticket(),
            max_age=COOKIE_SECONDS,
            path=self._root,
            httponly=True,
            secure=framed or scope["scheme"] == "https",
            samesite="none" if framed else "lax",
        )
        return inside


@contextmanager
def _braked() -> Iterator[None]:
    try:
        yield
    except TooManyTriesError:
        wait = {"retry-after": str(int(TRIES_SECONDS))}
        raise Turned(429, "braked", "too many wrong passwords: please wait", wait) from None
