"""The page's settings: nothing opens it to a network by accident, and no value makes no sense."""

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest

from lora_deploy.commands import use
from lora_deploy.demo import launch
from lora_deploy.demo.settings import DemoSettings, read_login
from lora_deploy.errors import DemoSettingError, LoginFileError, LoginNeededError
from lora_deploy.links import LinkLimits
from lora_deploy.web.bodies import in_words
from lora_deploy.web.hosts import is_loopback

LOGIN = (("ada", "correct horse"),)


def test_alone_on_this_computer_no_login_is_needed() -> None:
    settings = DemoSettings()
    assert not settings.is_public
    assert settings.login == ()


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "localhost"])
def test_loopback_is_known_in_every_spelling(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize(
    "host", ["", "0.0.0.0", "::", "192.168.1.5", "8.8.8.8", "myhost", "localhost.example", "127.1"]
)
def test_beyond_loopback_a_login_is_needed(host: str) -> None:
    with pytest.raises(LoginNeededError, match="no login is set"):
        DemoSettings(host=host)
    assert DemoSettings(host=host, login=LOGIN).is_public
    assert DemoSettings(host=host, without_login=True).is_public


def test_a_public_link_needs_a_login_too() -> None:
    with pytest.raises(LoginNeededError, match="a public link can be reached by others"):
        DemoSettings(share=True)
    assert DemoSettings(share=True, login=LOGIN).is_public


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"port": 70_000}, "port is 70000; it may be 0 to 65535"),
        ({"waiting": 0}, "waiting is 0; it may be 1 to 10000"),
        ({"at_once": 0}, "at_once is 0"),
        ({"max_upload_bytes": 0}, "max_upload_bytes is 0"),
        ({"max_link_seconds": float("nan")}, "max_link_seconds is nan"),
        ({"keep_files_seconds": 0}, "keep_files_seconds is 0"),
        ({"max_upload_bytes": 10, "max_folder_bytes": 9}, "max_folder_bytes is 9; it may be 10"),
        ({"root_path": "clips"}, "root_path is 'clips'"),
        ({"root_path": "/clips/"}, "root_path is '/clips/'"),
        ({"login": (("", "long enough"),)}, "a user's name is empty"),
        ({"login": (("a:b", "long enough"),)}, "or has a colon"),
        ({"login": (("ada", "short"),)}, "the password of ada has 5 characters"),
        ({"login": (*LOGIN, ("ada", "another one"))}, "one user has two passwords"),
        ({"login": LOGIN, "without_login": True}, "one excludes the other"),
    ],
)
def test_values_out_of_range_are_refused(wrong: dict[str, Any], told: str) -> None:
    with pytest.raises(DemoSettingError, match=re.escape(told)):
        DemoSettings(**wrong)


def test_a_refusal_repeats_no_password() -> None:
    with pytest.raises(DemoSettingError) as refused:
        DemoSettings(login=(("ada", "secret"),))
    assert "secret" not in str(refused.value)


def test_users_are_read_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "login"
    file.write_text("ada:correct: horse\n\n  bob:another one  \n")
    assert read_login(file) == (("ada", "correct: horse"), ("bob", "another one"))


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "names no user"),
        (b"\n\n", "names no user"),
        (b"ada:correct horse\nhunter2hunter2\n", "line 2 of"),
        (b"\xff\xfe", "no UTF-8 text"),
        (None, "No such file"),
    ],
)
def test_a_file_without_users_is_refused(content: bytes | None, told: str, tmp_path: Path) -> None:
    file = tmp_path / "login"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(LoginFileError, match=told) as refused:
        read_login(file)
    assert "hunter2" not in str(refused.value)


def test_a_megabyte_is_the_same_to_the_command_in_python_and_in_words(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given: list[DemoSettings] = []
    monkeypatch.setattr(launch, "run_demo", lambda models, settings, **rest: given.append(settings))
    for arguments in ([], ["--max-upload", "7"]):
        use.demo.main(arguments, standalone_mode=False)
    sizes = [settings.max_upload_bytes for settings in (*given, DemoSettings())]
    assert sizes == [200_000_000, 7_000_000, 200_000_000]
    assert LinkLimits().max_bytes == DemoSettings().max_upload_bytes
    assert [in_words(size) for size in sizes[:2]] == ["200 MB", "7 MB"]
    assert [in_words(size) for size in (999, 1_000, 200_000, 1_600_000_000)] == [
        "999 bytes", "1 kB", "200 kB", "1.6 GB",
    ]  # fmt: skip


DOCS = Path(__file__).parents[1] / "docs"


def test_the_settings_in_the_documentation_can_be_set_as_it_says(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given: list[DemoSettings] = []
    monkeypatch.setattr(launch, "run_demo", lambda models, settings, **rest: given.append(settings))
    text = (DOCS / "demo-operation.md").read_text()
    (program,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    exec(compile(program, "demo-operation.md", "exec"), {"__name__": "__main__"})
    default = dataclasses.asdict(DemoSettings())
    changed = {
        name for name, value in dataclasses.asdict(given[0]).items() if value != default[name]
    }
    by_command = set(re.findall(r"`(\w+)` \(`--", text))
    options = {name for option in use.demo.params for name in (option.name, f"{option.name}_bytes")}
    assert by_command <= options
    named = default.keys() & set(re.findall(r"`(\w+)`", text))
    assert named - {"root_path", "login"} == changed | by_command  # shown elsewhere
