"""Results of claims, as the report reads them."""

from __future__ import annotations

from bnexp.claims.answers import Answer
from bnexp.claims.result import ExactResult, FigureResult, Result, SideResult, TestResult

DECLARATION = """
arms:
  none: [norm=none]
  bn: {settings: [norm=bn], init_from: plain}
  on: []
  ln: [norm=ln]
axis: {key: model.depth, values: [3, 20]}
tests:
  higher: {measure: {metric: test/accuracy}}
  gap: {measure: {metric: test/accuracy, minus: test/accuracy_batch}}
  faster: {measure: {steps_to: test/accuracy, reaches: 0.9}}
profiles:
  quick: {seeds: 8, minutes: 1, skip_arms: [ln]}
"""


def side(weight: float, **changes) -> SideResult:
    """Eight runs, one of which is in a folder."""
    level = {"mean": 0.9, "sd": 0.01, "low": 0.89, "high": 0.91, "n": 8}
    runs = {"values": {"0": 0.9, "1": None}, "diverged": 0, "runs": 8, "folders": ["outputs/claims/quick/a/runs/x"]}
    return SideResult(**{"weight": float(weight), **level, **runs, **changes})


def exact(**changes) -> ExactResult:
    return ExactResult(**{"name": "x", "measured": 1.0, "expected": 1.0, "tolerance": 0.1, "holds": True, **changes})


def case(**changes) -> TestResult:
    """A test of a result that is supported: +2 points, at least 1 claimed."""
    given = {
        "test": "higher",
        "regime": "equal",
        "says": "the accuracy is higher",
        "claims": "greater",
        "threshold": 0.01,
        "scale": "linear",
        "metric": "test/accuracy",
        "role": "primary",
        "is_level": True,
        "verdict": "supported",
        "detail": "",
        **{"mean": 0.02, "sd": 0.005, "low": 0.015, "high": 0.025, "n": 8, "d_z": 4.0, "robust": [0.02, 0.016, 0.024]},
        **{"robust_verdict": "supported", "hangs_on": [], "p": 0.0078, "needed": 6},
        **{"needed_for_delta": 6, "mcnemar": None},
        "differences": {str(seed): 0.02 + 0.001 * seed for seed in range(8)},
        "sides": {"bn": side(1), "none": side(-1)},
        "noise_floor": 0.003,
        "notes": [],
        **changes,
    }
    return TestResult(**given)


def content(*tests: TestResult, **changes) -> Result:
    """The result of claim a with these tests."""
    given = {
        **{"claim": "a", "title": "A title", "sentence": "Norms help.", "sources": ["Someone 2015"]},
        **{"articles": ["000-7"], "literature": "Says so.", "confounds": "None.", "would_change": "More."},
        "answer": Answer("supported", "", ["equal/higher"], 0.001, 0.002) if tests else None,
        **{"declaration": DECLARATION.strip(), "profile": "quick", "seeds": list(range(8)), "tuning_seeds": []},
        **{"tests": list(tests), "tuning": [], "exact": {}, "runs": 16, "failed": 0},
        "figure": FigureResult("dots", "test/accuracy", None, {}),
        **{"run_seconds": 600.0, "seconds": 0.25, "date": "2026-11-21T00:00:00+00:00", "provenance": {"torch": "2"}},
        **changes,
    }
    return Result(**given)
