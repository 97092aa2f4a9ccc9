"""What has to be said beside the numbers."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from bnexp.compare.statistics import FEWEST
from bnexp.compare.tables import Row, is_cut
from bnexp.compare.working import WITHIN, on_validation, works_by
from bnexp.config.defaults import usual
from bnexp.config.metrics import better_when_larger, metric_of, probed_of
from bnexp.config.schema import LISTS, role, with_older_words
from bnexp.runs.arms import Arm, compared, telling
from bnexp.runs.collect import Refused, Run, Setting, Skip, plain, short, show
from bnexp.runs.paths import METRICS
from bnexp.runs.run_json import STATUSES

# Said of all runs also where it is the default; and how many settings at most.
_TASK = ("model.name", "norm.name", "data.name", "optim.name", "optim.lr", "batch_size", "epochs", "steps")
_MOST_SHARED = 20


def about_values(arms: Sequence[Arm], rows: Sequence[Row], metric: str, chosen: Sequence[str]) -> Iterator[str]:
    """What the numbers are, and which runs are missing in them; ``chosen`` are the settings of --best."""
    better = {True: ", larger is better", False: ", smaller is better", None: ""}[better_when_larger(metric)]
    best = " best: mean of the runs' best evaluations, chosen on this metric itself and so optimistic."
    some = any(row["best"] is not None for row in rows)
    yield f"{metric} at the last step{better}: mean over n seeds with 95 % t-interval.{best if some else ''}"
    if any(1 < row["n"] < FEWEST for row in rows):
        yield f"With fewer than {FEWEST} seeds their values stand behind the mean instead of an interval."
    if any(row["n"] >= FEWEST and is_cut(row) for row in rows):
        low, high = metric_of(metric).bounds
        yield (
            f"[low, high]: a t-interval that would leave [{low:g}, {high:g}] is cut off there; no mean lies outside, "
            "so that it holds the mean as often as before."
        )
    if any(row["at_chance"] for row in rows):
        yield f"at chance: runs at most {100 * WITHIN:g} points better than guessing, those that diverged among them."
    yield from _about_pooled(arms, chosen)
    if some_data := _of_changed_data(arms):
        yield f"The images or labels of {some_data} changed between these runs: arms may differ for that alone."
    blank = [run for arm in arms for run in arm.runs if run.status == "finished" and run.value(metric) is None]
    if blank:
        yield f"Without a finite {metric}, left out: {_runs(len(blank))}, such as {show(blank[0].folder)}."
    early = sum(run.stopped_at is not None for arm in arms for run in arm.runs)
    if early:
        yield f"Stopped early (stop_after), with the values of the step where each stopped: {_runs(early)}."
    yield from _about_rests(arms, metric)
    members = max((run.members for arm in arms for run in arm.runs), default=1)
    if members > 1:
        yield f"time: of a run that was trained in a stack, that of the whole stack, here of up to {members} runs."
    cut = sum(not run.has_curve for arm in arms for run in arm.runs if run.status == "finished")
    if cut:
        yield f"Without {METRICS}, in the tables but not in the curves: {_runs(cut)}."


def _about_rests(arms: Sequence[Arm], metric: str) -> Iterator[str]:
    """Whether probes measured the last step on fewer images than the others."""
    runs = [run for arm in arms for run in arm.runs] if probed_of(metric) else []
    if rests := {rest for rest in map(_rest, runs) if rest is not None}:
        told = ", ".join(f"{rest} of {size}" for rest, size in sorted(rests))
        yield (
            f"The last step of some runs had the rest of an epoch ({told} images), so that what is measured on the "
            "step's batch is noisier there; drop_last=true leaves rests out."
        )


def _rest(run: Run) -> tuple[int, int] | None:
    """(images of the last step's batch, batch size) if the run ended with the rest of an epoch."""
    size = run.settings.get("batch_size")
    if (
        run.images is None
        or run.steps is None
        or not isinstance(size, int)
        or size < 1
        or run.settings.get("drop_last")
    ):
        return None
    rest, per_epoch = run.images % size, -(-run.images // size)
    return (rest, size) if rest and run.steps % per_epoch == 0 else None


def about_shared(runs: Sequence[Run]) -> Iterator[str]:
    """What all runs share: their task, and what is not the default of bnexp."""
    shared = _shared([run.settings for run in runs]) if runs else {}
    defaults = with_older_words(usual(shared))
    told = [key for key in shared if key in _TASK or shared[key] != plain(defaults.get(key))]
    if "steps" in told:
        told = [key for key in told if key != "epochs"]
    told.sort(key=lambda key: key not in _TASK)
    more = f" and {len(told) - _MOST_SHARED} more" if len(told) > _MOST_SHARED else ""
    if told:
        yield f"All runs: {' '.join(_typed(key, shared[key]) for key in told[:_MOST_SHARED])}{more}."


def _shared(settings: Sequence[Mapping[str, Setting]]) -> dict[str, Setting]:
    """The compared settings that all have, with one value."""
    first = {key: value for key, value in settings[0].items() if role(key).compared and value is not None}
    return {key: value for key, value in first.items() if all(some.get(key) == value for some in settings)}


def _typed(key: str, value: Setting) -> str:
    """A setting as the user types it; a probe or an evaluation as one of a list."""
    group, _, rest = key.partition(".")
    return f"{group}=[{show(value)}]" if group in LISTS and rest.endswith(".name") else f"{short(key)}={show(value)}"


def _of_changed_data(arms: Sequence[Arm]) -> str:
    """The data sets whose images or labels differ between runs of the same settings of the data."""
    found: dict[frozenset[tuple[str, Setting]], set[str]] = {}
    for run in (run for arm in arms for run in arm.runs if run.fingerprint):
        settings = frozenset((key, value) for key, value in run.settings.items() if key.startswith("data."))
        found.setdefault(settings, set()).add(run.fingerprint)
    changed = [dict(settings).get("data.name") for settings, prints in found.items() if len(prints) > 1]
    return ", ".join(dict.fromkeys(f"data={show(name)}" for name in changed))


def _about_pooled(arms: Sequence[Arm], chosen: Sequence[str]) -> Iterator[str]:
    """Which settings arms pool, and whether all pool the same values with each seed."""
    pooled = dict.fromkeys(key for arm in arms for key in arm.pooled)
    firsts = [arm.runs[0].settings for arm in arms]
    named = {*chosen, *(key for arm in arms for key in arm.settings)}
    apart = [key for key in telling(compared(firsts), firsts) if key not in pooled and key not in named]
    if apart:
        yield f"The arms differ in {', '.join(map(short, apart))} too, which --by does not name."
    if not pooled:
        return
    yield (
        f"Arms pool values of {', '.join(map(short, pooled))}: a seed counts once, as the mean of its runs; "
        "curves have the points that all runs of an arm have. Name them in --by or --where, or choose one with --best."
    )
    everywhere = [key for key in pooled if all(key in run.settings for arm in arms for run in arm.runs)]
    if len({values for arm in arms for values in _by_seed(arm, everywhere)}) > 1:
        yield (
            f"Not every arm and seed has the same values of {', '.join(map(short, everywhere))}, so that means can "
            "differ for that alone; differences to a --baseline are taken over what both have."
        )


def _by_seed(arm: Arm, keys: Sequence[str]) -> Iterator[frozenset[tuple[Setting, ...]]]:
    """The values of settings that the arm's runs have together, seed by seed."""
    for runs in arm.by_seed.values():
        yield frozenset(tuple(run.settings[key] for key in keys) for run in runs)


def about_divergence(arms: Sequence[Arm], metric: str) -> Iterator[str]:
    """How diverged runs were counted."""
    fates = Counter(_fate(arm, run, metric) for arm in arms for run in arm.runs if run.status == "diverged")
    yield from (f"Diverged, {fate}: {_runs(count)}." for fate, count in sorted(fates.items()))


def _fate(arm: Arm, run: Run, metric: str) -> str:
    level = arm.value(run, metric)
    if level is not None:
        return f"counted as chance ({level:.4g})"
    if not metric_of(metric).chance:
        return f"left out of the means, which so flatter ({metric} has no chance level)"
    if run.chance(metric) is None:
        return "left out of the means since the number of classes is not known"
    return f"left out of the means since no run of the arm has {metric}"


def about_unchosen(count: int, metric: str) -> Iterator[str]:
    """How many runs no value could be chosen by."""
    if count:
        yield f"Without {on_validation(metric)}, by which values are chosen, left out: {_runs(count)}."


def about_working(rows: Sequence[Row], metric: str) -> Iterator[str]:
    """What is meant by a learning rate that works."""
    if rows and "largest_working" in rows[0]:
        points = f"{100 * WITHIN:g} points"
        yield (
            f"largest working: up to this value, from the first that works, no run diverges and {works_by(metric)} of "
            f"each is at most {points} below the arm's best mean (of equal values of what it pools), which is more "
            f"than {points} above chance."
        )


def about_edges(arms: Sequence[Arm], rows: Sequence[Row], key: str) -> Iterator[str]:
    """Which choices would have wanted a wider grid, or more seeds."""
    edges: dict[str, list[str]] = {}
    for arm, row in zip(arms, rows, strict=True):
        if row["edge"]:
            chosen = show(row["chosen"]) if "," in key else f"{short(key)}={show(row['chosen'])}"
            edge = row["edge"] if "," in key else f"{row['edge']} of the grid"
            edges.setdefault(f"{chosen} is the {edge}", []).append(arm.label)
    yield from (f"{'; '.join(labels)}: {edge}; extend the grid." for edge, labels in edges.items())
    for arm, row in zip(arms, rows, strict=True):
        if row["passed_over"]:
            why = "where fewer runs than elsewhere have a value, or some diverged without one"
            yield f"{arm.label}: better on validation and yet not chosen is {row['passed_over']}, {why}."


def about_pairs(rows: Sequence[Row]) -> Iterator[str]:
    """What the differences are, and what weakens them."""
    yield (
        "Paired differences: t-interval, effect size d_z = mean / sd, two-sided sign-flip p "
        "(exact up to 16 pairs), adjusted over the arms by Holm."
    )
    dropped = sum(row["dropped"] or 0 for row in rows)
    if dropped:
        yield f"Results dropped, of seeds that only one of the two arms has: {dropped}."
    if unmatched := sum(row["unmatched"] or 0 for row in rows):
        yield f"Left out of the differences, as the other arm has none of equal seed and pooled settings: {unmatched}."
    paired = [row["pairs"] for row in rows if row["pairs"]]
    if paired and min(paired) < (enough := _enough_pairs(len(paired))):
        least = f"{2 / 2 ** min(paired):.4g}{f', {len(paired)} times that by Holm' if len(paired) > 1 else ''}"
        pairs = "1 pair" if min(paired) == 1 else f"{min(paired)} pairs"
        yield f"With {pairs} no sign-flip p can be below {least}; take {enough} or more seeds."
    if any(1 < pairs < FEWEST for pairs in paired):
        yield f"With fewer than {FEWEST} pairs the differences themselves are shown instead of an interval."
    alone = sum(row["baseline"] is None for row in rows)
    if alone:
        yield f"Arms not paired, since no baseline agrees with them in all else: {alone}."


def _enough_pairs(tests: int) -> int:
    """With fewer, even differences of one sign miss p < 0.05 in the hardest of Holm's tests: the least p is 2^(1-n)."""
    return math.ceil(math.log2(2 * tests / 0.05))


def about_left_out(runs: Sequence[Run], repeats: int) -> Iterator[str]:
    """Runs that have no result, or a newer twin."""
    counts = Counter(run.status for run in runs if not run.usable)
    if counts:
        yield "Left out: " + ", ".join(f"{counts[status]} {status}" for status in STATUSES if counts[status]) + "."
    if repeats:
        yield f"The same run twice (equal config hash), only the newest used: {repeats} older left out."


def about_set_aside(count: int) -> Iterator[str]:
    """Runs of claims and smoke tests that nobody asked for."""
    if count:
        yield f"{count} runs of claims and smoke tests left out; --all takes them too."


def about_skips(skips: Sequence[Skip], verbose: bool) -> Iterator[str]:
    """Folders that could not be used, by reason, and one by one if asked for."""
    reasons = Counter(skip.reason for skip in skips if not isinstance(skip, Refused))
    refused = len(skips) - reasons.total()
    if refused:
        yield f"Refused before the start: {refused}." + ("" if verbose else " -v lists them.")
    if reasons:
        counts = "; ".join(f"{count} x {reason}" for reason, count in sorted(reasons.items()))
        yield f"Folders skipped: {reasons.total()} ({counts})." + ("" if verbose else " -v lists them.")
    if verbose:
        yield from (f"Skipped {show(skip.folder)}: {skip.reason}." for skip in skips)


def _runs(count: int) -> str:
    return "1 run" if count == 1 else f"{count} runs"
