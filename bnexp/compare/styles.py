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
from itertools import count, product

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
    """The norm decides the colour; where all arms have the same, the first setting.

    Of the others, the first decides the dash and the rest the marker; a single one decides both.
    """
    key = next((key for arm in arms for key in arm.settings if key == "norm.name"), None)
    key = key or next((key for arm in arms for key in arm.settings), "")
    others = [tuple(item for item in arm.settings.items() if item[0] != key) for arm in arms]
    names = [show(arm.settings.get(key)) for arm in arms]
    return _styles([(name, other[:1], other[1:]) for name, other in zip(names, others, strict=True)])


def of_names(names: Sequence[str]) -> list[Style]:
    """Styles of arms that are known by their names; ``bn_tuned`` has the colour of ``bn``, and the next dash."""
    return _styles([(*_norm_first(name), "") for name in names])


def _norm_first(name: str) -> tuple[str, str]:
    first, _, rest = name.partition("_")
    return (name, "") if name in norms() or first not in norms() else (first, rest)


def _styles(arms: Sequence[tuple[str, Hashable, Hashable]]) -> list[Style]:
    """Styles by what decides the colour, the dash and the marker; names that are no norms take free looks.

    Arms that would look the same take the next dash and marker; those without other settings choose first.
    """
    looks = {name: norms().index(name) for name, *_ in arms if name in norms()}
    first = len(CORE) if looks else 0
    for name in dict.fromkeys(name for name, *_ in arms if name not in looks):
        looks[name] = next(look for look in count(first) if look not in looks.values())
    dashes, markers = _places([dash for _, dash, _ in arms]), _places([marker for _, _, marker in arms])
    styles, taken = dict[int, Style](), set[Style]()
    for index in sorted(range(len(arms)), key=lambda index: (dashes[index], markers[index])):
        dash = dashes[index]
        marker = markers[index] if any(markers) else dash + dash // len(DASHES)
        tries = product(range(len(MARKERS)), range(len(DASHES)))
        look = looks[arms[index][0]]
        wanted = (_style(look, dash + more, marker + turn + more) for turn, more in tries)
        styles[index] = next((style for style in wanted if style not in taken), _style(look, dash, marker))
        taken.add(styles[index])
    return [styles[index] for index in range(len(arms))]


def _places(column: Sequence[Hashable]) -> list[int]:
    """The place of each value among the different ones; nothing comes first."""
    places = {value: place for place, value in enumerate(dict.fromkeys(sorted(column, key=bool)))}
    return [places[value] for value in column]


def _style(look: int, dash: int, marker: int) -> Style:
    turn, colour = divmod(look, len(COLOURS))
    return Style(COLOURS[colour], DASHES[(turn + dash) % len(DASHES)], MARKERS[(turn + marker) % len(MARKERS)])
