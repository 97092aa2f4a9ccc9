"""Shows a sweep while it runs: one bar on a terminal, a line per job elsewhere, and a summary at the end."""

from __future__ import annotations

import contextlib
import shlex
import sys
from collections.abc import Callable, Sequence

from tqdm import tqdm

from bnexp.sweep.plan import Entry, Plan

# Says how a sweep has ended: its plan, the jobs asked for, and why some were not run.
Report = Callable[[Plan, Sequence[Entry], str | None], None]


class SweepDisplay:
    """A bar with done, running and failed jobs and the time left; plain lines if there is no terminal."""

    def __init__(self, todo: int) -> None:
        self.bar = tqdm(total=todo, desc="sweep", unit="job", disable=None)
        self._failed = 0

    def running(self, jobs: int) -> None:
        """Show how many jobs run now."""
        self.bar.set_postfix({"running": jobs, "failed": self._failed})

    def ended(self, entry: Entry, accuracy: float | None, seconds: float) -> None:
        """Show that a job has ended."""
        self.bar.update()
        self._failed += entry.state == "failed"
        if self.bar.disable or entry.state == "failed":
            self.say(_line(entry, accuracy, seconds))

    def say(self, text: str) -> None:
        """Write a line, above the bar if there is one; a closed stderr does not end the sweep."""
        with contextlib.suppress(OSError):
            tqdm.write(text, file=sys.stderr)

    def close(self) -> None:
        """Close the bar."""
        self.bar.close()


def _line(entry: Entry, accuracy: float | None, seconds: float) -> str:
    how = f"{entry.state}: {entry.reason}" if entry.reason else entry.state
    return f"{entry.name}  {how}{'' if accuracy is None else f'  test accuracy {accuracy:.4f}'}  {seconds:.1f} s"


def print_summary(plan: Plan, asked: Sequence[Entry], trouble: str | None) -> None:
    """Print the ``summary``; a closed standard output does not end the sweep."""
    for line in summary(plan, asked, trouble):
        with contextlib.suppress(OSError):
            print(line, flush=True)


def summary(plan: Plan, asked: Sequence[Entry], trouble: str | None) -> list[str]:
    """Lines with the states of the jobs asked for, each failure, and the commands to use next."""
    folder = shlex.quote(str(plan.folder))
    again = " ".join(["bnexp resume", folder, *(["--imports", ",".join(plan.imports)] if plan.imports else [])])
    states = [entry.state for entry in asked]
    counted = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))
    failed = [entry for entry in asked if entry.state == "failed"]
    lines = [f"refused: {entry.name}: {entry.reason}" for entry in asked if entry.state == "refused"]
    lines += [f"failed: {entry.name}: {entry.reason}; {plan.job(entry).output_log}" for entry in failed]
    lines += [f"stopped: {trouble}"] if trouble else []
    lines += [f"sweep: {counted}, of {len(asked)} jobs in {folder}"]
    if not all(entry.over or entry.state in ("failed", "refused") for entry in asked):
        lines += [f"go on with: {again}"]
    if failed:
        lines += [f"try the failed again: {again} --retry-failed"]
    if any(entry.over for entry in asked):
        lines += [f"results: bnexp compare {folder}"]
        drawn = ",".join(plan.options.drawn)
        lines += [f"best draw, chosen on validation images: bnexp compare {folder} --best {drawn}"] if drawn else []
    return lines
