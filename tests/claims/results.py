"""Results of claims, as the report reads them."""

from __future__ import annotations

from bnexp.claims.answers import Answer
from bnexp.claims.result import ExactResult, FigureResult, Result, SideResult, TestResult

DECLARATION = """
sentence: Norms help.
sources: [Someone 2015]
articles: [000-7]
literature: Says so.
confounds: None.
would_change: More.
settings: [data=fashion_mnist]
before: {plain: [norm=none]}
arms:
  none: [norm=none]
  bn: {settings: [norm=bn], init_from: plain}
  small_on: []
  ln: [norm=ln]
axis: {key: optim.lr, values: [0.1, 3]}
regimes: {equal: [], tuned: {key: optim.momentum, values: [0, 0.9]}, tuned_precise: []}
tests:
  higher:
    says: the accuracy is higher
    measure: {metric: test/accuracy_precise}
    contrast: {bn@3: 1, none@3: -1}
    claims: greater
    threshold: 0.01
    needs: [on]
  gap:
    says: the gap is higher
    measure: {metric: test/accuracy, minus: test/accuracy_batch, at: 250}
    contrast: {bn@3: 1, none@3: -1}
    claims: greater
    threshold: 0.01
    role: control
  faster:
    says: it needs more than twice the steps
    measure: {steps_to: test/accuracy, reaches: {arm: bn}}
    contrast: {none@3: 1, bn@3: -1}
    claims: exceeds
    scale: log
    threshold: 0.693
  rate:
    says: the largest rate is larger
    measure: {metric: test/accuracy, at: {fraction: 0.5}}
    reduce: {kind: largest, within: 0.05}
    contrast: {bn: 1, none: -1}
    scale: log10
    claims: greater
    threshold: 0.3
  slope:
    says: gradients are even
    measure: {metric: probe/gradients/relative/*, at: max, layers: log10_slope}
    contrast: {small_on@3: 1}
    claims: equal
    threshold: 0.05
  on:
    says: the arm does what it is there for
    measure: {metric: train/loss, at: {first: train_eval/loss, below: 0.1}}
    contrast: {ln@3: 1, none@3: -1}
    claims: less
    threshold: 0.1
    role: check
  extra:
    says: layer norm helps as well
    measure: {metric: test/accuracy}
    contrast: {ln@3: 1, none@3: -1}
    claims: at_least
    threshold: 0.01
holds_if: [tuned/higher]
profiles:
  quick: {seeds: 8, minutes: 1, axis: [3], settings: [data.train_limit=2000], skip_arms: [ln], skip_tests: [extra]}
  gpu: {seeds: 8, minutes: 1, settings: [data=cifar10]}
titles: {small_on: the smaller net, tuned: each at its best momentum, tuned_precise: with precise statistics}
answers: {supported: "Holds in small nets: norms help.", negligible: "In small nets norms help too little."}
lesson: 2
changes:
  - {date: 2026-11-20, what: more seeds, why: nothing was decided}
"""
EXACT = """
sentence: It adds up.
sources: [Nobody]
literature: None.
confounds: None.
would_change: Nothing.
exact: [worked_example]
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
        "regime": "tuned",
        "says": "the accuracy is higher",
        "claims": "greater",
        "threshold": 0.01,
        "scale": "linear",
        "metric": "test/accuracy_precise",
        "role": "primary",
        "is_level": True,
        "verdict": "supported",
        "detail": "",
        **{"mean": 0.02, "sd": 0.005, "low": 0.015, "high": 0.025, "n": 8, "d_z": 4.0, "robust": [0.02, 0.016, 0.024]},
        **{"robust_verdict": "supported", "hangs_on": [], "p": 0.0078, "needed": 6},
        **{"needed_for_delta": 6, "mcnemar": None},
        "differences": {str(seed): 0.02 + 0.001 * seed for seed in range(8)},
        "sides": {"bn@3": side(1), "none@3": side(-1)},
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
        "answer": Answer("supported", "", ["tuned/higher"], 0.001, 0.002) if tests else None,
        **{
            "declaration": DECLARATION.strip() if tests else EXACT.strip(),
            "profile": "quick",
            "seeds": list(range(8)),
            "tuning_seeds": [],
        },
        **{"tests": list(tests), "tuning": [], "exact": {}, "runs": 16, "failed": 0},
        "figure": FigureResult("dots", {}, None, {}),
        **{"run_seconds": 600.0, "seconds": 0.25, "date": "2026-11-21T00:00:00+00:00", "provenance": {"torch": "2"}},
        **changes,
    }
    return Result(**given)
