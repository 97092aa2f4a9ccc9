"""Runs that say strange things: reading never raises, and whatever was read can be written in every form."""

from __future__ import annotations

import copy
import csv
import io
import json
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_compare import write_run

from bnexp.cli.compare import main
from bnexp.compare import bands, comparison, figures, page
from bnexp.compare.formats import FORMATS
from bnexp.compare.tables import document
from bnexp.runs.collect import Run, Skip, collect

STRANGE = [
    *(-1, 10**400, -(10**400), 2**63, 1e308, float("nan"), float("-inf"), True, None, "", [], {}, [[1, [2]], {"a": 1}]),
    *("\ud800", "$", "$x_$", "a$\\frac$", "_x", "=1+1", "a\nb", "\x00\x1b[2J", "<b>&", "a/b", "y" * 2000, "日本"),
]
JSON = st.recursive(
    st.sampled_from(STRANGE) | st.integers() | st.floats() | st.text(max_size=5) | st.text("$\ud800\\{_=", max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)


def places(node, path=()):
    """Every place in a document: a path of keys."""
    for key, value in node.items():
        yield (*path, key)
        if isinstance(value, dict):
            yield from places(value, (*path, key))


@st.composite
def mutated(draw, sane):
    """A run.json of which one to three places say something else, are named otherwise, or are gone."""
    facts = copy.deepcopy(sane)
    for _ in range(draw(st.integers(1, 3))):
        *above, key = draw(st.sampled_from(sorted(places(facts))))
        node = facts
        for name in above:
            node = node[name]
        what = draw(st.sampled_from(["replace", "rename", "remove"]))
        value = node.pop(key)
        if what != "remove":
            node[key if what == "replace" else draw(st.text(max_size=5))] = draw(JSON) if what == "replace" else value
    return facts


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Four whole runs, and one to be overwritten."""
    root = tmp_path_factory.mktemp("runs")
    for norm in ("bn", "gn"):
        for seed in (0, 1):
            write_run(root / f"{norm}{seed}", norm=norm, seed=seed, accuracy=0.9 + seed / 100)
    write_run(root / "strange", norm="ln")
    return root


SANE = {
    **{"format": 1, "name": "a", "status": "finished", "config_hash": "abc", "overrides": [], "seconds": 2.0},
    "config": {"norm": {"name": "ln", "eps": 1e-5}, "optim": {"lr": 0.3, "betas": [0.9, 0.99]}, "steps": 5, "seed": 0},
    "final": {"test/accuracy": 0.8, "validation/accuracy": 0.7},
    "best": {"test/accuracy": {"value": 0.8, "step": 5}},
    **{"classes": 10, "provenance": {"started": "2026"}, "failure": None},
}


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(facts=mutated(SANE))
@pytest.mark.slow
def test_what_a_run_says_never_ends_a_comparison(folder, facts):
    (folder / "strange" / "run.json").write_text(json.dumps(facts))
    runs, skips = collect([folder])
    assert len(runs) + len(skips) == 5
    assert all(isinstance(run, Run) for run in runs)
    assert all(isinstance(skip, Skip) and "\n" not in skip.reason for skip in skips)
    for options in ({}, {"best": "optim.lr", "baseline": ["norm=bn"]}):
        compared = comparison.compare([str(folder)], **options)
        for name, write in FORMATS.items():
            text = write(document(compared))
            text.encode()
            assert text.endswith("\n")
            if name == "json":
                json.loads(text, parse_constant=pytest.fail)


@pytest.mark.filterwarnings("ignore:constrained_layout not applied")  # names of several long words
@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(facts=mutated(SANE))
@pytest.mark.slow
def test_what_a_run_says_never_ends_a_figure_or_a_page(folder, tmp_path_factory, facts):
    (folder / "strange" / "run.json").write_text(json.dumps(facts))
    assert draw_everything(folder, tmp_path_factory.mktemp("made"))


def draw_everything(runs: Path, out: Path) -> str:
    """Pages and figures of a comparison; the text of the first figure."""
    compared = comparison.compare([str(runs)])
    page.write(out / "page.html", compared)
    bands.write(out / "board", compared.arms, compared.metric)
    figures.write(out / "figures", compared)
    dots = ElementTree.parse(out / "figures" / "dots.svg")
    return "".join(dots.getroot().itertext())


@pytest.mark.parametrize("first", range(0, len(STRANGE), 5))
@pytest.mark.slow
def test_strange_values_of_a_setting_are_drawn_as_text(tmp_path, first):
    values = STRANGE[first : first + 5]
    write_run(tmp_path / "runs" / "a", settings={"activation": "relu"})
    for number, value in enumerate(values):
        write_run(tmp_path / "runs" / f"b{number}", settings={"activation": value}, seconds=-1, classes=10**400)
    drawn = draw_everything(tmp_path / "runs", tmp_path / "made")
    for value in values:
        if isinstance(value, str) and value.isprintable():
            assert value[:29] in drawn


def test_a_dollar_is_no_mathematics_in_names_of_settings_and_metrics(tmp_path):
    for name in ("a", "b"):
        write_run(tmp_path / "runs" / name, settings={"$\\frac": f"${name}_1$"})
    assert {"$\\frac", "$a_1$", "$b_1$"} <= set(draw_everything(tmp_path / "runs", tmp_path / "made").split())


def test_csv_holds_no_formula_of_a_spreadsheet(tmp_path, capsys):
    names = ["=1+1", "+1", "-x", "@a", "  =1", "-0.5", "relu"]
    for seed, name in enumerate(names):
        write_run(tmp_path / f"{seed}", lr=-0.5 - seed, settings={"=key": name})
    main([str(tmp_path), "--format", "csv"])
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    by_name = {row["'=key"]: row for row in rows}
    assert set(by_name) == {*(f"'{name}" for name in names[:-1]), "relu"}
    assert {row["arm"][:2] for row in rows} == {"op"}
    assert float(by_name["relu"]["optim.lr"]) == -6.5  # a number is no formula


def test_the_file_of_a_sweep_that_is_damaged_is_told(tmp_path, capsys):
    write_run(tmp_path / "s" / "a")
    (tmp_path / "s" / "sweep.json").write_text('{"format": 1')
    assert [(skip.folder, skip.reason) for skip in collect([tmp_path / "s"])[1]] == [
        (tmp_path / "s", "sweep.json: empty, cut or not JSON")
    ]
    assert main([str(tmp_path / "s"), "-v"]) == 0
    assert "sweep.json: empty, cut or not JSON" in capsys.readouterr().out
