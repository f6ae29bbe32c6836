"""The training README quotes the messages that the program prints, and names every recipe."""

import ast
import re
from pathlib import Path

import pytest

import lora_deploy
from lora_deploy import errors
from lora_deploy.config import recipe_names

README = Path(__file__).parents[1] / "train" / "README.md"
TEXT = README.read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```\n(.*?)^```$", TEXT[TEXT.index("## Troubleshooting") :], re.M | re.S)
MESSAGES = [line for block in BLOCKS for line in block.splitlines()]

ANYTHING = "…"


def texts_of_the_program() -> str:
    """Every piece of text in the code, joined; an f-string in pieces."""
    pieces = []
    for path in Path(lora_deploy.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                pieces.append(node.value)
    return "\n".join(pieces)


PROGRAM = texts_of_the_program()


def unknown_pieces(text: str) -> list[str]:
    return [
        piece for part in text.split(ANYTHING) if (piece := part.strip()) and piece not in PROGRAM
    ]


@pytest.mark.parametrize("message", MESSAGES)
def test_a_quoted_message_is_one_that_the_program_prints(message: str) -> None:
    quoted = re.fullmatch(r"error: (?P<found>.*) \[(?P<name>\w+)\]", message)
    if quoted is None:
        assert not message.startswith("error")
        assert unknown_pieces(message) == []
        return
    kind = getattr(errors, quoted["name"])
    assert quoted["found"].endswith(f"; {kind.remedy}")
    assert unknown_pieces(quoted["found"].removesuffix(f"; {kind.remedy}")) == []


def test_the_guides_three_troubles_come_first() -> None:
    titles = re.findall(r"^### (.*)$", TEXT, re.M)
    assert titles[:3] == ['"target_modules not found"', "Low accuracy", "Out of memory"]
    assert len(MESSAGES) >= 15


def test_a_message_that_nobody_prints_is_found_out() -> None:
    assert unknown_pieces("no layer of … is termed …; it knows the words …") == ["is termed"]


def test_every_recipe_is_told_with_when_to_take_it() -> None:
    for name in recipe_names():
        assert re.search(rf"^\| `{name}` \| .+ \| .+ \|$", TEXT, re.M), name
