"""A missing optional package ends in the line to type."""

import pytest

from lora_deploy import extras
from lora_deploy.errors import MissingPackageError


def test_what_is_there_is_not_asked_for() -> None:
    extras.require("torch", "onnxruntime", purpose="to run")


def test_what_is_missing_is_named_with_its_pip_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extras, "is_installed", lambda package: package == "onnx")
    with pytest.raises(MissingPackageError) as caught:
        extras.require("onnx", "torch", "onnxruntime", purpose="to export")
    assert str(caught.value) == (
        "torch, onnxruntime are needed to export and not installed: "
        'pip install "lora-deploy[cpu,train]"; type that line, then see what is here with '
        "`lora-deploy doctor`"
    )


def test_our_own_module_is_opened_only_when_its_package_is_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    module = extras.import_backend("lora_deploy.runtime.ort", "onnxruntime", purpose="to run")
    assert module.__name__ == "lora_deploy.runtime.ort"
    monkeypatch.setattr(extras, "is_installed", lambda _: False)
    with pytest.raises(MissingPackageError, match="to run ONNX"):
        extras.import_backend("lora_deploy.runtime.ort", "onnxruntime", purpose="to run ONNX")
