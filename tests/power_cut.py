"""What a power cut could tear, read from the order of calls: a kill loses nothing that a sync would save."""

from collections.abc import Sequence
from pathlib import PurePosixPath

from lora_deploy.atomic import UPDATE
from tests.faults import Call

MAKES = {"openat", "open", "mkdir"}
"""Calls after which a file or folder wants a sync, and so does the folder that names it."""
CHANGES = {"write", "sendfile", "ftruncate", "chmod"}


def out_of_order(calls: Sequence[Call]) -> list[str]:
    """What a power cut could tear: files and names that count, or are parted with, unsynced."""
    wrong: list[str] = []
    unsynced: set[str] = set()
    for call, after in zip(calls, [*calls[1:], None], strict=True):
        path = PurePosixPath(call.path)
        if call.name in MAKES:
            unsynced |= {call.path, path.parent.as_posix()}
        elif call.name in CHANGES:
            unsynced.add(call.path)
        elif call.name in ("fsync", "unlink", "unlinkat"):
            unsynced.discard(call.path)
        elif call.name == "rmdir":
            unsynced.discard(call.path)
            moved_to = path.relative_to(UPDATE).as_posix()
            if moved_to in unsynced:
                wrong.append(f"{call} before a sync of {moved_to}")
        elif call.name.startswith("rename") and call.to is not None:
            to = PurePosixPath(call.to)
            moved = {name for name in unsynced if PurePosixPath(name).is_relative_to(path)}
            if moved and not is_partial(to):
                wrong.append(f"{call} before a sync of {sorted(moved)}")
            publishes = is_partial(path) and not is_partial(to)
            if publishes and after != Call("fsync", to.parent.as_posix()):
                wrong.append(f"{call} without a sync of {to.parent} at once")
            unsynced -= moved
            unsynced |= {(to / PurePosixPath(name).relative_to(path)).as_posix() for name in moved}
            unsynced.add(to.parent.as_posix())
        else:
            wrong.append(f"{call}: what does it change?")
    return wrong + [f"{name} is never synced" for name in sorted(unsynced)]


def is_partial(path: PurePosixPath) -> bool:
    return any(part.endswith(".partial") for part in path.parts)
