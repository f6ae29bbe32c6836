"""What a layout is: a name, how it is recognised, and how it is read into rows."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from lora_deploy.clips.rows import Row
from lora_deploy.config import DataFormat


@dataclass(frozen=True)
class Asked:
    """What is wanted of a data set beside its place."""

    fold: int = 1
    """Which of a data set's own divisions into train and test, where it brings several."""
    needs_train: bool = True
    """Whether there is nothing to do without clips to train on."""


@dataclass(frozen=True)
class Layout:
    """One way in which labelled videos lie on a disk."""

    name: DataFormat
    looked_for: str
    """What makes it out, as the object of "looked for"."""
    fits: Callable[[Path], bool]
    """Whether this file or folder is so laid out; it is there."""
    read: Callable[[Path, Asked], list[Row]]
    """Its clips. Files need not exist; a `DataError` says what is wrong with an annotation."""
