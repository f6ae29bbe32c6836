"""Files that hide a package: a ``torch.py`` or a folder ``onnx`` where Python looks first."""

import os
import site
import sys
import sysconfig
from collections.abc import Iterator, Mapping, Sequence
from importlib.machinery import all_suffixes
from importlib.metadata import Distribution, distributions
from pathlib import Path

from lora_deploy.doctor.complaint import Complaint

WATCHED = frozenset(
    {
        "PIL", "accelerate", "annotated_types", "av", "click", "decord", "gradio", "huggingface_hub", "matplotlib",
        "nncf", "numpy", "onnx", "onnxruntime", "onnxscript", "openvino", "packaging", "peft", "pyarrow", "pydantic",
        "rich", "safetensors", "tensorboard", "tensorrt", "tensorrt_rtx", "tokenizers", "torch", "torchcodec",
        "torchvision", "transformers", "yaml", "yt_dlp",
    }
)  # fmt: skip
"""Packages that this program opens, by the name of their import."""

_HARMLESS = frozenset({"antigravity", "idlelib", "lib2to3", "this", "turtle", "turtledemo"})
"""Standard modules that no library imports, so that a file ``turtle.py`` breaks nothing."""

_STANDARD = sys.stdlib_module_names - frozenset(sys.builtin_module_names) - _HARMLESS


def complaints(
    folder: Path | None = None,
    *,
    path: Sequence[str] | None = None,
    environment: Mapping[str, str] = os.environ,
) -> Iterator[Complaint]:
    """Look through the working directory and ``PYTHONPATH``, which come before installed packages.

    Args:
        folder: The working directory; the real one by default.
        path: Where modules are looked for; ``sys.path`` by default.
        environment: For ``PYTHONPATH``.
    """
    named = environment.get("PYTHONPATH", "").split(os.pathsep)
    here = _resolved(folder or ".")
    searched = {_resolved(entry or here or ".") for entry in (sys.path if path is None else path)}
    first = dict.fromkeys([here, *(_resolved(entry) for entry in named if entry)])
    for place in first:
        if place is not None and not _belongs_to_python(place):
            for name, module in _hiding(place):
                yield _complaint(name, module, place == here, place in searched)


def _resolved(place: str | Path) -> Path | None:
    """None below a working directory that was deleted."""
    try:
        return Path(place).resolve()
    except OSError:
        return None


def _complaint(name: str, module: Path, is_here: bool, is_searched: bool) -> Complaint:
    kind = "the standard module" if name in _STANDARD else "the package"
    where = "the working directory" if is_here else "PYTHONPATH"
    remedy = f"rename or move {module}"
    if not is_here:
        remedy += f", or take {module.parent} out of PYTHONPATH"
    what = f"{module.name} in {where} hides {kind} {name}"
    if not is_searched:  # a command of its own does not look there; `python -c` and notebooks do
        what += " from every script and notebook that is started there"
    return Complaint("shadowed", what, remedy, serious=is_searched)


def _hiding(place: Path) -> Iterator[tuple[str, Path]]:
    try:
        entries = sorted(place.iterdir())
    except OSError:
        return
    modules = [(name, entry) for entry in entries if (name := _module_name(entry))]
    hiding = [(name, entry) for name, entry in modules if name in WATCHED or name in _STANDARD]
    if hiding:
        installed = _installed_in(place)
        yield from ((name, entry) for name, entry in hiding if name not in installed)


def _module_name(entry: Path) -> str | None:
    """What importing an entry of a folder would be called; a folder without ``__init__`` hides nothing."""
    if entry.is_dir():
        has_code = any((entry / f"__init__{suffix}").exists() for suffix in all_suffixes())
        return entry.name if has_code else None
    for suffix in sorted(all_suffixes(), key=len, reverse=True):
        if entry.name.endswith(suffix):
            return entry.name.removesuffix(suffix)
    return None


def _installed_in(place: Path) -> set[str]:
    """Names of imports that a distribution in this very folder owns: meant, not hiding."""
    found: set[str] = set()
    for one in distributions(path=[str(place)]):
        found.update(_imports(one))
    return found


def _imports(one: Distribution) -> Iterator[str]:
    yield from (one.read_text("top_level.txt") or "").split()
    for file in one.files or ():
        yield file.parts[0].partition(".")[0]


def _belongs_to_python(place: Path) -> bool:
    """The folders of installed packages and of the standard library."""
    own = [sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")]
    own += [*site.getsitepackages(), site.getusersitepackages()]
    return place in {Path(folder).resolve() for folder in own}
