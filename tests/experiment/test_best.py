"""The best checkpoint by validation accuracy, and runs that stop early by it; both exact after a stop or a kill."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import SMALL_RUN, composed
from test_resume import StopAt, left_behind

from bnexp.compare.bands import mean_curve
from bnexp.config.compose import plain
from bnexp.experiment.job import Job
from bnexp.experiment.run import run
from bnexp.experiment.setup import build
from bnexp.record import Record
from bnexp.runs import checkpoint, run_json
from bnexp.runs.arms import group
from bnexp.runs.collect import collect
from bnexp.runs.logbook import Logbook

# A rate at which the validation accuracy goes up and down; the last step has an evaluation that only the end makes.
WORDS = (*SMALL_RUN, "optim.lr=1", "data.test_limit=60", "eval_train=60", "eval_every=2", "checkpoint_every=5")
BEST = (*WORDS, "optim.lr=2", "seed=2", "checkpoint_best=true")
STOP = (*WORDS, "epochs=20", "stop_after=3", "checkpoint_best=true")


def job(folder: Path, *words: str) -> Job:
    return Job(plain(composed(*words)), folder, folder.name)


def validated(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Steps and validation accuracies, from metrics.csv."""
    with (folder / "metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["metric"] == "validation/accuracy"]
    return np.array([int(row["step"]) for row in rows]), np.array([float(row["value"]) for row in rows])


def first_best(folder: Path) -> int:
    steps, values = validated(folder)
    return int(steps[values.argmax()])  # the first of equal ones


def stop_of(folder: Path, patience: int) -> int | None:
    """The step at which so many evaluations have followed the best one, from metrics.csv alone."""
    steps, values = validated(folder)
    ends = [n for n in range(len(values)) if n - values[: n + 1].argmax() >= patience]
    return int(steps[ends[0]]) if ends else None


def left(folder: Path) -> tuple:
    state, rows, curves = left_behind(folder)
    facts = run_json.read(folder)
    told = {key: facts.get(key) for key in ("status", "step", "stopped_at", "final", "best")}
    return state, rows, curves, checkpoint.digest(checkpoint.load_best(folder)), told


@pytest.fixture(scope="module")
def quiet(tmp_path_factory):
    folder = tmp_path_factory.mktemp("quiet") / "run"
    run([job(folder, *BEST)], stop=StopAt(0))
    return folder


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stopped") / "run"
    run([job(folder, *STOP)], stop=StopAt(0))
    return folder


def test_it_is_what_the_run_was_after_the_best_evaluation(quiet, tmp_path):
    step, best = first_best(quiet), checkpoint.load_best(quiet)
    assert 2 < step < 20, "a case that the test is for"
    run([job(tmp_path / "run", *BEST)], stop=StopAt(step))
    there = checkpoint.load(tmp_path / "run")
    assert (best["step"], there["step"]) == (step, step)
    assert checkpoint.digest(best) == checkpoint.digest(there)


@pytest.mark.parametrize("step", [1, 5, 8, 13, 20])
def test_stopped_and_resumed_it_is_the_same(quiet, tmp_path, step):
    run([job(tmp_path / "run", *BEST)], stop=StopAt(step))
    run([job(tmp_path / "run", *BEST)], stop=StopAt(0))
    assert left(tmp_path / "run") == left(quiet)


def test_a_best_checkpoint_from_behind_the_last_one_gives_way_to_the_one_before(quiet, tmp_path):
    """What a kill leaves between the best evaluation and the next checkpoint."""
    folder = tmp_path / "run"
    run([job(folder, *BEST)], stop=StopAt(7))
    before = checkpoint.load_best(folder)
    checkpoint.save_best(folder, {**before, "step": 9})
    run([job(folder, *BEST)], stop=StopAt(1))
    assert checkpoint.digest(checkpoint.load_best(folder)) == checkpoint.digest(before) or first_best(folder) == 8
    run([job(folder, *BEST)], stop=StopAt(0))
    assert left(folder) == left(quiet)


def test_a_damaged_one_is_said_and_made_again(quiet, tmp_path, bnexp, caplog):
    folder = tmp_path / "run"
    run([job(folder, *BEST)], stop=StopAt(3))
    (folder / "checkpoint.best.pt").write_bytes(b"x")
    assert "checkpoint.best.pt: damaged" in bnexp("evaluate", str(folder), "--best").complaint
    run([job(folder, *BEST)], stop=StopAt(0))
    assert "checkpoint.best.pt: damaged" in caplog.text
    assert left(folder) == left(quiet)


def test_it_is_evaluated_and_started_from(bnexp, quiet, tmp_path):
    step = first_best(quiet)
    answer = bnexp("evaluate", str(quiet), "--best", "--split", "validation")
    assert f"at step {step}\n" in answer.out
    assert f"{validated(quiet)[1].max():10.4f}" in answer.out
    config = plain(composed(*WORDS, f"init_from={quiet}", "init_from_best=true", "pixel_scale=own"))
    started, best = build([config], stacked=False).population.states()(0), checkpoint.load_best(quiet)
    torch.testing.assert_close(started["parameters"], best["parameters"], rtol=0, atol=0)
    assert not torch.equal(started["parameters"]["head.weight"], checkpoint.load(quiet)["parameters"]["head.weight"])


def test_where_there_is_none_one_line_says_so(bnexp, quiet, tmp_path):
    folder = Path(shutil.copytree(quiet, tmp_path / "run"))
    (folder / "checkpoint.best.pt").unlink()
    line = f"{folder}: has no checkpoint.best.pt; a run keeps it with checkpoint_best=true"
    assert bnexp("evaluate", str(folder), "--best").complaint == f"bnexp: {line}"
    words = ("train", *WORDS, f"hydra.run.dir={tmp_path}/new")
    assert bnexp(*words, f"init_from={folder}", "init_from_best=true").complaint.endswith(line)
    assert "init_from_best=true: needs init_from" in bnexp(*words, "init_from_best=true").complaint
    for word in ("checkpoint_best=true", "stop_after=2"):
        line = f"bnexp: {word}: needs validation images; use data.validation=0.1"
        assert bnexp(*words, word, "data.validation=0").complaint == line
    assert not (tmp_path / "new").exists()


def test_ties_go_to_the_first_and_a_value_that_is_no_number_is_no_better(tmp_path):
    config = plain(composed(*WORDS))
    facts = {"config": vars(config), "steps": 9, "name": "x"}
    book = Logbook(tmp_path, facts, after=None)
    counts = []
    for step, value in enumerate((0.5, 0.6, 0.6, float("nan"), 0.6, 0.7), 1):
        book.enter(Record(step, 0.0, {"validation/accuracy": [value], "test/accuracy": [1.0 - step / 9]}), 0, 0.0, 0.0)
        counts.append((book.best_step, book.without_improvement))
    book.close()
    assert counts == [(1, 0), (2, 0), (2, 1), (2, 2), (2, 3), (6, 0)]


def test_a_run_stops_early_where_its_metrics_say(bnexp, stopped, tmp_path):
    run([job(tmp_path / "run", *STOP, "stop_after=null")], stop=StopAt(0))
    step = stop_of(tmp_path / "run", 3)
    facts = run_json.read(stopped)
    assert 8 < step < 140, "a case that the test is for"
    assert (facts["status"], facts["step"], facts["stopped_at"], facts["steps"]) == ("finished", step, step, 140)
    rows = (stopped / "metrics.csv").read_bytes()
    assert (tmp_path / "run" / "metrics.csv").read_bytes().startswith(rows), "until then the run is the same"
    assert checkpoint.load(stopped)["step"] == step
    said = bnexp("resume", str(stopped)).out
    assert said.startswith(f"finished: stopped early at step {step} of 140, stop_after=3 evaluations without a better")
    assert f"{step} steps in" in said
    line = f"{stopped}: stopped early at step {step}, and a longer run stops there too (stop_after=3)"
    assert line in bnexp("resume", str(stopped), "epochs=30").complaint


@pytest.mark.parametrize("back", [1, 4, 7])
def test_interrupted_it_stops_at_the_same_step(stopped, tmp_path, back):
    folder = tmp_path / "run"
    run([job(folder, *STOP)], stop=StopAt(run_json.read(stopped)["step"] - back))
    run([job(folder, *STOP)], stop=StopAt(0))
    assert left(folder) == left(stopped)


def test_killed_between_its_last_checkpoint_and_its_end_it_trains_no_further(stopped, tmp_path):
    folder = Path(shutil.copytree(stopped, tmp_path / "run"))
    facts = run_json.read(folder)
    run_json.write(folder, {**{key: facts[key] for key in facts if key != "stopped_at"}, "status": "running"})
    run([job(folder, *STOP)], stop=StopAt(0))
    assert left(folder) == left(stopped)


@pytest.mark.parametrize("stacked", [False, True], ids=["one by one", "stacked"])
@pytest.mark.slow
def test_each_member_of_a_stack_stops_by_itself(tmp_path, stacked):
    words = {name: (*STOP, f"optim.lr={lr}", "epochs=6") for name, lr in (("a", 0.02), ("b", 2), ("c", 1))}

    def jobs(place: str) -> list[Job]:
        return [job(tmp_path / place / name, *given) for name, given in words.items()]

    run(jobs("stack"), stop=StopAt(0), stacked=stacked)
    ends = {name: run_json.read(tmp_path / "stack" / name).get("stopped_at") for name in words}
    assert ends == {name: stop_of(tmp_path / "stack" / name, 3) for name in words}
    assert len(set(ends.values())) > 1, "a case that the test is for"
    run(jobs("again"), stop=StopAt(7), stacked=stacked)
    run(jobs("again"), stop=StopAt(0), stacked=stacked)
    for each in jobs("alone"):
        assert left(tmp_path / "again" / each.name) == left(tmp_path / "stack" / each.name)
        if not stacked:  # where members train at once, rounding may decide which evaluation is the best
            run([each], stop=StopAt(0))
            assert left(tmp_path / "stack" / each.name) == left(each.folder)


def test_curves_of_runs_that_stopped_are_compared_up_to_the_first_stop(bnexp, stopped, tmp_path):
    run([job(tmp_path / "full", *STOP, "seed=1", "stop_after=null")], stop=StopAt(0))
    shutil.copytree(stopped, tmp_path / "stopped")
    runs, _ = collect([tmp_path])
    (arm,) = group(runs, by=["norm.name"])
    assert max(mean_curve(arm, "test/accuracy")) == run_json.read(stopped)["step"]
    told = json.loads(bnexp("compare", str(tmp_path), "--by", "norm", "--format", "json").out)
    assert told["arms"][0]["n"] == 2
    assert (
        "Stopped early (stop_after), with the values of the step where each stopped: 1 run"
        in bnexp("compare", str(tmp_path), "--by", "norm").out
    )
