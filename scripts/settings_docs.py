"""Writes docs/settings.md from the classes of `lora_deploy.config`: each setting, what it may be and what it does."""

import ast
import inspect
import json
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from lora_deploy import config
from lora_deploy.config import Settings, allowed_in_words

PAGE = Path(__file__).parents[1] / "docs" / "settings.md"

_HEAD = """\
<!-- Written by scripts/docs from lora_deploy/config.py: change that, and run it again. -->
# Settings

What decides a training and its proof, beside the data: a YAML file for `--config`, `--set KEY=VALUE` on top of it. Every key is optional.

```bash
lora-deploy config > my.yaml     # the default recipe, commented, to edit; --list names the others
lora-deploy config my.yaml       # checks it, and prints every setting as it will be
lora-deploy train --config my.yaml --data CLIPS --out RUN --set training.epochs=10 --set model.lora.r=16
lora-deploy merge-export RUN --out BUNDLE --set proof.clips=512
```

A key that does not exist is refused with the nearest one, a value with what is allowed. YAML 1.2 counts: `no` is a text, `1e-4` a number. A `lora:` section at the top of a file, and `--set lora.r=16`, mean `model.lora`. A RUN keeps all settings in its `config.yaml`; `merge-export` takes those of `proof` from there.
"""


@cache
def meanings() -> dict[str, dict[str, str]]:
    """What stands below each field of each class, by the names of class and field, in Markdown."""
    found: dict[str, dict[str, str]] = {}
    for section in ast.parse(inspect.getsource(config)).body:
        if isinstance(section, ast.ClassDef):
            found[section.name] = {}
            for field, below in zip(section.body, section.body[1:], strict=False):
                match field, below:
                    case (
                        ast.AnnAssign(target=ast.Name(id=name)),
                        ast.Expr(value=ast.Constant(value=str(text))),
                    ):
                        found[section.name][name] = " ".join(_in_markdown(text).split())
    return found


def meaning(section: type[BaseModel], name: str) -> str:
    """What stands below a field, in its class or in the one that it is inherited from.

    Raises:
        KeyError: Nothing does.
    """
    known = meanings()
    for one in section.__mro__:
        if name in known.get(one.__name__, {}):
            return known[one.__name__][name]
    raise KeyError(f"{section.__name__}.{name} has no docstring")


def page() -> str:
    """The whole page."""
    return _HEAD + "\n".join(_section(Settings, "")) + "\n"


def _section(section: type[BaseModel], prefix: str) -> Iterator[str]:
    values = {name: field for name, field in section.model_fields.items() if not _is_section(field)}
    if values:
        yield ""
        yield f"## {prefix.removesuffix('.')}"
        yield _in_markdown(inspect.cleandoc(section.__doc__ or ""))
        yield ""
        yield "| key | default | allowed | what it does |"
        yield "|---|---|---|---|"
        for name, field in values.items():
            allowed, does = allowed_in_words(field), meaning(section, name)
            yield f"| `{name}` | `{_as_yaml(field)}` | {allowed} | {does} |"
    for name, field in section.model_fields.items():
        if isinstance(below := field.annotation, type) and issubclass(below, BaseModel):
            yield from _section(below, f"{prefix}{name}.")


def _in_markdown(text: str) -> str:
    return re.sub(
        r"\bdocs/([\w-]+)\.md", r"[\1](\1.md)", text.replace("``", "`").replace("|", r"\|")
    )


def _is_section(field: FieldInfo) -> bool:
    return isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)


def _as_yaml(field: FieldInfo) -> str:
    """A default, written as in a YAML file."""
    return str(field.default) if isinstance(field.default, str) else json.dumps(field.default)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
