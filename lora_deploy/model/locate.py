"""Where the files of a base are: in the package, in a folder here, or in the hub's cache."""

import os
import re
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

from lora_deploy.clips.processor import PROCESSOR_FILES
from lora_deploy.errors import BaseNotFoundError, BaseNotHereError, NotVideoMaeError
from lora_deploy.model import mcg_nju
from lora_deploy.model.embedded import EMBEDDED_BASES, embedded_base

_HUB_ID = re.compile(r"^[\w.-]+/[\w.-]+$")

_FILES_OF_A_BASE = ["config.json", *PROCESSOR_FILES, "README.md", "*.safetensors*"]


def locate(
    base: str, revision: str | None = None, *, may_download: bool = True
) -> tuple[Path, str | None]:
    """The folder or ``.pth`` file of a base, and its commit if it came from a hub.

    Args:
        base: Name of an embedded base, a transformers folder, a checkpoint of the original code,
            or a hub id.
        revision: Commit or tag of a hub id.
        may_download: False forbids asking a hub: only the hub's cache on this computer is read.
            ``HF_HUB_OFFLINE=1`` forbids it everywhere, as ``--offline`` does.

    Raises:
        BaseNotFoundError: Nothing is called so.
        BaseNotHereError: It is a hub id that is not in the cache, and can't or may not be fetched.
        NotVideoMaeError: It is a file of another kind.
    """
    if base in EMBEDDED_BASES:
        return embedded_base(base), None
    if Path(base).is_dir():
        return Path(base), None
    if Path(base).is_file():
        if Path(base).suffix in mcg_nju.ENDINGS:
            return Path(base), None
        raise NotVideoMaeError(
            f"base {base!r} is a file; allowed is a checkpoint of the original VideoMAE code "
            f"({', '.join(mcg_nju.ENDINGS)}), or a folder with config.json and model.safetensors"
        )
    if _HUB_ID.match(base) and not base.startswith("."):
        folder = _snapshot(base, revision, may_download=may_download)
        return folder, folder.name
    raise BaseNotFoundError(
        f"there is no base called {base!r}; allowed: an embedded base "
        f"({', '.join(EMBEDDED_BASES)}), an existing folder in transformers format, "
        "a .pth of the original VideoMAE code, or a hub id such as MCG-NJU/videomae-base"
    )


def _snapshot(hub_id: str, revision: str | None, *, may_download: bool) -> Path:
    """A base in the hub's own cache, fetched if need be; the folder is named after the commit."""
    # Read now: the hub's library reads it once, when it is first imported.
    may_download = may_download and not os.environ.get("HF_HUB_OFFLINE")
    patterns = [_FILES_OF_A_BASE]
    patterns.append([*patterns[0], "pytorch_model*.bin*"])  # where there are no safetensors
    try:
        for allowed in patterns:
            folder = Path(
                snapshot_download(
                    hub_id,
                    revision=revision,
                    allow_patterns=allowed,
                    local_files_only=not may_download,
                )
            )
            if any(folder.glob("*.safetensors")):
                break
    except (HfHubHTTPError, OfflineModeIsEnabled, OSError, ValueError) as error:
        at = f" at revision {revision}" if revision else ""
        what = f"base {hub_id!r} is no folder here, and{at} not in this computer's hub cache"
        if not may_download:
            raise BaseNotHereError(f"{what}, and the hub may not be asked now") from error
        raise BaseNotHereError(
            f"{what}, and can't be fetched ({type(error).__name__}); check the name, the revision "
            "and the connection, or give a folder with config.json and model.safetensors"
        ) from error
    return folder
