"""``bnexp evaluate``: a run's last or best checkpoint under three kinds of statistics."""

from __future__ import annotations

from pathlib import Path

from bnexp.cli.arguments import parser, take_imports


def evaluate(arguments: list[str]) -> int:
    """``bnexp evaluate RUN``."""
    options = parser("evaluate", "Evaluate a run's last checkpoint with running, precise and batch statistics.")
    options.add_argument("run", type=Path, help="the folder of a run")
    about = "its best checkpoint by validation accuracy instead, which a run keeps with checkpoint_best=true"
    options.add_argument("--best", action="store_true", help=about)
    options.add_argument("--split", choices=("train", "validation", "test"), help="only this split of the data")
    take_imports(options)
    given = options.parse_args(arguments)
    from bnexp.experiment.display import console
    from bnexp.experiment.job import import_modules, require_typed, saved_job
    from bnexp.experiment.restore import evaluate_run

    with console():
        job = saved_job(given.run)
        words = ["evaluate", str(given.run), *(["--split", given.split] if given.split else [])]
        words += ["--best"] if given.best else []
        require_typed(given.run, job.config.imports, given.imports, words)
        import_modules(job.config.imports)
        step, rows = evaluate_run(job, given.split, best=given.best)
    print(f"{given.run} at step {step}\n")
    print(f"{'split':12}{'statistics':12}{'accuracy':>10}{'loss':>10}")
    for split, statistics, accuracy, loss in rows:
        print(f"{split:12}{statistics:12}{accuracy:10.4f}{loss:10.4f}")
    return 0
