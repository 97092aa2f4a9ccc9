"""``bnexp compare``: finished runs as tables, figures, curves for TensorBoard, and a page."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from bnexp.cli.arguments import parser, take_format, take_selection, take_words
from bnexp.cli.output import answer, note
from bnexp.compare import bands, figures, page
from bnexp.compare.comparison import compare
from bnexp.compare.tables import Comparison, document
from bnexp.runs.storage import is_full


def main(argv: list[str]) -> int:
    """Run the command.

    Raises:
        ValueError: a folder, metric, setting or value does not exist, or a place cannot be written; in one line.
    """
    options = _options().parse_args(argv)
    comparison = compare(
        options.folders,
        metric=options.metric,
        by=options.by,
        baseline=options.baseline,
        best=options.best,
        where=options.where,
        tags=options.tag,
        everything=options.all,
        verbose=options.verbose,
    )
    _write(options, comparison)
    if options.format == "csv" and comparison.notes:
        print(*comparison.notes, sep="\n", file=sys.stderr)
    answer(document(comparison), options.format)
    return 0


def _write(options: argparse.Namespace, comparison: Comparison) -> None:
    """Write the files that were asked for."""
    if options.tensorboard is not None:
        _require_apart(options.tensorboard, options.folders)
    try:
        if options.figures is not None:
            names = figures.write(options.figures, comparison)
            note(f"{options.figures}: {', '.join(names) or 'nothing to draw'} (PNG, SVG, PDF)")
        if options.tensorboard is not None:
            bands.write(options.tensorboard, comparison.arms, comparison.metric)
            note(f"bnexp board {shlex.quote(str(options.tensorboard))}")
        if options.html is not None:
            page.write(options.html, comparison)
    except OSError as error:
        if is_full(error):
            raise
        raise ValueError(f"{error.filename}: cannot be written ({error.strerror}); give another place") from error


def _require_apart(place: Path, folders: Sequence[str]) -> None:
    """Refuse to write runs of TensorBoard's among those that are compared.

    Raises:
        ValueError: the place is one of the folders.
    """
    if place.resolve() in [Path(folder).resolve() for folder in folders]:
        raise ValueError(f"--tensorboard {place}: holds the runs that are compared; give another folder")


def _place(text: str) -> Path:
    """Where to write; an empty word is that of a variable of the shell without a value."""
    if not text:
        raise argparse.ArgumentTypeError("empty; give a name")
    return Path(text)


def _page(text: str) -> Path:
    """Where to write a page: over no file that could be something else, such as a run's run.json."""
    path = _place(text)
    if path.suffix.lower() not in (".html", ".htm") or path.is_dir():
        raise argparse.ArgumentTypeError(f"{text}: expected the name of a page, such as page.html")
    return path


def _options() -> argparse.ArgumentParser:
    options = parser("compare", "Compare the runs below the given folders.")
    add = options.add_argument
    add("folders", nargs="+", metavar="FOLDER", help="folders of runs and sweeps, searched to the bottom")
    add("--metric", default="test/accuracy", help="what is compared, at the last step (default: %(default)s)")
    take_words(options, "--by", "KEY", "settings that make the arms (default: all but the seed)")
    take_words(options, "--baseline", "KEY=VALUE", "pair the other arms with this one, by seed")
    best = "take each arm at its best value of this setting (or combination of settings), chosen on validation"
    add("--best", metavar="KEY[,KEY]", help=best)
    take_selection(options)
    take_format(options)
    add(
        "--figures",
        metavar="DIR",
        type=_place,
        help="write curves, dots and, for two swept settings, a heat map (PNG, SVG, PDF)",
    )
    add("--tensorboard", metavar="DIR", type=_place, help="write each arm's mean and interval as a TensorBoard run")
    add("--html", metavar="FILE", type=_page, help="write one self-contained page")
    add("-v", "--verbose", action="store_true", help="list the folders that were skipped")
    return options
