"""Shows a sweep while it runs: one bar on a terminal, a line per job elsewhere, and a summary at the end."""

from __future__ import annotations

import contextlib
import shlex
import shutil
import sys
from collections.abc import Callable, Sequence

from tqdm import tqdm

from bnexp.config.names import shortened
from bnexp.config.schema import SET_ASIDE
from bnexp.runs import next_command
from bnexp.runs.paths import RunPaths
from bnexp.sweep.engine import ranges
from bnexp.sweep.options import programs
from bnexp.sweep.plan import Entry, Plan

# Says how a sweep has ended: its plan, the jobs asked for, and why some were not run.
Report = Callable[[Plan, Sequence[Entry], str | None], None]


class SweepDisplay:
    """A bar with done, running and failed jobs and the time left; plain lines if there is no terminal."""

    def __init__(self, todo: int) -> None:
        self.bar = tqdm(total=todo, desc="sweep", unit="job", disable=None, dynamic_ncols=True)
        self._failed = 0

    def running(self, jobs: int, queued: int = 0) -> None:
        """Show how many jobs run now, and how many wait in an engine's queue."""
        self.bar.set_postfix({"running": jobs, **({"queued": queued} if queued else {}), "failed": self._failed})

    def ended(self, entry: Entry, accuracy: float | None, seconds: float) -> None:
        """Show that a job has ended."""
        self.bar.update()
        self._failed += entry.state == "failed"
        self.say(_line(entry, accuracy, seconds, None if self.bar.disable else shutil.get_terminal_size().columns))

    def say(self, text: str) -> None:
        """Write a line, above the bar if there is one."""
        tqdm.write(text, file=sys.stderr)

    def close(self) -> None:
        """Close the bar; nothing runs any more."""
        self.running(0)
        self.bar.close()


def _line(entry: Entry, accuracy: float | None, seconds: float, columns: int | None) -> str:
    """A job's end; its name is shortened where the line would not fit the terminal, but not that of a failed job."""
    how = f"{entry.state}: {entry.reason}" if entry.reason else entry.state
    rest = f"  {how}{'' if accuracy is None else f'  test accuracy {accuracy:.4f}'}  {seconds:.1f} s"
    room = columns and max(16, columns - len(rest))
    return (shortened(entry.name, room) if room and not entry.reason else entry.name) + rest


def print_summary(plan: Plan, asked: Sequence[Entry], trouble: str | None) -> None:
    """Print the ``summary``; a closed standard output does not end the sweep."""
    for line in summary(plan, asked, trouble):
        with contextlib.suppress(OSError):
            print(line, flush=True)


def summary(plan: Plan, asked: Sequence[Entry], trouble: str | None) -> list[str]:
    """Lines with the states of the jobs asked for, each failure, and the commands to use next."""
    folder = shlex.quote(str(plan.folder))
    states = [entry.state for entry in asked]
    counted = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))
    failed = [entry for entry in asked if entry.state == "failed"]
    lines = [f"refused: {entry.name}: {entry.reason}" for entry in asked if entry.state == "refused"]
    lines += [f"failed: {entry.name}: {entry.reason}{_where(plan.job(entry))}" for entry in failed]
    lines += [f"stopped: {trouble}"] if trouble else []
    lines += [f"sweep: {counted}, of {len(asked)} jobs in {folder}"]
    tickets = dict.fromkeys(entry.ticket for entry in asked if entry.ticket)
    if tickets:
        lines += [
            f"still with {plan.options.engine.upper()}: {ranges(tickets)}; to cancel: bnexp resume {folder} --cancel"
        ]
    if not all(entry.over or entry.state in ("failed", "refused") for entry in asked):
        lines += [f"go on with: {_again(plan)}"]
    if failed:
        lines += [f"try the failed again: {_again(plan, '--retry-failed')}"]
    if any(entry.over for entry in asked):
        aside = any({*SET_ASIDE} & {*(entry.config.get("tags") or ())} for entry in asked)
        lines += [f"results: bnexp compare {folder}{' --all' if aside else ''}"]
        drawn = ",".join(plan.options.drawn)
        lines += [f"best draw, chosen on validation images: bnexp compare {folder} --best {drawn}"] if drawn else []
    return lines


def _again(plan: Plan, *more: str) -> str:
    """The command that goes on with a sweep, by the engine that it had."""
    here = ["--here"] if plan.kept is not None and plan.kept.engine != plan.options.engine else []
    trust = ["--trust-launcher"] if programs(plan.options) else []
    return next_command.resume(plan.folder, plan.imports, *trust, *here, *more)


def _where(job: RunPaths) -> str:
    """The file in which a failed job has said more, if there is one."""
    return next((f"; {path}" for path in (job.output_log, job.error_log) if path.exists()), "")
