"""What the documentation says is there: links, commands, options, measured figures."""

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from lora_deploy.cli import commands
from lora_deploy.quickstart import RECORDED

ROOT = Path(__file__).parents[1]
PAGES = sorted(
    path
    for path in ROOT.rglob("*.md")
    if not any(part.startswith(".") for part in path.relative_to(ROOT).parts)
)


def refusal(words: list[str]) -> str | None:
    """What the command line has against these words after ``lora-deploy``; None where it takes them."""
    command = commands.commands.get(words[0])
    if command is None:
        return f"no command {words[0]}"
    try:
        _, left_over, _ = command.make_parser(click.Context(command)).parse_args(words[1:])
    except click.UsageError as error:
        return error.message
    return f"nobody asks for {left_over}" if left_over else None


def command_lines(text: str) -> Iterator[list[str]]:
    for block in re.findall(r"```(?:bash|console)?\n(.*?)```", text, re.DOTALL):
        for line in block.splitlines():
            if line.startswith("lora-deploy "):
                yield shlex.split(line, comments=True)[1:]


def without_redirection(words: list[str]) -> list[str]:
    """The words of a command up to where the shell takes over."""
    return words[: next((at for at, word in enumerate(words) if word in (">", "|")), len(words))]


def test_words_that_no_command_takes_are_found() -> None:
    assert refusal(["train", "--data", "x", "--set", "a=1", "--out", "y"]) is None
    assert refusal(["dance"]) == "no command dance"
    assert "--dance" in str(refusal(["train", "--dance"]))
    assert refusal(["merge-export", "x", "y"]) == "nobody asks for ['y']"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_and_options_exist(page: Path) -> None:
    for words in command_lines(page.read_text(encoding="utf-8")):
        if words[0].startswith("-"):
            continue
        assert refusal(without_redirection(words)) is None, words


def test_nothing_is_left_to_be_filled_in() -> None:
    for page in PAGES:
        assert not re.findall(r"\b(TODO|TBD|[A-Z]+_(?:OUTPUT|TABLE))\b", page.read_text()), page


def test_the_kept_runs_that_the_quickstart_prints_are_those_in_the_docs() -> None:
    recorded = json.loads(RECORDED.read_text(encoding="utf-8"))
    page = (ROOT / "docs" / "measurements.md").read_text(encoding="utf-8")
    assert len(recorded["rows"]) == 6
    assert recorded["seeds"] >= 3
    for row in recorded["rows"]:
        figures = f"{row['accuracy_mean']:.3f} ± {row['accuracy_spread']:.3f}"
        [line] = [line for line in page.splitlines() if line.startswith(f"| {row['method']} ")][:1]
        assert figures in line, row["method"]
    assert f"```bash\n{recorded['command']}\n```" in page
