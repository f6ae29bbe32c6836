"""HMDB51: for each class and fold a list, ``CLASS_test_split1.txt``, that says of each clip 1 or 2.

https://serre-lab.clps.brown.edu/resource/hmdb-a-large-human-motion-database/; 1 is to train, 2 to
test, 0 is not of this fold.
"""

import logging
import re
from collections.abc import Iterator
from pathlib import Path

from lora_deploy.clips.layouts.groups import kept_to_splits
from lora_deploy.clips.layouts.layout import Asked, Layout
from lora_deploy.clips.layouts.places import annotations, lines_of, root_of
from lora_deploy.clips.rows import Row, Split
from lora_deploy.errors import AnnotationError, FoldMissingError

logger = logging.getLogger(__name__)

_LISTS = "*_test_split[0-9].txt"
_NAME = re.compile(r"(.+)_test_split(\d)$", re.IGNORECASE)
_SPLITS: dict[str, Split | None] = {"0": None, "1": "train", "2": "test"}


def _fits(source: Path) -> bool:
    return bool(annotations(source, _LISTS))


def _read(source: Path, asked: Asked) -> list[Row]:
    lists = {(found[1], int(found[2])): path for path, found in _named(source)}
    of_fold = {label: path for (label, fold), path in lists.items() if fold == asked.fold}
    if not of_fold:
        there = ", ".join(sorted({str(fold) for _, fold in lists}))
        raise FoldMissingError(
            f"{source} has no *_test_split{asked.fold}.txt; it has folds: {there}"
        )
    listed = [(label, *one) for label, path in of_fold.items() for one in _listed(path)]
    used = [(label, name, split) for label, name, split in listed if split is not None]
    if len(used) < len(listed):
        logger.info(
            "%d clips of %s are not of fold %d", len(listed) - len(used), source, asked.fold
        )
    root = root_of(
        source, next(iter(of_fold.values())), [f"{label}/{name}" for label, name, _ in used]
    )
    return kept_to_splits(
        [Row(root / label / name, label, split, _group(name, label)) for label, name, split in used]
    )


def _named(source: Path) -> Iterator[tuple[Path, re.Match[str]]]:
    for path in annotations(source, _LISTS):
        found = _NAME.match(path.stem)
        if found:
            yield path, found


def _listed(path: Path) -> Iterator[tuple[str, Split | None]]:
    for line, text in lines_of(path):
        name, _, use = text.rpartition(" ")
        if not name or use not in _SPLITS:
            raise AnnotationError(
                f"line {line} of {path} is {text!r}; looked for a file's name and 0, 1 or 2"
            )
        yield name.strip(), _SPLITS[use]


def _group(name: str, label: str) -> str | None:
    """The film or recording that a clip is cut from: what stands before the class in its name."""
    recording, found, _ = name.partition(f"_{label}_")
    return recording if found and recording else None


HMDB51 = Layout(
    "hmdb51",
    "files called CLASS_test_split1.txt in it or in a folder of it, such as "
    "testTrainMulti_7030_splits",
    _fits,
    _read,
)
