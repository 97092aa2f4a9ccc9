"""Draw fig. 1 of Ioffe & Szegedy 2015 from two runs: ``python scripts/figure_quantiles.py FOLDER IMAGE``.

FOLDER is that of ``bnexp train experiment=bn_paper_quantiles``, with one run of norm=none and one of norm=bn. The image
shows (a) test accuracy, with precise statistics, and (b, c) the quantiles 0.15, 0.5 and 0.85 of the input of the last
hidden layer's sigmoid, for one unit.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bnexp.compare.drawing import drawing
from bnexp.compare.styles import of_names
from bnexp.runs.collect import collect
from bnexp.runs.metrics import curve

TITLES = {"none": "without batch norm", "bn": "with batch norm"}
COLOURS = [style.colour for style in of_names(list(TITLES))]
QUANTILES = ("q15", "q50", "q85")


def folders(sweep: Path) -> dict[str, Path]:
    """Norm -> run folder."""
    runs, _ = collect([sweep])
    found = {str(run.settings["norm.name"]): run.folder for run in runs}
    if missing := TITLES.keys() - found:
        raise SystemExit(f"{sweep}: has no run of norm={', '.join(sorted(missing))}")
    return found


def accuracies(axes: Axes, runs: Mapping[str, Path]) -> None:
    """Panel (a)."""
    for (norm, title), colour in zip(TITLES.items(), COLOURS, strict=True):
        points = curve(runs[norm], "test/accuracy_precise")
        axes.plot(list(points), list(points.values()), color=colour, label=title)
    axes.set(title="(a) test accuracy", xlabel="step", ylim=(0.7, 1))
    axes.locator_params(axis="x", nbins=4)
    axes.legend(frameon=False, loc="lower right")


def quantiles(axes: Axes, run: Path, layer: str, colour: str) -> None:
    """Panel (b) or (c): the three quantiles of one unit, the outer two as the edges of a band."""
    low, middle, high = (curve(run, f"probe/quantiles/unit_{name}/{layer}") for name in QUANTILES)
    axes.fill_between(list(low), list(low.values()), list(high.values()), color=colour, alpha=0.25, linewidth=0)
    axes.plot(list(middle), list(middle.values()), color=colour)
    axes.set_xlabel("step")
    axes.locator_params(axis="x", nbins=4)


def draw(sweep: Path, layer: str) -> Figure:
    """The whole figure."""
    runs = folders(sweep)
    with drawing():
        figure = Figure(figsize=(10, 3.2), layout="constrained")
        left, *right = figure.subplots(1, 3)
        right[1].sharey(right[0])
        accuracies(left, runs)
        for axes, letter, (norm, title), colour in zip(right, "bc", TITLES.items(), COLOURS, strict=True):
            quantiles(axes, runs[norm], layer, colour)
            axes.set_title(f"({letter}) {title}")
        right[0].set_ylabel(f"input of the sigmoid, {layer}")
    return figure


def main() -> None:
    """Draw the picture."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("sweep", type=Path, metavar="FOLDER")
    parser.add_argument("image", type=Path, metavar="IMAGE")
    parser.add_argument("--layer", default="hidden3")
    given = parser.parse_args()
    draw(given.sweep, given.layer).savefig(given.image, dpi=150)


if __name__ == "__main__":
    main()
