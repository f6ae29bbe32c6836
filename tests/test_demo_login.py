"""Logging in: who may come in, and that guessing is slow."""

import hmac
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gradio_client
import httpx
import pytest
from gradio_client.exceptions import AuthenticationError

from lora_deploy.demo.login import (
    COOKIE_SECONDS,
    TRIES,
    TRIES_OF_ALL,
    TRIES_SECONDS,
    Login,
    TooManyTriesError,
)
from lora_deploy.demo.server import serving
from lora_deploy.demo.settings import DemoSettings
from lora_deploy.web.watch import Watch
from tests.demo_visitor import as_file, call, upload
from tests.small_page import SmallPage

PAIRS = (("ada", "correct horse"), ("bob", "another one"))
ADA = PAIRS[0]


class Clock:
    def __init__(self) -> None:
        self.now = 1e9

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def login(clock: Clock) -> Login:
    return Login(PAIRS, clock=clock)


def test_pairs_belong_together(login: Login) -> None:
    assert login.accepts("ada", "correct horse", "1.2.3.4")
    assert login.accepts("bob", "another one", "1.2.3.4")
    for user, password in (("ada", "another one"), ("ada", ""), ("", ""), ("adacorrect", " horse")):
        assert not login.accepts(user, password, "1.2.3.4")


def test_every_pair_is_compared_in_constant_time(
    login: Login, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared = []
    real = hmac.compare_digest

    def compare(one: bytes, other: bytes) -> bool:
        compared.append((len(one), len(other)))
        return real(one, other)

    monkeypatch.setattr(hmac, "compare_digest", compare)
    login.accepts("ada", "correct horse", "")
    login.accepts("a", "b" * 1000, "")
    assert compared == [(32, 32)] * 4


def test_guessing_is_braked_by_address(login: Login, clock: Clock) -> None:
    for _ in range(TRIES):
        assert not login.accepts("ada", "guess", "1.2.3.4")
    with pytest.raises(TooManyTriesError):
        login.accepts(*ADA, "1.2.3.4")  # not even the right one
    assert login.accepts(*ADA, "1.2.3.5")
    clock.now += TRIES_SECONDS + 1
    assert login.accepts(*ADA, "1.2.3.4")


def test_one_household_has_a_whole_network_of_ipv6(login: Login) -> None:
    for number in range(TRIES):
        login.accepts("ada", "guess", f"2001:db8::{number:x}")
    with pytest.raises(TooManyTriesError):
        login.accepts(*ADA, "2001:db8::ffff")
    assert login.accepts(*ADA, "2001:db8:0:1::1")


def test_guessing_is_braked_from_everywhere_together(login: Login) -> None:
    for number in range(TRIES_OF_ALL):
        login.accepts("ada", "guess", f"10.0.{number // 256}.{number % 256}")
    with pytest.raises(TooManyTriesError):
        login.accepts("ada", "guess", "10.9.9.9")


def test_a_ticket_is_good_for_a_while_and_for_one_server(login: Login, clock: Clock) -> None:
    ticket = login.ticket()
    assert login.accepts_cookies(f"other=1; {login.cookie}={ticket}")
    assert login.accepts_cookies(f'odd={{"a": [1,2]}}; b c; {login.cookie}={ticket}; \x80=é')
    until, _, signature = ticket.partition(".")
    other = Login(PAIRS, clock=clock)
    for wrong in (
        f"{int(until) + 1}.{signature}", until, f".{signature}", "", f"{until}.", f"{until}.{other.ticket()}",
        f"{until}.é",
    ):  # fmt: skip
        assert not login.accepts_cookies(f"{login.cookie}={wrong}"), wrong
    assert not login.accepts_cookies(f"{login.cookie}={other.ticket()}")
    assert not login.accepts_cookies("")
    clock.now += COOKIE_SECONDS + 1
    assert not login.accepts_cookies(f"{login.cookie}={ticket}")


@pytest.mark.parametrize(
    "header", ["", "Basic", "Basic !!!", "Basic /w==", "Bearer abc", "Basic YWRh"]
)
def test_what_is_no_basic_login_is_none(header: str, login: Login) -> None:
    assert not login.accepts_basic(header, "")


# Over HTTP ---------------------------------------------------------------------------------------


@contextmanager
def visiting(**settings: Any) -> Iterator[httpx.Client]:
    page = SmallPage()
    with (
        serving(page.blocks, DemoSettings(port=0, **settings), Watch()) as url,
        httpx.Client(base_url=url) as visitor,
    ):
        yield visitor


@pytest.fixture(scope="module")
def guarded() -> Iterator[httpx.Client]:
    with visiting(login=PAIRS) as visitor:
        yield visitor


@pytest.fixture
def visitor(guarded: httpx.Client) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=guarded.base_url) as client:
        yield client


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/"), ("GET", "/config"), ("GET", "/theme.css"), ("GET", "/gradio_api/info"),
        ("GET", "/static/img/logo.svg"), ("GET", "/gradio_api/file=uploads/a/b.mp4"), ("GET", "/nothing"),
        ("GET", "/gradio_api/queue/data?session_hash=a"), ("GET", "/gradio_api/heartbeat/a"),
        ("POST", "/gradio_api/upload"), ("POST", "/gradio_api/call/classify"), ("POST", "/gradio_api/queue/join"),
    ],
)  # fmt: skip
def test_without_a_login_everything_is_shut(method: str, path: str, visitor: httpx.Client) -> None:
    answer = visitor.request(method, path)
    assert answer.status_code == 401
    assert answer.json() == {"detail": "please log in"}


def test_health_can_be_asked_for_without_a_login(visitor: httpx.Client) -> None:
    assert visitor.get("/health").status_code == 200


def test_a_person_is_shown_a_form_and_then_the_page(visitor: httpx.Client) -> None:
    page = visitor.get("/", headers={"accept": "text/html"})
    assert page.status_code == 401
    assert 'action="/login"' in page.text
    assert "gradio" not in page.text
    person = {"accept": "text/html", "origin": str(visitor.base_url).rstrip("/")}
    wrong = visitor.post("/login", data={"username": "ada", "password": "x<y>"}, headers=person)
    assert wrong.status_code == 401
    assert "x<y>" not in wrong.text
    right = visitor.post(
        "/login", data=dict(zip(("username", "password"), ADA, strict=True)), headers=person
    )
    assert (right.status_code, right.headers["location"]) == (303, "/")
    cookie = right.headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=lax" in cookie
    assert visitor.get("/").status_code == 200
    kind, _ = call(visitor, "classify", as_file(upload(visitor)), "x")
    assert kind == "complete"
    visitor.get("/logout")
    assert visitor.get("/").status_code == 401


def test_a_program_logs_in_with_each_request(visitor: httpx.Client) -> None:
    assert visitor.get("/config", auth=ADA).status_code == 200
    assert visitor.get("/config", auth=("ada", "another one")).status_code == 401


def test_gradios_own_client_logs_in(guarded: httpx.Client) -> None:
    url = str(guarded.base_url)
    client = gradio_client.Client(url, auth=ADA, verbose=False, analytics_enabled=False)
    client.close()
    with pytest.raises(AuthenticationError):
        gradio_client.Client(url, auth=("ada", "wrong"), verbose=False, analytics_enabled=False)


def test_guessing_over_http_is_told_to_wait() -> None:
    with visiting(login=PAIRS) as visitor:
        for _ in range(TRIES):
            assert visitor.get("/config", auth=("ada", "guess")).status_code == 401
        for answer in (
            visitor.get("/config", auth=ADA),
            visitor.post("/login", data={"username": "ada", "password": "correct horse"}),
        ):
            assert answer.status_code == 429
            assert int(answer.headers["retry-after"]) == TRIES_SECONDS
        assert visitor.get("/health").status_code == 200


def test_metrics_are_for_this_computer_or_with_a_login(visitor: httpx.Client) -> None:
    assert visitor.get("/metrics").status_code == 200  # from loopback
    elsewhere = {"x-forwarded-for": "9.9.9.9"}
    assert visitor.get("/metrics", headers=elsewhere).status_code == 403
    assert visitor.get("/metrics", headers=elsewhere, auth=ADA).status_code == 200


def test_metrics_are_not_for_everybody_where_no_login_is_needed() -> None:
    with visiting(without_login=True) as visitor:
        assert visitor.get("/").status_code == 200
        assert visitor.get("/metrics", headers={"x-forwarded-for": "9.9.9.9"}).status_code == 403


# Other sites -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"origin": "http://["},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
        {"sec-fetch-site": "cross-site", "origin": "{own}"},
    ],
)
def test_another_sites_page_can_do_nothing(headers: dict[str, str], visitor: httpx.Client) -> None:
    own = str(visitor.base_url).rstrip("/")
    headers = {name: value.format(own=own) for name, value in headers.items()}
    for path in (
        "/gradio_api/call/classify",
        "/gradio_api/upload",
        "/gradio_api/queue/join",
        "/gradio_api/cancel",
        "/login",
    ):
        answer = visitor.post(path, headers=headers, auth=ADA)
        assert (answer.status_code, "another site" in answer.text) == (403, True), path


FOLLOWED = {"sec-fetch-site": "same-origin", "sec-fetch-dest": "document"}


@pytest.mark.parametrize(
    "odd",
    [
        {"sec-fetch-dest": "image"},
        {"sec-fetch-dest": "empty"},
        {"sec-fetch-dest": "iframe"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
    ],
)
def test_nothing_but_a_link_of_the_page_logs_out(
    odd: dict[str, str], visitor: httpx.Client
) -> None:
    answer = visitor.get("/logout", headers={**FOLLOWED, **odd})
    assert answer.status_code == 403
    assert "set-cookie" not in answer.headers
    for headers in (FOLLOWED, {**FOLLOWED, "sec-fetch-site": "none"}, {}):
        answer = visitor.get("/logout", headers=headers)
        assert (answer.status_code, answer.headers["location"]) == (303, "/")
        assert "set-cookie" in answer.headers


def test_in_another_sites_frame_a_link_logs_out_too() -> None:
    with visiting(login=PAIRS, framed_by=("https://huggingface.co",)) as visitor:
        framed = {**FOLLOWED, "sec-fetch-dest": "iframe"}
        assert visitor.get("/logout", headers=framed).status_code == 303
        picture = {**FOLLOWED, "sec-fetch-dest": "image"}
        assert visitor.get("/logout", headers=picture).status_code == 403


@pytest.mark.parametrize("origin", ["https://evil.example", "http://localhost:1", "null"])
def test_another_sites_page_can_read_nothing(origin: str, visitor: httpx.Client) -> None:
    asks = {"origin": origin, "access-control-request-method": "POST"}
    for method, path in (("GET", "/config"), ("OPTIONS", "/gradio_api/upload"), ("GET", "/health")):
        answer = visitor.request(method, path, headers=asks, auth=ADA)
        assert not any(name.startswith("access-control") for name in answer.headers)


def test_the_pages_own_requests_are_let_through(visitor: httpx.Client) -> None:
    own = str(visitor.base_url).rstrip("/")
    for headers in (
        {"origin": own},
        {"sec-fetch-site": "same-origin", "origin": "https://a.b"},
        {},
    ):
        answer = visitor.post(
            "/gradio_api/call/classify", headers=headers, auth=ADA, json={"data": [None, "x"]}
        )
        assert answer.status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"host": "evil.example"},
        {"host": "192.168.1.5:7860"},
        {"x-forwarded-for": "9.9.9.9"},
        {"x-forwarded-host": "clips.example"},
        {"forwarded": "for=9.9.9.9"},
        {"via": "1.1 proxy"},
    ],
)
def test_a_page_for_one_computer_is_reached_by_its_names_alone(headers: dict[str, str]) -> None:
    with visiting() as visitor:
        for path in ("/", "/config", "/theme.css", "/gradio_api/info", "/nothing"):
            answer = visitor.get(path, headers=headers)
            assert answer.status_code == 403
            assert "own computer only" in answer.text
        assert visitor.post("/gradio_api/upload", headers=headers).status_code == 403
        assert visitor.get("/health", headers=headers).status_code == 200
        port = visitor.base_url.port
        for own in (f"127.0.0.1:{port}", f"localhost:{port}", f"[::1]:{port}"):
            assert visitor.get("/", headers={"host": own}).status_code == 200


def test_behind_a_proxy_below_a_path(tmp_path: Path) -> None:
    with visiting(login=PAIRS, root_path="/clips") as visitor:
        proxied = {
            "host": "clips.example",
            "x-forwarded-host": "demo.example",
            "x-forwarded-proto": "https",
        }
        visitor.headers.update(proxied)
        form = visitor.get("/clips/", headers={"accept": "text/html"})
        assert 'action="/clips/login"' in form.text
        inside = visitor.post(
            "/clips/login", data=dict(zip(("username", "password"), ADA, strict=True))
        )
        assert "path=/clips/" in inside.headers["set-cookie"].lower()
        assert "secure" in inside.headers["set-cookie"].lower()
        for prefix in ("", "/clips"):  # taken away by the proxy, or not
            page = visitor.get(f"{prefix}/", auth=ADA)
            assert page.status_code == 200
            assert '"root":"https://demo.example/clips"' in page.text
            answer = visitor.post(
                f"{prefix}/gradio_api/upload", files={"files": ("a.mp4", b"clip")}, auth=ADA
            )
            (public,) = answer.json()
            assert visitor.get(f"{prefix}/gradio_api/file={public}", auth=ADA).content == b"clip"
            assert visitor.get(f"{prefix}/theme.css", auth=ADA).status_code == 200
