"""The command line: a small dispatcher that imports what a command needs, and nothing before.

With ``launcher.py`` the only module that knows Hydra and OmegaConf; from ``plain`` on, configs are Python objects.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bnexp import __version__
from bnexp.checks import RunFailedError, unknown

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from bnexp.experiment import Job, Outcome

HELP = """\
bnexp: a command-line laboratory for normalization in neural networks

  bnexp train norm=bn                       train LeNet with batch norm on the embedded digits
  bnexp train -m norm=none,bn,ln seed=0,1   a sweep
  bnexp resume FOLDER                       go on with a run or a sweep that was stopped or killed
  bnexp evaluate RUN                        accuracy with running, precise and batch statistics
  bnexp compare FOLDER...                   runs as a table with intervals
  bnexp board [FOLDER]                      curves in TensorBoard, on this machine only
  bnexp list [GROUP]                        what can be chosen: norms, models, data, experiments, ...

bnexp COMMAND --help says more; bnexp --version; completion: eval "$(bnexp -sc install=bash)"
"""


def main() -> int:
    """Run the command of ``sys.argv``; the exit code is 0 done, 1 failed, 2 wrong input, 130 or 143 stopped."""
    arguments = sys.argv[1:]
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(HELP, end="")
        return 0
    if arguments[0] == "--version":
        print(f"bnexp {__version__}")
        return 0
    if arguments[0] in ("-sc", "--shell-completion"):
        return complete(arguments)
    try:
        return command(arguments[0])(arguments[1:])
    except ValueError as error:
        return _one_line(str(error), 2)
    except OSError as error:
        return _storage_failed(error)
    except KeyboardInterrupt:
        return 130
    except RunFailedError as error:
        return _one_line(str(error), 1)


def command(name: str) -> Callable[[list[str]], int]:
    """The function of a sub-command.

    Raises:
        ValueError: there is no such command.
    """
    commands = {
        "train": train,
        "resume": resume,
        "evaluate": evaluate,
        "compare": compare,
        "board": board,
        "list": list_choices,
    }
    if name not in commands:
        raise unknown("command", name, commands)
    return commands[name]


def _one_line(text: str, code: int) -> int:
    print("bnexp: " + " ".join(text.split()), file=sys.stderr)
    return code


def _storage_failed(error: OSError) -> int:
    """A full or broken disk; a closed pipe is a reader who has seen enough."""
    if isinstance(error, BrokenPipeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    where = f"{error.filename}: " if error.filename else ""
    return _one_line(f"{where}{error.strerror or error}", 1)


def configs_folder() -> Path:
    """Where the yaml files are: in the wheel beside this file, in a checkout at the top."""
    inside = Path(__file__).parent / "configs"
    return inside if inside.is_dir() else Path(__file__).parent.parent / "configs"


def train(arguments: list[str]) -> int:
    """``bnexp train``: Hydra composes the config, ``experiment`` does the run."""
    from bnexp import composing, launcher

    launcher.register()
    results: list[int | Exception] = []

    def task(config: DictConfig) -> None:
        # Hydra prints and wraps what a task raises; kept here, it arrives at main as it is.
        try:
            results.append(_train_one(config))
        except Exception as error:
            results.append(error)

    code = composing.run_hydra(task, arguments, configs_folder())
    for result in results:
        if isinstance(result, Exception):
            raise result
    return max((result for result in results if isinstance(result, int)), default=code)


def _train_one(config: DictConfig) -> int:
    from bnexp import composing
    from bnexp.config import to_dict
    from bnexp.experiment import Job

    folder, words = composing.output_folder(), composing.overrides()
    try:
        plain = composing.plain(config)
        return _do(Job(plain, folder, composing.run_name(), words, composing.notes(to_dict(plain), words)))
    finally:
        composing.drop_if_empty(folder)


def _do(job: Job) -> int:
    """Do one run, say how it ended, and return the exit code."""
    from bnexp.display import console
    from bnexp.experiment import already_done, import_modules, run
    from bnexp.stopping import Stop

    stop = Stop()
    with stop.listening(), console():
        import_modules(job.config.imports)
        done = already_done(job)
        (outcome,) = [done] if done else run([job], stop=stop)
    print(sentence(outcome))
    return stop.exit_code if outcome.status == "interrupted" else 0


def sentence(outcome: Outcome) -> str:
    """How a run ended, for a person."""
    facts, folder = outcome.facts, outcome.job.folder
    shown = Path(os.path.relpath(folder)) if folder.is_relative_to(Path.cwd()) else folder
    if outcome.status == "interrupted":
        return f"interrupted at step {facts['step']} of {facts['steps']}; go on with: bnexp resume {shown}"
    if outcome.status == "diverged":
        return f"diverged: the loss of step {facts['diverged_at']} is not finite; run {shown}"
    final = facts["final"]
    precise = final["test/accuracy_precise"]
    also = f" ({precise:.4f} with precise statistics)" if precise != final["test/accuracy"] else ""
    return (
        f"finished: test accuracy {final['test/accuracy']:.4f}{also}, {facts['steps']} steps in "
        f"{facts['seconds']:.1f} s\nrun: {shown}\ncurves: bnexp board {shown}"
    )


def _parser(name: str, text: str) -> argparse.ArgumentParser:
    class Parser(argparse.ArgumentParser):
        def error(self, message: str) -> Any:
            raise ValueError(f"{name}: {message} (bnexp {name} --help)")

    return Parser(prog=f"bnexp {name}", description=text)


def resume(arguments: list[str]) -> int:
    """``bnexp resume RUN`` and ``bnexp resume SWEEP``."""
    text = "Go on with a run or a sweep from its last checkpoints, to the end it would have had undisturbed."
    parser = _parser("resume", text)
    parser.add_argument("run", type=Path, help="the folder of a run or a sweep")
    parser.add_argument("--retry-failed", action="store_true", help="of a sweep: run the jobs again that have failed")
    given = parser.parse_args(arguments)
    from bnexp.sweep.plan import is_sweep

    if is_sweep(given.run):
        return _resume_sweep(given.run, retry_failed=given.retry_failed)
    if given.retry_failed:
        raise ValueError(f"resume: --retry-failed is for sweeps, and {given.run} is none (it has no sweep.json)")
    from bnexp.experiment import saved_job

    return _do(saved_job(given.run))


def _resume_sweep(folder: Path, *, retry_failed: bool) -> int:
    from bnexp import composing
    from bnexp.sweep.supervisor import carry_out

    return carry_out(folder, None, command=(), options=None, notes=composing.notes, retry_failed=retry_failed)


def evaluate(arguments: list[str]) -> int:
    """``bnexp evaluate RUN``."""
    parser = _parser("evaluate", "Evaluate a run's last checkpoint with running, precise and batch statistics.")
    parser.add_argument("run", type=Path, help="the folder of a run")
    parser.add_argument("--split", choices=("train", "validation", "test"), help="only this split of the data")
    given = parser.parse_args(arguments)
    from bnexp.display import console
    from bnexp.experiment import evaluate_run, import_modules, saved_job

    with console():
        job = saved_job(given.run)
        import_modules(job.config.imports)
        step, rows = evaluate_run(job, given.split)
    print(f"{given.run} at step {step}\n")
    print(f"{'split':12}{'statistics':12}{'accuracy':>10}{'loss':>10}")
    for split, statistics, accuracy, loss in rows:
        print(f"{split:12}{statistics:12}{accuracy:10.4f}{loss:10.4f}")
    return 0


def compare(arguments: list[str]) -> int:
    """``bnexp compare FOLDER...``."""
    from bnexp.compare import main as compare_main

    return compare_main(arguments)


def board(arguments: list[str]) -> int:
    """``bnexp board [FOLDER]``."""
    parser = _parser("board", "Show curves in TensorBoard, reachable from this machine only.")
    parser.add_argument("folder", type=Path, nargs="?", default=Path("outputs"), help="default: outputs")
    parser.add_argument("--port", type=int, default=6006, help="default: 6006, or the next free one")
    parser.add_argument("--open", action="store_true", help="open the page in a browser")
    given = parser.parse_args(arguments)
    if not given.folder.is_dir():
        raise ValueError(f"{given.folder}: no such folder")
    from bnexp.board import serve

    serve(given.folder, given.port, show=given.open)
    return 0


_GROUPS = ("norm", "model", "data", "init", "optim", "schedule", "experiment")


def list_choices(arguments: list[str]) -> int:
    """``bnexp list [GROUP]``: every yaml with the first line of its comment."""
    parser = _parser("list", "What can be chosen, each with a line and its source.")
    parser.add_argument("group", nargs="?", help=", ".join(_GROUPS))
    group = parser.parse_args(arguments).group
    aliases = {f"{name}s": name for name in _GROUPS}
    wanted = aliases.get(group, group)
    if wanted is not None and wanted not in _GROUPS:
        raise unknown("list", wanted, _GROUPS)
    for name in [wanted] if wanted else _GROUPS:
        print(name)
        for path in sorted((configs_folder() / name).glob("*.yaml")):
            print(f"  {path.stem:18}{_first_comment(path)}")
    return 0


def _first_comment(path: Path) -> str:
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("# ") and not line.startswith("# @"):
            return line.removeprefix("# ")
    return ""


def complete(arguments: Sequence[str]) -> int:
    """Bash completion of ``bnexp train`` by Hydra, which must not see the sub-command in the line."""
    from bnexp import composing

    line = os.environ.get("COMP_LINE", "")
    words = line.split(" ")
    if len(words) > 1 and words[1] == "train":
        os.environ["COMP_LINE"] = " ".join(words[:1] + words[2:])
        os.environ["COMP_POINT"] = str(int(os.environ.get("COMP_POINT", len(line))) - len("train "))
    composing.run_hydra(lambda config: None, list(arguments), configs_folder())
    return 0
