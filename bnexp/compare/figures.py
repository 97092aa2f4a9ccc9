"""The figures of a comparison: learning curves, last values, a heat map of two settings, and quantities over depth."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bnexp.compare import depth
from bnexp.compare.bands import mean_curve
from bnexp.compare.drawing import (
    Entry,
    Picture,
    band,
    best,
    cut,
    drawing,
    embedded,
    ends,
    enter,
    entitle,
    far_apart,
    framed,
    from_seeds,
    grid,
    legend,
    line,
    save,
    spread,
    widen,
)
from bnexp.compare.statistics import Interval, clipped, mean_interval
from bnexp.compare.tables import Comparison
from bnexp.config.metrics import larger_is_better, metric_of, probed_of, title
from bnexp.runs.arms import Arm, natural
from bnexp.runs.collect import short, show
from bnexp.runs.metrics import by_epoch, curve

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# An arm and its mean curve, by steps or by epochs.
Drawn = tuple[Entry, Mapping[float, Interval]]
# With more arms than these, only the best are drawn: a reader could not tell them apart.
MOST_CURVES = 14
MOST_DOTS = 40
# More or longer names than these stand in a legend, and not at the ends of the lines.
_MOST_ENDS = 7
_LONGEST_END = 16
# Labels of columns with more letters than this, together, are slanted.
_MOST_LETTERS = 42
# Above and below the curves on a logarithmic axis, as a factor.
_ROOM = 1.3
# A heat map with more cells than this has a colour bar instead of numbers.
MOST_NUMBERS = 80


def write(folder: Path, comparison: Comparison) -> list[str]:
    """Write every figure as PNG, SVG and PDF, and return their names; two calls write the same bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    made = pictures(comparison)
    for picture in made:
        save(picture, folder)
    return [picture.name for picture in made]


def inline(comparison: Comparison) -> list[tuple[str, str]]:
    """Caption and ``<svg>`` element of every figure, in the page's light or dark colours."""
    return [(picture.caption, embedded(picture)) for picture in pictures(comparison)]


def pictures(comparison: Comparison) -> list[Picture]:
    """All figures that have something to show."""
    metric, ranks = comparison.metric, _ranks(comparison.arms, comparison.metric)
    if not ranks:
        return []
    name, entries = enter(comparison.arms, ranks, _chosen(comparison))
    with drawing():
        drawn = [
            _curves(entries, metric, name),
            _heat_map(entries, metric),
            _dots(entries, metric, name),
            *depth.pictures(best(entries, MOST_CURVES), name, _most(entries, MOST_CURVES)),
        ]
        for picture in filter(None, drawn):
            # Lay the figure out here, while the style is active.
            picture.figure.draw_without_rendering()
    return [picture for picture in drawn if picture]


def _chosen(comparison: Comparison) -> dict[int, str]:
    """Index in the table -> what was chosen on validation, such as lr=0.1."""
    single = "" if "," in comparison.key else f"{short(comparison.key).rpartition('.')[2]}="
    rows = enumerate(comparison.rows if comparison.key else ())
    return {index: f"{single}{show(row['chosen'])}" for index, row in rows if row["validation_mean"] is not None}


def _ranks(arms: Sequence[Arm], metric: str) -> dict[int, int]:
    """Index in the table -> rank, of the arms with a result."""
    sign = -1 if larger_is_better(metric) else 1
    means = {index: _interval(arm.values(metric), metric).mean for index, arm in enumerate(arms) if arm.values(metric)}
    return {index: rank for rank, index in enumerate(sorted(means, key=lambda index: sign * means[index]))}


def _interval(values: Mapping[int, float], metric: str) -> Interval:
    return mean_interval(list(values.values()), bounds=metric_of(metric).bounds)


def _headline(metric: str, where: str) -> str:
    words = _in_words(metric) or "result"
    return f"{words[0].upper()}{words[1:]} {where}"


def _in_words(metric: str) -> str:
    """A metric in words, with the layer of a probe's quantity."""
    probed = probed_of(metric)
    return f"{title(metric)}, {metric.rpartition('/')[2]}" if probed and probed.has_layers else title(metric)


def _most(entries: Sequence[Entry], most: int) -> str:
    """What is drawn of too many arms; said in the picture too, which may be shown without its caption."""
    return f"; the best {most} of {len(entries)} arms" if len(entries) > most else ""


# --- learning curves --------------------------------------------------------------------------------------------------


def _curves(entries: Sequence[Entry], metric: str, name: str) -> Picture | None:
    # After equal steps, networks with other batch sizes have seen another number of images.
    by_steps = len({run.settings.get("batch_size") for entry in entries for run in entry.arm.runs}) == 1
    read = curve if by_steps else by_epoch
    finished = [entry for entry in entries if any(run.status == "finished" for run in entry.arm.runs)]
    ranks = sorted(entry.rank for entry in finished)[:MOST_CURVES]
    read_curves = [(entry, mean_curve(entry.arm, metric, read)) for entry in finished if entry.rank in ranks]
    drawn = [(entry, steps) for entry, steps in read_curves if steps]
    if not drawn:
        return None
    figure, (axes,) = framed(3.5)
    draw_curves(axes, drawn, metric)
    if not by_steps:
        axes.set_xlabel("epoch")
    seeds = {interval.n for _, steps in drawn for interval in steps.values()}
    means = f"mean{_of_finished(finished)} with 95 % interval{from_seeds(seeds)}"
    most = _most(finished, MOST_CURVES) + _without_curve(len(entries) - len(finished) + len(read_curves) - len(drawn))
    entitle(figure, _headline(metric, "over training"), ("one seed an arm" if seeds == {1} else means) + most)
    if len(drawn) > _MOST_ENDS or max(len(entry.name) for entry, _ in drawn) > _LONGEST_END:
        legend(figure, [entry for entry, _ in drawn], name)
    else:
        name_ends(axes, drawn)
    return Picture("curves", f"Of finished runs: {means}{most}.", figure)


def _of_finished(entries: Sequence[Entry]) -> str:
    """Curves hold finished runs only; said where tables and dots hold diverged ones too."""
    return " of finished runs" if any(entry.arm.count("diverged") for entry in entries) else ""


def _without_curve(arms: int) -> str:
    """Says that arms have no curve: without a finished run, or without a point that all of their runs have."""
    return f"; {arms} arm{'s' * (arms > 1)} without a curve" if arms else ""


def draw_curves(axes: Axes, drawn: Sequence[Drawn], metric: str) -> None:
    """The mean curve of each arm, with its interval as a band; a single evaluation is a point with a bar."""
    for entry, steps in drawn:
        x, intervals = list(steps), list(steps.values())
        line(axes, x, [interval.mean for interval in intervals], entry.style)
        band(axes, x, intervals, entry.style)
    _limit(axes, [steps for _, steps in drawn], metric)
    axes.set(xlabel="step", ylabel=_in_words(metric))
    axes.locator_params(axis="x", integer=True)
    grid(axes, "y")


def _limit(axes: Axes, curves: Collection[Mapping[float, Interval]], metric: str) -> None:
    """Show the means after the first tenth of the steps, and of the bands at most half that range more."""
    start = max(step for steps in curves for step in steps) / 10
    late = [interval for steps in curves for step, interval in steps.items() if step >= start]
    means = [interval.mean for interval in late]
    bottom, top = min(means), max(means)
    room = (top - bottom) / 2
    if widen(axes, "y", means):
        axes.set_ylim(bottom / _ROOM, top * _ROOM)
        return
    lows, highs = zip(*map(ends, late), strict=True)
    low, high = max(min(lows), bottom - room), min(max(highs), top + room)
    margin = 0.06 * (high - low) or abs(means[0]) * 0.1 or 1.0
    axes.set_ylim(clipped(low - margin, high + margin, means, metric_of(metric).bounds))
    axes.margins(x=0.01)


def name_ends(axes: Axes, drawn: Sequence[Drawn]) -> None:
    """Write the names at the ends of the lines."""
    to_axes = axes.transData + axes.transAxes.inverted()
    lasts = [list(steps.values())[-1].mean for _, steps in drawn]
    heights = spread([float(to_axes.transform((1, last))[1]) for last in lasts], gap=0.075)
    for (entry, _), height in zip(drawn, heights, strict=True):
        axes.text(1.02, height, entry.name, color=entry.style.colour, transform=axes.transAxes, va="center")


# --- final values -----------------------------------------------------------------------------------------------------


def _dots(entries: Sequence[Entry], metric: str, name: str) -> Picture:
    shown = best(entries, MOST_DOTS)
    figure, (axes,) = framed(1.0 + 0.32 * len(shown))
    for row, entry in enumerate(shown):
        _row(axes, row, entry, metric)
    everything = [value for entry in shown for value in entry.arm.values(metric).values()]
    if not widen(axes, "x", everything):
        axes.set_xlim(clipped(*axes.get_xlim(), everything, metric_of(metric).bounds))
    axes.set_yticks(range(len(shown)), [entry.name for entry in shown])
    axes.set_ylim(len(shown) - 0.4, -0.6)
    axes.set(xlabel=_in_words(metric), ylabel=name)
    means = f"mean with 95 % interval{from_seeds([len(entry.arm.values(metric)) for entry in shown])}"
    most = _most(entries, MOST_DOTS)
    marks = f"{means}; a faint dot a seed{most}"
    entitle(figure, _headline(metric, "at the last step"), marks)
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0)
    grid(axes, "x")
    return Picture("dots", f"Last value: {means}, and every seed as a faint dot{most}.", figure)


def _row(axes: Axes, row: int, entry: Entry, metric: str) -> None:
    colour, values = entry.style.colour, entry.arm.values(metric)
    # Seeds with equal values are drawn at different heights.
    heights = [row + 0.09 * (place % 5 - 2) for place in range(len(values))]
    axes.scatter(list(values.values()), heights, s=13, color=colour, alpha=0.45, linewidths=0, clip_on=False)
    interval = _interval(values, metric)
    axes.plot(ends(interval), [row, row], color=colour, solid_capstyle="butt", linewidth=2)
    axes.plot([interval.mean], [row], entry.style.marker, color=colour, markersize=5.5, clip_on=False)


# --- two swept settings -----------------------------------------------------------------------------------------------


def _heat_map(entries: Sequence[Entry], metric: str) -> Picture | None:
    arms = [entry.arm for entry in entries]
    keys = list(dict.fromkeys(key for arm in arms for key in arm.settings))
    if len(keys) != 2 or any(len(arm.settings) != 2 for arm in arms):
        return None
    # A numeric setting is the horizontal axis.
    keys.sort(key=lambda key: all(isinstance(arm.settings[key], int | float) for arm in arms))
    ys, xs = [sorted({arm.settings[key] for arm in arms}, key=natural) for key in keys]
    cells = {(xs.index(arm.settings[keys[1]]), ys.index(arm.settings[keys[0]])): arm for arm in arms}
    figure, (axes,) = framed(1.5 + 0.42 * len(ys))
    _fill(figure, axes, cells, metric)
    names = [cut(short(key)) for key in keys]
    labels = [cut(show(x)) for x in xs]
    # Numbers that were drawn at random are long; straight they would lie on each other.
    straight = sum(map(len, labels)) <= _MOST_LETTERS
    axes.set_xticks(range(len(xs)), labels, rotation=0 if straight else 40, ha="center" if straight else "right")
    axes.set_yticks(range(len(ys)), [cut(show(y)) for y in ys])
    axes.set(xlim=(-0.5, len(xs) - 0.5), ylim=(len(ys) - 0.5, -0.5), xlabel=names[1], ylabel=names[0])
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    entitle(figure, _headline(metric, f"by {names[0]} and {names[1]}"), "at the last step, mean over seeds")
    caption = "Last value: mean over seeds. The colours span the arms in which no run diverged."
    return Picture("heat_map", caption, figure)


def _fill(figure: Figure, axes: Axes, cells: Mapping[tuple[int, int], Arm], metric: str) -> None:
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import LogNorm, Normalize
    from matplotlib.patches import Rectangle

    means = {place: _interval(arm.values(metric), metric).mean for place, arm in cells.items()}
    # Diverged runs would stretch the scale, so it spans the other arms; arms beyond it get the colour of its end.
    steady = [mean for place, mean in means.items() if not cells[place].count("diverged")] or list(means.values())
    kind = LogNorm if far_apart(steady) else Normalize
    scale, colours = kind(min(steady), max(steady), clip=True), colormaps["cividis"]
    written = _written(list(means.values()))
    for (x, y), mean in means.items():
        red, green, blue, _ = colours(float(scale(mean)))
        axes.add_patch(Rectangle((x - 0.48, y - 0.46), 0.96, 0.92, facecolor=(red, green, blue), linewidth=0))
        if len(means) <= MOST_NUMBERS:
            ink = "#ffffff" if 0.3 * red + 0.59 * green + 0.11 * blue < 0.5 else "#101010"
            _write_cell(axes, x, y, cells[x, y], written(mean), ink)
    if len(means) > MOST_NUMBERS:
        figure.colorbar(ScalarMappable(scale, colours), ax=axes, label=_in_words(metric))


def _write_cell(axes: Axes, x: int, y: int, arm: Arm, number: str, ink: str) -> None:
    diverged = arm.count("diverged")
    axes.text(x, y - (0.1 if diverged else 0), number, ha="center", va="center", color=ink)
    if diverged:
        text = f"{diverged}/{len(arm.runs)} diverged"
        axes.text(x, y + 0.24, text, ha="center", va="center", color=ink, fontsize=7)


def _written(values: Sequence[float]) -> Callable[[float], str]:
    """How cells write their number: with the decimals that suit the largest, or with three digits each."""
    largest = max(map(abs, values))
    if largest and not 1e-2 <= largest < 1e5:
        return "{:.2e}".format
    if far_apart([abs(value) for value in values]):
        return lambda value: f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return f"{{:.{max(0, 4 - len(str(int(largest))))}f}}".format
