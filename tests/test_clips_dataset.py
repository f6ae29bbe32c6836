"""Folders and manifests of labelled clips, and how they are split."""

import json
import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lora_deploy.clips.dataset import ClipDataset, LabelledClip, find_videos, read_dataset
from lora_deploy.errors import (
    ClipsMissingError,
    ContradictingRowsError,
    DataError,
    EmptyClassError,
    FileInTwoSplitsError,
    FileNameError,
    FolderLayoutError,
    GroupInTwoSplitsError,
    ManifestFileError,
    ManifestRowError,
    NoSuchDataError,
    NoVideosError,
    SettingValueError,
    TooFewClassesError,
    UntrainedClassError,
)

MEDIA = Path(__file__).parents[2] / "shared" / "media"


def read(source: Path, seed: int = 0, val: float = 0.2, test: float = 0.2) -> ClipDataset:
    return read_dataset(source, val_fraction=val, test_fraction=test, seed=seed)


def make_files(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def numbered(label: str, count: int) -> list[str]:
    return [f"{label}/{index}.mp4" for index in range(count)]


def write_csv(folder: Path, text: str) -> Path:
    (folder / "clips.csv").write_text(text, encoding="utf-8")
    return folder / "clips.csv"


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def splits(dataset: ClipDataset) -> dict[str, str]:
    return {clip.path.name: clip.split for clip in dataset.clips}


# What is read


def test_a_folder_per_class_is_split_by_class(tmp_path: Path) -> None:
    dataset = read(make_files(tmp_path, *numbered("wave", 10), *numbered("bend", 20)))
    assert dataset.labels == ("bend", "wave")
    counts = Counter((clip.label, clip.split) for clip in dataset.clips)
    assert counts == {
        ("bend", "train"): 12,
        ("bend", "val"): 4,
        ("bend", "test"): 4,
        ("wave", "train"): 6,
        ("wave", "val"): 2,
        ("wave", "test"): 2,
    }
    assert sum(len(dataset.of(split)) for split in ("train", "val", "test")) == 30


@pytest.mark.parametrize("val_name", ["val", "valid", "validation", "Val"])
def test_split_folders_are_obeyed(tmp_path: Path, val_name: str) -> None:
    names = [
        f"{split}/{label}/{split}.mp4" for split in ("train", val_name, "test") for label in "ab"
    ]
    dataset = read(make_files(tmp_path, *names, "notes/readme.txt"))
    assert dataset.labels == ("a", "b")
    assert {clip.path.parts[-3]: clip.split for clip in dataset.clips} == {
        "train": "train",
        val_name: "val",
        "test": "test",
    }


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    dataset = read(make_files(tmp_path, *numbered("train", 3), *numbered("bus", 3)))
    assert dataset.labels == ("bus", "train")


def test_clips_may_lie_deeper_than_the_class_folder(tmp_path: Path) -> None:
    dataset = read(make_files(tmp_path, "a/x/1.mp4", "a/y/2.MKV", "b/3.mp4", "a/notes.txt"))
    assert [clip.label for clip in dataset.clips] == ["a", "a", "b"]


def test_val_is_carved_from_train_when_only_that_is_missing(tmp_path: Path) -> None:
    names = [
        f"{split}/{label}/{index}.mp4"
        for split in ("train", "test")
        for label in "ab"
        for index in range(10)
    ]
    dataset = read(make_files(tmp_path, *names))
    assert [len(dataset.of(split)) for split in ("train", "val", "test")] == [16, 4, 20]
    assert all("test" in clip.path.parts for clip in dataset.of("test"))


def test_a_manifest_names_paths_labels_splits_and_groups(tmp_path: Path) -> None:
    make_files(tmp_path, "a.mp4", "b.mp4", "c.mp4")
    manifest = write_csv(
        tmp_path,
        "\ufeffsplit,path,label,source,group\n"
        f"train,{tmp_path / 'a.mp4'},x,web,g1\n"
        "Validation,b.mp4, x ,web,\ntrain,c.mp4,y,,g1\n",
    )
    assert read(manifest).clips == (
        LabelledClip(tmp_path / "a.mp4", "x", "train", "g1"),
        LabelledClip(tmp_path / "b.mp4", "x", "val", None),
        LabelledClip(tmp_path / "c.mp4", "y", "train", "g1"),
    )


def test_json_lines_say_the_same_as_csv(tmp_path: Path) -> None:
    make_files(tmp_path, *numbered("a", 5), *numbered("b", 5))
    rows = [
        {"path": name, "label": name[0], "extra": [1]}
        for name in numbered("a", 5) + numbered("b", 5)
    ]
    as_lines = tmp_path / "clips.jsonl"
    as_lines.write_text("\n".join(json.dumps(row) for row in rows) + "\n\n", encoding="utf-8")
    as_csv = write_csv(
        tmp_path, "path,label\n" + "".join(f"{row['path']},{row['label']}\n" for row in rows)
    )
    assert read(as_lines) == read(as_csv)


def test_a_clip_without_a_split_follows_its_group_and_others_fill_the_rest(tmp_path: Path) -> None:
    names = [f"{label}{index}.mp4" for label in "xy" for index in range(10)]
    make_files(tmp_path, *names)
    given_split = {"x0.mp4": ("test", "g"), "x1.mp4": ("", "g"), "y0.mp4": ("test", "")}
    lines = [",".join((name, name[0], *given_split.get(name, ("", "")))) for name in names]
    dataset = read(write_csv(tmp_path, "path,label,split,group\n" + "\n".join(lines)))
    assert {clip.path.name for clip in dataset.of("test")} == {"x0.mp4", "x1.mp4", "y0.mp4"}
    assert dataset.of("val")


def test_a_row_given_twice_counts_once(tmp_path: Path) -> None:
    make_files(tmp_path, "a.mp4", "b.mp4")
    (tmp_path / "sub").mkdir()
    dataset = read(write_csv(tmp_path, "path,label\na.mp4,x\nsub/../a.mp4,x\nb.mp4,y\n"))
    assert len(dataset.clips) == 2


def test_a_clip_may_be_a_part_of_a_file(tmp_path: Path) -> None:
    make_files(tmp_path, "a.mp4", "b.mp4")
    text = "path,label,split,start,end\na.mp4,x,train,0,1.5\na.mp4,y,train,1.5,\n"
    as_csv = read(write_csv(tmp_path, f"{text}b.mp4,x,val,,\nb.mp4,x,val,,0.25\n"))
    assert [str(clip.footage).removeprefix(f"{tmp_path}/") for clip in as_csv.clips] == [
        "a.mp4#t=0.0,1.5",
        "a.mp4#t=1.5",
        "b.mp4",
        "b.mp4#t=0.0,0.25",
    ]
    as_lines = tmp_path / "clips.jsonl"
    rows: list[dict[str, object]] = [
        {"path": "a.mp4", "label": "x", "split": "train", "end": 1.5},
        {"path": "a.mp4", "label": "y", "split": "train", "start": 1.5, "end": None},
        {"path": "b.mp4", "label": "x", "split": "val"},
        {"path": "b.mp4", "label": "x", "split": "val", "start": "0", "end": "0.25"},
    ]
    as_lines.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    assert read(as_lines) == as_csv


def test_parts_of_one_file_are_never_parted(tmp_path: Path) -> None:
    names = [f"{label}{index}.mp4" for label in "xy" for index in range(6)]
    make_files(tmp_path, *names)
    rows = [
        f"{name},{name[0]},{start},{start + 1}"
        for name in names
        for start in range(1 + len(names) % 5)
    ]
    for seed in range(5):
        dataset = read(write_csv(tmp_path, "path,label,start,end\n" + "\n".join(rows)), seed=seed)
        splits_of: dict[str, set[str]] = {}
        for clip in dataset.clips:
            splits_of.setdefault(clip.path.name, set()).add(clip.split)
        assert {len(found) for found in splits_of.values()} == {1}
        assert all(dataset.of(split) for split in ("train", "val", "test"))


def test_a_part_without_a_split_follows_the_others_of_its_file(tmp_path: Path) -> None:
    names = [f"{label}{index}.mp4" for label in "xy" for index in range(10)]
    make_files(tmp_path, *names)
    rows = [f"{name},{name[0]},," for name in names]
    rows += ["x0.mp4,x,test,1", "x0.mp4,x,,2"]
    dataset = read(write_csv(tmp_path, "path,label,split,start\n" + "\n".join(rows)))
    assert [clip.split for clip in dataset.clips if clip.path.name == "x0.mp4"] == ["test"] * 3


def test_files_and_groups_bind_together_whatever_they_meet(tmp_path: Path) -> None:
    make_files(tmp_path, *(f"{label}{index}.mp4" for label in "xy" for index in range(10)))
    rows = ["x0.mp4,x,,g", "x0.mp4,x,1,h", "x1.mp4,x,,h", "x2.mp4,x,,g"]
    rows += [
        f"{label}{index}.mp4,{label},,{label}{index}" for label in "xy" for index in range(3, 10)
    ]
    for seed in range(10):
        dataset = read(write_csv(tmp_path, "path,label,start,group\n" + "\n".join(rows)), seed=seed)
        bound = {clip.split for clip in dataset.clips if clip.group in ("g", "h")}
        assert len(bound) == 1


def test_find_videos_is_sorted_recursive_and_skips_hidden(tmp_path: Path) -> None:
    make_files(tmp_path, "b.mp4", "a/z.WEBM", ".hidden.mp4", ".git/x.mp4", "a/notes.txt")
    (tmp_path / "folder.mp4").mkdir()
    assert find_videos(tmp_path) == [tmp_path / "a/z.WEBM", tmp_path / "b.mp4"]


@pytest.mark.skipif(not MEDIA.is_dir(), reason="needs ../shared/media")
@pytest.mark.parametrize(
    ("name", "labels", "counts"),
    [
        ("weizmann4.csv", 4, [40, 16, 16]),
        ("weizmann6.csv", 6, [40, 16, 16]),
        ("fight300.csv", 2, [210, 46, 44]),
        ("mix6_groups.csv", 6, [250, 62, 60]),
        ("weizmann4", 4, [44, 14, 14]),
    ],
)
def test_real_data_sets_are_read(name: str, labels: int, counts: list[int]) -> None:
    dataset = read(MEDIA / "dataset" / name)
    assert len(dataset.labels) == labels
    found = [len(dataset.of(split)) for split in ("train", "val", "test")]
    assert all(abs(one - other) <= labels for one, other in zip(found, counts, strict=True))
    assert sum(found) == sum(counts)


# What is refused


def two_files(folder: Path, text: str) -> Path:
    return write_csv(make_files(folder, "a.mp4", "b.mp4"), text)


REFUSED: dict[str, tuple[Callable[[Path], Path], type[DataError], str]] = {
    "nothing there": (lambda folder: folder / "gone", NoSuchDataError, "there is nothing at"),
    "an empty folder": (lambda folder: folder, NoVideosError, "no videos are in"),
    "an empty manifest": (
        lambda folder: two_files(folder, "path,label\n"),
        NoVideosError,
        "no videos are in",
    ),
    "loose videos": (
        lambda folder: make_files(folder, "a.mp4"),
        FolderLayoutError,
        "outside of any class folder",
    ),
    "one class": (
        lambda folder: make_files(folder, "a/1.mp4"),
        TooFewClassesError,
        "only one class, a",
    ),
    "an empty class folder": (
        lambda folder: make_files(folder, "a/1.mp4", "b/1.mp4", "c/1.txt"),
        EmptyClassError,
        "class folder c",
    ),
    "a stranger beside train": (
        lambda folder: make_files(folder, "train/a/1.mp4", "wave/b/1.mp4"),
        FolderLayoutError,
        "beside wave; allowed beside them are only train, val, valid, validation, test",
    ),
    "a class without a train clip": (
        lambda folder: make_files(folder, "train/a/1.mp4", "train/b/1.mp4", "test/c/1.mp4"),
        UntrainedClassError,
        "no train clip shows c",
    ),
    "an empty label": (
        lambda folder: two_files(folder, "path,label\na.mp4,x\nb.mp4, \n"),
        ManifestRowError,
        "label in line 3",
    ),
    "an unknown split": (
        lambda folder: two_files(folder, "path,label,split\na.mp4,x,dev\n"),
        ManifestRowError,
        "'dev'; allowed are train, val, valid, validation, test",
    ),
    "missing columns": (
        lambda folder: two_files(folder, "file,label\na.mp4,x\n"),
        ManifestRowError,
        "no path in line 2, only file, label",
    ),
    "an unknown ending": (
        lambda folder: make_files(folder, "a.xlsx") / "a.xlsx",
        ManifestFileError,
        "'.xlsx'; allowed are .csv",
    ),
    "paths that do not exist": (
        lambda folder: two_files(
            folder, "path,label\na.mp4,x\n" + "".join(f"no{i}.mp4,y\n" for i in range(5))
        ),
        ClipsMissingError,
        "and 2 more; copy them there",
    ),
    "two labels": (
        lambda folder: two_files(folder, "path,label\na.mp4,x\n./a.mp4,y\n"),
        ContradictingRowsError,
        "two labels, x and y",
    ),
    "two splits": (
        lambda folder: two_files(folder, "path,label,split\na.mp4,x,train\na.mp4,x,test\n"),
        ContradictingRowsError,
        "two splits, train and test",
    ),
    "a group in two splits": (
        lambda folder: two_files(
            folder, "path,label,split,group\na.mp4,x,train,g\nb.mp4,y,test,g\n"
        ),
        GroupInTwoSplitsError,
        "group g is in both train and test",
    ),
    "parts of a file in two splits": (
        lambda folder: two_files(
            folder, "path,label,split,end\na.mp4,x,train,1\n./a.mp4,y,test,2\nb.mp4,y,train,\n"
        ),
        FileInTwoSplitsError,
        "a.mp4 are in both train and test",
    ),
    "a file bound to two splits": (
        lambda folder: two_files(
            make_files(folder, "c.mp4"),
            "path,label,split,group,end\na.mp4,x,train,g,\nb.mp4,y,,g,1\nb.mp4,y,,h,2\n"
            "c.mp4,y,test,h,\n",
        ),
        FileInTwoSplitsError,
        "is bound by its groups to clips in both train and test",
    ),
    "a part that ends before it starts": (
        lambda folder: two_files(folder, "path,label,start,end\na.mp4,x,3,2\n"),
        ManifestRowError,
        "line 2 of the manifest: no video has a part from 3 seconds to 2 seconds",
    ),
    "a start that is no number": (
        lambda folder: two_files(folder, "path,label,start\na.mp4,x,0:03\n"),
        ManifestRowError,
        "the start in line 2 of the manifest is '0:03'; it must be a number of seconds",
    ),
    "a start that is not a number": (
        lambda folder: two_files(folder, "path,label,start\na.mp4,x,nan\n"),
        ManifestRowError,
        "no video has a part from nan seconds",
    ),
    "one part with two labels": (
        lambda folder: two_files(folder, "path,label,start\na.mp4,x,1\na.mp4,y,1.0\n"),
        ContradictingRowsError,
        "a.mp4#t=1.0 has two labels, x and y",
    ),
    "text that is no UTF-8": (
        lambda folder: write(folder / "a.csv", b"\xff\xfe"),
        ManifestFileError,
        "can't be read as UTF-8",
    ),
    "a line that is no JSON": (
        lambda folder: write(folder / "a.jsonl", b"[1]"),
        ManifestRowError,
        "line 1 of the manifest is no JSON object",
    ),
    "a label that is no text": (
        lambda folder: write(folder / "a.jsonl", b'{"path": "a", "label": {}}'),
        ManifestRowError,
        "it must be a text",
    ),
    "broken quotes": (
        lambda folder: two_files(folder, 'path,label\n"a.mp4"x,y\n'),
        ManifestRowError,
        "line 2 of the manifest is no CSV",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_data_that_cannot_be_used_is_refused_in_one_line(name: str, tmp_path: Path) -> None:
    make, kind, says = REFUSED[name]
    source = make(tmp_path)
    with pytest.raises(kind) as caught:
        read(source)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_name_that_is_no_utf_8_is_refused(tmp_path: Path) -> None:
    make_files(tmp_path, "a/1.mp4")
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/a/\xff.mp4")).touch()
    with pytest.raises(FileNameError, match=r"xff\.mp4' is not UTF-8; rename it"):
        read(tmp_path)


@pytest.mark.parametrize(("val", "test"), [(-0.1, 0.2), (0.5, 0.5), (float("nan"), 0.1)])
def test_fractions_must_leave_something_to_train_on(
    tmp_path: Path, val: float, test: float
) -> None:
    with pytest.raises(SettingValueError, match="leave nothing to train on"):
        read(tmp_path, val=val, test=test)


# Properties of the split

CLIPS = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 12)), min_size=2, max_size=60)
"""Label and group of each clip; group 0 is none."""


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_files(tmp_path_factory.mktemp("pool"), *(f"{index}.mp4" for index in range(60)))


def drawn(pool: Path, clips: list[tuple[str, str]], seed: int) -> ClipDataset:
    rows = [f"{index}.mp4,{label},{group}" for index, (label, group) in enumerate(clips)]
    return read(write_csv(pool, "path,label,group\n" + "\n".join(rows)), seed)


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    clips=CLIPS.filter(lambda clips: len({label for label, _ in clips}) > 1),
    seed=st.integers(0, 99),
)
def test_groups_stay_whole_and_no_clip_is_lost(
    pool: Path, clips: list[tuple[int, int]], seed: int
) -> None:
    named = [(f"l{label}", f"g{group}" if group else "") for label, group in clips]
    dataset = drawn(pool, named, seed)
    assert dataset == drawn(pool, named, seed)
    assert sorted(splits(dataset)) == sorted(f"{index}.mp4" for index in range(len(clips)))
    groups = {clip.group for clip in dataset.clips if clip.group}
    for group in groups:
        assert len({clip.split for clip in dataset.clips if clip.group == group}) == 1
    assert {clip.label for clip in dataset.of("train")} == set(dataset.labels)


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    sizes=st.lists(st.lists(st.integers(1, 4), min_size=3, max_size=6), min_size=2, max_size=2),
    seed=st.integers(0, 99),
)
def test_a_class_of_three_groups_or_more_is_in_every_split(
    pool: Path, sizes: list[list[int]], seed: int
) -> None:
    clips = [
        (f"l{label}", f"g{label}.{group}")
        for label, groups in enumerate(sizes)
        for group, size in enumerate(groups)
        for _ in range(size)
    ]
    dataset = drawn(pool, clips, seed)
    for label, groups in enumerate(sizes):
        of_label = [clip for clip in dataset.clips if clip.label == f"l{label}"]
        for split in ("train", "val", "test"):
            assert any(clip.split == split for clip in of_label)
        # As near to a fifth as whole groups allow.
        in_test = sum(clip.split == "test" for clip in of_label)
        assert abs(in_test - len(of_label) / 5) <= max(groups)


def test_another_seed_splits_differently(tmp_path: Path) -> None:
    make_files(tmp_path, *numbered("a", 30), *numbered("b", 30))
    assert read(tmp_path, seed=0) == read(tmp_path, seed=0)
    assert read(tmp_path, seed=0) != read(tmp_path, seed=1)
