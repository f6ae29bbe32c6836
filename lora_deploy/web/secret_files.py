"""Files with secrets: read from a plain file, because a command line can be read by everybody on the computer."""

from pathlib import Path

from lora_deploy import regular


def read_secret_lines(path: Path) -> tuple[tuple[int, str], ...]:
    """Lines with something on them, without the spaces around it, each with its number from 1.

    Raises:
        ValueError: Why it can't be read, in words that repeat nothing of it.
    """
    try:
        text = regular.read_text(path)
    except UnicodeDecodeError:
        raise ValueError("it is no UTF-8 text") from None
    except OSError as error:
        raise ValueError(error.strerror or str(error)) from None
    lines = enumerate(text.splitlines(), start=1)
    return tuple((number, line.strip()) for number, line in lines if line.strip())
