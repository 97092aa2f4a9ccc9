"""How figures look, and how they become files and parts of a page.

matplotlib is imported where it is used, and its global state is left alone.
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

from bnexp.compare.statistics import FEWEST, Interval
from bnexp.compare.styles import DASHES, INK, MARKERS, Style, of_arms
from bnexp.runs.arms import Arm
from bnexp.runs.collect import short, show

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# The width of all figures, in inches: that of a page's text, so that letters keep their size.
WIDTH = 5.2
STYLE: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.titlesize": 10.5,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), INK),
    "axes.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "lines.linewidth": 1.5,
    "lines.markersize": 4.5,
    "svg.fonttype": "none",
    "pdf.fonttype": 42,  # TrueType, which journals ask for
    # Names come from settings: a $ in them is no mathematics.
    "text.parse_math": False,
    # Fixed, so that two calls write the same bytes.
    "svg.hashsalt": "bnexp",
}
# Markers on a line, about so many.
_MARKERS = 12
# Letters that fit beside each other in a legend.
_LETTERS = 66
# Values that span more than this factor are drawn on a logarithmic scale.
_WIDE = 100
# A longer name would leave no room for what is drawn.
_LONGEST_NAME = 30


@dataclass(frozen=True)
class Picture:
    """A figure with its file name and its caption."""

    name: str
    caption: str
    figure: Figure


@dataclass(frozen=True)
class Entry:
    """An arm in a figure; ``rank`` is 0 for the best."""

    arm: Arm
    name: str
    style: Style
    rank: int


@contextlib.contextmanager
def drawing() -> Iterator[None]:
    """The style; and no warning of a letter that the font lacks, which an SVG shows all the same."""
    from matplotlib import rc_context

    with rc_context(STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        yield


def framed(height: float, rows: int = 1, columns: int = 1) -> tuple[Figure, Sequence[Axes]]:
    """A figure of the common width, and its panels, row by row."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    return figure, list(figure.subplots(rows, columns, squeeze=False).flat)


def entitle(figure: Figure, title: str, explanation: str) -> None:
    """Say over a figure what it shows, and below that what its marks are; it may be shown without its caption."""
    figure.suptitle(title, x=0.01, ha="left", fontsize=11.5)
    if explanation:
        figure.axes[0].set_title(explanation, fontsize=8.5, alpha=0.75, wrap=True)


def line(axes: Axes, x: Sequence[float], y: Sequence[float], style: Style, **more: Any) -> None:
    """A line in an arm's style, with markers where there are few points, or the colour alone does not tell the arm."""
    marker = style.marker if len(x) <= _MARKERS or (style.dash, style.marker) != (DASHES[0], MARKERS[0]) else ""
    every = max(1, len(x) // _MARKERS)
    axes.plot(x, y, linestyle=style.dash, color=style.colour, marker=marker, markevery=every, **more)


def ends(interval: Interval) -> tuple[float, float]:
    """The ends of the interval to draw: of few seeds the mean, since their interval would hide all others."""
    if interval.n < FEWEST or interval.low is None or interval.high is None:
        return interval.mean, interval.mean
    return interval.low, interval.high


def from_seeds(counts: Collection[int]) -> str:
    """Says from how many seeds on an interval is drawn, where some arms have fewer."""
    return f" from {FEWEST} seeds on" if min(counts) < FEWEST else ""


def band(axes: Axes, x: Sequence[float], intervals: Sequence[Interval], style: Style) -> None:
    """The intervals along a line; a single one as a bar."""
    low, high = zip(*map(ends, intervals), strict=True)
    if len(x) > 1:
        axes.fill_between(x, low, high, color=style.colour, alpha=0.16, linewidth=0)
    else:
        axes.vlines(x, low, high, color=style.colour)


def legend(figure: Figure, entries: Sequence[Entry], title: str) -> None:
    """Name the entries below the panels, which keep their height."""
    columns = max(1, _LETTERS // (8 + max(len(entry.name) for entry in entries)))
    figure.set_figheight(figure.get_figheight() + 0.17 * (math.ceil(len(entries) / columns) + bool(title)))
    for entry in entries:  # without points
        line(figure.axes[0], [], [], entry.style, label=entry.name)
    figure.legend(
        title=title,
        title_fontsize=9,
        loc="outside lower left",
        ncols=columns,
        handlelength=2.6,
        frameon=False,
        fontsize=8.5,
        alignment="left",
    )


def enter(
    arms: Sequence[Arm], ranks: Mapping[int, int], chosen: Mapping[int, str] | None = None
) -> tuple[str, list[Entry]]:
    """The entries of arms (index -> rank; arms without one are left out), and a title over their names.

    If one setting differs, it is the title, and the names are its values. What was ``chosen`` for an arm on validation
    stands behind its name.
    """
    keys = list(dict.fromkeys(key for index in ranks for key in arms[index].settings))
    single = len(keys) == 1
    behind = {index: f"{', ' if single else ','}{value}" for index, value in (chosen or {}).items()}
    names = {index: cut(show(arms[index].settings.get(keys[0]))) if single else _label(arms[index]) for index in ranks}
    looks = of_arms([arms[index] for index in sorted(ranks)])
    return cut(short(keys[0])) if single else "", [
        Entry(arms[index], names[index] + behind.get(index, ""), look, ranks[index])
        for index, look in zip(sorted(ranks), looks, strict=True)
    ]


def best(entries: Sequence[Entry], most: int) -> list[Entry]:
    """The best entries, in the order of the table."""
    return [entry for entry in entries if entry.rank < most]


def _label(arm: Arm) -> str:
    return Arm({key: cut(show(value)) for key, value in arm.settings.items()}, arm.runs).label


def cut(name: str) -> str:
    """A name that leaves room for what is drawn."""
    return name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 1]}…"


def far_apart(values: Collection[float]) -> bool:
    """Whether values are positive and span so large a factor that a linear scale would hide the small ones."""
    return bool(values) and min(values) > 0 and max(values) > _WIDE * min(values)


def widen(axes: Axes, axis: str, values: Collection[float]) -> bool:
    """Have a logarithmic axis where values are far apart; whether it is one."""
    wide = far_apart(values)
    if wide:
        axes.set(**{f"{axis}scale": "log"})
        getattr(axes, f"{axis}axis").set_major_formatter("{x:g}")
        axes.minorticks_off()
    return wide


def grid(axes: Axes, axis: str) -> None:
    """Faint lines across one axis."""
    axes.grid(axis=axis, color=INK, alpha=0.12, linewidth=0.6)  # type: ignore[arg-type]


def spread(heights: Sequence[float], gap: float) -> list[float]:
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


def save(picture: Picture, folder: Path) -> None:
    """Write a figure as PNG, SVG and PDF; two calls write the same bytes."""
    with drawing():
        picture.figure.savefig(folder / f"{picture.name}.png", dpi=200)
        picture.figure.savefig(folder / f"{picture.name}.pdf", metadata={"CreationDate": None})
    (folder / f"{picture.name}.svg").write_text(_svg(picture.figure), encoding="utf-8")


def _svg(figure: Figure) -> str:
    """The figure as SVG, without metadata, which would hold a date.

    Areas to draw in are numbered: matplotlib names them by their edges, whose last bits differ from drawing to drawing.
    """
    file = io.StringIO()
    with drawing():
        figure.savefig(file, format="svg", metadata={"Date": None})
    svg = re.sub(r" *<metadata>.*?</metadata>\n", "", file.getvalue(), flags=re.DOTALL)
    for number, name in enumerate(dict.fromkeys(re.findall(r"url\(#(p[0-9a-f]{10})\)", svg))):
        svg = svg.replace(name, f"area{number}")
    return svg


def embedded(picture: Picture) -> str:
    """An ``<svg>`` element that scales, is named for screen readers, and has its ink in the page's colour of text."""
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
    return svg.replace(INK, "currentColor").replace("<svg ", f'<svg role="img" aria-label="{picture.name}" ', 1)
