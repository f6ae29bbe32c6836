"""The door of the service and its settings: who may ask what, from where, with which token."""

import asyncio
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.responses import PlainTextResponse
from starlette.types import Message

from lora_deploy.errors import ServeSettingError, TokenNeededError
from lora_deploy.serve.door import Door
from lora_deploy.serve.refusals import Refusing
from lora_deploy.serve.settings import ServeSettings, read_tokens
from lora_deploy.web.watch import Watch


def asked(settings: ServeSettings, path: str, address: str = "127.0.0.1", **headers: str) -> int:
    """The status of a GET; 200 where the door lets it through."""
    door = Door(PlainTextResponse("inside"), settings, Refusing(settings, Watch("serve")))
    return got(door, path, address, **headers).status_code


def got(door: Door, path: str, address: str = "127.0.0.1", **headers: str) -> httpx.Response:
    """What a door answers to a GET."""

    async def ask() -> httpx.Response:
        transport = httpx.ASGITransport(door, client=(address, 1))
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as visitor:
            return await visitor.get(path, headers=headers)

    return asyncio.run(ask())


@pytest.mark.parametrize(
    ("address", "status"), [("127.0.0.1", 200), ("::1", 200), ("192.0.2.7", 401)]
)
def test_metrics_are_for_this_computer_or_with_a_token(address: str, status: int) -> None:
    settings = ServeSettings(host="0.0.0.0", tokens=("x" * 16,))
    assert asked(settings, "/metrics", address) == status
    assert asked(settings, "/metrics", address, authorization=f"Bearer {'x' * 16}") == 200


@pytest.mark.parametrize(
    ("path", "status"),
    [("/clips/readyz", 200), ("/readyz", 200), ("/clips/v1/model", 401), ("/clipsreadyz", 401)],
)
def test_below_a_path_of_a_proxy_health_needs_no_token_either(path: str, status: int) -> None:
    assert asked(ServeSettings(tokens=("x" * 16,), root_path="/clips"), path) == status


@pytest.mark.parametrize(
    "name", ["x-forwarded-for", "x-forwarded-host", "forwarded", "x-real-ip", "via"]
)
def test_what_was_passed_on_does_not_come_from_this_computer(name: str) -> None:
    assert asked(ServeSettings(), "/v1/model") == 200
    assert asked(ServeSettings(), "/v1/model", **{name: "192.0.2.7"}) == 403


def test_what_breaks_before_there_is_an_answer_is_answered_and_counted() -> None:
    async def broken(*_: object) -> None:
        raise RuntimeError("secret")

    watch, settings = Watch("serve"), ServeSettings()
    answer = got(Door(broken, settings, Refusing(settings, watch)), "/v1/model")
    assert (answer.status_code, answer.json()["error"]["kind"]) == (500, "fault")
    assert "secret" not in answer.text
    assert b'lora_deploy_rejected_total{reason="fault"} 1.0' in watch.metrics()


def test_no_web_socket_is_opened() -> None:
    said: list[Any] = []

    async def connect() -> Message:
        return {"type": "websocket.connect"}

    async def send(message: Message) -> None:
        said.append(message["type"])

    settings = ServeSettings()
    door = Door(PlainTextResponse("inside"), settings, Refusing(settings, Watch("serve")))
    asyncio.run(door({"type": "websocket", "path": "/readyz", "headers": []}, connect, send))
    assert said == ["websocket.close"]


@pytest.mark.parametrize(
    "values",
    [{"port": 70_000}, {"queue": -1}, {"timeout_seconds": 0.5}, {"timeout_seconds": float("nan")},
     {"grace_seconds": -1}, {"max_upload_bytes": 0}, {"root_path": "clips"}, {"root_path": "/"},
     {"root_path": "/cl\nips"}, {"tokens": ("short",)}, {"tokens": ("é" * 20,)},
     {"tokens": ("x\t" * 10,)}, {"tokens": ("x" * 20,), "without_token": True}],
)  # fmt: skip
def test_settings_outside_what_they_may_be_are_named(values: dict[str, Any]) -> None:
    with pytest.raises(ServeSettingError):
        ServeSettings(**values)


def test_a_long_file_of_tokens_is_read_to_its_end(tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    file.write_text(f"{'x' * 16}\n" * 70_000)
    assert read_tokens(file) == ("x" * 16,) * 70_000


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "clips.example", ""])
def test_beyond_this_computer_a_token_is_needed(host: str) -> None:
    with pytest.raises(TokenNeededError):
        ServeSettings(host=host)
    assert ServeSettings(host=host, without_token=True).is_public
    assert not ServeSettings(host=host, tokens=("x" * 16,)).is_private


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost", "127.9.9.9"])
def test_this_computer_needs_none(host: str) -> None:
    assert ServeSettings(host=host).is_private
    assert not ServeSettings(host=host, tokens=("x" * 16,)).is_private
