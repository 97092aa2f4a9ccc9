"""``bnexp runs``, ``show``, ``diff`` and ``tag``: last week's runs, found, read, compared, marked and removed."""

from __future__ import annotations

import io
import json
import os
import re
import sys

import pytest
from conftest import SMALL, SMALL_RUN, composed
from made import make_run

from bnexp.config import compose
from bnexp.config.defaults import changed
from bnexp.config.schema import config_hash, to_dict
from bnexp.runs import run_json, sweep_json
from bnexp.runs.storage import held


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    """A working folder with runs of a morning: alone, in a sweep, and of a claim."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TZ", "UTC")
    make_run(tmp_path / "outputs" / "early", "norm=gn", "norm.groups=4", accuracy=0.7, hour=6)
    for seed, accuracy in ((0, 0.9), (1, 0.8)):
        words = ("norm=ln", f"seed={seed}", "optim.lr=0.1")
        make_run(tmp_path / "outputs" / "sweep" / f"seed={seed}", *words, accuracy=accuracy, hour=7 + seed)
    make_run(tmp_path / "outputs" / "claims" / "a", "norm=bn", "tags=[claim]", hour=9)
    return tmp_path


def folders(answer):
    assert answer.code == 0, answer
    return [run["folder"].removeprefix("outputs/") for run in json.loads(answer.out)["runs"]]


def test_runs_come_newest_first_with_what_differs(bnexp):
    answer = bnexp("runs")
    head, _, first, second, third, _, note = answer.out.splitlines()
    assert head.split("  ")[0] == "started"
    assert first.split() == [
        "2026-11-21",
        "08:46",
        "norm=ln,seed=1,optim.lr=0.1",
        "0.8000",
        "finished",
        "outputs/sweep/seed=1",
    ]
    assert second.split()[2] == "norm=ln,seed=0,optim.lr=0.1"
    assert third.split()[2] == "norm=gn,seed=0,norm.groups=4"
    assert note == "1 runs of claims and smoke tests left out; --all takes them too."


def test_a_column_of_tags_is_there_where_a_run_has_one(bnexp):
    heads, rows = {}, {}
    for words in ([], ["--all"]):
        head, _, *lines = bnexp("runs", *words).out.splitlines()
        heads[len(words)] = re.split(r"  +", head.rstrip())
        rows[len(words)] = lines[0].split()
    assert "tags" not in heads[0]
    assert heads[1][-3:] == ["status", "tags", "folder"]
    assert rows[1][-3:] == ["finished", "claim", "outputs/claims/a"]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("", ["sweep/seed=1", "sweep/seed=0", "early"]),
        ("--all", ["claims/a", "sweep/seed=1", "sweep/seed=0", "early"]),
        ("--tag claim", ["claims/a"]),
        ("--where norm=ln seed=0", ["sweep/seed=0"]),
        ("--where norm=ln --where seed=0", ["sweep/seed=0"]),
        ("--tag claim --tag claim", ["claims/a"]),
        ("--sort test/accuracy", ["sweep/seed=0", "sweep/seed=1", "early"]),
        ("--sort test/loss", ["sweep/seed=0", "sweep/seed=1", "early"]),
        ("--sort norm", ["early", "sweep/seed=1", "sweep/seed=0"]),
        ("--sort seed -n 2", ["sweep/seed=0", "early"]),
    ],
)
def test_runs_are_chosen_and_sorted(bnexp, words, expected):
    assert folders(bnexp("runs", *words.split(), "--json")) == expected


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("runs nowhere", "nowhere: no such folder"),
        ("runs --where norm=in", "--where norm=in: no run has it"),
        ("runs --tag god", "--tag god: no run has it (there are: claim)"),
        ("runs --sort test/acuracy", "--sort=test/acuracy: no run has it; did you mean test/accuracy?"),
        ("runs --metric test/acuracy", "--metric=test/acuracy: no run has it; did you mean test/accuracy?"),
        ("runs --sort nrm", "--sort=nrm: these runs have no such setting; did you mean norm?"),
        ("runs outputs/claims", "1 runs of claims and smoke tests, and no others; --all takes them too"),
        ("runs --where norm=ln norm=bn", "--where norm=ln and norm=bn: no run has both; name one"),
        ("runs -n 0", "argument -n/--number: 0: expected a whole number from 1"),
        ("runs -n -2", "argument -n/--number: -2: expected a whole number from 1"),
        ("runs --prune all", "argument --prune: invalid choice: 'all'"),
        ("runs --prune folders", "--prune: asks before it removes, and nobody is there to answer; --yes does not ask"),
        ("runs --format xml", "argument --format: invalid choice: 'xml'"),
        ("show nowhere", "nowhere: there is no such folder"),
        ("diff outputs/early", "the following arguments are required: RUN"),
        ("tag outputs/early", "tag: expected +TAG to add a tag"),
        ("tag outputs/early good", "tag: good: expected +TAG"),
        ("tag outputs/early +a,b", "tags=a,b: no tag; allowed is a word of letters, digits"),
        ("tag nowhere +good", "nowhere: there is no such folder"),
        ("train tags=[a+b]", "tags=a+b: no tag"),
        ("compare outputs/claims", "1 runs of claims and smoke tests, and no others; --all takes them too"),
        ("resume", "outputs: no run or sweep in there was interrupted; name the folder of one"),
    ],
)
def test_what_is_wrong_costs_one_line(bnexp, monkeypatch, words, said):
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    answer = bnexp(*words.split())
    assert said in answer.complaint
    assert answer.out == ""


def test_compare_leaves_claims_out_unless_asked(bnexp):
    assert "1 runs of claims and smoke tests left out" in bnexp("compare", "outputs", "--by", "norm").out
    arms = json.loads(bnexp("compare", "outputs", "--by", "norm", "--all", "--json").out)["arms"]
    assert [arm["arm"] for arm in arms] == ["norm=bn", "norm=gn", "norm=ln"]


def test_a_run_on_one_screen(bnexp, place):
    answer = bnexp("show", "outputs/early")
    rows = dict(line.split(maxsplit=1) for line in answer.out.splitlines() if "  " in line)
    assert rows["status"] == "finished"
    assert rows["started"] == "2026-11-21 06:46"
    assert rows["command"] == "bnexp train norm=gn norm.groups=4"
    assert rows["differs"] == "norm=gn (bn), norm.groups=4 (8)"
    assert rows["trained"] == "21 of 21 steps in 2.5 s on cpu by bnexp 0.1.0, torch None"
    assert rows["test/accuracy"].split() == ["0.7000", "0.7000", "14"]
    assert "probe/x/y" not in answer.out
    assert answer.err == ""


def test_without_a_folder_the_newest_run_is_shown_and_said(bnexp):
    answer = bnexp("show")
    assert answer.err == "newest: outputs/sweep/seed=1\n"
    assert "bnexp train norm=ln seed=1 optim.lr=0.1" in answer.out
    answer = bnexp("evaluate")
    assert answer.err.splitlines()[0] == "newest: outputs/sweep/seed=1"
    assert "outputs/sweep/seed=1: has no checkpoint" in answer.err


def test_how_to_go_on_with_a_run_that_stopped(bnexp, place):
    make_run(place / "outputs" / "late one", "norm=bn", *SMALL_RUN, hour=10, status="interrupted", step=7)
    make_run(place / "outputs" / "killed", "norm=bn", "imports=[my_lab]", hour=11, status="running", step=9)
    assert "status   interrupted at 7 of 21" in bnexp("show", "outputs/late one").out
    assert "go on    bnexp resume 'outputs/late one'" in bnexp("show", "outputs/late one").out
    assert "go on    bnexp resume outputs/killed --imports my_lab" in bnexp("show", "outputs/killed").out
    with held(place / "outputs" / "killed"):
        assert json.loads(bnexp("show", "outputs/killed", "--json").out)["status"] == "running"
        assert bnexp("resume").err.startswith("newest: outputs/late one\n")
    answer = bnexp("resume")
    assert answer.err.startswith("newest: outputs/killed\n")
    assert "imported only if you type the same" in answer.err


def test_own_modules_and_failures_are_shown(bnexp, place):
    failure = {"reason": "RuntimeError: broke", "lines": []}
    folder = make_run(place / "own", "norm=bn", status="failed", failure=failure)
    saved = json.loads((folder / "run.json").read_text())
    saved["config"]["norm"] = {"name": "peak"}
    del saved["digest"]
    (folder / "run.json").write_text(json.dumps(saved))
    out = bnexp("show", "own").out
    assert "bnexp train --config-dir DIR norm=bn" in out
    assert "failure  RuntimeError: broke" in out


def test_the_newest_unfinished_sweep_is_resumed(bnexp, place):
    entries = [
        {"name": f"seed={seed}", "overrides": [], "config": {}, "config_hash": "", "state": "finished"}
        for seed in (0, 1)
    ]
    for entry in entries:
        saved = run_json.read(place / "outputs" / "sweep" / entry["name"])
        entry |= {"config": saved["config"], "config_hash": saved["config_hash"]}
    config = {**entries[0]["config"], "seed": 2}
    waiting = {
        "name": "seed=2",
        "overrides": [],
        "config": config,
        "config_hash": config_hash(config),
        "state": "waiting",
    }
    launcher = compose.launcher("local", place.parents[0] and compose.Path(__file__).parents[2] / "configs")
    sweep = {"command": [], "launcher": {**launcher, "skip_invalid": False}}
    sweep_json.write(place / "outputs" / "sweep", sweep | {"jobs": entries})
    assert "no run or sweep in there was interrupted" in bnexp("resume").complaint
    sweep_json.write(place / "outputs" / "sweep", sweep | {"jobs": [*entries, waiting]})
    with held(place / "outputs" / "sweep"):
        assert "no run or sweep in there was interrupted" in bnexp("resume").complaint
    assert bnexp("resume", "--imports", "other").err.startswith("newest: outputs/sweep\n")


def test_a_length_alone_is_of_what_was_interrupted_last(bnexp, place):
    make_run(place / "outputs" / "late", "norm=none", status="interrupted", hour=10)
    said = bnexp("resume", "epochs=0").complaint
    assert said == "bnexp: epochs=0: expected a whole number, at least 1"
    answer = bnexp("resume", "steps=4")
    assert answer.err.splitlines() == [
        "newest: outputs/late",
        "bnexp: steps=4: outputs/late has trained 21 steps, and this is only 4; give more",
    ]


def test_two_runs_side_by_side(bnexp):
    found = json.loads(bnexp("diff", "outputs/early", "outputs/sweep/seed=1", "--json").out)
    assert found["settings"] == {
        "norm.name": ["gn", "ln"],
        "norm.groups": [4, None],
        "norm.uneven": ["nearest", None],
        "optim.lr": [0.05, 0.1],
        "seed": [0, 1],
    } | {
        key: value
        for key, value in found["settings"].items()
        if key not in ("norm.name", "norm.groups", "optim.lr", "seed")
    }
    assert found["final"]["test/accuracy"] == [0.7, 0.8]
    out = bnexp("diff", "outputs/early", "outputs/sweep/seed=1").out
    assert "+0.1000" in out
    assert "The settings are the same." in bnexp("diff", "outputs/early", "outputs/early").out


def test_tags_change_nothing_else_and_not_while_the_run_is_in_use(bnexp, place):
    folder = place / "outputs" / "early"
    before = run_json.read(folder)
    assert bnexp("tag", "outputs/early", "+good", "+tried").out == "tags of outputs/early: good tried\n"
    assert bnexp("tag", "outputs/early", "-tried", "+good").out == "tags of outputs/early: good\n"
    after = run_json.read(folder)
    assert after["config"]["tags"] == ["good"]
    assert config_hash(after["config"]) == after["config_hash"] == before["config_hash"]
    for facts in (before, after):
        del facts["digest"], facts["config"]["tags"]
    assert before == after
    assert folders(bnexp("runs", "--tag", "good", "--json")) == ["early"]
    with held(folder):
        assert "in use by another bnexp process" in bnexp("tag", "outputs/early", "+more").complaint


def test_notes_are_taken_literally_and_change_no_hash(bnexp):
    note = "it's lr=0.3, {larger}: [better]?"
    answer = bnexp("train", *SMALL_RUN, "steps=1", f"notes={note}", "tags=[a,b]", "hydra.run.dir=noted", "--json")
    assert answer.code == 0, answer
    found = json.loads(answer.out)
    assert (found["notes"], found["tags"]) == (note, ["a", "b"])
    plain = to_dict(compose.plain(composed(*SMALL_RUN, "steps=1")))
    assert found["config_hash"] == config_hash(plain)
    assert not found["command"].count("notes")
    assert json.loads(bnexp("train", *SMALL_RUN, "steps=1", "hydra.run.dir=noted", "--json").out)["notes"] == note


# --- removal ----------------------------------------------------------------------------------------------------------


def furnish(folder):
    for name in ("checkpoint.pt", "checkpoint.previous.pt", "metrics.csv", "timing.csv", "train.log"):
        (folder / name).write_text("x" * 1000)
    (folder / ".hydra").mkdir()
    (folder / ".hydra" / "config.yaml").write_text("")


def test_checkpoints_go_and_results_stay(bnexp, place):
    folder = place / "outputs" / "early"
    furnish(folder)
    furnish(place / "outputs" / "claims" / "a")
    answer = bnexp("runs", "--prune", "checkpoints", "--yes")
    assert answer.out == "removed the checkpoints of 3 runs (0.0 MiB)\n"
    assert {path.name for path in folder.iterdir()} == {"run.json", "metrics.csv", "timing.csv", "train.log", ".hydra"}
    assert (place / "outputs" / "claims" / "a" / "checkpoint.pt").exists()


def test_only_runs_that_match_go_and_nothing_of_others(bnexp, place):
    early, swept = place / "outputs" / "early", place / "outputs" / "sweep" / "seed=0"
    for folder in (early, swept):
        furnish(folder)
    (swept / "my_plot.py").write_text("mine")
    stranger = place / "outputs" / "stranger"
    stranger.mkdir()
    (stranger / "run.json").write_text('{"some": "other program"}')
    answer = bnexp("runs", "--prune", "folders", "--where", "seed=0", "--yes")
    assert answer.out.splitlines() == [
        "removed the folders of 2 runs (0.0 MiB)",
        "left: outputs/sweep/seed=0, in which there are files of others",
    ]
    assert not early.exists()
    assert [path.name for path in swept.iterdir()] == ["my_plot.py"]
    assert (place / "outputs" / "sweep" / "seed=1" / "run.json").exists()
    assert (stranger / "run.json").exists()


def test_only_the_listed_runs_go(bnexp, place):
    words = ("--sort", "test/accuracy", "-n", "2")
    listed = folders(bnexp("runs", *words, "--json"))
    assert bnexp("runs", *words, "--prune", "folders", "--yes").out == "removed the folders of 2 runs (0.0 MiB)\n"
    left = folders(bnexp("runs", "--json"))
    assert len(left) == 1
    assert not {*left} & {*listed}


@pytest.mark.parametrize("locked", ["outputs/early", "outputs/sweep"])
def test_nothing_goes_while_one_of_the_runs_is_in_use(bnexp, place, locked):
    (place / "outputs" / "sweep" / "sweep.json").write_text("{}")
    with held(place / locked):
        assert f"{locked}: in use by another bnexp process" in bnexp("runs", "--prune", "folders", "--yes").complaint
    assert len(list((place / "outputs").rglob("run.json"))) == 4


@pytest.mark.parametrize(("typed", "left"), [("y\n", 1), ("n\n", 4), ("", 4)])
def test_removal_asks_at_a_terminal(bnexp, place, monkeypatch, typed, left):
    terminal = io.StringIO(typed)
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stdin", terminal)
    answer = bnexp("runs", "--prune", "folders")
    assert "Remove the folders of 3 runs (0.0 MiB) for good? [y/N]" in answer.err
    assert len(list((place / "outputs").rglob("run.json"))) == left


def test_runs_behind_a_link_are_not_removed(bnexp, place):
    (place / "outputs" / "early").rename(place / "elsewhere")
    os.symlink("../elsewhere", place / "outputs" / "link")
    answer = bnexp("runs", "outputs", "--prune", "folders", "--yes")
    assert (answer.code, answer.complaint) == (
        2,
        "bnexp: outputs/link: a link; name the folder that it leads to, or remove the link",
    )
    assert (place / "elsewhere" / "run.json").exists()
    os.symlink("outputs", place / "all")
    (place / "outputs" / "link").unlink()
    assert bnexp("runs", "all", "--prune", "folders", "--yes").code == 0  # the link that the user has named


def test_a_link_is_not_followed_out_of_the_folder(bnexp, place):
    outside = place / "precious.pt"
    outside.write_text("mine")
    os.symlink(outside, place / "outputs" / "early" / "checkpoint.pt")
    bnexp("runs", "--prune", "folders", "--where", "norm=gn", "--yes")
    assert outside.read_text() == "mine"


def test_what_differs_from_the_defaults():
    def differs(*words):
        return {key: value for key, (value, _) in changed(to_dict(compose.plain(composed(*words)))).items()}

    assert differs() == {}
    assert differs("norm=gn", "norm.groups=4") == {"norm.name": "gn", "norm.groups": 4}
    assert differs("probes=[ics]", "probes.ics.every=7") == {"probes.ics.name": "ics", "probes.ics.every": 7}
    assert differs("ema=[0.9]", "notes=x", "data=mnist", "data.root=/x") == {"ema": [0.9], "data.name": "mnist"}


def test_an_evaluation_of_a_diverged_run_says_that_it_diverged_later(bnexp, tmp_path):
    words = ("norm=none", "optim.lr=1e18", "steps=9", "checkpoint_every=1", f"hydra.run.dir={tmp_path / 'run'}")
    assert bnexp("train", *SMALL, *words).code == 0
    at = json.loads((tmp_path / "run" / "run.json").read_text())["diverged_at"]
    said = " ".join(bnexp("evaluate", str(tmp_path / "run")).out.split())
    assert f"at step {at - 1}, before it diverged at step {at} split" in said
