"""Commands in processes of their own that meet a fault, and what is left of them."""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from pathlib import Path

from conftest import Answer, start

# A user's norm. In training step 9 of a job it does what the file fault-TAG says, and takes the file away.
FAULTY = """
import ctypes, os, resource, signal, subprocess, sys, time
from pathlib import Path
import torch
from bnexp.norms.base import NORMS
from bnexp.norms.none import Shift

def fault(kind):
    if kind == "raise":
        raise RuntimeError("the norm is broken")
    if kind == "segfault":
        os.kill(os.getpid(), signal.SIGSEGV)
    if kind == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if kind == "exit":
        sys.exit(3)
    if kind == "exit 0":
        os._exit(0)
    if kind == "hang":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        subprocess.Popen(["sleep", "1000"])
        time.sleep(1000)
    if kind == "memory":
        resource.setrlimit(resource.RLIMIT_AS, (10**9, 10**9))
        torch.zeros(10**10)
    if kind == "long step":  # until a signal has asked to save
        while signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:
            time.sleep(0.05)
    if kind == "leave a child":
        subprocess.Popen(["sleep", "1000"])
    if kind == "kill the server":
        os.kill(os.getppid(), signal.SIGKILL)
        time.sleep(1000)

class Faulty(Shift):
    calls = 0
    def __init__(self, channels, tag):
        super().__init__(channels)
        self.file = Path(f"fault-{tag}")
    def forward(self, x):
        if torch.is_grad_enabled():
            self.calls += 1
            if Path("slow").exists():
                time.sleep(0.03 if self.calls < 9 else 0.5)  # behind its first checkpoints, a job waits for the test
            if self.calls == 9 and self.file.exists():
                kind = self.file.read_text()
                self.file.unlink()
                print("here it comes:", kind, flush=True)
                fault(kind)
        return super().forward(x)

@NORMS.register("faulty")
def faulty(channels: int, *, tag: str):
    return Faulty(channels, tag)
"""


def furnish(place: Path) -> None:
    (place / "my_norms.py").write_text(FAULTY)
    (place / "my" / "norm").mkdir(parents=True)
    (place / "my" / "norm" / "faulty.yaml").write_text("name: faulty\ntag: a\n")


class Ended(Answer):
    """What a process has printed and how it ended; waits for its end."""

    def __init__(self, process: subprocess.Popen[str], seconds: float = 120) -> None:
        out, err = process.communicate(timeout=seconds)
        super().__init__(process.returncode, out, err)


def begin(place: Path, *words: str, **options) -> subprocess.Popen[str]:
    return start(*words, cwd=place, env=options.pop("extra_env", {}), **options)


def survivors(place: Path) -> list[str]:
    """The commands of the processes that work in a folder, besides this one."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if process.name != str(os.getpid()) and Path(os.readlink(process / "cwd")).is_relative_to(place):
                found.append((process / "cmdline").read_text())
    return found


def until(condition, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.02)
