"""Upload a RUN or an adapter to a hub: what goes is told first, what names or shows clips stays here."""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import CommitOperationAdd, HfApi, get_token
from huggingface_hub.errors import (
    HfHubHTTPError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)

from lora_deploy.artifact import run
from lora_deploy.artifact.adapter_record import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    LABELS,
    is_adapter,
    read_record,
)
from lora_deploy.artifact.card import with_datasets
from lora_deploy.artifact.manifest import BaseIdentity
from lora_deploy.errors import (
    FileMissingError,
    HubLoginError,
    HubRefusedError,
    HubUnreachableError,
    NotARunError,
    PublicRepoError,
    RepoNameError,
)

# httpx.HTTPError, of which connection errors are kinds; huggingface_hub 2 has it from httpx2.
_HttpError: type[Exception] = HfHubHTTPError.__bases__[0]
_REFUSALS = (_HttpError, OfflineModeIsEnabled)

_NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")

ABOUT_CLIPS = (run.SPLITS, run.DUPLICATES, run.REPORT)
"""They name clips and show pictures of them: they go only if asked for."""


@dataclass(frozen=True)
class Plan:
    """What an upload would send, before anything is sent."""

    repo: str
    public: bool
    files: tuple[tuple[str, Path], ...]
    """Name at the hub, and where it is here."""
    kept_here: tuple[str, ...]
    """Files of the folder that do not go along, with the reason."""
    told: tuple[str, ...]
    """What else a person should know before it goes."""
    card: str
    """What README.md will be."""

    @property
    def bytes(self) -> int:
        """Of all files."""
        return sum(path.stat().st_size for _, path in self.files)


def plan_push(
    source: Path,
    repo: str,
    *,
    public: bool = False,
    with_clips: bool = False,
    datasets: Sequence[str] = (),
) -> Plan:
    """See what an upload would send; asks no hub.

    Only files that training wrote go along, each as its manifest vouches for it: no checkpoints to
    resume from, no events, nothing that somebody laid beside them.

    Args:
        source: A RUN, or the folder of an adapter.
        repo: ``OWNER/NAME``.
        public: Whether everybody may read it.
        with_clips: Whether `ABOUT_CLIPS` go along.
        datasets: Ids of data sets at the hub, for the model card.

    Raises:
        RepoNameError: ``repo`` or a data set is no such name.
        ArtifactError: ``source`` is neither, or a file is missing or was changed.
    """
    for name in (repo, *datasets):
        check_repo_name(name)
    base: BaseIdentity | None
    kept_here: list[str] = []
    if run.is_run(source):
        files, base, kept_here = _of_run(source, with_clips=with_clips)
    elif is_adapter(source):
        files, base = _of_adapter(source), _base_of_adapter(source)
    else:
        raise NotARunError(
            f"{source} is neither a RUN nor an adapter: a folder with {run.MANIFEST} or "
            f"{ADAPTER_CONFIG} is needed here"
        )
    card_path = dict(files).get(run.CARD)
    if card_path is None:
        raise FileMissingError(f"{source} lacks {run.CARD}, the model card")
    card = card_path.read_text(encoding="utf-8")
    return Plan(
        repo=repo,
        public=public,
        files=tuple(files),
        kept_here=tuple(kept_here),
        told=tuple(_told(base, with_clips=with_clips and run.is_run(source))),
        card=with_datasets(card, datasets) if datasets else card,
    )


def check_repo_name(name: str) -> None:
    """Refuse what can't be the name of a repository.

    Raises:
        RepoNameError: It is none.
    """
    if not _NAME.fullmatch(name) or ".." in name or "--" in name:
        raise RepoNameError(f"{name!r} is no name of a repository at a hub")


def check_login() -> str:
    """See that somebody is logged in at the hub, before hours of training.

    Returns:
        The user's name there.

    Raises:
        HubLoginError: Nobody is.
        HubUnreachableError: The hub can't be asked.
    """
    api = _api()
    try:
        return str(api.whoami()["name"])
    except _REFUSALS as error:
        raise _named(error, api) from error


def push(plan: Plan) -> str:
    """Upload in one commit, into a repository that is made private unless the plan says public.

    Returns:
        The address of the repository.

    Raises:
        HubError: Nobody is logged in, the hub can't be reached or refuses, or the repository is
            public and the plan is not.
    """
    api = _api()
    try:
        try:
            found = api.model_info(plan.repo)
        except RepositoryNotFoundError:
            api.create_repo(plan.repo, private=not plan.public)
        else:
            if not found.private and not plan.public:
                raise PublicRepoError(f"{plan.repo} is there already, and everybody can read it")
        _commit(plan, api)
    except _REFUSALS as error:
        raise _named(error, api) from error
    return f"{api.endpoint}/{plan.repo}"


def _commit(plan: Plan, api: HfApi) -> None:
    additions = [
        CommitOperationAdd(name, plan.card.encode() if name == run.CARD else str(path))
        for name, path in plan.files
    ]
    try:
        api.create_commit(plan.repo, additions, commit_message="Upload from lora-deploy")
    except (RuntimeError, ValueError) as error:  # how the library tells of a file's storage
        refusal = error.__cause__
        if isinstance(refusal, _REFUSALS):
            raise refusal from error
        raise HubUnreachableError(f"a file did not arrive at {api.endpoint}: {error}") from error


def _api() -> HfApi:
    # Read now: the hub's library reads it once, when it is first imported.
    api = HfApi(endpoint=os.environ.get("HF_ENDPOINT"), token=get_token())
    if api.token is None:
        raise HubLoginError(f"nobody is logged in at {api.endpoint} on this computer")
    return api


def _named(error: Exception, api: HfApi) -> Exception:
    """A hub's refusal by its name; what the hub wrote is not repeated beyond its status."""
    if isinstance(error, HfHubHTTPError):
        status = error.response.status_code if error.response is not None else None
        if status == 401:
            return HubLoginError(f"{api.endpoint} does not take the token of this computer")
        if status is not None and status < 500:
            return HubRefusedError(f"{api.endpoint} refused with status {status}")
        return HubUnreachableError(f"{api.endpoint} failed with status {status}")
    return HubUnreachableError(f"{api.endpoint} can't be asked ({type(error).__name__})")


def _of_run(
    source: Path, *, with_clips: bool
) -> tuple[list[tuple[str, Path]], BaseIdentity, list[str]]:
    manifest = run.read_run_manifest(source)
    names = [run.CARD, run.MANIFEST, run.SETTINGS, run.METRICS]
    files = [(name, source / name) for name in names if (source / name).is_file()]
    files += [(name, run.verify_weights(source, manifest, name)) for name in manifest.weights]
    kept_here = []
    for name in ABOUT_CLIPS:
        if not (source / name).is_file():
            continue
        if with_clips:
            files.append((name, source / name))
        else:
            what = "shows clips and names them" if name == run.REPORT else "names clips"
            kept_here.append(f"{name} stays here: it {what} (--with-clips sends it)")
    return files, manifest.base, kept_here


def _of_adapter(source: Path) -> list[tuple[str, Path]]:
    names = (run.CARD, ADAPTER_CONFIG, ADAPTER_WEIGHTS, LABELS)
    return [(name, source / name) for name in names if (source / name).is_file()]


def _base_of_adapter(source: Path) -> BaseIdentity | None:
    record = read_record(source)
    return None if record is None else record.base


def _told(base: BaseIdentity | None, *, with_clips: bool) -> list[str]:
    told = []
    if base is not None and base.revision is None and os.sep in base.id:
        told.append(f"its files name the base by its place on this computer, {base.id}")
    if base is not None and base.licence is None:
        told.append("the base states no licence: make sure that you may hand on what stands on it")
    if with_clips:
        told.append("what names files of this computer and shows clips goes along (--with-clips)")
    return told
