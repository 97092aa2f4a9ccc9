"""Impossible cells of a sweep: named before anything is made, or skipped and counted."""

from __future__ import annotations

import json
import os

import pytest
from conftest import SMALL_RUN

from bnexp.experiment import setup

GRID = ("train", "-m", *SMALL_RUN, "hydra.sweep.dir=s", "norm=bn,ln", "batch_size=1,50")
REFUSED = "batch_size=1,norm=bn"
SKIP = "hydra.sweeper.skip_invalid=true"


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_job_is_named_and_nothing_is_left(bnexp, here):
    answer = bnexp(*GRID)
    assert answer.code == 2
    assert answer.err.startswith(f"bnexp: job {REFUSED}: norm=bn: ")
    assert answer.err.endswith(f"; {SKIP} runs the rest\n")
    assert answer.err.count("\n") == 1
    assert list(here.iterdir()) == []


@pytest.mark.slow
def test_several_are_counted_and_different_faults_of_all_jobs_have_no_rest(bnexp, here):
    answer = bnexp("train", "-m", *SMALL_RUN, "norm=bn,ln", "optim.lr=-1,-2", "hydra.sweep.dir=s")
    assert answer.err == "bnexp: job norm=bn,optim.lr=-1: optim.lr=-1.0: out of range; " + (
        "allowed is above 0; 3 more cannot run\n"
    )
    answer = bnexp("train", "-m", *SMALL_RUN, "norm=bn,ln", "optim.lr=-1,-2", "hydra.sweep.dir=s", SKIP)
    assert answer.err.startswith("bnexp: every job is refused; norm=bn,optim.lr=-1: optim.lr=-1.0: out of range")
    assert list(here.iterdir()) == []


@pytest.mark.parametrize("launcher", ["local", "basic", "stacked"])
@pytest.mark.slow
def test_the_rest_is_run_and_the_refused_are_counted(bnexp, here, launcher):
    answer = bnexp(*GRID, SKIP, f"hydra/launcher={launcher}")
    assert answer.code == 0, answer
    assert f"refused: {REFUSED}: norm=bn: " in answer.out
    assert "sweep: 1 refused, 3 finished, of 4 jobs in s" in answer.out
    jobs = {job["name"]: job for job in json.loads((here / "s" / "sweep.json").read_text())["jobs"]}
    assert [job["state"] for job in jobs.values()] == ["refused", "finished", "finished", "finished"]
    assert jobs[REFUSED]["reason"].startswith("norm=bn: ")
    assert not (here / "s" / REFUSED).exists()
    compared = bnexp("compare", "s", "-v")
    assert "Refused before the start: 1." in compared.out
    assert "Folders skipped" not in compared.out
    again = bnexp("resume", "s")
    assert (again.code, again.err) == (0, "")
    assert "sweep: 1 refused, 3 finished, of 4 jobs in s" in again.out


@pytest.mark.slow
def test_what_no_run_can_have_is_refused_for_its_job_alone(bnexp, here):
    words = ("train", "-m", *SMALL_RUN, "hydra.sweep.dir=s", "epochs=0,1", "precision=fp32,fp31")
    answer = bnexp(*words)
    assert answer.complaint == (
        "bnexp: job epochs=0,precision=fp32: epochs=0: out of range; allowed is at least 1 and at most 1000000000; "
        "2 more cannot run; hydra.sweeper.skip_invalid=true runs the rest"
    )
    assert list(here.iterdir()) == []
    answer = bnexp(*words, SKIP)
    assert answer.code == 0, answer
    assert "sweep: 3 refused, 1 finished, of 4 jobs in s" in answer.out
    assert "refused: epochs=1,precision=fp31: precision=fp31: not known; did you mean fp32?" in answer.out
    assert "Refused before the start: 3." in bnexp("compare", "s", "-v").out
    assert bnexp("resume", "s").code == 0


def test_a_stack_that_ends_well_is_not_told_as_one_that_failed(bnexp, here):
    answer = bnexp("train", "-m", *SMALL_RUN, "hydra.sweep.dir=s", "seed=0,1", "hydra/launcher=stacked")
    assert answer.code == 0, answer
    assert "sweep: 2 finished, of 2 jobs" in answer.out
    assert "stacked jobs ended together" not in answer.err


FAILS = """
from bnexp.experiment import setup

def cannot_capture(work):
    raise RuntimeError("no capture here")

setup.recorder = lambda config, device, draws: cannot_capture
"""


@pytest.mark.slow
def test_steps_that_cannot_be_captured_are_told_once(bnexp, here, monkeypatch):
    """A user's module makes every capture fail, as a driver may; nobody reads the logs of all jobs."""
    (here / "failing.py").write_text(FAILS)
    monkeypatch.setattr(setup, "recorder", setup.recorder)  # should the module be imported by this process, too
    monkeypatch.setenv("PYTHONPATH", f"{here}:{os.environ['PYTHONPATH']}")
    answer = bnexp("train", "-m", *SMALL_RUN, "hydra.sweep.dir=s", "seed=0,1,2", "imports=[failing]")
    assert answer.code == 0, answer
    told = [line for line in answer.err.splitlines() if "capture" in line]
    assert len(told) == 1
    assert told[0].endswith(": CUDA graph capture failed (no capture here); it ran kernel by kernel")
    executor = json.loads((here / "s" / "seed=0" / "run.json").read_text())["executor"]
    assert executor == {"stacked": 1, "graph": False, "capture_failed": "no capture here"}


def test_settings_that_some_values_lack_are_left_out(bnexp, here):
    words = ("train", "-m", *SMALL_RUN, "hydra.sweep.dir=s", "norm=gn,bn", "norm.groups=2,4")
    answer = bnexp(*words)
    said = f"{' '.join(SMALL_RUN)} norm=bn norm.groups=2: norm.groups: there is no such setting"
    assert answer.complaint == f"bnexp: {said}; {SKIP} runs the rest"
    assert list(here.iterdir()) == []
    answer = bnexp(*words, SKIP)
    assert answer.code == 0, answer
    assert f"left out 2 of 4 combinations, as {said}\n" in answer.err
    assert "combinations are" not in answer.err
    assert "sweep: 2 finished, of 2 jobs in s" in answer.out
    typo = bnexp("train", "-m", *SMALL_RUN, "hydra.sweep.dir=t", "norm=gn,bn", "norm.epz=2,4", SKIP)
    assert typo.complaint.startswith("bnexp: norm.epz: there is no such setting; did you mean norm.eps? (allowed: ")
