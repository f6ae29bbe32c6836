"""Writes a RUN while a training goes on: each better epoch whole, so an interruption loses nothing."""

import time
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel

from lora_deploy import atomic
from lora_deploy.artifact import run
from lora_deploy.artifact.adapter_record import AdapterRecord
from lora_deploy.artifact.manifest import BaseIdentity, sha256_of_file
from lora_deploy.artifact.run import BestEpoch, RunManifest
from lora_deploy.clips.contract import PixelContract
from lora_deploy.clips.dataset import ClipDataset
from lora_deploy.config import Settings, to_yaml
from lora_deploy.errors import NothingKeptError
from lora_deploy.evaluate import Evaluation
from lora_deploy.model.adapter import recorded_options, save_adapter
from lora_deploy.model.base import OpenedBase
from lora_deploy.train import cards
from lora_deploy.train.callbacks import EpochFigures
from lora_deploy.train.interruption import uninterrupted
from lora_deploy.train.learner import Learner
from lora_deploy.train.splits_file import splits_csv
from lora_deploy.versions import installed_versions


class RunFolder:
    """Writes a RUN: what is known at the start, then each better epoch, then that it is done."""

    def __init__(
        self,
        path: Path,
        settings: Settings,
        dataset: ClipDataset,
        base: OpenedBase,
        contract: PixelContract,
        learner: Learner,
        *,
        earlier_seconds: float = 0.0,
        goes_on: bool = False,
        begun_with: str | None = None,
    ) -> None:
        """Write what is known at the start.

        Args:
            path: Is there.
            settings: Of the training.
            dataset: All of its clips.
            base: What it stands on.
            contract: What is decoded of each clip.
            learner: What learns.
            earlier_seconds: Spent on it before an interruption.
            goes_on: The best epoch of before is in the folder, and stays until a better one comes.
            begun_with: SHA-256 of the weights of an adapter.
        """
        self.path = path
        self._settings = settings
        self._dataset = dataset
        self._base = base
        self._contract = contract
        self._learner = learner
        self._begun_with = begun_with
        self._started = time.monotonic() - earlier_seconds
        self._manifest = run.read_run_manifest(path) if goes_on else None
        atomic.write_text(path / run.SETTINGS, to_yaml(settings))
        atomic.write_text(path / run.SPLITS, splits_csv(dataset))

    def save(self, figures: EpochFigures, val_clips: int) -> None:
        """Replace weights and manifest by those of this epoch, all or none of them.

        Ctrl-C and a termination wait until that is done.
        """
        with uninterrupted():
            self._write(figures, val_clips)

    def _write(self, figures: EpochFigures, val_clips: int) -> None:
        model = self._learner.model
        manifest = self._describe(figures, val_clips)
        with atomic.updating(self.path) as stage:
            with (stage / run.CHECKPOINT).open("wb") as file:
                torch.save(self._checkpoint(), file)  # given a path, it would hide a full disk
            if isinstance(model, PeftModel):
                adapter = stage / run.ADAPTER
                save_adapter(model, adapter, self._record(manifest, model))
                texts = {
                    "labels.json": cards.labels_json(manifest.labels),
                    "README.md": cards.adapter_card(manifest, self._settings),
                }
                for name, text in texts.items():
                    (adapter / name).write_text(text, encoding="utf-8")
            manifest = manifest.model_copy(update={"weights": _hashes(stage)})
            run.write_run_manifest(stage, manifest)
        self._manifest = manifest

    @property
    def training_seconds(self) -> float:
        """Spent on this training so far, without what an interruption made undone."""
        return time.monotonic() - self._started

    def outcome(self) -> RunManifest:
        """The manifest of a training that came to its end; not written yet.

        Raises:
            NothingKeptError: No epoch was kept.
        """
        if self._manifest is None:
            raise NothingKeptError("the training ended before its first evaluation")
        return self._manifest.model_copy(
            update={"finished": True, "training_seconds": self.training_seconds}
        )

    def write_card(self, manifest: RunManifest, evaluation: Evaluation) -> None:
        """Write the model card, with the figures of the model that was kept."""
        card = cards.run_card(manifest, self._settings, evaluation)
        atomic.write_text(self.path / run.CARD, card)

    def _describe(self, figures: EpochFigures, val_clips: int) -> RunManifest:
        """All but the hashes."""
        learner = self._learner
        return RunManifest(
            kind="lora" if self._settings.model.use_lora else "full",
            labels=self._dataset.labels,
            contract=self._contract,
            base=BaseIdentity(
                id=self._base.base_id,
                revision=self._base.revision,
                fingerprint=self._base.fingerprint,
                licence=self._base.licence,
            ),
            model_config_values=self._model_config(),
            head_modules=self._base.head_modules,
            targets=learner.targets.layers if learner.targets else (),
            parameters=learner.parameters.as_dict(),
            versions=installed_versions(),
            best=BestEpoch(
                epoch=figures.epoch,
                val_accuracy=figures.val_accuracy,
                val_loss=figures.val_loss,
                val_clips=val_clips,
                training_seconds=self.training_seconds,
            ),
            finished=False,
            begun_with=self._begun_with,
            training_seconds=self.training_seconds,
            weights={},
        )

    def _record(self, manifest: RunManifest, model: PeftModel) -> AdapterRecord:
        return AdapterRecord(
            base=manifest.base,
            labels=manifest.labels,
            contract=manifest.contract,
            **recorded_options(model.active_peft_config),
        )

    def _model_config(self) -> dict[str, Any]:
        values: dict[str, Any] = self._learner.model.config.to_dict()
        values.pop("_name_or_path", None)  # a path of this computer
        return values

    def _checkpoint(self) -> dict[str, Any]:
        """Plain tensors and plain types, for ``torch.load(weights_only=True)``."""
        state = self._learner.model.state_dict()
        return {
            "kind": "lora" if self._settings.model.use_lora else "full",
            "labels": list(self._dataset.labels),
            "contract": self._contract.model_dump(mode="json"),
            "settings": self._settings.model_dump(mode="json"),
            "state_dict": {name: tensor.detach().cpu().clone() for name, tensor in state.items()},
        }


def _hashes(folder: Path) -> dict[str, str]:
    """SHA-256 of every file under a folder, by its path with forward slashes."""
    return {
        path.relative_to(folder).as_posix(): sha256_of_file(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
