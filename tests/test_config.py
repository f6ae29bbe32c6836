"""Settings: read, overridden, refused in one line."""

import re
from pathlib import Path

import pytest
from pydantic import BaseModel

from lora_deploy import config
from lora_deploy.config import Settings, known_keys, load_settings, recipe_path, to_yaml
from lora_deploy.errors import (
    OverrideError,
    SettingsClashError,
    SettingsError,
    SettingsFileError,
    SettingValueError,
    UnknownRecipeError,
    UnknownSettingError,
)
from scripts import settings_docs


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "my.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_the_guides_own_file_is_understood(tmp_path: Path) -> None:
    text = """
model:
  use_lora: true  # Enable/disable LoRA
  lora:
    r: 8  # Rank (higher = more params, better performance)
    lora_alpha: 16  # Scaling factor
    lora_dropout: 0.1
    target_modules: ["qkv"]  # Apply LoRA to attention layers
    bias: "none"
"""
    settings = load_settings(written(tmp_path, text))
    assert settings.model == Settings().model


def test_the_guides_excerpts_write_lora_at_the_top(tmp_path: Path) -> None:
    text = "training:\n  batch_size: 4\nlora:\n  r: 4\n  lora_dropout: 0.0\n"
    settings = load_settings(written(tmp_path, text))
    assert (settings.model.lora.r, settings.model.lora.lora_dropout) == (4, 0.0)
    assert settings.training.batch_size == 4


def test_lora_given_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsClashError, match=r"both mean model\.lora; keep one"):
        load_settings(written(tmp_path, "lora: {r: 4}\nmodel: {lora: {r: 8}}\n"))


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("training.batchsize=4", ["training.batchsize", "training.batch_size"]),
        ("model.lora.rank=4", ["model.lora.rank", "model.lora.r"]),
        ("learning_rate=1", ["learning_rate", "training.learning_rate"]),
        ("model.lora.r=0", ["model.lora.r", "0", "at least 1"]),
        ("model.lora.r='8'", ["model.lora.r", "'8'", "a whole number"]),
        ("model.lora.r=true", ["model.lora.r", "True", "a whole number"]),
        ("model.lora.lora_dropout=1.5", ["lora_dropout", "1.5", "below 1"]),
        ("model.lora.bias=all", ["model.lora.bias", "'all'", "none"]),
        ("model.lora.target_modules=qkv", ["target_modules", "'qkv'", "a list"]),
        ("model.lora.target_modules=[]", ["target_modules", "[]", "one or more"]),
        ("model.use_lora=perhaps", ["use_lora", "'perhaps'", "true or false"]),
        ("training.epochs=3.5", ["training.epochs", "3.5", "a whole number"]),
        ("training.learning_rate=.nan", ["training.learning_rate", "nan", "above 0"]),
        ("training.lr_scheduler=cos", ["lr_scheduler", "'cos'", "cosine, linear, constant"]),
        ("augmentation.temporal_jitter=2", ["temporal_jitter", "2", "1, 3, 5, 7, 9"]),
        ("augmentation.horizontal_flip=true", ["horizontal_flip", "True", "at most 1"]),
        ("augmentation.random_resized_crop=0", ["random_resized_crop", "0", "at least 0.05"]),
        ("augmentation.unflipped_labels=left", ["unflipped_labels", "'left'", "[wave_left,"]),
        ("augmentation.mirrored_labels=[a]", ["mirrored_labels", "['a']", "{walk_left: walk_"]),
        ("augmentation.colour_jitter=0.5", ["colour_jitter", "augmentation.color_jitter"]),
        ("training.class_weights=yes", ["class_weights", "'yes'", "none, balanced"]),
        ("clip.sampling=random", ["clip.sampling", "'random'", "uniform, middle_frame"]),
        ("proof.int8_weight_bits=9", ["int8_weight_bits", "9", "7, 8, or null"]),
        ("model=3", ["model", "3", "a section"]),
        ("nonsense", ["nonsense", "KEY=VALUE"]),
        ("model.base.x=1", ["model.base"]),
    ],
)
def test_what_is_not_allowed_is_refused_in_one_line(override: str, words: list[str]) -> None:
    with pytest.raises(SettingsError) as caught:
        load_settings(None, [override])
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message


@pytest.mark.parametrize(
    ("override", "kind"),
    [
        ("training.batchsize=4", UnknownSettingError),
        ("model.base.x=1", SettingValueError),
        ("model.lora.r=0", SettingValueError),
        ("model.lora.r='8'", SettingValueError),
        ("nonsense", OverrideError),
        ("training.epochs=[", OverrideError),
    ],
)
def test_what_is_refused_has_a_name(override: str, kind: type[SettingsError]) -> None:
    with pytest.raises(SettingsError) as caught:
        load_settings(None, [override])
    assert type(caught.value) is kind


def test_a_section_can_not_be_set_below_a_value(tmp_path: Path) -> None:
    with pytest.raises(OverrideError, match="training is a value, not a section"):
        load_settings(written(tmp_path, "training: 3\n"), ["training.epochs=1"])


def test_a_recipe_that_is_not_there_is_refused_with_those_that_are() -> None:
    with pytest.raises(UnknownRecipeError, match="there are: config, "):
        recipe_path("nowhere")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: [", "not valid YAML at line"),
        ("- 1\n- 2\n", "holds a list"),
        ("model:\n\tbase: x\n", "not valid YAML at line 2"),
    ],
)
def test_a_file_that_is_no_settings_file_is_refused(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(SettingsFileError, match=words):
        load_settings(written(tmp_path, text))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsFileError, match=r"nowhere\.yaml"):
        load_settings(tmp_path / "nowhere.yaml")


def test_a_settings_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "my.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SettingsFileError, match="can't be read as text"):
        load_settings(tmp_path / "my.yaml")


def test_numbers_as_people_write_them() -> None:
    settings = load_settings(None, ["training.learning_rate=1e-3", "training.weight_decay=0"])
    assert settings.training.learning_rate == 0.001
    assert settings.training.weight_decay == 0


def test_later_overrides_win_and_empty_sections_are_defaults(tmp_path: Path) -> None:
    source = written(tmp_path, "model:\ntraining:\n  epochs: 2\n")
    settings = load_settings(source, ["training.epochs=3", "training.epochs=5"])
    assert settings.training.epochs == 5
    assert settings.model == Settings().model


def test_effective_settings_read_back_as_they_were(tmp_path: Path) -> None:
    settings = load_settings(None, ["model.lora.r=4", "training.learning_rate=3e-5"])
    assert load_settings(written(tmp_path, to_yaml(settings))) == settings


@pytest.mark.parametrize("name", config.recipe_names())
def test_every_recipe_loads_and_says_what_it_is(name: str) -> None:
    load_settings(recipe_path(name))
    assert recipe_path(name).read_text(encoding="utf-8").startswith("# ")


def test_the_default_recipe_holds_the_defaults() -> None:
    assert load_settings(recipe_path("config")) == Settings()


@pytest.mark.parametrize("name", config.recipe_names())
def test_what_recipes_hold_in_comments_is_allowed_too(tmp_path: Path, name: str) -> None:
    text = recipe_path(name).read_text(encoding="utf-8")
    # A line that would be YAML: "# key: value", or a key with nothing behind it.
    uncommented = re.sub(r"^( *)# ( *[a-z_]+:( .*)?)$", r"\1\2", text, flags=re.MULTILINE)
    settings = load_settings(written(tmp_path, uncommented))
    if name != "quickstart":
        assert settings.augmentation != Settings().augmentation
    if name == "config":
        assert settings.training.class_weights == "balanced"


def test_settings_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(SettingsClashError, match=r"model\.use_lora to false"):
        load_settings(None, ["model.freeze_base=true"])
    with pytest.raises(SettingsClashError, match=r"model\.random_weights and model\.use_lora"):
        load_settings(None, ["model.random_weights=true"])


def test_rare_classes_never_count_twice() -> None:
    on = ["training.balanced_sampling=true", "training.class_weights=balanced"]
    with pytest.raises(SettingsClashError, match="rare classes would count twice; keep one"):
        load_settings(None, on)
    for one in on:
        load_settings(None, [one])


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (["unflipped_labels=[a]", "mirrored_labels={a: b}"], "a is in augmentation.unflipped_"),
        (["unflipped_labels=[b]", "mirrored_labels={a: b}"], "b is in augmentation.unflipped_"),
        (["mirrored_labels={a: b, b: c}"], "b is the mirror image of a and also of c"),
        (["mirrored_labels={a: b, c: b}"], "b is the mirror image of a and also of c"),
        (["mirrored_labels={a: b, b: b}"], "b is the mirror image of a and also of b"),
    ],
)
def test_a_mirror_exchanges_two_labels(values: list[str], words: str) -> None:
    with pytest.raises(SettingsClashError) as caught:
        load_settings(None, [f"augmentation.{value}" for value in values])
    assert words in str(caught.value)


@pytest.mark.parametrize("images", ["{a: b}", "{a: b, b: a}", "{a: a}", "{a: b, c: c}"])
def test_a_mirror_may_be_described_from_one_side_or_both(images: str) -> None:
    load_settings(None, [f"augmentation.mirrored_labels={images}"])


def test_a_key_given_twice_is_refused(tmp_path: Path) -> None:
    text = "training:\n  epochs: 2\nmodel:\n  use_lora: true\ntraining:\n  batch_size: 4\n"
    with pytest.raises(SettingsFileError, match=r"at line 5: the key training is given twice"):
        load_settings(written(tmp_path, text))


def test_a_mistake_is_blamed_on_where_it_was_made(tmp_path: Path) -> None:
    source = written(tmp_path, "training: {epochs: 2}\n")
    with pytest.raises(SettingsError, match=r"^--set: training\.epochs is 0"):
        load_settings(source, ["training.epochs=0"])
    with pytest.raises(SettingsError, match=r"^my\.yaml: training\.epochs is 0"):
        load_settings(written(tmp_path, "training: {epochs: 0}\n"), ["model.lora.r=4"])


def test_an_empty_section_can_be_set_into(tmp_path: Path) -> None:
    source = written(tmp_path, "model:\n  # use_lora: true\n")
    assert not load_settings(source, ["model.use_lora=false"]).model.use_lora


def test_the_guides_spelling_goes_with_set(tmp_path: Path) -> None:
    source = written(tmp_path, "lora:\n  r: 4\n")
    assert load_settings(source, ["model.lora.r=16"]).model.lora.r == 16
    assert load_settings(source, ["lora.r=32"]).model.lora.r == 32


def test_a_quoted_number_is_a_text() -> None:
    assert load_settings(None, ["model.revision='4e7'"]).model.revision == "4e7"
    with pytest.raises(SettingsError, match="allowed: a text"):
        load_settings(None, ["model.revision=4e7"])


def test_no_is_a_choice_and_not_a_boolean() -> None:
    assert load_settings(None, ["training.mixed_precision=no"]).training.mixed_precision == "no"
    with pytest.raises(SettingsError, match=r"'yes'; allowed: true or false"):
        load_settings(None, ["model.use_lora=yes"])


def test_the_page_of_settings_is_what_its_script_writes() -> None:
    written = settings_docs.PAGE.read_text(encoding="utf-8")
    assert written == settings_docs.page(), "type scripts/docs"
    found: dict[str, str] = {}
    for part in written.split("\n## ")[1:]:
        section = part.split("\n", 1)[0]
        found[section] = section
        rows = re.findall(r"^\| `(\w+)` \| `.+?` \| .+? \| (.+) \|$", part, flags=re.MULTILINE)
        found |= {f"{section}.{name}": meaning for name, meaning in rows}
    assert sorted(found) == sorted(known_keys())


def test_a_setting_without_a_meaning_is_found() -> None:
    class Silent(BaseModel):
        words: int = 3

    with pytest.raises(KeyError, match=r"Silent\.words has no docstring"):
        settings_docs.meaning(Silent, "words")
