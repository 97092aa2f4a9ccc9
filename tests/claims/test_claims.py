"""Claims: what their yamls may say, what is run for them, and what is made of the runs."""

from __future__ import annotations

import json
import math
import os
import random
import re
import signal
from pathlib import Path

import pytest
import yaml
from processes import Ended, begin, survivors, until
from torch import nn

from bnexp.claims import declaration, exact, judging, sweeps
from bnexp.claims.declaration import PROFILES, load
from bnexp.claims.design import design
from bnexp.claims.exact import EXACT, check
from bnexp.claims.panels import metrics_of
from bnexp.claims.result import conclude
from bnexp.claims.sweeps import Harvest
from bnexp.claims.tuning import TunedValue
from bnexp.cli import claim as claim_command
from bnexp.config.compose import JobComposer
from bnexp.config.schema import flat
from bnexp.config.shipped import configs_folder
from bnexp.models.init import INITS
from bnexp.runs.collect import Run
from bnexp.sweep.fork_server import ForkServer

# Several claims run in forked processes; the test runner has threads, of which Python 3.12 warns then.
pytestmark = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
IDS = declaration.ids(configs_folder())
MEANS = sweeps.Means(JobComposer(configs_folder()), ForkServer())
SMALL = """
# A small claim
sentence: Batch norm is not worse.
sources: [Nobody 2000]
literature: None.
confounds: None.
would_change: Nothing.
settings: [data=digits, data.size=null, data.train_limit=200, model=mlp, model.depth=1, model.width=8, eval_every=4]
arms:
  none: [norm=none]
  bn: [norm=bn]
axis: {key: optim.lr, values: [0.1, 0.3, 1]}
regimes:
  equal: [batch_size=64]
  tuned: {key: optim.momentum, values: [0, 0.5, 0.9], limits: {none: [0, 0.5]}}
tests:
  level:
    says: the accuracy is higher
    measure: {metric: test/accuracy}
    contrast: {bn@0.1: 1, none@0.10: -1}
    claims: greater
    threshold: 0.01
  rate:
    says: the largest rate is larger
    measure: {metric: test/accuracy}
    reduce: {kind: largest, within: 0.05}
    contrast: {bn: 1, none: -1}
    scale: log10
    claims: greater
    threshold: 0.3
    regimes: [equal]
holds_if: [equal/level]
profiles:
  quick: {seeds: 6, tuning_seeds: 2, settings: [steps=8], minutes: 1}
  full: {seeds: 6, settings: [steps=16], axis: [0.1, 0.3, 1], minutes: 1}
figure: {kind: axis}
"""


def write(folder: Path, text: str = SMALL, name: str = "small") -> Path:
    path = folder / f"{name}.yaml"
    path.write_text(text)
    return path


# --- the yamls that ship ----------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_every_claim_can_be_run():
    claims = [load(configs_folder() / "claim" / f"{name}.yaml") for name in IDS]
    asked = [(claim, name) for claim in claims for name in PROFILES if name in claim.profiles or not claim.tests]
    designs = [design(claim, name) for claim, name in asked]
    sweeps.check(designs, JobComposer(configs_folder()))
    assert all(len(made.seeds) >= declaration.FEWEST_SEEDS for made in designs if made.tests)
    assert not any(set(made.seeds) & set(made.tuning_seeds) for made in designs)
    assert all(set(claim.exact) <= set(EXACT) and claim.text.startswith("# ") for claim in claims)
    assert all("quick" in claim.profiles or claim.no_quick for claim in claims if claim.tests)


# With tuning, reductions, each kind of figure, slopes over layers (grad-profile) and runs that others start from
# (finetune); test_verdicts.py has every way to measure and to reduce, on made-up numbers.
SMOKED = ("bn-depth-plain40", "bn-max-lr", "ics-deep-linear", "tuning-ease")
SMOKED_ON_REAL_DATA = ("finetune", "grad-profile")


@pytest.mark.slow
def test_claims_of_every_kind_run_and_have_the_metrics_that_they_name(bnexp, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = SMOKED + (SMOKED_ON_REAL_DATA if os.environ.get("BNEXP_DATA") else ())
    answer = bnexp("claim", "run", *names, "--profile", "quick", "--smoke")
    assert answer.code == 0, answer
    for name in names:
        assert re.search(rf"^{name}: smoke test, \d+ runs; no verdict$", answer.out, re.MULTILINE)


@pytest.mark.parametrize("name", sorted(EXACT))
def test_every_exact_statement_holds(name):
    rows = check(name)
    assert rows
    assert [row.name for row in rows if not row.holds] == []


@pytest.mark.parametrize("wrong", [1.44, 1.45, 1.485, 1.5])
@pytest.mark.slow
def test_the_growth_by_mean_field_is_told_from_other_numbers(wrong):
    (row,) = check("mean_field_growth")
    assert not row._replace(expected=wrong).holds


@pytest.mark.parametrize("rule", [{"name": "constant", "value": 1e-3}, {"name": "normal", "std": 1e-3, "gain": 1.0}])
def test_weights_that_are_not_zero_are_told_from_zero_ones(rule, monkeypatch):
    monkeypatch.setitem(INITS._builders, "zero", INITS.bind(rule))
    failing = {row.name for row in check("zero_init_symmetry") if not row.holds}
    first = {
        "largest gradient of a weight at the first step, zero weights",
        "largest weight after 300 steps, zero weights",
    }
    assert first <= failing
    assert all(name.endswith("zero weights") for name in failing)


def test_growing_rates_and_the_angle_of_steps_need_scale_invariant_weights(monkeypatch):
    monkeypatch.setattr(exact, "_bn", lambda channels, eps: nn.Identity())
    assert [row.name for name in ("exponential_rate", "rotation") for row in check(name) if row.holds] == []


def test_an_epsilon_that_matters_is_seen_by_the_check_of_growing_rates(monkeypatch):
    monkeypatch.setattr(exact, "_TINY", 1e-5)
    assert [row.name for row in check("exponential_rate") if row.holds] == []


@pytest.mark.parametrize("factor", [0.97, 1.03])
@pytest.mark.slow
def test_three_percent_of_the_variance_of_weights_fail_every_number(factor, monkeypatch):
    for name in ("lecun", "kaiming", "torch", "normal"):
        monkeypatch.setitem(INITS._builders, name, _louder(INITS[name], factor**0.5))
    assert [row.name for row in check("init_rms") if row.holds] == []


def test_operations_are_counted_as_on_paper():
    n, m = 7, 5
    products, shift = 3 * 2 * m * n * n, 2 * m * n  # y, dx, dw; adding a bias and summing its gradient
    assert exact._operations({"name": "none"}, units=n, images=m) == products + shift


def test_the_gradient_of_whitening_is_told_as_costly():
    whitening = {"name": "zca", "group_size": 20, "eps": 1e-5, "momentum": 0.1, "affine": True}
    plain, white = (exact._operations(norm, units=20, images=50) for norm in ({"name": "none"}, whitening))
    assert white > 2 * plain


def _louder(builder, by):
    return lambda *, gain, **options: builder(gain=gain * by, **options)


# --- what a yaml may say ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("arms:", "armies:", "small=armies: not known; did you mean arms? (allowed: "),
        ("sentence: Batch", "# Batch", "small.sentence: missing"),
        ("bn@0.1: 1", "gn@0.1: 1", "small.tests.level.contrast=gn: not known"),
        ("bn@0.1: 1", "bn@7: 1", "small: contrast=bn@7: not known"),
        ("bn@0.1: 1", "bn: 1", "small.tests.level.contrast=bn: is many points; give a reduce, or name one as bn@value"),
        ("contrast: {bn: 1", "contrast: {bn@1: 1", "contrast=bn@1: there is no such point"),
        ("claims: greater", "claims: larger", "claims=larger: not known"),
        ("threshold: 0.01", "threshold: 0", "small.tests.level.threshold=0.0: out of range; allowed is above 0"),
        ("threshold: 0.01", "threshold: high", "small.tests.level.threshold=high: expected a number"),
        ("kind: largest", "kind: most", "small.tests.rate.reduce.kind=most: not known"),
        (", within: 0.05", "", "small.tests.rate.reduce.within: missing; kind=largest needs it"),
        ("{metric: test/accuracy}", "{steps_to: test/accuracy, reaches: 1, above: 0.5}", "above=0.5: goes with metric"),
        ("{metric: test/accuracy}", "{at: last}", "small.tests.level.measure.metric: give either metric or steps_to"),
        ("{metric: test/accuracy}", "{metric: test/loss, at: end}", "small.tests.level.measure.at=end: not known"),
        ("regimes: [equal]", "regimes: [other]", "small.tests.rate.regimes=other: not known"),
        ("holds_if: [equal/level]", "", "small.holds_if: missing; names the primary test, as regime/test"),
        ("[equal/level]", "[level]", "small.holds_if=level: not known; did you mean tuned/level?"),
        ("[equal/level]", "[tuned/rate]", "small.holds_if=tuned/rate: not known"),
        ("1}\n  full", "1, skip_tests: [level]}\n  full", "quick.skip_tests=level: a primary test, or a check"),
        ("regimes: [equal]", "needs: [level]", "small.tests.rate.needs=level: not known"),
        ("regimes: [equal]", "role: main", "small.tests.rate.role=main: not known"),
        ("limits: {none:", "limits: {ln:", "small.regimes.tuned.limits=ln: not known"),
        ("values: [0.1, 0.3, 1]", "values: [1, 0.1]", "small.axis.values=[1, 0.1]: expected rising numbers"),
        ("seeds: 6, t", "seeds: six, t", "small.profiles.quick.seeds=six: expected a whole number"),
        ("seeds: 6, t", "seeds: 6, first_seed: 995, t", "quick.seeds: 1000 and above are those of tuning"),
        ("seeds: 6, t", "seeds: 6, first_seed: -1, t", "small.profiles.quick.first_seed=-1: out of range"),
        ("  full:", "  huge:", "small.profiles=huge: not known"),
        ("none: [norm=none]", "none: [norm=none]\n  none: [norm=bn]", "none: stands twice"),
        ("arms:", "arms: [", "yaml:"),
        ("[norm=bn]", "{settings: [norm=bn], init_from: first}", "small.arms.bn.init_from=first: not known"),
        ("norm=bn", "norm=bm", "claim small: norm=bm: not known; did you mean bn?"),
        ("bn: [norm=bn]", "bn: [norm=none]", "small.arms: none and bn have the same settings; give one of them others"),
        ("data.size=null", "data.siz=null", "data.siz: there is no such setting"),
        ("data=digits", "data=digits, data.validation=0", "tuning needs validation images"),
        (
            "{metric: test/accuracy}\n    contrast",
            "{metric: test/los}\n    contrast",
            "metric=test/los: no run measures los; did you mean test/loss?",
        ),
        ("confounds: ", "confounds: Say what else differs. ", "small.yaml: confounds: fill in what"),
    ],
)
def test_a_mistake_is_one_line_before_anything_runs(old, new, message, bnexp, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    answer = bnexp("claim", "run", str(write(tmp_path, SMALL.replace(old, new))), "--profile", "quick")
    assert (answer.code, answer.out) == (2, "")
    assert message in answer.err
    assert answer.err.count("\n") == 1
    assert not (tmp_path / "outputs").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "bn-max-lrr"], "claim=bn-max-lrr: not known; did you mean bn-max-lr?"),
        (["run"], "name claims, or give --all"),
        (["run", "bn-max-lr", "--profile", "huge"], "invalid choice: 'huge'"),
        (["run", "none.yaml"], "none.yaml: no such file"),
        (["report", "nowhere"], "nowhere: no such folder"),
        ([], "required"),
    ],
)
def test_a_wrong_command_is_one_line(arguments, message, bnexp, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    answer = bnexp("claim", *arguments)
    assert answer.code == 2
    assert message in answer.err


def test_the_list_names_every_claim_with_its_sources(bnexp):
    out = bnexp("claim", "list").out
    assert all(name in out for name in IDS)
    assert "Ioffe & Szegedy 2015" in out


def test_a_claim_without_a_quick_profile_says_why(bnexp, tmp_path, monkeypatch):
    configs = tmp_path / "configs"
    (configs / "claim").mkdir(parents=True)
    for path in configs_folder().iterdir():
        if path.name != "claim":
            (configs / path.name).symlink_to(path)
    large = "".join(line for line in SMALL.splitlines(True) if "quick:" not in line)
    write(configs / "claim", f"{large}no_quick: it takes a day\n", "large")
    write(configs / "claim", f"{SMALL.partition('settings:')[0]}exact: [bias_growth]\n", "sure")
    monkeypatch.setattr(claim_command, "configs_folder", lambda: configs)
    monkeypatch.chdir(tmp_path)
    assert "no quick profile: it takes a day; full 1 min; Nobody 2000" in bnexp("claim", "list").out
    (found, _) = json.loads(bnexp("claim", "list", "--json").out)["claims"]
    assert (found["remark"], found["quick minutes"]) == ("no quick profile: it takes a day", None)
    ran = bnexp("claim", "run", "--all", "--profile", "quick")
    assert ran.code == 0, ran
    assert "large: left out: no quick profile: it takes a day\n" in ran.err
    assert ran.out.startswith("sure (quick): 0 runs")
    write(configs / "claim", f"{SMALL}no_quick: it takes a day\n", "large")
    assert bnexp("claim", "list").complaint == "bnexp: large.no_quick: the claim has a quick profile"


def test_numbers_and_words_are_those_of_yaml_1_2(tmp_path):
    text = SMALL.replace("[0.1, 0.3, 1]", "[1e-1, 1]").replace("kind: largest, within: 0.05", "kind: slope, on: linear")
    claim = load(write(tmp_path, text))
    assert claim.axis is not None
    assert claim.axis.values == [0.1, 1]
    assert claim.tests["rate"].reduce.on == "linear"


# --- what is run ------------------------------------------------------------------------------------------------------


def test_words_of_later_parts_stand_instead_of_earlier_ones(tmp_path):
    made = design(load(write(tmp_path)), "quick")
    words = made.words(made.point("bn@1"), made.regimes["tuned"], 0.9, 3)
    assert words[-4:] == ["norm=bn", "optim.lr=1", "optim.momentum=0.9", "seed=3"]
    assert len({word.partition("=")[0] for word in words}) == len(words)


def test_an_arm_starts_from_the_run_of_its_seed(tmp_path):
    text = SMALL.replace("arms:", "before:\n  first: ['data.train_limit=100', steps=5]\narms:")
    made = design(
        load(write(tmp_path, text.replace("bn: [norm=bn]", "bn: {settings: [norm=bn], init_from: first}"))), "quick"
    )
    assert made.words_before("first", 1001)[-2:] == ["steps=5", "seed=1001"]
    carried = sweeps.Sweeps(made, tmp_path, MEANS)
    starts = {("first", 3): Path("there/first,seed=3")}
    regime = made.regimes["equal"]
    label, words = carried._job(made.point("bn@1"), regime, None, 3, starts)
    assert (label, words[-1]) == ("bn@1,seed=3", "init_from='there/first,seed=3'")
    assert carried._job(made.point("bn@1"), regime, None, 4, starts) == ("bn@1,seed=4", None)
    assert "init_from" not in str(carried._job(made.point("none@1"), regime, None, 3, starts))


def test_a_profile_changes_axis_and_budget(tmp_path):
    made = design(load(write(tmp_path)), "full")
    assert [point.label for point in made.points] == [f"{arm}@{lr}" for arm in ("none", "bn") for lr in (0.1, 0.3, 1)]
    assert made.settings[-1] == "steps=16"


def test_a_claim_that_is_asked_again_has_seeds_that_it_has_not_seen(tmp_path):
    first = design(load(write(tmp_path)), "quick")
    again = design(load(write(tmp_path, SMALL.replace("seeds: 6, t", "seeds: 8, first_seed: 6, t"))), "quick")
    assert (first.seeds, again.seeds) == ((0, 1, 2, 3, 4, 5), (6, 7, 8, 9, 10, 11, 12, 13))
    assert again.tuning_seeds == first.tuning_seeds


@pytest.mark.parametrize(("peak", "tried"), [(0.3, 3), (1.0, 4), (10.0, 6), (1e9, 7)])
def test_a_grid_grows_until_its_best_value_is_inside(tmp_path, monkeypatch, peak, tried):
    text = SMALL.replace("axis: {key: optim.lr, values: [0.1, 0.3, 1]}", "axis: {key: model.depth, values: [1]}")
    text = text.replace(
        "key: optim.momentum, values: [0, 0.5, 0.9], limits: {none: [0, 0.5]}", "key: optim.lr, values: RATES"
    )
    text = text.replace("RATES", "[0.1, 0.3, 1]").replace("bn@0.1: 1, none@0.10: -1", "bn@1: 1, none@1: -1")
    made = design(load(write(tmp_path, text.replace("axis: [0.1, 0.3, 1], ", ""))), "quick")
    asked = []

    def sweep(name: str, jobs: list[sweeps.Job]) -> list[Run]:
        asked.extend(jobs)
        rates = [float(word[9:]) for _, words in jobs for word in words if word.startswith("optim.lr=")]
        scores = [{"validation/accuracy_precise": 0.9 - abs(math.log10(rate / peak)) / 100} for rate in rates]
        return [Run(tmp_path, "r", "finished", {}, "h", score, {}, 1.0, "", 10, True) for score in scores]

    carried = sweeps.Sweeps(made, tmp_path, MEANS)
    monkeypatch.setattr(carried, "_sweep", sweep)
    tuned = carried.tune({})["tuned", "bn@1"]
    assert (len(tuned.means), tuned.at_edge) == (tried, peak == 1e9)
    assert len({label for label, _ in asked}) == len(asked) == 2 * 2 * tried  # arms, seeds


@pytest.mark.parametrize(("profile", "name"), [("quick", "local"), ("gpu", "stacked")])
def test_the_options_are_those_of_the_ordinary_launchers(tmp_path, profile, name):
    made = design(load(write(tmp_path, SMALL.replace("  full:", "  gpu:"))), profile)
    options = sweeps.Sweeps(made, tmp_path, MEANS).options
    given = yaml.safe_load((configs_folder() / f"hydra/launcher/{name}.yaml").read_text())
    assert {key: value for key, value in options.as_dict().items() if key in given} == {
        key: value for key, value in given.items() if key != "defaults"
    }
    assert (options.jobs, options.stack) == ("auto", True if name == "stacked" else "auto")


# --- verdicts from runs -----------------------------------------------------------------------------------------------


def harvest(
    tmp_path: Path, values: dict[str, list[float | None]], tuned=None, *, same: bool = False, tag: str = "test/accuracy"
) -> Harvest:
    """Runs of both regimes, if wanted the same ones: point -> a value a seed; None is a run that diverged."""
    runs = {}
    for regime in ("equal", "tuned"):
        for label, row in values.items():
            for seed, value in enumerate(row):
                folder = tmp_path / ("equal" if same else regime) / label / str(seed)
                folder.mkdir(parents=True, exist_ok=True)
                (folder / "metrics.csv").write_text(f"step,epoch,metric,value\n8,1.0,{tag},{value or 0.1}\n")
                how = "diverged" if value is None else "finished"
                score = {tag: value or 0.1}
                runs[regime, label, seed] = Run(folder, "r", how, {"seed": seed}, "h", score, {}, 1.0, "", 10, True)
    return Harvest(runs, tuned or {}, 0, [])


NOISE = [0.0, 0.01, -0.01, 0.005, -0.005, 0.0]


def values(bn: float = 0.9, none: float = 0.8, bn_1: float = 0.88) -> dict[str, list[float | None]]:
    return {
        "none@0.1": [none + x for x in NOISE],
        "none@0.3": [None] * 6,
        "none@1": [None] * 6,
        "bn@0.1": [bn - x for x in NOISE],
        "bn@0.3": [bn_1] * 6,
        "bn@1": [bn_1] * 6,
    }


def judged(tmp_path: Path, made_of: Harvest, text: str = SMALL) -> dict[tuple[str, str], judging.Judged]:
    tmp_path.mkdir(exist_ok=True)
    made = design(load(write(tmp_path, text)), "quick")
    return {(one.test, one.regime): one for one in judging.judged(made, made_of)}


def test_a_contrast_is_judged_seed_by_seed(tmp_path):
    one = judged(tmp_path, harvest(tmp_path, values()))["level", "equal"]
    assert one.verdict.word == "supported"
    assert list(one.differences.values()) == pytest.approx([0.1 - 2 * x for x in NOISE], abs=1e-12)
    assert one.mcnemar == 1.0


def test_the_end_of_the_axis_is_safe_where_it_only_makes_the_claim_stronger(tmp_path):
    one = judged(tmp_path, harvest(tmp_path, values()))["rate", "equal"]
    assert one.verdict.word == "supported"
    assert list(one.differences.values()) == pytest.approx([1.0] * 6)
    step = math.log10(1 / 0.3)  # half of it for each arm
    assert (one.verdict.interval.low, one.verdict.interval.high) == pytest.approx((1 - step, 1 + step))
    assert one.sides["none"].diverged == 12


def test_the_end_of_the_axis_is_no_verdict_where_more_could_turn_it(tmp_path):
    both = values() | {"none@0.3": [0.79] * 6, "none@1": [0.79] * 6}
    coarse = SMALL.replace("threshold: 0.3", "threshold: 0.6")  # more than the step of the axis
    one = judged(tmp_path, harvest(tmp_path, both), coarse)["rate", "equal"]
    assert (one.verdict.word, one.verdict.detail) == ("inconclusive", "grid edge")
    ends = [note.partition(":")[0] for note in one.notes if "works up to the end of the axis" in note]
    assert ends == ["bn"]  # the larger "none", the more surely the claim fails


def test_a_best_value_at_the_end_of_the_axis_is_no_verdict(tmp_path):
    inside = values() | {"none@0.3": [0.85] * 6, "none@1": [0.8] * 6, "bn@0.1": [0.7] * 6, "bn@1": [0.84] * 6}
    text = SMALL.replace("{kind: largest, within: 0.05}", "{kind: best_at}").replace(
        "threshold: 0.3", "threshold: 0.01"
    )
    assert judged(tmp_path / "in", harvest(tmp_path / "a", inside), text)["rate", "equal"].verdict.word == "supported"
    at_end = inside | {"bn@1": [0.89] * 6}
    one = judged(tmp_path / "out", harvest(tmp_path / "b", at_end), text)["rate", "equal"]
    assert (one.verdict.word, one.verdict.detail) == ("inconclusive", "grid edge")
    assert "bn: is best at an end of the axis for 6 seeds" in one.notes[0]


def test_an_effect_of_one_step_of_the_axis_is_no_verdict(tmp_path):
    near = values() | {"bn@1": [None] * 6}
    one = judged(tmp_path, harvest(tmp_path, near))["rate", "equal"]
    assert list(one.differences.values()) == pytest.approx([math.log10(3)] * 6)
    assert (one.verdict.word, one.verdict.detail) == ("inconclusive", "grid step")


def test_a_failed_check_takes_the_verdicts_that_need_it(tmp_path):
    text = SMALL.replace("regimes: [equal]", "regimes: [equal]\n    role: check")
    text = text.replace("threshold: 0.01", "threshold: 0.01\n    needs: [rate]")
    held = judged(tmp_path / "held", harvest(tmp_path / "held", values()), text)
    assert {held["level", regime].verdict.word for regime in ("equal", "tuned")} == {"supported"}
    dead = values() | {"bn@0.3": [None] * 6, "bn@1": [None] * 6}  # works at 0.1 only, as without norm
    failed = judged(tmp_path / "failed", harvest(tmp_path / "failed", dead), text)
    for regime in ("equal", "tuned"):  # the check is made in the equal regime only
        verdict = failed["level", regime].verdict
        assert (verdict.word, verdict.detail) == ("no verdict", "check failed: rate")
        assert verdict.interval.mean == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("lost", "claims", "word"),
    [
        (["bn@0.1"], "greater", "inconclusive"),
        (["none@0.1"], "greater", "supported"),
        (["bn@0.1"], "equal, threshold: 0.2", "inconclusive"),
        (["none@0.1"], "equal, threshold: 0.2", "inconclusive"),
        (["bn@0.1", "none@0.1"], "equal, threshold: 0.2", "supported"),
        (["bn@0.1"], "equal", "inconclusive"),  # else: it is more
        (["none@0.1"], "equal", "contradicted"),
    ],
)
def test_failures_that_speak_against_the_verdict_are_not_left_out_in_silence(tmp_path, lost, claims, word):
    text = SMALL.replace("seeds: 6, tuning_seeds", "seeds: 7, tuning_seeds").replace(
        "measure: {metric: test/accuracy}\n    contrast: {bn@0.1",
        "measure: {metric: test/accuracy, at: {first: test/accuracy, below: 1.0}}\n    contrast: {bn@0.1",
    )
    runs = {label: [*row, row[0]] for label, row in values().items()}
    for label in lost:
        runs[label][6] = 2.0  # never below 1
    kind, _, more = claims.partition(", ")
    text = text.replace("claims: greater\n    threshold: 0.01", f"claims: {kind}\n    {more or 'threshold: 0.01'}")
    one = judged(tmp_path, harvest(tmp_path, runs), text)["level", "equal"]
    assert (one.verdict.word, len(one.differences)) == (word, 6)
    assert (one.verdict.detail == "censored") == (word == "inconclusive")


@pytest.mark.parametrize(
    ("tag", "lost", "word"),
    [
        ("test/loss", "none@0.1", "supported"),  # a loss that is not finite is a large one
        ("test/loss", "bn@0.1", "inconclusive"),
        ("probe/ics/relative/all", "none@0.1", "inconclusive"),
        ("probe/ics/relative/all", "bn@0.1", "inconclusive"),
    ],
)
def test_what_a_diverged_run_would_measure_is_known_of_losses_alone(tmp_path, tag, lost, word):
    """The claim is that batch norm has less."""
    text = SMALL.replace("seeds: 6, tuning_seeds", "seeds: 7, tuning_seeds").replace("test/accuracy", tag)
    text = text.replace("none@0.10: -1}\n    claims: greater", "none@0.10: -1}\n    claims: less")
    runs = {label: [*row, row[0]] for label, row in values(bn=0.7).items()}
    runs[lost][6] = None
    one = judged(tmp_path, harvest(tmp_path, runs, tag=tag), text)["level", "equal"]
    assert (one.verdict.word, len(one.differences)) == (word, 6)


def test_a_best_value_on_the_edge_of_its_grid_is_no_verdict(tmp_path):
    inner, edge = TunedValue({0: 0.1, 0.5: 0.9}, 0.5, 0.5, False), TunedValue({0: 0.9, 0.5: 0.1}, 0, 0.5, True)
    tuned = {("tuned", "bn@0.1"): inner, ("tuned", "none@0.1"): edge}
    cases = judged(tmp_path, harvest(tmp_path, values(), tuned))
    assert cases["level", "tuned"].verdict.word == "inconclusive"
    assert cases["level", "equal"].verdict.word == "supported"


def test_divergence_is_compared_by_mcnemar_and_counts_as_chance(tmp_path):
    dead = values() | {"none@0.1": [None] * 6}
    one = judged(tmp_path, harvest(tmp_path, dead))["level", "equal"]
    assert one.mcnemar == 2 / 2**6
    assert list(one.sides["none@0.10"].values.values()) == [0.1] * 6


def test_intervals_of_accuracies_end_at_0_and_1(tmp_path):
    spread = [0.0, 1.0, 1.0, 1.0, 1.0, 1.0]
    made, made_of = design(load(write(tmp_path)), "quick"), harvest(tmp_path, values() | {"bn@0.1": spread})
    found = conclude(made, made_of, judging.judged(made, made_of), {}, [], 1.0, ["small"])
    (level,) = (test for test in found.tests if (test.test, test.regime) == ("level", "equal"))
    assert [test.role for test in found.tests] == ["primary", "secondary", "secondary"]
    assert (found.answer.tests, found.answer.word, found.answer.p) == (["equal/level"], level.verdict, level.p)
    assert level.sides["bn@0.1"].high == 1.0
    assert 0 < level.sides["bn@0.1"].low < 0.5
    assert max(high for lines in found.figure.panels.values() for _, _, _, high in lines["bn"]) == 1.0


def test_a_panel_draws_the_statistics_that_its_regime_is_judged_by(tmp_path):
    precise = SMALL.replace("{metric: test/accuracy}\n    contrast", "{metric: test/accuracy_precise}\n    contrast")
    precise = precise.replace("    threshold: 0.01\n", "    threshold: 0.01\n    regimes: [tuned]\n")
    found = {}
    for name, text in (("plain", SMALL), ("precise", precise.replace("[equal/level]", "[tuned/level]"))):
        (tmp_path / name).mkdir()
        found[name] = metrics_of(design(load(write(tmp_path / name, text)), "quick"))
    assert found["plain"] == dict.fromkeys(("equal", "tuned"), "test/accuracy")
    assert found["precise"] == {"equal": "test/accuracy", "tuned": "test/accuracy_precise"}


def test_a_share_of_runs_is_known_to_half_a_run_of_each_arm(tmp_path):
    text = SMALL.replace("{metric: test/accuracy}\n    contrast", "{metric: test/accuracy, above: 0.85}\n    contrast")
    one = judged(tmp_path, harvest(tmp_path, values()), text)["level", "equal"]  # 0.9 of bn, 0.8 of none
    assert list(one.differences.values()) == [1.0] * 6
    assert (one.verdict.interval.low, one.verdict.interval.high) == pytest.approx((1 - 2 * 0.5 / 6, 1.0))


def test_a_seed_without_all_values_is_left_out_and_said(tmp_path):
    made_of = harvest(tmp_path, values())
    runs = {key: run for key, run in made_of.runs.items() if key[1:] != ("bn@0.1", 2)}
    one = judged(tmp_path, Harvest(runs, {}, 1, []))["level", "equal"]
    assert (one.verdict.word, one.verdict.interval.n) == ("no verdict", 5)
    assert one.notes == ["1 of 6 seeds left out, where a run diverged or has no value"]


def test_all_diverged_without_a_chance_level_is_no_verdict(tmp_path):
    text = SMALL.replace("{metric: test/accuracy}\n    contrast", "{metric: test/loss}\n    contrast")
    dead = {label: [None] * 6 for label in values()}
    one = judged(tmp_path, harvest(tmp_path, dead), text)["level", "equal"]
    assert (one.verdict.word, one.verdict.detail) == ("no verdict", "no seed has all values")


def test_steps_to_a_target_are_ratios_over_the_seeds_that_reached_it(tmp_path):
    text = SMALL.replace(
        "measure: {metric: test/accuracy}\n    contrast",
        "scale: log\n    measure: {steps_to: test/accuracy, reaches: {arm: none}}\n    contrast",
    )
    one = judged(tmp_path, harvest(tmp_path, values() | {"bn@0.1": [0.9] * 5 + [0.1]}), text)["level", "equal"]
    assert list(one.differences) == [0, 1, 2, 3, 4]
    assert set(one.differences.values()) == {0.0}  # there is one evaluation, at step 8
    assert "bn@0.1: 5/6 reached the target" in one.notes
    # Each arm reached it somewhere between step 0 and 8: half of that is a factor of 2.
    assert one.verdict.interval.high == pytest.approx(2 * math.log(2))


@pytest.mark.parametrize("every", [1, 8, 40])
def test_the_step_at_which_a_target_was_reached_lies_in_the_interval(tmp_path, every):
    """All runs reach it at step 18; it is seen at the next evaluation."""
    made_of = harvest(tmp_path, values())
    for run in made_of.runs.values():
        rows = "".join(f"{step},1.0,test/accuracy,{0.9 if step >= 18 else 0.1}\n" for step in range(every, 81, every))
        (run.folder / "metrics.csv").write_text(f"step,epoch,metric,value\n{rows}")
    text = SMALL.replace(
        "{bn@0.1: 1, none@0.10: -1}\n    claims: greater\n    threshold: 0.01", "{bn@0.1: 1}\n    CLAIM"
    )
    text = text.replace(
        "{metric: test/accuracy}\n    contrast", "{steps_to: test/accuracy, reaches: 0.8}\n    contrast"
    )
    text = text.replace("CLAIM", "claims: exceeds\n    threshold: 18")
    one = judged(tmp_path, made_of, text)["level", "equal"].verdict
    assert one.interval.low <= 18 <= one.interval.high
    assert one.interval.high - one.interval.low == pytest.approx(every)
    assert one.word == "inconclusive"


def test_a_metric_that_no_run_has_is_no_verdict_and_found_by_a_smoke_test(tmp_path):
    text = SMALL.replace("{metric: test/accuracy}\n    contrast", "{metric: probe/nothing}\n    contrast")
    made_of = harvest(tmp_path, values() | {"none@1": [0.1] * 6})
    cases = judged(tmp_path, made_of, text)
    assert cases["level", "equal"].verdict.word == "no verdict"
    assert "probe/nothing" in cases["level", "equal"].verdict.detail
    assert cases["rate", "equal"].verdict.word == "supported"
    made = design(load(write(tmp_path, text)), "quick")
    assert judging.missing_metrics(made, made_of) == ["probe/nothing: not among the metrics of the runs"]
    alone = design(load(write(tmp_path, text.replace(", none@0.10: -1", ""))), "quick")
    without = Harvest({key: run for key, run in made_of.runs.items() if key[1].startswith("none")}, {}, 0, [])
    assert judging.missing_metrics(alone, without) == []  # an arm that no test measures by it need not have it


def test_the_logarithm_of_zero_is_refused_with_a_sentence(tmp_path):
    text = SMALL.replace("threshold: 0.01", "threshold: 0.01\n    scale: log")
    zero = values() | {"bn@0.1": [0.0] * 6}
    made_of = harvest(tmp_path, zero)
    for run in made_of.runs.values():
        if run.folder.parent.name == "bn@0.1":
            (run.folder / "metrics.csv").write_text("step,epoch,metric,value\n8,1.0,test/accuracy,0.0\n")
    one = judged(tmp_path, made_of, text)["level", "equal"]
    assert (one.verdict.word, one.verdict.detail) == (
        "no verdict",
        "bn@0.1, seed 0: 0 has no logarithm; use scale: linear",
    )


@pytest.mark.parametrize(("primary", "kept"), [("equal", "equal"), ("tuned", "tuned")])
def test_identical_runs_count_once_and_the_primary_test_keeps_its_verdict(tmp_path, primary, kept):
    text = SMALL.replace("holds_if: [equal/level]", f"holds_if: [{primary}/level]")
    made_of = harvest(tmp_path, values(), same=True)
    cases = judged(tmp_path, made_of, text)
    (other,) = {"equal", "tuned"} - {kept}
    assert (cases["level", kept].verdict.word, cases["level", kept].same_as) == ("supported", None)
    again = cases["level", other]
    assert (again.verdict.word, again.verdict.detail, again.same_as) == ("no verdict", f"same runs as {kept}", kept)
    assert (again.verdict.p, again.notes) == (None, [])
    assert again.verdict.interval == cases["level", kept].verdict.interval
    assert cases["rate", "equal"].verdict.word == "supported"


def test_two_primary_tests_of_the_same_runs_are_one(tmp_path):
    made = design(load(write(tmp_path, SMALL.replace("[equal/level]", "[equal/level, tuned/level]"))), "quick")
    made_of = harvest(tmp_path, values(bn=0.7), same=True)
    cases = judging.judged(made, made_of)
    found = conclude(made, made_of, cases, {}, [], 1.0, ["small"])
    assert (found.answer.word, found.answer.tests) == ("contradicted", ["equal/level"])
    assert found.answer.p == cases[0].verdict.p  # with another test it would be twice as large
    assert [test.same_as for test in found.tests] == [None, "equal", None]
    different = judging.judged(made, harvest(tmp_path / "apart", values(bn=0.7)))
    assert [case.same_as for case in different] == [None] * 3


def test_one_other_run_of_the_target_is_enough_to_count_twice(tmp_path):
    text = SMALL.replace(
        "measure: {metric: test/accuracy}\n    contrast: {bn@0.1: 1, none@0.10: -1}",
        "measure: {steps_to: test/accuracy, reaches: {arm: none}}\n    contrast: {bn@0.1: 1}",
    )
    same, apart = harvest(tmp_path, values(), same=True), harvest(tmp_path, values())
    runs = {**same.runs, ("tuned", "none@0.1", 2): apart.runs["tuned", "none@0.1", 2]}
    assert judged(tmp_path, same, text)["level", "tuned"].same_as == "equal"
    assert judged(tmp_path, Harvest(runs, {}, 0, []), text)["level", "tuned"].same_as is None


# --- the whole way ----------------------------------------------------------------------------------------------------


def verdicts(folder: Path, name: str = "small") -> list[dict]:
    tests = json.loads((folder / f"outputs/claims/quick/{name}/result.json").read_text())["tests"]
    return [{key: value for key, value in test.items() if key != "sides"} for test in tests]


@pytest.mark.slow
def test_a_claim_runs_goes_on_and_is_reported(bnexp, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = SMALL.replace("values: [0.1, 0.3, 1]", "values: [0.1]")
    smoke = bnexp("claim", "run", str(write(tmp_path, text)), "--profile", "quick", "--smoke")
    assert smoke.code == 0
    assert smoke.out == "small: smoke test, 12 runs; no verdict\n"
    assert len(json.loads(bnexp("runs", "--tag", "smoke", "--json").out)["runs"]) == 12
    path = str(write(tmp_path, "".join(line for line in text.splitlines(True) if "tuned:" not in line)))
    first = bnexp("claim", "run", path, "--profile", "quick")
    assert first.code == 0, first
    assert "equal/level: " in first.out
    assert re.search(r"^  claim: [a-z ]+.*: equal/level$", first.out, re.MULTILINE)
    before = verdicts(tmp_path)
    runs = tmp_path / "outputs/claims/quick/small/runs"
    some = sorted(runs.glob("bn@*/run.json"))
    times = {run: run.stat().st_mtime_ns for run in some[1:]}
    some[0].unlink()  # as if it had been killed before it had begun
    again = bnexp("claim", "run", path, "--profile", "quick")
    assert again.code == 0
    assert verdicts(tmp_path) == before
    assert {run: run.stat().st_mtime_ns for run in some[1:]} == times
    reported = bnexp("claim", "report", "outputs/claims/quick", "--to", "page")
    assert reported.out.split() == ["page/claims.html", "page/claims.md", "page/seeds.csv"]
    page = (tmp_path / "page/claims.html").read_text()
    assert "Batch norm is not worse." in page
    assert "(Not run.)" not in page  # the shipped claims, which nobody asked for
    assert f"bnexp claim run {path} --profile quick\n" in (tmp_path / "page/pages/small.md").read_text()
    assert "http" not in page
    assert "![" in (tmp_path / "page/pages/small.md").read_text()
    assert (tmp_path / "page/figures/small.svg").stat().st_size > 1000


def finished(folder: Path) -> dict[Path, int]:
    """The finished runs of all claims, and when their files were written."""
    paths = folder.glob("outputs/claims/quick/*/*/*/run.json")
    return {path: path.stat().st_mtime_ns for path in paths if '"finished"' in path.read_text()}


@pytest.mark.slow
def test_claims_that_are_stopped_and_killed_at_random_come_to_the_same_verdicts(bnexp, tmp_path, monkeypatch):
    """Two at the same time, of 16 runs; undisturbed, one after the other."""
    text = SMALL.replace("steps=8", "steps=60").replace("values: [0.1, 0.3, 1]", "values: [0.1]")
    text = text.replace("quick: {seeds: 6", "quick: {seeds: 2")
    ended, quiet = tmp_path / "ended", tmp_path / "quiet"
    for folder in (ended, quiet):
        folder.mkdir()
        write(folder, text)
        write(folder, "".join(line for line in text.splitlines(True) if "tuned:" not in line), "other")
    words = ("claim", "run", "small.yaml", "other.yaml", "--profile", "quick")
    for number, runs in ((signal.SIGTERM, random.randint(1, 4)), (signal.SIGKILL, random.randint(5, 12))):
        print(number, runs)
        process = begin(ended, *words, "--jobs", "2")
        until(lambda runs=runs: len(finished(ended)) >= runs)
        os.kill(process.pid, number)
        answer = Ended(process)
        assert answer.code == (143 if number == signal.SIGTERM else -9), answer
        assert number == signal.SIGKILL or "stopped; the same command goes on" in answer.err
        until(lambda: not survivors(ended))
    done = finished(ended)
    for folder, jobs in ((ended, "2"), (quiet, "1")):
        monkeypatch.chdir(folder)
        assert bnexp(*words, "--jobs", jobs).code == 0
    assert finished(ended).items() >= done.items()
    for name in ("small", "other"):
        assert verdicts(ended, name) == verdicts(quiet, name)
        found = json.loads((ended / f"outputs/claims/quick/{name}/result.json").read_text())
        assert [each["runs"] for each in found["declared"]] == [0]


def test_several_claims_say_how_long_they_took(bnexp, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    head = SMALL.partition("settings:")[0]
    paths = []
    for name in ("one", "other"):
        paths.append(tmp_path / f"{name}.yaml")
        paths[-1].write_text(f"{head}exact: [bias_growth]\n")
    found = bnexp("claim", "run", *map(str, paths), "--profile", "quick")
    assert found.code == 0, found
    *_, last, hint = found.out.splitlines()
    assert re.fullmatch(r"2 claims in [\d.]+ s", last)
    assert hint == "in words, with pictures: bnexp claim report outputs/claims/quick"


def test_settings_that_nothing_overrides_make_a_smoke_test_small(tmp_path):
    made = design(load(write(tmp_path)), "quick", smoke=True)
    words = made.words(made.points[0], made.regimes["equal"], None, 0)
    from bnexp.config.compose import JobComposer

    config = flat(JobComposer(configs_folder())([words])[0])
    assert (config["steps"], made.profile) == (6, "smoke")
    assert len(made.points) * len(made.seeds) == 8
