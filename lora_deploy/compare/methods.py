"""Which ways to train are compared: the guide's three, and any recipe laid over the same settings."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lora_deploy.config import Settings, load_settings, recipe_path, settings_from
from lora_deploy.errors import SettingsClashError

GUIDE_RANKS = (8, 4)
"""Of the guide's table."""

FULL_IS_SLOWER = 2.0
"""Full fine-tuning learns with LoRA's learning rate divided by this, as the recipes have it."""


@dataclass(frozen=True)
class Method:
    """One way to train."""

    name: str
    settings: Settings
    """The seed in it is that of the first training."""
    learning_rates: tuple[float, ...]
    """More than one: each is tried with the first seed, and the best on validation clips is taken."""

    def training(self, *, learning_rate: float, seed: int) -> Settings:
        """Settings of one training."""
        changes = {"learning_rate": learning_rate, "seed": seed}
        training = self.settings.training.model_copy(update=changes)
        # However the data is laid out: each training is given a manifest of a fold, whose test clips
        # it needs not decode.
        data = self.settings.data.model_copy(
            update={"format": "manifest", "find_duplicates": False}
        )
        return self.settings.model_copy(update={"training": training, "data": data})


def guide_methods(settings: Settings) -> list[Method]:
    """Full fine-tuning, LoRA r=8 and r=4, and the settings themselves where they are none of these.

    Everything but the kind of training is as in ``settings``: base, clips, epochs, layers under
    LoRA, and the ratio of alpha to r.
    """
    rate = settings.training.learning_rate
    is_lora = settings.model.use_lora
    full = _changed(
        settings,
        model={"use_lora": False, "freeze_base": False},
        training={"learning_rate": rate / FULL_IS_SLOWER if is_lora else rate},
    )
    lora_rate = rate if is_lora else rate * FULL_IS_SLOWER
    ranks = list(GUIDE_RANKS)
    if is_lora and settings.model.lora.r not in ranks:
        ranks.append(settings.model.lora.r)
    methods = [_method("full fine-tuning", full)]
    for r in sorted(ranks, reverse=True):
        kind = settings.model.lora.kind
        methods.append(_method(f"{kind} r={r}", _at_rank(settings, r, lora_rate)))
    if settings.model.freeze_base:
        methods.append(_method("as configured", settings))
    return methods


def recipe_method(recipe: str, settings: Settings, overrides: Sequence[str] = ()) -> Method:
    """A recipe laid over the settings: what its file says is obeyed, the rest is as in ``settings``.

    Args:
        recipe: A name, or a YAML file.
        settings: For what the recipe leaves open.
        overrides: ``KEY=VALUE``, for every method.

    Raises:
        SettingsError: There is no such recipe, or it can't be obeyed.
    """
    path = Path(recipe)
    if not path.is_file() and not path.suffix:
        path = recipe_path(recipe)
    said = load_settings(path, overrides).model_dump(mode="json", exclude_unset=True)
    tree = _laid_over(settings.model_dump(mode="json"), said)
    return _method(path.stem, settings_from(tree, where=path.name))


def choose_methods(
    settings: Settings,
    recipes: Iterable[str] = (),
    *,
    overrides: Sequence[str] = (),
    rate_factors: Sequence[float] = (1.0,),
) -> list[Method]:
    """The rows of the table.

    Args:
        settings: Of ``--config``.
        recipes: More rows.
        overrides: As `recipe_method`.
        rate_factors: The learning rates that are tried, as multiples of each method's own.

    Raises:
        SettingsError: As `recipe_method`, or two methods are called alike.
    """
    methods = guide_methods(settings)
    for recipe in recipes:
        method = recipe_method(recipe, settings, overrides)
        if all(method.settings != other.settings for other in methods):
            methods.append(method)
    names = [method.name for method in methods]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise SettingsClashError(
            f"two methods are called {twice[0]}; give one of the recipe files another name"
        )
    return [
        replace(method, learning_rates=tuple(factor * rate for factor in rate_factors))
        for method in methods
        for rate in method.learning_rates
    ]


def _method(name: str, settings: Settings) -> Method:
    return Method(name, settings, (settings.training.learning_rate,))


def _at_rank(settings: Settings, r: int, learning_rate: float) -> Settings:
    lora = settings.model.lora
    changes: dict[str, Any] = {"lora_alpha": max(1, round(r * lora.lora_alpha / lora.r)), "r": r}
    if r != lora.r:  # they belong to the rank that they stand beside
        lora = lora.model_copy(update={"rank_pattern": {}, "alpha_pattern": {}})
        settings = settings.model_copy(
            update={"model": settings.model.model_copy(update={"lora": lora})}
        )
    return _changed(
        settings,
        model={"use_lora": True, "freeze_base": False, "lora": changes},
        training={"learning_rate": learning_rate, "layer_decay": 1.0},  # that is for full
    )


def _changed(settings: Settings, **sections: Mapping[str, Any]) -> Settings:
    tree = _laid_over(settings.model_dump(mode="json"), sections)
    return settings_from(tree, where="compare")


def _laid_over(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Values of ``above`` where it has any, section by section."""
    merged = dict(below)
    for key, value in above.items():
        known = merged.get(key)
        if isinstance(known, Mapping) and isinstance(value, Mapping):
            value = _laid_over(known, value)
        merged[key] = value
    return merged
