"""The figures of a comparison: learning curves, final values, and a heat map of two swept settings.

The colours are from Okabe & Ito (2008), without their yellow, which is hard to see on white; colour-blind readers can
tell them apart. matplotlib is imported where it is used, and its global state is left alone.
"""

from __future__ import annotations

import contextlib
import io
import math
import re
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bnexp.compare.bands import mean_curve
from bnexp.compare.statistics import FEWEST, Interval, clipped, mean_interval
from bnexp.config.metrics import larger_is_better, metric_of
from bnexp.runs.arms import Arm, natural
from bnexp.runs.collect import short, show

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7a7a7a")
DASHES = ("-", "--", ":", "-.")
INK = "#1c1c1e"
# With more arms than these, only the best are drawn: a reader could not tell them apart.
MOST_CURVES = 14
MOST_DOTS = 40
# A longer name would leave no room for what is drawn.
LONGEST_NAME = 30
# A heat map with more cells than this has a colour bar instead of numbers.
MOST_NUMBERS = 80
STYLE: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), INK),
    "axes.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "lines.linewidth": 1.5,
    "svg.fonttype": "none",
    "pdf.fonttype": 42,  # TrueType, which journals ask for
    # Names come from settings: a $ in them is no mathematics.
    "text.parse_math": False,
    # Fixed, so that two calls write the same bytes.
    "svg.hashsalt": "bnexp",
}


Styles = Mapping[int, tuple[str, str]]


@dataclass(frozen=True)
class Picture:
    """A figure with its file name and its caption."""

    name: str
    caption: str
    figure: Figure


def write(folder: Path, arms: Sequence[Arm], metric: str) -> None:
    """Write every figure as PNG, SVG and PDF; two calls write the same bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    for picture in pictures(arms, metric):
        with drawing():
            picture.figure.savefig(folder / f"{picture.name}.png", dpi=200)
            picture.figure.savefig(folder / f"{picture.name}.pdf", metadata={"CreationDate": None})
        (folder / f"{picture.name}.svg").write_text(_svg(picture.figure), encoding="utf-8")


def inline(arms: Sequence[Arm], metric: str) -> list[tuple[str, str]]:
    """Caption and ``<svg>`` element of every figure, in the page's light or dark colours."""
    return [(picture.caption, embedded(picture)) for picture in pictures(arms, metric)]


@contextlib.contextmanager
def drawing() -> Iterator[None]:
    """The style; and no warning of a letter that the font lacks, which an SVG shows all the same."""
    from matplotlib import rc_context

    with rc_context(STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        yield


def pictures(arms: Sequence[Arm], metric: str) -> list[Picture]:
    """All figures that have something to show."""
    ranked = _ranked(arms, metric)
    if not ranked:
        return []
    styles = _styles(ranked)
    with drawing():
        drawn = [_curves(ranked, metric, styles), _heat_map(ranked, metric), _dots(ranked, metric, styles)]
        for picture in filter(None, drawn):
            # Lay the figure out here, while the style is active.
            picture.figure.draw_without_rendering()
    return [picture for picture in drawn if picture]


def _ranked(arms: Sequence[Arm], metric: str) -> dict[int, Arm]:
    """Arms with a result, the best first, by their index in the table (which decides their colour)."""
    sign = -1 if larger_is_better(metric) else 1
    means = {index: _interval(arm.values(metric), metric).mean for index, arm in enumerate(arms) if arm.values(metric)}
    return {index: arms[index] for index in sorted(means, key=lambda index: sign * means[index])}


def _styles(ranked: Mapping[int, Arm]) -> Styles:
    """Index -> colour and dash, the same in every figure: the first setting decides the colour, the others the dash."""
    colours: dict[Any, str] = {}
    dashes: dict[Any, str] = {}
    styles = {}
    for index, arm in sorted(ranked.items()):
        first, *others = arm.settings.items() or [("", "")]
        colour = colours.setdefault(first, COLOURS[len(colours) % len(COLOURS)])
        styles[index] = colour, dashes.setdefault(tuple(others), DASHES[len(dashes) % len(DASHES)])
    return styles


def _interval(values: Mapping[Any, float], metric: str) -> Interval:
    return mean_interval(list(values.values()), bounds=metric_of(metric).bounds)


def _first(arms: Mapping[int, Arm], most: int) -> dict[int, Arm]:
    """The ``most`` best arms, in the order of the table."""
    return dict(sorted(list(arms.items())[:most]))


def _figure(height: float) -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.2, height), layout="constrained")
    return figure, figure.add_subplot()


def _names(arms: Mapping[int, Arm]) -> tuple[str, dict[int, str]]:
    """Title and index -> name: if one setting differs, that setting and its values; else no title and the labels."""
    keys = list(dict.fromkeys(key for arm in arms.values() for key in arm.settings))
    if len(keys) == 1:
        return _cut(short(keys[0])), {index: _cut(show(arm.settings.get(keys[0]))) for index, arm in arms.items()}
    return "", {index: _label(arm) for index, arm in arms.items()}


def _label(arm: Arm) -> str:
    return Arm({key: _cut(show(value)) for key, value in arm.settings.items()}, arm.runs).label


def _cut(name: str) -> str:
    return name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 1]}…"


# --- learning curves --------------------------------------------------------------------------------------------------


def _curves(ranked: Mapping[int, Arm], metric: str, styles: Styles) -> Picture | None:
    arms = _first(ranked, MOST_CURVES)
    means = {index: steps for index, arm in arms.items() if (steps := mean_curve(arm, metric))}
    if not means:
        return None
    figure, axes = _figure(3.3)
    for index, steps in means.items():
        x, intervals = list(steps), list(steps.values())
        colour, dash = styles[index]
        axes.plot(x, [interval.mean for interval in intervals], dash, color=colour)
        low = [interval.mean if interval.low is None else interval.low for interval in intervals]
        high = [interval.mean if interval.high is None else interval.high for interval in intervals]
        axes.fill_between(x, low, high, color=colour, alpha=0.16, linewidth=0)
    _limit(axes, means.values(), metric)
    _explain(axes, "means, with 95 % intervals as bands")
    axes.set(xlabel="step", ylabel=metric)
    axes.grid(axis="y", color=INK, alpha=0.12, linewidth=0.6)
    _name_lines(
        figure,
        axes,
        {index: arms[index] for index in means},
        [list(steps.values())[-1].mean for steps in means.values()],
        styles,
    )
    most = f" The best {MOST_CURVES} of {len(ranked)} arms." if len(ranked) > MOST_CURVES else ""
    return Picture("curves", f"Mean over finished runs with 95 % interval.{most}", figure)


def _explain(axes: Axes, what: str) -> None:
    """Explain the marks in the figure itself, which may be shown without its caption."""
    axes.set_title(what, loc="left", fontsize=8.5, color=INK, alpha=0.7)


def _limit(axes: Axes, curves: Collection[Mapping[int, Interval]], metric: str) -> None:
    """Show the means after the first tenth of the steps, and of the bands at most half that range more."""
    start = max(step for steps in curves for step in steps) / 10
    late = [interval for steps in curves for step, interval in steps.items() if step >= start]
    means = [interval.mean for interval in late]
    bottom, top = min(means), max(means)
    room = (top - bottom) / 2
    lows = [interval.low for interval in late if interval.low is not None]
    highs = [interval.high for interval in late if interval.high is not None]
    low, high = max(min(lows, default=bottom), bottom - room), min(max(highs, default=top), top + room)
    margin = 0.06 * (high - low) or abs(means[0]) * 0.1 or 1.0
    axes.set_ylim(clipped(low - margin, high + margin, means, metric_of(metric).bounds))
    axes.margins(x=0.01)


def _name_lines(figure: Figure, axes: Axes, arms: Mapping[int, Arm], ends: Sequence[float], styles: Styles) -> None:
    """Write names at the ends of the lines if they are few and short, else in a legend below."""
    title, names = _names(arms)
    longest = max(map(len, names.values()))
    if len(names) > 7 or longest > 16:
        columns = max(1, 66 // (8 + longest))
        figure.set_figheight(figure.get_figheight() + 0.17 * math.ceil(len(names) / columns))
        figure.legend(
            axes.get_lines(),
            list(names.values()),
            title=title,
            loc="outside lower left",
            ncols=columns,
            handlelength=2.6,
            frameon=False,
            fontsize=8.5,
        )
        return
    bottom, top = axes.get_ylim()
    heights = _spread([(end - bottom) / (top - bottom) for end in ends], gap=0.075)
    for (index, name), height in zip(names.items(), heights, strict=True):
        axes.text(1.02, height, name, color=styles[index][0], transform=axes.transAxes, va="center")


def _spread(heights: Sequence[float], gap: float) -> list[float]:
    """The heights (0 to 1), moved apart to distances of at least ``gap``, in the same order."""
    order = sorted(range(len(heights)), key=lambda index: heights[index])
    moved = list(heights)
    for below, above in pairwise(order):
        moved[above] = max(moved[above], moved[below] + gap)
    excess = max(0.0, moved[order[-1]] - 1.0)
    moved[order[-1]] -= excess
    for above, below in pairwise(reversed(order)):
        moved[below] = min(moved[below], moved[above] - gap)
    return moved


# --- final values -----------------------------------------------------------------------------------------------------


def _dots(ranked: Mapping[int, Arm], metric: str, styles: Styles) -> Picture:
    arms = _first(ranked, MOST_DOTS)
    title, names = _names(arms)
    figure, axes = _figure(0.75 + 0.32 * len(arms))
    everything: list[float] = []
    for row, (index, arm) in enumerate(arms.items()):
        colour, _ = styles[index]
        values = list(arm.values(metric).values())
        # Seeds with equal values are drawn at different heights.
        heights = [row + 0.09 * (place % 5 - 2) for place in range(len(values))]
        axes.scatter(values, heights, s=13, color=colour, alpha=0.45, linewidths=0, clip_on=False)
        interval = _interval(arm.values(metric), metric)
        if interval.n >= FEWEST and interval.low is not None and interval.high is not None:
            axes.plot([interval.low, interval.high], [row, row], color=colour, solid_capstyle="butt", linewidth=2)
        axes.plot([interval.mean], [row], "o", color=colour, markersize=5.5, clip_on=False)
        everything += values
    axes.set_xlim(clipped(*axes.get_xlim(), everything, metric_of(metric).bounds))
    axes.set_yticks(range(len(arms)), list(names.values()))
    axes.set_ylim(len(arms) - 0.4, -0.6)
    axes.set(xlabel=metric, ylabel=title)
    few = any(len(arm.values(metric)) < FEWEST for arm in arms.values())
    _explain(axes, f"mean with 95 % interval{f' from {FEWEST} seeds on' if few else ''}; a faint dot a seed")
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", color=INK, alpha=0.12, linewidth=0.6)
    most = f" The best {MOST_DOTS} of {len(ranked)} arms." if len(ranked) > MOST_DOTS else ""
    return Picture("dots", f"Last value: mean with 95 % interval, and every seed as a faint dot.{most}", figure)


# --- two swept settings -----------------------------------------------------------------------------------------------


def _heat_map(ranked: Mapping[int, Arm], metric: str) -> Picture | None:
    arms = list(ranked.values())
    keys = list(dict.fromkeys(key for arm in arms for key in arm.settings))
    if len(keys) != 2 or any(len(arm.settings) != 2 for arm in arms):
        return None
    # A numeric setting is the horizontal axis.
    keys.sort(key=lambda key: all(isinstance(arm.settings[key], int | float) for arm in arms))
    ys, xs = [sorted({arm.settings[key] for arm in arms}, key=natural) for key in keys]
    cells = {(arm.settings[keys[1]], arm.settings[keys[0]]): arm for arm in arms}
    figure, axes = _figure(1.0 + 0.42 * len(ys))
    _fill(figure, axes, {(xs.index(x), ys.index(y)): arm for (x, y), arm in cells.items()}, metric)
    axes.set_xticks(range(len(xs)), [_cut(show(x)) for x in xs])
    axes.set_yticks(range(len(ys)), [_cut(show(y)) for y in ys])
    axes.set(
        xlim=(-0.5, len(xs) - 0.5), ylim=(len(ys) - 0.5, -0.5), xlabel=_cut(short(keys[1])), ylabel=_cut(short(keys[0]))
    )
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    caption = f"{metric}, mean over seeds. The colours span the arms in which no run diverged."
    return Picture("heat_map", caption, figure)


def _fill(figure: Figure, axes: Axes, cells: Mapping[tuple[int, int], Arm], metric: str) -> None:
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize
    from matplotlib.patches import Rectangle

    means = {place: _interval(arm.values(metric), metric).mean for place, arm in cells.items()}
    # Diverged runs would stretch the scale, so it spans the other arms; arms beyond it get the colour of its end.
    steady = [mean for place, mean in means.items() if not cells[place].count("diverged")] or list(means.values())
    scale, colours = Normalize(min(steady), max(steady), clip=True), colormaps["cividis"]
    for (x, y), mean in means.items():
        red, green, blue, _ = colours(float(scale(mean)))
        axes.add_patch(Rectangle((x - 0.48, y - 0.46), 0.96, 0.92, facecolor=(red, green, blue), linewidth=0))
        if len(means) <= MOST_NUMBERS:
            ink = "#ffffff" if 0.3 * red + 0.59 * green + 0.11 * blue < 0.5 else "#101010"
            _write_cell(axes, x, y, cells[x, y], mean, ink)
    if len(means) > MOST_NUMBERS:
        figure.colorbar(ScalarMappable(scale, colours), ax=axes, label=metric)


def _write_cell(axes: Axes, x: int, y: int, arm: Arm, mean: float, ink: str) -> None:
    diverged = arm.count("diverged")
    axes.text(x, y - (0.1 if diverged else 0), f"{mean:#.4g}", ha="center", va="center", color=ink)
    if diverged:
        text = f"{diverged}/{len(arm.runs)} diverged"
        axes.text(x, y + 0.24, text, ha="center", va="center", color=ink, fontsize=7)


# --- SVG --------------------------------------------------------------------------------------------------------------


def _svg(figure: Figure) -> str:
    """The figure as SVG, without metadata, which would hold a date."""
    file = io.StringIO()
    with drawing():
        figure.savefig(file, format="svg", metadata={"Date": None})
    return re.sub(r" *<metadata>.*?</metadata>\n", "", file.getvalue(), flags=re.DOTALL)


def embedded(picture: Picture) -> str:
    """An ``<svg>`` element that scales, is named for screen readers, and takes its colours from the page's CSS."""
    picture.figure.patch.set_alpha(0)
    for axes in picture.figure.axes:
        axes.patch.set_alpha(0)
    svg = _svg(picture.figure)
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<style.*?</style>", "", svg, flags=re.DOTALL)
    svg = re.sub(r' (?:width|height)="[\d.]+pt"', "", svg)
    svg = re.sub(r"\bfont: ([\d.]+px)[^;\"]*", r"font-size: \1", svg)
    # Ids must be unique in a page, which holds several figures.
    svg = re.sub(r'(\bid="|href="#|url\(#)', rf"\1{picture.name}-", svg)
    for index, colour in enumerate(COLOURS):
        svg = svg.replace(colour, f"var(--arm-{index})")
    return svg.replace(INK, "currentColor").replace("<svg ", f'<svg role="img" aria-label="{picture.name}" ', 1)
