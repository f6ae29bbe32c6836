"""Adapters that are torn, changed, dead, or of another model."""

from lora_deploy.errors.models import CheckpointError


class AdapterError(CheckpointError):
    """An adapter that is torn, was changed, or belongs to another model."""


class NoAdapterError(AdapterError):
    """A folder that holds no LoRA adapter as peft writes one."""

    remedy = "give a folder with adapter_config.json and adapter_model.safetensors"


class AdapterConfigError(AdapterError):
    """``adapter_config.json`` is torn, or rank, alpha or dropout are no sensible numbers."""

    remedy = "copy the adapter again, then look at it with `lora-deploy doctor PATH`"


class NotPlainLoraError(AdapterError):
    """An adapter that is none of LoRA, rsLoRA and DoRA, or that changed its base (PiSSA, OLoRA)."""

    remedy = (
        "convert it to plain LoRA with peft where it was trained, or train with `lora-deploy train`"
    )


class AdapterPartMissingError(AdapterError):
    """A layer's A or B is not in the file; peft only warns, and the layer stays as if untrained."""

    remedy = "copy the adapter again, or train again; `lora-deploy doctor PATH` lists its layers"


class AdapterPartUnknownError(AdapterError):
    """The file holds tensors for layers that the model or the configuration does not have."""

    remedy = "give the base that it was trained on; `lora-deploy doctor PATH` lists its layers"


class AdapterShapeError(AdapterError):
    """A tensor of the adapter does not have the shape that rank and layer ask for."""

    remedy = "the rank was edited, or the base is another: `lora-deploy doctor PATH` shows both"


class AdapterNotFiniteError(AdapterError):
    """The adapter holds NaN or infinity, and would make every answer NaN."""

    remedy = (
        "train again with a lower training.learning_rate: "
        "`lora-deploy train --config FILE --data DATA --out RUN`"
    )


class AdapterChangedError(AdapterError):
    """Rank, alpha or another part of the adapter is not what training left."""

    remedy = "copy the RUN again, or train again; an edited alpha changes every answer"


class HeadMissingError(AdapterError):
    """The adapter was saved without its head, and a fresh head answers by chance."""

    remedy = "save it again with every module of it in modules_to_save, or train again with `lora-deploy train`"


class WrongBaseError(AdapterError):
    """The base's tensors are not those that the adapter was trained on: another model or revision."""

    remedy = "give back the base of the training, with --base or model.revision"


class MergedTwiceError(AdapterError):
    """The adapter is in these weights already; adding it once more changes the answers."""

    remedy = "merge into the base that it was trained on, which `lora-deploy doctor PATH` names"


class PixelsChangedError(AdapterError):
    """Frames, size, mean or spread are not those that the weights were trained with."""

    remedy = "copy the whole RUN again; `lora-deploy doctor PATH` looks at every part"


class BaseNotNamedError(AdapterError):
    """An adapter of another program: which base it was trained on can't be proved from its files."""

    remedy = "name it: `lora-deploy merge-export PATH --base BASE --out BUNDLE --verify-on DATA`"


class LabelsNotNamedError(AdapterError):
    """An adapter of another program, whose files do not say what its outputs mean."""

    remedy = "write them, in the order of the outputs, as a JSON list into labels.json beside it"


class MergeNotFiniteError(CheckpointError):
    """Merging made a weight NaN or infinite."""

    remedy = "train again with a lower training.learning_rate; `lora-deploy doctor RUN` looks at it"
