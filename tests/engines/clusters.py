"""A SLURM of one node and a Ray of two, on this machine alone: daemons as children, in a folder of their own."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

HOST = socket.gethostname().partition(".")[0]
_DAEMONS = ("munged", "slurmctld", "slurmd", "slurmdbd", "mariadbd", "sacctmgr")
_SLURM = f"""
ClusterName=tiny
SlurmctldHost={HOST}(127.0.0.1)
SlurmctldPort=26817
SlurmdPort=26818
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket=PLACE/munge.socket
CryptoType=crypto/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=2,bf_interval=2,requeue_delay=1
JobAcctGatherType=jobacct_gather/linux
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort=26819
AccountingStoragePass=PLACE/munge.socket
SlurmdParameters=config_overrides
ReturnToService=2
KillWait=10
OverTimeLimit=0
MaxArraySize=5
GresTypes=gpu
StateSaveLocation=PLACE/state
SlurmdSpoolDir=PLACE/spool
SlurmctldPidFile=PLACE/ctld.pid
SlurmdPidFile=PLACE/d.pid
SlurmctldLogFile=PLACE/ctld.log
SlurmdLogFile=PLACE/d.log
MpiDefault=none
NodeName={HOST} NodeAddr=127.0.0.1 CPUs=2 Boards=1 SocketsPerBoard=1 CoresPerSocket=2 ThreadsPerCore=1 \\
 RealMemory=20000 Gres=gpu:1 State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""
# A device that is no GPU: SLURM gives it to jobs that ask for one, and they find none.
_GRES = f"""
NodeName={HOST} Name=gpu File=/dev/null
"""
_SLURMDBD = """
AuthType=auth/munge
AuthInfo=socket=PLACE/munge.socket
DbdHost=localhost
DbdAddr=127.0.0.1
DbdPort=26819
SlurmUser=root
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort=26306
StorageUser=slurm
StoragePass=x
StorageLoc=slurm_acct_db
PidFile=PLACE/dbd.pid
LogFile=PLACE/dbd.log
"""


def missing_for_slurm() -> str | None:
    """What a SLURM on this machine lacks, or None."""
    absent = [name for name in _DAEMONS if shutil.which(name, path=_path()) is None]
    if absent:
        return f"not installed: {', '.join(absent)} (scripts/engines.sh installs them)"
    return None if os.geteuid() == 0 else "its daemons are started as root"


def _path() -> str:
    return f"{os.environ['PATH']}:/usr/sbin:/sbin"


@contextlib.contextmanager
def slurm(place: Path) -> Iterator[dict[str, str]]:
    """A SLURM with accounting and two CPUs; yields the environment of its users."""
    place.chmod(0o755)
    for name in ("state", "spool", "data"):
        (place / name).mkdir()
    for name, text in (("slurm.conf", _SLURM), ("gres.conf", _GRES), ("slurmdbd.conf", _SLURMDBD)):
        (place / name).write_text(text.replace("PLACE", str(place)))
        (place / name).chmod(0o600 if name == "slurmdbd.conf" else 0o644)
    (place / "munge.key").write_bytes(os.urandom(1024))
    (place / "munge.key").chmod(0o400)
    environment = {"SLURM_CONF": str(place / "slurm.conf"), "PATH": _path()}
    with _Daemons(place, environment) as daemons:
        files = {"key-file": "munge.key", "socket": "munge.socket", "pid-file": "munge.pid", "log-file": "munge.log"}
        own = [f"--{option}={place / file}" for option, file in (files | {"seed-file": "munge.seed"}).items()]
        daemons.start("munged", "-F", "--force", *own)
        _start_database(place, daemons)
        daemons.start("slurmdbd", "-D")
        daemons.until(lambda: daemons.ask("sacctmgr", "-i", "add", "cluster", "tiny"))
        daemons.start("slurmctld", "-D", "-c")
        daemons.start("slurmd", "-D", "-N", HOST)
        daemons.until(lambda: daemons.ask("sinfo", "-h", "-o", "%t", expected="idle"))
        yield environment


def _start_database(place: Path, daemons: _Daemons) -> None:
    own = [f"--datadir={place / 'data'}", "--user=root"]
    assert daemons.ask("mariadb-install-db", "--no-defaults", *own, "--auth-root-authentication-method=normal")
    network = ["--bind-address=127.0.0.1", "--port=26306", f"--socket={place / 'db.socket'}"]
    daemons.start("mariadbd", "--no-defaults", *own, *network, f"--pid-file={place / 'db.pid'}")
    rights = "grant all on slurm_acct_db.* to 'slurm'@'localhost' identified by 'x'; create database slurm_acct_db;"
    client = ["mariadb", "--no-defaults", "-u", "root", f"--socket={place / 'db.socket'}", "-e"]
    daemons.until(lambda: daemons.ask(*client, rights))


class _Daemons:
    """Starts daemons in the foreground, and ends them in the opposite order."""

    def __init__(self, place: Path, environment: dict[str, str]) -> None:
        self._place, self._environment = place, os.environ | environment
        self._started: list[subprocess.Popen[bytes]] = []

    def start(self, *command: str) -> None:
        with (self._place / f"{command[0]}.out").open("wb") as log:
            options = {"stdin": subprocess.DEVNULL, "stdout": log, "stderr": log, "start_new_session": True}
            self._started.append(subprocess.Popen(command, env=self._environment, **options))

    def ask(self, *command: str, expected: str = "") -> bool:
        answer = subprocess.run(command, env=self._environment, capture_output=True, text=True)
        return answer.returncode == 0 and expected in answer.stdout

    def until(self, condition: Callable[[], bool], seconds: float = 60) -> None:
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, f"a daemon does not answer; its words are in {self._place}"
            time.sleep(0.3)

    def __enter__(self) -> _Daemons:
        return self

    def __exit__(self, *error: object) -> None:
        for process in reversed(self._started):
            process.terminate()
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


ADDRESSES = ("10.99.0.1", "10.99.0.2")
_PORT = 26379


def missing_for_ray() -> str | None:
    """What a Ray of two nodes on this machine lacks, or None."""
    if shutil.which("ip", path=_path()) is None or os.geteuid() != 0:
        return "two nodes need a network namespace: root and the command ip (scripts/engines.sh installs it)"
    return None


class RayCluster:
    """Two nodes of one CPU each, in a network namespace that reaches nobody; each node has a working folder."""

    def __init__(self, place: Path) -> None:
        self.place, self.name = place, f"bnexp-{os.getpid()}"
        self.inside = ["ip", "netns", "exec", self.name]
        self.address = f"{ADDRESSES[0]}:{_PORT}"
        self.nodes: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> RayCluster:
        self.place.mkdir(exist_ok=True)
        _ip("netns", "add", self.name)
        _ip("-n", self.name, "link", "set", "lo", "up")
        for address in ADDRESSES:
            _ip("-n", self.name, "addr", "add", f"{address}/32", "dev", "lo")
        self.start_node(0)
        self.start_node(1)
        return self

    def start_node(self, number: int) -> None:
        """Start a node; number 0 is the head."""
        folder = self.place / f"node{number}"
        folder.mkdir(exist_ok=True)
        role = (
            ["--head", f"--port={_PORT}", "--include-dashboard=false", f"--temp-dir={self.place / 'ray'}"]
            if number == 0
            else [f"--address={self.address}", "--min-worker-port=31000", "--max-worker-port=31999"]
        )
        sizes = ["--num-cpus=1", f"--num-gpus={1 - number}", "--object-store-memory=100000000"]  # no GPU is there
        own = [f"--node-ip-address={ADDRESSES[number]}", *sizes]
        command = [
            sys.executable,
            "-m",
            "ray.scripts.scripts",
            "start",
            "--block",
            *role,
            *own,
            "--disable-usage-stats",
        ]
        with (folder / "out").open("wb") as log:
            node = subprocess.Popen(
                [*self.inside, *command], cwd=folder, stdout=log, stderr=log, start_new_session=True
            )
        self.nodes.append(node)
        end = time.monotonic() + 60
        while b"Ray runtime started" not in (folder / "out").read_bytes():
            assert node.poll() is None, (folder / "out").read_text()
            assert time.monotonic() < end, (folder / "out").read_text()
            time.sleep(0.3)

    def kill(self, mark: str = "") -> None:
        """Kill the processes of this namespace, and no others, whose command line contains a mark."""
        for pid, command in self._commands().items():
            if mark in command:
                with contextlib.suppress(OSError):
                    os.kill(pid, 9)

    def busy(self) -> bool:
        """Whether a process of a job is alive."""
        return any("on_node" in command for command in self._commands().values())

    def _commands(self) -> dict[int, str]:
        """The processes of this namespace, and their command lines."""
        found = {}
        for pid in subprocess.run(["ip", "netns", "pids", self.name], capture_output=True, text=True).stdout.split():
            with contextlib.suppress(OSError):
                found[int(pid)] = Path(f"/proc/{pid}/cmdline").read_text()
        return found

    def __exit__(self, *error: object) -> None:
        self.kill()
        for node in self.nodes:
            node.wait()
        _ip("netns", "delete", self.name)
        shutil.rmtree(self.place, ignore_errors=True)


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)
