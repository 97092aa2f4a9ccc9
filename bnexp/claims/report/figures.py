"""The figures of a claim: what the arms reach, and the difference seed by seed, in points or as a ratio."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bnexp.claims.report import words
from bnexp.claims.report.reading import Reading
from bnexp.claims.result import TestResult
from bnexp.compare.cells import decimals
from bnexp.compare.drawing import WIDTH, Picture, drawing, embedded, grid, line, spread
from bnexp.compare.styles import CHALK, INK, Style, of_names
from bnexp.config.metrics import metric_of
from bnexp.config.metrics import title as words_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# The width of the figure of a lesson, in inches.
_SMALL = 3.0
# Height of curves, as a part of the width; the most numbers at an axis.
_SHAPE = 0.5
_MOST_TICKS = 6
# Height of a row of dots, and of what stands below and above the rows of a panel.
_ROW, _FRAME = 0.44, 0.4
# Letters in an inch of a headline, of a title, and of the figure's width in a name at the end of a line.
_HEADLINE, _LETTERS, _END = 11, 13, 4.5
# Inches between the names at the ends of lines, for each line of a name.
_GAP = 0.17
# The steps in which curves may leave the panel, and how far bands reach beyond the means, as parts of the whole.
_EARLY, _ROOM = 0.1, 0.5
# Values of an axis are drawn on a logarithmic scale if their ratio is at least this.
_DECADE = 10
# How far apart the arms of a category are drawn; categories have a distance of 1.
_BESIDE = 0.1
# Verdict -> its colour; _OPEN is for all other verdicts.
_VERDICTS = {"supported": "#00795a", "contradicted": "#b8480a", "negligible": "#b8480a"}
_OPEN = "#66666b"
# Colours that a dark page has others for: of verdicts, and those of arms that are too dark for letters.
_DARK = {"#00795a": "#2fc79a", "#b8480a": "#ff8a45", _OPEN: "#a0a0a4", "#0072b2": "#4ea6e6", "#8a3ffc": "#b794ff"}
_FONT = 'system-ui, -apple-system, "Segoe UI", "Helvetica Neue", Arial, "Liberation Sans", sans-serif'


def draw(reading: Reading) -> Picture | None:
    """A claim's figure: what the arms reach in the regime of the answer, and the differences of the primary tests."""
    tests = _tests(reading)
    if not tests:
        return None
    panels = [_curves(reading, tests[0].regime, WIDTH)]
    if panels == [None]:
        alike = {(test.regime, words.measured(reading.claim, test.test)): test for test in tests}
        panels = [_levels(reading, test, tests) for test in alike.values()]
    panels += [_difference(reading, test, titled=len(tests) > 1) for test in tests]
    decides = _deciding(reading, tests)
    headline = f"{words.capital(_subject(reading, decides))}: {words.effect(reading.claim, decides)}"
    caption = f"{reading.condition}. A faint dot is a seed; bars and bands are intervals. Grey: too small to matter."
    return _picture(reading.claim.id, caption, panels, WIDTH, headline)


def _tests(reading: Reading) -> list[TestResult]:
    """The primary tests that have numbers."""
    return [test for test in reading.primary if test.differences and test.mean is not None]


def _deciding(reading: Reading, tests: Sequence[TestResult]) -> TestResult:
    """Of the tests that came out as the claim did, the one whose effect is the largest by what matters."""
    alike = [test for test in tests if words.verdict(test.verdict, "") == reading.word]
    return max(alike or tests, key=lambda test: abs(test.mean or 0.0) / test.threshold)


def _subject(reading: Reading, test: TestResult) -> str:
    """What is compared, in words that can be read at a glance."""
    four = len([side for side in test.sides.values() if side.weight]) == 4
    return "Difference of differences" if four else words.compared(reading.claim, test)


def draw_small(reading: Reading) -> Picture | None:
    """The figure of a lesson: what the arms reach in the regime of the answer."""
    tests = _tests(reading)
    if not tests:
        return None
    panel = next(filter(None, (_levels(reading, test, [test]) for test in tests)), None)
    if panel is None:
        panel = _difference(reading, tests[0])
    else:
        arms = {name.partition("@")[0] for test in tests for name in test.sides}
        panel = _curves(reading, tests[0].regime, _SMALL, arms) or panel
    return _picture(f"{reading.claim.id}-small", f"{reading.condition}.", [panel], _SMALL)


def draw_others(reading: Reading) -> Picture | None:
    """The panels of the regimes that the answer does not stand on."""
    stands_on = {test.regime for test in reading.primary[:1]}
    regimes = [regime for regime in reading.result.figure.panels if regime not in stands_on]
    panels = [_context(reading, regime, WIDTH, titled=True) for regime in regimes]
    caption = "The same in the other regimes: means over seeds, with intervals."
    return _picture(f"{reading.claim.id}-others", caption, panels, WIDTH)


def save(picture: Picture, folder: Path) -> None:
    """Write the figure as SVG that is light or dark as the page around it."""
    svg, light, dark = embedded(picture), f"color:{INK};font-family:{_FONT};", f"color:{CHALK};"
    for number, (colour, other) in enumerate(_DARK.items()):
        svg = svg.replace(colour, f"var(--c{number})")
        light, dark = f"{light}--c{number}:{colour};", f"{dark}--c{number}:{other};"
    style = f"<style>svg{{{light}}}@media(prefers-color-scheme:dark){{svg{{{dark}}}}}</style>"
    (folder / f"{picture.name}.svg").write_text(svg.replace(">", f">{style}", 1), encoding="utf-8")


# A panel: its height in inches without its title, the title, and what draws it.
Panel = tuple[float, str, "Callable[[Axes], None]"]


def _picture(
    name: str, caption: str, given: Sequence[Panel | None], width: float, headline: str = ""
) -> Picture | None:
    """Panels below one another, under a headline; None if there are none."""
    from matplotlib.figure import Figure

    panels = [panel for panel in given if panel is not None]
    if not panels:
        return None
    lines = textwrap.wrap(headline, int(_HEADLINE * width))
    titles = [textwrap.wrap(title, int(_LETTERS * width)) for _, title, _ in panels]
    heights = [height + _GAP * len(title) for (height, _, _), title in zip(panels, titles, strict=True)]
    with drawing():
        figure = Figure(figsize=(width, sum(heights) + 0.2 * len(lines)), layout="constrained")
        all_axes = figure.subplots(len(panels), 1, squeeze=False, height_ratios=heights)[:, 0]
        for axes, (_, _, fill), title in zip(all_axes, panels, titles, strict=True):
            fill(axes)
            axes.set_title("\n".join(title), fontsize=9, alpha=0.8)
        if lines:
            figure.suptitle("\n".join(lines), x=0.01, ha="left", fontsize=11)
        figure.draw_without_rendering()
    return Picture(name, caption, figure)


# --- curves, and values over an axis ----------------------------------------------------------------------------------


# Arm or point -> its points [x, mean, low, high]; none is empty.
Lines = Mapping[str, "Sequence[Sequence[Any]]"]


def _curves(reading: Reading, regime: str, width: float, arms: Collection[str] | None = None) -> Panel | None:
    """As ``_context``; None also for an axis with a single value, at which rows of dots show more."""
    given = reading.result.figure
    values = {x for points in given.panels.get(regime, {}).values() for x, *_ in points}
    return None if given.kind == "axis" and len(values) == 1 else _context(reading, regime, width, arms)


def _context(
    reading: Reading, regime: str, width: float, arms: Collection[str] | None = None, *, titled: bool = False
) -> Panel | None:
    """The curves of a regime, or its values over the axis; of some arms, or of all."""
    given, claim = reading.result.figure, reading.claim
    metric = given.metrics.get(regime, "")
    percent = metric_of(metric).is_proportion
    lines = {
        name: [[x, *(100 * end if percent else end for end in ends)] for x, *ends in points]
        for name, points in given.panels.get(regime, {}).items()
        if points and (arms is None or name.partition("@")[0] in arms)
    }
    if not lines:
        return None
    names = _names(reading, lines, int(_END * width))

    def fill(axes: Axes) -> None:
        _lines(axes, lines, marked=given.kind == "axis")
        _name_ends(axes, lines, names, height)
        axes.set_xlabel(words.setting(given.axis) if given.kind == "axis" and given.axis else "step")

    height = max(_SHAPE * width, _GAP * len(names) * _most_lines(names))
    where = f" ({claim.title_of(regime)})" if titled else ""
    return height + _FRAME, f"{words.capital(words_of(metric))}{', %' if percent else ''}{where}", fill


def _lines(axes: Axes, lines: Lines, *, marked: bool) -> None:
    xs = [point[0] for points in lines.values() for point in points]
    categories = list(dict.fromkeys(x for x in xs if isinstance(x, str)))
    styles = _styles(lines)
    for index, (points, style) in enumerate(zip(lines.values(), styles, strict=True)):
        x = [categories.index(point[0]) if categories else point[0] for point in points]
        means, lows, highs = ([point[column] for point in points] for column in (1, 2, 3))
        if categories:  # no lines between categories; arms stand beside each other
            x = [place + _BESIDE * (index - (len(lines) - 1) / 2) for place in x]
            axes.plot(x, means, style.marker, ms=4, color=style.colour)
            axes.vlines(x, lows, highs, color=style.colour)
        else:
            line(axes, x, means, style)
            axes.fill_between(x, lows, highs, color=style.colour, alpha=0.16, linewidth=0)
    if categories:
        axes.set_xticks(range(len(categories)), categories, rotation=25, ha="right")
    elif marked:
        _ticks(axes, xs)
    late = [point for points in lines.values() for point in points if marked or point[0] >= _EARLY * max(xs)]
    _limit(axes, *([point[column] for point in late] for column in (1, 2, 3)))
    grid(axes, "y")


def _styles(names: Collection[str]) -> list[Style]:
    """A point of an arm has the arm's colour."""
    return of_names([name.replace("@", "_") for name in names])


def _limit(axes: Axes, means: Sequence[float], lows: Sequence[float], highs: Sequence[float]) -> None:
    """Show all means, and of the bands what does not make them small."""
    room = _ROOM * (max(means) - min(means) or abs(means[0]) or 1.0)
    low, high = max(min(lows), min(means) - room), min(max(highs), max(means) + room)
    axes.set_ylim(low - 0.1 * room, high + 0.1 * room)


def _ticks(axes: Axes, xs: Sequence[float]) -> None:
    values = sorted(set(xs))
    least = next((value for value in values if value > 0), math.inf)
    if max(values) >= _DECADE * least and min(values) >= 0:
        axes.set_xscale("symlog", linthresh=least) if min(values) == 0 else axes.set_xscale("log")
    every = math.ceil(len(values) / _MOST_TICKS)
    axes.set_xticks(values, [f"{value:g}" if place % every == 0 else "" for place, value in enumerate(values)])
    axes.minorticks_off()


def _names(reading: Reading, lines: Lines, letters: int) -> list[str]:
    """Names and last values, for the ends of the lines."""
    ends = [points[-1][1] for points in lines.values()]
    digits = min(3, decimals((max(ends) - min(ends)) / 2, 1))
    texts = [f"{words.point(reading.claim, name)} {end:.{digits}f}" for name, end in zip(lines, ends, strict=True)]
    return ["\n".join(textwrap.wrap(text, letters)) for text in texts]


def _most_lines(names: Sequence[str]) -> int:
    return max(1 + name.count("\n") for name in names)


def _name_ends(axes: Axes, lines: Lines, names: Sequence[str], height: float) -> None:
    bottom, top = axes.get_ylim()
    ends = [(points[-1][1] - bottom) / (top - bottom) for points in lines.values()]
    gap = _GAP * _most_lines(names) / height
    highest = 1 - gap / 2  # the name at the top ends below the title
    places = spread([end / highest for end in ends], gap / highest)
    for name, place, style in zip(names, places, _styles(lines), strict=True):
        axes.text(1.02, highest * place, name, color=style.colour, transform=axes.transAxes, va="center", fontsize=9)


# --- a row of dots an arm, and one for the difference -----------------------------------------------------------------


def _levels(reading: Reading, test: TestResult, tests: Sequence[TestResult]) -> Panel | None:
    """A row for each arm of a test, and of those that measure the same.

    None where a single arm is tested, whose values are the differences.
    """
    measured = words.measured(reading.claim, test.test)
    alike = [one for one in tests if (one.regime, words.measured(reading.claim, one.test)) == (test.regime, measured)]
    sides = {name: side for one in alike for name, side in one.sides.items() if side.weight and side.n}
    if len(sides) < 2:
        return None
    times = 100 if words.in_points(test) else 1

    def fill(axes: Axes) -> None:
        styles = _styles(sides)
        halves = [times * (side.high - side.mean) for side in sides.values() if side.high and side.mean]
        digits = decimals(max(halves, default=0.0), 2)
        for row, ((name, side), style) in enumerate(zip(sides.items(), styles, strict=True)):
            values = [times * value for value in side.values.values() if value is not None]
            ends = [None if end is None else times * end for end in (side.mean, side.low, side.high)]
            _dots(axes, row, values, ends, style.colour)
            _name_row(
                axes, row, words.point(reading.claim, name), f"{ends[0]:.{digits}f}" if ends[0] is not None else ""
            )
        _rows(axes, len(sides), log=test.scale != "linear")

    unit = words.unit(reading.claim, test).strip()
    title = words.capital(measured) + (f", {unit}" if unit else "")
    return _FRAME + _ROW * len(sides), title, fill


def _difference(reading: Reading, test: TestResult, *, titled: bool = False) -> Panel:
    """The row of a test's differences, against no effect and the smallest that matters."""
    colour = _VERDICTS.get(test.verdict, _OPEN)
    ratio = words.is_ratio(test)
    unit = " (ratio)" if ratio else " (points)" if words.in_points(test) else ""
    unit = " (exponent)" if words.is_exponent(test) else unit
    single = len([side for side in test.sides.values() if side.weight]) == 1
    subject = words.measured(reading.claim, test.test) if single else _subject(reading, test)

    def fill(axes: Axes) -> None:
        values = [words.shown(test, value) for value in test.differences.values()]
        ends = [None if end is None else words.shown(test, end) for end in (test.mean, test.low, test.high)]
        small, large = (words.shown(test, sign * test.threshold) for sign in (-1, 1))
        axes.axvspan(small, large, color=INK, alpha=0.07, linewidth=0)
        axes.axvline(1 if ratio else 0, color=INK, linewidth=0.8)
        _dots(axes, 0, values, ends, colour)
        _name_row(axes, 0, "", words.signed(test))
        _rows(axes, 1, log=ratio)

    return _FRAME + _ROW, words.capital(test.says if titled else subject) + unit, fill


def _dots(axes: Axes, row: int, values: Sequence[float], ends: Sequence[float | None], colour: str) -> None:
    """A faint dot a seed, and the mean with its interval."""
    mean, low, high = ends
    heights = [row + 0.07 * (place % 5 - 2) for place in range(len(values))]  # keeps equal values apart
    axes.scatter(values, heights, s=13, color=colour, alpha=0.4, linewidths=0, clip_on=False)
    if low is not None and high is not None:
        axes.plot([low, high], [row, row], color=colour, linewidth=2, solid_capstyle="butt")
    if mean is not None:
        axes.plot([mean], [row], "o", color=colour, markersize=5.5, clip_on=False)


def _name_row(axes: Axes, row: int, name: str, number: str) -> None:
    """The name above a row of dots, the number at its right end."""
    placed: dict[str, Any] = {"transform": axes.get_yaxis_transform(), "fontsize": 9}
    most = int(_LETTERS * axes.figure.get_figwidth())  # type: ignore[union-attr]
    axes.text(0, row - 0.28, textwrap.shorten(name, most, placeholder="\u2026"), va="bottom", **placed)
    axes.text(1.02, row, number, va="center", **placed)


def _rows(axes: Axes, number: int, *, log: bool) -> None:
    """The frame of rows of dots; a logarithmic scale has round numbers, and where it is short some between."""
    from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

    axes.set_ylim(number - 0.55, -0.75)
    if log:
        axes.set_xscale("log")
        low, high = axes.get_xlim()
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)) if high > _DECADE * low else MaxNLocator(5))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_formatter(NullFormatter())
    else:
        axes.xaxis.set_major_locator(MaxNLocator(7))
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    grid(axes, "x")
