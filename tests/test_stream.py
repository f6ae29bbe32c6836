"""Decoders and a model side by side: the same bits whoever is ready first, few clips in between, nobody waits for a hang."""

import random
import threading
import time
import weakref
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import CancelledError, Future
from itertools import count, islice, pairwise
from pathlib import Path
from typing import Any, Self

import numpy as np
import pytest
from numpy.typing import NDArray

from lora_deploy.classify import overlap
from lora_deploy.classify.inputs import Item
from lora_deploy.classify.meter import Meter
from lora_deploy.classify.overlap import Known, answered, room_of
from lora_deploy.classify.stream import RowOptions, answers, classify
from lora_deploy.clips import guard, transforms
from lora_deploy.clips import pool as decode_pool
from lora_deploy.clips.clip import DecodedClip, Footage, Stretch
from lora_deploy.clips.contract import PixelContract
from lora_deploy.clips.dataset import LabelledClip
from lora_deploy.clips.pool import DecodePool
from lora_deploy.clips.views import ONE_VIEW, Views
from lora_deploy.errors import (
    ClipError,
    DecodersUnavailableError,
    LoraDeployError,
    ViewsError,
)
from lora_deploy.evaluate.answers import ask
from lora_deploy.export.pipeline import merge_export
from lora_deploy.runtime.base import Recogniser
from lora_deploy.runtime.load import load
from tests import stub_decoder

CONTRACT = PixelContract(frames=2, short_side=16, crop_height=16, crop_width=16)

BACKENDS = ("onnxruntime", "openvino")

Order = Callable[..., Path]
Floats = NDArray[np.float32]


class Threads(DecodePool):
    """A pool without processes: ``work`` is done in its threads, and the clip tells the file's number."""

    def __init__(self, workers: int, work: Callable[[int], None] = lambda number: None) -> None:
        super().__init__(workers)
        self.work = work
        self.held = 0
        """Decoded clips whose frames are still held by somebody."""
        self.most_held = 0

    def __enter__(self) -> Self:
        return self

    def submit(
        self, path: Path, contract: PixelContract, stretch: Stretch | None = None
    ) -> Future[DecodedClip]:
        return self._threads.submit(self._clip, int(path.stem), contract)

    def _clip(self, number: int, contract: PixelContract) -> DecodedClip:
        begun = time.monotonic()
        self.work(number)
        frames = np.full(contract.frames_shape, number % 251, np.uint8)
        with self._lock:
            self._busy_seconds += time.monotonic() - begun
            self.held += 1
            self.most_held = max(self.most_held, self.held)
        weakref.finalize(frames, self._forget)
        return DecodedClip(frames, (0.0, 1.0), 2.0, None)

    def _forget(self) -> None:
        self.held -= 1


class Model:
    """A backend that says how bright a clip is, after ``work``."""

    name, form = "none", "merged"

    def __init__(self, batch_size: int = 1, work: Callable[[int], None] = lambda _: None) -> None:
        self.batch_size = batch_size
        self.work = work
        self.batches = 0

    def logits(self, pixel_values: Floats) -> Floats:
        assert len(pixel_values) == self.batch_size
        self.batches += 1
        self.work(self.batches)
        means = pixel_values.mean(axis=(1, 2, 3, 4), dtype=np.float64)
        return np.stack([means, -means], axis=1).astype(np.float32)


class FramesModel(Model):
    """The same, which normalises frames itself."""

    def logits(self, pixel_values: Floats) -> Floats:
        raise AssertionError("it was to be handed frames")

    def logits_of_frames(self, frames: NDArray[np.uint8]) -> Floats:
        assert frames.dtype == np.uint8
        return super().logits(transforms.normalise(frames, CONTRACT))


def recogniser(model: Model) -> Recogniser:
    return Recogniser(
        backend=model, labels=("bright", "dark"), contract=CONTRACT, temperature=1.0, digest="none"
    )


def files(numbers: Iterable[int]) -> Iterator[tuple[int, Item]]:
    for number in numbers:
        path = Path(f"{number}.mp4")
        yield number, Item(str(path), Footage(path))


def give_up(rows: Iterator[object]) -> None:
    assert isinstance(rows, Generator)
    rows.close()


def threads_at_work() -> set[str]:
    return {thread.name for thread in threading.enumerate()} & {"batches", "model"}


# Bits ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def two_forms(tmp_path_factory: pytest.TempPathFactory, lora_run: Path) -> Path:
    """A BUNDLE for both runtimes."""
    out = tmp_path_factory.mktemp("two-forms") / "bundle"
    merge_export(lora_run, out, targets=("onnx", "openvino"))
    return out


class Jittered(DecodePool):
    """A real pool whose clips are ready in another order each time."""

    def __init__(self, workers: int, seed: int) -> None:
        super().__init__(workers)
        self._generator = random.Random(seed)

    def _decode(self, path: Path, contract: PixelContract, stretch: Stretch) -> DecodedClip:
        clip = super()._decode(path, contract, stretch)
        time.sleep(self._generator.random() * 0.05)
        return clip


def numbers_of(
    model: Recogniser, paths: Sequence[Path], pool: DecodePool
) -> tuple[list[int], dict[str, set[bytes]]]:
    """The order of completion, and of each file the bits of its logits, all different ones."""
    order, bits = [], dict[str, set[bytes]]()
    jobs = ((number, Footage(path)) for number, path in enumerate(paths))
    for number, outcome in answered(model, jobs, views=ONE_VIEW, pool=pool, meter=Meter()):
        assert isinstance(outcome, Known)
        order.append(number)
        bits.setdefault(str(paths[number]), set()).add(outcome.logits.tobytes())
    return order, bits


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_the_bits_of_a_clip_depend_neither_on_its_place_nor_on_its_company_nor_on_the_workers(
    backend: str, batch_size: int, two_forms: Path, test_clips: list[Path]
) -> None:
    model = load(two_forms, backend=backend, batch_size=batch_size)
    with DecodePool(1) as pool:
        alone = {}
        for path in test_clips:
            alone.update(numbers_of(model, [path], pool)[1])
    assert len({bits for found in alone.values() for bits in found}) == len(test_clips)
    out_of_order = 0
    for workers in (1, 4):
        for seed in range(2):
            paths = [*test_clips, *test_clips[:3], test_clips[0]]
            random.Random(seed).shuffle(paths)
            with Jittered(workers, seed) as pool:
                order, bits = numbers_of(model, paths, pool)
            assert bits == alone
            assert sorted(order) == list(range(len(paths)))
            out_of_order += order != sorted(order)
    assert out_of_order  # else nothing was shown


def test_rows_come_in_order_and_are_the_same_with_one_worker_and_with_four(
    two_forms: Path, test_clips: list[Path], media: Path
) -> None:
    model = load(two_forms, batch_size=4)
    paths = [str(media / "nowhere.mp4"), *map(str, test_clips), str(media / "malformed")]
    found = []
    for workers in (1, 4):
        with Jittered(workers, seed=workers) as pool:
            found.append(list(classify(model, paths, pool=pool)))
    assert found[0] == found[1]
    assert [row.path for row in found[0]] == paths


def test_the_row_of_a_part_of_a_file_tells_which(test_clips: list[Path], two_forms: Path) -> None:
    part = Footage(test_clips[0], Stretch(0.25, 1.5))
    open_end = Footage(test_clips[0], Stretch(0.25))
    lost = Footage(test_clips[0], Stretch(5000.0, 6000.0))
    items = [Item("a", part), Item("b", open_end), Item("c", lost), Item("d", Footage(part.path))]
    rows = list(classify(load(two_forms), items))
    assert [(row.path, row.start, row.end, row.status) for row in rows] == [
        ("a", 0.25, 1.5, "ok"), ("b", 0.25, None, "ok"), ("c", 5000.0, 6000.0, "error"),
        ("d", None, None, "ok"),
    ]  # fmt: skip
    assert rows[0].top_k != rows[3].top_k


def test_the_frames_of_one_clip_never_reach_the_row_of_another() -> None:
    with Threads(4, lambda number: time.sleep(0.002 * (number % 3))) as pool:
        # While it sleeps nobody may write into the batch that it was given.
        model = recogniser(Model(batch_size=3, work=lambda batch: time.sleep(0.002)))
        jobs = ((number, item.footage) for number, item in files(range(200)))
        known = dict(answered(model, jobs, views=ONE_VIEW, pool=pool, meter=Meter()))
    for number, outcome in known.items():
        assert isinstance(outcome, Known)
        expected = (number - 255 * np.array(CONTRACT.mean)) / (255 * np.array(CONTRACT.std))
        assert outcome.logits[0, 0] == pytest.approx(expected.mean(), abs=1e-4)


def test_a_backend_that_normalises_itself_is_handed_frames_and_gives_the_same_rows() -> None:
    rows = []
    for model in (Model(4), FramesModel(4)):
        with Threads(2) as pool:
            rows.append(
                dict(answers(recogniser(model), files(range(30)), options=RowOptions(), pool=pool))
            )
    assert len(rows[0]) == 30
    assert rows[0] == rows[1]


def test_a_runtime_may_answer_in_the_same_memory_each_time() -> None:
    class Frugal(Model):
        memory = np.zeros((2, 2), np.float32)

        def logits(self, pixel_values: Floats) -> Floats:
            self.memory[:] = super().logits(pixel_values)
            return self.memory

    answers_of = []
    for kind in (Model, Frugal):
        with Threads(1) as pool:
            model = recogniser(kind(batch_size=2))
            paths = (f"{at}.mp4" for at in range(20))
            # Three views: those of one clip are in two batches.
            rows = list(classify(model, paths, views=Views(3, 1), pool=pool))
            answers_of.append([row.top_k for row in rows])
    assert answers_of[0] == answers_of[1]


def test_a_batch_that_is_not_full_is_filled_up_with_zeros() -> None:
    seen = []

    class Noted(Model):
        def logits(self, pixel_values: Floats) -> Floats:
            seen.append(pixel_values.copy())
            return super().logits(pixel_values)

    with Threads(1) as pool:
        list(answers(recogniser(Noted(3)), files(range(10)), options=RowOptions(), pool=pool))
    assert len(seen) == 4
    assert all(batch.any(axis=(1, 2, 3, 4)).all() for batch in seen[:3])
    assert seen[3].any(axis=(1, 2, 3, 4)).tolist() == [True, False, False]


# Nobody waits for a hang --------------------------------------------------------------------------


@pytest.fixture
def hanging(monkeypatch: pytest.MonkeyPatch) -> Iterator[DecodePool]:
    """Two workers that obey orders, and are cut off after four seconds."""
    monkeypatch.setattr(decode_pool, "_WORKER_COMMAND", stub_decoder.worker_command())
    monkeypatch.setattr(guard, "_check_content", lambda head: None)
    with DecodePool(2, deadline_seconds=4.0, proof=False) as running:
        yield running


@pytest.mark.parametrize("order_name", ["sleep", "sleep_in_native_code"])
def test_a_file_that_hangs_its_decoder_costs_one_row_and_the_others_go_on_meanwhile(
    order_name: str, hanging: DecodePool, order: Order, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(overlap, "LINGER_SECONDS", 0.1)
    hangs, sound = order(order_name), order("nothing")
    # Eleven: more than wait at any time, and the last batch is not full.
    items = [(at, Item(path.name, Footage(path))) for at, path in enumerate([hangs, *[sound] * 11])]
    begun, came = time.monotonic(), list[tuple[int, float]]()
    statuses = {}
    model = recogniser(Model(batch_size=4))
    for number, row in answers(model, items, options=RowOptions(), pool=hanging):
        came.append((number, time.monotonic() - begun))
        statuses[number] = row.error_kind
    assert statuses == {0: "timeout", **dict.fromkeys(range(1, 12))}
    assert came[-1][0] == 0
    # The eleventh did not wait for the hang's end either, though its batch never came full.
    assert came[-2][1] < came[-1][1] - 1
    assert came[-1][1] < 4 + 6


def test_a_hang_in_every_worker_is_over_after_one_deadline(
    hanging: DecodePool, order: Order
) -> None:
    hangs, sound = order("sleep"), order("nothing")
    items = [(at, Item("", Footage(path))) for at, path in enumerate([hangs, hangs, sound])]
    begun = time.monotonic()
    rows = dict(answers(recogniser(Model()), items, options=RowOptions(), pool=hanging))
    assert [rows[at].error_kind for at in range(3)] == ["timeout", "timeout", None]
    assert time.monotonic() - begun < 4 + 6


# Room ---------------------------------------------------------------------------------------------


def test_memory_does_not_grow_with_the_number_of_clips() -> None:
    asked = 0

    def endless() -> Iterator[int]:
        nonlocal asked
        for number in count():
            asked += 1
            yield number

    with Threads(3) as pool:
        model = Model(batch_size=4)
        room = room_of(CONTRACT, 3, 4)
        rows = answers(recogniser(model), files(endless()), options=RowOptions(), pool=pool)
        for taken, _ in enumerate(islice(rows, 3000), start=1):
            # Before the batches, in one batch that is filled and in one that the model has.
            assert asked - taken <= room + 2 * model.batch_size
        assert (
            pool.most_held <= room + pool.workers
        )  # a thread lets go of a clip after handing it on
        give_up(rows)
        assert threads_at_work() == set()


def wait_behind_first(batch: int, event: threading.Event) -> None:
    if batch > 1:
        event.wait(30)


def test_nothing_is_decoded_for_a_model_that_is_slow() -> None:
    may_go_on = threading.Event()
    asked = 0

    def endless() -> Iterator[int]:
        nonlocal asked
        for number in count():
            asked += 1
            yield number

    with Threads(3) as pool:
        model = Model(batch_size=2, work=lambda batch: wait_behind_first(batch, may_go_on))
        rows = answers(recogniser(model), files(endless()), options=RowOptions(), pool=pool)
        assert len(list(islice(rows, 2))) == 2
        taker = threading.Thread(target=next, args=(rows,))
        taker.start()  # asks for as much as there is room for, and waits
        time.sleep(0.5)
        assert 2 + 2 * model.batch_size <= asked <= 2 + room_of(CONTRACT, 3, 2) + 4
        assert pool.held <= room_of(CONTRACT, 3, 2)
        may_go_on.set()
        taker.join()
        give_up(rows)


def test_decoders_begin_together_when_the_model_is_slow() -> None:
    begun: list[int] = []
    room = room_of(CONTRACT, 3, 1)
    with Threads(3, begun.append) as pool:
        model = Model(work=lambda batch: time.sleep(0.05))
        rows = answers(recogniser(model), files(count()), options=RowOptions(), pool=pool)
        next(rows)
        counts = set()
        for _ in islice(rows, 12):
            time.sleep(0.02)  # until the decoders are done
            counts.add(len(begun))
        give_up(rows)
    assert room == 3 + 6
    assert all(later - sooner >= 3 for sooner, later in pairwise(sorted(counts)))


def test_large_clips_wait_in_small_numbers() -> None:
    large = PixelContract(frames=64, short_side=1024, crop_height=1024, crop_width=1024)
    assert room_of(large, workers=4, clips_per_batch=32) == 4 + 1
    assert room_of(CONTRACT, workers=4, clips_per_batch=32) == 4 + 32


# Side by side -------------------------------------------------------------------------------------


def test_clips_are_decoded_and_normalised_while_the_model_works() -> None:
    later = threading.Event()

    def decode(number: int) -> None:
        if number == 5:
            later.set()

    def work(batch: int) -> None:
        assert later.wait(20), "nothing is decoded while the model works"

    with Threads(1, decode) as pool:
        rows = answers(
            recogniser(Model(work=work)), files(range(8)), options=RowOptions(), pool=pool
        )
        assert len(list(rows)) == 8


def test_the_next_batch_is_filled_while_the_model_works(monkeypatch: pytest.MonkeyPatch) -> None:
    calls, second = count(1), threading.Event()
    normalise = transforms.normalise

    def noted(*arguments: Any, **options: Any) -> Floats:
        if next(calls) == 2:
            second.set()
        return normalise(*arguments, **options)

    def work(batch: int) -> None:
        assert second.wait(20), "nothing is normalised while the model works"

    monkeypatch.setattr(transforms, "normalise", noted)
    with Threads(1) as pool:
        model = recogniser(Model(work=work))
        assert len(list(answers(model, files(range(4)), options=RowOptions(), pool=pool))) == 4


def test_the_model_works_while_rows_are_written() -> None:
    with Threads(2) as pool:
        model = Model()
        rows = answers(recogniser(model), files(range(50)), options=RowOptions(), pool=pool)
        next(rows)
        until = time.monotonic() + 20
        while model.batches < 3 and time.monotonic() < until:
            time.sleep(0.01)
        assert model.batches >= 3
        give_up(rows)


def test_inputs_are_asked_for_in_the_thread_that_takes_the_rows() -> None:
    # A database of inputs may be read by the thread that opened it alone.
    threads = set()

    def noted() -> Iterator[int]:
        for number in range(20):
            threads.add(threading.get_ident())
            yield number

    with Threads(2) as pool:
        list(answers(recogniser(Model()), files(noted()), options=RowOptions(), pool=pool))
    assert threads == {threading.get_ident()}


# Views --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [1, 4, 8])
def test_views_are_averaged_as_in_evaluation(
    batch_size: int, two_forms: Path, test_clips: list[Path]
) -> None:
    views = Views(clips=2, crops=3)  # six, which four does not divide: clips share batches
    model = load(two_forms, batch_size=batch_size)
    clips = [LabelledClip(path, "bend", "test", None) for path in test_clips[:5]]
    rows = list(classify(model, [str(clip.path) for clip in clips], views=views))
    for row, answer in zip(rows, ask(model, clips, views), strict=True):
        assert not isinstance(answer, ClipError)
        assert dict(row.top_k) == dict(zip(model.labels, answer.tolist(), strict=True))
    assert [row.top_k for row in rows] != [
        row.top_k for row in classify(model, [str(clip.path) for clip in clips])
    ]


def test_views_that_no_memory_holds_are_refused_before_any_clip_is_asked_for() -> None:
    asked: list[int] = []

    def numbers() -> Iterator[int]:
        asked.append(1)
        yield 1

    rows = answers(recogniser(Model()), files(numbers()), options=RowOptions(views=Views(9999, 3)))
    with pytest.raises(ViewsError):
        next(rows)
    assert asked == []


# What ends a run ----------------------------------------------------------------------------------


def test_a_model_that_fails_ends_the_run_with_its_error() -> None:
    def work(batch: int) -> None:
        if batch == 3:
            raise LoraDeployError("the model is broken")

    with Threads(2) as pool:
        rows = answers(
            recogniser(Model(work=work)), files(count()), options=RowOptions(), pool=pool
        )
        with pytest.raises(LoraDeployError, match="the model is broken"):
            list(rows)
    assert threads_at_work() == set()


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_an_answer_that_is_no_number_costs_one_row(value: float) -> None:
    class Broken(Model):
        def logits(self, pixel_values: Floats) -> Floats:
            logits = super().logits(pixel_values)
            return np.full_like(logits, value) if self.batches == 2 else logits

    with Threads(1) as pool:
        rows = dict(answers(recogniser(Broken()), files(range(3)), options=RowOptions(), pool=pool))
    assert [rows[number].error_kind for number in range(3)] == [None, "no_answer", None]
    assert rows[1].label is None
    assert "NaN or infinity" in (rows[1].error or "")


def test_a_list_of_inputs_that_fails_ends_the_run_with_its_error() -> None:
    def numbers() -> Iterator[int]:
        yield 1
        raise LoraDeployError("the list is torn")

    with Threads(1) as pool, pytest.raises(LoraDeployError, match="the list is torn"):
        list(answers(recogniser(Model()), files(numbers()), options=RowOptions(), pool=pool))
    assert threads_at_work() == set()


@pytest.mark.parametrize("clips", [4, 1000])  # all asked for by then, or not
def test_a_pool_that_is_closed_ends_the_run(clips: int) -> None:
    pool = Threads(1, lambda number: time.sleep(0.05))
    rows = answers(recogniser(Model()), files(range(clips)), options=RowOptions(), pool=pool)
    next(rows)
    pool.close()
    with pytest.raises((CancelledError, RuntimeError)):
        list(rows)
    assert threads_at_work() == set()


def test_decoders_that_can_not_be_started_end_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decode_pool, "_WORKER_COMMAND", ("false",))
    monkeypatch.setattr(guard, "_check_content", lambda head: None)
    item = Item("clip", Footage(Path(__file__)))
    with DecodePool(1, proof=False) as pool, pytest.raises(DecodersUnavailableError):
        list(answers(recogniser(Model()), [(0, item)], options=RowOptions(), pool=pool))
    assert threads_at_work() == set()


def test_what_is_given_up_is_not_decoded_any_more() -> None:
    decoded: list[int] = []

    def decode(number: int) -> None:
        decoded.append(number)
        time.sleep(0.02)

    with Threads(1, decode) as pool:
        rows = answers(recogniser(Model()), files(count()), options=RowOptions(), pool=pool)
        next(rows)
        give_up(rows)
        seen = len(decoded)
        time.sleep(0.2)
        assert len(decoded) <= seen + 1  # one may have been begun
    assert threads_at_work() == set()


def test_no_inputs_give_no_rows() -> None:
    meter = Meter()
    assert list(answers(recogniser(Model()), [], options=RowOptions(), meter=meter)) == []
    assert meter.sentence() == "no clips"


# What bounded it ----------------------------------------------------------------------------------


def measured(decode_seconds: float, model_seconds: float, write_seconds: float = 0.0) -> Meter:
    meter = Meter()
    with Threads(2, lambda number: time.sleep(decode_seconds)) as pool:
        model = Model(batch_size=2, work=lambda batch: time.sleep(model_seconds))
        for _ in answers(
            recogniser(model), files(range(40)), options=RowOptions(), pool=pool, meter=meter
        ):
            time.sleep(write_seconds)
    return meter


def test_the_closing_line_says_what_bounded_the_run() -> None:
    slow_decoders, slow_model = measured(0.04, 0.001), measured(0.001, 0.04)
    slow_writer = measured(0.001, 0.001, write_seconds=0.02)
    assert slow_decoders.bounded_by() == "decoding"
    assert slow_model.bounded_by() == "the model"
    assert slow_writer.bounded_by() == "writing rows"
    assert slow_decoders.clips == slow_model.clips == 40
    assert slow_decoders.model_waited_seconds > slow_model.model_waited_seconds
    assert slow_model.decoders_waited_seconds > slow_decoders.decoders_waited_seconds
    assert 0.8 <= slow_model.model_seconds <= slow_model.wall_seconds
    assert 1.6 <= slow_decoders.decoding_seconds <= 2 * slow_decoders.wall_seconds


def test_the_closing_line_is_a_sentence() -> None:
    meter = Meter(
        clips=2000, wall_seconds=312.0, workers=2, decoding_seconds=605.3, model_seconds=127.9
    )
    assert meter.sentence() == (
        "2,000 clips in 312 s (6.41 a second): bounded by decoding; decoders 97% busy, model 41%"
    )
    meter.model_seconds = 300.0
    assert "bounded by decoding and the model alike" in meter.sentence()
    assert "1 clip in 2 h 05 min" in Meter(clips=1, wall_seconds=7500.0, workers=1).sentence()
