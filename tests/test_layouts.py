"""Real clips laid out as the field lays them out: each layout is recognised, read and decoded."""

import csv
import json
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import pytest

from lora_deploy import cli
from lora_deploy.clips import pool
from lora_deploy.clips.clip import Stretch
from lora_deploy.clips.contract import PixelContract
from lora_deploy.clips.dataset import ClipDataset, LabelledClip, read_dataset, read_split
from lora_deploy.clips.layouts.recognise import LAYOUTS, recognise
from lora_deploy.clips.rows import Split
from lora_deploy.compare.folds import make_folds, write_manifests
from lora_deploy.compare.methods import guide_methods
from lora_deploy.config import DataFormat, load_settings
from lora_deploy.errors import (
    AnnotationError,
    ClipsMissingError,
    DataError,
    DataFormatError,
    FoldMissingError,
    ManifestRowError,
    SettingValueError,
)
from lora_deploy.options import DATA_FORMATS

CONTRACT = PixelContract(frames=4, short_side=24, crop_height=24, crop_width=24)
ACTIONS = {"Bend": "bend", "WaveTwoHands": "wave_two_hands"}
"""Class in a layout, and the folder of real clips that show it."""


def link(place: Path, clip: Path) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    place.symlink_to(clip.resolve())


def write(path: Path, *lines: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def person(media: Path, action: str, number: int, view: str = "orig") -> Path:
    return media / "dataset" / "weizmann4" / ACTIONS[action] / f"s{number}_{view}.mp4"


def read(source: Path, data_format: DataFormat = "auto", fold: int = 1) -> ClipDataset:
    return read_dataset(
        source, val_fraction=0.25, test_fraction=0.25, seed=0, data_format=data_format, fold=fold
    )


def read_real(source: Path, data_format: DataFormat) -> ClipDataset:
    """Read both ways, by itself and named, and decode every clip."""
    assert recognise(source).name == data_format
    dataset = read(source)
    assert read(source, data_format) == dataset
    for clip in dataset.clips:
        frames = pool.shared().decode(clip.path, CONTRACT, clip.stretch).frames
        assert frames.any(), clip
    return dataset


def of(dataset: ClipDataset, split: Split) -> list[tuple[str, str]]:
    return sorted((clip.path.name, clip.label) for clip in dataset.of(split))


# UCF101


def ucf101(folder: Path, media: Path) -> Path:
    """Two classes, five groups of two clips, of which two groups are to be tested on."""
    lists: dict[str, list[str]] = {"trainlist01": [], "testlist01": [], "trainlist02": []}
    for index, action in enumerate(ACTIONS, start=1):
        for group in range(1, 6):
            for clip, view in enumerate(("orig", "mirror"), start=1):
                name = f"{action}/v_{action}_g{group:02d}_c{clip:02d}.avi"
                link(folder / "UCF-101" / name, person(media, action, group, view))
                if group <= 2:
                    lists["testlist01"].append(name)
                else:
                    lists["trainlist01"].append(f"{name} {index}")
                if group > 3:
                    lists["trainlist02"].append(f"{name} {index}")
    lists["testlist02"] = [name.split()[0] for name in lists["trainlist01"][:2]]
    splits = folder / "ucfTrainTestlist"
    write(splits / "classInd.txt", "1 Bend", "2 WaveTwoHands")
    for name, lines in lists.items():
        write(splits / f"{name}.txt", *lines)
    return folder


def test_ucf101_is_read_by_its_own_lists(media: Path, tmp_path: Path) -> None:
    dataset = read_real(ucf101(tmp_path, media), "ucf101")
    assert dataset.labels == ("Bend", "WaveTwoHands")
    assert len(dataset.of("test")) == 8
    assert {clip.path.stem.split("_")[2] for clip in dataset.of("test")} == {"g01", "g02"}
    val = Counter((clip.label, clip.group) for clip in dataset.of("val"))
    assert val.total() == 4  # whole recordings of the clips to train on
    assert set(val.values()) == {2}


def test_another_fold_is_another_division(media: Path, tmp_path: Path) -> None:
    source = ucf101(tmp_path, media)
    assert len(read(source, fold=2).of("test")) == 2
    with pytest.raises(FoldMissingError, match=r"no trainlist03\.txt; it has folds: 1, 2"):
        read(source, fold=3)


def test_the_lists_folder_alone_finds_the_videos_beside_it(media: Path, tmp_path: Path) -> None:
    source = ucf101(tmp_path, media)
    assert read(source / "ucfTrainTestlist") == read(source)


# HMDB51


def hmdb51(folder: Path, media: Path) -> Path:
    for action in ACTIONS:
        uses = []
        for number in range(6):
            name = f"Film_{number % 5}_{action}_f_cm_np1_fr_med_{number}.avi"
            link(folder / "hmdb51_org" / action / name, person(media, action, number))
            uses.append(f"{name} {(1, 1, 2, 1, 0, 1)[number]} ")
        lists = folder / "testTrainMulti_7030_splits"
        write(lists / f"{action}_test_split1.txt", *uses)
        write(lists / f"{action}_test_split2.txt", *(uses[0].replace(" 1", " 2"), *uses[1:]))
    return folder


def test_hmdb51_is_read_by_its_own_lists(media: Path, tmp_path: Path) -> None:
    source = hmdb51(tmp_path, media)
    dataset = read_real(source, "hmdb51")
    assert dataset.labels == ("Bend", "WaveTwoHands")
    assert len(dataset.clips) == 10  # clips of use 0 are of no split
    assert {clip.group for clip in dataset.of("test")} == {"Film_2"}
    films = {split: {clip.group for clip in dataset.of(split)} for split in ("train", "val")}
    assert films["train"].isdisjoint(films["val"])
    assert read(source, fold=2) != dataset
    with pytest.raises(FoldMissingError, match="it has folds: 1, 2"):
        read(source, fold=3)


def test_recordings_that_published_lists_part_are_told_and_the_lists_stand(
    media: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = hmdb51(tmp_path, media)
    for path in (source / "testTrainMulti_7030_splits").iterdir():
        path.write_text(path.read_text().replace("med_5.avi 1", "med_5.avi 2"))
    dataset = read(source)  # Film_0 has the numbers 0 and 5
    assert len(dataset.of("test")) == 4
    assert "part 1 of 4 groups" in caplog.text
    assert "Film_0" in caplog.text


# Kinetics

KINETICS_HEADER = "label,youtube_id,time_start,time_end,split"


def kinetics(folder: Path, media: Path) -> Path:
    """One clip cut, one in a whole video, two that nobody could fetch."""
    link(folder / "train" / "bending" / "aaaaaaaaaa0_000012_000022.mp4", person(media, "Bend", 0))
    link(folder / "train" / "bbbb_bbb-b0.mkv", media / "clips" / "flipping_pancake.mkv")
    link(folder / "val" / "cccccccccc0_000000_000010.mp4", person(media, "Bend", 1))
    link(folder / "val" / "eeeeeeeeee0_000000_000010.mp4", person(media, "Bend", 2))
    tables = folder / "annotations"
    write(
        tables / "train.csv",
        KINETICS_HEADER,
        "bending,aaaaaaaaaa0,12,22,train",
        '"flipping, pancake",bbbb_bbb-b0,1,3,train',
        "bending,dddddddddd0,0,10,train",
    )
    write(
        tables / "val.csv",
        KINETICS_HEADER,
        "bending,cccccccccc0,0,10,validate",
        "bending,ffffffffff0,0,10,validate",
        "sneezing,eeeeeeeeee0,0,10,validate",
    )
    write(tables / "test.csv", "youtube_id,time_start,time_end,split", "gggggggggg0,0,10,test")
    return folder


def test_kinetics_takes_what_was_fetched_and_tells_the_rest(
    media: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = kinetics(tmp_path, media)
    dataset = read_real(source, "kinetics")
    assert dataset.clips == (
        LabelledClip(
            source / "train/bending/aaaaaaaaaa0_000012_000022.mp4", "bending", "train", "aaaaaaaaaa0"
        ),
        LabelledClip(
            source / "train/bbbb_bbb-b0.mkv", "flipping, pancake", "train", "bbbb_bbb-b0",
            Stretch(1.0, 3.0),
        ),
        LabelledClip(
            source / "val/cccccccccc0_000000_000010.mp4", "bending", "val", "cccccccccc0"
        ),
    )  # fmt: skip
    assert "2 of 6 clips" in caplog.text
    assert "dddddddddd0, ffffffffff0" in caplog.text
    assert "no train clip of it is there: sneezing" in caplog.text
    assert read(source / "annotations") == dataset


def test_of_kinetics_one_table_will_do_to_judge_by(media: Path, tmp_path: Path) -> None:
    source = kinetics(tmp_path, media)
    found = read_split(source / "annotations" / "val.csv", "val")
    assert [clip.label for clip in found] == ["bending", "sneezing"]
    assert read_split(source, "val") == found


def test_kinetics_without_any_video_says_what_was_looked_for(media: Path, tmp_path: Path) -> None:
    source = kinetics(tmp_path / "k400", media)
    for folder in ("train", "val"):  # those of a neighbour are not its own
        (source / folder).rename(tmp_path / folder)
    with pytest.raises(ClipsMissingError, match=r"none of the 6 clips.*aaaaaaaaaa0_START_END"):
        read(source)


# Something-Something


def something(folder: Path, media: Path) -> Path:
    templates = {"Bend": "Bending [something] down", "WaveTwoHands": "Waving [something]"}
    lists: dict[str, list[dict[str, object]]] = {"train": [], "validation": []}
    answers = []
    for at, action in enumerate(ACTIONS):
        for number in range(4):
            clip_id = str(100 * at + number)
            videos = folder / "20bn-something-something-v2"
            link(videos / f"{clip_id}.webm", person(media, action, number))
            if number == 3:
                answers.append(f"{clip_id};{templates[action].replace('[', '').replace(']', '')}")
                continue
            entry: dict[str, object] = {
                "id": clip_id,
                "label": templates[action].replace("[something]", "a hand"),
                "template": templates[action],
                "placeholders": ["a hand"],
            }
            lists["validation" if number == 2 else "train"].append(entry)
    labels = {"Bending something down": "0", "Waving something": "1"}
    write(folder / "labels" / "labels.json", json.dumps(labels))
    for name, entries in lists.items():
        write(folder / "labels" / f"{name}.json", json.dumps(entries))
    write(folder / "labels" / "test-answers.csv", *answers)
    return folder


def test_something_something_is_read_by_its_templates(media: Path, tmp_path: Path) -> None:
    source = something(tmp_path, media)
    dataset = read_real(source, "something-something")
    assert dataset.labels == ("Bending something down", "Waving something")
    assert [len(dataset.of(split)) for split in ("train", "val", "test")] == [4, 2, 2]
    assert of(dataset, "test") == [
        ("103.webm", "Waving something"),
        ("3.webm", "Bending something down"),
    ]


def test_the_first_names_of_something_something_will_do(media: Path, tmp_path: Path) -> None:
    source = something(tmp_path, media)
    (source / "labels" / "test-answers.csv").unlink()
    for path in (source / "labels").iterdir():
        path.rename(path.with_name(f"something-something-v2-{path.name}"))
    assert len(read(source).clips) == 6


# videofolder


@pytest.mark.parametrize("ending", ["csv", "jsonl"])
@pytest.mark.parametrize("one_table", [True, False])
def test_videofolder_is_read_by_its_metadata(
    media: Path, tmp_path: Path, ending: str, one_table: bool
) -> None:
    tables: dict[Path, list[dict[str, str]]] = {}
    for split, numbers in (("train", (0, 1)), ("validation", (2,)), ("test", (3,))):
        for action in ACTIONS:
            for number in numbers:
                name = f"{action}{number}.mp4"
                link(tmp_path / split / name, person(media, action, number))
                folder = tmp_path if one_table else tmp_path / split
                row = {"file_name": f"{split}/{name}" if one_table else name, "label": action}
                tables.setdefault(folder, []).append(row)
    for folder, rows in tables.items():
        if ending == "jsonl":
            write(folder / "metadata.jsonl", *map(json.dumps, rows))
            continue
        with (folder / "metadata.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, ["label", "file_name"])
            writer.writeheader()
            writer.writerows(rows)
    dataset = read_real(tmp_path, "videofolder")
    assert dataset.labels == ("Bend", "WaveTwoHands")
    assert of(dataset, "val") == [("Bend2.mp4", "Bend"), ("WaveTwoHands2.mp4", "WaveTwoHands")]
    assert [len(dataset.of(split)) for split in ("train", "val", "test")] == [4, 2, 2]


# Lists


def listed(folder: Path, media: Path, line: str) -> Path:
    """``train_list.txt``, ``val_list.txt`` and ``test_list.txt`` in a folder beside the videos."""
    for split, numbers in (("train", (0, 1)), ("val", (2,)), ("test", (3,))):
        lines = []
        for label, action in enumerate(ACTIONS):
            for number in numbers:
                name = f"some {action}/clip {number}.mp4"
                link(folder / "videos" / name, person(media, action, number))
                lines.append(line.format(path=name, label=label))
        write(folder / "lists" / f"set_{split}_list_videos.txt", *lines)
    return folder


@pytest.mark.parametrize("line", ["{path} {label}", "{path}\t{label}", '"{path}", {label}'])
def test_lists_of_path_and_label_are_read(media: Path, tmp_path: Path, line: str) -> None:
    source = listed(tmp_path, media, line)
    dataset = read_real(source / "lists", "list")
    assert dataset.labels == ("0", "1")
    assert of(dataset, "test") == [("clip 3.mp4", "0"), ("clip 3.mp4", "1")]
    assert [len(dataset.of(split)) for split in ("train", "val", "test")] == [4, 2, 2]
    assert read(source) == dataset


@pytest.mark.parametrize("names", [("bend", "wave"), ("0 bend", "1 wave"), ("1,wave", "0,bend")])
def test_numbers_get_their_names_from_a_file_beside_the_list(
    media: Path, tmp_path: Path, names: tuple[str, ...]
) -> None:
    source = listed(tmp_path, media, "{path} {label}")
    write(source / "lists" / "label_map_set.txt", *names)
    assert of(read(source), "test") == [("clip 3.mp4", "bend"), ("clip 3.mp4", "wave")]
    write(source / "lists" / "label_map_set.txt", names[0])
    with pytest.raises(AnnotationError, match=r"has the label \d, for which .* has no line"):
        read(source)
    write(source / "lists" / "labels.txt", "of another set")
    with pytest.raises(AnnotationError, match=r"several lists of class names, label_map_set\.txt"):
        read(source)


def test_one_list_of_absolute_paths_is_divided_like_any_clips(media: Path, tmp_path: Path) -> None:
    lines = [
        f"{person(media, action, number).resolve()},{action}"
        for action in ACTIONS
        for number in range(8)
    ]
    dataset = read_real(write(tmp_path / "clips.csv", *lines), "list")
    assert [len(dataset.of(split)) for split in ("train", "val", "test")] == [8, 4, 4]


# Frame folders


def frame_folders(folder: Path, media: Path, name: str) -> Path:
    """Every eighth picture of real clips as files, in a folder per class."""
    av = pytest.importorskip("av")
    for action in ACTIONS:
        for number in range(4):
            place = folder / action / f"clip {number}"
            place.mkdir(parents=True)
            with av.open(str(person(media, action, number))) as container:
                for at, frame in enumerate(container.decode(video=0)):
                    if at % 8 == 0:
                        frame.to_image().save(place / name.format(at // 8 + 1))
    return folder


@pytest.mark.parametrize("name", ["{:05d}.jpg", "img_{}.png"])
def test_frame_folders_are_read(media: Path, tmp_path: Path, name: str) -> None:
    dataset = read_real(frame_folders(tmp_path, media, name), "frames")
    assert dataset.labels == ("Bend", "WaveTwoHands")
    assert [len(dataset.of(split)) for split in ("train", "val", "test")] == [4, 2, 2]


def test_lists_may_name_frame_folders_with_how_many_frames(media: Path, tmp_path: Path) -> None:
    frame_folders(tmp_path / "rawframes", media, "img_{:05d}.jpg")
    lines = [f"{action}/clip {number} 9 {action}" for action in ACTIONS for number in range(4)]
    dataset = read_real(write(tmp_path / "train.txt", *lines), "list")
    assert dataset.labels == ("Bend", "WaveTwoHands")
    assert len(dataset.of("train")) == 6


# What does not fit


@pytest.mark.parametrize("name", [layout.name for layout in LAYOUTS])
def test_another_layout_than_was_said_tells_what_was_looked_for(
    name: DataFormat, tmp_path: Path
) -> None:
    write(tmp_path / "notes.md", "nothing")
    with pytest.raises(DataFormatError) as caught:
        read(tmp_path, name)
    said = str(caught.value)
    looked_for = next(layout.looked_for for layout in LAYOUTS if layout.name == name)
    assert f"is not laid out as {name}; looked for {looked_for}; leave --format out" in said
    assert "\n" not in said


def test_every_format_that_can_be_named_has_a_layout() -> None:
    assert {layout.name for layout in LAYOUTS} == {*get_args(DataFormat)} - {"auto"}
    assert get_args(DataFormat) == DATA_FORMATS


def test_the_command_line_names_a_format_and_is_told_what_was_looked_for(
    few_clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ("train", "--data", str(few_clips), "--out", str(tmp_path / "run"))
    assert cli.run([*arguments, "--format", "kinetics"]) == 2
    said = capsys.readouterr().err
    assert "is not laid out as kinetics; looked for CSV files whose first line names label" in said
    assert not (tmp_path / "run" / "run.json").exists()


def test_a_comparison_reads_the_layout_and_trains_on_manifests(media: Path, tmp_path: Path) -> None:
    source = ucf101(tmp_path / "ucf101", media)
    settings = load_settings(None, ["data.format=ucf101", "data.fold=2"])
    (fold,) = make_folds(source, tmp_path / "out", settings, None)
    assert len(fold.dataset.of("test")) == 2
    write_manifests([fold])
    (method, *_) = guide_methods(settings)
    trained = method.training(learning_rate=1e-3, seed=0)
    trained_on = read(fold.manifest, trained.data.format)
    assert [clip.path for clip in trained_on.clips] == [
        clip.path.resolve() for clip in fold.dataset.clips
    ]
    assert [clip.split for clip in trained_on.clips] == [clip.split for clip in fold.dataset.clips]


def test_settings_may_name_the_format_and_the_fold(tmp_path: Path) -> None:
    settings = load_settings(None, ["data.format=hmdb51", "data.fold=2"])
    assert (settings.data.format, settings.data.fold) == ("hmdb51", 2)
    with pytest.raises(SettingValueError, match="allowed: auto, folders, manifest, ucf101"):
        load_settings(None, ["data.format=ucf102"])


SPOILED: dict[str, tuple[Callable[[Path, Path], Path], str, str, str, str, type[DataError]]] = {
    "a class that is not named": (
        ucf101, "ucfTrainTestlist/classInd.txt", "2 Wave", "2 Rave",
        "looked for CLASS/FILE", AnnotationError,
    ),
    "a class to test on that is not named": (
        ucf101,
        "ucfTrainTestlist/testlist01.txt",
        "Bend/v_Bend_g01",
        "Band/v_Bend_g01",
        "looked for CLASS/FILE",
        AnnotationError,
    ),
    "a number of another class": (
        ucf101, "ucfTrainTestlist/trainlist01.txt", "c01.avi 1", "c01.avi 2",
        "looked for CLASS/FILE", AnnotationError,
    ),
    "a class without a number": (
        ucf101, "ucfTrainTestlist/classInd.txt", "1 Bend", "Bend",
        "looked for a number and a class", AnnotationError,
    ),
    "a clip of UCF101 that is gone": (
        ucf101, "ucfTrainTestlist/testlist01.txt", "_g01_", "_g21_", "do not exist",
        ClipsMissingError,
    ),
    "a use that is none": (
        hmdb51, "testTrainMulti_7030_splits/Bend_test_split1.txt", ".avi 2", ".avi 3",
        "looked for a file's name and 0, 1 or 2", AnnotationError,
    ),
    "a time that is none": (
        kinetics, "annotations/train.csv", ",12,22,", ",12,two,", "line 2 of", AnnotationError,
    ),
    "an end before its start": (
        kinetics, "annotations/train.csv", ",12,22,", ",12,2,", "line 2 of", AnnotationError,
    ),
    "a split that is none": (
        kinetics, "annotations/train.csv", "22,train", "22,dev", "the split 'dev'", AnnotationError,
    ),
    "quotes that do not close": (
        kinetics, "annotations/train.csv", '"flipping', '""flipping', "is no CSV", ManifestRowError,
    ),
    "a template that is not among the labels": (
        something, "labels/train.json", "Bending [", "Turning [", "which *labels.json does not name",
        AnnotationError,
    ),
    "an entry without a template": (
        something, "labels/train.json", '"template"', '"pattern"', "entry 1 of", AnnotationError,
    ),
    "JSON that is torn": (
        something, "labels/train.json", '[{"id"', '{"id"', "holds no JSON list", AnnotationError,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SPOILED)
def test_annotations_that_are_spoiled_are_refused_in_one_line(
    name: str, media: Path, tmp_path: Path
) -> None:
    make, file, old, new, says, kind = SPOILED[name]
    source = make(tmp_path, media)
    text = (source / file).read_text()
    assert old in text
    (source / file).write_text(text.replace(old, new))
    with pytest.raises(kind) as caught:
        read(source)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_several_lists_of_one_split_are_refused(media: Path, tmp_path: Path) -> None:
    source = listed(tmp_path, media, "{path} {label}")
    lists = source / "lists"
    shutil.copyfile(lists / "set_train_list_videos.txt", lists / "set_train_split_2.txt")
    with pytest.raises(AnnotationError, match="several lists of the split train"):
        read(source)


def test_a_list_of_clips_that_are_gone_says_so(tmp_path: Path) -> None:
    source = write(tmp_path / "clips.txt", "a/b.mp4 wave", "a/c.mp4 bend")
    with pytest.raises(ClipsMissingError, match="2 of 2 files"):
        read(source)
    with pytest.raises(DataFormatError, match="whose first clips are there"):
        read(source, "list")
