"""What the metadata of installed packages says: pairs that clash, bad versions, needs that are not met."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from email.parser import HeaderParser
from functools import cache
from importlib.metadata import Distribution, PackageNotFoundError, distribution

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from lora_deploy import known_bad
from lora_deploy.doctor.complaint import Complaint, Trap
from lora_deploy.versions import PACKAGES

QUARRELS: tuple[tuple[Trap, str, str, str], ...] = (
    (
        "onnxruntime-pair", "onnxruntime", "onnxruntime-gpu",
        "pip uninstall -y onnxruntime onnxruntime-gpu, then pip install the one you want: "
        "onnxruntime-gpu for an NVIDIA card, else onnxruntime",
    ),
    (
        "decord-pair", "decord", "decord2",
        'pip uninstall -y decord decord2, then pip install "decord2>=3.4"',
    ),
)  # fmt: skip
"""Distributions that overwrite each other's files, and the way out."""

OURSELVES = "lora-deploy"

OLD_DOWNLOADER_DAYS = 90
"""From this age on yt-dlp itself warns that sites may have changed since."""


@dataclass(frozen=True)
class Package:
    """An installed distribution, as its metadata has it."""

    name: str
    version: Version
    requires: tuple[Requirement, ...]
    extras: tuple[str, ...]


@dataclass(frozen=True)
class Unreadable:
    """A distribution whose metadata is torn."""

    name: str
    reason: str


def look_up(name: str) -> Package | Unreadable | None:
    """What is installed under a name: the first on ``sys.path``, as an import would take it."""
    try:
        found = distribution(name)
    except PackageNotFoundError:
        return None
    try:
        return _read(name, found)
    except (OSError, UnicodeError) as error:
        return Unreadable(name, f"can't be read ({type(error).__name__})")
    except InvalidVersion as error:
        return Unreadable(name, f"has no valid version ({error})")
    except InvalidRequirement as error:
        return Unreadable(name, f"has an invalid requirement ({str(error).splitlines()[0]})")


def _read(name: str, found: Distribution) -> Package | Unreadable:
    # An old installation is one file, PKG-INFO itself: its name is empty.
    text = found.read_text("METADATA") or found.read_text("PKG-INFO") or found.read_text("")
    if not text:
        return Unreadable(name, "is empty")
    told = HeaderParser().parsestr(text)
    needs = told.get_all("Requires-Dist")
    if needs is None and found.read_text("requires.txt"):
        needs = found.requires
    return Package(
        name=name,
        version=Version(str(told["Version"])),
        requires=tuple(Requirement(line) for line in needs or ()),
        extras=tuple(told.get_all("Provides-Extra") or ()),
    )


def complaints() -> tuple[Complaint, ...]:
    """All that metadata alone can tell."""
    inside = known_bad.found_inside()
    bad = (Complaint("bad-version", one.found, one.remedy) for one in inside)
    old = () if any(one.package == "yt-dlp" for one in inside) else _old_downloader()
    return (*_quarrels(), *bad, *old, *_unmet({one.package for one in inside}))


def _quarrels() -> Iterator[Complaint]:
    for trap, one, other, remedy in QUARRELS:
        if look_up(one) and look_up(other):
            yield Complaint(
                trap, f"{one} and {other} are both installed and overwrite each other", remedy
            )


def _old_downloader() -> Iterator[Complaint]:
    downloader = look_up("yt-dlp")
    age_days = _age_days(downloader.version) if isinstance(downloader, Package) else 0
    if age_days > OLD_DOWNLOADER_DAYS and isinstance(downloader, Package):
        yield Complaint(
            "bad-version",
            f"yt-dlp {downloader.version} is {age_days} days old, and sites change faster",
            'type: pip install -U "yt-dlp[default,deno]"',
            serious=False,
        )


def _age_days(version: Version) -> int:
    """Of a version that is a date; 0 where it is none."""
    try:
        return (date.today() - date(*version.release[:3])).days
    except (TypeError, ValueError):
        return 0


# Needs ------------------------------------------------------------------------------------------


def _unmet(leave_out: set[str]) -> Iterator[Complaint]:
    """What ``pip check`` finds, for our packages and all that they need; torn metadata, too."""
    once = cache(look_up)
    roots = [canonicalize_name(name) for name in (OURSELVES, *PACKAGES)]
    needs: dict[str, list[tuple[str, Requirement, bool]]] = defaultdict(list)
    waiting: list[tuple[str, frozenset[str]]] = [(name, frozenset()) for name in roots]
    seen: set[tuple[str, frozenset[str]]] = set()
    torn: dict[str, Unreadable] = {}
    while waiting:
        name, extras = waiting.pop()
        if (name, extras) in seen:
            continue
        seen.add((name, extras))
        package = once(name)
        if isinstance(package, Unreadable):
            torn[name] = package
        if not isinstance(package, Package):
            continue
        for requirement, is_optional in _requirements(package, extras):
            needed = canonicalize_name(requirement.name)
            if needed != name:
                needs[needed].append((name, requirement, is_optional))
                if not is_optional or once(needed):
                    waiting.append((needed, frozenset(requirement.extras)))
    for one in torn.values():
        yield _torn(one)
    for name in sorted(needs):
        if name not in leave_out and name not in torn:
            yield from _of_package(name, once(name), needs[name])


def _requirements(package: Package, extras: frozenset[str]) -> Iterator[tuple[Requirement, bool]]:
    """What holds on this computer, and whether it is only a wish: an extra that nobody asked for.

    Of our own package all extras count, as what their packages must be if they are there.
    """
    for requirement in package.requires:
        marker = requirement.marker
        if marker is None or any(marker.evaluate({"extra": extra}) for extra in ("", *extras)):
            yield requirement, False
        elif package.name == OURSELVES and any(
            marker.evaluate({"extra": extra}) for extra in package.extras
        ):
            yield requirement, True


def _of_package(
    name: str,
    package: Package | Unreadable | None,
    needs: Sequence[tuple[str, Requirement, bool]],
) -> Iterator[Complaint]:
    if package is None:
        broken = [(owner, need) for owner, need, is_optional in needs if not is_optional]
    elif isinstance(package, Package):
        broken = [
            (owner, need)
            for owner, need, _ in needs
            if not need.specifier.contains(package.version, prereleases=True)
        ]
    else:
        return
    if not broken:
        return
    asked = "; ".join(f"{owner} needs {need.name}{need.specifier}" for owner, need in broken)
    state = f"{name} {package.version} is installed" if package else f"{name} is not installed"
    specifiers = {str(need.specifier) for _, need, optional in needs if package or not optional}
    together = ",".join(sorted(specifier for specifier in specifiers if specifier))
    yield Complaint(
        "unmet-requirement", f"{state}, but {asked}", f'type: pip install "{name}{together}"'
    )


def _torn(package: Unreadable) -> Complaint:
    return Complaint(
        "broken-package",
        f"the metadata of {package.name} {package.reason}: its installation was cut off",
        f"type: pip install --force-reinstall --no-deps {package.name}",
    )
