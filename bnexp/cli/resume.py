"""``bnexp resume``."""

from __future__ import annotations

from pathlib import Path

from bnexp.cli.arguments import parser
from bnexp.cli.train import do
from bnexp.runs.paths import SWEEP_JSON


def resume(arguments: list[str]) -> int:
    """``bnexp resume RUN`` and ``bnexp resume SWEEP``."""
    text = "Resume a run or a sweep from its last checkpoints; it ends with the result of an uninterrupted run."
    options = parser("resume", text)
    options.add_argument("run", type=Path, help="the folder of a run or a sweep")
    options.add_argument("--retry-failed", action="store_true", help="for a sweep: run its failed jobs again")
    given = options.parse_args(arguments)
    from bnexp.sweep.plan import is_sweep

    if is_sweep(given.run):
        return _resume_sweep(given.run, retry_failed=given.retry_failed)
    if given.retry_failed:
        raise ValueError(f"resume: --retry-failed is for sweeps; {given.run} is not a sweep (it has no {SWEEP_JSON})")
    from bnexp.experiment.job import saved_job

    return do(saved_job(given.run))


def _resume_sweep(folder: Path, *, retry_failed: bool) -> int:
    from bnexp.config import compose
    from bnexp.sweep.supervisor import carry_out

    return carry_out(folder, None, command=(), options=None, notes=compose.notes, retry_failed=retry_failed)
