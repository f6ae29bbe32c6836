"""The door to TensorRT: every name that we use is in the package that is installed."""

import types
from typing import Protocol

import pytest

from lora_deploy import extras
from lora_deploy.artifact.bundle import Flavour
from lora_deploy.errors import MissingPackageError, TensorRTUnusableError
from lora_deploy.runtime import tensorrt_api
from lora_deploy.runtime.tensorrt_api import (
    FLAVOURS,
    OF_RTX,
    PACKAGES,
    SHARED,
    Builder,
    TargetedConfig,
    heard_of,
    missing_names,
    names_of,
    open_tensorrt,
)


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_every_name_that_we_use_exists_in_the_package(flavour: Flavour) -> None:
    if not extras.is_installed(PACKAGES[flavour]):
        pytest.skip(f"{PACKAGES[flavour]} is not installed")
    module = open_tensorrt(flavour)
    assert module.__version__[0].isdigit()
    wanted = SHARED if flavour == "tensorrt" else {**SHARED, **OF_RTX}
    assert list(missing_names(module, wanted)) == []


def test_the_package_that_builds_without_a_card_is_here() -> None:
    assert hasattr(open_tensorrt("tensorrt-rtx"), "Builder")


def test_a_protocol_asks_for_its_fields_and_methods_and_for_those_it_inherits() -> None:
    assert names_of(Builder) == {
        "create_network", "create_builder_config", "create_optimization_profile",
        "build_serialized_network",
    }  # fmt: skip
    assert {"set_compute_capability", "num_compute_capabilities", "clear_flag"} <= names_of(
        TargetedConfig
    )


def test_a_name_that_the_package_lacks_is_found() -> None:
    class Imagined(Protocol):
        batch_of_dreams: int

        def build_in_no_time(self) -> None: ...

    module = open_tensorrt("tensorrt-rtx")
    assert sorted(missing_names(module, {"Builder": Imagined, "INowhere": Builder})) == [
        "Builder.batch_of_dreams",
        "Builder.build_in_no_time",
        *(f"INowhere.{name}" for name in sorted(names_of(Builder))),
    ]


@pytest.mark.parametrize(("flavour", "extra"), [("tensorrt", "gpu"), ("tensorrt-rtx", "rtx")])
def test_a_missing_package_ends_in_its_pip_line(
    flavour: Flavour, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(extras, "is_installed", lambda _: False)
    with pytest.raises(MissingPackageError) as caught:
        open_tensorrt(flavour)
    assert str(caught.value).startswith(
        f"{PACKAGES[flavour]} is needed to build engines and not installed: "
        f'pip install "lora-deploy[{extra}]"'
    )


def test_an_old_package_is_told_from_a_usable_one(monkeypatch: pytest.MonkeyPatch) -> None:
    old = types.SimpleNamespace(__version__="8.0", Builder=object)
    monkeypatch.setattr(tensorrt_api, "require", lambda *_, purpose: None)
    monkeypatch.setattr("importlib.import_module", lambda _: old)
    with pytest.raises(TensorRTUnusableError, match=r"tensorrt 8\.0 lacks Builder\.build_serial"):
        open_tensorrt("tensorrt")


def test_a_package_without_its_libraries_is_no_fault_of_ours(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def broken(_: str) -> None:
        raise OSError("libnvinfer.so.11: cannot open shared object file")

    monkeypatch.setattr(tensorrt_api, "require", lambda *_, purpose: None)
    monkeypatch.setattr("importlib.import_module", broken)
    with pytest.raises(TensorRTUnusableError, match="tensorrt is installed and can't be imported"):
        open_tensorrt("tensorrt")


def test_each_who_listens_hears_and_one_who_leaves_takes_nobody_with_him() -> None:
    heard = heard_of(open_tensorrt("tensorrt-rtx"))
    with heard.listening() as first:
        with heard.listening():
            pass  # it had heard as much as the first one
        heard.logger.log(types.SimpleNamespace(name="ERROR"), "no room")
        heard.logger.log(types.SimpleNamespace(name="WARNING"), "little room")
    heard.logger.log(types.SimpleNamespace(name="ERROR"), "too late")
    assert first == ["no room"]
