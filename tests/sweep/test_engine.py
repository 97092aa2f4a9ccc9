"""What a sweep makes of the ends of its tasks, whatever engine carries them, and the options of engines."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path
from unittest.mock import MagicMock

import pytest
from conftest import SMALL_RUN, composed
from engine_fake import Fake

from bnexp.cli import hydra_plugins
from bnexp.config.compose import plain
from bnexp.config.schema import config_hash, to_dict
from bnexp.runs import run_json
from bnexp.stopping import Stop
from bnexp.sweep import carry_out as carrying
from bnexp.sweep import plan as plans
from bnexp.sweep import supervisor as supervising
from bnexp.sweep.display import summary
from bnexp.sweep.engine import Task, ranges
from bnexp.sweep.node import Work, work
from bnexp.sweep.options import Options, options, programs, slurm_options
from bnexp.sweep.plan import Plan, entries
from bnexp.sweep.preflight import Ready
from bnexp.sweep.ray import Ray
from bnexp.sweep.slurm import Slurm
from bnexp.sweep.stacking import Stacking
from bnexp.sweep.supervisor import Supervisor

LOCAL = {"jobs": "auto", "slots_per_gpu": 1, "timeout_s": None, "grace_s": 1.0, "max_failures": None}
SLURM = {
    **dict.fromkeys(("partition", "account", "qos", "constraint", "exclude", "comment", "gres", "mem_per_cpu")),
    **{"timeout_min": 60, "signal_delay_s": 120, "max_num_timeout": 3, "mem_gb": 8, "cpus_per_task": None},
    **{"gpus_per_node": None, "array_parallelism": 64, "setup": [], "additional_parameters": {}},
}
RAY = {"ray": {"init": {"address": None, "include_dashboard": False}}}
RAY["ray"]["remote"] = {"num_cpus": None, "num_gpus": None, "max_retries": 3}


@pytest.fixture(scope="module")
def config():
    return to_dict(plain(composed(*SMALL_RUN, "device=cpu")))


def planned(folder: Path, config, count: int, **given) -> Plan:
    jobs = [([f"seed={seed}"], config | {"seed": seed}) for seed in range(count)]
    plan = Plan(folder, [], options({**LOCAL, "engine": "slurm", **SLURM, **given}), entries(jobs))
    plan.write()
    return plan


def supervised(plan: Plan, engine: Fake, stop=lambda: False) -> str | None:
    todo, ready = [each for each in plan.entries if not each.over], Ready([], Stacking(plan.options))
    return Supervisor(plan, todo, ready, lambda *_: {}, stop, engine).run()


def test_each_end_becomes_its_jobs_state_and_is_told(tmp_path, config, capsys):
    does = ("finish", "fail", "kill", "diverge", "elsewhere")
    for seed, do in enumerate(does):
        (tmp_path / f"do-seed={seed}").write_text(do)
    plan = planned(tmp_path, config, len(does))
    assert supervised(plan, Fake()) is None
    first, *lines = capsys.readouterr().err.splitlines()
    assert first == f"{len(does)} jobs in {tmp_path}, in up to {len(does)} processes at the same time"
    assert [entry.state for entry in plan.entries] == ["finished", "failed", "failed", "diverged", "failed"]
    reasons = [entry.reason for entry in plan.entries]
    assert reasons[1:3] == ["it is broken", "killed by SIGKILL (out of memory?)"]
    assert reasons[4] == f"was carried out, and is not in {tmp_path}: engines need a folder that all nodes share"
    assert lines[0].startswith(f"{len(does)} tasks are with Fake (")
    assert sorted(line.split()[0] for line in lines[1:]) == [f"seed={seed}" for seed in range(len(does))]
    assert [entry.ticket for entry in plans.read(tmp_path).entries] == [None] * len(does)
    assert run_json.read(tmp_path / "seed=2")["failure"]["reason"] == reasons[2]
    told = "\n".join(summary(plan, plan.entries, None))
    assert f"failed: seed=1: it is broken; {tmp_path}/seed=1/output.log" in told
    assert f"try the failed again: bnexp resume {tmp_path} --retry-failed" in told


def test_a_job_that_fails_again_is_told_with_its_last_reason(tmp_path, config):
    plan = planned(tmp_path, config, 1)
    for does, reason in (("fail", "it is broken"), ("crash", "doing")):
        (tmp_path / "do-seed=0").write_text(does)
        supervised(plan, Fake())
        assert [(entry.state, entry.reason) for entry in plan.entries] == [("failed", reason)]
        assert run_json.read(tmp_path / "seed=0")["failure"]["reason"] == reason


def test_a_stack_that_takes_too_long_says_so(tmp_path, config, capsys):
    for seed in range(2):
        (tmp_path / f"do-seed={seed}").write_text("wait")
    plan = planned(tmp_path, config, 2, stack=True, timeout_s=0.25)
    supervised(plan, Fake())
    why = "not finished after 0.5 s (2 times timeout_s=0.25)"
    assert f"2 stacked jobs ended together, and train one by one now: {why}" in capsys.readouterr().err
    assert [entry.reason for entry in plan.entries] == ["not finished after 0.25 s"] * 2


@pytest.mark.parametrize(
    ("states", "goes_on"), [("finished", False), ("finished interrupted", True), ("failed", False)]
)
def test_a_summary_names_the_command_that_goes_on_if_anything_is_left(tmp_path, config, states, goes_on):
    plan = planned(tmp_path, config, len(states.split()))
    for entry, state in zip(plan.entries, states.split(), strict=True):
        entry.state = state
    assert (f"go on with: bnexp resume {tmp_path}" in summary(plan, plan.entries, None)) == goes_on


def test_a_task_that_somebody_cancels_has_failed_and_the_others_go_on(tmp_path, config):
    (tmp_path / "do-seed=0").write_text("wait")
    plan, engine = planned(tmp_path, config, 3), Fake()

    def cancel():
        while not (tmp_path / "seed=0" / "run.json").exists():
            time.sleep(0.02)
        engine.cancel([1])

    thread = threading.Thread(target=cancel)
    thread.start()
    supervised(plan, engine)
    thread.join()
    assert [(entry.state, entry.reason) for entry in plan.entries] == [
        ("failed", "cancelled"),
        *[("finished", None)] * 2,
    ]


def test_a_stopped_sweep_leaves_its_tasks_to_the_engine_and_the_next_command_takes_them_up(tmp_path, config):
    for seed in range(2):
        (tmp_path / f"do-seed={seed}").write_text("wait")
    plan, engine = planned(tmp_path, config, 3), Fake()
    supervised(plan, engine, stop=lambda: len(list(tmp_path.glob("*/run.json"))) == 2)
    plan.refresh()
    tickets = [entry.ticket for entry in plan.entries]
    told = summary(plan, plan.entries, None)
    assert told[0] == f"sweep: 2 running, 1 queued, of 3 jobs in {tmp_path}"
    assert told[1] == f"still with SLURM: {', '.join(map(str, tickets))}; to cancel: bnexp resume {tmp_path} --cancel"
    assert told[2] == f"go on with: bnexp resume {tmp_path}"
    ((waiting, third),) = engine.waiting
    assert waiting.log.parent.name == "seed=2"
    third.kill()  # it never comes to run
    third.communicate()
    again = plans.read(tmp_path)
    again.refresh()
    assert [entry.state for entry in again.entries] == ["running", "running", "queued"]
    for path in tmp_path.glob("do-*"):
        path.unlink()
    later = Fake()
    supervised(again, later)
    assert [entry.state for entry in again.entries] == ["finished"] * 3
    assert [entry.tries for entry in again.entries] == [1, 1, 2]
    for process in engine.running.values():
        process.wait()


def test_an_engine_gets_no_more_tasks_than_it_takes(tmp_path, config):
    plan, engine = planned(tmp_path, config, 7), Fake(at_once=5, most=3)
    supervised(plan, engine)
    assert plan.count() == {"finished": 7}
    assert engine.largest == 3


def test_stacks_are_tasks_of_an_engine(tmp_path, config):
    plan, engine = planned(tmp_path, config, 4, stack=True, max_stack=3), Fake()
    taken, submit = [], engine.submit
    engine.submit = lambda tasks: taken.extend(tasks) or submit(tasks)
    supervised(plan, engine)
    assert [len(task.given["jobs"]) for task in taken] == [2, 2]
    assert plan.count() == {"finished": 4}


def test_the_plan_of_many_jobs_is_written_a_few_times(tmp_path, config, monkeypatch):
    monkeypatch.setattr(supervising, "_AT_ONCE", 2)
    plan, engine, sizes = planned(tmp_path, config, 20), Fake(), []
    engine.submit = lambda tasks: sizes.append(len(tasks)) or {task.number: f"1_{task.number}" for task in tasks}
    supervised(plan, engine, stop=lambda: sum(sizes) == 20)
    assert sizes == [2, 2, 4, 8, 4]
    assert [entry.ticket for entry in plans.read(tmp_path).entries] == [f"1_{number + 1}" for number in range(20)]


# --- the command line -------------------------------------------------------------------------------------------------


@pytest.fixture
def engines(monkeypatch, tmp_path):
    """Both engines replaced by fakes; the list of the options that they were made with."""
    made: list[Options] = []
    monkeypatch.setattr(hydra_plugins, "_LIBRARIES", {})
    monkeypatch.setattr(
        carrying, "ENGINES", dict.fromkeys(("slurm", "ray"), lambda given: made.append(given) or Fake())
    )
    monkeypatch.chdir(tmp_path)
    return made


def test_words_of_slurm_reach_it_once_and_are_kept_for_resume(bnexp, engines, tmp_path):
    words = ("hydra/launcher=slurm", "hydra.launcher.partition=gpu", "hydra.launcher.timeout_min=5", "device=cuda")
    more = ("hydra.launcher.setup=['module load cuda']", "hydra.sweeper.max_batch_size=2")
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "do-seed=1").write_text("kill")
    answer = bnexp("train", "-m", *SMALL_RUN, "seed=0,1", "hydra.sweep.dir=s", *words, *more)
    assert answer.code == 1, answer
    assert engines[0].submit["partition"] == "gpu"
    assert engines[0].submit["timeout_min"] == 5
    assert engines[0].jobs == 2
    (tmp_path / "s" / "do-seed=1").unlink()
    assert "try the failed again: bnexp resume s --trust-launcher --retry-failed" in answer.out
    refused = bnexp("resume", "s", "--retry-failed")
    full = "bnexp resume s --retry-failed --trust-launcher"
    assert refused.complaint == f"bnexp: s: its launcher names setup: module load cuda; if you trust them: {full}"
    assert bnexp("resume", "s", "--cancel").code == 0  # it runs no command that the folder names
    again = bnexp("resume", "s", "--retry-failed", "--trust-launcher")
    assert again.code == 0, again
    assert engines[1] == engines[0]
    assert json.loads((tmp_path / "s" / "sweep.json").read_text())["launcher"]["submit"]["partition"] == "gpu"


def test_words_of_ray_reach_it_once(bnexp, engines):
    words = ("hydra/launcher=ray", "hydra.launcher.ray.init.address=auto", "hydra.launcher.ray.remote.num_cpus=2")
    answer = bnexp("train", "-m", *SMALL_RUN, "seed=0,1", "hydra.sweep.dir=s", *words)
    assert answer.code == 0, answer
    assert engines[0].submit["ray"]["init"]["address"] == "auto"
    assert engines[0].submit["ray"]["remote"]["num_cpus"] == 2


def test_a_sweep_with_an_engine_can_go_on_here_and_keeps_its_engine(bnexp, engines, tmp_path):
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "do-seed=1").write_text("kill")
    bnexp("train", "-m", *SMALL_RUN, "device=cpu", "seed=0,1", "hydra.sweep.dir=s", "hydra/launcher=slurm")
    assert bnexp("tag", "s/seed=1", "+good").code == 0
    answer = bnexp("resume", "s", "--here", "--retry-failed")
    assert answer.code == 0, answer
    assert run_json.read(Path("s/seed=1"))["config"]["tags"] == ["good"]
    assert len(engines) == 1
    assert json.loads((tmp_path / "s" / "sweep.json").read_text())["launcher"]["engine"] == "slurm"
    assert bnexp("resume", "s", "--cancel").code == 0


def test_a_sweep_whose_tasks_are_cancelled_says_how_its_jobs_ended(bnexp, engines, config, tmp_path):
    (tmp_path / "s").mkdir()
    plan = planned(tmp_path / "s", config, 2)
    job = plan.entries[0]
    facts = {"name": job.name, "config": job.config, "config_hash": config_hash(job.config), "overrides": job.overrides}
    (tmp_path / "s" / job.name).mkdir()
    run_json.write(tmp_path / "s" / job.name, {"format": run_json.FORMAT, **facts, "status": "finished", "final": {}})
    answer = bnexp("resume", "s", "--cancel")
    assert (answer.code, answer.out.splitlines()[0]) == (0, "sweep: 1 finished, 1 waiting, of 2 jobs in s")


@pytest.mark.parametrize("words", [("epochs=9",), ("--here",)])
def test_what_an_engine_still_carries_out_is_not_changed(bnexp, engines, config, words):
    Path("s").mkdir()
    plan = planned(Path("s"), config, 2)
    plan.entries[0].ticket = str(os.getpid())  # alive
    plan.write()
    told = "wait for them or cancel them first: bnexp resume s --cancel"
    assert bnexp("resume", "s", *words).complaint == f"bnexp: s: Fake still has 1 of its tasks; {told}"


WRONG = {
    "hydra.launcher.partitoin=x": "did you mean hydra.launcher.partition?",
    "+hydra.launcher.gpu_per_node=1": "gpu_per_node: there is no such setting; did you mean gpus_per_node?",
    "hydra.launcher.timeout_min=0": "hydra.launcher.timeout_min=0: out of range",
    "hydra.launcher.timeout_s=5": "hydra.launcher.timeout_s: there is no such setting",
    "hydra.launcher.mem_gb=much": "hydra.launcher.mem_gb=much: expected a number",
    "device=cuda:1": "device=cuda:1: a sweep chooses the device of each job",
    "device=gpu": "device=gpu: not known (allowed: auto, cpu, cuda, cuda:N)",
    "device=cuda norm=zca graph=true": "graph=true: norm=zca waits for the device at each step",
}


@pytest.mark.parametrize("words", WRONG)
def test_wrong_words_of_an_engine_cost_one_line(bnexp, engines, tmp_path, words):
    answer = bnexp("train", "-m", *SMALL_RUN, "seed=0,1", "hydra/launcher=slurm", *words.split())
    assert WRONG[words] in answer.complaint
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("word", ["slurm", "ray"])
def test_an_extra_that_is_not_installed_is_named(bnexp, tmp_path, monkeypatch, word):
    monkeypatch.setattr(hydra_plugins, "_LIBRARIES", {"slurm": "no_such_module", "ray": "no_such_module"})
    monkeypatch.chdir(tmp_path)
    answer = bnexp("train", "-m", "seed=0,1", f"hydra/launcher={word}", *SMALL_RUN)
    assert answer.code == 2
    install = f"uv run --extra {word} bnexp ..., or pip install -e '.[{word}]'"
    assert answer.err == f"bnexp: hydra/launcher={word}: not installed; {install}\n"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("flag", ["--here", "--cancel", "--trust-launcher"])
def test_words_for_sweeps_are_refused_for_runs(bnexp, tmp_path, flag):
    assert f"resume: {flag} is for sweeps; " in bnexp("resume", str(tmp_path), flag).complaint


# --- options ----------------------------------------------------------------------------------------------------------


def test_what_could_start_programs_is_named():
    quiet = options({**LOCAL, "engine": "slurm", **SLURM})
    assert programs(quiet) == []
    assert programs(options(LOCAL)) == []
    loud = options({**LOCAL, "engine": "slurm", **SLURM, "setup": ["a"], "additional_parameters": {"export": "X=1"}})
    assert programs(loud) == ["setup: a", "additional_parameters.export=X=1"]
    far = {"ray": {**RAY["ray"], "init": {"address": "far:6379", "include_dashboard": False}}}
    assert programs(options({**LOCAL, "engine": "ray", **far})) == ["ray.init.address=far:6379"]
    assert programs(options({**LOCAL, "engine": "ray", **RAY})) == []


@pytest.mark.parametrize(
    "changes",
    [
        {"partition": "a\nrm -r x"},
        {"setup": ["a\nb"]},
        {"additional_parameters": {"a\nb": "c"}},
        {"additional_parameters": {"a": {"b": "c\nd"}}},
    ],
)
def test_a_batch_file_gets_no_further_lines(changes):
    with pytest.raises(ValueError, match="expected one line"):
        options({**LOCAL, "engine": "slurm", **SLURM, **changes})


def test_options_survive_the_plan(tmp_path, config):
    plan = planned(tmp_path, config, 1, partition="p")
    assert plans.read(tmp_path).options == plan.options
    assert slurm_options(plans.read(tmp_path).options).partition == "p"


def test_names_of_tasks_are_shortened():
    assert ranges(["20_0", "20_1", "20_3", "21", "22_7", "22_6"]) == "20_[0-1,3], 21, 22_[6-7]"


# --- SLURM, by commands that answer from files ------------------------------------------------------------------------


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """A function that says what squeue and scontrol answer."""
    for name in ("sbatch", "srun", "squeue", "scontrol", "scancel"):
        script = tmp_path / "bin" / name
        script.parent.mkdir(exist_ok=True)
        script.write_text(f'#!/bin/sh\necho "{name} $*" >> {tmp_path}/asked\ncat {tmp_path}/{name} 2>/dev/null\n')
        script.chmod(script.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")

    def answer(queue: str, job: str = "") -> None:
        (tmp_path / "squeue").write_text(queue)
        (tmp_path / "scontrol").write_text(job)

    return answer


def end_file(sweep: Path, ticket: str, **said) -> None:
    folder = sweep / ".submitit" / ticket
    folder.mkdir(parents=True)
    (folder / "end.json").write_text(json.dumps(said))


def polled(engine: Slurm):
    engine._next_poll = 0.0
    return engine.poll(0.01)


@pytest.mark.parametrize(
    ("state", "said", "code", "reason"),
    [
        ("COMPLETED", {"code": 0, "lines": []}, 0, None),
        ("COMPLETED", {"code": -9, "lines": ["x"]}, -9, None),
        ("CANCELLED", {"code": 143, "lines": []}, 143, "cancelled"),
        ("CANCELLED", None, 1, "cancelled"),
        ("NODE_FAIL", None, 1, "its node failed"),
        ("OUT_OF_MEMORY", None, 1, "killed by SLURM: out of memory (hydra.launcher.mem_gb)"),
        ("FAILED", {"code": 1, "lines": [], "reason": "time"}, 1, "not finished after 4 time limits of 60 min"),
        ("FAILED", None, 1, "ended without a word (SLURM: failed)"),
    ],
)
def test_the_end_of_a_task_of_slurm(tmp_path, slurm, state, said, code, reason):
    engine = Slurm(options({**LOCAL, "engine": "slurm", **SLURM}))
    slurm("7_0 PENDING\n7_1 RUNNING\n")
    assert engine.alive(["7_0", "7_1", "8; rm -r /"]) == {"7_0", "7_1"}
    engine.attach(1, "7_0", tmp_path)
    engine.attach(2, "7_1", tmp_path)
    assert polled(engine).started == [2]
    slurm("7_0 RUNNING\n", f"JobId=9 JobState={state} Reason=None")
    if said is not None:
        end_file(tmp_path, "7_1", **said)
    news = polled(engine)
    assert news.started == [1]
    (end,) = news.ended
    assert (end.number, end.code) == (2, code)
    assert (end.reason or "").startswith(reason or "")
    assert (end.reason is None) == (reason is None)


def test_a_task_that_slurm_queues_again_or_whose_file_is_on_the_way_has_not_ended(tmp_path, slurm):
    engine = Slurm(options({**LOCAL, "engine": "slurm", **SLURM}))
    engine.attach(1, "7", tmp_path)
    for state in ("REQUEUED", "COMPLETED"):
        slurm("", f"JobState={state}")
        assert polled(engine).ended == []
    end_file(tmp_path, "7", code=0, lines=[])
    assert [end.code for end in polled(engine).ended] == [0]


def test_a_task_that_slurm_has_queued_again_waits_and_starts_again(tmp_path, slurm):
    engine = Slurm(options({**LOCAL, "engine": "slurm", **SLURM}))
    engine.attach(1, "7", tmp_path)
    seen = []
    for state in ("PENDING", "RUNNING", "COMPLETING", "PENDING", "PENDING", "RUNNING"):
        slurm(f"7 {state}\n")
        news = polled(engine)
        seen.append((news.started, news.requeued))
    assert seen == [([], []), ([1], []), ([], []), ([], [1]), ([], []), ([1], [])]


def test_slurm_is_asked_for_as_many_cores_as_threads(slurm):
    slurm("", "MaxArraySize = 4")
    engine = Slurm(options({**LOCAL, "engine": "slurm", **SLURM, "cpus_per_task": 2}))
    with pytest.raises(ValueError, match="cpus_per_task=2: fewer than threads=3"):
        engine.begin(3)
    engine.begin(2)
    assert engine._largest == 4


def small_task(device: str, threads: int = 1, number: int = 1) -> Task:
    return Task(number, {"jobs": []}, Path("s/a/output.log"), Path("s"), device, threads)


@pytest.mark.parametrize(
    ("given", "device", "asked", "needs_gpu"),
    [
        ({}, "cuda", {"gpus_per_node": 1, "cpus_per_task": 3}, True),
        ({}, "cpu", {"cpus_per_task": 3}, False),
        ({}, "auto", {"cpus_per_task": 3}, False),
        ({"gpus_per_node": 2, "cpus_per_task": 8}, "auto", {"gpus_per_node": 2, "cpus_per_task": 8}, True),
        ({"gres": "gpu:a100:1"}, "cuda", {"gres": "gpu:a100:1"}, True),
        ({"gres": "gpu:a100:1"}, "auto", {"gres": "gpu:a100:1"}, True),
        ({"gres": "lustre:1"}, "cuda", {"gres": "lustre:1", "gpus_per_node": 1}, True),
        ({"gpus_per_node": 0, "mem_gb": None}, "cuda", {"cpus_per_task": 3, "mem": None}, False),
        ({"partition": "p", "array_parallelism": 9}, "cpu", {"partition": "p", "array_parallelism": 9}, False),
    ],
)
def test_what_sbatch_is_asked_for(slurm, monkeypatch, given, device, asked, needs_gpu):
    slurm("")
    executor = MagicMock()
    executor.submit.side_effect = lambda work: MagicMock(job_id="7")
    monkeypatch.setitem(sys.modules, "submitit", MagicMock(SlurmExecutor=lambda *_, **__: executor))
    engine = Slurm(options({**LOCAL, "engine": "slurm", **SLURM, **given}))
    engine.begin(3)
    assert engine.submit([small_task(device, threads=3)]) == {1: "7"}
    ((_, said),) = executor.update_parameters.call_args_list
    usual = {"job_name": "bnexp", "time": 60, "signal_delay_s": 120, "array_parallelism": 64, "cpus_per_task": 3}
    expected = usual | {"mem": "8192M"} | asked
    assert said == {name: value for name, value in expected.items() if value is not None}
    ((carried,), _) = executor.submit.call_args
    assert carried.work.given["needs_gpu"] is needs_gpu


def test_slurm_gets_further_tasks_once_it_has_half_of_them_or_fewer(slurm, monkeypatch):
    slurm("")
    executor = MagicMock()
    executor.submit.side_effect = (MagicMock(job_id=str(number)) for number in range(6))
    monkeypatch.setitem(sys.modules, "submitit", MagicMock(SlurmExecutor=lambda *_, **__: executor))
    engine, room = Slurm(options({**LOCAL, "engine": "slurm", **SLURM, "jobs": 10})), []
    engine.begin(1)
    for threads in range(1, 7):  # of different needs: each is an array of its own
        room.append(engine.room())
        engine.submit([small_task("cpu", threads=threads, number=threads)])
    assert [*room, engine.room()] == [10, 9, 8, 7, 6, 5, 0]


@pytest.mark.parametrize(
    ("remote", "slots", "device", "gpus"),
    [
        *[
            ({}, 1, "cuda", 1.0),
            ({}, "auto", "cuda", 1.0),
            ({}, 4, "cuda", 0.25),
            ({}, 4, "cpu", 0.0),
            ({}, 4, "auto", 0.0),
        ],
        *[({"num_gpus": 0.5}, 4, "auto", 0.5), ({"num_gpus": 2, "num_cpus": 5}, 1, "cuda", 2.0)],
    ],
)
def test_what_ray_is_asked_for(monkeypatch, remote, slots, device, gpus):
    ray = MagicMock()
    ray.nodes.return_value = [{"Alive": True, "Resources": {"GPU": 8.0}}]
    monkeypatch.setitem(sys.modules, "ray", ray)
    own = {"ray": {**RAY["ray"], "remote": {**RAY["ray"]["remote"], **remote}}}
    engine = Ray(options({**LOCAL, "engine": "ray", **own, "slots_per_gpu": slots}))
    engine.begin(3)
    ray.reset_mock()
    engine.submit([small_task(device, threads=3)])
    ((_, said),) = ray.remote.return_value.options.call_args_list
    assert said == {"num_cpus": remote.get("num_cpus", 3), "num_gpus": gpus, "max_retries": 3}
    (carried, *_), _ = ray.remote.return_value.options.return_value.remote.call_args
    assert carried.given["needs_gpu"] is (gpus > 0)


@pytest.mark.parametrize(("resources", "told"), [({"CPU": 8.0}, True), ({"GPU": 0.0}, True), ({"GPU": 1.0}, False)])
def test_a_cluster_of_ray_without_a_gpu_is_told(monkeypatch, capsys, resources, told):
    ray = MagicMock()
    ray.nodes.return_value = [{"Alive": True, "Resources": resources}, {"Alive": False, "Resources": {"GPU": 8.0}}]
    monkeypatch.setitem(sys.modules, "ray", ray)
    engine = Ray(options({**LOCAL, "engine": "ray", **RAY, "slots_per_gpu": 2}))  # half a GPU a task
    engine.begin(1)
    engine.submit([small_task("cpu"), small_task("cuda")])
    assert ("no node of this Ray cluster has a GPU" in capsys.readouterr().err) == told


def test_a_machine_without_slurm_is_told(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ValueError, match="there is no sbatch on this machine; start it on a login node"):
        Slurm(options({**LOCAL, "engine": "slurm", **SLURM})).begin(1)


# --- a node -----------------------------------------------------------------------------------------------------------


def task(plan: Plan, **job) -> Task:
    (entry,) = plan.entries
    folder = plan.job(entry).folder
    folder.mkdir(exist_ok=True)
    facts = {key: value for key, value in entry.facts().items() if key != "config_hash"}
    given = {"jobs": [{**facts, "folder": str(folder), "notes": {}}], "slots": 1}
    return Task(1, given, plan.job(entry).output_log, plan.folder, "cpu", 1)


def test_a_node_without_the_folder_says_so(tmp_path, config):
    travels = work(task(planned(tmp_path, config, 1)), 1.0, needs_gpu=False)
    lost = Work(travels.given, travels.log, travels.sweep, str(tmp_path / "nowhere"), 1.0)
    code, (line,) = lost()
    assert code == 2
    assert f"has no folder {tmp_path}/nowhere, in which the sweep was started; engines need" in line


@pytest.mark.slow
def test_a_node_runs_a_task_in_the_folder_of_the_user_and_one_without_a_gpu_refuses(tmp_path, config, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("s").mkdir()
    travels = work(task(planned(Path("s"), config, 1)), 1.0, needs_gpu=False)
    refuses = work(task(planned(Path("s"), config, 1)), 1.0, needs_gpu=True)
    monkeypatch.chdir("/")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    code, lines = refuses()
    assert (code, lines[-1].partition(", and ")[0]) == (2, "bnexp: a GPU was asked for")
    assert travels() == (0, (tmp_path / "s" / "seed=0" / "output.log").read_text().splitlines()[-4:])
    assert run_json.read(tmp_path / "s" / "seed=0")["status"] == "finished"


@pytest.mark.slow
def test_a_node_lets_its_process_save_when_time_is_over(tmp_path, config):
    plan = planned(tmp_path, config | {"epochs": 10_000, "log_every": 10_000}, 1)
    travels = work(task(plan), 60.0, needs_gpu=False)
    took_s = []

    def over():
        while not (tmp_path / "seed=0" / "timing.csv").exists():
            time.sleep(0.02)
        asked = time.monotonic()
        travels.save()
        took_s.append(time.monotonic() - asked)

    thread = threading.Thread(target=over)
    thread.start()
    code, _ = travels()
    thread.join()
    assert took_s[0] < 30  # not all the time that it might have taken
    saved = run_json.read(tmp_path / "seed=0")
    assert (code, saved["status"]) == (128 + signal.SIGTERM, "interrupted")
    assert (tmp_path / "seed=0" / "checkpoint.pt").exists()


def test_a_process_that_another_thread_has_just_waited_for_has_ended(tmp_path, config):
    """Between the end of waitpid and the note that Popen makes of it, which only chance would hit."""
    travels = work(task(planned(tmp_path, config, 1)), 1.0, needs_gpu=False)
    travels._process = subprocess.Popen([sys.executable, "-c", ""])
    os.waitpid(travels._process.pid, 0)
    travels.save()
    assert travels._process.returncode is None  # so it was the process that was asked, and not the note
    travels._process.wait()


def test_a_stop_is_heard_again_after_another_library_has_taken_the_signals():
    stop = Stop()
    with stop.listening():
        stop()
        signal.signal(signal.SIGTERM, lambda *_: None)
        with stop.listening():
            os.kill(os.getpid(), signal.SIGTERM)
        assert stop()
