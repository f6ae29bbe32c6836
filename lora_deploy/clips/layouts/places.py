"""Where the parts of a data set lie: annotations in it or one folder below, videos near them."""

from collections.abc import Callable, Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from lora_deploy.clips.folders import find_videos, visible_folders
from lora_deploy.errors import AnnotationError

_TRIED = 20
"""So many of the listed clips are looked for in a folder, lest the first ones be missing."""


def annotations(
    source: Path, pattern: str, where: Callable[[Path], bool] = lambda _: True
) -> list[Path]:
    """Files that fit, sorted: ``source`` itself, or those in it, or else in one folder below.

    Args:
        source: A file or a folder.
        pattern: Of the name; upper and lower case are the same.
        where: What else must be so.
    """
    if source.is_file():
        return [source] if _named(source, pattern) and where(source) else []
    for folder in (source, *visible_folders(source)):
        files = sorted(path for path in folder.iterdir() if _named(path, pattern) and where(path))
        if files:
            return files
    return []


def _named(path: Path, pattern: str) -> bool:
    name = path.name.lower()
    return not name.startswith(".") and fnmatchcase(name, pattern.lower()) and path.is_file()


def read_text(path: Path) -> str:
    """The whole of an annotation file.

    Raises:
        AnnotationError: It is no UTF-8 text.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError):
        raise AnnotationError(f"{path} can't be read as UTF-8 text") from None


def lines_of(path: Path) -> Iterator[tuple[int, str]]:
    """The lines of an annotation file that are not blank, each with its number.

    Raises:
        AnnotationError: It is no UTF-8 text.
    """
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if line.strip():
            yield number, line.strip()


def root_of(source: Path, annotation: Path, names: Sequence[str]) -> Path:
    """The folder from which listed names count: the first that holds one of the first names.

    Looked at are the data set's folder and those in it; where the annotations lie in that folder
    itself, and so may have one of their own, the folder above and those in it too.

    Args:
        source: The data set, or its folder of annotations, or one of them.
        annotation: One of them.
        names: Paths as they are listed.
    """
    tried = names[:_TRIED]
    for folder in _around(source, annotation):
        for root in (folder, *_folders(folder)):
            if any((root / name).exists() for name in tried):
                return root
    return annotation.parent


def videos_by_stem(source: Path, annotation: Path) -> dict[str, Path]:
    """Every video of a data set by its name without ending; of equal names the first.

    Args:
        source: As `root_of`.
        annotation: As `root_of`.
    """
    found: dict[str, Path] = {}
    for folder in _around(source, annotation):
        for path in find_videos(folder):
            found.setdefault(path.stem, path)
        if found:
            break
    return found


def _around(source: Path, annotation: Path) -> list[Path]:
    folder = source if source.is_dir() else source.parent
    return [folder, folder.parent] if annotation.parent == folder else [folder]


def _folders(folder: Path) -> list[Path]:
    try:
        return visible_folders(folder)
    except OSError:
        return []
