"""Trainings that can't give a model, or can't go on."""

from lora_deploy.errors.root import LoraDeployError


class ResumeError(LoraDeployError):
    """A training that can't go on from where it stopped."""


class RunBusyError(ResumeError):
    """Another process is training into the same folder at this moment."""

    remedy = "wait until it is done, or choose another --out"


class NothingToResumeError(ResumeError):
    """There is no whole checkpoint to go on from: optimizer, random state or weights are missing."""

    remedy = "begin anew: `lora-deploy train --config FILE --data DATA --out RUN` without --resume"


class TornCheckpointError(ResumeError):
    """A checkpoint of which something is missing, torn or changed: optimizer, random state, weights.

    Going on without them would change every later weight, and nothing would tell.
    """

    remedy = "the one before it is taken, if it is whole: see `lora-deploy train --resume`"


class ResumeMismatchError(ResumeError):
    """Settings, clips, base or versions are not those of the training that is to be resumed."""

    remedy = "give the same --config and --data, or begin anew in another --out without --resume"


class BeginningMismatchError(ResumeError):
    """An adapter that ``--init-from`` names, and that this training can't begin with."""

    remedy = (
        "give the settings of that training (its config.yaml holds them), as in `lora-deploy train "
        "--config RUN/config.yaml --init-from RUN --data DATA --out ANOTHER`"
    )


class ComparisonChangedError(ResumeError):
    """A training in the comparison's folder was made with other settings, clips or base than are given now.

    Figures of both in one table would compare nothing.
    """

    remedy = "give the same --config and --data, or begin anew in another --out"


class TrainingError(LoraDeployError):
    """A training that can't give a model."""


class LossNotFiniteError(TrainingError):
    """The loss became NaN or infinite: the weights have run away."""

    remedy = "lower training.learning_rate, or set training.mixed_precision to no"


class MemoryFullError(TrainingError):
    """The computer or the card had no memory left for a batch of this size and model.

    Nothing of the RUN is lost: it holds the last whole epoch.
    """

    remedy = "set them with --set, as in `lora-deploy train --set training.batch_size=4`"


class FileVanishedError(TrainingError):
    """A file that the training reads or writes was taken away while it ran."""

    remedy = "put it back, then give the same `lora-deploy train` command with --resume"


class NothingKeptError(TrainingError):
    """The training ended before its first evaluation, so no epoch could be kept."""

    remedy = "train for at least one epoch: `--set training.epochs=1`"


class ManyProcessesError(TrainingError):
    """A comparison was started by a launcher as one of several processes.

    It starts the processes of its trainings itself, and each of several would start all of them.
    """

    remedy = "start `lora-deploy compare` without torchrun or accelerate; `--jobs 2` trains two models at once"
