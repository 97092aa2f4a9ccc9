"""Sweeps on a real SLURM and on a real Ray of two nodes: whatever happens, the results are those of this machine.

Run by scripts/engines.sh, which installs both; takes minutes, and is no part of the ordinary tests.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from clusters import ADDRESSES, HOST, RayCluster, missing_for_ray, missing_for_slurm, slurm
from conftest import SMALL_RUN
from processes import Ended, begin, furnish, until
from test_sweep import WORDS, results, status, sweep

pytestmark = pytest.mark.slow
JOBS = 30
TAGS = [f"t{number}" for number in range(JOBS)]
FEW = TAGS[4:7]
# One checkpoint, at the end; long enough to be met in the middle where the file "slow" makes each step take longer.
LENGTH = ("epochs=40", "checkpoint_every=1000")
# What happens to the first jobs in step 9, in the middle of an epoch, and what the sweep says of them.
TROUBLE = {"t0": "raise", "t1": "kill", "t2": "long step", "t3": "long step"}
FAILURES = {
    "t0": "failed: RuntimeError: the norm is broken",
    "t1": "failed: killed by SIGKILL (out of memory?)",
    "t2": "failed: cancelled",
}
# In the guide, these words stand with other values; the tests give the same words.
SLURM = (
    *("hydra/launcher=slurm", "hydra.launcher.partition=main", "hydra.launcher.timeout_min=5"),
    *("hydra.launcher.mem_gb=1", "hydra.launcher.setup=['export SEEN=1']"),
)


def ended(process: subprocess.Popen[str]) -> Ended:
    """What a process has printed; engines and their jobs start slowly."""
    return Ended(process, seconds=600)


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    """Folder of a sweep on this machine that nothing happens to."""
    place = tmp_path_factory.mktemp("here")
    furnish(place)
    assert sweep(place, tagged(TAGS), *LENGTH).code == 0
    return results(place / "s")


@pytest.fixture
def place(tmp_path):
    furnish(tmp_path)
    return tmp_path


def jobs(place: Path) -> dict[str, dict]:
    try:
        saved = json.loads((place / "s" / "sweep.json").read_text())
    except FileNotFoundError:
        return {}
    return {job["name"].removeprefix("norm.tag="): job for job in saved["jobs"]}


def tagged(tags) -> str:
    return f"norm.tag={','.join(tags)}"


def state(place: Path, tag: str) -> str | None:
    return jobs(place).get(tag, {}).get("state")


def running(place: Path, tags=TAGS) -> list[str]:
    """The jobs that have trained some steps, and train on."""
    return [tag for tag in tags if state(place, tag) == "running" and (place / f"s/norm.tag={tag}/timing.csv").exists()]


def in_trouble(place: Path, tag: str) -> bool:
    return bool(running(place, [tag])) and not (place / f"fault-{tag}").exists()


def hold(place: Path) -> None:
    """Keep each of a few jobs in step 9 until it is asked to save."""
    for tag in FEW:
        (place / f"fault-{tag}").write_text("long step")


def held(place: Path) -> int:
    return sum(in_trouble(place, tag) for tag in FEW)


def let_go(place: Path) -> None:
    """Let jobs that have not come to step 9 pass it."""
    for tag in FEW:
        (place / f"fault-{tag}").unlink(missing_ok=True)


def finished(place: Path) -> set[str]:
    """The jobs whose own files say that they have finished."""
    return {
        run.parent.name.removeprefix("norm.tag=")
        for run in place.glob("s/*/run.json")
        if status(run.parent) == "finished"
    }


def told(err: str) -> dict[str, str]:
    """Job -> what the sweep's line about its end says; a job has one line."""
    lines = [line.split("  ") for line in err.splitlines() if line.startswith("norm.tag=")]
    assert len({name for name, *_ in lines}) == len(lines), err
    return {name.removeprefix("norm.tag="): how for name, how, *_ in lines}


def has_gone_on_well(answer: Ended, place: Path, before: set[str], here) -> None:
    """After the one command that goes on: all results are those of this machine, and the right jobs were told."""
    assert answer.code == 0, answer
    assert results(place / "s") == here
    assert told(answer.err) == dict.fromkeys(set(TAGS) - before, "finished")
    assert answer.out == f"sweep: {JOBS} finished, of {JOBS} jobs in s\nresults: bnexp compare s\n"


def same(place: Path, tags, here) -> bool:
    return results(place / "s") == {name: here[name] for name in map("norm.tag={}".format, tags)}


# --- SLURM ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def controller(tmp_path_factory):
    pytest.importorskip("submitit", reason="an extra of bnexp: submitit is not installed")
    reason = missing_for_slurm()
    if reason:
        pytest.skip(f"SLURM: {reason}")
    with slurm(tmp_path_factory.mktemp("slurm")) as environment:
        yield environment


def ask(controller, *command: str) -> str:
    done = subprocess.run(command, env=os.environ | controller, capture_output=True, text=True)
    return done.stdout


def on_slurm(place: Path, controller, *words: str) -> subprocess.Popen[str]:
    given = (*WORDS, *LENGTH, "hydra.sweep.dir=s", *SLURM, *words)
    return begin(place, *given, extra_env=controller)


def resume(place: Path, environment, *words: str) -> Ended:
    flags = ("--imports", "my_norms", "--trust-launcher")
    return ended(begin(place, "resume", "s", *flags, *words, extra_env=environment))


def test_a_sweep_on_slurm_in_which_much_goes_wrong(controller, here, place):
    """A job raises, one is killed, one cancelled, one reaches its time limit; the node is drained, the sweep killed."""
    for tag, kind in TROUBLE.items():
        (place / f"fault-{tag}").write_text(kind)
    (place / "slow").touch()
    limit = ("hydra.launcher.timeout_min=2", "hydra.launcher.signal_delay_s=30")
    process = on_slurm(place, controller, tagged(TAGS), *limit)
    until(lambda: in_trouble(place, "t2"), 300)
    ask(controller, "scancel", jobs(place)["t2"]["ticket"])
    until(lambda: (place / "s/norm.tag=t3/checkpoint.pt").exists(), 300)  # SLURM's limit came, in step 9
    until(lambda: state(place, "t3") == "queued", 60)
    host = ask(controller, "sinfo", "--noheader", "--format=%n").strip()
    ask(controller, "scontrol", "update", f"nodename={host}", "state=drain", "reason=test")
    until(lambda: not ask(controller, "squeue", "--noheader", "--states=running"), 300)
    until(lambda: {job["state"] for job in jobs(place).values()} == {"failed", "finished", "queued"}, 60)
    process.kill()
    _, err = process.communicate()
    before = finished(place)
    assert re.match(rf"{JOBS} tasks are with SLURM \(\d+_\[0-4\], ", err)
    assert told(err) == FAILURES | dict.fromkeys(before, "finished")
    assert before
    assert before.isdisjoint(TROUBLE)
    ask(controller, "scontrol", "update", f"nodename={host}", "state=resume")
    (place / "slow").unlink()
    has_gone_on_well(resume(place, controller, "--retry-failed"), place, before, here)
    for tag in ("t2", "t3"):
        assert "resumes from step 9 of" in (place / f"s/norm.tag={tag}/train.log").read_text()


def test_a_sweep_that_is_stopped_leaves_its_jobs_to_slurm(controller, here, place):
    hold(place)
    process = on_slurm(place, controller, tagged(FEW))
    until(lambda: held(place) == 2, 240)
    process.send_signal(signal.SIGINT)
    answer = ended(process)
    assert answer.code == 130, answer
    assert "still with SLURM: " in answer.out
    assert "go on with: bnexp resume s --imports my_norms --trust-launcher" in answer.out
    assert "Traceback" not in answer.err
    refused = ended(begin(place, "resume", "s", "--imports", "my_norms", "--here", extra_env=controller))
    assert "cancel them first: bnexp resume s --cancel" in refused.complaint
    assert "cancel them first: bnexp resume s --cancel" in resume(place, controller, "epochs=50").complaint
    cancelled = resume(place, controller, "--cancel")
    assert cancelled.code == 0, cancelled
    assert ask(controller, "squeue", "--noheader") == ""
    let_go(place)
    assert resume(place, controller).code == 0
    assert same(place, FEW, here)


def test_a_sweep_on_slurm_trains_longer(controller, here, place):
    first = ended(on_slurm(place, controller, tagged(FEW), "epochs=20"))
    assert first.code == 0, first
    longer = resume(place, controller, "epochs=40")
    assert longer.code == 0, longer
    assert same(place, FEW, here)
    assert told(longer.err) == dict.fromkeys(FEW, "finished")


def test_a_stack_is_one_job_of_slurm(controller, place):
    words = ("train", "-m", *SMALL_RUN, "seed=0,1,2")
    local = ("hydra/launcher=stacked", "hydra.launcher.jobs=1", "hydra.sweep.dir=here")
    assert ended(begin(place, *words, *local)).code == 0
    answer = ended(begin(place, *words, *SLURM, "hydra.launcher.stack=true", "hydra.sweep.dir=s", extra_env=controller))
    assert answer.code == 0, answer
    assert re.match(r"1 tasks are with SLURM \(\d+\)", answer.err)
    assert results(place / "s") == results(place / "here")


def test_a_job_of_slurm_is_given_the_gpu_that_device_cuda_asks_for(controller, place):
    """The GPU is none (see clusters.py), so the job says what it was given, and trains nothing."""
    answer = ended(on_slurm(place, controller, "norm.tag=t0,t1", "device=cuda"))
    assert answer.code == 1, answer
    reason = rf"failed: a GPU was asked for, and {HOST} gave none \(CUDA_VISIBLE_DEVICES=0\)"
    assert all(re.fullmatch(reason, how) for how in told(answer.err).values()), answer
    assert not list(place.glob("s/*/metrics.csv"))


def test_what_slurm_refuses_is_one_line(controller, place):
    answer = ended(on_slurm(place, controller, "norm.tag=t0,t1", "hydra.launcher.partition=nowhere"))
    assert answer.code == 1, answer
    assert "stopped: SLURM: Batch job submission failed: Invalid partition name specified" in answer.out
    assert "sweep: 2 waiting, of 2 jobs in s" in answer.out


# --- Ray --------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    pytest.importorskip("ray", reason="an extra of bnexp: ray is not installed")
    reason = missing_for_ray()
    if reason:
        pytest.skip(f"Ray: {reason}")
    with RayCluster(Path("/tmp") / f"bnexp-ray-{os.getpid()}") as made:  # Ray's sockets need short paths
        yield made


# Only the process that has submitted a task can cancel it: it does so once there is a file "cancel".
CANCELLING = """
from pathlib import Path
import ray
from bnexp.sweep.ray import Ray

def polled(engine, timeout_s, poll=Ray.poll):
    if Path("cancel").exists():
        number = int(Path("cancel").read_text())
        Path("cancel").unlink()
        ray.cancel(next(each for each, own in engine._running.items() if own == number))
    return poll(engine, timeout_s)

Ray.poll = polled
"""


def inside(cluster, place: Path, *words: str, before: str = "") -> subprocess.Popen[str]:
    """A bnexp in the namespace of the cluster.

    Args:
        before: a program to run first, in the same process.
    """
    program = f"{before}\nimport sys; from bnexp.cli.main import main; sys.exit(main())"
    program = [*cluster.inside, sys.executable, "-c", program]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([*program, *words], cwd=place, start_new_session=True, **pipes)


def on_ray(cluster, place: Path, *words: str, **options) -> subprocess.Popen[str]:
    address = f"hydra.launcher.ray.init.address={cluster.address}"
    given = (*WORDS, *LENGTH, "hydra.sweep.dir=s", "hydra/launcher=ray", address, *words)
    return inside(cluster, place, *given, **options)


def resume_on_ray(cluster, place: Path, *words: str) -> Ended:
    flags = ("--imports", "my_norms", "--trust-launcher")
    return ended(inside(cluster, place, "resume", "s", *flags, *words))


def test_a_sweep_on_ray_in_which_much_goes_wrong(cluster, here, place):
    """One job raises, one is killed, one is cancelled, one reaches its time limit; a node dies, the sweep is killed."""
    for tag, kind in TROUBLE.items():
        (place / f"fault-{tag}").write_text(kind)
    (place / "slow").touch()
    limit = ("hydra.launcher.timeout_s=60", "hydra.launcher.grace_s=20")
    in_order = "hydra.launcher.jobs=2"  # Ray itself starts what it has in any order
    process = on_ray(cluster, place, tagged(TAGS), *limit, in_order, before=CANCELLING)
    until(lambda: in_trouble(place, "t2"), 300)
    (place / "cancel").write_text("3")  # tasks are counted from 1
    until(lambda: state(place, "t3") == "failed" and len(running(place)) == 2, 300)
    cluster.kill(f"ip_address={ADDRESSES[1]}")  # its raylet, which takes its workers along
    already = len(finished(place))
    until(lambda: len(finished(place)) >= already + 2, 300)  # the other node goes on
    until(lambda: running(place), 60)
    process.kill()
    _, err = process.communicate()
    until(lambda: not cluster.busy(), 60)
    before, said = finished(place), told(err)
    assert {tag: said[tag] for tag in TROUBLE} == FAILURES | {"t3": "failed: not finished after 60 s"}
    assert {tag for tag, how in said.items() if how == "finished"} == said.keys() - TROUBLE.keys()
    assert said.keys() - TROUBLE.keys() <= before < set(TAGS) - TROUBLE.keys()
    cluster.start_node(1)
    (place / "slow").unlink()
    has_gone_on_well(resume_on_ray(cluster, place, "--retry-failed"), place, before, here)
    for tag in ("t2", "t3"):
        assert "resumes from step 9 of" in (place / f"s/norm.tag={tag}/train.log").read_text()


def test_a_stopped_sweep_on_ray_saves_and_says_how_it_goes_on(cluster, here, place):
    hold(place)
    process = on_ray(cluster, place, tagged(FEW))
    until(lambda: held(place) == 2, 240)
    process.send_signal(signal.SIGTERM)
    answer = ended(process)
    assert answer.code == 143, answer
    assert "Traceback" not in answer.err
    assert "2 interrupted, 1 waiting, of 3 jobs in s" in answer.out
    assert "go on with: bnexp resume s --imports my_norms --trust-launcher" in answer.out
    let_go(place)
    assert resume_on_ray(cluster, place).code == 0
    assert same(place, FEW, here)


def test_a_sweep_on_ray_trains_longer(cluster, here, place):
    first = ended(on_ray(cluster, place, tagged(FEW), "epochs=20"))
    assert first.code == 0, first
    longer = resume_on_ray(cluster, place, "epochs=40")
    assert longer.code == 0, longer
    assert same(place, FEW, here)
    assert told(longer.err) == dict.fromkeys(FEW, "finished")


def test_jobs_of_ray_share_the_gpu_that_device_cuda_asks_for(cluster, place):
    """The GPU is none (``--num-gpus`` counts what is not there), so the jobs say what they were given."""
    answer = ended(on_ray(cluster, place, "norm.tag=t0,t1", "device=cuda", "hydra.launcher.slots_per_gpu=2"))
    assert answer.code == 1, answer
    reason = r"failed: a GPU was asked for, and \S+ gave none \(CUDA_VISIBLE_DEVICES=0\)"
    assert all(re.fullmatch(reason, how) for how in told(answer.err).values()), answer


def test_a_cluster_that_does_not_answer_is_one_line(cluster, place):
    words = (*WORDS, "hydra.sweep.dir=s", "norm.tag=t0,t1", "hydra/launcher=ray")
    answer = ended(inside(cluster, place, *words, "hydra.launcher.ray.init.address=10.99.0.1:9"))
    assert "hydra.launcher.ray.init.address=10.99.0.1:9: no Ray cluster answers there" in answer.complaint
    assert not (place / "s").exists()
