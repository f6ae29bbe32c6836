"""The root of all errors that a user can cause."""

from typing import ClassVar


class LoraDeployError(Exception):
    """A mistake that the user can mend; its text says what was found, what is allowed, what to do."""

    exit_code = 2

    remedy: ClassVar[str] = ""
    """What to do, in words and with the command to type; it ends the text of a named error."""

    def __init__(self, found: str) -> None:
        """``found`` says what was found and what is allowed; a named error adds its remedy."""
        super().__init__(f"{found}; {self.remedy}" if self.remedy else found)
        self.found = found
        """Without the remedy, to be part of another text."""

    @property
    def name(self) -> str | None:
        """The word to look up in the documentation; None for an error without a page of its own."""
        return type(self).__name__ if self.remedy else None
