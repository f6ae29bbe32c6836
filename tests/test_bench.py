"""Benchmarks: real runs on a tiny bundle, turns that are fair, and nothing left behind or passed over in silence."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lora_deploy import texts
from lora_deploy.artifact import bundle as bundles
from lora_deploy.bench import forms, keep, measure, room
from lora_deploy.bench.forms import MeasuredForm, read_subject
from lora_deploy.bench.measure import bench
from lora_deploy.bench.process import Child, ChildDied
from lora_deploy.bench.result import BenchResult, Spread
from lora_deploy.bench.turns import turns
from lora_deploy.cli import run
from lora_deploy.errors import NotAModelError, NothingMeasuredError
from lora_deploy.processor import Processor
from tests.card_computers import ENGINE, with_engine

ABLE = Processor(
    "an able one", cores=2, usable_cores=2, flags=frozenset({"avx512_bf16", "avx512_vnni"})
)
PLAIN = Processor("a plain one", cores=2, usable_cores=2, flags=frozenset({"avx2"}))

FORM_KEYS = {
    "name", "precision", "file_bytes", "stages_ms", "cold_seconds", "clips_per_second",
    "peak_memory_bytes", "times_reference", "fraction_of_peak", "same_label", "packages",
}  # fmt: skip
KEYS = {
    "schema_version", "model", "digest", "date", "computer", "versions", "clips", "clips_source",
    "frames", "height", "width", "flop_per_clip", "rounds", "groups", "reference", "matrix_peak",
    "forms", "skipped",
}  # fmt: skip
"""What other people's scripts read; a change is a new schema version."""


@pytest.fixture(scope="module")
def measured(
    bundle: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[dict[str, Any], Path, set[str]]:
    """The command's document, the folder it kept, and what its own process imported."""
    out = tmp_path_factory.mktemp("bench") / "out"
    finished = subprocess.run(
        [
            *(sys.executable, "-X", "importtime", "-m", "lora_deploy", "bench", str(bundle)),
            *("--rounds", "1", "--threads", "1", "--json", "--out", str(out)),
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    names = re.findall(r"^import time:.*\| +(\S+)$", finished.stderr, flags=re.MULTILINE)
    return json.loads(finished.stdout), out, {name.partition(".")[0] for name in names}


def without_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if PyTorch were not installed, so that runs are short."""

    def installed(package: str) -> bool:
        return package not in ("torch", "transformers", "peft")

    monkeypatch.setattr(
        measure, "read_subject", lambda *given: read_subject(*given, installed=installed)
    )
    monkeypatch.setattr(forms, "peaks", lambda processor: [])


def with_openvino(folder: Path, *precisions: str) -> Path:
    """A bundle whose manifest offers its plain graph to OpenVINO, too."""
    path = folder / bundles.MANIFEST
    values = json.loads(path.read_text())
    values["forms"] = [form for form in values["forms"] if form["precision"] == "fp32"][:1]
    values["forms"] += [
        {"backend": "openvino", "precision": precision, "file": bundles.ONNX}
        for precision in precisions
    ]
    path.write_text(json.dumps(values))
    return folder


def is_alive(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path("/proc", str(pid), "status").read_text()
    except OSError:
        return False


# The command ------------------------------------------------------------------------------------


def test_every_form_is_measured_cold_and_warm(
    measured: tuple[dict[str, Any], Path, set[str]], bundle: Path
) -> None:
    document, _, _ = measured
    names = {form["name"] for form in document["forms"]}
    skipped = {one["name"] for one in document["skipped"]}
    offered = {form.name for form in bundles.read_bundle_manifest(bundle).forms}
    assert names | skipped == offered | {"torch-unmerged", "torch-fp32", "torch-bf16"}
    assert names >= {"torch-unmerged", "torch-fp32", "onnxruntime-fp32"}
    for form in document["forms"]:
        stages = form["stages_ms"]
        assert list(stages) == [
            "decode", "preprocess", "transfer", "infer", "post", "all",
        ]  # fmt: skip
        assert all(stage["n"] == stages["infer"]["n"] >= 1 for stage in stages.values())
        parts = sum(stages[stage]["mean"] for stage in list(stages)[:-1])
        assert stages["all"]["mean"] == pytest.approx(parts)
        assert form["clips_per_second"] == pytest.approx(1000 / stages["all"]["mean"])
        cold = form["cold_seconds"]
        assert cold["all"]["n"] == 1
        whole = sum(cold[part]["mean"] for part in ("imports", "opening", "first_answer"))
        assert cold["all"]["mean"] == pytest.approx(whole)
        assert form["peak_memory_bytes"]["process"] > 30 << 20
        assert form["peak_memory_bytes"]["decoder"] > 30 << 20


def test_ratios_are_to_eager_float32(measured: tuple[dict[str, Any], Path, set[str]]) -> None:
    document, _, _ = measured
    assert document["reference"] == "torch-fp32"
    by_name = {form["name"]: form for form in document["forms"]}
    assert by_name["torch-fp32"]["times_reference"]["p50"] == 1.0
    assert by_name["onnxruntime-fp32"]["times_reference"]["p50"] > 0
    for name in ("torch-unmerged", "onnxruntime-fp32"):
        same, of = by_name[name]["same_label"]
        assert same == of > 0


def test_parts_of_the_matrix_peak_follow_from_the_operations_of_a_clip(
    measured: tuple[dict[str, Any], Path, set[str]], bundle: Path
) -> None:
    document, _, _ = measured
    assert document["flop_per_clip"] == bundles.read_bundle_manifest(bundle).flop_per_clip
    assert set(document["matrix_peak"]) >= {"fp32"}
    for form in document["forms"]:
        assert 0 < form["fraction_of_peak"]["p50"] < 1


def test_neither_the_parent_nor_compiled_forms_import_torch(
    measured: tuple[dict[str, Any], Path, set[str]],
) -> None:
    document, _, imported = measured
    assert "click" in imported
    assert imported.isdisjoint({"torch", "transformers", "peft", "onnxruntime", "openvino"})
    for form in document["forms"]:
        assert ("torch" in form["packages"]) == form["name"].startswith("torch"), form["name"]


def test_the_documents_keys_are_those_that_were_agreed(
    measured: tuple[dict[str, Any], Path, set[str]],
) -> None:
    document, out, _ = measured
    assert set(document) == KEYS
    assert document["schema_version"] == 1
    for form in document["forms"]:
        assert set(form) == FORM_KEYS
        assert set(form["stages_ms"]["infer"]) == {"p5", "p50", "p95", "p99", "mean", "n"}
    assert json.loads((out / keep.JSON).read_text()) == document


def test_what_is_kept_can_be_looked_at(measured: tuple[dict[str, Any], Path, set[str]]) -> None:
    document, out, _ = measured
    assert {path.name for path in out.iterdir()} == {
        "bench.json", "bench.md", "bench.svg", "bench.png",
    }  # fmt: skip
    with Image.open(out / "bench.png") as picture:
        assert picture.width == 1080
        assert len(picture.convert("RGB").getcolors(1 << 24) or []) > 10
    page = (out / "bench.md").read_text()
    for form in document["forms"]:
        assert f"| {form['name']} |" in page
    assert "bench.svg" in page


def test_the_table_fits_a_terminal(measured: tuple[dict[str, Any], Path, set[str]]) -> None:
    text = texts.bench(BenchResult.model_validate(measured[0]))
    path_of_the_model, *lines = text.splitlines()
    assert path_of_the_model == measured[0]["model"]
    assert max(map(len, lines)) <= 100
    for form in measured[0]["forms"]:
        assert text.count(f"\n{form['name']} ") == 3  # speed, stages, start


def test_a_run_is_measured_too(lora_run: Path) -> None:
    subject = read_subject(lora_run, ABLE)
    assert [form.name for form in subject.forms] == ["torch-unmerged", "torch-fp32", "torch-bf16"]
    form = replace(subject.forms[1])
    with Child(form, threads=1, clips=[str(clip_for(lora_run))]) as child:
        said = child.opened()
        assert said["cold_seconds"]["all"] > 0
        assert child.ask("flop")["per_clip"] > 0


def clip_for(_: Path) -> Path:
    return Path(measure.__file__).parents[1] / "assets" / "warm-up.mp4"


def test_engines_are_named_among_what_was_not_measured(bundle_copy: Path) -> None:
    with_engine(bundle_copy)
    [form] = [one for one in read_subject(bundle_copy, ABLE).forms if one.name == ENGINE.name]
    assert form.obstacle == "it runs on a card, and this measures the processor"
    assert form.file_bytes == (bundle_copy / ENGINE.file).stat().st_size


def test_what_is_no_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NotAModelError, match="neither a RUN nor a BUNDLE"):
        bench(tmp_path)


def test_where_nothing_runs_that_is_said(
    bundle_copy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        measure, "read_subject", lambda *given: read_subject(*given, installed=lambda _: False)
    )
    monkeypatch.setattr(forms, "peaks", lambda processor: [])
    with pytest.raises(NothingMeasuredError, match="onnxruntime is not installed: pip install"):
        bench(bundle_copy, rounds=1)
    assert run(["bench", str(bundle_copy), "--rounds", "1"]) == 2
    assert "NothingMeasuredError" in capsys.readouterr().err


# What can't be measured -------------------------------------------------------------------------


def test_forms_that_can_not_run_here_are_told_with_the_reason(bundle_copy: Path) -> None:
    folder = with_openvino(bundle_copy, "fp32", "bf16", "int8")
    on_plain = {form.name: form.obstacle for form in read_subject(folder, PLAIN).forms}
    for name in ("torch-bf16", "openvino-bf16"):
        assert on_plain.pop(name) == "this processor does not compute in bfloat16"
    assert set(on_plain.values()) == {None}
    no_openvino = read_subject(folder, ABLE, installed=lambda package: package != "openvino")
    reasons = {form.name: form.obstacle for form in no_openvino.forms if form.obstacle}
    assert set(reasons) == {"openvino-fp32", "openvino-bf16", "openvino-int8"}
    assert set(reasons.values()) == {
        'openvino is not installed: pip install "lora-deploy[cpu]"',
    }  # fmt: skip


def test_a_damaged_form_and_a_missing_package_become_rows(
    bundle_copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_torch(monkeypatch)
    folder = with_openvino(bundle_copy, "fp32")
    first = bundles.read_bundle_manifest(folder).forms[0]
    if first.file == bundles.ONNX:
        pytest.skip("both forms read the same file")
    path = folder / bundles.ONNX
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    found = bench(folder, rounds=1, threads=1)
    assert [form.name for form in found.forms] == ["onnxruntime-fp32"]
    reasons = {one.name: one.reason for one in found.skipped}
    assert "is not the file that bundle.json vouches for" in reasons["openvino-fp32"]
    assert "torch, transformers, peft are not installed" in reasons["torch-fp32"]
    assert found.reference == "onnxruntime-fp32"


def test_a_process_that_is_killed_becomes_a_row(
    bundle_copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_torch(monkeypatch)

    class Doomed(Child):
        def ask(self, do: str, **details: Any) -> dict[str, Any]:
            if self.form.name == "openvino-fp32":
                os.kill(self.pid, signal.SIGKILL)  # as the kernel does where memory is short
            return super().ask(do, **details)

    monkeypatch.setattr(measure, "Child", Doomed)
    found = bench(with_openvino(bundle_copy, "fp32"), rounds=2, threads=1)
    assert [form.name for form in found.forms] == ["onnxruntime-fp32"]
    assert found.forms[0].stages_ms["infer"].n >= 2
    [row] = [one for one in found.skipped if one.name == "openvino-fp32"]
    assert "killed (SIGKILL), most likely for want of memory" in row.reason
    assert f"skipped: {row.name}: {row.reason}" in texts.bench(found)


def test_nothing_is_left_behind_when_it_is_interrupted(
    bundle_copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_torch(monkeypatch)
    started: list[int] = []

    class Interrupted(Child):
        def ask(self, do: str, **details: Any) -> dict[str, Any]:
            raise KeyboardInterrupt

        def opened(self) -> dict[str, Any]:
            started.append(self.pid)
            return super().opened()

    monkeypatch.setattr(measure, "Child", Interrupted)
    with pytest.raises(KeyboardInterrupt):
        bench(with_openvino(bundle_copy, "fp32"), rounds=1, threads=1)
    assert len(started) == 2
    assert not any(map(is_alive, started))


def test_a_form_dies_with_the_process_that_measures(bundle: Path) -> None:
    form = next(one for one in read_subject(bundle, PLAIN).forms if one.job["kind"] == "compiled")
    program = (
        "import sys, json, time\n"
        "from lora_deploy.bench.forms import MeasuredForm\n"
        "from lora_deploy.bench.process import Child\n"
        "child = Child(MeasuredForm(**json.loads(sys.argv[1])), threads=1, clips=[sys.argv[2]])\n"
        "child.opened()\n"
        "print(child.pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    told = json.dumps(form.__dict__)
    with subprocess.Popen(
        [sys.executable, "-c", program, told, str(clip_for(bundle))], stdout=subprocess.PIPE
    ) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert is_alive(pid)
        parent.kill()
    until = time.monotonic() + 10
    while is_alive(pid) and time.monotonic() < until:
        time.sleep(0.05)
    assert not is_alive(pid)


def test_what_a_broken_process_said_last_is_the_reason(bundle: Path) -> None:
    form = next(one for one in read_subject(bundle, PLAIN).forms if one.job["kind"] == "compiled")
    broken = replace(form, job={**form.job, "kind": "compiled", "backend": "no_such_package"})
    with (
        Child(broken, threads=1, clips=[str(clip_for(bundle))]) as child,
        pytest.raises(ChildDied, match=r"ended with code 1: ModuleNotFoundError: .*no_such"),
    ):
        child.opened()


def test_without_matplotlib_the_rest_is_kept_and_that_is_said(
    measured: tuple[dict[str, Any], Path, set[str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(keep, "is_installed", lambda package: False)
    found = BenchResult.model_validate(measured[0])
    written = keep.keep(found, tmp_path / "out", "text")
    assert [path.name for path in written] == ["bench.json", "bench.md"]
    assert "no plot was made: matplotlib is not installed" in caplog.text
    assert "bench.svg" not in (tmp_path / "out" / "bench.md").read_text()


# Arithmetic -------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 2, 7, 100, 1001])
def test_percentiles_are_numpys(count: int) -> None:
    values = np.random.default_rng(count).exponential(size=count)
    found = Spread.of(list(values))
    ordered = np.sort(values)
    for part, value in ((0.05, found.p5), (0.5, found.p50), (0.95, found.p95), (0.99, found.p99)):
        place = part * (count - 1)  # between two measurements, in proportion
        low, high = ordered[int(place)], ordered[min(int(place) + 1, count - 1)]
        assert value == pytest.approx(low + (place - int(place)) * (high - low))
        assert value == pytest.approx(np.quantile(values, part))
    assert found.n == count
    assert found.mean == pytest.approx(values.mean())


def test_each_form_has_one_turn_a_round_and_nobody_always_follows_the_same() -> None:
    names = ["a", "b", "c", "d"]
    rounds = [turns(names, number) for number in range(8)]
    assert all(sorted(one) == names for one in rounds)
    assert {one[0] for one in rounds} == set(names)
    before_a = {one[one.index("a") - 1] for one in rounds if one[0] != "a"}
    assert len(before_a) > 1
    assert turns([], 3) == []


def form_of(name: str, megabytes: int) -> MeasuredForm:
    return MeasuredForm(name, "fp32", {"kind": "compiled"}, megabytes << 20)


def test_forms_that_do_not_fit_together_run_in_groups_beside_the_reference() -> None:
    reference = form_of("reference", 100)
    others = [form_of(name, 100) for name in "abcd"]
    needed = room.needed_bytes(reference)
    assert needed == (4 * 100 + 300) << 20
    everything = [reference, *others]
    assert room.groups(everything, [reference], None) == [everything]
    assert room.groups(everything, [reference], 100 * needed) == [everything]
    in_twos = room.groups(everything, [reference], int(3 * needed / room.SHARE) + 1)
    assert [[form.name for form in group] for group in in_twos] == [
        ["reference", "a", "b"],
        ["reference", "c", "d"],
    ]
    alone = room.groups(everything, [reference], needed)  # tried all the same
    assert [len(group) for group in alone] == [2, 2, 2, 2]


def test_groups_are_measured_one_after_the_other(
    bundle_copy: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    without_torch(monkeypatch)
    monkeypatch.setattr(room, "free_bytes", lambda: 1)
    found = bench(with_openvino(bundle_copy, "fp32", "fp16"), rounds=1, threads=1)
    assert found.groups == (
        ("onnxruntime-fp32", "openvino-fp32"),
        ("onnxruntime-fp32", "openvino-fp16"),
    )
    assert all(form.times_reference for form in found.forms)
    assert "measured in 2 groups" in caplog.text


def test_free_memory_is_the_computers_or_what_a_container_leaves(tmp_path: Path) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal: 9 kB\nMemAvailable:    2048 kB\n")
    assert room.free_bytes(meminfo, tmp_path) == 2 << 20
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("1000\n")
    assert room.free_bytes(meminfo, tmp_path) == 2 << 20
    (tmp_path / "memory.max").write_text("5000\n")
    assert room.free_bytes(meminfo, tmp_path) == 4000
    assert room.free_bytes(tmp_path / "none", tmp_path / "none") is None
