"""``bnexp evaluate``: a run's last or best checkpoint under three kinds of statistics."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bnexp.cli.arguments import parser, take_format, take_imports
from bnexp.cli.newest import newest_run
from bnexp.cli.output import answer, note, only_the_answer
from bnexp.compare.blocks import Document, Table, Text
from bnexp.compare.cells import number


def evaluate(arguments: list[str]) -> int:
    """``bnexp evaluate RUN``."""
    options = parser("evaluate", "Evaluate a run's last checkpoint with running, precise and batch statistics.")
    options.add_argument("run", type=Path, nargs="?", help="the folder of a run; default: the newest in outputs")
    about = "its best checkpoint by validation accuracy instead, which a run keeps with checkpoint_best=true"
    options.add_argument("--best", action="store_true", help=about)
    options.add_argument("--split", choices=("train", "validation", "test"), help="only this split of the data")
    take_imports(options)
    take_format(options)
    given = options.parse_args(arguments)
    given.run = given.run or newest_run()
    note("loading torch and the data")
    from bnexp.experiment.display import console
    from bnexp.experiment.job import import_modules, require_typed, saved_job
    from bnexp.experiment.restore import evaluate_run

    with console(), only_the_answer(given.format):
        job = saved_job(given.run)
        words = ["evaluate", str(given.run), *(["--split", given.split] if given.split else [])]
        words += ["--best"] if given.best else []
        require_typed(given.run, job.config.imports, given.imports, words)
        import_modules(job.config.imports)
        step, rows = evaluate_run(job, given.split, best=given.best)
    answer(_document(given.run, step, rows), given.format)
    return 0


def _document(run: Path, step: int, rows: Sequence[tuple[str, str, float, float]]) -> Document:
    header = ["split", "statistics", "accuracy", "loss"]
    table = Table(header, [[split, kind, number(hits, 4), number(loss, 4)] for split, kind, hits, loss in rows])
    facts = {"run": str(run), "step": step, "rows": [dict(zip(header, row, strict=True)) for row in rows]}
    return Document([Text(f"{run} at step {step}"), table], table, facts)
