"""``bnexp resume``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from bnexp.cli.arguments import parser, take_format, take_imports
from bnexp.cli.newest import newest_interrupted
from bnexp.cli.train import do, report
from bnexp.runs.paths import SWEEP_JSON

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
    take_imports(options)
    take_format(options)
    given = options.parse_intermixed_args(arguments)
    given.run = Path(given.run) if given.run else newest_interrupted()
    from bnexp.runs import longer
    from bnexp.sweep.plan import is_sweep

    wanted = longer.length(given.length)
    if is_sweep(given.run):
        return _resume_sweep(given.run, given.imports, given.format, wanted, retry_failed=given.retry_failed)
    if given.retry_failed:
        raise ValueError(f"resume: --retry-failed is for sweeps; {given.run} is not a sweep (it has no {SWEEP_JSON})")
    from bnexp.experiment.job import require_typed, saved_job

    job = saved_job(given.run)
    require_typed(given.run, job.config.imports, given.imports, ["resume", str(given.run), *given.length])
    return do(job if wanted is None else _with_length(job, wanted), given.format)


def _with_length(job: Job, wanted: Length) -> Job:
    from bnexp.config import compose
    from bnexp.config.schema import to_dict
    from bnexp.experiment.job import with_length

    changed = with_length(job, wanted)
    return replace(changed, notes=compose.notes(to_dict(changed.config), changed.overrides))


def _resume_sweep(folder: Path, typed: Sequence[str], form: str, wanted: Length | None, *, retry_failed: bool) -> int:
    from bnexp.config import compose
    from bnexp.experiment.job import require_typed
    from bnexp.sweep import plan
    from bnexp.sweep.supervisor import carry_out

    words = ["resume", str(folder), *([str(wanted)] if wanted else []), *(["--retry-failed"] if retry_failed else [])]
    require_typed(folder, plan.read(folder).imports, typed, words)
    return carry_out(
        folder,
        None,
        command=(),
        options=None,
        notes=compose.notes,
        retry_failed=retry_failed,
        report=report(form),
        length=wanted,
    )
