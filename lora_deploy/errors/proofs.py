"""Work that was finished, and whose proof did not hold."""

from lora_deploy.errors.data import DataError
from lora_deploy.errors.folders import ArtifactError
from lora_deploy.errors.root import LoraDeployError


class CheckFailed(LoraDeployError):
    """The work was done, but a proof did not hold; nothing was left at the target."""

    exit_code = 1


class AnswersChangedError(CheckFailed):
    """A form of a bundle answers otherwise than on the computer that proved it.

    Another version of the runtime, another processor, or damage that no hash covers.
    """

    remedy = (
        "compare it on real clips with `lora-deploy verify BUNDLE --data DATA`, and see what is "
        "installed with `lora-deploy doctor`"
    )


class NothingComparedError(CheckFailed):
    """Nothing is wrong with a bundle, and nothing was compared either, so its proof was not repeated.

    No form of it runs here, or its certificate records no answers and there is nothing else to hold
    them against.
    """

    remedy = (
        'install what runs it (`pip install "lora-deploy[cpu]"`), and hold its forms against each '
        "other on real clips with `lora-deploy verify BUNDLE --data DATA`"
    )


class FormsDifferError(CheckFailed):
    """Two forms of one model do not answer alike on real clips, so none of them is shipped."""

    remedy = (
        "`lora-deploy merge-export RUN --out BUNDLE --report PAGE.html` shows on which clips, and "
        "`lora-deploy doctor RUN` looks for the cause"
    )


class AdapterSkippedError(CheckFailed):
    """A form answers as the base does, as if there were no adapter: it was lost on the way.

    It happens where a pipeline opens the base that an adapter's folder names, and not the adapter.
    """

    remedy = "`lora-deploy doctor RUN` looks at the adapter; then make the bundle again"


class ExportUnreadableError(CheckFailed):
    """What was exported can't be opened again, so it is not shipped."""

    remedy = "see the versions with `lora-deploy doctor`, and please report them with the model"


class ProofClipsMissingError(DataError):
    """The data do not have all clips of the certificate, so nothing can be held against it on them."""

    remedy = (
        "name the data that the bundle was proved on with --data (certificate.html names each clip), "
        "or leave --data out to ask about noise alone"
    )


class NotCompletableError(ArtifactError):
    """The bundle has no proof that could be completed: it is of an older version, or was not proved."""

    remedy = "make the bundle again: `lora-deploy merge-export RUN --out BUNDLE`"


class CompletionBusyError(ArtifactError):
    """Two processes complete one bundle at the same time."""

    remedy = "wait for the other one; what it writes is whole at every moment"
