"""RUN and BUNDLE folders that are missing, torn, changed or too new."""

from lora_deploy.errors.root import LoraDeployError


class ArtifactError(LoraDeployError):
    """A RUN or BUNDLE folder that is missing, incomplete, changed, or of a newer schema."""


class OutputExistsError(ArtifactError):
    """Something is at the place where a new folder is to be made; nothing is ever overwritten."""

    remedy = "choose another --out, or delete it first"


class NotAModelError(ArtifactError):
    """A folder that is neither a RUN nor a BUNDLE."""

    remedy = "give a folder that `lora-deploy train` or `lora-deploy merge-export` left"


class NotABundleError(ArtifactError):
    """A folder that is no BUNDLE, where only a BUNDLE will do."""

    remedy = "give a BUNDLE; `lora-deploy merge-export RUN --out BUNDLE` makes one of a RUN"


class NotARunError(ArtifactError):
    """A folder that is neither a RUN nor an adapter, where what training left is needed."""

    remedy = "give a folder that `lora-deploy train` left, or its best_model_lora_adapter"


class ManifestError(ArtifactError):
    """``run.json`` or ``bundle.json`` is torn, or says something that can't be."""

    remedy = "copy the folder again; `lora-deploy doctor PATH` looks at every file"


class CountsDifferError(ArtifactError):
    """Parameters, clips or outputs are more or fewer than the folder says of itself."""

    remedy = "copy the folder again, or make it again; `lora-deploy doctor PATH` counts every part"


class NewerSchemaError(ArtifactError):
    """The folder was written by a newer version of this program."""

    remedy = "install a newer lora-deploy: `pip install --upgrade lora-deploy`"


class FileMissingError(ArtifactError):
    """A file that the manifest vouches for is not there."""

    remedy = "copy the folder again; `lora-deploy doctor PATH` looks at every file"


class CertificateUnreadableError(ArtifactError):
    """A bundle's certificate is missing, damaged, or of a version that this program does not know."""

    remedy = "make the bundle again: `lora-deploy merge-export RUN --out BUNDLE`"


class FileChangedError(ArtifactError):
    """A file is not the one that the manifest vouches for: its size or hash differs."""

    remedy = "copy the folder again; `lora-deploy doctor PATH` looks at every file"


class FileUnknownError(ArtifactError):
    """A file that the manifest does not vouch for; it is not opened."""

    remedy = "take it away, or make the bundle again with `lora-deploy merge-export`"


class SaveUnfinishedError(ArtifactError):
    """A save was cut off after its new files counted and before all were at their places.

    Opening the folder finishes it, which takes the right to write there.
    """

    remedy = "copy the folder to where you may write, and open the copy"


class DiskFullError(ArtifactError):
    """There is not room enough for what is to be written; what was there stays as it was."""

    remedy = "free some space and give the same command again, a training with --resume"


class GraphError(ArtifactError):
    """The ONNX graph can't be opened, or is not one that this program exported."""

    remedy = "make the bundle again: `lora-deploy merge-export RUN --out BUNDLE`"


class GraphDisagreesError(ArtifactError):
    """The ONNX graph and ``bundle.json`` name other labels, another order, or other pixels."""

    remedy = "make the bundle again: `lora-deploy merge-export RUN --out BUNDLE`"


class LabelOrderError(ArtifactError):
    """The labels are in another order than the head was trained for, so every name is wrong."""

    remedy = "give back the labels of the training; `lora-deploy doctor PATH` prints them"
