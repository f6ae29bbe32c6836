"""A web page that can't be served as it was asked for."""

from lora_deploy.errors.root import LoraDeployError


class DemoError(LoraDeployError):
    """A web page that can't be served as it was asked for."""


class DemoSettingError(DemoError):
    """A setting of the web page that is outside what it may be, or that excludes another one."""

    remedy = "take a value in that range, or leave the setting out"


class LoginNeededError(DemoError):
    """The web page would be open to everybody on a network, and nobody said that it may be."""

    remedy = "name a file of users with --login-file, let everybody in with --without-login, or listen on 127.0.0.1"


class LoginFileError(DemoError):
    """The file with users and passwords for the web page can't be used."""

    remedy = "write one USER:PASSWORD a line into it, and let nobody else read it"


class AddressTakenError(DemoError):
    """A page or service can't listen where it was told to: another program does, or the address is not this computer's."""

    remedy = "take another port or address, or stop the other program"


class NoPublicLinkError(DemoError):
    """The relay that gives public links can't be reached, or refused to give one."""

    remedy = "serve the page without a public link, or behind a proxy of your own"
