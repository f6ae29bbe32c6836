"""Base models and checkpoints that can't be opened, or are not what they seem."""

from lora_deploy.errors.root import LoraDeployError


class ModelError(LoraDeployError):
    """A base model that can't be opened, or is of an unknown architecture."""


class BaseNotFoundError(ModelError):
    """No embedded base, folder, file or hub id is called so."""

    remedy = "see what a base holds with `lora-deploy inspect BASE`, then give it with --base"


class BaseNotHereError(ModelError):
    """A hub id that is not in this computer's cache, and that can't or must not be fetched now."""

    remedy = "fetch it where there is a connection: `hf download HUB_ID`"


class BaseConfigError(ModelError):
    """The base's ``config.json`` or ``preprocessor_config.json`` is missing, torn or can't be obeyed."""

    remedy = "copy the base's folder again, then look at it with `lora-deploy inspect BASE`"


class UnsupportedArchitectureError(ModelError):
    """The base is no video transformer that this program knows how to adapt, merge and export."""

    remedy = "choose a base of a supported architecture; `lora-deploy inspect BASE` names it"


class TooLargeForOnnxError(ModelError):
    """The model has more weights than one ONNX file can hold."""

    remedy = "choose a smaller base; `lora-deploy inspect BASE` counts its parameters"


class HiddenAdapterError(ModelError):
    """A folder of weights that holds an adapter too, which transformers puts in without a word."""

    remedy = "take adapter_config.json out of it; `lora-deploy doctor PATH` looks at an adapter"


class KnownBadLibraryError(ModelError):
    """The installed library is inside a window of versions that give plausible, wrong results."""

    remedy = "then look with `lora-deploy doctor`"


class TargetError(ModelError):
    """A word in ``target_modules`` that names no layer of the model."""


class UnknownTargetError(TargetError):
    """A word that names no layer of this model, alone or beside words that do.

    peft ignores such a word without a warning as long as another one matches.
    """

    remedy = "`lora-deploy inspect BASE --targets WORDS` shows what words hit"


class TooManyTopLayersError(TargetError):
    """``model.lora.top_layers`` asks for more blocks than the base has."""

    remedy = (
        "`lora-deploy inspect BASE` counts its layers; leave it out to have LoRA in all of them"
    )


class LivenessError(ModelError):
    """An adapter that is not part of what the model computes."""


class DeadLayerError(LivenessError):
    """A layer under LoRA that the model never calls, or that no gradient reaches.

    Some attention code computes ``F.linear(x, self.qkv.weight)``, past the layer and so past its
    adapter: the loss still falls, because the head learns.
    """

    remedy = (
        "choose other target_modules (`lora-deploy inspect BASE` lists them), or install "
        "transformers>=5.18"
    )


class DeadAdapterError(LivenessError):
    """An adapter that changes no answer: it has learned nothing, or the model goes past it.

    Accuracy can look good all the same, because the head was trained. peft's own
    ``disable_adapter`` hides it, because that takes the trained head away as well.
    """

    remedy = (
        "train again with a higher training.learning_rate or other target_modules: "
        "`lora-deploy train --config FILE --data DATA --out RUN`"
    )


class MergeChangesAnswersError(LivenessError):
    """The merged weights answer otherwise than the adapter on its base does."""

    remedy = "`lora-deploy inspect BASE` shows the layers; please report this base"


class AnswersNotFiniteError(LivenessError):
    """The model answers NaN or infinity to an ordinary clip, so some weight is broken."""

    remedy = "look at every part with `lora-deploy doctor PATH`, and copy or train it again"


class CheckpointError(ModelError):
    """Weights with missing or unexpected parts."""


class UnsafeCheckpointError(CheckpointError):
    """A file of weights that holds more than plain tensors (opening it could run code), or is torn."""

    remedy = "save its tensors alone with `torch.save(model.state_dict(), PATH)` where it was made"


class NotVideoMaeError(CheckpointError):
    """A ``.pth`` file of something else than the original VideoMAE code."""

    remedy = "convert it to a transformers folder, and give that with --base"


class WeightsMissingError(CheckpointError):
    """The weights lack parts that the model needs, such as the biases of query and value.

    Loaded with ``strict=False`` they would stay random, and nothing would tell.
    """

    remedy = "fetch the base again; `lora-deploy inspect BASE` says whether it is whole"


class WeightsUnexpectedError(CheckpointError):
    """The weights hold parts that the model has no place for, so they are of another model."""

    remedy = "give the config.json that belongs to them; `lora-deploy inspect BASE` checks it"


class WeightShapeError(CheckpointError):
    """A tensor has another shape than the model, so weights and configuration are no pair."""

    remedy = "give weights and config.json of the same model; `lora-deploy inspect BASE` checks it"


class HalfFittingCheckpointError(CheckpointError):
    """A ``best_model.pth`` of which only a part fits the model that its RUN describes."""

    remedy = "copy the whole RUN folder again, or train again with `lora-deploy train`"
