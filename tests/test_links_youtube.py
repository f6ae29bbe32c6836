"""Links to YouTube: a real yt-dlp with our options before a loopback YouTube that serves real clips."""

import os
import time
from pathlib import Path
from typing import Any

import pytest

from lora_deploy import errors
from lora_deploy.clips.contract import PixelContract
from lora_deploy.clips.pool import DecodePool
from lora_deploy.errors import LinkError
from lora_deploy.links import LinkLimits, errand, fetch
from tests import loopback_web as loopback
from tests.loopback_web import AV01, AVC1, COMBINED, SOUND, VIDEO, VP9, Servers, Web

LIMITS = LinkLimits(deadline_seconds=30.0)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    folder = tmp_path / "out"
    folder.mkdir()
    return folder


def refusal(out: Path, link: str = VIDEO, limits: LinkLimits = LIMITS) -> LinkError:
    """What ``fetch`` raises; it has left nothing behind."""
    with pytest.raises(LinkError) as caught:
        fetch(link, out, limits=limits)
    assert list(out.iterdir()) == []
    return caught.value


def asked_players(web: Web) -> list[str]:
    return [path for _, path in web.requests if "/youtubei/v1/player" in path]


def test_a_video_comes_whole_and_is_decoded(web: Web, out: Path, link_clip: bytes) -> None:
    fetched = fetch(f"{VIDEO}&t=2&end=7", out, limits=LIMITS)
    assert list(out.iterdir()) == [fetched.path]
    assert fetched.path.read_bytes() == link_clip
    assert fetched.title == "Two people wrestle"
    assert (fetched.start_seconds, fetched.end_seconds) == (2.0, 7.0)
    with DecodePool(1, proof=False) as pool:
        contract = PixelContract(frames=4, short_side=32, crop_height=32, crop_width=32)
        assert pool.decode(fetched.path, contract).duration_seconds > 1


def test_the_file_has_a_name_of_ours_and_the_title_is_one_line(web: Web, out: Path) -> None:
    web.details["title"] = "../../etc/passwd\n\x1b[31m<b>%(id)s</b>\u202etxt.exe\x00" + "x" * 500
    fetched = fetch(VIDEO, out, limits=LIMITS)
    assert fetched.path.parent == out
    assert fetched.path.stem.removeprefix("link-").isalnum()
    assert fetched.path.suffix == ".mp4"
    assert fetched.title.isprintable()
    assert len(fetched.title) <= 200
    assert fetched.title.startswith("../../etc/passwd [31m<b>%(id)s</b> txt.exe x")


def test_progress_is_told_and_never_runs_back(web: Web, out: Path, link_clip: bytes) -> None:
    def slowly(handler: loopback.Handler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(link_clip)))
        handler.end_headers()
        for at in range(0, len(link_clip), 1 << 16):
            handler.wfile.write(link_clip[at : at + (1 << 16)])
            time.sleep(0.1)

    web.media = slowly
    parts: list[float] = []
    fetch(VIDEO, out, limits=LIMITS, progress=parts.append)
    assert len(parts) >= 2
    assert parts == sorted(parts)
    assert all(0 <= part <= 1 for part in parts)


def test_a_progress_that_raises_ends_the_fetching(web: Web, out: Path) -> None:
    web.media = loopback.endless(pause_seconds=0.05)

    def stop(_: float) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch(VIDEO, out, limits=LIMITS, progress=stop)
    assert list(out.iterdir()) == []


def test_it_ends_in_silence_too(web: Web, out: Path) -> None:
    web.media = loopback.endless(b"", pause_seconds=0.1)
    told: list[float] = []

    def stop(part: float) -> None:
        told.append(part)
        if len(told) == 3:
            raise KeyboardInterrupt

    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        fetch(VIDEO, out, limits=LIMITS, progress=stop)
    assert time.monotonic() - started < 10
    assert list(out.iterdir()) == []


# Which format -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("adaptive", "height", "chosen"),
    [
        ([*AVC1, *VP9, *AV01, SOUND], 480, "1003"),
        ([*AVC1, *VP9, *AV01, SOUND], 300, "1002"),
        ([*AVC1, *VP9, *AV01, SOUND], 100, "1000"),
        ([*AVC1[:2], *VP9, *AV01, SOUND], 480, "18"),  # combined, 360 lines, is the largest avc1
        ([*VP9[1:3], *AV01], 240, "18"),
        ([], 480, "18"),
    ],
)
def test_the_smallest_sufficient_avc1_is_fetched(
    web: Web, out: Path, adaptive: list[dict[str, Any]], height: int, chosen: str
) -> None:
    web.adaptive = adaptive
    fetch(VIDEO, out, limits=LinkLimits(height=height, deadline_seconds=30))
    assert set(web.media_requests()) == {chosen}


@pytest.mark.parametrize(
    ("adaptive", "chosen"),
    [([*VP9, *AV01], "2003"), (AV01, "3003"), ([VP9[0], *AV01], "2000")],
)
def test_other_codecs_are_fetched_where_there_is_no_avc1(
    web: Web, out: Path, adaptive: list[dict[str, Any]], chosen: str
) -> None:
    web.combined = []
    web.adaptive = adaptive
    fetch(VIDEO, out, limits=LIMITS)
    assert set(web.media_requests()) == {chosen}


def test_a_portrait_is_measured_by_its_short_side(web: Web, out: Path) -> None:
    web.combined = []
    web.adaptive = [
        loopback.media(1, width=270, height=480), loopback.media(2, width=480, height=854),
    ]  # fmt: skip
    fetch(VIDEO, out, limits=LIMITS)
    assert set(web.media_requests()) == {"2"}


def test_a_format_that_is_too_large_gives_way_to_a_smaller_one(web: Web, out: Path) -> None:
    web.combined = []
    web.adaptive = [{**one, "contentLength": str((at + 1) << 20)} for at, one in enumerate(AVC1)]
    fetch(VIDEO, out, limits=LinkLimits(max_bytes=3 << 20, deadline_seconds=30))
    assert set(web.media_requests()) == {"1002"}


def test_only_playlists_of_pieces_is_no_format(web: Web, out: Path) -> None:
    web.combined, web.adaptive = [], [SOUND]
    web.streaming = {
        "hlsManifestUrl": "https://r1.googlevideo.com/hls.m3u8",
        "dashManifestUrl": "https://r1.googlevideo.com/dash.mpd",
    }
    assert refusal(out).kind == "no_format"
    assert web.media_requests() == []


def test_protected_formats_are_no_format(web: Web, out: Path) -> None:
    web.combined = []
    web.adaptive = [{**one, "drmFamilies": ["WIDEVINE"]} for one in AVC1]
    web.streaming = {"licenseInfos": [{}]}
    assert refusal(out).kind == "no_format"


def test_without_a_javascript_runtime_that_is_what_is_said(
    web: Web, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(errand, "_javascript", lambda: None)
    web.combined = web.adaptive = []
    error = refusal(out)
    assert error.kind == "no_javascript"
    assert "deno" in str(error)


def test_without_a_javascript_runtime_a_video_may_come_all_the_same(
    web: Web, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(errand, "_javascript", lambda: None)
    fetch(VIDEO, out, limits=LIMITS)
    assert len(asked_players(web)) == 1


def test_with_a_javascript_runtime_more_of_youtube_is_asked(web: Web, out: Path) -> None:
    if errand._javascript() is None:
        pytest.skip("no deno is installed")
    fetch(VIDEO, out, limits=LIMITS)
    assert len(asked_players(web)) > 1  # yt-dlp has found deno, and its scripts for it


# Which videos -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("details", "kind"),
    [
        ({"isLive": True, "isLiveContent": True}, "live"),
        ({"isPostLiveDvr": True, "isLiveContent": True}, "live"),
        ({"isUpcoming": True, "isLiveContent": True}, "premiere"),
        ({"lengthSeconds": "601"}, "too_long"),
        ({"lengthSeconds": None}, "too_long"),
    ],
)
def test_a_video_that_may_not_be_fetched_is_refused_before_its_file_is_asked_for(
    web: Web, out: Path, details: dict[str, Any], kind: str
) -> None:
    web.details.update(details)
    assert refusal(out).kind == kind
    assert web.media_requests() == []


def test_a_video_of_just_the_allowed_length_is_fetched(web: Web, out: Path) -> None:
    web.details["lengthSeconds"] = "600"
    fetch(VIDEO, out, limits=LIMITS)


def test_what_was_live_once_is_fetched(web: Web, out: Path) -> None:
    web.details.update(isLive=False, isLiveContent=True)
    fetch(VIDEO, out, limits=LIMITS)


def test_a_start_beyond_the_end_is_refused_before_the_file_is_asked_for(
    web: Web, out: Path
) -> None:
    error = refusal(out, f"{VIDEO}&t=10")
    assert error.kind == "times"
    assert "0:10 long" in str(error)
    assert web.media_requests() == []


def test_the_length_is_told_where_it_is_too_much(web: Web, out: Path) -> None:
    web.details["lengthSeconds"] = "3723"
    assert "1:02:03 long, and at most 10:00 is fetched" in str(refusal(out))


SAID = [
    ("LOGIN_REQUIRED", "Sign in to confirm you’re not a bot", None, "sign_in"),
    ("LOGIN_REQUIRED", "Sign in to confirm your age", None, "age"),
    (
        "LOGIN_REQUIRED",
        "Private video",
        "Sign in if you've been granted access to this video",
        "private",
    ),
    ("UNPLAYABLE", "Join this channel to get access to members-only content", None, "members"),
    ("UNPLAYABLE", "This video requires payment to watch.", None, "members"),
    ("ERROR", "Video unavailable", "This video has been removed by the uploader", "removed"),
    ("ERROR", "Video unavailable", "This video is private", "private"),
    ("ERROR", "This video isn't available anymore", None, "removed"),
    (
        "UNPLAYABLE",
        "Video unavailable",
        "The uploader has not made this video available in your country",
        "region",
    ),
    ("UNPLAYABLE", "This video is not available in your country", None, "region"),
    ("LIVE_STREAM_OFFLINE", "Premieres in 3 hours", None, "premiere"),
    ("LIVE_STREAM_OFFLINE", "This live event will begin in 2 days.", None, "premiere"),
    ("UNPLAYABLE", "This content isn't available, try again later.", None, "busy"),
    ("UNPLAYABLE", "A sentence that YouTube made up this morning", None, "outdated"),
]


@pytest.mark.parametrize(("state", "reason", "more", "kind"), SAID)
def test_what_youtube_says_becomes_a_sentence(
    web: Web, out: Path, state: str, reason: str, more: str | None, kind: str
) -> None:
    web.combined = web.adaptive = []
    web.playability = {"status": state, "reason": reason}
    if more:
        web.playability["errorScreen"] = {
            "playerErrorMessageRenderer": {
                "reason": {"simpleText": reason},
                "subreason": {"simpleText": more},
            }
        }
    error = refusal(out)
    assert error.kind == kind
    assert reason not in str(error)
    assert "yt-dlp" not in str(error) or kind == "outdated"


def test_a_film_whose_trailer_is_offered_instead_is_refused(web: Web, out: Path) -> None:
    web.playability = {
        "status": "UNPLAYABLE",
        "errorScreen": {"playerLegacyDesktopYpcTrailerRenderer": {"trailerVideoId": "trailerABCD"}},
    }
    assert refusal(out).kind == "members"


def test_answers_about_another_video_are_refused(web: Web, out: Path) -> None:
    web.details["videoId"] = "anotherONE1"
    assert refusal(out).kind == "sign_in"  # yt-dlp: the address of the server is likely blocked


def test_an_answer_in_a_shape_that_yt_dlp_does_not_know_asks_for_an_update(
    web: Web, out: Path
) -> None:
    web.player_status = 400
    error = refusal(out)
    assert error.kind == "outdated"
    assert "pip install -U" in str(error)


def test_an_api_that_asks_for_a_pause_is_busy(web: Web, out: Path) -> None:
    web.player_status = 429
    assert refusal(out).kind == "busy"


# What the network does ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("number", "kind"), [(403, "refused"), (404, "not_found"), (410, "not_found"), (429, "busy")]
)
def test_a_file_that_is_not_given_out(web: Web, out: Path, number: int, kind: str) -> None:
    web.media = loopback.status(number)
    assert refusal(out).kind == kind


def test_a_server_that_is_out_of_order_is_asked_again_and_then_given_up(
    web: Web, out: Path
) -> None:
    web.media = loopback.status(503)
    assert refusal(out).kind == "refused"
    assert 1 < len(web.media_requests()) < 5


def test_a_page_instead_of_a_video(web: Web, out: Path) -> None:
    web.media = loopback.page()
    assert refusal(out).kind == "not_video"


def test_an_empty_answer(web: Web, out: Path) -> None:
    web.media = loopback.content(b"")
    assert refusal(out).kind in ("refused", "not_video")


def test_a_body_without_end_is_cut_off_at_the_limit(
    web: Web, out: Path, link_servers: Servers
) -> None:
    web.media = loopback.endless(pause_seconds=0.005)
    link_servers.change = "child._ROOM_BYTES = 1 << 40"  # not by the kernel
    limits = LinkLimits(max_bytes=1_000_000, deadline_seconds=15)
    assert refusal(out, limits=limits).kind == "too_large"


def test_the_kernel_holds_a_file_that_nothing_else_has_stopped(
    web: Web, out: Path, link_servers: Servers
) -> None:
    web.media = loopback.endless()
    link_servers.change = """
from lora_deploy.links import youtube
real = youtube._options
def unguarded(errand, tell):
    options = real(errand, tell)
    del options["progress_hooks"], options["max_filesize"]
    return options
youtube._options = unguarded
"""
    assert refusal(out, limits=LinkLimits(max_bytes=1_000_000)).kind == "too_large"


def test_a_size_that_is_announced_too_large_is_not_fetched(web: Web, out: Path) -> None:
    web.media = loopback.short(bytes(1000), announced=300 << 20)
    error = refusal(out)
    assert error.kind == "too_large"


def test_a_file_larger_than_its_description_is_cut_off(web: Web, out: Path) -> None:
    web.combined, web.adaptive = [], [{**AVC1[3], "contentLength": "1000"}]
    web.media = loopback.endless()
    assert refusal(out, limits=LinkLimits(max_bytes=1_000_000)).kind == "too_large"


def test_less_than_was_announced_is_no_video(web: Web, out: Path, link_clip: bytes) -> None:
    web.media = loopback.short(link_clip[:10_000], announced=20_000)
    assert refusal(out).kind in ("refused", "no_network")


@pytest.mark.parametrize("block", [b"", b"x"], ids=["silent", "a byte now and then"])
def test_a_slow_server_ends_at_the_deadline(web: Web, out: Path, block: bytes) -> None:
    web.media = loopback.endless(block, pause_seconds=0.2)
    started = time.monotonic()
    error = refusal(out, limits=LinkLimits(deadline_seconds=4.0))
    assert error.kind == "timeout"
    assert "4 seconds" in str(error)
    assert time.monotonic() - started < 6


def test_a_file_is_taken_from_another_server_of_youtube(web: Web, out: Path) -> None:
    real = web.media

    def reply(handler: loopback.Handler) -> None:
        moved = handler.headers["Host"] == "r2.googlevideo.com"
        where = f"https://r2.googlevideo.com{handler.path}"
        (real if moved else loopback.redirect(where))(handler)

    web.media = reply
    fetch(VIDEO, out, limits=LIMITS)
    assert {host for host, _ in web.requests} >= {"r1.googlevideo.com", "r2.googlevideo.com"}


@pytest.mark.parametrize(
    "where",
    [
        "https://evil.example.com/clip.mp4",
        "http://evil.example.com/clip.mp4",
        "http://127.0.0.1/clip.mp4",
        "http://[::1]/clip.mp4",
        "http://169.254.169.254/latest/meta-data/",
        "http://2130706433/",
        "http://r1.googlevideo.com:8080/clip.mp4",
        "https://youtube.com.evil.example.com/",
        "file:///etc/passwd",
        "ftp://r1.googlevideo.com/clip.mp4",
        "data:video/mp4;base64,AAAA",
    ],
)
def test_a_redirect_to_elsewhere_is_not_followed(
    web: Web, out: Path, link_servers: Servers, where: str
) -> None:
    web.media = loopback.redirect(where)
    assert refusal(out).kind in ("redirect", "address", "refused", "no_network")
    hosts = {host for host, _ in web.requests}
    assert {host for host in hosts if not host.endswith("googlevideo.com")} <= {"www.youtube.com"}
    assert {event["address"] for event in link_servers.events("connected")} == {"127.0.0.1"}
    assert {event["address"] for event in link_servers.events("connect")} <= {
        loopback.PUBLIC, "127.0.0.1", "::1", "169.254.169.254",
    }  # fmt: skip


def test_a_redirect_from_https_to_http_is_not_followed(web: Web, out: Path) -> None:
    web.media = loopback.redirect("http://r1.googlevideo.com/videoplayback?itag=1")
    assert refusal(out).kind == "redirect"
    assert "1" not in web.media_requests()


PRIVATE = ["127.0.0.1", "10.0.0.8", "169.254.169.254", "::1", "fd00:ec2::254", "64:ff9b::7f00:1"]


@pytest.mark.parametrize("address", PRIVATE)
def test_a_youtube_whose_name_means_a_private_address_is_not_connected_to(
    web: Web, out: Path, link_servers: Servers, address: str
) -> None:
    link_servers.names["www.youtube.com"] = [[address]]
    assert refusal(out).kind == "address"
    assert link_servers.events("connected") == []
    assert web.requests == []


@pytest.mark.parametrize("address", PRIVATE)
def test_a_name_that_turns_private_on_the_way_is_not_connected_to(
    web: Web, out: Path, link_servers: Servers, address: str
) -> None:
    link_servers.names["r1.googlevideo.com"] = [[address]]
    assert refusal(out).kind == "address"
    assert web.media_requests() == []


def test_what_youtube_says_counts_more_than_an_address_that_was_passed_over(
    web: Web, out: Path, link_servers: Servers
) -> None:
    link_servers.names["www.youtube.com"] = [["64:ff9b::7f00:1", loopback.PUBLIC]]
    web.combined = web.adaptive = []
    web.playability = {"status": "LOGIN_REQUIRED", "reason": "Sign in to confirm you’re not a bot"}
    assert refusal(out).kind == "sign_in"


def test_a_format_on_a_host_that_is_not_youtubes_is_not_fetched(web: Web, out: Path) -> None:
    web.combined = []
    web.adaptive = [loopback.media(1, width=854, height=480, host="evil.example.com")]
    assert refusal(out).kind == "redirect"
    assert "evil.example.com" not in {host for host, _ in web.requests}


def test_without_a_network_that_is_what_is_said(web: Web, out: Path, link_servers: Servers) -> None:
    link_servers.names.clear()
    assert refusal(out).kind == "no_network"


def test_a_certificate_of_another_host_is_not_taken(
    web: Web, out: Path, link_servers: Servers
) -> None:
    link_servers.names["r9.googlevideo.com"] = [[loopback.PUBLIC]]
    web.combined = []
    web.adaptive = [loopback.media(1, width=854, height=480, host="r9.googlevideo.com")]
    assert refusal(out).kind == "no_network"
    assert web.media_requests() == []


# What yt-dlp may not use --------------------------------------------------------------------------


def test_proxies_and_settings_of_the_user_are_not_used(
    web: Web, out: Path, link_servers: Servers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, canary = tmp_path / "home", tmp_path / "canary"
    (home / ".config" / "yt-dlp").mkdir(parents=True)
    (home / ".config" / "yt-dlp" / "config").write_text(f"--exec 'touch {canary}'\n")
    (home / ".netrc").write_text("machine youtube login a password b\n")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(home / ".config"))
    for name in PROXIES:
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    fetch(VIDEO, out, limits=LIMITS)
    assert not canary.exists()
    assert {event["address"] for event in link_servers.events("connect")} == {loopback.PUBLIC}
    assert not any("Authorization" in headers for headers in web.headers)


def test_a_proxy_in_the_environment_of_the_process_itself_is_not_used_either(
    web: Web, out: Path, link_servers: Servers
) -> None:
    link_servers.change = (
        f"import os; os.environ.update(dict.fromkeys({PROXIES}, 'http://127.0.0.1:9'))"
    )
    fetch(VIDEO, out, limits=LIMITS)
    assert {event["address"] for event in link_servers.events("connect")} == {loopback.PUBLIC}


PROXIES = ["http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"]


def test_plugins_of_yt_dlp_are_not_loaded(
    web: Web, out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    canary = tmp_path / "canary"
    folder = tmp_path / "installed" / "yt_dlp_plugins" / "extractor"
    folder.mkdir(parents=True)
    (folder / "evil.py").write_text(f"open({str(canary)!r}, 'w').close()\n")
    places = [str(tmp_path / "installed"), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(places))
    fetch(VIDEO, out, limits=LIMITS)
    assert not canary.exists()


def test_the_deno_that_comes_with_it_runs_behind_the_gate(
    web: Web, out: Path, link_servers: Servers, tmp_path: Path
) -> None:
    if errand._javascript() is None:
        pytest.skip("no deno is installed")
    seen = tmp_path / "deno.json"
    link_servers.change = f"""
from lora_deploy.links import youtube
def fetch(errand, tell):
    import json, subprocess
    with youtube._Downloader(youtube._options(errand, tell)) as downloader:
        info = downloader._js_runtimes["deno"].info
        said = subprocess.run([info.path, "run", "--no-remote", "--no-prompt", "-"],
            input=b"console.log(6 * 7)", capture_output=True).stdout
        try:
            subprocess.run(["ffmpeg", "-version"])
        except Exception as error:
            refused = type(error).__name__
    with open({str(seen)!r}, "w") as file:
        json.dump([said.decode(), info.supported, refused], file)
    return real(errand, tell)
real = youtube.fetch_video
youtube.fetch_video = fetch
"""
    fetch(VIDEO, out, limits=LIMITS)
    assert seen.read_text() == '["42\\n", true, "Closed"]'


def test_nothing_of_the_extractors_but_youtube_is_there(
    web: Web, out: Path, link_servers: Servers, tmp_path: Path
) -> None:
    seen = tmp_path / "extractors.json"
    link_servers.change = f"""
from lora_deploy.links import youtube
def fetch(errand, tell):
    import json
    with youtube._Downloader(youtube._options(errand, tell)) as downloader:
        names = list(downloader._ies)
    with open({str(seen)!r}, "w") as file:
        json.dump(names, file)
    return real(errand, tell)
real = youtube.fetch_video
youtube.fetch_video = fetch
"""
    fetch(VIDEO, out, limits=LIMITS)
    assert seen.read_text() == '["Youtube"]'


def test_where_yt_dlp_is_not_installed_links_are_unavailable(
    out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(errand, "is_installed", lambda package: package != "yt_dlp")
    error = refusal(out)
    assert isinstance(error, errors.LinksUnavailableError)


def test_a_combined_file_is_not_preferred(web: Web, out: Path) -> None:
    web.combined = [{**COMBINED, "width": 854, "height": 480}]
    fetch(VIDEO, out, limits=LIMITS)
    assert set(web.media_requests()) == {"1003"}
