"""Whether a server takes work: read by its door, set by whoever stops it."""

from dataclasses import dataclass


@dataclass
class Pulse:
    """Whether the server takes work."""

    is_stopping: bool = False
