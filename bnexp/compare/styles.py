"""The colour, dash and marker of every arm: the one place that decides, for figures, pages and TensorBoard.

A norm has one look everywhere. The colours are those of Okabe & Ito (2008), whose yellow is hard to see on white and is
replaced by a violet; colour-blind readers can tell all eight apart. The five core norms have the first five, solid;
the other norms follow in alphabetical order, and after eight colours the dash and the marker change, so that 25 arms
of a norm look different.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import count

from bnexp.config.shipped import configs_folder
from bnexp.runs.arms import Arm
from bnexp.runs.collect import show

# The colour of letters and axes, and the first of the colours; pages show it in the colour of their text.
INK = "#1c1c1e"
# The ink on a dark page.
CHALK = "#ececea"
COLOURS = (INK, "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8a3ffc")
DASHES = ("-", "--", ":", "-.", (0, (5, 1, 1, 1, 1, 1)))
MARKERS = ("o", "s", "^", "D", "v")
CORE = ("none", "bn", "ln", "in", "gn")


@dataclass(frozen=True)
class Style:
    """How an arm is drawn, in the words of matplotlib."""

    colour: str
    dash: str | tuple[float, tuple[float, ...]]
    marker: str


@cache
def norms() -> tuple[str, ...]:
    """All norms that come with the program, in the order of their looks."""
    shipped = sorted(path.stem for path in (configs_folder() / "norm").glob("*.yaml"))
    return (*CORE, *(name for name in shipped if name not in CORE))


def of_arms(arms: Sequence[Arm]) -> list[Style]:
    """The norm decides the colour; where all arms have the same, the first setting. The others decide the dash."""
    key = next((key for arm in arms for key in arm.settings if key == "norm.name"), None)
    key = key or next((key for arm in arms for key in arm.settings), "")
    return _styles(
        [(show(arm.settings.get(key)), tuple(item for item in arm.settings.items() if item[0] != key)) for arm in arms]
    )


def of_names(names: Sequence[str]) -> list[Style]:
    """Styles of arms that are known by their names; ``bn_tuned`` has the colour of ``bn``, and the next dash."""
    return _styles([_norm_first(name) for name in names])


def _norm_first(name: str) -> tuple[str, str]:
    first, _, rest = name.partition("_")
    return (name, "") if name in norms() or first not in norms() else (first, rest)


def _styles(arms: Sequence[tuple[str, Hashable]]) -> list[Style]:
    """Styles by (what decides the colour, what else tells the arms apart); names that are no norms take free looks."""
    looks = {name: norms().index(name) for name, _ in arms if name in norms()}
    first = len(CORE) if looks else 0
    for name in dict.fromkeys(name for name, _ in arms if name not in looks):
        looks[name] = next(look for look in count(first) if look not in looks.values())
    shifts = list(dict.fromkeys(sorted((other for _, other in arms), key=bool)))
    styles: dict[int, Style] = {}
    for index in sorted(range(len(arms)), key=lambda index: shifts.index(arms[index][1])):
        name, other = arms[index]
        free = (_style(looks[name], shifts.index(other) + more) for more in range(len(DASHES) * len(MARKERS)))
        styles[index] = next((style for style in free if style not in styles.values()), _style(looks[name], 0))
    return [styles[index] for index in range(len(arms))]


def _style(look: int, shift: int) -> Style:
    turn, colour = divmod(look, len(COLOURS))
    again, dash = divmod(turn + shift, len(DASHES))  # where all dashes are taken, each comes with the next marker
    return Style(COLOURS[colour], DASHES[dash], MARKERS[(dash + again) % len(MARKERS)])
