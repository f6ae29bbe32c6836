"""How often a model is right on labelled clips, of one set or many, with the uncertainty of each figure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from os.path import realpath
from pathlib import Path
from typing import Any, Literal

from lora_deploy.artifact import run
from lora_deploy.clips.dataset import LabelledClip, read_split
from lora_deploy.clips.pool import DecodePool
from lora_deploy.clips.views import ONE_VIEW, Views, parse_views
from lora_deploy.config import DataFormat
from lora_deploy.errors import (
    ClipError,
    DataNotNamedError,
    NothingDecodedError,
    SplitsNotNamedError,
    UnknownLabelError,
)
from lora_deploy.evaluate.answers import Answer, ask
from lora_deploy.evaluate.evaluation import ClassFigures, Evaluation, tally
from lora_deploy.evaluate.intervals import Bootstrap, wilson_interval
from lora_deploy.progress import Progress, silent
from lora_deploy.runtime.base import Recogniser

__all__ = [
    "Bootstrap", "ClassFigures", "Evaluation", "Measured", "Split", "Views", "choose_data",
    "evaluate", "evaluate_clips", "evaluate_sets", "judge", "learned_from", "parse_views", "tally",
    "wilson_interval",
]  # fmt: skip

Split = Literal["train", "val", "test", "all"]


@dataclass(frozen=True)
class Measured:
    """A model on its data, and on any number of sets with a name."""

    main: Evaluation
    sets: Mapping[str, Evaluation]

    @property
    def left_out(self) -> tuple[str, ...]:
        """Clips that could not be decoded, of all sets."""
        return sum((one.left_out for one in (self.main, *self.sets.values())), ())

    def as_dict(self) -> dict[str, Any]:
        """Plain types, for ``--json``: the keys of the main set, and the same of each other one."""
        return {
            **self.main.as_dict(),
            "sets": {name: one.as_dict() for name, one in self.sets.items()},
        }


def choose_data(model: Path, data: Path | None) -> Path:
    """The labelled clips to judge a model on: those that were named, or a RUN's own.

    Raises:
        DataNotNamedError: Nothing was named, and the model is no RUN.
    """
    if data is not None:
        return data
    if run.is_run(model):
        return model / run.SPLITS
    raise DataNotNamedError(f"{model} is no RUN with clips of its own")


def learned_from(model: Path) -> frozenset[str] | None:
    """The files that a RUN learned from, links followed; None of another model, which can't tell."""
    splits = model / run.SPLITS
    if not run.is_run(model) or not splits.is_file():
        return None
    clips = read_split(splits, "train", must_exist=False)
    return frozenset(realpath(clip.path) for clip in clips)


def evaluate(
    recogniser: Recogniser,
    data: Path,
    *,
    split: Split = "test",
    data_format: DataFormat = "auto",
    views: Views = ONE_VIEW,
    learned: frozenset[str] | None = None,
    pool: DecodePool | None = None,
    progress: Progress = silent,
) -> Evaluation:
    """Ask a model about the labelled clips of one split, and count.

    Args:
        recogniser: The model.
        data: As `lora_deploy.clips.dataset.read_split`.
        split: Which of its clips.
        data_format: How ``data`` is laid out; it is recognised where that is not said.
        views: Whose probabilities are averaged for each clip.
        learned: Files that the model learned from; how many of them are judged on is then counted.
        pool: Decodes the clips; the shared one by default.
        progress: Told of clips as they are answered.

    Raises:
        DataError: The split has no clips.
        UnknownLabelError: It has labels that the model does not know.
        ViewsError: The views are more than can be decoded at once.
    """
    return evaluate_sets(
        recogniser, data, {}, split=split, data_format=data_format, views=views, learned=learned,
        pool=pool, progress=progress,
    ).main  # fmt: skip


def evaluate_sets(
    recogniser: Recogniser,
    data: Path,
    extra: Mapping[str, Path],
    *,
    split: Split = "test",
    data_format: DataFormat = "auto",
    views: Views = ONE_VIEW,
    learned: frozenset[str] | None = None,
    pool: DecodePool | None = None,
    progress: Progress = silent,
) -> Measured:
    """As `evaluate`, and the same for each extra set by name.

    All labels are looked at before the first clip is. An extra set that names no splits is judged
    on whole, else on the same split.

    Raises:
        LoraDeployError: As `evaluate`, of any of the sets.
    """
    clips = read_split(data, split, data_format=data_format)
    _check_labels(recogniser, clips, str(data))
    others = {}
    for name, source in extra.items():
        others[name] = _clips_of_extra(source, split)
        _check_labels(recogniser, others[name], f"the set {name} ({source})")

    def judged(clips: Sequence[LabelledClip]) -> Evaluation:
        found = evaluate_clips(recogniser, clips, views=views, pool=pool, progress=progress)
        if learned is None:
            return found
        return replace(found, learned=sum(realpath(clip.path) in learned for clip in clips))

    return Measured(judged(clips), {name: judged(one) for name, one in others.items()})


def evaluate_clips(
    recogniser: Recogniser,
    clips: Sequence[LabelledClip],
    *,
    views: Views = ONE_VIEW,
    pool: DecodePool | None = None,
    progress: Progress = silent,
) -> Evaluation:
    """Ask a model about labelled clips, and count.

    Raises:
        NothingDecodedError: None of them can be decoded.
        ViewsError: The views are more than can be decoded at once.
    """
    answers = []
    with progress("evaluating", len(clips)) as advance:
        for answer in ask(recogniser, clips, views, pool):
            answers.append(answer)
            advance()
    return replace(judge(recogniser, clips, answers), views=views)


def judge(
    recogniser: Recogniser, clips: Sequence[LabelledClip], answers: Sequence[Answer]
) -> Evaluation:
    """Count what a model said of each clip.

    Raises:
        NothingDecodedError: It said nothing of any.
    """
    index_of = {label: index for index, label in enumerate(recogniser.labels)}
    rows, ranks, groups, left_out = [], [], [], []
    unknown = 0
    for clip, answer in zip(clips, answers, strict=True):
        if isinstance(answer, ClipError):
            left_out.append(f"{clip.footage}: {answer}")
            continue
        # The order of `Recogniser.predict`: of labels as probable as each other the first one wins.
        order = (-answer).argsort(kind="stable").tolist()
        score = float(answer[order[0]])
        rows.append((str(clip.footage), clip.label, recogniser.labels[order[0]], score))
        ranks.append(1 + order.index(index_of[clip.label]))
        # Parts of one file resemble each other too.
        groups.append(clip.group or (None if clip.stretch is None else str(clip.path)))
        threshold = recogniser.unknown_threshold
        unknown += threshold is not None and score < threshold
    if not rows:
        raise NothingDecodedError(
            f"none of {len(clips)} clips could be decoded; the first: {left_out[0]}"
        )
    counted = tally(recogniser.labels, rows, left_out, ranks=ranks, groups=groups)
    return replace(counted, unknown=unknown)


def _clips_of_extra(source: Path, split: Split) -> tuple[LabelledClip, ...]:
    try:
        return read_split(source, split)
    except SplitsNotNamedError:
        return read_split(source, "all")


def _check_labels(recogniser: Recogniser, clips: Sequence[LabelledClip], source: str) -> None:
    strange = sorted({clip.label for clip in clips} - set(recogniser.labels))
    if not strange:
        return
    alike = {_bare(label): label for label in recogniser.labels}
    hints = [
        f"{label} may be its {alike[_bare(label)]}" for label in strange if _bare(label) in alike
    ]
    raise UnknownLabelError(
        f"{source} has labels that the model does not know: {', '.join(strange)}; "
        f"it knows: {', '.join(recogniser.labels)}" + (f" ({', '.join(hints)})" if hints else "")
    )


def _bare(label: str) -> str:
    """Without what people write one way and the other."""
    return "".join(sign for sign in label.casefold() if sign.isalnum())
