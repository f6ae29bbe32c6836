"""A classification of many clips that can't begin or go on, and parts that make no whole."""

from lora_deploy.errors.root import LoraDeployError


class BatchError(LoraDeployError):
    """A classification of many clips that can't begin, go on, or be joined."""


class BatchBusyError(BatchError):
    """Another process writes the same rows, or the same journal, at this moment."""

    remedy = "wait until it is done, or choose another --out"


class BatchChangedError(BatchError):
    """The model or the settings are not those that gave the rows which are known already.

    Rows of both in one file would compare nothing.
    """

    remedy = "give the same ones to go on, choose another --out, or begin anew with --restart"


class NotAJournalError(BatchError):
    """At the journal's place is a file that `classify` did not make; it is never written to or deleted."""

    remedy = "name another place with --journal"


class JournalTornError(BatchError):
    """The journal is damaged: something else than a kill or a full disk has changed it."""

    remedy = "copy it again, or begin anew with --restart"


class JournalDiskError(BatchError):
    """The disk did not write or sync the journal: a quota, a limit, or a fault of the disk."""

    remedy = (
        "see to the disk, or name a place on another one with --journal; what the journal holds "
        "is kept, and the same command goes on"
    )


class ShardError(BatchError):
    """``--shard`` is no I/N."""

    remedy = "say which part of how many, as in --shard 3/16"


class PartMissingError(BatchError):
    """A part of the rows is not beside ``--out``: its shard is not done, or was written elsewhere."""

    remedy = (
        "finish that shard with its `lora-deploy classify … --shard I/N`, or copy its part here"
    )


class PartTornError(BatchError):
    """A part of the rows is cut short, changed, or no part at all."""

    remedy = "copy it again, or run its shard again"


class PartsDifferError(BatchError):
    """Parts of different runs: by another model, other settings, another list of inputs, or another number of shards.

    Joined they would be rows of none.
    """

    remedy = "take away the part that does not belong here, or run its shard again like the others"
