"""What is known already of a run of `classify`, in SQLite: it survives whatever kills the run.

One process at a time has a journal; whoever opens one holds its lock. What is written here counts
once its transaction is on the disk, and a clip has one answer, whatever was done twice.
"""

import contextlib
import json
import sqlite3
import stat
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lora_deploy.classify.inputs import Item
from lora_deploy.classify.rows import TIMES, Row, printable
from lora_deploy.clips.clip import Footage, Stretch
from lora_deploy.disk import is_network
from lora_deploy.errors import (
    BatchBusyError,
    DiskFullError,
    JournalDiskError,
    JournalTornError,
    NewerSchemaError,
    NotAJournalError,
)

APPLICATION = 0x6C6F7261
"""``lora``: by which SQLite and `file` know whose database it is."""

SCHEMA_VERSION = 1

SYNCING_PART = 0.05
"""Of the time may go into syncs: slow models have each row synced at once, fast ones now and then."""

SECONDS_BETWEEN_SYNCS = 0.5
"""At most, while rows come, on however slow a disk."""

_PAGE = 1000
"""Clips that are looked up at once."""

_SCHEMA = """
CREATE TABLE about (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE inputs (
    position INTEGER PRIMARY KEY, path BLOB NOT NULL, file BLOB NOT NULL,
    start_seconds REAL, end_seconds REAL, known_by TEXT NOT NULL
);
CREATE INDEX inputs_known_by ON inputs (known_by, position);
CREATE TABLE answers (
    known_by TEXT PRIMARY KEY, status TEXT NOT NULL, row TEXT NOT NULL
) WITHOUT ROWID;
CREATE TABLE contents (inode TEXT PRIMARY KEY, content TEXT NOT NULL) WITHOUT ROWID;
"""

_UNKNOWN = """
FROM inputs
WHERE NOT EXISTS (SELECT 1 FROM answers WHERE answers.known_by = inputs.known_by)
AND NOT EXISTS (
    SELECT 1 FROM inputs AS earlier
    WHERE earlier.known_by = inputs.known_by AND earlier.position < inputs.position
)
"""
"""Clips without an answer, each once, under whatever names it was given."""


@dataclass(frozen=True)
class Known:
    """How far a run is."""

    clips: int
    answered: int
    errors: int
    """Of those that are answered."""


class Journal:
    """An open journal. Use `opened`.

    Its methods raise `JournalTornError`, `DiskFullError` and `JournalDiskError`.
    """

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        """Of a connection that is prepared."""
        self.path = path
        self._connection = connection
        self._begun = self._synced = time.monotonic()
        self._syncing_seconds = 0.0

    def about(self) -> dict[str, str]:
        """What is written down of the run: model, settings, versions."""
        with self._named():
            return dict(self._connection.execute("SELECT name, value FROM about"))

    def write_about(self, values: Mapping[str, str | None]) -> None:
        """Write down, or with None take out, what the run is made of."""
        with self._transaction() as connection:
            for name, value in values.items():
                connection.execute("DELETE FROM about WHERE name = ?", (name,))
                if value is not None:
                    connection.execute("INSERT INTO about VALUES (?, ?)", (name, value))

    def forget(self) -> None:
        """Begin anew."""
        with self._transaction() as connection:
            for statement in ("DELETE FROM about", "DELETE FROM inputs", "DELETE FROM answers"):
                connection.execute(statement)

    def forget_errors(self, about: Mapping[str, str]) -> None:
        """Ask clips with error rows again, and write down that this was done."""
        with self._transaction() as connection:
            connection.execute("DELETE FROM answers WHERE status = 'error'")
            connection.executemany("INSERT OR REPLACE INTO about VALUES (?, ?)", about.items())

    def write_inputs(self, items: Iterable[tuple[int, Item, str]]) -> None:
        """Put these in place of those that were there: position, clip, and what it is known by.

        What is known of contents meanwhile lasts, even where this is cut off.
        """
        with self._transaction() as connection:
            connection.execute("DELETE FROM inputs")
        for position, item, known_by in items:
            values = _input(position, item, known_by)
            self._add("INSERT INTO inputs VALUES (?, ?, ?, ?, ?, ?)", *values)
        self.sync()

    def is_empty(self) -> bool:
        """Whether no clip was ever answered."""
        with self._named():
            return not self._one("SELECT 1 FROM answers LIMIT 1")

    def known(self) -> Known:
        """How many clips there are, and how many have their answers."""
        joined = "FROM inputs JOIN answers USING (known_by)"
        with self._named():
            [clips] = self._one("SELECT count(*) FROM inputs")
            [answered] = self._one(f"SELECT count(*) {joined}")
            [errors] = self._one(f"SELECT count(*) {joined} WHERE status = 'error'")
        return Known(clips, answered, errors)

    def unknown_count(self) -> int:
        """How many clips are to be asked."""
        with self._named():
            [count] = self._one(f"SELECT count(*) {_UNKNOWN}")
        return int(count)

    def unknown(self) -> Iterator[tuple[int, Item]]:
        """The clips that are to be asked, with their positions; a few in memory at once.

        Answers may be added meanwhile.
        """
        behind = -1
        while True:
            with self._named():
                page = self._connection.execute(
                    f"SELECT position, path, file, start_seconds, end_seconds {_UNKNOWN} "
                    "AND position > ? ORDER BY position LIMIT ?",
                    (behind, _PAGE),
                ).fetchall()
            for position, path, file, start, end in page:
                footage = Footage(Path(_text(file)), _stretch(start, end))
                yield position, Item(_text(path), footage)
            if len(page) < _PAGE:
                return
            behind = page[-1][0]

    def add(self, position: int, row: Row) -> None:
        """Write down the answer to the clip at ``position``.

        It is on the disk with the next `sync`, which comes by itself from time to time.
        """
        values = row.as_dict(timed=True)
        for name in ("path", *TIMES):  # of the input, which may have other names beside
            del values[name]
        self._add(
            "INSERT OR REPLACE INTO answers SELECT known_by, ?, ? FROM inputs WHERE position = ?",
            row.status, json.dumps(values, ensure_ascii=False), position,
        )  # fmt: skip

    def sync(self) -> None:
        """Bring to the disk what was added."""
        begun = time.monotonic()
        if self._connection.in_transaction:
            with self._named():
                self._connection.execute("COMMIT")
        self._synced = time.monotonic()
        self._syncing_seconds += self._synced - begun

    def rows(self) -> Iterator[Row]:
        """A row a clip, in the order of the inputs; a few in memory at once."""
        with self._named():
            found = self._connection.execute(
                "SELECT path, start_seconds, end_seconds, row "
                "FROM inputs JOIN answers USING (known_by) ORDER BY position"
            )
            for path, start, end, text in found:
                named = {"path": printable(_text(path)), "start": start, "end": end}
                try:
                    row = Row.from_dict({**json.loads(text), **named})
                except (ValueError, TypeError) as error:
                    raise JournalTornError(
                        f"the journal {self.path} is damaged ({error})"
                    ) from None
                yield row

    def content(self, inode: str) -> str | None:
        """The hash of a file's content, if it is known."""
        with self._named():
            found = self._one("SELECT content FROM contents WHERE inode = ?", inode)
        return found[0] if found else None

    def write_content(self, inode: str, content: str) -> None:
        """Write down the hash of a file's content."""
        self._add("INSERT OR REPLACE INTO contents VALUES (?, ?)", inode, content)

    def _add(self, statement: str, *values: object) -> None:
        """Part of a transaction that `sync` ends, from time to time."""
        with self._named():
            if not self._connection.in_transaction:
                self._connection.execute("BEGIN")
            self._connection.execute(statement, values)
        now = time.monotonic()
        is_cheap = self._syncing_seconds <= SYNCING_PART * (now - self._begun)
        if is_cheap or now - self._synced >= SECONDS_BETWEEN_SYNCS:
            self.sync()

    def _one(self, query: str, *values: object) -> tuple[Any, ...]:
        found: tuple[Any, ...] = self._connection.execute(query, values).fetchone() or ()
        return found

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        self.sync()
        with self._named():
            self._connection.execute("BEGIN")
            try:
                yield self._connection
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    with contextlib.suppress(sqlite3.Error):
                        self._connection.execute("ROLLBACK")
                raise

    @contextlib.contextmanager
    def _named(self) -> Iterator[None]:
        with _failures_named(self.path):
            yield


@contextlib.contextmanager
def opened(path: Path) -> Iterator[Journal]:
    """Open a journal, or make one; whoever does holds the lock of what it is for.

    Raises:
        NotAJournalError: Something else is there.
        NewerSchemaError: A newer version of this program wrote it.
        JournalTornError: It is damaged.
        DiskFullError: There is no room for it.
        JournalDiskError: The disk does not take it.
    """
    connection = _connect(path)
    try:
        journal = Journal(path, connection)
        yield journal
        journal.sync()
    finally:
        with contextlib.suppress(sqlite3.Error):
            connection.close()


def remove(path: Path) -> None:
    """Take away a journal that is torn.

    Raises:
        NotAJournalError: It is none.
    """
    if _kind_of(path) == "other":
        raise _not_a_journal(path)
    for ending in ("", "-wal", "-shm", "-journal"):
        Path(f"{path}{ending}").unlink(missing_ok=True)


def _connect(path: Path) -> sqlite3.Connection:
    if _kind_of(path) == "other":
        raise _not_a_journal(path)
    with _failures_named(path):
        connection = sqlite3.connect(path, isolation_level=None, timeout=0)
        try:
            _prepare(path, connection)
        except BaseException:
            connection.close()
            raise
    return connection


def _prepare(path: Path, connection: sqlite3.Connection) -> None:
    # Nobody else opens it, by the lock of whoever called. So no memory is shared with others, which
    # disks on a network can't do.
    connection.execute("PRAGMA locking_mode = EXCLUSIVE")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA trusted_schema = OFF")  # it may be somebody else's
    [application] = connection.execute("PRAGMA application_id").fetchone()
    [tables] = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    [version] = connection.execute("PRAGMA user_version").fetchone()
    if application != APPLICATION and (application or tables):
        raise _not_a_journal(path)
    if version > SCHEMA_VERSION:
        raise NewerSchemaError(
            f"the journal {path} has version {version}; this program knows {SCHEMA_VERSION}"
        )
    mode = "DELETE" if is_network(path.parent) else "WAL"
    if not tables:
        # One transaction makes all of it, so whatever is killed leaves a journal or an empty file.
        connection.executescript(
            f"PRAGMA journal_mode = DELETE; BEGIN; PRAGMA application_id = {APPLICATION}; "
            f"PRAGMA user_version = {SCHEMA_VERSION}; {_SCHEMA} COMMIT;"
        )
    connection.execute(f"PRAGMA journal_mode = {mode}")


def _kind_of(path: Path) -> str:
    """What is at a journal's place: ``nothing``, ``database``, or ``other``."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            return "other"
        with path.open("rb") as file:
            head = file.read(16)
    except FileNotFoundError:
        return "nothing"
    return "database" if head in (b"", b"SQLite format 3\0") else "other"


def _not_a_journal(path: Path) -> NotAJournalError:
    return NotAJournalError(f"{path} is no journal of `lora-deploy classify`")


@contextlib.contextmanager
def _failures_named(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # the rest says which call it was
        if code == sqlite3.SQLITE_FULL:
            raise DiskFullError(f"the disk is full, and the journal {path} can't grow") from error
        if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
            raise JournalTornError(f"the journal {path} is damaged ({error})") from error
        if code in (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY):
            raise JournalDiskError(f"the journal {path} can't be written ({error})") from error
        if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            raise BatchBusyError(f"another program has the journal {path} open") from error
        raise


def _input(
    position: int, item: Item, known_by: str
) -> tuple[int, bytes, bytes, float | None, float | None, str]:
    stretch = item.footage.stretch
    start = None if stretch is None else stretch.start_seconds
    end = None if stretch is None else stretch.end_seconds
    return position, _bytes(item.path), _bytes(str(item.footage.path)), start, end, known_by


def _bytes(text: str) -> bytes:
    """A path as bytes, for names that are no UTF-8."""
    return text.encode("utf-8", "surrogatepass")


def _text(path: bytes) -> str:
    return path.decode("utf-8", "surrogatepass")


def _stretch(start: float | None, end: float | None) -> Stretch | None:
    return None if start is None else Stretch(start, end)
