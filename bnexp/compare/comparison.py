"""``bnexp compare``: run folders in; a table with intervals, paired tests and the best settings out.

The seed is the unit of replication. Arms are compared on differences between runs of the same seed, and a setting is
chosen on validation, never on test.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from pathlib import Path

from bnexp.compare.effects import choose, describe, pair
from bnexp.compare.lookup import agrees, assignments, instead, resolve
from bnexp.compare.notes import about_divergence, about_edges, about_left_out, about_pairs, about_skips, about_values
from bnexp.compare.tables import Comparison, Row
from bnexp.runs.arms import group
from bnexp.runs.collect import Run, collect, newest, show


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
    arms = group(runs, by=by, without=[key])
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
