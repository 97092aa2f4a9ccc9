"""An engine for tests: each task is a small process that outlasts its sweep, and trains nothing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from bnexp.sweep.engine import End, News

# What a task's process does: the word in the file "do-NAME" in the sweep's folder, else it finishes.
_PROGRAM = """
import json, os, sys, time
from pathlib import Path
from bnexp.config.schema import config_hash
from bnexp.runs import run_json
for job in json.load(sys.stdin)["jobs"]:
    folder = Path(job["folder"])
    folder.mkdir(exist_ok=True)
    facts = {key: job[key] for key in ("name", "config", "overrides")} | {"config_hash": config_hash(job["config"])}
    def write(status, **more):
        run_json.write(folder, {"format": run_json.FORMAT, **facts, "status": status, "final": {}, **more})
    plan = folder.parent / f"do-{job['name']}"
    do = plan.read_text() if plan.exists() else "finish"
    print("doing", do, flush=True)
    if do == "wait":
        write("running")
        while plan.exists():
            time.sleep(0.02)
        do = "finish"
    if do == "fail":
        write("failed", failure={"reason": "it is broken", "lines": []})
        sys.exit(1)
    if do == "crash":
        sys.exit(1)
    if do == "kill":
        os.kill(os.getpid(), 9)
    if do == "elsewhere":
        sys.exit(0)
    write("diverged" if do == "diverge" else "finished")
"""


class Fake:
    """Tickets are process numbers; ``at_once`` tasks run, the others wait."""

    name = "Fake"
    survives = True

    def __init__(self, at_once: int = 2, most: int = 10**9) -> None:
        self.at_once, self.most, self.largest = at_once, most, 0
        self.waiting, self.running = [], {}
        self.cancelled: set[int] = set()

    def begin(self, threads: int) -> None:
        self.threads = threads

    def room(self) -> int:
        return self.most - len(self.waiting) - len(self.running)

    def submit(self, tasks) -> dict[int, str]:
        found = {}
        for task in tasks:
            with task.log.open("ab") as log:
                options = {"stdin": subprocess.PIPE, "stdout": log, "stderr": log}
                process = subprocess.Popen([sys.executable, "-c", _PROGRAM], **options)
            found[task.number] = str(process.pid)
            self.waiting.append((task, process))
        self.largest = max(self.largest, len(self.waiting) + len(self.running))
        return found

    def alive(self, tickets) -> set[str]:
        return {ticket for ticket in tickets if Path(f"/proc/{ticket}/fd/1").exists()}

    def attach(self, number: int, ticket: str, sweep: Path) -> None:
        self.running[number] = int(ticket)

    def poll(self, timeout_s: float) -> News:
        started = []
        while self.waiting and len(self.running) < self.at_once:
            task, process = self.waiting.pop(0)
            with process.stdin:
                process.stdin.write(json.dumps(task.given).encode())
            self.running[task.number] = process
            started.append(task.number)
        time.sleep(0.02)
        return News(started, ended=[end for number in list(self.running) if (end := self._end(number)) is not None])

    def _end(self, number: int) -> End | None:
        process = self.running[number]
        code = self._code(process)
        if code is None:
            return None
        del self.running[number]
        return End(number, code, ["doing"], "cancelled" if number in self.cancelled else None)

    def _code(self, process) -> int | None:
        if isinstance(process, subprocess.Popen):
            return process.poll()
        return None if self.alive([str(process)]) else 0

    def cancel(self, numbers, *, by_force: bool = False) -> None:
        for number in numbers:
            self.cancelled.add(number)
            process = self.running[number]
            os.kill(process if isinstance(process, int) else process.pid, signal.SIGKILL)

    def close(self) -> None:
        pass
