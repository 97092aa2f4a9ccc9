"""Sweeps: whatever happens to one job, to the supervisor or to the disk, the results are those of a quiet night."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import socket
import time
from pathlib import Path
from threading import Thread
from types import SimpleNamespace

import hydra
import pytest
from conftest import SMALL_RUN, composed
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.types import HydraContext
from processes import Ended, begin, furnish, survivors, until

from bnexp.config.compose import plain
from bnexp.config.names import quoted, sweep_names
from bnexp.config.schema import to_dict
from bnexp.config.shipped import configs_folder
from bnexp.runs import checkpoint
from bnexp.runs.storage import held
from bnexp.stopping import Stop
from bnexp.sweep import fork_server
from bnexp.sweep import plan as plans
from bnexp.sweep.carry_out import _made
from bnexp.sweep.fork_server import ForkServer
from bnexp.sweep.options import options
from bnexp.sweep.plan import entries
from bnexp.sweep.preflight import preflight, slots

WORDS = ("train", "-m", "--config-dir", "my", "imports=[my_norms]", "norm=faulty", *SMALL_RUN, "checkpoint_every=4")
JOBS = 8
TAGS = ",".join(f"t{number}" for number in range(JOBS))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """Folder of a sweep that nothing happens to, one job at a time."""
    workplace = tmp_path_factory.mktemp("undisturbed")
    furnish(workplace)
    answer = sweep(workplace, f"norm.tag={TAGS}", "hydra.launcher.jobs=1")
    assert answer.code == 0, answer
    return workplace / "s"


@pytest.fixture
def place(tmp_path):
    """A working folder with the user's norm; whatever works in it at the end of a test is an orphan."""
    furnish(tmp_path)
    yield tmp_path
    assert survivors(tmp_path) == []


def sweep(place: Path, *words: str, **options) -> Ended:
    return Ended(begin(place, *WORDS, "hydra.sweep.dir=s", *words, **options))


def resume(place: Path, *words: str) -> Ended:
    return Ended(begin(place, "resume", "s", "--imports", "my_norms", *words))


def result(folder: Path) -> tuple[str, bytes]:
    state = checkpoint.load(folder)
    assert state is not None, folder
    return checkpoint.digest(state), (folder / "metrics.csv").read_bytes()


def results(folder: Path) -> dict[str, tuple[str, bytes]]:
    return {run.parent.name: result(run.parent) for run in sorted(folder.glob("*/run.json"))}


def status(folder: Path) -> str:
    return json.loads((folder / "run.json").read_text())["status"] if (folder / "run.json").exists() else "absent"


def states(place: Path) -> dict[str, str]:
    jobs = json.loads((place / "s" / "sweep.json").read_text())["jobs"]
    return {job["name"]: job["state"] for job in jobs}


FAULTS = {
    "raise": "RuntimeError: the norm is broken",
    "segfault": "segmentation fault",
    "kill": "killed by SIGKILL (out of memory?)",
    "exit": "SystemExit: 3",
    "exit 0": "ended with exit code 0 before its last step",
    "hang": "not finished after 6 s",
    "memory": "memory",
}


@pytest.mark.slow
def test_a_job_that_fails_fails_alone_and_can_be_tried_again(place, undisturbed):
    for number, kind in enumerate(FAULTS):
        (place / f"fault-t{number}").write_text(kind)
    timing = ("hydra.launcher.timeout_s=6", "hydra.launcher.grace_s=0.5")
    answer = sweep(place, f"norm.tag={TAGS}", "hydra.launcher.jobs=2", *timing)
    assert answer.code == 1, answer
    assert "Traceback" not in answer.out + answer.err
    failed = [line for line in answer.out.splitlines() if line.startswith("failed: ")]
    for number, (kind, reason) in enumerate(FAULTS.items()):
        name = f"norm.tag=t{number}"
        (line,) = [line for line in failed if f"{name}:" in line]
        assert reason in line
        assert f"s/{name}/output.log" in line
        assert f"here it comes: {kind}" in (place / "s" / name / "output.log").read_text()
        saved = json.loads((place / "s" / name / "run.json").read_text())
        assert saved["status"] == "failed"
        assert reason in saved["failure"]["reason"]
        assert saved["failure"]["lines"]
    assert len(failed) == len(FAULTS)
    assert f"7 failed, 1 finished, of {JOBS} jobs" in answer.out
    last = f"norm.tag=t{JOBS - 1}"
    assert result(place / "s" / last) == result(undisturbed / last)
    before = (place / "s" / last / "run.json").stat()

    again = resume(place)
    assert (again.code, again.err) == (1, "")
    assert len([line for line in again.out.splitlines() if line.startswith("failed: ")]) == len(FAULTS)

    retried = resume(place, "--retry-failed")
    assert retried.code == 0, retried
    assert results(place / "s") == results(undisturbed)
    after = (place / "s" / last / "run.json").stat()
    assert (after.st_mtime_ns, after.st_ino) == (before.st_mtime_ns, before.st_ino)


@pytest.mark.slow
def test_a_killed_supervisor_leaves_nobody_behind_and_the_sweep_goes_on(place, undisturbed):
    (place / "slow").touch()
    words = (*WORDS, "hydra.sweep.dir=s", f"norm.tag={TAGS}", "hydra.launcher.jobs=2")
    process = begin(place, *words)
    until(lambda: list(place.glob("s/*/checkpoint.pt")))
    second = resume(place)
    assert second.code == 2
    assert second.err == "bnexp: s: in use by another bnexp process; wait for it or stop it\n"
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    until(lambda: not survivors(place), 5)
    assert len([run for run in place.glob("s/*/run.json") if status(run.parent) == "running"]) > 0
    (place / "slow").unlink()
    answer = resume(place)
    assert answer.code == 0, answer
    assert results(place / "s") == results(undisturbed)


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_saves_all_and_the_same_command_goes_on(place, undisturbed, number, code):
    (place / "slow").touch()
    (place / "fault-t0").write_text("hang")
    words = (f"norm.tag={TAGS}", "hydra.launcher.jobs=3", "hydra.launcher.grace_s=60")
    process = begin(place, *WORDS, "hydra.sweep.dir=s", *words)
    until(lambda: len(list(place.glob("s/*/checkpoint.pt"))) >= 2 and not (place / "fault-t0").exists())
    process.send_signal(number)
    began = time.monotonic()
    answer = Ended(process)
    assert time.monotonic() - began < 20  # not the 60 s of grace
    assert survivors(place) == []
    assert answer.code == code, answer
    assert "go on with: bnexp resume s" in answer.out
    assert "failed" not in answer.out
    assert "interrupted" in states(place).values()
    (place / "slow").unlink()
    again = sweep(place, *words)
    assert again.code == 0, again
    assert results(place / "s") == results(undisturbed)


@pytest.mark.slow
def test_a_second_signal_ends_it_at_once(place):
    (place / "slow").touch()
    (place / "fault-t0").write_text("hang")
    process = begin(place, *WORDS, "hydra.sweep.dir=s", "norm.tag=t0", "hydra.launcher.grace_s=60")
    until(lambda: (place / "s").exists() and not (place / "fault-t0").exists())
    process.send_signal(signal.SIGINT)
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    began = time.monotonic()
    Ended(process)
    assert time.monotonic() - began < 20  # not the 60 s of grace
    until(lambda: not survivors(place), 2)


@pytest.mark.slow
@pytest.mark.parametrize("left", ["leave a child", "hang"])  # in the second case it has one when the server dies
def test_what_a_job_leaves_behind_and_a_killed_server_do_no_harm(place, undisturbed, left):
    (place / "fault-t0").write_text(left)
    (place / "fault-t2").write_text("kill the server")
    answer = sweep(place, "norm.tag=t0,t1,t2,t3", "hydra.launcher.jobs=2")
    assert answer.code == 0, answer
    assert answer.err.count("the process that starts the jobs was killed (out of memory?); they go on from") == 1
    expected = results(undisturbed)
    assert results(place / "s") == {name: expected[name] for name in states(place)}


@pytest.mark.slow
def test_a_server_that_is_killed_a_fourth_time_ends_the_sweep(place):
    for number in range(4):
        (place / f"fault-t{number}").write_text("kill the server")
    answer = sweep(place, "norm.tag=t0,t1,t2,t3", "hydra.launcher.jobs=1")
    assert answer.code == 1
    assert answer.err.count("they go on from checkpoints") == 3
    assert "stopped: the fork server was killed again and again" in answer.out
    assert list(states(place).values()) == ["finished"] * 3 + ["interrupted"]


@pytest.mark.slow
def test_a_grid_grows_and_a_changed_config_is_refused(place, undisturbed):
    first = sweep(place, "norm.tag=t0,t1", "hydra.launcher.jobs=2")
    assert first.code == 0, first
    untouched = {path: path.stat().st_mtime_ns for path in place.glob("s/*/run.json")}
    assert sweep(place, "norm.tag=t0,t1").code == 0
    grown = sweep(place, "norm.tag=t0,t2,t1,t0,\"it's\",'a b ż;$x'")
    assert grown.code == 0, grown
    assert list(states(place)) == [f"norm.tag={tag}" for tag in ("t0", "t1", "t2", '"it\'s"', "'abż;$x'")]
    assert untouched.items() <= {path: path.stat().st_mtime_ns for path in place.glob("s/*/run.json")}.items()
    assert result(place / "s" / "norm.tag=t2") == result(undisturbed / "norm.tag=t2")
    before = (place / "s" / "sweep.json").read_bytes()
    changed = sweep(place, "norm.tag=t1,t3", "optim.lr=0.07")
    assert changed.code == 2
    assert changed.err.count("\n") == 1
    assert "norm.tag=t1: holds a run of another config (optim.lr: " in changed.err
    assert "-> 0.07)" in changed.err
    assert (place / "s" / "sweep.json").read_bytes() == before


@pytest.mark.slow
def test_a_job_is_the_run_that_one_command_makes(place, undisturbed):
    words = (word for word in WORDS[2:])
    single = Ended(begin(place, "train", *words, "norm.tag=t1", "hydra.run.dir=run"))
    assert single.code == 0, single
    assert result(place / "run") == result(undisturbed / "norm.tag=t1")
    of_sweep = {path.name.partition(".vm.")[0][:10] for path in (undisturbed / "norm.tag=t1").iterdir()}
    assert of_sweep - {path.name.partition(".vm.")[0][:10] for path in (place / "run").iterdir()} == {"output.log"}
    facts, alone = (
        json.loads((folder / "run.json").read_text()) for folder in (undisturbed / "norm.tag=t1", place / "run")
    )
    assert facts.keys() == alone.keys()
    assert facts["config_hash"] == alone["config_hash"]


@pytest.mark.slow
def test_enough_failures_end_a_sweep_and_a_busy_job_is_one(place):
    assert sweep(place, "norm.tag=t0").code == 0
    (place / "fault-t2").write_text("raise")
    (place / "s" / "norm.tag=t1").mkdir()
    with held(place / "s" / "norm.tag=t1"):
        answer = sweep(place, "norm.tag=t0,t1,t2,t3,t4,t5", "hydra.launcher.jobs=1", "hydra.launcher.max_failures=2")
    assert answer.code == 1
    assert "norm.tag=t1: s/norm.tag=t1: in use by another bnexp process" in answer.out
    assert "stopped: 2 jobs have failed (max_failures=2)" in answer.out
    assert list(states(place).values()).count("waiting") == 3


@pytest.mark.slow
def test_a_full_disk_stops_the_sweep_and_says_why(place):
    def small_files():
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))

    answer = sweep(place, "norm.tag=t0,t1,t2,t3", "epochs=100", "hydra.launcher.jobs=1", preexec_fn=small_files)
    assert answer.code == 1, answer
    assert "stopped: s/norm.tag=t0: File too large" in answer.out
    assert list(states(place).values()) == ["interrupted", "waiting", "waiting", "waiting"]


@pytest.mark.slow
def test_a_disk_too_full_for_a_last_line_is_not_the_jobs_fault(place):
    """output.log has reached the limit of the disk, so that the job cannot even print what is wrong."""
    log = place / "s" / "norm.tag=t0" / "output.log"
    log.parent.mkdir(parents=True)
    log.write_bytes(b"x" * 19_999 + b"\n")

    def small_files():
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))

    answer = sweep(place, "norm.tag=t0,t1", "epochs=100", "hydra.launcher.jobs=1", preexec_fn=small_files)
    assert answer.code == 1, answer
    assert "stopped: " in answer.out
    assert "failed" not in answer.out
    assert list(states(place).values()) == ["interrupted", "waiting"]


def test_a_supervisor_that_is_killed_while_torch_is_imported_takes_that_process_along(place):
    process = begin(place, *WORDS, "hydra.sweep.dir=s", "norm.tag=t0", cold=True)
    until(lambda: any("end_with_parent" in command for command in survivors(place)))
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    until(lambda: not survivors(place), 0.5)
    assert not (place / "s" / "norm.tag=t0" / "run.json").exists()


def test_a_broken_file_of_the_user_is_reported_once(place):
    with (place / "my_norms.py").open("a") as file:
        file.write("\nx = 1 / 0\n")
    answer = sweep(place, f"norm.tag={TAGS}")
    assert "ZeroDivisionError" in answer.complaint
    assert "my_norms.py" in answer.complaint
    assert not (place / "s").exists()


WRONG = {
    "norm=bn,bx": "norm=bx: not known; did you mean bn?",
    "norm=bn,ln sed=1": "did you mean seed?",
    "seed=0,1.5": "seed=1.5: expected a whole number",
    "optim.lr=0.1,-1": "optim.lr=-1.0: out of range",
    "norm=bn,": "norm=bn,",
    "seed=": "seed",
    "seed=range(3,3)": "seed=range(3,3): has no values",
    "seed=0,1 hydra.launcher.jobs=0": "hydra.launcher.jobs=0: out of range; allowed is at least 1",
    "seed=0,1 hydra.launcher.jobs=many": "hydra.launcher.jobs=many: expected a whole number",
    "seed=0,1 hydra.launcher.timeout_s=-1": "hydra.launcher.timeout_s=-1.0: out of range",
    "seed=range(1,2,0)": "seed=range(1,2,0): range() arg 3 must not be zero",
    "seed=0,1 hydra.launcher.timeout=1": "did you mean hydra.launcher.timeout_s?",
    "seed=0,1 hydra/launcher=locl": "hydra/launcher=locl: not known; did you mean local?",
    "seed=0,1 device=cuda:99": "device=cuda:99",
    "norm=none,bn model=mlp batch_size=1": "norm=bn",
    "seed=0,1 hydra.sweep.subdir=x": "hydra.sweep.subdir=x: a sweep names its jobs' folders itself",
    "model=lenet,resnet model.depth=20": "model.depth",
}


@pytest.mark.parametrize("words", WRONG)
def test_wrong_input_costs_one_line_and_leaves_nothing(bnexp, tmp_path, monkeypatch, words):
    monkeypatch.chdir(tmp_path)
    answer = bnexp("train", "-m", *words.split(" "))
    assert WRONG[words] in answer.complaint
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "words",
    [
        ["norm=gn", "norm.groups=2", "seed=3"],
        ["norm=bn", "seed=4", "optim.lr=0.5"],
        ["model=mlp", "model.depth=1", "norm=bn", "seed=4"],
        ["experiment=d2l_lenet", "norm=none", "optim.lr=0.9"],
        ["norm={name: bn, eps: 0.1}"],
        ["seed=1", "imports=[a,b]", "steps=null"],
        ["+data.path='a b=c'", "~norm.eps"],
    ],
)
def test_jobs_are_composed_as_hydra_composes_them(words):
    from bnexp.cli.hydra_plugins import Composer

    with hydra.initialize_config_dir(str(configs_folder()), version_base="1.3"):
        master = hydra.compose("train", [], return_hydra_config=True)
        loader = GlobalHydra.instance().config_loader()
        compose = Composer(HydraContext(config_loader=loader, callbacks=None), master)
        assert compose(["seed=9", "norm=gn"]) == hydra.compose("train", ["seed=9", "norm=gn"])
        for _ in range(2):
            assert compose(words) == hydra.compose("train", words)


def test_names_say_what_differs():
    assert sweep_names([["norm=bn", "seed=0", "epochs=2"], ["norm=bn", "seed=1", "epochs=2"]]) == ["seed=0", "seed=1"]
    assert sweep_names([["norm=bn", "seed=0"]]) == ["norm=bn,seed=0"]
    assert sweep_names([[]]) == ["default"]


def job(**changes):
    return {"seed": 0, "optim": {"name": "sgd", "lr": 0.1}, "data": {"name": "npz", "root": "here"}, **changes}


def test_jobs_that_ask_for_the_same_run_are_one_and_equal_names_are_told_apart():
    same = entries([(["seed=1"], job(seed=1)), (["seed=1"], job(seed=1)), (["seed=2"], job(seed=2))])
    assert [entry.name for entry in same] == ["seed=1", "seed=2"]
    words = [["data.x=a/b"], ["data.x=a_b"]]
    first, second = entries([(word, job(seed=seed)) for seed, word in enumerate(words)])
    assert first.name.startswith("data.x=a_b-")
    assert first.name != second.name


def test_odd_names_survive_hydras_grammar():
    for name in ("a'b", "it's,c=d'", "x${y}", "ż ;$(z)", 'say "x"', "{a:b}"):
        (override,) = OverridesParser.create().parse_overrides([f"hydra.sweep.subdir={quoted(name)}"])
        assert str(override.value()).replace("\\${", "${") == name


@pytest.mark.slow
def test_a_server_that_died_between_two_sweeps_begins_again(tmp_path):
    given = {"jobs": 2, "slots_per_gpu": 1, "timeout_s": None, "grace_s": 1.0, "max_failures": None}
    words = [*SMALL_RUN, "device=cpu"]
    todo = entries([(words, to_dict(plain(composed(*words))))])
    with contextlib.closing(ForkServer()) as server:
        for _ in range(2):
            ready = preflight(server, todo, options(given), Stop())
            assert ready is not None
            assert ready.slots == [{}, {}]
            os.kill(server._process.pid, signal.SIGKILL)
            server._process.wait()


def test_a_server_that_answers_while_it_is_asked_keeps_nobody_waiting(monkeypatch):
    """Neither side's answers fit into the connection: each must read what the other one says."""
    count, tasks = 2000, []

    def serve(connection: socket.socket) -> None:
        with connection, connection.makefile() as lines:
            for line in lines:
                task = json.loads(line)["fork"]
                connection.sendall(json.dumps({"task": task, "pid": 0, "and": "x" * 200}).encode() + b"\n")
                connection.sendall(json.dumps({"task": task, "code": 0, "and": "x" * 200}).encode() + b"\n")

    def spawn(theirs: socket.socket) -> SimpleNamespace:
        Thread(target=serve, args=(theirs.dup(),), daemon=True).start()
        return SimpleNamespace(poll=lambda: None, wait=lambda seconds=None: 0, kill=lambda: None, returncode=0)

    def ask() -> None:
        with contextlib.closing(ForkServer()) as server:
            for number in range(count):
                server.fork(number, "train", {}, log="log", env={"x": "y" * 200})
            while len(tasks) < count:
                tasks.extend(server.ended(1))

    monkeypatch.setattr(fork_server, "spawn", spawn)
    asking = Thread(target=ask, daemon=True)
    asking.start()
    asking.join(30)
    assert tasks == [(number, 0) for number in range(count)]


def test_a_sweep_that_another_command_has_made_meanwhile_stays(tmp_path):
    (tmp_path / "s").mkdir()
    given = {"jobs": "auto", "slots_per_gpu": 1, "timeout_s": None, "grace_s": 1.0, "max_failures": None}
    plan = plans.Plan(tmp_path / "s", [], options(given), [])
    with _made(plan, fresh=False):
        plan.write()
    message = r"s: another command has made a sweep in it meanwhile; give this one again$"
    with pytest.raises(ValueError, match=message), _made(plan, fresh=False):
        pass
    with _made(plan, fresh=True):
        assert plan.folder.name == "s-2"


@pytest.mark.parametrize("name", ["../x", "", ".hidden", "a/b", "a\0b"])
def test_a_plan_that_leads_out_of_its_folder_is_refused(tmp_path, name):
    given = {"jobs": "auto", "slots_per_gpu": 1, "timeout_s": None, "grace_s": 1.0, "max_failures": None}
    (entry,) = entries([([], job())])
    entry.name = name
    plans.Plan(tmp_path, [], options(given), [entry]).write()
    with pytest.raises(ValueError, match=r"sweep\.json: cannot be read"):
        plans.read(tmp_path)
    (tmp_path / "sweep.json").write_text("{}")
    with pytest.raises(ValueError, match=r"delete it and give the sweep's command again"):
        plans.read(tmp_path)


def test_slots(monkeypatch):
    given = {"jobs": "auto", "slots_per_gpu": 2, "timeout_s": None, "grace_s": 1.0, "max_failures": None}
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(6), raising=False)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert slots(options(given), 0, 1, 2) == [{}] * 6
    assert len(slots(options(given), 0, 4, 2)) == 1
    assert [slot["CUDA_VISIBLE_DEVICES"] for slot in slots(options(given), 2, 1, 2)] == ["0", "1", "0", "1"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-a,GPU-b")
    assert [slot["CUDA_VISIBLE_DEVICES"] for slot in slots(options(given | {"jobs": 3}), 2, 1, 2)] == [
        "GPU-a",
        "GPU-b",
        "GPU-a",
    ]
