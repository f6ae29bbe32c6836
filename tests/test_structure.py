"""The shape of the code itself: captions, imports that run downhill, settings files, copies that stay equal."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import lora_deploy
from lora_deploy.clips.example import write_example
from lora_deploy.config import RECIPES_FOLDER, load_settings

ROOT = Path(__file__).parents[1]
PACKAGE = Path(lora_deploy.__file__).parent

LAYERS = (
    (
        "errors",
        "extras",
        "versions",
        "known_bad",
        "memory",
        "disk",
        "regular",
        "open_files",
        "atomic",
        "lock",
        "progress",
        "processor",
    ),
    ("clips.contract",),
    ("config", "device"),
    ("clips",),
    ("links", "web"),
    ("artifact",),
    ("model",),
    ("runtime",),
    ("classify", "evaluate", "proof"),
    ("train",),
    ("export",),
    ("bench", "doctor", "checkup", "demo"),
    ("compare",),
    ("verification",),
    ("completion", "serve"),
    ("quickstart",),
    ("",),  # lora_deploy itself, the Python door
    ("terminal", "texts", "options"),
    ("commands",),
    ("cli",),
    ("__main__",),
)
"""Modules and subpackages from the ground up; each may import its own layer and those before it."""

HEAVY = {"torch", "transformers", "peft", "onnx", "onnxruntime", "openvino", "gradio", "pyarrow"}
"""What `--help` must not wait for."""

COPIES = {"train/configs": "configs"}
"""Folders at the root that a person edits, and their copies in the package's assets."""


def modules() -> dict[str, Path]:
    """Every module of the package by its name below ``lora_deploy``; the package itself is ''."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        found[".".join(part for part in parts if part != "__init__")] = path
    return found


MODULES = modules()


def imports_of(tree: ast.AST) -> Iterator[str]:
    """Modules of the package that ``tree`` imports, inside functions too, but not for types alone."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            for branch in node.orelse:
                yield from imports_of(branch)
        elif isinstance(node, ast.Import):
            for alias in node.names:
                package, _, name = alias.name.partition(".")
                if package == "lora_deploy":
                    yield name
        elif isinstance(node, ast.ImportFrom):
            package, _, name = (node.module or "").partition(".")
            assert node.level == 0, "imports are written in full"
            if package == "lora_deploy":
                for alias in node.names:
                    below = f"{name}.{alias.name}".lstrip(".")
                    yield below if below in MODULES else name
        else:
            yield from imports_of(node)


def import_graph() -> dict[str, set[str]]:
    return {
        name: set(imports_of(ast.parse(path.read_text()))) - {name}
        for name, path in MODULES.items()
    }


def layer_of(module: str) -> int:
    """Where a module stands; the longest name in `LAYERS` that it is, or lies under, decides."""
    places = {name: number for number, names in enumerate(LAYERS) for name in names}
    parts = module.split(".")
    for length in range(len(parts), 0, -1):
        if (name := ".".join(parts[:length])) in places:
            return places[name]
    raise AssertionError(f"lora_deploy.{module} has no place in LAYERS: give it one")


def test_every_file_says_on_its_first_line_what_it_is() -> None:
    files = [*PACKAGE.rglob("*.py"), *(ROOT / "tests").glob("*.py")]
    files += [*(ROOT / "train").rglob("*.py"), *(ROOT / "benchmarks").glob("*.py")]
    texts = {str(path.relative_to(ROOT)): path.read_text() for path in files}
    without = [
        name for name, text in texts.items() if text and not re.match(r'r?"""\S.*[.:;,"]', text)
    ]
    assert without == []


def test_no_two_modules_import_each_other_in_a_circle() -> None:
    graph = import_graph()
    done: set[str] = set()

    def walk(module: str, trail: tuple[str, ...]) -> None:
        assert module not in trail, " → ".join([*trail[trail.index(module) :], module])
        if module not in done:
            for other in sorted(graph.get(module, ())):
                walk(other, (*trail, module))
            done.add(module)

    for module in graph:
        walk(module, ())


def test_imports_run_downhill() -> None:
    uphill = [
        f"lora_deploy.{module} imports lora_deploy.{other}"
        for module, others in import_graph().items()
        for other in sorted(others)
        if layer_of(other) > layer_of(module)
    ]
    assert uphill == []


def test_nobody_decodes_outside_the_fence() -> None:
    decoders = {name for name in MODULES if name.startswith("clips.decode")}
    assert decoders
    importers = {name for name, others in import_graph().items() if others & decoders}
    assert importers <= decoders


@pytest.mark.parametrize(
    ("source", "imported"),
    [
        ("import lora_deploy.clips.decode", {"clips.decode"}),
        ("from lora_deploy.errors import ClipError", {"errors"}),
        ("from lora_deploy.clips import contract", {"clips.contract"}),
        ("def f():\n    from lora_deploy import config", {"config"}),
        ("if TYPE_CHECKING:\n    import lora_deploy.cli\nimport numpy", set()),
    ],
)
def test_imports_are_found_where_they_stand(source: str, imported: set[str]) -> None:
    assert set(imports_of(ast.parse(source))) == imported


def modules_loaded_by(*arguments: str) -> set[str]:
    """Top-level packages that ``python -m lora_deploy ARGUMENTS`` imports."""
    finished = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "lora_deploy", *arguments],
        capture_output=True,
        text=True,
        check=True,
    )
    names = re.findall(r"^import time:.*\| +(\S+)$", finished.stderr, flags=re.MULTILINE)
    return {name.partition(".")[0] for name in names}


def test_help_waits_for_no_heavy_package() -> None:
    loaded = modules_loaded_by("--help")
    assert "click" in loaded
    assert loaded & HEAVY == set()


def test_answering_with_onnxruntime_needs_no_torch(tmp_path: Path) -> None:
    write_example(tmp_path, train_clips=0, val_clips=0, test_clips=1)
    clip = min(tmp_path.rglob("*.mp4"))
    bundle = PACKAGE / "assets" / "example-bundle"
    loaded = modules_loaded_by("classify", str(bundle), str(clip), "--backend", "onnxruntime")
    assert "onnxruntime" in loaded
    assert loaded.isdisjoint({"torch", "transformers", "peft"})


def test_every_settings_file_loads() -> None:
    files = [*(ROOT / "train" / "configs").glob("*.yaml"), *RECIPES_FOLDER.glob("*.yaml")]
    assert files
    for path in files:
        load_settings(path)


@pytest.mark.parametrize("folder", COPIES)
def test_copies_at_the_root_equal_those_in_the_package(folder: str) -> None:
    def texts(where: Path) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in where.glob("*.yaml")}

    assert texts(ROOT / folder) == texts(PACKAGE / "assets" / COPIES[folder])
