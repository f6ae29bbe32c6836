"""Uploads that a hub does not take."""

from lora_deploy.errors.root import LoraDeployError


class HubError(LoraDeployError):
    """An upload that a hub does not take, or that must not be made as it was asked for."""


class RepoNameError(HubError):
    """A name that no repository and no data set of a hub can have."""

    remedy = "give OWNER/NAME, as in `lora-deploy push RUN anna/gestures`"


class HubLoginError(HubError):
    """Nobody is logged in at the hub on this computer, or the token is not valid there any more."""

    remedy = "log in with `hf auth login`, or set HF_TOKEN, with a token that may write"


class HubUnreachableError(HubError):
    """The hub does not answer, or may not be asked now."""

    remedy = (
        "check the connection and that HF_HUB_OFFLINE is not set, then upload what is there: "
        "`lora-deploy push RUN OWNER/NAME`"
    )


class HubRefusedError(HubError):
    """The hub said no: the token may not write there, or the repository's name belongs to others."""

    remedy = (
        "use a token that may write to that owner's repositories, or another name: "
        "`lora-deploy push RUN OWNER/NAME`"
    )


class PublicRepoError(HubError):
    """The repository is there already and everybody can read it, which nobody asked for."""

    remedy = (
        "say that everybody may read it (`lora-deploy push RUN OWNER/NAME --public`), make it private "
        "at the hub, or take another name"
    )
