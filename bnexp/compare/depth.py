"""Quantities over depth: what a probe has measured, from the first layer to the last; a figure a probe."""

from __future__ import annotations

import contextlib
import math
import textwrap
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from bnexp.compare.bands import mean_over_seeds
from bnexp.compare.drawing import Entry, Picture, band, entitle, framed, from_seeds, grid, legend, line, widen
from bnexp.compare.statistics import Interval
from bnexp.config.metrics import probed_of, title
from bnexp.runs import metrics
from bnexp.runs.arms import Arm

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Layer -> means over seeds at the first and at the last step measured, in the order of the network.
Profile = Mapping[str, tuple[Interval, Interval]]
# How faint the first step is; with more arms than these, it is left out.
_FAINT = 0.35
_MOST_FIRST = 3
# Letters of a panel's title in a line that goes over the whole figure.
_LETTERS = 66


def pictures(entries: Sequence[Entry], name: str, most: str) -> list[Picture]:
    """A figure for every probe that has measured two layers or more.

    Args:
        entries: the arms.
        name: the setting that tells them apart, or an empty text.
        most: that further arms are not drawn, or an empty text.
    """
    found = [(entry, profiles(entry.arm)) for entry in entries]
    probes = dict.fromkeys(probe for _, own in found for probe in own)
    drawn = {probe: [(entry, own[probe]) for entry, own in found if probe in own] for probe in probes}
    return [_picture(probe, some, name, most) for probe, some in drawn.items()]


def profiles(arm: Arm) -> dict[str, dict[str, Profile]]:
    """Probe -> quantity's tag without the layer -> profile, of the quantities with two layers or more."""
    values: defaultdict[str, defaultdict[int, list[tuple[float, float]]]] = defaultdict(lambda: defaultdict(list))
    for run in arm.runs:
        if run.status == "finished" and run.has_curve and any(_is_layered(tag) for tag in run.final):
            with contextlib.suppress(ValueError):  # a file that cannot be read has no curves
                for tag, curve in metrics.curves(run.folder).items():
                    if _is_layered(tag):
                        values[tag][run.seed].append((curve[min(curve)], curve[max(curve)]))
    found: defaultdict[str, dict[str, tuple[Interval, Interval]]] = defaultdict(dict)
    for tag, seeds in values.items():
        quantity, _, layer = tag.rpartition("/")
        first, last = (
            mean_over_seeds({seed: [ends[which] for ends in some] for seed, some in seeds.items()}, tag)
            for which in (0, 1)
        )
        found[quantity][layer] = first, last
    probes: defaultdict[str, dict[str, Profile]] = defaultdict(dict)
    for quantity, profile in found.items():
        if len(profile) > 1:
            probes[quantity.split("/")[1]][quantity] = profile
    return dict(probes)


def _is_layered(tag: str) -> bool:
    probed = probed_of(tag)
    return probed is not None and probed.has_layers


def _picture(probe: str, found: Sequence[tuple[Entry, Mapping[str, Profile]]], name: str, most: str) -> Picture:
    tags = list(dict.fromkeys(tag for _, own in found for tag in own))
    columns = min(2, len(tags))
    rows = math.ceil(len(tags) / columns)
    figure, panels = framed(0.7 + 1.75 * rows, rows, columns)
    first = len(found) <= _MOST_FIRST
    for tag, axes in zip(tags, panels, strict=False):
        draw(axes, [(entry, own[tag]) for entry, own in found if tag in own], first=first)
        axes.set_title(textwrap.fill(title(tag), _LETTERS // columns), fontsize=9)
    for axes in panels[len(tags) :]:
        axes.set_visible(False)
    for axes in panels[max(0, len(tags) - columns) : len(tags)]:
        axes.set_xlabel("layer, from the input on", fontsize=9)
    counts = {last.n for _, own in found for profile in own.values() for _, last in profile.values()}
    means = "" if counts == {1} else f", mean with 95 % interval{from_seeds(counts)}"
    marks = f"at the last step{means}{'; faint: at the first' if first else ''}{most}"
    legend(figure, [entry for entry, _ in found], f"{name}, {marks}" if name else marks)
    entitle(figure, f"Probe {probe} over depth", "")
    return Picture(
        f"depth_{probe}", f"What the probe {probe} measured in each layer: mean over finished runs{most}.", figure
    )


def draw(axes: Axes, profiles: Sequence[tuple[Entry, Profile]], *, first: bool) -> None:
    """A quantity over the layers, counted from 1, at the last step, and faintly at the ``first`` step."""
    shown = [some.mean for _, own in profiles for both in own.values() for some in (both if first else both[1:])]
    widen(axes, "y", shown)
    longest = max((list(own) for _, own in profiles), key=len)
    for entry, own in profiles:
        # A layer without a finite value leaves its place empty; networks without these layers have their own places.
        names = longest if set(own) <= set(longest) else list(own)
        layers = [names.index(layer) + 1 for layer in own]
        lasts = [last for _, last in own.values()]
        line(axes, layers, [last.mean for last in lasts], entry.style)
        band(axes, layers, lasts, entry.style)
        if first:
            line(axes, layers, [start.mean for start, _ in own.values()], entry.style, alpha=_FAINT)
    axes.locator_params(axis="x", integer=True)
    grid(axes, "y")
