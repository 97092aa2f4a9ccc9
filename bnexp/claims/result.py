"""All that is known of a claim after its runs, as one JSON file that the report is made of."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bnexp.claims.declaration import Test
from bnexp.claims.design import Design
from bnexp.claims.judging import Judged, Side
from bnexp.claims.sweeps import Choice, Outcome
from bnexp.compare.statistics import Interval, holm, mean_interval
from bnexp.config.metrics import metric_of
from bnexp.runs import metrics, run_json
from bnexp.runs.collect import show
from bnexp.runs.storage import write_atomically

NAME = "result.json"
FORMAT = 2
_LEVEL = ("mean", "sd", "low", "high")
# Reductions over an axis that leave a number in the units of the metric.
_LEVELS = ("best", "range", "slope")


def document(
    design: Design, outcome: Outcome, tests: Sequence[Judged], exact: Mapping[str, Sequence[Any]], seconds: float
) -> dict[str, Any]:
    """The result of a claim as plain Python, ready for JSON.

    Args:
        design: what was run.
        outcome: the runs.
        tests: their verdicts.
        exact: check -> rows.
        seconds: that the command took.
    """
    claim = design.claim
    first = run_json.read(outcome.all[0].folder) if outcome.all else {}
    images = first.get("images", {}).get("test")
    return {
        "format": FORMAT,
        "claim": claim.id,
        "title": claim.title,
        "sentence": claim.sentence,
        "sources": claim.sources,
        "articles": claim.articles,
        "literature": claim.literature,
        "confounds": claim.confounds,
        "would_change": claim.would_change,
        "declaration": claim.text,
        "profile": design.profile,
        "seeds": design.seeds if claim.tests else [],
        "tuning_seeds": design.tuning_seeds if outcome.choices else [],
        "tests": [_test(design, judged, images) for judged in tests],
        "tuning": [_choice(*key, choice) for key, choice in outcome.choices.items()],
        "exact": {name: [{**row._asdict(), "holds": row.holds} for row in rows] for name, rows in exact.items()},
        "figure": _figure(design, outcome),
        "runs": len(outcome.all),
        "failed": outcome.failed,
        "run_seconds": math.fsum(run.seconds or 0.0 for run in outcome.all),
        "seconds": seconds,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "provenance": first.get("provenance", {}),
    }


def _test(design: Design, judged: Judged, images: int | None) -> dict[str, Any]:
    test, verdict = design.tests[judged.test], judged.verdict
    statistics = verdict.statistics
    metric = test.measure.tag
    return {
        "test": judged.test,
        "regime": judged.regime,
        "says": test.says,
        "claims": test.claims,
        "threshold": test.threshold,
        "scale": test.scale,
        "metric": metric,
        "is_level": test.measure.steps_to is None and (test.reduce is None or test.reduce.kind in _LEVELS),
        "verdict": verdict.word,
        "detail": verdict.detail,
        **_interval(statistics.interval if statistics else None),
        "n": statistics.interval.n if statistics else 0,
        "d_z": statistics.d_z if statistics else None,
        "bca": statistics.bca if statistics else None,
        "p": verdict.p,
        "sign_flip_p": statistics.p if statistics else None,
        "t_p": verdict.t_p,
        "needed": verdict.needed,
        "mcnemar": judged.mcnemar,
        "differences": {str(seed): value for seed, value in judged.differences.items()},
        "sides": {name: _side(side) for name, side in judged.sides.items()},
        "noise_floor": _noise_floor(metric, judged.sides.values(), images) if _plain(test) else None,
        "notes": judged.notes,
    }


def _plain(test: Test) -> bool:
    """Whether its numbers are those of single runs on the test images."""
    return test.reduce is None and test.measure.minus is None


def _side(side: Side) -> dict[str, Any]:
    values = [value for value in side.values.values() if value is not None]
    return {
        "weight": side.weight,
        "values": {str(seed): value for seed, value in side.values.items()},
        **_interval(mean_interval(values) if values else None),
        "n": len(values),
        "diverged": side.diverged,
        "runs": side.runs,
        "folders": [os.path.relpath(folder) for folder in side.folders],
    }


def _interval(interval: Interval | None) -> dict[str, float | None]:
    return {name: getattr(interval, name) if interval else None for name in _LEVEL}


def _choice(regime: str, point: str, choice: Choice) -> dict[str, Any]:
    means = [[show(value), mean] for value, mean in choice.means.items()]
    return {
        "regime": regime,
        "point": point,
        "means": means,
        "chosen": show(choice.chosen),
        "at_edge": choice.at_edge,
    }


def _noise_floor(metric: str, sides: Iterable[Side], images: int | None) -> float | None:
    """Standard error of an accuracy from the number of test images alone, ``sqrt(p (1 - p) / N)``."""
    if images is None or not (metric.startswith("test/") and metric_of(metric).is_proportion):
        return None
    values = [value for side in sides for value in side.values.values() if value is not None]
    p = math.fsum(values) / len(values) if values else 0.0
    return math.sqrt(p * (1 - p) / images) if 0 <= p <= 1 else None


# --- what the figure draws --------------------------------------------------------------------------------------------


def _figure(design: Design, outcome: Outcome) -> dict[str, Any]:
    """Kind, metric, and regime -> line -> points (x, mean, low, high)."""
    figure = design.claim.figure
    lines = {"curves": _curves, "axis": _axis}.get(figure.kind)
    panels = {name: lines(design, outcome, name, figure.metric) for name in design.regimes} if lines else {}
    axis = design.axis.key if design.axis else None
    return {"kind": figure.kind, "metric": figure.metric, "axis": axis, "panels": panels}


Lines = dict[str, list[tuple[float | str, float, float, float]]]


def _curves(design: Design, outcome: Outcome, regime: str, metric: str) -> Lines:
    """Mean over the finished runs at each evaluation, a line a point."""
    lines: Lines = {}
    for point in design.points:
        runs = [run for (name, label, _), run in outcome.runs.items() if (name, label) == (regime, point.label)]
        curves = [metrics.curves(run.folder).get(metric, {}) for run in runs if run.status == "finished"]
        steps = sorted(set.intersection(*(set(curve) for curve in curves))) if curves else []
        lines[point.label] = [_band(step, [curve[step] for curve in curves]) for step in steps]
    return lines


def _axis(design: Design, outcome: Outcome, regime: str, metric: str) -> Lines:
    """Last value over the axis, a line an arm."""
    lines: Lines = {arm: [] for arm in design.arms}
    for point in design.points:
        runs = [outcome.runs.get((regime, point.label, seed)) for seed in design.seeds]
        values = [value for run in runs if run and (value := run.value(metric)) is not None]
        if values:
            at = point.value if isinstance(point.value, int | float) else show(point.value)
            lines[point.arm].append(_band(at, values))
    return lines


def _band(at: float | str, values: Sequence[float]) -> tuple[float | str, float, float, float]:
    interval = mean_interval(values)
    low, high = (interval.mean if end is None else end for end in (interval.low, interval.high))
    return at, interval.mean, low, high


# --- the file ---------------------------------------------------------------------------------------------------------


def write(folder: Path, content: Mapping[str, Any]) -> None:
    """Put a result beside its sweeps."""
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / NAME, run_json.json_text(content))


def read_all(folder: Path) -> list[dict[str, Any]]:
    """The results of the claims in a profile's folder, by claim, with Holm's adjustment over all their tests.

    Raises:
        ValueError: there are none, or one is damaged.
    """
    results = [_read(path) for path in sorted(folder.glob(f"*/{NAME}"))]
    if not results:
        raise ValueError(f"{folder}: no results of claims in there; run bnexp claim run first")
    tests = [test for result in results for test in result["tests"]]
    _put_holm(tests, key=lambda test: test["t_p"] if test["verdict"] != "no verdict" else None)
    return results


def _put_holm(tests: Sequence[dict[str, Any]], *, key: Callable[[dict[str, Any]], float | None]) -> None:
    tested = [(test, p) for test in tests if (p := key(test)) is not None]
    for test in tests:
        test["p_holm"] = None
    for (test, _), adjusted in zip(tested, holm([p for _, p in tested]), strict=True):
        test["p_holm"] = adjusted


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["format"] != FORMAT:
            raise ValueError(f"format {content['format']}")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: cannot be read ({error}); delete it and give bnexp claim run again") from None
    return dict(content)
