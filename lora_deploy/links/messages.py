"""Messages between the process that serves and the one that fetches: a line of JSON each.

The fetching process has spoken with strangers, so what it says is taken only in this shape.
"""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat

from lora_deploy.errors import LinkErrorKind

MOST_TITLE_CHARACTERS = 200
MOST_LINE_BYTES = 1 << 14

Seconds = Annotated[FiniteFloat, Field(ge=0, le=1e9)]


class _Message(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Errand(_Message):
    """What is to be fetched, and within which limits."""

    kind: Literal["video", "file"]
    url: str
    hosts: tuple[str, ...]
    """From which redirects of a file may fetch."""
    start_seconds: float | None
    max_bytes: int
    max_seconds: float
    height: int
    folder: Path
    """Empty, and the errand's own."""
    javascript: Path | None
    """The runtime that yt-dlp may start; it may start nothing else."""
    parent_pid: int


class Progress(_Message):
    """How far it is, from 0 to 1."""

    do: Literal["progress"] = "progress"
    part: Annotated[FiniteFloat, Field(ge=0, le=1)]


class Done(_Message):
    """A file lies in the errand's folder."""

    do: Literal["done"] = "done"
    name: Annotated[str, Field(pattern=r"^clip\.(mp4|webm|bin)$")]
    title: Annotated[str, Field(max_length=MOST_TITLE_CHARACTERS)]


class Refused(_Message):
    """Nothing was fetched; the numbers say what was found, where the kind has one."""

    do: Literal["refused"] = "refused"
    kind: LinkErrorKind
    found_seconds: Seconds | None = None
    found_bytes: Annotated[int, Field(ge=0)] | None = None
    log: Annotated[str, Field(max_length=500)] = ""
    """For the operator's log, never for a visitor."""


class Refusal(Exception):
    """Ends an errand in the fetching process; becomes its last message."""

    def __init__(
        self,
        kind: LinkErrorKind,
        *,
        found_seconds: float | None = None,
        found_bytes: int | None = None,
        log: str = "",
    ) -> None:
        super().__init__(kind)
        self.message = Refused(
            kind=kind, found_seconds=found_seconds, found_bytes=found_bytes, log=log[:500]
        )


def printable(text: str) -> str:
    """One printable line of a stranger's text, shortened; '' where nothing of it can be printed.

    Control characters, line breaks and marks that turn the direction of writing are taken out.
    It is still a stranger's: whoever shows it escapes it.
    """
    seen = "".join(character if character.isprintable() else " " for character in text[:5000])
    line = " ".join(seen.split())
    if len(line) > MOST_TITLE_CHARACTERS:
        line = f"{line[: MOST_TITLE_CHARACTERS - 1]}…"
    return line
