"""Reading a manifest: the JSON file that makes a folder a RUN or a BUNDLE, checked on opening."""

import hashlib
import json
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from lora_deploy import regular
from lora_deploy.errors import ManifestError, NewerSchemaError, NotAModelError

SCHEMA_VERSION = 1


class Manifest(BaseModel):
    """What RUN and BUNDLE manifests share."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: Annotated[int, Field(strict=True, ge=1)] = SCHEMA_VERSION


class BaseIdentity(BaseModel):
    """Which base a run stands on."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    """As the user gave it."""
    revision: str | None
    fingerprint: str
    licence: str | None


def manifest_digest(path: Path) -> str:
    """One hash for a whole RUN or BUNDLE: of its manifest, which holds those of its files."""
    return f"sha256:{sha256_of_file(path)}"


def sha256_of_file(path: Path) -> str:
    """Hash of a file's content, as 64 hexadecimal digits."""
    with regular.opened(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_json(path: Path) -> Any:
    """Parse a JSON file.

    Raises:
        OSError: It can't be read, is no ordinary file, or is too large.
        ValueError: It is no JSON in UTF-8, or one that is nested without end.
    """
    try:
        return json.loads(regular.read_text(path))
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def is_inside(name: str) -> bool:
    """Whether a path of a manifest stays inside its folder."""
    path = PurePosixPath(name)
    return bool(name) and not path.is_absolute() and ".." not in path.parts


def _in_unicode(text: str) -> str:
    """Refuse halves of a sign, which JSON can hold, and which no file and no terminal takes."""
    text.encode("utf-8")
    return text


Label = Annotated[str, AfterValidator(_in_unicode)]
"""The name of a class."""

M = TypeVar("M", bound=Manifest)


def read_manifest(path: Path, kind: type[M]) -> M:
    """Read and check a manifest.

    Raises:
        ArtifactError: It is missing, torn, or written by a newer version of this program.
    """
    folder, name = path.parent, path.name
    if not path.is_file():
        what = "is no folder" if not folder.is_dir() else f"holds no {name}"
        raise NotAModelError(f"{folder} {what}: a folder with {name} is needed here")
    try:
        values = read_json(path)
    except OSError as error:
        raise ManifestError(f"{path} can't be read: {error.strerror}") from None
    except ValueError as error:
        raise ManifestError(f"{path} can't be read: {error}") from None
    found = values.get("schema_version") if isinstance(values, dict) else None
    if isinstance(found, int) and found > SCHEMA_VERSION:
        raise NewerSchemaError(
            f"{path} has schema version {found}; this program knows up to {SCHEMA_VERSION}"
        )
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(str(part) for part in problem["loc"])
        raise ManifestError(f"{path} is damaged: {where}: {problem['msg'].lower()}") from None
