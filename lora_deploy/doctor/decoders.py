"""The decoding processes: whether they start, what fence stands around them, which FFmpeg they carry, which frames come."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, distribution
from typing import TYPE_CHECKING

from lora_deploy.doctor.complaint import Complaint, one_line
from lora_deploy.doctor.trials import attempt
from lora_deploy.errors import LoraDeployError

if TYPE_CHECKING:
    from lora_deploy.clips.fence import Fence
    from lora_deploy.clips.proven import DecoderFinding

DISTRIBUTIONS = ("av", "decord2", "decord")
"""That bring a decoder."""


@dataclass(frozen=True)
class Decoding:
    """What was found out about decoding."""

    fence: "Fence | None" = None
    """None where no decoding process starts."""
    findings: "tuple[DecoderFinding, ...]" = ()
    ffmpeg: dict[str, str] = field(default_factory=dict)
    """Version of the FFmpeg in a distribution, by its name."""
    trouble: str | None = None
    """Why decoders could not be looked at."""


def look() -> Decoding:
    """Start decoding processes, to see their fence and the frames of clips that are known."""
    ffmpeg = dict(_ffmpeg())
    try:
        # Here and not above: a NumPy or a pydantic that is broken must be told, and not raised.
        from lora_deploy.clips import proven
        from lora_deploy.clips.pool import DecodePool

        with DecodePool(1) as pool:
            fence = pool.fence()
        return Decoding(fence, proven.examine(), ffmpeg)
    except LoraDeployError as error:
        return Decoding(ffmpeg=ffmpeg, trouble=error.found)
    except Exception as error:  # whatever a broken package raises is what is to be told
        return Decoding(ffmpeg=ffmpeg, trouble=f"{type(error).__name__}: {one_line(error)}")


def complaints(found: Decoding) -> Iterator[Complaint]:
    """Gaps in the fence, and decoders that are wrong or do not start."""
    if found.trouble is not None:
        yield Complaint(
            "decoder",
            f"no video can be decoded: {found.trouble}",
            'type: pip install --force-reinstall "av>=18,<19" numpy',
        )
    if found.fence is not None and found.fence.missing:
        yield _gaps(found.fence)
    for finding in found.findings:
        if isinstance(finding.outcome, LoraDeployError):
            outcome = finding.outcome
            yield Complaint(
                "decoder",
                f"{finding.distribution}: {outcome.found}",
                outcome.remedy,
                error=outcome.name,
            )


def _gaps(fence: "Fence") -> Complaint:
    kept = "still refused" if fence.holds else "NOT all refused"
    return Complaint(
        "fence",
        f"the fence around the decoder lacks {'; '.join(fence.missing)}: a hostile video's way to "
        f"files, network and other processes is {kept}",
        "let the container or the system allow it, or take in no strangers' videos here",
    )


def _ffmpeg() -> Iterator[tuple[str, str]]:
    for name in DISTRIBUTIONS:
        try:
            found = distribution(name)
            files = [file for file in found.files or () if file.name.startswith("libavutil")]
        except (PackageNotFoundError, OSError, UnicodeError):
            continue
        if files:
            answer = attempt("ffmpeg", str(found.locate_file(files[0]))).answer
            if answer:
                yield name, answer
