"""Make ``lora_deploy/assets/example-bundle`` anew: the quickstart's model, as small as it goes.

python export/example_bundle.py
"""

import shutil
import tempfile
from pathlib import Path

import click

from lora_deploy.artifact import bundle
from lora_deploy.export.pipeline import merge_export
from lora_deploy.quickstart import quickstart

TARGET = Path(__file__).parents[1] / "lora_deploy" / "assets" / "example-bundle"
MOST_BYTES = 8 << 20


def shrink(folder: Path) -> int:
    """Drop the merged weights in PyTorch's form, vouch for the rest; returns the bytes left."""
    manifest = bundle.read_bundle_manifest(folder)
    shutil.rmtree(folder / bundle.MODEL)
    bundle.write_bundle_manifest(
        folder, manifest.model_copy(update={"files": bundle.record_files(folder)})
    )
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


@click.command()
@click.option(
    "--run",
    "source",
    type=click.Path(path_type=Path, exists=True),
    help="One that a quickstart left; else one is made.",
)
def main(source: Path | None) -> None:
    """Run the quickstart (or take its RUN), export it for CPUs, and keep what needs no PyTorch."""
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        if source is None:
            quickstart(work / "quickstart")
            source = work / "quickstart" / "run"
        # Both runtimes read the plain graph, so that it lies there once.
        merge_export(source, work / "bundle", targets=("onnx", "openvino"), fuse=False)
        size = shrink(work / "bundle")
        if size > MOST_BYTES:
            raise click.ClickException(
                f"the bundle has {size} bytes; at most {MOST_BYTES} (8 MiB) ship"
            )
        shutil.rmtree(TARGET, ignore_errors=True)
        shutil.copytree(work / "bundle", TARGET)
    click.echo(f"{TARGET}: {size:,} bytes")


if __name__ == "__main__":
    main()
