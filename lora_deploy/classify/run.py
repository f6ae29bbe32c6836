"""A run of `classify` that nobody has to watch: inputs, journal, answers, outputs.

Whatever ends it, the same run goes on where it stopped; when all clips are answered, the outputs
are written from the journal, in the order of the inputs.
"""

import contextlib
import json
import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from lora_deploy.classify import identity, journal, terms
from lora_deploy.classify.inputs import Item
from lora_deploy.classify.journal import Journal
from lora_deploy.classify.meter import Meter
from lora_deploy.classify.parts import InputList, Shard, find_parts, write_part
from lora_deploy.classify.places import Batch, check_outs, journal_place, only_here
from lora_deploy.classify.rows import Row, write_rows
from lora_deploy.classify.stream import RowOptions, answers
from lora_deploy.classify.terms import Model
from lora_deploy.clips.pool import DecodePool, shared
from lora_deploy.errors import (
    BatchChangedError,
    DiskFullError,
    JournalDiskError,
    JournalTornError,
)
from lora_deploy.progress import Progress, silent
from lora_deploy.runtime.base import Recogniser

logger = logging.getLogger(__name__)

_RETRYING = "retrying"
"""Of `Journal.about`: errors were forgotten, and the run has not been finished since."""


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
        line = (
            f"{', '.join(map(str, self.outs))}: {self.rows:,} rows, {self.errors:,} of them errors"
        )
        if self.parts:
            return f"{line}; joined from {self.parts} parts"
        if not self.known_before:
            return line
        if self.known_before == self.rows:
            return f"{line}; all were known from before, so no clip was asked again"
        return f"{line}; {self.known_before:,} were known from before"


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
    check_outs(batch)
    place = journal_place(batch)
    with contextlib.ExitStack() as stack:
        for path in dict.fromkeys([*batch.files, place]):
            stack.enter_context(only_here(path))
        opened = stack.enter_context(_journal(place, batch.restart))
        work, listed = _Work(batch, model, options, pool, opened), InputList()
        with _kept(batch, opened, listed):
            work.check_settings()
            opened.write_inputs(work.identified(listed.passing(items())))
            listed.is_whole = True
            work.forget_errors()
            before = opened.known()
            work.answer_all(meter, progress)
            after = opened.known()
            if after.answered < after.clips:
                raise RuntimeError(f"only {after.answered} of {after.clips} clips were answered")
            has_times = timed()
            if batch.shard is None:
                for out in batch.outs:
                    write_rows(opened.rows(), out, timed=has_times)
            else:
                work.write_part(batch.shard, listed, has_times)
            opened.write_about({_RETRYING: None})
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
    check_outs(Batch(outs))
    with contextlib.ExitStack() as stack:
        for path in outs:
            stack.enter_context(only_here(path))
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
        asked = terms.asked_for(self.model, self.options, self.pool, self.batch.by_content)
        asked["shard"] = str(self.batch.shard or "none")
        if self.journal.is_empty():  # nothing is known that could be mixed
            self.journal.write_about(
                {
                    "settings": json.dumps(asked),
                    "backend asked": self.model.backend,
                    "surroundings": json.dumps(terms.surroundings()),
                }
            )
            return
        self._refuse_differences(asked)
        before = json.loads(self.journal.about()["surroundings"])
        changed = terms.differences(before, terms.surroundings())
        if changed:
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
        is_told = (
            self.model.digest() and self.model.backend == self.journal.about()["backend asked"]
        )
        if not unknown and is_told:
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
                count = f"{known.answered:,} of {known.clips:,} rows are known and"
                what = f"{count} kept" if listed.is_whole else "what is known is kept"
                same = "the same command" + (" without --restart" if batch.restart else "")
                stop.add_note(f"{what} in {opened.path}; {same} goes on")
        raise
