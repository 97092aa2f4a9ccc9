"""One look a norm: who gets which colour, dash and marker, and whether colour-blind readers tell the colours apart."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from bnexp.compare.styles import CHALK, COLOURS, INK, norms, of_arms, of_names
from bnexp.config.shipped import configs_folder
from bnexp.runs.arms import Arm

# What an eye without one kind of cones sees of linear RGB (Machado, Oliveira & Fernandes 2009, severity 1).
EYES = {
    "normal": [[1, 0, 0], [0, 1, 0], [0, 0, 1]],
    "no red": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "no green": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "no blue": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}
XYZ = np.array(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
)
WHITE = np.array([0.95047, 1.0, 1.08883])
LIGHT_PAGE, DARK_PAGE = "#fdfdfb", "#151517"


def linear(colour: str) -> np.ndarray:
    """sRGB as linear light (IEC 61966-2-1)."""
    parts = np.array([int(colour[at : at + 2], 16) for at in (1, 3, 5)]) / 255
    return np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)


def lab(rgb: np.ndarray) -> np.ndarray:
    """CIE 1976 L*a*b*, in which equal distances look about equal; a distance of 2.3 is just seen."""
    x, y, z = np.cbrt(XYZ @ np.clip(rgb, 0, 1) / WHITE)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def contrast(one: str, other: str) -> float:
    """The contrast ratio of WCAG 2."""
    darker, lighter = sorted(XYZ[1] @ linear(colour) for colour in (one, other))
    return (lighter + 0.05) / (darker + 0.05)


@pytest.mark.parametrize("ink", [INK, CHALK])
@pytest.mark.parametrize("eye", EYES)
def test_the_colour_blind_tell_the_eight_colours_apart(eye, ink):
    colours = [ink, *COLOURS[1:]]
    assert len(colours) == 8
    seen = [lab(np.array(EYES[eye]) @ linear(colour)) for colour in colours]
    assert min(np.linalg.norm(one - other) for one, other in itertools.combinations(seen, 2)) > 10


def test_of_25_arms_of_one_norm_no_two_look_the_same():
    styles = of_arms([Arm({"norm.name": "bn", "optim.lr": lr}, ()) for lr in range(25)])
    assert len(set(styles)) == 25
    assert len({style.colour for style in styles}) == 1


def test_arms_of_norms_with_like_looks_are_told_apart_by_their_dashes():
    arms = [Arm({"norm.name": norm, "optim.lr": lr}, ()) for norm in norms() for lr in (0.1, 0.3)]
    styles = of_arms(arms)
    assert len(set(styles)) == len(arms)
    assert styles[::2] == of_arms(arms[::2])  # the first value of each norm keeps the norm's look


def test_lines_can_be_seen_on_light_and_dark_pages():
    assert min(contrast(colour, LIGHT_PAGE) for colour in COLOURS[:5]) > 2.9
    assert min(contrast(colour, LIGHT_PAGE) for colour in COLOURS) > 2
    assert min(contrast(colour, DARK_PAGE) for colour in (CHALK, *COLOURS[1:])) > 3


def arm(**settings) -> Arm:
    return Arm({key.replace("__", "."): value for key, value in settings.items()}, ())


def test_the_core_norms_have_the_first_colours_solid_and_every_norm_a_look_of_its_own():
    core = of_arms([arm(norm__name=name) for name in ("none", "bn", "ln", "in", "gn")])
    assert [style.colour for style in core] == list(COLOURS[:5])
    assert {(style.dash, style.marker) for style in core} == {("-", "o")}
    shipped = [path.stem for path in (configs_folder() / "norm").glob("*.yaml")]
    styles = of_names(shipped)
    assert len({(style.colour, style.dash) for style in styles}) == len(shipped) > 30
    assert len({(style.colour, style.marker) for style in styles}) == len(shipped)


def test_a_norm_looks_the_same_whoever_is_beside_it():
    alone, _ = of_arms([arm(norm__name="gn"), arm(norm__name="mine")])
    among = dict(zip("abc", of_arms([arm(norm__name=name) for name in ("bn", "gn", "zca")]), strict=True))
    assert alone == among["b"] == of_names(["gn", "xyz"])[0]
    assert alone.colour == "#cc79a7"


def test_a_norm_of_the_users_takes_no_colour_of_the_core():
    _, mine, yours = of_arms([arm(norm__name=name) for name in ("bn", "mine", "yours")])
    assert mine.colour != yours.colour
    assert not {mine.colour, yours.colour} & set(COLOURS[:5])


def test_settings_beside_the_norm_decide_the_dash():
    low, high, other = of_arms([arm(norm__name=norm, optim__lr=lr) for norm, lr in (("bn", 1), ("bn", 3), ("gn", 3))])
    assert (low.colour, high.colour) == ("#0072b2", "#0072b2")
    assert (low.dash, high.dash, other.dash) == ("-", "--", "--")
    assert low.marker != high.marker


def test_arms_with_the_same_norm_differ_by_the_first_setting():
    assert [style.colour for style in of_arms([arm(optim__lr=lr) for lr in (1, 3, 9)])] == list(COLOURS[:3])


def test_names_that_begin_with_a_norm_have_its_colour():
    plain, tuned, other = of_names(["bn", "bn_tuned", "relu"])
    assert plain.colour == tuned.colour == "#0072b2"
    assert (plain.dash, tuned.dash) == ("-", "--")
    assert other.colour not in COLOURS[:5]
