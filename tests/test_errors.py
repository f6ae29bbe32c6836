"""Every error that a user can cause has a name, a cause and a remedy; none is there that nobody raises."""

import ast
import inspect
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest

from lora_deploy import errors
from lora_deploy.cli import commands
from lora_deploy.errors import CLIP_ERROR_KINDS, ClipError, ClipErrorKind, LoraDeployError
from scripts import error_docs
from tests.test_docs import refusal, without_redirection
from tests.test_structure import MODULES

CLASSES = error_docs.classes()
LEAVES = [one for one in CLASSES if not one.__subclasses__() and one is not ClipError]
FAMILIES = [one for one in CLASSES if one.__subclasses__()]


def raised_by(tree: ast.AST) -> Iterator[str]:
    """Names of classes that ``tree`` makes, or chooses between to make one."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            yield node.func.id
        elif isinstance(node, ast.Raise) and isinstance(node.exc, ast.Name):
            yield node.exc.id
        elif isinstance(node, ast.IfExp):
            yield from (one.id for one in (node.body, node.orelse) if isinstance(one, ast.Name))


RAISED = {
    module: set(raised_by(ast.parse(path.read_text(encoding="utf-8"))))
    for module, path in MODULES.items()
    if module != "errors"
}


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("raise A('x')", {"A"}),
        ("raise A", {"A"}),
        ("kind = A if x else B", {"A", "B"}),
        ("yield A(_found(1))", {"A", "_found"}),
        ("from errors import A", set()),
        ("try: pass\nexcept A: pass", set()),
        ("isinstance(x, A)", {"isinstance"}),
    ],
)
def test_what_is_raised_is_found(source: str, names: set[str]) -> None:
    assert set(raised_by(ast.parse(source))) == names


@pytest.mark.parametrize("error", LEAVES, ids=lambda error: error.__name__)
def test_a_named_error_has_a_cause_and_a_remedy_of_its_own(error: type[LoraDeployError]) -> None:
    assert "__doc__" in vars(error)
    assert inspect.getdoc(error)
    assert error.remedy
    assert error.remedy[-1] not in ".;"
    assert "\n" not in error.remedy
    made = error("what was found")
    assert str(made) == f"what was found; {error.remedy}"
    assert made.name == error.__name__
    assert made.exit_code in (1, 2)


@pytest.mark.parametrize("error", FAMILIES, ids=lambda error: error.__name__)
def test_a_family_has_no_remedy_and_so_no_name(error: type[LoraDeployError]) -> None:
    assert error.remedy == ""
    assert error("what was found").name is None
    assert str(error("what was found")) == "what was found"


def test_no_two_errors_are_one() -> None:
    told = [(inspect.getdoc(error), error.remedy) for error in LEAVES]
    assert len(set(told)) == len(told)


def test_every_named_error_is_raised_somewhere() -> None:
    raised = set().union(*RAISED.values())
    silent = {error.__name__ for error in LEAVES} - raised
    assert silent == set()


def test_nobody_raises_a_family() -> None:
    families = {error.__name__ for error in FAMILIES}
    assert {module for module, names in RAISED.items() if names & families} == set()


def test_the_tree_in_the_first_lines_is_the_one_below() -> None:
    drawn = re.findall(r"^[│├└─ ]*([A-Z]\w+)  ", errors.__doc__ or "", flags=re.MULTILINE)
    apart = {ClipError, errors.MissingPackageError}
    assert sorted(drawn) == sorted(one.__name__ for one in {*FAMILIES, *apart})


def commands_in(error: type[LoraDeployError]) -> list[str]:
    return re.findall(r"`(lora-deploy [^`]+)`", f"{error.remedy} {inspect.getdoc(error)}")


@pytest.mark.parametrize("error", LEAVES, ids=lambda error: error.__name__)
def test_the_commands_of_a_remedy_exist(error: type[LoraDeployError]) -> None:
    for command in commands_in(error):
        assert refusal(without_redirection(shlex.split(command)[1:])) is None, command


@pytest.mark.parametrize("error", LEAVES, ids=lambda error: error.__name__)
def test_the_options_of_a_remedy_exist(error: type[LoraDeployError]) -> None:
    known = {
        option
        for command in commands.commands.values()
        for parameter in command.params
        for option in parameter.opts
    }
    outside = re.sub(r"`[^`]+`", "", error.remedy)
    ours = {option for option in re.findall(r"--[a-z-]+", outside) if option not in FOREIGN}
    assert ours <= known


FOREIGN = {"--upgrade"}
"""Options of other programs."""


def test_every_kind_of_a_clips_error_is_explained() -> None:
    assert list(CLIP_ERROR_KINDS) == list(get_args(ClipErrorKind))


def test_the_page_is_what_its_script_writes() -> None:
    assert error_docs.PAGE.read_text(encoding="utf-8") == error_docs.page()


def test_the_page_has_every_name_and_its_links_lead_to_headings() -> None:
    page = error_docs.page()
    headings = re.findall(r"^#+ (\w+)$", page, flags=re.MULTILINE)
    assert {error.__name__ for error in LEAVES} <= set(headings)
    assert len(headings) == len(set(headings))
    links = set(re.findall(r"\]\(#(\w+)\)", page))
    assert links == {heading.lower() for heading in headings} - {"errors"}
    assert Path(error_docs.PAGE).name == "errors.md"
