"""Watches a sweep's tasks, and decides what follows when one ends.

A job's run.json records how the job ended; if the process died before it could write that, the supervisor writes it.
"""

from __future__ import annotations

import contextlib
import signal
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bnexp.config.checks import STORAGE_FAILED, RunFailedError
from bnexp.config.names import counted
from bnexp.runs import run_json
from bnexp.stopping import Stop
from bnexp.sweep import plan as plans
from bnexp.sweep.display import SweepDisplay
from bnexp.sweep.engine import End, Engine, EngineDiedError, Task, ranges, size
from bnexp.sweep.fork_server import complaint
from bnexp.sweep.node import SHARED
from bnexp.sweep.plan import Entry, Plan
from bnexp.sweep.preflight import Ready

Notes = Callable[[Mapping[str, Any], Sequence[str]], dict[str, str]]

# A stopped sweep's processes must be gone within 5 s; this leaves one second for a save in progress.
_STOP_GRACE_S = 4.0
# Seconds between checks of deadlines and signals.
_TICK_S = 0.1
# The plan's file is written at most once a second, and takes at most this share of the time.
_WRITE_S, _WRITE_SHARE = 1.0, 0.05
# Tasks of the first submissions; a later one is as large as all before it. Each writes the plan's file, so that a sweep
# of many jobs writes it a few times only.
_AT_ONCE = 1000
# If the system kills the fork server again and again, the machine has too little memory for the sweep.
_MOST_RESTARTS = 3
# Exit codes of a job that a user stopped by a signal; it has saved.
_STOPPED_BY_A_USER = (128 + signal.SIGHUP, 128 + signal.SIGINT, 128 + signal.SIGTERM)
_KEPT_LINES = 10


@dataclass
class _Running:
    """A task that the engine has.

    Attributes:
        entries: its jobs.
        started: time of the monotonic clock; None while it waits in the engine's queue.
        deadline, kill_at: times of the monotonic clock.
        asked_to_end: why the process was asked to end: ``time`` or ``stop``.
        before: job -> when its run.json was written last before the task.
    """

    entries: list[Entry]
    before: dict[str, int] = field(default_factory=dict)
    started: float | None = None
    deadline: float | None = None
    asked_to_end: str | None = None
    kill_at: float | None = None


class Supervisor:
    """Keeps the engine busy until no job is left.

    Args:
        plan: kept up to date on the disk.
        todo: the jobs to run, in this order.
        ready: what the preflight has found.
        notes: (config, overrides) -> further files for a run's folder.
        stop: asked in every tick; True ends the running jobs after they have saved, or leaves them to the engine.
        engine: carries the tasks.
    """

    def __init__(
        self,
        plan: Plan,
        todo: Sequence[Entry],
        ready: Ready,
        notes: Notes,
        stop: Stop,
        engine: Engine,
    ) -> None:
        self._plan, self._options = plan, plan.options
        self._notes, self._stop, self._engine = notes, stop, engine
        self._running: dict[int, _Running] = {}
        self._numbers = 0
        self._take_up(todo)
        new = [entry for entry in todo if entry.ticket is None]
        self._queue = deque(ready.stacking.groups(new))
        self._alone = {entry.name: ready.stacking.reason(entry) for entry in todo}
        self._slots = ready.per_gpu
        self._failures = 0
        self._restarts = 0
        self._trouble: str | None = None
        self._fallbacks: set[str] = set()  # reasons that have been told
        self._display = SweepDisplay(len(todo))
        self._written, self._write_s = time.monotonic(), 0.0

    def _take_up(self, todo: Sequence[Entry]) -> None:
        """Find the tasks that the engine has from an earlier command; forget those that are gone."""
        tasks: dict[str, list[Entry]] = {}
        for entry in todo:
            if entry.ticket is not None:
                tasks.setdefault(entry.ticket, []).append(entry)
        alive = self._engine.alive(tasks)
        for ticket, entries in tasks.items():
            if ticket in alive:
                self._engine.attach(self._next(entries), ticket, self._plan.folder)
            else:
                for entry in entries:
                    entry.ticket = None

    def _next(self, entries: list[Entry]) -> int:
        """A number for a new task."""
        self._numbers += 1
        self._running[self._numbers] = _Running(entries)
        return self._numbers

    def run(self) -> str | None:
        """Run all jobs; returns a sentence that says why some jobs were not started, or None."""
        jobs = sum(map(len, self._queue))
        if jobs:
            most = min(self._engine.room(), len(self._queue))
            how = f"in up to {most} processes at the same time" if most > 1 else "one at a time"
            self._display.say(f"{counted(jobs, 'job')} in {self._plan.folder}, {how}")
        try:
            while self._queue or self._running:
                if self._stop() and self._engine.survives:
                    break
                try:
                    self._tick()
                except EngineDiedError:
                    self._start_anew()
        finally:
            self._display.close()
        self._write(at_once=True)
        return self._trouble

    def _tick(self) -> None:
        if self._stop():
            self._end_all()
        self._submit()
        self._display.running(self._count(started=True), self._count(started=False))
        news = self._engine.poll(_TICK_S)
        for number in news.started:
            self._begin(self._running[number])
        for number in news.requeued:
            self._wait(self._running[number])
        for end in news.ended:
            self._settle(self._running.pop(end.number), end)
        self._watch(time.monotonic())
        self._write()

    def _count(self, *, started: bool) -> int:
        """The jobs that run, or those that wait with the engine."""
        return sum(len(each.entries) for each in self._running.values() if (each.started is not None) == started)

    def _submit(self) -> None:
        """Give the engine as many tasks as it takes."""
        tasks = []
        for _ in range(min(self._engine.room(), len(self._queue), max(_AT_ONCE, len(self._running)))):
            if self._stop():  # to describe a task takes some milliseconds
                break
            entries = self._queue.popleft()
            if not self._make_folder(entries):
                break
            tasks.append(self._task(entries))
        if not tasks:
            return
        try:
            tickets = self._engine.submit(tasks)
        except RunFailedError as error:
            lost = [entry for task in tasks for entry in self._running.pop(task.number).entries]
            self._halt(str(error), lost)
            return
        for task in tasks:
            for entry in self._running[task.number].entries:
                entry.ticket = tickets.get(task.number)
        if tickets:
            self._display.say(f"{len(tasks)} tasks are with {self._engine.name} ({ranges(tickets.values())})")
            self._write(at_once=True)

    def _make_folder(self, entries: list[Entry]) -> bool:
        """Make the folder of a task's output; halts the sweep if the disk does not let it."""
        log = self._plan.job(entries[0]).output_log
        try:
            log.parent.mkdir(exist_ok=True)
            size(log)
        except OSError as error:
            self._halt(f"{log.parent}: {error.strerror}", entries)
            return False
        return True

    def _task(self, entries: list[Entry]) -> Task:
        """Jobs as a task; they count as running at once where the engine has no queue."""
        number, config = self._next(entries), entries[0].config
        for entry in entries:
            self._running[number].before[entry.name] = self._written_at(entry)
            entry.state, entry.reason, entry.lines, entry.tries = "queued", None, [], entry.tries + 1
            entry.stack = entries[0].name if len(entries) > 1 else ""
        if not self._engine.name:
            self._begin(self._running[number])
        given = {
            "jobs": [self._job(entry) for entry in entries],
            "slots": self._slots,
        }
        log = self._plan.job(entries[0]).output_log
        return Task(number, given, log, self._plan.folder, config["device"], config["threads"])

    def _written_at(self, entry: Entry) -> int:
        """When the job's run.json was written; 0 if there is none."""
        with contextlib.suppress(OSError):
            return self._plan.job(entry).run_json.stat().st_mtime_ns
        return 0

    def _begin(self, running: _Running) -> None:
        """Note that a task has started."""
        limit, running.started = self._options.timeout_s, time.monotonic()
        running.deadline = None if limit is None else running.started + limit * len(running.entries)
        for entry in running.entries:
            entry.state = "running"

    def _wait(self, running: _Running) -> None:
        """Note that a task waits again."""
        running.started = running.deadline = None
        for entry in running.entries:
            entry.state = "queued"

    def _job(self, entry: Entry) -> dict[str, Any]:
        folder = str(self._plan.job(entry).folder)
        facts = {key: value for key, value in entry.facts().items() if key != "config_hash"}
        notes = self._notes(entry.config, entry.overrides)
        return {
            **facts,
            "folder": folder,
            "notes": notes,
            "alone": self._alone.get(entry.name),
            "longer": bool(entry.shorter),
        }

    def _watch(self, now: float) -> None:
        """Ask jobs that are over their time limit to save and end; kill those that do not end in time."""
        for number, running in self._running.items():
            if running.deadline is not None and now >= running.deadline:
                self._end([number], "time", self._options.grace_s)
        overdue = [number for number, each in self._running.items() if each.kill_at is not None and now >= each.kill_at]
        for number in overdue:
            self._running[number].kill_at = None
        self._engine.cancel(overdue, by_force=True)

    def _end(self, numbers: Sequence[int], why: str, grace_s: float) -> None:
        """Ask tasks to save and end, once."""
        new = [number for number in numbers if self._running[number].asked_to_end is None]
        for number in new:
            self._running[number].asked_to_end, self._running[number].kill_at = why, time.monotonic() + grace_s
        self._engine.cancel(new)

    def _end_all(self) -> None:
        """The sweep was stopped: start no waiting job, and ask running jobs to save and end."""
        self._queue.clear()
        self._end(list(self._running), "stop", min(self._options.grace_s, _STOP_GRACE_S))

    def _settle(self, running: _Running, end: End) -> None:
        """Record how a task has ended."""
        if end.code == STORAGE_FAILED:
            self._halt(complaint(end.lines) or "the disk cannot be written", [])
        for entry in running.entries:
            entry.ticket = None
        self._refresh(running.entries)
        left = [entry for entry in running.entries if not entry.over]
        stopped = end.reason is None and end.code in _STOPPED_BY_A_USER and running.asked_to_end is None
        if self._stop() or end.code == STORAGE_FAILED or stopped:
            pass  # not failed: it can be resumed
        elif left and len(running.entries) > 1:
            # Nobody knows which member caused the failure; run one by one, only that member fails.
            why = self._why(running, end)
            self._display.say(f"{len(left)} stacked jobs ended together, and train one by one now: {why}")
            self._alone |= {entry.name: f"the stack ended: {why}" for entry in left}
            self._queue.extendleft([entry] for entry in reversed(left))
            running.entries = [entry for entry in running.entries if entry.over]
        else:
            for entry in left:
                self._fail(entry, running, end)
        for entry in running.entries:
            self._show_end(entry, running)

    def _fail(self, entry: Entry, running: _Running, end: End) -> None:
        """Record that a job has failed."""
        told = entry.state == "failed" and self._written_at(entry) != running.before.get(entry.name)
        if end.code != 1 or end.reason or not told:  # else the job itself has written why
            entry.reason = self._why(running, end)
            job = self._plan.job(entry)
            if self._engine.name and end.code == 0 and not job.run_json.exists():
                entry.reason = f"was carried out, and is not in {self._plan.folder}: {SHARED}"
            elif end.log and end.log.exists() and not job.output_log.exists():
                entry.reason += f" ({end.log})"
            entry.lines = list(end.lines[-_KEPT_LINES:])
            entry.state = "failed"
            with contextlib.suppress(OSError, ValueError):
                run_json.enter_failure(self._plan.job(entry).folder, entry.facts(), entry.reason, entry.lines)
        self._failures += 1
        if self._options.max_failures is not None and self._failures >= self._options.max_failures:
            self._halt(f"{self._failures} jobs have failed (max_failures={self._options.max_failures})", [])

    def _why(self, running: _Running, end: End) -> str:
        """Why a task has ended, in words for the user."""
        if running.asked_to_end != "time" or self._options.timeout_s is None:
            return _reason(end)
        members = len(running.entries)
        each = f" ({members} times timeout_s={self._options.timeout_s:g})" if members > 1 else ""
        return f"not finished after {members * self._options.timeout_s:g} s{each}"

    def _refresh(self, entries: Sequence[Entry]) -> None:
        for entry in entries:
            with contextlib.suppress(ValueError):  # a damaged file; the job reports it when it is tried again
                plans.refresh(self._plan.folder, entry)

    def _show_end(self, entry: Entry, running: _Running) -> None:
        """Show how a job has ended; and why its steps were not replayed though they should have been, once a reason."""
        now, accuracy = time.monotonic(), None
        if entry.over:
            run = run_json.read(self._plan.job(entry).folder)
            accuracy = run["final"].get("test/accuracy") if entry.state == "finished" else None
            reason = run.get("executor", {}).get("capture_failed")
            if reason is not None and reason not in self._fallbacks:
                self._fallbacks.add(reason)
                self._display.say(f"{entry.name}: CUDA graph capture failed ({reason}); it ran kernel by kernel")
        self._display.ended(entry, accuracy, now - (running.started or now))

    def _halt(self, why: str, not_started: list[Entry]) -> None:
        """Start no more jobs."""
        self._trouble = self._trouble or why
        for entry in not_started:
            entry.state = "waiting" if entry.state in ("queued", "running") else entry.state
        self._queue.clear()

    def _write(self, *, at_once: bool = False) -> None:
        """Update the plan's file, not too often: the jobs' own files hold the results."""
        now = time.monotonic()
        if not at_once and now - self._written < max(_WRITE_S, self._write_s / _WRITE_SHARE):
            return
        try:
            self._plan.write()
        except OSError as error:
            self._halt(f"{self._plan.folder}: {error.strerror}", [])
        self._written = time.monotonic()
        self._write_s = self._written - now

    def _start_anew(self) -> None:
        """The engine died and its jobs with it: restart it, and resume the jobs from their checkpoints."""
        self._restarts += 1
        lost = list(self._running.values())
        self._running.clear()
        for running in lost:
            self._refresh(running.entries)
            for entry in running.entries:
                if entry.over:
                    self._show_end(entry, running)
        if self._restarts > _MOST_RESTARTS:
            return self._halt("the fork server was killed again and again (out of memory?)", [])
        self._display.say("the process that starts the jobs was killed (out of memory?); they go on from checkpoints")
        time.sleep(0.5)  # the kernel kills the jobs after their parent has died, not before
        left = [[entry for entry in running.entries if not entry.over] for running in lost]
        self._queue.extendleft(filter(None, reversed(left)))
        return None


def _reason(end: End) -> str:
    """Why a task has ended, in words for the user."""
    code, lines = end.code, end.lines
    if end.reason is not None:
        return end.reason
    if code == -signal.SIGKILL:
        return "killed by SIGKILL (out of memory?)"
    if code == -signal.SIGSEGV:
        return "segmentation fault"
    if code < 0:
        return f"killed by {signal.Signals(-code).name}"
    if code in (1, 2) and lines:
        return complaint(lines) or lines[-1]
    return f"ended with exit code {code} before its last step"
