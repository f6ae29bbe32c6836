"""Progress of long work: the library tells, the command line shows."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

Advance = Callable[[], None]
"""Called once per finished item."""

Progress = Callable[[str, int], AbstractContextManager[Advance]]
"""Given what is done and how many items there are, yields an `Advance`."""


@contextmanager
def silent(description: str, total: int) -> Iterator[Advance]:
    """Show nothing."""
    yield lambda: None
