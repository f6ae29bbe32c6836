"""Labels that tell left from right are found in the spellings that people use."""

import pytest

from lora_deploy.train.sides import find_sides


@pytest.mark.parametrize(
    "label",
    [
        "left", "Right", "wave_image_left", "bend_to_image_right", "Swiping Left", "SwipeLeft", "swipeleft",
        "turnright", "left-to-right", "left2right", "l2r", "L2R", "move_r2l", "RTL scroll", "l_to_r",
        "Pushing [something] from left to right", "Turning Hand Clockwise", "counterclockwise",
        "counter-clockwise", "AntiClockwise", "turn_cw", "turn ccw", "left_handed", "righthand", "leftward",
        "rhs", "throwright", "right_hook", "left_the_room", "gira_izquierda", "à droite", "向左",
    ],
)  # fmt: skip
def test_a_side_is_found_in_one_label_alone(label: str) -> None:
    sides = find_sides(["clap", label, "jump"])
    assert sides.labels == (label,)
    assert sides.pairs == {}


@pytest.mark.parametrize(
    "label",
    [
        "bend", "wave_two_hands", "stand upright", "brighten", "brightness", "frighten", "copyright",
        "playwright", "birthright", "sprightly", "outright", "alright", "leftovers", "righteous",
        "cleft", "lift", "light", "tightrope walking", "shoplifting", "straightening hair", "theft",
        "pull", "walk_l", "r", "lr", "cowboy", "links", "port", "headwest", "Clock", "otherwise",
    ],
)  # fmt: skip
def test_a_word_that_names_no_side_is_left_alone(label: str) -> None:
    assert find_sides(["clap", label, "jump"]).labels == ()


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("walk_left", "walk_right"), ("WalkLeft", "WalkRight"), ("walkleft", "walkright"),
        ("Swiping Left", "Swiping Right"), ("l2r", "r2l"), ("walk_l", "walk_r"), ("walk lt", "walk rt"),
        ("Turning Hand Clockwise", "Turning Hand Counterclockwise"), ("turn cw", "turn ccw"),
        ("clockwise", "anti-clockwise"), ("from left to right", "from right to left"),
        ("links abbiegen", "rechts abbiegen"), ("drive_west", "drive_east"), ("L-to-R", "R-to-L"),
        ("向左", "向右"), ("gauche", "droite"), ("Left arm, right leg", "Right arm, left leg"),
    ],
)  # fmt: skip
def test_two_labels_that_a_mirror_exchanges_are_a_pair(one: str, other: str) -> None:
    sides = find_sides([one, "clap", other])
    assert sides.labels == (one, other)
    assert sides.pairs == {one: other, other: one}


def test_words_that_may_mean_anything_count_only_in_pairs() -> None:
    assert find_sides(["kick_l", "kick_m"]).labels == ()
    assert find_sides(["kick_l", "kick_r", "punch_l"]).labels == ("kick_l", "kick_r")


def test_words_that_only_look_like_sides_make_no_pairs() -> None:
    assert find_sides(["upright", "leftover", "copyright", "cleft"]).pairs == {}


def test_a_word_beside_a_side_stays_what_it_was() -> None:
    sides = find_sides(["walk_left", "run_right"])
    assert sides.labels == ("walk_left", "run_right")
    assert sides.pairs == {}
