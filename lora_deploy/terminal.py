"""How a command meets a person: exit codes, messages on stderr, a progress bar where somebody watches."""

import logging
import os
import shlex
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import click
from click.core import ParameterSource

from lora_deploy.errors import LoraDeployError
from lora_deploy.progress import Advance
from lora_deploy.texts import as_json as json_text
from lora_deploy.texts import visible


def exit_code_of(command: click.Command, arguments: Sequence[str]) -> int:
    """Run a command, and say on stderr what went wrong.

    Returns:
        The exit code: 0 done, 1 a check did not pass or some clips failed, 2 the user's mistake,
        3 a fault of ours, 130 and 143 interrupted.
    """
    if hasattr(signal, "SIGTERM"):
        signal.signal(signal.SIGTERM, _terminated)
    try:
        result = command.main(args=list(arguments), prog_name="lora-deploy", standalone_mode=False)
        sys.stdout.flush()
        return result if isinstance(result, int) else 0
    except click.exceptions.Exit as stop:
        return stop.exit_code
    except click.ClickException as error:
        error.show()
        return 2
    except LoraDeployError as error:
        name = f" [{error.name}]" if error.name else ""  # a word to look up in the documentation
        click.echo(visible(f"error: {error}{name}"), err=True)
        if _is_verbose():
            traceback.print_exc()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted", err=True)
        return 130
    except BrokenPipeError:
        # Whoever read our output has gone, as `head` does; nothing is left to be said.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        if error.filename is None and error.errno is None:
            return _our_fault(error)
        where = f": {error.filename}" if error.filename else ""
        click.echo(visible(f"error: {error.strerror or error}{where}"), err=True)
        if _is_verbose():
            traceback.print_exc()
        return 2
    except Exception as error:
        return _our_fault(error)


def _our_fault(error: Exception) -> int:
    click.echo(
        f"error: a fault of lora-deploy itself: {type(error).__name__}: {visible(str(error))}\n"
        "please report it with the output of the same command with -v in front: lora-deploy -v COMMAND …",
        err=True,
    )
    if _is_verbose():
        traceback.print_exc()
    return 3


def _terminated(*_: object) -> None:
    click.echo("terminated", err=True)
    raise SystemExit(143)


def command_line(flag: str | None = None) -> str:
    """The command that is running, as it was typed, with one flag more if it lacks it."""
    context = click.get_current_context()
    words = context.command_path.split()
    for parameter in context.command.params:
        name = parameter.name or ""
        if context.get_parameter_source(name) is not ParameterSource.COMMANDLINE:
            continue
        value, option = context.params[name], parameter.opts[0]
        if isinstance(parameter, click.Argument):
            words += map(str, value) if parameter.nargs == -1 else [str(value)]
        elif value is True:
            words.append(option)
        else:
            for single in value if parameter.multiple else [value]:
                words += [option, str(single)]
    return shlex.join([*words, *([] if flag is None or flag in words else [flag])])


def _is_verbose() -> bool:
    return logging.getLogger("lora_deploy").level <= logging.DEBUG


def talk(level: int) -> None:
    """Send the library's messages of this level and above to stderr."""
    logger = logging.getLogger("lora_deploy")
    logger.setLevel(level)
    logger.handlers = [_Stderr()]
    logger.propagate = False


class _Stderr(logging.Handler):
    """Messages as they are; warnings are marked as such."""

    def emit(self, record: logging.LogRecord) -> None:
        mark = f"{record.levelname.lower()}: " if record.levelno >= logging.WARNING else ""
        click.echo(visible(f"{mark}{record.getMessage()}"), err=True)


@contextmanager
def progress(description: str, total: int | None) -> Iterator[Advance]:
    """A bar where a person watches, else nothing; ``total`` may not be known."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    quiet = logging.getLogger("lora_deploy").level > logging.INFO
    with Progress(*columns, console=console, disable=quiet or not console.is_terminal) as bar:
        task = bar.add_task(description, total=total)
        yield lambda: bar.advance(task)


def show(value: Any, as_text: Callable[[Any], str], as_json: bool) -> None:
    """Print a result, as one JSON document or for people."""
    if as_json:
        click.echo(json_text(value.as_dict()))
    else:
        click.echo(visible(as_text(value)))
