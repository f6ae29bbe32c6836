"""UCF101: ``classInd.txt`` names the classes, ``trainlistNN.txt`` and ``testlistNN.txt`` divide the clips.

https://www.crcv.ucf.edu/data/UCF101.php; clips are listed as ``Class/v_Class_g01_c01.avi``, and
clips of one ``g`` are cut from one recording.
"""

import re
from collections.abc import Iterator
from pathlib import Path

from lora_deploy.clips.layouts.groups import kept_to_splits
from lora_deploy.clips.layouts.layout import Asked, Layout
from lora_deploy.clips.layouts.places import annotations, lines_of, root_of
from lora_deploy.clips.rows import Row, Split
from lora_deploy.errors import AnnotationError, FoldMissingError

_CLASSES = "classInd.txt"
_GROUP = re.compile(r"_(g\d+)_c\d+$")
_FOLD = re.compile(r"trainlist(\d+)$", re.IGNORECASE)


def _fits(source: Path) -> bool:
    return bool(annotations(source, _CLASSES) and annotations(source, "trainlist*.txt"))


def _read(source: Path, asked: Asked) -> list[Row]:
    classes = _classes(annotations(source, _CLASSES)[0])
    lists = _lists(source, asked.fold)
    listed = [
        (name, label, split)
        for split, path in lists.items()
        for name, label in _listed(path, classes)
    ]
    root = root_of(source, lists["train"], [name for name, _, _ in listed])
    rows = [Row(root / name, label, split, _group(name, label)) for name, label, split in listed]
    return kept_to_splits(rows)


def _classes(path: Path) -> dict[str, str]:
    """Name of each class by its number, as a text."""
    classes = {}
    for line, text in lines_of(path):
        number, _, name = text.partition(" ")
        if not number.isdigit() or not name.strip():
            raise AnnotationError(
                f"line {line} of {path} is {text!r}; looked for a number and a class, as 1 Archery"
            )
        classes[number] = name.strip()
    return classes


def _lists(source: Path, fold: int) -> dict[Split, Path]:
    found: dict[Split, Path] = {}
    for split, name in (("train", "trainlist"), ("test", "testlist")):
        files = annotations(source, f"{name}{fold:02d}.txt")
        if not files:
            folds = [_FOLD.search(path.stem) for path in annotations(source, "trainlist*.txt")]
            there = ", ".join(str(int(one[1])) for one in folds if one)
            raise FoldMissingError(f"{source} has no {name}{fold:02d}.txt; it has folds: {there}")
        found["train" if split == "train" else "test"] = files[0]
    return found


def _listed(path: Path, classes: dict[str, str]) -> Iterator[tuple[str, str]]:
    for line, text in lines_of(path):
        # The lists to train on give the class's number too.
        name, _, number = text.partition(" ")
        label = name.rpartition("/")[0]
        told = classes.get(number.strip(), label if not number else "")
        if label not in classes.values() or told != label:
            raise AnnotationError(
                f"line {line} of {path} is {text!r}; looked for CLASS/FILE, and behind it the "
                f"class's number in {_CLASSES} or nothing"
            )
        yield name, label


def _group(name: str, label: str) -> str | None:
    found = _GROUP.search(Path(name).stem)
    return f"{label} {found[1]}" if found else None


UCF101 = Layout(
    "ucf101",
    "classInd.txt and trainlist01.txt in it or in a folder of it, such as ucfTrainTestlist",
    _fits,
    _read,
)
