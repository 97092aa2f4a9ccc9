"""What programs read: one object on standard output, in the shapes that docs/scripting.md writes down."""

from __future__ import annotations

import csv
import io
import json
import re

import pytest
from conftest import ROOT, SMALL, SMALL_RUN
from made import make_run

from bnexp.compare.formats import FORMATS

DOC = (ROOT / "docs" / "scripting.md").read_text(encoding="utf-8")


def shape(command: str) -> set[str]:
    """The keys that the page promises for a command: the row of its table that begins with the command."""
    (row,) = [line for line in DOC.splitlines() if line.startswith(f"| `{command}` |")]
    return set(re.findall(r"`(\w+)`", row.split("|")[2]))


def keys(answer, command: str):
    """The object that a command printed, whose keys are those that the page promises."""
    found = json.loads(answer.out)
    assert set(found) == shape(command)
    return found


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_run(tmp_path / "outputs" / "one", "norm=gn")
    make_run(tmp_path / "outputs" / "two", "norm=ln")
    return tmp_path


@pytest.mark.parametrize(
    "command",
    ["list", "list norms", "runs", "show", "diff outputs/one outputs/two", "compare outputs", "claim list"],
)
@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.slow
def test_every_answer_in_every_format(bnexp, place, command, form):
    answer = bnexp(*command.split(), "--format", form)
    assert answer.code == 0, answer
    match form:
        case "json":
            name = command.removesuffix(" norms").removesuffix(" outputs").removesuffix(" outputs/one outputs/two")
            keys(answer, name)
            assert bnexp(*command.split(), "--json").out == answer.out
        case "csv":
            head, *rows = csv.reader(io.StringIO(answer.out))
            assert rows
            assert {len(row) for row in rows} == {len(head)}
        case "markdown":
            assert re.search(r"^\| [^\n]+ \|\n\| -", answer.out, re.MULTILINE)
        case "latex":
            assert answer.out.count("\\begin{tabular}") == answer.out.count("\\end{tabular}") > 0
        case "table":
            assert answer.out == bnexp(*command.split()).out


def test_train_resume_show_and_evaluate_say_the_same_of_a_run(bnexp, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    trained = bnexp("train", *SMALL_RUN, "hydra.run.dir=run", "--json")
    found = keys(trained, "train")
    assert (found["status"], found["folder"], found["step"]) == ("finished", "run", 21)
    assert "epoch 3" in trained.err
    assert json.loads(bnexp("resume", "run", "--json").out) == found
    assert json.loads(bnexp("show", "run", "--format", "json").out) == found
    measured = keys(bnexp("evaluate", "run", "--split", "test", "--json"), "evaluate")
    by_kind = {row["statistics"]: row for row in measured["rows"]}
    assert by_kind["running"]["accuracy"] == found["final"]["test/accuracy"]
    assert by_kind["precise"]["accuracy"] == found["final"]["test/accuracy_precise"]
    assert next(csv.reader(io.StringIO(bnexp("train", *SMALL_RUN, "hydra.run.dir=run", "--format", "csv").out))) == [
        *("metric", "last", "best", "at step")
    ]


def test_a_sweep_answers_with_its_jobs(bnexp, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = (*SMALL, "steps=2", "norm=bn,ln", "hydra.sweep.dir=both")
    answer = bnexp("train", "-m", *words, "--json")
    found = keys(answer, "train -m")
    assert {(job["name"], job["status"]) for job in found["jobs"]} == {("norm=bn", "finished"), ("norm=ln", "finished")}
    assert all(set(job["final"]) >= {"test/accuracy"} for job in found["jobs"])
    assert "norm=bn  finished" in answer.err
    again = bnexp("resume", "both", "--json")
    assert (json.loads(again.out), again.err) == (found, "")


def test_what_a_users_module_prints_is_no_part_of_the_answer(bnexp, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "chatty.py").write_text("print('hello')")
    answer = bnexp("train", *SMALL, "steps=1", "imports=[chatty]", "hydra.run.dir=run", "--json")
    assert json.loads(answer.out)["status"] == "finished"
    assert "hello" in answer.err


def test_what_is_wrong_is_said_on_standard_error_in_json_too(bnexp, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    answer = bnexp("train", "norm=bm", "--json")
    assert "norm=bm: not known" in answer.complaint
    assert answer.out == ""
    assert "argument --format: invalid choice: 'xml'" in bnexp("train", "--format", "xml").complaint
    assert list(tmp_path.iterdir()) == []


def test_claims_answer_with_their_results(bnexp, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    declaration = "sentence: It grows.\nsources: [nobody]\nliterature: ''\nconfounds: ''\nwould_change: ''\n"
    (tmp_path / "growth.yaml").write_text(f"{declaration}exact: [bias_growth]\n")
    answer = bnexp("claim", "run", "growth.yaml", "--profile", "quick", "--json")
    assert answer.code == 0, answer
    (result,) = keys(answer, "claim run")["claims"]
    assert (result["claim"], list(result["exact"])) == ("growth", ["bias_growth"])
    assert "growth (quick)" in answer.err
    written = keys(bnexp("claim", "report", "outputs/claims/quick", "--json"), "claim report")
    assert [path.rpartition("/")[2] for path in written["files"]] == ["claims.html", "claims.md", "seeds.csv"]


def test_every_command_that_answers_has_its_row():
    rows = re.findall(r"^\| `([a-z -]+)` \|", DOC, re.MULTILINE)
    assert rows == [
        *("train", "train -m", "resume", "show", "runs", "diff", "compare", "evaluate", "bench", "list"),
        *("claim list", "claim new", "claim run", "claim power", "claim report"),
    ]
