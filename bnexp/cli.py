"""The command line: a small dispatcher that imports what a command needs, and nothing before.

``composing.py`` and ``launcher.py`` are the only modules that know Hydra and OmegaConf.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import io
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from bnexp import __version__
from bnexp.checks import Positive, Range, RunFailedError, checked, unknown

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from bnexp.config import TrainConfig
    from bnexp.experiment import Job, Outcome

HELP = """\
bnexp: a command-line laboratory for normalization in neural networks

  bnexp train norm=bn                       train LeNet with batch norm on the embedded digits
  bnexp train -m norm=none,bn,ln seed=0,1   a sweep
  bnexp resume FOLDER                       go on with a run or a sweep that was stopped or killed
  bnexp evaluate RUN                        accuracy with running, precise and batch statistics
  bnexp compare FOLDER...                   runs as a table with intervals
  bnexp bench [setting=value ...]           the batch size from which on training is no faster
  bnexp claim list|run|report               claims about normalization: tested, judged, written up
  bnexp board [FOLDER]                      curves in TensorBoard, on this machine only
  bnexp list [GROUP]                        what can be chosen: norms, models, data, experiments, ...

bnexp COMMAND --help says more; bnexp --version; completion: eval "$(bnexp -sc install=bash)"
"""


# What is wrong with a place that the user has named; anything else is a fault of the disk.
_WRONG_PLACE = (
    *(errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST),
    *(errno.ELOOP, errno.ENAMETOOLONG),
)


def main() -> int:
    """Run the command of ``sys.argv``; the exit code is 0 done, 1 failed, 2 wrong input, 130 or 143 stopped."""
    try:
        with _dying_of_ctrl_c():
            code = _dispatch(sys.argv[1:])
            _say("")
            return code
    except ValueError as error:
        return _one_line(str(error), 2)
    except OSError as error:
        return _storage_failed(error)
    except KeyboardInterrupt:
        return 130
    except RunFailedError as error:
        return _one_line(str(error), 1)
    except Exception as error:
        return _crashed(error)


@contextlib.contextmanager
def _dying_of_ctrl_c() -> Iterator[None]:
    """Let Ctrl-C end the process itself until a run listens: in an import, an exception might be printed or lost."""
    before = signal.getsignal(signal.SIGINT)
    if before is not signal.default_int_handler:  # it is ignored, as in the background of a script, and stays so
        yield
        return
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _dispatch(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(HELP, end="")
        return 0
    if arguments[0] == "--version":
        print(f"bnexp {__version__}")
        return 0
    if arguments[0] in ("-sc", "--shell-completion"):
        return complete(arguments)
    return command(arguments[0])(arguments[1:])


def command(name: str) -> Callable[[list[str]], int]:
    """The function of a sub-command.

    Raises:
        ValueError: there is no such command.
    """
    commands = _commands()
    if name not in commands:
        raise unknown("command", name, commands)
    return commands[name]


def _commands() -> dict[str, Callable[[list[str]], int]]:
    return {
        "train": train,
        "resume": resume,
        "evaluate": evaluate,
        "compare": compare,
        "claim": claim,
        "bench": bench,
        "board": board,
        "list": list_choices,
    }


def _one_line(text: str, code: int) -> int:
    print("bnexp: " + " ".join(text.split()), file=sys.stderr)
    return code


def _storage_failed(error: OSError) -> int:
    """A place that cannot be used, a full or broken disk; a closed pipe is a reader who has seen enough."""
    if isinstance(error, BrokenPipeError):
        _drop_output()
        return 0
    where = f"{error.filename}: " if error.filename else ""
    return _one_line(f"{where}{error.strerror or error}", 2 if error.errno in _WRONG_PLACE else 1)


def _drop_output() -> None:
    """Let what is left for standard output go nowhere, or Python would complain once more when it ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _say(text: str, *, end: str = "", also: str = "") -> None:
    """Print at once.

    Args:
        text: to be printed.
        end: behind it.
        also: what a person should know if it cannot be printed.

    Raises:
        BrokenPipeError: the reader has gone.
        RunFailedError: standard output cannot be written.
    """
    try:
        print(text, end=end, flush=True)
    except BrokenPipeError:
        raise
    except OSError as error:
        _drop_output()
        raise RunFailedError(f"standard output cannot be written ({error.strerror}){also}") from None


def _crashed(error: Exception) -> int:
    """A fault of the program or of a user's module, outside of a run: one line, and the traceback in a file."""
    import tempfile
    import traceback

    lines = "".join(traceback.format_exception(error))
    path = Path("bnexp-error.log")
    try:
        path.write_text(lines, encoding="utf-8")
    except OSError:
        with tempfile.NamedTemporaryFile("w", prefix="bnexp-error-", suffix=".log", delete=False) as file:
            file.write(lines)
        path = Path(file.name)
    reason = str(error).strip().partition("\n")[0]
    return _one_line(f"{type(error).__name__}: {reason}; details in {path}", 1)


def shipped(name: str) -> Path:
    """A folder that comes with the program: in the wheel beside this file, in a checkout at the top."""
    inside = Path(__file__).parent / name
    return inside if inside.is_dir() else Path(__file__).parent.parent / name


def configs_folder() -> Path:
    """Where the yaml files are."""
    return shipped("configs")


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

    plain, words = composing.plain(config), composing.overrides()
    notes = composing.notes(to_dict(plain), words)
    return _do(Job(plain, composing.output_folder(), composing.run_name(), words, notes))


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
    _say(sentence(outcome), end="\n", also=f"; run: {_shown(job.folder)} ({outcome.status})")
    return stop.exit_code if outcome.status == "interrupted" else 0


def _shown(folder: Path) -> Path:
    return Path(os.path.relpath(folder)) if folder.is_relative_to(Path.cwd()) else folder


def sentence(outcome: Outcome) -> str:
    """How a run ended, for a person.

    Raises:
        ValueError: the run.json of a run that had ended before does not say it.
    """
    try:
        return _ending(outcome.status, outcome.facts, _shown(outcome.job.folder))
    except (KeyError, TypeError, ValueError) as error:
        path = _shown(outcome.job.folder) / "run.json"
        raise ValueError(f"{path}: damaged ({error.args[0]}: missing or not a number)") from None


def _ending(status: str, facts: Mapping[str, Any], shown: Path) -> str:
    if status == "interrupted":
        return f"interrupted at step {facts['step']} of {facts['steps']}; go on with: bnexp resume {shown}"
    if status == "diverged":
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


def claim(arguments: list[str]) -> int:
    """``bnexp claim list``, ``bnexp claim run CLAIM...``, ``bnexp claim report``."""
    from bnexp.claims.command import main as claim_main

    return claim_main(arguments, configs_folder())


def bench(arguments: list[str]) -> int:
    """``bnexp bench [setting=value ...]``: images per second at many batch sizes, and the knee."""
    text = "Train at many batch sizes, and find the smallest one with 95 % of the best rate of images per second."
    parser = _parser("bench", text)
    parser.add_argument("settings", nargs="*", metavar="setting=value", help="as for bnexp train: model=lenet norm=bn")
    parser.add_argument("--sizes", help="default: 8,16,32,... to 4096, as far as there are images")
    parser.add_argument("--repeats", type=int, default=5, help="timed rounds; default: 5")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    parser.add_argument("--config-dir", metavar="DIR", help="a folder of yaml files of your own")
    given = parser.parse_intermixed_args(arguments)
    sizes, repeats = _batch_sizes(given.sizes), checked("--repeats", given.repeats, Annotated[int, Range(least=3)])
    if given.json and not given.json.parent.is_dir():
        raise ValueError(f"--json={given.json}: {given.json.parent} is no folder")
    config = _composed([*given.settings, *(["--config-dir", given.config_dir] if given.config_dir else [])])
    from bnexp import bench
    from bnexp.display import console
    from bnexp.experiment import import_modules

    with console():
        import_modules(config.imports)
        result = bench.bench(config, sizes=sizes, repeats=repeats)
    if given.json:
        given.json.write_text(json.dumps(bench.facts(result), indent=1) + "\n", encoding="utf-8")
    _say(bench.table(result), end="\n")
    return 0


def _batch_sizes(words: str | None) -> list[int] | None:
    """The whole numbers of ``--sizes``.

    Raises:
        ValueError: something there is none.
    """
    if words is None:
        return None
    if not all(word.isascii() and word.isdigit() for word in words.split(",")):
        raise ValueError(f"--sizes={words}: expected whole numbers, such as 8,16,32")
    return [checked("--sizes", int(word), Positive) for word in words.split(",")]


def _composed(words: list[str]) -> TrainConfig:
    """The config of one run from words, as ``bnexp train`` composes it."""
    from bnexp import composing

    configs: list[TrainConfig] = []
    words = ["hydra.mode=RUN", *words]  # presets may be sweeps
    composing.run_hydra(lambda config: configs.append(composing.plain(config)), words, configs_folder())
    return configs[0]


_LAST_PORT = 65535


def board(arguments: list[str]) -> int:
    """``bnexp board [FOLDER]``."""
    parser = _parser("board", "Show curves in TensorBoard, reachable from this machine only.")
    parser.add_argument("folder", type=Path, nargs="?", default=Path("outputs"), help="default: outputs")
    parser.add_argument("--port", type=int, default=6006, help="default: 6006, or the next free one")
    parser.add_argument("--open", action="store_true", help="open the page in a browser")
    given = parser.parse_args(arguments)
    if not given.folder.is_dir():
        raise ValueError(f"{given.folder}: no such folder")
    if not 1 <= given.port <= _LAST_PORT:
        raise ValueError(f"--port={given.port}: out of range; allowed is 1 to {_LAST_PORT}")
    from bnexp.board import serve

    serve(given.folder, given.port, show=given.open)
    return 0


_GROUPS = ("norm", "affine", "model", "data", "init", "optim", "schedule", "probes", "experiment", "claim")


def list_choices(arguments: list[str]) -> int:
    """``bnexp list [GROUP]``: every yaml with the first line of its comment; ``bnexp list norms``: all about them."""
    parser = _parser("list", "What can be chosen, each with a line and its source.")
    parser.add_argument("group", nargs="?", help=", ".join(_GROUPS))
    group = parser.parse_args(arguments).group
    aliases = {f"{name}s": name for name in _GROUPS} | {"probe": "probes"}
    wanted = aliases.get(group, group)
    if wanted is not None and wanted not in _GROUPS:
        raise unknown("list", wanted, _GROUPS)
    from bnexp import listing

    if wanted == "norm":
        formulas = listing.builder_lines(Path(__file__).parent / "norms", "NORMS")
        costs = shipped("benchmarks") / "norms.json"
        print("\n\n".join(listing.norm_blocks(listing.choices(configs_folder() / "norm"), formulas, costs)))
        return 0
    for name in [wanted] if wanted else _GROUPS:
        print(name)
        found = listing.choices(configs_folder() / name)
        width = max(18, *(len(choice.name) + 2 for choice in found))
        for choice in found:
            print(f"  {choice.name:{width}}{choice.title}")
    return 0


def complete(arguments: list[str]) -> int:
    """Completion: commands and groups by ourselves, settings by Hydra; with no answer the shell offers files."""

    def hydra() -> int:
        from bnexp import composing

        return composing.run_hydra(lambda config: None, arguments, configs_folder())

    if not any(word.startswith("query=") for word in arguments):  # it is to be put up, or taken down
        return hydra()
    line = os.environ.get("COMP_LINE", "")
    words = f"{line}|".split()  # the mark keeps an empty last word
    if len(words) > 2 and words[1] in ("train", "bench"):
        os.environ["COMP_LINE"] = line.replace(f" {words[1]} ", " ", 1)  # Hydra must not see the sub-command
        # A line that is wrong as yet has no completion; a complaint would stand in the middle of it.
        with contextlib.suppress(Exception), contextlib.redirect_stderr(io.StringIO()):
            hydra()
        return 0
    print(" ".join(word for word in _choices(words) if word.startswith(words[-1][:-1])))
    return 0


def _choices(words: Sequence[str]) -> Sequence[str]:
    """What can stand at the end of a line that has no settings."""
    if len(words) == 2:
        return list(_commands())
    return _GROUPS if len(words) == 3 and words[1] == "list" else ()
