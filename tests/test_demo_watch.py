"""What the page counts and logs: every request once, by its outcome, and never what visitors sent."""

import asyncio
import json
import logging
import threading

import pytest
from prometheus_client.parser import text_string_to_metric_families

from lora_deploy.errors import ClipError, LoginNeededError
from lora_deploy.web.watch import Watch, kind_of


def numbers(watch: Watch) -> dict[tuple[str, ...], float]:
    """Every sample by its name and the values of its labels."""
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(watch.metrics().decode())
        for sample in family.samples
    }


def lines(caplog: pytest.LogCaptureFixture) -> list[dict[str, object]]:
    return [json.loads(record.getMessage()) for record in caplog.records]


def test_a_request_is_counted_timed_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    watch = Watch()
    with caplog.at_level(logging.INFO, "lora_deploy.demo"), watch.request("classify") as request:
        with request.stage("decode"):
            pass
        with request.stage("infer"):
            pass
    counted = numbers(watch)
    assert counted["lora_deploy_requests_total", "classify", "ok"] == 1
    assert counted["lora_deploy_request_seconds_count", "classify"] == 1
    assert counted["lora_deploy_stage_seconds_count", "decode"] == 1
    assert counted["lora_deploy_requests_under_way",] == 0
    (line,) = lines(caplog)
    assert line.keys() == {"at", "event", "endpoint", "outcome", "seconds", "stages"}
    assert line["stages"] == {"decode": pytest.approx(0, abs=1), "infer": pytest.approx(0, abs=1)}


def test_an_exception_is_counted_by_its_kind_and_passes(caplog: pytest.LogCaptureFixture) -> None:
    watch = Watch()
    secret = "holiday.mp4 of Ada"
    with (
        caplog.at_level(logging.INFO, "lora_deploy.demo"),
        pytest.raises(ClipError),
        watch.request("classify") as request,
        request.stage("decode"),
    ):
        raise ClipError("timeout", secret)
    counted = numbers(watch)
    assert counted["lora_deploy_requests_total", "classify", "error"] == 1
    assert counted["lora_deploy_errors_total", "classify", "timeout"] == 1
    assert counted["lora_deploy_stage_seconds_count", "decode"] == 1
    assert lines(caplog)[0]["kind"] == "timeout"
    assert secret not in caplog.text
    assert secret.encode() not in watch.metrics()


def test_an_error_that_is_told_apart_keeps_its_first_kind() -> None:
    watch = Watch()
    with pytest.raises(RuntimeError), watch.request("timeline") as request:
        request.failed("unreadable")
        raise RuntimeError("how the page tells a visitor")
    assert numbers(watch)["lora_deploy_errors_total", "timeline", "unreadable"] == 1
    assert ("lora_deploy_errors_total", "timeline", "fault") not in numbers(watch)


def test_a_visitor_who_leaves_is_no_error() -> None:
    watch = Watch()
    with pytest.raises(asyncio.CancelledError), watch.request("timeline"):
        raise asyncio.CancelledError
    counted = numbers(watch)
    assert counted["lora_deploy_requests_total", "timeline", "cancelled"] == 1
    assert not any(name[0] == "lora_deploy_errors_total" for name in counted)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (ClipError("no_video", "x"), "no_video"),
        (LoginNeededError("x"), "LoginNeededError"),
        (ValueError("x"), "fault"),
    ],
)
def test_kinds_are_words_of_the_code(error: Exception, kind: str) -> None:
    assert kind_of(error) == kind


def test_no_count_is_lost_between_threads() -> None:
    watch = Watch()

    def work() -> None:
        for _ in range(200):
            with watch.request("classify") as request, request.stage("infer"):
                pass

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    counted = numbers(watch)
    assert counted["lora_deploy_requests_total", "classify", "ok"] == 1600
    assert counted["lora_deploy_stage_seconds_count", "infer"] == 1600
    assert counted["lora_deploy_requests_under_way",] == 0


def test_a_number_that_others_keep_is_shown() -> None:
    watch = Watch()
    watch.follow("queue_length", "Requests that wait", lambda: 7.0)
    assert numbers(watch)["lora_deploy_queue_length",] == 7


def test_two_servers_count_apart() -> None:
    first, second = Watch(), Watch()
    first.rejected("busy")
    assert numbers(first)["lora_deploy_rejected_total", "busy"] == 1
    assert ("lora_deploy_rejected_total", "busy") not in numbers(second)
