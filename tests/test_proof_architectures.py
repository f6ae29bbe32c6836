"""The whole chain on the four architectures: every form at every precision, on clips that get every label."""

from collections.abc import Callable

import pytest

from lora_deploy.export.pipeline import Shipped
from lora_deploy.runtime.ov import has_bf16
from tests.proved_models import ACTIONS
from tests.tiny_graphs import MODEL_TYPES

LEAST_AGREEMENT = {"fp32": 1.0, "fp16": 0.99, "bf16": 0.99, "int8": 0.98}

FORMS = {
    "merged": "fp32",
    "adapter-graph": "fp32",
    "adapter-graph-base": "fp32",
    "onnx": "fp32",
    "onnxruntime-fp32": "fp32",
    "openvino-fp32": "fp32",
    "frames-in": "fp32",
    "onnxruntime-fp16": "fp16",
    "openvino-bf16": "bf16",
    "onnxruntime-int8": "int8",
    "openvino-int8": "int8",
}


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_every_form_answers_as_the_trained_model(
    model_type: str, shipped: Callable[[str], Shipped]
) -> None:
    certificate = shipped(model_type).certificate
    assert certificate.passed
    assert certificate.verdict == "proved"
    assert certificate.clips == len(certificate.proof_clips) == 32
    assert certificate.labels == ACTIONS
    assert set(certificate.answered) == set(ACTIONS)  # else agreement would say little
    assert max(certificate.answered.values()) <= 16
    assert certificate.calibration is not None
    assert certificate.calibration.error_after <= certificate.calibration.error_before
    if certificate.calibration.reason is None:
        assert certificate.calibration.temperature > 1  # three labels are untrue
    found = {link.forms[1]: link for link in certificate.links}
    here = {name: one for name, one in FORMS.items() if one != "bf16" or has_bf16()}
    assert {name: link.precision for name, link in found.items()} == here
    for link in found.values():
        assert link.passed
        assert link.agreement >= LEAST_AGREEMENT[link.precision]
        assert link.kept == ()
        if link.precision == "fp32":
            assert link.largest_probability_difference <= 1e-4
            assert link.largest_logit_difference <= 1e-4
        else:  # else it would be no lower precision at all
            assert link.largest_probability_difference > 1e-5
