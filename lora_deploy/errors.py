"""Every error that a user can cause, as one tree; anything else is a bug of ours.

LoraDeployError                exit code 2: one clear line, no traceback
├── SettingsError              a settings file or ``--set`` that can't be obeyed
├── DataError                  a data folder or manifest that can't be used
├── ClipError                  one video file that gives no clip (becomes an error row)
├── ModelError                 a base model that can't be opened or is not what it seems
│   ├── TargetError            a target word that names no layer
│   └── CheckpointError        weights that don't fit the model
├── ArtifactError              a RUN or BUNDLE folder that is missing, torn or too new
├── BackendError               a runtime that can't do what was asked
├── MissingPackageError        an optional package that is not installed
└── CheckFailed                exit code 1: finished, but a proof did not hold
"""

from typing import Literal

ClipErrorKind = Literal[
    "unreadable", "no_video", "too_large", "too_long", "forbidden", "timeout", "not_found"
]


class LoraDeployError(Exception):
    """A mistake that the user can mend; its text says what was found, what is allowed, what to do."""

    exit_code = 2


class SettingsError(LoraDeployError):
    """A key, type or value in the settings that is not allowed."""


class DataError(LoraDeployError):
    """A data folder or manifest that does not hold labelled clips."""


class ClipError(LoraDeployError):
    """One video file that could not be turned into a clip.

    Args:
        kind: One of the kinds that an error row may carry.
        message: Without paths of the machine, FFmpeg's own text or other internals.
    """

    def __init__(self, kind: ClipErrorKind, message: str) -> None:
        super().__init__(message)
        self.kind: ClipErrorKind = kind


class ModelError(LoraDeployError):
    """A base model that can't be opened, or is of an unknown architecture."""


class TargetError(ModelError):
    """A word in ``target_modules`` that names no layer of the model."""


class CheckpointError(ModelError):
    """Weights with missing or unexpected parts."""


class ArtifactError(LoraDeployError):
    """A RUN or BUNDLE folder that is missing, incomplete, changed, or of a newer schema."""


class BackendError(LoraDeployError):
    """A runtime that is unknown here or can't do what was asked of it."""


class MissingPackageError(LoraDeployError):
    """An optional package that this command needs is not installed."""


class CheckFailed(LoraDeployError):
    """The work was done, but a proof did not hold; nothing was left at the target."""

    exit_code = 1
