"""Engines that this user has run on this computer and found within budget.

A bundle may come from a stranger, and what it says of itself is the stranger's word. An engine is
native code, so it is opened without being named only if a record here, which nobody else can write,
knows it by the SHA-256 of its bytes.
"""

from contextlib import suppress
from pathlib import Path

from lora_deploy import atomic, regular
from lora_deploy.artifact.bundle import BundleManifest, Engine
from lora_deploy.errors import DiskFullError
from lora_deploy.runtime.own_cache import cache_folder, is_own, ready_folder

_FOLDER = "engines"
_MOST_BYTES = 1 << 20


def vouch(manifest: BundleManifest, engine: Engine, card: str) -> bool:
    """Remember an engine; False where that can't be written, so that it has to be named again."""
    path = _record(manifest, engine)
    if ready_folder(path.parent, "*.ran", _MOST_BYTES) is not None:
        with suppress(OSError, DiskFullError):
            atomic.write_text(path, f"{engine.name} on {card}\n")
            path.chmod(0o600)
    return is_vouched(manifest, engine)


def is_vouched(manifest: BundleManifest, engine: Engine) -> bool:
    """Whether an engine, as the manifest's hash names it, was run here and found within budget."""
    path = _record(manifest, engine)
    try:
        if not is_own(path.parent) or not is_own(path.parent.parent):
            return False
        with regular.opened(path, follow=False) as file:
            return is_own(file.fileno())
    except OSError:
        return False


def _record(manifest: BundleManifest, engine: Engine) -> Path:
    found = manifest.files.get(engine.file)
    digest = found.sha256 if found is not None and found.sha256.isalnum() else "unknown"
    return cache_folder(_FOLDER) / f"{digest}.ran"
