"""An HTTP service that can't be started as it was asked for."""

from lora_deploy.errors.root import LoraDeployError


class ServeError(LoraDeployError):
    """An HTTP service that can't be started as it was asked for."""


class ServeSettingError(ServeError):
    """A setting of the service that is outside what it may be, or that excludes another one."""

    remedy = "take a value in that range, or leave the setting out"


class TokenNeededError(ServeError):
    """The service would be open to everybody on a network, and nobody said that it may be."""

    remedy = "name a file of tokens with --token-file, let everybody in with --without-token, or listen on 127.0.0.1"


class TokenFileError(ServeError):
    """The file with the tokens of the service can't be used."""

    remedy = (
        "write one token a line into it, of 16 characters or more, such as: openssl rand -hex 32"
    )
