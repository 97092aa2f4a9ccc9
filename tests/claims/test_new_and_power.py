"""Claims of a user's own: a yaml from arms and a metric, the seeds that a verdict needs, and what it costs."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest
from results import case, content

from bnexp.claims import cost, power
from bnexp.claims.declaration import loads
from bnexp.claims.design import design
from bnexp.claims.draft import SETTINGS, draft, require_words, words_of
from bnexp.claims.report.reading import reading
from bnexp.cli.claim_run import cost_table, power_table
from bnexp.compare.formats import FORMATS

ARMS = ("--arms", "none=[norm=none]", "deep=[norm=bn, model.depth=2]", "gn=[norm=gn, norm.groups=4]")


# --- new --------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_new_claim_runs_at_once(bnexp, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    written = bnexp("claim", "new", "mine", *ARMS, "--settings", "data=digits", "data.size=null", "model=mlp")
    assert (written.code, written.out.splitlines()[0]) == (0, "mine.yaml"), written
    claim = loads("mine", (tmp_path / "mine.yaml").read_text())
    assert claim.arms["deep"].settings == ["norm=bn", "model.depth=2"]
    assert (claim.title_of("deep"), claim.title_of("gn")) == ("say what deep is", "group norm")
    assert claim.holds_if == ["tuned/deep"]
    assert {name: test.contrast for name, test in claim.tests.items()} == {
        "deep": {"deep": 1, "none": -1},
        "gn": {"gn": 1, "none": -1},
    }
    smoked = bnexp("claim", "run", "mine.yaml", "--profile", "quick", "--smoke")
    assert (smoked.code, smoked.out) == (0, "mine: smoke test, 18 runs; no verdict\n"), smoked


OWN_NORM = """
from bnexp.norms import NORMS, Norm

class Halved(Norm):
    def forward(self, x):
        return self.scaled(x / 2)

@NORMS.register("halved")
def halved(channels):
    return Halved(channels, affine=True)
"""


@pytest.mark.slow
def test_a_claim_about_a_norm_of_ones_own_needs_its_module_typed(bnexp, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_halved.py").write_text(OWN_NORM)
    (tmp_path / "my" / "norm").mkdir(parents=True)
    (tmp_path / "my" / "norm" / "halved.yaml").write_text("name: halved\n")
    own = ("--config-dir", "my", "--imports", "my_halved")
    written = bnexp("claim", "new", "mine", "--arms", "none=[norm=none]", "mine=[norm=halved]", *own)
    tries = "bnexp claim run mine.yaml --smoke --config-dir my --imports my_halved tries it in seconds"
    assert tries in written.out, written
    run = ("claim", "run", "mine.yaml", "--profile", "quick", "--dry-run", "--json")
    assert json.loads(bnexp(*run, *own).out)["claims"][0]["operations"] > 0
    needed = "bnexp: claim mine: imports=[my_halved]: modules are programs; type --imports my_halved too"
    assert bnexp(*run, "--config-dir", "my").complaint == needed
    assert "needs its options in FOLDER/norm/halved.yaml, and --config-dir FOLDER" in bnexp(*run, *own[2:]).complaint
    assert bnexp(*run, "--config-dir", "no").complaint == "bnexp: --config-dir no: there is no such folder"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["mine", *ARMS], "mine.yaml: is there already; choose another name, or --to DIR"),
        (["a/b", *ARMS], "a/b: expected a name such as my-claim, without folder and ending"),
        (["other", "--arms", "bn=[norm=bn]"], "--arms bn: expected two or more"),
        (["other", "--arms", "none=norm=none", "bn=[norm=bn]"], "--arms none=norm=none: expected NAME=[SETTING=VALUE"),
        (["other", "--arms", "a=[norm=bn]", "a=[norm=ln]"], "a stands twice"),
        (["other", "--arms", "a=[norm=bm]", "b=[norm=ln]"], "claim other: norm=bm: not known; did you mean bn?"),
        (["other", *ARMS, "--metric", "test/loss"], "--threshold: missing; the smallest difference of test/loss"),
        (["other", *ARMS, "--metric", "test/acuracy"], "--metric=test/acuracy: no run measures acuracy; did you mean"),
        (["other", "--arms", "a=[norm=bn]", "b=[norm=ln,seed=3]"], "seed=3: the profile says which seeds are run"),
        (["other", *ARMS, "--threshold", "0"], "threshold=0.0: out of range; allowed is above 0"),
        (["other", *ARMS, "--settings", "data.siz=8"], "data.siz: there is no such setting"),
    ],
)
def test_what_a_new_claim_cannot_be_is_one_line(words, message, bnexp, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text("kept")
    assert message in bnexp("claim", "new", *words).complaint
    assert [path.name for path in tmp_path.iterdir()] == ["mine.yaml"]
    assert (tmp_path / "mine.yaml").read_text() == "kept"


def test_losses_are_claimed_to_be_less_and_words_need_no_care():
    claim = loads("x", draft("x", {"on": ["a: b"], "2nd": [], "null": []}, "train/loss", ["optim=adam"], 0.2))
    assert (claim.tests["2nd"].claims, claim.tests["2nd"].threshold) == ("less", 0.2)
    assert claim.tests["2nd"].says == "the training loss is lower with 2nd than with on"
    assert (list(claim.arms), claim.arms["on"].settings) == (["on", "2nd", "null"], ["a: b"])
    assert claim.regimes["tuned"].values == [0.0003, 0.001, 0.003, 0.01]
    chosen_by = {
        **{"test/loss_precise": "validation/loss_precise", "test/accuracy": "validation/accuracy"},
        **{"train_eval/loss": "train_eval/loss", "train/loss": "validation/accuracy_precise"},
        **{"test/accuracy_noise3": "validation/accuracy_precise", "probe/x/y": "validation/accuracy_precise"},
    }
    for metric, chosen in chosen_by.items():
        text = draft("x", {"a": ["norm=bn"], "b": ["norm=ln"]}, metric, SETTINGS, threshold=0.1)
        assert loads("x", text).regimes["tuned"].metric == chosen
    assert words_of("norm=bn, model.widths=[8,8] ,'a,b',") == ["norm=bn", "model.widths=[8,8]", "'a,b'"]


# --- power and cost ---------------------------------------------------------------------------------------------------

TEXT = draft("x", {"none": ["norm=none"], "bn": ["norm=bn"], "gn": ["norm=gn"]}, "test/accuracy", SETTINGS)
AXIS = TEXT.replace("regimes:", "axis: {key: model.depth, values: [1, 2, 3]}\nregimes:").replace(
    "contrast: {bn: 1, none: -1}", "contrast: {bn@2: 1, none@2: -1}"
)
AXIS = AXIS.replace("contrast: {gn: 1, none: -1}", "contrast: {gn@3: 1, none@3: -1}")


def test_a_pilot_has_other_seeds_and_only_what_the_primary_test_needs():
    made = design(loads("x", AXIS), "quick")
    small = power.pilot(made, 4)
    assert [point.label for point in small.points] == ["none@2", "bn@2"]
    assert (list(small.regimes), list(small.tests)) == (["tuned"], ["bn"])
    used = {*made.seeds, *made.tuning_seeds}
    assert not used & {*small.seeds, *small.tuning_seeds}
    assert not {*small.seeds} & {*small.tuning_seeds}
    assert (len(small.seeds), len(small.tuning_seeds)) == (4, 2)
    reduced = AXIS.replace(
        "contrast: {bn@2: 1, none@2: -1}", "contrast: {bn: 1, none: -1}\n    reduce: {kind: at_best}"
    )
    assert len(power.pilot(design(loads("x", reduced), "quick")).points) == 6
    target = AXIS.replace("{metric: test/accuracy, at: last}", "{steps_to: test/accuracy, reaches: {arm: gn}}")
    assert list(power.pilot(design(loads("x", target), "quick")).arms) == ["none", "bn", "gn"]


def test_runs_are_counted_before_they_are_made():
    made = design(loads("x", TEXT), "quick")
    equal, tuning, tuned = 3 * 12, 3 * 4 * 5, 3 * 12
    assert cost.cost(made) == cost.Cost("x", equal + tuning + tuned, equal + tuning + tuned + 4 * 3 * 5, 5)
    no_rate = design(loads("x", TEXT.replace("key: optim.lr", "key: optim.momentum")), "quick")
    assert (cost.cost(no_rate).runs, cost.cost(no_rate).most) == (132, 132)
    smoke = cost.cost(design(loads("x", TEXT), "quick", smoke=True))
    assert (smoke.runs, smoke.most, smoke.minutes) == (3 * 2 + 3 * 2 + 3 * 2, 18, None)


@pytest.mark.slow
def test_operations_are_counted_and_nothing_is_run(bnexp, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = TEXT.replace("tuned: {", "tuned: {limits: {none: [0.1]}, ")
    (tmp_path / "x.yaml").write_text(text)
    nowhere = "- data=npz\n  - data.path=nowhere.npz"
    (tmp_path / "lost.yaml").write_text(text.replace("- data=digits\n  - data.size=null", nowhere))
    later = text.replace("  bn: [norm=bn]", "  bn: {settings: [norm=bn, norm_state=frozen], init_from: first}")
    (tmp_path / "later.yaml").write_text(later + "before: {first: [norm=bn]}\n")
    answer = bnexp("claim", "run", "x.yaml", "lost.yaml", "later.yaml", "--profile", "quick", "--dry-run", "--json")
    found, lost, later = json.loads(answer.out)["claims"]
    weights = 64 * 64 + 2 * 64 * 64 + 64 * 10
    assert found["operations"] == found["runs"] * 600 * 64 * 6 * weights
    assert (lost["runs"], lost["operations"]) == (found["runs"], None)
    assert later["runs"] == found["runs"] + 12 + 5  # those that others start from
    assert later["operations"] == later["runs"] * 600 * 64 * 6 * weights
    assert "lost: cannot run: data.path=nowhere.npz: " in answer.err
    assert answer.code == 2
    assert not (tmp_path / "outputs").exists()


def test_every_placeholder_of_a_new_claim_waits_for_words():
    texts = draft("x", {"mine": ["norm=none"], "bn": ["norm=bn"]}, "test/accuracy", SETTINGS)
    waiting = "title, sentence, literature, confounds, would_change, sources, answers, titles"
    with pytest.raises(ValueError, match=rf"^x: {waiting}: fill in what"):
        require_words(loads("x", texts))
    require_words(loads("x", re.sub(r"\b[Ss]ay\b", "It is", texts)))


def test_a_module_that_no_run_names_is_refused(bnexp, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.yaml").write_text(TEXT)
    answer = bnexp("claim", "run", "x.yaml", "--profile", "quick", "--dry-run", "--imports", "my_norm")
    said = "--imports my_norm: no run would import it; the settings need imports=[my_norm]"
    assert answer.complaint == f"bnexp: {said}"


@pytest.mark.parametrize(("seeds", "told"), [(5, True), (6, False)])
def test_too_few_seeds_are_told_before_anything_runs(seeds, told, bnexp, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.yaml").write_text(TEXT.replace("{seeds: 12", f"{{seeds: {seeds}"))
    answer = bnexp("claim", "run", "x.yaml", "--profile", "quick", "--dry-run")
    assert answer.code == 0
    assert ("x: 5 seeds, and a verdict needs 6: there will be none\n" in answer.err) == told


@pytest.mark.parametrize("form", FORMATS)
def test_costs_and_powers_answer_in_every_format(form):
    found = case(mean=0.021, needed=9, needed_for_delta=None)
    costs = cost_table([cost.Cost("x", 288, 300, 2.0, 1.2e13), cost.Cost("y", 0, 0, None)])
    powers = power_table([power.Power(replace(reading(content(found)).claim, id="x"), "quick", found, 12)])
    said = {"costs": FORMATS[form](costs), "powers": FORMATS[form](powers)}
    if form == "json":
        assert json.loads(said["costs"])["claims"][1] == {
            **{"claim": "y", "runs": 0, "most": 0, "minutes": None, "operations": None},
        }
        (test,) = json.loads(said["powers"])["tests"]
        assert (test["test"], test["sd"], test["seeds for the effect seen"]) == ("tuned/higher", 0.005, 9)
        assert test["seeds for it"] is None
    else:
        assert "288" in said["costs"]
        assert "0.021" in said["powers"] or "2.1 points" in said["powers"]
    if form == "table":
        assert said["powers"].splitlines() == [
            "x (quick), tuned/higher: pilot of 8 seeds; 12 are declared",
            "  seen: 2.1 points more, between 1.5 and 2.5, with a standard deviation of 0.5 points",
            "  a verdict needs more seeds than anybody runs for 1.5 times the smallest effect of interest, "
            "and 9 seeds for the effect seen",
        ]


@pytest.mark.slow
def test_a_pilot_tells_the_seeds_that_a_verdict_needs(bnexp, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = TEXT.replace("steps=600", "steps=8").replace("[0.03, 0.1, 0.3, 1]", "[0.1, 0.3]")
    (tmp_path / "x.yaml").write_text(text.replace("eval_every=100", "eval_every=8").replace("seeds: 12", "seeds: 7"))
    words = ("claim", "power", "x.yaml", "--profile", "quick", "--pilot-seeds", "3")
    (found,) = json.loads(bnexp(*words, "--json").out)["tests"]
    assert (found["claim"], found["test"], found["pilot"], found["declared"]) == ("x", "tuned/bn", 3, 7)
    assert found["seeds for the effect seen"] >= 6
    again = bnexp(*words)
    assert again.code == 0
    told = again.out.splitlines()
    assert told[0] == "x (quick), tuned/bn: pilot of 3 seeds; 7 are declared"
    assert f"{found['seeds for it']} seeds for 1.5 times the smallest effect of interest" in told[2]
    assert not list((tmp_path / "outputs/claims").glob("quick"))
