"""Whether a server takes work: read by its door, set by the server."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass
class Pulse:
    """Whether the server takes work."""

    is_stopping: bool = False
    is_crowded: Callable[[], bool] = lambda: False
    """Whether more connections are open than it takes."""
