"""Labelled clips that can't be used."""

from lora_deploy.errors.root import LoraDeployError


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


class DataFormatError(DataError):
    """The data are not laid out as ``--format`` or ``data.format`` says."""

    remedy = (
        "leave --format out, and the layout is recognised by itself; docs/data.md shows each one"
    )


class AnnotationError(DataError):
    """An annotation file of a known layout says something that its readers do not know."""

    remedy = "mend that file or fetch it anew; docs/data.md shows what is looked for"


class FoldMissingError(DataError):
    """The data bring no such division of their own into clips to train on and to test on."""

    remedy = "name one that is there with --set data.fold=N"


class FileNameError(DataError):
    """A file or folder whose name is no UTF-8, which neither manifests nor reports can hold."""

    remedy = "rename it"


class ManifestFileError(DataError):
    """A manifest of another kind than CSV and JSON Lines, or that can't be read as text."""

    remedy = "save it as UTF-8 text with the ending .csv or .jsonl"


class ManifestRowError(DataError):
    """A line of the manifest that can't be read, lacks ``path`` or ``label``, or names no split."""

    remedy = "mend that line; needed are path and label, allowed beside them are split, group, start and end"


class ContradictingRowsError(DataError):
    """One file, or part of one, stands in the manifest twice, with different labels, splits or groups."""

    remedy = "keep one of the lines"


class GroupInTwoSplitsError(DataError):
    """Clips of one group (a person, a recording) are in several splits.

    What is tested was then seen in training, and the accuracy is too good to be true.
    """

    remedy = "keep each group in one split, or leave the column split out and let it be drawn"


class FileInTwoSplitsError(DataError):
    """Clips that are parts of one file are in several splits.

    They show the same people in the same place, so what is tested was seen in training.
    """

    remedy = (
        "keep all parts of a file in one split, or leave the column split out and let it be drawn"
    )


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


class TimelinePlaceError(DataError):
    """A timeline can't be written there: no such folder, an ending that names no format, or one file for several videos."""

    remedy = "name files in existing folders; of several videos with {} for the name of each: `lora-deploy timeline MODEL *.mp4 --out 'strips/{}.html'`"


class UnknownLabelError(DataError):
    """The clips have labels that the model was not trained on."""

    remedy = (
        "name them as the model does, leave these clips out, or train again on all labels with "
        "`lora-deploy train`"
    )


class LeaveOutError(DataError):
    """``--leave-out`` finds no groups that could be left out one after the other."""

    remedy = "give each clip a group in the manifest, or a pattern with one bracket that finds it in the path, as in --leave-out '(person[0-9]+)_'"


class FrameCacheFullError(DataError):
    """There is no room for the decoded frames, which a training reads instead of the videos."""

    remedy = "free some space, or name a folder on another disk with --cache"


class FrameCacheFolderError(DataError):
    """The folder for the decoded frames can't be made, read or written."""

    remedy = "name one that can be written with --cache"


class InputNameError(DataError):
    """A name of a clip that no file can have: an empty one, or one with a NUL byte in it."""

    remedy = "give names one a line, or as `find CLIPS -print0 | lora-deploy classify MODEL -` does"


class NothingMatchesError(DataError):
    """A name with ``*``, ``?`` or ``[`` in it that is neither a file nor a pattern of one."""

    remedy = "mend the pattern and keep it in quotes, as in `lora-deploy classify MODEL 'clips/**/*.mp4'`"


class InputListError(DataError):
    """A list of clips to classify that is not there, can't be read, or has no column ``path``."""

    remedy = "give UTF-8 CSV, JSON Lines or Parquet with a column path, and start and end where a clip is a part of a file"


class InputRowError(DataError):
    """A row of a list of clips to classify that can't be understood."""

    remedy = "mend that row; needed is path, allowed are start and end, in seconds"


class AdapterColumnError(DataError):
    """A list of clips to classify that names an adapter for each, which no run obeys yet."""

    remedy = "take the column out, and run the clips of each adapter by themselves: `lora-deploy classify BUNDLE LIST --adapter NAME`"
