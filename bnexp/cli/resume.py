"""``bnexp resume``."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from bnexp.cli.arguments import parser, take_format, take_imports
from bnexp.cli.newest import newest_interrupted
from bnexp.cli.train import do, report
from bnexp.runs import longer
from bnexp.runs.paths import SWEEP_JSON, is_sweep
from bnexp.sweep.options import programs
from bnexp.sweep.plan import Plan

_OF_SWEEPS = ("retry_failed", "here", "cancel", "trust_launcher")

if TYPE_CHECKING:
    from bnexp.experiment.job import Job
    from bnexp.runs.longer import Length


def resume(arguments: list[str]) -> int:
    """``bnexp resume RUN`` and ``bnexp resume SWEEP``, also with another length."""
    text = "Resume a run or a sweep from its last checkpoints; it ends with the result of an uninterrupted run."
    options = parser("resume", text)
    about = "the folder of a run or a sweep; default: what was interrupted last in outputs"
    options.add_argument("run", nargs="?", help=about)
    about = "epochs=N or steps=N: train it to this length, also if it has finished; N counts from its first step"
    options.add_argument("length", nargs="*", metavar="epochs=N", help=about)
    options.add_argument("--retry-failed", action="store_true", help="for a sweep: run its failed jobs again")
    options.add_argument("--here", action="store_true", help="for a sweep with an engine: run its jobs on this machine")
    options.add_argument("--cancel", action="store_true", help="for a sweep: cancel what SLURM still has of it")
    options.add_argument("--trust-launcher", action="store_true", help="for a sweep: run the commands that it names")
    take_imports(options)
    take_format(options)
    given = options.parse_intermixed_args(arguments)
    if given.run and given.run.partition("=")[0] in longer.LENGTHS and not Path(given.run).exists():
        given.run, given.length = None, [given.run, *given.length]
    wanted = longer.length(given.length)
    given.run = Path(given.run) if given.run else newest_interrupted()
    if is_sweep(given.run):
        return _resume_sweep(given, wanted)
    for word in (word for word in _OF_SWEEPS if getattr(given, word)):
        flag = f"--{word.replace('_', '-')}"
        raise ValueError(f"resume: {flag} is for sweeps; {given.run} is not a sweep (it has no {SWEEP_JSON})")
    from bnexp.experiment.imports import require_typed
    from bnexp.experiment.job import saved_job

    job = saved_job(given.run)
    require_typed(given.run, job.config.imports, given.imports, ["resume", str(given.run), *given.length])
    return do(job if wanted is None else _with_length(job, wanted), given.format)


def _with_length(job: Job, wanted: Length) -> Job:
    from bnexp.config import compose
    from bnexp.config.schema import to_dict
    from bnexp.experiment.job import with_length

    changed = with_length(job, wanted)
    return replace(changed, notes=compose.notes(to_dict(changed.config), changed.overrides))


def _resume_sweep(given: argparse.Namespace, wanted: Length | None) -> int:
    from bnexp.config import compose
    from bnexp.experiment.imports import require_typed
    from bnexp.sweep import plan
    from bnexp.sweep.carry_out import Order, cancel, carry_out

    saved, flags = plan.read(given.run), [f"--{word.replace('_', '-')}" for word in _OF_SWEEPS if getattr(given, word)]
    if given.cancel:
        return cancel(given.run)
    words = ["resume", str(given.run), *given.length, *flags]
    if not given.here:
        _require_trust(saved, given, words)
    require_typed(given.run, saved.imports, given.imports, words)
    order = Order(given.run, retry_failed=given.retry_failed, here=given.here, length=wanted)
    return carry_out(order, notes=compose.notes, report=report(given.format))


def _require_trust(saved: Plan, given: argparse.Namespace, words: Sequence[str]) -> None:
    """Run no command because a folder says so: it may come from anywhere.

    Raises:
        ValueError: the sweep's launcher starts programs or reaches other machines, and the user has not said yes.
    """
    named = programs(saved.options)
    if named and not given.trust_launcher:
        imports = ["--imports", ",".join(given.imports)] if given.imports else []
        full = shlex.join(["bnexp", *words, "--trust-launcher", *imports])
        raise ValueError(f"{given.run}: its launcher names {'; '.join(named)}; if you trust them: {full}")
