"""A run of `classify` that nobody has to watch: inputs, journal, answers, outputs.

Whatever ends it, the same run goes on where it stopped; when all clips are answered, the outputs
are written from the journal, in the order of the inputs.
"""

import contextlib
import glob
import hashlib
import json
import logging
import os
import stat
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from lora_deploy.classify import identity, journal, terms
from lora_deploy.classify.inputs import Item
from lora_deploy.classify.journal import Journal
from lora_deploy.classify.meter import Meter
from lora_deploy.classify.parts import InputList, Shard, find_parts, write_part
from lora_deploy.classify.rows import Row, check_ending, write_rows
from lora_deploy.classify.stream import RowOptions, answers
from lora_deploy.classify.terms import Model
from lora_deploy.clips.pool import DecodePool, shared
from lora_deploy.disk import is_network
from lora_deploy.errors import (
    BatchBusyError,
    BatchChangedError,
    DiskFullError,
    JournalDiskError,
    JournalTornError,
    OutputPlaceError,
)
from lora_deploy.lock import held
from lora_deploy.progress import Progress, silent
from lora_deploy.runtime.base import Recogniser

logger = logging.getLogger(__name__)

_RETRYING = "retrying"
"""Of `Journal.about`: errors were forgotten, and the run has not been finished since."""


@dataclass(frozen=True)
class Batch:
    """Where rows are written to, and what becomes of what is known already."""

    outs: tuple[Path, ...]
    """One or more, each in the format of its ending."""
    journal: Path | None = None
    """By default beside the first output, with ``.journal`` behind its name."""
    restart: bool = False
    """Forget what is known."""
    retry_errors: bool = False
    """Ask clips with error rows once more."""
    by_content: bool = False
    """Know files by what they hold, and not by path, size and time."""
    shard: Shard | None = None
    """Take a part of the clips alone; its rows are written beside the output, to be joined."""

    @property
    def files(self) -> tuple[Path, ...]:
        """What is written in the end."""
        return self.outs if self.shard is None else (self.shard.part_of(self.outs[0]),)


@dataclass(frozen=True)
class Finished:
    """What a run came to."""

    outs: tuple[Path, ...]
    rows: int
    errors: int
    """Of the rows."""
    known_before: int
    """Rows that were known when it began."""
    parts: int = 0
    """That were joined."""

    @property
    def sentence(self) -> str:
        """In one line."""
        line = f"{', '.join(map(str, self.outs))}: {self.rows} rows, {self.errors} of them errors"
        if self.parts:
            return f"{line}; joined from {self.parts} parts"
        if not self.known_before:
            return line
        if self.known_before == self.rows:
            return f"{line}; all were known from before, so no clip was asked again"
        return f"{line}; {self.known_before} were known from before"


def run(
    batch: Batch,
    model: Model,
    items: Callable[[], Iterable[Item]],
    *,
    options: RowOptions | None = None,
    timed: Callable[[], bool] = lambda: False,
    pool: DecodePool | None = None,
    meter: Meter | None = None,
    progress: Progress = silent,
) -> Finished:
    """Classify clips, each once, and write their rows; or go on where the same run was cut off.

    Args:
        batch: Where to.
        model: Who answers; it is opened only where a clip is to be asked.
        items: Gives the clips, in the order of the rows.
        options: What is said of each.
        timed: Asked when ``items`` are at their end: whether the rows have times.
        pool: Who decodes; by default the shared one.
        meter: Told what the time is spent on.
        progress: Told of each clip that is answered.

    Raises:
        OutputPlaceError: Rows can't be written there.
        BatchBusyError: Another run is at work on the same outputs or journal.
        BatchChangedError: The journal's rows are of another model or other settings.
        NotAJournalError: Something else is at the journal's place.
        DiskFullError: What is known so far is kept.
    """
    options, pool = options or RowOptions(), pool or shared()
    _check_outs(batch)
    place = journal_place(batch)
    with contextlib.ExitStack() as stack:
        for path in dict.fromkeys([*batch.files, place]):
            stack.enter_context(_only_here(path))
        opened = stack.enter_context(_journal(place, batch.restart))
        work, listed = _Work(batch, model, options, pool, opened), InputList()
        with _kept(batch, opened, listed):
            work.check_settings()
            opened.write_inputs(work.identified(listed.passing(items())))
            listed.is_whole = True
            work.forget_errors()
            before = opened.known()
            work.answer_all(meter, progress)
            if batch.shard is None:
                for out in batch.outs:
                    write_rows(opened.rows(), out, timed=timed())
            else:
                work.write_part(batch.shard, listed, timed())
            opened.write_about({_RETRYING: None})
            after = opened.known()
    return Finished(batch.files, after.clips, after.errors, before.answered)


def join(outs: tuple[Path, ...]) -> Finished:
    """Write the rows of all shards of a run, whose parts lie beside the first output.

    Raises:
        OutputPlaceError: Rows can't be written there.
        PartMissingError: There are no parts, or not all.
        PartTornError: One is cut short or changed.
        PartsDifferError: They are not of one run.
        BatchBusyError: Another run is at work on an output.
    """
    _check_outs(Batch(outs))
    with contextlib.ExitStack() as stack:
        for path in outs:
            stack.enter_context(_only_here(path))
        parts = find_parts(outs[0])
        for out in outs:
            counted = _Counted()
            write_rows(counted.passing(parts.rows()), out, timed=parts.timed)
    return Finished(outs, parts.clips, counted.errors, 0, parts=len(parts.paths))


class _Counted:
    """Counts rows with errors while they go by."""

    def __init__(self) -> None:
        self.errors = 0

    def passing(self, rows: Iterable[Row]) -> Iterator[Row]:
        for row in rows:
            self.errors += row.status == "error"
            yield row


def journal_place(batch: Batch) -> Path:
    """Where the journal of a run is.

    Beside the output; of a shard whose output many computers see, on a disk of this one alone.
    """
    if batch.journal is not None:
        return batch.journal
    file = batch.files[0]
    beside = file.with_name(f"{file.name}.journal")
    if batch.shard is None or not is_network(file.parent):
        return beside
    folder = Path(tempfile.gettempdir()) / f"lora-deploy-{os.getuid()}"
    if is_network(folder.parent) or not _is_ours(folder):
        return beside
    digest = hashlib.blake2b(os.fsencode(file.resolve()), digest_size=6).hexdigest()
    place = folder / f"{digest}-{beside.name}"
    logger.warning(
        "%s is on a network disk, so the journal of shard %s is %s: only this computer can go on "
        "with it; --journal puts it elsewhere", file.parent, batch.shard, place,
    )  # fmt: skip
    return place


def _is_ours(folder: Path) -> bool:
    """Make a folder where others may make some too, and see that this one is nobody else's."""
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        status = folder.lstat()
    except OSError:
        return False
    return (
        stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid() and not status.st_mode & 0o022
    )


@contextlib.contextmanager
def _only_here(path: Path) -> Iterator[None]:
    """Hold a file against other runs, and take away what one that was killed left beside it."""
    busy = BatchBusyError(f"another run is at work on {path}")
    with held(path.with_name(f".{path.name}.lock"), busy):
        for left in path.parent.glob(f".{glob.escape(path.name)}.*.partial"):
            left.unlink(missing_ok=True)
        yield


@dataclass(frozen=True)
class _Work:
    """A run with its journal open."""

    batch: Batch
    model: Model
    options: RowOptions
    pool: DecodePool
    journal: Journal

    def check_settings(self) -> None:
        """Refuse to mix rows of two runs; and say where their last digits may differ."""
        about = self.journal.about()
        asked = terms.asked_for(self.model, self.options, self.pool, self.batch.by_content)
        asked["shard"] = str(self.batch.shard or "none")
        self._refuse_differences(asked)
        if not about:
            self.journal.write_about(
                {
                    "settings": json.dumps(asked),
                    "backend asked": self.model.backend,
                    "surroundings": json.dumps(terms.surroundings()),
                }
            )
            return
        changed = terms.differences(json.loads(about["surroundings"]), terms.surroundings())
        if changed and self.journal.known().answered:
            logger.warning(
                "%s: scores that are known already may differ in their last digits from what would "
                "be answered now; --restart asks all again", ", ".join(changed),
            )  # fmt: skip

    def identified(self, items: Iterable[tuple[int, Item]]) -> Iterator[tuple[int, Item, str]]:
        """Each clip that this run takes, with its position, and what it is known by."""
        for position, item in items:
            if self.batch.shard is not None and not self.batch.shard.takes(position):
                continue
            yield position, item, identity.known_by(item.footage, self._state(item.footage.path))

    def forget_errors(self) -> None:
        """Where that was asked for, and was not begun already by a run that was cut off."""
        if self.batch.retry_errors and _RETRYING not in self.journal.about():
            self.journal.forget_errors({_RETRYING: "yes"})

    def answer_all(self, meter: Meter | None, progress: Progress) -> None:
        """Ask the model for what is not known."""
        unknown = self.journal.unknown_count()
        if not unknown and self.model.backend == self.journal.about()["backend asked"]:
            return  # nothing that only an open model could tell
        recogniser = self._open()
        with progress("classifying", unknown) as advance:
            found = answers(
                recogniser,
                self.journal.unknown(),
                options=self.options,
                pool=self.pool,
                meter=meter,
            )
            for position, row in found:
                self.journal.add(position, row)
                advance()
        self.journal.sync()

    def write_part(self, shard: Shard, listed: InputList, timed: bool) -> None:
        """Write what all shards are joined from."""
        about = self.journal.about()
        settings = json.loads(about["settings"])
        settings.pop("shard")
        write_part(
            self.journal.rows, shard.part_of(self.batch.outs[0]), shard, listed, timed=timed,
            settings=settings, surroundings=json.loads(about["surroundings"]),
        )  # fmt: skip

    def _open(self) -> Recogniser:
        recogniser = self.model.open()
        answering = terms.answered_by(recogniser)
        self._refuse_differences(answering)
        settings = json.loads(self.journal.about()["settings"])
        self.journal.write_about({"settings": json.dumps({**settings, **answering})})
        return recogniser

    def _refuse_differences(self, now: dict[str, str]) -> None:
        changed = terms.differences(json.loads(self.journal.about().get("settings", "{}")), now)
        if changed:
            raise BatchChangedError(
                f"the rows in {self.journal.path} are of another run: {', '.join(changed)}"
            )

    def _state(self, path: Path) -> str:
        if self.batch.by_content and (inode := identity.inode_of(path)):
            content = self.journal.content(inode)
            if content is None and (content := identity.content_of(path)):
                self.journal.write_content(inode, content)
            if content:
                return content
        return identity.state_of(path)


@contextlib.contextmanager
def _journal(path: Path, restart: bool) -> Iterator[Journal]:
    with contextlib.ExitStack() as stack:
        try:
            opened = stack.enter_context(journal.opened(path))
            if restart:
                opened.forget()
        except JournalTornError:
            if not restart:
                raise
            stack.close()
            journal.remove(path)
            opened = stack.enter_context(journal.opened(path))
        yield opened


def _check_outs(batch: Batch) -> None:
    if not batch.outs:
        raise OutputPlaceError("no output is named")
    for out in batch.outs:
        check_ending(out)
    if len({out.resolve() for out in batch.outs}) < len(batch.outs):
        raise OutputPlaceError("an output is named twice")
    if batch.shard is not None and len(batch.outs) > 1:
        raise OutputPlaceError(
            f"a shard has one output, and {len(batch.outs)} are named; name all with --join"
        )


@contextlib.contextmanager
def _kept(batch: Batch, opened: Journal, listed: InputList) -> Iterator[None]:
    """Whatever ends the run, keep what is known; an interruption is given a note that says so."""
    try:
        yield
    except (DiskFullError, JournalDiskError, JournalTornError):
        raise  # the disk took all that it takes
    except BaseException as stop:
        with contextlib.suppress(Exception):  # what was added since the last sync is asked again
            opened.sync()
            if isinstance(stop, KeyboardInterrupt | SystemExit):
                known = opened.known()
                count = (
                    f"{known.answered} of {known.clips} rows are" if listed.is_whole else "what is"
                )
                same = "the same command" + (" without --restart" if batch.restart else "")
                stop.add_note(f"{count} known and kept in {opened.path}; {same} goes on")
        raise
