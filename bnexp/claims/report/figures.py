"""The figure of a claim: learning curves, values over an axis, or the differences of its tests, seed by seed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bnexp.claims.result import Result, TestResult
from bnexp.compare.drawing import Picture, drawing, embedded, grid, line
from bnexp.compare.styles import INK, of_names
from bnexp.config.metrics import title

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Values of an axis are drawn on a logarithmic scale if their ratio is at least this.
_DECADE = 10
_MOST_PANELS = 3
# How far apart the arms of a category are drawn; categories have a distance of 1.
_BESIDE = 0.1
# Ticks of differences; every second one if the scale reaches beyond _FAR.
_TICKS = (1, 3, 10, 30, 100, 300, 1000)
_FAR = 100
# Verdict -> its colour in PNG, and its name in the page's CSS; _OPEN is for all other verdicts.
_BAD = ("#b8480a", "--bad")
_VERDICTS = {"supported": ("#00795a", "--good"), "contradicted": _BAD, "negligible": _BAD}
_OPEN = ("#66666b", "--soft")


def draw(result: Result) -> Picture | None:
    """A claim's figure; None if there is nothing to draw."""
    with drawing():
        picture = _differences(result) if result.figure.kind == "dots" else _panels(result)
        if picture is not None:
            picture.figure.draw_without_rendering()
    return picture


def save(picture: Picture, folder: Path) -> None:
    """Write the figure as PNG, for the Markdown page."""
    with drawing():
        picture.figure.savefig(folder / f"{picture.name}.png", dpi=160)


def inline(picture: Picture) -> str:
    """The figure as an ``<svg>`` element in the page's colours, for the HTML page."""
    svg = embedded(picture)
    for colour, name in (*_VERDICTS.values(), _OPEN):
        svg = svg.replace(colour, f"var({name})")
    return svg


def _panels(result: Result) -> Picture | None:
    """A panel a regime, a line an arm."""
    from matplotlib.figure import Figure

    given = result.figure
    panels = {name: lines for name, lines in given.panels.items() if any(lines.values())}
    panels = dict(list(panels.items())[-_MOST_PANELS:])
    if not panels:
        return None
    figure = Figure(figsize=(4.4 * len(panels) + 0.8, 3.3), layout="constrained")
    all_axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axes, (name, lines) in zip(all_axes, panels.items(), strict=True):
        _lines(axes, lines, marked=given.kind == "axis")
        axes.set(title=name if len(panels) > 1 else "", xlabel=given.axis if given.kind == "axis" else "step")
        grid(axes, "y")
    all_axes[0].set_ylabel(title(given.metric), labelpad=8)
    handles, labels = all_axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right upper", frameon=False, fontsize=9)
    runs = "seeds" if given.kind == "axis" else "the runs that did not diverge"
    return Picture(result.claim, f"{title(given.metric)}: mean over {runs}, with 95 % interval.", figure)


def _lines(axes: Axes, lines: Mapping[str, Sequence[Sequence[Any]]], *, marked: bool) -> None:
    xs = [point[0] for points in lines.values() for point in points]
    words = list(dict.fromkeys(x for x in xs if isinstance(x, str)))
    for index, ((name, points), style) in enumerate(zip(lines.items(), of_names(list(lines)), strict=True)):
        if not points:
            continue
        x = [words.index(point[0]) if words else point[0] for point in points]
        means, lows, highs = ([point[column] for point in points] for column in (1, 2, 3))
        if words:  # no lines between categories; arms stand beside each other
            x = [place + _BESIDE * (index - (len(lines) - 1) / 2) for place in x]
            axes.plot(x, means, style.marker, ms=4, color=style.colour, label=name)
            axes.vlines(x, lows, highs, color=style.colour)
        else:
            line(axes, x, means, style, label=name)
            axes.fill_between(x, lows, highs, color=style.colour, alpha=0.16, linewidth=0)
    if words:
        axes.set_xticks(range(len(words)), words, rotation=25, ha="right")
    elif marked:
        if min(xs) > 0 and max(xs) >= _DECADE * min(xs):
            axes.set_xscale("log")
        values = sorted(set(xs))
        axes.set_xticks(values, [f"{value:g}" for value in values])
        axes.minorticks_off()


def _differences(result: Result) -> Picture | None:
    """A row a test and regime: differences and interval, in units of the smallest effect of interest."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import FixedLocator

    tests = [test for test in result.tests if test.differences and test.mean is not None]
    if not tests:
        return None
    figure = Figure(figsize=(6.4, 0.9 + 0.36 * len(tests)), layout="constrained")
    axes = figure.add_subplot()
    for row, test in enumerate(tests):
        _row(axes, row, test)
    axes.axvline(0, color=INK, linewidth=0.8)
    for sign in (-1, 1):
        axes.axvline(sign, color=INK, linewidth=0.6, linestyle=":")
    axes.set_xscale("asinh", linear_width=2)
    ticks = _TICKS[:: 2 if max(map(abs, axes.get_xlim())) > _FAR else 1]
    axes.xaxis.set_major_locator(FixedLocator([*(-tick for tick in reversed(ticks)), 0, *ticks]))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.minorticks_off()
    axes.set_yticks(range(len(tests)), [f"{test.test} ({test.regime})" for test in tests])
    axes.set_ylim(len(tests) - 0.4, -0.6)
    axes.set_xlabel("difference, in units of the smallest effect of interest")
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0)
    caption = (
        "Mean difference with its interval, every seed as a faint dot; dotted: the smallest effect of interest. "
        "Green is supported, orange contradicted or negligible, grey inconclusive."
    )
    return Picture(result.claim, caption, figure)


def _row(axes: Axes, row: int, test: TestResult) -> None:
    unit, (colour, _) = test.threshold, _VERDICTS.get(test.verdict, _OPEN)
    values = [value / unit for value in test.differences.values()]
    # A fixed pattern of heights keeps equal values apart.
    heights = [row + 0.08 * (place % 5 - 2) for place in range(len(values))]
    axes.scatter(values, heights, s=13, color=colour, alpha=0.45, linewidths=0)
    if test.low is not None and test.high is not None:
        axes.plot([test.low / unit, test.high / unit], [row, row], color=colour, linewidth=2)
    assert test.mean is not None
    axes.plot([test.mean / unit], [row], "o", color=colour, markersize=5.5)
