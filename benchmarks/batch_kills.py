"""Whether `classify` survives being killed: byte for byte the rows of a run that nobody disturbed.

    python benchmarks/batch_kills.py --model BUNDLE --media MEDIA --clips 2000 --kills 20

The clips (`batch_corpus.py`) are classified once in peace. Then the same command is killed (SIGKILL)
and given again, as often as it takes; when it ends by itself its rows are compared, and it begins
anew elsewhere until all kills are done. A kill comes at a moment drawn from all that is left of the
run, the start of the interpreter included. Some wait until the journal or an output appears, or for
one of the journal's commits, since few drawn moments would hit these.
Each kill is printed with what was known at that moment. Exit code 1: rows differ, or are not one a
clip, or a decoding process outlived its parent.
"""

import hashlib
import json
import os
import random
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import click
from batch_corpus import LIST, make_corpus, paths_of

OUTPUTS = ("rows.jsonl", "rows.csv", "rows.parquet")
JOURNAL = f"{OUTPUTS[0]}.journal"

Moment = Literal["anywhere", "at the journal", "at a commit", "at the outputs"]

PARTS: dict[Moment, float] = {"at the journal": 0.1, "at a commit": 0.2, "at the outputs": 0.2}
"""Of the kills; the others come anywhere."""

MOST_CHANGES: dict[Moment, int] = {"at the journal": 1, "at a commit": 8, "at the outputs": 4}
"""Until a kill comes: commits, or outputs begun and finished; the journal appears but once."""

MOST_SECONDS_BEHIND = 0.05
"""From what a kill waited for to the kill."""

POLL_SECONDS = 0.001
SURVIVAL_SECONDS = 5.0
"""A decoding process that is there so long after its parent's end has outlived it."""

Process = subprocess.Popen[bytes]


@dataclass(frozen=True)
class State:
    """What a killed run left."""

    rows: int | None = None
    """In the journal; None: there is no journal, or an empty one."""
    clips: int = 0
    """In the journal."""
    outputs: int = 0
    """Whole ones."""
    parts: int = 0
    """Outputs that were being written."""

    @property
    def name(self) -> str:
        """Of the stage that it was in."""
        if self.rows is None:
            return "no journal"
        if self.outputs or self.parts:
            return "outputs begun"
        if not self.rows:
            return "no rows"
        return "all rows, no outputs" if self.rows == self.clips else "some rows"

    def __str__(self) -> str:
        """In words."""
        rows = "-" if self.rows is None else self.rows
        return (
            f"{rows:>6} of {self.clips:>6} rows known, {self.outputs} outputs whole, "
            f"{self.parts} begun: {self.name}"
        )


@dataclass
class Trial:
    """One command, its outputs in peace, and what kills did to it."""

    command: Sequence[str | Path]
    """Without its outputs."""
    work: Path
    chance: random.Random
    start_seconds: float = 0.0
    """What even one clip takes."""
    whole_seconds: float = 0.0
    code: int = 0
    """Exit code in peace."""
    expected: dict[str, str] = field(default_factory=dict)
    """Hashes of the outputs in peace."""
    survivors: int = 0
    """Decoding processes that outlived their parents."""

    def start(self, place: Path) -> Process:
        """Give the command, with its outputs in ``place``."""
        place.mkdir(exist_ok=True)
        outs = [word for name in OUTPUTS for word in ("--out", str(place / name))]
        with (place / "log.txt").open("ab") as log:
            return subprocess.Popen(
                [*self.command, *outs], stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    def in_peace(self) -> Path:
        """Run it once; where its outputs are."""
        place = self.work / "in-peace"
        started = time.monotonic()
        self.code = self.start(place).wait()
        self.whole_seconds = time.monotonic() - started
        self.expected = hashes(place)
        missing = set(OUTPUTS) - set(self.expected)
        if missing or self.code not in (0, 1):
            raise click.ClickException((place / "log.txt").read_text(errors="replace"))
        return place

    def under_kills(self, kills: int) -> tuple[list[State], bool]:
        """Kill it so often; what each kill hit, and whether all that ended came to the same rows."""
        moments = drawn(kills, self.chance)
        states: list[State] = []
        all_alike, runs = True, 0
        while moments or not runs:
            runs += 1
            place = self.work / f"run-{runs}"
            lives = self.one_run(place, moments, states)
            alike = [name for name in OUTPUTS if hashes(place).get(name) == self.expected[name]]
            all_alike &= len(alike) == len(OUTPUTS)
            click.echo(
                f"run {runs} ended in life {lives}: {len(alike)} of {len(OUTPUTS)} outputs are "
                f"byte for byte those in peace; left behind: {', '.join(left_over(place)) or 'nothing'}"
            )
        return states, all_alike

    def one_run(self, place: Path, moments: list[Moment], states: list[State]) -> int:
        """Give the command until it ends by itself; in which of its lives it does."""
        lives, state = 0, State()
        while True:
            lives += 1
            process = self.start(place)
            moment = next_moment(moments, lives) if moments else None
            if moment is None or not self.kills(process, place, moment, state):
                if process.wait() != self.code:
                    raise click.ClickException((place / "log.txt").read_text(errors="replace"))
                if moment is not None:  # it had ended before
                    moments.append("anywhere")
                return lives
            state = left_in(place)
            states.append(state)
            click.echo(f"kill {len(states):>3}, life {lives}, {moment:<14}: {state}")

    def kills(self, process: Process, place: Path, moment: Moment, state: State) -> bool:
        """Kill a life at its moment; False where it ended before."""
        if moment == "anywhere":
            known = (state.rows or 0) / state.clips if state.clips else 0.0
            left_seconds = self.whole_seconds - known * (self.whole_seconds - self.start_seconds)
            wait_seconds = self.chance.uniform(0, left_seconds)
        else:
            changes = self.chance.randint(1, MOST_CHANGES[moment])
            if not has_come(process, lambda: SIGNS[moment](place), changes):
                return False
            wait_seconds = self.chance.uniform(0, MOST_SECONDS_BEHIND)
        try:
            process.wait(wait_seconds)
        except subprocess.TimeoutExpired:
            children = children_of(process.pid)
            process.kill()
            process.wait()
            self.survivors += outlived(children)
            return True
        return False


def drawn(kills: int, chance: random.Random) -> list[Moment]:
    """The moments of all kills."""
    moments: list[Moment] = [
        moment for moment, part in PARTS.items() for _ in range(round(kills * part))
    ]
    moments += ["anywhere"] * (kills - len(moments))
    chance.shuffle(moments)
    return moments


def next_moment(moments: list[Moment], lives: int) -> Moment | None:
    """Take the next moment; a journal appears in the first life of a run alone, so each waits for one."""
    fit = [moment for moment in moments if (moment == "at the journal") == (lives == 1)]
    if lives == 1 and not fit:
        fit = moments
    if not fit:
        return None
    moments.remove(fit[0])
    return fit[0]


def has_come(process: Process, sign: Callable[[], object], changes: int) -> bool:
    """Wait until a sign has changed so often; False where the process ended before."""
    before = sign()
    while changes:
        if process.poll() is not None:
            return False
        time.sleep(POLL_SECONDS)
        now = sign()
        changes -= now != before
        before = now
    return True


def has_journal(place: Path) -> bool:
    """Whether there is a journal, be it an empty file."""
    return (place / JOURNAL).exists()


def journal_sizes(place: Path) -> dict[str, tuple[int, int]]:
    """Size and time of each file of the journal; another with each commit."""
    return {path.name: (status.st_size, status.st_mtime_ns) for path, status in stats_of(place)}


def stats_of(place: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """Of the files of a journal, which may vanish meanwhile."""
    for path in place.glob(f"{JOURNAL}*"):
        with suppress(FileNotFoundError):
            yield path, path.stat()


def outputs_begun(place: Path) -> list[str]:
    """Outputs, and parts of them that are being written."""
    return sorted(
        name
        for name in (path.name for path in place.iterdir())
        if name in OUTPUTS or (name.startswith(".rows.") and name.endswith(".partial"))
    )


SIGNS: dict[Moment, Callable[[Path], object]] = {
    "at the journal": has_journal, "at a commit": journal_sizes, "at the outputs": outputs_begun,
}  # fmt: skip
"""What changes when a moment has come."""


def left_in(place: Path) -> State:
    """What a killed run left; read from a copy, as reading a journal mends it."""
    begun = outputs_begun(place)
    outputs = len(set(OUTPUTS) & set(begun))
    with tempfile.TemporaryDirectory() as scratch:
        for path in place.glob(f"{JOURNAL}*"):
            shutil.copy(path, scratch)
        with closing(sqlite3.connect(Path(scratch) / JOURNAL)) as journal:
            try:
                [rows] = journal.execute("SELECT count(*) FROM answers").fetchone()
                [clips] = journal.execute("SELECT count(DISTINCT known_by) FROM inputs").fetchone()
            except sqlite3.OperationalError:
                return State()
    return State(rows, clips, outputs, len(begun) - outputs)


def left_over(place: Path) -> list[str]:
    """What a run leaves beside its outputs, its journal and this script's log."""
    known = (*OUTPUTS, JOURNAL, "log.txt")
    return sorted(path.name for path in place.iterdir() if path.name not in known)


def hashes(place: Path) -> dict[str, str]:
    """SHA-256 of each output that is there."""
    found = [name for name in OUTPUTS if (place / name).exists()]
    return {name: hashlib.sha256((place / name).read_bytes()).hexdigest() for name in found}


def children_of(pid: int) -> list[int]:
    """Processes that a process has started."""
    try:
        lists = [*Path(f"/proc/{pid}/task").glob("*/children")]
        return [int(child) for path in lists for child in path.read_text().split()]
    except OSError:
        return []


def outlived(children: Sequence[int]) -> int:
    """How many of these are still there some seconds later."""
    until = time.monotonic() + SURVIVAL_SECONDS
    while (alive := [pid for pid in children if is_worker(pid)]) and time.monotonic() < until:
        time.sleep(0.05)
    return len(alive)


def is_worker(pid: int) -> bool:
    """Whether a process runs, and is one of ours: its number may be another's by now."""
    try:
        return b"lora_deploy" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def one_row_each(out: Path, corpus: Path) -> bool:
    """Whether JSON Lines have one row for each clip of the list, in its order."""
    expected = [os.fsencode(path).decode("utf-8", "backslashreplace") for path in paths_of(corpus)]
    rows = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    kinds = Counter(row["error"]["kind"] if row["error"] else "ok" for row in rows)
    click.echo(f"{len(rows)} rows: " + ", ".join(f"{n} {kind}" for kind, n in kinds.most_common()))
    return [row["path"] for row in rows] == expected


def seconds_of_one_clip(command: Sequence[str | Path], corpus: Path, work: Path) -> float:
    """How long the command takes over one clip of the list."""
    one = corpus / "one.csv"
    path = next(path for path in paths_of(corpus) if path.isprintable())
    one.write_text(f"path\n{path}\n", encoding="utf-8")
    trial = Trial(
        [one if word == corpus / LIST else word for word in command], work, random.Random()
    )
    trial.in_peace()
    return trial.whole_seconds


@click.command(context_settings={"ignore_unknown_options": True})
@click.option("--model", type=click.Path(path_type=Path, exists=True), required=True)
@click.option("--media", type=click.Path(path_type=Path, exists=True), required=True)
@click.option("--clips", type=click.IntRange(min=2), default=2000, show_default=True)
@click.option("--kills", type=click.IntRange(min=0), default=20, show_default=True)
@click.option("--seed", default=0, show_default=True, help="Of the clips and the moments.")
@click.option("--work", type=click.Path(path_type=Path), help="Where to; a temporary folder.")
@click.argument("options", nargs=-1, type=click.UNPROCESSED)
def main(
    model: Path, media: Path, clips: int, kills: int, seed: int, work: Path | None,
    options: tuple[str, ...],
) -> None:  # fmt: skip
    """Print each kill and what it hit; further OPTIONS are those of `lora-deploy classify`."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = work or Path(scratch)
        corpus = folder / "corpus"
        make_corpus(media, corpus, clips, seed)
        command: list[str | Path] = [
            sys.executable,
            "-m",
            "lora_deploy",
            "classify",
            model,
            corpus / LIST,
            *options,
        ]
        (folder / "one").mkdir()
        trial = Trial(
            command,
            folder,
            random.Random(seed),
            seconds_of_one_clip(command, corpus, folder / "one"),
        )
        in_peace = trial.in_peace()
        click.echo(
            f"in peace: {trial.whole_seconds:.1f} s, of which one clip takes {trial.start_seconds:.1f} s"
        )
        is_sound = one_row_each(in_peace / OUTPUTS[0], corpus)
        states, all_alike = trial.under_kills(kills)
    hit = Counter(state.name for state in states)
    click.echo(f"{len(states)} kills hit: " + ", ".join(f"{name} {n}" for name, n in hit.items()))
    click.echo(f"decoding processes that outlived a kill: {trial.survivors}")
    sys.exit(0 if is_sound and all_alike and not trial.survivors else 1)


if __name__ == "__main__":
    main()
