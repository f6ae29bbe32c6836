"""LoRA adapters for video transformers: trained, merged, exported, proved equal, and used."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lora_deploy.model.embedded import embedded_base
    from lora_deploy.runtime.load import load

__all__ = ["embedded_base", "load"]


def __getattr__(name: str) -> Any:
    # Imported when first used: `lora-deploy --help` must not wait for numpy and FFmpeg.
    if name == "load":
        from lora_deploy.runtime.load import load

        return load
    if name == "embedded_base":
        from lora_deploy.model.embedded import embedded_base

        return embedded_base
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
