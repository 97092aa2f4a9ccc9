"""A stack of runs is many runs: the same folders, and the same numbers as each alone, within rounding."""

from __future__ import annotations

import csv
import json
import os
import re
import signal
from pathlib import Path

import pytest
import torch
from conftest import SMALL_RUN, composed
from processes import Ended, begin, furnish, survivors, until

from bnexp.config.compose import plain
from bnexp.config.schema import shape, to_dict
from bnexp.experiment import worker
from bnexp.experiment.job import Job
from bnexp.experiment.run import run
from bnexp.norms import NORMS
from bnexp.runs import checkpoint

# Everything that a member could share by mistake: norm statistics, momentum, dropout, batch order, augmentation, the
# norm of its gradient, averages of its weights.
WORDS = (
    *(*SMALL_RUN, "norm=bn", "model.dropout=0.2", "data.crop=1", "data.flip=true", "checkpoint_every=4"),
    *("clip_grad=0.5", "label_smoothing=0.1", "accumulate=3", "ema_weights=0.8"),
)
MEMBERS = {
    "a": ("seed=0", "optim.lr=0.1", "optim.momentum=0.9"),
    "b": ("seed=1", "optim.lr=0.03", "optim.momentum=0.0", "optim.weight_decay=0.001"),
    "c": ("seed=0", "optim.lr=0.1", "init.gain=0.5"),
}


def jobs(place: Path, members=MEMBERS) -> list[Job]:
    return [Job(plain(composed(*WORDS, *words)), place / name, name) for name, words in members.items()]


def never() -> bool:
    return False


class After:
    def __init__(self, steps: int) -> None:
        self.left = steps

    def __call__(self) -> bool:
        self.left -= 1
        return self.left == 0


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    place = tmp_path_factory.mktemp("alone")
    for job in jobs(place):
        run([job], stop=never)
    return place


def numbers(folder: Path) -> dict[tuple[str, str], float]:
    with (folder / "metrics.csv").open() as file:
        return {(row["step"], row["metric"]): float(row["value"]) for row in csv.DictReader(file)}


def agree(folder: Path, expected: Path) -> None:
    """Equal but for the rounding of float32 over 21 steps; an accuracy may differ by one image in 500 or 200."""
    ours, theirs = numbers(folder), numbers(expected)
    assert ours.keys() == theirs.keys()
    for key, value in theirs.items():
        assert ours[key] == pytest.approx(value, rel=2e-3, abs=6e-3 if "accuracy" in key[1] else 1e-4), key
    state, wanted = checkpoint.load(folder), checkpoint.load(expected)
    torch.testing.assert_close(state["parameters"], wanted["parameters"], rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(state["buffers"], wanted["buffers"], rtol=1e-3, atol=1e-4)
    assert (state["step"], state["config_hash"]) == (wanted["step"], wanted["config_hash"])


@pytest.mark.parametrize("stacked", [False, True], ids=["one by one", "stacked"])
def test_members_are_what_they_are_alone(tmp_path, alone, caplog, stacked):
    caplog.set_level("INFO", logger="bnexp")
    outcomes = run(jobs(tmp_path), stop=never, stacked=stacked)
    assert [outcome.status for outcome in outcomes] == ["finished"] * 3
    for name in MEMBERS:
        agree(tmp_path / name, alone / name)
        assert {path.name[:10] for path in (tmp_path / name).iterdir()} == {
            path.name[:10] for path in (alone / name).iterdir()
        }
        ours, theirs = (json.loads((place / name / "run.json").read_text()) for place in (tmp_path, alone))
        assert ours.keys() == theirs.keys()
        assert (ours["name"], ours["config"]) == (theirs["name"], theirs["config"])
        log = (tmp_path / name / "train.log").read_text()
        assert f"{name}  epoch 1" in log
        assert not any(f"{other}  epoch" in log for other in MEMBERS if other != name)


@pytest.mark.parametrize("stacked", [False, True], ids=["one by one", "stacked"])
def test_a_member_that_diverges_disturbs_nobody(tmp_path, alone, stacked):
    members = {"wild": ("seed=5", "optim.lr=1e30"), **MEMBERS}
    outcomes = run(jobs(tmp_path, members), stop=never, stacked=stacked)
    assert [outcome.status for outcome in outcomes] == ["diverged"] + ["finished"] * 3
    for name in MEMBERS:
        agree(tmp_path / name, alone / name)
    run([*jobs(tmp_path / "x", {"wild": members["wild"]})], stop=never)
    wild = [json.loads((folder / "wild" / "run.json").read_text()) for folder in (tmp_path, tmp_path / "x")]
    assert wild[0]["diverged_at"] == wild[1]["diverged_at"]
    assert numbers(tmp_path / "wild").keys() == numbers(tmp_path / "x" / "wild").keys()


@pytest.mark.parametrize("stacked", [False, True], ids=["one by one", "stacked"])
def test_a_stack_that_was_stopped_goes_on(tmp_path, stacked):
    run(jobs(tmp_path / "quiet"), stop=never, stacked=stacked)
    outcomes = run(jobs(tmp_path / "stopped"), stop=After(6), stacked=stacked)
    assert {outcome.status for outcome in outcomes} == {"interrupted"}
    run(jobs(tmp_path / "stopped"), stop=never, stacked=stacked)
    for name in MEMBERS:
        ours, theirs = (tmp_path / place / name for place in ("stopped", "quiet"))
        assert checkpoint.digest(checkpoint.load(ours)) == checkpoint.digest(checkpoint.load(theirs))
        assert (ours / "metrics.csv").read_bytes() == (theirs / "metrics.csv").read_bytes()


@pytest.mark.slow
def test_members_may_differ_in_every_number_of_their_optimizer(tmp_path):
    members = {
        "a": ("optim.beta1=0.5", "optim.beta2=0.9", "optim.eps=0.1"),
        "b": ("optim.beta1=0.0", "optim.weight_decay=0.1", "seed=1"),
        "c": ("optim.beta2=0.5", "optim.eps=0.01", "optim.lr=0.002"),
    }
    members = {name: ("optim=adamw", *words) for name, words in members.items()}
    assert len({shape(to_dict(job.config)) for job in jobs(tmp_path, members)}) == 1
    run(jobs(tmp_path / "stack", members), stop=never, stacked=True)
    for job in jobs(tmp_path / "alone", members):
        run([job], stop=never)
        agree(tmp_path / "stack" / job.name, job.folder)


def train_as_a_child(members: list[Job]) -> int:
    """Train a stack as a child of a sweep does."""
    given = [{"config": to_dict(job.config), "folder": str(job.folder), "name": job.name} for job in members]
    return worker.train([{**job, "overrides": [], "notes": {}} for job in given], 1)


def test_members_at_different_steps_go_on_apart(tmp_path, alone, caplog):
    caplog.set_level("INFO", logger="bnexp")
    members = jobs(tmp_path)
    run(members[:2], stop=After(6))
    run(members[2:], stop=After(3))
    assert train_as_a_child(members) == 0
    assert [int(step) for step in re.findall(r"resumes from step (\d+)", caplog.text)] == [6, 6, 3]
    for name in MEMBERS:
        agree(tmp_path / name, alone / name)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be reported later"),  # a graph that starts
    ],
)
def test_members_that_are_too_many_for_the_memory_go_on_in_halves(tmp_path, alone, monkeypatch, capsys, error):
    from bnexp.experiment import run

    trained, tried = run.train, []

    def with_room_for_one(training, *args, **more):
        for record in trained(training, *args, **more):
            yield record
            if len(training.population) > 1 and record.step >= 4:
                tried.append(len(training.population))
                raise error

    monkeypatch.setattr(run, "train", with_room_for_one)  # no memory of a CPU can be full without harm
    assert train_as_a_child(jobs(tmp_path)) == 0
    assert tried == [3, 2]
    assert "3 members at once do not fit into the memory; going on with 1 and 2" in capsys.readouterr().out
    for name in MEMBERS:
        assert json.loads((tmp_path / name / "run.json").read_text())["status"] == "finished"
        found, wanted = numbers(tmp_path / name), numbers(alone / name)
        assert found.keys() == wanted.keys()
        assert all(found[key] == pytest.approx(wanted[key], rel=1e-3, abs=1e-5) for key in wanted)


def test_a_failure_does_not_overwrite_a_member_that_has_its_result(tmp_path, monkeypatch):
    members = jobs(tmp_path, {"wild": ("seed=5", "optim.lr=1e30"), **MEMBERS})
    monkeypatch.setattr(checkpoint, "save", lambda *_, **__: 1 / 0)
    with pytest.raises(Exception, match="ZeroDivisionError"):
        run(members, stop=never)
    states = {job.name: json.loads((job.folder / "run.json").read_text())["status"] for job in members}
    assert states == {"wild": "diverged", "a": "failed", "b": "failed", "c": "failed"}


@pytest.fixture
def place(tmp_path):
    furnish(tmp_path)
    yield tmp_path
    assert survivors(tmp_path) == []


COMMAND = ("train", "-m", "--config-dir", "my", "imports=[my_norms]", "norm=faulty", *SMALL_RUN, "checkpoint_every=4")
STACKED = ("hydra/launcher=stacked", "hydra.sweep.dir=s", "norm.tag=t0,t1", "seed=range(3)")


@pytest.fixture(scope="module")
def quiet(tmp_path_factory):
    place = tmp_path_factory.mktemp("quiet")
    furnish(place)
    assert Ended(begin(place, *COMMAND, *STACKED)).code == 0
    return place / "s"


@pytest.mark.slow
def test_the_launcher_stacks_and_every_member_is_a_run(quiet):
    logs = [run.name for run in sorted(quiet.glob("norm*")) if (run / "output.log").exists()]
    assert logs == ["norm.tag=t0,seed=0", "norm.tag=t1,seed=0"], "one process a stack"
    assert len(list(quiet.glob("*/run.json"))) == 6


@pytest.mark.slow
def test_members_of_a_stack_that_dies_run_one_by_one(place, quiet):
    (place / "fault-t0").write_text("kill")
    answer = Ended(begin(place, *COMMAND, *STACKED))
    assert answer.code == 0, answer
    for folder in quiet.glob("*/"):
        agree(place / "s" / folder.name, folder)


@pytest.mark.slow
def test_a_stack_that_raises_is_told_and_leaves_no_trace_in_finished_runs(place, quiet):
    (place / "fault-t0").write_text("raise")
    answer = Ended(begin(place, *COMMAND, *STACKED))
    assert answer.code == 0, answer
    why = r"my_norms\.py:\d+: RuntimeError: the norm is broken"
    assert re.search(f"3 stacked jobs ended together, and train one by one now: {why}", answer.err)
    for tag, expected in (("t0", f"the stack ended: {why}"), ("t1", None)):
        for seed in range(3):
            told = json.loads((place / "s" / f"norm.tag={tag},seed={seed}" / "run.json").read_text())
            assert re.fullmatch(expected or "", (told.get("trained_alone") or "").partition("; details")[0])
    assert list(place.rglob("error.log")) == []


@pytest.mark.parametrize("settings", [("channels_last=true",), ("precision=bf16",), ("ema=[0.9]", "norm=bn")], ids=str)
def test_stacked_members_take_every_layout_and_number_format(tmp_path, settings):
    few = ("data.size=14", "data.train_limit=64", "data.test_limit=100", "batch_size=16", "steps=3")
    words = ("model=lenet", "norm=gn", "optim.lr=0.02", *few, *settings)
    for stacked in (False, True):
        place = tmp_path / str(stacked)
        members = [Job(plain(composed(*words, f"seed={seed}")), place / str(seed), str(seed)) for seed in (0, 1)]
        run(members, stop=never, stacked=stacked)
    for seed in ("0", "1"):
        ours, theirs = (numbers(tmp_path / stacked / seed) for stacked in ("True", "False"))
        assert ours.keys() == theirs.keys()
        assert all(ours[key] == pytest.approx(theirs[key], rel=1e-3, abs=0.011) for key in theirs)


LONELY = """
from bnexp.norms import NORMS, Capabilities
from bnexp.norms.none import Shift

NORMS.register("lonely", Capabilities(stacks=False))(Shift)
"""


def test_what_cannot_be_stacked_is_told_on_the_terminal_and_in_run_json(bnexp, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "lonely_norms.py").write_text(LONELY)
    (tmp_path / "my" / "norm").mkdir(parents=True)
    (tmp_path / "my" / "norm" / "lonely.yaml").write_text("name: lonely\n")
    words = ("--config-dir", "my", "imports=[lonely_norms]", "norm=lonely", *SMALL_RUN, "steps=2", "seed=0,1")
    stacked = ("hydra/launcher=stacked", "hydra.sweep.dir=s")
    with NORMS.temporarily():
        answer = bnexp("train", "-m", *words, *stacked)
    assert answer.code == 0, answer
    reason = "norm=lonely: has no rule for the members of a population"
    assert f"not stacked, jobs train one by one: {reason}\n" in answer.err
    for seed in range(2):
        told = json.loads((tmp_path / "s" / f"seed={seed}" / "run.json").read_text())
        assert (told["status"], told["trained_alone"]) == ("finished", reason)
    assert list(tmp_path.rglob("error.log")) == []


@pytest.mark.slow
def test_a_killed_stack_goes_on(place, quiet):
    (place / "slow").touch()
    process = begin(place, *COMMAND, *STACKED)
    until(lambda: len(list(place.glob("s/*/checkpoint.pt"))) >= 3)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    until(lambda: not survivors(place), 5)
    (place / "slow").unlink()
    answer = Ended(begin(place, "resume", "s", "--imports", "my_norms"))
    assert answer.code == 0, answer
    for folder in quiet.glob("*/"):
        agree(place / "s" / folder.name, folder)
