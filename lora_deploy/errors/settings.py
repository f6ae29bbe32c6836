"""Settings and options that can't be obeyed."""

from lora_deploy.errors.root import LoraDeployError


class SettingsError(LoraDeployError):
    """A key, type or value in the settings that is not allowed."""


class UnknownSettingError(SettingsError):
    """A key that no setting has: a typing error, or a key of another program."""

    remedy = "`lora-deploy config --effective` prints every key, and docs/settings.md explains them"


class SettingValueError(SettingsError):
    """A value of the wrong type, or outside of what the setting allows."""

    remedy = "look the setting up in docs/settings.md, which says what it may be and what it does"


class SettingsFileError(SettingsError):
    """The settings file is not there, or is no YAML."""

    remedy = "start from a good one: `lora-deploy config > my.yaml`"


class UnknownRecipeError(SettingsError):
    """No recipe that comes with this program is called so, and no file is there either."""

    remedy = "`lora-deploy config --list` prints their names"


class SettingsClashError(SettingsError):
    """Two settings that exclude each other, or one that is given in two places."""

    remedy = "keep one of the two; in every recipe of `lora-deploy config --list` they fit"


class NoClipHasLabelError(SettingsError):
    """A label in the settings that no clip of the data has: a typing error, or one of other data."""

    remedy = "write labels as the folders or the manifest of the clips do"


class OverrideError(SettingsError):
    """A ``--set`` that is no ``KEY=VALUE``, or whose key or value can't be one here."""

    remedy = (
        "write it as in `lora-deploy train --set training.batch_size=4` or "
        "`lora-deploy merge-export --set proof.int8.agreement=0.97`"
    )


class TimelineOptionsError(SettingsError):
    """A window, stride or smoothing with which no video can be looked through."""

    remedy = "take windows about as long as the clips that the model learnt from, and a stride of half of that"


class ViewsError(SettingsError):
    """Views of each clip that are no CLIPSxCROPS, or more than can be decoded at once."""

    remedy = (
        "write it as in `lora-deploy evaluate RUN --views 5x3`: clips are 1 and more, crops 1 or 3"
    )


class ListedHostError(SettingsError):
    """A host that is listed for links, and could be the host of none."""

    remedy = "give the full name of a public host and nothing else, as in videos.example.org"
