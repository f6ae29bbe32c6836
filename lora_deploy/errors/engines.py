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
