"""``bnexp resume``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bnexp.cli.arguments import parser, take_format, take_imports
from bnexp.cli.newest import newest_interrupted
from bnexp.cli.train import do, report
from bnexp.runs.paths import SWEEP_JSON


def resume(arguments: list[str]) -> int:
    """``bnexp resume RUN`` and ``bnexp resume SWEEP``."""
    text = "Resume a run or a sweep from its last checkpoints; it ends with the result of an uninterrupted run."
    options = parser("resume", text)
    about = "the folder of a run or a sweep; default: what was interrupted last in outputs"
    options.add_argument("run", type=Path, nargs="?", help=about)
    options.add_argument("--retry-failed", action="store_true", help="for a sweep: run its failed jobs again")
    take_imports(options)
    take_format(options)
    given = options.parse_args(arguments)
    given.run = given.run or newest_interrupted()
    from bnexp.sweep.plan import is_sweep

    if is_sweep(given.run):
        return _resume_sweep(given.run, given.imports, given.format, retry_failed=given.retry_failed)
    if given.retry_failed:
        raise ValueError(f"resume: --retry-failed is for sweeps; {given.run} is not a sweep (it has no {SWEEP_JSON})")
    from bnexp.experiment.job import require_typed, saved_job

    job = saved_job(given.run)
    require_typed(given.run, job.config.imports, given.imports, ["resume", str(given.run)])
    return do(job, given.format)


def _resume_sweep(folder: Path, typed: Sequence[str], form: str, *, retry_failed: bool) -> int:
    from bnexp.config import compose
    from bnexp.experiment.job import require_typed
    from bnexp.sweep import plan
    from bnexp.sweep.supervisor import carry_out

    words = ["resume", str(folder), *(["--retry-failed"] if retry_failed else [])]
    require_typed(folder, plan.read(folder).imports, typed, words)
    told = report(form)
    return carry_out(
        folder, None, command=(), options=None, notes=compose.notes, retry_failed=retry_failed, report=told
    )
