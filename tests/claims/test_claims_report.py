"""The page of the claims: what its sentences, tables and figures say of a result."""

from __future__ import annotations

import csv
import itertools
import re

import pytest
from results import case, content, exact, side

from bnexp.claims.answers import Answer
from bnexp.claims.report import cells, figures, section
from bnexp.claims.report import page as report
from bnexp.claims.result import FigureResult, Result


def pages(folder, *results: Result) -> tuple[str, str]:
    paths = report.write(folder / "page", results, runs_at=folder)
    assert [path.name for path in paths] == ["claims.html", "claims.md", "seeds.csv"]
    html, markdown = (path.read_text(encoding="utf-8") for path in paths[:2])
    return html, markdown


def test_the_numbers_of_every_seed_are_one_table(tmp_path):
    sides = {"bn@0.1": side(1, values={"0": 0.75, "10": None}), "=none": side(-1, values={"0": 0.5, "10": 0.125})}
    pages(tmp_path, content(case(sides=sides, differences={"0": 0.25})))
    with (tmp_path / "page/seeds.csv").open(encoding="utf-8") as file:
        head, *rows = csv.reader(file)
    assert head == ["claim", "profile", "regime", "test", "side", "seed", "value", "difference"]
    assert rows == [
        ["a", "quick", "equal", "higher", "bn@0.1", "0", "0.75", "0.25"],
        ["a", "quick", "equal", "higher", "bn@0.1", "10", "", ""],
        ["a", "quick", "equal", "higher", "'=none", "0", "0.5", "0.25"],
        ["a", "quick", "equal", "higher", "'=none", "10", "0.125", ""],
    ]


UNDECIDED = case(
    verdict="no verdict",
    detail="no seed has all values",
    differences={},
    **dict.fromkeys(("mean", "sd", "low", "high", "d_z", "p")),
    robust=[],
)


def test_no_verdict_is_not_counted_as_inconclusive(tmp_path):
    html, markdown = pages(tmp_path, content(case(), UNDECIDED))
    for page in (html, markdown):
        assert "1 claim: 1 supported. 2 tests. 16 runs, 10.0 min of core time." in page
        assert "no verdict (no seed has all values)" in page


def test_exact_checks_are_counted_by_their_numbers(tmp_path):
    rows = {"some_check": [exact(), exact(expected=2.0, holds=False), exact(measured=None, holds=False)]}
    _, markdown = pages(tmp_path, content(exact=rows, runs=0, run_seconds=0.0))
    assert "1 claim. 0 tests. Exact checks: 1 of 3 numbers as expected. 0 runs, " in markdown
    assert "| some check | does not hold | exact | 3 numbers |" in markdown
    assert "| some check | x | 1 | 2 | 0.1 | does not hold |" in markdown
    assert "| some check | x | - | 1 | 0.1 | does not hold |" in markdown


def test_the_summary_has_a_row_a_claim_and_verdicts_stand_before_regimes(tmp_path):
    html, markdown = pages(tmp_path, content(case()))
    assert "| test | verdict | regime | effect, interval | n | p |" in markdown
    about = "a · supported, p (Holm) 0.002 · 10.0 min of core time"
    assert f"| **[Norms help.](#a)** ({about}) |  |  |  |  |  |" in markdown
    assert (
        "| the accuracy is higher (primary) | supported | equal | +2.00 [+1.50, +2.50] pp (bn - none) | 8 | 0.0078 |"
        in markdown
    )
    assert f'<th colspan="7"><a href="#a">Norms help.</a> <small>{about}</small></th>' in html
    assert 'class="strip supported"' in html


def test_time_is_that_of_the_runs_and_not_of_the_last_command(tmp_path):
    for page in pages(tmp_path, content(case())):
        assert page.count("10.0 min of core time") == 3  # in all, in the summary, at the claim
        assert "0.25 s" not in page


def test_links_lead_to_the_runs_without_a_path_of_the_machine(tmp_path):
    for page in pages(tmp_path, content(case())):
        assert "Runs (on the machine that made them)" in page
        assert "../outputs/claims/quick/a/runs/x/" in page
        assert str(tmp_path) not in page


@pytest.mark.parametrize(
    ("scale", "weights", "shown"),
    [
        ("linear", {"bn": 1, "none": -1}, "bn - none"),
        ("linear", {"a": 1, "b": -1, "c": -1, "d": 1}, "a - b - c + d"),
        ("linear", {"a": -1, "b": 0.5, "c": 0}, "- a + 0.5 b"),
        ("linear", {"bn": 1}, "bn"),
        ("log", {"none": -1, "bn": 1}, "bn / none"),
        ("log10", {"a": 1, "b": -1, "c": -1, "d": 1}, "a · d / (b · c)"),
        ("log", {"a": 2, "b": -1}, "a^2 / b"),
        ("log", {"a": -1}, "1 / a"),
        ("log", {"a": 1}, "a"),
        ("linear", {}, ""),
    ],
)
def test_an_effect_says_which_arm_is_compared_with_which(scale, weights, shown):
    sides = {name: side(weight) for name, weight in weights.items()}
    assert cells._contrast(case(scale=scale, sides=sides)) == shown


@pytest.mark.parametrize(
    ("claims", "linear", "ratio", "level"),
    [
        ("greater", "above 2 pp", "ratio above 2", ""),
        ("less", "below -2 pp", "ratio below 0.5", ""),
        ("exceeds", "above 2 pp", "ratio above 2", ""),
        ("equal", "-2 to 2 pp", "ratio 0.5 to 2", " · 90 %"),
        ("at_least", "above -2 pp", "ratio above 0.5", " · 90 %"),
    ],
)
def test_a_table_says_what_is_claimed_and_the_level_of_its_interval(tmp_path, claims, linear, ratio, level):
    assert cells.claimed(case(claims=claims, threshold=0.02)).text == linear
    assert cells.claimed(case(claims=claims, threshold=0.30103, scale="log10")).text == ratio
    _, markdown = pages(tmp_path, content(case(claims=claims)))
    assert f"(bn - none{level})" in markdown


@pytest.mark.parametrize(
    ("answer", "shown"),
    [
        (Answer("supported", "size open", ["x/y"], 0.01, 0.03), "supported (size open), p (Holm) 0.03"),
        (
            Answer("negligible", "", ["x/y"], 0.01, 0.08),
            "negligible, which does not survive the adjustment for all claims, p (Holm) 0.08",
        ),
        (Answer("inconclusive", "grid edge", ["x/y"], 0.01, 1.0), "inconclusive (grid edge)"),
        (Answer("supported", "", ["x/y"], 0.01), "supported"),  # in a terminal, one claim is alone
        (None, ""),
    ],
)
def test_an_answer_wears_what_the_adjustment_takes_from_it(answer, shown):
    assert cells.answered(content(case(), answer=answer)) == shown


def test_a_verdict_shows_on_which_seeds_it_hangs_and_what_the_robust_interval_says():
    fragile = case(detail="size open", hangs_on=["3"], robust_verdict="inconclusive")
    assert cells.verdict(fragile).text == "supported (size open; hangs on one seed)"
    assert cells.verdict(fragile).kind == "supported"
    assert (cells.robust(fragile).text, cells.robust(fragile).note) == ("+2.00 [+1.60, +2.40]", "inconclusive")
    assert cells.robust(case(robust=[0.02, None, None])).text == "+2.0"
    assert cells.robust(UNDECIDED).text == "-"
    assert cells.robust(case()).note == ""


def test_what_each_arm_sets_stands_under_arms(tmp_path):
    _, markdown = pages(tmp_path, content(case()))
    text = "none: norm=none; bn: norm=bn, starts from plain; on: nothing of its own; name@value: model.depth=value."
    assert f"### Arms\n\nWhat each arm sets. {text}" in markdown.replace("\\", "")


@pytest.mark.parametrize(
    ("test", "shown"),
    [
        ("higher", "test/accuracy"),
        ("gap", "test/accuracy - test/accuracy_batch"),
        ("faster", "steps to test/accuracy"),
    ],
)
def test_the_table_of_arms_says_what_is_measured(tmp_path, test, shown):
    _, markdown = pages(tmp_path, content(case(test=test)))
    assert f"| {test} | equal | bn | +1 | {shown} | 0.900 ± 0.010 | 8 | 0/8 |" in markdown.replace("\\", "")


@pytest.mark.parametrize(
    ("floors", "shown"), [([0.009, 0.1], "0.90 to 10.00 pp"), ([0.01, 0.01], "of 1.00 pp"), ([None, None], None)]
)
def test_the_error_of_the_test_set_is_a_range_of_numbers(floors, shown):
    notes = list(section._noise_floor(content(*(case(noise_floor=floor) for floor in floors))))
    assert len(notes) == (shown is not None)
    assert all(str(shown) in note for note in notes)


# --- figures ----------------------------------------------------------------------------------------------------------


def test_differences_have_the_colours_of_their_verdicts():
    tests = [case(), *(case(verdict=word) for word in ("contradicted", "negligible", "inconclusive"))]
    svg = figures.inline(figures.draw(content(*tests)))
    colours = [re.search(r"var\(--\w+\)", mark)[0] for mark in re.findall(r"fill: [^;]*; fill-opacity", svg)]
    assert list(dict.fromkeys(colours)) == ["var(--good)", "var(--bad)", "var(--soft)"]


@pytest.mark.parametrize("largest", [0.1, 5, 40, 2000])
def test_numbers_under_differences_do_not_overlap(largest):
    differences = {"0": -0.005 * largest, "1": 0.01 * largest}
    picture = figures.draw(content(case(differences=differences)))
    (axes,) = picture.figure.axes
    low, high = axes.get_xlim()
    labels = [label for label in axes.get_xticklabels() if low <= label.get_position()[0] <= high]
    boxes = [label.get_window_extent() for label in labels]
    assert "0" in [label.get_text() for label in labels]
    assert all(left.x1 < right.x0 for left, right in itertools.pairwise(boxes))


def panel(kind: str, values: list) -> FigureResult:
    lines = {"bn": [[value, 0.5, 0.4, 0.6] for value in values]}
    return FigureResult(kind, "test/accuracy", "model.depth", {"equal": lines})


@pytest.mark.parametrize(
    ("values", "scale"), [([3, 5, 20], "linear"), ([0.01, 0.3, 10], "log"), (["torch", "xavier"], "linear")]
)
def test_an_axis_has_its_values_as_ticks(values, scale):
    picture = figures.draw(content(case(), figure=panel("axis", values)))
    (axes,) = picture.figure.axes
    assert [label.get_text() for label in axes.get_xticklabels()] == [str(value) for value in values]
    assert (axes.get_xscale(), list(axes.get_xticks(minor=True))) == (scale, [])
    assert picture.caption == "test accuracy: mean over seeds, with 95 % interval."


@pytest.mark.parametrize(("values", "lines"), [([3, 5], 1), (["torch", "xavier"], 0)])
def test_there_is_no_line_between_categories(values, lines):
    (axes,) = figures.draw(content(case(), figure=panel("axis", values))).figure.axes
    assert sum(line.get_linestyle() == "-" for line in axes.get_lines()) == lines
    assert [line.get_marker() for line in axes.get_lines()] == ["o"]


def test_curves_say_that_diverged_runs_are_left_out():
    picture = figures.draw(content(case(), figure=panel("curves", [1, 2])))
    assert picture.caption == "test accuracy: mean over the runs that did not diverge, with 95 % interval."
