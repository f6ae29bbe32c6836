"""Which decoders are here, in which version, and whether each gives the right frames."""

from dataclasses import dataclass
from importlib.metadata import packages_distributions, version
from typing import get_args

from lora_deploy.clips.pool import DecodePool, Decoder
from lora_deploy.clips.proof import DecoderProof
from lora_deploy.errors import DecoderError
from lora_deploy.extras import is_installed


@dataclass(frozen=True)
class DecoderFinding:
    """A decoder that is installed."""

    decoder: Decoder
    distribution: str
    """What brings it and in which version: decord comes from decord2, too."""
    outcome: DecoderProof | DecoderError

    @property
    def is_right(self) -> bool:
        """Whether it gave the right frames of clips that are known."""
        return isinstance(self.outcome, DecoderProof)

    def __str__(self) -> str:
        if not isinstance(self.outcome, DecoderProof):
            return f"{self.distribution}: {self.outcome} [{self.outcome.name}]"
        clips = f"{len(self.outcome.right)} clips"
        if self.outcome.refused:
            clips += f"; it refuses {', '.join(self.outcome.refused)}"
        return f"{self.distribution} gives the right frames ({clips})"


def examine() -> tuple[DecoderFinding, ...]:
    """Prove every decoder that is installed, each in a decoding process of its own.

    Raises:
        DecodersUnavailableError: No decoding process can be started on this computer.
    """
    return tuple(_examine(decoder) for decoder in get_args(Decoder) if is_installed(decoder))


def _examine(decoder: Decoder) -> DecoderFinding:
    outcome: DecoderProof | DecoderError
    with DecodePool(1, decoder=decoder) as pool:
        try:
            outcome = pool.prove()
        except DecoderError as error:
            outcome = error
    return DecoderFinding(decoder, _distribution(decoder), outcome)


def _distribution(decoder: Decoder) -> str:
    names = [name for name in packages_distributions().get(decoder, ()) if name]  # torn ones: None
    return f"{names[0]} {version(names[0])}" if names else decoder
