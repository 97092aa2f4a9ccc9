"""Sweeps on a real SLURM and on a real Ray of two nodes: whatever happens, the results are those of this machine.

Run by scripts/engines.sh, which installs both; takes minutes, and is no part of the ordinary tests.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from clusters import ADDRESSES, RayCluster, missing_for_ray, missing_for_slurm, slurm
from processes import Ended, begin, furnish, until
from test_sweep import WORDS, results, sweep

pytestmark = pytest.mark.slow
JOBS = 8
TAGS = ",".join(f"t{number}" for number in range(JOBS))
# One checkpoint, at the end; long enough to be met in the middle where the file "slow" makes each step take longer.
LENGTH = ("epochs=40", "checkpoint_every=1000")
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
    assert sweep(place, f"norm.tag={TAGS}", *LENGTH).code == 0
    return place / "s"


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


def running(place: Path, tag: str) -> bool:
    return jobs(place).get(tag, {}).get("state") == "running" and (place / f"s/norm.tag={tag}/timing.csv").exists()


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
    """One job raises, one is killed, one is cancelled, one runs into the time limit; the sweep's process is killed."""
    (place / "fault-t0").write_text("raise")
    (place / "fault-t1").write_text("kill")
    (place / "fault-t2").write_text("hang")
    process = on_slurm(place, controller, f"norm.tag={TAGS}")
    until(lambda: jobs(place).get("t0", {}).get("state") == "failed", 240)
    until(lambda: running(place, "t2") and not (place / "fault-t2").exists(), 240)
    ask(controller, "scancel", jobs(place)["t2"]["ticket"])
    (place / "slow").touch()
    until(lambda: any(running(place, f"t{number}") for number in range(3, JOBS)), 240)
    (tag, *_) = [f"t{number}" for number in range(3, JOBS) if running(place, f"t{number}")]
    ask(controller, "scancel", "--signal=USR2", jobs(place)[tag]["ticket"])  # what SLURM does before its limit
    until(lambda: (place / f"s/norm.tag={tag}/checkpoint.pt").exists(), 60)
    until(lambda: jobs(place)["t2"]["state"] == "failed", 60)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    told = {name: job["reason"] for name, job in jobs(place).items() if job["state"] == "failed"}
    assert told == {
        "t0": "RuntimeError: the norm is broken",
        "t1": "killed by SIGKILL (out of memory?)",
        "t2": "cancelled",
    }
    (place / "slow").unlink()
    answer = resume(place, controller, "--retry-failed")
    assert answer.code == 0, answer
    assert results(place / "s") == results(here)
    assert "resumes from step" in (place / f"s/norm.tag={tag}/train.log").read_text()


def test_a_sweep_that_is_stopped_leaves_its_jobs_to_slurm(controller, here, place):
    (place / "slow").touch()
    process = on_slurm(place, controller, f"norm.tag={TAGS}")
    until(lambda: sum(running(place, f"t{number}") for number in range(JOBS)) == 2, 240)
    process.send_signal(signal.SIGINT)
    answer = ended(process)
    assert answer.code == 130, answer
    assert "still with SLURM: " in answer.out
    assert "go on with: bnexp resume s --imports my_norms --trust-launcher" in answer.out
    assert "Traceback" not in answer.err
    refused = ended(begin(place, "resume", "s", "--imports", "my_norms", "--here", extra_env=controller))
    assert "cancel them first: bnexp resume s --cancel" in refused.complaint
    cancelled = resume(place, controller, "--cancel")
    assert cancelled.code == 0, cancelled
    assert ask(controller, "squeue", "--noheader") == ""
    (place / "slow").unlink()
    assert resume(place, controller).code == 0
    assert results(place / "s") == results(here)


def test_a_drained_node_is_waited_for(controller, here, place):
    host = ask(controller, "sinfo", "--noheader", "--format=%n").strip()
    process = on_slurm(place, controller, "norm.tag=t0,t1,t2")
    until(lambda: any(running(place, f"t{number}") for number in range(3)), 240)
    ask(controller, "scontrol", "update", f"nodename={host}", "state=drain", "reason=test")
    until(lambda: all(job["state"] != "running" for job in jobs(place).values()), 240)
    ask(controller, "scontrol", "update", f"nodename={host}", "state=resume")
    answer = ended(process)
    assert answer.code == 0, answer
    expected = results(here)
    assert results(place / "s") == {name: expected[name] for name in results(place / "s")}


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


def inside(cluster, place: Path, *words: str) -> subprocess.Popen[str]:
    """A bnexp in the namespace of the cluster."""
    program = [*cluster.inside, sys.executable, "-c", "import sys; from bnexp.cli.main import main; sys.exit(main())"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([*program, *words], cwd=place, start_new_session=True, **pipes)


def on_ray(cluster, place: Path, *words: str) -> subprocess.Popen[str]:
    address = f"hydra.launcher.ray.init.address={cluster.address}"
    return inside(cluster, place, *WORDS, *LENGTH, "hydra.sweep.dir=s", "hydra/launcher=ray", address, *words)


def resume_on_ray(cluster, place: Path, *words: str) -> Ended:
    flags = ("--imports", "my_norms", "--trust-launcher")
    return ended(inside(cluster, place, "resume", "s", *flags, *words))


def test_a_sweep_on_ray_in_which_much_goes_wrong(cluster, here, place):
    """One job raises, one is killed; then the sweep's process is killed, and the sweep goes on."""
    (place / "fault-t0").write_text("raise")
    (place / "fault-t1").write_text("kill")
    process = on_ray(cluster, place, f"norm.tag={TAGS}")
    until(lambda: [job["state"] for job in jobs(place).values()].count("failed") == 2, 240)
    until(lambda: any(running(place, f"t{number}") for number in range(2, JOBS)), 240)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    told = {name: job["reason"] for name, job in jobs(place).items() if job["state"] == "failed"}
    assert told == {"t0": "RuntimeError: the norm is broken", "t1": "killed by SIGKILL (out of memory?)"}
    answer = resume_on_ray(cluster, place, "--retry-failed")
    assert answer.code == 0, answer
    assert results(place / "s") == results(here)


def test_a_stopped_sweep_on_ray_saves_and_says_how_it_goes_on(cluster, here, place):
    (place / "slow").touch()
    process = on_ray(cluster, place, "norm.tag=t0,t1,t2")
    until(lambda: sum(running(place, f"t{number}") for number in range(3)) == 2, 240)
    process.send_signal(signal.SIGTERM)
    answer = ended(process)
    assert answer.code == 143, answer
    assert "Traceback" not in answer.err
    assert "2 interrupted, 1 waiting, of 3 jobs in s" in answer.out
    assert "go on with: bnexp resume s --imports my_norms --trust-launcher" in answer.out
    (place / "slow").unlink()
    assert resume_on_ray(cluster, place).code == 0
    expected = results(here)
    assert results(place / "s") == {name: expected[name] for name in results(place / "s")}


def test_a_cluster_that_does_not_answer_is_one_line(cluster, place):
    words = (*WORDS, "hydra.sweep.dir=s", "norm.tag=t0,t1", "hydra/launcher=ray")
    answer = ended(inside(cluster, place, *words, "hydra.launcher.ray.init.address=10.99.0.1:9"))
    assert "hydra.launcher.ray.init.address=10.99.0.1:9: no Ray cluster answers there" in answer.complaint
    assert not (place / "s").exists()


def test_a_node_of_ray_that_dies_is_not_the_jobs_fault(cluster, here, place):
    (place / "slow").touch()
    process = on_ray(cluster, place, "norm.tag=t0,t1,t2")
    until(lambda: any(running(place, f"t{number}") for number in range(3)), 240)  # the other node has begun one, too
    cluster.kill(f"ip_address={ADDRESSES[1]}")  # its raylet, which takes its workers along
    (place / "slow").unlink()
    answer = ended(process)
    assert answer.code == 0, answer
    expected = results(here)
    assert results(place / "s") == {name: expected[name] for name in results(place / "s")}
