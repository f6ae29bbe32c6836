"""OpenVINO reports to nobody that it was imported, whichever way this package comes to it."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import lora_deploy
from lora_deploy.bench.matrix_peak import MatrixPeak
from lora_deploy.doctor import trial

PACKAGE = Path(lora_deploy.__file__).parent

WAYS = {
    "the backend": "import lora_deploy.runtime.ov",
    "the peak of bench": f"from {MatrixPeak.__module__} import _with_openvino as w; w(4, 'fp32', 1)",
    "the forms of bench": "from lora_deploy.bench.engines import import_packages as i; "
    "i({'kind': 'compiled', 'backend': 'openvino'}); i({'kind': 'peak', 'package': 'openvino'})",
    "the trial of doctor": f"import runpy, sys; sys.argv = ['', 'import', 'openvino']; "
    f"runpy.run_path({trial.__file__!r}, run_name='__main__')",
}

TOLD = """
import sys
assert "openvino" in sys.modules
print([name for name in sys.modules if name.startswith("openvino_telemetry.")])
"""

FOUND_AGAIN = "import openvino_telemetry; openvino_telemetry.Telemetry"


@pytest.mark.parametrize("way", WAYS)
def test_no_way_to_openvino_brings_its_reporter_in(way: str) -> None:
    pytest.importorskip("openvino_telemetry")
    program = f"{WAYS[way]}\n{TOLD}{FOUND_AGAIN if 'doctor' not in way else ''}"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stdout.splitlines()[-1:]) == (0, ["[]"]), done.stderr


def test_every_import_of_openvino_is_in_such_a_block() -> None:
    bare = []
    for path in PACKAGE.rglob("*.py"):
        tree = ast.parse(path.read_text())
        within = {
            id(inner)
            for block in ast.walk(tree)
            if isinstance(block, ast.With) and "unreported()" in ast.unparse(block.items[0])
            for inner in ast.walk(block)
        }
        bare += [
            f"{path.relative_to(PACKAGE)}:{node.lineno}"
            for node in ast.walk(tree)
            if isinstance(node, (ast.Import, ast.ImportFrom))
            and {"openvino"} & {_root(name) for name in _names(node)}
            and id(node) not in within
        ]
    assert bare == []


def _names(node: ast.Import | ast.ImportFrom) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    return [node.module or ""]


def _root(name: str) -> str:
    return name.partition(".")[0]


def test_there_is_one_core() -> None:
    """A core that ends takes a stack for signals with it (`lora_deploy.runtime.openvino_core`)."""
    makers = [
        path.stem
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("Core")
    ]
    assert makers == ["openvino_core"]
