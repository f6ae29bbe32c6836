"""Every error that a user can cause, as one tree; anything else is a bug of ours.

LoraDeployError                exit code 2: one clear line, no traceback
├── SettingsError              a settings file or ``--set`` that can't be obeyed
├── DataError                  a data folder or manifest that can't be used
├── ClipError                  one video file that gives no clip (becomes an error row)
├── LinkError                  a link that gives no video
├── ModelError                 a base model that can't be opened or is not what it seems
│   ├── TargetError            a target word that names no layer
│   ├── LivenessError          an adapter that is not part of what the model computes
│   └── CheckpointError        weights that don't fit the model
│       └── AdapterError       an adapter that is torn, changed, or of another model
├── ArtifactError              a RUN or BUNDLE folder that is missing, torn or too new
├── ResumeError                a training that can't go on from where it stopped
├── TrainingError              a training that can't give a model
├── BackendError               a runtime that can't do what was asked
│   └── DecoderError           a decoder that gives wrong frames without a word
├── DemoError                  a web page that can't be served as it was asked for
├── MissingPackageError        an optional package that is not installed
└── CheckFailed                exit code 1: finished, but a proof did not hold

The classes below these have names that a person can look up: the docstring is the cause, ``remedy``
what to do. ``docs/errors.md`` is written from them by ``scripts/error-docs``.
"""

from typing import ClassVar, Literal

ClipErrorKind = Literal[
    "unreadable", "no_video", "too_large", "too_long", "forbidden", "timeout", "not_found"
]

LinkErrorKind = Literal[
    "malformed",
    "host",
    "address",
    "redirect",
    "not_one_video",
    "times",
    "sign_in",
    "private",
    "removed",
    "region",
    "age",
    "live",
    "premiere",
    "members",
    "too_long",
    "too_large",
    "timeout",
    "no_network",
    "no_format",
    "no_javascript",
    "outdated",
    "refused",
    "not_found",
    "busy",
    "not_video",
    "unavailable",
]

CLIP_ERROR_KINDS: dict[ClipErrorKind, str] = {
    "unreadable": "It can't be read, is damaged, or is no video at all; or its decoder broke down.",
    "no_video": "It is sound, and holds no pictures, only sound or data.",
    "too_large": "Its pictures, the number of its streams, or the memory it needs exceed a limit.",
    "too_long": "It lasts longer, or has more frames, than is read; cut it.",
    "forbidden": "It is a folder, a device, a playlist, or of a kind that may name other files.",
    "timeout": "Decoding was not done within the deadline and was cut off.",
    "not_found": "There is no such file, or no such part of it.",
}
"""What each kind means of a file."""


class LoraDeployError(Exception):
    """A mistake that the user can mend; its text says what was found, what is allowed, what to do."""

    exit_code = 2

    remedy: ClassVar[str] = ""
    """What to do, in words and with the command to type; it ends the text of a named error."""

    def __init__(self, found: str) -> None:
        """``found`` says what was found and what is allowed; a named error adds its remedy."""
        super().__init__(f"{found}; {self.remedy}" if self.remedy else found)
        self.found = found
        """Without the remedy, to be part of another text."""

    @property
    def name(self) -> str | None:
        """The word to look up in the documentation; None for an error without a page of its own."""
        return type(self).__name__ if self.remedy else None


# Settings ---------------------------------------------------------------------------------------


class SettingsError(LoraDeployError):
    """A key, type or value in the settings that is not allowed."""


class UnknownSettingError(SettingsError):
    """A key that no setting has: a typing error, or a key of another program."""

    remedy = "`lora-deploy config --effective` prints every key"


class SettingValueError(SettingsError):
    """A value of the wrong type, or outside of what the setting allows."""

    remedy = "`lora-deploy config` prints a recipe with every value explained"


class SettingsFileError(SettingsError):
    """The settings file is not there, or is no YAML."""

    remedy = "start from a good one: `lora-deploy config > my.yaml`"


class UnknownRecipeError(SettingsError):
    """No recipe that comes with this program is called so, and no file is there either."""

    remedy = "`lora-deploy config --list` prints their names"


class SettingsClashError(SettingsError):
    """Two settings that exclude each other, or one that is given in two places."""

    remedy = "keep one of the two; in every recipe of `lora-deploy config --list` they fit"


class OverrideError(SettingsError):
    """A ``--set`` that is no ``KEY=VALUE``, or whose key or value can't be one here."""

    remedy = (
        "write it as in `lora-deploy train --set training.batch_size=4` or "
        "`lora-deploy merge-export --set proof.int8.agreement=0.97`"
    )


class TimelineOptionsError(SettingsError):
    """A window, stride or smoothing with which no video can be looked through."""

    remedy = "take windows about as long as the clips that the model learnt from, and a stride of half of that"


class ListedHostError(SettingsError):
    """A host that is listed for links, and could be the host of none."""

    remedy = "give the full name of a public host and nothing else, as in videos.example.org"


# Data -------------------------------------------------------------------------------------------


class DataError(LoraDeployError):
    """Labelled clips that can't be used: folders, manifests, splits, labels, decoded frames."""


class NoSuchDataError(DataError):
    """Nothing is at the place that ``--data`` or ``--verify-on`` names."""

    remedy = "give a folder with one subfolder per class, or a CSV or JSONL manifest, with --data"


class DataNotNamedError(DataError):
    """No labelled clips were named, and the model has none of its own: only a RUN does."""

    remedy = "name some with --data"


class NoVideosError(DataError):
    """A folder or a manifest without a video: what a folder holds is told by the endings of names."""

    remedy = "put videos there (to train, in one subfolder per class), mend the endings of their names, or name files one by one"


class EmptyClassError(DataError):
    """A class folder in which no video is, so nothing could be learned of that class."""

    remedy = "fill the folder or remove it"


class FolderLayoutError(DataError):
    """A data folder that mixes loose videos, classes and splits, so that labels can't be told."""

    remedy = "put each video into CLASS/, or into train/CLASS/, val/CLASS/ or test/CLASS/"


class FileNameError(DataError):
    """A file or folder whose name is no UTF-8, which neither manifests nor reports can hold."""

    remedy = "rename it"


class ManifestFileError(DataError):
    """A manifest of another kind than CSV and JSON Lines, or that can't be read as text."""

    remedy = "save it as UTF-8 text with the ending .csv or .jsonl"


class ManifestRowError(DataError):
    """A line of the manifest that can't be read, lacks ``path`` or ``label``, or names no split."""

    remedy = "mend that line; needed are path and label, allowed beside them are split and group"


class ContradictingRowsError(DataError):
    """One file stands in the manifest twice, with different labels, splits or groups."""

    remedy = "keep one of the lines"


class GroupInTwoSplitsError(DataError):
    """Clips of one group (a person, a recording) are in several splits.

    What is tested was then seen in training, and the accuracy is too good to be true.
    """

    remedy = "keep each group in one split, or leave the column split out and let it be drawn"


class ClipsMissingError(DataError):
    """The manifest names files that are not there."""

    remedy = "copy them there, or mend their paths, which count from the manifest's folder"


class SplitsNotNamedError(DataError):
    """The data names no splits, so clips that the model learned from can't be told from others."""

    remedy = "say --split all if it has seen none of them, or give the RUN's splits.csv with --data"


class TooFewClassesError(DataError):
    """There is only one label, so nothing can be told apart."""

    remedy = "add clips of a second class beside the first"


class UntrainedClassError(DataError):
    """A class has clips to validate or to test, and none to train on."""

    remedy = "give some of its clips the split train, or leave the class out"


class EmptySplitError(DataError):
    """The clips that are needed (to validate, to test, to prove) are none."""

    remedy = "give some clips that split in the manifest's column, or name other clips with --data"


class NothingDecodedError(DataError):
    """Not one of the clips could be decoded, so there is nothing to learn or to measure."""

    remedy = "`lora-deploy classify MODEL FOLDER` says of each file what is wrong with it"


class OutputPlaceError(DataError):
    """Rows can't be written there: no such folder, or an ending that names no format."""

    remedy = "name a file in an existing folder: `lora-deploy classify MODEL FOLDER --out rows.csv`"


class UnknownLabelError(DataError):
    """The clips have labels that the model was not trained on."""

    remedy = "leave these clips out, or train again on all labels with `lora-deploy train`"


class FrameCacheFullError(DataError):
    """There is no room for the decoded frames, which a training reads instead of the videos."""

    remedy = "free some space, or name a folder on another disk with --cache"


class FrameCacheFolderError(DataError):
    """The folder for the decoded frames can't be made, read or written."""

    remedy = "name one that can be written with --cache"


# Clips ------------------------------------------------------------------------------------------


class ClipError(LoraDeployError):
    """One video file that could not be turned into a clip.

    Args:
        kind: One of the kinds that an error row may carry.
        message: Without paths of the machine, FFmpeg's own text or other internals.
    """

    def __init__(self, kind: ClipErrorKind, message: str) -> None:
        super().__init__(message)
        self.kind: ClipErrorKind = kind


# Links ------------------------------------------------------------------------------------------


_UPLOAD = "please upload the file"


class LinkError(LoraDeployError):
    """A link that gives no video: one sentence that a visitor of the page understands.

    Nothing of the server is in it, nor anything that another server said.
    """

    kind: ClassVar[LinkErrorKind]
    """A word for counting; each named error has its own."""


class LinkFormError(LinkError):
    """The text is no plain web address: another scheme, a port, a user name, odd characters, too long."""

    kind = "malformed"
    remedy = "paste the address of a video as the browser shows it, beginning with https://"


class LinkHostError(LinkError):
    """The link leads to a host from which nothing is fetched here."""

    kind = "host"
    remedy = _UPLOAD


class LinkAddressError(LinkError):
    """The link leads to no public computer: a number, this network, or a name that means one of those."""

    kind = "address"
    remedy = "only public addresses with a name are opened, so " + _UPLOAD


class LinkRedirectError(LinkError):
    """The host sends on to another place, which is not allowed, or sends on without end."""

    kind = "redirect"
    remedy = _UPLOAD


class NotOneVideoError(LinkError):
    """The link leads to a playlist, a channel, a search or another page of YouTube."""

    kind = "not_one_video"
    remedy = "open one video and paste its address"


class LinkTimesError(LinkError):
    """The start or the end that the link names is no time, or not in the video."""

    kind = "times"
    remedy = "write it as in t=90 or t=1m30s, or leave it out"


class SignInAskedError(LinkError):
    """YouTube takes the server for a program and asks it to sign in; servers in data centres see it often."""

    kind = "sign_in"
    remedy = _UPLOAD


class PrivateVideoError(LinkError):
    """The owner of the video shows it to chosen people only."""

    kind = "private"
    remedy = "choose a public video, or upload the file if it is yours"


class VideoGoneError(LinkError):
    """YouTube has no such video, or does not have it any more."""

    kind = "removed"
    remedy = "see whether the link opens in a browser, or choose another video"


class RegionBlockedError(LinkError):
    """YouTube does not show the video in the country where the server is."""

    kind = "region"
    remedy = _UPLOAD


class AgeLimitError(LinkError):
    """YouTube shows the video only to adults who have signed in."""

    kind = "age"
    remedy = _UPLOAD


class LiveVideoError(LinkError):
    """The video is being broadcast, so it has no end yet."""

    kind = "live"
    remedy = "wait until it is over, or choose another video"


class PremiereError(LinkError):
    """The video has been announced and has not begun."""

    kind = "premiere"
    remedy = "come back when it is out, or choose another video"


class MembersOnlyError(LinkError):
    """YouTube shows the video only to people who pay for it or for its channel."""

    kind = "members"
    remedy = "choose a video that everyone may see"


class LinkTooLongError(LinkError):
    """The video lasts longer than is fetched, or its length is not told."""

    kind = "too_long"
    remedy = "cut out the part that matters and upload it"


class LinkTooLargeError(LinkError):
    """The file has more bytes than is fetched."""

    kind = "too_large"
    remedy = "cut out the part that matters and upload it"


class LinkTimeoutError(LinkError):
    """The file was not here within the time that a link is given."""

    kind = "timeout"
    remedy = "try again later, or upload the file"


class NoNetworkError(LinkError):
    """The server can't reach the host: it has no network, or the host does not answer."""

    kind = "no_network"
    remedy = _UPLOAD


class NoUsableFormatError(LinkError):
    """YouTube offers the video in no form that is one plain file with pictures."""

    kind = "no_format"
    remedy = _UPLOAD


class NoJavaScriptError(LinkError):
    """YouTube gives videos only to programs that can run JavaScript, and the server can't."""

    kind = "no_javascript"
    remedy = (
        'please upload the file; who runs the server types `pip install -U "yt-dlp[default,deno]"`'
    )


class DownloaderOutdatedError(LinkError):
    """YouTube has changed, and the installed yt-dlp no longer understands it."""

    kind = "outdated"
    remedy = (
        "please upload the file; who runs the server updates yt-dlp: "
        '`pip install -U "yt-dlp[default,deno]"`'
    )


class LinkRefusedError(LinkError):
    """The host does not give out the file, or is out of order."""

    kind = "refused"
    remedy = _UPLOAD


class LinkNotFoundError(LinkError):
    """The host has nothing at the address."""

    kind = "not_found"
    remedy = "see whether the link opens in a browser"


class TooManyRequestsError(LinkError):
    """The host was asked too often by the server, and wants a pause."""

    kind = "busy"
    remedy = "try again later, or upload the file"


class NotAVideoFileError(LinkError):
    """What lies at the address is no video, but a page, a picture, a playlist or something torn."""

    kind = "not_video"
    remedy = "paste the address of the video file itself, or upload the file"


class LinksUnavailableError(LinkError):
    """Links can't be fetched on this server now: a package is missing, or there is no room."""

    kind = "unavailable"
    remedy = _UPLOAD


# Models -----------------------------------------------------------------------------------------


class ModelError(LoraDeployError):
    """A base model that can't be opened, or is of an unknown architecture."""


class BaseNotFoundError(ModelError):
    """No embedded base, folder, file or hub id is called so."""

    remedy = "see what a base holds with `lora-deploy inspect BASE`, then give it with --base"


class BaseNotHereError(ModelError):
    """A hub id that is not in this computer's cache, and that can't or must not be fetched now."""

    remedy = "fetch it where there is a connection: `hf download HUB_ID`"


class BaseConfigError(ModelError):
    """The base's ``config.json`` or ``preprocessor_config.json`` is missing, torn or can't be obeyed."""

    remedy = "copy the base's folder again, then look at it with `lora-deploy inspect BASE`"


class UnsupportedArchitectureError(ModelError):
    """The base is no video transformer that this program knows how to adapt, merge and export."""

    remedy = "choose a base of a supported architecture; `lora-deploy inspect BASE` names it"


class TooLargeForOnnxError(ModelError):
    """The model has more weights than one ONNX file can hold."""

    remedy = "choose a smaller base; `lora-deploy inspect BASE` counts its parameters"


class HiddenAdapterError(ModelError):
    """A folder of weights that holds an adapter too, which transformers puts in without a word."""

    remedy = "take adapter_config.json out of it; `lora-deploy doctor PATH` looks at an adapter"


class KnownBadLibraryError(ModelError):
    """The installed library is inside a window of versions that give plausible, wrong results."""

    remedy = "then look with `lora-deploy doctor`"


class TargetError(ModelError):
    """A word in ``target_modules`` that names no layer of the model."""


class UnknownTargetError(TargetError):
    """A word that names no layer of this model, alone or beside words that do.

    peft ignores such a word without a warning as long as another one matches.
    """

    remedy = "`lora-deploy inspect BASE --targets WORDS` shows what words hit"


class LivenessError(ModelError):
    """An adapter that is not part of what the model computes."""


class DeadLayerError(LivenessError):
    """A layer under LoRA that the model never calls, or that no gradient reaches.

    Some attention code computes ``F.linear(x, self.qkv.weight)``, past the layer and so past its
    adapter: the loss still falls, because the head learns.
    """

    remedy = (
        "choose other target_modules (`lora-deploy inspect BASE` lists them), or install "
        "transformers>=5.18"
    )


class DeadAdapterError(LivenessError):
    """An adapter that changes no answer: it has learned nothing, or the model goes past it.

    Accuracy can look good all the same, because the head was trained. peft's own
    ``disable_adapter`` hides it, because that takes the trained head away as well.
    """

    remedy = (
        "train again with a higher training.learning_rate or other target_modules: "
        "`lora-deploy train --config FILE --data DATA --out RUN`"
    )


class MergeChangesAnswersError(LivenessError):
    """The merged weights answer otherwise than the adapter on its base does."""

    remedy = "`lora-deploy inspect BASE` shows the layers; please report this base"


class AnswersNotFiniteError(LivenessError):
    """The model answers NaN or infinity to an ordinary clip, so some weight is broken."""

    remedy = "look at every part with `lora-deploy doctor PATH`, and copy or train it again"


# Weights ----------------------------------------------------------------------------------------


class CheckpointError(ModelError):
    """Weights with missing or unexpected parts."""


class UnsafeCheckpointError(CheckpointError):
    """A file of weights that holds more than plain tensors (opening it could run code), or is torn."""

    remedy = "save its tensors alone with `torch.save(model.state_dict(), PATH)` where it was made"


class NotVideoMaeError(CheckpointError):
    """A ``.pth`` file of something else than the original VideoMAE code."""

    remedy = "convert it to a transformers folder, and give that with --base"


class WeightsMissingError(CheckpointError):
    """The weights lack parts that the model needs, such as the biases of query and value.

    Loaded with ``strict=False`` they would stay random, and nothing would tell.
    """

    remedy = "fetch the base again; `lora-deploy inspect BASE` says whether it is whole"


class WeightsUnexpectedError(CheckpointError):
    """The weights hold parts that the model has no place for, so they are of another model."""

    remedy = "give the config.json that belongs to them; `lora-deploy inspect BASE` checks it"


class WeightShapeError(CheckpointError):
    """A tensor has another shape than the model, so weights and configuration are no pair."""

    remedy = "give weights and config.json of the same model; `lora-deploy inspect BASE` checks it"


class HalfFittingCheckpointError(CheckpointError):
    """A ``best_model.pth`` of which only a part fits the model that its RUN describes."""

    remedy = "copy the whole RUN folder again, or train again with `lora-deploy train`"


# Adapters ---------------------------------------------------------------------------------------


class AdapterError(CheckpointError):
    """An adapter that is torn, was changed, or belongs to another model."""


class NoAdapterError(AdapterError):
    """A folder that holds no LoRA adapter as peft writes one."""

    remedy = "give a folder with adapter_config.json and adapter_model.safetensors"


class AdapterConfigError(AdapterError):
    """``adapter_config.json`` is torn, or rank, alpha or dropout are no sensible numbers."""

    remedy = "copy the adapter again, then look at it with `lora-deploy doctor PATH`"


class NotPlainLoraError(AdapterError):
    """An adapter that is more than B·A beside a weight, or that changed its base (PiSSA, OLoRA)."""

    remedy = "convert it to plain LoRA with peft where it was trained, or train with plain LoRA"


class AdapterPartMissingError(AdapterError):
    """A layer's A or B is not in the file; peft only warns, and the layer stays as if untrained."""

    remedy = "copy the adapter again, or train again; `lora-deploy doctor PATH` lists its layers"


class AdapterPartUnknownError(AdapterError):
    """The file holds tensors for layers that the model or the configuration does not have."""

    remedy = "give the base that it was trained on; `lora-deploy doctor PATH` lists its layers"


class AdapterShapeError(AdapterError):
    """A tensor of the adapter does not have the shape that rank and layer ask for."""

    remedy = "the rank was edited, or the base is another: `lora-deploy doctor PATH` shows both"


class AdapterNotFiniteError(AdapterError):
    """The adapter holds NaN or infinity, and would make every answer NaN."""

    remedy = (
        "train again with a lower training.learning_rate: "
        "`lora-deploy train --config FILE --data DATA --out RUN`"
    )


class AdapterChangedError(AdapterError):
    """Rank, alpha or another part of the adapter is not what training left."""

    remedy = "copy the RUN again, or train again; an edited alpha changes every answer"


class HeadMissingError(AdapterError):
    """The adapter was saved without its head, and a fresh head answers by chance."""

    remedy = "save it again with every module of it in modules_to_save, or train again with `lora-deploy train`"


class WrongBaseError(AdapterError):
    """The base's tensors are not those that the adapter was trained on: another model or revision."""

    remedy = "give back the base of the training, with --base or model.revision"


class MergedTwiceError(AdapterError):
    """The adapter is in these weights already; adding it once more changes the answers."""

    remedy = "merge into the base that it was trained on, which `lora-deploy doctor PATH` names"


class PixelsChangedError(AdapterError):
    """Frames, size, mean or spread are not those that the weights were trained with."""

    remedy = "copy the whole RUN again; `lora-deploy doctor PATH` looks at every part"


class BaseNotNamedError(AdapterError):
    """An adapter of another program: which base it was trained on can't be proved from its files."""

    remedy = "name it: `lora-deploy merge-export PATH --base BASE --out BUNDLE --verify-on DATA`"


class LabelsNotNamedError(AdapterError):
    """An adapter of another program, whose files do not say what its outputs mean."""

    remedy = "write them, in the order of the outputs, as a JSON list into labels.json beside it"


class MergeNotFiniteError(CheckpointError):
    """Merging made a weight NaN or infinite."""

    remedy = "train again with a lower training.learning_rate; `lora-deploy doctor RUN` looks at it"


# Folders ----------------------------------------------------------------------------------------


class ArtifactError(LoraDeployError):
    """A RUN or BUNDLE folder that is missing, incomplete, changed, or of a newer schema."""


class OutputExistsError(ArtifactError):
    """Something is at the place where a new folder is to be made; nothing is ever overwritten."""

    remedy = "choose another --out, or delete it first"


class NotAModelError(ArtifactError):
    """A folder that is neither a RUN nor a BUNDLE."""

    remedy = "give a folder that `lora-deploy train` or `lora-deploy merge-export` left"


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


# Training and going on --------------------------------------------------------------------------


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


class TrainingError(LoraDeployError):
    """A training that can't give a model."""


class LossNotFiniteError(TrainingError):
    """The loss became NaN or infinite: the weights have run away."""

    remedy = "lower training.learning_rate, or set training.mixed_precision to no"


class NothingKeptError(TrainingError):
    """The training ended before its first evaluation, so no epoch could be kept."""

    remedy = "train for at least one epoch: `--set training.epochs=1`"


# Runtimes ---------------------------------------------------------------------------------------


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
        "take one of those, or export it: "
        "`lora-deploy merge-export RUN --out BUNDLE --to onnx,openvino --precision fp32,bf16,int8`"
    )


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
    """The web page can't listen where it was told to: another program does, or the address is not this computer's."""

    remedy = "take another port or address, or stop the other program"


class NoPublicLinkError(DemoError):
    """The relay that gives public links can't be reached, or refused to give one."""

    remedy = "serve the page without a public link, or behind a proxy of your own"


class MissingPackageError(LoraDeployError):
    """An optional package that this command needs is not installed; the text has the pip line."""

    remedy = "type that line, then see what is here with `lora-deploy doctor`"


class FormNotMadeError(BackendError):
    """A target or a precision that is unknown, or a pair of them that no file is made for."""

    remedy = (
        "take a pair that there is, as in "
        "`lora-deploy merge-export RUN --out BUNDLE --to onnx,openvino --precision fp32,bf16,int8`"
    )


class NotExportableError(BackendError):
    """The ONNX exporter can't follow what the model computes."""

    remedy = "see the versions with `lora-deploy doctor`, and please report them with the model"


# Proofs -----------------------------------------------------------------------------------------


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
