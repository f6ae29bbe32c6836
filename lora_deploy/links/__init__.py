"""Videos from links: YouTube, and plain files of hosts that the operator lists; nothing else is opened."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from lora_deploy.links import errand
from lora_deploy.links.link import check_host, read_link

__all__ = ["Fetched", "LinkLimits", "fetch"]


@dataclass(frozen=True)
class LinkLimits:
    """What may be fetched, and how much of it.

    Raises:
        ListedHostError: One of ``hosts`` is no full name of a public host.
    """

    hosts: tuple[str, ...] = ()
    """Other hosts than YouTube's, from which plain files are fetched; each name in full."""
    max_bytes: int = 200_000_000
    max_seconds: float = 600.0
    """That a video of YouTube may last; a plain file's length shows when it is decoded."""
    deadline_seconds: float = 120.0
    """From the call to having the file."""
    height: int = 480
    """Pixels of the short side that are enough; the smallest format with as many is fetched."""
    youtube: bool = True
    """Whether links to YouTube are opened."""

    def __post_init__(self) -> None:
        for host in self.hosts:
            check_host(host)


@dataclass(frozen=True)
class Fetched:
    """A file that a link led to; it is the caller's now, who removes it."""

    path: Path
    """Under a name of ours."""
    title: str
    """One printable line, a stranger's words: to be escaped where it is shown; may be empty."""
    start_seconds: float | None
    """Where the link says to begin; None where it does not."""
    end_seconds: float | None
    """Where the link says to end; None where it does not."""


def fetch(
    link: str,
    folder: Path,
    *,
    limits: LinkLimits,
    progress: Callable[[float], None] | None = None,
) -> Fetched:
    """Fetch the video that a link leads to.

    Args:
        link: As a visitor gave it.
        folder: That the file is written to; nothing else is left there, and nothing on failure.
        limits: What may be fetched.
        progress: Is told twice a second or more how far it is, from 0 to 1; if it raises, the
            fetching ends.

    Raises:
        LinkError: Named by the reason; a sentence that may be shown to whoever gave the link.
    """
    target = read_link(link, hosts=limits.hosts, youtube=limits.youtube)
    bounds = errand.Bounds(
        hosts=tuple(host.lower() for host in limits.hosts),
        max_bytes=limits.max_bytes,
        max_seconds=limits.max_seconds,
        deadline_seconds=limits.deadline_seconds,
        height=limits.height,
    )
    path, title = errand.run(target, folder, bounds, progress)
    return Fetched(path, title, target.times.start_seconds, target.times.end_seconds)
