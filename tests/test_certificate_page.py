"""The certificate's page: what a manager reads, safe for any words in it, and nothing loaded or run."""

import io
import math
import re
from html.parser import HTMLParser
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lora_deploy.proof import thumbnails
from lora_deploy.proof.certificate import Calibration, Certificate, Speed
from lora_deploy.proof.flip_cards import MOST_CARDS
from lora_deploy.proof.markup import bar
from lora_deploy.proof.page import MOST_CLASSES, POLICY, certificate_html
from lora_deploy.proof.wording import (
    calibration_sentences,
    certainty,
    figure,
    form_title,
    listed,
    over_budget,
    percent,
)
from tests import sample_certificates as samples
from tests.sample_certificates import FORMS, LABELS, flip, link, proved

HOSTILE = """<script>alert(1)</script><img src=http://x.example/a onerror=b>"'&‮</style></title>"""

VOID_TAGS = {"meta", "img", "br", "link", "path", "circle"}
CLOSES_ITSELF = {"p", "li", "dt", "dd", "tr", "td", "th", "thead", "tbody", "html"}
"""Elements that HTML lets end without an end tag."""


class Parsed(HTMLParser):
    """Tags, attributes and text of a page; a wrong end tag is an error."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.texts: list[str] = []
        self._open: list[str] = []
        self.feed(page)
        self.close()
        assert [tag for tag in self._open if tag not in CLOSES_ITSELF] == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in VOID_TAGS:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        while self._open[-1] != tag:
            assert self._open[-1] in CLOSES_ITSELF, f"</{tag}> ends a <{self._open[-1]}>"
            self._open.pop()
        self._open.pop()

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] != "style":
            self.texts.append(data)

    @property
    def text(self) -> str:
        """Without the space that only layout makes."""
        return re.sub(r"\s+", " ", " ".join(self.texts))


def text_of(certificate: Certificate) -> str:
    return Parsed(certificate_html(certificate)).text


def section_of(certificate: Certificate, identifier: str) -> str:
    """One section's text."""
    page = certificate_html(certificate)
    [body] = re.findall(rf"<section id={identifier}>(.*?)</section>", page, re.DOTALL)
    return Parsed(body).text


ALL = {
    "proved": proved(),
    "built": samples.built(),
    "failed": samples.failed(),
    "void": samples.void(),
}
each_verdict = pytest.mark.parametrize("certificate", ALL.values(), ids=ALL)


@each_verdict
def test_the_page_is_sound_html_that_runs_and_loads_nothing(certificate: Certificate) -> None:
    pictures = {flip.clip: b"\xff\xd8jpeg" for link in certificate.links for flip in link.flips}
    page = certificate_html(certificate, pictures)
    parsed = Parsed(page)
    assert not {"script", "iframe", "object", "embed", "form", "base"} & set(parsed.tags)
    assert [name for _, name, _ in parsed.attributes if name.startswith("on")] == []
    addresses = [value for _, name, value in parsed.attributes if name in ("src", "href")]
    assert len(addresses) == len(pictures) + 1  # and the icon, else a browser asks for one
    assert all(address.startswith("data:") for address in addresses)
    assert not re.findall(r"url\(|@import|://", page)


@each_verdict
def test_the_browser_is_told_to_load_and_run_nothing_either(certificate: Certificate) -> None:
    page = certificate_html(certificate)
    [policy] = re.findall(r'<meta http-equiv=Content-Security-Policy content="([^"]*)">', page)
    assert policy == POLICY
    for rule in ("default-src 'none'", "style-src 'unsafe-inline'", "img-src data:"):
        assert rule in policy.split("; ")
    assert page.index("Content-Security-Policy") < page.index("<style>")
    assert "script-src" not in POLICY


def hostile(value: Any, key: str = "") -> Any:
    """Every text of a certificate made a stranger's, but for the words that its form fixes."""
    if isinstance(value, str):
        return value if key in ("precision", "date") else value + HOSTILE
    if isinstance(value, dict):
        named = key in ("answered", "accuracy", "versions")
        return {
            hostile(name) if named else name: hostile(inner, name) for name, inner in value.items()
        }
    if isinstance(value, list | tuple):
        return [hostile(inner, key) for inner in value]
    return value


@each_verdict
def test_no_word_of_a_stranger_becomes_markup(certificate: Certificate) -> None:
    plain = certificate.model_dump()
    spoilt = Certificate.model_validate(hostile(plain))
    page = certificate_html(spoilt)
    tame, wild = Parsed(certificate_html(certificate)), Parsed(page)
    assert wild.tags.count("script") == 0
    assert set(wild.tags) == set(tame.tags)
    assert {name for _, name, _ in wild.attributes} == {name for _, name, _ in tame.attributes}
    assert wild.text.count("<script>alert(1)</script>") > 40
    # A right-to-left mark is fenced in by the element that isolates it.
    for at in (found.start() for found in re.finditer("‮", page)):
        before = page[:at]
        assert before.rfind("<bdi>") > before.rfind("</bdi>")


def test_the_verdict_is_told_in_words_and_by_a_sign_not_by_colour_alone() -> None:
    assert "Proved. Every form answers alike." in text_of(proved())
    assert "Failed. OpenVINO int8 does not answer as the trained model does." in text_of(
        samples.failed()
    )
    assert "Void. These clips can prove nothing." in text_of(samples.void())
    icons = {re.findall(r"<path d='(.*?)'", certificate_html(one))[0] for one in ALL.values()}
    assert len(icons) == 3


@pytest.mark.parametrize(
    ("forms", "headline"),
    [
        (2, "ONNX Runtime fp16 and OpenVINO bf16 do not answer"),
        (3, "ONNX Runtime fp16, OpenVINO bf16 and OpenVINO int8 do not answer"),
        (4, "4 forms do not answer"),
    ],
)
def test_failing_forms_are_named_while_they_are_few(forms: int, headline: str) -> None:
    order = [3, 4, 5, 0]
    links = [link(*FORMS[index], passed=False) for index in order[:forms]]
    assert headline in text_of(proved(passed=False, links=links))


def test_a_failure_outside_of_the_links_is_told_too() -> None:
    dead = {"largest_logit_difference": 0.0, "needed": 1e-4, "passed": False}
    words = ("the adapter is dead",)
    page = text_of(proved(passed=False, liveness=dead, objections=words))
    assert "Failed. The adapter changes nothing." in page
    assert "must" not in section_of(proved(passed=False, liveness=dead), "chain")
    page = text_of(proved(passed=False, objections=("labels are in another order",)))
    assert "Failed. The proof was not passed." in page
    assert "labels are in another order" in page


def test_a_manager_reads_how_many_clips_of_whom_when_and_where() -> None:
    text = text_of(proved())
    for fact in ("128 real clips", "validation clips of the training", "2026-01-31", "Xeon"):
        assert fact in text


def test_a_reason_for_being_void_is_told_once_and_nothing_looks_proved() -> None:
    page = certificate_html(samples.void())
    assert page.count("names fight on 12 of 12 clips") == 1
    assert "<main class=void-page>" in page
    assert ".void-page section{--good:var(--soft)" in page


@pytest.mark.parametrize(
    ("identifier", "certificate"),
    [
        (identifier, certificate)
        for certificate in ALL
        for identifier in (
            "chain", "links", "flips", "classes", "accuracy", "calibration", "clips",
            "versions", "words",
        )
    ]
    + [("objections", "failed"), ("blocks", "failed"), ("speeds", "proved"), ("unrun", "built")],
)  # fmt: skip
def test_every_section_has_something_to_read(identifier: str, certificate: str) -> None:
    assert len(section_of(ALL[certificate], identifier)) > 40


def test_sections_that_have_nothing_to_tell_are_left_out() -> None:
    bare = proved(speeds=(), calibration=None, versions={}, liveness=None)
    page = certificate_html(bare)
    for identifier in ("objections", "blocks", "speeds", "calibration", "versions"):
        assert f"<section id={identifier}>" not in page
    assert "There is no adapter" in page
    assert "Adapter switched off" not in page


# The picture.


def chain_of(*links: tuple[str, str]) -> str:
    made = [link(one, other, "fp32") for one, other in links]
    return section_of(proved(links=made, liveness=None), "chain")


def test_the_picture_shows_every_form_once_with_its_agreement() -> None:
    text = section_of(samples.failed(), "chain")
    for form in {form for forms in FORMS for form in forms[:2]} - {"unmerged"}:
        assert text.count(form_title(form)) == 1
    for words in ("✓ 100%", "✓ 99.2%", "✗ 94.5%", "same label · fails", "2 blocks kept"):
        assert words in text
    assert "✓ differs by up to 5.31, as it must" in text


@pytest.mark.parametrize(
    "links",
    [
        [("a1", "b1"), ("b1", "c1"), ("c1", "d1"), ("d1", "a1")],
        [("a1", "b1"), ("b1", "c1"), ("c1", "d1")],
        [("a1", "b1"), ("a1", "c1"), ("a1", "d1")],
        [("a1", "b1"), ("b1", "c1"), ("b1", "d1")],
        [("a1", "b1"), ("c1", "d1")],
        [("a1", "b1"), ("b1", "a1"), ("b1", "c1"), ("c1", "d1")],
        [("a1", "b1"), ("a1", "c1"), ("b1", "d1"), ("c1", "d1")],
    ],
    ids=["a ring", "a line", "a star", "a tree", "two lines", "a circle", "a diamond"],
)
def test_whatever_was_compared_with_what_every_link_is_drawn(links: list[tuple[str, str]]) -> None:
    text = chain_of(*links)
    assert text.count("same label") == len(links)
    assert all(form in text for form in ("a1", "b1", "c1", "d1"))


def test_a_form_that_skips_the_adapter_is_said_to() -> None:
    skipping = link(*FORMS[5], passed=False, adapter_skipped=True)
    certificate = proved(passed=False, links=(link(*FORMS[0]), skipping))
    assert "the adapter was skipped" in section_of(certificate, "chain")
    assert "answers as without its adapter" in section_of(certificate, "links")


# Figures.


def test_a_link_that_fails_shows_which_of_its_budgets_it_broke() -> None:
    text = section_of(samples.failed(), "links")
    row = text[text.index("OpenVINO int8") :]
    assert "✗ 94.5% needs 98% true share ≥ 89%" in row
    assert "✗ 0.62 at most 0.15" in row
    assert "✗ 0.071 at most 0.02" in row
    assert "✗ fails" in row
    assert text.count("✗") == 4


@pytest.mark.parametrize("field", ["largest_probability_difference", "mean_kl"])
def test_what_is_no_number_keeps_no_budget(field: str) -> None:
    spoilt = link(*FORMS[0], passed=False).model_copy(update={field: math.nan})
    assert len(over_budget(spoilt)) == 1
    assert over_budget(link(*FORMS[0])) == frozenset()
    assert "✗ no number" in section_of(proved(passed=False, links=(spoilt,)), "links")


def test_all_of_a_few_clips_is_not_read_as_always() -> None:
    assert certainty(1.0, 12) == "100% of 12 clips; with so few the true share may be as low as 76%"
    assert certainty(1.0, 128) == "100% of 128 clips; the true share may be as low as 97%"
    assert certainty(1.0, 256).endswith("as low as 98.5%")
    assert certainty(1.0, 12) in text_of(proved(12))
    assert "true share ≥ 76%" in section_of(proved(12), "links")


@pytest.mark.parametrize(
    ("part", "words"),
    [
        (1.0, "100%"), (0.0, "0%"), (0.5, "50%"), (0.984375, "98.4%"), (0.9999, "99.99%"),
        (0.99999999, "99.999999%"), (0.0002, "0.02%"), (0.00123, "0.12%"), (1e-9, "under 0.0001%"),
        (0.031, "3.1%"), (math.nan, "no number"),
    ],
)  # fmt: skip
def test_a_percentage_has_the_digits_that_it_needs(part: float, words: str) -> None:
    assert percent(part) == words


def test_only_all_is_called_all() -> None:
    for exponent in range(1, 16):
        assert percent(1 - 10.0**-exponent) != "100%"
        assert percent(10.0**-exponent) != "0%"


def test_small_figures_are_written_so_that_they_can_be_told_apart() -> None:
    found = [figure(value) for value in (0.0, 1.23e-7, 0.0007, 0.034, 1.5, math.inf)]
    assert found == ["0", "1.2e-07", "0.0007", "0.034", "1.5", "no number"]


def test_names_are_listed_as_a_person_lists_them() -> None:
    assert [listed(["a", "b", "c"][:n]) for n in range(4)] == ["", "a", "a and b", "a, b and c"]


# Clips that flip.


def test_a_clip_that_flips_in_two_forms_has_one_card_with_its_picture() -> None:
    certificate = samples.failed()
    page = certificate_html(certificate, {flip(7, "bend", 0).clip: b"\xff\xd8jpeg"})
    assert page.count("<li class=card>") == 7
    assert page.count("<b><bdi>fight_007.mp4</bdi></b>") == 1
    assert page.count("data:image/jpeg;base64,/9hqcGVn") == 1
    assert page.count("<span class=thumbnail") == 6
    card = page[page.index("<b><bdi>fight_007.mp4") :]
    text = Parsed(card[: card.index("</div>")]).text
    assert "in the data: fight" in text
    assert re.search(r"ONNX Runtime fp16 fight ✓ → wave_one_hand\s+margin 1.2%", text)
    assert re.search(r"OpenVINO int8 fight ✓ → no_fight\s+margin 29.5%", text)


def test_the_surest_flips_come_first_and_many_are_folded() -> None:
    flips = [flip(index, "bend", index / 100) for index in range(MOST_CARDS + 5)]
    certificate = proved(links=(link(*FORMS[0], flips=flips),))
    page = certificate_html(certificate)
    cards = page.split("<details>")
    assert cards[0].count("<li class=card>") == MOST_CARDS
    assert "5 more clips, with smaller margins" in cards[1]
    assert cards[1].count("<li class=card>") == 5
    margins = [float(found) for found in re.findall(r"margin ([\d.]+)%", page)]
    assert margins == sorted(margins, reverse=True)


# Classes, blocks, accuracy, speed, calibration, clips.


def test_the_classes_that_agree_least_come_first_and_the_sound_ones_are_folded() -> None:
    text = section_of(samples.failed(), "classes")
    first, second, third = (text.index(label) for label in ("no_fight", " fight ", "wave_one_hand"))
    assert first < second < third
    assert "85.7% in OpenVINO int8 100% in every other form" in text
    assert "86.4% in OpenVINO int8 95.5% in ONNX Runtime fp16" in text
    assert text.index("3 classes with the same label in every form") > third
    assert "Here none does: in each of 6" in section_of(samples.void(), "classes")


def test_of_classes_that_agree_alike_the_one_that_drifts_most_comes_first() -> None:
    found = link(*FORMS[0]).model_dump()
    for one in found["per_class"]:
        one["largest_difference"] = 0.5 if one["label"] == "no_fight" else 0.001
    certificate = Certificate.model_validate(proved().model_dump() | {"links": [found]})
    text = section_of(certificate, "classes")
    assert text.index("no_fight") < text.index("bend")


def test_many_classes_that_differ_are_folded_after_the_worst() -> None:
    count = MOST_CLASSES + 3
    classes = [
        {
            "label": f"label {index}",
            "clips": 10,
            "agreement": index / 100,
            "largest_difference": 0.1,
            "mean_difference": 0.01,
        }
        for index in range(count)
    ]
    found = link(*FORMS[0]).model_dump() | {"per_class": classes}
    page = certificate_html(Certificate.model_validate(proved().model_dump() | {"links": [found]}))
    assert "<summary>3 classes more</summary>" in page
    places = [page.index(f"<bdi>label {index}</bdi>") for index in range(count)]
    assert all(one < other for one, other in pairwise(places))
    assert places[MOST_CLASSES - 1] < page.index("3 classes more") < places[MOST_CLASSES]


def test_where_a_form_departs_and_what_stays_in_higher_precision_is_told_in_words() -> None:
    text = section_of(samples.failed(), "blocks")
    assert "OpenVINO int8 departs from Trained adapter first in the block" in text
    assert "videomae.encoder.layer.7" in text
    assert "In ONNX Runtime fp16 , 2 blocks stayed in a higher precision" in text
    assert "videomae.encoder.layer.11" in text


def test_accuracy_has_its_interval_and_says_what_it_is_not() -> None:
    text = section_of(samples.failed(), "accuracy")
    assert "OpenVINO int8 85.9% 110 of 128; 79% to 91%" in text
    assert "Validation clips chose the best epoch" in text


def test_a_slower_form_is_called_slower() -> None:
    text = section_of(proved(), "speeds")
    assert "OpenVINO int8 7.42 times as fast as ONNX Runtime fp32 ; 9 rounds" in text
    assert "0.82 times as fast as ONNX Runtime fp32 , so slower" in text
    Parsed(certificate_html(proved(speeds=(Speed(forms=("a", "b"), ratio=0, rounds=1),))))


def calibration(**changes: Any) -> list[str]:
    values = proved().calibration
    assert values is not None
    return calibration_sentences(Calibration.model_validate(values.model_dump() | changes))


def test_calibration_is_told_in_words() -> None:
    text = " ".join(calibration())
    assert "a temperature of 1.42" in text
    assert "off by 11.8% on average before and 3.1% after" in text
    assert (
        "A clip whose best label is below 43% is called unknown; 5% of known clips are then called "
        "unknown."
    ) in text
    assert "No clip is called unknown" in " ".join(calibration(unknown_threshold=None))
    left = " ".join(calibration(temperature=1, reason="too few clips"))
    assert "no temperature was fitted: too few clips." in left
    assert "divided" not in left
    for sentence in calibration():
        assert sentence in section_of(proved(), "calibration")


def test_the_clips_are_named_and_those_left_out_with_the_reason() -> None:
    text = section_of(samples.failed(), "clips")
    assert "named 6 of 6 labels" in text
    assert "fight_001.mp4 fight , SHA-256 000000000000 …" in text
    assert "1 clip could not be decoded" in text
    assert "scene_17.mp4: unreadable" in text
    assert "none was left out" in section_of(proved(), "clips")
    assert "named 1 of 6 labels, most often fight (100% of the clips)" in re.sub(
        r"(?<=fight) ", " ", section_of(samples.void(), "clips")
    )


@pytest.mark.parametrize("passed", [True, False])
@pytest.mark.parametrize("links", [(), (link(*FORMS[0]),)], ids=["no links", "a link"])
def test_a_proof_with_nothing_in_it_is_a_page_all_the_same(passed: bool, links: Any) -> None:
    empty = proved(
        passed=passed, clips=0, proof_clips=(), answered={}, accuracy={"merged": 0.0}, links=links
    )
    Parsed(certificate_html(empty))


def test_a_bar_is_never_longer_than_its_place() -> None:
    widths = [bar(part) for part in (0.25, 1.5, -1.0, math.nan)]
    assert [re.findall(r"width:(.*?)%", html)[0] for html in widths] == [
        "25.0",
        "100.0",
        "0.0",
        "0.0",
    ]


# Thumbnails.


def test_a_thumbnail_is_the_middle_frame_and_small() -> None:
    frames = np.zeros((5, 240, 320, 3), np.uint8)
    frames[2] = (200, 30, 30)
    found = thumbnails.thumbnail(frames)
    picture = Image.open(io.BytesIO(found))
    assert picture.format == "JPEG"
    assert picture.size == (128, 96)
    assert np.abs(np.asarray(picture)[48, 64].astype(int) - (200, 30, 30)).max() < 12
    assert len(found) < 8_000
    small = thumbnails.thumbnail(frames[:, :96, :128])
    assert Image.open(io.BytesIO(small)).size == (128, 96)


def test_the_samples_are_what_their_names_say() -> None:
    assert [one.verdict for one in ALL.values()] == ["proved", "proved", "failed", "void"]
    assert samples.built().unrun
    assert set(proved().answered) == set(LABELS)
