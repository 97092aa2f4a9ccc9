"""Carries out a sweep: finds or makes its folder, checks its jobs, and hands them to the supervisor and an engine."""

from __future__ import annotations

import contextlib
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Sequence, Set
from dataclasses import dataclass, replace
from pathlib import Path

from bnexp.config.words import without_effect
from bnexp.runs.longer import Length
from bnexp.runs.paths import SWEEP_JSON, RunPaths, is_sweep
from bnexp.runs.storage import held, make_free
from bnexp.stopping import Stop
from bnexp.sweep import plan as plans
from bnexp.sweep.display import Report, print_summary
from bnexp.sweep.engine import Engine
from bnexp.sweep.fork_server import ForkServer
from bnexp.sweep.local import Local
from bnexp.sweep.options import Options
from bnexp.sweep.plan import Entry, Plan
from bnexp.sweep.preflight import Ready, preflight
from bnexp.sweep.ray import Ray
from bnexp.sweep.slurm import Slurm
from bnexp.sweep.supervisor import Notes, Supervisor

ENGINES: dict[str, Callable[[Options], Engine]] = {"slurm": Slurm, "ray": Ray}
# Seconds that cancelled tasks have to save and end.
_CANCEL_S, _AGAIN_S = 90.0, 5.0


@dataclass(frozen=True)
class Order:
    """What a command asks of a sweep.

    Attributes:
        folder: the sweep's folder; made, if missing, after everything has been checked.
        wanted: the jobs to run; None for all jobs of the folder's plan.
        command: the command line, recorded in a new plan.
        options: how to run the jobs; None for the plan's options.
        fresh: the folder must be a new one; if it is there already, the sweep takes the next free name.
        retry_failed: run failed jobs again.
        here: run the jobs on this machine, whatever engine the sweep had; it keeps its engine for later.
        length: give all jobs of the plan this length.
    """

    folder: Path
    wanted: Sequence[Entry] | None = None
    command: Sequence[str] = ()
    options: Options | None = None
    fresh: bool = False
    retry_failed: bool = False
    here: bool = False
    length: Length | None = None

    @property
    def is_new(self) -> bool:
        """Whether the sweep has no folder yet."""
        return self.fresh or not self.folder.is_dir()


def carry_out(
    order: Order,
    *,
    notes: Notes,
    engine: Engine | None = None,
    server: ForkServer | None = None,
    report: Report = print_summary,
) -> int:
    """Run the jobs of a sweep that are not over yet, and report the states of all jobs.

    Args:
        order: what to run.
        notes: (config, overrides) -> further files for a run's folder.
        engine: carries the jobs instead of the one that the options name.
        server: forks the processes; None starts a fork server that ends with this sweep.
        report: see ``Report``.

    Returns:
        0 when all jobs but the refused are over, 1 when one failed or could not run, 130 or 143 after a signal.

    Raises:
        ValueError: an error that the user can fix; nothing has been started or left behind then.
    """
    stop = Stop()
    with stop.listening(), contextlib.ExitStack() as holds:
        is_new = order.is_new
        if not is_new:
            holds.enter_context(held(order.folder))
        plan = _plan(order, is_new=is_new)
        asked = _asked(plan, order.wanted, is_new=is_new)
        todo = [entry for entry in asked if not entry.over and (order.retry_failed or entry.state != "failed")]
        trouble = None
        if todo:
            server = server or holds.enter_context(contextlib.closing(ForkServer()))
            ready = preflight(server, todo, plan.options, stop)
            if ready is None:
                return stop.exit_code
            todo = _possible(todo, is_new=is_new)
            engine = _begun(engine or _engine(plan.options, server, ready), todo, stop, holds)
            if is_new:
                holds.enter_context(_made(plan, fresh=order.fresh))
            _first_write(plan)
            for line in without_effect(order.command):
                print(line, file=sys.stderr)
            trouble = Supervisor(plan, todo, ready, notes, stop, engine).run()
        report(plan, asked, trouble)
    done = all(entry.over or entry.state == "refused" for entry in asked)
    return stop.exit_code if stop() else int(trouble is not None or not done)


def cancel(folder: Path) -> int:
    """Cancel the tasks that a sweep's engine still has, wait until they have saved and ended, and print the states.

    Returns:
        0 if none is left, else 1.

    Raises:
        ValueError: it is no sweep, or the engine does not answer.
    """
    with held(folder), contextlib.ExitStack() as holds:
        plan = plans.read(folder)
        tickets = {entry.ticket for entry in plan.entries if entry.ticket is not None}
        left: Set[str] = set()
        if tickets:
            engine = holds.enter_context(contextlib.closing(ENGINES[plan.options.engine](plan.options)))
            left = _cancelled(engine, tickets, folder)
        for entry in plan.entries:
            entry.ticket = entry.ticket if entry.ticket in left else None
        plan.refresh()
        plan.write()
        print_summary(plan, plan.entries, f"{len(left)} tasks have not ended yet" if left else None)
    return int(bool(left))


def _cancelled(engine: Engine, tickets: Set[str], sweep: Path) -> Set[str]:
    """Cancel tasks; returns those that have not ended in time."""
    engine.begin(1)
    alive = engine.alive(tickets)
    numbers = {ticket: number for number, ticket in enumerate(alive)}
    for ticket, number in numbers.items():
        engine.attach(number, ticket, sweep)
    end = time.monotonic() + _CANCEL_S
    while alive and time.monotonic() < end:
        engine.cancel([number for ticket, number in numbers.items() if ticket in alive])
        time.sleep(_AGAIN_S)  # a task that is just being queued again cannot be cancelled yet
        alive = engine.alive(alive)
    return alive


def _plan(order: Order, *, is_new: bool) -> Plan:
    """The plan of the folder, or a new one without jobs.

    Raises:
        ValueError: the folder is no sweep, or holds a run, or its engine still carries out what is to change.
    """
    if is_new or not is_sweep(order.folder):
        if order.options is None:
            raise ValueError(f"{order.folder}: not a sweep (it has no {SWEEP_JSON})")
        if not order.fresh and RunPaths(order.folder).run_json.exists():
            raise ValueError(f"{order.folder}: holds a run; a sweep needs another folder (hydra.sweep.dir)")
        return Plan(order.folder, list(order.command), order.options, [])
    saved = plans.read(order.folder)
    wanted = order.options or saved.options
    now = replace(wanted, engine="local", submit={}, jobs="auto") if order.here else wanted
    if now.engine != saved.options.engine or order.length is not None:
        _require_none_left(saved)
    plan = Plan(order.folder, saved.command, now, saved.entries, kept=wanted)
    if order.length is not None:
        plan.change_length(order.length)
    return plan


def _require_none_left(plan: Plan) -> None:
    """Refuse to change what the sweep's engine still carries out as it was.

    Raises:
        ValueError: the engine still has tasks of the sweep, or does not answer.
    """
    tickets = {entry.ticket for entry in plan.entries if entry.ticket is not None}
    if not tickets:
        return
    engine = ENGINES[plan.options.engine](plan.options)
    engine.begin(1)
    alive = engine.alive(tickets)
    if alive:
        first = f"wait for them or cancel them first: bnexp resume {shlex.quote(str(plan.folder))} --cancel"
        raise ValueError(f"{plan.folder}: {engine.name} still has {len(alive)} of its tasks; {first}")
    for entry in plan.entries:
        entry.ticket = None


def _engine(options: Options, server: ForkServer, ready: Ready) -> Engine:
    if options.engine == "local":
        return Local(server, ready.slots)
    server.close()  # its work is done
    return ENGINES[options.engine](options)


def _begun(engine: Engine, todo: Sequence[Entry], stop: Stop, holds: contextlib.ExitStack) -> Engine:
    """Connect to the engine until ``holds`` ends.

    Raises:
        ValueError: see ``Engine.begin``.
    """
    holds.enter_context(contextlib.closing(engine))
    engine.begin(max((entry.config["threads"] for entry in todo), default=1))
    holds.enter_context(stop.listening())  # again: Ray puts signal handlers in the place of ours
    return engine


def _asked(plan: Plan, wanted: Sequence[Entry] | None, *, is_new: bool) -> Sequence[Entry]:
    """The plan's entries of the jobs to run, with their present states."""
    asked = plan.entries if wanted is None else plan.adopt(wanted)
    if not is_new:
        plan.refresh()
    return asked


def _possible(todo: Sequence[Entry], *, is_new: bool) -> list[Entry]:
    """The jobs that the check has not refused.

    Raises:
        ValueError: it has refused all jobs of a new sweep.
    """
    possible = [entry for entry in todo if entry.state != "refused"]
    if is_new and not possible:
        raise ValueError(f"every job is refused; {todo[0].name}: {todo[0].reason}")
    return possible


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
        if is_sweep(plan.folder):
            raise ValueError(f"{plan.folder}: another command has made a sweep in it meanwhile; give this one again")
        yield


def _first_write(plan: Plan) -> None:
    try:
        plan.write()
    except OSError as error:
        with contextlib.suppress(OSError):
            plan.folder.rmdir()  # only if it is empty
        raise ValueError(f"{plan.folder}: cannot be written ({error.strerror})") from None
