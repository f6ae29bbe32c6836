"""The engines of a bundle under way: compiled from graphs that were proved, and labelled as never run."""

from collections.abc import Sequence
from pathlib import Path

from lora_deploy.artifact.bundle import ENGINES, Engine
from lora_deploy.export.engine_order import EngineOrder
from lora_deploy.export.to_tensorrt import build
from lora_deploy.progress import Progress, silent
from lora_deploy.proof.certificate import Unrun
from lora_deploy.runtime.own_cache import cache_folder


def build_engines(
    stage: Path, orders: Sequence[EngineOrder], *, progress: Progress = silent
) -> tuple[Engine, ...]:
    """Write ``tensorrt/``.

    Args:
        stage: The bundle under way, with the graphs that they are made of.
        orders: What for.
        progress: Told of each.

    Raises:
        EngineError: One can't be built; nobody gets a bundle without it.
    """
    (stage / ENGINES).mkdir(parents=True, exist_ok=True)
    found = []
    for order in orders:
        built = build(
            stage / order.made_of, order, progress=progress, timing_cache=timing_cache(order)
        )
        (stage / order.file).write_bytes(built.content)
        found.append(order.engine(built.version))
    return tuple(found)


def timing_cache(order: EngineOrder) -> Path:
    """Where ``tensorrt`` remembers how fast kernels were: in the user's cache, by the usual variable."""
    return cache_folder("tensorrt") / f"timing-{order.target}"


def unrun(engine: Engine) -> Unrun:
    """What a certificate says of an engine that was built where no card of its kind was asked."""
    return Unrun(
        form=engine.name,
        reason=f"{engine.flavour} {engine.version} built it where no {engine.target} card was asked, so "
        f"nothing is known of its answers; {engine.made_of}, which it is made of, was held against "
        "the trained model",
    )
