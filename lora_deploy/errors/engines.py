"""TensorRT engines that can't be built or opened, each for a reason of its own."""

from lora_deploy.errors.backends import BackendError


class EngineError(BackendError):
    """An engine of TensorRT that can't be built for what was asked, or not be opened here."""


class TensorRTUnusableError(EngineError):
    """TensorRT is installed and can't be used: its libraries are missing, or its version is too old."""

    remedy = (
        "install it again, from its vendor's own index where it is `tensorrt`; engines for cards "
        'that are not here need "lora-deploy[rtx]" alone'
    )


class NoSuchEngineError(EngineError):
    """The bundle has no engine of this package at this precision."""

    remedy = (
        "take one of those with --backend and --precision, or export one for your card, as in "
        "`lora-deploy merge-export RUN --out BUNDLE --to onnx,tensorrt --target sm86 --precision fp16`"
    )


class TargetMissingError(EngineError):
    """An engine runs on cards of one compute capability, and none was named."""

    remedy = (
        "name them, as in `--to onnx,tensorrt --target sm86,sm89`; "
        "`nvidia-smi --query-gpu=name,compute_cap --format=csv` says what a card has"
    )


class UnknownCardError(EngineError):
    """No kind of card is called so: a target is ``sm`` and the card's compute capability without its dot."""

    remedy = (
        "`nvidia-smi --query-gpu=name,compute_cap --format=csv` says it where the card is: 8.6 is "
        "sm86, 12.0 is sm120"
    )


class TargetNotBuiltError(EngineError):
    """The compiler has no kernels for this kind of card: `tensorrt-rtx` serves RTX cards, not data centres' H100."""

    remedy = (
        "take a target that there is; on another card run the ONNX file (--backend "
        "onnxruntime-cuda), or compile where the card is, with `--flavour tensorrt`"
    )


class TargetPrecisionError(EngineError):
    """This kind of card does not compute the model in this precision, or the compiler has no kernel for it there."""

    remedy = "take a precision that the target has, as in `--precision fp16`"


class CardNotHereError(EngineError):
    """`tensorrt` tries kernels out on the card that it compiles for: the first one that is here."""

    remedy = (
        "export where the card is (of several cards `CUDA_VISIBLE_DEVICES=1` makes the second one "
        "the first), or leave --flavour out: `tensorrt-rtx` compiles for cards that are not here"
    )


class BuildNeedsCardError(EngineError):
    """What was asked of an engine is only built where a card is, whatever the target."""

    remedy = "leave it out, or export on a computer with an NVIDIA card"


class BatchSizesError(EngineError):
    """Sizes of batches that no engine is built for: one optimisation profile is made for each."""

    remedy = "give a few different ones, as in `--batch-sizes 1,4,8`"


class OperatorsUnknownError(EngineError):
    """The ONNX parser of this TensorRT does not know an operator, or an opset, of the graph."""

    remedy = (
        "install a newer one (`lora-deploy doctor` says what is here), or take `tensorrt-rtx`; a "
        "graph with operators of one runtime is never compiled, the plain one is"
    )


class EnginePrecisionError(EngineError):
    """The graph does not compute in the precision that the engine is to have; nothing would be said of it.

    Networks are strongly typed: precision is decided in the ONNX graph, and a float32 graph gives a slow
    float32 engine, whatever it is called.
    """

    remedy = "compile the graph of that precision, which `merge-export --precision` makes"


class EngineNotBuiltError(EngineError):
    """TensorRT read the graph and built no engine of it."""

    remedy = "see its messages with -v in front of the command, and please report them with the versions of `lora-deploy doctor`"
