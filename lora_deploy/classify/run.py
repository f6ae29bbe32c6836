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
from lora_deploy.classify.rows import check_ending, write_rows
from lora_deploy.classify.stream import RowOptions, answers
from lora_deploy.classify.terms import Model
from lora_deploy.clips.pool import DecodePool, shared
from lora_deploy.errors import BatchBusyError, BatchChangedError, JournalTornError, OutputPlaceError
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

    @property
    def journal_path(self) -> Path:
        """Where the journal is."""
        return self.journal or self.outs[0].with_name(f"{self.outs[0].name}.journal")


@dataclass(frozen=True)
class Finished:
    """What a run came to."""

    outs: tuple[Path, ...]
    rows: int
    errors: int
    """Of the rows."""
    known_before: int
    """Rows that were known when it began."""

    @property
    def sentence(self) -> str:
        """In one line."""
        line = f"{', '.join(map(str, self.outs))}: {self.rows} rows, {self.errors} of them errors"
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
    _check_outs(batch.outs)
    with contextlib.ExitStack() as stack:
        for path in dict.fromkeys([*batch.outs, batch.journal_path]):
            busy = BatchBusyError(f"another run is at work on {path}")
            stack.enter_context(held(path.with_name(f".{path.name}.lock"), busy))
        opened = stack.enter_context(_journal(batch))
        work = _Work(batch, model, options, pool, opened)
        work.check_settings()
        opened.write_inputs(work.identified(items()))
        work.forget_errors()
        before = opened.known()
        try:
            work.answer_all(meter, progress)
        except (KeyboardInterrupt, SystemExit) as stop:
            with contextlib.suppress(
                Exception
            ):  # what was added since the last sync is asked again
                opened.sync()
                stop.add_note(_kept(batch, opened))
            raise
        for out in batch.outs:
            write_rows(opened.rows(), out, timed=timed())
        opened.write_about({_RETRYING: None})
        after = opened.known()
    return Finished(batch.outs, after.clips, after.errors, before.answered)


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

    def identified(self, items: Iterable[Item]) -> Iterator[tuple[int, Item, str]]:
        """Each clip with its position, and what it is known by."""
        for position, item in enumerate(items):
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
def _journal(batch: Batch) -> Iterator[Journal]:
    path = batch.journal_path
    with contextlib.ExitStack() as stack:
        try:
            opened = stack.enter_context(journal.opened(path))
            if batch.restart:
                opened.forget()
        except JournalTornError:
            if not batch.restart:
                raise
            stack.close()
            journal.remove(path)
            opened = stack.enter_context(journal.opened(path))
        yield opened


def _check_outs(outs: tuple[Path, ...]) -> None:
    if not outs:
        raise OutputPlaceError("no output is named")
    for out in outs:
        check_ending(out)
    if len({out.resolve() for out in outs}) < len(outs):
        raise OutputPlaceError("an output is named twice")


def _kept(batch: Batch, opened: Journal) -> str:
    known = opened.known()
    same = "the same command without --restart" if batch.restart else "the same command"
    return f"{known.answered} of {known.clips} rows are known and kept in {opened.path}; {same} goes on"
