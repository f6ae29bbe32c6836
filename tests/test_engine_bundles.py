"""A bundle with engines on a computer without a card: they are in it, vouched for, and called built and not run."""

import re
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest

from lora_deploy import checkup, texts, verification
from lora_deploy.artifact import bundle
from lora_deploy.errors import FormsDifferError
from lora_deploy.export import proving
from lora_deploy.export.blocks import is_head
from lora_deploy.export.engine_order import EngineOrder
from lora_deploy.export.pipeline import Shipped, merge_export
from lora_deploy.export.to_tensorrt import build
from tests.test_tensorrt import HEAVY, precisions_of

ENGINES = (
    "tensorrt-rtx-fp16-sm75",
    "tensorrt-rtx-fp32-sm86",
    "tensorrt-rtx-fp16-sm86",
    "tensorrt-rtx-bf16-sm86",
)


@pytest.fixture(scope="module")
def with_engines(
    tmp_path_factory: pytest.TempPathFactory,
    proved_run: Callable[[str], Path],
    four_actions: Path,
) -> Shipped:
    """Tests must not change it."""
    return merge_export(
        proved_run("videomae"),
        tmp_path_factory.mktemp("engines") / "bundle",
        targets=["onnx", "tensorrt"],
        precisions=["fp32", "fp16", "bf16"],
        cards=["sm75", "sm86"],
        batch_sizes=[1, 2],
        verify_on=four_actions,
    )


def test_engines_lie_in_the_bundle_and_the_manifest_vouches_for_them(
    with_engines: Shipped,
) -> None:
    folder = with_engines.bundle
    manifest = bundle.read_bundle_manifest(folder)
    assert manifest.model_copy(update={"seal": None}) == with_engines.manifest
    assert tuple(engine.name for engine in manifest.engines) == ENGINES
    for engine in manifest.engines:
        assert engine.flavour == "tensorrt-rtx"
        assert re.fullmatch(r"\d+\.\d+\.\d+\.\d+", engine.version)
        assert engine.batch_sizes == (1, 2)
        assert manifest.files[engine.file].bytes == (folder / engine.file).stat().st_size > 1e6
        assert engine.made_of in manifest.files
    made_of = {engine.precision: engine.made_of for engine in manifest.engines}
    assert made_of == {"fp32": bundle.ONNX, "fp16": bundle.HALF, "bf16": bundle.BFLOAT16}
    bundle.verify_files(folder, manifest)


def test_an_engine_can_be_built_again_from_the_bundle_byte_for_byte(with_engines: Shipped) -> None:
    for engine in with_engines.manifest.engines:
        order = EngineOrder(
            engine.flavour, engine.compute_capability, engine.precision, engine.batch_sizes
        )
        again = build(with_engines.bundle / engine.made_of, order)
        assert again.content == (with_engines.bundle / engine.file).read_bytes()


def test_every_graph_that_an_engine_is_made_of_was_proved(with_engines: Shipped) -> None:
    links = {link.forms: link for link in with_engines.certificate.links}
    assert links[("merged", "onnx")].passed
    assert links[("unmerged", "onnxruntime-fp16")].precision == "fp16"
    short = links[("unmerged", "bf16-graph")]
    assert short.precision == "bf16"
    assert short.passed
    assert 1e-5 < short.largest_probability_difference < 0.05  # it was rounded
    forms = {form.name: form.file for form in with_engines.manifest.forms}
    assert forms["onnxruntime-fp16"] == bundle.HALF
    assert "onnxruntime-bf16" not in forms  # no runtime for processors has it


def test_for_a_card_without_float32_products_the_head_is_float16_in_the_proof_too(
    with_engines: Shipped,
) -> None:
    graph = onnx.load(with_engines.bundle / bundle.HALF)
    kinds = precisions_of(graph)
    heavy = [node for node in graph.graph.node if node.op_type in HEAVY]
    assert any(is_head(node.name) for node in heavy)
    assert {kinds[node.output[0]] for node in heavy} == {"fp16"}


def test_the_certificate_says_built_not_run_and_its_verdict_does_not_speak_of_them(
    with_engines: Shipped,
) -> None:
    certificate = with_engines.certificate
    assert certificate.verdict == "proved"
    assert tuple(one.form for one in certificate.unrun) == ENGINES
    asked = {form for link in certificate.links for form in link.forms} | set(certificate.accuracy)
    assert asked.isdisjoint(ENGINES)
    assert set(certificate.logits).isdisjoint(ENGINES)
    assert set(certificate.noise_logits).isdisjoint(ENGINES)
    for engine, one in zip(with_engines.manifest.engines, certificate.unrun, strict=True):
        assert one.reason == (
            f"tensorrt-rtx {engine.version} built it where no {engine.target} card was asked, so "
            f"nothing is known of its answers; {engine.made_of}, which it is made of, was held "
            "against the trained model"
        )


def test_whoever_reads_of_it_reads_built_not_run(with_engines: Shipped) -> None:
    printed = texts.certificate(with_engines.certificate)
    for name in ENGINES:
        assert f"{name}: built, not run (tensorrt-rtx " in printed
    page = (with_engines.bundle / bundle.CERTIFICATE_PAGE).read_text()
    assert "<h1><bdi>Proved. Every form that was run answers alike.</bdi></h1>" in page
    assert "<b>4 engines for NVIDIA cards were built, not run</b>" in page
    assert "<dt>Built, not run<dd><bdi>4 engines</bdi>" in page
    (section,) = re.findall(r"<section id=unrun>.*?</section>", page)
    assert section.count("</b>: not run. <small>") == 4
    assert "<b><bdi>TensorRT for RTX fp16, sm86</bdi></b>: not run." in section
    assert "lora-deploy verify BUNDLE --complete" in section
    assert "✓" not in section
    card = (with_engines.bundle / bundle.CARD).read_text()
    assert "## Built, not run" in card
    assert "- TensorRT for RTX fp16, sm75: tensorrt-rtx " in card
    assert "lora-deploy verify THIS_FOLDER --complete" in card
    assert "--backend tensorrt" not in card


def test_verifying_it_here_neither_passes_nor_fails_because_of_them(with_engines: Shipped) -> None:
    found = verification.verify(with_engines.bundle)
    assert found.passed
    about = {one.part: one for one in found.findings if one.part in ENGINES}
    assert all(one.passed is None for one in about.values())
    seen = checkup.check(with_engines.bundle)
    assert seen.passed
    about = {one.part: one for one in seen.findings if one.part in ENGINES}
    assert tuple(about) == ENGINES
    assert {one.passed for one in about.values()} == {None}
    assert "it opens on a card of sm86 alone" in about["tensorrt-rtx-fp32-sm86"].text
    assert f"engines {', '.join(ENGINES)}" in seen.findings[0].text


def test_a_changed_byte_in_an_engine_is_found(with_engines: Shipped, tmp_path: Path) -> None:
    import shutil

    folder = Path(shutil.copytree(with_engines.bundle, tmp_path / "bundle"))
    name = with_engines.manifest.engines[2].file
    content = bytearray((folder / name).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / name).write_bytes(content)
    found = verification.verify(folder)
    assert not found.passed
    assert [(one.part, one.error) for one in found.findings if one.passed is False] == [
        (name, "FileChangedError")
    ]


def test_without_engines_nothing_is_said_of_them(bundle_of_before: Path) -> None:
    page = (bundle_of_before / bundle.CERTIFICATE_PAGE).read_text()
    assert "Proved. Every form answers alike." in page
    assert "not run" not in page
    assert "not run" not in (bundle_of_before / bundle.CARD).read_text()
    assert not (bundle_of_before / bundle.ENGINES).exists()
    assert not (bundle_of_before / bundle.BFLOAT16).exists()


@pytest.fixture
def bundle_of_before(bundle: Path) -> Path:
    """One without engines."""
    return bundle


def test_no_engine_is_built_of_a_graph_that_failed(
    proved_run: Callable[[str], Path],
    four_actions: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError("built")

    monkeypatch.setattr(proving, "build_engines", never)
    with pytest.raises(FormsDifferError, match="bf16-graph answers differently"):
        merge_export(
            proved_run("videomae"),
            tmp_path / "bundle",
            targets=["tensorrt"],
            precisions=["bf16"],
            cards=["sm86"],
            verify_on=four_actions,
            overrides=["proof.bf16.largest_difference=1e-7", "proof.kept_blocks=1"],
        )
    assert not (tmp_path / "bundle").exists()
