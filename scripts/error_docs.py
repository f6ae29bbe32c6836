"""Writes docs/errors.md from the classes of `lora_deploy.errors`: what each means, and what to do."""

import inspect
from collections.abc import Iterator
from pathlib import Path

from lora_deploy import errors
from lora_deploy.errors import CLIP_ERROR_KINDS, ClipError, LoraDeployError

PAGE = Path(__file__).parents[1] / "docs" / "errors.md"

_HEAD = """\
<!-- Written by scripts/docs from lora_deploy/errors: change that, and run it again. -->
# Errors

A mistake that you can mend is one line: what was found and what is allowed, what to do, and in brackets the name to look up here.

```
error: there is nothing at clips; give a folder with one subfolder per class, or a CSV or JSONL manifest, with --data [NoSuchDataError]
```

Exit codes: 0 done; 1 finished, but a check did not pass or some clips failed; 2 a mistake; 3 a fault of ours, which shows its traceback with `-v` in front of the command (`lora-deploy -v classify …`; `-q` there leaves warnings and errors alone); 130 and 143 interrupted. In Python every error below is a class of `lora_deploy.errors` and descends from `LoraDeployError`.
"""


def classes() -> list[type[LoraDeployError]]:
    """All error classes, in the order of the files."""
    return [
        value
        for value in vars(errors).values()
        if isinstance(value, type) and issubclass(value, LoraDeployError)
    ]


def named() -> list[type[LoraDeployError]]:
    """Those that a person can look up."""
    return [error for error in classes() if error.remedy]


def page() -> str:
    """The whole page."""
    families = {error.__base__: error.__base__ for error in named()}
    ordered = [error for error in classes() if error in families or error is ClipError]
    lines = [_HEAD, "| kind | what | names |", "|---|---|---|"]
    lines += [
        f"| [{family.__name__}](#{family.__name__.lower()}) | {_caption(family)} | {_names(family)} |"
        for family in ordered
    ]
    for family in ordered:
        lines += ["", *_section(family)]
    return "\n".join(lines) + "\n"


def _names(family: type[LoraDeployError]) -> str:
    if family is ClipError:
        return ", ".join(f"`{kind}`" for kind in CLIP_ERROR_KINDS)
    return ", ".join(f"[{one.__name__}](#{one.__name__.lower()})" for one in _members(family))


def _members(family: type[LoraDeployError]) -> list[type[LoraDeployError]]:
    return [error for error in named() if error.__base__ is family]


def _section(family: type[LoraDeployError]) -> Iterator[str]:
    yield f"## {family.__name__}"
    yield _caption(family)
    if family is ClipError:
        yield ""
        yield "In a batch it becomes the row of that file, with one of these kinds, and stops nothing."
        yield ""
        yield "| kind | what is wrong with the file |"
        yield "|---|---|"
        yield from (f"| `{kind}` | {meaning} |" for kind, meaning in CLIP_ERROR_KINDS.items())
    for error in _members(family):
        yield ""
        yield f"### {error.__name__}"
        for paragraph in _cause(error):
            yield paragraph
            yield ""
        yield f"**What to do:** {_sentence(error.remedy)} Exit code {error.exit_code}."


def _caption(family: type[LoraDeployError]) -> str:
    """The first line of its docstring; the base of all has none that would help here."""
    if family is LoraDeployError:
        return "What belongs to no other kind."
    return _cause(family)[0]


def _cause(error: type[LoraDeployError]) -> list[str]:
    """The paragraphs of its docstring, in Markdown, a line each."""
    text = inspect.cleandoc(error.__doc__ or "").partition("\n\nArgs:")[0]
    return [" ".join(one.split()).replace("``", "`") for one in text.split("\n\n")]


def _sentence(remedy: str) -> str:
    return remedy[0].upper() + remedy[1:] + "."


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
