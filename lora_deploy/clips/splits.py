"""Divide clips into train, val and test: seeded, stratified by label, groups and parts of files together."""

import random
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from lora_deploy.clips.rows import Row, Split, together


@dataclass(frozen=True)
class _Unit:
    """Rows that stay together: a group, all parts of a file, or one clip."""

    rows: tuple[int, ...]
    labels: frozenset[str]
    main_label: str

    @property
    def size(self) -> int:
        return len(self.rows)


def assign_splits(
    rows: Sequence[Row], *, val_fraction: float, test_fraction: float, seed: int
) -> list[Split]:
    """Give every row a split: its own, that of its group or file, or a drawn one.

    Args:
        rows: All clips of a data set.
        val_fraction: Part of the rows to draw as ``val``, if no row has that split.
        test_fraction: The same for ``test``.
        seed: Of the draw.

    Returns:
        One split a row, in their order.
    """
    # 1. A clip without a split follows those that it belongs to.
    units = together(rows)
    split_of_unit = {
        unit: row.split for unit, row in zip(units, rows, strict=True) if row.split is not None
    }
    rows = [
        replace(row, split=row.split or split_of_unit.get(unit))
        for unit, row in zip(units, rows, strict=True)
    ]
    # 2. The rest is divided among the splits that nobody named, and train.
    named = {row.split for row in rows if row.split}
    open_rows = [index for index, row in enumerate(rows) if row.split is None]
    fractions: dict[Split, float] = {}
    if open_rows:
        fractions = {"val": val_fraction, "test": test_fraction}
        fractions = {split: part for split, part in fractions.items() if split not in named}
    elif "val" not in named:
        open_rows = [index for index, row in enumerate(rows) if row.split == "train"]
        fractions = {"val": val_fraction}
    drawn = _draw(
        _units(rows, units, open_rows),
        {split: part for split, part in fractions.items() if part > 0},
        seed,
    )
    return [drawn.get(index) or row.split or "train" for index, row in enumerate(rows)]


def _units(rows: Sequence[Row], numbers: Sequence[int], indexes: Iterable[int]) -> list[_Unit]:
    members_of: dict[int, list[int]] = defaultdict(list)
    for index in indexes:
        members_of[numbers[index]].append(index)
    units = []
    for members in members_of.values():
        labels = [rows[index].label for index in members]
        main_label = min(labels, key=lambda label: (-labels.count(label), label))
        units.append(_Unit(tuple(members), frozenset(labels), main_label))
    return units


def _draw(units: Sequence[_Unit], fractions: Mapping[Split, float], seed: int) -> dict[int, Split]:
    """Give each row a split, label by label so that each split shows all classes alike."""
    by_label: dict[str, list[_Unit]] = defaultdict(list)
    for unit in units:
        by_label[unit.main_label].append(unit)
    split_of: dict[_Unit, Split] = {}
    for label, pool in sorted(by_label.items()):
        random.Random(f"{seed}/{label}").shuffle(pool)  # noqa: S311 (no secret)
        wanted = sum(unit.size for unit in pool)
        for position, (split, fraction) in enumerate(fractions.items()):
            later_splits = len(fractions) - position  # train among them
            at_most = len(pool) - later_splits
            if split == "val" and len(pool) == 2:
                at_most = 1  # without validation clips there is no training at all
            taken = _take(pool, fraction * wanted, at_most=at_most)
            split_of |= dict.fromkeys(taken, split)
            pool = [unit for unit in pool if unit not in split_of]
        split_of |= dict.fromkeys(pool, "train")
    _bring_all_labels_to_train(split_of)
    return {row: split for unit, split in split_of.items() for row in unit.rows}


def _take(pool: Sequence[_Unit], clips_wanted: float, *, at_most: int) -> list[_Unit]:
    """Units from ``pool`` in its order, as near to ``clips_wanted`` clips as can be, one at least."""
    taken: list[_Unit] = []
    count = 0
    for unit in pool:
        if len(taken) < at_most and abs(count + unit.size - clips_wanted) < abs(
            count - clips_wanted
        ):
            taken.append(unit)
            count += unit.size
    if not taken and at_most > 0:
        taken = [min(pool, key=lambda unit: unit.size)]
    return taken


def _bring_all_labels_to_train(split_of: dict[_Unit, Split]) -> None:
    """Groups of several labels can leave one without a train clip: move its smallest unit."""
    for label in sorted({label for unit in split_of for label in unit.labels}):
        showing = [unit for unit in split_of if label in unit.labels]
        if all(split_of[unit] != "train" for unit in showing):
            split_of[min(showing, key=lambda unit: unit.size)] = "train"
