"""Train ten sigmoid layers without norm and with batch norm, and draw the README's first picture.

``python scripts/figure_contrast.py docs/images/contrast.png``; ``--runs FOLDER`` draws runs that are there already. On
the left: test accuracy over the training; on the right: the norm of each layer's weight gradient in the first step.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

import bnexp
from bnexp.compare import depth
from bnexp.compare.bands import mean_curve
from bnexp.compare.drawing import Entry, drawing, enter
from bnexp.compare.figures import draw_curves, name_ends
from bnexp.runs.arms import group
from bnexp.runs.collect import collect

WORDS = ("norm=none,bn", "model=mlp", "model.depth=10", "activation=sigmoid", "probes=[gradients]")
METRIC, QUANTITY = "test/accuracy", "probe/gradients/norm"


def accuracies(axes: Axes, entries: Sequence[Entry]) -> None:
    """The left panel."""
    curves = [(entry, mean_curve(entry.arm, METRIC)) for entry in entries]
    draw_curves(axes, curves, METRIC)
    axes.set_ylim(0, 1)
    name_ends(axes, curves)
    axes.set(title="test accuracy", ylabel="")


def gradients(axes: Axes, entries: Sequence[Entry]) -> None:
    """The right panel."""
    found = [(entry, depth.profiles(entry.arm)["gradients"][QUANTITY]) for entry in entries]
    starts = [(entry, {layer: (start, start) for layer, (start, _) in own.items()}) for entry, own in found]
    depth.draw(axes, starts, first=False)
    axes.set(title="gradient of the weights, first step", xlabel="layer, from the input on")


def draw(folder: Path) -> Figure:
    """The whole picture."""
    arms = group(collect([folder])[0], by=["norm.name"])
    _, entries = enter(arms, {index: index for index in range(len(arms))})
    with drawing():
        figure = Figure(figsize=(7.6, 3.1), layout="constrained")
        left, right = figure.subplots(1, 2)
        accuracies(left, entries)
        gradients(right, entries)
        figure.suptitle("Ten sigmoid layers, without norm and with batch norm", x=0.01, ha="left", fontsize=12.5)
        figure.draw_without_rendering()
    return figure


def main() -> None:
    """Train, and draw the picture."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("image", type=Path, metavar="IMAGE")
    parser.add_argument("--runs", type=Path, metavar="FOLDER", help="draw these runs; train none")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        folder = given.runs or Path(made) / "runs"
        if not given.runs:
            bnexp.train_all(*WORDS, f"hydra.sweep.dir={folder}")
        with drawing():
            draw(folder).savefig(given.image, dpi=150)


if __name__ == "__main__":
    main()
