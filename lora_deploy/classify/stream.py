"""Videos in, rows out, each as soon as it is known; a bad file costs one row and nothing else."""

from collections.abc import Generator, Iterable
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

from lora_deploy.classify.inputs import Item
from lora_deploy.classify.meter import Meter
from lora_deploy.classify.overlap import Known, answered, in_turn
from lora_deploy.classify.rows import Row, printable
from lora_deploy.clips.clip import Footage
from lora_deploy.clips.pool import DecodePool, shared
from lora_deploy.clips.views import ONE_VIEW, Views
from lora_deploy.errors import AnswersNotFiniteError, ClipError
from lora_deploy.runtime.base import UNKNOWN, Recogniser

NO_ANSWER = "the model answers NaN or infinity to this clip; another --precision may not"


@dataclass(frozen=True)
class RowOptions:
    """What a row is made of, beside the model."""

    top_k: int = 5
    """Labels with their probabilities."""
    views: Views = ONE_VIEW
    """Whose probabilities are averaged for each clip."""


def answers(
    recogniser: Recogniser,
    items: Iterable[tuple[int, Item]],
    *,
    options: RowOptions,
    pool: DecodePool | None = None,
    meter: Meter | None = None,
) -> Generator[tuple[int, Row]]:
    """One row a clip, with the number that it came with, in the order of completion.

    So a file that hangs its decoder holds up nobody but the worker that it hangs. The bits of a row
    depend on the clip, the model, the options and the batch size alone: not on its place, nor on
    its company, on how many decode, or on who is ready first.

    Decoders, normalisation and the model work side by side, and memory does not grow with the
    number of clips: ``items`` is asked for the next one, in the thread that iterates, when there is
    room for it. While it does not answer, no row comes out.

    Args:
        recogniser: The model; its batch size is the one shape that is run.
        items: May be endless.
        options: Of all rows.
        pool: Who decodes; the shared one by default.
        meter: Told how long everybody worked and waited.

    Raises:
        ViewsError: The views are more than can be decoded at once.
        DecodersUnavailableError: No decoding process can be started on this computer.
    """
    jobs = ((one, one[1].footage) for one in items)
    outcomes = answered(
        recogniser, jobs, views=options.views, pool=pool or shared(), meter=meter or Meter()
    )
    with closing(outcomes):  # at once, whatever ends this, and not when its traceback is let go
        for (number, item), outcome in outcomes:
            yield number, row_of(recogniser, item, outcome, options)


def classify(
    recogniser: Recogniser,
    paths: Iterable[str | Footage | Item],
    *,
    top_k: int = 5,
    views: Views = ONE_VIEW,
    pool: DecodePool | None = None,
) -> Generator[Row]:
    """One row a clip, in the order of ``paths``; otherwise as `answers`.

    Rows that are known before their turn wait for it: as many as come while one file hangs.
    """
    items = enumerate(map(_item, paths))
    known = answers(recogniser, items, options=RowOptions(top_k, views), pool=pool)
    with closing(known):
        yield from in_turn(known)


def _item(one: str | Footage | Item) -> Item:
    match one:
        case Item():
            return one
        case Footage():
            return Item(str(one), one)
    return Item(one, Footage(Path(one)))


def row_of(
    recogniser: Recogniser, item: Item, outcome: Known | ClipError, options: RowOptions
) -> Row:
    """The row of a clip of which it is known what became of it."""
    stretch = item.footage.stretch
    row = Row(
        path=printable(item.path),
        start=None if stretch is None else stretch.start_seconds,
        end=None if stretch is None else stretch.end_seconds,
        status="error", label=None, score=None, top_k=(), duration_seconds=None, warning=None,
        error_kind=None, error=None, model=recogniser.digest,
    )  # fmt: skip
    if isinstance(outcome, ClipError):
        return replace(row, error_kind=outcome.kind, error=str(outcome))
    try:
        # Probabilities and not logits are averaged, as in evaluation.
        probabilities = recogniser.probabilities(outcome.logits).mean(axis=0)
    except AnswersNotFiniteError:
        return replace(row, error_kind="no_answer", error=NO_ANSWER)
    ranked, known = recogniser.ranked(probabilities, options.top_k)
    label, score = ranked[0]
    return replace(
        row,
        status="ok",
        label=label if known else UNKNOWN,
        score=score,
        top_k=ranked,
        duration_seconds=outcome.duration_seconds,
        warning=outcome.warning,
    )
