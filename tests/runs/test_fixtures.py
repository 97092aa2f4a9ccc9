"""Folders that version 0.1.0 has written: still read, compared, evaluated and resumed."""

from __future__ import annotations

import itertools
import json
import shutil
from pathlib import Path

import pytest
from conftest import composed

from bnexp.config.compose import plain
from bnexp.config.schema import to_dict
from bnexp.experiment.job import saved_job
from bnexp.experiment.run import run
from bnexp.runs import checkpoint, run_json
from bnexp.runs.arms import group
from bnexp.runs.collect import collect
from bnexp.runs.metrics import curve, curves, seconds

FIXTURES = Path(__file__).parent / "fixtures"
# Folder -> (status, steps done, whether there is a checkpoint), as they were when they were written.
WRITTEN = {
    "bias_in_norm/norm=none": ("interrupted", 501, True),
    "bias_in_norm/norm=weight_norm": ("interrupted", 501, True),
    "diverged": ("diverged", 5, False),
    "finished": ("finished", 10, True),
    "interrupted": ("interrupted", 501, True),
    "sweep/norm=bn": ("finished", 1500, True),
    "sweep/norm=ln": ("interrupted", 533, True),
}


@pytest.fixture
def folders(tmp_path) -> Path:
    """A copy, which may be written."""
    return Path(shutil.copytree(FIXTURES, tmp_path / "folders"))


def test_they_are_small_and_nothing_is_left_out_of_git():
    files = [path for path in FIXTURES.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 90_000
    assert {path.parent.relative_to(FIXTURES).as_posix() for path in FIXTURES.rglob("checkpoint.pt")} == {
        name for name, (_, _, saved) in WRITTEN.items() if saved
    }


@pytest.mark.parametrize(("name", "facts"), WRITTEN.items(), ids=WRITTEN)
def test_what_they_say_is_read(name, facts):
    status, step, saved = facts
    found = run_json.read(FIXTURES / name)
    state = checkpoint.load(FIXTURES / name)
    assert (found["status"], found["step"], state is not None) == (status, step, saved)
    assert state is None or (state["step"], state["config_hash"]) == (found["step"], found["config_hash"])
    assert seconds(FIXTURES / name) > 0


def test_their_curves_are_read():
    assert curve(FIXTURES / "finished", "test/accuracy") == {5: 0.2, 10: 0.22}
    assert curves(FIXTURES / "finished")["probe/gradients/norm/hidden1"] == {
        1: 0.4569075405597687,
        10: 0.6665018796920776,
    }
    for name in ("finished", "sweep/norm=bn"):
        last = {tag: points[max(points)] for tag, points in curves(FIXTURES / name).items()}
        assert last == run_json.read(FIXTURES / name)["final"]


def test_all_are_found(folders):
    runs, skips = collect([folders])
    assert skips == []
    assert {run.folder.relative_to(folders).as_posix(): run.status for run in runs} == {
        name: status for name, (status, _, _) in WRITTEN.items()
    }


def test_they_are_compared(bnexp, folders):
    answer = bnexp("compare", str(folders), "--by", "norm", "--format", "json")
    assert (answer.code, answer.err) == (0, "")
    values = {arm["arm"]: arm["values"] for arm in json.loads(answer.out)["arms"]}
    assert values == {
        "norm=bn": {"0": pytest.approx((0.22 + 0.72) / 2)},
        "norm=ln": {},
        "norm=none": {"0": 0.1},
        "norm=weight_norm": {},
    }
    assert "The same run twice (equal config hash), only the newest used: 1 older left out." in answer.out


def test_a_finished_one_is_evaluated_to_what_it_came_to(bnexp, folders):
    answer = bnexp("evaluate", str(folders / "finished"), "--split", "test")
    rows = {line.split()[1]: line.split()[2:] for line in answer.out.splitlines() if line.startswith("test")}
    final = run_json.read(folders / "finished")["final"]
    for kind, suffix in (("running", ""), ("precise", "_precise")):
        accuracy, loss = map(float, rows[kind])
        assert accuracy == pytest.approx(final[f"test/accuracy{suffix}"], abs=0.021)  # one image of 50
        assert loss == pytest.approx(final[f"test/loss{suffix}"], rel=1e-3)


@pytest.mark.parametrize("name", ["finished", "diverged"])
def test_one_that_has_ended_is_not_trained_again(bnexp, folders, name):
    before = (folders / name / "metrics.csv").stat().st_mtime_ns
    answer = bnexp("resume", str(folders / name))
    assert (answer.code, answer.out.partition(":")[0]) == (0, name)
    assert (folders / name / "metrics.csv").stat().st_mtime_ns == before


def test_an_interrupted_one_is_resumed_to_the_end_that_an_undisturbed_one_has(bnexp, folders):
    assert bnexp("resume", str(folders / "interrupted")).code == 0
    assert run_json.read(folders / "interrupted")["status"] == "finished"
    # The sweep has the same config; the last bits may be others on this machine.
    resumed, undisturbed = curves(folders / "interrupted"), curves(FIXTURES / "sweep/norm=bn")
    assert {tag: list(steps) for tag, steps in resumed.items()} == {
        tag: list(steps) for tag, steps in undisturbed.items()
    }
    assert resumed["train/loss"] == pytest.approx(undisturbed["train/loss"], rel=0.05)


# Where the version that wrote bias_in_norm was after 20 more steps: the sum of its losses over images, and the norms of
# its parameters, by the names that they have now. (1000 steps more, and the rounding of a CPU decides.)
TWENTY_STEPS_ON = {
    "none": {
        "loss": 356.814636,
        "hidden1.linear.weight": 7.203166,
        "hidden1.linear.bias": 0.436265,
        "hidden2.linear.weight": 3.820517,
        "hidden2.linear.bias": 3.135570,
        "head.weight": 7.210897,
        "head.bias": 7.571628,
    },
    "weight_norm": {
        "loss": 860.103760,
        "hidden1.linear.parametrizations.weight.original": 3.507429,
        "hidden1.linear.bias": 1.627996,
        "hidden1.norm.gain": 3.905928,
        "hidden2.linear.parametrizations.weight.original": 3.258334,
        "hidden2.linear.bias": 1.305671,
        "hidden2.norm.gain": 3.183262,
        "head.weight": 4.118495,
        "head.bias": 0.590690,
    },
}


@pytest.mark.parametrize("norm", TWENTY_STEPS_ON)
def test_one_whose_biases_are_still_in_the_norms_goes_on_as_its_own_version_would(folders, norm):
    folder, steps = folders / f"bias_in_norm/norm={norm}", itertools.count(1)
    assert "hidden2.norm.bias" in checkpoint.load(folder)["parameters"]
    run([saved_job(folder)], stop=lambda: next(steps) == 20)
    state = checkpoint.load(folder)
    found = {name: float(parameter.norm()) for name, parameter in state["parameters"].items()}
    assert state["step"] == 521
    assert found | {"loss": state["progress"]["loss"]} == pytest.approx(TWENTY_STEPS_ON[norm], rel=1e-4)


def test_one_whose_biases_are_still_in_the_norms_is_evaluated_and_started_from(bnexp, folders):
    folder = folders / "bias_in_norm/norm=none"
    answer = bnexp("evaluate", str(folder), "--split", "test")
    loss = answer.out.split()[-1]
    # The checkpoint is that of step 501; the run was evaluated one step before.
    assert float(loss) == pytest.approx(curve(folder, "test/loss")[500], rel=0.1)
    small = ("model=mlp", "model.depth=2", "model.width=4", "data=digits", "data.size=4", "steps=2", "norm=none")
    new = bnexp("train", *small, f"init_from={folder}", f"hydra.run.dir={folders / 'new'}")
    assert new.code == 0, new


@pytest.mark.slow
def test_an_interrupted_sweep_is_resumed(bnexp, folders):
    before = (folders / "sweep/norm=bn/run.json").read_bytes()
    answer = bnexp("resume", str(folders / "sweep"))
    assert answer.code == 0
    assert "sweep: 2 finished, of 2 jobs" in answer.out
    assert (folders / "sweep/norm=bn/run.json").read_bytes() == before
    assert run_json.read(folders / "sweep/norm=ln")["step"] == 1500


def test_a_new_run_with_the_settings_of_an_old_one_is_in_its_arm(folders):
    old = folders / "sweep/norm=bn"
    facts = json.loads((old / "run.json").read_text())
    new = Path(shutil.copytree(old, folders / "new"))
    config = to_dict(plain(composed(*facts["overrides"], "seed=5")))
    assert config.keys() > facts["config"].keys()
    (new / "run.json").write_text(json.dumps({**facts, "config": config, "config_hash": "other"}))
    runs, skips = collect([old, new])
    assert skips == []
    assert [len(arm.runs) for arm in group(runs)] == [2]
