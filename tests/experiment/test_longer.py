"""A run trained longer ends where one run of that length ends, bit for bit, whenever it was stopped or killed."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import pytest
from conftest import SMALL_RUN, composed
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from test_resume import StopAt, left_behind, resaved

from bnexp.config.compose import plain
from bnexp.experiment import setup as setups
from bnexp.experiment.job import Job, saved_job, with_length
from bnexp.experiment.run import run
from bnexp.runs import checkpoint, run_json
from bnexp.runs.longer import Length
from bnexp.sweep import plan

# Everything that a last step could leave a trace in: it is no point of the curves, no evaluation, and two probes with a
# memory measure it although their cadences do not. 21 steps become 35.
WORDS = (
    *(*SMALL_RUN, "data.test_limit=60", "eval_train=60"),
    *("model.dropout=0.2", "data.crop=1", "data.flip=true", "optim.momentum=0.9", "schedule.warmup=3", "ema=[0.9]"),
    *("log_every=4", "eval_every=5", "checkpoint_every=6", "checkpoint_best=true"),
    *("probes=[quantiles,ics,gradients]", "probes.quantiles.every=4", "probes.ics.every=5", "probes.gradients.every=7"),
)
OLD, NEW = 21, 35


def job(folder: Path, *words: str, longer: bool = False) -> Job:
    return Job(plain(composed(*WORDS, *words)), folder, "test", longer=longer)


def all_of(folder: Path) -> tuple:
    """All that must be equal, with the best checkpoint, the histograms, and the steps that were timed."""
    events = EventAccumulator(str(folder), size_guidance={"histograms": 0})
    events.Reload()
    histograms = {tag: [point.step for point in events.Histograms(tag)] for tag in events.Tags()["histograms"]}
    facts = run_json.read(folder)
    with (folder / "timing.csv").open() as file:
        timed = [row["step"] for row in csv.DictReader(file)]
    results = {key: facts[key] for key in ("status", "config", "config_hash", "steps", "step", "final", "best")}
    best = checkpoint.digest(checkpoint.load_best(folder))
    state, rows, curves = left_behind(folder)
    table = events.summary_metadata["_hparams_/session_start_info"]
    return state, rows, repr(sorted(curves.items())), best, histograms, timed, results, table


@pytest.fixture(scope="module")
def long(tmp_path_factory):
    """A run of the new length from the start."""
    folder = tmp_path_factory.mktemp("long") / "run"
    run([job(folder, "epochs=5")], stop=StopAt(0))
    return folder


@pytest.fixture(scope="module")
def short(tmp_path_factory):
    folder = tmp_path_factory.mktemp("short") / "run"
    run([job(folder)], stop=StopAt(0))
    return folder


@pytest.fixture
def finished(short, tmp_path) -> Path:
    return Path(shutil.copytree(short, tmp_path / "run"))


def test_a_finished_run_trained_longer_is_one_run(long, finished, bnexp):
    assert run_json.read(finished)["best"]["validation/accuracy"]["step"] == OLD, "a case that the test is for"
    answer = bnexp("resume", str(finished), "epochs=5")
    assert answer.code == 0, answer
    assert "35 steps" in answer.out
    assert all_of(finished) == all_of(long)
    facts = run_json.read(finished)
    (before,) = facts["extended"]
    assert (before["steps"], before["step"], before["status"]) == (OLD, OLD, "finished")
    assert before["settings"] == {"epochs": 3, "steps": None}
    assert "epochs=5" in facts["overrides"]
    assert "epochs: 5" in (finished / ".hydra" / "config.yaml").read_text()
    again = bnexp("resume", str(finished), "epochs=5")
    assert (again.code, again.out.startswith("finished: test accuracy")) == (0, True)


@pytest.mark.parametrize("step", [1, 6, 13, 20])
def test_an_interrupted_run_trained_longer_is_one_run(long, tmp_path, step):
    run([job(tmp_path / "run")], stop=StopAt(step))
    run([job(tmp_path / "run", "epochs=5", longer=True)], stop=StopAt(0))
    assert all_of(tmp_path / "run") == all_of(long)


def test_longer_again_and_again_with_stops_between(long, finished):
    for word, stops in (("steps=22", 0), ("steps=27", 2), ("steps=31", 1), ("epochs=5", 3)):
        run([job(finished, word, longer=True)], stop=StopAt(stops))
    run([job(finished, "epochs=5")], stop=StopAt(0))
    assert all_of(finished) == all_of(long)
    assert [each["steps"] for each in run_json.read(finished)["extended"]] == [21, 22, 27, 31]


def test_an_interrupted_run_may_get_shorter_too(finished, tmp_path):
    run([job(tmp_path / "planned", "epochs=5")], stop=StopAt(9))
    run([job(tmp_path / "planned", "epochs=3", longer=True)], stop=StopAt(0))
    assert all_of(tmp_path / "planned") == all_of(finished)


class Killed(BaseException):
    """Nothing in the program can catch it."""


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # who is killed closes no file
@pytest.mark.parametrize("number", range(1, 11))
def test_killed_before_any_file_gets_its_name(long, finished, monkeypatch, number):
    replace, left = Path.replace, [number]

    def until(path: Path, target: Path) -> Path:
        left[0] -= 1
        if left[0] == 0:
            raise Killed
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", until)
    with pytest.raises(Killed):
        run([with_length(saved_job(finished), Length("epochs", 5))], stop=StopAt(0))
    monkeypatch.undo()
    begun = run_json.read(finished)["config"]["epochs"] == 5
    assert begun == (number > 1)
    # The same command, or once the run is one of the new length the plain one.
    run(
        [saved_job(finished) if begun and number % 2 else with_length(saved_job(finished), Length("epochs", 5))],
        stop=StopAt(0),
    )
    assert all_of(finished) == all_of(long)


def test_the_newest_checkpoint_is_damaged(long, finished):
    (finished / "checkpoint.pt").write_bytes(b"")
    run([job(finished, "epochs=5", longer=True)], stop=StopAt(0))
    assert all_of(finished) == all_of(long)


@pytest.mark.parametrize("stacked", [False, True], ids=["one by one", "stacked"])
@pytest.mark.slow
def test_a_stack_trained_longer_is_one_stack(tmp_path, stacked):
    def members(place: str, *words: str, longer: bool = False) -> list[Job]:
        return [job(tmp_path / place / seed, f"seed={seed}", *words, longer=longer) for seed in "01"]

    run(members("long", "epochs=5"), stop=StopAt(0), stacked=stacked)
    run(members("short"), stop=StopAt(0), stacked=stacked)
    run(members("short", "epochs=5", longer=True), stop=StopAt(9), stacked=stacked)
    run(members("short", "epochs=5"), stop=StopAt(0), stacked=stacked)
    for seed in "01":
        assert all_of(tmp_path / "short" / seed) == all_of(tmp_path / "long" / seed)


def test_recorded_steps_trained_longer_are_one_run(tmp_path, monkeypatch):
    """With a recorder that keeps the work and does it at each replay."""
    kept = []
    monkeypatch.setattr(setups, "recorder", lambda config, device, draws: lambda work: kept.append(work) or work)
    run([job(tmp_path / "long", "epochs=5")], stop=StopAt(0))
    run([job(tmp_path / "run")], stop=StopAt(0))
    run([job(tmp_path / "run", "epochs=5", longer=True)], stop=StopAt(0))
    assert len(kept) >= 3
    assert all_of(tmp_path / "run") == all_of(tmp_path / "long")


REFUSED = {
    "schedule=cosine": "schedule=cosine: the first 2 steps depend on the length of the run; train anew with steps=4",
    "schedule=triangle": "schedule=triangle: the first 2 steps depend on the length of the run",
    "schedule=step": "schedule=step: the first 2 steps depend on the length of the run",
    "norm=batch_renorm": "norm=batch_renorm: the first 2 steps depend on the length of the run",
    "checkpoint_keep=none": "run: has kept no checkpoint to go on from; train anew with steps=4",
    "optim.lr=1e30": "run: diverged, so that more steps do not help; change a setting and train anew",
}


@pytest.mark.parametrize("word", REFUSED)
def test_runs_that_cannot_be_longer(bnexp, tmp_path, monkeypatch, word):
    monkeypatch.chdir(tmp_path)
    words = (*SMALL_RUN, "steps=2", "norm=none", word, "hydra.run.dir=run")
    assert bnexp("train", *words).code == 0
    files = {path: path.read_bytes() for path in Path("run").iterdir() if path.is_file() and path.suffix != ".log"}
    assert REFUSED[word] in bnexp("resume", "run", "steps=4").err.splitlines()[-1]
    assert {path: path.read_bytes() for path in files} == files


def test_lengths_that_are_none(bnexp, finished):
    for word, line in {
        "norm=gn": "resume: norm=gn: only the length can change, as epochs=N or steps=N",
        "epochs=0": "epochs=0: expected a whole number, at least 1",
        "epochs=2.5": "epochs=2.5: expected a whole number, at least 1",
        "epochs=2": f"epochs=2: {finished} has trained 21 steps, all it should, and this is only 14; give more",
        "steps=21": f"steps=21: {finished} has trained 21 steps, all it should, and this is as many; give more",
    }.items():
        assert bnexp("resume", str(finished), word).complaint == f"bnexp: {line}"
    assert bnexp("resume", str(finished), "epochs=5", "steps=40").complaint.endswith("give one length")
    assert bnexp("resume", str(finished), "steps=23").code == 0
    assert "epochs=9: has no effect, the length is steps=23" in bnexp("resume", str(finished), "epochs=9").complaint


def test_a_run_of_an_older_version_with_a_special_last_step_is_refused(bnexp, finished):
    resaved(finished, lambda state: state["progress"].pop("point"))
    before = run_json.read(finished)
    assert "finished by an older version" in bnexp("resume", str(finished), "epochs=5").err.splitlines()[-1]
    assert run_json.read(finished) == before


SWEEP = (*SMALL_RUN, "log_every=4", "eval_every=5", "norm=none", "optim.lr=0.1,1e30", "stop_after=3")


@pytest.mark.slow
def test_a_sweep_is_trained_longer(bnexp, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert bnexp("train", "-m", *SWEEP, "hydra.sweep.dir=s").code == 0
    assert bnexp("train", "-m", *SWEEP, "epochs=5", "hydra.sweep.dir=long").code == 0
    alone = bnexp("resume", "s/optim.lr=0.1", "epochs=5").complaint
    assert alone.endswith(
        f"a job of a sweep, whose jobs are trained longer together: bnexp resume {tmp_path}/s epochs=5"
    )
    assert "has trained 21 steps" in bnexp("resume", "s", "epochs=2").complaint
    # The plan is the first to change: what a kill behind that leaves.
    changed = plan.read(Path("s"))
    changed.change_length(Length("epochs", 5))
    changed.refresh()
    assert [entry.state for entry in changed.entries] == ["interrupted"] * 2
    changed.write()
    answer = bnexp("resume", "s", "epochs=5")
    assert (answer.code, "1 finished, 1 diverged, of 2 jobs" in answer.out) == (0, True), answer
    for name in (entry.name for entry in changed.entries):
        ours, theirs = (run_json.read(Path(place) / name) for place in ("s", "long"))
        assert (Path("s") / name / "metrics.csv").read_bytes() == (Path("long") / name / "metrics.csv").read_bytes()
        assert {key: ours[key] for key in ("config", "status", "final")} == {
            key: theirs[key] for key in ("config", "status", "final")
        }
    compared = json.loads(bnexp("compare", "s", "--format", "json").out)
    assert {arm["n"] for arm in compared["arms"]} == {1}


def test_a_sweep_over_lengths_or_with_a_schedule_is_refused_and_stays(bnexp, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = (*SMALL_RUN, "schedule=constant,cosine")
    assert bnexp("train", "-m", *words, "steps=2", "hydra.sweep.dir=s").code == 0
    before = Path("s/sweep.json").read_bytes()
    line = bnexp("resume", "s", "steps=4").complaint
    assert line.startswith("bnexp: job schedule=cosine: schedule=cosine: the first 2 steps depend on the length")
    assert "skip_invalid" not in line
    assert Path("s/sweep.json").read_bytes() == before
    assert "2 finished" in bnexp("resume", "s").out
    entries = plan.entries([(["epochs=1"], {"epochs": 1, "steps": None}), (["epochs=2"], {"epochs": 2, "steps": None})])
    with pytest.raises(ValueError, match=r"epochs=9: s: its jobs are named by their length \(epochs=1\)"):
        plan.Plan(Path("s"), [], plan.read(Path("s")).options, entries).change_length(Length("epochs", 9))
