"""``bnexp compare``: run folders in; a table with intervals, paired tests and the best settings out.

The seed is the unit of replication. Arms are compared on differences between runs of the same seed, and a setting is
chosen on validation, never on test.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from bnexp.arguments import parser
from bnexp.compare.arms import choose, describe, pair
from bnexp.compare.names import agrees, assignments, instead, resolve
from bnexp.compare.notes import about_divergence, about_edges, about_left_out, about_pairs, about_skips, about_values
from bnexp.output import say
from bnexp.report import bands, figures, page
from bnexp.report.tables import FORMATS, Comparison, Row
from bnexp.runs import NOT_COMPARED, Run, collect, group, newest, show


def main(argv: list[str]) -> int:
    """Run the command.

    Raises:
        ValueError: a folder, metric, setting or value that is not there, in one line.
    """
    options = _options().parse_args(argv)
    comparison = compare(options)
    try:
        if options.figures:
            figures.write(Path(options.figures), comparison.arms, comparison.metric)
        if options.tensorboard:
            bands.write(Path(options.tensorboard), comparison.arms, comparison.metric)
        if options.html:
            page.write(Path(options.html), comparison)
    except OSError as error:
        raise ValueError(f"{error.filename}: cannot be written ({error.strerror}); give another place") from error
    if options.format == "csv" and comparison.notes:
        print(*comparison.notes, sep="\n", file=sys.stderr)
    _print(FORMATS[options.format](comparison))
    return 0


def _options() -> argparse.ArgumentParser:
    options = parser("compare", "Compare the runs below the given folders.")
    add = options.add_argument
    add("folders", nargs="+", metavar="FOLDER", help="folders of runs and sweeps, searched to the bottom")
    add("--metric", default="test/accuracy", help="what is compared, at the last step (default: %(default)s)")
    add("--by", nargs="+", default=[], metavar="KEY", help="settings that make the arms (default: all but the seed)")
    add("--baseline", nargs="+", default=[], metavar="KEY=VALUE", help="pair the other arms with this one, by seed")
    add("--best", metavar="KEY", help="take each arm at its best value of this setting, chosen on validation")
    add("--where", nargs="+", default=[], metavar="KEY=VALUE", help="use only the runs with these settings")
    add("--format", default="table", choices=list(FORMATS), help="default: %(default)s")
    add("--figures", metavar="DIR", help="write curves, dots and, for two swept settings, a heat map (PNG and SVG)")
    add("--tensorboard", metavar="DIR", help="write each arm's mean and interval as a TensorBoard run")
    add("--html", metavar="FILE", help="write one self-contained page")
    add("-v", "--verbose", action="store_true", help="list the folders that were skipped")
    return options


def _print(text: str) -> None:
    """To standard output, whatever it can encode."""
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")
    say(text)


def compare(options: argparse.Namespace) -> Comparison:
    """Read, choose, group and test, as the options say (see ``main``)."""
    found, skips = collect([Path(folder) for folder in options.folders])
    if not found and not skips:
        raise ValueError(f"{show(' '.join(options.folders))}: no runs in there; give the folder of a run or a sweep")
    # Where nothing can be read there is nothing to look names up in; that is a finding, not an error.
    wanted = assignments("--where", options.where, found) if found else {}
    once = newest(found)
    runs = [run for run in once if agrees(run, wanted)]
    if found and not runs:
        raise ValueError(f"--where {' '.join(options.where)}: no run has all of this; ask for less")
    comparison = _comparison(runs, options) if runs else Comparison(metric=options.metric)
    comparison.skips = skips
    comparison.notes += [*about_left_out(runs, len(found) - len(once)), *about_skips(skips, options.verbose)]
    return comparison


def _comparison(runs: Sequence[Run], options: argparse.Namespace) -> Comparison:
    metric = options.metric
    _check_metric(metric, runs)
    by = [resolve("--by", key, runs) for key in options.by]
    key = resolve("--best", options.best, runs) if options.best else ""
    if key in by:
        raise ValueError(f"--best={options.best}: is also in --by; name it in one of them")
    arms = group(runs, by=by, without=(*NOT_COMPARED, key))
    rows: list[Row] = [{} for _ in arms]
    notes: list[str] = []
    if key:
        chosen = [choose(arm, key, metric) for arm in arms]
        arms, rows = [arm for arm, _ in chosen], [row for _, row in chosen]
        notes += about_edges(arms, rows, key)
    if options.baseline:
        pairings = pair(arms, options.baseline, metric)
        rows = [pairing | row for pairing, row in zip(pairings, rows, strict=True)]
        notes += about_pairs(pairings)
    rows = [describe(arm, metric) | row for arm, row in zip(arms, rows, strict=True)]
    notes = [*about_values(arms, metric), *about_divergence(arms, metric), *notes]
    return Comparison(metric=metric, key=key, baseline=",".join(options.baseline), arms=arms, rows=rows, notes=notes)


def _check_metric(metric: str, runs: Iterable[Run]) -> None:
    seen = sorted({tag for run in runs if run.usable for tag in run.final})
    if seen and metric not in seen:
        raise ValueError(f"--metric={metric}: no run has it{instead(metric, seen)}")
