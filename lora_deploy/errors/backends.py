"""Runtimes and decoders that can't do what was asked, and packages that are missing."""

from lora_deploy.errors.root import LoraDeployError


class BackendError(LoraDeployError):
    """A runtime that is unknown here or can't do what was asked of it."""


class UnknownBackendError(BackendError):
    """No runtime of this program is called so."""

    remedy = "leave --backend out, and the best one that is here is taken"


class BackendCannotError(BackendError):
    """The runtime exists, but can't run this kind of model or folder."""

    remedy = (
        "make a bundle with `lora-deploy merge-export RUN --out BUNDLE`, or leave --backend out"
    )


class NoSuchDeviceError(BackendError):
    """The device that was asked for is not there; nothing is moved to another one in silence."""

    remedy = "leave --device out, or see what is there with `lora-deploy doctor`"


class NoSuchFormError(BackendError):
    """The bundle has no model for this runtime at this precision: it was not exported, or not proved."""

    remedy = (
        "take one of those, or export it, as in "
        "`lora-deploy merge-export RUN --out BUNDLE --to onnx,openvino --precision fp32,int8`"
    )


class NoSuchAdapterError(BackendError):
    """The bundle has no adapter of that name, or several, and none was named."""

    remedy = "name one of those with --adapter"


class UnknownFormError(BackendError):
    """No form of a model is called so: it is merged, unmerged, or the base under the trained head."""

    remedy = "leave form out, and what is shipped is taken"


class NoSuchChoiceError(BackendError):
    """The page serves no form of a model that is called so."""

    remedy = "take one of those; each bears the name that the page's own interface uses"


class NoUnmergedFormError(BackendError):
    """The model was trained without an adapter: no weights of its base stand apart from what was learned."""

    remedy = "leave form and adapter out, or train an adapter: model.use_lora: true"


class AdapterGraphMissingError(BackendError):
    """The bundle has no ONNX graph that takes adapters, so only PyTorch can run them unmerged."""

    remedy = (
        'install "lora-deploy[train]" and take --backend torch, or export the graph: '
        "`lora-deploy merge-export RUN --out BUNDLE --adapter-graph`"
    )


class PrecisionNotHereError(BackendError):
    """The processor does not compute in the precision that was asked for; nothing else is taken in silence."""

    remedy = "take another one with --precision; `lora-deploy doctor` says what this computer has"


class ProviderFellBackError(BackendError):
    """The runtime took another provider or precision than was asked for, most often the CPU instead of the GPU."""

    remedy = "see `lora-deploy doctor`: the GPU build, the driver and CUDA must fit each other"


class NothingMeasuredError(BackendError):
    """`bench` found no form of the model that runs on this computer."""

    remedy = (
        "install a runtime for it (`lora-deploy doctor` says what is here), or export more forms"
    )


class DecodersUnavailableError(BackendError):
    """The processes that decode videos can't be started on this machine."""

    remedy = "`lora-deploy doctor` says what is missing"


class DecoderError(BackendError):
    """A decoder whose frames are not those that were asked for, and that says nothing of it."""


_ANOTHER_DECODER = (
    "take --decoder av, or install another version of the decoder; `lora-deploy doctor` proves "
    "each that is here"
)


class RepeatedFramesError(DecoderError):
    """The decoder gives one picture several times, in place of others that it can't reach.

    decord does so in files with an edit list, and behind damage.
    """

    remedy = _ANOTHER_DECODER


class RotationIgnoredError(DecoderError):
    """The decoder gives pictures as they are stored, and not as the file says they are to be turned.

    Phones store portrait video lying on its side.
    """

    remedy = _ANOTHER_DECODER


class SampledByIndexError(DecoderError):
    """The decoder counts frames instead of looking at their times.

    Where the rate varies, as in videos of phones and screens, that gives other moments.
    """

    remedy = _ANOTHER_DECODER


class FirstFramesOnlyError(DecoderError):
    """The decoder looks at the first frames of a video alone, however long it is."""

    remedy = _ANOTHER_DECODER


class WrongFramesError(DecoderError):
    """The decoder gives other pictures than were asked for, or wrong colours."""

    remedy = _ANOTHER_DECODER


class DecoderUnprovedError(DecoderError):
    """The decoder refuses every clip whose frames are known, so nothing vouches for the others."""

    remedy = _ANOTHER_DECODER


class MissingPackageError(LoraDeployError):
    """An optional package that this command needs is not installed; the text has the pip line."""

    remedy = "type that line, then see what is here with `lora-deploy doctor`"


class FormNotMadeError(BackendError):
    """A target or a precision that is unknown, or a pair of them that no file is made for."""

    remedy = (
        "take a pair that there is, as in "
        "`lora-deploy merge-export RUN --out BUNDLE --to onnx,openvino --precision fp32,int8`, or for "
        "cards `--to onnx,tensorrt --target sm86 --precision fp32,fp16`"
    )


class NotExportableError(BackendError):
    """The ONNX exporter can't follow what the model computes."""

    remedy = "see the versions with `lora-deploy doctor`, and please report them with the model"
