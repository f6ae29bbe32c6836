"""What a bad copy, a careless hand or another program does to a RUN or an adapter."""

import json
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from lora_deploy.artifact.manifest import sha256_of_file
from lora_deploy.artifact.run import read_run_manifest, write_run_manifest


def vouch_again(run: Path) -> None:
    """What somebody does who knows of the hashes."""
    manifest = read_run_manifest(run)
    weights = {name: sha256_of_file(run / name) for name in manifest.weights}
    write_run_manifest(run, manifest.model_copy(update={"weights": weights}))


def edit_tensors(adapter: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    path = adapter / "adapter_model.safetensors"
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, metadata=metadata)


def without(part: str) -> Callable[[dict[str, torch.Tensor]], None]:
    def drop(tensors: dict[str, torch.Tensor]) -> None:
        for name in [name for name in tensors if part in name]:
            del tensors[name]

    return drop


def edit_config(adapter: Path, **values: object) -> None:
    path = adapter / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def kill_adapter(folder: Path) -> None:
    """Set B to zero in every layer; the trained head and the record stay."""

    def zero(tensors: dict[str, torch.Tensor]) -> None:
        for name in tensors:
            if ".lora_B." in name:
                tensors[name] = torch.zeros_like(tensors[name])

    edit_tensors(folder, zero)
