"""``bnexp evaluate``: a run's last or best checkpoint under three kinds of statistics, and by chosen evaluations."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bnexp.cli.arguments import parser, take_format, take_own
from bnexp.cli.newest import newest_run
from bnexp.cli.output import answer, note, only_the_answer
from bnexp.compare.blocks import Document, Table, Text
from bnexp.compare.cells import number
from bnexp.runs import run_json

if TYPE_CHECKING:
    from bnexp.experiment.setup import Row


def evaluate(arguments: list[str]) -> int:
    """``bnexp evaluate RUN [evaluations=[NAME,...]]``."""
    options = parser("evaluate", "Evaluate a run's last checkpoint with running, precise and batch statistics.")
    options.add_argument("run", type=Path, nargs="?", help="the folder of a run; default: the newest in outputs")
    about = "evaluations=[corruption,pgd] and their options, instead of the run's own (bnexp list evaluations)"
    options.add_argument("settings", nargs="*", metavar="setting=value", help=about)
    about = "its best checkpoint by validation accuracy instead, which a run keeps with checkpoint_best=true"
    options.add_argument("--best", action="store_true", help=about)
    options.add_argument("--split", choices=("train", "validation", "test"), help="only this split of the data")
    take_own(options, "modules of your own: those that the run names, and others with evaluations")
    take_format(options)
    settings = [word for word in arguments if re.match(r"evaluations[.\w]*=", word)]
    given = options.parse_args([word for word in arguments if word not in settings])
    if given.settings:
        raise ValueError(f"{given.settings[0]}: only evaluations can be set here; the run has its other settings")
    given.run = given.run or newest_run()
    evaluations = _chosen(settings, given.config_dir) if settings else None
    note("loading torch and the data")
    from bnexp.experiment.display import console
    from bnexp.experiment.imports import import_modules, require_typed
    from bnexp.experiment.job import saved_job
    from bnexp.experiment.restore import evaluate_run

    with console(), only_the_answer(given.format):
        job = saved_job(given.run)
        words = ["evaluate", str(given.run), *(["--split", given.split] if given.split else [])]
        words += [*(["--best"] if given.best else []), *settings]
        words += ["--config-dir", str(given.config_dir)] if given.config_dir else []
        modules = list(dict.fromkeys([*job.config.imports, *given.imports]))  # evaluations may need more than the run
        require_typed(given.run, modules, given.imports, words)
        import_modules(modules)
        step, rows = evaluate_run(job, given.split, best=given.best, evaluations=evaluations)
    answer(_document(given.run, step, rows, run_json.read(given.run).get("diverged_at")), given.format)
    return 0


def _chosen(settings: Sequence[str], own: Path | None) -> dict[str, Any]:
    """The group ``evaluations`` of a config that words of the command line compose."""
    from bnexp.config.compose import JobComposer
    from bnexp.config.shipped import configs_folder

    (config,) = JobComposer(configs_folder(), own)([settings])
    found: dict[str, Any] = config["evaluations"]
    return found


def _document(run: Path, step: int, rows: Sequence[Row], diverged_at: int | None) -> Document:
    conditions = ["condition"] if any(row.condition for row in rows) else []
    quantities = [name for name in ("accuracy", "loss", "ece") if any(name in row.measured for row in rows)]
    named = [
        {"split": row.split, **dict.fromkeys(conditions, row.condition), "statistics": row.statistics}
        | {name: row.measured.get(name) for name in quantities}
        for row in rows
    ]
    cells = [[value if isinstance(value, str) else number(value, 4) for value in row.values()] for row in named]
    table = Table(["split", *conditions, "statistics", *quantities], cells)
    later = f", before it diverged at step {diverged_at}" if diverged_at else ""
    return Document(
        [Text(f"{run} at step {step}{later}"), table], table, {"run": str(run), "step": step, "rows": named}
    )
