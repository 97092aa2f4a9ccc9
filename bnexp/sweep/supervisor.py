"""Runs a sweep: starts jobs, watches them, and decides what follows when one ends.

Each job has its own process, so a crash ends that job alone. A job's run.json records how the job ended; if the process
died before it could write that, the supervisor writes it.
"""

from __future__ import annotations

import contextlib
import signal
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bnexp.config.checks import STORAGE_FAILED, RunFailedError
from bnexp.config.schema import shape
from bnexp.runs import run_json
from bnexp.runs.longer import Length
from bnexp.runs.paths import SWEEP_JSON
from bnexp.runs.storage import held, make_free
from bnexp.stopping import Stop
from bnexp.sweep import plan as plans
from bnexp.sweep.display import Report, SweepDisplay, print_summary
from bnexp.sweep.fork_server import ForkServer, ForkServerDiedError, complaint, printed, reason
from bnexp.sweep.options import Options
from bnexp.sweep.plan import Entry, Plan, stacks
from bnexp.sweep.preflight import Ready, preflight

Notes = Callable[[Mapping[str, Any], Sequence[str]], dict[str, str]]
Engine = Callable[[Path, Sequence[Entry]], None]

# A stopped sweep's processes must be gone within 5 s; this leaves one second for a save in progress.
_STOP_GRACE_S = 4.0
_TICK_S = 0.1  # seconds between checks of deadlines and signals
# If the system kills the fork server again and again, the machine has too little memory for the sweep.
_MOST_RESTARTS = 3
# Exit codes of a job that a user stopped by a signal; it has saved.
_STOPPED_BY_A_USER = (128 + signal.SIGINT, 128 + signal.SIGTERM)
_KEPT_LINES = 10


def carry_out(
    folder: Path,
    wanted: Sequence[Entry] | None,
    *,
    command: Sequence[str],
    options: Options | None,
    notes: Notes,
    retry_failed: bool = False,
    engine: Engine | None = None,
    server: ForkServer | None = None,
    report: Report = print_summary,
    fresh: bool = False,
    length: Length | None = None,
) -> int:
    """Run the jobs of a sweep that are not over yet, and report the states of all jobs.

    Args:
        folder: the sweep's folder; made, if missing, after everything has been checked.
        wanted: the jobs to run; None for all jobs of the folder's plan.
        command: the command line, recorded in the plan.
        options: how to run the jobs; None for the plan's options.
        notes: (config, overrides) -> further files for a run's folder.
        retry_failed: run failed jobs again.
        engine: runs the jobs instead of this machine's supervisor.
        server: forks the processes; None starts a fork server that ends with this sweep.
        report: see ``Report``.
        fresh: the folder must be a new one; if it is there already, the sweep takes the next free name.
        length: give all jobs of the plan this length.

    Returns:
        0 when all jobs but the refused are over, 1 when one failed or could not run, 130 or 143 after a signal.

    Raises:
        ValueError: an error that the user can fix; nothing has been started or left behind then.
    """
    stop = Stop()
    with stop.listening(), contextlib.ExitStack() as holds:
        is_new = fresh or not folder.is_dir()
        if not is_new:
            holds.enter_context(held(folder))
        plan = _plan(folder, command, options, is_new=is_new)
        if length is not None:
            plan.change_length(length)
        asked = _asked(plan, wanted, is_new=is_new)
        todo = [entry for entry in asked if not entry.over and (retry_failed or entry.state != "failed")]
        trouble = None
        if todo:
            server = server or holds.enter_context(contextlib.closing(ForkServer()))
            ready = preflight(server, todo, plan.options, stop)
            if ready is None:
                return stop.exit_code
            todo = [entry for entry in todo if entry.state != "refused"]
            if is_new and not todo:
                raise ValueError(f"every job is refused; {asked[0].name}: {asked[0].reason}")
            if is_new:
                holds.enter_context(_made(plan, fresh=fresh))
            _first_write(plan)
            trouble = _run(plan, todo, ready, notes, stop, server, engine) if todo else None
        report(plan, asked, trouble)
    done = all(entry.over or entry.state == "refused" for entry in asked)
    return stop.exit_code if stop() else int(trouble is not None or not done)


def _plan(folder: Path, command: Sequence[str], options: Options | None, *, is_new: bool) -> Plan:
    if not is_new and plans.is_sweep(folder):
        saved = plans.read(folder)
        return Plan(folder, saved.command, options or saved.options, saved.entries)
    if options is None:
        raise ValueError(f"{folder}: not a sweep (it has no {SWEEP_JSON})")
    return Plan(folder, list(command), options, [])


def _asked(plan: Plan, wanted: Sequence[Entry] | None, *, is_new: bool) -> Sequence[Entry]:
    """The plan's entries of the jobs to run, with their present states."""
    asked = plan.entries if wanted is None else plan.adopt(wanted)
    if not is_new:
        plan.refresh()
    return asked


@contextlib.contextmanager
def _made(plan: Plan, *, fresh: bool) -> Iterator[None]:
    """Make and lock the sweep's folder, under the next free name if it is to be ``fresh``.

    Raises:
        ValueError: the folder cannot be made, or another process holds it.
    """
    try:
        if fresh:
            plan.folder = make_free(plan.folder)
        else:
            plan.folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"{plan.folder}: cannot be made ({error.strerror})") from None
    with held(plan.folder):
        yield


def _first_write(plan: Plan) -> None:
    try:
        plan.write()
    except OSError as error:
        with contextlib.suppress(OSError):
            plan.folder.rmdir()  # only if it is empty
        raise ValueError(f"{plan.folder}: cannot be written ({error.strerror})") from None


def _run(
    plan: Plan, todo: Sequence[Entry], ready: Ready, notes: Notes, stop: Stop, server: ForkServer, engine: Engine | None
) -> str | None:
    """Run jobs; returns a sentence that says why some jobs were not run, or None."""
    if engine is None:
        supervisor = Supervisor(plan, todo, ready, notes, stop, server)
        return supervisor.run()
    server.close()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # an engine waits for jobs in its own blocking calls
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        engine(plan.folder, todo)
    except RunFailedError as error:
        return str(error)
    finally:
        plan.refresh()
        plan.write()
    return None


@dataclass
class _Running:
    """A process and the jobs that it runs: one job, or the members of a stack.

    Attributes:
        started, deadline, kill_at: times of the monotonic clock.
        log_start: position in output.log where this try begins.
        asked_to_end: why the process was asked to end: ``time`` or ``stop``.
    """

    entries: list[Entry]
    slot: int
    started: float
    deadline: float | None
    log_start: int
    asked_to_end: str | None = None
    kill_at: float | None = None


class Supervisor:
    """Keeps every slot busy until no job is left.

    Args:
        plan: kept up to date on the disk.
        todo: the jobs to run, in this order.
        ready: where the jobs can run, and which cannot be stacked.
        notes: see ``carry_out``.
        stop: asked in every tick; True ends the running jobs after they have saved.
        server: forks the processes.
    """

    def __init__(
        self, plan: Plan, todo: Sequence[Entry], ready: Ready, notes: Notes, stop: Stop, server: ForkServer
    ) -> None:
        self._plan, self._options, self._slots = plan, plan.options, ready.slots
        self._notes, self._stop, self._server = notes, stop, server
        self._queue = deque(stacks(todo, plan.options.max_stack, ready.unstackable))
        reasons = {entry.name: ready.unstackable.get(shape(entry.config)) for entry in todo}
        self._alone = reasons if plan.options.max_stack > 1 else {}
        self._free = list(reversed(range(len(ready.slots))))
        self._running: dict[int, _Running] = {}
        self._numbers = 0
        self._failures = 0
        self._restarts = 0
        self._trouble: str | None = None
        self._display = SweepDisplay(len(todo))
        self._written = time.monotonic()

    def run(self) -> str | None:
        """Run all jobs; returns a sentence that says why some jobs were not started, or None."""
        try:
            while self._queue or self._running:
                try:
                    self._tick()
                except ForkServerDiedError:
                    self._start_anew()
        finally:
            self._display.close()
        self._write(at_once=True)
        return self._trouble

    def _tick(self) -> None:
        if self._stop():
            self._end_all()
        while self._queue and self._free:
            self._start(self._queue.popleft())
        self._display.running(len(self._running))
        for number, code in self._server.ended(_TICK_S):
            self._settle(self._running.pop(number), code)
        self._watch(time.monotonic())
        self._write()

    def _start(self, entries: list[Entry]) -> None:
        """Start jobs in the next free slot."""
        log = self._plan.job(entries[0]).output_log
        try:
            log.parent.mkdir(exist_ok=True)
            size = log.stat().st_size if log.exists() else 0
        except OSError as error:
            return self._halt(f"{log.parent}: {error.strerror}", entries)
        now, limit = time.monotonic(), self._options.timeout_s
        self._numbers += 1
        slot = self._free.pop()
        self._running[self._numbers] = _Running(
            entries, slot, now, None if limit is None else now + limit * len(entries), size
        )
        for entry in entries:
            entry.state, entry.reason, entry.lines, entry.tries = "running", None, [], entry.tries + 1
        given = {
            "jobs": [self._job(entry) for entry in entries],
            "executor": self._options.executor,
            "slots": self._options.slots_per_gpu,
        }
        self._server.fork(self._numbers, "train", given, log=str(log), env=self._slots[slot])
        return None

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
                self._end(number, running, "time", self._options.grace_s)
            if running.kill_at is not None and now >= running.kill_at:
                running.kill_at = None
                self._server.signal(number, signal.SIGKILL)

    def _end(self, number: int, running: _Running, why: str, grace_s: float) -> None:
        if running.asked_to_end is not None:
            return
        running.asked_to_end, running.kill_at = why, time.monotonic() + grace_s
        self._server.signal(number, signal.SIGTERM)

    def _end_all(self) -> None:
        """The sweep was stopped: start no waiting job, and ask running jobs to save and end."""
        self._queue.clear()
        for number, running in self._running.items():
            self._end(number, running, "stop", min(self._options.grace_s, _STOP_GRACE_S))

    def _settle(self, running: _Running, code: int) -> None:
        """Record how a process has ended."""
        self._free.append(running.slot)
        log = self._plan.job(running.entries[0]).output_log
        lines = printed(log, running.log_start)
        if code == STORAGE_FAILED:
            self._halt(complaint(lines) or "the disk cannot be written", [])
        self._refresh(running.entries)
        left = [entry for entry in running.entries if not entry.over]
        if self._stop() or code == STORAGE_FAILED or (code in _STOPPED_BY_A_USER and running.asked_to_end is None):
            pass  # not failed: it can be resumed
        elif len(running.entries) > 1:
            # Nobody knows which member caused the failure; run one by one, only that member fails.
            why = reason(code, lines)
            self._display.say(f"{len(left)} stacked jobs ended together, and train one by one now: {why}")
            self._alone |= {entry.name: f"the stack ended: {why}" for entry in left}
            self._queue.extendleft([entry] for entry in reversed(left))
            running.entries = [entry for entry in running.entries if entry.over]
        else:
            for entry in left:
                self._fail(entry, running, code, lines)
        for entry in running.entries:
            self._display.ended(entry, *self._result(entry, running))
        self._write(at_once=any(entry.state == "failed" for entry in left))

    def _fail(self, entry: Entry, running: _Running, code: int, lines: list[str]) -> None:
        """Record that a job has failed."""
        if code != 1 or entry.state != "failed":  # else the job itself has written the failure and its reason
            timed_out = running.asked_to_end == "time"
            entry.reason = f"not finished after {self._options.timeout_s:g} s" if timed_out else reason(code, lines)
            entry.lines = lines[-_KEPT_LINES:]
            entry.state = "failed"
            with contextlib.suppress(OSError, ValueError):
                run_json.enter_failure(self._plan.job(entry).folder, entry.facts(), entry.reason, entry.lines)
        self._failures += 1
        if self._options.max_failures is not None and self._failures >= self._options.max_failures:
            self._halt(f"{self._failures} jobs have failed (max_failures={self._options.max_failures})", [])

    def _refresh(self, entries: Sequence[Entry]) -> None:
        for entry in entries:
            with contextlib.suppress(ValueError):  # a damaged file; the job reports it when it is tried again
                plans.refresh(self._plan.folder, entry)

    def _result(self, entry: Entry, running: _Running) -> tuple[float | None, float]:
        """Test accuracy and seconds."""
        seconds = time.monotonic() - running.started
        if entry.state != "finished":
            return None, seconds
        return run_json.read(self._plan.job(entry).folder)["final"].get("test/accuracy"), seconds

    def _halt(self, why: str, not_started: list[Entry]) -> None:
        """Start no more jobs."""
        self._trouble = self._trouble or why
        for entry in not_started:
            entry.state = "waiting" if entry.state == "running" else entry.state
        self._queue.clear()

    def _write(self, *, at_once: bool = False) -> None:
        """Update the plan's file, at most once a second: the jobs' own files hold the results."""
        if not at_once and time.monotonic() - self._written < 1:
            return
        try:
            self._plan.write()
        except OSError as error:
            self._halt(f"{self._plan.folder}: {error.strerror}", [])
        self._written = time.monotonic()

    def _start_anew(self) -> None:
        """The fork server died and its jobs with it: restart it, and resume the jobs from their checkpoints."""
        self._restarts += 1
        lost = list(self._running.values())
        self._running.clear()
        self._free = list(reversed(range(len(self._slots))))
        for running in lost:
            self._refresh(running.entries)
            for entry in running.entries:
                if entry.over:
                    self._display.ended(entry, *self._result(entry, running))
        if self._restarts > _MOST_RESTARTS:
            return self._halt("the fork server was killed again and again (out of memory?)", [])
        self._display.say("the process that starts the jobs was killed (out of memory?); they go on from checkpoints")
        time.sleep(0.5)  # the kernel kills the jobs after their parent has died, not before
        left = [[entry for entry in running.entries if not entry.over] for running in lost]
        self._queue.extendleft(filter(None, reversed(left)))
        return None
