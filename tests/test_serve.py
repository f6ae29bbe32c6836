"""What the service answers: the rows of `classify`, whoever else asks; and no word of the server itself."""

import csv
import json
import re
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from lora_deploy.artifact.bundle import EXAMPLE, MANIFEST
from lora_deploy.artifact.manifest import manifest_digest
from lora_deploy.classify.rows import Row
from lora_deploy.classify.stream import classify
from lora_deploy.clips.clip import Footage, Stretch
from lora_deploy.clips.pool import DecodePool
from lora_deploy.runtime.load import load
from lora_deploy.serve import shapes
from tests.serving import Service, ask, serving


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    with serving("--queue", "200") as running:
        yield running


@pytest.fixture(scope="module")
def clips(media: Path) -> list[Path]:
    return sorted((media / "clips" / "asl").glob("*.mkv"))[:6]


def rows_of(paths: list[Path], *, batch_size: int = 1, top_k: int = 5) -> list[dict[str, Any]]:
    """What the command `classify` says of files, without their paths."""
    recogniser = load(EXAMPLE, batch_size=batch_size)
    with DecodePool(2) as pool:
        return [
            without_path(row)
            for row in classify(recogniser, map(str, paths), top_k=top_k, pool=pool)
        ]


def without_path(row: Row) -> dict[str, Any]:
    values: dict[str, Any] = json.loads(row.as_json())
    del values["path"]
    return values


# Answers -----------------------------------------------------------------------------------------


def test_an_answer_is_the_row_of_classify_to_the_last_bit(
    service: Service, clips: list[Path]
) -> None:
    answers = [ask(service.url, clip.read_bytes()) for clip in clips]
    assert [answer.status_code for answer in answers] == [200] * len(clips)
    assert [answer.json() for answer in answers] == rows_of(clips)
    assert len({answer.json()["score"] for answer in answers}) > 1


def test_a_video_may_be_the_body_itself(service: Service, clips: list[Path]) -> None:
    (row,) = rows_of(clips[:1])
    for content_type in ("video/mp4", "Video/X-Matroska; codecs=h264", "application/octet-stream"):
        answer = httpx.post(
            f"{service.url}/v1/classify",
            content=clips[0].read_bytes(),
            headers={"content-type": content_type},
        )
        assert (answer.status_code, answer.json()) == (200, row)


def test_a_body_of_unknown_length_is_taken(service: Service, clips: list[Path]) -> None:
    content = clips[0].read_bytes()
    parts = (content[start : start + 1000] for start in range(0, len(content), 1000))
    answer = httpx.post(
        f"{service.url}/v1/classify", content=parts, headers={"content-type": "video/mp4"}
    )
    assert answer.json() == rows_of(clips[:1])[0]


def test_what_shares_a_batch_changes_no_bit(clips: list[Path]) -> None:
    alone = rows_of(clips, batch_size=4)
    with serving("--batch-size", "4", "--queue", "100") as service, ThreadPoolExecutor(24) as many:
        gate = service.shut("model")  # so that clips gather
        asked = [
            (number, many.submit(ask, service.url, clips[number % len(clips)].read_bytes()))
            for number in range(24)
        ]
        decoded = ("lora_deploy_stage_seconds_count", "decode")
        service.until(lambda: service.numbers().get(decoded, 0) >= 24)
        gate.unlink()
        for number, answer in asked:
            assert answer.result().json() == alone[number % len(clips)]
        seconds = service.numbers()
        assert seconds["lora_deploy_stage_seconds_count", "model"] == 24
        assert seconds["lora_deploy_batches_total",] < 24  # they went together


def test_a_part_of_a_video_is_asked_about_as_classify_does(
    service: Service, clips: list[Path]
) -> None:
    content = clips[0].read_bytes()
    with DecodePool(1) as pool:
        footage = [Footage(clips[0], Stretch(0.5, 1.5)), Footage(clips[0], Stretch(0.5))]
        both = [without_path(row) for row in classify(load(EXAMPLE), footage, pool=pool)]
    for row in both:
        for name in ("start", "end"):
            row.pop(name, None)
    assert ask(service.url, content, start=0.5, end=1.5).json() == both[0]
    assert ask(service.url, content, start=0.5).json() == both[1]
    assert both[0] != both[1]


@pytest.mark.parametrize(
    ("query", "kind"),
    [({"start": 5, "end": 1}, "not_found"), ({"start": 1e6}, "not_found"), ({"end": -1}, "not_found")],
)  # fmt: skip
def test_a_part_that_no_video_has_is_an_error_row(
    service: Service, clips: list[Path], query: dict[str, Any], kind: str
) -> None:
    answer = ask(service.url, clips[0].read_bytes(), **query)
    assert (answer.status_code, answer.json()["error"]["kind"]) == (422, kind)


def test_top_k_says_how_many(service: Service, clips: list[Path]) -> None:
    answer = ask(service.url, clips[0].read_bytes(), top_k=2).json()
    assert answer["top_k"] == rows_of(clips[:1], top_k=2)[0]["top_k"]
    assert len(answer["top_k"]) == 2


def test_awkward_and_hostile_files_get_the_rows_of_classify(service: Service, media: Path) -> None:
    with (media / "expected.csv").open(encoding="utf-8", newline="") as table:
        expected = list(csv.DictReader(table))
    paths = [media / line["file"] for line in expected]
    with ThreadPoolExecutor(4) as several:
        answers = list(several.map(lambda path: ask(service.url, path.read_bytes()), paths))
    rows = rows_of(paths)
    kinds = set()
    for line, answer, row in zip(expected, answers, rows, strict=True):
        assert answer.json() == row, line["file"]
        if line["status"] == "ok":
            assert answer.status_code == 200, line["file"]
        else:
            assert answer.json()["error"]["kind"] == line["kind"], line["file"]
            assert answer.status_code == (413 if line["kind"] == "too_large" else 422)
            kinds.add(line["kind"])
    assert kinds == {"forbidden", "unreadable", "no_video", "too_large"}


# What it says of itself --------------------------------------------------------------------------


def test_the_model_is_described_with_its_verdict(service: Service) -> None:
    answer = httpx.get(f"{service.url}/v1/model")
    about = shapes.About.model_validate(answer.json())
    manifest = json.loads((EXAMPLE / MANIFEST).read_text())
    certificate = json.loads((EXAMPLE / "certificate.json").read_text())
    assert about.model == manifest_digest(EXAMPLE / MANIFEST)
    assert about.labels == manifest["labels"]
    assert about.contract == manifest["contract"]
    assert (about.precision, about.batch_size, about.form) == ("fp32", 1, "merged")
    assert about.certificate is not None
    assert about.certificate.verdict == "proved"
    assert about.certificate.clips == certificate["clips"]


def test_what_is_answered_is_what_openapi_says(
    service: Service, clips: list[Path], media: Path
) -> None:
    description = httpx.get(f"{service.url}/openapi.json").json()
    assert set(description["paths"]) == {
        "/v1/classify", "/v1/model", "/healthz", "/readyz", "/metrics",
    }  # fmt: skip
    asked = description["paths"]["/v1/classify"]["post"]
    assert set(asked["requestBody"]["content"]) == {
        "multipart/form-data", "video/*", "application/octet-stream",
    }  # fmt: skip
    assert {one["name"] for one in asked["parameters"]} == {"top_k", "start", "end"}
    shapes.Row.model_validate(ask(service.url, clips[0].read_bytes()).json())
    shapes.ErrorRow.model_validate(ask(service.url, b"").json())
    shapes.Refusal.model_validate(ask(service.url, b"", top_k=0).json())
    shapes.State.model_validate(httpx.get(f"{service.url}/readyz").json())
    for status, shape in (("200", "Row"), ("422", "ErrorRow"), ("503", "Refusal")):
        content = asked["responses"][status]["content"]["application/json"]
        assert content["schema"]["$ref"].endswith(f"/{shape}")


def test_the_page_for_people_needs_nothing_from_elsewhere(service: Service) -> None:
    page = httpx.get(f"{service.url}/docs")
    assert page.status_code == 200
    assert "/v1/classify" in page.text
    for text in (page.text, httpx.get(f"{service.url}/openapi.json").text):
        assert not re.search(r"https?://|<script|<link|<img", text)
    assert httpx.get(f"{service.url}/redoc").status_code == 404
    assert "default-src 'none'" in page.headers["content-security-policy"]


def test_health_readiness_and_metrics(service: Service, clips: list[Path]) -> None:
    assert httpx.get(f"{service.url}/healthz").json() == {"status": "ok"}
    assert httpx.get(f"{service.url}/readyz").json() == {"status": "ready"}
    before = service.numbers()
    ask(service.url, clips[0].read_bytes())
    ask(service.url, b"no video")
    ask(service.url, b"", top_k=0)
    after = service.numbers()

    def grown(*name: str) -> float:
        return after.get(name, 0) - before.get(name, 0)

    assert grown("lora_deploy_requests_total", "classify", "ok") == 1
    assert grown("lora_deploy_requests_total", "classify", "error") == 1
    assert grown("lora_deploy_errors_total", "classify", "unreadable") == 1
    assert grown("lora_deploy_rejected_total", "bad_request") == 1
    for stage in ("decode", "model"):
        assert grown("lora_deploy_stage_seconds_sum", stage) > 0
    assert grown("lora_deploy_stage_seconds_count", "queue") > 0
    assert after["lora_deploy_queue_length",] == 0
    assert after["lora_deploy_queue_limit",] > 200
    digest = manifest_digest(EXAMPLE / MANIFEST)
    assert after["lora_deploy_model_info", "onnxruntime", digest, "fp32"] == 1
    assert after["process_resident_memory_bytes",] > 0


def test_no_reply_and_no_log_tells_a_place_on_the_server(
    service: Service, clips: list[Path], media: Path
) -> None:
    replies = [
        httpx.get(f"{service.url}{path}")
        for path in ("/", "/docs", "/openapi.json", "/v1/model", "/metrics", "/v1/../etc/passwd")
    ]
    replies += [
        ask(service.url, clips[0].read_bytes(), url="file:///etc/passwd"),
        ask(service.url, b""),
        ask(service.url, (media / "attack" / "hls_passwd_named.mp4").read_bytes()),
        httpx.post(f"{service.url}/v1/classify", data={"url": "http://127.0.0.1/"}),
        httpx.post(f"{service.url}/v1/classify", content=b"{", headers={"content-type": "application/json"}),
        httpx.post(f"{service.url}/v1/classify", files={"file": ("/etc/passwd", b"x")}),
    ]  # fmt: skip
    # A log at the start may name the operator's own files; what follows tells of no visitor.
    texts = [*(reply.text for reply in replies), service.log.read_text()]
    places = {tempfile.gettempdir(), str(EXAMPLE), str(Path.home()), sys.prefix, "/proc/", "/fd/"}
    for text in texts:
        assert [place for place in places if place in text] == []
        assert "passwd" not in text


def test_nothing_else_is_there(service: Service, clips: list[Path]) -> None:
    for path in ("/", "/docs/oauth2-redirect", "/v1/classify/x", "/v2/classify", "/favicon.ico"):
        answer = httpx.get(f"{service.url}{path}")
        shapes.Refusal.model_validate(answer.json())
        assert (answer.status_code, answer.json()["error"]["kind"]) == (404, "no_such_address")
    for method in ("GET", "PUT", "DELETE", "PATCH", "OPTIONS"):
        answer = httpx.request(method, f"{service.url}/v1/classify")
        assert (answer.status_code, answer.headers["allow"]) == (405, "POST")
        shapes.Refusal.model_validate(answer.json())


@pytest.mark.parametrize(
    "query",
    [{"top_k": 0}, {"top_k": 1001}, {"top_k": "many"}, {"start": "soon"}, {"url": "http://x.example/a.mp4"}],
)  # fmt: skip
def test_what_can_not_be_obeyed_is_named(
    service: Service, clips: list[Path], query: dict[str, Any]
) -> None:
    def counted() -> str:
        [line] = [one for one in httpx.get(f"{service.url}/metrics").text.splitlines() if
                  one.startswith("lora_deploy_requests_total") and "rejected" in one] or [""]  # fmt: skip
        return line

    before = counted()
    answer = ask(service.url, clips[0].read_bytes(), **query)
    assert (answer.status_code, answer.json()["error"]["kind"]) == (400, "bad_request")
    assert counted() != before
    assert next(iter(query)) in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("content_type", "status"),
    [("application/json", 415), ("", 415), ("application/x-www-form-urlencoded", 415),
     ("multipart/form-data", 400), ("multipart/form-data; boundary=" + "x" * 300, 400),
     ("image/png", 415)],
)  # fmt: skip
def test_only_forms_and_videos_are_taken(service: Service, content_type: str, status: int) -> None:
    answer = httpx.post(
        f"{service.url}/v1/classify", content=b"x", headers={"content-type": content_type}
    )
    assert answer.status_code == status
    shapes.Refusal.model_validate(answer.json())


def test_an_encoded_body_is_not_taken_for_a_video(service: Service) -> None:
    headers = {"content-type": "video/mp4", "content-encoding": "gzip"}
    answer = httpx.post(f"{service.url}/v1/classify", content=b"x", headers=headers)
    assert (answer.status_code, answer.json()["error"]["kind"]) == (415, "content_type")


def test_a_form_has_one_file_and_nothing_else(service: Service, clips: list[Path]) -> None:
    content = clips[0].read_bytes()
    address = f"{service.url}/v1/classify"
    two = [("file", ("a.mp4", content)), ("file", ("b.mp4", content))]
    for answer, word in (
        (httpx.post(address, files=two), "more than one file"),
        (httpx.post(address, files={"file": ("a.mp4", content)}, data={"top_k": "3"}), "?top_k=3"),
        (httpx.post(address, files={"top_k": (None, "3")}), "?top_k=3"),
        (httpx.post(address, content=b"x", headers={"content-type": "multipart/form-data"}), "no boundary"),
        (httpx.post(address, content=b"torn", headers={"content-type": "multipart/form-data; boundary=b"}), "malformed"),
        (httpx.post(address, content=b"--b\r\ncontent-disposition: form-data; name=file; filename=a\r\n\r\nabc",
                    headers={"content-type": "multipart/form-data; boundary=b"}), "last boundary"),
        (httpx.post(address, content=b"--b--\r\n", headers={"content-type": "multipart/form-data; boundary=b"}), "no file"),
    ):  # fmt: skip
        assert (answer.status_code, answer.json()["error"]["kind"]) == (400, "bad_request")
        assert word in answer.json()["error"]["message"]
    assert "boundary" not in service.log.read_text()  # as the parser would say


def test_a_fault_says_nothing_and_readiness_heals(service: Service, clips: list[Path]) -> None:
    content = clips[0].read_bytes()
    broken = service.shut("broken")
    try:
        answer = ask(service.url, content)
        assert (answer.status_code, answer.json()["error"]["kind"]) == (500, "fault")
        assert "secret" not in answer.text
        state = httpx.get(f"{service.url}/readyz")
        assert (state.status_code, state.json()) == (503, {"status": "failing"})
        assert httpx.get(f"{service.url}/healthz").status_code == 200
    finally:
        broken.unlink()
    assert httpx.get(f"{service.url}/readyz").json() == {"status": "ready"}
    assert ask(service.url, content).status_code == 200
    log = service.log.read_text()  # late: what failed is told of after it was answered
    assert "secret" not in log
    assert '"error": "RuntimeError"' in log
