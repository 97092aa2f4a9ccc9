"""What is said of arms: levels, differences to a baseline over equal seeds, and the best value of a setting."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Hashable, Iterable, Sequence

from bnexp.compare.lookup import agrees, assignments
from bnexp.compare.statistics import Interval, Paired, columns, holm, mean_interval, paired
from bnexp.compare.tables import Row
from bnexp.compare.working import WITHIN, Table, largest_working, on_validation, working, works_by
from bnexp.config.checks import instead
from bnexp.config.metrics import larger_is_better, metric_of
from bnexp.runs.arms import ABSENT, Arm, Matched, group, known, natural
from bnexp.runs.collect import Run, Setting, short, show
from bnexp.runs.run_json import STATUSES

LEARNING_RATES = ("lr", "learning_rate")


def describe(arm: Arm, metric: str) -> Row:
    """Level, spread and fate of an arm's runs; what there is no value for is ``None``."""
    values = list(arm.values(metric).values())
    usable = [run for some in arm.by_seed.values() for run in some]
    return {
        "n": len(values),
        "runs": len(arm.runs),
        **columns(_level(values, metric) if values else None),
        "min": min(values, default=None),
        "max": max(values, default=None),
        "best": _mean(_mean(arm.best_value(run, metric) for run in some) for some in arm.by_seed.values()),
        "at_chance": _at_chance(arm, metric),
        **{status: arm.count(status) for status in STATUSES},
        "seconds": _mean(run.seconds for run in usable),
    }


def _at_chance(arm: Arm, metric: str) -> int | None:
    """How many runs are hardly better than guessing, diverged ones too; None where guessing has no score."""
    if not metric_of(metric).is_proportion or all(run.chance(metric) is None for run in arm.runs):
        return None
    scores = [(arm.value(run, metric), run.chance(metric)) for run in arm.runs]
    return sum(value is not None and chance is not None and value <= chance + WITHIN for value, chance in scores)


def against(arm: Arm, baseline: Arm | None, metric: str) -> Row:
    """The arm's differences to its baseline over what both have; how many other seeds and values were dropped."""
    matched = arm.matched(baseline, metric) if baseline else None
    result = _paired(matched, metric) if matched and matched.mine else None
    robust = result.robust if result else None
    return {
        "baseline": baseline.label if baseline else None,
        "pairs": len(matched.mine) if matched else None,
        "dropped": len(arm.values(metric).keys() ^ baseline.values(metric).keys()) if baseline else None,
        "unmatched": matched.unmatched if matched else None,
        **columns(result.interval if result else None, "difference_"),
        "d_z": result.interval.d_z if result else None,
        "p": result.p if result else None,
        "p_holm": None,
        "hodges_lehmann": robust.estimate if robust else None,
        "hodges_lehmann_low": robust.low if robust else None,
        "hodges_lehmann_high": robust.high if robust else None,
    }


def _paired(matched: Matched, metric: str) -> Paired:
    return paired(list(matched.mine.values()), list(matched.theirs.values()), bounds=metric_of(metric).bounds)


def choosable(runs: Sequence[Run], keys: Sequence[str], metric: str) -> list[Run]:
    """The runs without those that have finished without a validation metric, by which no value can be chosen.

    Raises:
        ValueError: that is every finished run.
    """
    validation = on_validation(metric)
    kept = [run for run in runs if run.status != "finished" or run.value(validation) is not None]
    if len(kept) < len(runs) and not any(run.status == "finished" for run in kept):
        has_split = any(tag.startswith("validation/") for run in runs for tag in run.final)
        remedy = "compare another metric" if has_split else "train with a validation split"
        raise ValueError(
            f"--best={','.join(map(short, keys))}: the runs have no {validation}, and test is never used for choosing; "
            f"{remedy}"
        )
    return kept


def choose(arm: Arm, keys: Sequence[str], metric: str) -> tuple[Arm, Row]:
    """The arm at the values of ``keys`` with the best mean validation metric, and how they were chosen.

    A value at which a run diverged that cannot be counted (a loss has no chance level) comes after all others, and so
    does one that has fewer runs than another: its mean is one of survivors. Of equal values the first (smallest) is
    taken.
    """
    validation = on_validation(metric)
    grid = [tried for tried in group(arm.runs, by=keys) if tried.by_seed]
    scored = {index: values for index, tried in enumerate(grid) if (values := list(tried.values(validation).values()))}
    if not scored:
        return arm, _choice(keys, grid, None) | _largest_working(keys, grid, validation)
    sign = 1 if larger_is_better(metric) else -1
    means = {index: _level(values, validation) for index, values in scored.items()}
    counts = {index: sum(grid[index].value(run, validation) is not None for run in grid[index].runs) for index in means}
    sound = {index for index in means if not _censored(grid[index], validation)}
    index = max(means, key=lambda index: (index in sound, counts[index], sign * means[index].mean))
    better = [other for other, mean in means.items() if sign * mean.mean > sign * means[index].mean]
    row = _choice(keys, grid, index, means[index], better) | _largest_working(keys, grid, validation)
    return Arm(arm.settings, grid[index].runs), row


def pair(arms: Sequence[Arm], baseline: Sequence[str], metric: str) -> list[Row]:
    """Each arm's differences to its baseline, seed by seed, with p-values adjusted over all arms.

    Raises:
        ValueError: the baseline is no arm, all arms, or several that could be meant.
    """
    wanted = assignments("--baseline", baseline, [run for arm in arms for run in arm.runs])
    stands = [arm for arm in arms if all(agrees(run, wanted) for run in arm.runs)]
    if len(stands) in (0, len(arms)):
        found = "every arm is" if stands else "no arm is only"
        labels = [arm.label for arm in arms]
        typed = " ".join(baseline)
        raise ValueError(f"--baseline {typed}: {found} that; name one arm{instead(typed, labels)}")
    rows = [against(arm, _counterpart(arm, stands, wanted), metric) for arm in arms]
    for arm, row in zip(arms, rows, strict=True):
        if any(arm is stand for stand in stands):
            row["baseline"] = arm.label
    tested = [row for row in rows if row["p"] is not None]
    for row, p in zip(tested, holm([row["p"] for row in tested]), strict=True):
        row["p_holm"] = p
    return rows


def _counterpart(arm: Arm, stands: Sequence[Arm], wanted: Collection[str]) -> Arm | None:
    """The baseline that agrees with the arm in all that the baseline leaves open, or the only one there is."""
    if any(arm is stand for stand in stands):
        return None
    open_in_arm = _left_open(arm, wanted)
    alike = [stand for stand in stands if len(stands) == 1 or _left_open(stand, wanted) == open_in_arm]
    if len(alike) > 1:
        raise ValueError(f"--baseline: {arm.label} could be paired with {alike[0].label} or {alike[1].label}; name one")
    return alike[0] if alike else None


def _left_open(arm: Arm, wanted: Collection[str]) -> dict[str, Setting]:
    """The arm's settings that the baseline does not name, nor their group: norm=bn also speaks for norm.eps."""
    groups = tuple(path.removesuffix("name") for path in wanted if path.endswith(".name"))
    return {path: value for path, value in arm.settings.items() if path not in wanted and not path.startswith(groups)}


def _censored(arm: Arm, metric: str) -> bool:
    return any(run.status == "diverged" and arm.value(run, metric) is None for run in arm.runs)


def _choice(
    keys: Sequence[str],
    grid: Sequence[Arm],
    index: int | None,
    validation: Interval | None = None,
    better: Sequence[int] = (),
) -> Row:
    values, key = [_value(keys, tried) for tried in grid], f"{short(keys[0])}=" if len(keys) == 1 else ""
    return {
        "chosen": None if index is None else values[index],
        **columns(validation, "validation_"),
        "edge": None if index is None else _edge(values, index) if key else _edges(keys, grid, index),
        "grid": " ".join(map(show, values)) if len(keys) == 1 else f"{len(values)} combinations",
        "passed_over": " or ".join(key + show(values[other]) for other in better),
    }


def _value(keys: Sequence[str], tried: Arm) -> Setting:
    """The value of the key that was tried; of several keys all, written as on the command line."""
    settings = tried.runs[0].settings
    if len(keys) == 1:
        return settings.get(keys[0], ABSENT)
    return ",".join(f"{short(key)}={show(settings[key])}" for key in keys if key in settings)


def _edge(values: Sequence[Setting], index: int) -> str:
    """Where among the numbers of the grid the chosen value lies; inside, and for words, nowhere."""
    chosen = values[index]
    if len(values) == 1:
        return "" if chosen == ABSENT else "only value"
    if isinstance(chosen, str | bool | None):
        return ""
    numbers = [value for value in values if isinstance(value, int | float) and not isinstance(value, bool)]
    if len(numbers) == 1:
        return "only number"
    return {numbers[0]: "lower edge", numbers[-1]: "upper edge"}.get(chosen, "")


def _edges(keys: Sequence[str], grid: Sequence[Arm], index: int) -> str:
    """Where the chosen combination lies on the edge of what was tried of each setting."""
    chosen, told = grid[index].runs[0].settings, []
    for key in keys:
        values = sorted({_value([key], tried) for tried in grid}, key=natural)
        if edge := _edge(values, values.index(chosen.get(key, ABSENT))):
            told.append(f"{edge} of {short(key)}")
    return ", ".join(told)


def _largest_working(keys: Sequence[str], grid: Sequence[Arm], validation: str) -> Row:
    """The largest learning rate that works for every run, up from the first such one; None where none does.

    ``works_to_the_end`` is None where it is not known what works. Nothing where another setting was tried, too.
    """
    key = keys[0]
    if len(keys) > 1 or key.rpartition(".")[2] not in LEARNING_RATES:
        return {}
    metric = works_by(validation)
    values, tables = [tried.settings.get(key) for tried in grid], _tables(grid, key, metric)
    works = [tried.settings.get(key) for tried in grid if _works(tried, tables, key, metric)]
    largest = largest_working(values, works)
    known = any(tried.values(metric) or tried.count("diverged") for tried in grid)
    return {"largest_working": largest, "works_to_the_end": bool(works) and largest == values[-1] if known else None}


def _tables(grid: Sequence[Arm], key: str, metric: str) -> list[Table]:
    """The numbers of the arms by value and seed, a table for each combination of the settings that they pool."""
    pooled = list(dict.fromkeys(pooled for tried in grid for pooled in tried.pooled))
    tables: defaultdict[Hashable, dict[Setting, dict[int, float | None]]] = defaultdict(dict)
    for tried in grid:
        for run in (run for some in tried.by_seed.values() for run in some):
            table = tables[tuple(run.settings.get(setting) for setting in pooled)]
            table.setdefault(tried.settings.get(key), {})[run.seed] = tried.value(run, metric)
    return list(tables.values())


def _works(tried: Arm, tables: Sequence[Table], key: str, metric: str) -> bool:
    """Whether the value works for all runs that have a result there (a crash says nothing of the value)."""
    value, larger = tried.settings.get(key), larger_is_better(metric)
    chance = next((run.chance(metric) for run in tried.runs), None)
    if any(run.status == "diverged" for runs in tried.by_seed.values() for run in runs):
        return False
    return all(
        value in working(table, seed, larger=larger, within=WITHIN, chance=chance)
        for table in tables
        for seed in table.get(value, ())
    )


def _mean(values: Iterable[float | None]) -> float | None:
    some = known(values)
    return mean_interval(some).mean if some else None


def _level(values: Sequence[float], metric: str) -> Interval:
    return mean_interval(values, bounds=metric_of(metric).bounds)
