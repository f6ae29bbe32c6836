"""What answers look like, for the OpenAPI description: the answers themselves are rows of `classify`."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from lora_deploy.errors import CLIP_ERROR_KINDS
from lora_deploy.serve.refusals import REFUSALS


class _Shape(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Row(_Shape):
    """One clip, as `lora-deploy classify` writes it, without a path."""

    status: Literal["ok"]
    label: str = Field(
        description="The most probable one, or `unknown` below the model's threshold."
    )
    score: float = Field(description="Probability of the most probable label, 0 to 1.")
    top_k: list[tuple[str, float]] = Field(description="Label and probability, the best first.")
    duration_seconds: float = Field(description="Of the clip.")
    warning: str | None = Field(description="What was lost or odd in the file, if anything.")
    error: None
    model: str = Field(description="Digest of the model.")


class Problem(_Shape):
    """Why there is no answer."""

    kind: str = Field(
        description="Of a clip: "
        + "; ".join(f"`{kind}`: {text}" for kind, text in CLIP_ERROR_KINDS.items())
        + " Of a request: "
        + "; ".join(f"`{kind}`: {text}" for kind, text in REFUSALS.items())
    )
    message: str


class ErrorRow(_Shape):
    """A clip that gives no answer, as `lora-deploy classify` writes it, without a path."""

    status: Literal["error"]
    label: None
    score: None
    top_k: list[tuple[str, float]]
    duration_seconds: None
    warning: None
    error: Problem
    model: str


class Refusal(_Shape):
    """A request that was turned away."""

    status: Literal["error"]
    error: Problem


class Certified(_Shape):
    """What was proved of a bundle."""

    verdict: Literal["proved", "void", "failed"]
    clips: int
    date: str | None
    not_run: list[str] = Field(description="Forms in the bundle that were built and never run.")


class About(_Shape):
    """What the model says of itself."""

    model: str = Field(description="Digest, as in every row.")
    labels: list[str]
    contract: dict[str, Any] = Field(
        description="Which frames and pixels of a video the model sees."
    )
    backend: str
    form: str
    precision: str
    batch_size: int
    temperature: float
    unknown_threshold: float | None
    certificate: Certified | None
    lora_deploy: str = Field(description="Version of the program.")


class State(_Shape):
    """Of the server."""

    status: Literal["ok", "ready", "opening", "failing", "stopping"]
