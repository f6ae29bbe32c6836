"""Make ``lora_deploy/assets/example-bundle`` anew: the quickstart's bundle without ``model/``.

python export/example_bundle.py
"""

import shutil
import tempfile
from pathlib import Path

import click

from lora_deploy.artifact import bundle
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
    "--bundle",
    "source",
    type=click.Path(path_type=Path, exists=True),
    help="One that a quickstart left; else one is made.",
)
def main(source: Path | None) -> None:
    """Run the quickstart (or take its bundle) and keep what infers without PyTorch."""
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        if source is None:
            source = quickstart(work / "quickstart").shipped.bundle
        shutil.copytree(source, work / "bundle")
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
