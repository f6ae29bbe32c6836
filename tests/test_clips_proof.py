"""A decoder that gives wrong frames is found out, and by the right name, before it meets a stranger's file."""

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import get_args

import numpy as np
import pytest

from lora_deploy import doctor
from lora_deploy.cli import run
from lora_deploy.clips import pool, proof, proven
from lora_deploy.clips.clip import Effort
from lora_deploy.clips.contract import PixelContract
from lora_deploy.clips.numbered import cells_of, read_number, read_number_and_turn
from lora_deploy.clips.pool import DecodePool, Decoder
from lora_deploy.clips.proof import CONTRACT, FOLDER, known_clips
from lora_deploy.errors import (
    ClipError,
    DecoderError,
    DecoderUnprovedError,
    FirstFramesOnlyError,
    RepeatedFramesError,
    RotationIgnoredError,
    SampledByIndexError,
    WrongFramesError,
)
from scripts import proof_clips
from tests.faulty_decoder import CHOICES, SPOILED
from tests.stub_decoder import worker_command

FAULTS: dict[str, type[DecoderError]] = {
    "stuck half way": RepeatedFramesError,
    "every other twice": RepeatedFramesError,
    "one picture": RepeatedFramesError,
    "pictures as stored": RotationIgnoredError,
    "upside down": RotationIgnoredError,
    "begin of stretches": SampledByIndexError,
    "middle of stretches": SampledByIndexError,
    "both ends": SampledByIndexError,
    "first frames": FirstFramesOnlyError,
    "first quarter of a second": FirstFramesOnlyError,
    "one late": WrongFramesError,
    "backwards": WrongFramesError,
    "blue for red": WrongFramesError,
    "mirrored": WrongFramesError,
    "black": WrongFramesError,
    "blended": WrongFramesError,
    "refuses": DecoderUnprovedError,
}

Faulty = Callable[..., DecodePool]


@pytest.fixture
def faulty(monkeypatch: pytest.MonkeyPatch) -> Iterator[Faulty]:
    """Opens a pool whose workers commit the fault that is named."""
    opened: list[DecodePool] = []

    def open_pool(fault: str, effort: Effort = "exact") -> DecodePool:
        command = worker_command(
            "import faulty_decoder",
            f"faulty_decoder.FAULT = {fault!r}",
            "worker.DECODERS['av'] = 'faulty_decoder'",
        )
        monkeypatch.setattr(pool, "_WORKER_COMMAND", command)
        opened.append(DecodePool(1, effort=effort))
        return opened[-1]

    yield open_pool
    for running in opened:
        running.close()


@pytest.fixture
def proofs(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The decoders that are proved from here on, none having been proved before."""
    monkeypatch.setattr(pool, "_PROVED", set())
    names: list[str] = []
    really = proof.prove_decoder

    def counted(decode: proof.Decode, *, decoder: str, frames_off: int) -> proof.DecoderProof:
        names.append(decoder)
        return really(decode, decoder=decoder, frames_off=frames_off)

    monkeypatch.setattr(pool, "prove_decoder", counted)
    return names


@pytest.mark.parametrize("effort", get_args(Effort))
@pytest.mark.parametrize("decoder", get_args(Decoder))
def test_the_decoders_give_the_right_frames(decoder: Decoder, effort: Effort) -> None:
    with DecodePool(1, decoder=decoder, effort=effort) as running:
        found = running.prove()
    assert found.decoder == decoder
    assert set(found.right) == set(known_clips())
    assert found.refused == ()


def test_the_decoder_that_the_faults_are_made_of_is_right_without_them(faulty: Faulty) -> None:
    assert set(faulty("none").prove().right) == set(known_clips())


@pytest.mark.parametrize("fault", FAULTS)
def test_every_fault_is_called_by_its_name(fault: str, faulty: Faulty) -> None:
    with pytest.raises(DecoderError) as caught:
        faulty(fault).prove()
    assert type(caught.value) is FAULTS[fault]
    assert "--decoder av" in str(caught.value)


def test_no_fault_is_left_untried() -> None:
    tried = {*FAULTS, "pictures as stored", "refuses"}
    assert {*CHOICES, *SPOILED} <= tried


@pytest.mark.parametrize("fault", ["begin of stretches", "first frames", "stuck half way"])
def test_what_fast_may_be_off_hides_no_fault(fault: str, faulty: Faulty) -> None:
    with pytest.raises(FAULTS[fault]):
        faulty(fault, effort="fast").prove()


def test_fast_may_be_a_frame_off_and_exact_may_not(faulty: Faulty) -> None:
    assert faulty("one late", effort="fast").prove().right
    with pytest.raises(WrongFramesError, match=r"pictures 4 12 .* where 3 11 .* were asked for"):
        faulty("one late").prove()


def test_a_refused_clip_is_honest_and_is_told(faulty: Faulty) -> None:
    found = faulty("refuses Matroska").prove()
    assert found.refused == ("open-groups.mkv",)
    assert set(found.right) == set(known_clips()) - set(found.refused)


def test_a_clip_from_which_a_decoder_never_returns_costs_seconds_and_not_a_minute(
    faulty: Faulty, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert pool.PROOF_DEADLINE_SECONDS < pool.DEADLINE_SECONDS / 10
    monkeypatch.setattr(pool, "PROOF_DEADLINE_SECONDS", 0.5)
    started = time.monotonic()
    assert faulty("never returns from Matroska").prove().refused == ("open-groups.mkv",)
    assert time.monotonic() - started < 10


@pytest.mark.parametrize(
    ("by_its_times", "kind"), [(False, SampledByIndexError), (True, RepeatedFramesError)]
)
def test_decord_as_its_manual_has_it_is_found_out(
    by_its_times: bool, kind: type[DecoderError], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By index, and by the times that it tells itself: then it repeats frames of the edit list."""
    command = worker_command(
        f"import naive_decord; naive_decord.BY_ITS_TIMES = {by_its_times}",
        "worker.DECODERS['decord'] = 'naive_decord'",
    )
    monkeypatch.setattr(pool, "_WORKER_COMMAND", command)
    with DecodePool(1, decoder="decord") as running, pytest.raises(kind):
        running.prove()


# When


def test_a_decoder_is_proved_once_before_it_gets_a_first_file(
    media: Path, proofs: list[str]
) -> None:
    path = media / "clips" / "asl" / "book.mkv"
    for decoder in get_args(Decoder):
        with DecodePool(2, decoder=decoder) as running:
            waiting = [running.submit(path, CONTRACT) for _ in range(4)]
            assert [clip.result().frames.shape for clip in waiting] == [CONTRACT.frames_shape] * 4
        with DecodePool(1, decoder=decoder) as running:
            running.decode(path, CONTRACT)
    assert proofs == ["av", "decord"]
    with DecodePool(1, effort="fast") as running:  # it decodes another way
        running.decode(path, CONTRACT)
    assert proofs == ["av", "decord", "av"]


def test_a_wrong_decoder_stops_all_before_a_row_is_written(faulty: Faulty, media: Path) -> None:
    paths = [str(media / "clips" / "asl" / "book.mkv")] * 3
    with DecodePool(1) as sound:
        sound.decode(Path(paths[0]), CONTRACT)  # another worker's proof says nothing of this one
    running = faulty("every other twice")
    with pytest.raises(RepeatedFramesError):
        next(running.in_order(paths, CONTRACT))
    with pytest.raises(RepeatedFramesError):  # and it is not forgiven at the second try
        running.decode(Path(paths[0]), CONTRACT)


def test_what_can_not_be_opened_needs_no_proof(proofs: list[str], tmp_path: Path) -> None:
    with DecodePool(1) as running:
        with pytest.raises(ClipError):
            running.decode(tmp_path / "nothing.mp4", CONTRACT)
        assert running.worker_pids() == []
    assert proofs == []


def test_a_pool_without_proof_asks_for_none(faulty: Faulty, media: Path) -> None:
    faulty("one picture")
    with DecodePool(1, proof=False) as running:
        frames = running.decode(media / "clips" / "asl" / "book.mkv", CONTRACT).frames
    np.testing.assert_array_equal(frames, np.broadcast_to(frames[0], frames.shape))


# What doctor says


def test_doctor_says_which_decoders_are_right(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["doctor"]) == 0
    said = capsys.readouterr().out
    for finding in proven.examine():
        assert f"{finding.distribution} gives the right frames (5 clips)" in said
    assert "decord2 3" in said


def test_doctor_complains_of_a_decoder_that_is_wrong(
    faulty: Faulty, capsys: pytest.CaptureFixture[str]
) -> None:
    faulty("first frames")
    assert run(["doctor", "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    [line] = told["complaints"]
    assert line.startswith("av ")
    assert line.endswith("[FirstFramesOnlyError]")
    assert told["decoders"]["av"] == line
    assert run(["doctor"]) == 1
    assert f"! {line}" in capsys.readouterr().out


def test_doctor_names_what_a_decoder_refuses(faulty: Faulty) -> None:
    faulty("refuses Matroska")
    [line] = [str(one) for one in doctor.examine().decoders if one.decoder == "av"]
    assert line.endswith("gives the right frames (4 clips; it refuses open-groups.mkv)")


# The clips


def test_the_clips_are_small_and_say_what_their_script_says(tmp_path: Path) -> None:
    proof_clips.write(tmp_path)
    assert (tmp_path / "truth.json").read_bytes() == (FOLDER / "truth.json").read_bytes()
    assert {path.name for path in FOLDER.iterdir()} == {*known_clips(), "truth.json"}
    assert all(path.stat().st_size < 6000 for path in FOLDER.iterdir())


def test_the_clips_can_tell_the_faults_apart() -> None:
    for clip in known_clips().values():
        assert len(set(clip.expected)) == CONTRACT.frames
        assert clip.shown.index(clip.expected[-1]) > len(clip.shown) // 2
        stretches = [
            clip.shown.index(n) * CONTRACT.frames // len(clip.shown) for n in clip.expected
        ]
        off = [abs(stretch - at) for at, stretch in enumerate(stretches)]
        assert (max(off) > 1) == clip.variable_rate
    assert any(clip.variable_rate for clip in known_clips().values())


def test_a_number_is_read_only_where_it_stands() -> None:
    for number in range(256):
        picture = np.kron(cells_of(number), np.ones((4, 4), np.uint8))[..., None]
        frame = np.repeat(picture * np.uint8(255), 3, axis=2)
        assert read_number(frame) == number
        assert read_number_and_turn(np.rot90(frame)) == (number, 3)
        assert read_number(frame[:, ::-1]) is None
        for cell in range(16):  # one cell wrong
            wrong = cells_of(number).copy()
            wrong.flat[cell] ^= 1
            spoiled = np.kron(wrong, np.ones((4, 4), np.uint8))[..., None] * np.uint8(255)
            assert read_number(np.repeat(spoiled, 3, axis=2)) is None


def test_the_contract_of_the_proof_shows_the_whole_picture() -> None:
    assert CONTRACT.short_side == CONTRACT.crop_height == CONTRACT.crop_width
    assert isinstance(CONTRACT, PixelContract)
