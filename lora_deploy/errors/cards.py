"""NVIDIA cards that are not there, and engines and providers that don't fit those that are."""

from lora_deploy.errors.backends import BackendError


class CardError(BackendError):
    """Something that was to run on an NVIDIA card, and doesn't."""


class NoCardError(CardError):
    """No NVIDIA card can be reached through its driver, and this form runs on nothing else."""

    remedy = (
        "run it on a computer with a card, or on the processor (--backend onnxruntime, where there is "
        "such an option); `lora-deploy doctor` says what is here"
    )


class CardFailedError(CardError):
    """The card's driver refused something, most often because its memory is full."""

    remedy = "take a smaller --batch-size, or see with nvidia-smi who else uses the card"


class ProviderMissingError(CardError):
    """The ONNX Runtime that is installed has no provider of that kind."""

    remedy = (
        "take --backend onnxruntime, or install what brings it: the build for NVIDIA cards, "
        "onnxruntime-gpu, in the place of onnxruntime, and for onnxruntime-rtx "
        "onnxruntime-ep-nv-tensorrt-rtx beside it"
    )


class ProviderRefusesError(CardError):
    """The provider does not run all of the graph on the card, and nothing is left to the processor in silence."""

    remedy = (
        "see `lora-deploy doctor`: the build, driver, CUDA and cuDNN must fit each other; or take "
        "--backend onnxruntime-cuda, or onnxruntime"
    )


class EngineVersionError(CardError):
    """An engine is opened by the very version that compiled it, and by no other one."""

    remedy = (
        "install that version, or compile it again: "
        "`lora-deploy merge-export RUN --out BUNDLE --to onnx,tensorrt`"
    )


class EngineCardError(CardError):
    """An engine runs on cards of the compute capability that it was compiled for, and on no other ones."""

    remedy = (
        "take --backend onnxruntime-cuda, or compile one for this card: "
        "`lora-deploy merge-export RUN --out BUNDLE --to onnx,tensorrt --target sm86`"
    )


class EngineBatchError(CardError):
    """An engine runs batches of the sizes that it was compiled for, and no other ones."""

    remedy = "take one of those with --batch-size"


class EngineUnusableError(CardError):
    """TensorRT does not open an engine that is, byte for byte, the bundle's, or finds another model in it."""

    remedy = (
        "compile it again with the version that is installed: "
        "`lora-deploy merge-export RUN --out BUNDLE --to onnx,tensorrt`"
    )


class EngineOverBudgetError(CardError):
    """An engine was run and answered otherwise than the trained model does, so it is not opened."""

    remedy = (
        "take another form with --backend; certificate.html says by how much it was off, and "
        "`lora-deploy verify BUNDLE --complete` asks it again"
    )
