"""The command line: each command reads options, calls one function, prints what it returned.

Nothing heavy is imported here; a command imports its stage when it runs.
"""

import logging
import sys
from collections.abc import Sequence

import click

from lora_deploy import terminal
from lora_deploy.commands import learn, look, offer, ship, use


def main() -> None:
    """Entry point of ``lora-deploy``."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Run one command; returns its exit code, as `terminal.exit_code_of`."""
    return terminal.exit_code_of(commands, arguments)


def _print_version(context: click.Context, _: click.Parameter, asked: bool) -> None:
    if not asked or context.resilient_parsing:
        return
    from lora_deploy.versions import installed_versions

    versions = installed_versions()
    click.echo(f"lora-deploy {versions.pop('lora-deploy', 'unknown')}")
    click.echo(", ".join(f"{package} {version}" for package, version in versions.items()))
    context.exit()


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_print_version,
    help="Print the versions that matter and exit.",
)  # fmt: skip
@click.option("-v", "--verbose", is_flag=True, help="Say more; show tracebacks.")
@click.option("-q", "--quiet", is_flag=True, help="Say nothing but warnings and errors.")
def commands(verbose: bool, quiet: bool) -> None:
    """From a folder of labelled videos to a proven, swappable action recogniser."""
    terminal.talk(logging.DEBUG if verbose else logging.WARNING if quiet else logging.INFO)


for _command in (
    learn.quickstart,
    learn.train,
    learn.compare,
    learn.config,
    use.evaluate,
    ship.merge_export,
    ship.verify,
    ship.push,
    use.classify,
    use.timeline,
    use.demo,
    offer.serve,
    look.bench,
    look.doctor,
    look.inspect_model,
):
    commands.add_command(_command)
