"""The pages of the claims: what their sentences, tables and figures say of a result."""

from __future__ import annotations

import csv
import os
import re
from dataclasses import replace
from pathlib import Path

import pytest
from results import case, content, exact, side

from bnexp.claims import declaration
from bnexp.claims.answers import Answer
from bnexp.claims.declaration import Measure
from bnexp.claims.declared import Declared
from bnexp.claims.report import figures, section, seeds, words
from bnexp.claims.report import page as report
from bnexp.claims.report.front import front
from bnexp.claims.report.place import Place
from bnexp.claims.report.reading import reading
from bnexp.claims.result import FigureResult, Result, TunedResult
from bnexp.compare.markdown import as_markdown

CLAIM = reading(content(case())).claim
# What a reader must not meet: names of arms, regimes, tests and settings.
CODE = re.compile(r"\b(small_on|tuned_precise|none@|bn@|model\.|optim\.|test/|pp)\b|\bequal/")


def pages(folder: Path, *results: Result, **others: list[Result]) -> dict[str, str]:
    """The text of each file of a report."""
    written = report.write(folder / "page", {"quick": list(results), **others})
    assert [path.name for path in written] == ["claims.html", "claims.md", "seeds.csv"]
    files = [path for path in (folder / "page").rglob("*") if path.is_file()]
    return {str(path.relative_to(folder / "page")): path.read_text(encoding="utf-8") for path in files}


def first(*results: Result, **others: list[Result]) -> str:
    """The first page as Markdown, with the figure of each lesson."""
    scales = report._by_claim({"quick": list(results), **others})
    drawn = {name: figures.draw_small(next(iter(some.values()))) for name, some in scales.items()}
    return as_markdown(front(list(scales.values()), drawn, [], Place(".md", "", Path("page"))))


def test_the_numbers_of_every_seed_are_one_table(tmp_path):
    sides = {"bn@0.1": side(1, values={"0": 0.75, "10": None}), "=none": side(-1, values={"0": 0.5, "10": 0.125})}
    seeds.write(tmp_path, [content(case(sides=sides, differences={"0": 0.25}))])
    with (tmp_path / "seeds.csv").open(encoding="utf-8") as file:
        head, *rows = csv.reader(file)
    assert head == ["claim", "profile", "regime", "test", "side", "seed", "value", "difference"]
    assert rows == [
        ["a", "quick", "tuned", "higher", "bn@0.1", "0", "0.75", "0.25"],
        ["a", "quick", "tuned", "higher", "bn@0.1", "10", "", ""],
        ["a", "quick", "tuned", "higher", "'=none", "0", "0.5", "0.25"],
        ["a", "quick", "tuned", "higher", "'=none", "10", "0.125", ""],
    ]


UNDECIDED = case(
    verdict="no verdict",
    detail="no seed has all values",
    differences={},
    **dict.fromkeys(("mean", "sd", "low", "high", "d_z", "p")),
    robust=[],
)


def test_the_numbers_that_a_test_has_not_are_empty_in_its_row(tmp_path):
    decided, undecided = csv.DictReader(pages(tmp_path, content(case(), UNDECIDED))["tests.csv"].splitlines())
    assert (undecided["verdict"], undecided["detail"]) == ("no verdict", "no seed has all values")
    numbers = ["mean", "low", "high", "hodges_lehmann", "hodges_lehmann_low", "hodges_lehmann_high"]
    assert all(float(decided[name]) for name in numbers)
    assert not any(undecided[name] for name in numbers)


# --- the first page ---------------------------------------------------------------------------------------------------


PAIR = "batch norm (learning rate 3) against no norm (learning rate 3)"


def test_claims_are_counted_by_their_answers_in_plain_words():
    words_of = ("supported", "supported", "negligible", "contradicted", "inconclusive")
    results = [
        content(case(), claim=f"c{n}", answer=Answer(word, "", ["tuned/higher"], 0.1, 0.1))
        for n, word in enumerate(words_of)
    ]
    results[1] = replace(results[1], answer=replace(results[1].answer, detail="size open"))
    results += [
        content(claim="sum", exact={"some": [exact()]}, runs=0),
        content(claim="no", exact={"some": [exact(holds=False)]}, runs=0),
    ]
    counts = "7 claims: 2 hold; 1 holds, size open; 1 less than matters; 2 do not hold; 1 not decided."
    found = first(*results)
    lost = "4 of the answers do not survive the adjustment for all claims."
    assert f"{counts} {lost} 80 runs, 70.0 min of core time." in found
    assert "1 of 1 number as expected" in found


def test_a_claim_has_one_row_with_its_answer_its_effect_and_its_marks():
    answer = Answer("supported", "", ["tuned/higher"], 0.01, 0.08)
    row = (
        "| [Norms help.](pages/a.md) | Holds in small nets: norms help. | "
        "holds (does not survive the adjustment for all claims; hangs on one seed) | "
        f"2.0 points more, between 1.5 and 2.5, {PAIR} | 0.08 |"
    )
    found = first(content(case(hangs_on=["3"]), answer=answer))
    assert row in found
    assert "1 claim: 1 holds. 1 of the answers does not survive the adjustment for all claims. 16 runs" in found


def test_lessons_come_first_in_their_order_with_figure_and_condition():
    before = content(case(), claim="b", declaration=content(case()).declaration.replace("lesson: 2", "lesson: 1"))
    rest = content(case(), claim="c", declaration=content(case()).declaration.replace("lesson: 2\n", ""))
    found = first(content(case()), before, rest)
    lessons = re.findall(r"^### (.+)\n\n!\[(.+)\]\((.+)\)$", found, re.MULTILINE)
    condition = "Each at its best momentum; 2,000 images of Fashion-MNIST, 8 seeds."
    assert lessons == [
        (f"{place}. Holds in small nets: norms help.", condition, f"figures/{claim}-small.svg")
        for place, claim in ((1, "b"), (2, "a"))
    ]
    assert found.index("### 2.") < found.index("## All claims")


def test_results_of_other_folders_stand_beside(tmp_path):
    other = content(
        case(mean=0.0, low=-0.002, high=0.002),
        profile="gpu",
        answer=Answer("negligible", "", ["tuned/higher"], 0.01, 0.02),
    )
    found = pages(tmp_path, content(case()), gpu=[other, content(case(), claim="b", profile="gpu")])
    head, _, *rows = [line for line in found["claims.md"].splitlines() if line.startswith("| ")][:6]
    assert head == "| claim | answer | verdict | effect | p (Holm) | on gpu |"
    beside = f"less than matters (0.0 points more, between 0.2 less and 0.2 more, {PAIR}; CIFAR-10, 8 seeds) |"
    assert any("(pages/a.md)" in row and row.endswith(beside) for row in rows)
    assert any("(pages/b.md)" in row and "holds (on gpu alone)" in row for row in rows)
    assert "| gpu | In small nets norms help too little. | less than matters (" in found["pages/a.md"]
    assert "At other scales" not in found["pages/b.md"]


def test_declared_claims_without_a_result_are_named(tmp_path):
    profile = CLAIM.profiles["quick"]
    claims = [replace(CLAIM, sentence=f"{name} is said.", profiles={name: profile}) for name in ("gpu", "quick")]
    claims[0] = replace(claims[0], no_quick="it needs a day.")
    report.write(tmp_path, {"quick": [content(case())]}, untried=claims)
    listed = (tmp_path / "claims.md").read_text().partition("without a result here")[2]
    assert "- gpu is said. (It has no quick profile: it needs a day.)\n- quick is said. (Not run.)" in listed


# --- the page of a claim ----------------------------------------------------------------------------------------------


def full() -> Result:
    """A result with every part, and with names of the code wherever they can stand."""
    notes = ["bn@3: best optim.lr=0.1 is on the edge of 0.1 1", "none@3: 7/8 reached the target"]
    ratio = {"scale": "log", "mean": 0.8, "low": 0.6, "high": 1.0, "threshold": 0.693, "metric": "test/accuracy"}
    tests = [
        case(notes=notes, hangs_on=["3"], mcnemar=0.01),
        case(
            regime="equal",
            role="secondary",
            verdict="contradicted",
            detail="reversed",
            mean=-0.02,
            low=-0.03,
            high=-0.01,
        ),
        case(
            test="gap",
            says="the gap is higher",
            regime="tuned_precise",
            role="control",
            verdict="no verdict",
            detail="check failed: on",
        ),
        case(
            test="faster",
            says="it needs more than twice the steps",
            role="secondary",
            is_level=False,
            claims="exceeds",
            **ratio,
        ),
        case(test="slope", role="secondary", metric="probe/gradients/relative/*", sides={"small_on@3": side(1)}),
    ]
    declared = [
        Declared("0123456789abcdef", "2026-11-19T10:00:00+00:00", 0, "0.2.0", None, None),
        Declared("ffff", "2026-11-21T10:00:00+00:00", 3, "0.2.0", None, None),
    ]
    tuning = [TunedResult("tuned", "bn@3", [["0", None], ["0.9", 0.25]], "0.9", True)]
    lines = {"tuned": {"bn": [[0.1, 0.8, 0.7, 0.9], [3, 0.9, 0.8, 0.95]]}, "equal": {"none": [[3, 0.5, 0.4, 0.6]]}}
    drawn = FigureResult("axis", dict.fromkeys(lines, "test/accuracy"), "optim.lr", lines)
    return content(*tests, tuning=tuning, figure=drawn, declared=declared, exact={"worked_example": [exact()]})


@pytest.fixture(scope="module")
def found(tmp_path_factory) -> dict[str, str]:
    """The pages of the full result, beside a folder with the articles."""
    folder = tmp_path_factory.mktemp("report")
    (folder / "docs").mkdir()
    (folder / "docs/articles.md").touch()
    return pages(folder, full())


def test_a_page_uses_no_word_of_the_code(found):
    shown = [text.partition("## How to run it")[0] for name, text in found.items() if name.endswith(".md")]
    shown += [" ".join(re.findall(r">([^<]+)</text>", text)) for name, text in found.items() if name.endswith(".svg")]
    assert len(shown) == 5  # two pages; the figure, that of the lesson, that of the other regime
    assert [CODE.findall(text) for text in shown] == [[]] * 5


def test_a_page_says_on_which_regime_the_answer_stands_and_what_the_others_say(found):
    page = found["pages/a.md"]
    equal = "under “equal settings for all” it does not hold (2 points less, between 1 and 3)"
    assert f"- The answer stands on the regime “each at its best momentum”; {equal}." in page


def test_each_primary_test_of_two_says_on_which_regime_it_stands(tmp_path):
    of_gap = {"test": "gap", "says": "the gap is higher"}
    elsewhere = {"regime": "equal", "role": "secondary"}
    tests = case(), case(**of_gap), case(**elsewhere), case(**of_gap, **elsewhere)
    answer = Answer("supported", "", ["tuned/higher", "tuned/gap"], 0.001, 0.002)
    page = pages(tmp_path, content(*tests, answer=answer))["pages/a.md"]
    where = "stands on the regime “each at its best momentum”; under “equal settings for all” it holds"
    assert f"- “{case().says.capitalize()}” {where}" in page
    assert f"- “The gap is higher” {where}" in page


@pytest.mark.parametrize(
    ("claims", "low", "high", "open_"),
    [("greater", -0.02, 0.001, True), ("greater", -0.009, 0.001, False), ("less", -0.001, 0.02, True)],
)
def test_less_than_matters_says_where_the_opposite_may_matter(claims, low, high, open_):
    small = case(verdict="negligible", claims=claims, threshold=0.01, low=low, high=high)
    found = reading(content(small, answer=Answer("negligible", "", ["tuned/higher"], 0.01, 0.02)))
    assert ("an opposite effect that matters is not ruled out" in found.marks) == open_


def test_the_same_runs_are_told_as_such():
    again = case(regime="equal", role="secondary", verdict="no verdict", detail="same runs as tuned", same_as="tuned")
    found = reading(content(case(), again))
    (said,) = found.other_regimes()
    assert said.endswith("“each at its best momentum”; under “equal settings for all” the runs are the same.")
    assert section._test(found, again)[1].text == "same runs"


def test_a_page_has_tests_by_role_and_what_the_profile_leaves_out(found):
    page = found["pages/a.md"]
    control = page.partition("## Controls")[2].partition("##")[0]
    failed = "not decided (a check failed: the arm does what it is there for)"
    assert f"| the gap is higher (with precise statistics) | {failed} |" in control
    further = page.partition("## Further tests")[2].partition("##")[0]
    steps = "it needs more than twice the steps (each at its best momentum)"
    assert f"| {steps} | holds | 2.2 times the steps, between 1.8 and 2.7 (" in further
    assert "| layer norm helps as well | not tried in this profile |" in further
    arms = page.partition("## What the arms reach")[2].partition("##")[0]
    measured = "test accuracy, precise statistics, at the end"
    level = f"90.0 ± 1.0 % ({measured}) | 0 of 8 |"
    assert f"| batch norm (learning rate 3) | each at its best momentum | {level}" in arms
    assert "| layer norm | not tried in this profile |" in arms
    assert "| learning rate 0.1 | not tried in this profile |" in arms


def test_notes_are_told_with_titles(found):
    page = found["pages/a.md"]
    about = "The accuracy is higher (each at its best momentum): "
    assert f"- {about}batch norm (learning rate 3): best learning rate 0.1 is on the edge of 0.1 1." in page
    assert f"- {about}the arms diverged unequally often, exact McNemar p = 0.01." in page
    assert f"- {about}no norm (learning rate 3): 7/8 reached the target." in page


def test_a_page_tells_changes_commands_and_links_to_what_is_there(found):
    for ending, link in (
        ("md", "[000-7](../../docs/articles.md#000-7)"),
        ("html", '<a href="../../docs/articles.md#000-7">000-7</a>'),
    ):
        assert link in found[f"pages/a.{ending}"]
        for change in (
            "2026-11-20: more seeds (nothing was decided)",
            "2026-11-19: declared before the first run (SHA-256 0123456789ab)",
            "2026-11-21: the declaration was changed after 3 runs (SHA-256 ffff)",
        ):
            assert change in found[f"pages/a.{ending}"]
        assert "bnexp claim run a --profile quick" in found[f"pages/a.{ending}"]
        assert "protocol" not in found[f"pages/a.{ending}"]
    assert found["declarations/a.yaml"] == full().declaration
    assert "16 runs, 10.0 min of core time" in found["pages/a.md"]


def test_every_link_leads_to_a_file(found):
    written = {*found, "../docs/articles.md"}
    for name, text in found.items():
        links = re.findall(r'(?:href|src)="([^"]+)"|\]\(([^)]+)\)', text) if name.endswith((".html", ".md")) else []
        goals = {os.path.normpath(Path(name).parent / (html or markdown).partition("#")[0]) for html, markdown in links}
        assert goals <= written, name
        assert goals or not name.startswith(("pages/", "claims.html", "claims.md"))


def test_tests_and_runs_lie_beside_as_tables(found):
    head, first, *_ = found["tests.csv"].splitlines()
    assert dict(zip(head.split(","), first.split(","), strict=True)).items() >= {
        ("claim", "a"),
        ("verdict", "supported"),
        ("mean", "0.02"),
        ("hodges_lehmann_low", "0.016"),
        ("n", "8"),
    }
    assert found["runs.csv"].splitlines() == ["claim,folder", "a,outputs/claims/quick/a/runs/x"]


def test_a_result_whose_declaration_is_of_another_version_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"^a\.sentence: missing$"):
        pages(tmp_path, content(case(), declaration="arms: {}"))


@pytest.mark.parametrize(
    ("floors", "shown"),
    [([0.009, 0.1], "0.90 to 10.00 points"), ([0.01, 0.01], "of 1.00 points"), ([None, None], None)],
)
def test_the_error_of_the_test_set_is_a_range_of_numbers(floors, shown):
    notes = list(section._noise_floor([case(noise_floor=floor) for floor in floors]))
    assert len(notes) == (shown is not None)
    assert all(str(shown) in note for note in notes)


# --- words ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("numbers", "shown"),
    [
        ((0.04, 0.031, 0.049), "4.0 points more, between 3.1 and 4.9"),
        ((0.04, 0.03, 0.05), "4 points more, between 3 and 5"),
        ((-0.187, -0.279, -0.094), "19 points less, between 9 and 28"),
        ((-0.003, -0.026, 0.02), "0 points less, between 2 more and 3 less"),
        ((0.02, 0.0002, 0.04), "2.00 points more, between 0.02 and 4.00"),  # the end is not 0
        ((0.0, 0.0, 0.0), "0 points more, between 0 and 0"),
        ((0.02, None, None), "2 points more"),
        ((None, None, None), ""),
    ],
)
def test_an_effect_in_points_is_more_or_less(numbers, shown):
    ends = dict(zip(("mean", "low", "high"), numbers, strict=True))
    assert words.effect(CLAIM, case(**ends)) == shown


def test_an_effect_of_one_arm_is_its_value_and_a_ratio_names_what_it_is_of():
    slope = {"test": "slope", "metric": "probe/gradients/relative/*", "sides": {"small_on@3": side(1)}}
    assert words.effect(CLAIM, case(mean=-0.0253, low=-0.04, high=-0.01, **slope)) == "-0.03, between -0.04 and -0.01"
    rate = {"test": "rate", "scale": "log10", "metric": "test/accuracy", "is_level": False}
    assert (
        words.effect(CLAIM, case(mean=1.0, low=0.5, high=1.5, **rate)) == "10 times the learning rate, between 3 and 32"
    )
    loss = {"scale": "log", "metric": "test/loss", "mean": -0.7, "low": -0.8, "high": -0.6}
    assert words.effect(CLAIM, case(**loss)) == "0.50 times the test loss, between 0.45 and 0.55"
    near = case(mean=-0.0033, low=-0.0053, high=-0.0013, threshold=0.005)  # rounded, an end would be the threshold
    assert words.effect(CLAIM, near) == "0.33 points less, between 0.13 and 0.53"
    gap = {**loss, "test": "gap"}
    between = "the gap between test accuracy and test accuracy, batch statistics"
    assert words.effect(CLAIM, case(**gap)) == f"0.50 times {between}, between 0.45 and 0.55"
    power = {"scale": "log10", "sides": {"bn@3": side(0.83), "none@3": side(-0.83)}, "threshold": 0.75}
    exponent = case(mean=0.88, low=0.79, high=0.97, **power)
    assert words.effect(CLAIM, exponent) == "an exponent of 0.88, between 0.79 and 0.97"
    assert (words.signed(exponent), words.matters(exponent)) == ("+0.88", "0.75")


def test_an_effect_without_a_unit_says_what_it_is_on():
    slope = {"test": "slope", "metric": "probe/gradients/relative/*", "sides": {"small_on@3": side(1)}}
    told = words.effect_of(CLAIM, case(mean=-0.0253, low=-0.04, high=-0.01, **slope))
    assert told == "-0.03, between -0.04 and -0.01 (slope over the layers of the logarithm of the gradient over weight)"
    assert words.effect_of(CLAIM, case()) == f"2.0 points more, between 1.5 and 2.5, {PAIR}"
    share = words.effect_of(CLAIM, case(is_level=False, metric="test/loss"))
    assert share == f"0.020 more, between 0.015 and 0.025 (test loss), {PAIR}"
    assert words.effect_of(CLAIM, case(mean=None, low=None, high=None)) == ""


def test_a_note_says_verdicts_as_the_page_does():
    told = words.note(CLAIM, "by the Hodges-Lehmann interval, which one seed moves little, it is inconclusive")
    assert told == "by the Hodges-Lehmann interval, which one seed moves little, the verdict would be: not decided"


def test_tests_that_came_out_differently_are_told_one_by_one():
    extra = case(test="extra", says="it helps as well", verdict="negligible", mean=0.001, low=-0.002, high=0.004)
    both = Answer("negligible", "", ["tuned/higher", "tuned/extra"], 0.01, 0.02)
    found = first(content(case(), extra, answer=both))
    assert "Holds: the accuracy is higher.\n\nLess than matters: it helps as well.\n" in found
    effects = f"holds: 2.0 points more, between 1.5 and 2.5, {PAIR}; less than matters: 0.1 points more, between"
    assert effects in found
    alike = first(content(case(), case(test="extra", says="it helps as well"), answer=both))
    assert "it helps as well" not in alike
    assert f"| 2.0 points more, between 1.5 and 2.5, {PAIR}; 2.0 points more, between 1.5 and 2.5, {PAIR} |" in alike


@pytest.mark.parametrize(
    ("claims", "linear", "ratio"),
    [
        ("greater", "more, by 1 point at least", "more, by a factor of 2 at least"),
        ("less", "less, by 1 point at least", "less, by a factor of 2 at least"),
        ("exceeds", "more than 1 point", "more than a factor of 2"),
        ("equal", "equal within 1 point", "equal within a factor of 2"),
        ("at_least", "at most 1 point less", "at most a factor of 2 less"),
    ],
)
def test_what_is_claimed_is_told_in_the_unit_of_the_effect(claims, linear, ratio):
    assert words.claimed(case(claims=claims)) == linear
    assert words.claimed(case(claims=claims, threshold=0.30103, scale="log10")) == ratio


@pytest.mark.parametrize(
    ("scale", "weights", "shown"),
    [
        ("linear", {"bn": 1, "none": -1}, "batch norm against no norm"),
        ("log", {"none": -1, "bn": 1}, "batch norm against no norm"),
        (
            "linear",
            {"bn@3": 1, "none@3": -1, "ln": -1, "none": 1},
            "batch norm (learning rate 3) + no norm - no norm (learning rate 3) - layer norm",
        ),
        ("linear", {"bn": -1, "none": 0.5, "ln": 0}, "0.5 no norm - batch norm"),
        ("linear", {"small_on": 1}, "the smaller net"),
        ("log10", {"bn": 1, "ln": 1, "none": -1}, "batch norm · layer norm / no norm"),
        ("log10", {"none": -0.83, "bn": 0.83}, "batch norm against no norm"),
        ("log10", {"bn": 3.32, "ln": -1.66, "none": -1.66}, "2 batch norm / layer norm / no norm"),
    ],
)
def test_a_comparison_says_which_arm_is_compared_with_which(scale, weights, shown):
    sides = {name: side(weight) for name, weight in weights.items()}
    assert words.compared(CLAIM, case(scale=scale, sides=sides)) == shown


@pytest.mark.parametrize(
    ("test", "shown"),
    [
        ("higher", "test accuracy, precise statistics, at the end"),
        ("gap", "test accuracy less test accuracy, batch statistics, after 250 steps"),
        ("faster", "steps until the test accuracy is that of batch norm at the end"),
        ("rate", "largest learning rate that works (test accuracy, after 50 % of the steps)"),
        ("slope", "slope over the layers of the logarithm of the gradient over weight, largest of the training"),
        ("on", "training loss, where the training (evaluated) loss first falls below 0.1"),
    ],
)
def test_what_is_measured_is_told_in_words(test, shown):
    assert words.measured(CLAIM, test) == shown


def test_a_share_of_runs_is_told_in_words():
    trains = replace(CLAIM.tests["higher"], measure=Measure(metric="test/accuracy", above=0.5))
    told = words.measured(replace(CLAIM, tests={"trains": trains}), "trains")
    assert told == "share of runs with more than 50 % (test accuracy, at the end)"


@pytest.mark.parametrize(
    ("metric", "at", "shown"),
    [
        ("test/accuracy_*5_batch64", "last", "test accuracy, corruptions of severity 5, batch statistics of 64 images"),
        ("test/accuracy_ema0.9005", "last", "test accuracy, running average with decay 0.9005"),
        ("test/accuracy_ema0.9_corrected", "last", "test accuracy, running average with decay 0.9, corrected"),
        ("test/accuracy_ema_weights", "last", "test accuracy, averaged weights"),
        ("probe/rank/effective/head", 1, "effective rank of the features"),
        ("probe/landscape/beta", "last", "change of the gradient over the distance (beta)"),
    ],
)
def test_an_evaluation_and_a_probe_are_told_in_words(metric, at, shown):
    asked = replace(CLAIM.tests["higher"], measure=Measure(metric=metric, at=at))
    when = "at the end" if at == "last" else "at step 1"  # a probe looks at the step itself, before its update
    assert words.measured(replace(CLAIM, tests={"one": asked}), "one") == f"{shown}, {when}"


@pytest.mark.parametrize(
    ("detail", "shown"),
    [
        ("", ""),
        ("size open", ""),
        ("same runs as tuned", "as under “each at its best momentum”"),
        ("reversed", "the opposite was seen"),
        ("n = 34 for a verdict on the effect seen", "34 seeds would be needed for the effect seen"),
        ("check failed: on", "a check failed: the arm does what it is there for"),
        ("none@3, seed 3: 0 has no logarithm", "no norm (learning rate 3), seed 3: 0 has no logarithm"),
        ("5 seeds; 6 are the fewest", "5 seeds; 6 are the fewest"),
    ],
)
def test_a_reason_is_told_in_words(detail, shown):
    assert words.reason(CLAIM, detail) == shown


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        (
            Answer("supported", "size open", ["tuned/higher"], 0.01, 0.03),
            "Holds in small nets: norms help. How large the effect is stays open.",
        ),
        (Answer("negligible", "", ["tuned/higher"], 0.01, 0.08), "In small nets norms help too little."),
        (Answer("inconclusive", "grid edge", ["tuned/higher"], 0.01, 1.0), "These runs do not decide it."),
        (Answer("no verdict", "no seed has all values", ["tuned/higher"], None, 1.0), "There is no verdict."),
    ],
)
def test_an_answer_is_the_declared_sentence_or_a_plain_one(answer, sentence):
    assert reading(content(case(), answer=answer)).sentence == sentence


def test_every_declared_claim_can_be_told():
    for name in declaration.ids(configs := Path(report.__file__).parents[3] / "configs"):
        claim = declaration.load(declaration.find(name, configs))
        for test in claim.tests:
            assert not CODE.search(words.measured(claim, test)), (name, test)


# --- figures ----------------------------------------------------------------------------------------------------------


def test_a_figure_says_the_result_and_has_the_numbers_at_the_right():
    (levels, difference) = (picture := figures.draw(reading(content(case())))).figure.axes
    compared = "Batch norm (learning rate 3) against no norm (learning rate 3)"
    title = picture.figure.get_suptitle().replace("\n", " ")
    assert title == f"{compared}: 2.0 points more, between 1.5 and 2.5"
    assert [text.get_text() for text in levels.texts] == [
        "batch norm (learning rate 3)",
        "90.0",
        "no norm (learning rate 3)",
        "90.0",
    ]
    assert difference.texts[-1].get_text() == "+2.0"
    (dots, *_) = [collection for collection in difference.collections if len(collection.get_offsets()) == 8]
    assert [x for x, _ in dots.get_offsets()] == pytest.approx([2 + 0.1 * seed for seed in range(8)])


def test_the_headline_of_several_tests_is_that_of_the_one_that_decides():
    against = case(test="gap", verdict="contradicted", mean=-0.02, low=-0.03, high=-0.01)
    answer = Answer("contradicted", "reversed", ["tuned/higher", "tuned/gap"], 0.01, 0.02)
    picture = figures.draw(reading(content(case(), against, answer=answer)))
    assert picture.figure.get_suptitle().replace("\n", " ").endswith(": 2 points less, between 1 and 3")
    small = case(test="gap", mean=0.001, low=-0.002, high=0.004)  # as good as: both hold, one says more
    picture = figures.draw(reading(content(small, case())))
    assert picture.figure.get_suptitle().replace("\n", " ").endswith(": 2.0 points more, between 1.5 and 2.5")


def test_an_axis_with_a_single_value_is_no_axis():
    levels, _ = figures.draw(reading(content(case(), figure=panel("axis", [4])))).figure.axes
    assert levels.texts[0].get_text() == "batch norm (learning rate 3)"


def test_an_svg_has_the_colours_of_light_and_dark_pages(tmp_path):
    figures.save(figures.draw(reading(content(case(verdict="contradicted")))), tmp_path)
    svg = (tmp_path / "a.svg").read_text()
    style = re.search(r"<style>(.*?)</style>", svg)[1]
    light, dark = style.split("@media(prefers-color-scheme:dark)")
    name = re.search(r"--(c\d):#b8480a", light)[1]
    assert f"--{name}:#ff8a45" in dark
    assert f"fill: var(--{name})" in svg
    assert "#b8480a" not in svg.replace(style, "")


def panel(kind: str, values: list) -> FigureResult:
    lines = {"bn": [[value, 0.5, 0.4, 0.6] for value in values]}
    return FigureResult(kind, {"tuned": "test/accuracy"}, "optim.lr", {"tuned": lines})


@pytest.mark.parametrize(
    ("values", "scale", "ticks"),
    [
        ([3, 5, 20], "linear", "3 5 20"),
        ([0.01, 0.3, 10], "log", "0.01 0.3 10"),
        ([0, 0.01, 0.3], "symlog", "0 0.01 0.3"),
        (["torch", "xavier"], "linear", "torch xavier"),
        ([2**power for power in range(8)], "log", "1 4 16 64"),
    ],
)
def test_an_axis_has_its_values_as_ticks_but_not_too_many(values, scale, ticks):
    axes, _ = figures.draw(reading(content(case(), figure=panel("axis", values)))).figure.axes
    assert " ".join(filter(None, (label.get_text() for label in axes.get_xticklabels()))) == ticks
    assert (axes.get_xscale(), list(axes.get_xticks(minor=True))) == (scale, [])
    assert axes.get_title(loc="left") == "Test accuracy, %"
    assert [text.get_text() for text in axes.texts] == ["batch norm 50.0"]


@pytest.mark.parametrize(("values", "lines"), [([3, 5], 1), (["torch", "xavier"], 0)])
def test_there_is_no_line_between_categories(values, lines):
    axes, _ = figures.draw(reading(content(case(), figure=panel("axis", values)))).figure.axes
    assert sum(line.get_linestyle() == "-" for line in axes.get_lines()) == lines
    assert [line.get_marker() for line in axes.get_lines()] == ["o"]


def test_a_lesson_draws_the_arms_of_its_answer_alone():
    lines = {name: [[1, 0.5, 0.4, 0.6], [2, 0.6, 0.5, 0.7]] for name in ("bn@3", "small_on@3", "none@3")}
    drawn = FigureResult("curves", {"tuned": "test/accuracy"}, None, {"tuned": lines})
    (axes,) = figures.draw_small(reading(content(case(), figure=drawn))).figure.axes
    assert [text.get_text().split(" (")[0].split("\n")[0] for text in axes.texts] == ["batch norm", "no norm"]


def test_without_numbers_there_is_no_figure():
    assert figures.draw(reading(content(UNDECIDED))) is None
    assert figures.draw_small(reading(content(exact={"some": [exact()]}))) is None
