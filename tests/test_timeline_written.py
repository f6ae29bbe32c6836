"""Timelines as files: captions that players read, tables, JSON, a page that is safe for any words, the command."""

import csv
import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import av
import pytest

from lora_deploy import cli
from lora_deploy.classify.timeline import Segment, Timeline, TimelineOptions, several, timeline
from lora_deploy.classify.timeline import page as page_module
from lora_deploy.classify.timeline import pictures as pictures_module
from lora_deploy.classify.timeline.captions import subrip, webvtt
from lora_deploy.classify.timeline.page import moment, timeline_html
from lora_deploy.classify.timeline.pictures import segment_pictures
from lora_deploy.classify.timeline.written import Asked, places, write
from lora_deploy.clips.pool import shared
from lora_deploy.errors import TimelinePlaceError
from lora_deploy.proof.page import POLICY
from lora_deploy.runtime.base import UNKNOWN
from tests.test_certificate_page import HOSTILE, Parsed
from tests.test_timeline import CONTRACT, colour_recogniser, write_colours

if TYPE_CHECKING:
    from playwright.sync_api import Browser

OPTIONS = TimelineOptions(2.0, 1.0, at_most_windows=None)

AWKWARD = (
    "a --> b", "Tom & Jerry <b>run</b>", "{\\an8}top", "two\nlines\r\n\n3\n00:00:01,000 --> 00:00:02,000",
    "ünï 测试", "tab\tbell\x07", "&lt;", "Zeile\u2028Absatz", "-->", "1",
)  # fmt: skip


def segment(start: float, end: float, label: str, score: float = 0.9) -> Segment:
    return Segment(
        start_seconds=start, end_seconds=end, label=label, score=score,
        best_start_seconds=start, best_end_seconds=end, is_unknown=label == UNKNOWN,
    )  # fmt: skip


def found(segments: Sequence[Segment], **changes: Any) -> Timeline:
    labels = tuple(dict.fromkeys(one.label for one in segments if not one.is_unknown))
    values: dict[str, Any] = {
        "duration_seconds": segments[-1].end_seconds, "windows": (), "segments": tuple(segments),
        "warning": None, "labels": labels, "stride_seconds": 1.0, "model": "sha256:0123456789abcdef",
    }  # fmt: skip
    return Timeline(**{**values, **changes})


AWKWARD_SEGMENTS = [segment(at, at + 1.0, label) for at, label in enumerate(AWKWARD)]

# Captions ---------------------------------------------------------------------------------------

_TIME = r"(\d{2,}):([0-5]\d):([0-5]\d)"


def seconds_of(hours: str, minutes: str, seconds: str, milliseconds: str) -> float:
    return int(hours) * 3600 + int(minutes) * 60 + int(seconds) + int(milliseconds) / 1000


def read_captions(text: str, point: str) -> list[tuple[float, float, str]]:
    """As a strict reader does: blocks parted by one empty line, a time line, one line of text."""
    line = re.compile(rf"{_TIME}{point}(\d{{3}}) --> {_TIME}{point}(\d{{3}})")
    cues = []
    for number, block in enumerate(text.rstrip("\n").split("\n\n"), start=1):
        lines = block.split("\n")
        if point == ",":
            assert lines.pop(0) == str(number)
        times = line.fullmatch(lines[0])
        assert times, lines
        assert len(lines) == 2
        assert lines[1].strip()
        cues.append((seconds_of(*times.groups()[:4]), seconds_of(*times.groups()[4:]), lines[1]))
    return cues


def test_subrip_comes_back_as_it_was() -> None:
    segments = [segment(0, 1.5, "red"), segment(1.5, 3725.0625, "green", 0.974)]
    assert subrip(segments) == (
        "1\n00:00:00,000 --> 00:00:01,500\nred (90%)\n\n"
        "2\n00:00:01,500 --> 01:02:05,062\ngreen (97%)\n\n"
    )
    assert read_captions(subrip(segments), ",") == [
        (0.0, 1.5, "red (90%)"), (1.5, 3725.062, "green (97%)"),
    ]  # fmt: skip


def test_webvtt_comes_back_as_it_was() -> None:
    head, _, cues = webvtt([segment(0, 1.5, "red"), segment(1.5, 3.25, "green")]).partition("\n\n")
    assert head == "WEBVTT"
    assert read_captions(cues, r"\.") == [(0.0, 1.5, "red (90%)"), (1.5, 3.25, "green (90%)")]


def test_no_label_is_taken_for_a_time_a_tag_or_the_end_of_a_caption() -> None:
    for cues, point in (
        (subrip(AWKWARD_SEGMENTS), ","),
        (webvtt(AWKWARD_SEGMENTS).partition("\n\n")[2], r"\."),
    ):
        read = read_captions(cues, point)
        assert [(start, end) for start, end, _ in read] == [
            (at, at + 1) for at in range(len(AWKWARD))
        ]
        for _, _, text in read:
            assert not re.search(r"-->|<|>|[{}\\]" if point == "," else r"-->|<|>", text)
            assert text.isprintable()


def read_by_ffmpeg(path: Path) -> list[tuple[float, float, str]]:
    """What a player that is built on FFmpeg shows, and when."""
    cues = []
    with av.open(str(path)) as container:
        (stream,) = container.streams.subtitles
        for packet in container.demux(stream):
            if packet.size:
                assert packet.pts is not None
                assert packet.duration is not None
                assert packet.time_base is not None
                start = float(packet.pts * packet.time_base)
                end = start + float(packet.duration * packet.time_base)
                subtitle = stream.codec_context.decode2(packet)
                assert subtitle is not None
                text = b"".join(one.ass for one in subtitle).decode().split(",", 8)[8]  # type: ignore[attr-defined]
                cues.append((start, end, text))
    return cues


@pytest.mark.parametrize("ending", [".srt", ".vtt"])
def test_a_player_shows_every_label_at_its_time(ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"film{ending}"
    write(found(AWKWARD_SEGMENTS), Asked("film.mp4", OPTIONS), path)
    read = read_by_ffmpeg(path)
    assert [(start, end) for start, end, _ in read] == [(at, at + 1) for at in range(len(AWKWARD))]
    texts = [text.removesuffix(" (90%)") for _, _, text in read]
    assert texts[4:5] == ["ünï 测试"]
    assert texts[9] == "1"
    if ending == ".vtt":
        assert texts[:2] == ["a --> b", "Tom & Jerry <b>run</b>"]
        assert texts[6] == "&lt;"
    else:
        assert texts[:3] == ["a --› b", "Tom & Jerry ‹b›run‹/b›", "(/an8)top"]


def test_what_is_unknown_has_no_caption() -> None:
    segments = [segment(0, 1, "red"), segment(1, 2, UNKNOWN), segment(2, 3, "red")]
    assert [start for start, _, _ in read_captions(subrip(segments), ",")] == [0, 2]
    assert UNKNOWN not in webvtt(segments)
    assert webvtt(segments[1:2]) == "WEBVTT\n"
    called_so = replace(segments[1], is_unknown=False)
    assert f"{UNKNOWN} (90%)" in subrip([called_so])


def test_what_is_shorter_than_a_millisecond_has_no_caption() -> None:
    assert subrip([segment(1.0, 1.0001, "red")]) == ""


# Tables and JSON --------------------------------------------------------------------------------


def test_csv_has_a_line_for_each_segment_whatever_its_label(tmp_path: Path) -> None:
    segments = [*AWKWARD_SEGMENTS, segment(10, 11.0004, UNKNOWN, 0.25)]
    write(found(segments), Asked("some, film.mp4", OPTIONS), tmp_path / "film.csv")
    with (tmp_path / "film.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["label"] for row in rows] == [*AWKWARD, UNKNOWN]
    assert {row["path"] for row in rows} == {"some, film.mp4"}
    assert rows[-1] == {
        "path": "some, film.mp4", "start_seconds": "10.000", "end_seconds": "11.000",
        "label": UNKNOWN, "score": "0.250000", "is_unknown": "true",
    }  # fmt: skip


def test_json_has_every_digit_and_windows_where_they_are_asked_for(tmp_path: Path) -> None:
    film = write_colours(tmp_path / "film.mp4", [("red", 3.0), ("blue", 3.0)])
    seen = timeline(colour_recogniser(), film, options=OPTIONS)
    write(seen, Asked(str(film), OPTIONS), tmp_path / "short.json")
    write(seen, Asked(str(film), OPTIONS, probabilities=True), tmp_path / "long.json")
    short, long = (
        json.loads((tmp_path / name).read_text("utf-8")) for name in ("short.json", "long.json")
    )
    assert [*short] == [
        "path", "duration_seconds", "window_seconds", "stride_seconds", "smoothing_windows",
        "lead", "segments", "warning", "model",
    ]  # fmt: skip
    assert [one["score"] for one in short["segments"]] == [one.score for one in seen.segments]
    assert long == {**short, "labels": long["labels"], "windows": long["windows"]}
    assert long["labels"] == ["red", "green", "blue"]
    assert [tuple(one["probabilities"]) for one in long["windows"]] == [
        one.probabilities for one in seen.windows
    ]


def test_a_name_that_is_no_text_is_written_all_the_same(tmp_path: Path) -> None:
    asked = Asked("fil\udcff.mp4", OPTIONS)
    for ending in (".json", ".csv", ".html"):
        write(found([segment(0, 1, "red")]), asked, tmp_path / f"film{ending}")
    assert json.loads((tmp_path / "film.json").read_text("utf-8"))["path"] == "fil\udcff.mp4"


# Where to ---------------------------------------------------------------------------------------


def test_outputs_are_named_after_their_videos(tmp_path: Path) -> None:
    outs = [tmp_path / "{}.srt", tmp_path / "{}.html"]
    assert places(["a/one.mp4", "b/two.x.mkv"], outs) == {
        "a/one.mp4": (tmp_path / "one.srt", tmp_path / "one.html"),
        "b/two.x.mkv": (tmp_path / "two.x.srt", tmp_path / "two.x.html"),
    }
    assert places(["one.mp4"], [tmp_path / "strip.csv"]) == {"one.mp4": (tmp_path / "strip.csv",)}
    assert places(["one.mp4", "one.mp4"], []) == {"one.mp4": ()}


@pytest.mark.parametrize(
    ("videos", "outs", "says"),
    [
        (["a.mp4", "b.mp4"], ["strip.html"], "would be written twice, of a.mp4 and of b.mp4"),
        (["x/a.mp4", "y/a.mkv"], ["{}.srt"], "would be written twice, of x/a.mp4 and of y/a.mkv"),
        (["a.mp4"], ["{}.srt", "a.srt"], "would be written twice, of a.mp4 and of a.mp4"),
        (["a.mp4"], ["a.txt"], r"ends in '\.txt'; allowed: \.json, \.csv, \.srt, \.vtt, \.html"),
        (["a.mp4"], ["folder"], "ends in 'nothing'"),
        (["a.mp4"], ["gone/a.srt"], "the folder .*gone does not exist"),
        (["a.mp4"], ["taken.srt"], r"taken\.srt is a folder"),
    ],
)
def test_places_that_cannot_be_written_to_are_refused_before_any_work(
    videos: list[str], outs: list[str], says: str, tmp_path: Path
) -> None:
    (tmp_path / "taken.srt").mkdir()
    with pytest.raises(TimelinePlaceError, match=says):
        places(videos, [tmp_path / out for out in outs])
    assert [path.name for path in tmp_path.iterdir()] == ["taken.srt"]


# The page ---------------------------------------------------------------------------------------

PICTURE = b"\xff\xd8jpeg"


def page(segments: Sequence[Segment], name: str = "film.mp4", **changes: Any) -> str:
    pictures = dict.fromkeys(range(len(segments)), PICTURE)
    return timeline_html(found(segments, **changes), name, OPTIONS, pictures)


def test_the_page_runs_and_loads_nothing() -> None:
    text = page([segment(0, 5, "red"), segment(5, 9, UNKNOWN), segment(9, 12, "blue")])
    parsed = Parsed(text)
    assert not {"script", "iframe", "object", "embed", "form", "base"} & set(parsed.tags)
    assert [name for _, name, _ in parsed.attributes if name.startswith("on")] == []
    assert all(
        value.startswith("data:image/jpeg;base64,")
        for _, name, value in parsed.attributes
        if name == "src"
    )
    [policy] = re.findall(r'<meta http-equiv=Content-Security-Policy content="([^"]*)">', text)
    assert policy == POLICY
    assert text.index("Content-Security-Policy") < text.index("<style>")
    assert not re.findall(r"url\(|@import|://", text)


def test_every_colour_leads_to_a_line_of_the_table() -> None:
    parsed = Parsed(page([segment(0, 5, "red"), segment(5, 9, UNKNOWN), segment(9, 12, "blue")]))
    links = [value for tag, name, value in parsed.attributes if (tag, name) == ("a", "href")]
    names = [value for tag, name, value in parsed.attributes if (tag, name) == ("span", "id")]
    assert links == [f"#{name}" for name in names] == ["#s0", "#s1", "#s2"]


def test_no_word_of_a_stranger_becomes_markup() -> None:
    tame = page([segment(0, 5, "red"), segment(5, 12, "blue")], warning="something was lost")
    wild = page(
        [segment(0, 5, "red" + HOSTILE), segment(5, 12, "blue" + HOSTILE)],
        name="film" + HOSTILE, warning="lost" + HOSTILE,
    )  # fmt: skip
    assert Parsed(wild).tags == Parsed(tame).tags
    assert [(tag, name) for tag, name, _ in Parsed(wild).attributes] == [
        (tag, name) for tag, name, _ in Parsed(tame).attributes
    ]
    assert "<script" not in wild


def test_a_long_video_is_shown_in_several_strips_that_hold_all_of_it() -> None:
    hour = [segment(at, at + 200.0, ("red", "blue")[at // 200 % 2]) for at in range(0, 3600, 200)]
    text = page(hour)
    assert text.count("<div class=strip ") == 12
    assert "Each strip is 5:00.0 long" in text
    widths = [float(width) for width in re.findall(r"left:[\d.]+%;width:([\d.]+)%", text)]
    assert sum(widths) == pytest.approx(1200, abs=0.1)
    four_hours = page([segment(0, 4 * 3600.0, "red")])
    assert four_hours.count("<div class=strip ") <= page_module.MOST_STRIPS
    assert page([segment(0, 170.0, "red")]).count("<div class=strip ") == 1


def test_the_legend_tells_how_much_of_the_time_each_label_has() -> None:
    text = page([segment(0, 1, "red"), segment(1, 9, "blue"), segment(9, 10, "red")])
    legend = text[text.index("legend>") : text.index("</ul>")]
    assert re.findall(r"<bdi>(\w+)</bdi> <small>([\d.]+%)", legend) == [
        ("blue", "80.0%"), ("red", "20.0%"),
    ]  # fmt: skip


def test_a_label_that_is_called_unknown_is_no_unknown() -> None:
    called_so = replace(segment(0, 5, UNKNOWN), is_unknown=False)
    text = page([called_so, segment(5, 9, UNKNOWN)], labels=(UNKNOWN,))
    assert text.count('class="dot unknown"') == 2  # of the legend and of one line
    assert text.count("the best guess") == 1


def test_pictures_show_the_clearest_window_and_only_so_many(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from io import BytesIO

    from PIL import Image

    film = write_colours(tmp_path / "film.mp4", [("red", 4.0), ("blue", 6.0), ("green", 3.0)])
    seen = timeline(colour_recogniser(), film, options=OPTIONS)
    shown = segment_pictures(seen, film, CONTRACT, OPTIONS, shared())
    for number, channel in ((0, 0), (1, 2), (2, 1)):
        middle = Image.open(BytesIO(shown[number])).convert("RGB").getpixel((8, 8))
        assert isinstance(middle, tuple)
        assert max(range(3), key=middle.__getitem__) == channel
    monkeypatch.setattr(pictures_module, "MOST_PICTURES", 2)
    longest = segment_pictures(seen, film, CONTRACT, OPTIONS, shared())
    assert [*longest] == [0, 1]
    text = timeline_html(seen, "film.mp4", OPTIONS, longest)
    assert "The 2 longest segments have a picture." in text


def test_moments_are_told_in_hours_only_where_there_are_any() -> None:
    assert [moment(at) for at in (0, 3.24, 59.97, 3600)] == [
        "0:00.0",
        "0:03.2",
        "1:00.0",
        "1:00:00.0",
    ]
    assert moment(125, tenths=False) == "2:05"


@pytest.mark.parametrize("width", [360, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_fits_its_screen_and_its_words_can_be_read(
    chromium: "Browser", width: int, scheme: Any, tmp_path: Path
) -> None:
    long = "a label of many words that nobody would have thought to be so long " * 2
    segments = [
        segment(at * 30, at * 30 + 30, ("walk", "run", UNKNOWN, long)[at % 4]) for at in range(60)
    ]
    (tmp_path / "page.html").write_text(page(segments), encoding="utf-8")
    shown = chromium.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
    told: list[str] = []
    shown.on("console", lambda message: told.append(message.text))
    shown.goto(f"file://{tmp_path / 'page.html'}")
    assert shown.evaluate("document.documentElement.scrollWidth") <= width
    shown.locator(".strip a").nth(2).click()
    assert shown.url.endswith("#s2")
    assert shown.locator("#s2").is_visible()
    assert told == []
    shown.close()


# The command ------------------------------------------------------------------------------------


@pytest.fixture
def films(tmp_path: Path) -> tuple[Path, Path]:
    return (
        write_colours(tmp_path / "one.mp4", [("red", 3.0), ("blue", 3.0)]),
        write_colours(tmp_path / "two.mp4", [("green", 2.5)]),
    )


def test_one_video_is_one_document_on_stdout(
    bundle: Path, films: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(["timeline", str(bundle), str(films[0]), "--window", "1"]) == 0
    printed = capsys.readouterr()
    document = json.loads(printed.out)
    assert printed.out.startswith("{\n")
    assert document["path"] == str(films[0])
    assert (document["window_seconds"], document["stride_seconds"]) == (1.0, 0.5)
    assert document["segments"][-1]["end_seconds"] == document["duration_seconds"] == 6.0
    assert "windows" not in document


def test_several_videos_are_a_line_each_and_a_bad_one_costs_a_sentence(
    bundle: Path, films: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bad.mp4").write_text("nothing to see")
    videos = [str(films[0]), str(tmp_path / "bad.mp4"), str(tmp_path), str(films[1])]
    assert cli.run(["timeline", str(bundle), *videos, "--probabilities"]) == 1
    printed = capsys.readouterr()
    documents = [json.loads(line) for line in printed.out.splitlines()]
    assert [one["path"] for one in documents] == [str(films[0]), str(films[1])]
    assert all(len(one["windows"][0]["probabilities"]) == 2 for one in documents)
    errors = printed.err.splitlines()
    assert len(errors) == 2
    assert errors[0] == f"{tmp_path / 'bad.mp4'}: error: the file is a text and not a video"
    assert errors[1].startswith(f"{tmp_path}: error: ")


def test_every_format_of_every_video_is_written(
    bundle: Path, films: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    outs = [f"--out={out}/{{}}{ending}" for ending in (".json", ".csv", ".srt", ".vtt", ".html")]
    assert cli.run(["timeline", str(bundle), *map(str, films), *outs]) == 0
    assert capsys.readouterr().out == ""
    assert {path.name for path in out.iterdir()} == {
        f"{name}.{kind}"
        for name in ("one", "two")
        for kind in ("json", "csv", "srt", "vtt", "html")
    }
    assert "data:image/jpeg" in (out / "one.html").read_text("utf-8")
    written = {path.name: path.read_bytes() for path in out.iterdir()}
    assert cli.run(["timeline", str(bundle), *map(str, films), *outs]) == 0
    assert {path.name: path.read_bytes() for path in out.iterdir()} == written


def test_a_stride_that_is_moved_is_told(
    bundle: Path, films: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["timeline", str(bundle), str(films[0]), "--window", "2", "--stride", "0.7"]
    assert cli.run(arguments) == 0
    told = capsys.readouterr().err
    assert "one window every 0.5 seconds in place of 0.7" in told


def test_damage_is_told(bundle: Path, media: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = media / "derived/book_truncated_60pct_moov_first.mp4"
    assert cli.run(["timeline", str(bundle), str(path), "--window", "0.5"]) == 0
    printed = capsys.readouterr()
    assert "seconds could be decoded" in printed.err
    assert json.loads(printed.out)["warning"] in printed.err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--window", "0"], "the window is 0 seconds long"),
        (["--stride", "-1"], "the stride is -1 seconds long"),
        (["--smoothing", "2"], "allowed: 1, 3, 5"),
        (["--lead", "1"], "the lead is 1"),
        (["--window", "60", "--stride", "0.0000001"], "seconds and more"),
        (["--out", "strip.gif"], "allowed: .json, .csv, .srt, .vtt, .html"),
    ],
)
def test_what_cannot_be_asked_is_refused_in_one_line(
    bundle: Path,
    films: tuple[Path, Path],
    arguments: list[str],
    says: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert cli.run(["timeline", str(bundle), str(films[0]), *arguments]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert says in printed.err
    assert len(printed.err.splitlines()) == 1


def test_the_command_looks_at_every_window_of_a_long_video() -> None:
    assert several.options_for(2.0, None, 3, 0.1).at_most_windows is None
    assert several.options_for(4.0, None, 3, 0.1).stride_seconds == 2.0
