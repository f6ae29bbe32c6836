"""The settings of a training: one typed tree, read from YAML and ``--set``, refused in one clear line.

The keys under ``model.lora`` and ``training.batch_size`` are those of the user's guide. The
recipes (commented YAML files) live in ``assets/configs`` and stand in ``train/configs`` too.
"""

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import yaml
from annotated_types import Ge, Gt, Le, Lt, MinLen
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.fields import FieldInfo

from lora_deploy.clips.contract import Sampling
from lora_deploy.errors import (
    OverrideError,
    SettingsClashError,
    SettingsFileError,
    SettingValueError,
    UnknownRecipeError,
    UnknownSettingError,
)

RECIPES_FOLDER = Path(__file__).parent / "assets" / "configs"
DEFAULT_RECIPE = "config"

Rank = Annotated[int, Field(ge=1, le=1024)]
Alpha = Annotated[int, Field(ge=1, le=65536)]
Fraction = Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class LoraSettings(_Section):
    """What kind of adapter is attached, and where."""

    r: Rank = 8
    """Rank of the update B·A that is added to a layer's weight."""
    lora_alpha: Alpha = 16
    """The update is scaled by lora_alpha / r (with ``use_rslora``, / √r)."""
    lora_dropout: Fraction = 0.1
    """Part of what the adapter reads that is zeroed at random in training; the base reads all of it."""
    target_modules: list[str] = Field(default=["qkv"], min_length=1)
    """Words such as qkv, proj, fc, all-linear, ends of layers' names, or regular expressions: docs/targets.md."""
    bias: Literal["none"] = "none"
    """Biases of the base do not learn: the adapter could not be taken off them again."""
    use_dora: bool = False
    """Learn the length of each row of a weight apart from its direction (DoRA)."""
    use_rslora: bool = False
    """Scale the update by lora_alpha / √r, so that a high rank is not damped (rsLoRA)."""
    rank_pattern: dict[str, Rank] = {}
    """Another rank for the layers that a target word names; of two words the later one counts."""
    alpha_pattern: dict[str, Alpha] = {}
    """As ``rank_pattern``, for ``lora_alpha``."""
    top_layers: int | None = Field(default=None, ge=1)
    """Only in so many of the last blocks; nothing is learnt, or computed backwards, below them. By default in all."""

    @property
    def kind(self) -> str:
        """What such an adapter is called."""
        name = "DoRA" if self.use_dora else "LoRA"
        return f"rs{name}" if self.use_rslora else name


class ModelSettings(_Section):
    """Which base, and how much of it learns."""

    base: str = Field(default="videomae-nano", min_length=1)
    """The embedded base's name, a transformers folder, a ``.pth`` of the original VideoMAE code, or a hub id."""
    revision: str | None = None
    """Commit or tag of a hub id."""
    use_lora: bool = True
    """False is full fine-tuning, or the head alone with ``freeze_base``."""
    freeze_base: bool = False
    """With ``use_lora: false``: train nothing but the head, to compare against."""
    random_weights: bool = False
    """With ``use_lora: false``: start from random weights, to see what the base is worth."""
    lora: LoraSettings = LoraSettings()


class ClipSettings(_Section):
    """Which frames make a clip; how many, their size and their normalisation come from the base."""

    sampling: Sampling = "uniform"
    """``uniform``: the middles of equal stretches of the whole clip; ``middle_frame``: one frame, repeated."""


DataFormat = Literal[
    "auto", "folders", "manifest", "ucf101", "hmdb51", "kinetics", "something-something",
    "videofolder", "list", "frames",
]  # fmt: skip
"""How labelled clips lie on a disk; docs/data.md shows each."""


class DataSettings(_Section):
    """How the data is laid out, and how clips are divided where it does not say."""

    format: DataFormat = "auto"
    """``auto`` recognises it by the files that lie there; docs/data.md shows each."""
    fold: int = Field(default=1, ge=1, le=99)
    """Which of the divisions that a layout brings is used; ucf101 and hmdb51 have three."""
    find_duplicates: bool = True
    """Warn of clips in different splits that show the same; test clips are decoded for it, too."""
    val_fraction: Annotated[float, Field(gt=0, lt=1, allow_inf_nan=False)] = 0.15
    """Part of the clips without a split that choose the best epoch; where all have one and none is val, part of train."""
    test_fraction: Fraction = 0.15
    """Part of the clips without a split that nothing is learnt from; where all have one, none are taken."""


class TrainingSettings(_Section):
    """How long and how fast it learns."""

    batch_size: int = Field(default=8, ge=1, le=65536)
    """Clips at once, in each process."""
    epochs: int = Field(default=40, ge=1, le=100_000)
    """How many times it goes through the training clips, unless it stops early."""
    learning_rate: float = Field(default=1e-4, gt=0, le=10, allow_inf_nan=False)
    """The highest, after the warm-up."""
    weight_decay: float = Field(default=0.01, ge=0, le=10, allow_inf_nan=False)
    """AdamW's; norms and biases do not decay."""
    layer_decay: float = Field(default=1.0, gt=0, le=1, allow_inf_nan=False)
    """Each block learns so many times as fast as the one above it; full fine-tuning only."""
    warmup_fraction: Fraction = 0.1
    """Part of all steps during which the learning rate rises."""
    lr_scheduler: Literal["cosine", "linear", "constant"] = "cosine"
    """How the learning rate falls after the warm-up; ``constant``: it does not."""
    label_smoothing: Fraction = 0.0
    """This part of each label is spread over all labels, so that answers are less sure."""
    max_grad_norm: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    """Longer gradients are shortened to this length."""
    gradient_accumulation_steps: int = Field(default=1, ge=1, le=65536)
    """So many batches make one step: 4 with batches of 2 learns as one batch of 8, in less memory."""
    early_stopping_patience: int = Field(default=10, ge=0, le=100_000)
    """Epochs without a better one before it stops; 0 never does. Better: more validation clips right, or as many with a lower loss."""
    random_crop_padding: Annotated[float, Field(ge=0, le=0.5, allow_inf_nan=False)] = 0.0625
    """Training clips are moved by up to this part of the frame; 0 switches it off."""
    mixed_precision: Literal["no", "bf16", "fp16"] = "no"
    """Precision of products in training; ``no`` is float32, and weights always are. For GPUs: on a CPU bf16 may be slower, and fp16 does nothing."""
    workers: int = Field(default=0, ge=0, le=256)
    """Processes that read cached frames beside the training; the figures are the same with any."""
    keep_checkpoints: int = Field(default=2, ge=1, le=100_000)
    """How many of the last epochs can be gone on from; with 1, damage to the newest costs all."""
    report_to: list[Literal["wandb", "trackio"]] = []
    """Boards beside TensorBoard, each by a package of that name; the figures are the same with any."""
    seed: int = Field(default=0, ge=0, lt=2**32)
    """Of everything drawn by chance: the head's first weights, the order of clips, the division of clips."""
    class_weights: Literal["none", "balanced"] = "none"
    """``balanced``: in the loss a clip counts the more, the fewer clips its class has."""
    balanced_sampling: bool = False
    """Draw as many clips of each class in an epoch, some of them several times. Not with ``class_weights``."""


class AugmentationSettings(_Section):
    """How training clips are varied (docs/augmentation.md), beside ``training.random_crop_padding``, which is on.

    All of these are off by default. Validation and test clips are never varied.
    """

    random_resized_crop: float = Field(default=1.0, ge=0.05, le=1, allow_inf_nan=False)
    """The smallest part of a frame's area that a crop keeps, resized to the old size; 1 is off."""
    horizontal_flip: float = Field(default=0.0, ge=0, le=1, allow_inf_nan=False)
    """The part of the training clips that is mirrored; of labels that name a side, only those in ``mirrored_labels``."""
    unflipped_labels: list[str] = []
    """Never mirrored, beside those in whose names a side is found (left, clockwise, l2r, …)."""
    mirrored_labels: dict[str, str] = {}
    """What a mirror makes of a label, as in {walk_left: walk_right}; {left_hook: left_hook} says
    that the side in a name is none."""
    color_jitter: float = Field(default=0.0, ge=0, le=1, allow_inf_nan=False)
    """Brightness, contrast and saturation change by up to this part, alike in all frames; 0 is off."""
    temporal_jitter: Literal[1, 3, 5, 7, 9] = 1
    """Each frame is drawn from so many neighbouring moments, all of which are decoded; 1 is off."""
    mixup_alpha: float = Field(default=0.0, ge=0, le=10, allow_inf_nan=False)
    """Two clips become one with both labels, in shares drawn from Beta(alpha, alpha); 0 is off."""


Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Nats = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class BudgetSettings(_Section):
    """How far a float32 form may be from the trained model; docs/certificate.md argues the defaults."""

    agreement: Share = 1.0
    """At least this part of the clips must get the same label."""
    largest_difference: Share = 1e-4
    """Of a probability, on any clip and label, at most."""
    mean_kl: Nats = 1e-6
    """Kullback-Leibler divergence in nats, mean over the clips, at most."""


class Fp16Budget(BudgetSettings):
    """For half precision."""

    agreement: Share = 0.99
    largest_difference: Share = 0.05
    mean_kl: Nats = 1e-3


class Bf16Budget(BudgetSettings):
    """For bfloat16, which keeps 8 bits of each number."""

    agreement: Share = 0.99
    largest_difference: Share = 0.15
    mean_kl: Nats = 5e-3


class Int8Budget(BudgetSettings):
    """For eight-bit integers."""

    agreement: Share = 0.98
    largest_difference: Share = 0.35
    mean_kl: Nats = 2e-2


class ProofSettings(_Section):
    """What `merge-export` asks of every form before anything is shipped."""

    clips: int = Field(default=256, ge=64, le=100_000)
    """More clips than this (of the validation split, or of ``--verify-on``) are thinned out evenly."""
    largest_share: Share = 0.9
    """If the model gives one label to more of the clips than this, agreement says nothing, and nothing is shipped."""
    fp32: BudgetSettings = BudgetSettings()
    fp16: Fp16Budget = Fp16Budget()
    bf16: Bf16Budget = Bf16Budget()
    int8: Int8Budget = Int8Budget()
    kept_blocks: int = Field(default=3, ge=0, le=1000)
    """So many blocks of the model may stay in higher precision to bring a form within its budget."""
    int8_may_be_slower: bool = False
    """Whether an int8 form is shipped that is no faster than float32 on this computer."""
    int8_weight_bits: Literal[7, 8] | None = None
    """7 answers alike on every processor; by default 8 where the one that exports has VNNI."""
    calibration_clips: int = Field(default=32, ge=1, le=10_000)
    """Training clips whose values give int8 its ranges and show fp16 what is too large; without any, clips of the proof."""
    fit_temperature: bool = True
    """Whether scores are made to mean what they say, by one number (a temperature) fitted on the clips of the proof."""
    unknown_rate: Fraction | None = None
    """Part of the clips that may be called unknown; places the threshold. By default there is none."""


class Settings(_Section):
    """Everything that decides a training and its proof, beside the data."""

    model: ModelSettings = ModelSettings()
    clip: ClipSettings = ClipSettings()
    data: DataSettings = DataSettings()
    training: TrainingSettings = TrainingSettings()
    augmentation: AugmentationSettings = AugmentationSettings()
    proof: ProofSettings = ProofSettings()


def load_settings(source: Path | None = None, overrides: Iterable[str] = ()) -> Settings:
    """Read settings from a YAML file and ``KEY=VALUE`` overrides.

    Args:
        source: A YAML file; None gives the defaults.
        overrides: Each ``a.b=value``, the value written as in YAML. Later ones win.

    Raises:
        SettingsError: Named by what is wrong; its text is one line with the key, what was given
            and what is allowed.
    """
    tree = _read_yaml(source) if source is not None else {}
    where = source.name if source is not None else "settings"
    tree = _guide_spelling(tree, where)
    keys = [_set(tree, override) for override in overrides]
    return settings_from(tree, where=where, overridden=keys)


def settings_from(
    tree: Mapping[str, Any], *, where: str, overridden: Sequence[str] = ()
) -> Settings:
    """Check a nested mapping of settings.

    Args:
        tree: Sections and values.
        where: Names its origin in an error.
        overridden: Keys that came from ``--set`` instead.

    Raises:
        SettingsError: As `load_settings`.
    """
    try:
        settings = Settings.model_validate(_without_empty_sections(tree))
    except ValidationError as error:
        key = ".".join(str(part) for part in error.errors()[0]["loc"])
        if any(key == name or key.startswith(f"{name}.") for name in overridden):
            where = "--set"
        unknown = error.errors()[0]["type"] == "extra_forbidden"
        kind = UnknownSettingError if unknown else SettingValueError
        raise kind(f"{where}: {_explain(error)}") from None
    if settings.model.use_lora and settings.model.freeze_base:
        raise SettingsClashError(
            f"{where}: model.freeze_base and model.use_lora are both true; LoRA freezes the base "
            "already, and to train the head alone is to set model.use_lora to false"
        )
    if settings.model.use_lora and settings.model.random_weights:
        raise SettingsClashError(
            f"{where}: model.random_weights and model.use_lora are both true, and an adapter on "
            "weights that nobody keeps fits no base"
        )
    if settings.training.layer_decay != 1 and (
        settings.model.use_lora or settings.model.freeze_base
    ):
        raise SettingsClashError(
            f"{where}: training.layer_decay is {settings.training.layer_decay:g}, and only full "
            "fine-tuning changes the base's layers (model.use_lora and model.freeze_base false); "
            "LoRA keeps the lower layers as they are with model.lora.top_layers"
        )
    if settings.training.balanced_sampling and settings.training.class_weights != "none":
        raise SettingsClashError(
            f"{where}: training.balanced_sampling and training.class_weights are both on, and rare "
            "classes would count twice"
        )
    _check_mirror(settings.augmentation, where)
    return settings


def _check_mirror(augmentation: AugmentationSettings, where: str) -> None:
    images = augmentation.mirrored_labels
    if both := sorted(set(augmentation.unflipped_labels) & {*images, *images.values()}):
        raise SettingsClashError(
            f"{where}: {both[0]} is in augmentation.unflipped_labels and in "
            "augmentation.mirrored_labels"
        )
    for label, image in images.items():
        others = {images.get(image, label)} | {one for one in images if images[one] == image}
        if len(others | {label}) > 1:
            raise SettingsClashError(
                f"{where}: augmentation.mirrored_labels says that {image} is the mirror image of "
                f"{label} and also of {min(others - {label})}, and a mirror exchanges two"
            )


def recipe_names() -> list[str]:
    """The recipes that come with the package, the default first."""
    names = sorted(path.stem for path in RECIPES_FOLDER.glob("*.yaml"))
    return sorted(names, key=lambda name: name != DEFAULT_RECIPE)


def recipe_path(name: str) -> Path:
    """The commented YAML file of a recipe.

    Raises:
        UnknownRecipeError: There is no recipe of that name.
    """
    path = RECIPES_FOLDER / f"{name.removesuffix('.yaml')}.yaml"
    if name.removesuffix(".yaml") not in recipe_names():
        raise UnknownRecipeError(
            f"there is no recipe called {name!r}; there are: {', '.join(recipe_names())}"
        )
    return path


def to_yaml(settings: Settings) -> str:
    """The effective settings as a YAML text that `load_settings` reads back."""
    return yaml.safe_dump(settings.model_dump(mode="json"), sort_keys=False)


def known_keys() -> list[str]:
    """Every key of the tree in dotted form, sections too."""
    return list(_keys(Settings))


def _keys(section: type[BaseModel], prefix: str = "") -> Iterator[str]:
    for name, field in section.model_fields.items():
        yield prefix + name
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from _keys(field.annotation, f"{prefix}{name}.")


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise SettingsFileError(f"there is no settings file {path}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsFileError(f"{path} can't be read as text: {error}") from None
    try:
        tree = _parse(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f" at line {mark.line + 1}" if mark is not None else ""
        problem = getattr(error, "problem", None) or "it can't be parsed"
        raise SettingsFileError(f"{path.name} is not valid YAML{line}: {problem}") from None
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise SettingsFileError(
            f"{path.name} holds a {type(tree).__name__}; it must hold sections: "
            f"{', '.join(Settings.model_fields)}"
        )
    return tree


class _Loader(yaml.SafeLoader):
    """YAML's safe loader with 1e-4 as a number, ``no`` as a text, and no key given twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[object] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str):
                problem = f"a key must be a text, not {key!r}"
                raise yaml.constructor.ConstructorError(None, None, problem, key_node.start_mark)
            if key in seen:
                problem = f"the key {key} is given twice; keep one"
                raise yaml.constructor.ConstructorError(None, None, problem, key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


# As YAML 1.2 has them: to 1.1, yes, no, on and off are booleans too, and 1e-4 is a text.
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith(":bool")]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile(r"(true|True|TRUE|false|False|FALSE)$"), list("tTfF")
)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"),
    list("-+0123456789"),
)


def _parse(text: str) -> Any:
    return yaml.load(text, Loader=_Loader)  # noqa: S506 (a safe loader)


def _set(tree: dict[str, Any], override: str) -> str:
    """Put one ``a.b=value`` into the tree, in place; returns its key."""
    key, equals, text = override.partition("=")
    if not equals or not key.strip():
        raise OverrideError(f"--set {override!r} is not of the form KEY=VALUE")
    try:
        value = _parse(text)
    except yaml.YAMLError:
        raise OverrideError(f"--set {key}: {text!r} can't be read as a YAML value") from None
    key = key.strip()
    if key.split(".")[0] == "lora":  # as the guide's excerpts write it
        key = f"model.{key}"
    *sections, name = key.split(".")
    for section in sections:
        if tree.get(section) is None:
            tree[section] = {}
        below = tree[section]
        if not isinstance(below, dict):
            raise OverrideError(f"--set {key}: {section} is a value, not a section")
        tree = below
    tree[name] = value
    return key


def _guide_spelling(tree: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The guide's excerpts write ``lora:`` at the top; it means ``model.lora``."""
    result = dict(tree)
    if "lora" not in result:
        return result
    model = result.get("model") or {}
    if isinstance(model, dict) and "lora" in model:
        raise SettingsClashError(
            f"{where}: lora is given at the top and under model, where both mean model.lora"
        )
    result["model"] = {**model, "lora": result.pop("lora")}
    return result


def _without_empty_sections(value: Any) -> Any:
    """A section with nothing in it, or only comments, is one with all defaults."""
    if not isinstance(value, Mapping):
        return value
    return {
        key: _without_empty_sections({} if item is None and key in _SECTIONS else item)
        for key, item in value.items()
    }


_SECTIONS = (*Settings.model_fields, "lora")


def _explain(error: ValidationError) -> str:
    """The first problem of a validation as one line."""
    problem = error.errors()[0]
    location = [str(part) for part in problem["loc"]]
    key = ".".join(location)
    given = problem["input"]
    if problem["type"] == "extra_forbidden":
        return f"there is no setting called {key}{_nearest(key)}"
    field = _field_at(location)
    allowed = allowed_in_words(field) if field is not None else problem["msg"].lower()
    return f"{key} is {given!r}; allowed: {allowed}"


def _nearest(key: str) -> str:
    """A pointer to the known key most like ``key``, judged by its last word first."""
    known = known_keys()
    by_name = {name.rsplit(".", 1)[-1]: name for name in reversed(known)}
    close = difflib.get_close_matches(key, known, n=1, cutoff=0.75) or [
        by_name[match]
        for match in difflib.get_close_matches(key.rsplit(".", 1)[-1], by_name, n=1, cutoff=0.5)
    ]
    if close:
        return f"; the nearest is {close[0]}"
    section = key.rpartition(".")[0]
    siblings = [name for name in known if name.rpartition(".")[0] == section]
    return f"; known here: {', '.join(siblings or Settings.model_fields)}"


def _field_at(location: list[str]) -> FieldInfo | None:
    section: type[BaseModel] = Settings
    field: FieldInfo | None = None
    for part in location:
        field = section.model_fields.get(part, field)
        if field is None:
            return None
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            section = field.annotation
    return field


_TYPE_WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}


def allowed_in_words(field: FieldInfo) -> str:
    """What a setting may be: its choices, or its type and bounds."""
    annotation = field.annotation
    marks = field.metadata
    or_null = ""
    if type(None) in get_args(annotation):
        (annotation,) = (one for one in get_args(annotation) if one is not type(None))
        if get_origin(annotation) is Annotated:
            annotation, info = get_args(annotation)
            marks = info.metadata
        or_null = ", or null"
    if get_origin(annotation) is Literal:
        return ", ".join(str(choice) for choice in get_args(annotation)) + or_null
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return f"a section with {', '.join(annotation.model_fields)}"
    if get_origin(annotation) is list and get_origin(get_args(annotation)[0]) is Literal:
        return f"a list of any of {', '.join(get_args(get_args(annotation)[0]))}"
    if get_origin(annotation) is list:
        if any(isinstance(mark, MinLen) for mark in marks):
            return "a list of one or more texts, as in [qkv]"
        return "a list of texts, as in [wave_left, wave_right]"
    if get_origin(annotation) is dict:
        value = get_args(annotation)[1]
        if value is str:
            return "pairs of a name and a value, as in {walk_left: walk_right}"
        number = FieldInfo.from_annotation(value)
        return f"target words, each with {allowed_in_words(number)}, as in {{fc: 16}}"
    words = _TYPE_WORDS.get(annotation, "text") if isinstance(annotation, type) else "a text"
    bounds = [bound for mark in marks if (bound := _bound(mark))]
    return " ".join([words, " and ".join(bounds)]).strip() + or_null


def _bound(mark: object) -> str | None:
    match mark:
        case Ge(ge=value):
            return f"at least {value}"
        case Gt(gt=value):
            return f"above {value}"
        case Le(le=value):
            return f"at most {value}"
        case Lt(lt=value):
            return f"below {value}"
        case MinLen(min_length=1):
            return "that is not empty"
    return None
