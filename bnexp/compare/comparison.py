"""Finished runs in folders become a ``Comparison``: arms with intervals, paired tests and best values.

The seed is the unit of replication. Two arms are compared by the differences between their runs of the same seed. A
setting's best value is chosen on validation images, never on test images.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bnexp.compare.effects import choosable, choose, describe, pair
from bnexp.compare.lookup import require_metric, resolve, selected
from bnexp.compare.notes import (
    about_divergence,
    about_edges,
    about_left_out,
    about_pairs,
    about_set_aside,
    about_shared,
    about_skips,
    about_unchosen,
    about_values,
    about_working,
)
from bnexp.compare.tables import Comparison, Row
from bnexp.runs.arms import group
from bnexp.runs.collect import Run, collect, newest, short, show


def compare(
    folders: Sequence[str],
    *,
    metric: str = "test/accuracy",
    by: Sequence[str] = (),
    baseline: Sequence[str] = (),
    best: str | None = None,
    where: Sequence[str] = (),
    tags: Sequence[str] = (),
    everything: bool = False,
    verbose: bool = False,
) -> Comparison:
    """Read the runs in and below folders, group them into arms, and compare the arms.

    Args:
        folders: of runs and sweeps.
        metric: its value at the last step is compared.
        by: settings that make the arms; default: all but the seed.
        baseline: ``KEY=VALUE`` of the arm that the others are paired with, by seed.
        best: take each arm at its best value of this setting (or these, ``KEY,KEY``), chosen on validation.
        where: ``KEY=VALUE`` that the runs must have.
        tags: words that the runs must be tagged with.
        everything: take the runs of claims and smoke tests too.
        verbose: name each skipped folder in the notes.

    Raises:
        ValueError: a folder, metric, setting or value does not exist.
    """
    found, skips = collect([Path(folder) for folder in folders])
    if not found and not skips:
        raise ValueError(f"{show(' '.join(folders))}: no runs in there; give the folder of a run or a sweep")
    # Names are looked up in the runs. If no run can be read, the notes say so; it is no error.
    asked, aside = selected(found, where=where, tags=tags, everything=everything)
    runs = newest(asked)
    made = _compared(runs, metric=metric, by=by, baseline=baseline, best=best) if runs else Comparison(metric=metric)
    made.skips = skips
    made.notes += [
        *about_shared(runs),
        *about_left_out(runs, len(asked) - len(runs)),
        *about_set_aside(aside),
        *about_skips(skips, verbose),
    ]
    return made


def _compared(
    runs: Sequence[Run], *, metric: str, by: Sequence[str], baseline: Sequence[str], best: str | None
) -> Comparison:
    require_metric("--metric", metric, [run for run in runs if run.usable])
    by = [resolve("--by", key, runs) for word in by for key in word.split(",")]
    keys = [resolve("--best", key, runs) for key in best.split(",")] if best else []
    if "seed" in keys:
        raise ValueError(f"--best={best}: nobody chooses a seed; name settings")
    if not {*keys}.isdisjoint(by):
        raise ValueError(f"--best={best}: is also in --by; name it in one of them")
    key = keys[0] if len(keys) == 1 else ",".join(map(short, keys))
    given, runs = runs, choosable(runs, keys, metric) if keys else runs
    arms = group(runs, by=by, without=keys)
    rows: list[Row] = [{} for _ in arms]
    notes: list[str] = []
    if keys:
        notes += about_unchosen(len(given) - len(runs), metric)
        chosen = [choose(arm, keys, metric) for arm in arms]
        arms, rows = [arm for arm, _ in chosen], [row for _, row in chosen]
        notes += [*about_edges(arms, rows, key), *about_working(rows, metric)]
    if baseline:
        pairings = pair(arms, baseline, metric)
        rows = [pairing | row for pairing, row in zip(pairings, rows, strict=True)]
        notes += about_pairs(pairings)
    rows = [describe(arm, metric) | row for arm, row in zip(arms, rows, strict=True)]
    notes = [*about_values(arms, rows, metric, keys), *about_divergence(arms, metric), *notes]
    return Comparison(metric=metric, key=key, baseline=",".join(baseline), arms=arms, rows=rows, notes=notes)
